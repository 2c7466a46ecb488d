/* The manager against a real CA: Pebble and its DNS on loopback, with a responder of the test's own
 * in the place of the workers. Skipped when pebble or openssl is missing. */
#include <check.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "smartproxy/acme.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/tls.h"

#define WAIT_MS 40000

/* ---- processes and ports ---- */
static char dir[64];
static pid_t children[3];
static uint16_t http_port;
static uint16_t ca_port; /* of the front, which lets one request at a time into Pebble */

static uint16_t free_port(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&addr, len), 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	close(fd);
	return ntohs(addr.sin_port);
}

static pid_t spawn(const char *log, char *const argv[])
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	int fd = open(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(fd, STDOUT_FILENO);
	dup2(fd, STDERR_FILENO);
	execvp(argv[0], argv);
	_exit(127);
}

static void wait_open(uint16_t port)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_port = htons(port),
				    .sin_addr = { htonl(INADDR_LOOPBACK) } };
	int64_t end_ms = clock_now_ms() + 10000;
	bool is_open = false;
	while (!is_open && clock_now_ms() < end_ms) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		is_open = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) == 0;
		close(fd);
		if (!is_open)
			usleep(10000);
	}
	ck_assert(is_open);
}

static void start_front(uint16_t own_port, const char *ca_log)
{
	char port[8], own[8], cert[96], key[96];
	ca_port = free_port();
	text_format(port, sizeof(port), "%u", ca_port);
	text_format(own, sizeof(own), "%u", own_port);
	text_format(cert, sizeof(cert), "%s/c.pem", dir);
	text_format(key, sizeof(key), "%s/k.pem", dir);
	children[2] = spawn("/dev/null", (char *[]){ (char *)TEST_PYTHON, (char *)TEST_FRONT, port,
						     own, cert, key, cert, (char *)ca_log, NULL });
	wait_open(ca_port);
}

static void start_ca(const char *nonce_reject)
{
	char command[512], config[96], log[96], dns[32], manage[32], dns_arg[32];
	uint16_t dns_port = free_port(), dns_manage_port = free_port(), manage_port = free_port();
	uint16_t own_port = free_port();
	text_format(log, sizeof(log), "%s/pebble.log", dir);
	text_format(config, sizeof(config), "%s/pebble.json", dir);
	text_format(dns, sizeof(dns), "127.0.0.1:%u", dns_port);
	text_format(dns_arg, sizeof(dns_arg), "127.0.0.1:%u", dns_port);
	text_format(manage, sizeof(manage), "127.0.0.1:%u", dns_manage_port);
	text_format(command, sizeof(command),
		    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "
		    "%s/k.pem -out %s/c.pem "
		    "-days 9 -subj /CN=ca -addext subjectAltName=IP:127.0.0.1 2>/dev/null",
		    dir, dir);
	ck_assert_int_eq(system(command), 0);
	FILE *f = fopen(config, "we");
	fprintf(f,
		"{\"pebble\":{\"listenAddress\":\"127.0.0.1:%u\",\"managementListenAddress\":\"127."
		"0.0.1:%u\","
		"\"certificate\":\"%s/c.pem\",\"privateKey\":\"%s/"
		"k.pem\",\"httpPort\":%u,\"tlsPort\":1}}",
		own_port, manage_port, dir, dir, http_port);
	fclose(f);
	setenv("GOMAXPROCS", "1", 1);
	setenv("PEBBLE_VA_NOSLEEP", "1", 1);
	setenv("PEBBLE_AUTHZREUSE", "0", 1);
	setenv("PEBBLE_WFE_NONCEREJECT", nonce_reject, 1);
	children[0] =
		spawn("/dev/null",
		      (char *[]){ (char *)"pebble-challtestsrv", (char *)"-defaultIPv6", (char *)"",
				  (char *)"-http01", (char *)"", (char *)"-https01", (char *)"",
				  (char *)"-tlsalpn01", (char *)"", (char *)"-dns01", dns,
				  (char *)"-management", manage, NULL });
	children[1] = spawn(log, (char *[]){ (char *)"pebble", (char *)"-config", config,
					     (char *)"-dnsserver", dns_arg, NULL });
	wait_open(dns_manage_port);
	wait_open(own_port);
	start_front(own_port, log);
}

static void stop_ca(void)
{
	for (size_t i = 0; i < SP_ARRAY_LEN(children); i++) {
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
	}
}

/* ---- the responder: one thread that reads a head and answers from the challenge table ---- */
static struct challenge_table *table;
static int listener;
static atomic_bool is_over;

static void answer_one(int fd)
{
	char head[2048], host[256], text[CHALLENGE_TEXT_MAX], reply[CHALLENGE_TEXT_MAX + 128];
	size_t len = 0, text_len = 0;
	while (len < sizeof(head) - 1) {
		ssize_t n = read(fd, head + len, sizeof(head) - 1 - len);
		if (n <= 0)
			return;
		len += (size_t)n;
		head[len] = 0;
		if (strstr(head, "\r\n\r\n") != NULL)
			break;
	}
	const char *token = strstr(head, CHALLENGE_PATH_PREFIX), *at = strstr(head, "Host: ");
	if (token == NULL || at == NULL)
		return;
	token += strlen(CHALLENGE_PATH_PREFIX);
	text_format(host, sizeof(host), "%.*s", (int)strcspn(at + 6, ":\r"), at + 6);
	sp_rcu_enter();
	bool is_known = challenge_find(table, host, strlen(host), token, strcspn(token, " "), text,
				       &text_len);
	sp_rcu_leave();
	size_t reply_len =
		text_format(reply, sizeof(reply),
			    "HTTP/1.1 %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n%.*s",
			    is_known ? "200 OK" : "404 Not Found", is_known ? text_len : 0,
			    is_known ? (int)text_len : 0, text);
	(void)!write(fd, reply, reply_len);
	if (is_known)
		challenge_notify(table);
}

static void *respond(void *arg)
{
	rcu_register_thread();
	while (!atomic_load(&is_over)) {
		int fd = accept(listener, NULL, NULL);
		if (fd < 0)
			continue;
		answer_one(fd);
		close(fd);
	}
	rcu_unregister_thread();
	return arg;
}

static void open_listener(void)
{
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(addr);
	listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&addr, len), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
	ck_assert_int_eq(listen(listener, 64), 0);
	http_port = ntohs(addr.sin_port);
}

/* ---- the room above ---- */
static struct loop *loop;
static struct tls_slots *slots;
static struct config *config;
static struct acme *acme;
static unsigned set_cnt;
static bool is_route_there;
static pthread_t responder;

static enum err set_route(void *arg, bool is_wanted, struct port_error *reterr)
{
	(void)arg, (void)reterr;
	ck_assert_int_ne(is_route_there, is_wanted);
	is_route_there = is_wanted;
	set_cnt++;
	return ERR_OK;
}
static const struct acme_ops ops = { .set_challenge_route = set_route };

static void load_config(void)
{
	char file[96];
	struct config_problems problems = { 0 };
	text_format(file, sizeof(file), "%s/smartproxy.conf", dir);
	FILE *f = fopen(file, "we");
	fprintf(f,
		"global: { state_dir = \"%s/state\"; };\n"
		"acme: { email = \"ops@test.example\"; directory = \"https://127.0.0.1:%u/dir\"; "
		"ca_file = \"%s/c.pem\"; port = %u; };\n"
		"routes: ( { name = \"r\"; match = { ports = [ %u ]; }; action = { type = "
		"\"block\"; }; } );\n",
		dir, ca_port, dir, http_port, http_port);
	fclose(f);
	ck_assert_int_eq(config_load(file, &config, &problems), ERR_OK);
	config_problems_fini(&problems);
}

static void start_acme(void)
{
	sp_role_assume_control();
	struct text why = { 0 };
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	ck_assert_int_eq(tls_slots_new(&slots), ERR_OK);
	ck_assert_int_eq(acme_new(loop, config, table, &ops, &acme, &why), ERR_OK);
	ck_assert_ptr_null(why.data);
}

static void end_acme(void)
{
	sp_role_assume_control();
	acme_free(acme);
	loop_free(loop);
	sp_rcu_drain();
	tls_slots_free(slots);
}

static void setup(const char *nonce_reject)
{
	sp_role_assume_control();
	rcu_register_thread();
	text_format(dir, sizeof(dir), "/tmp/sp-acme-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	open_listener();
	start_ca(nonce_reject);
	ck_assert_int_eq(tls_init(), ERR_OK);
	ck_assert_int_eq(challenge_table_new(&table), ERR_OK);
	ck_assert_int_eq(pthread_create(&responder, NULL, respond, NULL), 0);
	load_config();
	start_acme();
}

static void teardown(void)
{
	sp_role_assume_control();
	char command[96];
	atomic_store(&is_over, true);
	shutdown(listener, SHUT_RDWR);
	pthread_join(responder, NULL);
	close(listener);
	end_acme();
	challenge_table_free(table);
	config_put(config);
	tls_fini();
	stop_ca();
	text_format(command, sizeof(command), "rm -rf %s", dir);
	ck_assert_int_eq(system(command), 0);
	rcu_unregister_thread();
}

static void wish(const char *const *names, size_t cnt)
{
	sp_role_assume_control();
	struct acme_wish wishes[8];
	for (size_t i = 0; i < cnt; i++) {
		char identity[128];
		text_format(identity, sizeof(identity), "auto:p256:%s", names[i]);
		wishes[i] = (struct acme_wish){ .names = &names[i],
						.name_cnt = 1,
						.key_type = TLS_KEY_P256 };
		ck_assert_int_eq(tls_slot_get(slots, identity, &wishes[i].slot), ERR_OK);
	}
	acme_set_wishes(acme, config, wishes, cnt);
	for (size_t i = 0; i < cnt; i++)
		tls_slot_put(wishes[i].slot);
}

/* ---- waiting ---- */
struct look {
	struct timer timer;
	bool (*is_true)(void);
	int64_t end_ms;
	bool is_late;
};

static void on_look(struct timer *timer)
{
	struct look *look = SP_CONTAINER_OF(timer, struct look, timer);
	look->is_late = loop_now_ms(loop) > look->end_ms;
	if (look->is_true() || look->is_late)
		loop_stop(loop);
	else
		loop_timer_arm(loop, timer, loop_now_ms(loop) + 2);
}

static void run_until(bool (*is_true)(void))
{
	struct look look = { .timer = { .on_due = on_look },
			     .is_true = is_true,
			     .end_ms = clock_now_ms() + WAIT_MS };
	loop_timer_arm(loop, &look.timer, clock_now_ms());
	loop_run(loop);
	ck_assert(!look.is_late);
}

static unsigned valid_cnt, other_cnt;
static void count(void *arg, const struct acme_cert_status *status)
{
	(void)arg;
	if (strcmp(status->state, "valid") == 0)
		valid_cnt++;
	else
		other_cnt++;
}

static bool is_all_valid(void)
{
	sp_role_assume_control();
	valid_cnt = other_cnt = 0;
	acme_each_cert(acme, count, NULL);
	return other_cnt == 0 && !is_route_there;
}

static bool is_triggered(void)
{
	sp_role_assume_control();
	return challenge_cnt(table) > 0;
}

/* Unlike a challenge, which comes and goes between two looks on a busy machine, it stays true. */
static bool is_ordered_twice(void)
{
	sp_role_assume_control();
	struct acme_stats stats;
	acme_stats(acme, &stats);
	return stats.orders_created_cnt >= 2;
}

static bool is_stopped;
static void on_stopped(void *arg)
{
	(void)arg;
	is_stopped = true;
}
static bool has_stopped(void)
{
	return is_stopped;
}

static void check_slot(const char *name, bool is_real)
{
	sp_role_assume_control();
	struct tls_slot *slot = NULL;
	char identity[128];
	text_format(identity, sizeof(identity), "auto:p256:%s", name);
	ck_assert_int_eq(tls_slot_get(slots, identity, &slot), ERR_OK);
	const struct tls_cert *cert = tls_slot_current(slot);
	ck_assert_ptr_nonnull(cert);
	ck_assert(tls_cert_has_name(cert, name));
	ck_assert_int_eq(tls_cert_info(cert)->is_placeholder, !is_real);
	tls_slot_put(slot);
}

/* ---- tests ---- */
static const char *const names[] = { "a.test", "b.test", "c.test" };
static const char *const nonce_rejects[] = { "0", "50", "90" };

START_TEST(three_names)
{
	sp_role_assume_control();
	struct acme_stats stats;
	char path[128];
	struct stat st;
	setup(nonce_rejects[_i]);
	wish(names, 3);
	for (int i = 0; i < 3; i++)
		check_slot(names[i], false);
	acme_start(acme);
	run_until(is_all_valid);
	ck_assert_uint_eq(valid_cnt, 3);
	acme_stats(acme, &stats);
	ck_assert_uint_eq(stats.orders_created_cnt, 3);
	ck_assert_uint_eq(stats.orders_ok_cnt, 3);
	ck_assert_uint_eq(stats.orders_failed_cnt, 0);
	ck_assert_uint_eq(stats.route_activated_cnt, 1);
	ck_assert_uint_eq(stats.route_removed_cnt, 1);
	ck_assert_int_eq(stats.bad_nonce_cnt > 0, _i > 0);
	ck_assert_uint_eq(challenge_cnt(table), 0);
	ck_assert_uint_eq(set_cnt, 2);
	for (int i = 0; i < 3; i++) {
		check_slot(names[i], true);
		text_format(path, sizeof(path), "%s/state/certificates/%s/current/privkey.pem", dir,
			    names[i]);
		ck_assert_int_eq(stat(path, &st), 0);
		ck_assert_int_eq(st.st_mode & 07777, 0600);
		text_format(path, sizeof(path), "%s/state/orders/%s.journal", dir, names[i]);
		ck_assert_int_ne(stat(path, &st), 0);
	}
	teardown();
}
END_TEST

/* The same wishes again and again in the middle, and one that goes away: nothing that stays is
 * touched. */
START_TEST(wishes_during_orders)
{
	sp_role_assume_control();
	struct acme_stats stats;
	setup("0");
	wish(names, 3);
	acme_start(acme);
	run_until(is_triggered);
	for (int i = 0; i < 100; i++)
		wish(names, 3);
	wish(names, 2);
	run_until(is_all_valid);
	ck_assert_uint_eq(valid_cnt, 2);
	acme_stats(acme, &stats);
	ck_assert_uint_le(stats.orders_created_cnt, 3);
	ck_assert_uint_eq(stats.orders_ok_cnt, 2);
	ck_assert_uint_eq(challenge_cnt(table), 0);
	check_slot("a.test", true);
	check_slot("b.test", true);
	teardown();
}
END_TEST

/* Stopped when the first answers are there, begun again: no second order, and certificates found in
 * the store. */
START_TEST(stopped_and_begun_again)
{
	sp_role_assume_control();
	struct acme_stats first, second;
	setup("0");
	wish(names, 3);
	acme_start(acme);
	run_until(is_triggered);
	acme_stop(acme, 5000, on_stopped, NULL);
	run_until(has_stopped);
	acme_stats(acme, &first);
	ck_assert_int_eq(first.route_state, ACME_ROUTE_ABSENT);
	ck_assert(!is_route_there);
	end_acme();
	start_acme();
	wish(names, 3);
	acme_start(acme);
	run_until(is_all_valid);
	acme_stats(acme, &second);
	ck_assert_uint_eq(first.orders_created_cnt + second.orders_created_cnt, 3);
	ck_assert_uint_eq(challenge_cnt(table), 0);
	end_acme();
	start_acme();
	wish(names, 3);
	for (int i = 0; i < 3; i++)
		check_slot(names[i], true);
	acme_start(acme);
	acme_stats(acme, &second);
	ck_assert_uint_eq(second.requests_cnt, 0);
	ck_assert_int_eq(second.route_state, ACME_ROUTE_ABSENT);
	teardown();
}
END_TEST

/* Asked for by hand: a second generation, a new cycle of the route. */
START_TEST(renewed_by_hand)
{
	sp_role_assume_control();
	struct acme_stats stats;
	setup("0");
	wish(names, 1);
	acme_start(acme);
	run_until(is_all_valid);
	ck_assert_int_eq(acme_renew(acme, "nobody.test"), ERR_NOENT);
	ck_assert_int_eq(acme_renew(acme, "a.test"), ERR_OK);
	run_until(is_ordered_twice);
	run_until(is_all_valid);
	acme_stats(acme, &stats);
	ck_assert_uint_eq(stats.orders_ok_cnt, 2);
	ck_assert_uint_eq(stats.route_activated_cnt, 2);
	char path[128];
	struct stat st;
	text_format(path, sizeof(path), "%s/state/certificates/a.test/gen-2/fullchain.pem", dir);
	ck_assert_int_eq(stat(path, &st), 0);
	teardown();
}
END_TEST

START_TEST(failpoints_are_listed_once)
{
	size_t cnt = 0;
	const char *const *points = acme_failpoints(&cnt);
	ck_assert_uint_ge(cnt, 14);
	for (size_t i = 0; i < cnt; i++)
		for (size_t j = 0; j < i; j++)
			ck_assert_str_ne(points[i], points[j]);
}
END_TEST

int main(void)
{
	if (system("command -v pebble pebble-challtestsrv openssl >/dev/null 2>&1") != 0) {
		puts("1..0 # SKIP pebble, pebble-challtestsrv or openssl is not installed");
		return EXIT_SUCCESS;
	}
	Suite *suite = suite_create("acme");
	TCase *tc = tcase_create("pebble");
	tcase_set_timeout(tc, 50);
	tcase_add_loop_test(tc, three_names, 0, (int)SP_ARRAY_LEN(nonce_rejects));
	tcase_add_test(tc, wishes_during_orders);
	tcase_add_test(tc, stopped_and_begun_again);
	tcase_add_test(tc, renewed_by_hand);
	tcase_add_test(tc, failpoints_are_listed_once);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
