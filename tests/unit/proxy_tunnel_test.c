/* proxy: bytes both ways, between scripted clients and origins. */
#include "proxy_tcp.h"
#include "smartproxy/buf.h"

#define BULK_BYTES (24u << 20)

static int quick; /* of an origin's script: what a row wants */

/* ---- origins ---- */

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

static void serve_reset(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	(void)side_fill(s);
	break_off(s->fd);
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
	await_origin(1);
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

/* "abc", "X" as urgent data and "def", in one segment. */
static void send_urgent(int fd)
{
	int on = 1, off = 0;
	SP_ASSERT(setsockopt(fd, IPPROTO_TCP, TCP_CORK, &on, sizeof(on)) == 0);
	SP_ASSERT(send(fd, "abc", 3, MSG_NOSIGNAL) == 3);
	SP_ASSERT(send(fd, "X", 1, MSG_NOSIGNAL | MSG_OOB) == 1);
	SP_ASSERT(send(fd, "def", 3, MSG_NOSIGNAL) == 3);
	SP_ASSERT(setsockopt(fd, IPPROTO_TCP, TCP_CORK, &off, sizeof(off)) == 0);
}

static void serve_urgent(struct origin *o, struct side *s, unsigned nth)
{
	send_urgent(s->fd);
	serve_echo(o, s, nth);
}

/* A read ends before it, which says nothing of what is behind; it keeps its place among the others. */
START_TEST(urgent_data)
{
	bool is_from_target = _i == 1;
	start_tcp(is_from_target ? serve_urgent : serve_echo, "", "");
	struct side *s = rig_connect(&rig);
	if (!is_from_target)
		send_urgent(s->fd);
	ck_assert(gives(s, "abcXdef"));
	side_free(s);
	await_end(EXCHANGE_END_DONE, 1);
	stop();
}
END_TEST

static void serve_count(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	size_t sum = 0;
	for (; side_fill(s) > 0; side_use(s, s->len))
		sum += s->len;
	__atomic_store_n(&o->request_cnt, (unsigned)sum, __ATOMIC_RELEASE);
}

/* Splice never gets past it. */
START_TEST(urgent_data_in_bulk)
{
	static char block[1 << 20];
	start_tcp(serve_count, "", "");
	struct side *s = rig_connect(&rig);
	for (int i = 0; i < 8; i++) {
		ck_assert(side_send(s, block, sizeof(block)));
		if (i == 5)
			ck_assert_int_eq(send(s->fd, "X", 1, MSG_OOB), 1);
	}
	ck_assert_int_eq(shutdown(s->fd, SHUT_WR), 0);
	await_origin(8 * sizeof(block) + 1);
	ck_assert_uint_ge(rig_stats(&rig).splices, 1);
	side_free(s);
	await_end(EXCHANGE_END_DONE, 1);
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
	/* It may be a half-close: as long as any other. */
	{ "timeouts: { connect = \"1500ms\"; };", "", false, false, EXCHANGE_END_CONNECT_TIMEOUT,
	  5000 },
	{ "timeouts: { connect = \"1500ms\"; };", "select 1", false, false,
	  EXCHANGE_END_CONNECT_TIMEOUT, 5000 },
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
	ck_assert_uint_eq(__atomic_load_n(&origin.conn_cnt, __ATOMIC_ACQUIRE), 1);
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

static void add_all(Suite *suite)
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
	tcase_add_loop_test(tc, urgent_data, 0, 2);
	tcase_add_test(tc, urgent_data_in_bulk);
	tcase_add_loop_test(tc, life, 0, SP_ARRAY_LEN(lives));
	tcase_add_test(tc, outlives_http);
	tcase_add_test(tc, refused);
	tcase_add_loop_test(tc, target_out_of_reach, 0, SP_ARRAY_LEN(unreachable));
	tcase_add_test(tc, waits_for_a_place);
	suite_add_tcase(suite, tc);
}

int main(void)
{
	/* As the program does: splice knows no MSG_NOSIGNAL. */
	(void)signal(SIGPIPE, SIG_IGN);
	Suite *suite = suite_create("proxy_tunnel");
	add_all(suite);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
