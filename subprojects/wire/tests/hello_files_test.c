/* What clients really send, each saved from its first bytes on a connection to loopback: hellos/NAME.bin. */
#include <dirent.h>

#include "hellos.h"

/* The client and how it was asked stand behind its row. */
static const struct {
	const char *name, *text;
} files[] = {
	/* Caddy 2.6 (Go), reverse_proxy to https */
	{ "caddy", "0303 sni=www.example.com 1.2 1.3 h2 http/1.1" },
	/* GREASE everywhere, ECH of its own making, a post-quantum key: more than one segment */
	{ "chromium", "0303 sni=www.example.com 1.2 1.3 ech h2 http/1.1" },
	{ "chromium_ip", "0303 sni= 1.2 1.3 ech h2 http/1.1" },
	{ "curl_h2", "0303 sni=www.example.com 1.2 1.3 h2 http/1.1" },
	{ "curl_http11", "0303 sni=www.example.com 1.2 1.3 http/1.1" },
	{ "curl_ip", "0303 sni= 1.2 1.3 h2 http/1.1" },
	{ "gnutls", "0303 sni=www.example.com 1.2 1.3 h2 http/1.1" },  /* gnutls-cli */
	{ "haproxy", "0303 sni=www.example.com 1.2 1.3 h2 http/1.1" }, /* server ... ssl */
	{ "java", "0303 sni= 1.2 1.3" }, /* keytool; no SNI for a name of one label */
	{ "java_name", "0303 sni=www.example.com 1.2 1.3" },
	{ "nginx", "0303 sni=www.example.com 1.2" },   /* proxy_pass, its defaults */
	{ "nss", "0303 sni=www.example.com 1.2 1.3" }, /* tstclnt */
	{ "nss_ech_grease", "0303 sni=www.example.com 1.2 1.3 ech" },
	{ "nss_no_name", "0303 sni= 1.2 1.3" },
	{ "openssl_default", "0303 sni=www.example.com 1.2 1.3" }, /* s_client */
	{ "openssl_no_name", "0303 sni= 1.2 1.3" },
	{ "openssl_seven_groups", "0303 sni=www.example.com 1.2 1.3" },
	{ "openssl_tls10", "0301 sni=www.example.com" },
	{ "openssl_tls11", "0302 sni=www.example.com" },
	{ "openssl_tls12", "0303 sni=www.example.com 1.2 http/1.1" },
	{ "openssl_tls13", "0303 sni=www.example.com 1.3 h2 http/1.1" },
	{ "python", "0303 sni=www.example.com 1.2 1.3 http/1.1" },
	{ "wget", "0303 sni=localhost 1.2 1.3" }, /* GnuTLS */
};

static void read_file(const char *name, struct bytes *b)
{
	char path[1024];
	snprintf(path, sizeof(path), "%s/%s.bin", WIRE_HELLOS, name);
	FILE *file = fopen(path, "rb");
	ck_assert_msg(file != NULL, "%s", path);
	b->len = fread(b->at, 1, sizeof(b->at), file);
	fclose(file);
	ck_assert_uint_gt(b->len, 0);
}

/* The message without its records. */
static void unwrap(const struct bytes *b, struct bytes *message)
{
	message->len = 0;
	for (size_t at = 0; at < b->len;) {
		size_t len = (size_t)b->at[at + 3] << 8 | b->at[at + 4];
		put_text(message, (const char *)b->at + at + 5, len);
		at += 5 + len;
	}
}

START_TEST(parses_as_sent)
{
	static struct bytes b;
	read_file(files[_i].name, &b);
	check_all_cuts(files[_i].name, &b, b.len, WIRE_HELLO_OK, files[_i].text);
}
END_TEST

START_TEST(parses_over_records)
{
	static const struct {
		size_t first_len, record_len;
	} cuts[] = { { 1, 1 }, { 7, 7 }, { 64, 64 }, { 1, 16384 }, { 3, 16384 }, { 4, 16384 } };
	static struct bytes b, message;
	read_file(files[_i].name, &b);
	unwrap(&b, &message);
	for (int i = 0; i < ROW_CNT(cuts); i++) {
		build_records(&b, &message, cuts[i].first_len, cuts[i].record_len);
		check_all_cuts(files[_i].name, &b, b.len, WIRE_HELLO_OK, files[_i].text);
	}
}
END_TEST

START_TEST(has_a_row_for_each_file)
{
	int file_cnt = 0;
	DIR *dir = opendir(WIRE_HELLOS);
	ck_assert_ptr_nonnull(dir);
	for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir))
		file_cnt += entry->d_name[0] != '.';
	closedir(dir);
	ck_assert_int_eq(file_cnt, ROW_CNT(files));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("hello_files");
	TCase *tc = tcase_create("rows");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, parses_as_sent, 0, ROW_CNT(files));
	tcase_add_loop_test(tc, parses_over_records, 0, ROW_CNT(files));
	tcase_add_test(tc, has_a_row_for_each_file);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
