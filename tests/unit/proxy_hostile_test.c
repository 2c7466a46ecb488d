/* proxy: what must not come of requests, clients and moments that are chosen to harm. */
#include "proxy_scripts.h"

static struct rig rig;
static struct origin origin;
static struct message answer;

static void start_routes(const char *settings, const char *path, const char *action)
{
	uint16_t port = free_port();
	rig_start(
		&rig,
		load_text(
			"%s routes: ( { name = \"one\"; match = { address = \"127.0.0.1\"; ports = "
			"[ %u ]; %s }; action = { %s }; } );",
			settings, (unsigned)port, path, action),
		port);
}

#define RESPOND  "type = \"respond\"; body = \"ok\";"
#define REDIRECT "type = \"redirect\"; location = \"https://other.example{path}\";"

/* ---- an answer of our own that is replaced by a refusal ---- */

static const struct {
	const char *settings, *action, *request;
	unsigned status;
} replaced[] = {
	{ "timeouts: { total = \"200ms\"; };", RESPOND,
	  "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", 504 },
	{ "timeouts: { total = \"200ms\"; };", REDIRECT,
	  "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", 504 },
	{ "timeouts: { idle = \"200ms\"; };", REDIRECT,
	  "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello", 408 },
	{ "", REDIRECT, "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
	  400 },
};

START_TEST(refusal_replaces_all)
{
	start_routes(replaced[_i].settings, "", replaced[_i].action);
	struct side *s = rig_connect(&rig);
	ck_assert(ask(s, replaced[_i].request, &answer));
	ck_assert_uint_eq(answer.status, replaced[_i].status);
	ck_assert_msg(strtoul(answer.body, NULL, 10) == replaced[_i].status, "%s", answer.body);
	ck_assert_ptr_null(strstr(answer.head, "\r\nLocation: "));
	ck_assert(answer.has_closing);
	side_free(s);
	rig_stop(&rig);
}
END_TEST

#define LARGE_BYTES (8 * 1024 * 1024)

/* timeouts.total is that of a client which reads slowly as well. */
START_TEST(total_ends_long_answer)
{
	static char action[LARGE_BYTES + 100];
	int len = snprintf(action, sizeof(action), "type = \"respond\"; body = \"");
	memset(action + len, 'b', LARGE_BYTES);
	memcpy(action + len + LARGE_BYTES, "\";", 3);
	start_routes("timeouts: { total = \"100ms\"; };", "", action);
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, GET));
	(void)poll(NULL, 0, 400); /* what is tested is a time */
	ck_assert(!take_message(s, &answer, true));
	ck_assert_uint_eq(answer.status, 200);
	side_free(s);
	rig_stop(&rig);
}
END_TEST

/* ---- what follows a request that asked for a tunnel ---- */

START_TEST(refused_tunnel)
{
	start_routes("", "", RESPOND);
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, "CONNECT a.example:80 HTTP/1.1\r\nHost: a.example:80\r\n\r\n" GET));
	ck_assert(take_message(s, &answer, true));
	ck_assert_uint_eq(answer.status, 405);
	ck_assert(answer.has_closing);
	ck_assert_int_eq(side_rest(s), 0);
	side_free(s);
	rig_stop(&rig);
}
END_TEST

/* ---- what a target gets ---- */

static void serve_head(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	struct message m;
	char text[1024];
	while (take_message(s, &m, true)) {
		(void)snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n",
			       strlen(m.head));
		(void)side_puts(s, text);
		(void)side_puts(s, m.head);
	}
}

/* TE is for the next hop: Connection says so (RFC 9110, 10.1.4). */
START_TEST(te_is_named)
{
	origin_start(&origin, serve_head);
	rig_forward(&rig, &origin, "");
	struct side *s = rig_connect(&rig);
	ck_assert(ask(s, "GET /x HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: TE\r\n\r\n",
		      &answer));
	ck_assert_msg(strstr(answer.body, "\r\nConnection: TE\r\nTE: trailers\r\n") != NULL, "%s",
		      answer.body);
	ck_assert(ask(s, "GET /x HTTP/1.1\r\nHost: a\r\n\r\n", &answer));
	ck_assert_ptr_null(strstr(answer.body, "Connection: "));
	side_free(s);
	rig_stop(&rig);
	origin_stop(&origin);
}
END_TEST

static const char *const drips[] = {
	"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: "
	"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
	"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 Early "
	"Hints\r\n",
};

static void serve_drip(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	if (!take_message(s, &m, true))
		return;
	for (const char *at = o->arg; *at != '\0' && side_send(s, at, 1); at++)
		(void)poll(NULL, 0, 60);
	(void)side_until(s, "never");
}

/* A target that gives its head by drops has timeouts.response for all of it. */
START_TEST(dripping_target)
{
	origin_start(&origin, serve_drip);
	origin.arg = (void *)(uintptr_t)drips[_i];
	rig_forward(&rig, &origin, "timeouts: { response = \"300ms\"; };");
	struct side *s = rig_connect(&rig);
	int64_t begin_ms = clock_now_ms();
	ck_assert(side_puts(s, GET));
	do
		ck_assert(take_message(s, &answer, true));
	while (answer.status == 103);
	ck_assert_uint_eq(answer.status, 504);
	ck_assert_int_lt(clock_now_ms() - begin_ms, 2500);
	side_free(s);
	rig_stop(&rig);
	origin_stop(&origin);
}
END_TEST

/* ---- where a redirect leads ---- */

START_TEST(redirect_stays_here)
{
	start_routes("", "", "type = \"redirect\"; location = \"{path}{query}\";");
	struct side *s = rig_connect(&rig);
	static const char *const paths[] = { "//evil.example", "/\\evil.example",
					     "/\\/evil.example" };
	for (size_t i = 0; i < SP_ARRAY_LEN(paths); i++) {
		char request[128];
		(void)snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: a\r\n\r\n",
			       paths[i]);
		ck_assert(ask(s, request, &answer));
		ck_assert_uint_eq(answer.status, 301);
		const char *location = strstr(answer.head, "\r\nLocation: /");
		ck_assert(location != NULL && strchr("/\\", location[13]) == NULL);
	}
	side_free(s);
	rig_stop(&rig);
}
END_TEST

/* ---- patterns with escapes ---- */

START_TEST(escaped_pattern)
{
	start_routes("", "path = \"/%41%2f%7e/*\";", RESPOND);
	struct side *s = rig_connect(&rig);
	static const char *const paths[] = { "/A%2F~/x", "/%41%2f%7E/x", "/A/~/x" };
	for (size_t i = 0; i < SP_ARRAY_LEN(paths); i++) {
		char request[128];
		(void)snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: a\r\n\r\n",
			       paths[i]);
		ck_assert(ask(s, request, &answer));
		ck_assert_msg(answer.status == (i < 2 ? 200 : 404), "%s: %u", paths[i],
			      answer.status);
	}
	side_free(s);
	rig_stop(&rig);
}
END_TEST

/* ---- a worker that stands still ---- */

static bool stands_still, is_caught; /* atomic */

static void stand_still(void *arg)
{
	(void)arg;
	__atomic_store_n(&is_caught, true, __ATOMIC_RELEASE);
	while (__atomic_load_n(&stands_still, __ATOMIC_ACQUIRE))
		nap();
}

/* A listener that a worker was to take in vain is closed and freed: it must not be taken afterwards. */
START_TEST(late_adoption)
{
	sp_role_assume_control();
	uint16_t port = free_port();
	rig_start(&rig,
		  load_text("acme: { port = %u; }; routes: ( { name = \"one\"; match = { address = "
			    "\"127.0.0.1\"; ports = [ %u ]; }; action = { " RESPOND " }; } );",
			    (unsigned)port, (unsigned)port),
		  port);
	struct generation *g = NULL;
	ck_assert_int_eq(generation_fork(rig.generations, true, &g), ERR_OK);
	generation_publish(rig.generations, g);
	ck_assert_int_eq(challenge_add(rig.challenges, "a", "token", "token.key"), ERR_OK);
	stands_still = true;
	challenge_on_served(rig.challenges, stand_still, NULL);
	struct side *s = rig_connect(&rig);
	ck_assert(
		side_puts(s, "GET /.well-known/acme-challenge/token HTTP/1.1\r\nHost: a\r\n\r\n"));
	while (!__atomic_load_n(&is_caught, __ATOMIC_ACQUIRE))
		nap();

	struct addr other = loopback(free_port());
	struct listener_change *change = NULL;
	struct port_error error;
	ck_assert_int_eq(listeners_open(rig.listeners, &other, 1, 0, &change, &error), ERR_OK);
	ck_assert_int_eq(workers_adopt(rig.workers, change->opened[0], 0), ERR_TIMEOUT);
	ck_assert_int_eq(workers_release(rig.workers, change->opened, 1, 0), ERR_TIMEOUT);
	listeners_abort(rig.listeners, change);
	__atomic_store_n(&stands_still, false, __ATOMIC_RELEASE);

	ck_assert(take_message(s, &answer, true));
	ck_assert_str_eq(answer.body, "token.key");
	side_free(s);
	rig_stop(&rig);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("proxy_hostile");
	TCase *tc = tcase_create("rows");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, refusal_replaces_all, 0, SP_ARRAY_LEN(replaced));
	tcase_add_test(tc, total_ends_long_answer);
	tcase_add_loop_test(tc, dripping_target, 0, SP_ARRAY_LEN(drips));
	tcase_add_test(tc, refused_tunnel);
	tcase_add_test(tc, te_is_named);
	tcase_add_test(tc, redirect_stays_here);
	tcase_add_test(tc, escaped_pattern);
	tcase_add_test(tc, late_adoption);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
