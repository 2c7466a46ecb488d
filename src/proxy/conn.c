/* One client connection.
 *
 * state      step                 waits for                            leaves to
 * PROXY      conn_step_proxy      a PROXY header, timeouts.hello       HELLO | HTTP | TUNNEL | CLOSED
 * HELLO      conn_step_hello      a ClientHello, timeouts.hello        HANDSHAKE | TUNNEL | LINGER | CLOSED
 * HANDSHAKE  conn_step_handshake  OpenSSL, timeouts.header             HTTP | TUNNEL | LINGER | CLOSED
 * HTTP       step_http            exchanges, one after another         TUNNEL (101) | LINGER | CLOSED
 * TUNNEL     step_tunnel          bytes either way, tunnel_idle, _max  LINGER | CLOSED
 * LINGER     step_linger          the client's end, 1 MiB or 1 s       CLOSED
 *
 * What the listener takes says where a connection starts (accept.c, conn_begin); the steps of PROXY are in
 * proxy_in.c, those of HELLO and HANDSHAKE in handshake.c. Invariants: exchange is NULL but in HTTP, tunnel but in
 * TUNNEL; generation is pinned only in HANDSHAKE, for a tunnel behind TLS. Events only mark what is possible and
 * call conn_run, the one driver. conn_close gives back whatever is held, in whatever state, and counts the one
 * reason that conn->end has by then. */
#include "conn.h"

#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smartproxy/socket.h"

#define REQUESTS_A_RUN 64
#define WATCHED        (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET)

void conn_set_state(struct conn *conn, enum conn_state state)
{
	SP_ASSERT(state > conn->state);
	conn->state = state;
}

static void free_conn(struct task *task)
{
	struct conn *conn = SP_CONTAINER_OF(task, struct conn, free_task);
	if (conn->is_posted)
		conn->is_left_to_post = true; /* run_task is still in the inbox */
	else
		free(conn);
}

void conn_unpin(struct conn *conn)
{
	if (conn->generation != NULL)
		generation_unpin(conn->generation, conn->worker->ix);
	conn->generation = NULL;
	conn->route = NULL;
}

static void leave_limits(struct conn *conn)
{
	struct limits *limits = conn->worker->limits;
	if (conn->route_counter != NULL)
		limit_counter_leave(conn->route_counter);
	if (conn->is_ip_counted)
		limits_leave_address(limits, &conn->client, conn->ipv6_prefix);
	limits_leave(limits);
	conn->route_counter = NULL;
	conn->is_ip_counted = false;
}

/* What it carries ends first, and says why. */
static void drop_load(struct conn *conn)
{
	enum exchange_end end = conn->end == EXCHANGE_END_SHUTDOWN ? EXCHANGE_END_SHUTDOWN
								   : EXCHANGE_END_CLIENT_GONE;
	if (conn->exchange != NULL)
		exchange_drop(conn->exchange, end);
	if (conn->tunnel != NULL)
		tunnel_drop(conn->tunnel, end);
}

void conn_close(struct conn *conn)
{
	if (conn->state == CONN_CLOSED)
		return;
	struct worker *w = conn->worker;
	drop_load(conn);
	SP_ASSERT(conn->end < EXCHANGE_END_CNT);
	conn_set_state(conn, CONN_CLOSED);
	loop_timer_disarm(w->loop, &conn->timer);
	tls_conn_free(conn->tls);
	conn->tls = NULL;
	loop_close(w->loop, &conn->io);
	conn_unpin(conn);
	leave_limits(conn);
	buf_release(&conn->in, &w->bufs);
	free(conn->proxy);
	conn->proxy = NULL;
	list_remove(&conn->link);
	stat_sub(&w->stats.connections_open, 1);
	if (w->stats.connections_open == 0)
		pipe_pool_fini(&w->pipes); /* a quiet worker holds no descriptors */
	/* Last: whoever sees it finds the places given back. */
	__atomic_store_n(&w->stats.conn_ends[conn->end], w->stats.conn_ends[conn->end] + 1,
			 __ATOMIC_RELEASE);
	conn->free_task.run = free_conn;
	loop_defer(w->loop, &conn->free_task);
}

void conn_close_for(struct conn *conn, enum exchange_end end)
{
	if (conn->state == CONN_CLOSED)
		return;
	conn->end = end;
	conn_close(conn);
}

static void run_posted(struct task *task)
{
	struct conn *conn = SP_CONTAINER_OF(task, struct conn, run_task);
	conn->is_posted = false;
	if (conn->state != CONN_CLOSED)
		conn_run(conn);
	else if (conn->is_left_to_post)
		free(conn); /* else free_task is still to come */
}

void conn_post(struct conn *conn)
{
	if (conn->is_posted)
		return;
	conn->is_posted = true;
	conn->run_task.run = run_posted;
	loop_defer(conn->worker->loop, &conn->run_task);
}

/* ---- transport ---- */

void conn_note_drained(struct conn *conn)
{
	if (!conn->has_hung_up && !conn->is_urgent)
		conn->is_readable = false;
}

static enum step recv_plain(struct conn *conn, void *dst, size_t cap, size_t *ret_len)
{
	enum step step = socket_recv(conn->io.fd, dst, cap, ret_len);
	if (step == STEP_DONE && *ret_len < cap) {
		conn_note_drained(conn);
		/* The end that was seen before the read needs no look of its own. */
		conn->has_eof = conn->has_hung_up && !conn->is_broken && !conn->is_urgent;
	}
	return step;
}

static enum step recv_tls(struct conn *conn, void *dst, size_t cap, size_t *ret_len)
{
	enum step step = tls_conn_read(conn->tls, dst, cap, ret_len);
	if (step == STEP_DONE && tls_conn_is_drained(conn->tls))
		conn_note_drained(conn);
	return step;
}

enum step conn_recv(struct conn *conn, void *dst, size_t cap, size_t *ret_len)
{
	if (conn->has_eof)
		return STEP_EOF;
	if (!conn->is_readable)
		return STEP_READ;
	enum step step = conn->tls != NULL ? recv_tls(conn, dst, cap, ret_len)
					   : recv_plain(conn, dst, cap, ret_len);
	if (step == STEP_READ)
		conn->is_readable = false;
	else if (step == STEP_WRITE) /* a record that TLS has to answer first */
		conn->is_writable = false;
	else if (step == STEP_EOF)
		conn->has_eof = true;
	else if (step == STEP_DONE && conn->state > CONN_HELLO)
		conn_count_in(conn, *ret_len);
	return step;
}

enum step conn_send(struct conn *conn, const void *src, size_t len, size_t *ret_len)
{
	if (!conn->is_writable)
		return STEP_WRITE;
	enum step step;
	if (conn->tls != NULL && conn->is_ending)
		tls_conn_expect_end(conn->tls);
	if (conn->tls != NULL)
		step = tls_conn_write(conn->tls, src, len, ret_len);
	else if (conn->is_ending)
		step = socket_send_last(conn->io.fd, src, len, ret_len);
	else
		step = socket_send(conn->io.fd, src, len, ret_len);
	if (step == STEP_WRITE)
		conn->is_writable = false;
	else if (step == STEP_DONE)
		conn_count_out(conn, *ret_len);
	return step;
}

/* ---- HTTP ---- */

/* Waits for the first byte of a head; until then the connection owns no buffer. */
static bool read_first(struct conn *conn)
{
	if (buf_len(&conn->in) > 0)
		return true;
	if (!conn->is_readable)
		return false;
	if (!buf_reserve(&conn->in, &conn->worker->bufs)) {
		conn_close_for(conn, EXCHANGE_END_NO_MEMORY);
		return false;
	}
	size_t len = 0;
	enum step step = conn_recv(conn, buf_tail(&conn->in), buf_space(&conn->in), &len);
	if (step == STEP_DONE) {
		conn->in.end += (uint32_t)len;
		return true;
	}
	buf_release(&conn->in, &conn->worker->bufs);
	if (step == STEP_EOF || step == STEP_FAIL)
		conn_close_for(conn, EXCHANGE_END_CLOSED);
	return false;
}

/* True: a request was finished and there may be another one. */
static bool step_http(struct conn *conn)
{
	if (conn->exchange == NULL) {
		if (!read_first(conn)) {
			if (conn->is_leaving && conn->state == CONN_HTTP)
				conn_linger(conn);
			return false;
		}
		conn->exchange = exchange_new(conn);
		if (conn->exchange == NULL) {
			conn_close_for(conn, EXCHANGE_END_NO_MEMORY);
			return false;
		}
		conn->end = EXCHANGE_END_CNT;
	}
	exchange_run(conn->exchange);
	return conn->state == CONN_HTTP && conn->exchange == NULL &&
	       (buf_len(&conn->in) > 0 || conn->is_readable);
}

static bool step_tunnel(struct conn *conn)
{
	tunnel_run(conn->tunnel);
	return false;
}

/* ---- the end ---- */

/* Nothing is left to be read, and nothing more will come: the client has ended, or has said that it would send no more
 * (RFC 9112, 9.6; in TLS it still sends its close_notify). */
static bool has_read_all(const struct conn *conn)
{
	bool is_silent = conn->has_last_request && conn->tls == NULL && !conn->is_readable &&
			 buf_len(&conn->in) == 0;
	return conn->has_eof || is_silent;
}

void conn_linger(struct conn *conn)
{
	if (conn->state >= CONN_LINGER)
		return;
	bool is_fine = conn->end == EXCHANGE_END_CNT || conn->end == EXCHANGE_END_DONE ||
		       conn->end == EXCHANGE_END_LOCAL;
	if (is_fine && conn->state == CONN_HTTP)
		conn->end = EXCHANGE_END_ANSWERED;
	if (conn->tls != NULL)
		(void)tls_conn_close_notify(conn->tls);
	if (has_read_all(conn)) { /* a close is a FIN */
		conn_close(conn);
		return;
	}
	(void)shutdown(conn->io.fd, SHUT_WR);
	buf_release(&conn->in, &conn->worker->bufs);
	conn_unpin(conn);
	conn_set_state(conn, CONN_LINGER);
	conn_arm_timer(conn, loop_now_ms(conn->worker->loop) + LINGER_MS);
	conn->is_readable = true;
	conn_post(conn);
}

static bool step_linger(struct conn *conn)
{
	static _Thread_local char sink[16384];
	while (conn->is_readable) {
		size_t len = 0;
		enum step step = socket_recv(conn->io.fd, sink, sizeof(sink), &len);
		if (step == STEP_READ) {
			conn->is_readable = false;
			break;
		}
		conn->linger_bytes += (uint32_t)len;
		if (step != STEP_DONE || conn->linger_bytes > LINGER_MAX) {
			conn_close(conn);
			break;
		}
	}
	return false;
}

/* ---- driver ---- */

void conn_await_room(struct conn *conn)
{
	if (SP_LIKELY(conn->is_writable) || conn->is_awaiting_room || conn->state == CONN_CLOSED)
		return;
	conn->is_awaiting_room = true;
	if (loop_change(conn->worker->loop, &conn->io, WATCHED | EPOLLOUT) != ERR_OK)
		conn_close_for(conn, EXCHANGE_END_NO_MEMORY);
}

void conn_run(struct conn *conn)
{
	static bool (*const steps[])(struct conn * conn) = {
		[CONN_PROXY] = conn_step_proxy,
		[CONN_HELLO] = conn_step_hello,
		[CONN_HANDSHAKE] = conn_step_handshake,
		[CONN_HTTP] = step_http,
		[CONN_TUNNEL] = step_tunnel,
		[CONN_LINGER] = step_linger,
	};
	if (conn->is_running)
		return;
	conn->is_running = true;
	int turns = REQUESTS_A_RUN;
	while (conn->state != CONN_CLOSED && steps[conn->state](conn)) {
		if (--turns == 0) {
			conn_post(conn);
			break;
		}
	}
	conn->is_running = false;
	conn_await_room(conn);
}

static void on_io(struct io *io, uint32_t events)
{
	struct conn *conn = SP_CONTAINER_OF(io, struct conn, io);
	conn->is_readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	conn->is_writable |= (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
	conn->is_urgent |= (events & EPOLLPRI) != 0;
	conn->has_hung_up |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	conn->is_broken |= (events & (EPOLLHUP | EPOLLERR)) != 0;
	if (conn->is_broken && conn->state == CONN_HTTP) {
		/* Both directions are gone: nobody will read an answer. */
		conn_close_for(conn, EXCHANGE_END_CLOSED);
		return;
	}
	conn_run(conn);
}

void conn_arm_timer(struct conn *conn, int64_t due_ms)
{
	loop_timer_arm(conn->worker->loop, &conn->timer, due_ms);
}

static void time_out(struct conn *conn)
{
	switch (conn->state) {
	case CONN_HELLO:
	case CONN_HANDSHAKE:
		stat_add(&conn->worker->stats.tls_failures, 1);
		conn_close_for(conn, EXCHANGE_END_HELLO_TIMEOUT);
		break;
	case CONN_PROXY:
		conn_close_for(conn, EXCHANGE_END_HELLO_TIMEOUT);
		break;
	case CONN_HTTP:
		conn_close_for(conn, conn->request_cnt > 0 ? EXCHANGE_END_KEPT_IDLE
							   : EXCHANGE_END_HEADER_TIMEOUT);
		break;
	default:
		conn_close(conn);
	}
}

static void on_timer(struct timer *timer)
{
	struct conn *conn = SP_CONTAINER_OF(timer, struct conn, timer);
	if (conn->exchange == NULL && conn->tunnel == NULL) {
		time_out(conn);
		return;
	}
	conn->is_running = true;
	if (conn->exchange != NULL)
		exchange_on_timer(conn->exchange);
	else
		tunnel_on_timer(conn->tunnel);
	conn->is_running = false;
	if (conn->state == CONN_HTTP && conn->exchange == NULL)
		conn_post(conn);
	conn_await_room(conn);
}

bool conn_open(struct conn *conn)
{
	struct worker *w = conn->worker;
	conn->io.on_ready = on_io;
	conn->timer.on_due = on_timer;
	list_append(&w->conns, &conn->link);
	stat_add(&w->stats.connections_accepted, 1);
	stat_add(&w->stats.connections_open, 1);
	if (loop_add(w->loop, &conn->io, WATCHED) == ERR_OK)
		return true;
	conn_close_for(conn, EXCHANGE_END_NO_MEMORY);
	return false;
}
