/* A worker's pipes. Few are enough: a direction of a tunnel holds one only while bytes are in it. */
#include "pipe.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

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

struct pipe *pipe_take(struct pipe_pool *pool, int64_t now_ms)
{
	struct pipe *pipe = pool->free_list;
	if (pipe != NULL) {
		pool->free_list = pipe->next;
		pool->free_cnt--;
		return pipe;
	}
	if (pool->cnt >= PIPES_MAX || now_ms < pool->retry_ms)
		return NULL;
	pipe = new_pipe();
	if (pipe == NULL)
		pool->retry_ms = now_ms + PIPE_PAUSE_MS;
	else
		pool->cnt++;
	return pipe;
}

void pipe_drop(struct pipe_pool *pool, struct pipe *pipe)
{
	if (pipe == NULL)
		return;
	(void)close(pipe->rd);
	(void)close(pipe->wr);
	free(pipe);
	pool->cnt--;
}

void pipe_give(struct pipe_pool *pool, struct pipe *pipe)
{
	if (pipe == NULL)
		return;
	if (pool->free_cnt >= PIPES_KEPT) {
		pipe_drop(pool, pipe);
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
		pipe_drop(pool, pipe);
	}
}
