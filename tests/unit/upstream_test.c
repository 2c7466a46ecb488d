/* upstream: targets by identity and their pooled connections. The test's own thread is the worker
 * and the control thread in turn, each with a loop. */
#include <check.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/upstream.h"

#define PATIENCE_MS 5000

static struct loop *worker_loop, *control_loop;
static struct upstreams *upstreams;
static struct upstream_worker worker;
static struct upstream *target;
static int listener;
static uint16_t port;

static struct addr loopback(uint16_t at)
{
	struct addr a;
	ck_assert_int_eq(addr_parse("127.0.0.1", at, &a), ERR_OK);
	return a;
}

static int bound_socket(uint16_t *ret_port)
{
	struct addr a = loopback(0);
	socklen_t len = sizeof(a.v4);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(bind(fd, &a.sa, a.len), 0);
	ck_assert_int_eq(getsockname(fd, &a.sa, &len), 0);
	*ret_port = addr_port(&a);
	return fd;
}

static void set_up(void) SP_TSA(assert_capability(sp_control));
static void set_up(void)
{
	sp_role_assume_control();
	rcu_register_thread();
	ck_assert_int_eq(loop_new(&worker_loop), ERR_OK);
	ck_assert_int_eq(loop_new(&control_loop), ERR_OK);
	ck_assert_int_eq(upstreams_new(1, control_loop, &upstreams), ERR_OK);
	upstreams_set_loops(upstreams, &worker_loop);
	worker = (struct upstream_worker){ .loop = worker_loop, .idle_max = 4, .idle_ms = 60000 };
	listener = bound_socket(&port);
	ck_assert_int_eq(listen(listener, 64), 0);
	ck_assert_int_eq(upstream_get(upstreams, "127.0.0.1", port, &target, NULL), ERR_OK);
}

/* The workers end before the registry, the control loop after it. */
static void tear_down(void)
{
	sp_role_assume_control();
	upstream_worker_close_idle(&worker, upstreams);
	upstreams_set_loops(upstreams, NULL);
	loop_free(worker_loop);
	upstreams_free(upstreams);
	loop_free(control_loop);
	(void)close(listener);
	rcu_unregister_thread();
}

struct alarm {
	struct timer timer;
	struct loop *loop;
};

static void ring(struct timer *timer)
{
	loop_stop(SP_CONTAINER_OF(timer, struct alarm, timer)->loop);
}

static void run_ms(struct loop *loop, int64_t ms)
{
	struct alarm alarm = { .timer.on_due = ring, .loop = loop };
	loop_timer_arm(loop, &alarm.timer, clock_now_ms() + ms);
	loop_run(loop);
	loop_timer_disarm(loop, &alarm.timer);
}

static void on_ready(struct upstream_conn *conn)
{
	(void)conn;
	loop_stop(worker_loop);
}

static struct upstream_conn *open_one(void)
{
	struct upstream_conn *conn = NULL;
	ck_assert_int_eq(upstream_conn_open(&worker, target, 0, &conn), ERR_OK);
	conn->on_ready = on_ready;
	while (upstream_conn_check(conn) == STEP_WRITE)
		loop_run(worker_loop);
	ck_assert_int_eq(upstream_conn_check(conn), STEP_DONE);
	return conn;
}

/* The other end of the connection that was opened first of those not yet accepted. */
static int accept_one(void)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	struct timeval tv = { .tv_sec = PATIENCE_MS / 1000 };
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	return fd;
}

static bool has_ended(int fd)
{
	char byte;
	return recv(fd, &byte, 1, 0) == 0;
}

static bool is_open(int fd)
{
	char byte;
	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

START_TEST(pooled)
{
	set_up();
	ck_assert_ptr_null(upstream_conn_take(&worker, target));
	struct upstream_conn *a = open_one(), *b = open_one();
	ck_assert(!a->is_reused && a->upstream == target);
	upstream_conn_park(a);
	upstream_conn_park(b);
	ck_assert_ptr_eq(upstream_conn_take(&worker, target), b); /* the warmest */
	ck_assert_ptr_eq(upstream_conn_take(&worker, target), a);
	ck_assert_ptr_null(upstream_conn_take(&worker, target));
	ck_assert(a->is_reused && b->is_reused && a->on_ready == NULL && a->owner == NULL);
	ck_assert_uint_eq(worker.connects, 2);
	ck_assert_uint_eq(worker.reuses, 2);
	upstream_conn_close(a);
	upstream_conn_close(a); /* harmless until the turn ends */
	upstream_conn_close(b);
	upstream_conn_close(NULL);
	tear_down();
}
END_TEST

START_TEST(bytes_both_ways)
{
	set_up();
	struct upstream_conn *conn = open_one();
	int peer = accept_one();
	char text[64];
	size_t len = 0;
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_READ);
	ck_assert(!conn->is_readable);
	ck_assert_int_eq(upstream_conn_write(conn, "hello", 5, &len), STEP_DONE);
	ck_assert_uint_eq(len, 5);
	ck_assert_int_eq(recv(peer, text, sizeof(text), 0), 5);
	ck_assert_int_eq(send(peer, "ok", 2, MSG_NOSIGNAL), 2);
	while (!conn->is_readable)
		loop_run(worker_loop);
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_DONE);
	ck_assert_uint_eq(len, 2);
	ck_assert(!conn->is_readable); /* a short read emptied it */
	(void)close(peer);
	while (!conn->is_readable)
		loop_run(worker_loop);
	ck_assert(conn->has_hung_up);
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_EOF);
	upstream_conn_park(conn); /* hung up: closed instead */
	ck_assert_ptr_null(upstream_conn_take(&worker, target));
	tear_down();
}
END_TEST

START_TEST(idle_timeout)
{
	set_up();
	worker.idle_ms = 20;
	upstream_conn_park(open_one());
	int peer = accept_one();
	ck_assert(is_open(peer));
	for (int i = 0; i < 500 && is_open(peer); i++)
		run_ms(worker_loop, 10);
	ck_assert(has_ended(peer));
	ck_assert_ptr_null(upstream_conn_take(&worker, target));
	(void)close(peer);
	tear_down();
}
END_TEST

/* What an idle connection gets ends it: an end, a reset, bytes that nobody asked for. */
START_TEST(idle_event)
{
	set_up();
	upstream_conn_park(open_one());
	int peer = accept_one();
	struct linger reset = { .l_onoff = 1 };
	if (_i == 1)
		(void)setsockopt(peer, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
	if (_i == 2)
		ck_assert_int_eq(send(peer, "x", 1, MSG_NOSIGNAL), 1);
	else
		(void)close(peer);
	run_ms(worker_loop, 20);
	ck_assert_ptr_null(upstream_conn_take(&worker, target));
	if (_i == 2)
		(void)close(peer);
	tear_down();
}
END_TEST

/* The same before it is parked, when its event has passed already. */
START_TEST(not_quiet_when_parked)
{
	set_up();
	struct upstream_conn *conn = open_one();
	int peer = accept_one();
	char byte;
	size_t len = 0;
	ck_assert_int_eq(send(peer, "xy", 2, MSG_NOSIGNAL), 2);
	while (!conn->is_readable)
		loop_run(worker_loop);
	ck_assert_int_eq(upstream_conn_read(conn, &byte, 1, &len), STEP_DONE);
	if (_i == 0) /* the rest is read as well: it may be kept */
		ck_assert_int_eq(upstream_conn_read(conn, &byte, 1, &len), STEP_DONE);
	upstream_conn_park(conn);
	run_ms(worker_loop, 5);
	struct upstream_conn *again = upstream_conn_take(&worker, target);
	ck_assert_ptr_eq(again, _i == 0 ? conn : NULL);
	upstream_conn_close(again);
	(void)close(peer);
	tear_down();
}
END_TEST

START_TEST(idle_limit)
{
	set_up();
	worker.idle_max = 2;
	struct upstream_conn *conns[3];
	int peers[3];
	for (int i = 0; i < 3; i++) {
		conns[i] = open_one();
		peers[i] = accept_one();
	}
	for (int i = 0; i < 3; i++)
		upstream_conn_park(conns[i]);
	ck_assert(has_ended(peers[2]));
	ck_assert(is_open(peers[0]) && is_open(peers[1]));
	upstream_conn_close(upstream_conn_take(&worker, target));
	upstream_conn_park(open_one()); /* there is room again */
	for (int i = 0; i < 2; i++) {
		conns[i] = upstream_conn_take(&worker, target);
		ck_assert_ptr_nonnull(conns[i]);
		upstream_conn_close(conns[i]);
	}
	for (int i = 0; i < 3; i++)
		(void)close(peers[i]);
	tear_down();
}
END_TEST

START_TEST(refused)
{
	set_up();
	uint16_t closed;
	struct upstream *nobody = NULL;
	(void)close(bound_socket(&closed));
	ck_assert_int_eq(upstream_get(upstreams, "127.0.0.1", closed, &nobody, NULL), ERR_OK);
	struct upstream_conn *conn = NULL;
	enum err e = upstream_conn_open(&worker, nobody, 0, &conn);
	if (e == ERR_OK) {
		conn->on_ready = on_ready;
		enum step step;
		while ((step = upstream_conn_check(conn)) == STEP_WRITE)
			loop_run(worker_loop);
		ck_assert_int_eq(step, STEP_FAIL);
		upstream_conn_close(conn);
	} else {
		ck_assert_int_eq(e, ERR_NETWORK);
	}
	ck_assert_uint_ge(worker.connect_failures, 1);
	tear_down();
}
END_TEST

static const struct {
	const char *host;
	uint16_t port;
	const char *name;
} names[] = {
	{ "127.0.0.1", 80, "127.0.0.1:80" },
	{ "::1", 8080, "[::1]:8080" },
	{ "[::1]", 8080, "[::1]:8080" },
	{ "localhost", 1, "localhost:1" },
};

START_TEST(identity)
{
	set_up();
	struct upstream *a = NULL, *b = NULL, *other = NULL;
	struct text why = { 0 };
	ck_assert_int_eq(upstream_get(upstreams, names[_i].host, names[_i].port, &a, &why), ERR_OK);
	ck_assert_int_eq(upstream_get(upstreams, names[_i].host, names[_i].port, &b, &why), ERR_OK);
	ck_assert_int_eq(upstream_get(upstreams, names[_i].host, 2, &other, &why), ERR_OK);
	ck_assert_ptr_eq(a, b);
	ck_assert_ptr_ne(a, other);
	ck_assert_str_eq(upstream_name(a), names[_i].name);
	ck_assert_uint_ge(upstream_addr_cnt(a), 1);
	for (unsigned i = 0; i < upstream_addr_cnt(a); i++)
		ck_assert_uint_eq(addr_port(upstream_addr(a, i)), names[_i].port);
	upstream_put(upstreams, a);
	ck_assert_str_eq(upstream_name(b), names[_i].name);
	upstream_put(upstreams, b);
	upstream_put(upstreams, other);
	text_fini(&why);
	tear_down();
}
END_TEST

START_TEST(unknown_name)
{
	set_up();
	struct upstream *u = NULL;
	struct text why = { 0 };
	ck_assert_int_eq(upstream_get(upstreams, "no-such-host.invalid", 80, &u, &why), ERR_NOENT);
	ck_assert_ptr_null(u);
	ck_assert_msg(strstr(why.data, "\"no-such-host.invalid\" cannot be resolved") != NULL, "%s",
		      why.data);
	text_fini(&why);
	tear_down();
}
END_TEST

/* A target that no generation wants any more: its idle connections are closed on the worker, then
 * it is freed on the control loop (_i == 0), or by the registry when the process ends before that
 * (_i == 1). */
START_TEST(put_closes_idle)
{
	set_up();
	struct upstream_conn *busy = open_one();
	upstream_conn_park(open_one());
	int peers[2] = { accept_one(), accept_one() };
	upstream_conn_park(busy);
	upstream_put(upstreams, target);
	ck_assert(is_open(peers[0]) && is_open(peers[1])); /* it is the worker's business */
	run_ms(worker_loop, 5);
	ck_assert(has_ended(peers[0]) && has_ended(peers[1]));
	if (_i == 0)
		run_ms(control_loop, 5);
	/* Wanted again: a new one, with an empty pool. */
	struct upstream *again = NULL;
	ck_assert_int_eq(upstream_get(upstreams, "127.0.0.1", port, &again, NULL), ERR_OK);
	ck_assert_ptr_null(upstream_conn_take(&worker, again));
	(void)close(peers[0]);
	(void)close(peers[1]);
	tear_down();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("upstream");
	TCase *tc = tcase_create("pool");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, pooled);
	tcase_add_test(tc, bytes_both_ways);
	tcase_add_test(tc, idle_timeout);
	tcase_add_loop_test(tc, idle_event, 0, 3);
	tcase_add_loop_test(tc, not_quiet_when_parked, 0, 2);
	tcase_add_test(tc, idle_limit);
	tcase_add_test(tc, refused);
	tcase_add_loop_test(tc, identity, 0, SP_ARRAY_LEN(names));
	tcase_add_test(tc, unknown_name);
	tcase_add_loop_test(tc, put_closes_idle, 0, 2);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
