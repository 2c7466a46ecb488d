#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "dns_server.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/resolver.h"

/* Of a first try; three have seven times as much. Short where nobody answers. */
#define TIMEOUT_MS       300
#define SHORT_TIMEOUT_MS 50

struct room {
	struct dns_server server;
	struct loop *loop;
	struct resolver *resolver;
	int fd_cnt; /* before all */
	unsigned open_cnt;
	int64_t timeout_ms; /* 0: TIMEOUT_MS */
};

/* A query and what came of it. */
struct ask {
	struct resolver_query query;
	struct room *room;
	unsigned done_cnt;
	enum err error;
	char why[128];
	char addrs[512];
	size_t addr_cnt;
	uint32_t ttl_s;
	struct ask *next; /* started in on_done */
	const char *next_host;
	struct ask *victim; /* cancelled in on_done */
};

static int count_fds(void)
{
	int cnt = 0;
	DIR *dir = opendir("/proc/self/fd");
	while (readdir(dir) != NULL)
		cnt++;
	closedir(dir);
	return cnt;
}

static void configure(struct room *room, const struct resolver_settings *settings)
{
	sp_role_assume_control();
	ck_assert_int_eq(resolver_configure(room->resolver, settings), ERR_OK);
}

static void use_server(struct room *room, const struct dns_server *server)
{
	const char *where = server->where;
	const struct resolver_settings settings = {
		.servers = &where,
		.server_cnt = 1,
		.timeout_ms = room->timeout_ms == 0 ? TIMEOUT_MS : room->timeout_ms,
	};
	configure(room, &settings);
}

static void room_open(struct room *room)
{
	room->fd_cnt = count_fds();
	dns_start(&room->server);
	ck_assert_int_eq(loop_new(&room->loop), ERR_OK);
	ck_assert_int_eq(resolver_new(room->loop, &room->resolver), ERR_OK);
	use_server(room, &room->server);
}

static void room_close(struct room *room)
{
	sp_role_assume_control();
	resolver_free(room->resolver);
	loop_free(room->loop);
	dns_stop(&room->server);
	ck_assert_int_eq(count_fds(), room->fd_cnt);
}

static void start(struct room *room, const char *host, struct ask *ask);

static int compare(const void *a, const void *b)
{
	return strcmp(a, b);
}

/* Sorted, with a blank between each two. */
static void write_addrs(struct ask *ask, const struct resolver_answer *answer)
{
	char ips[16][ADDR_TEXT_MAX];
	size_t len = 0;
	ck_assert_uint_le(answer->addr_cnt, 16);
	for (size_t i = 0; i < answer->addr_cnt; i++) {
		ck_assert_uint_eq(addr_port(&answer->addrs[i]), 0);
		addr_format_ip(ips[i], sizeof(ips[i]), &answer->addrs[i]);
	}
	qsort(ips, answer->addr_cnt, sizeof(ips[0]), compare);
	for (size_t i = 0; i < answer->addr_cnt; i++)
		len += text_format(ask->addrs + len, sizeof(ask->addrs) - len, "%s%s",
				   i == 0 ? "" : " ", ips[i]);
}

static void on_done(struct resolver_query *query, const struct resolver_answer *answer)
{
	sp_role_assume_control();
	struct ask *ask = SP_CONTAINER_OF(query, struct ask, query);
	struct room *room = ask->room;
	ask->done_cnt++;
	ask->error = answer->error;
	ask->addr_cnt = answer->addr_cnt;
	ask->ttl_s = answer->ttl_s;
	text_format(ask->why, sizeof(ask->why), "%s", answer->why);
	write_addrs(ask, answer);
	if (ask->victim != NULL) {
		resolver_cancel(room->resolver, &ask->victim->query);
		room->open_cnt--;
	}
	if (ask->next != NULL)
		start(room, ask->next_host, ask->next);
	if (--room->open_cnt == 0)
		loop_stop(room->loop);
}

static void start(struct room *room, const char *host, struct ask *ask)
{
	sp_role_assume_control();
	ask->room = room;
	ask->query.on_done = on_done;
	room->open_cnt++;
	resolver_start(room->resolver, host, &ask->query);
}

static void cancel(struct room *room, struct ask *ask)
{
	sp_role_assume_control();
	resolver_cancel(room->resolver, &ask->query);
	room->open_cnt--;
}

static void resolve(struct room *room, const char *host, struct ask *ask)
{
	start(room, host, ask);
	/* An answer at once leaves a stop behind that ends the next run. */
	while (ask->done_cnt == 0)
		loop_run(room->loop);
	ck_assert_uint_eq(ask->done_cnt, 1);
	ck_assert_ptr_null(ask->query.state);
}

/* ---- answers ---- */

static const struct {
	const char *host;
	enum err want;
	const char *addrs;
	uint32_t ttl_s;
} cases[] = {
	{ "v4.test", ERR_OK, "127.0.0.1", 60 },
	{ "V4.Test.", ERR_OK, "127.0.0.1", 60 },
	{ "v6.test", ERR_OK, "2001:db8::1", 50 },
	{ "both.test", ERR_OK, "127.0.0.1 127.0.0.2 2001:db8::1", 10 },
	{ "alias.test", ERR_OK, "127.0.0.7", 5 },
	{ "big.test", ERR_OK, "127.0.0.9", 30 },
	{ "twice.test", ERR_OK, "127.0.0.1", 60 },
	{ "no.test", ERR_NOENT, "", 0 },
	{ "empty.test", ERR_NOENT, "", 0 },
	{ "fail.test", ERR_NETWORK, "", 0 },
	{ "refused.test", ERR_NETWORK, "", 0 },
	{ "silent.test", ERR_TIMEOUT, "", 0 },
};

START_TEST(host_is_resolved)
{
	struct room room = { 0 };
	struct ask ask = { 0 };
	room.timeout_ms = cases[_i].want == ERR_TIMEOUT ? SHORT_TIMEOUT_MS : TIMEOUT_MS;
	room_open(&room);
	resolve(&room, cases[_i].host, &ask);
	ck_assert_msg(ask.error == cases[_i].want, "%s: %s", err_name(ask.error), ask.why);
	ck_assert_str_eq(ask.addrs, cases[_i].addrs);
	ck_assert_uint_eq(ask.ttl_s, cases[_i].ttl_s);
	ck_assert_int_eq(ask.why[0] == '\0', ask.error == ERR_OK);
	/* A turn for each event and each try, and not many more. */
	ck_assert_uint_lt(loop_turns(room.loop), 40);
	room_close(&room);
}
END_TEST

START_TEST(sixteen_addresses_at_most)
{
	struct room room = { 0 };
	struct ask ask = { 0 };
	room_open(&room);
	resolve(&room, "many.test", &ask);
	ck_assert_int_eq(ask.error, ERR_OK);
	ck_assert_uint_eq(ask.addr_cnt, 16);
	room_close(&room);
}
END_TEST

static const char *const nonsense[] = { "short.test",     "header.test", "loop.test", "lies.test",
					"aliasloop.test", "length.test", "noise.test" };

/* No crash, an end, and whoever asks next is answered. */
START_TEST(nonsense_is_survived)
{
	struct room room = { .timeout_ms = SHORT_TIMEOUT_MS };
	struct ask ask = { 0 }, after = { 0 };
	room_open(&room);
	resolve(&room, nonsense[_i], &ask);
	ck_assert_int_ne(ask.error, ERR_OK);
	ck_assert_uint_eq(ask.addr_cnt, 0);
	room.timeout_ms = TIMEOUT_MS;
	use_server(&room, &room.server);
	resolve(&room, "v4.test", &after);
	ck_assert_str_eq(after.addrs, "127.0.0.1");
	room_close(&room);
}
END_TEST

static const struct {
	const char *host;
	enum err want;
	const char *addrs;
} at_once[] = {
	{ "192.0.2.1", ERR_OK, "192.0.2.1" },
	{ "2001:db8::1", ERR_OK, "2001:db8::1" },
	{ "[2001:db8::1]", ERR_OK, "2001:db8::1" },
	{ "localhost", ERR_OK, NULL },
	{ "a..test", ERR_NOENT, "" },
	{ "a.onion", ERR_NOENT, "" }, /* RFC 7686, 2 */
};

START_TEST(answer_at_once)
{
	struct room room = { 0 };
	struct ask ask = { 0 };
	room_open(&room);
	start(&room, at_once[_i].host, &ask);
	ck_assert_uint_eq(ask.done_cnt, 1);
	ck_assert_int_eq(ask.error, at_once[_i].want);
	if (at_once[_i].addrs != NULL)
		ck_assert_str_eq(ask.addrs, at_once[_i].addrs);
	else
		ck_assert_ptr_nonnull(strstr(ask.addrs, "1"));
	ck_assert_uint_eq(ask.ttl_s, 0);
	ck_assert_uint_eq(atomic_load(&room.server.ask_cnt), 0);
	room_close(&room);
}
END_TEST

START_TEST(server_that_is_not_there)
{
	struct room room = { 0 };
	struct dns_server gone = { 0 };
	struct ask ask = { 0 };
	room_open(&room);
	dns_start(&gone);
	dns_stop(&gone);
	use_server(&room, &gone);
	resolve(&room, "v4.test", &ask);
	/* As far as the kernel tells of it. */
	ck_assert(ask.error == ERR_NETWORK || ask.error == ERR_TIMEOUT);
	/* The second server is asked when the first does not answer. */
	struct ask second = { 0 };
	const char *both[] = { gone.where, room.server.where };
	configure(&room, &(struct resolver_settings){
				 .servers = both, .server_cnt = 2, .timeout_ms = TIMEOUT_MS });
	resolve(&room, "v4.test", &second);
	ck_assert_str_eq(second.addrs, "127.0.0.1");
	room_close(&room);
}
END_TEST

/* ---- several at once, cancelling, reconfiguring ---- */

static void check_case(const struct ask *ask, size_t ix)
{
	ck_assert_uint_eq(ask->done_cnt, 1);
	ck_assert_msg(ask->error == cases[ix].want, "%s: %s: %s", cases[ix].host,
		      err_name(ask->error), ask->why);
	ck_assert_str_eq(ask->addrs, cases[ix].addrs);
}

START_TEST(many_queries)
{
	struct room room = { 0 };
	struct ask asks[60] = { 0 };
	room_open(&room);
	for (size_t i = 0; i < SP_ARRAY_LEN(asks); i++)
		start(&room, cases[i % SP_ARRAY_LEN(cases)].host, &asks[i]);
	loop_run(room.loop);
	for (size_t i = 0; i < SP_ARRAY_LEN(asks); i++)
		check_case(&asks[i], i % SP_ARRAY_LEN(cases));
	room_close(&room);
}
END_TEST

START_TEST(cancelled_query_is_not_answered)
{
	struct room room = { 0 };
	struct ask gone = { 0 }, other = { 0 }, next = { 0 }, last = { 0 };
	room_open(&room);
	start(&room, "v4.test", &gone);
	/* Answers, cancels another of its own channel, starts a third. */
	other.victim = &last;
	other.next = &next;
	other.next_host = "v6.test";
	start(&room, "both.test", &other);
	start(&room, "silent.test", &last);
	cancel(&room, &gone);
	loop_run(room.loop);
	ck_assert_uint_eq(gone.done_cnt, 0);
	ck_assert_uint_eq(last.done_cnt, 0);
	ck_assert_str_eq(other.addrs, "127.0.0.1 127.0.0.2 2001:db8::1");
	ck_assert_str_eq(next.addrs, "2001:db8::1");
	/* Not under way any more: harmless. */
	sp_role_assume_control();
	resolver_cancel(room.resolver, &gone.query);
	resolver_cancel(room.resolver, &other.query);
	room_close(&room);
}
END_TEST

START_TEST(later_queries_go_to_the_new_server)
{
	struct room room = { .server = { .last_octet = 1 } };
	struct dns_server second = { .last_octet = 2 };
	struct ask before = { 0 }, slow = { 0 }, after = { 0 }, again = { 0 };
	sp_role_assume_control();
	room_open(&room);
	dns_start(&second);
	start(&room, "who.test", &before);
	start(&room, "twice.test", &slow);
	use_server(&room, &second);
	start(&room, "who.test", &after);
	loop_run(room.loop);
	ck_assert_str_eq(before.addrs, "127.0.0.1");
	ck_assert_str_eq(slow.addrs, "127.0.0.1");
	ck_assert_str_eq(after.addrs, "127.0.0.2");
	/* The same settings, and ones that are refused, change nothing. */
	use_server(&room, &second);
	static const char *const bad[] = { "dns.test",      "127.0.0.1:0", "127.0.0.1:65536",
					   "127.0.0.1:53x", "::1:x",       "" };
	for (size_t i = 0; i < SP_ARRAY_LEN(bad); i++) {
		const struct resolver_settings settings = { &bad[i], 1, TIMEOUT_MS };
		ck_assert_int_eq(resolver_configure(room.resolver, &settings), ERR_INVALID);
	}
	const char *too_many[17];
	for (size_t i = 0; i < SP_ARRAY_LEN(too_many); i++)
		too_many[i] = "127.0.0.1";
	const struct resolver_settings settings = { too_many, 17, TIMEOUT_MS };
	ck_assert_int_eq(resolver_configure(room.resolver, &settings), ERR_LIMIT);
	resolve(&room, "who.test", &again);
	ck_assert_str_eq(again.addrs, "127.0.0.2");
	static const char *const good[] = { "::1", "[::1]", "[::1]:5353", "127.0.0.1" };
	configure(&room, &(struct resolver_settings){ good, SP_ARRAY_LEN(good), TIMEOUT_MS });
	dns_stop(&second);
	room_close(&room);
}
END_TEST

static void on_done_reconfigure(struct resolver_query *query, const struct resolver_answer *answer)
{
	struct ask *ask = SP_CONTAINER_OF(query, struct ask, query);
	const char *servers[] = { "127.0.0.1:1", ask->room->server.where };
	configure(ask->room, &(struct resolver_settings){ servers, 2, TIMEOUT_MS });
	on_done(query, answer);
}

/* The channel that calls back is retired meanwhile. */
START_TEST(reconfigured_from_an_answer)
{
	static const char *const hosts[] = { "v4.test", "localhost", "192.0.2.1" };
	struct room room = { 0 };
	struct ask ask = { 0 }, after = { 0 };
	sp_role_assume_control();
	room_open(&room);
	ask.room = &room;
	ask.query.on_done = on_done_reconfigure;
	room.open_cnt = 1;
	resolver_start(room.resolver, hosts[_i], &ask.query);
	loop_run(room.loop);
	ck_assert_uint_eq(ask.done_cnt, 1);
	resolve(&room, "v4.test", &after);
	ck_assert_str_eq(after.addrs, "127.0.0.1");
	room_close(&room);
}
END_TEST

START_TEST(free_ends_what_is_under_way)
{
	struct room room = { 0 };
	struct ask ask = { 0 }, gone = { 0 }, next = { 0 };
	room_open(&room);
	ask.next = &next;
	ask.next_host = "v4.test";
	start(&room, "silent.test", &ask);
	start(&room, "silent.test", &gone);
	cancel(&room, &gone);
	room_close(&room);
	ck_assert_uint_eq(ask.done_cnt, 1);
	ck_assert_int_eq(ask.error, ERR_CLOSED);
	ck_assert_int_eq(next.error, ERR_CLOSED);
	ck_assert_uint_eq(gone.done_cnt, 0);
}
END_TEST

/* Each query has its end, and there is an answer again once there is memory. */
START_TEST(lack_of_memory_is_an_error)
{
	struct room room = { .timeout_ms = SHORT_TIMEOUT_MS };
	struct dns_server second = { .last_octet = 2 };
	struct ask asks[100] = { 0 }, after = { 0 };
	unsigned failed_cnt = 0;
	sp_role_assume_control();
	room_open(&room);
	dns_start(&second);
	const char *wheres[] = { room.server.where, second.where };
	setenv("SMARTPROXY_FAULTS", "malloc=0.3", 1);
	fault_init();
	for (size_t i = 0; i < SP_ARRAY_LEN(asks); i++) {
		const struct resolver_settings settings = { &wheres[i % 2], 1, SHORT_TIMEOUT_MS };
		enum err e = resolver_configure(room.resolver, &settings);
		ck_assert(e == ERR_OK || e == ERR_NOMEM);
		start(&room, "v4.test", &asks[i]);
	}
	while (room.open_cnt > 0)
		loop_run(room.loop);
	unsetenv("SMARTPROXY_FAULTS");
	fault_is_on = false;
	for (size_t i = 0; i < SP_ARRAY_LEN(asks); i++) {
		ck_assert_uint_eq(asks[i].done_cnt, 1);
		failed_cnt += asks[i].error == ERR_NOMEM;
	}
	ck_assert_uint_gt(failed_cnt, 0);
	room.timeout_ms = TIMEOUT_MS;
	use_server(&room, &room.server);
	resolve(&room, "v4.test", &after);
	ck_assert_str_eq(after.addrs, "127.0.0.1");
	dns_stop(&second);
	room_close(&room);
}
END_TEST

/* ---- without the loop ---- */

START_TEST(wait_without_the_loop)
{
	struct room room = { 0 };
	struct dns_server second = { .last_octet = 2 };
	struct ask asks[SP_ARRAY_LEN(cases)] = { 0 }, other = { 0 }, cancelled = { 0 };
	sp_role_assume_control();
	room_open(&room);
	dns_start(&second);
	int64_t begin_ms = clock_now_ms();
	resolver_wait(room.resolver, 60000); /* nothing is under way */
	for (size_t i = 0; i < SP_ARRAY_LEN(asks); i++)
		start(&room, cases[i].host, &asks[i]);
	use_server(&room, &second);
	start(&room, "who.test", &other);
	resolver_wait(room.resolver, 60000);
	ck_assert_str_eq(other.addrs, "127.0.0.2");
	for (size_t i = 0; i < SP_ARRAY_LEN(asks); i++)
		check_case(&asks[i], i);
	/* What is cancelled is not waited for. */
	start(&room, "silent.test", &cancelled);
	cancel(&room, &cancelled);
	resolver_wait(room.resolver, 60000);
	ck_assert_int_lt(clock_now_ms() - begin_ms, 30000);
	dns_stop(&second);
	room_close(&room);
}
END_TEST

START_TEST(wait_has_an_end_and_the_loop_goes_on)
{
	struct room room = { .timeout_ms = SHORT_TIMEOUT_MS };
	struct ask ask = { 0 };
	sp_role_assume_control();
	room_open(&room);
	start(&room, "silent.test", &ask);
	resolver_wait(room.resolver, 20);
	ck_assert_uint_eq(ask.done_cnt, 0);
	resolver_wait(room.resolver, 0);
	loop_run(room.loop);
	ck_assert_int_eq(ask.error, ERR_TIMEOUT);
	ck_assert_uint_lt(loop_turns(room.loop), 40);
	room_close(&room);
}
END_TEST

/* ---- resolv.conf ---- */

static void write_conf(const char *path, const char *content)
{
	char new_path[128];
	text_format(new_path, sizeof(new_path), "%s.new", path);
	int fd = open(new_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, content, strlen(content)), (ssize_t)strlen(content));
	close(fd);
	ck_assert_int_eq(rename(new_path, path), 0);
}

START_TEST(search_domains_follow_the_file)
{
	struct room room = { 0 };
	struct ask first = { 0 }, second = { 0 }, dotted = { 0 }, none = { 0 };
	char dir[] = "/tmp/net_resolver_test.XXXXXX", path[64];
	ck_assert_ptr_nonnull(mkdtemp(dir));
	text_format(path, sizeof(path), "%s/resolv.conf", dir);
	write_conf(path, "search none.test one.test\n");
	room_open(&room);
	const char *where = room.server.where;
	configure(&room, &(struct resolver_settings){ &where, 1, TIMEOUT_MS, path });
	resolve(&room, "app", &first);
	ck_assert_str_eq(first.addrs, "127.0.0.1");
	write_conf(path, "search two.test\n");
	resolve(&room, "app", &second);
	ck_assert_str_eq(second.addrs, "127.0.0.2");
	resolve(&room, "v4.test", &dotted);
	ck_assert_str_eq(dotted.addrs, "127.0.0.1");
	write_conf(path, "# none\n");
	resolve(&room, "app.nowhere.test", &none);
	ck_assert_int_eq(none.error, ERR_NOENT);
	room_close(&room);
	unlink(path);
	rmdir(dir);
}
END_TEST

static TCase *answer_tests(void)
{
	TCase *tc = tcase_create("answers");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, host_is_resolved, 0, SP_ARRAY_LEN(cases));
	tcase_add_test(tc, sixteen_addresses_at_most);
	tcase_add_loop_test(tc, nonsense_is_survived, 0, SP_ARRAY_LEN(nonsense));
	tcase_add_loop_test(tc, answer_at_once, 0, SP_ARRAY_LEN(at_once));
	tcase_add_test(tc, server_that_is_not_there);
	return tc;
}

static TCase *life_tests(void)
{
	TCase *tc = tcase_create("life");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, many_queries);
	tcase_add_test(tc, cancelled_query_is_not_answered);
	tcase_add_test(tc, later_queries_go_to_the_new_server);
	tcase_add_loop_test(tc, reconfigured_from_an_answer, 0, 3);
	tcase_add_test(tc, free_ends_what_is_under_way);
	tcase_add_test(tc, lack_of_memory_is_an_error);
	tcase_add_test(tc, wait_without_the_loop);
	tcase_add_test(tc, wait_has_an_end_and_the_loop_goes_on);
	tcase_add_test(tc, search_domains_follow_the_file);
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("net_resolver");
	suite_add_tcase(suite, answer_tests());
	suite_add_tcase(suite, life_tests());
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
