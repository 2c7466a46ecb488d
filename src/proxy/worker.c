/* One worker thread: its settings, its listeners, its end. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/socket.h"
#include "smartproxy/text.h"
#include "workers.h"

#define ACCEPTS_A_TURN  64
#define READY_TURNS     4 /* in a row: by then connections may come faster than turns */
#define ACCEPT_PAUSE_MS 100

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
	if (SP_LIKELY(generation_current_number() == w->settings.generation_number))
		return;
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
			.hello_ms = c->timeouts.hello_ms,
			.tunnel_idle_ms = c->timeouts.tunnel_idle_ms,
			.tunnel_max_ms = c->timeouts.tunnel_max_ms,
			.limits = {
				.connections = c->limits.connections,
				.per_ip = c->limits.connections_per_ip,
				.rate_per_ip = c->limits.connection_rate_per_ip,
				.burst_per_ip = c->limits.connection_burst_per_ip,
				.ipv6_prefix = c->limits.ipv6_prefix,
			},
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

static bool accept_one(struct worker_listener *l, bool reads_first)
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
	struct addr client;
	addr_from_sockaddr(&ss, &client);
	conn_accept(w, fd, &client, &l->addr, reads_first);
	return true;
}

/* One a turn: an accept for nothing costs half of one for something. More when they pile up. */
static unsigned accepts_now(struct worker_listener *l)
{
	uint64_t turn = loop_turns(l->worker->loop);
	l->ready_cnt = turn == l->ready_turn + 1 ? l->ready_cnt + 1 : 0;
	l->ready_turn = turn;
	if (l->ready_cnt < READY_TURNS)
		return 1;
	unsigned cnt = socket_queue_len(l->io.fd);
	if (cnt <= 1)
		l->ready_cnt = 0;
	return cnt < ACCEPTS_A_TURN ? cnt : ACCEPTS_A_TURN;
}

static void on_listener(struct io *io, uint32_t events)
{
	(void)events;
	struct worker_listener *l = SP_CONTAINER_OF(io, struct worker_listener, io);
	worker_refresh_settings(l->worker);
	for (unsigned cnt = accepts_now(l); cnt > 0; cnt--) {
		if (!accept_one(l, true))
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

void worker_adopt(struct worker *w, struct call *call)
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
	/* What the kernel has queued was promised an answer. Who let go is waited for: of thousands in the queue no more
	 * are worked on here than in a turn, the others by their events. */
	worker_refresh_settings(w);
	for (unsigned cnt = 0; accept_one(l, cnt < ACCEPTS_A_TURN); cnt++)
		;
	loop_timer_disarm(w->loop, &l->resume_timer);
	loop_remove(w->loop, &l->io);
	list_remove(&l->link);
	free(l);
}

void worker_release(struct worker *w, struct call *call)
{
	for (size_t i = 0; i < call->set_cnt; i++) {
		struct worker_listener *l = find_listener(w, call->sets[i]->id);
		if (l != NULL)
			let_go(w, l);
	}
}

void worker_drain(struct worker *w, struct call *call)
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
			conn_close_for(conn, EXCHANGE_END_SHUTDOWN);
	}
}

static void stop_loop(struct task *task)
{
	loop_stop(SP_CONTAINER_OF(task, struct worker, stop_task)->loop);
}

void worker_end(struct worker *w, struct call *call)
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
		conn_close_for(conn, EXCHANGE_END_SHUTDOWN);
	}
	upstream_worker_close_idle(&w->upstream, w->all->upstreams);
	/* Behind what is already in the inbox: connections that were posted are freed by it. */
	w->stop_task.run = stop_loop;
	loop_post(w->loop, &w->stop_task);
}

void worker_run(void *arg)
{
	struct worker *w = arg;
	log_thread_attach_ring(w->log_ring);
	loop_run(w->loop);
	log_thread_attach_ring(NULL);
}
