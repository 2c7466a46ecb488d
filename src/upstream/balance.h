#pragma once
/* upstream: one choice of a target, shared by the ways of balancing. Worker. */
#include "pool.h"

#define TARGET_NONE UINT16_MAX

/* What is chosen from in one round: those that are not backup, or the backups. */
struct group_pick {
	struct upstream_worker *w;
	const struct upstream_group *group;
	struct upstream_choice *choice;
	int64_t now_ms;
	const uint16_t *set, *order; /* indexes of targets; order: as often as they weigh */
	uint32_t set_cnt, order_len;
	bool is_backup, is_ejected_fine;
};

/* Usable and not tried before. */
bool pick_is_fit(const struct group_pick *p, uint16_t ix);
/* Percent of its weight that a target has while it starts slowly; else 100. */
unsigned pick_share(const struct group_pick *p, uint16_t ix);
/* Requests and tunnels at it, over all workers. */
uint64_t pick_load(const struct group_pick *p, uint16_t ix);
/* Bits of h spread over all of it. */
static inline uint64_t hash_mix(uint64_t h)
{
	h ^= h >> 31;
	h *= 0x9fb21c651e98df25ULL;
	h ^= h >> 29;
	h *= 0xd6e8feb86659fd93ULL;
	return h ^ h >> 32;
}
/* A target by the key's hash, from the Maglev table; TARGET_NONE: none is fit. */
uint16_t maglev_pick(const struct group_pick *p);
/* Largest number that divides all weights of those that are not backup. */
uint32_t group_weight_divisor(const struct upstream_group *group);
