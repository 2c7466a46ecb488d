/* Worker threads: start, listeners, drain, stop, sums. */
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proxy.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/text.h"

#define ACCEPTS_A_TURN   64
#define ACCEPT_PAUSE_MS  100
#define STOP_DEADLINE_MS 5000

struct workers {
	unsigned cnt;
	struct upstreams *upstreams;
	struct loop **loops;
	struct worker *list[];
};

enum call_state { CALL_POSTED, CALL_TAKEN, CALL_WITHDRAWN };

/* A call into a worker's thread that the control thread waits for. */
struct call {
	struct task task;
	struct worker *worker;
	void (*body)(struct worker *w, struct call *call);
	struct listener_set *const *sets; /* the caller's */
	size_t set_cnt;
	enum err result;
	struct batch *batch;
	_Atomic(enum call_state) state;
};

/* ---- on the worker ---- */

static const char *const days[] = { "Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat" };
static const char *const months[] = { "Jan", "Feb", "Mar", "Apr", "May", "Jun",
				      "Jul", "Aug", "Sep", "Oct", "Nov", "Dec" };

const char *worker_date(struct worker *w)
{
	int64_t now_ms = loop_now_ms(w->loop);
	if (w->date_text[0] != '\0' && now_ms - w->date_checked_ms < 250)
		return w->date_text;
	w->date_checked_ms = now_ms;
	time_t now = (time_t)clock_unix_s();
	struct tm tm;
	if (now == w->date_unix_s || gmtime_r(&now, &tm) == NULL)
		return w->date_text;
	w->date_unix_s = now;
	(void)text_format(w->date_text, sizeof(w->date_text), "%s, %02d %s %04d %02d:%02d:%02d GMT",
			  days[tm.tm_wday], tm.tm_mday, months[tm.tm_mon], tm.tm_year + 1900,
			  tm.tm_hour, tm.tm_min, tm.tm_sec);
	return w->date_text;
}

void worker_refresh_settings(struct worker *w)
{
	sp_rcu_enter();
	const struct generation *g = generation_current();
	if (g != NULL && g->number != w->settings.generation_number) {
		const struct config *c = g->config;
		w->settings = (struct worker_settings){
			.generation_number = g->number,
			.header_ms = c->timeouts.header_ms,
			.idle_ms = c->timeouts.idle_ms,
			.connect_ms = c->timeouts.connect_ms,
			.response_ms = c->timeouts.response_ms,
			.total_ms = c->timeouts.total_ms,
			.head_bytes = c->limits.head_bytes,
			.field_cnt = c->limits.field_cnt,
			.target_bytes = c->limits.target_bytes,
			.connections = c->limits.connections,
			.body_bytes = c->limits.body_bytes,
			.wants_access_log = c->log.access != NULL,
			.is_access_json = c->log.format == LOG_FORMAT_JSON,
		};
		w->upstream.idle_max = c->limits.idle_upstream;
		w->upstream.idle_ms = c->timeouts.idle_ms;
	}
	sp_rcu_leave();
}

static void resume_listener(struct timer *timer)
{
	struct worker_listener *l = SP_CONTAINER_OF(timer, struct worker_listener, resume_timer);
	if (loop_change(l->worker->loop, &l->io, EPOLLIN) != ERR_OK)
		loop_timer_arm(l->worker->loop, timer,
			       loop_now_ms(l->worker->loop) + ACCEPT_PAUSE_MS);
}

/* Out of descriptors or memory: the queue waits in the kernel for a moment. */
static void pause_listener(struct worker_listener *l)
{
	struct worker *w = l->worker;
	if (loop_change(w->loop, &l->io, 0) != ERR_OK)
		return;
	stat_add(&w->stats.connections_refused, 1);
	log_warn("proxy",
		 "accept paused worker=%u: out of file descriptors or memory; raise LimitNOFILE",
		 w->ix);
	loop_timer_arm(w->loop, &l->resume_timer, loop_now_ms(w->loop) + ACCEPT_PAUSE_MS);
}

static bool accept_one(struct worker_listener *l)
{
	struct worker *w = l->worker;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	bool is_fault = fault_hits(FAULT_ACCEPT);
	int fd = is_fault ? -1
			  : accept4(l->io.fd, (struct sockaddr *)&ss, &len,
				    SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (is_fault)
		errno = EMFILE;
	if (fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			pause_listener(l);
		return errno == EINTR || errno == ECONNABORTED;
	}
	if (w->settings.connections > 0 && w->stats.connections_open >= w->settings.connections) {
		(void)close(fd);
		stat_add(&w->stats.connections_refused, 1);
		return true;
	}
	struct addr client;
	addr_from_sockaddr(&ss, &client);
	conn_accept(w, fd, &client, &l->addr);
	return true;
}

static void on_listener(struct io *io, uint32_t events)
{
	(void)events;
	struct worker_listener *l = SP_CONTAINER_OF(io, struct worker_listener, io);
	worker_refresh_settings(l->worker);
	for (int i = 0; i < ACCEPTS_A_TURN; i++) {
		if (!accept_one(l))
			return;
	}
}

static struct worker_listener *find_listener(struct worker *w, uint64_t set_id)
{
	LIST_FOREACH(pos, &w->listeners)
	{
		struct worker_listener *l = SP_CONTAINER_OF(pos, struct worker_listener, link);
		if (l->set_id == set_id)
			return l;
	}
	return NULL;
}

static void adopt(struct worker *w, struct call *call)
{
	if (find_listener(w, call->sets[0]->id) != NULL)
		return;
	struct worker_listener *l = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*l));
	if (l == NULL) {
		call->result = ERR_NOMEM;
		return;
	}
	l->worker = w;
	l->addr = call->sets[0]->addr;
	l->set_id = call->sets[0]->id;
	l->resume_timer.on_due = resume_listener;
	l->io = (struct io){ .fd = call->sets[0]->fds[w->ix], .on_ready = on_listener };
	call->result = loop_add(w->loop, &l->io, EPOLLIN);
	if (call->result != ERR_OK) {
		free(l);
		return;
	}
	list_append(&w->listeners, &l->link);
}

static void let_go(struct worker *w, struct worker_listener *l)
{
	/* What the kernel has queued was promised an answer. */
	worker_refresh_settings(w);
	while (accept_one(l))
		;
	loop_timer_disarm(w->loop, &l->resume_timer);
	loop_remove(w->loop, &l->io);
	list_remove(&l->link);
	free(l);
}

static void release(struct worker *w, struct call *call)
{
	for (size_t i = 0; i < call->set_cnt; i++) {
		struct worker_listener *l = find_listener(w, call->sets[i]->id);
		if (l != NULL)
			let_go(w, l);
	}
}

static void drain(struct worker *w, struct call *call)
{
	(void)call;
	w->is_draining = true;
	LIST_FOREACH_SAFE(pos, &w->conns)
	{
		struct conn *conn = SP_CONTAINER_OF(pos, struct conn, link);
		if (conn->state != CONN_HTTP || conn->exchange != NULL)
			continue;
		/* A request that is there already is answered. */
		conn->is_readable = true;
		conn_run(conn);
		if (conn->state == CONN_HTTP && conn->exchange == NULL && buf_len(&conn->in) == 0)
			conn_close(conn);
	}
}

static void stop_loop(struct task *task)
{
	loop_stop(SP_CONTAINER_OF(task, struct worker, stop_task)->loop);
}

static void end(struct worker *w, struct call *call)
{
	(void)call;
	while (!list_is_empty(&w->listeners)) {
		struct worker_listener *l =
			SP_CONTAINER_OF(w->listeners.next, struct worker_listener, link);
		loop_timer_disarm(w->loop, &l->resume_timer);
		loop_remove(w->loop, &l->io);
		list_remove(&l->link);
		free(l);
	}
	while (!list_is_empty(&w->conns)) {
		struct conn *conn = SP_CONTAINER_OF(w->conns.next, struct conn, link);
		if (conn->exchange != NULL)
			exchange_drop(conn->exchange, EXCHANGE_END_SHUTDOWN);
		conn_close(conn);
	}
	upstream_worker_close_idle(&w->upstream, w->all->upstreams);
	/* Behind what is already in the inbox: connections that were posted are freed by it. */
	w->stop_task.run = stop_loop;
	loop_post(w->loop, &w->stop_task);
}

static void run_worker(void *arg)
{
	struct worker *w = arg;
	log_thread_attach_ring(w->log_ring);
	loop_run(w->loop);
	log_thread_attach_ring(NULL);
}

/* ---- on control ---- */

/* What one question to all workers needs; it outlives the one who asked when a worker does not
 * answer. */
struct batch {
	sem_t done;
	atomic_uint ref_cnt; /* held by: each call until it has run, the one who asked */
	struct call calls[];
};

static void put_batch(struct batch *batch)
{
	if (atomic_fetch_sub_explicit(&batch->ref_cnt, 1, memory_order_acq_rel) != 1)
		return;
	(void)sem_destroy(&batch->done);
	free(batch);
}

/* False: somebody was there before. */
static bool move_call(struct call *call, enum call_state state)
{
	enum call_state posted = CALL_POSTED;
	return atomic_compare_exchange_strong_explicit(&call->state, &posted, state,
						       memory_order_acq_rel, memory_order_relaxed);
}

static void run_call(struct task *task)
{
	struct call *call = SP_CONTAINER_OF(task, struct call, task);
	struct batch *batch = call->batch;
	if (move_call(call, CALL_TAKEN)) {
		call->body(call->worker, call);
		(void)sem_post(&batch->done);
	}
	put_batch(batch);
}

static struct batch *new_batch(const struct workers *ws)
{
	struct batch *batch = calloc(1, sizeof(*batch) + ws->cnt * sizeof(struct call));
	if (batch == NULL)
		return NULL;
	(void)sem_init(&batch->done, 0, 0);
	atomic_init(&batch->ref_cnt, ws->cnt + 1);
	return batch;
}

/* One answer. By the monotonic clock, which nobody sets: sem_timedwait knows the wall clock alone,
 * so it is asked for short times. */
static bool wait_answer(sem_t *done, int64_t deadline_ms)
{
	for (;;) {
		struct timespec until;
		(void)clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += 100 * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		if (sem_timedwait(done, &until) == 0)
			return true;
		if (errno != EINTR && clock_now_ms() >= deadline_ms)
			return false;
	}
}

/* What a worker has not begun it shall not begin later, when the caller's listeners are gone; what it
 * has begun it ends, and that is waited for. */
static void withdraw(const struct workers *ws, struct batch *batch, unsigned done_cnt)
{
	unsigned taken_cnt = 0;
	for (unsigned i = 0; i < ws->cnt; i++)
		taken_cnt += !move_call(&batch->calls[i], CALL_WITHDRAWN);
	while (done_cnt < taken_cnt)
		done_cnt += wait_answer(&batch->done, INT64_MAX);
}

/* Runs body on every worker and waits. A worker that does not answer for seconds is a defect that the
 * log names; calls about listeners are then taken back, the others stay with it. */
static enum err call_all(struct workers *ws, void (*body)(struct worker *w, struct call *call),
			 struct listener_set *const *sets, size_t set_cnt, int64_t time_ms)
{
	struct batch *batch = new_batch(ws);
	if (batch == NULL)
		return ERR_NOMEM;
	int64_t deadline_ms = clock_now_ms() + time_ms;
	for (unsigned i = 0; i < ws->cnt; i++) {
		batch->calls[i] = (struct call){
			.task.run = run_call,
			.worker = ws->list[i],
			.body = body,
			.sets = sets,
			.set_cnt = set_cnt,
			.batch = batch,
		};
		loop_post(ws->list[i]->loop, &batch->calls[i].task);
	}
	unsigned done_cnt = 0;
	while (done_cnt < ws->cnt && wait_answer(&batch->done, deadline_ms))
		done_cnt++;
	enum err e = done_cnt == ws->cnt ? ERR_OK : ERR_TIMEOUT;
	if (e != ERR_OK && set_cnt > 0)
		withdraw(ws, batch, done_cnt);
	if (e != ERR_OK)
		log_error("proxy", "a worker has not answered for %lld ms", (long long)time_ms);
	for (unsigned i = 0; i < ws->cnt && e == ERR_OK; i++)
		e = batch->calls[i].result;
	put_batch(batch);
	return e;
}

static void free_worker(struct worker *w)
{
	if (w == NULL)
		return;
	exchanges_free(w);
	tls_worker_free(w->tls);
	loop_free(w->loop);
	buf_pool_fini(&w->bufs);
	arena_cache_fini(&w->arena_cache);
	log_ring_free(w->log_ring);
	log_ring_free(w->access_ring);
	free(w);
}

static enum err new_worker(struct workers *ws, unsigned ix, const struct workers_options *options)
{
	struct worker *w = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*w));
	if (w == NULL)
		return ERR_NOMEM;
	ws->list[ix] = w;
	w->ix = ix;
	w->all = ws;
	w->challenges = options->challenges;
	list_init(&w->conns);
	list_init(&w->listeners);
	list_init(&w->free_exchanges);
	enum err e = loop_new(&w->loop);
	if (e == ERR_OK)
		e = log_ring_new(&w->log_ring);
	if (e == ERR_OK)
		e = log_ring_new(&w->access_ring);
	if (e == ERR_OK)
		e = tls_worker_new(&options->tls, &w->tls);
	if (e != ERR_OK)
		return e;
	ws->loops[ix] = w->loop;
	w->upstream = (struct upstream_worker){ .loop = w->loop, .ix = ix };
	return ERR_OK;
}

static enum err start_threads(struct workers *ws, const struct workers_options *options)
{
	bool wants_pinning = options->wants_pinning && thread_cpu_cnt() >= ws->cnt;
	for (unsigned i = 0; i < ws->cnt; i++) {
		char name[16];
		(void)text_format(name, sizeof(name), "worker-%u", i);
		enum err e = thread_start_on(name, wants_pinning ? (int)i : -1, run_worker,
					     ws->list[i], &ws->list[i]->thread);
		if (e != ERR_OK)
			return e;
	}
	return ERR_OK;
}

enum err workers_start(const struct workers_options *options, struct workers **ret_workers)
{
	struct workers *ws =
		fault_hits(FAULT_MALLOC)
			? NULL
			: calloc(1, sizeof(*ws) + options->worker_cnt * sizeof(struct worker *));
	if (ws == NULL)
		return ERR_NOMEM;
	ws->cnt = options->worker_cnt;
	ws->upstreams = options->upstreams;
	ws->loops = calloc(ws->cnt, sizeof(struct loop *));
	enum err e = ws->loops == NULL ? ERR_NOMEM : ERR_OK;
	for (unsigned i = 0; i < ws->cnt && e == ERR_OK; i++)
		e = new_worker(ws, i, options);
	if (e == ERR_OK)
		e = start_threads(ws, options);
	if (e != ERR_OK) {
		workers_stop(ws);
		return e;
	}
	upstreams_set_loops(ws->upstreams, ws->loops);
	*ret_workers = ws;
	return ERR_OK;
}

enum err workers_adopt(struct workers *ws, struct listener_set *set, int64_t time_ms)
{
	return call_all(ws, adopt, &set, 1, time_ms);
}

enum err workers_release(struct workers *ws, struct listener_set *const *sets, size_t cnt,
			 int64_t time_ms)
{
	listeners_hush(sets, cnt);
	enum err e = call_all(ws, release, sets, cnt, time_ms);
	/* With the second answer each worker has also made the turn in which it looked at what it
	 * accepted last, by the generation that is in force now. */
	return e == ERR_OK ? call_all(ws, release, sets, cnt, time_ms) : e;
}

void workers_drain(struct workers *ws)
{
	(void)call_all(ws, drain, NULL, 0, STOP_DEADLINE_MS);
}

uint64_t workers_connection_cnt(const struct workers *ws)
{
	uint64_t sum = 0;
	for (unsigned i = 0; i < ws->cnt; i++)
		sum += __atomic_load_n(&ws->list[i]->stats.connections_open, __ATOMIC_RELAXED);
	return sum;
}

static void post_end(struct workers *ws)
{
	bool has_threads = true;
	for (unsigned i = 0; i < ws->cnt; i++)
		has_threads &= ws->list[i] != NULL && ws->list[i]->thread != NULL;
	if (has_threads) {
		(void)call_all(ws, end, NULL, 0, STOP_DEADLINE_MS);
		return;
	}
	/* The start failed half way: no worker has taken anything yet. */
	for (unsigned i = 0; i < ws->cnt; i++) {
		if (ws->list[i] != NULL && ws->list[i]->thread != NULL)
			loop_stop(ws->list[i]->loop);
	}
}

void workers_stop(struct workers *ws)
{
	if (ws == NULL)
		return;
	upstreams_set_loops(ws->upstreams, NULL);
	post_end(ws);
	for (unsigned i = 0; i < ws->cnt; i++) {
		if (ws->list[i] == NULL)
			continue;
		thread_join(ws->list[i]->thread);
		if (ws->list[i]->log_ring != NULL)
			(void)log_ring_drain(ws->list[i]->log_ring);
		free_worker(ws->list[i]);
	}
	free(ws->loops);
	free(ws);
}

uint64_t workers_drain_logs(struct workers *ws)
{
	uint64_t dropped = 0;
	for (unsigned i = 0; i < ws->cnt; i++)
		dropped += log_ring_drain(ws->list[i]->log_ring);
	return dropped;
}

uint64_t workers_drain_access(struct workers *ws, int fd)
{
	uint64_t dropped = 0;
	for (unsigned i = 0; i < ws->cnt; i++)
		dropped += log_ring_drain_to(ws->list[i]->access_ring, fd);
	return dropped;
}

static void answer_ping(struct task *task)
{
	struct worker *w = SP_CONTAINER_OF(task, struct worker, ping_task);
	__atomic_store_n(&w->is_ping_out, false, __ATOMIC_RELEASE);
}

int64_t workers_stall_ms(struct workers *ws, unsigned *ret_ix)
{
	int64_t now_ms = clock_now_ms();
	int64_t worst_ms = 0;
	for (unsigned i = 0; i < ws->cnt; i++) {
		struct worker *w = ws->list[i];
		if (!__atomic_load_n(&w->is_ping_out, __ATOMIC_ACQUIRE)) {
			w->ping_ms = now_ms;
			w->ping_task.run = answer_ping;
			__atomic_store_n(&w->is_ping_out, true, __ATOMIC_RELAXED);
			loop_post(w->loop, &w->ping_task);
		} else if (now_ms - w->ping_ms > worst_ms) {
			worst_ms = now_ms - w->ping_ms;
			*ret_ix = i;
		}
	}
	return worst_ms;
}

static const char *const end_names[] = {
#define X(sym, name) name,
	EXCHANGE_ENDS(X)
#undef X
};

const char *exchange_end_name(enum exchange_end end)
{
	return (size_t)end < SP_ARRAY_LEN(end_names) ? end_names[end] : "unknown";
}

void workers_stats(const struct workers *ws, struct worker_stats *ret_stats)
{
	_Static_assert(sizeof(*ret_stats) % sizeof(uint64_t) == 0, "counters only");
	uint64_t *sum = (uint64_t *)ret_stats;
	*ret_stats = (struct worker_stats){ 0 };
	for (unsigned i = 0; i < ws->cnt; i++) {
		const struct worker *w = ws->list[i];
		const uint64_t *own = (const uint64_t *)&w->stats;
		for (size_t k = 0; k < sizeof(*ret_stats) / sizeof(uint64_t); k++)
			sum[k] += __atomic_load_n(&own[k], __ATOMIC_RELAXED);
		ret_stats->upstream_connects +=
			__atomic_load_n(&w->upstream.connects, __ATOMIC_RELAXED);
		ret_stats->upstream_reuses +=
			__atomic_load_n(&w->upstream.reuses, __ATOMIC_RELAXED);
		ret_stats->upstream_connect_failures +=
			__atomic_load_n(&w->upstream.connect_failures, __ATOMIC_RELAXED);
		ret_stats->buffers_used += __atomic_load_n(&w->bufs.used_cnt, __ATOMIC_RELAXED);
	}
}
