#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/thread.h"
#include "tls_pair.h"

/* ---- slots ---- */

START_TEST(slots_by_identity)
{
	start();
	sp_role_assume_control();
	enum { CNT = 1000 };
	struct tls_slots *slots = NULL;
	struct tls_slot *all[CNT], *again = NULL;
	char identity[32];
	ck_assert_int_eq(tls_slots_new(&slots), ERR_OK);
	for (int i = 0; i < CNT; i++) {
		(void)text_format(identity, sizeof(identity), "auto:%d", i);
		ck_assert_int_eq(tls_slot_get(slots, identity, &all[i]), ERR_OK);
		ck_assert_str_eq(tls_slot_identity(all[i]), identity);
		ck_assert_ptr_null(tls_slot_current(all[i]));
	}
	for (int i = 0; i < CNT; i++) {
		(void)text_format(identity, sizeof(identity), "auto:%d", i);
		ck_assert_int_eq(tls_slot_get(slots, identity, &again), ERR_OK);
		ck_assert_ptr_eq(again, all[i]);
		ck_assert(i == 0 || tls_slot_hash(all[i]) != tls_slot_hash(all[0]));
		tls_slot_put(again);
	}
	for (int i = 0; i < CNT; i++)
		tls_slot_put(all[i]);
	tls_slots_free(slots);
	finish();
}
END_TEST

/* One certificate in two slots, taken out of both and put in again while callbacks are under way.
 */
START_TEST(certificate_in_two_slots)
{
	start();
	sp_role_assume_control();
	static const char *const names[] = { "a.example" };
	struct tls_slots *slots = NULL;
	struct tls_slot *a = NULL, *b = NULL;
	struct tls_cert *cert = NULL;
	ck_assert_int_eq(tls_slots_new(&slots), ERR_OK);
	ck_assert_int_eq(tls_slot_get(slots, "a", &a), ERR_OK);
	ck_assert_int_eq(tls_slot_get(slots, "b", &b), ERR_OK);
	ck_assert_int_eq(tls_cert_self_signed(names, 1, &cert), ERR_OK);
	for (int i = 0; i < 20; i++) {
		tls_cert_get(cert);
		tls_slot_install(a, cert);
		tls_cert_get(cert);
		tls_slot_install(b, cert);
		ck_assert_ptr_eq(tls_slot_current(a), cert);
		tls_slot_install(a, NULL);
		tls_slot_install(b, NULL);
		ck_assert_ptr_null(tls_slot_current(a));
	}
	sp_rcu_drain();
	ck_assert(tls_cert_has_name(cert, "a.example"));
	tls_cert_put(cert);
	tls_slot_put(a);
	tls_slot_put(b);
	tls_slots_free(slots);
	finish();
}
END_TEST

struct swap_test {
	struct tls_slot *slot;
	_Atomic bool must_stop; /* relaxed */
	int reader_cnt;
};

static void shake_hands(void *arg)
{
	struct swap_test *t = arg;
	struct pair p = { 0 };
	ck_assert_int_eq(tls_worker_new(&defaults, &p.worker), ERR_OK);
	while (!atomic_load_explicit(&t->must_stop, memory_order_relaxed)) {
		sp_rcu_enter();
		p.cert = tls_slot_cert_get(t->slot);
		sp_rcu_leave();
		ck_assert_ptr_nonnull(p.cert);
		pair_open(&p, &defaults, t->reader_cnt % 2 == 0 ? TLS1_2_VERSION : TLS1_3_VERSION,
			  tls_slot_hash(t->slot));
		pair_handshake(&p);
		ck_assert_int_eq(p.step, STEP_DONE);
		pair_echo(&p);
		pair_close(&p);
		tls_cert_put(p.cert);
		t->reader_cnt++;
	}
	SSL_CTX_free(p.ctx);
	tls_worker_free(p.worker);
}

/* Nothing but taking and giving back: the window between a load and a count is hit often. */
static void take_and_give_back(void *arg)
{
	struct swap_test *t = arg;
	while (!atomic_load_explicit(&t->must_stop, memory_order_relaxed)) {
		sp_rcu_enter();
		struct tls_cert *cert = tls_slot_cert_get(t->slot);
		sp_rcu_leave();
		t->reader_cnt += tls_cert_info(cert)->is_placeholder;
		tls_cert_put(cert);
	}
}

static void (*const bodies[])(void *) = { shake_hands, take_and_give_back };

START_TEST(slot_swap_under_readers)
{
	start();
	sp_role_assume_control();
	static const char *const names[] = { "a.example" };
	struct tls_slots *slots = NULL;
	struct swap_test tests[2] = { { 0 } };
	struct thread *threads[2];
	struct tls_slot *slot = NULL;
	struct tls_cert *cert = NULL;
	ck_assert_int_eq(tls_slots_new(&slots), ERR_OK);
	ck_assert_int_eq(tls_slot_get(slots, "auto:a", &slot), ERR_OK);
	ck_assert_int_eq(tls_cert_self_signed(names, 1, &cert), ERR_OK);
	tls_slot_install(slot, cert);
	for (int i = 0; i < 2; i++) {
		tests[i].slot = slot;
		ck_assert_int_eq(thread_start("reader", bodies[_i], &tests[i], &threads[i]),
				 ERR_OK);
	}
	int64_t end_ms = clock_now_ms() + 1500;
	while (clock_now_ms() < end_ms) {
		ck_assert_int_eq(tls_cert_self_signed(names, 1, &cert), ERR_OK);
		tls_slot_install(slot, cert);
		ck_assert_int_eq(tls_tickets_rotate(), ERR_OK);
	}
	for (int i = 0; i < 2; i++) {
		atomic_store_explicit(&tests[i].must_stop, true, memory_order_relaxed);
		thread_join(threads[i]);
		ck_assert_int_gt(tests[i].reader_cnt, 0);
	}
	tls_slot_put(slot);
	tls_slots_free(slots);
	finish();
}
END_TEST

/* ---- certificates ---- */

START_TEST(info_of_a_chain)
{
	start();
	struct made root =
		make_cert(EVP_EC_gen("P-256"), "Test CA \"X1\" \xc3\xa9", NULL, NULL, 90);
	struct made leaf =
		make_cert(EVP_RSA_gen(2048), "ignored",
			  "DNS:B.example,DNS:*.c.example,IP:192.0.2.7,IP:2001:db8::7", &root, 60);
	const struct made chain[] = { leaf, root };
	struct tls_cert *cert = load(chain, 2);
	const struct tls_cert_info *info = tls_cert_info(cert);
	int64_t now_unix_s = clock_unix_s();
	ck_assert_str_eq(info->issuer, "Test CA \\x22X1\\x22 \\xc3\\xa9 (Test Org)");
	ck_assert_str_eq(info->subject, "b.example");
	ck_assert_str_eq(info->serial_hex, "abcd");
	ck_assert_str_eq(info->key_type, "rsa2048");
	ck_assert(!info->is_placeholder);
	ck_assert_int_le(llabs(info->not_after_unix_s - (now_unix_s + 60LL * 86400)), 5);
	ck_assert_int_le(llabs(info->not_before_unix_s - (now_unix_s - 86400)), 5);
	ck_assert_uint_eq(info->name_cnt, 4);
	ck_assert_str_eq(info->names[1], "*.c.example");
	ck_assert_str_eq(info->names[2], "192.0.2.7");
	ck_assert_str_eq(info->names[3], "2001:db8::7");
	tls_cert_put(cert);
	made_fini(&leaf);
	made_fini(&root);
	finish();
}
END_TEST

START_TEST(placeholder)
{
	start();
	static const char *const names[] = { "a.example", "**.b.example", "*.c.example",
					     "192.0.2.1" };
	struct tls_cert *cert = NULL;
	ck_assert_int_eq(tls_cert_self_signed(names, SP_ARRAY_LEN(names), &cert), ERR_OK);
	const struct tls_cert_info *info = tls_cert_info(cert);
	ck_assert(info->is_placeholder);
	ck_assert_uint_eq(info->name_cnt, 3);
	ck_assert_str_eq(info->issuer, "SmartProxy placeholder");
	ck_assert_str_eq(info->key_type, "p256");
	ck_assert_int_le(llabs(info->not_after_unix_s - (clock_unix_s() + 7 * 86400LL)), 5);
	ck_assert(tls_cert_has_name(cert, "192.0.2.1"));
	tls_cert_put(cert);
	ck_assert_int_eq(tls_cert_self_signed(NULL, 0, &cert), ERR_OK);
	ck_assert_uint_eq(tls_cert_info(cert)->name_cnt, 0);
	tls_cert_put(cert);
	finish();
}
END_TEST

static const struct {
	const char *san, *name;
	bool want;
} matches[] = {
	{ "DNS:a.example", "a.example", true },
	{ "DNS:A.Example", "a.example", true },
	{ "DNS:a.example", "b.example", false },
	{ "DNS:a.example", "x.a.example", false },
	{ "DNS:a.example", "example", false },
	{ "DNS:b.example,DNS:a.example", "a.example", true },
	/* RFC 6125, 6.4.3: one whole label, the first */
	{ "DNS:*.a.example", "x.a.example", true },
	{ "DNS:*.a.example", "a.example", false },
	{ "DNS:*.a.example", "y.x.a.example", false },
	{ "DNS:*.a.example", ".a.example", false },
	{ "DNS:x*.a.example", "xy.a.example", false },
	{ "DNS:x.*.example", "x.a.example", false },
	{ "DNS:*.a.example", "*.a.example", true },
	{ "DNS:*", "a", false },
	{ "DNS:*.0.2.1", "192.0.2.1", false },
	{ "IP:192.0.2.1", "192.0.2.1", true },
	{ "IP:192.0.2.1", "192.0.2.2", false },
	{ "DNS:192.0.2.1", "192.0.2.9", false },
	{ "IP:2001:db8::1", "2001:db8:0:0:0:0:0:1", true },
	{ "email:a@a.example", "a.example", false },
	{ NULL, "cn.example", false }, /* RFC 6125, 6.4.4: no CN where names could be SANs */
};

START_TEST(names_match)
{
	start();
	struct made made = make_cert(EVP_EC_gen("P-256"), "cn.example", matches[_i].san, NULL, 30);
	struct tls_cert *cert = load(&made, 1);
	ck_assert_int_eq(tls_cert_has_name(cert, matches[_i].name), matches[_i].want);
	tls_cert_put(cert);
	made_fini(&made);
	finish();
}
END_TEST

enum part {
	LEAF,
	SUB,
	ROOT,
	KEY_OF_LEAF,
	KEY_OF_SUB,
	KEY_WEAK,
	WEAK,
	KEY_521,
	P521,
	JUNK,
	CUT,
	NONE
};

static const struct {
	enum part chain[4]; /* up to NONE */
	enum part key;
	enum err want;
	const char *sentence;
} loads[] = {
	{ { LEAF, SUB, ROOT, NONE }, KEY_OF_LEAF, ERR_OK, "" },
	{ { LEAF, NONE }, KEY_OF_LEAF, ERR_OK, "" },
	{ { JUNK, LEAF, KEY_OF_LEAF, NONE }, KEY_OF_LEAF, ERR_OK, "" },
	{ { NONE }, KEY_OF_LEAF, ERR_SYNTAX, "the chain: no certificate in it" },
	{ { JUNK, NONE }, KEY_OF_LEAF, ERR_SYNTAX, "the chain: no certificate in it" },
	{ { LEAF, CUT, NONE }, KEY_OF_LEAF, ERR_SYNTAX, "the chain: certificate 2 cannot be read" },
	{ { LEAF, NONE }, NONE, ERR_SYNTAX, "the key: no private key that can be read" },
	{ { LEAF, NONE }, LEAF, ERR_SYNTAX, "the key: no private key that can be read" },
	{ { LEAF, SUB, NONE }, KEY_WEAK, ERR_TLS, "RSA key of 1024 bits" },
	{ { WEAK, NONE }, KEY_WEAK, ERR_TLS, "RSA key of 1024 bits" },
	{ { P521, NONE }, KEY_521, ERR_TLS, "key type secp521r1 is not supported" },
	{ { SUB, ROOT, NONE },
	  KEY_OF_LEAF,
	  ERR_KEY_MISMATCH,
	  "the private key does not belong to" },
	{ { SUB, LEAF, NONE },
	  KEY_OF_LEAF,
	  ERR_KEY_MISMATCH,
	  "belongs to certificate 2; put that one first" },
	{ { LEAF, ROOT, SUB, NONE },
	  KEY_OF_LEAF,
	  ERR_SYNTAX,
	  "wrong order: certificate 1 was issued by \"Sub\", but certificate 2 is \"Root (Test "
	  "Org)\"" },
};

START_TEST(bad_chain_is_explained)
{
	start();
	struct made root = make_cert(EVP_EC_gen("P-256"), "Root", NULL, NULL, 30);
	struct made sub = make_cert(EVP_EC_gen("P-256"), "Sub", NULL, &root, 30);
	struct made leaf = make_cert(EVP_EC_gen("P-256"), "leaf", "DNS:a.example", &sub, 30);
	struct made weak = make_cert(EVP_RSA_gen(1024), "weak", "DNS:a.example", NULL, 30);
	struct made p521 = make_cert(EVP_EC_gen("P-521"), "p521", "DNS:a.example", NULL, 30);
	struct text parts[NONE + 1] = { 0 }, chain = { 0 }, why = { 0 };
	struct tls_cert *cert = NULL;
	add_pem(&parts[LEAF], &leaf, false);
	add_pem(&parts[SUB], &sub, false);
	add_pem(&parts[ROOT], &root, false);
	add_pem(&parts[WEAK], &weak, false);
	add_pem(&parts[P521], &p521, false);
	add_pem(&parts[KEY_OF_LEAF], &leaf, true);
	add_pem(&parts[KEY_OF_SUB], &sub, true);
	add_pem(&parts[KEY_WEAK], &weak, true);
	add_pem(&parts[KEY_521], &p521, true);
	text_puts(&parts[JUNK],
		  "some words\n-----BEGIN NOTHING-----\nAAAA\n-----END NOTHING-----\n");
	text_add(&parts[CUT], parts[SUB].data, parts[SUB].len - 40);
	for (int i = 0; loads[_i].chain[i] != NONE; i++)
		text_add(&chain, parts[loads[_i].chain[i]].data, parts[loads[_i].chain[i]].len);
	ck_assert_int_eq(parse(&chain, &parts[loads[_i].key], &cert, &why), loads[_i].want);
	ck_assert_int_eq(cert == NULL, loads[_i].want != ERR_OK);
	ck_assert_msg(strstr(why.data == NULL ? "" : why.data, loads[_i].sentence) != NULL,
		      "got: %s", why.data == NULL ? "" : why.data);
	tls_cert_put(cert);
	for (int i = 0; i <= NONE; i++)
		text_fini(&parts[i]);
	text_fini(&chain);
	text_fini(&why);
	made_fini(&root);
	made_fini(&sub);
	made_fini(&leaf);
	made_fini(&weak);
	made_fini(&p521);
	finish();
}
END_TEST

/* ---- files ---- */

static void write_file(const char *path, const struct text *content, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, content->data, content->len), (ssize_t)content->len);
	ck_assert_int_eq(fchmod(fd, mode), 0);
	close(fd);
}

/* What runs between the two calls logs to a file; the end of it comes back. */
static int log_to_file(const char *path)
{
	int saved = dup(STDERR_FILENO);
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ck_assert_int_ge(dup2(fd, STDERR_FILENO), 0);
	close(fd);
	return saved;
}

static void read_log(int saved, char *dst, size_t cap)
{
	ck_assert_int_ge(lseek(STDERR_FILENO, 0, SEEK_SET), 0);
	ssize_t n = read(STDERR_FILENO, dst, cap - 1);
	ck_assert_int_ge(n, 0);
	dst[n] = '\0';
	ck_assert_int_ge(dup2(saved, STDERR_FILENO), 0);
	close(saved);
}

static const struct {
	mode_t mode;
	int days;
	const char *want; /* in the log; NULL: silence */
} files[] = {
	{ 0600, 30, NULL },
	{ 0400, 30, NULL },
	{ 0640, 30, "mode=0640" },
	{ 0644, 30, "mode=0644" },
	{ 0600, 0, "certificate has expired" },
};

START_TEST(files_are_loaded_and_warned_of)
{
	start();
	char dir[] = "/tmp/tls_test.XXXXXX", chain_file[64], key_file[64], log_file[64], log[1024];
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)text_format(chain_file, sizeof(chain_file), "%s/c.pem", dir);
	(void)text_format(key_file, sizeof(key_file), "%s/k.pem", dir);
	(void)text_format(log_file, sizeof(log_file), "%s/log", dir);
	struct made made =
		make_cert(EVP_EC_gen("P-256"), "a", "DNS:a.example", NULL, files[_i].days);
	if (files[_i].days == 0) {
		X509_gmtime_adj(X509_getm_notAfter(made.x509), -60);
		X509_sign(made.x509, made.pkey, EVP_sha256());
	}
	struct text chain = { 0 }, key = { 0 }, why = { 0 };
	struct tls_cert *cert = NULL;
	add_pem(&chain, &made, false);
	add_pem(&key, &made, true);
	write_file(chain_file, &chain, 0644);
	write_file(key_file, &key, files[_i].mode);
	int saved = log_to_file(log_file);
	enum err e = tls_cert_from_files(chain_file, key_file, NULL, &cert, &why);
	read_log(saved, log, sizeof(log));
	ck_assert_int_eq(e, ERR_OK);
	ck_assert_ptr_null(why.data);
	if (files[_i].want == NULL)
		ck_assert_str_eq(log, "");
	else
		ck_assert_msg(strstr(log, files[_i].want) != NULL && strstr(log, dir) != NULL,
			      "log: %s", log);
	tls_cert_put(cert);
	unlink(chain_file);
	unlink(key_file);
	unlink(log_file);
	rmdir(dir);
	text_fini(&chain);
	text_fini(&key);
	made_fini(&made);
	finish();
}
END_TEST

/* Loads the two files beside what the slot has; the slot gets what was loaded. */
static struct tls_cert *load_into(struct tls_slot *slot, const char *chain_file,
				  const char *key_file) SP_ON_CONTROL;
static struct tls_cert *load_into(struct tls_slot *slot, const char *chain_file,
				  const char *key_file)
{
	struct tls_cert *cert = NULL;
	ck_assert_int_eq(
		tls_cert_from_files(chain_file, key_file, tls_slot_current(slot), &cert, NULL),
		ERR_OK);
	if (cert == tls_slot_current(slot))
		tls_cert_put(cert);
	else
		tls_slot_install(slot, cert);
	return cert;
}

START_TEST(files_with_the_same_bytes_are_the_same_certificate)
{
	start();
	sp_role_assume_control();
	char dir[] = "/tmp/tls_test.XXXXXX", chain_file[64], key_file[64];
	ck_assert_ptr_nonnull(mkdtemp(dir));
	(void)text_format(chain_file, sizeof(chain_file), "%s/c.pem", dir);
	(void)text_format(key_file, sizeof(key_file), "%s/k.pem", dir);
	struct made made = make_cert(EVP_EC_gen("P-256"), "a", "DNS:a.example", NULL, 90);
	struct text chain = { 0 }, key = { 0 };
	struct tls_slots *slots = NULL;
	struct tls_slot *slot = NULL;
	add_pem(&chain, &made, false);
	add_pem(&key, &made, true);
	write_file(chain_file, &chain, 0644);
	write_file(key_file, &key, 0600);
	ck_assert_int_eq(tls_slots_new(&slots), ERR_OK);
	ck_assert_int_eq(tls_slot_get(slots, "a", &slot), ERR_OK);
	struct tls_cert *first = load_into(slot, chain_file, key_file);
	ck_assert_ptr_eq(load_into(slot, chain_file, key_file), first);
	text_printf(&key, "\n"); /* the same key, in another file */
	write_file(key_file, &key, 0600);
	tls_cert_get(first); /* its address is not used again */
	struct tls_cert *second = load_into(slot, chain_file, key_file);
	ck_assert_ptr_ne(second, first);
	tls_cert_put(first);
	text_printf(&chain, "\n");
	write_file(chain_file, &chain, 0644);
	tls_cert_get(second);
	ck_assert_ptr_ne(load_into(slot, chain_file, key_file), second);
	tls_cert_put(second);
	/* One that did not come from files is none of theirs. */
	static const char *const names[] = { "a.example" };
	struct tls_cert *placeholder = NULL;
	ck_assert_int_eq(tls_cert_self_signed(names, 1, &placeholder), ERR_OK);
	tls_slot_install(slot, placeholder);
	ck_assert(!tls_cert_info(load_into(slot, chain_file, key_file))->is_placeholder);
	tls_slot_put(slot);
	tls_slots_free(slots);
	sp_rcu_drain();
	unlink(chain_file);
	unlink(key_file);
	rmdir(dir);
	text_fini(&chain);
	text_fini(&key);
	made_fini(&made);
	finish();
}
END_TEST

static const struct {
	const char *file;
	enum err want;
	const char *sentence;
} bad_files[] = {
	{ "/nonexistent/c.pem", ERR_NOENT,
	  "cannot open /nonexistent/c.pem: No such file or directory" },
	{ "/dev/null", ERR_INVALID, "/dev/null is not a regular file" },
	{ "/proc/self/mem", ERR_SYNTAX, "/proc/self/mem: no certificate in it" },
};

START_TEST(bad_file_is_explained)
{
	start();
	struct text why = { 0 };
	struct tls_cert *cert = NULL;
	enum err e = tls_cert_from_files(bad_files[_i].file, bad_files[_i].file, NULL, &cert, &why);
	ck_assert_int_eq(e, bad_files[_i].want);
	ck_assert_ptr_nonnull(strstr(why.data, bad_files[_i].sentence));
	text_fini(&why);
	finish();
}
END_TEST

static TCase *cert_tests(void)
{
	TCase *tc = tcase_create("cert");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, slots_by_identity);
	tcase_add_test(tc, certificate_in_two_slots);
	tcase_add_loop_test(tc, slot_swap_under_readers, 0, SP_ARRAY_LEN(bodies));
	tcase_add_test(tc, info_of_a_chain);
	tcase_add_test(tc, placeholder);
	tcase_add_loop_test(tc, names_match, 0, SP_ARRAY_LEN(matches));
	tcase_add_loop_test(tc, bad_chain_is_explained, 0, SP_ARRAY_LEN(loads));
	tcase_add_loop_test(tc, files_are_loaded_and_warned_of, 0, SP_ARRAY_LEN(files));
	tcase_add_test(tc, files_with_the_same_bytes_are_the_same_certificate);
	tcase_add_loop_test(tc, bad_file_is_explained, 0, SP_ARRAY_LEN(bad_files));
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("tls_cert");
	suite_add_tcase(suite, cert_tests());
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
