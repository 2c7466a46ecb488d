#pragma once
/* generation: the one published root. Built from a configuration, swapped in by RCU, retired when
 * the last pin is gone.
 *
 * The root itself is small: what the routes compile to (struct routing) is shared by generations
 * that differ only in the challenge route, so that putting it in or taking it out is O(1) for any
 * number of routes. Threads: everything on the control thread, but current, pin and unpin
 * (workers). Lifetime: see generation_reap. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/limit.h"
#include "smartproxy/rcu.h"
#include "smartproxy/route.h"
#include "smartproxy/text.h"
#include "smartproxy/tls.h"
#include "smartproxy/upstream.h"

struct generation_pins; /* one count per worker, each on its own cache line */

struct generation {
	uint64_t number; /* 1, 2, ... */
	const struct config *config;
	const struct route_index *routes;
	bool has_challenge_route;
	uint16_t challenge_port;
	/* the control thread's own */
	struct routing *routing;
	struct generation_pins *pins;
	struct generation *next_retired;
	int64_t published_unix_s;
};

struct generations;
enum err generations_new(unsigned worker_cnt, struct upstreams *upstreams, struct tls_slots *slots,
			 struct limits *limits, struct generations **ret_generations) SP_MUST_USE;
/* After the workers have been joined: publishes NULL, frees all. */
void generations_free(struct generations *gs) SP_ON_CONTROL SP_NO_RCU;

/* Compiles routes, makes groups of targets (names that are new begin to be looked up), reads certificate files; takes a reference of config. Nothing
 * of it is visible before generation_publish. ERR_CONFIG, ERR_NOMEM, ... with a sentence in
 * *reterr. */
enum err generation_build(struct generations *gs, struct config *config, bool has_challenge_route,
			  struct generation **ret_generation, struct text *reterr)
	SP_ON_CONTROL SP_MUST_USE;
/* The same routes as the published one, with or without the challenge route. O(1). */
enum err generation_fork(struct generations *gs, bool has_challenge_route,
			 struct generation **ret_generation) SP_ON_CONTROL SP_MUST_USE;
/* Instead of publishing. NULL is allowed. */
void generation_discard(struct generations *gs, struct generation *generation) SP_ON_CONTROL;
/* Publish and wait: swap, then one grace period. When it returns, no worker can still decide by the
 * old one. */
void generation_publish(struct generations *gs, struct generation *generation)
	SP_ON_CONTROL SP_NO_RCU;
/* Frees retired generations that no worker pins any more. Returns how many wait still. */
size_t generation_reap(struct generations *gs) SP_ON_CONTROL;
/* Control thread's view of the published one, NULL before the first. */
const struct generation *generation_latest(const struct generations *gs) SP_ON_CONTROL;

/* ---- workers ---- */
const struct generation *generation_current(void) SP_RCU_READER;
/* The number of the published one, without a read section, on any thread. It may be a moment late, but not once
 * generation_publish has returned. 0: none was published yet. */
uint64_t generation_current_number(void);
/* Keeps the generation until generation_unpin: a plain count of this worker's own. */
void generation_pin(const struct generation *generation, unsigned worker_ix) SP_RCU_READER;
void generation_unpin(const struct generation *generation, unsigned worker_ix);
