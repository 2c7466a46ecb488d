/* A worker's pipes, and splice through them. Few are enough: a direction holds one only while bytes are in it. A
 * pipe is filled when it is empty and emptied before it is filled again, so that EAGAIN on the way in always means
 * the source and on the way out the sink. */
#include "pipe.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "conn.h"
#include "smartproxy/fault.h"

#define PIPES_MAX  128         /* open ones of a worker, two descriptors each */
#define PIPES_KEPT 32          /* idle ones */
#define PIPE_BYTES (256 << 10) /* wanted */
#define PIPE_BYTES_MIN \
	(64 << 10) /* below it (user's share of pipe memory is used up) copying is no worse */
#define PIPE_PAUSE_MS 1000 /* after one could not be made */

static struct pipe *new_pipe(void)
{
	struct pipe *pipe = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*pipe));
	int fds[2];
	if (pipe == NULL || pipe2(fds, O_NONBLOCK | O_CLOEXEC) != 0) {
		free(pipe);
		return NULL;
	}
	(void)fcntl(fds[1], F_SETPIPE_SZ, PIPE_BYTES);
	int cap = fcntl(fds[1], F_GETPIPE_SZ);
	if (cap < PIPE_BYTES_MIN) {
		(void)close(fds[0]);
		(void)close(fds[1]);
		free(pipe);
		return NULL;
	}
	*pipe = (struct pipe){ .rd = fds[0], .wr = fds[1], .cap_bytes = (uint32_t)cap };
	return pipe;
}

struct pipe *pipe_take(struct worker *w)
{
	struct pipe_pool *pool = &w->pipes;
	struct pipe *pipe = pool->free_list;
	if (pipe != NULL) {
		pool->free_list = pipe->next;
		pool->free_cnt--;
		return pipe;
	}
	int64_t now_ms = loop_now_ms(w->loop);
	if (pool->cnt >= PIPES_MAX || now_ms < pool->retry_ms)
		return NULL;
	pipe = new_pipe();
	if (pipe == NULL)
		pool->retry_ms = now_ms + PIPE_PAUSE_MS;
	else
		pool->cnt++;
	return pipe;
}

static void drop(struct pipe_pool *pool, struct pipe *pipe)
{
	(void)close(pipe->rd);
	(void)close(pipe->wr);
	free(pipe);
	pool->cnt--;
}

void pipe_give(struct worker *w, struct pipe *pipe)
{
	struct pipe_pool *pool = &w->pipes;
	if (pipe == NULL)
		return;
	/* An exchange may end behind its connection: whoever is the last keeps none (conn_close). */
	bool is_quiet = w->stats.connections_open == 0;
	if (pipe->len > 0 || pool->free_cnt >= PIPES_KEPT || is_quiet) {
		drop(pool, pipe);
		return;
	}
	pipe->next = pool->free_list;
	pool->free_list = pipe;
	pool->free_cnt++;
}

void pipe_pool_fini(struct pipe_pool *pool)
{
	while (pool->free_list != NULL) {
		struct pipe *pipe = pool->free_list;
		pool->free_list = pipe->next;
		pool->free_cnt--;
		drop(pool, pipe);
	}
}

/* ---- splice ---- */

static ssize_t move(int from, int to, size_t cap)
{
	ssize_t n;
	do {
		n = splice(from, NULL, to, NULL, cap, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	} while (n < 0 && errno == EINTR);
	return n;
}

static enum step fill(struct pipe *pipe, int fd, size_t cap, size_t *ret_len)
{
	SP_ASSERT(pipe->len == 0 && cap > 0);
	ssize_t n = move(fd, pipe->wr, cap < pipe->cap_bytes ? cap : pipe->cap_bytes);
	if (n < 0)
		return errno == EAGAIN ? STEP_READ : errno == EINVAL ? STEP_MORE : STEP_FAIL;
	if (n == 0) /* the end, or urgent bytes and the end behind them: recv tells which */
		return STEP_MORE;
	pipe->len = (uint32_t)n;
	*ret_len = (size_t)n;
	return STEP_DONE;
}

static enum step drain(struct pipe *pipe, int fd, size_t *ret_len)
{
	ssize_t n = move(pipe->rd, fd, pipe->len);
	if (n <= 0)
		return n < 0 && errno == EAGAIN ? STEP_WRITE : STEP_FAIL;
	pipe->len -= (uint32_t)n;
	*ret_len = (size_t)n;
	return STEP_DONE;
}

enum step pipe_recv_client(struct pipe *pipe, struct conn *conn, size_t cap, size_t *ret_len)
{
	if (!conn->is_readable)
		return STEP_READ;
	enum step step = fill(pipe, conn->io.fd, cap, ret_len);
	if (step == STEP_READ)
		conn->is_readable = false;
	else if (step == STEP_DONE)
		conn_count_in(conn, *ret_len);
	return step;
}

enum step pipe_recv_target(struct pipe *pipe, struct upstream_conn *up, size_t cap, size_t *ret_len)
{
	if (!up->is_readable)
		return STEP_READ;
	enum step step = fill(pipe, up->io.fd, cap, ret_len);
	if (step == STEP_READ)
		up->is_readable = false;
	return step;
}

enum step pipe_send_client(struct pipe *pipe, struct conn *conn, size_t *ret_len)
{
	if (!conn->is_writable)
		return STEP_WRITE;
	enum step step = drain(pipe, conn->io.fd, ret_len);
	if (step == STEP_WRITE)
		conn->is_writable = false;
	else if (step == STEP_DONE)
		conn_count_out(conn, *ret_len);
	return step;
}

enum step pipe_send_target(struct pipe *pipe, struct upstream_conn *up, size_t *ret_len)
{
	if (!up->is_writable)
		return STEP_WRITE;
	enum step step = drain(pipe, up->io.fd, ret_len);
	if (step == STEP_WRITE)
		upstream_conn_await_room(up);
	return step;
}
