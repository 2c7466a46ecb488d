#include "run.h"
#include "wire/h1.h"

/* Each byte value, at each place of blocks of each length up to 70, at each alignment. */
START_TEST(finds_each_byte_everywhere)
{
	char byte = (char)_i;
	bool is_ctl = (_i < 0x20 && _i != '\t') || _i == 0x7f;
	for (size_t len = 0; len <= 70; len++) {
		for (size_t at = 0; at < len; at++) {
			char block[110];
			size_t shift = (at + len) % 33;
			memset(block, _i % 2 == 0 ? 'a' : (char)0xff, sizeof(block));
			block[shift + at] = byte;
			block[shift + len] = '\n'; /* behind the end: must not be seen */
			size_t want = is_ctl ? at : len;
			ck_assert_uint_eq(wire_scan_ctl(block + shift, len), want);
			ck_assert_uint_eq(wire_scan_ctl_portable(block + shift, len), want);
		}
	}
}
END_TEST

/* A sender of one byte at a time costs no more looks than one of all: the scan resumes where it
 * stopped. */
START_TEST(head_scan_resumes)
{
	static char head[60000];
	memset(head, 'a', sizeof(head));
	struct wire_h1_scan scan = { 0 };
	size_t head_len = 0;
	for (size_t len = 0; len < sizeof(head); len++) {
		ck_assert_int_eq(wire_h1_scan_head(&scan, head, len, &head_len), WIRE_MORE);
		ck_assert_uint_eq(scan.seen, len);
	}
}
END_TEST

START_TEST(head_scan_stays_failed)
{
	struct wire_h1_scan scan = { 0 };
	size_t head_len = 0;
	ck_assert_int_eq(wire_h1_scan_head(&scan, "GET\n", 4, &head_len), WIRE_FAIL);
	ck_assert_int_eq(wire_h1_scan_head(&scan, "GET / HTTP/1.0\r\n\r\n", 18, &head_len),
			 WIRE_FAIL);
	ck_assert_int_eq(scan.reason, WIRE_BARE_LF);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("scan");
	TCase *tc = tcase_create("scan");
	tcase_add_loop_test(tc, finds_each_byte_everywhere, 0, 256);
	tcase_add_test(tc, head_scan_resumes);
	tcase_add_test(tc, head_scan_stays_failed);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
