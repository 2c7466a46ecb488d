#pragma once
/* Tests of the control side of upstream: a control loop and one worker's, an origin and a name server on the control
 * loop that say what they are told to say. The test's own thread is all of them in turn. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../src/upstream/pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/resolver.h"
#include "tls_pair.h"

#define RIG_PATIENCE_MS 10000

static struct loop *control_loop, *worker_loop;
static struct resolver *resolver;
static struct upstreams *upstreams;
static struct config rig_config = {
	.dns = { .timeout_ms = 1000, .min_ttl_ms = 100, .max_ttl_ms = 500 }
};

/* ---- waiting ---- */

struct rig_alarm {
	struct timer timer;
	struct loop *loop;
};

static inline void rig_ring(struct timer *timer)
{
	loop_stop(SP_CONTAINER_OF(timer, struct rig_alarm, timer)->loop);
}

static inline void run_loop_ms(struct loop *loop, int64_t ms)
{
	struct rig_alarm alarm = { .timer.on_due = rig_ring, .loop = loop };
	loop_timer_arm(loop, &alarm.timer, clock_now_ms() + ms);
	loop_run(loop);
	loop_timer_disarm(loop, &alarm.timer);
}

/* Turns the control loop until that is so. */
#define WAIT_FOR(cond)                                             \
	do {                                                       \
		int64_t end_ms = clock_now_ms() + RIG_PATIENCE_MS; \
		while (!(cond) && clock_now_ms() < end_ms)         \
			run_loop_ms(control_loop, 5);              \
		ck_assert_msg((cond), "in vain: %s", #cond);       \
	} while (0)

/* ---- sockets ---- */

static inline int rig_socket(int type, const char *ip, uint16_t port, uint16_t *ret_port)
{
	struct addr a;
	socklen_t len = sizeof(a.v4);
	ck_assert_int_eq(addr_parse(ip, port, &a), ERR_OK);
	int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int one = 1;
	ck_assert_int_ge(fd, 0);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	ck_assert_int_eq(bind(fd, &a.sa, a.len), 0);
	ck_assert_int_eq(getsockname(fd, &a.sa, &len), 0);
	*ret_port = addr_port(&a);
	return fd;
}

/* ---- the origin ---- */

#define ORIGIN_SEEN_MAX 8192

struct origin {
	struct io io; /* listens */
	uint16_t port;
	const char *answer; /* to a whole request; NULL: none, the connection stays */
	size_t answer_len;  /* 0: strlen */
	bool closes_at_once;
	struct tls_worker *tls; /* NULL: plain */
	struct tls_cert *cert;
	char seen[ORIGIN_SEEN_MAX]; /* what came last, PROXY header included */
	size_t seen_len;
	unsigned connection_cnt, request_cnt;
	struct list conns;
};
struct origin_conn {
	struct io io;
	struct list link;
	struct task free_task;
	struct origin *origin;
	struct tls_conn *tls;
	bool is_shaken;
	char data[ORIGIN_SEEN_MAX];
	size_t len;
};

static inline void origin_free_conn(struct task *task)
{
	free(SP_CONTAINER_OF(task, struct origin_conn, free_task));
}

static inline void origin_close(struct origin_conn *c)
{
	int fd = c->io.fd;
	tls_conn_free(c->tls);
	list_remove(&c->link);
	loop_remove(control_loop, &c->io);
	(void)close(fd);
	c->free_task.run = origin_free_conn;
	loop_defer(control_loop, &c->free_task);
}

static inline enum step origin_read(struct origin_conn *c)
{
	char *at = c->data + c->len;
	size_t room = sizeof(c->data) - c->len, len = 0;
	if (c->tls != NULL && !c->is_shaken) {
		enum step step = tls_conn_handshake(c->tls);
		if (step != STEP_DONE)
			return step;
		c->is_shaken = true;
	}
	if (c->tls != NULL) {
		enum step step = tls_conn_read(c->tls, at, room, &len);
		c->len += len;
		return step;
	}
	ssize_t n = recv(c->io.fd, at, room, 0);
	if (n > 0)
		c->len += (size_t)n;
	if (n < 0)
		return errno == EAGAIN ? STEP_READ : STEP_FAIL;
	return n == 0 ? STEP_EOF : STEP_DONE;
}

static inline void origin_answer(struct origin_conn *c)
{
	struct origin *o = c->origin;
	memcpy(o->seen, c->data, c->len);
	o->seen_len = c->len;
	o->request_cnt++;
	if (o->answer == NULL)
		return;
	size_t len = o->answer_len != 0 ? o->answer_len : strlen(o->answer), sent = 0;
	if (c->tls != NULL)
		(void)tls_conn_write(c->tls, o->answer, len, &sent);
	else
		(void)send(c->io.fd, o->answer, len, MSG_NOSIGNAL);
	origin_close(c);
}

static inline void origin_on_conn(struct io *io, uint32_t events)
{
	struct origin_conn *c = SP_CONTAINER_OF(io, struct origin_conn, io);
	(void)events;
	for (;;) {
		enum step step = origin_read(c);
		if (step == STEP_READ || step == STEP_WRITE)
			return;
		if (step != STEP_DONE) {
			origin_close(c);
			return;
		}
		if (c->len >= 4 && memcmp(c->data + c->len - 4, "\r\n\r\n", 4) == 0) {
			origin_answer(c);
			return;
		}
	}
}

static inline void origin_on_listen(struct io *io, uint32_t events)
{
	struct origin *o = SP_CONTAINER_OF(io, struct origin, io);
	(void)events;
	int fd = accept4(io->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd < 0)
		return;
	o->connection_cnt++;
	struct origin_conn *c = o->closes_at_once ? NULL : calloc(1, sizeof(*c));
	if (c == NULL) {
		(void)close(fd);
		return;
	}
	c->io = (struct io){ .fd = fd, .on_ready = origin_on_conn };
	c->origin = o;
	list_append(&o->conns, &c->link);
	if (o->tls != NULL)
		ck_assert_int_eq(tls_conn_new(o->tls, fd, o->cert, 1, &c->tls), ERR_OK);
	ck_assert_int_eq(loop_add(control_loop, &c->io, EPOLLIN | EPOLLOUT | EPOLLET), ERR_OK);
}

/* port 0: the kernel's choice. */
static inline void origin_open_at(struct origin *o, const char *ip, uint16_t port)
{
	o->io = (struct io){ .fd = rig_socket(SOCK_STREAM, ip, port, &o->port),
			     .on_ready = origin_on_listen };
	list_init(&o->conns);
	ck_assert_int_eq(listen(o->io.fd, 64), 0);
	ck_assert_int_eq(loop_add(control_loop, &o->io, EPOLLIN), ERR_OK);
}

static inline void origin_open(struct origin *o)
{
	origin_open_at(o, "127.0.0.1", 0);
}

/* Nothing listens there any more. */
static inline void origin_shut(struct origin *o)
{
	if (o->io.fd < 0)
		return;
	while (!list_is_empty(&o->conns))
		origin_close(SP_CONTAINER_OF(o->conns.next, struct origin_conn, link));
	int fd = o->io.fd;
	loop_remove(control_loop, &o->io);
	(void)close(fd);
}

/* ---- the name server: one A record set for every name ---- */

struct names_server {
	struct io io;
	uint16_t port;
	const char *ips[4]; /* of A; none: rcode */
	uint32_t ttl_s;
	uint8_t rcode;
	bool is_silent;
	unsigned query_cnt; /* for A */
};

static inline void put_16(uint8_t *dst, unsigned value)
{
	dst[0] = (uint8_t)(value >> 8);
	dst[1] = (uint8_t)value;
}

static inline size_t names_answer(struct names_server *s, uint8_t *dns, size_t len)
{
	size_t end = 12;
	while (end < len && dns[end] != 0)
		end += dns[end] + 1U;
	end += 5; /* root, type, class */
	if (end > len)
		return 0;
	bool is_a = dns[end - 3] == 1;
	unsigned cnt = 0;
	s->query_cnt += is_a;
	dns[2] = 0x81 | (dns[2] & 1);
	dns[3] = 0x80 | s->rcode;
	for (; is_a && s->rcode == 0 && cnt < 4 && s->ips[cnt] != NULL; cnt++) {
		static const uint8_t head[] = { 0xc0, 12, 0, 1, 0, 1 };
		memcpy(dns + end, head, sizeof(head));
		put_16(dns + end + 6, s->ttl_s >> 16);
		put_16(dns + end + 8, s->ttl_s & 0xffff);
		put_16(dns + end + 10, 4);
		ck_assert_int_eq(inet_pton(AF_INET, s->ips[cnt], dns + end + 12), 1);
		end += 16;
	}
	put_16(dns + 6, cnt);
	put_16(dns + 8, 0);
	put_16(dns + 10, 0);
	return end;
}

static inline void names_on_ready(struct io *io, uint32_t events)
{
	struct names_server *s = SP_CONTAINER_OF(io, struct names_server, io);
	uint8_t dns[1024];
	struct sockaddr_storage from;
	socklen_t from_len = sizeof(from);
	(void)events;
	ssize_t n = recvfrom(io->fd, dns, 512, 0, (struct sockaddr *)&from, &from_len);
	if (n < 12)
		return;
	size_t len = names_answer(s, dns, (size_t)n);
	if (!s->is_silent && len > 0)
		(void)sendto(io->fd, dns, len, 0, (struct sockaddr *)&from, from_len);
}

static inline void names_server_open(struct names_server *s)
{
	s->io = (struct io){ .fd = rig_socket(SOCK_DGRAM, "127.0.0.1", 0, &s->port),
			     .on_ready = names_on_ready };
	ck_assert_int_eq(loop_add(control_loop, &s->io, EPOLLIN), ERR_OK);
}

static inline void names_server_shut(struct names_server *s)
{
	int fd = s->io.fd;
	loop_remove(control_loop, &s->io);
	(void)close(fd);
}

/* ---- the rig ---- */

static inline void rig_open(void) SP_TSA(assert_capability(sp_control));
static inline void rig_open(void)
{
	sp_role_assume_control();
	start();
	ck_assert_int_eq(loop_new(&control_loop), ERR_OK);
	ck_assert_int_eq(loop_new(&worker_loop), ERR_OK);
	ck_assert_int_eq(resolver_new(control_loop, &resolver), ERR_OK);
	ck_assert_int_eq(upstreams_new(1, control_loop, resolver, &upstreams), ERR_OK);
	ck_assert_int_eq(upstreams_configure(upstreams, &rig_config), ERR_OK);
	upstreams_set_loops(upstreams, &worker_loop);
}

/* As a process ends: the workers, then the registry, the resolver, the control loop. */
static inline void rig_close(void)
{
	sp_role_assume_control();
	upstreams_set_loops(upstreams, NULL);
	loop_free(worker_loop);
	upstreams_free(upstreams);
	resolver_free(resolver);
	loop_free(control_loop);
	sp_rcu_drain();
	finish();
}

static inline struct upstream *rig_get(const struct config_upstream *group, const char *host,
				       uint16_t port, const struct config_upstream_tls *tls)
{
	sp_role_assume_control();
	struct config_target target = { .host = host, .port = port, .weight = 1 };
	struct text why = { 0 };
	struct upstream *u = NULL;
	enum err e = registry_get(upstreams, group, &target, tls, &u, &why);
	ck_assert_msg(e == ERR_OK, "%s: %s", err_name(e), why.data != NULL ? why.data : "");
	text_fini(&why);
	return u;
}

static inline bool is_down(const struct upstream *u)
{
	return atomic_load(&u->is_down) != 0;
}
