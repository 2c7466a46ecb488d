/* upstream: a connection to a target, from its begin to its end. */
#include <netinet/tcp.h>
#include <poll.h>

#include "upstream_line.h"

static int option_of(const struct upstream_conn *conn, int level, int name)
{
	int value = 0;
	socklen_t len = sizeof(value);
	ck_assert_int_eq(getsockopt(conn->io.fd, level, name, &value, &len), 0);
	return value;
}

START_TEST(options)
{
	set_up();
	struct upstream_conn *conn = open_one();
	ck_assert_int_ne(option_of(conn, IPPROTO_TCP, TCP_NODELAY), 0);
	ck_assert(fcntl(conn->io.fd, F_GETFD) & FD_CLOEXEC);
	while (option_of(conn, SOL_SOCKET, SO_KEEPALIVE) == 0) /* after a second */
		run_ms(worker->loop, 20);
	upstream_conn_close(conn);
	tear_down();
}
END_TEST

/* The PROXY header goes first, and its connection is one client's. */
START_TEST(preface)
{
	set_up();
	static const char header[] = "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n";
	char text[64] = "";
	size_t len = 0;
	struct upstream_conn *conn = NULL;
	ck_assert_int_eq(try_open(target, header, &conn), ERR_OK);
	ck_assert_int_eq(wait_ready(conn), STEP_DONE);
	ck_assert_ptr_null(conn->preface);
	ck_assert_int_eq(upstream_conn_write(conn, "GET", 3, &len), STEP_DONE);
	int peer = accept_one();
	ck_assert_int_eq(recv(peer, text, sizeof(header) + 2, MSG_WAITALL), sizeof(header) + 2);
	ck_assert_int_eq(memcmp(text, header, sizeof(header) - 1), 0);
	ck_assert_int_eq(memcmp(text + sizeof(header) - 1, "GET", 3), 0);
	upstream_conn_park(conn);
	ck_assert_ptr_null(upstream_conn_take(worker, target, port));
	ck_assert(has_ended(peer));
	(void)close(peer);
	tear_down();
}
END_TEST

static struct upstream_conn *open_for_bytes(void)
{
	struct upstream_target to = { .upstream = target,
				      .client_port = port,
				      .has_first_bytes = true };
	struct upstream_conn *conn = NULL;
	ck_assert_int_eq(try_open_for(&to, &conn), ERR_OK);
	return conn;
}

static bool has_one_to_accept(int timeout_ms)
{
	struct pollfd at = { .fd = listener, .events = POLLIN };
	return poll(&at, 1, timeout_ms) == 1;
}

/* For the target the handshake ends with the first bytes. The kernel waits for them for 200 ms only: a starved run is
 * made again. */
START_TEST(first_bytes_end_the_handshake)
{
	set_up();
	bool is_held = false;
	for (int i = 0; i < 20 && !is_held; i++) {
		struct upstream_conn *conn = open_for_bytes();
		size_t len = 0;
		ck_assert_int_eq(wait_ready(conn), STEP_DONE);
		is_held = !has_one_to_accept(0);
		ck_assert_int_eq(upstream_conn_write(conn, "GET", 3, &len), STEP_DONE);
		ck_assert(has_one_to_accept(10000));
		int peer = accept_one();
		char text[4];
		ck_assert_int_eq(recv(peer, text, sizeof(text), 0), 3);
		upstream_conn_close(conn);
		(void)close(peer);
	}
	ck_assert(is_held);
	tear_down();
}
END_TEST

/* On one machine the handshake is over before anything is waited for. */
START_TEST(stands_at_once)
{
	set_up();
	bool is_ready = false;
	for (int i = 0; i < 20 && !is_ready; i++) {
		struct upstream_conn *conn = open_for_bytes();
		is_ready = upstream_conn_check(conn) == STEP_DONE;
		ck_assert(!is_ready || !conn->is_awaiting_room);
		upstream_conn_close(conn);
	}
	ck_assert(is_ready);
	tear_down();
}
END_TEST

static const char zeros[1 << 16];

/* A target that does not read: room is waited for, and told of. */
START_TEST(room)
{
	set_up();
	struct upstream_conn *conn = open_for_bytes();
	size_t len = 0, sent = 0, got = 0;
	enum step step;
	ck_assert_int_eq(wait_ready(conn), STEP_DONE);
	while ((step = upstream_conn_write(conn, zeros, sizeof(zeros), &len)) == STEP_DONE)
		sent += len;
	ck_assert_int_eq(step, STEP_WRITE);
	ck_assert(!conn->is_writable);
	int peer = accept_one();
	while (got < sent) {
		static char sink[1 << 16];
		ssize_t n = recv(peer, sink, sizeof(sink), 0);
		ck_assert_int_gt(n, 0);
		got += (size_t)n;
	}
	while (!conn->is_writable)
		loop_run(worker->loop);
	ck_assert_int_eq(upstream_conn_write(conn, "GET", 3, &len), STEP_DONE);
	upstream_conn_close(conn);
	(void)close(peer);
	tear_down();
}
END_TEST

/* An end that came with the last bytes is known behind them; urgent bytes stop a read before it. */
START_TEST(end_with_bytes)
{
	set_up();
	struct upstream_conn *conn = open_one();
	int peer = accept_one();
	char text[8];
	size_t len = 0;
	int flags = _i == 0 ? 0 : MSG_OOB;
	ck_assert_int_eq(send(peer, "last", 4, MSG_NOSIGNAL), 4);
	ck_assert_int_eq(send(peer, "!", 1, MSG_NOSIGNAL | flags), 1);
	(void)close(peer);
	while (!conn->has_hung_up)
		loop_run(worker->loop);
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_DONE);
	ck_assert_uint_eq(len, _i == 0 ? 5 : 4);
	ck_assert_int_eq(conn->has_eof, _i == 0);
	if (_i > 0) {
		ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_DONE);
		ck_assert_uint_eq(len, 1);
	}
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_EOF);
	upstream_conn_close(conn);
	tear_down();
}
END_TEST

START_TEST(shut_down)
{
	set_up();
	struct upstream_conn *conn = open_one();
	int peer = accept_one();
	char text[8];
	size_t len = 0;
	upstream_conn_shutdown(conn);
	ck_assert(has_ended(peer));
	ck_assert_int_eq(send(peer, "late", 4, MSG_NOSIGNAL), 4); /* the other way goes on */
	while (!conn->is_readable)
		loop_run(worker->loop);
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_DONE);
	ck_assert_uint_eq(len, 4);
	upstream_conn_close(conn);
	(void)close(peer);
	tear_down();
}
END_TEST

START_TEST(refused)
{
	set_up();
	struct model other;
	uint16_t closed;
	(void)close(bound_socket(&closed));
	model_init(&other, CONFIG_BALANCE_P2C, 1);
	other.targets[0].port = closed;
	make_group(&other);
	struct upstream_conn *conn = NULL;
	struct upstream_target to = { .upstream = target_at(&other, 0), .has_first_bytes = _i > 0 };
	enum err e = try_open_for(&to, &conn);
	if (e == ERR_OK) {
		ck_assert_int_eq(wait_ready(conn), STEP_FAIL);
		ck_assert_int_eq(upstream_conn_check(conn), STEP_FAIL); /* and stays so */
		ck_assert_int_eq(conn->failure, UPSTREAM_FAILURE_REFUSED);
		ck_assert_str_eq(conn->failure_text, "Connection refused");
		upstream_conn_park(conn); /* nothing to keep */
		ck_assert_ptr_null(upstream_conn_take(worker, target_at(&other, 0), closed));
	} else {
		ck_assert_int_eq(e, ERR_NETWORK);
	}
	ck_assert_uint_eq(worker->connect_failures, 1);
	put_group(&other);
	tear_down();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("upstream_connect");
	TCase *tc = tcase_create("connect");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, options);
	tcase_add_test(tc, preface);
	tcase_add_test(tc, first_bytes_end_the_handshake);
	tcase_add_test(tc, stands_at_once);
	tcase_add_test(tc, room);
	tcase_add_loop_test(tc, end_with_bytes, 0, 2);
	tcase_add_test(tc, shut_down);
	tcase_add_loop_test(tc, refused, 0, 2);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
