#pragma once
/* upstream: groups of targets and the connections to them.
 *
 *   group     what a route forwards to, immutable, part of one generation: targets with weights, the way
 *             of balancing, its tables (schedule, Maglev)
 *   upstream  one target by identity (group name, host, port, TLS and PROXY settings): addresses, health,
 *             ejection, load, pools of connections. It outlives generations, so that an update of routes
 *             resets nothing of it.
 *   ticket    a place at a target for one request or tunnel, waited for when all are taken
 *   conn      one connection to a target (upstream_conn.h)
 *
 * Threads: groups, health checks and names on the control thread; choosing, tickets and connections on a
 * worker, with its own struct upstream_worker. What workers share of an upstream is read by them (state,
 * addresses: RCU) and written only when it changes; places are counted over all workers only for targets
 * with max_connections. Lifetime: an upstream is freed when no generation refers to it and every worker has
 * closed its connections and given back its tickets. Standards: RFC 9110, 9.2.2 (what may be retried). */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/list.h"
#include "smartproxy/loop.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"
#include "smartproxy/tls.h"
#include "smartproxy/upstream_conn.h"
#include "smartproxy/upstream_view.h"

#define UPSTREAM_ADDRS_MAX  16 /* of one name */
#define UPSTREAM_TRIES_MAX  8
#define UPSTREAM_COOKIE_LEN 16 /* of the value of a sticky cookie */

struct upstream;
struct upstream_group;
struct upstreams;
struct resolver;

/* ---- control thread ---- */

/* control_loop: health checks, and where an upstream is freed. resolver may be NULL: then only addresses
 * are targets (unit tests). */
enum err upstreams_new(unsigned worker_cnt, struct loop *control_loop, struct resolver *resolver,
		       struct upstreams **ret_upstreams) SP_MUST_USE;
/* Workers have ended. Before the resolver and the control loop are freed. */
void upstreams_free(struct upstreams *us) SP_ON_CONTROL;
/* The settings of dns (resolver, TTLs), for look-ups that begin later, and a new round: files of TLS towards
 * targets are read again by groups that are made from now on. Before the groups of a configuration are made;
 * once more with the configuration in force when an update was refused after it. ERR_NOMEM, or
 * resolver_configure's: the settings of before hold. */
enum err upstreams_configure(struct upstreams *us, const struct config *config)
	SP_ON_CONTROL SP_MUST_USE;
/* The workers' loops; NULL before they start and after they ended. */
void upstreams_set_loops(struct upstreams *us, struct loop *const *loops) SP_ON_CONTROL;

/* The group that config stands for, with TLS to its targets when tls is given. One object for equal
 * (config, tls) pointers' contents within one configuration, counted up; it keeps pointers into the
 * configuration. Looking up of names that are new begins here and is not waited for. Nothing changes yet for
 * upstreams that exist. ERR_CONFIG, ERR_TLS, ... with a sentence (a certificate file that cannot be read). */
enum err upstream_group_get(struct upstreams *us, const struct config_upstream *config,
			    const struct config_upstream_tls *tls,
			    struct upstream_group **ret_group, struct text *reterr)
	SP_ON_CONTROL SP_MUST_USE;
void upstream_group_put(struct upstreams *us, struct upstream_group *group) SP_ON_CONTROL;
/* Its generation is published: its check settings are those of its upstreams from now on, checks of new
 * ones begin. Idempotent. */
void upstream_group_apply(struct upstreams *us, struct upstream_group *group) SP_ON_CONTROL;
/* Waits until names that are being looked up for the first time are answered, at most time_ms. */
void upstreams_wait_names(struct upstreams *us, int64_t time_ms) SP_ON_CONTROL;

/* ---- any thread, for as long as a pin, a ticket or a connection holds it ---- */

/* "host:port" as configured; "host" with port "preserve". */
const char *upstream_name(const struct upstream *u);
/* "" or the group's name. */
const char *upstream_group_name(const struct upstream_group *group);
/* As config says; held by the group itself, since each request asks. */
enum config_balance upstream_group_balance(const struct upstream_group *group);
const struct config_upstream *upstream_group_config(const struct upstream_group *group);

/* ---- workers ---- */

/* What one choice depends on, and what it was. Zeroed by the owner before the first one; lives until the
 * request ends. */
struct upstream_choice {
	uint64_t key_hash;  /* CONFIG_BALANCE_HASH: upstream_hash of the key */
	const char *cookie; /* CONFIG_BALANCE_STICKY: its value as received; NULL: none */
	uint32_t cookie_len;
	uint16_t tried[UPSTREAM_TRIES_MAX]; /* what was chosen so far; upstream_choose adds to it */
	unsigned tried_cnt;
	/* result */
	struct upstream *upstream;
	uint16_t target_ix;
	/* Which of its addresses, modulo their number: each choice begins at the next one; a further one after a
	 * failure to connect. */
	unsigned addr_ix;
	bool wants_cookie; /* sticky: the answer is to set upstream_cookie */
};
uint64_t upstream_hash(const void *data, size_t len);
/* Takes a target: up, not ejected, with an address, not tried before; backups when no other is left; when
 * all that is not backup is ejected or down and there is no backup, one that is merely ejected rather than
 * none. ERR_NOENT: none is left. Cost: O(1), least-connections O(targets). */
enum err upstream_choose(struct upstream_worker *w, const struct upstream_group *group,
			 struct upstream_choice *choice) SP_MUST_USE;
/* Value of the sticky cookie that leads to the chosen target; dst holds UPSTREAM_COOKIE_LEN, no NUL. It
 * names the target by a keyed hash, the same in every process that has the same group. */
void upstream_cookie(const struct upstream_group *group, const struct upstream_choice *choice,
		     char *dst);
/* May this failed request be sent once more, to whatever target? Counts one retry against the budget of the
 * worker and target; false: spent, or choice->tried_cnt has reached retry.tries. */
bool upstream_may_retry(struct upstream_worker *w, const struct upstream_group *group,
			struct upstream_choice *choice);
/* What became of a request or tunnel at the chosen target: UPSTREAM_FAILURE_NONE is success. Counts, ejects.
 * why: for the admin view, may be NULL. Writes nothing shared while all goes well. */
void upstream_report(struct upstream_worker *w, const struct upstream_group *group,
		     const struct upstream_choice *choice, enum upstream_failure failure,
		     const char *why);

/* A place at a target. Zero-initialised; embedded in its owner. */
struct upstream_ticket {
	struct list link;          /* of those who wait */
	struct upstream *upstream; /* NULL: none is held or waited for */
	struct upstream_worker *worker;
	bool is_held;    /* false: waiting */
	bool is_counted; /* of a target with max_connections */
	void (*on_turn)(
		struct upstream_ticket *ticket); /* on the owner's worker, with the place held */
	void *owner;
};
/* STEP_DONE: held. STEP_READ: waits, on_turn comes (the owner keeps the deadline: group's queue_timeout_ms).
 * STEP_FAIL: the queue is full, or there is none. */
enum step upstream_enter(struct upstream_worker *w, const struct upstream_group *group,
			 const struct upstream_choice *choice, struct upstream_ticket *ticket);
/* Gives the place back, or leaves the queue. Harmless when neither. */
void upstream_leave(struct upstream_ticket *ticket);
