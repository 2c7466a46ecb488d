/* What became of requests: counters, ejection for a while, budgets of retries. Worker; notes: any thread. */
#include <inttypes.h>
#include <string.h>

#include "pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"

#define ROOM               "upstream"
#define EJECTION_TIMES_MAX 10
/* In hundredths of a retry. Those from the start let quiet targets retry at all. */
#define CREDIT_START 1000
#define CREDIT_MAX   10000

bool upstream_is_usable(const struct upstream *u, int64_t now_ms, bool is_ejected_fine)
{
	return atomic_load_explicit(&u->is_down, memory_order_relaxed) == 0 &&
	       (is_ejected_fine ||
		atomic_load_explicit(&u->ejected_until_ms, memory_order_relaxed) <= now_ms) &&
	       sp_rcu_load(&u->addrs) != NULL;
}

/* ---- retries ---- */

void pool_add_credit(struct upstream_pool *pool, const struct config_upstream *config)
{
	int32_t credit = pool->retry_credit;
	if (credit >= CREDIT_MAX - CREDIT_START)
		return;
	credit += (int32_t)config->retry.budget_percent;
	pool->retry_credit =
		credit > CREDIT_MAX - CREDIT_START ? CREDIT_MAX - CREDIT_START : credit;
}

bool upstream_may_retry(struct upstream_worker *w, const struct upstream_group *group,
			struct upstream_choice *choice)
{
	struct upstream_pool *pool = &choice->upstream->pools[w->ix];
	if (choice->tried_cnt >= group->config->retry.tries ||
	    pool->retry_credit + CREDIT_START < 100)
		return false;
	pool->retry_credit -= 100;
	pool_count(&pool->retries);
	return true;
}

/* ---- failures ---- */

void upstream_note_failure(struct upstream *u, enum upstream_failure failure, const char *why)
{
	atomic_store_explicit(&u->last_failure, (int)failure, memory_order_relaxed);
	atomic_store_explicit(&u->last_failure_unix_s, clock_unix_s(), memory_order_relaxed);
	if (atomic_exchange_explicit(&u->why_lock, 1, memory_order_acquire) != 0)
		return;
	(void)text_format(u->last_why, sizeof(u->last_why), "%s", why == NULL ? "" : why);
	atomic_store_explicit(&u->why_lock, 0, memory_order_release);
}

/* Whether one more of the group may be ejected: others are left, and it is no more than the share. */
static bool may_eject(const struct upstream_group *group, const struct upstream *u, int64_t now_ms)
{
	uint64_t max =
		(uint64_t)group->active_cnt * group->config->ejection.max_share_percent / 100;
	uint32_t ejected_cnt = 0, usable_cnt = 0;
	if (max == 0 && group->config->ejection.max_share_percent > 0)
		max = 1;
	for (uint32_t i = 0; i < group->target_cnt; i++) {
		const struct group_target *t = &group->targets[i];
		if (t->upstream == u)
			continue;
		usable_cnt += upstream_is_usable(t->upstream, now_ms, false);
		ejected_cnt += !t->is_backup && atomic_load_explicit(&t->upstream->ejected_until_ms,
								     memory_order_relaxed) > now_ms;
	}
	return usable_cnt > 0 && ejected_cnt < max;
}

/* Returns for how long; 0: it is not. */
static int64_t eject(const struct upstream_group *group, struct upstream *u, int64_t now_ms)
{
	int64_t time_ms = 0;
	/* Who does not get the lock tries again with the next failure. */
	_Atomic uint32_t *lock = &u->registry->ejection_lock;
	if (atomic_exchange_explicit(lock, 1, memory_order_acquire) != 0)
		return 0;
	if (atomic_load_explicit(&u->ejected_until_ms, memory_order_relaxed) <= now_ms &&
	    may_eject(group, u, now_ms)) {
		uint32_t cnt = atomic_load_explicit(&u->ejection_cnt, memory_order_relaxed);
		if (cnt < EJECTION_TIMES_MAX)
			cnt++;
		atomic_store_explicit(&u->ejection_cnt, cnt, memory_order_relaxed);
		atomic_store_explicit(&u->failures_in_row, 0, memory_order_relaxed);
		(void)atomic_fetch_add_explicit(&u->ejections, 1, memory_order_relaxed);
		time_ms = group->config->ejection.time_ms * cnt;
		atomic_store_explicit(&u->ejected_until_ms, now_ms + time_ms, memory_order_relaxed);
	}
	atomic_store_explicit(lock, 0, memory_order_release);
	return time_ms;
}

static void report_success(struct upstream *u, int64_t now_ms)
{
	if (atomic_load_explicit(&u->failures_in_row, memory_order_relaxed) != 0)
		atomic_store_explicit(&u->failures_in_row, 0, memory_order_relaxed);
	/* One that was under way when it was ejected says nothing about the time after. */
	if (atomic_load_explicit(&u->ejection_cnt, memory_order_relaxed) != 0 &&
	    atomic_load_explicit(&u->ejected_until_ms, memory_order_relaxed) <= now_ms)
		atomic_store_explicit(&u->ejection_cnt, 0, memory_order_relaxed);
}

void upstream_report(struct upstream_worker *w, const struct upstream_group *group,
		     const struct upstream_choice *choice, enum upstream_failure failure,
		     const char *why)
{
	struct upstream *u = choice->upstream;
	int64_t now_ms = loop_now_ms(w->loop);
	if (failure == UPSTREAM_FAILURE_NONE) {
		report_success(u, now_ms);
		return;
	}
	pool_count(&u->pools[w->ix].failures);
	upstream_note_failure(u, failure, why);
	unsigned limit = group->config->ejection.failures;
	if (limit == 0 || failure == UPSTREAM_FAILURE_UNRESOLVED ||
	    atomic_load_explicit(&u->ejected_until_ms, memory_order_relaxed) > now_ms)
		return;
	if (atomic_fetch_add_explicit(&u->failures_in_row, 1, memory_order_relaxed) + 1 < limit)
		return;
	int64_t time_ms = eject(group, u, now_ms);
	if (time_ms > 0)
		log_warn(ROOM,
			 "a target is ejected after failures of traffic: %s target=%s group=%s "
			 "reason=%s time_ms=%" PRId64 " (the others get its traffic for that time)",
			 why == NULL ? "" : why, u->name, u->group, upstream_failure_name(failure),
			 time_ms);
}
