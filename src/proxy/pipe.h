#pragma once
/* proxy: pipes that splice moves bytes through. */
#include "proxy.h"

struct pipe {
	struct pipe *next; /* in the pool */
	int rd, wr;        /* non-blocking */
	uint32_t cap_bytes;
	uint32_t len; /* bytes in it */
};

/* Empty. NULL: as many are lent as may be, or the system gives none (or none that is worth it); recv and send do
 * as well. */
struct pipe *pipe_take(struct worker *w);
/* Back to the pool; one with bytes in it is closed. NULL is allowed. */
void pipe_give(struct worker *w, struct pipe *pipe);
/* NULL: none. */
static inline size_t pipe_len(const struct pipe *pipe)
{
	return pipe == NULL ? 0 : pipe->len;
}

/* Into an empty pipe, out of a plain socket: as conn_recv and upstream_conn_read, but for STEP_MORE instead of
 * STEP_EOF: the source has ended, and what it may have left is for recv, as splice stops at urgent bytes for good; or
 * this socket cannot be spliced at all. Flags are cleared by EAGAIN only: that a pipe is full may be due to its
 * slots. */
enum step pipe_recv_client(struct pipe *pipe, struct conn *conn, size_t cap, size_t *ret_len);
enum step pipe_recv_target(struct pipe *pipe, struct upstream_conn *up, size_t cap,
			   size_t *ret_len);
/* Out of a pipe that has bytes: as conn_send and upstream_conn_write. */
enum step pipe_send_client(struct pipe *pipe, struct conn *conn, size_t *ret_len);
enum step pipe_send_target(struct pipe *pipe, struct upstream_conn *up, size_t *ret_len);
