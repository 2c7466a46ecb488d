#pragma once
/* proxy: the data plane's worker threads. Each runs one loop on its own listener sockets and shares
 * nothing that it writes on the hot path.
 *
 * Threads: all of this on the control thread. Lifetime: from workers_start to workers_stop. */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/addr.h"
#include "smartproxy/challenge.h"
#include "smartproxy/err.h"
#include "smartproxy/limit.h"
#include "smartproxy/listener.h"
#include "smartproxy/loop.h"
#include "smartproxy/rcu.h"
#include "smartproxy/tls.h"
#include "smartproxy/upstream.h"

struct workers;
struct workers_options {
	unsigned worker_cnt;
	struct challenge_table *challenges;
	struct upstreams *upstreams;
	struct limits *limits;
	struct tls_settings tls;
	bool wants_pinning; /* one CPU each when there are as many CPUs as workers */
};

enum err workers_start(const struct workers_options *options, struct workers **ret_workers)
	SP_ON_CONTROL SP_NO_RCU SP_MUST_USE;
/* Each worker takes its socket of the set; on return all do. ERR_TIMEOUT: a worker did not answer
 * in time_ms. */
enum err workers_adopt(struct workers *ws, struct listener_set *set, int64_t time_ms)
	SP_ON_CONTROL SP_MUST_USE;
/* Each worker accepts and serves what its queues hold, then lets the sockets go; on return nobody
 * touches the fds. New connections are kept off first (listeners_hush), so none is lost. Blocks
 * control for 10 ms and three turns of the workers. */
enum err workers_release(struct workers *ws, struct listener_set *const *sets, size_t cnt,
			 int64_t time_ms) SP_ON_CONTROL SP_MUST_USE;
/* Shutdown: idle client connections are closed, every answer from now on says Connection: close. */
void workers_drain(struct workers *ws) SP_ON_CONTROL;
/* Client connections open on all workers. */
uint64_t workers_connection_cnt(const struct workers *ws) SP_ON_CONTROL;
/* Closes what is left, ends and joins the threads, frees. The access records of what is cut go to
 * the fd of the last workers_drain_access. */
void workers_stop(struct workers *ws) SP_ON_CONTROL SP_NO_RCU;
/* Writes the workers' log lines; called by control every 50 ms or so. Returns lines dropped. */
uint64_t workers_drain_logs(struct workers *ws) SP_ON_CONTROL;
/* Writes the workers' access records to fd (< 0: throws them away). Returns records dropped because
 * a ring was full. */
uint64_t workers_drain_access(struct workers *ws, int fd) SP_ON_CONTROL;
/* The worker that has not turned its loop for longest although events wait for it: its index and
 * the milliseconds. */
int64_t workers_stall_ms(struct workers *ws, unsigned *ret_ix) SP_ON_CONTROL;

/* Why an exchange ended; the closed list of the access log and the metrics. */
#define EXCHANGE_ENDS(X)                                                                      \
	X(DONE, "done")                         /* answered in full */                        \
	X(LOCAL, "local")                       /* redirect, respond, block, challenge */     \
	X(NO_ROUTE, "no_route")                 /* 404 */                                     \
	X(MISDIRECTED, "misdirected")           /* 421 */                                     \
	X(BAD_REQUEST, "bad_request")           /* refused by the parser */                   \
	X(TOO_LARGE, "too_large")               /* 413, 414, 431 */                           \
	X(HEADER_TIMEOUT, "header_timeout")     /* 408 */                                     \
	X(CLIENT_GONE, "client_gone")           /* closed or reset before the end */          \
	X(CLIENT_IDLE, "client_idle")           /* stalled in a body */                       \
	X(CONNECT_FAILED, "connect_failed")     /* 502 */                                     \
	X(CONNECT_TIMEOUT, "connect_timeout")   /* 504 */                                     \
	X(UPSTREAM_BAD, "upstream_bad")         /* 502: not HTTP, or refused by the parser */ \
	X(UPSTREAM_GONE, "upstream_gone")       /* 502, or a cut answer */                    \
	X(UPSTREAM_TIMEOUT, "upstream_timeout") /* 504, or a cut answer */                    \
	X(TOTAL_TIMEOUT, "total_timeout")                                                     \
	X(NO_TARGET, "no_target")         /* 503: down, or its name has no address */         \
	X(UPSTREAM_TLS, "upstream_tls")   /* 502: handshake, or it does not verify */         \
	X(QUEUE_FULL, "queue_full")       /* 503: all places taken, as many wait */           \
	X(QUEUE_TIMEOUT, "queue_timeout") /* 503 */                                           \
	X(LIMITED, "limited")             /* 503: max_connections of the route */             \
	X(TUNNEL_IDLE, "tunnel_idle")     /* timeouts.tunnel_idle */                          \
	X(TUNNEL_OVER, "tunnel_over")     /* timeouts.tunnel_max */                           \
	X(NO_MEMORY, "no_memory")         /* 503 */                                           \
	X(SHUTDOWN, "shutdown")                                                               \
	/* Connections that ended with neither a request nor a tunnel under way. */           \
	X(KEPT_IDLE, "kept_idle")             /* timeouts.idle between requests */            \
	X(CLOSED, "closed")                   /* by the client, between requests */           \
	X(ANSWERED, "answered")               /* after the last answer */                     \
	X(TLS_FAILED, "tls_failed")           /* ClientHello or handshake */                  \
	X(HELLO_TIMEOUT, "hello_timeout")     /* ClientHello, PROXY header or handshake */    \
	X(PROXY_UNTRUSTED, "proxy_untrusted") /* a PROXY header from who is not trusted */    \
	X(PROXY_MALFORMED, "proxy_malformed") /* none, or a wrong one, from who is */         \
	X(OVER_LIMIT, "over_limit")           /* limits.connections */                        \
	X(OVER_LIMIT_IP, "over_limit_ip")     /* limits.connections_per_ip */                 \
	X(OVER_RATE_IP, "over_rate_ip")       /* limits.connection_rate_per_ip */

enum exchange_end {
#define X(sym, name) EXCHANGE_END_##sym,
	EXCHANGE_ENDS(X)
#undef X
		EXCHANGE_END_CNT,
};
const char *exchange_end_name(enum exchange_end end);

/* Sums over all workers. */
struct worker_stats {
	uint64_t connections_accepted, connections_open, connections_refused;
	uint64_t tls_handshakes, tls_failures, tls_resumed;
	uint64_t requests, challenges_served;
	uint64_t responses[6]; /* by hundreds of the status; [0] unused */
	uint64_t ends[EXCHANGE_END_CNT];
	uint64_t rejects[64]; /* by enum wire_reason */
	uint64_t client_bytes_in, client_bytes_out, upstream_bytes_in, upstream_bytes_out;
	uint64_t upstream_connects, upstream_reuses, upstream_connect_failures, upstream_retries;
	uint64_t buffers_used;
	uint64_t tunnels_opened, tunnels_open, websockets_opened;
	uint64_t tunnel_bytes_in, tunnel_bytes_out; /* from and to clients, payload */
	uint64_t splices;       /* directions of tunnels, and bodies, that went over to it */
	uint64_t gathers;       /* times that a direction of a tunnel began to be gathered */
	uint64_t proxy_headers; /* taken from trusted peers */
	uint64_t conn_ends[EXCHANGE_END_CNT]; /* of connections, each with one reason */
	uint64_t proxy_rejects[8];            /* by enum wire_proxy_reason */
};
void workers_stats(const struct workers *ws, struct worker_stats *ret_stats) SP_ON_CONTROL;

/* One client connection as the admin API shows it. */
struct conn_view {
	uint64_t id;
	unsigned worker_ix;
	struct addr client, peer,
		listen;     /* peer: as the kernel says; client: after a PROXY header */
	char route[129];    /* "" while none is known */
	char upstream[160]; /* "" while none is in use */
	char state[24];     /* "hello", "idle", "await_head", "tunnel", ... */
	int64_t age_ms, idle_ms;
	uint64_t bytes_in, bytes_out, request_cnt;
	unsigned tls_version; /* 12, 13; 0: plain */
	bool is_tunnel, is_websocket;
};
/* At most max of them, in no order; owned by the caller (free). Asks every worker. ERR_TIMEOUT, ERR_NOMEM. */
enum err workers_connections(struct workers *ws, size_t max, struct conn_view **ret_views,
			     size_t *ret_cnt) SP_ON_CONTROL SP_MUST_USE;
