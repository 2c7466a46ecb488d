#pragma once
/* control: one change of what is published, all or nothing: generation, listeners, wishes of
 * certificates.
 *
 * Threads: control thread. Lifetime: a transaction lives on its caller's stack. */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/generation.h"
#include "smartproxy/listener.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"
#include "state.h"

struct transaction {
	struct control *control;
	struct config *config; /* to be in force; the caller's reference */
	bool has_challenge_route;
	int64_t deadline_ms; /* clock_now_ms; past it nothing is published; 0: none */
	/* outcome */
	struct port_error port;
	struct text message; /* a sentence on failure; owner frees with text_fini */
	bool was_rolled_back;
};

/* Routes, certificates and ports of transaction->config. On any failure the published state is the
 * one of before (or the message says what is left). */
enum err transaction_apply_config(struct transaction *transaction)
	SP_ON_CONTROL SP_NO_RCU SP_MUST_USE;
/* The published routes with or without the challenge route. O(1). */
enum err transaction_apply_challenge(struct transaction *transaction)
	SP_ON_CONTROL SP_NO_RCU SP_MUST_USE;
/* Hands every set that is open but in nobody's hands to the workers (start). */
enum err transaction_adopt_all(struct control *control) SP_ON_CONTROL SP_MUST_USE;

/* No new connections on these sets, what waits is accepted, and no worker holds them any more. They
 * are still open. ERR_TIMEOUT, ERR_NOMEM: some worker may hold some of them. */
enum err transaction_leave(struct control *control, struct listener_set *const *sets, size_t cnt)
	SP_ON_CONTROL SP_MUST_USE;
/* What a transaction had to leave behind, because workers did not take or leave a socket: tried
 * again. Does nothing otherwise. */
void transaction_mend(struct control *control) SP_ON_CONTROL;

/* plan.c: the addresses to listen on. *ret_addrs is malloc'ed. ERR_NOMEM. */
enum err plan_listeners(const struct control *control, const struct route_index *routes,
			const struct config *config, bool has_challenge_route,
			struct addr **ret_addrs, size_t *ret_cnt) SP_ON_CONTROL SP_MUST_USE;
/* plan.c: what the acme manager has to have for these routes. Freed with wishes_fini. */
struct wishes {
	struct acme_wish *items;
	size_t cnt;
	const char **names; /* of all items */
};
enum err plan_wishes(const struct route_index *routes, struct wishes *ret_wishes) SP_MUST_USE;
void wishes_fini(struct wishes *wishes);
