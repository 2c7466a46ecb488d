#pragma once
/* upstream: the layout of a target, shared by the files of this room. */
#include <stdatomic.h>

#include "smartproxy/upstream.h"

#define UPSTREAM_NAME_MAX 300

/* One worker's idle connections to one target. Written by that worker only. */
struct upstream_pool {
	_Alignas(64) struct list idle; /* newest first: the warmest is taken */
	uint32_t idle_cnt;
	bool is_closing;
	struct task close_task;
	struct upstream *upstream; /* set by control before close_task is posted */
};

struct upstream {
	struct upstreams *registry;
	struct upstream *next; /* in the registry's bucket */
	struct list link;
	uint32_t ref_cnt; /* held by: the routings of generations; control thread */
	unsigned addr_cnt;
	struct addr addrs[UPSTREAM_ADDRS_MAX];
	char name[UPSTREAM_NAME_MAX];
	_Atomic unsigned closing_cnt; /* workers that have yet to close their idle connections */
	struct task free_task;
	struct upstream_pool pools[]; /* by worker */
};

void pool_close_idle(struct upstream_pool *pool);
