/* Connections to targets and the pools that keep them. Worker thread.
 *
 *   phase    done by          waits for            leaves to
 *   CONNECT  finish_connect   TCP connected        PREFACE
 *   PREFACE  send_preface     the PROXY header     HANDSHAKE
 *   HANDSHAKE shake_hands     TLS of the target    READY
 *   READY                     its owner, or idle   ENDING
 *   ENDING   end_writing      close_notify, FIN    (its owner closes it)
 *
 * A phase that there is nothing to do in is left at once. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool.h"
#include "smartproxy/alloc.h"
#include "smartproxy/assert.h"
#include "smartproxy/socket.h"

#define KEEP_ALIVE_MS 1000 /* after its begin */
#define WATCHED       (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET)

enum phase { PHASE_CONNECT, PHASE_PREFACE, PHASE_HANDSHAKE, PHASE_READY, PHASE_ENDING };

static struct upstream_pool *pool_of(const struct upstream_conn *conn)
{
	return &conn->upstream->pools[conn->worker->ix];
}

uint16_t upstream_port(const struct upstream *u, uint16_t client_port)
{
	return u->port != 0 ? u->port : client_port;
}

enum config_proxy_protocol upstream_proxy_protocol(const struct upstream *u)
{
	return u->proxy_protocol;
}

unsigned upstream_addr_cnt(const struct upstream *u)
{
	sp_rcu_enter();
	const struct upstream_addrs *addrs = sp_rcu_load(&u->addrs);
	unsigned cnt = addrs == NULL ? 0 : addrs->cnt;
	sp_rcu_leave();
	return cnt;
}

static bool copy_addr(const struct upstream *u, unsigned ix, struct addr *ret_addr)
{
	sp_rcu_enter();
	const struct upstream_addrs *addrs = sp_rcu_load(&u->addrs);
	bool has_one = addrs != NULL && addrs->cnt > 0;
	if (has_one)
		*ret_addr = addrs->list[ix % addrs->cnt];
	sp_rcu_leave();
	return has_one;
}

/* Whether it goes to one of the target's addresses of now: a name may have moved elsewhere since. */
static bool is_current(struct upstream_conn *conn)
{
	const struct upstream *u = conn->upstream;
	uint32_t change = atomic_load_explicit(&u->addrs_change, memory_order_acquire);
	if (SP_LIKELY(conn->addrs_change == change))
		return true;
	bool is_among = false;
	sp_rcu_enter();
	const struct upstream_addrs *addrs = sp_rcu_load(&u->addrs);
	for (unsigned i = 0; addrs != NULL && i < addrs->cnt && !is_among; i++)
		is_among = addr_is_equal(&addrs->list[i], &conn->addr);
	sp_rcu_leave();
	if (is_among)
		conn->addrs_change = change;
	return is_among;
}

/* ---- end ---- */

void pool_settle(struct upstream_pool *pool)
{
	if (pool->is_going && !pool->has_closed && pool->conn_cnt == 0 && pool->in_use == 0 &&
	    list_is_empty(&pool->waiting))
		registry_worker_let_go(pool);
}

/* tls goes with it: its owner may still say why it failed, and it refers to the pool's session. */
static void free_conn(struct task *task)
{
	struct upstream_conn *conn = SP_CONTAINER_OF(task, struct upstream_conn, free_task);
	struct upstream_pool *pool = pool_of(conn);
	tls_conn_free(conn->tls);
	free(conn->preface);
	free(conn);
	pool->conn_cnt--;
	pool_settle(pool);
}

static void leave_pool(struct upstream_conn *conn)
{
	if (list_is_empty(&conn->idle_link))
		return;
	list_remove(&conn->idle_link);
	pool_add(&pool_of(conn)->idle_cnt, -1);
}

void upstream_conn_close(struct upstream_conn *conn)
{
	if (conn == NULL || conn->io.fd < 0)
		return;
	leave_pool(conn);
	loop_timer_disarm(conn->worker->loop, &conn->timer);
	if (conn->tls != NULL && !conn->has_hung_up)
		(void)tls_conn_close_notify(conn->tls);
	loop_close(conn->worker->loop, &conn->io);
	conn->on_ready = NULL;
	conn->free_task.run = free_conn;
	loop_defer(conn->worker->loop, &conn->free_task);
}

/* ---- events ---- */

/* Whether nothing waits behind the last answer: no end, no bytes that nobody asked for. They would be taken
 * for the next answer. Records of TLS itself (session tickets come late in TLS 1.3; RFC 8446, 4.6.1) are
 * taken in here. */
static bool is_quiet(struct upstream_conn *conn)
{
	char byte;
	size_t len;
	if (conn->tls != NULL) {
		if (!conn->is_readable && !tls_conn_has_pending(conn->tls))
			return true;
		conn->is_readable = tls_conn_read(conn->tls, &byte, 1, &len) != STEP_READ;
		return !conn->is_readable;
	}
	if (conn->is_readable && recv(conn->io.fd, &byte, 1, MSG_PEEK) < 0)
		conn->is_readable = errno != EAGAIN && errno != EWOULDBLOCK;
	return !conn->is_readable;
}

void upstream_conn_await_room(struct upstream_conn *conn)
{
	conn->is_writable = false;
	if (conn->is_awaiting_room)
		return;
	conn->is_awaiting_room = true;
	if (loop_change(conn->worker->loop, &conn->io, WATCHED | EPOLLOUT) != ERR_OK)
		(void)shutdown(conn->io.fd, SHUT_RDWR); /* its event ends it */
}

static void end_writing(struct upstream_conn *conn)
{
	if (conn->tls != NULL && tls_conn_close_notify(conn->tls) == STEP_WRITE) {
		upstream_conn_await_room(conn);
		return;
	}
	conn->phase = PHASE_READY;
	(void)shutdown(conn->io.fd, SHUT_WR);
}

static void on_io(struct io *io, uint32_t events)
{
	struct upstream_conn *conn = SP_CONTAINER_OF(io, struct upstream_conn, io);
	conn->is_readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	conn->is_writable |= (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
	conn->is_urgent |= (events & EPOLLPRI) != 0;
	conn->has_hung_up |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	conn->is_broken |= (events & (EPOLLHUP | EPOLLERR)) != 0;
	if (conn->phase == PHASE_ENDING && conn->is_writable)
		end_writing(conn);
	if (conn->on_ready != NULL)
		conn->on_ready(conn);
	else if (conn->has_hung_up || !is_quiet(conn))
		upstream_conn_close(conn); /* idle: an end, or bytes that nobody asked for */
}

/* The timer stays armed while a connection is in use: arming it once more for later only writes its due time. One
 * that is in use for long may have lost its target: short ones are spared the call. */
static void on_timer(struct timer *timer)
{
	struct upstream_conn *conn = SP_CONTAINER_OF(timer, struct upstream_conn, timer);
	if (list_is_empty(&conn->idle_link))
		socket_keep_alive(conn->io.fd);
	else
		upstream_conn_close(conn);
}

/* ---- beginning ---- */

static enum err keep_preface(struct upstream_conn *conn, const struct upstream_target *target)
{
	if (target->proxy_header_len == 0)
		return ERR_OK;
	conn->preface = malloc(target->proxy_header_len);
	if (conn->preface == NULL)
		return ERR_NOMEM;
	memcpy(conn->preface, target->proxy_header, target->proxy_header_len);
	conn->preface_len = (uint32_t)target->proxy_header_len;
	conn->is_unpoolable = true;
	return ERR_OK;
}

static enum step fail(struct upstream_conn *conn, enum upstream_failure failure, const char *why)
{
	pool_count(&conn->worker->connect_failures);
	conn->failure = failure;
	conn->failure_text = why == NULL ? "" : why;
	return STEP_FAIL;
}

/* One that stands already is spared the event that would say so. */
static void look_at_connect(struct upstream_conn *conn)
{
	const char *why;
	enum step step = socket_connect_look(conn->io.fd, &why);
	conn->is_writable = step == STEP_DONE;
	conn->is_awaiting_room = step == STEP_WRITE;
	if (step == STEP_FAIL)
		(void)fail(conn, UPSTREAM_FAILURE_REFUSED, why);
}

static enum err start_connect(struct upstream_conn *conn, const struct addr *addr,
			      bool has_first_bytes)
{
	struct upstream_worker *w = conn->worker;
	const char *why;
	conn->io.on_ready = on_io;
	enum err e = socket_connect(addr, has_first_bytes, &conn->io.fd, &why);
	if (e == ERR_OK || e == ERR_NETWORK)
		pool_count(&w->connects);
	if (e == ERR_NETWORK)
		pool_count(&w->connect_failures);
	if (e != ERR_OK)
		return e;
	conn->is_awaiting_room = true;
	if (has_first_bytes)
		look_at_connect(conn);
	e = loop_add(w->loop, &conn->io, WATCHED | (conn->is_awaiting_room ? EPOLLOUT : 0));
	if (e != ERR_OK)
		(void)close(conn->io.fd);
	return e;
}

enum err upstream_conn_open(struct upstream_worker *w, const struct upstream_target *target,
			    struct upstream_conn **ret_conn)
{
	struct upstream *u = target->upstream;
	struct upstream_pool *pool = &u->pools[w->ix];
	struct addr addr;
	SP_ASSERT(!pool->has_closed);
	/* Before the addresses: one that is too old costs one more look, one too new would hide a change. */
	uint32_t change = atomic_load_explicit(&u->addrs_change, memory_order_acquire);
	if (!copy_addr(u, target->addr_ix, &addr))
		return ERR_NOENT;
	struct upstream_conn *conn = alloc_zeroed(sizeof(*conn));
	if (conn == NULL)
		return ERR_NOMEM;
	conn->worker = w;
	conn->upstream = u;
	conn->addr = addr;
	conn->addrs_change = change;
	conn->alpn = target->alpn;
	conn->port = upstream_port(u, target->client_port);
	conn->failure_text = "";
	conn->timer.on_due = on_timer;
	list_init(&conn->idle_link);
	addr_set_port(&addr, conn->port);
	enum err e = keep_preface(conn, target);
	if (e == ERR_OK)
		e = start_connect(conn, &addr,
				  target->has_first_bytes || u->tls != NULL ||
					  conn->preface_len > 0);
	if (e != ERR_OK) {
		free(conn->preface);
		free(conn);
		return e;
	}
	loop_timer_arm(w->loop, &conn->timer, loop_now_ms(w->loop) + KEEP_ALIVE_MS);
	pool->conn_cnt++;
	*ret_conn = conn;
	return ERR_OK;
}

static enum step finish_connect(struct upstream_conn *conn)
{
	const char *why;
	if (!conn->is_writable && !conn->has_hung_up)
		return STEP_WRITE;
	if (!conn->has_hung_up) /* an error would have come with EPOLLERR */
		return STEP_DONE;
	enum err e = socket_connect_result(conn->io.fd, &why);
	if (e == ERR_OK)
		return STEP_DONE;
	return fail(conn,
		    e == ERR_TIMEOUT ? UPSTREAM_FAILURE_CONNECT_TIMEOUT : UPSTREAM_FAILURE_REFUSED,
		    why);
}

static enum step note_step(struct upstream_conn *conn, enum step step)
{
	if (step == STEP_READ)
		conn->is_readable = false;
	else if (step == STEP_WRITE)
		upstream_conn_await_room(conn);
	return step;
}

/* A short read emptied the socket, unless it stopped at urgent data: the next arrival is a new edge. The end that
 * was seen before it needs no look of its own; an error, or the end of TLS, does. */
static void note_drained(struct upstream_conn *conn)
{
	if (conn->is_urgent)
		return;
	conn->is_readable = conn->has_hung_up;
	conn->has_eof = conn->has_hung_up && !conn->is_broken && conn->tls == NULL;
}

static enum step send_preface(struct upstream_conn *conn)
{
	while (conn->preface_sent < conn->preface_len) {
		size_t len = 0;
		enum step step = socket_send(conn->io.fd, conn->preface + conn->preface_sent,
					     conn->preface_len - conn->preface_sent, &len);
		if (step == STEP_FAIL)
			return fail(conn, UPSTREAM_FAILURE_CLOSED,
				    "closed before the end of the PROXY header");
		if (step != STEP_DONE)
			return note_step(conn, step);
		conn->preface_sent += (uint32_t)len;
	}
	free(conn->preface);
	conn->preface = NULL;
	return STEP_DONE;
}

static enum step shake_hands(struct upstream_conn *conn)
{
	struct upstream *u = conn->upstream;
	if (u->tls == NULL)
		return STEP_DONE;
	if (conn->tls == NULL) {
		struct tls_connect connect = { .client = u->tls,
					       .ctx_ix = conn->worker->ix,
					       .fd = conn->io.fd,
					       .server_name = u->server_name,
					       .alpn = conn->alpn,
					       .session = &pool_of(conn)->session };
		enum err e = tls_conn_connect(&connect, &conn->tls);
		if (e != ERR_OK)
			return fail(conn, UPSTREAM_FAILURE_TLS, err_text(e));
	}
	enum step step = note_step(conn, tls_conn_handshake(conn->tls));
	if (step == STEP_DONE && tls_conn_is_drained(conn->tls))
		note_drained(conn);
	if (step != STEP_EOF && step != STEP_FAIL)
		return step;
	const char *why = tls_conn_error(conn->tls);
	if (step == STEP_EOF && (why == NULL || why[0] == '\0'))
		why = "closed during the TLS handshake";
	return fail(conn,
		    tls_conn_has_verify_failed(conn->tls) ? UPSTREAM_FAILURE_VERIFY
							  : UPSTREAM_FAILURE_TLS,
		    why);
}

enum step upstream_conn_check(struct upstream_conn *conn)
{
	static enum step (*const steps[])(struct upstream_conn * conn) = {
		[PHASE_CONNECT] = finish_connect,
		[PHASE_PREFACE] = send_preface,
		[PHASE_HANDSHAKE] = shake_hands,
	};
	if (conn->failure != UPSTREAM_FAILURE_NONE)
		return STEP_FAIL;
	while (conn->phase < PHASE_READY) {
		enum step step = steps[conn->phase](conn);
		if (step != STEP_DONE)
			return step;
		conn->phase++;
	}
	return STEP_DONE;
}

/* ---- pool ---- */

struct upstream_conn *upstream_conn_take(struct upstream_worker *w, struct upstream *u,
					 uint16_t port)
{
	LIST_FOREACH_SAFE(pos, &u->pools[w->ix].idle)
	{
		struct upstream_conn *conn = SP_CONTAINER_OF(pos, struct upstream_conn, idle_link);
		if (!is_current(conn)) {
			upstream_conn_close(conn);
			continue;
		}
		if (conn->port != port)
			continue; /* of a target that keeps the client's port */
		leave_pool(conn);
		conn->is_reused = true;
		pool_count(&w->reuses);
		return conn;
	}
	return NULL;
}

void upstream_conn_park(struct upstream_conn *conn)
{
	struct upstream_worker *w = conn->worker;
	struct upstream_pool *pool = pool_of(conn);
	if (conn->phase != PHASE_READY || conn->is_unpoolable || pool->is_closing ||
	    pool->idle_cnt >= w->idle_max || conn->has_hung_up || !is_current(conn) ||
	    !is_quiet(conn)) {
		upstream_conn_close(conn);
		return;
	}
	conn->on_ready = NULL;
	conn->owner = NULL;
	list_prepend(&pool->idle, &conn->idle_link);
	pool_add(&pool->idle_cnt, 1);
	loop_timer_arm(w->loop, &conn->timer, loop_now_ms(w->loop) + w->idle_ms);
}

void pool_close_idle(struct upstream_pool *pool)
{
	pool->is_closing = true;
	while (!list_is_empty(&pool->idle))
		upstream_conn_close(
			SP_CONTAINER_OF(pool->idle.next, struct upstream_conn, idle_link));
}

/* ---- bytes ---- */

enum step upstream_conn_read(struct upstream_conn *conn, void *dst, size_t cap, size_t *ret_len)
{
	if (conn->has_eof)
		return STEP_EOF;
	enum step step =
		note_step(conn, conn->tls != NULL ? tls_conn_read(conn->tls, dst, cap, ret_len)
						  : socket_recv(conn->io.fd, dst, cap, ret_len));
	if (step == STEP_DONE &&
	    (conn->tls != NULL ? tls_conn_is_drained(conn->tls) : *ret_len < cap))
		note_drained(conn);
	return step;
}

enum step upstream_conn_write(struct upstream_conn *conn, const void *src, size_t len,
			      size_t *ret_len)
{
	return note_step(conn, conn->tls != NULL ? tls_conn_write(conn->tls, src, len, ret_len)
						 : socket_send(conn->io.fd, src, len, ret_len));
}

void upstream_conn_shutdown(struct upstream_conn *conn)
{
	if (conn->phase != PHASE_READY)
		return;
	conn->phase = PHASE_ENDING;
	end_writing(conn);
}
