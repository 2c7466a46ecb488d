#include "heads.h"

static const struct {
	const char *name, *head;
	size_t len;
	enum wire_reason want;
} refusals[] = {
	/* RFC 9112, 4: status line */
	{ "two digits", TEXT("HTTP/1.1 20 OK\r\n\r\n"), WIRE_BAD_STATUS_LINE },
	{ "four digits", TEXT("HTTP/1.1 2000 OK\r\n\r\n"), WIRE_BAD_STATUS_LINE },
	{ "below 100", TEXT("HTTP/1.1 099 OK\r\n\r\n"), WIRE_BAD_STATUS_LINE },
	{ "signed", TEXT("HTTP/1.1 +20 OK\r\n\r\n"), WIRE_BAD_STATUS_LINE },
	{ "two spaces", TEXT("HTTP/1.1  200 OK\r\n\r\n"), WIRE_BAD_STATUS_LINE },
	{ "no status", TEXT("HTTP/1.1\r\n\r\n"), WIRE_BAD_STATUS_LINE },
	{ "letters behind the status", TEXT("HTTP/1.1 200OK\r\n\r\n"), WIRE_BAD_STATUS_LINE },
	{ "CTL in the reason", TEXT("HTTP/1.1 200 a\x01\r\n\r\n"), WIRE_BAD_STATUS_LINE },
	{ "HTTP/2.0", TEXT("HTTP/2.0 200 OK\r\n\r\n"), WIRE_VERSION_TOO_HIGH },
	{ "ICY", TEXT("ICY 200 OK\r\n\r\n"), WIRE_BAD_VERSION },
	{ "HTTP/0.9 body", TEXT("<html>\r\n\r\n"), WIRE_BAD_VERSION },
	{ "empty line first", TEXT("\r\n" RESPONSE END), WIRE_BAD_VERSION },
	{ "empty lines only", TEXT("\r\n\r\n"), WIRE_BAD_VERSION },
	{ "bare LF", TEXT("HTTP/1.1 200 OK\nX: a\r\n\r\n"), WIRE_BARE_LF },
	{ "bare CR in the reason", TEXT("HTTP/1.1 200 a\rb\r\n\r\n"), WIRE_BARE_CR },
	{ "NUL", TEXT(RESPONSE "X: \0\r\n\r\n"), WIRE_NUL },
	/* the fields' rules are those of requests */
	{ "obs-fold", TEXT(RESPONSE "X: a\r\n b\r\n\r\n"), WIRE_OBS_FOLD },
	{ "space before the colon", TEXT(RESPONSE "X : a\r\n\r\n"), WIRE_SPACE_BEFORE_COLON },
	{ "no colon", TEXT(RESPONSE "X\r\n\r\n"), WIRE_BAD_FIELD_NAME },
	{ "nine fields",
	  TEXT(RESPONSE "A:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\n\r\n"),
	  WIRE_TOO_MANY_FIELDS },
	/* RFC 9112, 6: framing */
	{ "length and coding",
	  TEXT(RESPONSE "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"),
	  WIRE_LENGTH_AND_CODING },
	{ "two lengths", TEXT(RESPONSE "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"),
	  WIRE_SECOND_CONTENT_LENGTH },
	{ "list of lengths", TEXT(RESPONSE "Content-Length: 1, 1\r\n\r\n"),
	  WIRE_BAD_CONTENT_LENGTH },
	{ "gzip, chunked", TEXT(RESPONSE "Transfer-Encoding: gzip, chunked\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "coding in 1.0", TEXT("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
	  WIRE_CODING_IN_1_0 },
	{ "204 with coding", TEXT("HTTP/1.1 204 \r\nTransfer-Encoding: chunked\r\n\r\n"),
	  WIRE_BODY_NOT_ALLOWED },
	{ "204 with length", TEXT("HTTP/1.1 204 \r\nContent-Length: 1\r\n\r\n"),
	  WIRE_BODY_NOT_ALLOWED },
	{ "103 with length", TEXT("HTTP/1.1 103 \r\nContent-Length: 1\r\n\r\n"),
	  WIRE_BODY_NOT_ALLOWED },
};

START_TEST(refuses)
{
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_response response;
	enum wire_reason reason =
		scan_all_cuts(refusals[_i].name, refusals[_i].head, refusals[_i].len);
	char *head = copy_exactly(refusals[_i].head, refusals[_i].len);
	enum wire_reason parsed =
		wire_h1_parse_response(head, refusals[_i].len, &limits, fields, &response);
	free(head);
	if (reason == WIRE_OK)
		reason = parsed;
	ck_assert_msg(reason == refusals[_i].want, "%s: %s", refusals[_i].name,
		      wire_reason_name(reason));
	ck_assert_msg(parsed != WIRE_OK, "%s: the parser took it", refusals[_i].name);
}
END_TEST

static const struct {
	const char *name, *head;
	size_t len;
	const char *want;
} acceptances[] = {
	{ "smallest", TEXT("HTTP/1.1 200 OK\r\n\r\n"), "200 'OK' 1.1" },
	{ "no reason", TEXT("HTTP/1.1 200 \r\n\r\n"), "200 '' 1.1" },
	{ "no second space", TEXT("HTTP/1.1 200\r\n\r\n"), "200 '' 1.1" },
	{ "reason with spaces and bytes above 127", TEXT("HTTP/1.1 404 Not \xe9 Found\r\n\r\n"),
	  "404 'Not \xe9 Found' 1.1" },
	{ "999", TEXT("HTTP/1.1 999 x\r\n\r\n"), "999 'x' 1.1" },
	{ "1.0 closes", TEXT("HTTP/1.0 200 OK\r\n\r\n"), "200 'OK' 1.0 close" },
	{ "1.0 kept alive", TEXT("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n"),
	  "200 'OK' 1.0 -Connection" },
	{ "close", TEXT(RESPONSE "Connection: close\r\n\r\n"), "200 'OK' 1.1 close -Connection" },
	{ "length", TEXT(RESPONSE "Content-Length: 5\r\n\r\n"), "200 'OK' 1.1 length=5" },
	{ "chunked", TEXT(RESPONSE "Transfer-Encoding: chunked\r\n\r\n"),
	  "200 'OK' 1.1 chunked -Transfer-Encoding" },
	{ "304 with length", TEXT("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
	  "304 'Not Modified' 1.1 length=5" },
	{ "204 of length 0", TEXT("HTTP/1.1 204 x\r\nContent-Length: 0\r\n\r\n"),
	  "204 'x' 1.1 length=0 -Content-Length" },
	{ "101", TEXT("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n"),
	  "101 'x' 1.1 -Upgrade -Connection" },
	{ "hop-by-hop",
	  TEXT(RESPONSE "Proxy-Authenticate: x\r\nKeep-Alive: x\r\nProxy-Status: x\r\nX: "
			"y\r\nConnection: x\r\n\r\n"),
	  "200 'OK' 1.1 -Proxy-Authenticate -Keep-Alive -X -Connection" },
};

START_TEST(accepts)
{
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_response r;
	enum wire_reason reason =
		scan_all_cuts(acceptances[_i].name, acceptances[_i].head, acceptances[_i].len);
	ck_assert_int_eq(reason, WIRE_OK);
	char *head = copy_exactly(acceptances[_i].head, acceptances[_i].len);
	reason = wire_h1_parse_response(head, acceptances[_i].len, &limits, fields, &r);
	ck_assert_msg(reason == WIRE_OK, "%s: %s", acceptances[_i].name, wire_reason_name(reason));
	char text[256];
	int n = snprintf(text, sizeof(text), "%u '%.*s' 1.%u%s%s", r.status,
			 (int)r.reason_phrase.len, r.reason_phrase.at, r.minor,
			 r.is_chunked ? " chunked" : "", r.wants_close ? " close" : "");
	if (r.has_length)
		n += snprintf(text + n, sizeof(text) - (size_t)n, " length=%lld",
			      (long long)r.content_length);
	for (uint32_t i = 0; i < r.field_cnt; i++)
		if (fields[i].is_dropped)
			n += snprintf(text + n, sizeof(text) - (size_t)n, " -%.*s",
				      (int)fields[i].name.len, fields[i].name.at);
	free(head);
	ck_assert_msg(strcmp(text, acceptances[_i].want) == 0, "%s:\n%s\n%s", acceptances[_i].name,
		      text, acceptances[_i].want);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("h1_response");
	TCase *tc = tcase_create("rows");
	tcase_add_loop_test(tc, refuses, 0, ROW_CNT(refusals));
	tcase_add_loop_test(tc, accepts, 0, ROW_CNT(acceptances));
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
