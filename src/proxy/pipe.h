#pragma once
/* proxy: pipes that splice moves bytes through. */
#include "proxy.h"

struct pipe {
	struct pipe *next; /* in the pool */
	int rd, wr;        /* non-blocking */
	uint32_t cap_bytes;
};

/* Empty. NULL: as many are lent as may be, or the system gives none (or none that is worth it); recv and send do
 * as well. */
struct pipe *pipe_take(struct pipe_pool *pool, int64_t now_ms);
/* Empty ones only. NULL is allowed. */
void pipe_give(struct pipe_pool *pool, struct pipe *pipe);
/* With bytes in it. NULL is allowed. */
void pipe_drop(struct pipe_pool *pool, struct pipe *pipe);
