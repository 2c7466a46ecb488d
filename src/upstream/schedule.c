/* Tables of a group that ways of balancing look into, made once. Control thread. */
#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "balance.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"

#define SCHEDULE_MAX 4096 /* turns, roughly; heavier schedules are rounded */
#define SMOOTH_MAX   2048 /* targets; of more, turns go by rounds */

uint64_t upstream_hash(const void *data, size_t len)
{
	const char *at = data;
	uint64_t h = 0x243f6a8885a308d3ULL ^ len, word;
	for (; len >= 8; len -= 8, at += 8) {
		memcpy(&word, at, 8);
		h = (h ^ le64toh(word)) * 0x9e3779b97f4a7c15ULL;
		h ^= h >> 32;
	}
	word = 0;
	memcpy(&word, at, len);
	return hash_mix((h ^ le64toh(word)) * 0x9e3779b97f4a7c15ULL);
}

/* Smooth weighted round robin, played through once: each target comes as often as it weighs, as evenly as
 * can be. */
static enum err play_smooth(const struct upstream_group *group, const uint32_t *weights)
{
	int64_t *credit = calloc(group->active_cnt, sizeof(*credit));
	if (credit == NULL)
		return ERR_NOMEM;
	for (uint32_t step = 0; step < group->schedule_len; step++) {
		uint32_t best = 0;
		for (uint32_t i = 0; i < group->active_cnt; i++) {
			credit[i] += weights[i];
			if (credit[i] > credit[best])
				best = i;
		}
		credit[best] -= group->schedule_len;
		group->schedule[step] = group->active[best];
	}
	free(credit);
	return ERR_OK;
}

static void play_rounds(const struct upstream_group *group, const uint32_t *weights)
{
	uint32_t at = 0;
	for (uint32_t round = 0; at < group->schedule_len; round++) {
		for (uint32_t i = 0; i < group->active_cnt; i++) {
			if (weights[i] > round)
				group->schedule[at++] = group->active[i];
		}
	}
}

uint32_t group_weight_divisor(const struct upstream_group *group)
{
	uint32_t divisor = 0;
	for (uint32_t i = 0; i < group->active_cnt; i++) {
		uint32_t a = group->targets[group->active[i]].weight, b = divisor;
		while (b != 0) {
			uint32_t rest = a % b;
			a = b;
			b = rest;
		}
		divisor = a;
	}
	return divisor > 0 ? divisor : 1;
}

/* Weights by their common divisor, and smaller when they make too long a schedule. */
static uint32_t scale_weights(const struct upstream_group *group, uint32_t *weights)
{
	uint32_t divisor = group_weight_divisor(group), sum = 0;
	while (divisor < 256 && group->weight_sum / divisor > SCHEDULE_MAX &&
	       group->weight_sum / divisor > 2 * group->active_cnt)
		divisor *= 2;
	for (uint32_t i = 0; i < group->active_cnt; i++) {
		uint32_t weight = group->targets[group->active[i]].weight;
		weights[i] = (weight + divisor / 2) / divisor;
		if (weights[i] == 0)
			weights[i] = 1;
		sum += weights[i];
	}
	return sum;
}

static enum err compile_schedule(struct upstream_group *group)
{
	bool is_even = true;
	for (uint32_t i = 0; i < group->active_cnt; i++)
		is_even &= group->targets[group->active[i]].weight ==
			   group->targets[group->active[0]].weight;
	group->schedule = group->active;
	group->schedule_len = group->active_cnt;
	if (is_even)
		return ERR_OK;
	uint32_t *weights = calloc(group->active_cnt, sizeof(*weights));
	if (weights == NULL)
		return ERR_NOMEM;
	enum err e = ERR_OK;
	uint32_t len = scale_weights(group, weights);
	uint16_t *schedule = fault_hits(FAULT_MALLOC) ? NULL : calloc(len, sizeof(*schedule));
	if (schedule == NULL) {
		e = ERR_NOMEM;
		goto out;
	}
	group->schedule = schedule;
	group->schedule_len = len;
	if (group->active_cnt <= SMOOTH_MAX)
		e = play_smooth(group, weights);
	else
		play_rounds(group, weights);
out:
	free(weights);
	return e;
}

static enum err compile_sticky(struct upstream_group *group)
{
	uint32_t size = 4;
	while (size < 2 * group->target_cnt)
		size *= 2;
	group->sticky = malloc(size * sizeof(*group->sticky));
	if (group->sticky == NULL)
		return ERR_NOMEM;
	memset(group->sticky, 0xff, size * sizeof(*group->sticky));
	group->sticky_mask = size - 1;
	for (uint32_t i = 0; i < group->target_cnt; i++) {
		uint32_t at = (uint32_t)group->targets[i].hash;
		while (group->sticky[at & group->sticky_mask] != TARGET_NONE)
			at++;
		group->sticky[at & group->sticky_mask] = (uint16_t)i;
	}
	return ERR_OK;
}

/* Workers begin at different places, so that they do not all go to the first target first. */
static enum err make_cursors(struct upstream_group *group, unsigned worker_cnt)
{
	size_t bytes = worker_cnt * sizeof(*group->cursors);
	group->cursors = bytes == 0 ? NULL : aligned_alloc(64, bytes);
	if (group->cursors == NULL)
		return ERR_NOMEM;
	memset(group->cursors, 0, bytes);
	for (unsigned i = 0; i < worker_cnt; i++)
		group->cursors[i].at = (uint32_t)((uint64_t)group->schedule_len * i / worker_cnt);
	return ERR_OK;
}

enum err balance_compile(struct upstream_group *group, unsigned worker_cnt)
{
	enum config_balance balance = group->config->balance;
	enum err e = group->active_cnt == 0 ? ERR_OK : compile_schedule(group);
	if (e == ERR_OK && balance == CONFIG_BALANCE_HASH)
		e = maglev_compile(group);
	if (e == ERR_OK && balance == CONFIG_BALANCE_STICKY)
		return compile_sticky(group);
	if (e == ERR_OK && balance != CONFIG_BALANCE_P2C && group->target_cnt > 1)
		e = make_cursors(group, worker_cnt);
	return e;
}

void balance_free(struct upstream_group *group)
{
	if (group->schedule != group->active)
		free(group->schedule);
	free(group->maglev);
	free(group->sticky);
	free(group->cursors);
}
