/* proxy: what stands before HTTP or instead of it: PROXY headers, passthrough, limits, an upgrade, views. */
#include "proxy_tcp.h"
#include "wire/proxy.h"

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

static void add_all(Suite *suite)
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
	Suite *suite = suite_create("proxy_conn");
	add_all(suite);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
