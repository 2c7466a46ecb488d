#pragma once
/* acme: the manager of certificates (RFC 8555, http-01). One object for the life of the process;
 * orders belong to it, not to a configuration.
 *
 * Threads: control thread only. It never blocks: HTTP by libcurl's multi interface on the control
 * loop, RSA keys by loop_offload. Lifetime: main makes it after the workers, stops it before them.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/challenge.h"
#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/listener.h"
#include "smartproxy/loop.h"
#include "smartproxy/tls.h"

/* What the manager needs of the control room. All are called on the control thread. */
struct acme_ops {
	void *arg;
	/* Puts the challenge route into the published generation or takes it out, and opens or
	 * releases its port. On return of ERR_OK every worker decides by it (grace period over).
	 * ERR_PORT_IN_USE etc.: *reterr says who holds the port; ERR_BUSY: an update is in hand,
	 * ask again. */
	enum err (*set_challenge_route)(void *arg, bool is_wanted, struct port_error *reterr);
};

/* One certificate that routes want. Identical wishes of several routes are one wish. */
struct acme_wish {
	const char *const *names; /* lower case, sorted, distinct */
	size_t name_cnt;
	enum tls_key_type key_type;
	struct tls_slot *slot; /* the manager takes a reference of its own */
};

struct acme;
/* Takes the lock on state_dir (ERR_LOCKED: *reterr_text names the other process), makes its
 * folders, reads accounts, certificates and the journal, and puts journalled challenge answers into
 * table, so that they are there before the first accept. The pointers stay the caller's and outlive
 * the manager. */
enum err acme_new(struct loop *loop, const struct config *config, struct challenge_table *table,
		  const struct acme_ops *ops, struct acme **ret_acme, struct text *reterr_text)
	SP_ON_CONTROL SP_MUST_USE;
/* The wishes of the generation that was just published. Certificates in the store are installed in
 * their slots before it returns (so: call it before the first accept as well); orders for wishes
 * that remain go on untouched, those no longer wanted are given up and their pending authorizations
 * deactivated. config carries email, directory and so on of the new configuration. */
void acme_set_wishes(struct acme *acme, const struct config *config, const struct acme_wish *wishes,
		     size_t wish_cnt) SP_ON_CONTROL;
/* Work begins (orders, renewals). Before it, nothing is sent. */
void acme_start(struct acme *acme) SP_ON_CONTROL;
/* No new step; answers go on until triggered authorizations settle or grace_ms pass, then they are
 * deactivated; journal kept; challenge route removed; then done is called, once. */
void acme_stop(struct acme *acme, int64_t grace_ms, void (*done)(void *arg), void *arg)
	SP_ON_CONTROL;
/* After the workers are joined (their notes of served answers refer to the manager), before loop_free. Orders under way
 * stay in the journal. */
void acme_free(struct acme *acme) SP_ON_CONTROL;
/* Forgets back-off and renews now; name NULL: all. ERR_NOENT: no such certificate. */
enum err acme_renew(struct acme *acme, const char *name) SP_ON_CONTROL SP_MUST_USE;

enum acme_route_state {
	ACME_ROUTE_ABSENT,
	ACME_ROUTE_WAITING_FOR_PORT,
	ACME_ROUTE_ACTIVE,
	ACME_ROUTE_DRAINING
};
const char *acme_route_state_name(enum acme_route_state state); /* "waiting-for-port" */

struct acme_stats {
	enum acme_route_state route_state;
	uint64_t route_activated_cnt, route_removed_cnt;
	struct port_error port_error; /* while waiting for the port; code ERR_OK: none */
	uint64_t orders_created_cnt, orders_ok_cnt, orders_failed_cnt;
	uint64_t requests_cnt, bad_nonce_cnt;
	unsigned orders_active, orders_waiting;
};
void acme_stats(const struct acme *acme, struct acme_stats *ret_stats) SP_ON_CONTROL;

struct acme_cert_status {
	const char *const *names;
	size_t name_cnt;
	const char *key_type;
	const char *state;  /* "valid", "pending", "ordering", "renewing", "waiting-for-port",
			       "failed", "not-saved" */
	const char *step;   /* the order's state ("AUTHORIZE"), "" when none is under way */
	const char *issuer; /* "" when there is no certificate */
	int64_t not_after_unix_s, renew_at_unix_s, retry_at_unix_s; /* 0: none */
	const char *last_error; /* the CA's own words, escaped; "" when none */
	uint32_t failure_cnt;
};
/* Pointers are valid during the call of each. */
void acme_each_cert(const struct acme *acme,
		    void (*each)(void *arg, const struct acme_cert_status *status), void *arg)
	SP_ON_CONTROL;
/* Names of all failpoints of the room (fault.h), in the order in which an order passes them. */
const char *const *acme_failpoints(size_t *ret_cnt);
