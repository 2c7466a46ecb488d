#pragma once
/* upstream: groups of targets and the connections to them.
 *
 *   group     what a route forwards to, immutable, part of one generation: targets with weights, the way
 *             of balancing, its tables (schedule, Maglev)
 *   upstream  one target by identity (group name, host, port, TLS and PROXY settings): addresses, health,
 *             ejection, load, pools of connections. It outlives generations, so that an update of routes
 *             resets nothing of it.
 *   ticket    a place at a target for one request or tunnel, waited for when all are taken
 *   conn      one connection to a target; it belongs to one worker for all its life
 *
 * Threads: groups, health checks and names on the control thread; choosing, tickets and connections on a
 * worker, with its own struct upstream_worker. What workers share of an upstream is read by them (state,
 * addresses: RCU) and written only when it changes; places are counted over all workers only for targets
 * with max_connections. Lifetime: an upstream is freed when no generation refers to it and every worker has
 * closed its connections and given back its tickets. Standards: RFC 9110, 9.2.2 (what may be retried). */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/addr.h"
#include "smartproxy/buf.h"
#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/list.h"
#include "smartproxy/loop.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"
#include "smartproxy/tls.h"

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
/* Workers have ended. */
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

/* ---- any thread, for as long as a pin, a ticket or a connection holds it ---- */

/* "host:port" as configured; "host" with port "preserve". */
const char *upstream_name(const struct upstream *u);
/* "" or the group's name. */
const char *upstream_group_name(const struct upstream_group *group);
const struct config_upstream *upstream_group_config(const struct upstream_group *group);

/* ---- workers ---- */

/* One worker's side; zeroed, then filled by its owner. */
struct upstream_worker {
	struct loop *loop;
	unsigned ix;
	uint32_t idle_max; /* per target */
	int64_t idle_ms;
	struct buf_pool *bufs;
	uint64_t connects, reuses, connect_failures; /* written by the worker, relaxed */
	uint64_t rand_state;                         /* of power-of-two choices */
};

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
	unsigned addr_ix;  /* which of its addresses; a further one after a failure to connect */
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

/* One connection to a target. The owner (an exchange's upstream side, a tunnel) sets on_ready and owner
 * while it holds it. */
struct upstream_conn {
	struct io io; /* armed once, edge-triggered, both directions */
	struct upstream_worker *worker;
	struct upstream *upstream;
	void (*on_ready)(struct upstream_conn *conn); /* NULL while idle */
	void *owner;
	struct tls_conn *tls; /* NULL: plain */
	struct timer idle_timer;
	struct list idle_link;
	struct task free_task;
	const char *alpn; /* to be offered, static */
	char *preface;    /* PROXY header still to be sent, owned; NULL: none */
	uint32_t preface_len, preface_sent;
	uint16_t port;                 /* that it is connected to */
	uint8_t phase;                 /* this room's */
	bool is_readable, is_writable; /* sticky until a call gives EAGAIN */
	bool has_hung_up;              /* EPOLLRDHUP, EPOLLHUP or EPOLLERR seen */
	bool is_reused;
	bool is_unpoolable;            /* it had a PROXY header: it speaks for one client */
	enum upstream_failure failure; /* after STEP_FAIL of check */
	const char *failure_text;      /* static or of tls; "" when there is none */
};

/* A connection from the pool to that port, or NULL: none is idle. */
struct upstream_conn *upstream_conn_take(struct upstream_worker *w, struct upstream *u,
					 uint16_t port);
/* Starts to connect to address addr_ix of u (modulo their number) and port; proxy_header (copied) is sent
 * first. ERR_NETWORK: refused at once; ERR_NOENT: no address; ERR_NOMEM, ERR_LIMIT (descriptors). */
struct upstream_target {
	struct upstream *upstream;
	unsigned addr_ix;
	uint16_t client_port; /* that the client came to, for targets that preserve it */
	const void *proxy_header;
	size_t proxy_header_len; /* 0: none */
	const char *alpn;        /* offered when it is TLS: "http/1.1", static; NULL: none */
};
enum err upstream_conn_open(struct upstream_worker *w, const struct upstream_target *target,
			    struct upstream_conn **ret_conn) SP_MUST_USE;
/* The port that a connection to u for a client of that port goes to. */
uint16_t upstream_port(const struct upstream *u, uint16_t client_port);
/* Which PROXY header u wants. */
enum config_proxy_protocol upstream_proxy_protocol(const struct upstream *u);
/* Addresses now, for going on to the next one after a failure. */
unsigned upstream_addr_cnt(const struct upstream *u);
/* After an event of one that is not ready yet (connect, PROXY header, TLS handshake): STEP_DONE: ready,
 * STEP_READ or STEP_WRITE (not yet) or STEP_FAIL (failure, failure_text). */
enum step upstream_conn_check(struct upstream_conn *conn);
/* Back to the pool (closed instead when the pool is full, the target is going away, something waits to be
 * read, or it cannot be shared). */
void upstream_conn_park(struct upstream_conn *conn);
/* Closes; the memory goes at the end of the turn. NULL is allowed. */
void upstream_conn_close(struct upstream_conn *conn);
/* One recv or send (through TLS); STEP_DONE with *ret_len, STEP_READ, STEP_WRITE, STEP_EOF, STEP_FAIL. Never
 * SIGPIPE. */
enum step upstream_conn_read(struct upstream_conn *conn, void *dst, size_t cap, size_t *ret_len);
enum step upstream_conn_write(struct upstream_conn *conn, const void *src, size_t len,
			      size_t *ret_len);
/* No more will be written: FIN, or close_notify and FIN. */
void upstream_conn_shutdown(struct upstream_conn *conn);
/* Idle connections of this worker to all targets are closed (end of the worker). */
void upstream_worker_close_idle(struct upstream_worker *w, struct upstreams *us);
