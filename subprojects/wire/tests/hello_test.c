#include "hello_real.h"
#include "hellos.h"

#define TEXT(literal) (literal), sizeof(literal) - 1

/* Extensions as bytes: type, length, content. */
#define SNI_A                                  \
	"\x00\x00\x00\x06\x00\x04\x00\x00\x01" \
	"a"
#define GREASE      "\x1a\x1a\x00\x00"
#define GREASE_2    "\xba\xba\x00\x01\x00"
#define ALPN_H2_H1  "\x00\x10\x00\x0e\x00\x0c\x02h2\x08http/1.1"
#define VERSIONS    "\x00\x2b\x00\x07\x06\x8a\x8a\x03\x04\x03\x03"
#define VERSIONS_13 "\x00\x2b\x00\x03\x02\x03\x04"
#define ECH_OUTER   "\xfe\x0d\x00\x03\x00\xaa\xbb"
#define ECH_INNER   "\xfe\x0d\x00\x01\x01"
#define NAME_32     "0123456789abcdef0123456789abcdef"

/* A ClientHello message. ext: the extension block's content; NULL: no block at all. */
static void build_message(struct bytes *b, unsigned version, const char *ext, size_t ext_len)
{
	b->len = 0;
	put(b, 1, 1);
	put(b, (unsigned)(2 + 32 + 1 + 4 + 6 + 2 + (ext != NULL ? 2 + ext_len : 0)), 3);
	put(b, version, 2);
	for (unsigned i = 0; i < 32; i++)
		put(b, i * 7, 1);
	put(b, 4, 1);
	put(b, 0x01020304, 4);
	put(b, 4, 2);
	put(b, 0x1301c02f, 4);
	put(b, 0x0100, 2);
	if (ext == NULL)
		return;
	put(b, (unsigned)ext_len, 2);
	put_text(b, ext, ext_len);
}

static const struct {
	const char *name;
	unsigned version;
	const char *ext;
	size_t ext_len;
	enum wire_hello_reason want;
	const char *text;
} hellos[] = {
	{ "TLS 1.2 without extensions", 0x0303, NULL, 0, WIRE_HELLO_OK, "0303 sni= 1.2" },
	{ "TLS 1.1 without extensions", 0x0302, NULL, 0, WIRE_HELLO_OK, "0302 sni=" },
	{ "empty extension block", 0x0303, TEXT(""), WIRE_HELLO_OK, "0303 sni= 1.2" },
	{ "SNI", 0x0303, TEXT(SNI_A), WIRE_HELLO_OK, "0303 sni=a 1.2" },
	{ "SNI with capitals and a dot", 0x0303,
	  TEXT("\x00\x00\x00\x09\x00\x07\x00\x00\x04"
	       "A.B."),
	  WIRE_HELLO_OK, "0303 sni=a.b 1.2" },
	{ "1.3 and 1.2 with GREASE", 0x0303, TEXT(GREASE SNI_A ALPN_H2_H1 VERSIONS GREASE_2),
	  WIRE_HELLO_OK, "0303 sni=a 1.2 1.3 h2 http/1.1" },
	{ "1.3 only", 0x0303, TEXT(VERSIONS_13), WIRE_HELLO_OK, "0303 sni= 1.3" },
	{ "versions overrule the legacy one", 0x0301, TEXT(VERSIONS), WIRE_HELLO_OK,
	  "0301 sni= 1.2 1.3" },
	{ "neither 1.2 nor 1.3", 0x0303, TEXT("\x00\x2b\x00\x03\x02\x03\x02"), WIRE_HELLO_OK,
	  "0303 sni=" },
	{ "ECH outer", 0x0303, TEXT(SNI_A ECH_OUTER), WIRE_HELLO_OK, "0303 sni=a 1.2 ech" },
	{ "ECH inner", 0x0303, TEXT(ECH_INNER), WIRE_HELLO_OK, "0303 sni= 1.2" },
	{ "ALPN of 32 bytes", 0x0303, TEXT("\x00\x10\x00\x23\x00\x21\x20" NAME_32), WIRE_HELLO_OK,
	  "0303 sni= 1.2 " NAME_32 },
	{ "ALPN of 33 bytes is cut", 0x0303, TEXT("\x00\x10\x00\x26\x00\x24\x21" NAME_32 "x\x01y"),
	  WIRE_HELLO_OK, "0303 sni= 1.2 " NAME_32 " y" },
	{ "17 ALPN names", 0x0303,
	  TEXT("\x00\x10\x00\x24\x00\x22\1a\1b\1c\1d\1e\1f\1g\1h\1i\1j\1k\1l\1m\1n\1o\1p\1q"),
	  WIRE_HELLO_OK, "0303 sni= 1.2 a b c d e f g h i j k l m n o p" },
	/* refused */
	{ "SNI twice", 0x0303, TEXT(SNI_A SNI_A), WIRE_HELLO_DUPLICATE, NULL },
	{ "unknown extension twice", 0x0303, TEXT(GREASE SNI_A GREASE), WIRE_HELLO_DUPLICATE,
	  NULL },
	{ "two host names", 0x0303,
	  TEXT("\x00\x00\x00\x0a\x00\x08\x00\x00\x01"
	       "a"
	       "\x00\x00\x01"
	       "b"),
	  WIRE_HELLO_BAD_SNI, NULL },
	{ "another name type", 0x0303,
	  TEXT("\x00\x00\x00\x06\x00\x04\x01\x00\x01"
	       "a"),
	  WIRE_HELLO_BAD_SNI, NULL },
	{ "empty host name", 0x0303, TEXT("\x00\x00\x00\x05\x00\x03\x00\x00\x00"),
	  WIRE_HELLO_BAD_SNI, NULL },
	{ "NUL in SNI", 0x0303,
	  TEXT("\x00\x00\x00\x08\x00\x06\x00\x00\x03"
	       "a\0b"),
	  WIRE_HELLO_BAD_SNI, NULL },
	{ "slash in SNI", 0x0303,
	  TEXT("\x00\x00\x00\x08\x00\x06\x00\x00\x03"
	       "a/b"),
	  WIRE_HELLO_BAD_SNI, NULL },
	{ "port in SNI", 0x0303,
	  TEXT("\x00\x00\x00\x08\x00\x06\x00\x00\x03"
	       "a:1"),
	  WIRE_HELLO_BAD_SNI, NULL },
	{ "IPv6 in SNI", 0x0303,
	  TEXT("\x00\x00\x00\x0a\x00\x08\x00\x00\x05"
	       "[::1]"),
	  WIRE_HELLO_BAD_SNI, NULL },
	{ "empty label in SNI", 0x0303,
	  TEXT("\x00\x00\x00\x09\x00\x07\x00\x00\x04"
	       "a..b"),
	  WIRE_HELLO_BAD_SNI, NULL },
	{ "empty server_name", 0x0303, TEXT("\x00\x00\x00\x00"), WIRE_HELLO_BAD_LENGTH, NULL },
	{ "empty name list", 0x0303, TEXT("\x00\x00\x00\x02\x00\x00"), WIRE_HELLO_BAD_LENGTH,
	  NULL },
	{ "name longer than its list", 0x0303,
	  TEXT("\x00\x00\x00\x06\x00\x04\x00\x00\x02"
	       "a" GREASE),
	  WIRE_HELLO_BAD_LENGTH, NULL },
	{ "list longer than the extension", 0x0303,
	  TEXT("\x00\x00\x00\x06\x00\x05\x00\x00\x01"
	       "a" GREASE),
	  WIRE_HELLO_BAD_LENGTH, NULL },
	{ "list shorter than the extension", 0x0303,
	  TEXT("\x00\x00\x00\x07\x00\x04\x00\x00\x01"
	       "a"
	       "x"),
	  WIRE_HELLO_BAD_LENGTH, NULL },
	{ "extension longer than the block", 0x0303, TEXT("\x1a\x1a\x00\x01"),
	  WIRE_HELLO_BAD_LENGTH, NULL },
	{ "half an extension head", 0x0303, TEXT("\x1a\x1a\x00"), WIRE_HELLO_BAD_LENGTH, NULL },
	{ "empty ALPN list", 0x0303, TEXT("\x00\x10\x00\x02\x00\x00"), WIRE_HELLO_BAD_LENGTH,
	  NULL },
	{ "empty ALPN name", 0x0303,
	  TEXT("\x00\x10\x00\x05\x00\x03\x00\x01"
	       "a"),
	  WIRE_HELLO_BAD_LENGTH, NULL },
	{ "ALPN name too long", 0x0303,
	  TEXT("\x00\x10\x00\x05\x00\x03\x03"
	       "ab" GREASE),
	  WIRE_HELLO_BAD_LENGTH, NULL },
	{ "odd versions", 0x0303, TEXT("\x00\x2b\x00\x04\x03\x03\x04\x03"), WIRE_HELLO_BAD_LENGTH,
	  NULL },
	{ "no versions", 0x0303, TEXT("\x00\x2b\x00\x01\x00"), WIRE_HELLO_BAD_LENGTH, NULL },
	{ "empty ECH", 0x0303, TEXT("\xfe\x0d\x00\x00"), WIRE_HELLO_BAD_LENGTH, NULL },
};

START_TEST(parses_over_records_and_cuts)
{
	static const size_t record_lens[] = { 16384, 1, 2, 3, 5, 7, 64, 100 };
	static struct bytes message, records;
	build_message(&message, hellos[_i].version, hellos[_i].ext, hellos[_i].ext_len);
	for (int i = 0; i < ROW_CNT(record_lens); i++) {
		build_records(&records, &message, record_lens[i], record_lens[i]);
		size_t hello_len = records.len;
		put_text(&records,
			 TEXT("\x14\x03\x03\x00\x01\x01")); /* what follows does not matter */
		check_all_cuts(hellos[_i].name, &records, hello_len, hellos[_i].want,
			       hellos[_i].text);
	}
}
END_TEST

/* Extensions of many types, low and high; any of them once more is refused. */
START_TEST(knows_each_type_again)
{
	static struct bytes message, record;
	static char ext[4 * 65];
	for (unsigned again = 0; again <= 64; again++) {
		for (unsigned i = 0; i <= 64; i++) {
			unsigned type = i == 64 ? again : i;
			type = type < 8 ? type + 48 : type * 1021; /* 48 to 55, 8168 to 64323 */
			ext[4 * i] = (char)(type >> 8);
			ext[4 * i + 1] = (char)type;
		}
		size_t cnt = again == 64 ? 64 : 65;
		build_message(&message, 0x0303, ext, 4 * cnt);
		build_records(&record, &message, 16384, 16384);
		struct wire_hello hello;
		enum wire_hello_reason reason;
		enum wire_step step = wire_hello_parse(record.at, record.len, &hello, &reason);
		ck_assert_int_eq(step, again == 64 ? WIRE_DONE : WIRE_FAIL);
		ck_assert_int_eq(reason, again == 64 ? WIRE_HELLO_OK : WIRE_HELLO_DUPLICATE);
	}
}
END_TEST

static const struct {
	const char *name, *hex, *text;
} real[] = {
	{ "s_client", HELLO_OPENSSL_BOTH, "0303 sni=www.example.com 1.2 1.3 h2 http/1.1" },
	{ "s_client -tls1_2", HELLO_OPENSSL_TLS12, "0303 sni=mail.example.com 1.2" },
	{ "s_client -tls1_3", HELLO_OPENSSL_TLS13, "0303 sni=a.b.example.com 1.3 acme-tls/1" },
	{ "s_client -noservername", HELLO_OPENSSL_NO_SNI, "0303 sni= 1.2 1.3" },
	{ "s_client -tls1", HELLO_OPENSSL_TLS10, "0301 sni=old.example.com" },
	{ "curl", HELLO_CURL, "0303 sni=curl.example.com 1.2 1.3 h2 http/1.1" },
};

static unsigned digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

START_TEST(parses_real_ones)
{
	static struct bytes b;
	b.len = 0;
	for (const char *hex = real[_i].hex; *hex != '\0'; hex += 2)
		put(&b, digit(hex[0]) << 4 | digit(hex[1]), 1);
	check_all_cuts(real[_i].name, &b, b.len, WIRE_HELLO_OK, real[_i].text);
}
END_TEST

/* Whole inputs that are wrong outside the extensions. */
static const struct {
	const char *name, *data;
	size_t len;
	enum wire_hello_reason want;
} refusals[] = {
	{ "HTTP", TEXT("GET / HTTP/1.1\r\n"), WIRE_HELLO_NOT_TLS },
	{ "SSL 2", TEXT("\x80\x2e\x01\x03\x01"), WIRE_HELLO_NOT_TLS },
	{ "alert record", TEXT("\x15\x03\x01\x00\x02\x01\x00"), WIRE_HELLO_NOT_TLS },
	{ "record version 2.0", TEXT("\x16\x02\x00\x00\x05"), WIRE_HELLO_BAD_RECORD },
	{ "record of length 0", TEXT("\x16\x03\x01\x00\x00"), WIRE_HELLO_BAD_RECORD },
	{ "record of length 16385", TEXT("\x16\x03\x01\x40\x01"), WIRE_HELLO_BAD_RECORD },
	{ "another record inside", TEXT("\x16\x03\x01\x00\x01\x01\x17\x03\x01"),
	  WIRE_HELLO_BAD_RECORD },
	{ "ServerHello", TEXT("\x16\x03\x01\x00\x04\x02\x00\x00\x26"), WIRE_HELLO_NOT_HELLO },
	{ "message of 65537 bytes", TEXT("\x16\x03\x01\x00\x04\x01\x01\x00\x01"),
	  WIRE_HELLO_TOO_LARGE },
	{ "message of 33 bytes",
	  TEXT("\x16\x03\x01\x00\x29\x01\x00\x00\x21\x03\x03" NAME_32 NAME_32),
	  WIRE_HELLO_BAD_LENGTH },
	{ "session id of 33 bytes",
	  TEXT("\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03" NAME_32 "\x21"),
	  WIRE_HELLO_BAD_LENGTH },
	{ "no suites", TEXT("\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03" NAME_32 "\x00\x00\x00"),
	  WIRE_HELLO_BAD_LENGTH },
	{ "odd suites", TEXT("\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03" NAME_32 "\x00\x00\x03"),
	  WIRE_HELLO_BAD_LENGTH },
	{ "no compression",
	  TEXT("\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03" NAME_32 "\x00\x00\x02\x13\x01\x00"),
	  WIRE_HELLO_BAD_LENGTH },
	{ "block shorter than the message",
	  TEXT("\x16\x03\x01\x00\x80\x01\x00\x00\x7c\x03\x03" NAME_32
	       "\x00\x00\x02\x13\x01\x01\x00\x00\x00"),
	  WIRE_HELLO_BAD_LENGTH },
	{ "message behind the hello",
	  TEXT("\x16\x03\x01\x00\x2e\x01\x00\x00\x29\x03\x03" NAME_32
	       "\x00\x00\x02\x13\x01\x01\x00!"),
	  WIRE_HELLO_BAD_LENGTH },
};

START_TEST(refuses_at_every_cut)
{
	static struct bytes b;
	b.len = 0;
	put_text(&b, refusals[_i].data, refusals[_i].len);
	check_all_cuts(refusals[_i].name, &b, 0, refusals[_i].want, NULL);
}
END_TEST

/* One extension of ext_len bytes in records of record_len bytes. */
static enum wire_step parse_large(size_t ext_len, size_t record_len,
				  enum wire_hello_reason *ret_reason)
{
	static struct bytes ext, message, records;
	struct wire_hello hello;
	ext.len = 0;
	put(&ext, 0x1a1a, 2);
	put(&ext, (unsigned)ext_len, 2);
	memset(ext.at + ext.len, 'x', ext_len);
	build_message(&message, 0x0303, (const char *)ext.at, ext.len + ext_len);
	build_records(&records, &message, record_len, record_len);
	return wire_hello_parse(records.at, records.len, &hello, ret_reason);
}

START_TEST(bounds_the_records)
{
	enum wire_hello_reason reason;
	ck_assert_int_eq(parse_large(60000, 16384, &reason), WIRE_DONE);
	ck_assert_int_eq(parse_large(65400, 16384, &reason), WIRE_DONE);
	ck_assert_int_eq(parse_large(65500, 16384, &reason), WIRE_FAIL);
	ck_assert_int_eq(reason, WIRE_HELLO_TOO_LARGE);
	ck_assert_int_eq(parse_large(60000, 50, &reason), WIRE_FAIL);
	ck_assert_int_eq(reason, WIRE_HELLO_TOO_LARGE);
	ck_assert_int_eq(parse_large(10000, 1, &reason), WIRE_DONE);
	ck_assert_int_eq(parse_large(11000, 1, &reason), WIRE_FAIL);
	ck_assert_int_eq(reason, WIRE_HELLO_TOO_LARGE);
}
END_TEST

/* By single bytes: whole when its last byte is there, and parsed once. */
START_TEST(waits_for_the_whole)
{
	static struct bytes message, records;
	static const char ext[10000] = { 0x1a, 0x1a, 9996 >> 8, 9996 & 255 };
	build_message(&message, 0x0303, ext, sizeof(ext));
	for (size_t record_len = 1; record_len < 20000; record_len *= 3) {
		build_records(&records, &message, record_len, record_len);
		struct wire_hello_scan scan = { 0 };
		for (size_t len = 0; len < records.len; len++)
			ck_assert_msg(!wire_hello_is_ready(&scan, records.at, len), "%zu", len);
		ck_assert(wire_hello_is_ready(&scan, records.at, records.len));
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("hello");
	TCase *tc = tcase_create("rows");
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, parses_over_records_and_cuts, 0, ROW_CNT(hellos));
	tcase_add_test(tc, knows_each_type_again);
	tcase_add_loop_test(tc, parses_real_ones, 0, ROW_CNT(real));
	tcase_add_loop_test(tc, refuses_at_every_cut, 0, ROW_CNT(refusals));
	tcase_add_test(tc, bounds_the_records);
	tcase_add_test(tc, waits_for_the_whole);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
