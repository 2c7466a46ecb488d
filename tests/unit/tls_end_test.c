/* How a connection ends, and what goes out together. */
#include <linux/tcp.h>
#include <poll.h>
#include <stdlib.h>

#include "tls_pair.h"

static void open_tcp(struct pair *p)
{
	int one = 1;
	p->is_tcp = true;
	pair_open(p, &defaults, TLS1_3_VERSION, 1);
	ck_assert_int_eq(setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
	ck_assert_int_eq(setsockopt(p->client_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
}

/* Segments with payload that the client has got. */
static uint32_t segments_of(const struct pair *p)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);
	ck_assert_int_eq(getsockopt(p->client_fd, IPPROTO_TCP, TCP_INFO, &info, &len), 0);
	return info.tcpi_data_segs_in;
}

/* The request comes with the client's last message of the handshake. */
static void shake_with_request(struct pair *p)
{
	char got[16];
	size_t len = 0;
	ck_assert_int_eq(SSL_do_handshake(p->client), -1);
	ck_assert_int_eq(tls_conn_handshake(p->conn), STEP_READ);
	ck_assert_int_eq(SSL_do_handshake(p->client), 1);
	ck_assert_int_eq(SSL_write(p->client, "request", 7), 7);
	ck_assert_int_eq(tls_conn_handshake(p->conn), STEP_DONE);
	ck_assert_int_eq(tls_conn_read(p->conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert_uint_eq(len, 7);
}

START_TEST(last_bytes_go_out_with_ticket_and_end)
{
	start();
	struct pair p = { 0 };
	char got[16];
	size_t len = 0;
	open_tcp(&p);
	shake_with_request(&p);
	uint32_t before = segments_of(&p);
	ck_assert_uint_eq(before, 1); /* the server's flight, not its ticket */
	tls_conn_expect_end(p.conn);
	ck_assert_int_eq(tls_conn_write(p.conn, "hello", 5, &len), STEP_DONE);
	ck_assert_int_eq(tls_conn_close_notify(p.conn), STEP_DONE);
	ck_assert_uint_eq(segments_of(&p), before);
	ck_assert_int_eq(shutdown(p.fd, SHUT_WR), 0);
	ck_assert_uint_eq(segments_of(&p), before + 1);
	ck_assert_int_eq(SSL_read(p.client, got, sizeof(got)), 5);
	ck_assert_int_eq(SSL_SESSION_is_resumable(SSL_get_session(p.client)), 1);
	ck_assert_int_le(SSL_read(p.client, got, sizeof(got)), 0);
	ck_assert_int_eq(SSL_get_shutdown(p.client), SSL_RECEIVED_SHUTDOWN);
	ck_assert_int_eq(recv(p.client_fd, got, 1, 0), 0);
	pair_fini(&p);
	finish();
}
END_TEST

/* A client that has not sent its request may wait for an ACK, which the ticket brings. */
START_TEST(ticket_without_a_request_goes_out_at_once)
{
	start();
	struct pair p = { 0 };
	char got[16];
	open_tcp(&p);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_DONE);
	ck_assert_uint_eq(segments_of(&p), 2);
	ck_assert_int_le(SSL_read(p.client, got, sizeof(got)), 0);
	ck_assert_int_eq(SSL_SESSION_is_resumable(SSL_get_session(p.client)), 1);
	pair_fini(&p);
	finish();
}
END_TEST

/* The end waits behind bytes that the socket does not take at once. */
START_TEST(end_comes_behind_the_last_byte_for_a_slow_reader)
{
	start();
	enum { TOTAL = 512 * 1024 };
	struct pair p = { 0 };
	uint8_t *buf = malloc(TOTAL);
	size_t sent = 0, got = 0, len = 0;
	int small = 20000;
	for (size_t i = 0; i < TOTAL; i++)
		buf[i] = pattern(i);
	open_tcp(&p);
	(void)setsockopt(p.fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	pair_handshake(&p);
	tls_conn_expect_end(p.conn);
	struct pollfd poll_fd = { .fd = p.fd, .events = POLLOUT };
	while (sent < TOTAL) {
		enum step step = tls_conn_write(p.conn, buf + sent, TOTAL - sent, &len);
		sent += step == STEP_DONE ? len : 0;
		if (step != STEP_WRITE)
			continue;
		got = drain_client(p.client, got);
		ck_assert_int_eq(poll(&poll_fd, 1, 20000), 1);
	}
	while (tls_conn_close_notify(p.conn) == STEP_WRITE)
		got = drain_client(p.client, got);
	ck_assert_int_eq(shutdown(p.fd, SHUT_WR), 0);
	poll_fd = (struct pollfd){ .fd = p.client_fd, .events = POLLIN };
	while (SSL_get_shutdown(p.client) == 0) {
		ck_assert_int_eq(poll(&poll_fd, 1, 20000), 1);
		got = drain_client(p.client, got);
	}
	ck_assert_uint_eq(got, TOTAL);
	free(buf);
	pair_fini(&p);
	finish();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls_end");
	TCase *tc = tcase_create("end");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, last_bytes_go_out_with_ticket_and_end);
	tcase_add_test(tc, ticket_without_a_request_goes_out_at_once);
	tcase_add_test(tc, end_comes_behind_the_last_byte_for_a_slow_reader);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
