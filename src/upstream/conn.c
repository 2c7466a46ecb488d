/* Connections to targets and the pools that keep them. Worker thread. */
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"

static void count(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}

static void free_conn(struct task *task)
{
	free(SP_CONTAINER_OF(task, struct upstream_conn, free_task));
}

static void leave_pool(struct upstream_conn *conn)
{
	if (list_is_empty(&conn->idle_link))
		return;
	list_remove(&conn->idle_link);
	conn->upstream->pools[conn->worker->ix].idle_cnt--;
	loop_timer_disarm(conn->worker->loop, &conn->idle_timer);
}

void upstream_conn_close(struct upstream_conn *conn)
{
	if (conn == NULL || conn->io.fd < 0)
		return;
	leave_pool(conn);
	int fd = conn->io.fd;
	loop_remove(conn->worker->loop, &conn->io);
	(void)close(fd);
	conn->on_ready = NULL;
	conn->free_task.run = free_conn;
	loop_defer(conn->worker->loop, &conn->free_task);
}

static void on_io(struct io *io, uint32_t events)
{
	struct upstream_conn *conn = SP_CONTAINER_OF(io, struct upstream_conn, io);
	conn->is_readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	conn->is_writable |= (events & (EPOLLOUT | EPOLLHUP | EPOLLERR)) != 0;
	conn->has_hung_up |= (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
	if (conn->on_ready != NULL)
		conn->on_ready(conn);
	else if (conn->is_readable)
		upstream_conn_close(conn); /* idle: an end, or bytes that nobody asked for */
}

static void on_idle_timeout(struct timer *timer)
{
	upstream_conn_close(SP_CONTAINER_OF(timer, struct upstream_conn, idle_timer));
}

struct upstream_conn *upstream_conn_take(struct upstream_worker *w, struct upstream *u)
{
	struct upstream_pool *pool = &u->pools[w->ix];
	if (list_is_empty(&pool->idle))
		return NULL;
	struct upstream_conn *conn =
		SP_CONTAINER_OF(pool->idle.next, struct upstream_conn, idle_link);
	leave_pool(conn);
	conn->is_reused = true;
	count(&w->reuses);
	return conn;
}

enum err upstream_conn_open(struct upstream_worker *w, struct upstream *u, unsigned addr_ix,
			    struct upstream_conn **ret_conn)
{
	const struct addr *addr = upstream_addr(u, addr_ix);
	struct upstream_conn *conn = calloc(1, sizeof(*conn));
	if (conn == NULL)
		return ERR_NOMEM;
	enum err e = ERR_LIMIT;
	int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		goto out;
	int one = 1;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	conn->worker = w;
	conn->upstream = u;
	conn->io = (struct io){ .fd = fd, .on_ready = on_io };
	list_init(&conn->idle_link);
	conn->idle_timer.on_due = on_idle_timeout;
	e = ERR_NETWORK;
	count(&w->connects);
	if (fault_hits(FAULT_CONNECT) ||
	    (connect(fd, &addr->sa, addr->len) != 0 && errno != EINPROGRESS)) {
		count(&w->connect_failures);
		goto out;
	}
	conn->is_connecting = true;
	e = loop_add(w->loop, &conn->io, EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET);
	if (e != ERR_OK)
		goto out;
	*ret_conn = conn;
	return ERR_OK;
out:
	if (fd >= 0)
		(void)close(fd);
	free(conn);
	return e;
}

enum step upstream_conn_check(struct upstream_conn *conn)
{
	if (!conn->is_connecting)
		return STEP_DONE;
	if (!conn->is_writable && !conn->has_hung_up)
		return STEP_WRITE;
	int error = 0;
	socklen_t len = sizeof(error);
	if (getsockopt(conn->io.fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0 || error != 0) {
		count(&conn->worker->connect_failures);
		return STEP_FAIL;
	}
	conn->is_connecting = false;
	return STEP_DONE;
}

/* Whether nothing waits behind the last answer: no end, no bytes that nobody asked for. They would
 * be taken for the next answer. */
static bool is_quiet(struct upstream_conn *conn)
{
	char byte;
	if (conn->is_readable && recv(conn->io.fd, &byte, 1, MSG_PEEK) < 0)
		conn->is_readable = errno != EAGAIN && errno != EWOULDBLOCK;
	return !conn->is_readable;
}

void upstream_conn_park(struct upstream_conn *conn)
{
	struct upstream_worker *w = conn->worker;
	struct upstream_pool *pool = &conn->upstream->pools[w->ix];
	if (pool->is_closing || pool->idle_cnt >= w->idle_max || conn->has_hung_up ||
	    !is_quiet(conn)) {
		upstream_conn_close(conn);
		return;
	}
	conn->on_ready = NULL;
	conn->owner = NULL;
	list_prepend(&pool->idle, &conn->idle_link);
	pool->idle_cnt++;
	loop_timer_arm(w->loop, &conn->idle_timer, loop_now_ms(w->loop) + w->idle_ms);
}

void pool_close_idle(struct upstream_pool *pool)
{
	pool->is_closing = true;
	while (!list_is_empty(&pool->idle))
		upstream_conn_close(
			SP_CONTAINER_OF(pool->idle.next, struct upstream_conn, idle_link));
}

enum step upstream_conn_read(struct upstream_conn *conn, void *dst, size_t cap, size_t *ret_len)
{
	ssize_t n;
	do {
		n = recv(conn->io.fd, dst, cap, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		conn->is_readable = false;
		return STEP_READ;
	}
	if (n < 0)
		return STEP_FAIL;
	if (n == 0)
		return STEP_EOF;
	/* A short read emptied the socket, unless an end waits behind it: the next arrival is a new
	 * edge. */
	if ((size_t)n < cap && !conn->has_hung_up)
		conn->is_readable = false;
	*ret_len = (size_t)n;
	return STEP_DONE;
}

enum step upstream_conn_write(struct upstream_conn *conn, const void *src, size_t len,
			      size_t *ret_len)
{
	ssize_t n;
	do {
		n = send(conn->io.fd, src, len, MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
		conn->is_writable = false;
		return STEP_WRITE;
	}
	if (n < 0)
		return STEP_FAIL;
	*ret_len = (size_t)n;
	return STEP_DONE;
}
