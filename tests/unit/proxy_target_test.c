/* proxy: the way from a request to a target: retries, queue, affinity, upgrades. */
#include "proxy_scripts.h"

static struct rig rig;
static struct origin origins[2];
static struct message answer;

/* A proxy before a group: its targets (of two ports) and what is beside them; route: beside its action. */
static void start_group(const char *settings, const char *targets, const char *group,
			const char *route)
{
	uint16_t port = free_port();
	char target_text[1024];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	(void)snprintf(target_text, sizeof(target_text), targets, (unsigned)origins[0].port,
		       (unsigned)origins[1].port);
#pragma GCC diagnostic pop
	rig_start(&rig,
		  load_text("%s upstreams: ( { name = \"app\"; targets = ( %s ); %s } ); routes: ( "
			    "{ name = \"all\"; match = { address = \"127.0.0.1\"; ports = [ %u ]; "
			    "}; %s action = { type = \"forward\"; upstream = \"app\"; }; } );",
			    settings, target_text, group, (unsigned)port, route),
		  port);
}

#define TARGET        "{ host = \"127.0.0.1\"; port = %u; }"
#define BACKUP        "{ host = \"127.0.0.1\"; port = %u; backup = true; }"
#define ONE_PLACE     "{ host = \"127.0.0.1\"; port = %u; max_connections = 1; }"
#define NEVER_EJECTED "ejection = { failures = 0; };"

static void stop_all(void)
{
	rig_stop(&rig);
	for (size_t i = 0; i < SP_ARRAY_LEN(origins); i++) {
		if (origins[i].serve != NULL)
			origin_stop(&origins[i]);
	}
}

static uint64_t end_cnt(enum exchange_end end)
{
	return rig_stats(&rig).ends[end];
}

static unsigned requests_of(const struct origin *o)
{
	return __atomic_load_n(&o->request_cnt, __ATOMIC_ACQUIRE);
}

/* An exchange ends a moment after its client has the answer. */
static void await_end(enum exchange_end end)
{
	int64_t until_ms = clock_now_ms() + PATIENCE_MS;
	while (end_cnt(end) < 1 && clock_now_ms() < until_ms)
		nap();
	ck_assert_uint_eq(end_cnt(end), 1);
}

/* ---- another try at another target ---- */

/* Reads a request and is gone. */
static void serve_death(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	if (take_message(s, &m, true))
		__atomic_fetch_add(&o->request_cnt, 1, __ATOMIC_RELEASE);
}

/* Says something that ends within its head. */
static void serve_stump(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	if (take_message(s, &m, true)) {
		__atomic_fetch_add(&o->request_cnt, 1, __ATOMIC_RELEASE);
		(void)side_puts(s, "HTTP/1.1 200 OK\r\nX: ");
	}
}

static void serve_nonsense(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	if (take_message(s, &m, true)) {
		__atomic_fetch_add(&o->request_cnt, 1, __ATOMIC_RELEASE);
		(void)side_puts(s, "not HTTP\r\n\r\n");
	}
}

#define POST_BODY  "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
#define POST_EMPTY "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
#define PUT_BODY   "PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
#define UPGRADE                                                           \
	"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: " \
	"websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"    \
	"Sec-WebSocket-Version: 13\r\n\r\n"

static const struct {
	void (*serve)(struct origin *o, struct side *s, unsigned nth); /* NULL: refuses */
	const char *request, *retry;
	unsigned status;
	enum exchange_end end;
	unsigned first, second; /* requests that came to each */
} tries[] = {
	{ serve_death, GET, "", 200, EXCHANGE_END_DONE, 1, 1 },
	{ serve_death, "DELETE /x HTTP/1.1\r\nHost: a\r\n\r\n", "", 200, EXCHANGE_END_DONE, 1, 1 },
	{ serve_death, POST_EMPTY, "", 502, EXCHANGE_END_UPSTREAM_GONE, 1, 0 },
	{ serve_death, POST_BODY, "", 502, EXCHANGE_END_UPSTREAM_GONE, 1, 0 },
	{ serve_death, PUT_BODY, "", 502, EXCHANGE_END_UPSTREAM_GONE, 1, 0 },
	{ serve_death, GET, "retry = { tries = 1; };", 502, EXCHANGE_END_UPSTREAM_GONE, 1, 0 },
	{ serve_stump, GET, "", 502, EXCHANGE_END_UPSTREAM_GONE, 1, 0 },
	{ serve_nonsense, GET, "", 502, EXCHANGE_END_UPSTREAM_BAD, 1, 0 },
	{ NULL, GET, "", 200, EXCHANGE_END_DONE, 0, 1 },
	{ NULL, POST_BODY, "", 200, EXCHANGE_END_DONE, 0, 1 },
	{ NULL, POST_BODY, "retry = { tries = 1; };", 502, EXCHANGE_END_CONNECT_FAILED, 0, 0 },
};

START_TEST(try_another)
{
	if (tries[_i].serve != NULL)
		origin_start(&origins[0], tries[_i].serve);
	else
		origins[0].port = free_port();
	origin_start(&origins[1], serve_report);
	char group[256];
	(void)snprintf(group, sizeof(group), NEVER_EJECTED "%s", tries[_i].retry);
	start_group("", TARGET "," BACKUP, group, "");
	struct side *s = rig_connect(&rig);
	ck_assert(ask(s, tries[_i].request, &answer));
	ck_assert_uint_eq(answer.status, tries[_i].status);
	side_free(s);
	rig_await_idle(&rig);
	await_end(tries[_i].end);
	ck_assert_uint_eq(requests_of(&origins[0]), tries[_i].first);
	ck_assert_uint_eq(requests_of(&origins[1]), tries[_i].second);
	stop_all();
}
END_TEST

/* A group of which one half is dead: retries are a share of the requests, not as many as them. */
START_TEST(budget_is_spent)
{
	origin_start(&origins[0], serve_death);
	origin_start(&origins[1], serve_report);
	start_group("", TARGET "," BACKUP, NEVER_EJECTED "retry = { tries = 2; budget = 5; };", "");
	struct side *s = rig_connect(&rig);
	unsigned good = 0, bad = 0;
	for (int i = 0; i < 200; i++) {
		ck_assert(ask(s, GET, &answer));
		good += answer.status == 200;
		bad += answer.status == 502;
	}
	ck_assert_uint_eq(good + bad, 200);
	ck_assert_msg(good > 0 && bad > 100, "%u were retried", good);
	ck_assert_uint_eq(requests_of(&origins[1]), good);
	side_free(s);
	stop_all();
}
END_TEST

/* ---- places and the queue ---- */

static bool is_gate_open; /* atomic */

/* Holds every answer until the gate opens. */
static void serve_gate(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	while (take_message(s, &m, true)) {
		__atomic_fetch_add(&o->request_cnt, 1, __ATOMIC_RELEASE);
		while (!__atomic_load_n(&is_gate_open, __ATOMIC_ACQUIRE))
			nap();
		if (!side_puts(s, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
			return;
	}
}

static void open_gate(void)
{
	__atomic_store_n(&is_gate_open, true, __ATOMIC_RELEASE);
}

/* One request is at the target, which has no other place. */
static struct side *start_full(const char *group)
{
	is_gate_open = false;
	origin_start(&origins[0], serve_gate);
	start_group("", ONE_PLACE, group, "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, GET));
	while (requests_of(&origins[0]) < 1)
		nap();
	return s;
}

static void await_requests(uint64_t cnt)
{
	while (rig_stats(&rig).requests < cnt)
		nap();
}

#define WAITER_CNT 20

START_TEST(queue_serves_all)
{
	struct side *sides[WAITER_CNT], *first = start_full("");
	for (int i = 0; i < WAITER_CNT; i++) {
		sides[i] = rig_connect(&rig);
		ck_assert(side_puts(sides[i], GET));
		/* A client that has sent all it will still wants its answer. */
		if (i % 2 == 1)
			(void)shutdown(sides[i]->fd, SHUT_WR);
	}
	await_requests(1 + WAITER_CNT);
	ck_assert_uint_eq(requests_of(&origins[0]), 1);
	open_gate();
	ck_assert(take_message(first, &answer, true));
	for (int i = 0; i < WAITER_CNT; i++) {
		ck_assert_msg(take_message(sides[i], &answer, true), "waiter %d", i);
		ck_assert_uint_eq(answer.status, 200);
		side_free(sides[i]);
	}
	side_free(first);
	stop_all();
}
END_TEST

static const struct {
	const char *group;
	enum exchange_end end;
} turned_away[] = {
	{ "queue = 0;", EXCHANGE_END_QUEUE_FULL },
	{ "queue_timeout = \"200ms\";", EXCHANGE_END_QUEUE_TIMEOUT },
};

START_TEST(queue_turns_away)
{
	struct side *first = start_full(turned_away[_i].group), *s = rig_connect(&rig);
	ck_assert(ask(s, GET, &answer));
	ck_assert_uint_eq(answer.status, 503);
	ck_assert(!answer.has_closing);
	await_end(turned_away[_i].end);
	open_gate();
	ck_assert(take_message(first, &answer, true));
	ck_assert_uint_eq(answer.status, 200);
	await_end(EXCHANGE_END_DONE); /* the answer is there a moment before the place */
	ck_assert(ask(s, GET, &answer));
	ck_assert_uint_eq(answer.status, 200);
	side_free(first);
	side_free(s);
	stop_all();
}
END_TEST

static void reset_side(struct side *s)
{
	struct linger reset = { .l_onoff = 1 };
	(void)setsockopt(s->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	side_free(s);
}

/* Who leaves the queue takes no place when its turn would have come. */
START_TEST(gone_from_queue)
{
	struct side *first = start_full(""), *gone = rig_connect(&rig), *s = rig_connect(&rig);
	ck_assert(side_puts(gone, GET));
	await_requests(2);
	reset_side(gone);
	while (end_cnt(EXCHANGE_END_CLIENT_GONE) < 1)
		nap();
	ck_assert(side_puts(s, GET));
	await_requests(3);
	open_gate();
	ck_assert(take_message(first, &answer, true));
	ck_assert(take_message(s, &answer, true));
	ck_assert_uint_eq(answer.status, 200);
	ck_assert_uint_eq(requests_of(&origins[0]), 2);
	side_free(first);
	side_free(s);
	stop_all();
}
END_TEST

/* ---- a target that takes no connection, and does not refuse it either ---- */

#define FILLER_CNT 8

/* Its backlog is full: every further SYN is dropped. */
static void start_deaf_target(int *fillers, const char *settings)
{
	int fd = bound_socket();
	ck_assert_int_eq(listen(fd, 0), 0);
	origins[0].port = port_of(fd);
	fillers[FILLER_CNT] = fd;
	struct addr a = loopback(origins[0].port);
	for (int i = 0; i < FILLER_CNT; i++) {
		fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)connect(fillers[i], &a.sa, a.len);
	}
	start_group(settings, TARGET, NEVER_EJECTED, "");
}

static void stop_deaf_target(const int *fillers)
{
	rig_stop(&rig);
	for (int i = 0; i <= FILLER_CNT; i++)
		(void)close(fillers[i]);
}

START_TEST(connect_times_out)
{
	int fillers[FILLER_CNT + 1];
	start_deaf_target(fillers, "timeouts: { connect = \"200ms\"; };");
	struct side *s = rig_connect(&rig);
	ck_assert(ask(s, GET, &answer));
	ck_assert_uint_eq(answer.status, 504);
	ck_assert(!answer.has_closing);
	await_end(EXCHANGE_END_CONNECT_TIMEOUT);
	side_free(s);
	stop_deaf_target(fillers);
}
END_TEST

START_TEST(gone_while_connecting)
{
	int fillers[FILLER_CNT + 1];
	start_deaf_target(fillers, "timeouts: { connect = \"600s\"; };");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, GET));
	await_requests(1);
	reset_side(s);
	rig_await_idle(&rig);
	await_end(EXCHANGE_END_CLIENT_GONE);
	stop_deaf_target(fillers);
}
END_TEST

/* ---- the same target for the same client ---- */

/* Answers with its own name. */
static void serve_name(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	while (take_message(s, &m, true)) {
		char text[128];
		(void)snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%s",
			       o == &origins[0] ? "a" : "b");
		if (!side_puts(s, text))
			return;
	}
}

static void start_named(const char *group)
{
	origin_start(&origins[0], serve_name);
	origin_start(&origins[1], serve_name);
	start_group("", TARGET "," TARGET, group, "");
}

static char ask_name(const char *fields)
{
	char request[512];
	(void)snprintf(request, sizeof(request), "GET /x HTTP/1.1\r\nHost: a\r\n%s\r\n", fields);
	struct side *s = rig_connect(&rig);
	ck_assert(ask(s, request, &answer));
	ck_assert_uint_eq(answer.status, 200);
	side_free(s);
	return answer.body[0];
}

START_TEST(sticky_cookie)
{
	start_named("balance = \"sticky\"; cookie = \"at\";");
	char at = ask_name("Cookie: chat=1; at\r\n");
	const char *cookie = strstr(answer.head, "\r\nSet-Cookie: at=");
	ck_assert_ptr_nonnull(cookie);
	char value[32] = "";
	memcpy(value, cookie + 17, UPSTREAM_COOKIE_LEN);
	ck_assert_uint_eq(strcspn(cookie + 17, ";"), UPSTREAM_COOKIE_LEN);
	static const char attributes[] = "; Path=/; HttpOnly; SameSite=Lax\r\n";
	ck_assert_int_eq(
		strncmp(cookie + 17 + UPSTREAM_COOKIE_LEN, attributes, sizeof(attributes) - 1), 0);
	static const char *const forms[] = { "Cookie: at=%s\r\n", "Cookie: x=1; at=%s; y=2\r\n",
					     "Cookie: at=\"%s\"\r\n",
					     "Cookie: x=1\r\nCookie: bat=2;at=%s\r\n" };
	for (int i = 0; i < 40; i++) {
		char fields[128];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		(void)snprintf(fields, sizeof(fields), forms[i % (int)SP_ARRAY_LEN(forms)], value);
#pragma GCC diagnostic pop
		ck_assert_msg(ask_name(fields) == at, "%s", fields);
		ck_assert_ptr_null(strstr(answer.head, "Set-Cookie"));
	}
	/* One that nobody gave: a new choice, and a new cookie. */
	(void)ask_name("Cookie: at=0123456789abcdef\r\n");
	ck_assert_ptr_nonnull(strstr(answer.head, "\r\nSet-Cookie: at="));
	stop_all();
}
END_TEST

static const struct {
	const char *group, *field;
} keys[] = {
	{ "balance = \"hash\"; hash_key = \"header:X-User\"; hash_bound = 0;", "x-user: %d\r\n" },
	{ "balance = \"hash\"; hash_key = \"cookie:user\"; hash_bound = 0;",
	  "Cookie: a=b; user=%d\r\n" },
};

START_TEST(hash_keys)
{
	start_named(keys[_i].group);
	bool has_seen[2] = { false, false };
	for (int key = 0; key < 32; key++) {
		char fields[128];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
		(void)snprintf(fields, sizeof(fields), keys[_i].field, key);
#pragma GCC diagnostic pop
		char at = ask_name(fields);
		has_seen[at - 'a'] = true;
		for (int i = 0; i < 4; i++)
			ck_assert_int_eq(ask_name(fields), at);
	}
	ck_assert(has_seen[0] && has_seen[1]);
	/* Without the key it is the client's address. */
	char at = ask_name("");
	for (int i = 0; i < 8; i++)
		ck_assert_int_eq(ask_name(""), at);
	stop_all();
}
END_TEST

/* ---- a route's own limit ---- */

START_TEST(route_limit)
{
	origin_start(&origins[0], serve_report);
	start_group("", TARGET, "", "max_connections = 1;");
	struct side *first = rig_connect(&rig), *second = rig_connect(&rig);
	ck_assert(ask(first, GET, &answer));
	ck_assert_uint_eq(answer.status, 200);
	ck_assert(ask(second, GET, &answer));
	ck_assert_uint_eq(answer.status, 503);
	ck_assert(answer.has_closing);
	await_end(EXCHANGE_END_LIMITED);
	side_free(second);
	ck_assert(ask(first, GET, &answer)); /* counted once */
	ck_assert_uint_eq(answer.status, 200);
	side_free(first);
	rig_await_idle(&rig);
	first = rig_connect(&rig);
	ck_assert(ask(first, GET, &answer));
	ck_assert_uint_eq(answer.status, 200);
	side_free(first);
	stop_all();
}
END_TEST

/* ---- WebSocket ---- */

#define SWITCHING                                                                \
	"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: " \
	"Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

static const char *first_words; /* of the origin */

/* first_words, then an echo; or an ordinary answer. */
static void serve_websocket(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	if (!take_message(s, &m, true))
		return;
	__atomic_fetch_add(&o->request_cnt, 1, __ATOMIC_RELEASE);
	bool is_asked = strstr(m.head, "\r\nConnection: Upgrade\r\n") != NULL &&
			strstr(m.head, "\r\nUpgrade: websocket\r\n") != NULL &&
			strstr(m.head, "\r\nSec-WebSocket-Key: ") != NULL;
	(void)side_puts(s, is_asked ? first_words
				    : "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain");
	do {
		if (!side_send(s, s->data, s->len))
			return;
		side_use(s, s->len);
	} while (side_fill(s) > 0);
}

static const struct {
	const char *request, *words;
	unsigned status;
	const char *has; /* in the head */
	enum exchange_end end;
} upgrades[] = {
	{ UPGRADE, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, "",
	  EXCHANGE_END_DONE },
	{ UPGRADE,
	  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 502,
	  "", EXCHANGE_END_UPSTREAM_BAD },
	{ UPGRADE, "HTTP/1.1 101 Switching Protocols\r\n\r\n", 502, "", EXCHANGE_END_UPSTREAM_BAD },
	{ UPGRADE, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", 502, "",
	  EXCHANGE_END_UPSTREAM_BAD },
	{ "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", SWITCHING,
	  200, "", EXCHANGE_END_DONE },
	{ "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 8\r\n\r\n",
	  SWITCHING, 426, "\r\nSec-WebSocket-Version: 13\r\n", EXCHANGE_END_BAD_REQUEST },
	{ "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
	  "Sec-WebSocket-Version: 13\r\n\r\n",
	  SWITCHING, 400, "", EXCHANGE_END_BAD_REQUEST },
};

START_TEST(upgrade_answers)
{
	first_words = upgrades[_i].words;
	origin_start(&origins[0], serve_websocket);
	start_group("", TARGET, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(ask(s, upgrades[_i].request, &answer));
	ck_assert_uint_eq(answer.status, upgrades[_i].status);
	ck_assert_msg(strstr(answer.head, upgrades[_i].has) != NULL, "%s", answer.head);
	side_free(s);
	rig_await_idle(&rig);
	await_end(upgrades[_i].end);
	stop_all();
}
END_TEST

/* Bytes flow both ways, those that came with the heads first; no timer of HTTP ends it. */
START_TEST(upgrade_flows)
{
	first_words = SWITCHING "hello";
	origin_start(&origins[0], serve_websocket);
	start_group("timeouts: { idle = \"150ms\"; response = \"150ms\"; total = \"150ms\"; header "
		    "= \"150ms\"; };",
		    TARGET, "", "");
	struct side *s = rig_connect(&rig);
	ck_assert(side_puts(s, UPGRADE "early"));
	ck_assert(take_head(s, &answer));
	ck_assert_uint_eq(answer.status, 101);
	ck_assert(strstr(answer.head, "\r\nConnection: Upgrade\r\n") != NULL &&
		  strstr(answer.head, "\r\nUpgrade: websocket\r\n") != NULL &&
		  strstr(answer.head, "\r\nSec-WebSocket-Accept: ") != NULL);
	ck_assert_uint_eq(side_until(s, "helloearly"), 10);
	side_use(s, 10);
	(void)poll(NULL, 0, 500); /* what is tested is a time */
	ck_assert(side_puts(s, "late"));
	ck_assert_uint_eq(side_until(s, "late"), 4);
	side_use(s, 4);
	(void)shutdown(s->fd, SHUT_WR);
	ck_assert_int_eq(side_rest(s), 0);
	side_free(s);
	rig_await_idle(&rig);
	ck_assert_uint_eq(rig_stats(&rig).websockets_opened, 1);
	ck_assert_uint_eq(rig_stats(&rig).tunnels_open, 0);
	await_end(EXCHANGE_END_DONE);
	ck_assert_uint_eq(rig_stats(&rig).responses[1], 1);
	stop_all();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("proxy_target");
	TCase *tc = tcase_create("target");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, try_another, 0, SP_ARRAY_LEN(tries));
	tcase_add_test(tc, budget_is_spent);
	tcase_add_test(tc, queue_serves_all);
	tcase_add_loop_test(tc, queue_turns_away, 0, SP_ARRAY_LEN(turned_away));
	tcase_add_test(tc, gone_from_queue);
	tcase_add_test(tc, connect_times_out);
	tcase_add_test(tc, gone_while_connecting);
	tcase_add_test(tc, sticky_cookie);
	tcase_add_loop_test(tc, hash_keys, 0, SP_ARRAY_LEN(keys));
	tcase_add_test(tc, route_limit);
	tcase_add_loop_test(tc, upgrade_answers, 0, SP_ARRAY_LEN(upgrades));
	tcase_add_test(tc, upgrade_flows);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
