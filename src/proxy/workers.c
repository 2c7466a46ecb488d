/* The workers as the control thread sees them: start, calls into their threads, stop, sums. */
#include "workers.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/rand.h"
#include "smartproxy/text.h"

#define STOP_DEADLINE_MS 5000

void workers_put_batch(struct batch *batch)
{
	if (atomic_fetch_sub_explicit(&batch->ref_cnt, 1, memory_order_acq_rel) != 1)
		return;
	for (unsigned i = 0; i < batch->cnt; i++)
		free(batch->calls[i].views);
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
	workers_put_batch(batch);
}

static struct batch *new_batch(const struct workers *ws)
{
	struct batch *batch = calloc(1, sizeof(*batch) + ws->cnt * sizeof(struct call));
	if (batch == NULL)
		return NULL;
	batch->cnt = ws->cnt;
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

enum err workers_ask(struct workers *ws, const struct call *question, int64_t time_ms,
		     struct batch **ret_batch)
{
	struct batch *batch = new_batch(ws);
	if (batch == NULL)
		return ERR_NOMEM;
	int64_t deadline_ms = clock_now_ms() + time_ms;
	for (unsigned i = 0; i < ws->cnt; i++) {
		batch->calls[i] = (struct call){
			.task.run = run_call,
			.worker = ws->list[i],
			.body = question->body,
			.sets = question->sets,
			.set_cnt = question->set_cnt,
			.view_max = question->view_max,
			.batch = batch,
		};
		loop_post(ws->list[i]->loop, &batch->calls[i].task);
	}
	unsigned done_cnt = 0;
	while (done_cnt < ws->cnt && wait_answer(&batch->done, deadline_ms))
		done_cnt++;
	enum err e = done_cnt == ws->cnt ? ERR_OK : ERR_TIMEOUT;
	if (e != ERR_OK && question->set_cnt > 0)
		withdraw(ws, batch, done_cnt);
	if (e != ERR_OK)
		log_error("proxy", "a worker has not answered for %lld ms", (long long)time_ms);
	for (unsigned i = 0; i < ws->cnt && e == ERR_OK; i++)
		e = batch->calls[i].result;
	if (e == ERR_OK && ret_batch != NULL)
		*ret_batch = batch;
	else
		workers_put_batch(batch);
	return e;
}

static enum err call_all(struct workers *ws, void (*body)(struct worker *w, struct call *call),
			 struct listener_set *const *sets, size_t set_cnt, int64_t time_ms)
{
	struct call question = { .body = body, .sets = sets, .set_cnt = set_cnt };
	return workers_ask(ws, &question, time_ms, NULL);
}

static void free_worker(struct worker *w)
{
	if (w == NULL)
		return;
	exchanges_free(w);
	tls_worker_free(w->tls);
	loop_free(w->loop);
	pipe_pool_fini(&w->pipes);
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
	w->limits = options->limits;
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
	w->upstream = (struct upstream_worker){
		.loop = w->loop,
		.ix = ix,
	};
	rand_bytes(&w->upstream.rand_state, sizeof(w->upstream.rand_state));
	return ERR_OK;
}

static enum err start_threads(struct workers *ws, const struct workers_options *options)
{
	bool wants_pinning = options->wants_pinning && thread_cpu_cnt() >= ws->cnt;
	for (unsigned i = 0; i < ws->cnt; i++) {
		char name[16];
		(void)text_format(name, sizeof(name), "worker-%u", i);
		enum err e = thread_start_on(name, wants_pinning ? (int)i : -1, worker_run,
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
	ws->access_fd = -1;
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
	return call_all(ws, worker_adopt, &set, 1, time_ms);
}

enum err workers_release(struct workers *ws, struct listener_set *const *sets, size_t cnt,
			 int64_t time_ms)
{
	listeners_hush(sets, cnt);
	/* In the turn behind the one of its first answer a worker looks at what it accepted last, by the generation
	 * that is in force now. The second call may come first in that turn; with the third it is over. */
	enum err e = ERR_OK;
	for (int i = 0; i < 3 && e == ERR_OK; i++)
		e = call_all(ws, worker_release, sets, cnt, time_ms);
	return e;
}

void workers_drain(struct workers *ws)
{
	(void)call_all(ws, worker_drain, NULL, 0, STOP_DEADLINE_MS);
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
		(void)call_all(ws, worker_end, NULL, 0, STOP_DEADLINE_MS);
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
		if (ws->list[i]->access_ring != NULL) /* of what the end has cut */
			(void)log_ring_drain_to(ws->list[i]->access_ring, ws->access_fd);
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
	ws->access_fd = fd;
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
