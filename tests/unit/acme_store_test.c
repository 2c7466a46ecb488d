/* The state directory and the journal: what a crash, a full disk or a hand may do to them. */
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/acme/files.h"
#include "../../src/acme/journal.h"
#include "../../src/acme/store.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/rcu.h"
#include "smartproxy/tls.h"

struct pem { /* a certificate and its key, made by the openssl command */
	struct text chain, key;
};

static char dir[64];
static struct pem *pems[3]; /* of the test that runs */
static size_t pem_cnt;
static struct store store;
static const struct store_meta meta = { .directory = (char *)"https://ca.test/dir",
					.order_url = (char *)"https://ca.test/o/1" };

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

static void make_pem(struct pem *pem, const char *name)
{
	*pem = (struct pem){ 0 };
	pems[pem_cnt++] = pem;
	run("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout %s/k.pem "
	    "-out %s/c.pem -days 9 "
	    "-subj /CN=%s -addext subjectAltName=DNS:%s 2>/dev/null",
	    dir, dir, name, name);
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	ck_assert_int_eq(files_read(fd, "c.pem", &pem->chain, NULL, NULL), ERR_OK);
	ck_assert_int_eq(files_read(fd, "k.pem", &pem->key, NULL, NULL), ERR_OK);
	close(fd);
}

static void setup(void)
{
	struct text why = { 0 };
	char path[96];
	sp_role_assume_control();
	rcu_register_thread();
	text_format(dir, sizeof(dir), "/tmp/sp-store-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	text_format(path, sizeof(path), "%s/state", dir);
	ck_assert_int_eq(tls_init(), ERR_OK);
	ck_assert_int_eq(store_open(&store, path, &why), ERR_OK);
}

static void teardown(void)
{
	store_close(&store);
	for (size_t i = 0; i < pem_cnt; i++) {
		text_fini(&pems[i]->chain);
		text_fini(&pems[i]->key);
	}
	tls_fini();
	run("rm -rf %s", dir);
	rcu_unregister_thread();
}

static void save(const struct pem *pem, enum err want)
{
	struct text why = { 0 };
	ck_assert_int_eq(
		store_save_cert(&store, "a.test", pem->chain.data, pem->key.data, &meta, &why),
		want);
	ck_assert_int_eq(why.data != NULL, want != ERR_OK);
	text_fini(&why);
}

static void expect(const char *name, bool is_older)
{
	struct store_pair pair = { 0 };
	ck_assert_int_eq(store_load_cert(&store, "a.test", &pair), ERR_OK);
	ck_assert(tls_cert_has_name(pair.cert, name));
	ck_assert_int_eq(pair.is_older, is_older);
	ck_assert_str_eq(pair.meta.order_url, meta.order_url);
	store_meta_fini(&pair.meta);
	tls_cert_put(pair.cert);
}

static unsigned count(const char *folder, const char *part)
{
	char path[128];
	unsigned cnt = 0;
	text_format(path, sizeof(path), "%s/state/%s", dir, folder);
	DIR *d = opendir(path);
	for (const struct dirent *e = d != NULL ? readdir(d) : NULL; e != NULL; e = readdir(d))
		cnt += strstr(e->d_name, part) != NULL;
	if (d != NULL)
		closedir(d);
	return cnt;
}

/* ---- generations ---- */
START_TEST(saved_and_loaded)
{
	struct pem one, two, three;
	struct stat st;
	char path[128];
	setup();
	make_pem(&one, "one.test");
	make_pem(&two, "two.test");
	make_pem(&three, "three.test");
	struct store_pair pair;
	ck_assert_int_eq(store_load_cert(&store, "a.test", &pair), ERR_NOENT);
	save(&one, ERR_OK);
	expect("one.test", false);
	save(&two, ERR_OK);
	save(&three, ERR_OK);
	expect("three.test", false);
	ck_assert_uint_eq(count("certificates/a.test", "gen-"), 2);
	text_format(path, sizeof(path), "%s/state/certificates/a.test/current/privkey.pem", dir);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0600);
	text_format(path, sizeof(path), "%s/state/certificates", dir);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0700);
	teardown();
}
END_TEST

/* Killed at every step of writing a second pair: the old one or the new one is there, whole. */
static const char *const points[] = { "acme-store-key", "acme-store-chain",
				      "acme-store-before-link", "acme-store-after-link" };

START_TEST(killed_while_saving)
{
	struct pem one, two;
	int status = 0;
	setup();
	make_pem(&one, "one.test");
	make_pem(&two, "two.test");
	save(&one, ERR_OK);
	pid_t pid = fork();
	if (pid == 0) {
		setenv("SMARTPROXY_FAILPOINT", points[_i], 1);
		fault_init();
		(void)!store_save_cert(&store, "a.test", two.chain.data, two.key.data, &meta, NULL);
		_exit(0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	bool is_new = strcmp(points[_i], "acme-store-after-link") == 0;
	expect(is_new ? "two.test" : "one.test", false);
	save(&two, ERR_OK);
	expect("two.test", false);
	ck_assert_uint_eq(count("certificates/a.test", "gen-"), 2);
	teardown();
}
END_TEST

/* ---- damage ---- */
static const struct {
	const char *command; /* in the current generation of "two" */
	const char *want;    /* what is served then; NULL: nothing */
	bool has_older;
} damage_rows[] = {
	{ "rm privkey.pem", "one.test", true },
	{ "rm fullchain.pem", "one.test", true },
	{ ": > fullchain.pem", "one.test", true },
	{ "head -c 100 privkey.pem > x && mv x privkey.pem", "one.test", true },
	{ "cp ../gen-1/privkey.pem .", "one.test", true },
	{ "rm privkey.pem", NULL, false },
	{ "cp /dev/null privkey.pem", NULL, false },
};

START_TEST(damaged_pairs_are_set_aside)
{
	struct pem one, two;
	setup();
	make_pem(&one, "one.test");
	make_pem(&two, "two.test");
	save(&one, ERR_OK);
	if (damage_rows[_i].has_older)
		save(&two, ERR_OK);
	run("cd %s/state/certificates/a.test/current && { %s; }", dir, damage_rows[_i].command);
	struct store_pair pair;
	if (damage_rows[_i].want != NULL)
		expect(damage_rows[_i].want, true);
	else
		ck_assert_int_eq(store_load_cert(&store, "a.test", &pair), ERR_NOENT);
	ck_assert_uint_eq(count("certificates/a.test", ".damaged-"), 1);
	save(&two, ERR_OK);
	expect("two.test", false);
	teardown();
}
END_TEST

/* What a hand, or a copy that followed the links, put in the place of the link. */
static const struct {
	const char *
		command; /* in the certificate's folder, with gen-1 for one.test and gen-2 for two.test */
	const char *want;
	bool is_older;
} place_rows[] = {
	{ "cp -rL current x && rm current && mv x current", "two.test", false },
	{ "cp -rL current x && rm -r current gen-1 gen-2 && mv x current", "two.test", false },
	{ "rm current && mkdir current", "two.test", true },
	{ "rm current && cp -r gen-1 current && rm current/privkey.pem", "two.test", true },
};

START_TEST(a_directory_in_the_place_of_the_link)
{
	struct pem one, two;
	struct text why = { 0 };
	setup();
	make_pem(&one, "one.test");
	make_pem(&two, "two.test");
	save(&one, ERR_OK);
	save(&two, ERR_OK);
	run("cd %s/state/certificates/a.test && { %s; }", dir, place_rows[_i].command);
	expect(place_rows[_i].want, place_rows[_i].is_older);
	expect(place_rows[_i].want, false);
	run("test -L %s/state/certificates/a.test/current", dir);
	/* and while we run */
	run("cd %s/state/certificates/a.test && { %s; }", dir, "rm current && mkdir current");
	ck_assert_int_eq(store_try_cert(&store, "a.test", &why), ERR_OK);
	expect(place_rows[_i].want, true); /* after a restart */
	run("cd %s/state/certificates/a.test && { %s; }", dir, "rm current && mkdir current");
	save(&one, ERR_OK);
	expect("one.test", false);
	ck_assert_ptr_null(why.data);
	teardown();
}
END_TEST

START_TEST(a_folder_that_can_keep_nothing)
{
	struct text why = { 0 };
	setup();
	run("touch %s/state/certificates/a.test", dir);
	ck_assert_int_eq(store_try_cert(&store, "a.test", &why), ERR_STORE);
	ck_assert_ptr_nonnull(strstr(why.data, "state/certificates/a.test"));
	text_fini(&why);
	run("rm %s/state/certificates/a.test", dir);
	ck_assert_int_eq(store_try_cert(&store, "a.test", &why), ERR_OK);
	ck_assert_ptr_null(why.data);
	teardown();
}
END_TEST

START_TEST(meta_is_no_condition)
{
	struct pem one;
	struct store_pair pair = { 0 };
	setup();
	make_pem(&one, "one.test");
	save(&one, ERR_OK);
	run("echo '[' > %s/state/certificates/a.test/current/meta.json", dir);
	ck_assert_int_eq(store_load_cert(&store, "a.test", &pair), ERR_OK);
	ck_assert_ptr_null(pair.meta.order_url);
	tls_cert_put(pair.cert);
	teardown();
}
END_TEST

/* ---- a disk that refuses ---- */
static const char *const fault_rows[] = { "fsync=1", "write=1" };

START_TEST(a_refusing_disk_leaves_the_old_pair)
{
	struct pem one, two;
	struct text why = { 0 };
	setup();
	make_pem(&one, "one.test");
	make_pem(&two, "two.test");
	save(&one, ERR_OK);
	setenv("SMARTPROXY_FAULTS", fault_rows[_i], 1);
	fault_init();
	save(&two, ERR_STORE);
	ck_assert_int_eq(store_try(&store, &why), ERR_STORE);
	unsetenv("SMARTPROXY_FAULTS");
	fault_init();
	fault_is_on = false;
	expect("one.test", false);
	ck_assert_int_eq(store_try(&store, NULL), ERR_OK);
	ck_assert_uint_eq(count("", ".trial"), 0);
	ck_assert_uint_eq(count("certificates/a.test", "gen-"), 1);
	text_fini(&why);
	teardown();
}
END_TEST

/* ---- the lock ---- */
START_TEST(a_second_instance_is_told_who_holds_it)
{
	struct store other;
	struct text why = { 0 };
	char pid[32], path[96];
	setup();
	text_format(path, sizeof(path), "%s/state", dir);
	text_format(pid, sizeof(pid), "(pid %ld)", (long)getpid());
	ck_assert_int_eq(store_open(&other, path, &why), ERR_LOCKED);
	ck_assert_ptr_nonnull(strstr(why.data, pid));
	ck_assert_ptr_nonnull(strstr(why.data, path));
	text_fini(&why);
	store_close(&store);
	ck_assert_int_eq(store_open(&store, path, &why), ERR_OK);
	teardown();
}
END_TEST

/* ---- names ---- */
static const struct {
	const char *names[3];
	size_t cnt;
	enum tls_key_type type;
	const char *want; /* a '+' at its end: a digest follows */
} name_rows[] = {
	{ { "a.example" }, 1, TLS_KEY_P256, "a.example" },
	{ { "a.example" }, 1, TLS_KEY_P384, "a.example+" },
	{ { "a.example", "b.example" }, 2, TLS_KEY_P256, "a.example+" },
	{ { "2001:db8::1" }, 1, TLS_KEY_P256, "2001_db8__1+" },
	{ { "../../etc" }, 1, TLS_KEY_P256, "_._.._etc+" },
};

START_TEST(folder_names)
{
	char name[STORE_NAME_MAX], want[64];
	store_cert_name(name, name_rows[_i].names, name_rows[_i].cnt, name_rows[_i].type);
	text_format(want, sizeof(want), "%s", name_rows[_i].want);
	size_t len = strlen(want);
	if (want[len - 1] == '+') {
		ck_assert_uint_eq(strlen(name), len + 8);
		name[len] = 0;
	}
	ck_assert_ptr_null(strchr(name, '/'));
	ck_assert_int_ne(name[0], '.');
	if (strchr(name_rows[_i].names[0], '/') == NULL)
		ck_assert_str_eq(name, want);
}
END_TEST

/* ---- journal ---- */
static struct journal_order *write_journal(struct journal *journal)
{
	static char *names[] = { (char *)"a.test", (char *)"b.test" };
	struct journal_order plan = { .directory = (char *)"https://ca.test/dir",
				      .names = names,
				      .name_cnt = 2 };
	struct journal_challenge challenges[] = {
		{ (char *)"a.test", (char *)"https://ca.test/z/1", (char *)"https://ca.test/c/1",
		  (char *)"token-1", false },
		{ (char *)"b.test", (char *)"https://ca.test/z/2", (char *)"https://ca.test/c/2",
		  (char *)"token-2", false },
	};
	struct tls_key *key = NULL;
	struct text pem = { 0 };
	struct journal_order *got = NULL;
	ck_assert_int_eq(tls_key_generate(TLS_KEY_P256, &key), ERR_OK);
	ck_assert_int_eq(tls_key_to_pem(key, &pem), ERR_OK);
	ck_assert_int_eq(journal_begin(journal, &store, "a.test", &plan, pem.data, NULL), ERR_OK);
	ck_assert_int_eq(
		journal_add_order(journal, "https://ca.test/o/1", "https://ca.test/f/1", NULL),
		ERR_OK);
	ck_assert_int_eq(journal_add_challenges(journal, challenges, 2, NULL), ERR_OK);
	journal_add_triggered(journal, "token-2");
	ck_assert_int_eq(journal_load(&store, "a.test", &got), ERR_OK);
	tls_key_free(key);
	files_wipe(&pem);
	return got;
}

START_TEST(journal_says_what_was_written)
{
	struct journal journal = { 0 };
	setup();
	struct journal_order *o = write_journal(&journal);
	ck_assert_str_eq(o->file_name, "a.test");
	ck_assert_str_eq(o->directory, "https://ca.test/dir");
	ck_assert_uint_eq(o->name_cnt, 2);
	ck_assert_str_eq(o->names[1], "b.test");
	ck_assert_ptr_nonnull(o->key);
	ck_assert_str_eq(o->url, "https://ca.test/o/1");
	ck_assert_str_eq(o->finalize_url, "https://ca.test/f/1");
	ck_assert_uint_eq(o->challenge_cnt, 2);
	ck_assert(!o->challenges[0].is_triggered && o->challenges[1].is_triggered);
	ck_assert_str_eq(o->challenges[1].token, "token-2");
	ck_assert(!o->has_finalize && !o->has_chain);
	journal_order_free(o);
	journal_close(&journal);
	journal_drop(&store, "a.test");
	ck_assert_int_eq(journal_load(&store, "a.test", &o), ERR_NOENT);
	teardown();
}
END_TEST

START_TEST(journal_that_cannot_be_made_says_why)
{
	static char *names[] = { (char *)"a.test" };
	const struct journal_order plan = { .directory = (char *)"https://ca.test/dir",
					    .names = names,
					    .name_cnt = 1 };
	struct journal journal = { 0 };
	struct text why = { 0 };
	setup();
	ck_assert_int_eq(mkdirat(store.orders_fd, "a.test.journal", 0700), 0);
	ck_assert_int_eq(journal_begin(&journal, &store, "a.test", &plan, "", &why), ERR_STORE);
	ck_assert_ptr_nonnull(strstr(why.data, "/orders/a.test.journal: Is a directory"));
	ck_assert_int_eq(unlinkat(store.orders_fd, "a.test.journal", AT_REMOVEDIR), 0);
	text_fini(&why);
	teardown();
}
END_TEST

/* A crash cuts the file anywhere: what was whole before the cut counts, and the journal can go on.
 */
START_TEST(journal_cut_at_every_byte)
{
	struct journal journal = { 0 };
	struct text whole = { 0 };
	setup();
	journal_order_free(write_journal(&journal));
	journal_close(&journal);
	ck_assert_int_eq(files_read(store.orders_fd, "a.test.journal", &whole, NULL, NULL), ERR_OK);
	size_t plan_len = (size_t)(strchr(whole.data, '\n') - whole.data) + 1;
	for (size_t len = 0; len < whole.len; len++) {
		struct journal_order *o = NULL;
		enum err e = journal_parse(whole.data, len, &o);
		ck_assert_int_eq(e, len < plan_len ? ERR_NOENT : ERR_OK);
		journal_order_free(o);
	}
	int fd = openat(store.orders_fd, "a.test.journal", O_WRONLY);
	ck_assert_int_eq(ftruncate(fd, (off_t)whole.len - 5), 0);
	close(fd);
	ck_assert_int_eq(journal_reopen(&journal, &store, "a.test"), ERR_OK);
	ck_assert_int_eq(journal_add_mark(&journal, "finalize", NULL), ERR_OK);
	struct journal_order *o = NULL;
	ck_assert_int_eq(journal_load(&store, "a.test", &o), ERR_OK);
	ck_assert(o->has_finalize && !o->challenges[1].is_triggered);
	journal_order_free(o);
	journal_close(&journal);
	files_wipe(&whole);
	teardown();
}
END_TEST

static const char *const bad_journals[] = {
	"x\n",
	"[]\n",
	"{}\n",
	"{\"step\":\"plan\"}\n",
	"{\"step\":\"order\",\"url\":\"u\"}\nx\n",
	"{\"step\":\"plan\",\"directory\":\"d\",\"names\":[1],\"key_type\":\"p256\",\"key\":\"k\"}"
	"\n",
	"{\"step\":\"plan\",\"directory\":\"d\",\"names\":[\"a\"],\"key_type\":\"p256\",\"key\":"
	"\"k\"}\n",
};

static void keep(void *arg, struct journal_order *order)
{
	++*(unsigned *)arg;
	journal_order_free(order);
}

START_TEST(damaged_journals_are_set_aside)
{
	struct journal journal = { 0 };
	unsigned cnt = 0;
	setup();
	ck_assert_int_eq(files_create(store.orders_fd, "bad.journal", bad_journals[_i],
				      strlen(bad_journals[_i]), NULL),
			 ERR_OK);
	ck_assert_int_eq(files_create(store.orders_fd, "cut.journal", "{\"step\":", 8, NULL),
			 ERR_OK);
	journal_order_free(write_journal(&journal));
	journal_close(&journal);
	journal_each(&store, keep, &cnt);
	ck_assert_uint_eq(cnt, 1);
	ck_assert_uint_eq(count("orders", "bad.journal.damaged-"), 1);
	ck_assert_uint_eq(count("orders", "cut"), 0);
	teardown();
}
END_TEST

/* A write that fails leaves the journal as it was, and the next line whole. */
START_TEST(journal_on_a_full_disk)
{
	struct journal journal = { 0 };
	setup();
	journal_order_free(write_journal(&journal));
	setenv("SMARTPROXY_FAULTS", "fsync=1", 1);
	fault_init();
	ck_assert_int_eq(journal_add_order(&journal, "https://ca.test/o/2", NULL, NULL), ERR_STORE);
	unsetenv("SMARTPROXY_FAULTS");
	fault_is_on = false;
	ck_assert_int_eq(journal_add_mark(&journal, "issued", NULL), ERR_OK);
	struct journal_order *o = NULL;
	ck_assert_int_eq(journal_load(&store, "a.test", &o), ERR_OK);
	ck_assert(o->has_chain);
	ck_assert_str_eq(o->url, "https://ca.test/o/1");
	journal_order_free(o);
	journal_close(&journal);
	teardown();
}
END_TEST

int main(void)
{
	if (system("command -v openssl >/dev/null 2>&1") != 0) {
		puts("1..0 # SKIP the openssl command is not installed");
		return EXIT_SUCCESS;
	}
	Suite *suite = suite_create("acme_store");
	TCase *tc = tcase_create("store");
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, saved_and_loaded);
	tcase_add_loop_test(tc, killed_while_saving, 0, (int)SP_ARRAY_LEN(points));
	tcase_add_loop_test(tc, damaged_pairs_are_set_aside, 0, (int)SP_ARRAY_LEN(damage_rows));
	tcase_add_loop_test(tc, a_directory_in_the_place_of_the_link, 0,
			    (int)SP_ARRAY_LEN(place_rows));
	tcase_add_test(tc, a_folder_that_can_keep_nothing);
	tcase_add_test(tc, meta_is_no_condition);
	tcase_add_loop_test(tc, a_refusing_disk_leaves_the_old_pair, 0,
			    (int)SP_ARRAY_LEN(fault_rows));
	tcase_add_test(tc, a_second_instance_is_told_who_holds_it);
	tcase_add_loop_test(tc, folder_names, 0, (int)SP_ARRAY_LEN(name_rows));
	tcase_add_test(tc, journal_says_what_was_written);
	tcase_add_test(tc, journal_that_cannot_be_made_says_why);
	tcase_add_test(tc, journal_cut_at_every_byte);
	tcase_add_loop_test(tc, damaged_journals_are_set_aside, 0, (int)SP_ARRAY_LEN(bad_journals));
	tcase_add_test(tc, journal_on_a_full_disk);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
