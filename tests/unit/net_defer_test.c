/* Listener sets whose connections are accepted with their first bytes. */
#include <check.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include "smartproxy/clock.h"
#include "smartproxy/listener.h"
#include "smartproxy/thread.h"

#define SOCKET_CNT 4

/* A port of 127.0.0.1 that was free a moment ago. */
static struct addr free_addr(void)
{
	struct addr a;
	ck_assert_int_eq(addr_parse("127.0.0.1", 0, &a), ERR_OK);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, &a.sa, a.len), 0);
	socklen_t len = sizeof(a.v4);
	ck_assert_int_eq(getsockname(fd, &a.sa, &len), 0);
	(void)close(fd);
	return a;
}

static struct listener_set *open_set(const struct addr *a, struct listeners **ret_listeners)
{
	struct listener_change *change;
	struct port_error why;
	sp_role_assume_control();
	ck_assert_int_eq(listeners_new(SOCKET_CNT, 128, ret_listeners), ERR_OK);
	ck_assert_int_eq(listeners_open(*ret_listeners, a, 1, 0, &change, &why), ERR_OK);
	listeners_commit(*ret_listeners, change);
	return listeners_at(*ret_listeners, 0);
}

/* As the kernel has it, on each socket. */
static void expect_deferred(const struct listener_set *set, bool is_wanted)
{
	ck_assert(set->is_deferred == is_wanted);
	for (unsigned i = 0; i < set->socket_cnt; i++) {
		int seconds = -1;
		socklen_t len = sizeof(seconds);
		ck_assert_int_eq(
			getsockopt(set->fds[i], IPPROTO_TCP, TCP_DEFER_ACCEPT, &seconds, &len), 0);
		ck_assert_int_eq(seconds, is_wanted ? 1 : 0);
	}
}

static bool has_connection(const struct listener_set *set, int wait_ms)
{
	struct pollfd polled[SOCKET_CNT];
	for (unsigned i = 0; i < SOCKET_CNT; i++)
		polled[i] = (struct pollfd){ .fd = set->fds[i], .events = POLLIN };
	return poll(polled, SOCKET_CNT, wait_ms) > 0;
}

/* On sockets of both families. */
START_TEST(deferral_is_switched_on_the_live_sockets)
{
	sp_role_assume_control();
	struct listeners *ls;
	struct addr to = free_addr(), a;
	ck_assert_int_eq(addr_parse(_i == 0 ? "127.0.0.1" : "::", addr_port(&to), &a), ERR_OK);
	struct listener_set *set = open_set(&a, &ls);
	expect_deferred(set, false);
	listeners_defer(set, true);
	listeners_defer(set, true);
	expect_deferred(set, true);
	int silent = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int speaks = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int64_t begin_ms = clock_now_ms();
	ck_assert_int_eq(connect(silent, &to.sa, to.len), 0);
	ck_assert(has_connection(set, 5000));
	ck_assert_int_ge(clock_now_ms() - begin_ms, 900);
	for (unsigned i = 0; i < SOCKET_CNT; i++)
		(void)close(accept(set->fds[i], NULL, NULL));
	ck_assert_int_eq(connect(speaks, &to.sa, to.len), 0);
	ck_assert_int_eq(write(speaks, "x", 1), 1);
	ck_assert(has_connection(set, 5000));
	listeners_defer(set, false);
	expect_deferred(set, false);
	listeners_defer(set, true);
	listeners_hush(&set, 1); /* who ends a handshake now is let in */
	expect_deferred(set, false);
	ck_assert_uint_eq(listeners_bind_cnt(ls), SOCKET_CNT);
	(void)close(silent);
	(void)close(speaks);
	listeners_free(ls);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("net_defer");
	TCase *tc = tcase_create("net_defer");
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, deferral_is_switched_on_the_live_sockets, 0, 2);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
