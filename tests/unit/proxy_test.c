/* proxy: the data plane in one process, between scripted clients and origins. */
#include "proxy_scripts.h"

static struct rig rig;
static struct origin origin;
static struct message answer;

/* A client of a proxy before such an origin. */
static struct side *start(void (*serve)(struct origin *o, struct side *s, unsigned nth),
			  const char *settings)
{
	origin_start(&origin, serve);
	rig_forward(&rig, &origin, settings);
	return rig_connect(&rig);
}

static void stop(struct side *s)
{
	side_free(s);
	rig_stop(&rig);
	origin_stop(&origin);
}

static void check_answer(unsigned status, const char *body)
{
	ck_assert_msg(answer.status == status && strcmp(answer.body, body) == 0,
		      "%u \"%s\", wanted %u \"%s\"; %s", answer.status, answer.body, status, body,
		      answer.head);
}

/* ---- what comes of one answer of the origin ---- */

static const struct {
	const char *request, *from_origin;
	bool has_end; /* the origin closes after it */
	unsigned status;
	const char *body;
	const char *has, *has_not; /* in the head; NULL: anything */
	bool has_closing;
} answers[] = {
	{ GET, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello",
	  "\r\nDate: ", NULL, false },
	{ GET, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello", true, 200,
	  "hello", NULL, NULL, false },
	{ GET,
	  "HTTP/1.1 200 OK\r\nTransfer-Encoding: "
	  "chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
	  false, 200, "hello", "\r\nTransfer-Encoding: chunked\r\n", "Content-Length", false },
	{ GET, "HTTP/1.1 200 OK\r\n\r\nup to the end", true, 200, "up to the end",
	  "\r\nTransfer-Encoding: chunked\r\n", NULL, false },
	{ GET, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", true, 200, "ok", NULL, NULL,
	  false },
	{ GET, "HTTP/1.1 204 No Content\r\n\r\n", false, 204, "", NULL, "Content-Length", false },
	{ GET, "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\nETag: \"e\"\r\n\r\n", false, 304,
	  "", "ETag: \"e\"", NULL, false },
	{ "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
	  false, 200, "", "\r\nContent-Length: 1234\r\n", NULL, false },
	{ "HEAD /x HTTP/1.1\r\nHost: a\r\n\r\n",
	  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", false, 200, "", NULL, NULL,
	  false },
	{ GET, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, 200, "",
	  "\r\nContent-Length: 0\r\n", NULL, false },
	{ GET10, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello", NULL,
	  NULL, true },
	{ "GET /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
	  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello",
	  "\r\nConnection: keep-alive\r\n", NULL, false },
	{ "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
	  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", false, 200, "hello", NULL, NULL,
	  true },
	{ GET,
	  "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: "
	  "2\r\n\r\nok",
	  false, 103, "", "Link: </a>", "Date: ", false },
	{ GET, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", true, 502,
	  "502 Bad Gateway\n", NULL, NULL, false },
	{ GET, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
	  true, 502, "502 Bad Gateway\n", NULL, NULL, false },
	{ GET, "not HTTP\r\n\r\n", true, 502, "502 Bad Gateway\n", NULL, NULL, false },
	{ GET, "", true, 502, "502 Bad Gateway\n", NULL, NULL, false },
};
static unsigned row;

static void serve_row(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	while (take_message(s, &m, true)) {
		__atomic_fetch_add(&o->request_cnt, 1, __ATOMIC_RELAXED);
		(void)side_puts(s, answers[row].from_origin);
		if (answers[row].has_end)
			return;
	}
}

START_TEST(one_answer)
{
	row = (unsigned)_i;
	struct side *s = start(serve_row, "");
	ck_assert(ask(s, answers[_i].request, &answer));
	if (answer.status == 103) { /* the final one follows */
		ck_assert(strstr(answer.head, answers[_i].has) != NULL);
		ck_assert(strstr(answer.head, answers[_i].has_not) == NULL);
		ck_assert(take_message(s, &answer, true));
		check_answer(200, "ok");
	} else {
		check_answer(answers[_i].status, answers[_i].body);
		ck_assert(answers[_i].has == NULL || strstr(answer.head, answers[_i].has) != NULL);
		ck_assert(answers[_i].has_not == NULL ||
			  strstr(answer.head, answers[_i].has_not) == NULL);
	}
	ck_assert(answer.has_closing == answers[_i].has_closing);
	if (answers[_i].has_closing) {
		ck_assert_int_eq(side_rest(s), 0);
	} else { /* it stays in step */
		ck_assert(ask(s, answers[_i].request, &answer));
		ck_assert_uint_eq(answer.status, answers[_i].status);
	}
	stop(s);
}
END_TEST

/* An HTTP/1.0 client gets no chunks: the body ends with the connection. */
START_TEST(chunks_to_old_client)
{
	row = 2;
	struct side *s = start(serve_row, "");
	ck_assert(side_puts(s, GET10));
	ck_assert_int_gt(side_rest(s), 0);
	const char *body = strstr(s->data, "\r\n\r\n");
	ck_assert(body != NULL && strcmp(body + 4, "hello") == 0);
	stop(s);
}
END_TEST

/* ---- requests ---- */

START_TEST(pipelined)
{
	struct side *s = start(serve_report, "");
	char text[32768] = "";
	for (int i = 0; i < 200; i++) {
		size_t at = strlen(text);
		(void)snprintf(
			text + at, sizeof(text) - at,
			i % 3 == 0 ? "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n"
			: i % 3 == 1
				? "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
				: "POST /%d HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
				  "chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
			i);
	}
	ck_assert(side_puts(s, text));
	for (int i = 0; i < 200; i++) {
		ck_assert(take_message(s, &answer, true));
		char want[64];
		(void)snprintf(want, sizeof(want), "%s /%d %d %u", i % 3 == 0 ? "GET" : "POST", i,
			       i % 3 == 0 ? 0 : 3, i % 3 == 0 ? 0 : sum_of("abc", 3));
		check_answer(200, want);
	}
	stop(s);
}
END_TEST

START_TEST(byte_by_byte)
{
	static const char request[] = "POST /slow HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
				      "chunked\r\n\r\n3\r\nabc\r\n0\r\nX-T: v\r\n\r\n";
	struct side *s = start(serve_report, "");
	for (int times = 0; times < 3; times++) {
		for (size_t i = 0; i < sizeof(request) - 1; i++)
			ck_assert(side_send(s, &request[i], 1));
		ck_assert(take_message(s, &answer, true));
		ck_assert(strncmp(answer.body, "POST /slow 3 ", 13) == 0 &&
			  strstr(answer.body, "X-T: v\r\n") != NULL);
	}
	stop(s);
}
END_TEST

static void *send_big_request(void *arg)
{
	send_big(arg, false);
	return NULL;
}

/* A MiB each way, the answer read by small pieces into a small window. */
START_TEST(big_bodies)
{
	struct side *s = start(serve_report, "");
	int small = 32768;
	(void)setsockopt(s->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
	char want[64];
	(void)snprintf(want, sizeof(want), "POST /up %d %u", BIG_BYTES, big_sum());
	for (int is_chunked = 0; is_chunked < 2; is_chunked++) {
		ck_assert(side_puts(s, is_chunked ? "POST /up HTTP/1.1\r\nHost: "
						    "a\r\nTransfer-Encoding: chunked\r\n\r\n"
						  : "POST /up HTTP/1.1\r\nHost: "
						    "a\r\nContent-Length: 1048576\r\n\r\n"));
		if (is_chunked) {
			send_big(s, true);
		} else {
			pthread_t thread;
			ck_assert_int_eq(pthread_create(&thread, NULL, send_big_request, s), 0);
			(void)pthread_join(thread, NULL);
		}
		ck_assert(take_message(s, &answer, true));
		check_answer(200, want);
		ck_assert(ask(s,
			      is_chunked ? "GET /big-chunked HTTP/1.1\r\nHost: a\r\n\r\n"
					 : "GET /big HTTP/1.1\r\nHost: a\r\n\r\n",
			      &answer));
		ck_assert_uint_eq(answer.body_len, BIG_BYTES);
		ck_assert_uint_eq(answer.body_sum, big_sum());
	}
	stop(s);
}
END_TEST

START_TEST(expect_continue)
{
	struct side *s = start(serve_report, "");
	ck_assert(side_puts(s, "POST /c HTTP/1.1\r\nHost: a\r\nExpect: "
			       "100-continue\r\nContent-Length: 3\r\n\r\n"));
	ck_assert(take_head(s, &answer));
	ck_assert_uint_eq(answer.status, 100);
	ck_assert(ask(s, "abc", &answer));
	char want[64];
	(void)snprintf(want, sizeof(want), "POST /c 3 %u", sum_of("abc", 3));
	check_answer(200, want);
	ck_assert(!answer.has_closing);
	stop(s);
}
END_TEST

/* Heads that nearly fill a buffer leave room for a few bytes of what follows: nothing may stall or
 * be lost there. */
START_TEST(tight_buffers)
{
	struct side *s = start(serve_report, "");
	char *request = malloc(40000), *pad = malloc(20000);
	memset(pad, 'p', 20000);
	for (int len = 16050; len < 16400; len += 1) {
		(void)snprintf(request, 40000,
			       "POST /t HTTP/1.1\r\nHost: a\r\nX-P: %.*s\r\nTransfer-Encoding: "
			       "chunked\r\n\r\n%s0\r\nX-T: trailer\r\n\r\n",
			       len, pad, len % 2 == 0 ? "" : "3\r\nabc\r\n");
		ck_assert(side_puts(s, request));
		ck_assert_msg(take_message(s, &answer, true), "no answer with %d bytes of padding",
			      len);
		ck_assert_msg(strstr(answer.body, "X-T: trailer\r\n") != NULL,
			      "trailer lost with %d: %s", len, answer.body);
	}
	free(request);
	free(pad);
	stop(s);
}
END_TEST

START_TEST(trailers_kept)
{
	struct side *s = start(serve_trailers, "");
	char request[128];
	for (int len = 16100; len < 16500; len++) {
		(void)snprintf(
			request, sizeof(request),
			"GET /%d HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
			len);
		ck_assert_msg(ask(s, request, &answer), "no answer of %d bytes", len);
		ck_assert_uint_eq(answer.body_len, len);
		ck_assert_msg(strstr(answer.trailer, "X-T: a trailer") != NULL,
			      "trailer lost behind %d bytes", len);
	}
	stop(s);
}
END_TEST

/* ---- targets that fail ---- */

static const struct {
	const char *request, *last_words;
	unsigned status, requests;
} stale[] = {
	{ GET, "", 200, 3 },
	{ "DELETE /x HTTP/1.1\r\nHost: a\r\n\r\n", "", 200, 3 },
	{ "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "", 502, 2 },
	{ "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "", 502, 2 },
	{ GET, "HTTP/1.1 200 OK\r\nX: ", 502, 2 },
};

START_TEST(stale_connection)
{
	origin_start(&origin, serve_stale);
	/* NOLINTNEXTLINE(performance-no-int-to-ptr): a number for serve_stale */
	origin.arg = (void *)(uintptr_t)stale[_i].last_words;
	rig_forward(&rig, &origin, "");
	struct side *s = rig_connect(&rig);
	ck_assert(ask(s, GET, &answer));
	check_answer(200, "ok");
	ck_assert(ask(s, stale[_i].request, &answer));
	ck_assert_uint_eq(answer.status, stale[_i].status);
	ck_assert_uint_eq(__atomic_load_n(&origin.request_cnt, __ATOMIC_RELAXED),
			  stale[_i].requests);
	stop(s);
}
END_TEST

START_TEST(excess_bytes)
{
	struct side *s = start(serve_excess, "");
	for (int i = 0; i < 50; i++) {
		ck_assert(ask(s, GET, &answer));
		ck_assert_msg(answer.status == 200 && answer.body_len == 40000,
			      "answer %d is another's: %u", i, answer.status);
	}
	stop(s);
}
END_TEST

static const struct {
	const char *request, *from_origin;
	ssize_t rest; /* -1: a reset, as nothing else says that it is not whole */
} cuts[] = {
	{ GET, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello", 1 },
	{ GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 1 },
	{ GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n3\r\nab", 1 },
	{ GET, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", 1 },
	{ GET10, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", -1 },
};

static void serve_cut(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	struct message m;
	if (take_message(s, &m, true))
		(void)side_puts(s, cuts[row].from_origin);
}

START_TEST(cut_answer)
{
	row = (unsigned)_i;
	struct side *s = start(serve_cut, "");
	ck_assert(side_puts(s, cuts[_i].request));
	ssize_t rest = side_rest(s);
	ck_assert_int_eq(rest < 0 ? -1 : 1, cuts[_i].rest);
	ck_assert_msg(strstr(s->data, "\n0\r\n\r\n") == NULL && strstr(s->data, " 502 ") == NULL,
		      "%s", s->data);
	stop(s);
}
END_TEST

START_TEST(early_answer)
{
	struct side *s = start(serve_early, "");
	ck_assert(side_puts(
		s, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\nbeginning"));
	ck_assert(take_message(s, &answer, true));
	check_answer(413, "large");
	ck_assert(answer.has_closing);
	ck_assert_int_eq(side_rest(s), 0);
	stop(s);
}
END_TEST

START_TEST(refused_target)
{
	origin_start(&origin, serve_report);
	uint16_t port = free_port(), closed = free_port();
	rig_start(&rig,
		  load_text("routes: ( { name = \"two\"; match = { address = \"127.0.0.1\"; ports "
			    "= [ %u ]; path = \"/two\"; };"
			    "action = { type = \"forward\"; targets = ( { host = \"127.0.0.1\"; "
			    "port = %u; },"
			    "{ host = \"127.0.0.1\"; port = %u; } ); }; },"
			    "{ name = \"none\"; match = { address = \"127.0.0.1\"; ports = [ %u ]; "
			    "}; action = { type = \"forward\";"
			    "targets = ( { host = \"127.0.0.1\"; port = %u; } ); }; } );",
			    (unsigned)port, (unsigned)closed, (unsigned)origin.port, (unsigned)port,
			    (unsigned)closed),
		  port);
	struct side *s = rig_connect(&rig);
	for (int i = 0; i < 4; i++) {
		ck_assert(ask(s, "GET /two HTTP/1.1\r\nHost: a\r\n\r\n", &answer));
		check_answer(200, "GET /two 0 0");
	}
	ck_assert(ask(s, "GET /none HTTP/1.1\r\nHost: a\r\n\r\n", &answer));
	check_answer(502, "502 Bad Gateway\n");
	ck_assert(!answer.has_closing);
	side_free(s);
	rig_await_idle(&rig);
	struct worker_stats stats = rig_stats(&rig);
	ck_assert_uint_gt(stats.upstream_connect_failures, 0);
	ck_assert_uint_eq(stats.ends[EXCHANGE_END_CONNECT_FAILED], 1);
	rig_stop(&rig);
	origin_stop(&origin);
}
END_TEST

/* ---- deadlines ---- */

#define HALF_BODY "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello"

static const struct {
	const char *settings, *request;
	unsigned status; /* 0: closed without a word */
	enum exchange_end end;
} deadlines[] = {
	{ "timeouts: { header = \"200ms\"; };", "GET / HTTP/1.1\r\nHos", 408,
	  EXCHANGE_END_HEADER_TIMEOUT },
	{ "timeouts: { header = \"200ms\"; };", "", 0, EXCHANGE_END_CNT },
	{ "timeouts: { header = \"60s\"; total = \"200ms\"; };", "GET / HTTP/1.1\r\nHos", 408,
	  EXCHANGE_END_HEADER_TIMEOUT },
	{ "timeouts: { response = \"200ms\"; };", GET, 504, EXCHANGE_END_UPSTREAM_TIMEOUT },
	{ "timeouts: { response = \"60s\"; idle = \"200ms\"; };", HALF_BODY, 408,
	  EXCHANGE_END_CLIENT_IDLE },
	{ "timeouts: { total = \"200ms\"; };", GET, 504, EXCHANGE_END_TOTAL_TIMEOUT },
};

START_TEST(deadline)
{
	struct side *s = start(serve_silence, deadlines[_i].settings);
	ck_assert(side_puts(s, deadlines[_i].request));
	if (deadlines[_i].status == 0) {
		ck_assert_int_eq(side_rest(s), 0);
	} else {
		ck_assert(take_message(s, &answer, true));
		ck_assert_uint_eq(answer.status, deadlines[_i].status);
	}
	side_free(s);
	rig_await_idle(&rig);
	if (deadlines[_i].status != 0)
		ck_assert_uint_eq(rig_stats(&rig).ends[deadlines[_i].end], 1);
	rig_stop(&rig);
	origin_stop(&origin);
}
END_TEST

START_TEST(redirected)
{
	uint16_t port = free_port();
	rig_start(
		&rig,
		load_text("routes: ( { name = \"all\"; match = { address = \"127.0.0.1\"; ports = "
			  "[ %u ]; };"
			  "action = { type = \"redirect\"; location = "
			  "\"https://{host}{path}{path}{path}{path}{path}{path}{query}\"; }; } );",
			  (unsigned)port),
		port);
	char request[2000], path[900];
	memset(path, 'p', sizeof(path));
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	(void)snprintf(request, sizeof(request), "GET %s?q HTTP/1.1\r\nHost: A.example:80\r\n\r\n",
		       path);
	struct side *s = rig_connect(&rig);
	ck_assert(ask(s, request, &answer));
	check_answer(301, "301 Moved Permanently\n");
	const char *location = strstr(answer.head, "\r\nLocation: https://a.example/ppp");
	ck_assert_ptr_nonnull(location);
	ck_assert_uint_eq(strcspn(location + 2, "\r"),
			  strlen("Location: https://a.example") + 6 * strlen(path) + 2);
	ck_assert(ask(s, "GET / HTTP/1.0\r\n\r\n", &answer)); /* no host to go to */
	check_answer(400, "400 Bad Request\n");
	side_free(s);
	rig_stop(&rig);
}
END_TEST

/* ---- many at once ---- */

/* Clients that leave at once, in every way, while their connection is closed here as well. */
START_TEST(hasty_clients)
{
	static const char *const requests[] = {
		"GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
		"BAD\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc",
		GET GET,
	};
	rig_respond(&rig);
	for (unsigned i = 0; i < 3000; i++) {
		struct side *s = rig_connect(&rig);
		const char *request = requests[i % SP_ARRAY_LEN(requests)];
		ck_assert(side_puts(s, request));
		struct linger reset = { .l_onoff = 1 };
		if (i % 3 == 0)
			(void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		if (i % 5 == 0)
			(void)shutdown(s->fd, SHUT_WR);
		if (i % 16 == 0)
			(void)side_fill(s);
		side_free(s);
	}
	rig_stop(&rig);
}
END_TEST

/* Publishing under load: every request is answered, and nothing that was retired stays. */
START_TEST(publish_storm)
{
	sp_role_assume_control();
	static struct asker askers[4];
	origin_start(&origin, serve_report);
	rig_forward(&rig, &origin, "");
	is_over = false;
	for (size_t i = 0; i < SP_ARRAY_LEN(askers); i++) {
		askers[i] = (struct asker){ .rig = &rig, .wants_new = i % 2 == 1 };
		ck_assert_int_eq(pthread_create(&askers[i].thread, NULL, keep_asking, &askers[i]),
				 0);
	}
	struct text text = { 0 };
	for (int i = 0; i < 300 || !have_answers(askers, SP_ARRAY_LEN(askers), 50); i++) {
		struct generation *g = NULL;
		if (i % 3 == 0)
			ck_assert_int_eq(generation_build(rig.generations, rig.config, i % 2 == 0,
							  &g, &text),
					 ERR_OK);
		else
			ck_assert_int_eq(generation_fork(rig.generations, i % 2 == 0, &g), ERR_OK);
		generation_publish(rig.generations, g);
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
	for (size_t i = 0; i < SP_ARRAY_LEN(askers); i++) {
		(void)pthread_join(askers[i].thread, NULL);
		ck_assert_uint_gt(askers[i].asked, 0);
		ck_assert_uint_eq(askers[i].asked, askers[i].answered);
	}
	rig_await_idle(&rig);
	ck_assert_uint_eq(generation_reap(rig.generations), 0);
	struct worker_stats stats = rig_stats(&rig);
	ck_assert_uint_eq(stats.requests, stats.ends[EXCHANGE_END_DONE]);
	rig_stop(&rig);
	origin_stop(&origin);
}
END_TEST

/* Idle connections go at once, the one in hand gets its answer and a farewell. */
START_TEST(drain)
{
	sp_role_assume_control();
	origin_start(&origin, serve_report);
	rig_forward(&rig, &origin, "");
	struct side *idle = rig_connect(&rig), *busy = rig_connect(&rig);
	ck_assert(ask(idle, GET, &answer));
	ck_assert(side_puts(busy, "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na"));
	while (rig_stats(&rig).requests < 2)
		nap();
	workers_drain(rig.workers);
	ck_assert_int_eq(side_rest(idle), 0);
	ck_assert(ask(busy, "bc", &answer));
	char want[64];
	(void)snprintf(want, sizeof(want), "POST /x 3 %u", sum_of("abc", 3));
	check_answer(200, want);
	ck_assert(answer.has_closing);
	ck_assert_int_eq(side_rest(busy), 0);
	side_free(idle);
	side_free(busy);
	rig_stop(&rig);
	origin_stop(&origin);
}
END_TEST

/* The workers stop in the middle of everything. */
START_TEST(stop_in_the_middle)
{
	sp_role_assume_control();
	origin_start(&origin, serve_silence);
	rig_forward(&rig, &origin, "");
	struct side *waiting = rig_connect(&rig), *half = rig_connect(&rig),
		    *first = rig_connect(&rig);
	ck_assert(side_puts(waiting, GET) && side_puts(half, HALF_BODY) && side_puts(first, "GET"));
	while (__atomic_load_n(&origin.conn_cnt, __ATOMIC_ACQUIRE) < 2)
		nap();
	workers_stop(rig.workers);
	ck_assert_int_le(side_rest(waiting), 0);
	ck_assert_int_le(side_rest(half), 0);
	ck_assert_int_le(side_rest(first), 0);
	side_free(waiting);
	side_free(half);
	side_free(first);
	rig.workers = NULL;
	rig_stop(&rig);
	origin_stop(&origin);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("proxy");
	TCase *tc = tcase_create("exchange");
	tcase_set_timeout(tc, 120);
	tcase_add_loop_test(tc, one_answer, 0, SP_ARRAY_LEN(answers));
	tcase_add_test(tc, chunks_to_old_client);
	tcase_add_test(tc, pipelined);
	tcase_add_test(tc, byte_by_byte);
	tcase_add_test(tc, big_bodies);
	tcase_add_test(tc, expect_continue);
	tcase_add_test(tc, tight_buffers);
	tcase_add_test(tc, trailers_kept);
	tcase_add_loop_test(tc, stale_connection, 0, SP_ARRAY_LEN(stale));
	tcase_add_test(tc, excess_bytes);
	tcase_add_loop_test(tc, cut_answer, 0, SP_ARRAY_LEN(cuts));
	tcase_add_test(tc, early_answer);
	tcase_add_test(tc, refused_target);
	tcase_add_loop_test(tc, deadline, 0, SP_ARRAY_LEN(deadlines));
	tcase_add_test(tc, redirected);
	tcase_add_test(tc, hasty_clients);
	tcase_add_test(tc, publish_storm);
	tcase_add_test(tc, drain);
	tcase_add_test(tc, stop_in_the_middle);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
