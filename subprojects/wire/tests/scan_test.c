#include "../src/chars.h"
#include "../src/field.h"
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

/* One line, each byte value at each place of its name and value, in front of a line of another length each time:
 * what the vectors pass over is what the tables allow. */
START_TEST(fields_are_judged_byte_by_byte)
{
	size_t len = lens[_i];
	for (size_t at = 0; at < 2 * len; at++) {
		for (int byte = 0; byte < 256; byte++) {
			char line[2 * 80 + 50] = "";
			struct wire_field fields[2];
			uint32_t cnt = 0;
			memset(line, 'n', len);
			line[len] = ':';
			memset(line + len + 1, 'v', len);
			bool is_name = at < len;
			line[at < len ? at : at + 1] = (char)byte;
			size_t all = 2 * len + 1;
			all += (size_t)snprintf(line + all, 50, "\r\nA: %.*s\r\n", (int)(at % 20),
						"bbbbbbbbbbbbbbbbbbbb");
			char *data = copy_exactly(line, all);
			bool is_fine = is_name ? wire_is_char((char)byte, WIRE_CHAR_TOKEN) ||
							 (byte == ':' && at > 0)
					       : (byte >= 0x20 && byte != 0x7f) || byte == '\t';
			enum wire_reason reason = wire_fields_read(data, all, 2, fields, &cnt);
			ck_assert_msg((reason == WIRE_OK) == is_fine, "byte %d at %zu: %s", byte,
				      at, wire_reason_name(reason));
			ck_assert(!is_fine || cnt == 2);
			if (is_fine && is_name && byte != ':')
				ck_assert(fields[0].name.len == len && fields[0].value.len == len &&
					  fields[0].is_dropped == (byte == '_'));
			free(data);
		}
	}
}
END_TEST

/* Request targets likewise. */
START_TEST(targets_are_judged_byte_by_byte)
{
	const struct wire_h1_limits limits = { .target_bytes = 1000, .field_cnt = 2 };
	size_t len = lens[_i];
	for (size_t at = 0; at < len; at++) {
		for (int byte = 0; byte < 256; byte++) {
			char head[160] = "GET /";
			struct wire_field fields[2];
			struct wire_h1_request request;
			memset(head + 5, 't', len);
			head[5 + at] = (char)byte;
			size_t all = 5 + len;
			all += (size_t)snprintf(head + all, 50, " HTTP/1.1\r\nHost: a\r\n\r\n");
			char *data = copy_exactly(head, all);
			enum wire_reason reason =
				wire_h1_parse_request(data, all, &limits, fields, &request);
			ck_assert_msg((reason == WIRE_OK) ==
					      wire_is_char((char)byte, WIRE_CHAR_TARGET),
				      "byte %d at %zu: %s", byte, at, wire_reason_name(reason));
			ck_assert(reason != WIRE_OK || request.target.len == len + 1);
			free(data);
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
	tcase_add_loop_test(tc, fields_are_judged_byte_by_byte, 0, ROW_CNT(lens));
	tcase_add_loop_test(tc, targets_are_judged_byte_by_byte, 0, ROW_CNT(lens));
	tcase_add_test(tc, head_scan_resumes);
	tcase_add_test(tc, head_scan_stays_failed);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
