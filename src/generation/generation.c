#include "smartproxy/generation.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "routing.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"

/* One worker's pins on one generation. Only that worker writes; control reads after a grace period,
 * when the count can but fall. */
struct generation_pins {
	_Alignas(64) uint32_t cnt;
};

static struct generation *root SP_RCU_PTR;
static _Atomic uint64_t root_number; /* written after root */

enum err generations_new(unsigned worker_cnt, struct upstreams *upstreams, struct tls_slots *slots,
			 struct limits *limits, struct generations **ret_generations)
{
	struct generations *gs = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*gs));
	if (gs == NULL)
		return ERR_NOMEM;
	gs->worker_cnt = worker_cnt;
	gs->upstreams = upstreams;
	gs->slots = slots;
	gs->limits = limits;
	*ret_generations = gs;
	return ERR_OK;
}

static void free_generation(struct generations *gs, struct generation *g) SP_ON_CONTROL;
static void free_generation(struct generations *gs, struct generation *g)
{
	if (g == NULL)
		return;
	routing_put(gs, g->routing);
	free(g->pins);
	free(g);
}

void generations_free(struct generations *gs)
{
	if (gs == NULL)
		return;
	(void)sp_rcu_swap(&root, NULL);
	sp_rcu_wait();
	free_generation(gs, gs->latest);
	while (gs->retired != NULL) {
		struct generation *g = gs->retired;
		gs->retired = g->next_retired;
		free_generation(gs, g);
	}
	free(gs);
}

/* Takes over the caller's reference of routing, also when it fails. */
static enum err make(struct generations *gs, struct routing *routing, bool has_challenge_route,
		     struct generation **ret_generation) SP_ON_CONTROL;
static enum err make(struct generations *gs, struct routing *routing, bool has_challenge_route,
		     struct generation **ret_generation)
{
	size_t pins_bytes = gs->worker_cnt * sizeof(struct generation_pins);
	struct generation *g = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*g));
	if (g != NULL) {
		g->pins = aligned_alloc(64, pins_bytes);
		g->routing = routing;
	}
	if (g == NULL || g->pins == NULL) {
		routing_put(gs, routing);
		free(g);
		return ERR_NOMEM;
	}
	memset(g->pins, 0, pins_bytes);
	g->config = routing->config;
	g->routes = routing->index;
	g->has_challenge_route = has_challenge_route;
	g->challenge_port = routing->config->acme.port;
	*ret_generation = g;
	return ERR_OK;
}

enum err generation_build(struct generations *gs, struct config *config, bool has_challenge_route,
			  struct generation **ret_generation, struct text *reterr)
{
	struct routing *routing = NULL;
	enum err e = routing_build(gs, config, &routing, reterr);
	if (e == ERR_OK)
		e = make(gs, routing, has_challenge_route, ret_generation);
	if (e != ERR_OK && reterr->data == NULL)
		text_printf(reterr, "the routes cannot be compiled: %s", err_text(e));
	return e;
}

enum err generation_fork(struct generations *gs, bool has_challenge_route,
			 struct generation **ret_generation)
{
	SP_ASSERT(gs->latest != NULL);
	struct routing *routing = gs->latest->routing;
	routing->ref_cnt++;
	return make(gs, routing, has_challenge_route, ret_generation);
}

void generation_discard(struct generations *gs, struct generation *generation)
{
	free_generation(gs, generation);
}

void generation_publish(struct generations *gs, struct generation *generation)
{
	generation->number = ++gs->last_number;
	generation->published_unix_s = clock_unix_s();
	routing_install_certificates(generation->routing);
	struct generation *old = sp_rcu_swap(&root, generation);
	atomic_store_explicit(&root_number, generation->number, memory_order_release);
	gs->latest = generation;
	routing_apply_groups(gs, generation->routing);
	sp_rcu_wait();
	if (old == NULL)
		return;
	old->next_retired = gs->retired;
	gs->retired = old;
	(void)generation_reap(gs);
}

static bool is_pinned(const struct generations *gs, const struct generation *g)
{
	for (unsigned i = 0; i < gs->worker_cnt; i++) {
		if (__atomic_load_n(&g->pins[i].cnt, __ATOMIC_ACQUIRE) != 0)
			return true;
	}
	return false;
}

size_t generation_reap(struct generations *gs)
{
	size_t left = 0;
	struct generation **link = &gs->retired;
	while (*link != NULL) {
		struct generation *g = *link;
		if (is_pinned(gs, g)) {
			left++;
			link = &g->next_retired;
			continue;
		}
		*link = g->next_retired;
		free_generation(gs, g);
	}
	return left;
}

const struct generation *generation_latest(const struct generations *gs)
{
	return gs->latest;
}

const struct generation *generation_current(void)
{
	return sp_rcu_load(&root);
}

uint64_t generation_current_number(void)
{
	return atomic_load_explicit(&root_number, memory_order_acquire);
}

void generation_pin(const struct generation *generation, unsigned worker_ix)
{
	uint32_t *cnt = &generation->pins[worker_ix].cnt;
	__atomic_store_n(cnt, *cnt + 1, __ATOMIC_RELAXED);
}

void generation_unpin(const struct generation *generation, unsigned worker_ix)
{
	uint32_t *cnt = &generation->pins[worker_ix].cnt;
	SP_ASSERT(*cnt > 0);
	__atomic_store_n(cnt, *cnt - 1, __ATOMIC_RELEASE);
}
