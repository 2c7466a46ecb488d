#include "../src/scan.h"
#include "run.h"

static const size_t lens[] = { 0, 1, 2, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 80 };

static void check_scans(const char *data, size_t len, size_t want)
{
	ck_assert_uint_eq(wire_scan_ctl(data, len), want);
	ck_assert_uint_eq(wire_scan_ctl_portable(data, len), want);
#if defined(__x86_64__)
	if (__builtin_cpu_supports("sse4.2"))
		ck_assert_uint_eq(wire_scan_ctl_sse(data, len), want);
	if (__builtin_cpu_supports("avx2"))
		ck_assert_uint_eq(wire_scan_ctl_avx2(data, len), want);
#endif
}

/* Each byte value, at each place of blocks around the vectors' sizes, at changing alignments. */
START_TEST(finds_each_byte_everywhere)
{
	for (int byte = 0; byte < 256; byte++) {
		bool is_ctl = (byte < 0x20 && byte != '\t') || byte == 0x7f;
		size_t len = lens[_i];
		for (size_t at = 0; at < len; at++) {
			char block[120];
			size_t shift = (at + len) % 33;
			memset(block, byte % 2 == 0 ? 'a' : 0xff, sizeof(block));
			block[shift + at] = (char)byte;
			block[shift + len] = '\n'; /* behind the end: must not be seen */
			check_scans(block + shift, len, is_ctl ? at : len);
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
	tcase_add_loop_test(tc, finds_each_byte_everywhere, 0, ROW_CNT(lens));
	tcase_add_test(tc, head_scan_resumes);
	tcase_add_test(tc, head_scan_stays_failed);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
