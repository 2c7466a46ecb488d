#pragma once
/* upstream: what is known of targets, for the admin API and the metrics. Threads: control thread. */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/addr.h"
#include "smartproxy/config.h"
#include "smartproxy/rcu.h"

struct upstreams;

/* Why a target failed last; names of the metrics and the admin API. */
#define UPSTREAM_FAILURES(X)                                                                \
	X(NONE, "none")                                                                     \
	X(REFUSED, "connect_refused") /* and every other error of connect */                \
	X(CONNECT_TIMEOUT, "connect_timeout")                                               \
	X(TLS, "tls")           /* handshake failed */                                      \
	X(VERIFY, "tls_verify") /* its certificate does not verify */                       \
	X(CLOSED, "closed")     /* before or within the answer */                           \
	X(RESPONSE_TIMEOUT, "response_timeout")                                             \
	X(BAD_RESPONSE, "bad_response") /* not HTTP */                                      \
	X(STATUS, "status")             /* 500, 502, 503, 504; checks: an unexpected one */ \
	X(UNRESOLVED, "unresolved")     /* its name has no address */
enum upstream_failure {
#define X(sym, name) UPSTREAM_FAILURE_##sym,
	UPSTREAM_FAILURES(X)
#undef X
		UPSTREAM_FAILURE_CNT,
};
const char *upstream_failure_name(enum upstream_failure failure);

enum upstream_state {
	UPSTREAM_UP,         /* checked and fine, or not checked */
	UPSTREAM_DOWN,       /* by health checks */
	UPSTREAM_EJECTED,    /* by failures of traffic, for a while */
	UPSTREAM_UNRESOLVED, /* its name has no address (yet) */
};
const char *upstream_state_name(enum upstream_state state);

/* One target as the admin API shows it; strings live for the call. */
struct upstream_view {
	const char *group; /* "": targets of routes */
	const char *name;  /* "host:port" */
	enum upstream_state state;
	bool is_tls, is_backup;
	unsigned weight, max_connections;
	uint64_t in_use, waiting, idle; /* over all workers */
	uint64_t requests, failures, retries, ejections;
	enum upstream_failure last_failure;
	int64_t last_failure_unix_s; /* 0: never */
	const char *last_failure_text;
	enum config_check_type check;
	int64_t last_check_unix_s; /* 0: never */
	unsigned addr_cnt;
	const struct addr *addrs;
	int64_t addrs_ttl_s; /* left; -1: an address, not a name */
};
void upstreams_each(struct upstreams *us,
		    void (*visit)(void *arg, const struct upstream_view *view), void *arg)
	SP_ON_CONTROL;
