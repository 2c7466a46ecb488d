/* upstream: active checks of targets. */
#include "smartproxy/fault.h"
#include "upstream_rig.h"

static const char ok_answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
static struct origin origin;

static struct config_upstream group_of(enum config_check_type type)
{
	struct config_upstream group = { .name = "app" };
	group.check.type = type;
	group.check.path = "/health";
	group.check.status_first = 200;
	group.check.status_last = 399;
	group.check.interval_ms = 20;
	group.check.timeout_ms = 2000;
	group.check.rise = 2;
	group.check.fall = 3;
	return group;
}

static int64_t last_failure(const struct upstream *u)
{
	return atomic_load(&u->last_failure);
}

static bool is_checked(const struct upstream *u)
{
	struct upstream_view view = { 0 };
	sp_role_assume_control();
	health_view(u, &view);
	return view.last_check_unix_s != 0;
}

/* ---- what one check finds ---- */

static const struct {
	const char *name;
	enum config_check_type type;
	const char *answer;
	enum upstream_failure failure;
	const char *why;
	int64_t timeout_ms; /* 0: a long one */
	bool closes_at_once, is_shut;
} finds[] = {
	{ "200", CONFIG_CHECK_HTTP, ok_answer, UPSTREAM_FAILURE_NONE, NULL },
	{ "no length", CONFIG_CHECK_HTTP, "HTTP/1.0 204 No\r\n\r\n", UPSTREAM_FAILURE_NONE, NULL },
	{ "399", CONFIG_CHECK_HTTP, "HTTP/1.1 399 X\r\n\r\n", UPSTREAM_FAILURE_NONE, NULL },
	{ "interim", CONFIG_CHECK_HTTP,
	  "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
	  UPSTREAM_FAILURE_NONE, NULL },
	{ "interim, then bad", CONFIG_CHECK_HTTP,
	  "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 500 No\r\n\r\n", UPSTREAM_FAILURE_STATUS,
	  "status 500" },
	{ "500", CONFIG_CHECK_HTTP, "HTTP/1.1 500 No\r\n\r\n", UPSTREAM_FAILURE_STATUS,
	  "status 500 instead of 200 to 399" },
	{ "400", CONFIG_CHECK_HTTP, "HTTP/1.1 400 No\r\n\r\n", UPSTREAM_FAILURE_STATUS, "400" },
	{ "101", CONFIG_CHECK_HTTP, "HTTP/1.1 101 No\r\nUpgrade: a\r\n\r\n",
	  UPSTREAM_FAILURE_STATUS, "101" },
	{ "another protocol", CONFIG_CHECK_HTTP, "SSH-2.0-x\r\n\r\n", UPSTREAM_FAILURE_BAD_RESPONSE,
	  "not HTTP" },
	{ "bare LF", CONFIG_CHECK_HTTP, "HTTP/1.1 200 OK\n\n", UPSTREAM_FAILURE_BAD_RESPONSE,
	  "bare_lf" },
	{ "half a head", CONFIG_CHECK_HTTP, "HTTP/1.1 200 OK\r\nA: b\r\n", UPSTREAM_FAILURE_CLOSED,
	  "closed" },
	{ "closed", CONFIG_CHECK_HTTP, NULL, UPSTREAM_FAILURE_CLOSED, "", 0, true },
	{ "silent", CONFIG_CHECK_HTTP, NULL, UPSTREAM_FAILURE_RESPONSE_TIMEOUT,
	  "no answer within 60 ms", 60 },
	{ "refused", CONFIG_CHECK_HTTP, NULL, UPSTREAM_FAILURE_REFUSED, "Connection refused", 0,
	  false, true },
	{ "TCP", CONFIG_CHECK_TCP, NULL, UPSTREAM_FAILURE_NONE, NULL },
	{ "TCP, closed", CONFIG_CHECK_TCP, NULL, UPSTREAM_FAILURE_NONE, NULL, 0, true },
	{ "TCP, refused", CONFIG_CHECK_TCP, NULL, UPSTREAM_FAILURE_REFUSED, "refused", 0, false,
	  true },
	{ "HTTPS, closed", CONFIG_CHECK_HTTPS, NULL, UPSTREAM_FAILURE_TLS, "TLS: ", 0, true },
	{ "HTTPS, refused", CONFIG_CHECK_HTTPS, NULL, UPSTREAM_FAILURE_REFUSED, "refused", 0, false,
	  true },
	{ "no TLS there", CONFIG_CHECK_HTTPS, "HTTP/1.1 400 No\r\n\r\n", UPSTREAM_FAILURE_TLS,
	  "TLS: ", 100 },
};

START_TEST(one_check)
{
	rig_open();
	struct config_upstream group = group_of(finds[_i].type);
	if (finds[_i].timeout_ms != 0)
		group.check.timeout_ms = finds[_i].timeout_ms;
	group.check.interval_ms = 60000;
	origin = (struct origin){ .answer = finds[_i].answer,
				  .closes_at_once = finds[_i].closes_at_once };
	origin_open(&origin);
	if (finds[_i].is_shut)
		origin_shut(&origin);
	struct upstream *u = rig_get(&group, "127.0.0.1", origin.port, NULL);
	ck_assert(!is_down(u)); /* a new one is up until its first check */
	health_apply(u, &group);
	health_apply(u, &group); /* the same again is nothing new */
	WAIT_FOR(is_checked(u));
	ck_assert_msg(last_failure(u) == finds[_i].failure, "%s: %s, %s", finds[_i].name,
		      upstream_failure_name((enum upstream_failure)last_failure(u)), u->last_why);
	ck_assert(is_down(u) == (finds[_i].failure != UPSTREAM_FAILURE_NONE));
	if (finds[_i].why != NULL)
		ck_assert_msg(strstr(u->last_why, finds[_i].why) != NULL, "%s: %s", finds[_i].name,
			      u->last_why);
	ck_assert_uint_le(origin.connection_cnt, 1);
	origin_shut(&origin);
	rig_close();
}
END_TEST

/* A target that drops what would connect to it: its queue is full and nobody accepts. */
START_TEST(unreachable)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_TCP);
	group.check.timeout_ms = 50;
	uint16_t port;
	int fds[8], fd = rig_socket(SOCK_STREAM, "127.0.0.1", 0, &port);
	ck_assert_int_eq(listen(fd, 0), 0);
	struct addr addr;
	ck_assert_int_eq(addr_parse("127.0.0.1", port, &addr), ERR_OK);
	for (unsigned i = 0; i < SP_ARRAY_LEN(fds); i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)connect(fds[i], &addr.sa, addr.len);
	}
	struct upstream *u = rig_get(&group, "127.0.0.1", port, NULL);
	health_apply(u, &group);
	WAIT_FOR(is_down(u));
	ck_assert_int_eq(last_failure(u), UPSTREAM_FAILURE_CONNECT_TIMEOUT);
	ck_assert_str_eq(u->last_why, "no connection within 50 ms");
	for (unsigned i = 0; i < SP_ARRAY_LEN(fds); i++)
		(void)close(fds[i]);
	(void)close(fd);
	rig_close();
}
END_TEST

/* A head without end is given up at a bound. */
START_TEST(endless_head)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_HTTP);
	size_t len = 17 * 1024;
	char *answer = malloc(len + 1);
	memset(answer, 'a', len);
	answer[len] = '\0';
	memcpy(answer, "HTTP/1.1 200 OK\r\nA: ", 20);
	origin = (struct origin){ .answer = answer };
	origin_open(&origin);
	struct upstream *u = rig_get(&group, "127.0.0.1", origin.port, NULL);
	health_apply(u, &group);
	WAIT_FOR(is_checked(u));
	ck_assert_int_eq(last_failure(u), UPSTREAM_FAILURE_BAD_RESPONSE);
	ck_assert_msg(strstr(u->last_why, "more than") != NULL, "%s", u->last_why);
	origin_shut(&origin);
	free(answer);
	rig_close();
}
END_TEST

/* ---- what is sent ---- */

static const struct {
	enum config_proxy_protocol proxy;
	const char *path, *host;
	const char *head; /* before the request */
	size_t head_len;
} sents[] = {
	{ CONFIG_PROXY_NONE, "/health", NULL, "", 0 },
	{ CONFIG_PROXY_NONE, "/a?b=c", "app.example", "", 0 },
	{ CONFIG_PROXY_V1, "/", NULL, "PROXY UNKNOWN\r\n", 15 },
	{ CONFIG_PROXY_V2, "/", NULL, "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0", 16 },
};

START_TEST(as_sent)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_HTTP);
	group.check.path = sents[_i].path;
	group.check.host = sents[_i].host;
	origin = (struct origin){ .answer = ok_answer };
	origin_open(&origin);
	struct config_target target = { .host = "127.0.0.1",
					.port = origin.port,
					.weight = 1,
					.proxy_protocol = sents[_i].proxy };
	struct upstream *u = NULL;
	ck_assert_int_eq(registry_get(upstreams, &group, &target, NULL, &u, NULL), ERR_OK);
	health_apply(u, &group);
	WAIT_FOR(origin.request_cnt > 0);
	char wanted[256];
	size_t len =
		text_format(wanted, sizeof(wanted), "GET %s HTTP/1.1\r\nHost: ", group.check.path);
	if (group.check.host != NULL)
		len += text_format(wanted + len, sizeof(wanted) - len, "%s\r\n", group.check.host);
	else
		len += text_format(wanted + len, sizeof(wanted) - len, "127.0.0.1:%u\r\n",
				   (unsigned)origin.port);
	ck_assert_uint_gt(origin.seen_len, sents[_i].head_len + len);
	ck_assert_mem_eq(origin.seen, sents[_i].head, sents[_i].head_len);
	ck_assert_mem_eq(origin.seen + sents[_i].head_len, wanted, len);
	origin.seen[origin.seen_len - 1] = '\0';
	const char *request = origin.seen + sents[_i].head_len;
	ck_assert_ptr_nonnull(strstr(request, "\r\nUser-Agent: smartproxy-check\r\n"));
	ck_assert_ptr_nonnull(strstr(request, "\r\nConnection: close\r\n"));
	origin_shut(&origin);
	rig_close();
}
END_TEST

/* ---- rise and fall ---- */

START_TEST(rise_and_fall)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_HTTP);
	origin = (struct origin){ .answer = ok_answer };
	origin_open(&origin);
	struct upstream *u = rig_get(&group, "127.0.0.1", origin.port, NULL);
	health_apply(u, &group);
	WAIT_FOR(is_checked(u));
	ck_assert(!is_down(u));
	ck_assert_int_eq(atomic_load(&u->up_since_ms), 0);

	origin.answer = "HTTP/1.1 503 No\r\n\r\n";
	unsigned before = origin.request_cnt;
	while (origin.request_cnt < before + 2) { /* fewer than fall */
		run_loop_ms(control_loop, 1);
		ck_assert(!is_down(u) || origin.request_cnt >= before + 3);
	}
	WAIT_FOR(is_down(u));
	ck_assert_uint_ge(origin.request_cnt, before + 3);

	int64_t now_ms = clock_now_ms();
	origin.answer = ok_answer;
	before = origin.request_cnt;
	WAIT_FOR(!is_down(u));
	ck_assert_uint_ge(origin.request_cnt, before + 2);
	ck_assert_int_ge(atomic_load(&u->up_since_ms), now_ms); /* slow start begins */
	origin_shut(&origin);
	rig_close();
}
END_TEST

/* A target that has never answered is down at once, and needs `rise`. */
START_TEST(first_check_fails)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_TCP);
	group.check.fall = 10;
	origin = (struct origin){ 0 };
	origin_open(&origin);
	uint16_t port = origin.port;
	origin_shut(&origin);
	struct upstream *u = rig_get(&group, "127.0.0.1", port, NULL);
	health_apply(u, &group);
	WAIT_FOR(is_checked(u));
	ck_assert(is_down(u));
	origin_open_at(&origin, "127.0.0.1", port);
	WAIT_FOR(!is_down(u));
	ck_assert_uint_ge(origin.connection_cnt, 2);
	origin_shut(&origin);
	rig_close();
}
END_TEST

/* ---- settings ---- */

START_TEST(settings_change)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_HTTP);
	origin = (struct origin){ .answer = "HTTP/1.1 404 No\r\n\r\n" };
	origin_open(&origin);
	struct upstream *u = rig_get(&group, "127.0.0.1", origin.port, NULL);
	group.check.interval_ms = 3600 * 1000;
	health_apply(u, &group);
	WAIT_FOR(is_down(u));
	struct config_upstream other = group_of(CONFIG_CHECK_HTTP);
	other.check.path = "/other";
	other.check.status_last = 404;
	health_apply(u, &other); /* not after an hour */
	WAIT_FOR(!is_down(u));
	ck_assert_mem_eq(origin.seen, "GET /other HTTP/1.1\r\n", 21);
	origin_shut(&origin);
	WAIT_FOR(is_down(u));
	other.check.type = CONFIG_CHECK_NONE;
	health_apply(u, &other);
	ck_assert(!is_down(u));
	ck_assert_ptr_null(u->check);
	rig_close();
}
END_TEST

/* A port of its own; a target whose port is the client's has to have one. */
START_TEST(check_port)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_HTTP);
	origin = (struct origin){ .answer = ok_answer };
	origin_open(&origin);
	struct upstream *u = rig_get(&group, "127.0.0.1", 0, NULL);
	health_apply(u, &group);
	ck_assert_ptr_null(u->check);
	group.check.port = origin.port;
	health_apply(u, &group);
	WAIT_FOR(is_checked(u));
	ck_assert(!is_down(u));
	ck_assert_uint_eq(origin.request_cnt, 1);
	origin_shut(&origin);
	rig_close();
}
END_TEST

/* An upstream goes away in the middle of a check: before it begins, while it waits for the answer; by
 * registry_put and by the end of the process. */
START_TEST(freed_in_the_middle)
{
	rig_open();
	struct config_upstream group =
		group_of(_i % 3 == 2 ? CONFIG_CHECK_HTTPS : CONFIG_CHECK_HTTP);
	origin = (struct origin){ 0 };
	origin_open(&origin);
	struct upstream *u = rig_get(&group, "127.0.0.1", origin.port, NULL);
	health_apply(u, &group);
	if (_i % 3 != 0)
		WAIT_FOR(origin.connection_cnt > 0);
	if (_i % 3 == 1)
		WAIT_FOR(origin.request_cnt > 0);
	if (_i < 3) {
		registry_put(upstreams, u);
		run_loop_ms(control_loop, 30);
		run_loop_ms(worker_loop, 1);
		run_loop_ms(control_loop, 1);
		ck_assert(list_is_empty(&upstreams->all));
	}
	origin_shut(&origin);
	rig_close();
}
END_TEST

/* Many that begin at once are spread over an interval. */
START_TEST(spread)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_TCP);
	group.check.interval_ms = 3600 * 1000;
	origin = (struct origin){ 0 };
	origin_open(&origin);
	for (unsigned i = 0; i < 200; i++) {
		char host[32];
		(void)text_format(host, sizeof(host), "127.0.1.%u", i + 1);
		health_apply(rig_get(&group, host, origin.port, NULL), &group);
	}
	run_loop_ms(control_loop, 200);
	unsigned checked_cnt = 0;
	LIST_FOREACH(pos, &upstreams->all)
	checked_cnt += is_checked(SP_CONTAINER_OF(pos, struct upstream, link));
	ck_assert_uint_ge(checked_cnt, 64);
	ck_assert_uint_lt(checked_cnt, 80);
	origin_shut(&origin);
	rig_close();
}
END_TEST

/* Where memory runs out: a target is made or not, a check that could not be made says nothing of it. */
START_TEST(memory_runs_out)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_HTTP);
	struct config_upstream_tls tls = { .wants_verify = false };
	struct config_target target = { .host = "127.0.0.1", .weight = 1 };
	unsigned made_cnt = 0;
	group.check.interval_ms = 2;
	origin = (struct origin){ .answer = ok_answer };
	origin_open_at(&origin, "0.0.0.0", 0);
	ck_assert_int_eq(setenv("SMARTPROXY_FAULTS", "malloc=0.3", 1), 0);
	fault_init();
	for (unsigned i = 0; i < 200; i++) {
		char host[32];
		struct upstream *u = NULL;
		(void)text_format(host, sizeof(host), "127.0.0.%u", i + 1);
		target.host = host;
		target.port = origin.port;
		group.check.type = i % 2 == 0 ? CONFIG_CHECK_HTTP : CONFIG_CHECK_HTTPS;
		enum err e = registry_get(upstreams, &group, &target, i % 4 == 3 ? &tls : NULL, &u,
					  NULL);
		ck_assert(e == ERR_OK || e == ERR_NOMEM);
		made_cnt += e == ERR_OK;
		if (e == ERR_OK)
			health_apply(u, &group);
	}
	struct upstream *u = NULL;
	target.host = "127.0.1.1";
	group.check.type = CONFIG_CHECK_HTTP;
	while (u == NULL)
		(void)!registry_get(upstreams, &group, &target, NULL, &u, NULL);
	health_apply(u, &group);
	for (int i = 0; i < 20; i++)
		run_loop_ms(control_loop, 5);
	ck_assert(!is_down(u));
	ck_assert(made_cnt > 0 && made_cnt < 200);
	fault_is_on = false;
	origin_shut(&origin);
	rig_close();
}
END_TEST

/* ---- HTTPS ---- */

static const struct {
	const char *name;
	bool is_tls, wants_verify, has_ca;
	const char *server_name;
	enum upstream_failure failure;
} https[] = {
	{ "plain target: nothing is verified", false, false, false, NULL, UPSTREAM_FAILURE_NONE },
	{ "verify = false", true, false, false, NULL, UPSTREAM_FAILURE_NONE },
	{ "its CA and name", true, true, true, "a.example", UPSTREAM_FAILURE_NONE },
	{ "its CA, another name", true, true, true, "b.example", UPSTREAM_FAILURE_VERIFY },
	{ "its CA, the address", true, true, true, NULL, UPSTREAM_FAILURE_VERIFY },
	{ "the system's CAs", true, true, false, "a.example", UPSTREAM_FAILURE_VERIFY },
};

START_TEST(https_check)
{
	rig_open();
	struct config_upstream group = group_of(CONFIG_CHECK_HTTPS);
	group.check.interval_ms = 60000;
	struct made made = make_cert(EVP_EC_gen("P-256"), "a.example", "DNS:a.example", NULL, 30);
	char ca_file[] = "/tmp/upstream_health_XXXXXX";
	int fd = mkstemp(ca_file);
	struct text pem = { 0 };
	add_pem(&pem, &made, false);
	ck_assert_int_eq(write(fd, pem.data, pem.len), (ssize_t)pem.len);
	(void)close(fd);
	struct config_upstream_tls tls = { .wants_verify = https[_i].wants_verify,
					   .ca_file = https[_i].has_ca ? ca_file : NULL,
					   .server_name = https[_i].server_name };
	origin = (struct origin){ .answer = ok_answer, .cert = load(&made, 1) };
	ck_assert_int_eq(tls_worker_new(&defaults, &origin.tls), ERR_OK);
	origin_open(&origin);
	struct upstream *u =
		rig_get(&group, "127.0.0.1", origin.port, https[_i].is_tls ? &tls : NULL);
	health_apply(u, &group);
	WAIT_FOR(is_checked(u));
	ck_assert_msg(last_failure(u) == https[_i].failure, "%s: %s, %s", https[_i].name,
		      upstream_failure_name((enum upstream_failure)last_failure(u)), u->last_why);
	ck_assert(is_down(u) == (https[_i].failure != UPSTREAM_FAILURE_NONE));
	origin_shut(&origin);
	tls_cert_put(origin.cert);
	tls_worker_free(origin.tls);
	rig_close();
	made_fini(&made);
	text_fini(&pem);
	(void)unlink(ca_file);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("upstream_health");
	TCase *tc = tcase_create("checks");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, one_check, 0, SP_ARRAY_LEN(finds));
	tcase_add_test(tc, unreachable);
	tcase_add_test(tc, endless_head);
	tcase_add_loop_test(tc, as_sent, 0, SP_ARRAY_LEN(sents));
	tcase_add_test(tc, rise_and_fall);
	tcase_add_test(tc, first_check_fails);
	tcase_add_test(tc, settings_change);
	tcase_add_test(tc, check_port);
	tcase_add_loop_test(tc, freed_in_the_middle, 0, 6);
	tcase_add_test(tc, spread);
	tcase_add_test(tc, memory_runs_out);
	tcase_add_loop_test(tc, https_check, 0, SP_ARRAY_LEN(https));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
