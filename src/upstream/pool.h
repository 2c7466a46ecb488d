#pragma once
/* upstream: the layout of targets and groups, shared by the files of this room. */
#include <stdatomic.h>

#include "smartproxy/resolver.h"
#include "smartproxy/upstream.h"

#define UPSTREAM_NAME_MAX     300
#define UPSTREAM_IDENTITY_MAX 768
#define UPSTREAM_WHY_MAX      160

/* One worker's side of one target. Written by that worker only, but for close_task, upstream and wake_task,
 * which are posted to it. Counters are read by control (relaxed). */
struct upstream_pool {
	_Alignas(64) struct list idle; /* newest first: the warmest is taken */
	uint32_t idle_cnt;
	uint32_t conn_cnt; /* open ones, idle ones included: they keep the upstream alive */
	uint32_t
		in_use; /* tickets held, with or without max_connections; balancing reads it (relaxed) */
	uint32_t waiting_cnt; /* of waiting; other workers read it (atomic) */
	struct list waiting;  /* of struct upstream_ticket, oldest first */
	bool is_closing; /* nothing is kept idle any more: the upstream goes away, or the worker ends */
	bool is_going;   /* the upstream goes away: pool_settle is to let go of it, once */
	bool has_closed; /* said so */
	uint64_t requests, failures, retries;
	int32_t retry_credit; /* hundredths of a retry, beyond those that there are from the start */
	uint32_t addr_at;     /* whose turn it is of the addresses */
	struct tls_session_slot session;
	struct task close_task;
	/* Written by every worker, atomic: places that were handed over to this one. */
	struct task wake_task;
	struct loop *wake_loop; /* set before anybody waits */
	uint32_t granted_cnt;
	bool is_wake_posted;
	struct upstream *upstream;
};

/* Addresses at one time; swapped by RCU. */
struct upstream_addrs {
	struct rcu_head rcu;
	unsigned cnt;
	struct addr list[UPSTREAM_ADDRS_MAX];
};

struct upstream_name;   /* look-ups of one target's name (names.c) */
struct upstream_check;  /* health checks of one target (health.c) */
struct upstream_client; /* a TLS client that targets share (clients.c) */

struct upstream {
	struct upstreams *registry;
	unsigned worker_cnt;
	struct upstream *next; /* in the registry's bucket */
	struct list link;
	uint32_t ref_cnt; /* held by: groups; control thread */
	/* Fixed for life. */
	char identity[UPSTREAM_IDENTITY_MAX];
	char name[UPSTREAM_NAME_MAX]; /* "host:port", "host" with port 0 */
	char host[256];
	char group[129]; /* "" for targets of routes */
	uint16_t port;   /* 0: the client's */
	enum config_proxy_protocol proxy_protocol;
	struct upstream_client *client; /* NULL: plain; counted */
	struct tls_client *tls;         /* its own; NULL: plain */
	char server_name[256];          /* of TLS */
	/* Written by control, read by workers. */
	struct upstream_addrs *addrs SP_RCU_PTR; /* NULL: none known yet; never of cnt 0 */
	_Atomic uint32_t addrs_change;           /* counted after each change of addrs */
	_Atomic int is_down;                     /* by health checks */
	_Atomic int64_t up_since_ms; /* CLOCK_MONOTONIC; 0: from the start, no slow start */
	/* Written by any worker when it changes. */
	_Alignas(64) _Atomic int64_t ejected_until_ms;
	_Atomic uint32_t failures_in_row;
	_Atomic uint32_t ejection_cnt; /* in a row, for the growing time */
	_Atomic uint64_t ejections;    /* ever */
	_Atomic int64_t last_failure_unix_s;
	_Atomic int last_failure;
	_Atomic uint32_t why_lock; /* a try-lock around last_why: who does not get it leaves it */
	char last_why[UPSTREAM_WHY_MAX];
	/* Places, only with max_connections. */
	_Alignas(64) _Atomic uint32_t place_cnt; /* taken over all workers */
	_Atomic uint32_t waiting_cnt;            /* tickets that wait, over all workers */
	_Atomic uint32_t place_max;   /* as the group says that was asked for a place last */
	_Atomic uint32_t next_worker; /* whose turn it is to be handed a place */
	/* Control's own. */
	_Alignas(64) struct upstream_name *resolving;
	struct upstream_check *check;
	_Atomic unsigned closing_cnt; /* workers that have yet to let go */
	struct task free_task;
	const struct group_target *seen_as; /* where upstreams_each found it; of round seen_round */
	uint64_t seen_round;
	struct upstream_pool pools[]; /* by worker */
};

/* A target within its group. */
struct group_target {
	struct upstream *upstream;
	uint32_t weight;
	uint32_t max_connections; /* 0: no limit */
	bool is_backup;
	uint64_t hash; /* of who it is, the same in every process: Maglev, sticky cookie */
};
struct group_cursor {             /* one worker's; written by it only */
	_Alignas(64) uint32_t at; /* in the schedule */
	uint64_t load, weight;    /* bounded hash, large groups: of the usable ones, at load_ms */
	int64_t load_ms;
};
/* Immutable but for the cursors. Targets and active lie behind it, in the same allocation; what a request touches
 * comes last, next to them. */
struct upstream_group {
	struct upstream_group *next,
		**link; /* in the registry's list of groups; what points to it there */
	struct upstream_group *bucket_next; /* by config */
	uint32_t ref_cnt;                   /* held by: generations; control thread */
	bool is_applied;
	const struct config_upstream_tls *tls;
	uint16_t *maglev; /* CONFIG_BALANCE_HASH: table of active ones */
	uint32_t maglev_len;
	uint32_t sticky_mask;
	uint16_t *
		sticky; /* CONFIG_BALANCE_STICKY: open addressing by target's hash, UINT16_MAX: empty */
	struct group_cursor *cursors; /* by worker */
	uint32_t weight_sum;
	enum config_balance balance; /* as config says */
	const struct config_upstream *config;
	uint16_t *
		schedule; /* smooth weighted order of active ones; it is active itself when all weigh the same */
	uint32_t schedule_len;
	uint32_t target_cnt;
	struct group_target *targets;
	uint16_t *active, *backup; /* indexes of targets */
	uint32_t active_cnt, backup_cnt;
};

struct upstreams {
	struct upstream *buckets[4096];
	struct list all;
	struct upstream_group *groups;
	struct upstream_group *group_buckets[4096];
	_Atomic uint32_t
		ejection_lock; /* try-lock of any worker: shares of ejected targets are exact */
	unsigned worker_cnt;
	struct loop *control_loop;
	struct loop *const *loops;
	struct resolver *resolver;
	int64_t min_ttl_ms, max_ttl_ms;
	struct list clients; /* of struct upstream_client */
	uint64_t
		client_round; /* files of clients are read once a round: upstreams_configure begins one */
	unsigned first_lookup_cnt; /* names that are being looked up for the first time */
	unsigned asking_cnt;       /* look-ups under way */
	struct list to_ask;        /* names that wait for their turn, oldest first */
	bool is_asking, is_ending;
	uint64_t view_round;
	uint64_t burst_turn; /* checks that begin in one turn of the loop are spread */
	unsigned burst_cnt;
};

/* ---- registry.c (control) ---- */
/* Made when new (its name's look-up begins), counted up. */
enum err registry_get(struct upstreams *us, const struct config_upstream *group,
		      const struct config_target *target, const struct config_upstream_tls *tls,
		      struct upstream **ret_upstream, struct text *reterr)
	SP_ON_CONTROL SP_MUST_USE;
void registry_put(struct upstreams *us, struct upstream *u) SP_ON_CONTROL;
/* "host:port", "[v6]:port"; without ":port" when it is 0. */
void registry_format_name(char *dst, size_t cap, const char *host, uint16_t port);
/* A worker's last connection and ticket of an upstream that goes away (is_going) are gone. Once a pool. Worker. */
void registry_worker_let_go(struct upstream_pool *pool);

/* Any thread, while it cannot go (a worker's, before it has let go): it is not freed before registry_release.
 * For tasks on their way to another worker. */
void registry_hold(struct upstream *u);
void registry_release(struct upstream *u);

/* ---- clients.c (control) ---- */
/* The TLS client of these settings, read from its files once a round and shared, counted up. NULL tls:
 * encrypts without verifying (checks of plain targets). */
enum err client_get(struct upstreams *us, const struct config_upstream_tls *tls,
		    struct upstream_client **ret_client, struct text *reterr)
	SP_ON_CONTROL SP_MUST_USE;
/* NULL is allowed. After the registry is gone, too. */
void client_put(struct upstream_client *client);
struct tls_client *client_tls(const struct upstream_client *client);

/* ---- names.c, health.c (control) ---- */
/* An address is there at once; a name is looked up, again and again. ERR_NOMEM. */
enum err names_start(struct upstream *u) SP_ON_CONTROL SP_MUST_USE;
void names_stop(struct upstream *u) SP_ON_CONTROL;
int64_t names_ttl_left_s(const struct upstream *u); /* -1: an address */
/* Addresses of u now, NULL: none. They live until names.c or the end of u retires them. */
const struct upstream_addrs *names_addrs(const struct upstream *u) SP_ON_CONTROL;
/* The settings of config hold from now on. */
void health_apply(struct upstream *u, const struct config_upstream *config) SP_ON_CONTROL;
void health_stop(struct upstream *u) SP_ON_CONTROL;
/* Its addresses have changed: it is checked soon. */
void health_hurry(struct upstream *u) SP_ON_CONTROL;
void health_view(const struct upstream *u, struct upstream_view *view) SP_ON_CONTROL;

/* ---- schedule.c, maglev.c ---- */
/* Tables of a group whose targets are filled in; balance_free after failure, too. */
enum err balance_compile(struct upstream_group *group, unsigned worker_cnt) SP_MUST_USE;
void balance_free(struct upstream_group *group);
enum err maglev_compile(struct upstream_group *group) SP_MUST_USE;

/* ---- conn.c, ticket.c, outcome.c (workers) ---- */
/* A counter of the worker that others read. */
static inline void pool_count(uint64_t *counter)
{
	__atomic_store_n(counter, *counter + 1, __ATOMIC_RELAXED);
}
static inline void pool_add(uint32_t *counter, int n)
{
	__atomic_store_n(counter, *counter + (uint32_t)n, __ATOMIC_RELAXED);
}
/* A request adds to what may be retried. */
void pool_add_credit(struct upstream_pool *pool, const struct config_upstream *config);
void pool_close_idle(struct upstream_pool *pool);
/* After a count of this pool has fallen: lets go of the upstream if it is going away and nothing is left. */
void pool_settle(struct upstream_pool *pool);
/* Counts a failure for the admin view; any thread. why may be NULL. */
void upstream_note_failure(struct upstream *u, enum upstream_failure failure, const char *why);
/* Whether traffic may go to it now; any thread. */
bool upstream_is_usable(const struct upstream *u, int64_t now_ms, bool is_ejected_fine);
void ticket_wake(struct task *task); /* body of wake_task */
