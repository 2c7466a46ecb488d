/* Which target takes a request. Worker.
 *
 *   way                what decides                                        cost
 *   p2c                two at random by weight; the less loaded one        2 targets
 *   round-robin        the schedule, from this worker's own place on       1
 *   least-connections  load by weight over all; ties in turn by weight     all targets
 *   hash               maglev.c                                            1; with a bound the loads of all
 *   sticky             the cookie's target; else p2c                       1
 *
 * Rounds: those that are not backup, the backups, and both once more with targets that are merely ejected. */
#include "balance.h"

#include <string.h>

#include "smartproxy/assert.h"
#include "smartproxy/rand.h"

#define RANDOM_TRIES 4  /* before a search in order */
#define SECOND_STEPS 32 /* of that search for the second one of two */
#define SHARE_FIRST  10 /* percent of its weight that a target begins with */

/* splitmix64 */
static uint64_t next_rand(struct upstream_worker *w)
{
	while (w->rand_state == 0)
		rand_bytes(&w->rand_state, sizeof(w->rand_state));
	w->rand_state += 0x9e3779b97f4a7c15ULL;
	return hash_mix(w->rand_state);
}

static uint32_t rand_under(struct upstream_worker *w, uint32_t bound)
{
	return (uint32_t)(((next_rand(w) >> 32) * bound) >> 32);
}

bool pick_is_fit(const struct group_pick *p, uint16_t ix)
{
	for (unsigned i = 0; i < p->choice->tried_cnt; i++) {
		if (p->choice->tried[i] == ix)
			return false;
	}
	return upstream_is_usable(p->group->targets[ix].upstream, p->now_ms, p->is_ejected_fine);
}

unsigned pick_share(const struct group_pick *p, uint16_t ix)
{
	int64_t slow_ms = p->group->config->slow_start_ms;
	if (slow_ms <= 0)
		return 100;
	const struct upstream *u = p->group->targets[ix].upstream;
	int64_t since_ms = atomic_load_explicit(&u->up_since_ms, memory_order_relaxed);
	int64_t ejected_ms = atomic_load_explicit(&u->ejected_until_ms, memory_order_relaxed);
	if (ejected_ms > since_ms && ejected_ms <= p->now_ms)
		since_ms = ejected_ms;
	if (since_ms == 0 || p->now_ms - since_ms >= slow_ms)
		return 100;
	int64_t age_ms = p->now_ms > since_ms ? p->now_ms - since_ms : 0;
	return SHARE_FIRST + (unsigned)((100 - SHARE_FIRST) * age_ms / slow_ms);
}

uint64_t pick_load(const struct group_pick *p, uint16_t ix)
{
	const struct upstream *u = p->group->targets[ix].upstream;
	uint64_t sum = 0;
	for (unsigned i = 0; i < u->worker_cnt; i++)
		sum += __atomic_load_n(&u->pools[i].in_use, __ATOMIC_RELAXED);
	return sum;
}

static uint64_t weight_of(const struct group_pick *p, uint16_t ix)
{
	return (uint64_t)p->group->targets[ix].weight * pick_share(p, ix);
}

/* Whether one that starts slowly is to be passed over this time. */
static bool is_held_back(const struct group_pick *p, uint16_t ix)
{
	unsigned share = pick_share(p, ix);
	return share < 100 && rand_under(p->w, 100) >= share;
}

/* ---- p2c ---- */

static uint16_t find_random(const struct group_pick *p, uint16_t other)
{
	for (int i = 0; i < RANDOM_TRIES; i++) {
		uint16_t ix = p->order[rand_under(p->w, p->order_len)];
		if (ix != other && pick_is_fit(p, ix))
			return ix;
	}
	uint32_t at = rand_under(p->w, p->order_len), left = p->order_len;
	if (other != TARGET_NONE && left > SECOND_STEPS)
		left = SECOND_STEPS;
	for (; left > 0; left--, at++) {
		uint16_t ix = p->order[at % p->order_len];
		if (ix != other && pick_is_fit(p, ix))
			return ix;
	}
	return TARGET_NONE;
}

/* Two idle ones would always leave the lighter one out: there the first draw, which is by weight, decides. */
static uint16_t pick_p2c(const struct group_pick *p)
{
	uint16_t a = find_random(p, TARGET_NONE);
	uint16_t b = a == TARGET_NONE ? TARGET_NONE : find_random(p, a);
	if (b == TARGET_NONE)
		return a;
	if (is_held_back(p, a)) {
		uint16_t swap = a;
		a = b;
		b = swap;
	}
	uint64_t load_a = pick_load(p, a), load_b = pick_load(p, b);
	if (load_a == 0 && load_b == 0)
		return a;
	return (load_b + 1) * weight_of(p, a) < (load_a + 1) * weight_of(p, b) ? b : a;
}

/* ---- the others ---- */

static uint16_t pick_in_turn(const struct group_pick *p)
{
	struct group_cursor *cursor = &p->group->cursors[p->w->ix];
	uint32_t at = cursor->at % p->order_len;
	uint16_t held_back = TARGET_NONE;
	for (uint32_t i = 0; i < p->order_len; i++) {
		uint16_t ix = p->order[at];
		at = at + 1 == p->order_len ? 0 : at + 1;
		if (!pick_is_fit(p, ix))
			continue;
		if (is_held_back(p, ix)) {
			if (held_back == TARGET_NONE)
				held_back = ix;
			continue;
		}
		cursor->at = at;
		return ix;
	}
	return held_back;
}

static bool is_less(uint64_t load_a, uint64_t weight_a, uint64_t load_b, uint64_t weight_b)
{
	return load_a * weight_b < load_b * weight_a;
}

static uint16_t pick_least(const struct group_pick *p)
{
	uint16_t best = TARGET_NONE;
	uint64_t least = 0, weight = 1;
	for (uint32_t i = 0; i < p->set_cnt; i++) {
		uint16_t ix = p->set[i];
		if (!pick_is_fit(p, ix))
			continue;
		uint64_t load = pick_load(p, ix), its_weight = weight_of(p, ix);
		if (best != TARGET_NONE && !is_less(load, its_weight, least, weight))
			continue;
		best = ix;
		least = load;
		weight = its_weight;
	}
	if (best == TARGET_NONE)
		return TARGET_NONE;
	/* Whose turn it is of those that have no more than the best one. */
	struct group_cursor *cursor = &p->group->cursors[p->w->ix];
	uint32_t at = cursor->at % p->order_len;
	for (uint32_t i = 0; i < p->order_len; i++) {
		uint16_t ix = p->order[at];
		at = at + 1 == p->order_len ? 0 : at + 1;
		if (ix != best && (!pick_is_fit(p, ix) ||
				   is_less(least, weight, pick_load(p, ix), weight_of(p, ix))))
			continue;
		cursor->at = at;
		return ix;
	}
	return best;
}

static bool parse_cookie(const char *cookie, uint32_t len, uint64_t *ret_hash)
{
	if (cookie == NULL || len != UPSTREAM_COOKIE_LEN)
		return false;
	uint64_t hash = 0;
	for (uint32_t i = 0; i < len; i++) {
		char c = cookie[i];
		if (c >= '0' && c <= '9')
			hash = hash << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			hash = hash << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	*ret_hash = hash;
	return true;
}

static uint16_t pick_by_cookie(const struct group_pick *p)
{
	const struct upstream_group *group = p->group;
	uint64_t hash;
	if (!parse_cookie(p->choice->cookie, p->choice->cookie_len, &hash))
		return TARGET_NONE;
	for (uint32_t at = (uint32_t)hash;; at++) {
		uint16_t ix = group->sticky[at & group->sticky_mask];
		if (ix == TARGET_NONE)
			return TARGET_NONE;
		const struct group_target *t = &group->targets[ix];
		if (t->hash == hash)
			return t->is_backup == p->is_backup && pick_is_fit(p, ix) ? ix
										  : TARGET_NONE;
	}
}

static uint16_t pick(struct group_pick *p)
{
	enum config_balance balance = p->group->balance;
	p->choice->wants_cookie = false;
	if (balance == CONFIG_BALANCE_STICKY) {
		uint16_t ix = pick_by_cookie(p);
		if (ix != TARGET_NONE)
			return ix;
		p->choice->wants_cookie = true;
	}
	if (p->set_cnt == 1)
		return pick_is_fit(p, p->set[0]) ? p->set[0] : TARGET_NONE;
	switch (balance) {
	case CONFIG_BALANCE_ROUND_ROBIN:
		return pick_in_turn(p);
	case CONFIG_BALANCE_LEAST_CONNECTIONS:
		return pick_least(p);
	case CONFIG_BALANCE_HASH:
		return maglev_pick(p);
	case CONFIG_BALANCE_P2C:
	case CONFIG_BALANCE_STICKY:
		break;
	}
	return pick_p2c(p);
}

static uint16_t pick_round(struct group_pick *p, bool is_backup, bool is_ejected_fine)
{
	const struct upstream_group *group = p->group;
	p->is_backup = is_backup;
	p->is_ejected_fine = is_ejected_fine;
	p->set = is_backup ? group->backup : group->active;
	p->set_cnt = is_backup ? group->backup_cnt : group->active_cnt;
	p->order = is_backup ? group->backup : group->schedule;
	p->order_len = is_backup ? group->backup_cnt : group->schedule_len;
	return p->set_cnt == 0 ? TARGET_NONE : pick(p);
}

enum err upstream_choose(struct upstream_worker *w, const struct upstream_group *group,
			 struct upstream_choice *choice)
{
	if (choice->tried_cnt >= UPSTREAM_TRIES_MAX)
		return ERR_NOENT;
	struct group_pick p = {
		.w = w, .group = group, .choice = choice, .now_ms = loop_now_ms(w->loop)
	};
	uint16_t ix = pick_round(&p, false, false);
	if (SP_LIKELY(ix != TARGET_NONE))
		goto found;
	for (unsigned round = 1; round < 4 && ix == TARGET_NONE; round++)
		ix = pick_round(&p, (round & 1) != 0, (round & 2) != 0);
	if (ix == TARGET_NONE)
		return ERR_NOENT;
found:
	choice->tried[choice->tried_cnt++] = ix;
	choice->target_ix = ix;
	choice->upstream = group->targets[ix].upstream;
	choice->addr_ix = choice->upstream->pools[w->ix].addr_at++;
	return ERR_OK;
}

void upstream_cookie(const struct upstream_group *group, const struct upstream_choice *choice,
		     char *dst)
{
	static const char digits[] = "0123456789abcdef";
	uint64_t hash = group->targets[choice->target_ix].hash;
	for (int i = UPSTREAM_COOKIE_LEN - 1; i >= 0; i--, hash >>= 4)
		dst[i] = digits[hash & 15];
}
