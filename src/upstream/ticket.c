/* Places at targets. Worker, and between workers.
 *
 * Without max_connections a place is a count of the worker's own. With it, place_cnt counts over all workers,
 * and who finds none left waits in the line of its worker. Who gives a place back while somebody waits does
 * not free it: it is handed over to the next worker in turn (granted_cnt, wake_task), so that newcomers cannot
 * take it on the way and no worker is left out. A worker that is handed more places than it has waiting (they
 * have left meanwhile) gives them back in the same way.
 *
 * No place is lost and nobody waits while one is free: who begins to wait writes its pool's waiting_cnt, then
 * looks for a free place; who frees one writes place_cnt, then looks for somebody who waits. All four are
 * sequentially consistent, so that one of the two sees the other. */
#include "pool.h"
#include "smartproxy/assert.h"

/* ---- places ---- */

static bool take_place(struct upstream *u)
{
	uint32_t max = atomic_load_explicit(&u->place_max, memory_order_relaxed);
	uint32_t cnt = atomic_load(&u->place_cnt);
	while (cnt < max) {
		if (atomic_compare_exchange_weak(&u->place_cnt, &cnt, cnt + 1))
			return true;
	}
	return false;
}

/* Of those that have more who wait than places on the way, the next one in turn. */
static struct upstream_pool *find_waiting(struct upstream *u)
{
	if (atomic_load(&u->waiting_cnt) == 0)
		return NULL;
	uint32_t at = atomic_fetch_add_explicit(&u->next_worker, 1, memory_order_relaxed);
	for (unsigned i = 0; i < u->worker_cnt; i++) {
		struct upstream_pool *pool = &u->pools[(at + i) % u->worker_cnt];
		uint32_t waiting_cnt = __atomic_load_n(&pool->waiting_cnt, __ATOMIC_SEQ_CST);
		if (waiting_cnt > __atomic_load_n(&pool->granted_cnt, __ATOMIC_SEQ_CST))
			return pool;
	}
	return NULL;
}

static void hand_over(struct upstream_pool *pool)
{
	(void)__atomic_add_fetch(&pool->granted_cnt, 1, __ATOMIC_SEQ_CST);
	if (__atomic_exchange_n(&pool->is_wake_posted, true, __ATOMIC_ACQ_REL))
		return;
	registry_hold(pool->upstream);
	loop_post(__atomic_load_n(&pool->wake_loop, __ATOMIC_RELAXED), &pool->wake_task);
}

/* Gives up one place that is counted in place_cnt. */
static void release_place(struct upstream *u)
{
	for (;;) {
		uint32_t cnt = atomic_load(&u->place_cnt);
		/* More than there are by now: max_connections was lowered. */
		bool is_one_too_many =
			cnt > atomic_load_explicit(&u->place_max, memory_order_relaxed);
		struct upstream_pool *pool = is_one_too_many ? NULL : find_waiting(u);
		if (pool != NULL) {
			hand_over(pool);
			return;
		}
		if (!atomic_compare_exchange_weak(&u->place_cnt, &cnt, cnt - 1))
			continue;
		if (find_waiting(u) == NULL || !take_place(u))
			return;
	}
}

/* ---- the line ---- */

static bool join_line(struct upstream *u, uint32_t max)
{
	uint32_t cnt = atomic_load(&u->waiting_cnt);
	while (cnt < max) {
		if (atomic_compare_exchange_weak(&u->waiting_cnt, &cnt, cnt + 1))
			return true;
	}
	return false;
}

static void leave_line(struct upstream_pool *pool, struct upstream_ticket *ticket)
{
	list_remove(&ticket->link);
	(void)__atomic_sub_fetch(&pool->waiting_cnt, 1, __ATOMIC_SEQ_CST);
	(void)atomic_fetch_sub(&pool->upstream->waiting_cnt, 1);
}

static enum step take_or_wait(struct upstream_pool *pool, struct upstream_ticket *ticket,
			      uint32_t place_max, uint32_t queue_max)
{
	struct upstream *u = pool->upstream;
	if (atomic_load_explicit(&u->place_max, memory_order_relaxed) != place_max)
		atomic_store_explicit(&u->place_max, place_max, memory_order_relaxed);
	if (atomic_load(&u->waiting_cnt) == 0 && take_place(u))
		return STEP_DONE;
	if (!join_line(u, queue_max))
		return STEP_FAIL;
	__atomic_store_n(&pool->wake_loop, ticket->worker->loop, __ATOMIC_RELAXED);
	list_append(&pool->waiting, &ticket->link);
	(void)__atomic_add_fetch(&pool->waiting_cnt, 1, __ATOMIC_SEQ_CST);
	if (!take_place(u))
		return STEP_READ;
	if (pool->waiting.next == &ticket->link) {
		leave_line(pool, ticket);
		return STEP_DONE;
	}
	hand_over(pool); /* others were first */
	return STEP_READ;
}

static void hold(struct upstream_pool *pool, struct upstream_ticket *ticket)
{
	ticket->is_held = true;
	pool_add(&pool->in_use, 1);
	pool_count(&pool->requests);
}

void ticket_wake(struct task *task)
{
	struct upstream_pool *pool = SP_CONTAINER_OF(task, struct upstream_pool, wake_task);
	struct upstream *u = pool->upstream;
	(void)__atomic_exchange_n(&pool->is_wake_posted, false, __ATOMIC_ACQ_REL);
	uint32_t left = __atomic_exchange_n(&pool->granted_cnt, 0, __ATOMIC_SEQ_CST);
	pool->conn_cnt++; /* it does not go while owners are called */
	for (;;) {
		bool is_empty = list_is_empty(&pool->waiting);
		if (left > 0)
			left--;
		else if (is_empty ||
			 !take_place(u)) /* there are more: max_connections was raised */
			break;
		if (is_empty) {
			release_place(u);
			continue;
		}
		struct upstream_ticket *ticket =
			SP_CONTAINER_OF(pool->waiting.next, struct upstream_ticket, link);
		leave_line(pool, ticket);
		hold(pool, ticket);
		ticket->on_turn(ticket);
	}
	pool->conn_cnt--;
	pool_settle(pool);
	registry_release(u);
}

/* ---- door ---- */

enum step upstream_enter(struct upstream_worker *w, const struct upstream_group *group,
			 const struct upstream_choice *choice, struct upstream_ticket *ticket)
{
	struct upstream *u = choice->upstream;
	struct upstream_pool *pool = &u->pools[w->ix];
	uint32_t max = group->targets[choice->target_ix].max_connections;
	SP_ASSERT(ticket->upstream == NULL && !pool->has_closed);
	list_init(&ticket->link);
	ticket->worker = w;
	ticket->is_held = false;
	ticket->is_counted = max > 0;
	enum step step = STEP_DONE;
	if (max > 0)
		step = take_or_wait(pool, ticket, max, group->config->queue);
	if (step == STEP_FAIL)
		return STEP_FAIL;
	ticket->upstream = u;
	pool_add_credit(pool, group->config);
	if (step == STEP_DONE)
		hold(pool, ticket);
	return step;
}

void upstream_leave(struct upstream_ticket *ticket)
{
	struct upstream *u = ticket->upstream;
	if (u == NULL)
		return;
	struct upstream_pool *pool = &u->pools[ticket->worker->ix];
	ticket->upstream = NULL;
	if (!ticket->is_held) {
		leave_line(pool, ticket);
	} else {
		ticket->is_held = false;
		pool_add(&pool->in_use, -1);
		if (ticket->is_counted)
			release_place(u);
	}
	pool_settle(pool);
}
