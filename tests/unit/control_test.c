/* The control room as a whole: control_run in this thread, a client on its admin socket in another,
 * workers and acme manager replaced by fakes that count and fail on demand. */
#include <arpa/inet.h>
#include <check.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "control_rig.h"

/* ---- requests, as a table ---- */

static const struct {
	const char *method, *path, *body;
	int status;
	const char *text;
} requests[] = {
	{ "GET", "/v1/status", "", 200, "\"state\": \"running\"" },
	{ "GET", "/v1/status", "", 200, "\"waiting\": null" },
	{ "HEAD", "/v1/status", "", 200, "Content-Length: " },
	{ "GET", "/v1/status?x=1", "", 200, "\"generation\": 1" },
	{ "GET", "/v1/routes", "", 200, "\"name\":" },
	{ "GET", "/v1/listeners", "", 200, "\"for\": [\"route\"]" },
	{ "GET", "/v1/certificates", "", 200, "\"last_error\": \"the \\\"CA\\\" says no\"" },
	{ "GET", "/v1/certificates", "", 200, "\"retry_at\": \"2025-11-24T16:00:00Z\"" },
	{ "GET", "/v1/certificates", "", 200, "\"not_after\": null" },
	{ "GET", "/metrics", "", 200, "smartproxy_requests_total 7" },
	{ "GET", "/metrics", "", 200, "# TYPE smartproxy_update_total counter" },
	{ "GET", "/nothing", "", 404, "\"code\": \"noent\"" },
	{ "DELETE", "/v1/routes", "", 405, "Allow: GET, HEAD, PUT" },
	{ "GET", "/v1/reload", "", 405, "Allow: POST" },
	{ "PUT", "/v1/routes", "", 400, "\"code\": \"config\"" },
	{ "PUT", "/v1/routes", "[{", 400, "\"line\": 1" },
	{ "PUT", "/v1/routes", "[{\"nam\":\"x\"}]", 400, "\"path\": \"routes[0]" },
	{ "POST", "/v1/reload", "", 200, "\"applied\": true" },
	{ "POST", "/v1/certificates/renew", "", 200, "\"name\": null" },
	{ "POST", "/v1/certificates/renew?name=%2A.a.example", "", 200, "*.a.example" },
	{ "POST", "/v1/certificates/renew?x=1&name=c.example", "", 404, "c.example" },
	{ "POST", "/v1/certificates/renew?name=%2", "", 400, "\"code\": \"syntax\"" },
	{ "POST", "/v1/certificates/renew?name=%00", "", 400, "\"code\": \"syntax\"" },
	{ "BAD METHOD", "/", "", 400, "bad_request" },
	{ "GET", "/v1/status", "a body", 413, "too_large" },
};
static int row; /* _i of the test, for the client's body */

static void body_request(void)
{
	expect(requests[row].method, requests[row].path, requests[row].body, requests[row].status,
	       requests[row].text);
}

START_TEST(request_is_answered)
{
	row = _i;
	with_control(body_request);
}
END_TEST

static void body_server(void)
{
	static char big[300000];
	struct answer answer;
	/* two in one packet, then the end */
	static const char two[] = "GET /v1/listeners HTTP/1.1\r\nHost: l\r\n\r\n"
				  "GET /nothing HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n";
	int fd = dial();
	send_raw(fd, two, sizeof(two) - 1);
	receive(fd, &answer);
	ck_assert_int_eq(answer.status, 200);
	ck_assert_ptr_nonnull(strstr(answer.text, "HTTP/1.1 404"));
	/* chunked */
	static const char chunked[] = "PUT /v1/routes HTTP/1.1\r\nHost: l\r\n"
				      "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
	fd = dial();
	send_raw(fd, chunked, sizeof(chunked) - 1);
	receive(fd, &answer);
	ck_assert_int_eq(answer.status, 411);
	/* too long before a byte of it is read, and the answer still arrives */
	static const char huge[] = "PUT /v1/routes HTTP/1.1\r\nHost: l\r\n"
				   "Content-Length: 99999999999\r\n\r\n";
	fd = dial();
	send_raw(fd, huge, sizeof(huge) - 1);
	receive(fd, &answer);
	ck_assert_int_eq(answer.status, 413);
	/* a body in many pieces, with the interim answer first */
	static const char expecting[] =
		"PUT /v1/routes HTTP/1.1\r\nHost: l\r\nConnection: close\r\n"
		"Expect: 100-continue\r\nContent-Length: 300000\r\n\r\n";
	memset(big, ' ', sizeof(big));
	(void)route_json(big, 200, ports[0]);
	big[strlen(big)] = ' ';
	fd = dial();
	send_raw(fd, expecting, sizeof(expecting) - 1);
	char interim[25];
	ck_assert_int_eq(recv(fd, interim, sizeof(interim), MSG_WAITALL), sizeof(interim));
	ck_assert_mem_eq(interim, "HTTP/1.1 100 Continue\r\n\r\n", sizeof(interim));
	send_raw(fd, big, sizeof(big));
	receive(fd, &answer);
	ck_assert_int_eq(answer.status, 200);
	/* clients that leave in the middle */
	for (int i = 0; i < 50; i++) {
		fd = i % 2 == 0 ? dial() : post("POST", "/v1/reload", "");
		if (i % 4 == 0)
			send_raw(fd, "PUT /v1/rou", 11);
		(void)close(fd);
	}
	expect("GET", "/v1/status", "", 200, "running");
}

START_TEST(server_keeps_to_http)
{
	with_control(body_server);
}
END_TEST

/* ---- updates ---- */

static void body_ports(void)
{
	char json[512];
	long binds = metric("smartproxy_listener_binds_total");
	ck_assert_int_eq(adopt_cnt, 1);
	expect("POST", "/v1/reload", "", 200, "\"generation\": 2");
	ck_assert_int_eq(metric("smartproxy_listener_binds_total"), binds);
	expect("PUT", "/v1/routes", route_json(json, sizeof(json), ports[1]), 200, "\"routes\": 1");
	ck_assert(is_listening(ports[1]) && !is_listening(ports[0]));
	ck_assert_int_eq(adopt_cnt, 2);
	ck_assert_int_eq(release_cnt, 1);
	/* what cannot change keeps its value */
	char route[512];
	write_conf(3, route_text(route, sizeof(route), "again", ports[0]));
	expect("POST", "/v1/reload", "", 200, "\"generation\": 4");
	expect("GET", "/v1/status", "", 200, "\"workers\": 2");
	expect("GET", "/v1/routes", "", 200, "again");
	/* a broken file changes nothing and is named */
	write_conf(3, "{ name = 1; }");
	expect("POST", "/v1/reload", "", 400, conf_path);
	(void)unlink(conf_path);
	expect("POST", "/v1/reload", "", 400, conf_path);
	expect("GET", "/v1/routes", "", 200, "again");
	expect("GET", "/v1/status", "", 200, "\"generation\": 4");
}

START_TEST(update_opens_and_closes_ports_once)
{
	with_control(body_ports);
}
END_TEST

static void body_rollback(void)
{
	char json[512];
	(void)route_json(json, sizeof(json), ports[1]);
	adopt_failures = 1;
	expect("PUT", "/v1/routes", json, 503, "the state before it is in force again");
	ck_assert(is_listening(ports[0]) && !is_listening(ports[1]));
	ck_assert_int_eq(metric("smartproxy_update_total{result=\"rolled_back\"}"), 1);
	release_failures = 1;
	expect("PUT", "/v1/routes", json, 503, "nothing was changed");
	ck_assert(is_listening(ports[0]) && !is_listening(ports[1]));
	/* the way back fails as well, for a moment: the new state stays, and is mended */
	adopt_failures = 1;
	release_passes = 1;
	release_failures = 1;
	expect("PUT", "/v1/routes", json, 503, "the new state is in force");
	for (int i = 0; i < 500 && is_listening(ports[0]); i++)
		(void)usleep(10000);
	ck_assert(!is_listening(ports[0]) && is_listening(ports[1]));
	expect("POST", "/v1/reload", "", 200, "applied");
	expect("PUT", "/v1/routes", json, 200, "applied");
	ck_assert(!is_listening(ports[0]) && is_listening(ports[1]));
}

START_TEST(late_failure_is_rolled_back)
{
	with_control(body_rollback);
}
END_TEST

static void body_foreign(void)
{
	char json[512];
	int ready[2];
	ck_assert_int_eq(pipe(ready), 0);
	pid_t child = fork();
	if (child == 0) {
		struct sockaddr_in addr = { .sin_family = AF_INET,
					    .sin_port = htons(ports[1]),
					    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		bool is_ok =
			bind(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 && listen(fd, 1) == 0;
		(void)!write(ready[1], is_ok ? "y" : "n", 1);
		(void)pause();
		_exit(0);
	}
	char c = 0;
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	ck_assert_int_eq(c, 'y');
	(void)route_json(json, sizeof(json), ports[1]);
	char holder[32];
	(void)snprintf(holder, sizeof(holder), "\"pid\": %d", (int)child);
	expect("PUT", "/v1/routes", json, 409, "\"code\": \"port_in_use\"");
	expect("PUT", "/v1/routes", json, 409, holder);
	ck_assert(is_listening(ports[0]) && !is_listening(ports[1]));
	expect("GET", "/v1/status", "", 200, "\"generation\": 1");
	(void)kill(child, SIGKILL);
	(void)waitpid(child, NULL, 0);
	expect("PUT", "/v1/routes", json, 200, "applied");
	(void)close(ready[0]);
	(void)close(ready[1]);
}

START_TEST(foreign_port_refuses_the_update)
{
	with_control(body_foreign);
}
END_TEST

static void send_request(int fd, const char *method, const char *path, const char *body)
{
	char request[1024];
	int len = snprintf(request, sizeof(request),
			   "%s %s HTTP/1.1\r\nHost: l\r\nConnection: close\r\n"
			   "Content-Length: %zu\r\n\r\n%s",
			   method, path, strlen(body), body);
	send_raw(fd, request, (size_t)len);
}

static void body_queue(void)
{
	char json[512];
	struct answer answer;
	int fds[3] = { dial(), dial(), dial() };
	expect("GET", "/v1/status", "", 200, "running"); /* all three have been accepted */
	wants_block = true;
	send_request(fds[0], "PUT", "/v1/routes", route_json(json, sizeof(json), ports[1]));
	(void)sem_wait(&blocked);
	/* both are read in the next turn, one after the other */
	send_request(fds[1], "PUT", "/v1/routes", route_json(json, sizeof(json), ports[2]));
	send_request(fds[2], "PUT", "/v1/routes", route_json(json, sizeof(json), ports[0]));
	for (int i = 0; i < 5; i++)
		(void)kill(getpid(), SIGHUP);
	(void)sem_post(&unblock);
	receive(fds[0], &answer);
	ck_assert_int_eq(answer.status, 200);
	(void)sem_wait(&blocked); /* the next one is in hand */
	wants_block = false;
	(void)usleep(350000); /* update_timeout passes */
	(void)sem_post(&unblock);
	int ok_cnt = 0, late_cnt = 0;
	for (int i = 1; i < 3; i++) {
		receive(fds[i], &answer);
		ok_cnt += answer.status == 200;
		late_cnt += answer.status == 503 &&
			    strstr(answer.text, "\"code\": \"timeout\"") != NULL;
	}
	ck_assert_int_eq(ok_cnt + late_cnt, 2);
	ck_assert_int_ge(late_cnt, 1);
	/* five SIGHUPs that came while nobody looked are one reload; it may have been too late */
	long applied = metric("smartproxy_update_total{result=\"applied\"}");
	long late = metric("smartproxy_update_total{result=\"late\"}");
	ck_assert_int_eq(applied + late, 4);
}

START_TEST(updates_wait_in_line)
{
	with_control(body_queue);
}
END_TEST

/* A reload is not refused for the time that an older one has waited. */
static void body_late(void)
{
	char json[512];
	struct answer answer;
	int fds[5] = { dial(), dial(), dial(), dial(), dial() };
	expect("GET", "/v1/status", "", 200, "running"); /* all have been accepted */
	wants_block = true;
	send_request(fds[0], "PUT", "/v1/routes", route_json(json, sizeof(json), ports[1]));
	(void)sem_wait(&blocked);
	send_request(fds[1], "PUT", "/v1/routes", route_json(json, sizeof(json), ports[2]));
	send_request(fds[2], "PUT", "/v1/routes", route_json(json, sizeof(json), ports[0]));
	send_request(fds[3], "POST", "/v1/reload", "");
	(void)sem_post(&unblock);
	(void)sem_wait(&blocked); /* the second is in hand, the others behind it */
	(void)usleep(350000);     /* update_timeout passes */
	send_request(fds[4], "POST", "/v1/reload", "");
	wants_block = false;
	(void)sem_post(&unblock);
	static const int statuses[] = { 200, 200, 503, 503, 200 };
	for (int i = 0; i < 5; i++) {
		receive(fds[i], &answer);
		ck_assert_msg(answer.status == statuses[i], "%d: %s", i, answer.text);
	}
}

START_TEST(young_reload_outlives_a_late_one)
{
	with_control(body_late);
}
END_TEST

static int count(const char *text, const char *word)
{
	int cnt = 0;
	for (const char *at = text; (at = strstr(at, word)) != NULL; at++)
		cnt++;
	return cnt;
}

/* Many requests in one packet wait for no other client's one. */
static void body_share(void)
{
	static char text[200 * 64], answers[200 * 1024];
	static const char one[] = "GET /nothing HTTP/1.1\r\nHost: l\r\n\r\n";
	char json[512];
	struct answer answer;
	int fds[3] = { dial(), dial(), dial() };
	expect("GET", "/v1/status", "", 200, "running");
	wants_block = true;
	send_request(fds[0], "PUT", "/v1/routes", route_json(json, sizeof(json), ports[1]));
	(void)sem_wait(&blocked);
	size_t len = 0;
	for (int i = 0; i < 200; i++, len += sizeof(one) - 1)
		memcpy(text + len, one, sizeof(one));
	send_raw(fds[1], text, len);
	send_request(fds[2], "PUT", "/v1/routes", route_json(json, sizeof(json), ports[2]));
	(void)sem_post(&unblock);
	(void)sem_wait(&blocked); /* the update of the other client is in hand */
	ssize_t got = recv(fds[1], answers, sizeof(answers) - 1, MSG_DONTWAIT);
	int cnt = count(answers, "HTTP/1.1 404");
	ck_assert_msg(got > 0 && cnt > 0 && cnt < 100, "%d answered before it", cnt);
	wants_block = false;
	(void)sem_post(&unblock);
	for (int i = 0; i < 3; i += 2) {
		receive(fds[i], &answer);
		ck_assert_int_eq(answer.status, 200);
	}
	(void)close(fds[1]);
}

START_TEST(pipelining_client_gets_its_share)
{
	with_control(body_share);
}
END_TEST

/* ---- the challenge route ---- */

static void body_challenge(void)
{
	char json[512];
	static const char with_auto[] =
		"[{\"name\":\"a\",\"match\":{\"ports\":[%u],\"address\":\"127.0.0.1\",\"domains\":["
		"\"b.example\",\"a.example\"]},\"action\":{\"type\":\"respond\",\"status\":200,"
		"\"body\":\"x\",\"tls\":{\"mode\":\"terminate\",\"certificate\":\"auto\"}}},"
		"{\"name\":\"b\",\"match\":{\"ports\":[%u],\"address\":\"127.0.0.1\",\"domains\":["
		"\"a.example\",\"b.example\"],\"path\":\"/x\"},\"action\":{\"type\":\"respond\","
		"\"status\":200,\"body\":\"x\",\"tls\":{\"mode\":\"terminate\",\"certificate\":"
		"\"auto\"}}}]";
	char two[2048];
	expect("POST", "/v1/certificates/renew?name=on", "", 200, "applied");
	ck_assert(is_listening(ports[3]));
	expect("GET", "/v1/listeners", "", 200, "\"for\": [\"challenge\"]");
	expect("GET", "/v1/status", "", 200, "\"generation\": 2");
	expect("POST", "/v1/certificates/renew?name=on", "", 200, "applied"); /* it is there */
	expect("GET", "/v1/status", "", 200, "\"generation\": 2");
	/* an update keeps it */
	expect("PUT", "/v1/routes", route_json(json, sizeof(json), ports[1]), 200, "applied");
	ck_assert(is_listening(ports[3]));
	/* nobody wants certificates: the port closes with the route */
	expect("POST", "/v1/certificates/renew?name=off", "", 200, "applied");
	ck_assert(!is_listening(ports[3]));
	/* somebody does: it stays bound, and two routes of the same names are one wish */
	(void)snprintf(two, sizeof(two), with_auto, (unsigned)ports[1], (unsigned)ports[1]);
	wants_reenter = true;
	expect("PUT", "/v1/routes", two, 200, "\"routes\": 2");
	wants_reenter = false;
	ck_assert_int_eq(reentered_result, ERR_BUSY);
	ck_assert_int_eq(wish_cnt, 1);
	ck_assert_str_eq(wished_names, "a.example b.example ");
	ck_assert(!is_listening(ports[3]));
	expect("POST", "/v1/certificates/renew?name=on", "", 200, "applied");
	long binds = metric("smartproxy_listener_binds_total");
	expect("POST", "/v1/certificates/renew?name=off", "", 200, "applied");
	expect("GET", "/v1/listeners", "", 200, "\"for\": [\"kept\"]");
	expect("POST", "/v1/certificates/renew?name=on", "", 200, "applied");
	ck_assert_int_eq(metric("smartproxy_listener_binds_total"), binds);
	expect("POST", "/v1/certificates/renew?name=off", "", 200, "applied");
	/* the last wish goes: so does the port */
	expect("POST", "/v1/reload", "", 200, "applied");
	ck_assert(!is_listening(ports[3]));
	/* a user's own wildcard set on that port is shared */
	(void)snprintf(
		json, sizeof(json),
		"[{\"name\":\"r\",\"match\":{\"ports\":[%u]},\"action\":{\"type\":\"respond\","
		"\"status\":200,\"body\":\"x\"}}]",
		(unsigned)ports[3]);
	expect("PUT", "/v1/routes", json, 200, "applied");
	binds = metric("smartproxy_listener_binds_total");
	expect("POST", "/v1/certificates/renew?name=on", "", 200, "applied");
	expect("GET", "/v1/listeners", "", 200, "\"for\": [\"route\", \"challenge\"]");
	ck_assert_int_eq(metric("smartproxy_listener_binds_total"), binds);
	expect("POST", "/v1/certificates/renew?name=off", "", 200, "applied");
	ck_assert(is_listening(ports[3]));
}

START_TEST(challenge_port_is_bound_once)
{
	with_control(body_challenge);
}
END_TEST

/* ---- the socket ---- */

static int bind_unix(bool wants_listen)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	(void)snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", socket_path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	if (wants_listen)
		ck_assert_int_eq(listen(fd, 8), 0);
	return fd;
}

static void body_mode(void)
{
	struct stat st;
	(void)close(dial());
	ck_assert_int_eq(stat(socket_path, &st), 0);
	ck_assert_int_eq(st.st_mode & 0777, 0660);
	ck_assert(S_ISSOCK(st.st_mode));
}

START_TEST(stale_socket_is_replaced)
{
	(void)close(bind_unix(false));
	with_control(body_mode);
}
END_TEST

START_TEST(live_socket_is_left_alone)
{
	int fd = bind_unix(true);
	ck_assert_int_eq(run_control(), 1);
	ck_assert_int_eq(access(socket_path, F_OK), 0);
	(void)close(fd);
}
END_TEST

START_TEST(other_file_is_left_alone)
{
	FILE *file = fopen(socket_path, "w");
	(void)fclose(file);
	ck_assert_int_eq(run_control(), 1);
	ck_assert_int_eq(access(socket_path, F_OK), 0);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("control");
	TCase *tc = tcase_create("control");
	tcase_set_timeout(tc, 30);
	tcase_add_checked_fixture(tc, set_up, clean_up);
	tcase_add_loop_test(tc, request_is_answered, 0, sizeof(requests) / sizeof(requests[0]));
	tcase_add_test(tc, server_keeps_to_http);
	tcase_add_test(tc, update_opens_and_closes_ports_once);
	tcase_add_test(tc, late_failure_is_rolled_back);
	tcase_add_test(tc, foreign_port_refuses_the_update);
	tcase_add_test(tc, updates_wait_in_line);
	tcase_add_test(tc, young_reload_outlives_a_late_one);
	tcase_add_test(tc, pipelining_client_gets_its_share);
	tcase_add_test(tc, challenge_port_is_bound_once);
	tcase_add_test(tc, stale_socket_is_replaced);
	tcase_add_test(tc, live_socket_is_left_alone);
	tcase_add_test(tc, other_file_is_left_alone);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
