#pragma once
/* net: host names to addresses, by c-ares on the control loop: never blocks, follows TTLs' facts.
 *
 * Threads: control thread only. Lifetime: until resolver_free, which ends what is under way with
 * ERR_CLOSED. IPv6 and IPv4, /etc/hosts first and resolv.conf's search domains, as the system's own
 * resolver; in the order of RFC 6724. Limits: 16 addresses an answer, 16 servers. Security: answers
 * come from the network; c-ares checks id, question and form. */
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/addr.h"
#include "smartproxy/err.h"
#include "smartproxy/loop.h"
#include "smartproxy/rcu.h"

struct resolver;

struct resolver_settings {
	const char *const *servers; /* "address" or "address:port"; none: /etc/resolv.conf */
	size_t server_cnt;
	int64_t timeout_ms;      /* of the first of three tries; each next one has twice as long */
	const char *resolv_conf; /* NULL: /etc/resolv.conf */
};
enum err resolver_new(struct loop *loop, struct resolver **ret_resolver) SP_MUST_USE;
void resolver_free(struct resolver *r) SP_ON_CONTROL;
/* In force for queries that start later; the same settings again change nothing. The strings are
 * copied. resolv.conf (search domains; servers, if none are given) is read again once it has changed.
 * ERR_INVALID: a server that is no address; ERR_LIMIT: too many; ERR_NOMEM, ERR_SYSTEM. What was in
 * force stays then. */
enum err resolver_configure(struct resolver *r, const struct resolver_settings *settings)
	SP_ON_CONTROL SP_MUST_USE;

/* addrs have port 0 and live for the call; ttl_s is the smallest of all, aliases' too, 0 from
 * /etc/hosts. error: ERR_OK, ERR_NOENT (the name has no address: an authoritative no), ERR_TIMEOUT,
 * ERR_NETWORK, ERR_NOMEM, ERR_CLOSED; why: a clause, static. */
struct resolver_answer {
	enum err error;
	const char *why;
	const struct addr *addrs;
	size_t addr_cnt;
	uint32_t ttl_s;
};
struct resolver_query { /* the owner's, zero-initialised; alive until on_done or resolver_cancel */
	void (*on_done)(struct resolver_query *query, const struct resolver_answer *answer);
	void *state; /* the resolver's */
};
/* on_done may come before this returns (an address, /etc/hosts). It may start, cancel and configure,
 * but not wait or free. */
void resolver_start(struct resolver *r, const char *host, struct resolver_query *query)
	SP_ON_CONTROL;
/* on_done does not come any more. Harmless on a query that is not under way. */
void resolver_cancel(struct resolver *r, struct resolver_query *query) SP_ON_CONTROL;
/* Handles what is under way without the loop, until nothing is or time_ms have passed; on_done calls
 * come from here. For a start or an update, which do not run the loop. */
void resolver_wait(struct resolver *r, int64_t time_ms) SP_ON_CONTROL;
