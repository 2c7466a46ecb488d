/* upstream: connections to targets and their pools, and how long targets live. The test's
 * own thread is the worker, the control thread and the other end in turn. */
#include "tls_pair.h"
#include "upstream_line.h"

START_TEST(pooled)
{
	set_up();
	ck_assert_ptr_null(upstream_conn_take(worker, target, port));
	struct upstream_conn *a = open_one(), *b = open_one();
	ck_assert(!a->is_reused && a->upstream == target);
	upstream_conn_park(a);
	upstream_conn_park(b);
	ck_assert_ptr_eq(upstream_conn_take(worker, target, port), b); /* the warmest */
	ck_assert_ptr_eq(upstream_conn_take(worker, target, port), a);
	ck_assert_ptr_null(upstream_conn_take(worker, target, port));
	ck_assert(a->is_reused && b->is_reused && a->on_ready == NULL && a->owner == NULL);
	ck_assert_uint_eq(worker->connects, 2);
	ck_assert_uint_eq(worker->reuses, 2);
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
		loop_run(worker->loop);
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_DONE);
	ck_assert_uint_eq(len, 2);
	ck_assert(!conn->is_readable); /* a short read emptied it */
	(void)close(peer);
	while (!conn->is_readable)
		loop_run(worker->loop);
	ck_assert(conn->has_hung_up);
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_EOF);
	upstream_conn_park(conn); /* hung up: closed instead */
	ck_assert_ptr_null(upstream_conn_take(worker, target, port));
	tear_down();
}
END_TEST

START_TEST(idle_timeout)
{
	set_up();
	worker->idle_ms = 20;
	upstream_conn_park(open_one());
	int peer = accept_one();
	ck_assert(is_open(peer));
	for (int i = 0; i < 500 && is_open(peer); i++)
		run_ms(worker->loop, 10);
	ck_assert(has_ended(peer));
	ck_assert_ptr_null(upstream_conn_take(worker, target, port));
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
	run_ms(worker->loop, 20);
	ck_assert_ptr_null(upstream_conn_take(worker, target, port));
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
		loop_run(worker->loop);
	ck_assert_int_eq(upstream_conn_read(conn, &byte, 1, &len), STEP_DONE);
	if (_i == 0) /* the rest is read as well: it may be kept */
		ck_assert_int_eq(upstream_conn_read(conn, &byte, 1, &len), STEP_DONE);
	upstream_conn_park(conn);
	run_ms(worker->loop, 5);
	struct upstream_conn *again = upstream_conn_take(worker, target, port);
	ck_assert_ptr_eq(again, _i == 0 ? conn : NULL);
	upstream_conn_close(again);
	(void)close(peer);
	tear_down();
}
END_TEST

START_TEST(idle_limit)
{
	set_up();
	worker->idle_max = 2;
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
	upstream_conn_close(upstream_conn_take(worker, target, port));
	upstream_conn_park(open_one()); /* there is room again */
	for (int i = 0; i < 2; i++) {
		conns[i] = upstream_conn_take(worker, target, port);
		ck_assert_ptr_nonnull(conns[i]);
		upstream_conn_close(conns[i]);
	}
	for (int i = 0; i < 3; i++)
		(void)close(peers[i]);
	tear_down();
}
END_TEST

/* A target that keeps the client's port: its connections are apart by port. */
START_TEST(preserved_port)
{
	set_up();
	struct model other;
	model_init(&other, CONFIG_BALANCE_P2C, 1);
	other.targets[0].port = 0;
	make_group(&other);
	struct upstream *u = target_at(&other, 0);
	struct upstream_conn *conn = NULL;
	ck_assert_str_eq(upstream_name(u), "127.0.0.1");
	ck_assert_uint_eq(upstream_port(u, 1234), 1234);
	ck_assert_uint_eq(upstream_port(target, 1234), port);
	ck_assert_int_eq(try_open(u, NULL, &conn), ERR_OK);
	ck_assert_int_eq(wait_ready(conn), STEP_DONE);
	ck_assert_uint_eq(conn->port, port);
	upstream_conn_park(conn);
	ck_assert_ptr_null(upstream_conn_take(worker, u, (uint16_t)(port + 1)));
	ck_assert_ptr_eq(upstream_conn_take(worker, u, port), conn);
	upstream_conn_close(conn);
	put_group(&other);
	tear_down();
}
END_TEST

/* A name that has no address (yet). */
START_TEST(unresolved)
{
	set_up();
	struct upstream_choice choice = { 0 };
	struct upstream_conn *conn = NULL;
	struct upstream_addrs *addrs = sp_rcu_swap(&target->addrs, NULL);
	ck_assert_uint_eq(upstream_addr_cnt(target), 0);
	ck_assert_int_eq(try_open(target, NULL, &conn), ERR_NOENT);
	ck_assert_int_eq(upstream_choose(worker, model.group, &choice), ERR_NOENT);
	free(addrs);
	tear_down();
}
END_TEST

/* ---- TLS ---- */

struct server {
	struct tls_worker *tls;
	struct tls_cert *cert;
	struct tls_conn *conn;
	int fd;
	char dir[64], ca_file[96];
};
static struct config_upstream_tls tls_config;

static void set_up_tls(struct server *s, bool is_trusted)
{
	struct text pem = { 0 }, why = { 0 };
	set_up();
	put_group(&model);
	sp_role_assume_control();
	ck_assert_int_eq(tls_init(), ERR_OK);
	struct made made =
		make_cert(EVP_EC_gen("P-256"), "app.internal", "DNS:app.internal", NULL, 30);
	s->cert = load(&made, 1);
	ck_assert_int_eq(tls_worker_new(&defaults, &s->tls), ERR_OK);
	if (!is_trusted) {
		made_fini(&made);
		made = make_cert(EVP_EC_gen("P-256"), "other", "DNS:app.internal", NULL, 30);
	}
	add_pem(&pem, &made, false);
	made_fini(&made);
	text_format(s->dir, sizeof(s->dir), "/tmp/upstream_test.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(s->dir));
	text_format(s->ca_file, sizeof(s->ca_file), "%s/ca.pem", s->dir);
	int fd = open(s->ca_file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ck_assert_int_eq(write(fd, pem.data, pem.len), (ssize_t)pem.len);
	(void)close(fd);
	text_fini(&pem);
	tls_config = (struct config_upstream_tls){ .wants_verify = true,
						   .ca_file = s->ca_file,
						   .server_name = "app.internal" };
	enum err e = upstream_group_get(upstreams, &model.config, &tls_config, &model.group, &why);
	ck_assert_msg(e == ERR_OK, "%s", why.data == NULL ? err_name(e) : why.data);
	target = target_at(&model, 0);
}

static void tear_down_tls(struct server *s)
{
	tear_down();
	tls_conn_free(s->conn);
	tls_worker_free(s->tls);
	tls_cert_put(s->cert);
	tls_fini();
	(void)unlink(s->ca_file);
	(void)rmdir(s->dir);
}

/* A connection of the worker and the server's end of it, as far as it comes. */
static enum step shake(struct server *s, const char *header, struct upstream_conn **ret_conn)
{
	struct upstream_conn *conn = NULL;
	enum step step, its_step = STEP_READ;
	ck_assert_int_eq(try_open(target, header, &conn), ERR_OK);
	s->fd = accept_one();
	for (int left = header == NULL ? 0 : (int)strlen(header); left > 0;) {
		char text[64];
		while (upstream_conn_check(conn) == STEP_WRITE)
			loop_run(worker->loop);
		ssize_t n = recv(s->fd, text, (size_t)left, 0);
		ck_assert_int_gt(n, 0);
		ck_assert_int_eq(memcmp(header + strlen(header) - left, text, (size_t)n), 0);
		left -= (int)n;
	}
	(void)fcntl(s->fd, F_SETFL, O_NONBLOCK);
	ck_assert_int_eq(tls_conn_new(s->tls, s->fd, s->cert, 1, &s->conn), ERR_OK);
	while ((step = upstream_conn_check(conn)) == STEP_READ || step == STEP_WRITE) {
		if (its_step == STEP_READ || its_step == STEP_WRITE)
			its_step = tls_conn_handshake(s->conn);
		run_ms(worker->loop, 1);
	}
	for (int i = 0; i < 100 && step == STEP_DONE && its_step != STEP_DONE; i++)
		its_step = tls_conn_handshake(s->conn);
	*ret_conn = conn;
	return step;
}

static void close_server(struct server *s)
{
	tls_conn_free(s->conn);
	s->conn = NULL;
	(void)close(s->fd);
}

static void exchange_bytes(struct server *s, struct upstream_conn *conn)
{
	char text[16];
	size_t len = 0;
	ck_assert_int_eq(upstream_conn_write(conn, "ping", 4, &len), STEP_DONE);
	ck_assert_int_eq(tls_conn_read(s->conn, text, sizeof(text), &len), STEP_DONE);
	ck_assert_int_eq(memcmp(text, "ping", 4), 0);
	ck_assert_int_eq(tls_conn_write(s->conn, "pong!", 5, &len), STEP_DONE);
	conn->is_readable = true;
	ck_assert_int_eq(upstream_conn_read(conn, text, sizeof(text), &len), STEP_DONE);
	ck_assert_uint_eq(len, 5);
	ck_assert_int_eq(memcmp(text, "pong!", 5), 0);
}

/* Verified, with a PROXY header before it (_i == 1); the second one resumes the first one's session. */
START_TEST(tls_ready)
{
	struct server s = { 0 };
	struct upstream_conn *conn = NULL;
	struct tls_conn_info info;
	set_up_tls(&s, true);
	for (int i = 0; i < 2; i++) {
		enum step step = shake(&s, _i == 1 ? "PROXY UNKNOWN\r\n" : NULL, &conn);
		ck_assert_msg(step == STEP_DONE, "%s", conn->failure_text);
		ck_assert(conn->tls != NULL && conn->failure == UPSTREAM_FAILURE_NONE);
		exchange_bytes(&s, conn);
		tls_conn_info(conn->tls, &info);
		ck_assert(info.is_resumed == (i == 1));
		upstream_conn_shutdown(conn);
		char byte;
		size_t len = 0;
		ck_assert_int_eq(tls_conn_read(s.conn, &byte, 1, &len), STEP_EOF);
		upstream_conn_close(conn);
		close_server(&s);
	}
	tear_down_tls(&s);
}
END_TEST

START_TEST(tls_unverified)
{
	struct server s = { 0 };
	struct upstream_conn *conn = NULL;
	set_up_tls(&s, false);
	ck_assert_int_eq(shake(&s, NULL, &conn), STEP_FAIL);
	ck_assert_int_eq(conn->failure, UPSTREAM_FAILURE_VERIFY);
	ck_assert_msg(strstr(conn->failure_text, "certificate") != NULL, "%s", conn->failure_text);
	upstream_conn_close(conn);
	ck_assert_uint_eq(worker->connect_failures, 1);
	close_server(&s);
	tear_down_tls(&s);
}
END_TEST

/* A target that does not speak TLS, or goes away within the handshake. */
START_TEST(tls_broken)
{
	struct server s = { 0 };
	struct upstream_conn *conn = NULL;
	set_up_tls(&s, true);
	ck_assert_int_eq(try_open(target, NULL, &conn), ERR_OK);
	int peer = accept_one();
	if (_i == 0)
		ck_assert_int_gt(send(peer, "HTTP/1.1 400 No\r\n\r\n", 19, MSG_NOSIGNAL), 0);
	else
		(void)close(peer);
	ck_assert_int_eq(wait_ready(conn), STEP_FAIL);
	ck_assert_int_eq(conn->failure, UPSTREAM_FAILURE_TLS);
	ck_assert_str_ne(conn->failure_text, "");
	upstream_conn_close(conn);
	if (_i == 0)
		(void)close(peer);
	tear_down_tls(&s);
}
END_TEST

/* Idle over TLS: session tickets that come late are taken in and it stays (_i == 0); application data (1),
 * close_notify (2) and an end (3) close it. */
START_TEST(tls_idle)
{
	struct server s = { 0 };
	struct upstream_conn *conn = NULL;
	size_t len = 0;
	set_up_tls(&s, true);
	ck_assert_int_eq(shake(&s, NULL, &conn), STEP_DONE); /* tickets follow the handshake */
	upstream_conn_park(conn);
	run_ms(worker->loop, 5);
	ck_assert_ptr_nonnull(target->pools[0].session.session);
	if (_i == 1)
		ck_assert_int_eq(tls_conn_write(s.conn, "x", 1, &len), STEP_DONE);
	if (_i == 2)
		ck_assert_int_eq(tls_conn_close_notify(s.conn), STEP_DONE);
	if (_i == 3)
		(void)shutdown(s.fd, SHUT_RDWR);
	for (int i = 0; i < (_i == 0 ? 5 : 500) && target->pools[0].idle_cnt > 0; i++)
		run_ms(worker->loop, 10);
	struct upstream_conn *again = upstream_conn_take(worker, target, port);
	ck_assert_ptr_eq(again, _i == 0 ? conn : NULL);
	if (_i == 0)
		exchange_bytes(&s, conn);
	upstream_conn_close(again);
	close_server(&s);
	tear_down_tls(&s);
}
END_TEST

/* ---- life ---- */

/* A target that no group has any more: its idle connections are closed on the worker, then it is freed on the
 * control loop (_i == 0), or by the registry when the process ends before that (_i == 1). */
START_TEST(put_closes_idle)
{
	set_up();
	struct upstream_conn *busy = open_one();
	upstream_conn_park(open_one());
	int peers[2] = { accept_one(), accept_one() };
	upstream_conn_park(busy);
	put_group(&model);
	ck_assert(is_open(peers[0]) && is_open(peers[1])); /* it is the worker's business */
	run_ms(worker->loop, 5);
	ck_assert(has_ended(peers[0]) && has_ended(peers[1]));
	if (_i == 0)
		run_ms(control_loop, 5);
	/* Wanted again: a new one, with an empty pool. */
	make_group(&model);
	ck_assert_ptr_null(upstream_conn_take(worker, target_at(&model, 0), port));
	(void)close(peers[0]);
	(void)close(peers[1]);
	tear_down();
}
END_TEST

/* A connection in use goes on, is not parked any more, and keeps its target. */
START_TEST(kept_by_connection)
{
	set_up();
	struct upstream_conn *busy = open_one();
	int peer = accept_one();
	size_t len = 0;
	put_group(&model);
	run_ms(worker->loop, 5);
	run_ms(control_loop, 5);
	ck_assert(!list_is_empty(&upstreams->all));
	ck_assert_int_eq(upstream_conn_write(busy, "hello", 5, &len), STEP_DONE);
	upstream_conn_park(busy);
	ck_assert_ptr_null(upstream_conn_take(worker, busy->upstream, port));
	run_ms(worker->loop, 5);
	run_ms(control_loop, 5);
	ck_assert(list_is_empty(&upstreams->all));
	(void)close(peer);
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
	tcase_add_test(tc, preserved_port);
	tcase_add_test(tc, unresolved);
	tcase_add_loop_test(tc, tls_ready, 0, 2);
	tcase_add_test(tc, tls_unverified);
	tcase_add_loop_test(tc, tls_broken, 0, 2);
	tcase_add_loop_test(tc, tls_idle, 0, 4);
	tcase_add_loop_test(tc, put_closes_idle, 0, 2);
	tcase_add_test(tc, kept_by_connection);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
