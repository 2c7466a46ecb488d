/* The tables' life, and the count over all. */
#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"
#include "table.h"

enum err limits_new(struct limits **ret_limits)
{
	struct limits *limits =
		fault_hits(FAULT_MALLOC) ? NULL : aligned_alloc(64, sizeof(*limits));
	if (limits == NULL)
		return ERR_NOMEM;
	memset(limits, 0, sizeof(*limits));
	enum err e = addresses_init(limits);
	if (e != ERR_OK) {
		free(limits);
		return e;
	}
	*ret_limits = limits;
	return ERR_OK;
}

void limits_free(struct limits *limits)
{
	if (limits == NULL)
		return;
	addresses_fini(limits);
	counters_fini(limits);
	free(limits);
}

/* An addition that is taken back when it was one too many would, for a moment, refuse who has a place. */
enum limit_verdict limits_enter(struct limits *limits, const struct limit_settings *settings)
{
	uint32_t max = settings->connections > 0 ? settings->connections : UINT32_MAX;
	uint32_t cnt = atomic_load_explicit(&limits->connection_cnt, memory_order_relaxed);
	while (cnt < max) {
		if (atomic_compare_exchange_weak_explicit(&limits->connection_cnt, &cnt, cnt + 1,
							  memory_order_relaxed,
							  memory_order_relaxed))
			return LIMIT_OK;
	}
	return LIMIT_OVERALL;
}

void limits_leave(struct limits *limits)
{
	(void)atomic_fetch_sub_explicit(&limits->connection_cnt, 1, memory_order_relaxed);
}

uint64_t limits_connection_cnt(const struct limits *limits)
{
	return atomic_load_explicit(&limits->connection_cnt, memory_order_relaxed);
}
