/* The manager under clocks of the test's own: a wall clock that is wrong and set right, waits that outlive a restart. No CA
 * is asked: an order's end is brought about by hand. */
#include <check.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../../src/acme/files.h"
#include "../../src/acme/manager.h"
#include "../../src/acme/order.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/tls.h"

#define DAY_MS ((int64_t)86400 * 1000)
#define URL    "https://127.0.0.1:1/dir"

/* ---- the clocks: these take the place of the base room's ---- */
static int64_t true_unix_ms; /* when the test began */
static int64_t ran_ms;       /* since then */
static int64_t wrong_by_ms;  /* of the wall clock */

int64_t clock_now_ms(void)
{
	return 1000000 + ran_ms;
}

int64_t clock_now_us(void)
{
	return clock_now_ms() * 1000;
}

int64_t clock_boot_ms(void)
{
	return 5000000 + ran_ms;
}

int64_t clock_unix_ms(void)
{
	return true_unix_ms + ran_ms + wrong_by_ms;
}

int64_t clock_unix_s(void)
{
	return clock_unix_ms() / 1000;
}

const char *clock_format_utc(char *dst, size_t cap, int64_t unix_s)
{
	text_format(dst, cap, "@%lld", (long long)unix_s);
	return dst;
}

/* ---- the room above ---- */
static char dir[64];
static struct text chain, key;
static struct challenge_table *table;
static struct loop *loop;
static struct tls_slots *slots;
static struct config *config;
static struct acme *acme;
static struct cert *cert; /* of a.test */

static void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *fmt, ...)
{
	char command[512];
	va_list args;
	va_start(args, fmt);
	(void)vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	ck_assert_int_eq(system(command), 0);
}

static enum err set_route(void *arg, bool is_wanted, struct port_error *reterr)
{
	(void)arg, (void)is_wanted, (void)reterr;
	return ERR_OK;
}
static const struct acme_ops ops = { .set_challenge_route = set_route };

static void make_files(void)
{
	char file[96];
	struct config_problems problems = { 0 };
	/* It lives 90 days from the true time on. */
	run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s/k.pem "
	    "-out %s/c.pem -days 90 -subj /CN=a.test -addext subjectAltName=DNS:a.test 2>/dev/null",
	    dir, dir);
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	ck_assert_int_eq(files_read(fd, "c.pem", &chain, NULL, NULL), ERR_OK);
	ck_assert_int_eq(files_read(fd, "k.pem", &key, NULL, NULL), ERR_OK);
	close(fd);
	text_format(file, sizeof(file), "%s/smartproxy.conf", dir);
	FILE *f = fopen(file, "we");
	fprintf(f,
		"global: { state_dir = \"%s/state\"; };\n"
		"acme: { directory = \"" URL "\"; };\n"
		"routes: ( { name = \"r\"; match = { ports = [ 8080 ]; }; action = { type = "
		"\"block\"; }; } );\n",
		dir);
	fclose(f);
	ck_assert_int_eq(config_load(file, &config, &problems), ERR_OK);
	config_problems_fini(&problems);
}

static void start(void)
{
	sp_role_assume_control();
	static const char *const names[] = { "a.test" };
	struct text why = { 0 };
	struct acme_wish wish = { .names = names, .name_cnt = 1, .key_type = TLS_KEY_P256 };
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	ck_assert_int_eq(tls_slots_new(&slots), ERR_OK);
	ck_assert_int_eq(acme_new(loop, config, table, &ops, &acme, &why), ERR_OK);
	ck_assert_int_eq(tls_slot_get(slots, "auto:p256:a.test", &wish.slot), ERR_OK);
	acme_set_wishes(acme, config, &wish, 1);
	tls_slot_put(wish.slot);
	cert = SP_CONTAINER_OF(acme->certs.next, struct cert, link);
}

static void end(void)
{
	sp_role_assume_control();
	acme_free(acme);
	loop_free(loop);
	sp_rcu_drain();
	tls_slots_free(slots);
}

static void restart(void)
{
	end();
	start();
}

static void setup(void)
{
	struct timespec now;
	char file[96];
	sp_role_assume_control();
	rcu_register_thread();
	text_format(dir, sizeof(dir), "/tmp/sp-clock-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	ck_assert_int_eq(tls_init(), ERR_OK);
	ck_assert_int_eq(challenge_table_new(&table), ERR_OK);
	make_files();
	(void)clock_gettime(CLOCK_REALTIME, &now);
	true_unix_ms = (int64_t)now.tv_sec * 1000;
	ran_ms = wrong_by_ms = 0;
	text_format(file, sizeof(file), "%s/log", dir);
	ck_assert_ptr_nonnull(freopen(file, "we", stderr));
	start();
}

static void teardown(void)
{
	sp_role_assume_control();
	end();
	challenge_table_free(table);
	config_put(config);
	text_fini(&chain);
	text_fini(&key);
	tls_fini();
	run("rm -rf %s", dir);
	rcu_unregister_thread();
}

static bool is_in_log(const char *words)
{
	char command[256];
	text_format(command, sizeof(command), "grep -qF '%s' %s/log", words, dir);
	return system(command) == 0;
}

/* The certificate as an order brings it, and the order's end. */
static void issue(void)
{
	sp_role_assume_control();
	struct tls_cert *tls = NULL;
	struct text why = { 0 };
	const struct store_meta meta = { .directory = (char *)URL };
	struct order *o = order_new(cert);
	ck_assert_ptr_nonnull(o);
	ck_assert_int_eq(tls_cert_from_pem(chain.data, chain.len, key.data, key.len, &tls, &why),
			 ERR_OK);
	ck_assert_int_eq(store_save_cert(&acme->store, "a.test", chain.data, key.data, &meta, &why),
			 ERR_OK);
	cert_adopt(cert, tls, URL, NULL);
	o->state = ORDER_DONE;
	manager_on_order_end(o);
	order_free(o);
}

static struct acme_cert_status shown;
static void copy_status(void *arg, const struct acme_cert_status *status)
{
	(void)arg;
	shown = *status;
}

static const struct acme_cert_status *look(void)
{
	sp_role_assume_control();
	acme_each_cert(acme, copy_status, NULL);
	return &shown;
}

/* A second more or less: the certificate begins when openssl makes it. */
static void check_near(int64_t ms, int64_t want_ms)
{
	ck_assert_int_ge(ms, want_ms - 10000);
	ck_assert_int_le(ms, want_ms + 10000);
}

/* ---- renewal ---- */
START_TEST(a_clock_set_right_moves_the_renewal)
{
	setup();
	issue();
	wrong_by_ms = -20 * 365 * DAY_MS;
	restart();
	check_near(manager_wait_ms(cert), 60 * DAY_MS - wrong_by_ms);
	ran_ms += 50 * DAY_MS;
	wrong_by_ms = 0;
	check_near(manager_wait_ms(cert), 10 * DAY_MS);
	ck_assert_int_eq(look()->renew_at_unix_s, cert->not_before_unix_s + 60 * 86400);
	ran_ms += 10 * DAY_MS - 20000;
	ck_assert_int_gt(manager_wait_ms(cert), 0);
	ran_ms += 20000;
	ck_assert_int_eq(manager_wait_ms(cert), 0);
	teardown();
}
END_TEST

/* Each new certificate is due when it comes. */
START_TEST(a_clock_ahead_makes_no_storm_of_orders)
{
	static const int64_t waits_min[] = {
		1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1440, 1440
	};
	setup();
	issue();
	ck_assert(!is_in_log("set the clock"));
	wrong_by_ms = 70 * DAY_MS;
	for (size_t i = 0; i < SP_ARRAY_LEN(waits_min); i++) {
		char words[64];
		issue();
		ck_assert_int_eq(manager_wait_ms(cert), waits_min[i] * 60000);
		text_format(words, sizeof(words), "in_a_row=%zu next_order_at=@%lld", i + 1,
			    (long long)(clock_unix_s() + waits_min[i] * 60));
		ck_assert(is_in_log(words));
		ck_assert_int_eq(look()->renew_at_unix_s, clock_unix_s() + waits_min[i] * 60);
		ran_ms += 1000; /* a restart does not begin anew */
		restart();
		ck_assert_int_eq(manager_wait_ms(cert), waits_min[i] * 60000 - 1000);
		ran_ms += waits_min[i] * 60000 - 1000;
		ck_assert_int_eq(manager_wait_ms(cert), 0);
	}
	ck_assert(is_in_log("set the clock"));
	wrong_by_ms = -ran_ms;
	ck_assert_int_gt(manager_wait_ms(cert), 59 * DAY_MS);
	issue();
	ck_assert_uint_eq(cert->rest_cnt, 0);
	run("test ! -e %s/state/certificates/a.test/retry.json", dir);
	teardown();
}
END_TEST

START_TEST(renew_by_hand_forgets_the_rest)
{
	sp_role_assume_control();
	setup();
	wrong_by_ms = 70 * DAY_MS;
	issue();
	issue();
	ck_assert_int_eq(manager_wait_ms(cert), 120000);
	ck_assert_int_eq(acme_renew(acme, "a.test"), ERR_OK);
	ck_assert_int_eq(manager_wait_ms(cert), 0);
	issue();
	ck_assert_int_eq(manager_wait_ms(cert), 60000);
	teardown();
}
END_TEST

/* ---- back-off ---- */
static const struct {
	const char *members; /* of retry.json, beside directory and failures */
	int64_t late_ms;     /* of retry_at against the clock at the next start */
	int64_t want_ms;
} wait_rows[] = {
	{ "\"kind\": 0, \"wait\": 40", 30000, 30000 },
	{ "\"kind\": 0, \"wait\": 40", 3650 * DAY_MS, 40000 },
	{ "\"kind\": 2, \"wait\": 259200", 2 * DAY_MS, 2 * DAY_MS },
	{ "\"kind\": 2, \"wait\": 999999999", 3650 * DAY_MS, 30 * DAY_MS },
	{ "\"kind\": 0, \"wait\": -5", 3650 * DAY_MS, 0 },
	/* of a version that did not write the wait */
	{ "\"kind\": 0", 3650 * DAY_MS, DAY_MS / 24 },
	{ "\"kind\": 1", 3650 * DAY_MS, DAY_MS },
	{ "\"kind\": 2", 3650 * DAY_MS, 30 * DAY_MS },
	{ "\"kind\": 1", 5000, 5000 },
	{ "\"kind\": 1", -5000, 0 },
	{ "\"kind\": 1", INT64_MAX / 2, DAY_MS },
};

START_TEST(a_wait_is_no_longer_than_it_was)
{
	setup();
	run("mkdir -p %s/state/certificates/a.test", dir);
	run("echo '{\"directory\": \"" URL "\", \"failures\": 1, \"run\": 1, \"retry_at\": %lld, "
	    "%s}' >%s/state/certificates/a.test/retry.json",
	    (long long)((clock_unix_ms() + wait_rows[_i].late_ms) / 1000), wait_rows[_i].members,
	    dir);
	restart();
	ck_assert_int_eq(manager_wait_ms(cert), wait_rows[_i].want_ms);
	if (wait_rows[_i].want_ms > 0)
		ck_assert_int_eq(look()->retry_at_unix_s,
				 clock_unix_s() + wait_rows[_i].want_ms / 1000);
	teardown();
}
END_TEST

/* Failed while the clock was ahead: the wait goes on by itself, the time that is shown follows the clock. */
START_TEST(a_failure_under_a_wrong_clock)
{
	sp_role_assume_control();
	setup();
	wrong_by_ms = 3650 * DAY_MS;
	struct order *o = order_new(cert);
	ck_assert_ptr_nonnull(o);
	failure_set(&o->failure, FAILURE_VALIDATION, ERR_ACME, "no");
	o->state = ORDER_FAILED;
	manager_on_order_end(o);
	order_free(o);
	int64_t wait_ms = manager_wait_ms(cert);
	ck_assert_int_ge(wait_ms, 54000);
	ck_assert_int_le(wait_ms, 66000);
	wrong_by_ms = 0;
	ck_assert_int_eq(manager_wait_ms(cert), wait_ms);
	check_near(1000 * (look()->retry_at_unix_s - clock_unix_s()), wait_ms);
	restart();
	ck_assert_int_le(llabs(manager_wait_ms(cert) - wait_ms), 1000);
	check_near(1000 * (look()->retry_at_unix_s - clock_unix_s()), wait_ms);
	teardown();
}
END_TEST

int main(void)
{
	if (system("command -v openssl >/dev/null 2>&1") != 0) {
		puts("1..0 # SKIP the openssl command is not installed");
		return EXIT_SUCCESS;
	}
	Suite *suite = suite_create("acme_clock");
	TCase *tc = tcase_create("clock");
	tcase_set_timeout(tc, 50);
	tcase_add_test(tc, a_clock_set_right_moves_the_renewal);
	tcase_add_test(tc, a_clock_ahead_makes_no_storm_of_orders);
	tcase_add_test(tc, renew_by_hand_forgets_the_rest);
	tcase_add_loop_test(tc, a_wait_is_no_longer_than_it_was, 0, (int)SP_ARRAY_LEN(wait_rows));
	tcase_add_test(tc, a_failure_under_a_wrong_clock);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
