/* proxy: what has no HTTP in it, or had: tunnels, PROXY headers, limits, views. */
#include <signal.h>

#include "proxy_rig.h"
#include "wire/proxy.h"

#define BULK_BYTES (24u << 20)

static struct rig rig;
static struct origin origin;
static int quick; /* of an origin's script: what a row wants */

/* A proxy with one raw TCP route to port. more: keys of the action; settings: keys before the routes. */
static void start_tcp_to(uint16_t target_port, const char *settings, const char *target,
			 const char *more)
{
	uint16_t port = free_port();
	char listeners[256] = "";
	if (strncmp(settings, "trusted ", 8) == 0) {
		(void)snprintf(listeners, sizeof(listeners),
			       "listeners: ( { ports = [ %u ]; address = \"127.0.0.1\"; "
			       "proxy_protocol = { trusted = [ \"%s\" ]; }; } );",
			       (unsigned)port, settings + 8);
		settings = listeners;
	}
	rig_start(&rig,
		  load_text("%s routes: ( { name = \"tcp\"; %s match = { address = \"127.0.0.1\"; "
			    "ports = [ %u ]; }; action = { type = \"forward\"; protocol = \"tcp\"; "
			    "targets = ( { host = \"127.0.0.1\"; port = %u; %s } ); }; } );",
			    settings, more, (unsigned)port, (unsigned)target_port, target),
		  port);
}

static void start_tcp(void (*serve)(struct origin *o, struct side *s, unsigned nth),
		      const char *settings, const char *target)
{
	origin_start(&origin, serve);
	start_tcp_to(origin.port, settings, target, "");
}

static void stop(void)
{
	rig_stop(&rig);
	origin_stop(&origin);
}

static uint64_t ends_of(enum exchange_end end)
{
	return rig_stats(&rig).conn_ends[end];
}

static void await_end(enum exchange_end end, uint64_t cnt)
{
	for (int64_t until_ms = clock_now_ms() + PATIENCE_MS; clock_now_ms() < until_ms; nap()) {
		if (ends_of(end) == cnt)
			return;
	}
	struct worker_stats stats = rig_stats(&rig);
	for (int i = 0; i < EXCHANGE_END_CNT; i++) {
		if (stats.conn_ends[i] > 0)
			printf("# %s: %llu\n", exchange_end_name((enum exchange_end)i),
			       (unsigned long long)stats.conn_ends[i]);
	}
	ck_abort_msg("%s: %llu, wanted %llu", exchange_end_name(end),
		     (unsigned long long)ends_of(end), (unsigned long long)cnt);
}

static void await_open(uint64_t cnt)
{
	int64_t until_ms = clock_now_ms() + PATIENCE_MS;
	while (rig_stats(&rig).connections_open != cnt && clock_now_ms() < until_ms)
		nap();
	ck_assert_uint_eq(rig_stats(&rig).connections_open, cnt);
}

static bool gives(struct side *s, const char *text)
{
	size_t len = side_until(s, text);
	bool is_same = len == strlen(text);
	side_use(s, len);
	return is_same;
}

/* ---- origins ---- */

static void serve_echo(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	while (side_fill(s) > 0) {
		if (!side_send(s, s->data, s->len))
			return;
		side_use(s, s->len);
	}
}

/* Speaks first, and echoes. */
static void serve_banner(struct origin *o, struct side *s, unsigned nth)
{
	(void)side_puts(s, "220 hello\r\n");
	serve_echo(o, s, nth);
}

/* Answers when the client has ended its side. */
static void serve_after_end(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	char text[64];
	ssize_t len = side_rest(s);
	(void)snprintf(text, sizeof(text), "%zd bytes", len);
	(void)side_puts(s, text);
}

/* Ends its side at once, and says what came by the way that it ends the other. */
static void serve_ends_first(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	(void)side_puts(s, "bye");
	(void)shutdown(s->fd, SHUT_WR);
	ssize_t len = side_rest(s);
	__atomic_store_n(&o->request_cnt, (unsigned)len, __ATOMIC_RELEASE);
}

static void set_reset(int fd)
{
	const struct linger reset = { .l_onoff = 1 };
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

static void serve_reset(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	(void)side_fill(s);
	set_reset(s->fd);
	(void)close(s->fd);
	s->fd = -1;
}

/* Waits for a reset: request_cnt 1 is one, 2 an end in good order. */
static void serve_awaits_reset(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	(void)side_puts(s, "go");
	ssize_t n = side_rest(s);
	__atomic_store_n(&o->request_cnt, n < 0 && errno == ECONNRESET ? 1 : 2, __ATOMIC_RELEASE);
}

static void await_origin(unsigned request_cnt)
{
	int64_t until_ms = clock_now_ms() + PATIENCE_MS;
	while (__atomic_load_n(&origin.request_cnt, __ATOMIC_ACQUIRE) == 0 &&
	       clock_now_ms() < until_ms)
		nap();
	ck_assert_uint_eq(origin.request_cnt, request_cnt);
}

static char bulk_byte(size_t i)
{
	return (char)(i * 131 + (i >> 11));
}

static bool send_bulk(struct side *s)
{
	static _Thread_local char block[100003];
	for (size_t at = 0; at < BULK_BYTES;) {
		size_t len = BULK_BYTES - at < sizeof(block) ? BULK_BYTES - at : sizeof(block);
		for (size_t i = 0; i < len; i++)
			block[i] = bulk_byte(at + i);
		if (!side_send(s, block, len))
			return false;
		at += len;
	}
	return true;
}

/* All of it, in order; what came before is in s. pause: every so many bytes it does not read for a moment. */
static bool take_bulk(struct side *s, size_t pause)
{
	for (size_t at = 0; at < BULK_BYTES;) {
		if (s->len == 0 && side_fill(s) <= 0)
			return false;
		for (size_t i = 0; i < s->len; i++) {
			if (s->data[i] != bulk_byte(at + i))
				return false;
		}
		if (pause > 0 && at / pause != (at + s->len) / pause)
			nap();
		at += s->len;
		side_use(s, s->len);
	}
	return true;
}

static void serve_bulk_both(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	bool is_fine = take_bulk(s, (size_t)quick) && send_bulk(s);
	__atomic_store_n(&o->request_cnt, is_fine ? 1 : 2, __ATOMIC_RELEASE);
}

/* ---- tunnels ---- */

START_TEST(server_first)
{
	start_tcp(serve_banner, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(gives(s, "220 hello\r\n"));
	ck_assert(side_puts(s, "ping") && gives(s, "ping"));
	side_free(s);
	await_end(EXCHANGE_END_DONE, 1);
	struct worker_stats stats = rig_stats(&rig);
	ck_assert_uint_eq(stats.tunnel_bytes_in, 4);
	ck_assert_uint_eq(stats.tunnel_bytes_out, 15);
	ck_assert_uint_eq(stats.tunnels_opened, 1);
	ck_assert_uint_eq(stats.tunnels_open, 0);
	ck_assert_uint_eq(stats.splices, 0);
	stop();
}
END_TEST

START_TEST(half_close_of_client)
{
	start_tcp(serve_after_end, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, "four"));
	ck_assert_int_eq(shutdown(s->fd, SHUT_WR), 0);
	ck_assert_int_eq(side_rest(s), 7);
	ck_assert_str_eq(s->data, "4 bytes");
	side_free(s);
	await_end(EXCHANGE_END_DONE, 1);
	stop();
}
END_TEST

START_TEST(half_close_of_target)
{
	start_tcp(serve_ends_first, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert_int_eq(side_rest(s), 3);
	for (int i = 0; i < 5; i++) {
		nap();
		ck_assert(side_puts(s, "12345678"));
	}
	ck_assert_int_eq(shutdown(s->fd, SHUT_WR), 0);
	await_origin(40);
	await_end(EXCHANGE_END_DONE, 1);
	side_free(s);
	stop();
}
END_TEST

START_TEST(reset_of_target)
{
	start_tcp(serve_reset, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, "x"));
	ck_assert_int_eq(side_fill(s), -1);
	ck_assert_int_eq(errno, ECONNRESET);
	side_free(s);
	await_end(EXCHANGE_END_UPSTREAM_GONE, 1);
	stop();
}
END_TEST

START_TEST(reset_of_client)
{
	start_tcp(serve_awaits_reset, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(gives(s, "go"));
	set_reset(s->fd);
	side_free(s);
	await_origin(1);
	await_end(EXCHANGE_END_CLIENT_GONE, 1);
	stop();
}
END_TEST

/* A target that answers without reading what it is sent: the answer comes through. */
static void serve_early_end(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	(void)side_puts(s, "no more of it");
	(void)shutdown(s->fd, SHUT_RDWR);
}

START_TEST(answer_of_one_that_reads_not)
{
	start_tcp(serve_early_end, "", "");
	struct side *s = rig_connect(&rig);
	for (int i = 0; i < 50 && side_puts(s, "some of an upload"); i++)
		;
	ck_assert(gives(s, "no more of it"));
	side_free(s);
	await_open(0);
	stop();
}
END_TEST

static void *send_bulk_thread(void *arg)
{
	return send_bulk(arg) ? arg : NULL;
}

static const int pauses[] = { 0, 1 << 20 };

START_TEST(bulk_both_ways)
{
	quick = pauses[_i];
	start_tcp(serve_bulk_both, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(send_bulk(s));
	ck_assert(take_bulk(s, (size_t)quick));
	ck_assert_uint_eq(origin.request_cnt, 1);
	side_free(s);
	await_end(EXCHANGE_END_DONE, 1);
	struct worker_stats stats = rig_stats(&rig);
	ck_assert_uint_eq(stats.tunnel_bytes_in, BULK_BYTES);
	ck_assert_uint_eq(stats.tunnel_bytes_out, BULK_BYTES);
	ck_assert_uint_eq(stats.client_bytes_in, BULK_BYTES);
	ck_assert_uint_eq(stats.client_bytes_out, BULK_BYTES);
	ck_assert_uint_eq(stats.upstream_bytes_in, BULK_BYTES);
	ck_assert_uint_eq(stats.upstream_bytes_out, BULK_BYTES);
	ck_assert_uint_gt(stats.splices, 0);
	stop();
}
END_TEST

static void serve_big_echo(struct origin *o, struct side *s, unsigned nth)
{
	serve_echo(o, s, nth);
}

/* Both directions at once through one tunnel. */
START_TEST(bulk_at_once)
{
	start_tcp(serve_big_echo, "", "");
	struct side *s = rig_connect(&rig);
	pthread_t sender;
	void *is_fine = NULL;
	struct side *out = side_new(dup(s->fd));
	ck_assert_int_eq(pthread_create(&sender, NULL, send_bulk_thread, out), 0);
	ck_assert(take_bulk(s, 0));
	(void)pthread_join(sender, &is_fine);
	ck_assert_ptr_nonnull(is_fine);
	side_free(out);
	side_free(s);
	await_end(EXCHANGE_END_DONE, 1);
	ck_assert_uint_eq(rig_stats(&rig).tunnel_bytes_out, BULK_BYTES);
	stop();
}
END_TEST

/* Takes in little at a time, whatever it is. */
static void serve_slowly(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	for (; side_fill(s) > 0; nap())
		side_use(s, s->len);
}

/* A reset while bytes are in a pipe. */
START_TEST(reset_in_bulk)
{
	start_tcp(serve_slowly, "", "");
	struct side *s = rig_connect(&rig);
	static char block[1 << 20];
	for (int i = 0; i < 8; i++)
		(void)side_send(s, block, sizeof(block));
	set_reset(s->fd);
	side_free(s);
	await_end(EXCHANGE_END_CLIENT_GONE, 1);
	stop();
}
END_TEST

static const struct {
	const char *settings;
	enum exchange_end end;
} lives[] = {
	{ "timeouts: { tunnel_idle = \"400ms\"; };", EXCHANGE_END_TUNNEL_IDLE },
	{ "timeouts: { tunnel_max = \"400ms\"; };", EXCHANGE_END_TUNNEL_OVER },
};

START_TEST(life)
{
	start_tcp(serve_echo, lives[_i].settings, "");
	struct side *s = rig_connect(&rig);
	int64_t start_ms = clock_now_ms(), fed_ms = start_ms;
	/* Bytes keep an idle one alive, and not one that is over. */
	while (clock_now_ms() - start_ms < 700 && side_puts(s, "x") && side_fill(s) > 0) {
		fed_ms = clock_now_ms();
		(void)poll(NULL, 0, 20);
	}
	ck_assert((fed_ms - start_ms > 500) == (_i == 0));
	ck_assert_int_ge(side_rest(s), 0); /* in good order */
	await_end(lives[_i].end, 1);
	side_free(s);
	stop();
}
END_TEST

/* No timer of HTTP is for tunnels. */
START_TEST(outlives_http)
{
	start_tcp(serve_echo,
		  "timeouts: { header = \"150ms\"; idle = \"150ms\"; response = \"150ms\"; total = "
		  "\"150ms\"; "
		  "hello = \"150ms\"; };",
		  "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, "a") && gives(s, "a"));
	(void)poll(NULL, 0, 500);
	ck_assert(side_puts(s, "b") && gives(s, "b"));
	side_free(s);
	await_end(EXCHANGE_END_DONE, 1);
	stop();
}
END_TEST

START_TEST(refused)
{
	start_tcp_to(free_port(), "", "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, "anybody there?"));
	ck_assert_int_eq(side_rest(s), 0); /* an end, no reset */
	side_free(s);
	await_end(EXCHANGE_END_CONNECT_FAILED, 1);
	rig_stop(&rig);
}
END_TEST

/* A port that drops SYNs: its queue is full. */
struct dead_port {
	int fd, fillers[8];
	uint16_t port;
};

static void dead_port_open(struct dead_port *d)
{
	d->fd = bound_socket();
	d->port = port_of(d->fd);
	ck_assert_int_eq(listen(d->fd, 0), 0);
	struct addr a = loopback(d->port);
	for (size_t i = 0; i < SP_ARRAY_LEN(d->fillers); i++) {
		d->fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
		(void)connect(d->fillers[i], &a.sa, a.len);
	}
}

static void dead_port_close(struct dead_port *d)
{
	for (size_t i = 0; i < SP_ARRAY_LEN(d->fillers); i++)
		(void)close(d->fillers[i]);
	(void)close(d->fd);
}

static const struct {
	const char *settings, *sends;
	bool is_reset, has_stayed;
	enum exchange_end end;
	int64_t at_most_ms;
} unreachable[] = {
	{ "", "", false, false, EXCHANGE_END_CLIENT_GONE, 3000 },
	{ "", "select 1", false, false, EXCHANGE_END_CLIENT_GONE, 3000 },
	{ "", "select 1", true, false, EXCHANGE_END_CLIENT_GONE, 500 },
	{ "timeouts: { connect = \"150ms\"; };", "x", false, true, EXCHANGE_END_CONNECT_TIMEOUT,
	  3000 },
};

START_TEST(target_out_of_reach)
{
	struct dead_port dead;
	dead_port_open(&dead);
	start_tcp_to(dead.port, unreachable[_i].settings, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, unreachable[_i].sends));
	await_open(1);
	int64_t start_ms = clock_now_ms();
	if (unreachable[_i].is_reset)
		set_reset(s->fd);
	if (unreachable[_i].has_stayed)
		ck_assert_int_eq(side_rest(s), 0);
	else
		side_free(s);
	await_end(unreachable[_i].end, 1);
	ck_assert_int_lt(clock_now_ms() - start_ms, unreachable[_i].at_most_ms);
	if (unreachable[_i].has_stayed)
		side_free(s);
	rig_stop(&rig);
	dead_port_close(&dead);
}
END_TEST

/* What a client sends while its tunnel waits for a place is kept, more than a buffer of it held back. */
START_TEST(waits_for_a_place)
{
	start_tcp(serve_bulk_both, "", "max_connections = 1;");
	struct side *first = rig_connect(&rig), *second = NULL;
	ck_assert(side_puts(first, "?"));
	while (__atomic_load_n(&origin.conn_cnt, __ATOMIC_ACQUIRE) < 1)
		nap();
	second = rig_connect(&rig);
	pthread_t sender;
	void *is_fine = NULL;
	struct side *out = side_new(dup(second->fd));
	ck_assert_int_eq(pthread_create(&sender, NULL, send_bulk_thread, out), 0);
	await_open(2);
	for (int i = 0; i < 20; i++)
		nap();
	ck_assert_uint_eq(origin.conn_cnt, 1);
	ck_assert_uint_le(rig_stats(&rig).client_bytes_in, 1 + BUF_BYTES);
	side_free(first);
	ck_assert(take_bulk(second, 0));
	(void)pthread_join(sender, &is_fine);
	ck_assert_ptr_nonnull(is_fine);
	side_free(out);
	side_free(second);
	await_open(0);
	stop();
}
END_TEST

/* ---- TLS that is passed through ---- */

/* A ClientHello for name, TLS 1.2, of nothing but a server_name. */
static size_t write_hello(uint8_t *dst, const char *name)
{
	size_t name_len = strlen(name), at = 0;
	size_t ext_len = name_len + 9, body_len = 2 + 32 + 1 + 4 + 2 + 2 + ext_len;
	const uint8_t head[] = { 22,
				 3,
				 1,
				 (uint8_t)((body_len + 4) >> 8),
				 (uint8_t)(body_len + 4),
				 1,
				 0,
				 (uint8_t)(body_len >> 8),
				 (uint8_t)body_len,
				 3,
				 3 };
	memcpy(dst, head, sizeof(head));
	at = sizeof(head);
	memset(dst + at, 7, 32);
	at += 32;
	const uint8_t middle[] = { 0,
				   0,
				   2,
				   0xc0,
				   0x2f,
				   1,
				   0,
				   0,
				   (uint8_t)ext_len,
				   0,
				   0,
				   0,
				   (uint8_t)(name_len + 5),
				   0,
				   (uint8_t)(name_len + 3),
				   0,
				   0,
				   (uint8_t)name_len };
	memcpy(dst + at, middle, sizeof(middle));
	at += sizeof(middle);
	memcpy(dst + at, name, name_len);
	return at + name_len;
}

static void start_passthrough(uint16_t target_port, const char *more)
{
	uint16_t port = free_port();
	rig_start(
		&rig,
		load_text(
			"routes: ( { name = \"pass\"; %s match = { address = \"127.0.0.1\"; ports "
			"= [ %u ]; domains = [ \"a.example\" ]; }; action = { type = "
			"\"forward\"; targets = ( { host = \"127.0.0.1\"; port = %u; } ); tls = "
			"{ mode = \"passthrough\"; }; }; } );",
			more, (unsigned)port, (unsigned)target_port),
		port);
}

static void check_alert(struct side *s, uint8_t description)
{
	const uint8_t alert[] = { 21, 3, 1, 0, 2, 2, description };
	ck_assert_int_eq(side_rest(s), sizeof(alert));
	ck_assert_mem_eq(s->data, alert, sizeof(alert));
	side_use(s, s->len);
}

START_TEST(passed_through)
{
	uint8_t hello[512];
	size_t len = write_hello(hello, "a.example");
	origin_start(&origin, serve_echo);
	start_passthrough(origin.port, "");
	for (size_t cut = 1; cut < len; cut += 7) {
		struct side *s = rig_connect(&rig);
		ck_assert(side_send(s, hello, cut));
		nap();
		ck_assert(side_send(s, hello + cut, len - cut) && side_puts(s, "more"));
		while (s->len < len + 4)
			ck_assert_int_gt(side_fill(s), 0);
		ck_assert_mem_eq(s->data, hello, len);
		ck_assert_mem_eq(s->data + len, "more", 4);
		side_free(s);
	}
	await_open(0);
	struct worker_stats stats = rig_stats(&rig);
	ck_assert_uint_eq(stats.tunnel_bytes_in, (len + 4) * stats.tunnels_opened);
	ck_assert_uint_eq(stats.client_bytes_in, stats.tunnel_bytes_in);
	stop();
}
END_TEST

static const struct {
	const char *sends; /* NULL: a ClientHello for name */
	const char *name, *more;
	uint8_t description;
	enum exchange_end end;
} alerts[] = {
	{ NULL, "b.example", "", 112, EXCHANGE_END_NO_ROUTE },
	{ NULL, "a.example", "", 80, EXCHANGE_END_CONNECT_FAILED },
	{ "\x16\x03\x01\xff\xff\x01", NULL, "", 50, EXCHANGE_END_TLS_FAILED },
};

START_TEST(alert)
{
	uint8_t hello[512];
	start_passthrough(free_port(), alerts[_i].more);
	struct side *s = rig_connect(&rig);
	if (alerts[_i].sends != NULL)
		ck_assert(side_puts(s, alerts[_i].sends));
	else
		ck_assert(side_send(s, hello, write_hello(hello, alerts[_i].name)));
	check_alert(s, alerts[_i].description);
	side_free(s);
	await_end(alerts[_i].end, 1);
	rig_stop(&rig);
}
END_TEST

START_TEST(limited_passthrough)
{
	uint8_t hello[512];
	size_t len = write_hello(hello, "a.example");
	origin_start(&origin, serve_echo);
	start_passthrough(origin.port, "max_connections = 1;");
	struct side *first = rig_connect(&rig);
	ck_assert(side_send(first, hello, len) && side_fill(first) > 0);
	struct side *second = rig_connect(&rig);
	ck_assert(side_send(second, hello, len));
	check_alert(second, 80);
	side_free(second);
	await_end(EXCHANGE_END_LIMITED, 1);
	side_free(first);
	await_open(0);
	first = rig_connect(&rig); /* the place was given back */
	ck_assert(side_send(first, hello, len) && side_fill(first) > 0);
	side_free(first);
	stop();
}
END_TEST

/* ---- PROXY headers ---- */

/* Says what header came first, and echoes. */
static void serve_header(struct origin *o, struct side *s, unsigned nth)
{
	struct wire_proxy header;
	enum wire_proxy_reason reason;
	enum wire_step step = WIRE_MORE;
	size_t used = 0;
	while (step == WIRE_MORE && side_fill(s) > 0)
		step = wire_proxy_parse((const uint8_t *)s->data, s->len, &header, &used, &reason);
	if (step != WIRE_DONE)
		return;
	char text[512];
	int len = snprintf(
		text, sizeof(text), "v%u %u.%u.%u.%u:%u %u.%u.%u.%u:%u %.*s %.*s %d\n",
		header.version, header.src[0], header.src[1], header.src[2], header.src[3],
		header.src_port, header.dst[0], header.dst[1], header.dst[2], header.dst[3],
		header.dst_port, (int)header.unique_id.len,
		header.unique_id.at == NULL ? "" : header.unique_id.at, (int)header.authority.len,
		header.authority.at == NULL ? "" : header.authority.at, header.has_checksum);
	side_use(s, used);
	(void)side_send(s, text, (size_t)len);
	(void)side_send(s, s->data, s->len);
	side_use(s, s->len);
	serve_echo(o, s, nth);
}

#define V1 "PROXY TCP4 203.0.113.7 198.51.100.9 4711 443\r\n"

static size_t write_v2(uint8_t *dst, enum wire_proxy_family family)
{
	struct wire_proxy header = {
		.version = 2,
		.family = family,
		.src = { 203, 0, 113, 7 },
		.dst = { 198, 51, 100, 9 },
		.src_port = 4711,
		.dst_port = 443,
		.unique_id = { "id-1", 4 },
		.authority = { "a.example", 9 },
		.has_checksum = true,
	};
	return wire_proxy_write_v2(&header, dst, 600);
}

static const struct {
	bool is_v2;
	const char *target, *answer;
} headers[] = {
	{ false, "v1", "v1 203.0.113.7:4711 198.51.100.9:443   0\n" },
	{ false, "v2", "v2 203.0.113.7:4711 198.51.100.9:443   1\n" },
	{ true, "v1", "v1 203.0.113.7:4711 198.51.100.9:443   0\n" },
	{ true, "v2", "v2 203.0.113.7:4711 198.51.100.9:443 id-1 a.example 1\n" },
};

START_TEST(header_passed_on)
{
	char target[64];
	uint8_t header[600];
	(void)snprintf(target, sizeof(target), "proxy_protocol = \"%s\";", headers[_i].target);
	start_tcp(serve_header, "trusted 127.0.0.0/8", target);
	size_t len = headers[_i].is_v2 ? write_v2(header, WIRE_PROXY_TCP4) : strlen(V1);
	const void *data = headers[_i].is_v2 ? (const void *)header : V1;
	for (size_t cut = 1; cut <= len; cut += 5) {
		struct side *s = rig_connect(&rig);
		ck_assert(side_send(s, data, cut));
		if (cut % 2 == 0)
			nap();
		ck_assert(side_send(s, (const char *)data + cut, len - cut));
		ck_assert(side_puts(s, "and on"));
		ck_assert(gives(s, headers[_i].answer));
		ck_assert(gives(s, "and on"));
		side_free(s);
	}
	await_open(0);
	ck_assert_uint_eq(rig_stats(&rig).proxy_headers, rig_stats(&rig).tunnels_opened);
	stop();
}
END_TEST

/* The health check of the proxy in front: its own addresses. */
START_TEST(local_header)
{
	uint8_t header[600];
	char want[64];
	start_tcp(serve_header, "trusted 127.0.0.1", "proxy_protocol = \"v1\";");
	struct side *s = rig_connect(&rig);
	ck_assert(side_send(s, header, write_v2(header, WIRE_PROXY_LOCAL)));
	(void)snprintf(want, sizeof(want), "v1 127.0.0.1:%u 127.0.0.1:%u   0\n",
		       (unsigned)port_of(s->fd), (unsigned)rig.port);
	ck_assert(gives(s, want));
	side_free(s);
	stop();
}
END_TEST

static const struct {
	const char *trusted, *sends;
	enum exchange_end end;
	int reason; /* -1: none is counted */
} lies[] = {
	{ "127.0.0.1", "GET / HTTP/1.1\r\n\r\n", EXCHANGE_END_PROXY_MALFORMED,
	  WIRE_PROXY_NO_SIGNATURE },
	{ "127.0.0.1", "PROXY TCP4 1.2.3.4 5.6.7.8 1 99999\r\n", EXCHANGE_END_PROXY_MALFORMED,
	  WIRE_PROXY_BAD_LINE },
	{ "127.0.0.1", "PROXY TCP4 1.2.3.4", EXCHANGE_END_PROXY_MALFORMED, WIRE_PROXY_BAD_LENGTH },
	{ "127.0.0.1", "", EXCHANGE_END_CLOSED, -1 },
	{ "192.0.2.0/24", V1 "GET / HTTP/1.1\r\n", EXCHANGE_END_PROXY_UNTRUSTED, -1 },
	{ "192.0.2.0/24", "\r\n\r\n\0\r\nQUIT\n", EXCHANGE_END_PROXY_UNTRUSTED, -1 },
};

START_TEST(lie)
{
	uint16_t port = free_port();
	rig_start(
		&rig,
		load_text(
			"listeners: ( { ports = [ %u ]; address = \"127.0.0.1\"; proxy_protocol = "
			"{ trusted = [ \"%s\" ]; }; } ); routes: ( { name = \"all\"; match = { "
			"address = \"127.0.0.1\"; ports = [ %u ]; }; action = { type = "
			"\"respond\"; body = \"ok\"; }; } );",
			(unsigned)port, lies[_i].trusted, (unsigned)port),
		port);
	struct side *s = rig_connect(&rig);
	/* Row 5 has a NUL in it: the whole signature of version 2. */
	ck_assert(side_send(s, lies[_i].sends, _i == 5 ? 12 : strlen(lies[_i].sends)));
	ck_assert_int_eq(shutdown(s->fd, SHUT_WR), 0);
	ck_assert_int_le(side_rest(s), 0);
	side_free(s);
	await_end(lies[_i].end, 1);
	uint64_t sum = 0;
	for (int i = 0; i < 8; i++)
		sum += rig_stats(&rig).proxy_rejects[i];
	ck_assert_uint_eq(sum, lies[_i].reason >= 0);
	if (lies[_i].reason >= 0)
		ck_assert_uint_eq(rig_stats(&rig).proxy_rejects[lies[_i].reason], 1);
	rig_stop(&rig);
}
END_TEST

/* Who is not trusted and says nothing of PROXY is an ordinary client, however its first bytes come. */
START_TEST(ordinary_client)
{
	static const char request[] = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
	uint16_t port = free_port();
	rig_start(
		&rig,
		load_text(
			"listeners: ( { ports = [ %u ]; address = \"127.0.0.1\"; proxy_protocol = "
			"{ trusted = [ \"192.0.2.1\" ]; }; } ); routes: ( { name = \"all\"; match "
			"= { address = \"127.0.0.1\"; ports = [ %u ]; }; action = { type = "
			"\"respond\"; body = \"ok\"; }; } );",
			(unsigned)port, (unsigned)port),
		port);
	struct side *s = rig_connect(&rig);
	struct message m;
	for (size_t i = 0; i < sizeof(request) - 1; i++) {
		ck_assert(side_send(s, request + i, 1));
		if (i < 3)
			nap();
	}
	ck_assert(take_message(s, &m, true));
	ck_assert_uint_eq(m.status, 200);
	side_free(s);
	await_end(EXCHANGE_END_CLOSED, 1);
	rig_stop(&rig);
}
END_TEST

/* ---- limits ---- */

static const struct {
	const char *settings, *more, *header;
	enum exchange_end end;
} limits[] = {
	{ "limits: { connections = 2; };", "", "", EXCHANGE_END_OVER_LIMIT },
	{ "limits: { connections_per_ip = 2; };", "", "", EXCHANGE_END_OVER_LIMIT_IP },
	{ "limits: { connection_rate_per_ip = 1; connection_burst_per_ip = 2; };", "", "",
	  EXCHANGE_END_OVER_RATE_IP },
	{ "", "max_connections = 2;", "", EXCHANGE_END_LIMITED },
};

START_TEST(limit)
{
	origin_start(&origin, serve_echo);
	start_tcp_to(origin.port, limits[_i].settings, "", limits[_i].more);
	struct side *s[3];
	for (int i = 0; i < 2; i++) {
		s[i] = rig_connect(&rig);
		ck_assert(side_puts(s[i], "x") && gives(s[i], "x"));
	}
	s[2] = rig_connect(&rig);
	ck_assert_int_le(side_rest(s[2]), 0);
	side_free(s[2]);
	await_end(limits[_i].end, 1);
	ck_assert_uint_eq(limits_connection_cnt(rig.limits), 2);
	side_free(s[0]);
	side_free(s[1]);
	await_open(0);
	ck_assert_uint_eq(limits_connection_cnt(rig.limits), 0);
	for (int i = 0; i < 2 && limits[_i].end != EXCHANGE_END_OVER_RATE_IP; i++) {
		s[i] = rig_connect(&rig);
		ck_assert(side_puts(s[i], "x") && gives(s[i], "x"));
	}
	for (int i = 0; i < 2 && limits[_i].end != EXCHANGE_END_OVER_RATE_IP; i++)
		side_free(s[i]);
	stop();
}
END_TEST

/* Behind a proxy in front a client is who the header names: two of one, and others still. */
START_TEST(limit_behind_proxy)
{
	uint16_t port = free_port();
	origin_start(&origin, serve_echo);
	rig_start(
		&rig,
		load_text(
			"limits: { connections_per_ip = 1; }; listeners: ( { ports = [ %u ]; "
			"address "
			"= \"127.0.0.1\"; proxy_protocol = { trusted = [ \"127.0.0.1\" ]; }; } ); "
			"routes: ( { name = \"tcp\"; match = { address = \"127.0.0.1\"; ports = [ "
			"%u ]; }; action = { type = \"forward\"; protocol = \"tcp\"; targets = ( "
			"{ host = \"127.0.0.1\"; port = %u; } ); }; } );",
			(unsigned)port, (unsigned)port, (unsigned)origin.port),
		port);
	struct side *s[3];
	char header[128];
	for (int i = 0; i < 3; i++) {
		s[i] = rig_connect(&rig);
		(void)snprintf(header, sizeof(header),
			       "PROXY TCP4 203.0.113.%d 198.51.100.9 5 6\r\n", i);
		ck_assert(side_puts(s[i], header) && side_puts(s[i], "x") && gives(s[i], "x"));
	}
	struct side *one_more = rig_connect(&rig);
	ck_assert(side_puts(one_more, header));
	ck_assert_int_le(side_rest(one_more), 0);
	side_free(one_more);
	await_end(EXCHANGE_END_OVER_LIMIT_IP, 1);
	for (int i = 0; i < 3; i++)
		side_free(s[i]);
	await_open(0);
	ck_assert_uint_eq(limits_address_cnt(rig.limits), 0);
	stop();
}
END_TEST

/* ---- WebSocket ---- */

#define UPGRADE                                                                        \
	"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
	"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
#define SWITCHED                                                                            \
	"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" \
	"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

static void serve_websocket(struct origin *o, struct side *s, unsigned nth)
{
	struct message m;
	if (!take_head(s, &m) || !side_puts(s, SWITCHED "early"))
		return;
	(void)side_send(s, s->data, s->len);
	side_use(s, s->len);
	serve_echo(o, s, nth);
}

START_TEST(websocket)
{
	origin_start(&origin, serve_websocket);
	rig_forward(&rig, &origin,
		    "timeouts: { idle = \"150ms\"; response = \"150ms\"; total = \"150ms\"; };");
	struct side *s = rig_connect(&rig);
	struct message m;
	ck_assert(side_puts(s, UPGRADE "hasty"));
	ck_assert(take_head(s, &m));
	ck_assert_uint_eq(m.status, 101);
	ck_assert(gives(s, "early"));
	ck_assert(gives(s, "hasty"));
	(void)poll(NULL, 0, 500);
	ck_assert(side_puts(s, "late") && gives(s, "late"));
	ck_assert_int_eq(shutdown(s->fd, SHUT_WR), 0);
	ck_assert_int_eq(side_rest(s), 0);
	side_free(s);
	await_end(EXCHANGE_END_DONE, 1);
	struct worker_stats stats = rig_stats(&rig);
	ck_assert_uint_eq(stats.websockets_opened, 1);
	ck_assert_uint_eq(stats.tunnel_bytes_in, 9);
	ck_assert_uint_eq(stats.tunnel_bytes_out, 14);
	ck_assert_uint_eq(stats.responses[1], 1);
	ck_assert_uint_eq(stats.ends[EXCHANGE_END_DONE], 1);
	stop();
}
END_TEST

/* ---- generations, views, the end ---- */

START_TEST(keeps_no_generation)
{
	sp_role_assume_control();
	start_tcp(serve_echo, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, "x") && gives(s, "x"));
	for (int i = 0; i < 3; i++) {
		struct generation *g = NULL;
		struct text text = { 0 };
		ck_assert_int_eq(generation_build(rig.generations, rig.config, false, &g, &text),
				 ERR_OK);
		generation_publish(rig.generations, g);
	}
	ck_assert_uint_eq(generation_reap(rig.generations), 0);
	ck_assert(side_puts(s, "y") && gives(s, "y"));
	side_free(s);
	stop();
}
END_TEST

START_TEST(viewed)
{
	sp_role_assume_control();
	start_tcp(serve_echo, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, "four") && gives(s, "four"));
	struct conn_view *views = NULL;
	size_t cnt = 0;
	ck_assert_int_eq(workers_connections(rig.workers, 100, &views, &cnt), ERR_OK);
	ck_assert_uint_eq(cnt, 1);
	char want[64];
	(void)snprintf(want, sizeof(want), "127.0.0.1:%u", (unsigned)origin.port);
	ck_assert_str_eq(views[0].route, "tcp");
	ck_assert_str_eq(views[0].upstream, want);
	ck_assert_str_eq(views[0].state, "tunnel");
	ck_assert(views[0].is_tunnel && !views[0].is_websocket);
	ck_assert_uint_eq(views[0].bytes_in, 4);
	ck_assert_uint_eq(views[0].bytes_out, 4);
	ck_assert_uint_eq(addr_port(&views[0].client), port_of(s->fd));
	free(views);
	ck_assert_int_eq(workers_connections(rig.workers, 0, &views, &cnt), ERR_OK);
	ck_assert_uint_eq(cnt, 0);
	free(views);
	side_free(s);
	stop();
}
END_TEST

START_TEST(shutdown_of_all)
{
	sp_role_assume_control();
	start_tcp(serve_echo, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, "x") && gives(s, "x"));
	workers_drain(rig.workers);
	ck_assert(side_puts(s, "y") && gives(s, "y"));
	workers_stop(rig.workers);
	rig.workers = NULL;
	ck_assert_int_le(side_rest(s), 0);
	ck_assert_uint_eq(limits_connection_cnt(rig.limits), 0);
	side_free(s);
	stop();
}
END_TEST

static void add_tunnels(Suite *suite)
{
	TCase *tc = tcase_create("tunnel");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, server_first);
	tcase_add_test(tc, half_close_of_client);
	tcase_add_test(tc, half_close_of_target);
	tcase_add_test(tc, reset_of_target);
	tcase_add_test(tc, reset_of_client);
	tcase_add_test(tc, answer_of_one_that_reads_not);
	tcase_add_loop_test(tc, bulk_both_ways, 0, SP_ARRAY_LEN(pauses));
	tcase_add_test(tc, bulk_at_once);
	tcase_add_test(tc, reset_in_bulk);
	tcase_add_loop_test(tc, life, 0, SP_ARRAY_LEN(lives));
	tcase_add_test(tc, outlives_http);
	tcase_add_test(tc, refused);
	tcase_add_loop_test(tc, target_out_of_reach, 0, SP_ARRAY_LEN(unreachable));
	tcase_add_test(tc, waits_for_a_place);
	suite_add_tcase(suite, tc);
}

static void add_others(Suite *suite)
{
	TCase *tc = tcase_create("conn");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, passed_through);
	tcase_add_loop_test(tc, alert, 0, SP_ARRAY_LEN(alerts));
	tcase_add_test(tc, limited_passthrough);
	tcase_add_loop_test(tc, header_passed_on, 0, SP_ARRAY_LEN(headers));
	tcase_add_test(tc, local_header);
	tcase_add_loop_test(tc, lie, 0, SP_ARRAY_LEN(lies));
	tcase_add_test(tc, ordinary_client);
	tcase_add_loop_test(tc, limit, 0, SP_ARRAY_LEN(limits));
	tcase_add_test(tc, limit_behind_proxy);
	tcase_add_test(tc, websocket);
	tcase_add_test(tc, keeps_no_generation);
	tcase_add_test(tc, viewed);
	tcase_add_test(tc, shutdown_of_all);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	/* As the program does: splice knows no MSG_NOSIGNAL. */
	(void)signal(SIGPIPE, SIG_IGN);
	Suite *suite = suite_create("proxy_tunnel");
	add_tunnels(suite);
	add_others(suite);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
