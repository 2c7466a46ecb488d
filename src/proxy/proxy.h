#pragma once
/* proxy: the objects of the data plane, shared by the files of this room. All of it belongs to one
 * worker thread.
 *
 *   worker     one thread, one loop, its pools and counters
 *   conn       one client connection: accept, TLS, then one exchange after another
 *   exchange   one request and its answer
 *   tunnel     bytes both ways: raw TCP, TLS passed through, an upgraded WebSocket
 *   target     the way from a route to a ready connection, for an exchange or a tunnel
 *   flow       payload under way in one direction of an exchange, framed in place
 */
#include <stdint.h>

#include "smartproxy/arena.h"
#include "smartproxy/assert.h"
#include "smartproxy/buf.h"
#include "smartproxy/generation.h"
#include "smartproxy/limit.h"
#include "smartproxy/list.h"
#include "smartproxy/log.h"
#include "smartproxy/loop.h"
#include "smartproxy/thread.h"
#include "smartproxy/tls.h"
#include "smartproxy/upstream.h"
#include "smartproxy/worker.h"
#include "wire/h1.h"
#include "wire/proxy.h"
#include "wire/tls.h"
#include "wire/uri.h"

#define EXCHANGE_ARENA_CAP \
	(512u << 10) /* heads of both directions, their fields, what is written of them */
#define EXCHANGES_KEPT 256
#define DISCARD_MAX \
	(64 << 10) /* of a body that nobody reads, before the connection is closed instead */
#define LINGER_MS         1000
#define LINGER_MAX        (1 << 20)  /* read and dropped after the last answer */
#define INFORMATIONAL_MAX 16         /* 1xx answers passed on before one request's final answer */
#define LOCATION_MAX      (32 << 10) /* of a redirect */
#define PUMP_ROUNDS_MAX   16 /* reads and writes for one connection before others get their turn */
#define PUMP_BYTES_MAX    (1 << 20) /* bytes of a body, as well */

/* ---- worker ---- */
struct worker_listener {
	struct list link;
	struct io io;
	struct worker *worker;
	struct addr addr;
	uint64_t set_id;
	struct timer resume_timer; /* after descriptors ran out */
	uint64_t ready_turn;       /* of the loop, when it was ready last */
	unsigned ready_cnt;        /* turns in a row in which it was */
};

/* What a worker needs of the configuration before a route is known; copied when a new generation is
 * first seen. */
struct worker_settings {
	uint64_t generation_number;
	int64_t header_ms, idle_ms, connect_ms, response_ms, total_ms;
	int64_t hello_ms, tunnel_idle_ms, tunnel_max_ms;
	uint32_t head_bytes, field_cnt, target_bytes;
	struct limit_settings limits;
	int64_t body_bytes;
	bool wants_access_log, is_access_json;
};

/* Pipes between two sockets (pipe.c): lent while bytes are in them, kept when they come back empty. */
struct pipe;
struct pipe_pool {
	struct pipe *free_list;
	uint32_t free_cnt;
	uint32_t cnt;     /* open ones, lent ones included */
	int64_t retry_ms; /* not before: the last try to make one failed */
};

/* The lines of one kind of refusal (refusal.c). */
struct refusal_log {
	int64_t logged_ms; /* the last line */
	bool has_logged;
	uint64_t held_cnt; /* refusals since then */
};

struct worker {
	unsigned ix;
	struct workers *all;
	struct loop *loop;
	struct thread *thread;
	struct log_ring *log_ring, *access_ring;
	struct tls_worker *tls;
	struct challenge_table *challenges;
	struct limits *limits;
	struct buf_pool bufs;
	struct pipe_pool pipes;
	struct arena_cache arena_cache;
	struct upstream_worker upstream;
	struct list conns;
	struct list listeners;
	struct list free_exchanges;
	uint32_t free_exchange_cnt;
	bool is_draining;
	struct task stop_task;
	struct task ping_task; /* stall detector: posted by control */
	bool is_ping_out;      /* atomic */
	int64_t ping_ms;       /* control's own */
	uint64_t next_conn_id;
	int64_t date_unix_s; /* second that date_text shows */
	int64_t date_checked_ms;
	char date_text[32];
	struct worker_settings settings;
	struct wire_field fields[WIRE_FIELDS_MAX]; /* scratch of the parser */
	int64_t tls_logged_ms; /* last line about a target's TLS; at most one a second */
	int64_t refused_ms; /* when the second began in which refused_cnt PROXY headers were refused */
	unsigned refused_cnt;
	struct refusal_log refused_requests, refused_answers;
	struct worker_stats stats; /* written by this worker (relaxed), read by control */
};

/* A counter of this worker, read by the control thread at any time. */
static inline void stat_add(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter + n, __ATOMIC_RELAXED);
}
static inline void stat_sub(uint64_t *counter, uint64_t n)
{
	__atomic_store_n(counter, *counter - n, __ATOMIC_RELAXED);
}
/* "Mon, 23 Nov 2026 03:32:54 GMT" of now, refreshed once a second. */
const char *worker_date(struct worker *w);
/* Closes the pipes that are kept; none is lent. */
void pipe_pool_fini(struct pipe_pool *pool);

/* Looks at the published generation; cheap when it has not changed. */
void worker_refresh_settings(struct worker *w);

/* ---- target: choose, wait for a place, connect (target.c) ---- */
enum target_phase { TARGET_CHOOSE, TARGET_QUEUE, TARGET_CONNECT, TARGET_READY };
struct target {
	struct conn *conn;
	const struct route *route; /* under the owner's pin until the connection is ready */
	struct upstream_choice choice;
	struct upstream_ticket ticket;
	struct upstream_conn *up; /* set in CONNECT and READY */
	enum target_phase phase;
	int64_t phase_ms;     /* when it began */
	bool wants_fresh;     /* no pooled connection: tunnels, and a retry after a stale one */
	bool has_first_bytes; /* for a ready connection; it need not wait for the target to speak */
	const char *alpn;     /* towards a TLS target */
	const char *sni; /* of a ClientHello passed through; NULL: none, or that of conn->tls */
	unsigned addr_try_cnt; /* addresses of the chosen target that failed */
	/* after STEP_FAIL */
	unsigned status; /* 502, 503, 504 */
	enum exchange_end end;
};
/* Zeroed target with conn, route and alpn set; choice.key_hash and cookie as the group wants. STEP_DONE: up is
 * ready; STEP_READ: the connection runs again, or target_due_ms comes; STEP_FAIL: no target is left.
 * Failures to connect go on to the next address and the next target by themselves, within the budget. */
enum step target_run(struct target *t);
/* choice.key_hash of the client's address alone: connections of one client go one way. */
uint64_t target_hash_client(const struct conn *conn);
/* When the present phase is overdue; then target_time_out, which answers as target_run. */
int64_t target_due_ms(const struct target *t);
enum step target_time_out(struct target *t);
/* What became of it (UPSTREAM_FAILURE_NONE: well), once for each READY. */
void target_report(struct target *t, enum upstream_failure failure, const char *why);
/* Another try after a failure that target_report was told of; false: not allowed. Goes back to CHOOSE. */
bool target_retry(struct target *t);
/* A pooled connection was stale: a fresh one to the same target, which keeps its place and is told nothing.
 * In READY; goes back to CONNECT. */
void target_retry_same(struct target *t);
/* A ready one of the same connection gets another place. */
void target_move(struct target *from, struct target *to);
/* Parks or closes the connection and gives the place back. Harmless when there is nothing. */
void target_release(struct target *t, bool is_clean);

/* ---- flow ---- */
enum framing { FRAMING_NONE, FRAMING_LENGTH, FRAMING_CHUNKED, FRAMING_CLOSE };

/* How a body arrives on one side. */
struct body_source {
	enum framing framing;
	int64_t left;  /* FRAMING_LENGTH: bytes still to come */
	int64_t total; /* payload bytes read */
	struct wire_chunked chunked;
	bool is_done;
	enum wire_reason reason;     /* of a failed decode */
	struct wire_field *trailers; /* exchange arena; after a chunked body */
	uint32_t trailer_cnt;
};

/* One direction. buf holds bytes that are ready to be sent: heads, then payload framed in place. Long bodies that
 * need no framing go through a pipe instead, behind what buf holds. */
struct flow {
	struct buf buf;
	struct pipe *pipe;    /* lent while bytes are in it */
	enum framing framing; /* of the receiving side */
	bool is_ended;        /* the last byte, framing included, is in buf or was sent */
	bool has_failed;      /* the receiving side takes no more */
	bool is_bulky;        /* much came at a time last */
	bool has_spliced;     /* and was counted for it */
	bool is_unspliceable; /* its source cannot, or has ended */
	uint32_t run_bytes;   /* through the pipe since the source was empty last */
	uint64_t sent_bytes;
};

struct exchange;

/* ---- the two sides of an exchange; h1 is the first implementation of both ---- */
struct client_side {
	/* STEP_DONE: exchange->request is filled. STEP_FAIL: exchange->reply says what to answer
	 * (0: just close). */
	enum step (*read_head)(struct exchange *x);
	/* Reads payload. STEP_DONE: something came or the body is at its end (request_body.is_done). */
	enum step (*read_body)(struct exchange *x, char *dst, size_t cap, size_t *ret_len);
	/* What of the body lies in the side's own buffer is appended to flow->buf without a copy: the buffers
	 * change places. False: nothing was done. */
	bool (*pass_body)(struct exchange *x, struct flow *flow);
	/* Puts the head of the answer into to_client.buf. false: it does not fit. */
	bool (*write_head)(struct exchange *x, const struct wire_h1_response *response);
	/* Sends what to_client holds. */
	enum step (*flush)(struct exchange *x);
	/* After the last byte: the next request may be read, or the connection ends. */
	void (*finish)(struct exchange *x);
	/* The answer cannot be completed: the client must see that. */
	void (*abort)(struct exchange *x);
};
struct upstream_side {
	bool (*write_head)(struct exchange *x);
	enum step (*flush)(struct exchange *x);
	enum step (*read_head)(struct exchange *x, struct wire_h1_response *ret_response);
	enum step (*read_body)(struct exchange *x, char *dst, size_t cap, size_t *ret_len);
	bool (*pass_body)(struct exchange *x, struct flow *flow);
	/* Back to the pool if nothing speaks against it. */
	void (*finish)(struct exchange *x);
	void (*abort)(struct exchange *x);
};
extern const struct client_side client_h1;
extern const struct upstream_side upstream_h1;

/* ---- exchange ---- */
enum exchange_state {
	EXCHANGE_READ_HEAD,
	EXCHANGE_ROUTE,
	EXCHANGE_ADMIT,
	EXCHANGE_CONNECT,
	EXCHANGE_SEND_HEAD,
	EXCHANGE_AWAIT_HEAD,
	EXCHANGE_RELAY,
	EXCHANGE_ANSWER,
	EXCHANGE_REPLY,
	EXCHANGE_FINISH,
	EXCHANGE_STATE_CNT,
};

struct exchange {
	struct list link; /* of the worker's free ones */
	struct worker *worker;
	struct conn *conn;
	const struct client_side *client;
	const struct upstream_side *upstream;
	enum exchange_state state;
	enum exchange_end end;
	struct arena arena;
	int64_t start_ms;
	int64_t progress_ms; /* last time that a byte moved */
	int64_t state_ms;    /* when the state was entered */
	int64_t sent_ms;     /* when the target had the whole request; 0: not yet */

	/* request */
	char *path; /* normalised */
	size_t path_len;
	struct body_source request_body;
	struct flow to_upstream;
	bool has_body_started; /* payload was taken from the client: not repeatable */
	bool has_continued;    /* 100 was sent, or is not wanted */

	/* decision */
	const struct generation *generation; /* pinned from ROUTE to FINISH; NULL before */
	const struct route *route;

	/* target */
	struct target to;          /* to.up: the connection, from CONNECT to FINISH */
	const char *upstream_name; /* of the last target tried; lives as long as the pin */
	struct buf up_in;
	struct wire_h1_scan up_scan;
	bool has_retried;  /* on a fresh connection instead of a stale one */
	bool has_reported; /* what became of the present connection */
	unsigned informational_cnt;

	/* answer */
	struct wire_h1_response response;
	struct body_source response_body;
	struct flow to_client;
	unsigned status;        /* of the answer; 0: none was sent */
	unsigned reply;         /* status of a reply of our own */
	const char *reply_text; /* body of the reply; static or arena */
	size_t reply_text_len;
	const char *location; /* redirect */
	bool is_head_sent;    /* of the final answer: too late for another one */
	bool wants_close;     /* the client connection ends after this */

	/* Spans point into the arena. From its host_name on nothing is cleared for the next exchange. */
	struct wire_h1_request request;
	char challenge[CHALLENGE_TEXT_MAX];
};

/* Starts with the head's first byte (or the first look for it). NULL: no memory. */
struct exchange *exchange_new(struct conn *conn);
/* Runs until it waits; may end the exchange (conn->exchange is NULL then) or close the connection.
 */
void exchange_run(struct exchange *x);
/* The connection's timer: the exchange looks at what is overdue. */
void exchange_on_timer(struct exchange *x);
/* The connection ends under it (worker stop). */
void exchange_drop(struct exchange *x, enum exchange_end end);
void exchanges_free(struct worker *w);
/* The end of an exchange that tunnel_upgrade took over (exchange.c): counts it and its answer, writes its
 * record, frees it. Its target, pin and buffers are gone already; conn->exchange is not touched. */
struct access_record;
void exchange_end_upgraded(struct exchange *x, const struct access_record *record);

/* Heads and replies (head.c). false: no memory. Trailers: as many as fit. */
bool head_write_request(struct exchange *x);
bool head_write_response(struct exchange *x, const struct wire_h1_response *response);
bool head_write_reply(struct exchange *x);
void head_write_trailers(struct flow *flow, const struct body_source *source);

/* Flows (flow.c): takes what has come of the other side's body, framed for the receiving one. STEP_DONE: the flow
 * has bytes or is_ended. */
enum step flow_fill(struct exchange *x, struct flow *flow);
/* All that came in has gone out. */
bool flow_is_empty(const struct flow *flow);
/* Gives back what is empty. */
void flow_settle(struct exchange *x, struct flow *flow);
/* Contents are lost. */
void flow_release(struct exchange *x, struct flow *flow);
/* Reads payload out of in (what came with the head) and then by recv. Shared by both sides. */
struct body_reader {
	struct body_source *source;
	struct buf *in;
	enum step (*recv)(struct exchange *x, void *dst, size_t cap, size_t *ret_len);
	uint32_t field_max;
};
enum step body_read(struct exchange *x, const struct body_reader *reader, char *dst, size_t cap,
		    size_t *ret_len);
/* The pass_body of both sides. */
bool body_pass(struct exchange *x, const struct body_reader *reader, struct flow *flow);

/* ---- conn ---- */
enum conn_state {
	CONN_PROXY, /* waits for a PROXY header */
	CONN_HELLO,
	CONN_HANDSHAKE,
	CONN_HTTP,
	CONN_TUNNEL,
	CONN_LINGER,
	CONN_CLOSED
};

/* What a PROXY header said beyond addresses; only for connections that had one. */
struct conn_proxy {
	struct addr dst;
	char unique_id[WIRE_PROXY_UNIQUE_ID_MAX];
	uint8_t unique_id_len;
	char authority[256];
	uint8_t authority_len;
	char alpn[32];
	uint8_t alpn_len;
};
struct tunnel;

struct conn {
	struct io io; /* edge-triggered; is_awaiting_room says whether for EPOLLOUT too */
	struct list link;
	struct worker *worker;
	enum conn_state state;
	struct addr client, peer,
		listen; /* peer: as the kernel says; client: after a PROXY header */
	uint16_t port;
	struct conn_proxy *proxy; /* owned; NULL: no PROXY header, or nothing in it */
	/* A TCP route behind TLS: known before the handshake, pinned until the tunnel has it. */
	const struct generation *generation;
	const struct route *route;
	struct limit_counter *route_counter; /* of the route that it is counted for; NULL: none */
	struct tunnel *tunnel;               /* CONN_TUNNEL */
	int64_t accepted_ms;
	int64_t active_ms; /* when a byte came or went last */
	uint64_t bytes_in, bytes_out;
	/* Why it ends, for worker_stats.conn_ends: set before conn_close and conn_linger. EXCHANGE_END_CNT: not
	 * known yet. The end of each exchange sets it to that exchange's. */
	enum exchange_end end;
	bool is_ip_counted;
	uint8_t ipv6_prefix;                /* that it was counted with */
	uint8_t client_text_len;            /* 0: client_text is not filled in yet */
	char client_text[INET6_ADDRSTRLEN]; /* the client's IP address, without a NUL (head.c) */
	uint64_t id;
	struct tls_conn *tls; /* NULL: plain */
	uint64_t slot_hash;   /* of the certificate slot in use */
	bool has_sni;
	unsigned tls_version;
	struct buf in;
	union {
		struct wire_hello_scan hello; /* CONN_HELLO */
		struct wire_h1_scan head;     /* CONN_HTTP */
	} scan;
	struct exchange *exchange; /* NULL between requests */
	uint32_t request_cnt;
	bool is_readable, is_writable, has_hung_up, has_eof;
	bool is_awaiting_room; /* once it was not writable, the loop tells when it is again */
	bool is_broken;        /* EPOLLHUP or EPOLLERR seen */
	bool is_urgent;        /* EPOLLPRI seen: reads end before urgent data, more may be behind */
	bool is_proxy_trusted; /* CONN_PROXY: a header is demanded; else one is refused */
	bool has_last_request; /* the client has said that no other one follows */
	bool is_leaving;       /* a request that is there already is answered, no later one */
	bool is_ending;        /* what is sent from now on is the last, its end follows at once */
	bool is_running;       /* inside conn_run: no re-entry */
	bool is_posted;
	bool is_left_to_post; /* closed and freed but for run_task, which frees it */
	struct timer timer;
	struct task run_task, free_task;
	uint32_t linger_bytes;
};

/* Takes fd. reads_first: what it begins with is read and worked on at once, where it has come with it. */
void conn_accept(struct worker *w, int fd, const struct addr *client, const struct addr *listen,
		 bool reads_first);
void conn_run(struct conn *conn);
/* Runs again when the others have had their turn. */
void conn_post(struct conn *conn);
/* conn->end says why. */
void conn_close(struct conn *conn);
void conn_close_for(struct conn *conn, enum exchange_end end);
/* The answer has been sent: no more is written; what the client still sends is read for a moment,
 * so that it sees the answer and not a reset. conn->end says why, ANSWERED when it does not or when all
 * went well. */
void conn_linger(struct conn *conn);
void conn_arm_timer(struct conn *conn, int64_t due_ms);
enum step conn_recv(struct conn *conn, void *dst, size_t cap, size_t *ret_len);
enum step conn_send(struct conn *conn, const void *src, size_t len, size_t *ret_len);
/* Counts the connection for route (and no longer for the one before). false: max_connections are there. */
bool conn_enter_route(struct conn *conn, const struct route *route);
#define PROXY_HEADER_MAX 600
/* The PROXY header that a target of this version gets for this client: its length in dst (PROXY_HEADER_MAX),
 * 0: none. sni: "" for none. */
size_t conn_write_proxy_header(const struct conn *conn, enum config_proxy_protocol version,
			       const char *sni, void *dst, size_t cap);

/* ---- tunnel (tunnel.c) ---- */
/* A TCP route was chosen: connects and relays. Takes over the caller's pin of generation. What conn->in holds
 * goes first. The connection may be closed on return. */
void tunnel_open(struct conn *conn, const struct generation *generation, const struct route *route,
		 const char *sni);
/* A 101 was answered: its head is in x->to_client.buf, what came behind it in x->up_in, what the client sent
 * behind its head in conn->in. x was reported to its target as a success, its target is in READY. Takes over
 * target, buffers and x, unpins its generation, and calls exchange_end_upgraded at the tunnel's end. The
 * connection may be closed on return. */
void tunnel_upgrade(struct exchange *x);
void tunnel_run(struct tunnel *t);
void tunnel_on_timer(struct tunnel *t);
void tunnel_drop(struct tunnel *t, enum exchange_end end);
/* For views: the upstream's name or "". */
const char *tunnel_upstream_name(const struct tunnel *t);

/* ---- what is refused for its bytes (refusal.c) ---- */
/* Counts it by its reason and logs it. head: what came of it, "" and 0 when a body is refused. */
void refusal_of_request(struct exchange *x, enum wire_reason reason, unsigned status,
			const char *head, size_t len);
/* Logs it; x has a route and a target. reason: a word or a sentence of ours. */
void refusal_of_answer(struct exchange *x, const char *reason, const char *head, size_t len);

/* ---- access log (access_log.c): one record for an exchange or a tunnel ---- */
struct access_record {
	const struct conn *conn;
	const struct exchange *exchange; /* NULL: a tunnel without a request */
	const char *route, *upstream;    /* "": none */
	enum exchange_end end;
	unsigned status; /* 0: none */
	int64_t duration_ms;
	uint64_t bytes_in, bytes_out; /* of this exchange or tunnel, from and to the client */
	unsigned tries;               /* targets chosen for it */
};
void access_log_record(const struct access_record *record);
