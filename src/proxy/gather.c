#include "gather.h"

#include "smartproxy/loop.h"

#define GAIN_BYTES    (GATHER_BYTES / 4) /* of one wait: worth it */
#define VAIN_MAX      7
#define RUN_BYTES_MAX (1U << 30)

void gather_count(struct gather *g, uint32_t bytes)
{
	g->run_bytes = bytes < RUN_BYTES_MAX - g->run_bytes ? g->run_bytes + bytes : RUN_BYTES_MAX;
	if (g->fill_bytes < bytes)
		g->fill_bytes = bytes;
}

/* Fast: bytes that go on coming so are many before the longest wait is over. */
bool gather_end_run(struct gather *g, int64_t now_us)
{
	int64_t run_us = now_us - g->begin_us;
	if (run_us <= 0) /* the same turn of the loop */
		return false;
	bool is_fast = g->fill_bytes < GAIN_BYTES &&
		       run_us <= (int64_t)g->run_bytes * GATHER_TIME_US / GATHER_BYTES;
	g->begin_us = now_us;
	g->run_bytes = g->fill_bytes = 0;
	g->fast_cnt = !is_fast ? 0 : g->fast_cnt < UINT8_MAX ? g->fast_cnt + 1 : UINT8_MAX;
	return g->fast_cnt >= 1 << g->vain_cnt;
}

void gather_enter(struct gather *g)
{
	g->is_on = true;
	g->has_gained = false;
	g->fast_cnt = 0;
}

void gather_wait(struct gather *g, int64_t now_us, uint32_t bytes)
{
	g->begin_us = now_us;
	g->seen_bytes = bytes;
}

enum gather_step gather_look(struct gather *g, int64_t now_us, uint32_t bytes)
{
	if (bytes <= g->seen_bytes)
		return GATHER_LEAVE;
	g->seen_bytes = bytes;
	if (now_us - g->begin_us <= GATHER_TIME_US - SHORT_TIMER_US)
		return GATHER_WAIT;
	return bytes >= GAIN_BYTES ? GATHER_TAKE : GATHER_LEAVE;
}

void gather_take(struct gather *g, uint32_t bytes)
{
	g->has_gained |= bytes >= GAIN_BYTES;
}

void gather_leave(struct gather *g)
{
	g->is_on = false;
	g->vain_cnt = g->has_gained ? 0 : g->vain_cnt < VAIN_MAX ? g->vain_cnt + 1 : VAIN_MAX;
}
