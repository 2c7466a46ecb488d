#pragma once
/* upstream: connections to targets, pooled per worker. A connection belongs to one worker for all its life: no
 * lock, no hand-over. Threads: the worker's own. Lifetime: closed connections are freed at the end of the
 * turn; each open one keeps its target alive. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/list.h"
#include "smartproxy/loop.h"
#include "smartproxy/upstream_view.h"

struct tls_conn;
struct upstream;
struct upstreams;

/* One worker's side; zeroed, then filled by its owner. */
struct upstream_worker {
	struct loop *loop;
	unsigned ix;
	uint32_t idle_max; /* per target */
	int64_t idle_ms;
	uint64_t connects, reuses, connect_failures; /* written by the worker, relaxed */
	uint64_t rand_state;                         /* of power-of-two choices */
};

/* One connection to a target. The owner (an exchange's upstream side, a tunnel) sets on_ready and owner
 * while it holds it. */
struct upstream_conn {
	struct io io; /* armed once, edge-triggered; for writing when a write first found no room */
	struct upstream_worker *worker;
	struct upstream *upstream;
	void (*on_ready)(struct upstream_conn *conn); /* NULL while idle */
	void *owner;
	struct tls_conn *tls; /* NULL: plain */
	struct timer timer;   /* in the pool: of its end there; else: of keepalive */
	struct list idle_link;
	struct task free_task;
	const char *alpn; /* to be offered, static */
	char *preface;    /* PROXY header still to be sent, owned; NULL: none */
	uint32_t preface_len, preface_sent;
	struct addr addr;      /* of the target that it goes to, as the target has it */
	uint32_t addrs_change; /* of the target's addresses, when addr was last found among them */
	uint16_t port;         /* that it is connected to */
	uint8_t phase;         /* this room's */
	bool is_readable, is_writable; /* sticky until a call gives EAGAIN */
	bool has_hung_up;              /* EPOLLRDHUP, EPOLLHUP or EPOLLERR seen */
	bool has_eof;                  /* all before its end has been read */
	bool is_broken;                /* EPOLLHUP or EPOLLERR seen */
	bool is_awaiting_room;         /* EPOLLOUT is watched, once a write has found no room */
	bool is_urgent; /* EPOLLPRI seen: reads end before urgent data, more may be behind */
	bool is_reused;
	bool is_unpoolable;            /* it had a PROXY header: it speaks for one client */
	enum upstream_failure failure; /* after STEP_FAIL of check */
	const char *failure_text;      /* static or of tls; "" when there is none */
};

/* A connection from the pool to that port and to an address that the target has now, or NULL: none is idle. */
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
	bool has_first_bytes;    /* its owner has bytes for it, and writes them once it is ready */
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
/* A write to it gave EAGAIN: is_writable is set, and on_ready called, when there is room again. */
void upstream_conn_await_room(struct upstream_conn *conn);
/* No more will be written: FIN, or close_notify and FIN. */
void upstream_conn_shutdown(struct upstream_conn *conn);
/* Idle connections of this worker to all targets are closed (end of the worker). */
void upstream_worker_close_idle(struct upstream_worker *w, struct upstreams *us);
