#pragma once
/* A whole proxy inside a test: configuration, generation, listeners, workers, and an origin that is
 * a script of the test. Include in one .c file. Everything listens on 127.0.0.1, on ports that the
 * kernel chose. */
#include <check.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "config_text.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/config.h"
#include "smartproxy/generation.h"
#include "smartproxy/limit.h"
#include "smartproxy/listener.h"
#include "smartproxy/worker.h"

#define WORKER_CNT      2
#define PATIENCE_MS     8000 /* what a test waits for comes long before */
#define ORIGIN_CONN_MAX 256
#define SIDE_MAX        (64 * 1024)

/* ---- sockets ---- */

static inline struct addr loopback(uint16_t port)
{
	struct addr a;
	ck_assert_int_eq(addr_parse("127.0.0.1", port, &a), ERR_OK);
	return a;
}

static inline uint16_t port_of(int fd)
{
	struct addr a = loopback(0);
	socklen_t len = sizeof(a.v4);
	ck_assert_int_eq(getsockname(fd, &a.sa, &len), 0);
	return addr_port(&a);
}

static inline int bound_socket(void)
{
	struct addr a = loopback(0);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, &a.sa, a.len), 0);
	return fd;
}

/* A port that was free a moment ago. */
static inline uint16_t free_port(void)
{
	int fd = bound_socket();
	uint16_t port = port_of(fd);
	(void)close(fd);
	return port;
}

/* A blocking connection with what was read of it and not yet used. */
struct side {
	int fd;
	size_t len;
	char data[SIDE_MAX + 1];
};

static inline void set_patience(int fd)
{
	struct timeval tv = { .tv_sec = PATIENCE_MS / 1000 };
	int one = 1;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static inline struct side *side_new(int fd)
{
	struct side *s = calloc(1, sizeof(*s));
	SP_ASSERT(s != NULL);
	s->fd = fd;
	set_patience(fd);
	return s;
}

static inline void side_free(struct side *s)
{
	if (s->fd >= 0)
		(void)close(s->fd);
	free(s);
}

static inline bool side_send(struct side *s, const void *data, size_t len)
{
	const char *at = data;
	while (len > 0) {
		ssize_t n = send(s->fd, at, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		at += n;
		len -= (size_t)n;
	}
	return true;
}

static inline bool side_puts(struct side *s, const char *text)
{
	return side_send(s, text, strlen(text));
}

/* One recv: its result; 0 is the end, below 0 a failure or the end of patience. */
static inline ssize_t side_fill(struct side *s)
{
	SP_ASSERT(s->len < SIDE_MAX);
	ssize_t n = recv(s->fd, s->data + s->len, SIDE_MAX - s->len, 0);
	if (n > 0)
		s->len += (size_t)n;
	s->data[s->len] = '\0';
	return n;
}

static inline void side_use(struct side *s, size_t len)
{
	SP_ASSERT(len <= s->len);
	memmove(s->data, s->data + len, s->len - len + 1);
	s->len -= len;
}

/* Reads up to mark and returns the length with it; 0: the end came first. */
static inline size_t side_until(struct side *s, const char *mark)
{
	for (;;) {
		const char *at = memmem(s->data, s->len, mark, strlen(mark));
		if (at != NULL)
			return (size_t)(at - s->data) + strlen(mark);
		if (side_fill(s) <= 0)
			return 0;
	}
}

/* Everything up to the end of the connection. -1: it ended with a reset or not in time. */
static inline ssize_t side_rest(struct side *s)
{
	ssize_t n;
	while ((n = side_fill(s)) > 0)
		;
	return n < 0 ? -1 : (ssize_t)s->len;
}

/* ---- messages: enough of HTTP to check the proxy's, written anew ---- */

struct message {
	char head[20000];
	unsigned status;
	bool has_closing; /* Connection: close */
	size_t body_len;
	unsigned body_sum;
	char body[256]; /* its beginning */
	char trailer[4096];
};

static inline void add_body(struct message *m, const char *data, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if (m->body_len < sizeof(m->body) - 1)
			m->body[m->body_len] = data[i];
		m->body_len++;
		m->body_sum = m->body_sum * 31 + (unsigned char)data[i];
	}
}

static inline unsigned sum_of(const char *data, size_t len)
{
	unsigned sum = 0;
	for (size_t i = 0; i < len; i++)
		sum = sum * 31 + (unsigned char)data[i];
	return sum;
}

static inline bool take_bytes(struct side *s, struct message *m, size_t len)
{
	while (len > 0) {
		if (s->len == 0 && side_fill(s) <= 0)
			return false;
		size_t run = s->len < len ? s->len : len;
		add_body(m, s->data, run);
		side_use(s, run);
		len -= run;
	}
	return true;
}

static inline bool take_chunks(struct side *s, struct message *m)
{
	for (;;) {
		size_t line = side_until(s, "\r\n");
		if (line == 0)
			return false;
		size_t len = strtoul(s->data, NULL, 16);
		side_use(s, line);
		if (len == 0)
			break;
		if (!take_bytes(s, m, len) || side_until(s, "\r\n") != 2)
			return false;
		side_use(s, 2);
	}
	size_t line;
	while ((line = side_until(s, "\r\n")) > 2) {
		strncat(m->trailer, s->data, line);
		side_use(s, line);
	}
	if (line == 2)
		side_use(s, 2);
	return line == 2;
}

static inline bool take_head(struct side *s, struct message *m)
{
	memset(m, 0, sizeof(*m));
	size_t len = side_until(s, "\r\n\r\n");
	if (len == 0 || len >= sizeof(m->head))
		return false;
	memcpy(m->head, s->data, len);
	side_use(s, len);
	if (strncmp(m->head, "HTTP/1.1 ", 9) == 0)
		m->status = (unsigned)strtoul(m->head + 9, NULL, 10);
	m->has_closing = strcasestr(m->head, "\r\nConnection: close\r\n") != NULL;
	return true;
}

/* One whole message as its head frames it. has_body false: an answer to HEAD. */
static inline bool take_message(struct side *s, struct message *m, bool has_body)
{
	if (!take_head(s, m))
		return false;
	if (!has_body || m->status == 204 || m->status == 304)
		return true;
	const char *length = strcasestr(m->head, "\r\nContent-Length: ");
	if (strcasestr(m->head, "\r\nTransfer-Encoding: chunked\r\n") != NULL)
		return take_chunks(s, m);
	return length == NULL || take_bytes(s, m, strtoul(length + 18, NULL, 10));
}

/* ---- origin: one thread a connection, each running the test's script ---- */

struct origin {
	int fd;
	uint16_t port;
	void (*serve)(struct origin *o, struct side *s, unsigned nth); /* nth connection, from 0 */
	void *arg;
	pthread_t acceptor;
	struct origin_conn {
		struct origin *origin;
		struct side *side;
		pthread_t thread;
		unsigned nth;
	} conns[ORIGIN_CONN_MAX];
	unsigned conn_cnt;    /* atomic */
	unsigned request_cnt; /* atomic; counted by the scripts */
};

static inline void *run_origin_conn(void *arg)
{
	struct origin_conn *c = arg;
	c->origin->serve(c->origin, c->side, c->nth);
	(void)shutdown(c->side->fd, SHUT_RDWR);
	return NULL;
}

static inline void *run_origin(void *arg)
{
	struct origin *o = arg;
	for (;;) {
		int fd = accept4(o->fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return NULL;
		unsigned nth = o->conn_cnt;
		SP_ASSERT(nth < ORIGIN_CONN_MAX);
		o->conns[nth] =
			(struct origin_conn){ .origin = o, .side = side_new(fd), .nth = nth };
		SP_ASSERT(pthread_create(&o->conns[nth].thread, NULL, run_origin_conn,
					 &o->conns[nth]) == 0);
		__atomic_store_n(&o->conn_cnt, nth + 1, __ATOMIC_RELEASE);
	}
}

static inline void origin_start(struct origin *o,
				void (*serve)(struct origin *o, struct side *s, unsigned nth))
{
	memset(o, 0, sizeof(*o));
	o->serve = serve;
	o->fd = bound_socket();
	ck_assert_int_eq(listen(o->fd, 1024), 0);
	o->port = port_of(o->fd);
	ck_assert_int_eq(pthread_create(&o->acceptor, NULL, run_origin, o), 0);
}

static inline void origin_stop(struct origin *o)
{
	(void)shutdown(o->fd, SHUT_RDWR);
	(void)pthread_join(o->acceptor, NULL);
	(void)close(o->fd);
	for (unsigned i = 0; i < o->conn_cnt; i++) {
		(void)shutdown(o->conns[i].side->fd, SHUT_RDWR);
		(void)pthread_join(o->conns[i].thread, NULL);
		side_free(o->conns[i].side);
	}
}

/* ---- proxy ---- */

struct rig {
	struct loop *loop;
	struct upstreams *upstreams;
	struct limits *limits;
	struct tls_slots *slots;
	struct generations *generations;
	struct challenge_table *challenges;
	struct listeners *listeners;
	struct workers *workers;
	struct config *config;
	uint16_t port;
};

static inline struct listener_set *rig_open(struct rig *r, const struct addr *wanted, size_t cnt)
{
	sp_role_assume_control();
	struct listener_change *change = NULL;
	struct port_error error;
	ck_assert_int_eq(listeners_open(r->listeners, wanted, cnt, 0, &change, &error), ERR_OK);
	struct listener_set *first = change->opened_cnt > 0 ? change->opened[0] : NULL;
	for (size_t i = 0; i < change->opened_cnt; i++)
		ck_assert_int_eq(workers_adopt(r->workers, change->opened[i], PATIENCE_MS), ERR_OK);
	listeners_commit(r->listeners, change);
	return first;
}

/* Takes over config's reference. port: of its routes. */
static inline void rig_start(struct rig *r, struct config *config, uint16_t port)
{
	sp_role_assume_control();
	rcu_register_thread();
	*r = (struct rig){ .config = config, .port = port };
	ck_assert_int_eq(tls_init(), ERR_OK);
	ck_assert_int_eq(loop_new(&r->loop), ERR_OK);
	ck_assert_int_eq(upstreams_new(WORKER_CNT, r->loop, NULL, &r->upstreams), ERR_OK);
	ck_assert_int_eq(limits_new(&r->limits), ERR_OK);
	ck_assert_int_eq(tls_slots_new(&r->slots), ERR_OK);
	ck_assert_int_eq(
		generations_new(WORKER_CNT, r->upstreams, r->slots, r->limits, &r->generations),
		ERR_OK);
	ck_assert_int_eq(challenge_table_new(&r->challenges), ERR_OK);
	ck_assert_int_eq(listeners_new(WORKER_CNT, 4096, &r->listeners), ERR_OK);
	struct generation *g = NULL;
	struct text text = { 0 };
	enum err e = generation_build(r->generations, config, false, &g, &text);
	ck_assert_msg(e == ERR_OK, "%s", text.data != NULL ? text.data : "");
	generation_publish(r->generations, g);
	struct workers_options options = { .worker_cnt = WORKER_CNT,
					   .challenges = r->challenges,
					   .upstreams = r->upstreams,
					   .limits = r->limits };
	ck_assert_int_eq(workers_start(&options, &r->workers), ERR_OK);
	size_t cnt;
	const struct addr *wanted = route_index_listeners(g->routes, &cnt);
	(void)rig_open(r, wanted, cnt);
}

static inline void nap(void)
{
	(void)poll(NULL, 0, 2);
}

static inline struct worker_stats rig_stats(const struct rig *r)
{
	sp_role_assume_control();
	struct worker_stats stats;
	workers_stats(r->workers, &stats);
	return stats;
}

/* Waits until no client is connected and no buffer is lent. */
static inline void rig_await_idle(const struct rig *r)
{
	struct worker_stats stats = rig_stats(r);
	for (int64_t until_ms = clock_now_ms() + PATIENCE_MS; clock_now_ms() < until_ms; nap()) {
		stats = rig_stats(r);
		if (stats.connections_open == 0 && stats.buffers_used == 0)
			return;
	}
	ck_abort_msg("not idle: %llu connections, %llu buffers",
		     (unsigned long long)stats.connections_open,
		     (unsigned long long)stats.buffers_used);
}

static inline void rig_stop(struct rig *r)
{
	sp_role_assume_control();
	if (r->workers != NULL)
		rig_await_idle(r);
	workers_stop(r->workers);
	generations_free(r->generations);
	sp_rcu_drain();
	listeners_free(r->listeners);
	upstreams_free(r->upstreams);
	limits_free(r->limits);
	tls_slots_free(r->slots);
	challenge_table_free(r->challenges);
	loop_free(r->loop);
	config_put(r->config);
	tls_fini();
	rcu_unregister_thread();
}

static inline struct side *rig_connect(const struct rig *r)
{
	struct addr a = loopback(r->port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	SP_ASSERT(fd >= 0);
	if (connect(fd, &a.sa, a.len) != 0) {
		(void)close(fd);
		return NULL;
	}
	return side_new(fd);
}

/* A proxy with one route to o, and settings ("timeouts: {...};") before it. */
static inline void rig_forward(struct rig *r, const struct origin *o, const char *settings)
{
	uint16_t port = free_port();
	rig_start(r,
		  load_text("%s routes: ( { name = \"all\"; match = { address = \"127.0.0.1\"; "
			    "ports = [ %u ]; }; "
			    "action = { type = \"forward\"; targets = ( { host = \"127.0.0.1\"; "
			    "port = %u; } ); }; } );",
			    settings, (unsigned)port, (unsigned)o->port),
		  port);
}

/* Sends a request and takes its answer. */
static inline bool ask(struct side *s, const char *request, struct message *m)
{
	return side_puts(s, request) && take_message(s, m, strncmp(request, "HEAD ", 5) != 0);
}

/* A proxy that answers "ok" to everything. */
static inline void rig_respond(struct rig *r)
{
	uint16_t port = free_port();
	rig_start(r,
		  load_text("routes: ( { name = \"all\"; match = { address = \"127.0.0.1\"; ports "
			    "= [ %u ]; };"
			    "action = { type = \"respond\"; body = \"ok\"; }; } );",
			    (unsigned)port),
		  port);
}

/* The update in which nobody wants the port any more. Returns the address to open again. */
static inline struct addr rig_give_up_port(struct rig *r)
{
	sp_role_assume_control();
	struct listener_set *set = listeners_at(r->listeners, 0);
	struct addr addr = set->addr;
	struct listener_change *change = NULL;
	struct port_error error;
	ck_assert_int_eq(listeners_open(r->listeners, NULL, 0, 0, &change, &error), ERR_OK);
	listeners_commit(r->listeners, change);
	ck_assert_int_eq(workers_release(r->workers, &set, 1, PATIENCE_MS), ERR_OK);
	ck_assert_int_eq(listeners_close(r->listeners, set, &error), ERR_OK);
	return addr;
}
