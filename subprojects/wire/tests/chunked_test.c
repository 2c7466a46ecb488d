#include "run.h"
#include "wire/h1.h"

#define TEXT(literal) (literal), sizeof(literal) - 1
#define TEN(text)     text text text text text text text text text text

/* What came out of a body, however it was cut. */
struct outcome {
	enum wire_step step;
	enum wire_reason reason;
	size_t used; /* bytes of the input that belong to the body */
	size_t payload_len, trailer_len;
	char payload[8192], trailer[1024];
};

/* Feeds data in two parts, as a caller does that keeps what was not used. */
static void decode(const char *data, size_t len, size_t cut, struct outcome *ret)
{
	struct wire_chunked c = { 0 };
	size_t at = 0;
	size_t end = cut;
	memset(ret, 0, sizeof(*ret));
	for (;;) {
		size_t used = 0;
		size_t run = 0;
		struct wire_span trailer;
		char *part = copy_exactly(data + at, end - at);
		ret->step = wire_chunked_decode(&c, part, end - at, &used, &run, &trailer);
		if (ret->step != WIRE_FAIL) {
			ck_assert(used <= end - at && run <= used);
			ck_assert(ret->payload_len + run <= sizeof(ret->payload));
			memcpy(ret->payload + ret->payload_len, part + used - run, run);
			ret->payload_len += run;
			at += used;
		}
		if (ret->step == WIRE_DONE) {
			ck_assert(trailer.len < sizeof(ret->trailer));
			memcpy(ret->trailer, trailer.at, trailer.len);
			ret->trailer_len = trailer.len;
		}
		free(part);
		if (ret->step != WIRE_MORE)
			break;
		if (used == 0) {
			if (end == len)
				break;
			end = len;
		}
	}
	ret->reason = c.reason;
	ret->used = at;
}

static const struct {
	const char *name, *body;
	size_t len;
	const char *payload, *trailer;
	size_t rest_len; /* bytes behind the body */
} bodies[] = {
	{ "empty", TEXT("0\r\n\r\n"), "", "", 0 },
	{ "one chunk", TEXT("5\r\nhello\r\n0\r\n\r\n"), "hello", "", 0 },
	{ "next message behind", TEXT("5\r\nhello\r\n0\r\n\r\nGET"), "hello", "", 3 },
	{ "two chunks", TEXT("1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"), "abc", "", 0 },
	{ "hex digits of both cases", TEXT("a\r\n0123456789\r\nB\r\n0123456789a\r\n000\r\n\r\n"),
	  "01234567890123456789a", "", 0 },
	{ "payload that looks like framing", TEXT("9\r\n\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n"),
	  "\r\n0\r\n\r\n\r\n", "", 0 },
	{ "15 digits", TEXT("000000000000001\r\nx\r\n000000000000000\r\n\r\n"), "x", "", 0 },
	{ "extension", TEXT("1;a=b\r\nx\r\n0;c\r\n\r\n"), "x", "", 0 },
	{ "extensions", TEXT("1 ; a = b ;c;d=\"q\\\"; \xff\\\t\"\t;e\r\nx\r\n0\r\n\r\n"), "x", "",
	  0 },
	{ "trailers", TEXT("1\r\nx\r\n0\r\nA: b\r\nC:\r\n\r\nZ"), "x", "A: b\r\nC:\r\n", 1 },
};

START_TEST(decodes_at_every_cut)
{
	for (size_t cut = 0; cut <= bodies[_i].len; cut++) {
		static struct outcome o;
		decode(bodies[_i].body, bodies[_i].len, cut, &o);
		ck_assert_msg(o.step == WIRE_DONE, "%s, cut at %zu: %s", bodies[_i].name, cut,
			      wire_reason_name(o.reason));
		ck_assert_msg(o.payload_len == strlen(bodies[_i].payload) &&
				      memcmp(o.payload, bodies[_i].payload, o.payload_len) == 0,
			      "%s, cut at %zu: payload %s", bodies[_i].name, cut, o.payload);
		ck_assert_str_eq(o.trailer, bodies[_i].trailer);
		ck_assert_uint_eq(o.used + bodies[_i].rest_len, bodies[_i].len);
	}
}
END_TEST

static const struct {
	const char *name, *body;
	size_t len;
	enum wire_reason want;
} refusals[] = {
	{ "no digit", TEXT("\r\n"), WIRE_BAD_CHUNK_SIZE },
	{ "0x2", TEXT("0x2\r\nab\r\n0\r\n\r\n"), WIRE_BAD_CHUNK_SIZE },
	{ "space first", TEXT(" 2\r\nab\r\n"), WIRE_BAD_CHUNK_SIZE },
	{ "sign", TEXT("-1\r\n"), WIRE_BAD_CHUNK_SIZE },
	{ "16 digits", TEXT("0000000000000001\r\nx\r\n"), WIRE_BAD_CHUNK_SIZE },
	{ "2^64 + 1", TEXT("10000000000000001\r\nx\r\n"), WIRE_BAD_CHUNK_SIZE },
	{ "letter", TEXT("g\r\n"), WIRE_BAD_CHUNK_SIZE },
	{ "size not hex behind", TEXT("1g\r\n"), WIRE_BAD_CHUNK_SIZE },
	{ "bare LF after the size", TEXT("1\nx\r\n"), WIRE_BARE_LF },
	{ "bare CR after the size", TEXT("1\rx\r\n"), WIRE_BARE_CR },
	{ "bare LF after an extension", TEXT("1;a\nx\r\n"), WIRE_BARE_LF },
	{ "bare LF in quotes", TEXT("1;a=\"\n\"\r\nx\r\n"), WIRE_BARE_LF },
	{ "space behind the size", TEXT("1 \r\nx\r\n"), WIRE_BAD_CHUNK_EXT },
	{ "extension without name", TEXT("1;\r\nx\r\n"), WIRE_BAD_CHUNK_EXT },
	{ "extension without value", TEXT("1;a=\r\nx\r\n"), WIRE_BAD_CHUNK_EXT },
	{ "open quotes", TEXT("1;a=\"b\r\nx\r\n"), WIRE_BAD_CHUNK_EXT },
	{ "text behind quotes", TEXT("1;a=\"b\"c\r\nx\r\n"), WIRE_BAD_CHUNK_EXT },
	{ "NUL in an extension", TEXT("1;a\0\r\nx\r\n"), WIRE_BAD_CHUNK_EXT },
	{ "extension of 300 bytes", TEXT("1;" TEN(TEN("abc")) "\r\nx\r\n"), WIRE_BAD_CHUNK_EXT },
	{ "bare LF after data", TEXT("1\r\nx\n0\r\n\r\n"), WIRE_BAD_CHUNK_END },
	{ "bare CR after data", TEXT("1\r\nx\r0\r\n\r\n"), WIRE_BAD_CHUNK_END },
	{ "data longer than its size", TEXT("1\r\nxy\r\n0\r\n\r\n"), WIRE_BAD_CHUNK_END },
	{ "bare LF in trailers", TEXT("0\r\nA: b\n\r\n"), WIRE_BARE_LF },
	{ "bare LF as the last line", TEXT("0\r\n\n"), WIRE_BARE_LF },
	{ "bare CR in trailers", TEXT("0\r\nA: \rb\r\n\r\n"), WIRE_BARE_CR },
	{ "NUL in trailers", TEXT("0\r\nA: \0\r\n\r\n"), WIRE_NUL },
};

START_TEST(refuses_at_every_cut)
{
	for (size_t cut = 0; cut <= refusals[_i].len; cut++) {
		static struct outcome o;
		decode(refusals[_i].body, refusals[_i].len, cut, &o);
		ck_assert_msg(o.step == WIRE_FAIL && o.reason == refusals[_i].want,
			      "%s, cut at %zu: %s", refusals[_i].name, cut,
			      wire_reason_name(o.reason));
	}
}
END_TEST

/* 256 bytes of extension a chunk are allowed, 8 KiB a message are not passed (33 chunks). */
START_TEST(extensions_are_bounded_by_message)
{
	char chunk[512];
	int len = snprintf(chunk, sizeof(chunk), "1;%0255d\r\nx\r\n", 0);
	struct wire_chunked c = { 0 };
	int chunk_cnt = 0;
	enum wire_step step = WIRE_MORE;
	while (chunk_cnt < 100 && step == WIRE_MORE) {
		for (size_t at = 0, used = 0, run = 0; at < (size_t)len && step == WIRE_MORE;
		     at += used) {
			struct wire_span trailer;
			step = wire_chunked_decode(&c, chunk + at, (size_t)len - at, &used, &run,
						   &trailer);
		}
		chunk_cnt++;
	}
	ck_assert_int_eq(step, WIRE_FAIL);
	ck_assert_int_eq(c.reason, WIRE_BAD_CHUNK_EXT);
	ck_assert_int_eq(chunk_cnt, 33);
}
END_TEST

static const struct {
	const char *name, *section;
	size_t len;
	enum wire_reason want;
	const char *kept; /* names that may be forwarded */
} trailers[] = {
	{ "none", TEXT(""), WIRE_OK, "" },
	{ "plain", TEXT("X-Sum: 1\r\ngrpc-status: 0\r\n"), WIRE_OK, "X-Sum grpc-status " },
	{ "framing",
	  TEXT("Content-Length: 5\r\nTransfer-Encoding: chunked\r\nTrailer: x\r\nX: y\r\n"),
	  WIRE_OK, "X " },
	{ "routing", TEXT("Host: a\r\nForwarded: a\r\nX-Forwarded-For: a\r\nMax-Forwards: 1\r\n"),
	  WIRE_OK, "" },
	{ "authentication",
	  TEXT("Authorization: a\r\nWWW-Authenticate: b\r\nSet-Cookie: c\r\nproxy-x: d\r\n"),
	  WIRE_OK, "" },
	{ "content",
	  TEXT("Content-Type: a\r\nCONTENT-ENCODING: b\r\ncache-control: c\r\nETag: d\r\n"),
	  WIRE_OK, "ETag " },
	{ "underscore", TEXT("X_A: a\r\n"), WIRE_OK, "" },
	{ "no colon", TEXT("abc\r\n"), WIRE_BAD_FIELD_NAME, NULL },
	{ "obs-fold", TEXT("a: b\r\n c\r\n"), WIRE_OBS_FOLD, NULL },
	{ "no line end", TEXT("a: b"), WIRE_BAD_FIELD_VALUE, NULL },
	{ "empty line", TEXT("a: b\r\n\r\n"), WIRE_BAD_FIELD_NAME, NULL },
	{ "five of four", TEXT("a:\r\na:\r\na:\r\na:\r\na:\r\n"), WIRE_TOO_MANY_FIELDS, NULL },
};

START_TEST(trailers_are_fields)
{
	struct wire_field fields[4];
	uint32_t cnt = 0;
	char *section = copy_exactly(trailers[_i].section, trailers[_i].len);
	enum wire_reason reason =
		wire_h1_parse_trailers(section, trailers[_i].len, 4, fields, &cnt);
	ck_assert_msg(reason == trailers[_i].want, "%s: %s", trailers[_i].name,
		      wire_reason_name(reason));
	char kept[128] = "";
	int len = 0;
	for (uint32_t i = 0; reason == WIRE_OK && i < cnt; i++)
		if (!fields[i].is_dropped)
			len += snprintf(kept + len, sizeof(kept) - (size_t)len, "%.*s ",
					(int)fields[i].name.len, fields[i].name.at);
	free(section);
	if (reason == WIRE_OK)
		ck_assert_str_eq(kept, trailers[_i].kept);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("chunked");
	TCase *tc = tcase_create("rows");
	tcase_add_loop_test(tc, decodes_at_every_cut, 0, ROW_CNT(bodies));
	tcase_add_loop_test(tc, refuses_at_every_cut, 0, ROW_CNT(refusals));
	tcase_add_test(tc, extensions_are_bounded_by_message);
	tcase_add_loop_test(tc, trailers_are_fields, 0, ROW_CNT(trailers));
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
