#include <arpa/inet.h>
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/addr.h"
#include "smartproxy/assert.h"

static const struct {
	const char *ip;
	enum err err;
	int family;
	const char *text; /* with port 80 */
} parses[] = {
	{ "192.0.2.1", ERR_OK, AF_INET, "192.0.2.1:80" },
	{ "0.0.0.0", ERR_OK, AF_INET, "0.0.0.0:80" },
	{ "::", ERR_OK, AF_INET6, "[::]:80" },
	{ "::1", ERR_OK, AF_INET6, "[::1]:80" },
	{ "[2001:DB8::1]", ERR_OK, AF_INET6, "[2001:db8::1]:80" },
	{ "::ffff:192.0.2.1", ERR_OK, AF_INET, "192.0.2.1:80" },
	{ "", ERR_SYNTAX },
	{ "*", ERR_SYNTAX },
	{ "localhost", ERR_SYNTAX },
	{ "192.0.2", ERR_SYNTAX },
	{ "192.0.2.256", ERR_SYNTAX },
	{ "192.0.2.1 ", ERR_SYNTAX },
	{ "192.0.2.1:80", ERR_SYNTAX },
	{ "[192.0.2.1]", ERR_SYNTAX },
	{ "[::1", ERR_SYNTAX },
	{ "[]", ERR_SYNTAX },
	{ "1:2:3:4:5:6:7:8:9", ERR_SYNTAX },
	{ "00000000000000000000000000000000000000000000000000000000001", ERR_SYNTAX },
};

START_TEST(parse_row)
{
	struct addr a;
	char text[ADDR_TEXT_MAX];
	ck_assert_int_eq(addr_parse(parses[_i].ip, 80, &a), parses[_i].err);
	if (parses[_i].err != ERR_OK)
		return;
	ck_assert_int_eq(a.sa.sa_family, parses[_i].family);
	ck_assert_str_eq(addr_format(text, sizeof(text), &a), parses[_i].text);
	ck_assert_uint_eq(addr_port(&a), 80);
	struct addr b = a;
	ck_assert(addr_is_equal(&a, &b));
	addr_set_port(&b, 65535);
	ck_assert_uint_eq(addr_port(&b), 65535);
	ck_assert(!addr_is_equal(&a, &b));
}
END_TEST

START_TEST(every_byte_is_written_as_the_library_does)
{
	for (unsigned i = 0; i < 256; i++) {
		struct addr a = { .v4 = { .sin_family = AF_INET } };
		a.v4.sin_addr.s_addr = htonl(i << 24 | (255 - i) << 16 | (i ^ 0x5a) << 8 | i);
		char text[ADDR_TEXT_MAX], want[INET_ADDRSTRLEN];
		ck_assert_ptr_nonnull(inet_ntop(AF_INET, &a.v4.sin_addr, want, sizeof(want)));
		ck_assert_str_eq(addr_format_ip(text, sizeof(text), &a), want);
	}
}
END_TEST

START_TEST(kernel_address_is_normalised)
{
	struct sockaddr_storage ss;
	memset(&ss, 0, sizeof(ss));
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(443) };
	ck_assert_int_eq(inet_pton(AF_INET6, "::ffff:127.0.0.1", &v6.sin6_addr), 1);
	memcpy(&ss, &v6, sizeof(v6));
	struct addr a, want;
	addr_from_sockaddr(&ss, &a);
	ck_assert_int_eq(addr_parse("127.0.0.1", 443, &want), ERR_OK);
	ck_assert(addr_is_equal(&a, &want));
	ck_assert_uint_eq(a.len, sizeof(struct sockaddr_in));
	ss.ss_family = AF_UNIX;
	addr_from_sockaddr(&ss, &a);
	ck_assert_uint_eq(a.len, 0);
	ck_assert_uint_eq(addr_port(&a), 0);
}
END_TEST

static const struct {
	const char *block;
	enum err err;
	const char *inside, *outside;
} blocks[] = {
	{ "10.0.0.0/8", ERR_OK, "10.255.0.1", "11.0.0.0" },
	{ "10.0.0.0/9", ERR_OK, "10.127.255.255", "10.128.0.0" },
	{ "192.0.2.7", ERR_OK, "192.0.2.7", "192.0.2.6" },
	{ "192.0.2.7/32", ERR_OK, "192.0.2.7", "192.0.2.6" },
	{ "192.0.2.6/31", ERR_OK, "192.0.2.7", "192.0.2.8" },
	{ "0.0.0.0/0", ERR_OK, "255.255.255.255", "::" },
	{ "::/0", ERR_OK, "2001:db8::1", "10.0.0.1" },
	{ "2001:db8::/32", ERR_OK, "2001:db8:ffff::1", "2001:db9::" },
	{ "fe80::/10", ERR_OK, "febf::1", "fec0::1" },
	{ "::1/128", ERR_OK, "::1", "::2" },
	{ "::ffff:10.0.0.0/104", ERR_OK, "10.1.2.3", "11.0.0.0" },
	{ "10.0.0.1/8", ERR_INVALID },
	{ "10.128.0.0/8", ERR_INVALID },
	{ "2001:db8::1/64", ERR_INVALID },
	{ "10.0.0.0/33", ERR_INVALID },
	{ "::/129", ERR_INVALID },
	{ "10.0.0.0/", ERR_SYNTAX },
	{ "10.0.0.0/+8", ERR_SYNTAX },
	{ "10.0.0.0/08", ERR_SYNTAX },
	{ "10.0.0.0/8/8", ERR_SYNTAX },
	{ "10.0.0.0/4294967304", ERR_SYNTAX },
	{ "10.0.0/8", ERR_SYNTAX },
	{ "", ERR_SYNTAX },
	{ "/8", ERR_SYNTAX },
};

START_TEST(cidr_row)
{
	struct cidr c;
	struct addr a;
	ck_assert_int_eq(cidr_parse(blocks[_i].block, &c), blocks[_i].err);
	if (blocks[_i].err != ERR_OK)
		return;
	ck_assert_int_eq(addr_parse(blocks[_i].inside, 1, &a), ERR_OK);
	ck_assert(cidr_has(&c, &a));
	ck_assert_int_eq(addr_parse(blocks[_i].outside, 1, &a), ERR_OK);
	ck_assert(!cidr_has(&c, &a));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("net_addr");
	TCase *tc = tcase_create("addr");
	tcase_add_loop_test(tc, parse_row, 0, SP_ARRAY_LEN(parses));
	tcase_add_test(tc, every_byte_is_written_as_the_library_does);
	tcase_add_test(tc, kernel_address_is_normalised);
	tcase_add_loop_test(tc, cidr_row, 0, SP_ARRAY_LEN(blocks));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
