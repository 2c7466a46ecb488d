/* What the admin API and the metrics show of targets, and the names of their states. Control thread; reads
 * what workers write without waiting for them. */
#include <stdatomic.h>
#include <string.h>

#include "pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"

const char *upstream_failure_name(enum upstream_failure failure)
{
	static const char *const names[UPSTREAM_FAILURE_CNT] = {
#define X(sym, name) [UPSTREAM_FAILURE_##sym] = name,
		UPSTREAM_FAILURES(X)
#undef X
	};
	return failure < UPSTREAM_FAILURE_CNT ? names[failure] : "unknown";
}

const char *upstream_state_name(enum upstream_state state)
{
	static const char *const names[] = { [UPSTREAM_UP] = "up",
					     [UPSTREAM_DOWN] = "down",
					     [UPSTREAM_EJECTED] = "ejected",
					     [UPSTREAM_UNRESOLVED] = "unresolved" };
	return (size_t)state < SP_ARRAY_LEN(names) ? names[state] : "unknown";
}

static enum upstream_state state_of(const struct upstream *u) SP_ON_CONTROL;
static enum upstream_state state_of(const struct upstream *u)
{
	if (names_addrs(u) == NULL)
		return UPSTREAM_UNRESOLVED;
	if (atomic_load_explicit(&u->is_down, memory_order_relaxed) != 0)
		return UPSTREAM_DOWN;
	int64_t until_ms = atomic_load_explicit(&u->ejected_until_ms, memory_order_relaxed);
	return until_ms > clock_now_ms() ? UPSTREAM_EJECTED : UPSTREAM_UP;
}

static uint64_t load_64(const uint64_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static uint64_t load_32(const uint32_t *counter)
{
	return __atomic_load_n(counter, __ATOMIC_RELAXED);
}

static void add_pools(const struct upstream *u, struct upstream_view *view)
{
	for (unsigned i = 0; i < u->worker_cnt; i++) {
		const struct upstream_pool *pool = &u->pools[i];
		view->in_use += load_32(&pool->in_use);
		view->waiting += load_32(&pool->waiting_cnt);
		view->idle += load_32(&pool->idle_cnt);
		view->requests += load_64(&pool->requests);
		view->failures += load_64(&pool->failures);
		view->retries += load_64(&pool->retries);
	}
}

/* "" while a worker writes it: nothing waits here. */
static void copy_why(struct upstream *u, char *dst, size_t cap)
{
	uint32_t free_value = 0;
	dst[0] = '\0';
	if (!atomic_compare_exchange_strong_explicit(&u->why_lock, &free_value, 1,
						     memory_order_acquire, memory_order_relaxed))
		return;
	(void)text_format(dst, cap, "%s", u->last_why);
	atomic_store_explicit(&u->why_lock, 0, memory_order_release);
}

static void show(struct upstream *u, void (*visit)(void *arg, const struct upstream_view *view),
		 void *arg) SP_ON_CONTROL;
static void show(struct upstream *u, void (*visit)(void *arg, const struct upstream_view *view),
		 void *arg)
{
	char why[UPSTREAM_WHY_MAX];
	const struct upstream_addrs *addrs = names_addrs(u);
	struct upstream_view view = {
		.group = u->group,
		.name = u->name,
		.state = state_of(u),
		.is_tls = u->tls != NULL,
		.is_backup = u->seen_as->is_backup,
		.weight = u->seen_as->weight,
		.max_connections = u->seen_as->max_connections,
		.ejections = atomic_load_explicit(&u->ejections, memory_order_relaxed),
		.last_failure = (enum upstream_failure)atomic_load_explicit(&u->last_failure,
									    memory_order_relaxed),
		.last_failure_unix_s =
			atomic_load_explicit(&u->last_failure_unix_s, memory_order_relaxed),
		.addr_cnt = addrs == NULL ? 0 : addrs->cnt,
		.addrs = addrs == NULL ? NULL : addrs->list,
		.addrs_ttl_s = names_ttl_left_s(u),
	};
	copy_why(u, why, sizeof(why));
	view.last_failure_text = why;
	add_pools(u, &view);
	health_view(u, &view);
	visit(arg, &view);
}

/* Targets of groups that are in force, in the order of their making; one that several groups have is shown
 * once, as the newest group has it. */
void upstreams_each(struct upstreams *us,
		    void (*visit)(void *arg, const struct upstream_view *view), void *arg)
{
	us->view_round++;
	for (const struct upstream_group *group = us->groups; group != NULL; group = group->next) {
		for (uint32_t i = 0; group->is_applied && i < group->target_cnt; i++) {
			struct upstream *u = group->targets[i].upstream;
			if (u->seen_round == us->view_round)
				continue;
			u->seen_round = us->view_round;
			u->seen_as = &group->targets[i];
		}
	}
	LIST_FOREACH(pos, &us->all)
	{
		struct upstream *u = SP_CONTAINER_OF(pos, struct upstream, link);
		if (u->seen_round == us->view_round)
			show(u, visit, arg);
	}
}
