/* Which target an exchange speaks to: round robin by a per-worker cursor, the next one after a
 * failure. */
#include "exchange.h"

static struct upstream *target_of(const struct exchange *x)
{
	const struct route *route = x->route;
	return route->upstreams[route->schedule[x->schedule_at % route->schedule_len]];
}

bool target_next(struct exchange *x)
{
	const struct route *route = x->route;
	if (++x->try_cnt >= TRIES_MAX)
		return false;
	/* First the other addresses of this name, then the next target. */
	if (x->addr_ix + 1 < upstream_addr_cnt(target_of(x))) {
		x->addr_ix++;
		return true;
	}
	struct upstream *failed = target_of(x);
	for (uint32_t i = 1; i < route->schedule_len; i++) {
		x->schedule_at++;
		if (target_of(x) != failed) {
			x->addr_ix = 0;
			return x->try_cnt <
			       route->config->action.target_cnt + upstream_addr_cnt(failed);
		}
	}
	return false;
}

enum err target_connect(struct exchange *x)
{
	struct worker *w = x->worker;
	if (x->try_cnt == 0 && !x->has_retried) {
		uint32_t *cursor = &x->generation->cursors[w->ix][x->route->ix];
		x->schedule_at = (*cursor)++ % x->route->schedule_len;
		x->up = upstream_conn_take(&w->upstream, target_of(x));
		if (x->up != NULL)
			return ERR_OK;
	}
	for (;;) {
		enum err e = upstream_conn_open(&w->upstream, target_of(x), x->addr_ix, &x->up);
		if (e != ERR_NETWORK)
			return e;
		if (!target_next(x))
			return ERR_NETWORK;
	}
}
