/* Consistent hashing by a Maglev table (Eisenbud and others, NSDI 2016): every target claims entries in an
 * order of its own, in turns as often as it weighs. A target that cannot be used leaves the table as it is:
 * the keys of it go to the entries that follow, all others stay. Tables: control; use: worker. */
#include <stdlib.h>

#include "balance.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"

#define ENTRIES_PER_SHARE 500 /* the more, the fewer keys move when targets come and go */
#define LOAD_FRESH_CNT \
	64 /* targets whose loads are added up for each choice; of more once a turn */

static const uint32_t sizes[] = { 1021, 4093, 16381, 65537 }; /* primes */

static uint32_t choose_size(const struct upstream_group *group)
{
	uint64_t wanted =
		(uint64_t)ENTRIES_PER_SHARE * group->weight_sum / group_weight_divisor(group);
	size_t i = 0;
	while (i + 1 < SP_ARRAY_LEN(sizes) && sizes[i] < wanted)
		i++;
	return sizes[i];
}

struct claimant {
	uint32_t at, skip;
	uint32_t credit;
};

static void fill(struct upstream_group *group, struct claimant *claimants)
{
	uint32_t len = group->maglev_len, claimed_cnt = 0, weight_max = 0;
	for (uint32_t i = 0; i < group->active_cnt; i++) {
		const struct group_target *t = &group->targets[group->active[i]];
		claimants[i] = (struct claimant){
			.at = (uint32_t)(t->hash % len),
			.skip = (uint32_t)(hash_mix(t->hash ^ 0x5bd1e995c6a4a793ULL) % (len - 1)) +
				1,
		};
		weight_max = t->weight > weight_max ? t->weight : weight_max;
	}
	for (uint32_t i = 0; i < len; i++)
		group->maglev[i] = TARGET_NONE;
	for (uint32_t i = 0; claimed_cnt < len; i = i + 1 == group->active_cnt ? 0 : i + 1) {
		struct claimant *c = &claimants[i];
		c->credit += group->targets[group->active[i]].weight;
		if (c->credit < weight_max)
			continue;
		c->credit -= weight_max;
		while (group->maglev[c->at] != TARGET_NONE)
			c->at = (c->at + c->skip) % len;
		group->maglev[c->at] = group->active[i];
		claimed_cnt++;
	}
}

enum err maglev_compile(struct upstream_group *group)
{
	if (group->active_cnt < 2)
		return ERR_OK;
	struct claimant *claimants =
		fault_hits(FAULT_MALLOC) ? NULL : calloc(group->active_cnt, sizeof(*claimants));
	uint32_t len = choose_size(group);
	group->maglev = malloc(len * sizeof(*group->maglev));
	enum err e = claimants == NULL || group->maglev == NULL ? ERR_NOMEM : ERR_OK;
	if (e == ERR_OK) {
		group->maglev_len = len;
		fill(group, claimants);
	}
	free(claimants);
	return e;
}

/* ---- use ---- */

/* Load and weight of all that is usable. */
struct bound {
	uint64_t percent; /* 0: none */
	uint64_t load, weight;
};

static void add_up(const struct group_pick *p, struct bound *bound)
{
	for (uint32_t i = 0; i < p->set_cnt; i++) {
		const struct group_target *t = &p->group->targets[p->set[i]];
		if (!upstream_is_usable(t->upstream, p->now_ms, p->is_ejected_fine))
			continue;
		bound->load += pick_load(p, p->set[i]);
		bound->weight += t->weight;
	}
}

static struct bound find_bound(const struct group_pick *p)
{
	struct bound bound = { .percent = p->group->config->hash_bound_percent };
	struct group_cursor *cursor = &p->group->cursors[p->w->ix];
	if (bound.percent == 0)
		return bound;
	if (p->set_cnt > LOAD_FRESH_CNT && cursor->load_ms == p->now_ms) {
		bound.load = cursor->load;
		bound.weight = cursor->weight;
		return bound;
	}
	add_up(p, &bound);
	cursor->load = bound.load;
	cursor->weight = bound.weight;
	cursor->load_ms = p->now_ms;
	return bound;
}

/* One more would be more than percent of its share of them all. */
static bool is_above(const struct group_pick *p, const struct bound *bound, uint16_t ix)
{
	if (bound->percent == 0)
		return false;
	return pick_load(p, ix) * 100 * bound->weight >=
	       (bound->load + 1) * bound->percent * p->group->targets[ix].weight;
}

/* The same keys stay away from one that starts slowly until its share has grown to them. */
static bool is_held_back(const struct group_pick *p, uint16_t ix)
{
	unsigned share = pick_share(p, ix);
	return share < 100 && hash_mix(p->choice->key_hash + ix) % 100 >= share;
}

static uint16_t find_in_order(const struct group_pick *p)
{
	uint32_t at = (uint32_t)(hash_mix(p->choice->key_hash) % p->set_cnt);
	for (uint32_t i = 0; i < p->set_cnt; i++, at = at + 1 == p->set_cnt ? 0 : at + 1) {
		if (pick_is_fit(p, p->set[at]))
			return p->set[at];
	}
	return TARGET_NONE;
}

uint16_t maglev_pick(const struct group_pick *p)
{
	const struct upstream_group *group = p->group;
	if (p->is_backup)
		return find_in_order(p);
	struct bound bound = find_bound(p);
	uint32_t at = (uint32_t)(p->choice->key_hash % group->maglev_len);
	uint32_t left = 8 * group->active_cnt + 64;
	uint16_t first = TARGET_NONE, last = TARGET_NONE;
	if (left > group->maglev_len)
		left = group->maglev_len;
	for (; left > 0; left--, at = at + 1 == group->maglev_len ? 0 : at + 1) {
		uint16_t ix = group->maglev[at];
		if (ix == last || !pick_is_fit(p, ix))
			continue;
		last = ix;
		if (first == TARGET_NONE)
			first = ix;
		if (!is_held_back(p, ix) && !is_above(p, &bound, ix))
			return ix;
	}
	return first != TARGET_NONE ? first : find_in_order(p);
}
