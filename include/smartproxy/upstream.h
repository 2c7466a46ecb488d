#pragma once
/* upstream: targets that outlive generations, and their connections, pooled per worker.
 *
 * An upstream is one (host, port), kept by identity while any generation refers to it, so that an
 * update of routes resets nothing of it. Connections belong to one worker for all their life: no
 * lock, no hand-over. Threads: registry on the control thread; everything with a struct
 * upstream_worker on that worker. Lifetime: freed when no generation refers to it and every worker
 * has closed what it kept idle. */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/addr.h"
#include "smartproxy/buf.h"
#include "smartproxy/err.h"
#include "smartproxy/list.h"
#include "smartproxy/loop.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"

#define UPSTREAM_ADDRS_MAX 8

struct upstream;
struct upstreams;

/* control_loop: where an upstream is freed after its last worker has let go. */
enum err upstreams_new(unsigned worker_cnt, struct loop *control_loop,
		       struct upstreams **ret_upstreams) SP_MUST_USE;
/* Workers have ended. */
void upstreams_free(struct upstreams *us) SP_ON_CONTROL;
/* The workers' loops, for closing what is idle in a pool that goes away; NULL before they start and
 * after they ended. */
void upstreams_set_loops(struct upstreams *us, struct loop *const *loops) SP_ON_CONTROL;
/* Counted up. A name is resolved here, once, when the upstream is made (this can block for as long
 * as the resolver does). ERR_NOENT with a sentence: no such name. */
enum err upstream_get(struct upstreams *us, const char *host, uint16_t port,
		      struct upstream **ret_upstream, struct text *reterr)
	SP_ON_CONTROL SP_MUST_USE;
void upstream_put(struct upstreams *us, struct upstream *u) SP_ON_CONTROL;
/* "host:port" as configured. */
const char *upstream_name(const struct upstream *u);
const struct addr *upstream_addr(const struct upstream *u, unsigned ix);
unsigned upstream_addr_cnt(const struct upstream *u);

/* One worker's side; zeroed, then filled by its owner. */
struct upstream_worker {
	struct loop *loop;
	unsigned ix;
	uint32_t idle_max; /* per target */
	int64_t idle_ms;
	uint64_t connects, reuses, connect_failures; /* written by the worker, relaxed */
};

/* One connection to a target. The owner (an exchange's upstream side) sets on_ready and owner while
 * it holds it. */
struct upstream_conn {
	struct io io; /* armed once, edge-triggered, both directions */
	struct upstream_worker *worker;
	struct upstream *upstream;
	void (*on_ready)(struct upstream_conn *conn); /* NULL while idle */
	void *owner;
	struct timer idle_timer;
	struct list idle_link;
	struct task free_task;
	bool is_readable, is_writable; /* sticky until a call gives EAGAIN */
	bool has_hung_up;              /* EPOLLRDHUP, EPOLLHUP or EPOLLERR seen */
	bool is_connecting;
	bool is_reused;
};

/* A connection from the pool, or NULL: none is idle. */
struct upstream_conn *upstream_conn_take(struct upstream_worker *w, struct upstream *u);
/* Starts to connect to address addr_ix. ERR_NETWORK: refused at once; ERR_NOMEM, ERR_LIMIT
 * (descriptors). */
enum err upstream_conn_open(struct upstream_worker *w, struct upstream *u, unsigned addr_ix,
			    struct upstream_conn **ret_conn) SP_MUST_USE;
/* After the first event of a connecting one: STEP_DONE, STEP_WRITE (not yet) or STEP_FAIL. */
enum step upstream_conn_check(struct upstream_conn *conn);
/* Back to the pool (closed instead when the pool is full, the target is going away, or something
 * waits to be read). */
void upstream_conn_park(struct upstream_conn *conn);
/* Closes; the memory goes at the end of the turn. NULL is allowed. */
void upstream_conn_close(struct upstream_conn *conn);
/* One recv or send; STEP_DONE with *ret_len, STEP_READ, STEP_WRITE, STEP_EOF, STEP_FAIL. Never
 * SIGPIPE. */
enum step upstream_conn_read(struct upstream_conn *conn, void *dst, size_t cap, size_t *ret_len);
enum step upstream_conn_write(struct upstream_conn *conn, const void *src, size_t len,
			      size_t *ret_len);
/* Idle connections of this worker to all targets are closed (end of the worker). */
void upstream_worker_close_idle(struct upstream_worker *w, struct upstreams *us);
