#include "heads.h"

/* 63 bytes */
#define LONG_TARGET "/23456789012345678901234567890123456789012345678901234567890123"

static const struct refusal {
	const char *name, *head;
	size_t len;
	enum wire_reason want;
} refusals[] = {
	/* RFC 9112, 2.2: lines */
	{ "bare LF after the request line", TEXT("GET / HTTP/1.1\nHost: a\r\n\r\n"), WIRE_BARE_LF },
	{ "bare LF after a field", TEXT(GET "Host: a\n\r\n"), WIRE_BARE_LF },
	{ "bare LF as the empty line", TEXT(GET HOST "\n"), WIRE_BARE_LF },
	{ "bare LF first", TEXT("\n" GET HOST END), WIRE_BARE_LF },
	{ "bare CR in a value", TEXT(GET HOST "X: a\rb\r\n\r\n"), WIRE_BARE_CR },
	{ "CR CR LF", TEXT(GET HOST "X: a\r\r\n\r\n"), WIRE_BARE_CR },
	{ "bare CR in a name", TEXT(GET HOST "X\r: a\r\n\r\n"), WIRE_BARE_CR },
	{ "NUL in a value", TEXT(GET HOST "X: a\0b\r\n\r\n"), WIRE_NUL },
	{ "NUL in a name", TEXT(GET HOST "X\0: a\r\n\r\n"), WIRE_NUL },
	{ "NUL in the target", TEXT("GET /\0 HTTP/1.1\r\n" HOST END), WIRE_NUL },
	{ "two leading empty lines", TEXT("\r\n\r\n"), WIRE_BAD_REQUEST_LINE },
	{ "space before the first field", TEXT(GET " X: a\r\n" HOST END), WIRE_OBS_FOLD },
	/* RFC 9112, 3: request line */
	{ "no target", TEXT("GET\r\n" HOST END), WIRE_BAD_REQUEST_LINE },
	{ "no version (HTTP/0.9)", TEXT("GET /\r\n\r\n"), WIRE_BAD_REQUEST_LINE },
	{ "version without target", TEXT("GET HTTP/1.1\r\n" HOST END), WIRE_BAD_REQUEST_LINE },
	{ "two spaces before the target", TEXT("GET  / HTTP/1.1\r\n" HOST END),
	  WIRE_BAD_REQUEST_LINE },
	{ "two spaces before the version", TEXT("GET /  HTTP/1.1\r\n" HOST END), WIRE_BAD_VERSION },
	{ "tab for a space", TEXT("GET\t/ HTTP/1.1\r\n" HOST END), WIRE_BAD_METHOD },
	{ "tab before the version", TEXT("GET /\tHTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "space first", TEXT(" GET / HTTP/1.1\r\n" HOST END), WIRE_BAD_REQUEST_LINE },
	{ "space after the version", TEXT("GET / HTTP/1.1 \r\n" HOST END), WIRE_BAD_REQUEST_LINE },
	{ "space in the target", TEXT("GET /a b HTTP/1.1\r\n" HOST END), WIRE_BAD_VERSION },
	{ "method with a parenthesis", TEXT("G(T / HTTP/1.1\r\n" HOST END), WIRE_BAD_METHOD },
	{ "method with a byte above 127", TEXT("G\xc3\xa9T / HTTP/1.1\r\n" HOST END),
	  WIRE_BAD_METHOD },
	{ "TLS on a plain port", TEXT("\x16\x03\x01\x02\x01\xfc\r\n\r\n"), WIRE_BAD_REQUEST_LINE },
	/* RFC 9112, 2.3: version */
	{ "HTTP/2.0", TEXT("GET / HTTP/2.0\r\n" HOST END), WIRE_VERSION_TOO_HIGH },
	{ "HTTP/2 preface", TEXT("PRI * HTTP/2.0\r\n\r\n"), WIRE_VERSION_TOO_HIGH },
	{ "HTTP/9.9", TEXT("GET / HTTP/9.9\r\n" HOST END), WIRE_VERSION_TOO_HIGH },
	{ "HTTP/0.9 spelled out", TEXT("GET / HTTP/0.9\r\n" HOST END), WIRE_BAD_VERSION },
	{ "http/1.1", TEXT("GET / http/1.1\r\n" HOST END), WIRE_BAD_VERSION },
	{ "HTTP/1.10", TEXT("GET / HTTP/1.10\r\n" HOST END), WIRE_BAD_REQUEST_LINE },
	{ "HTTP/1,1", TEXT("GET / HTTP/1,1\r\n" HOST END), WIRE_BAD_VERSION },
	{ "HTTP/1.", TEXT("GET / HTTP/1.\r\n" HOST END), WIRE_BAD_VERSION },
	{ "HTTPS/1.1", TEXT("GET / HTTPS/1.1\r\n" HOST END), WIRE_BAD_VERSION },
	/* RFC 9112, 3.2: target */
	{ "target of 65 bytes", TEXT("GET " LONG_TARGET "xy HTTP/1.1\r\n" HOST END),
	  WIRE_TARGET_TOO_LONG },
	{ "fragment", TEXT("GET /a#b HTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "byte above 127", TEXT("GET /\xc3\xa9 HTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "CTL in the target", TEXT("GET /\x01 HTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "DEL in the target", TEXT("GET /\x7f HTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "relative target", TEXT("GET a HTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "asterisk with GET", TEXT("GET * HTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "asterisk and more", TEXT("OPTIONS *a HTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "authority with GET", TEXT("GET a.example:80 HTTP/1.1\r\n" HOST END), WIRE_BAD_TARGET },
	{ "scheme of another protocol", TEXT("GET ftp://a.example/ HTTP/1.1\r\n" HOST END),
	  WIRE_BAD_TARGET },
	{ "absolute with another Host", TEXT("GET http://b.example/ HTTP/1.1\r\n" HOST END),
	  WIRE_HOST_MISMATCH },
	{ "absolute with another port", TEXT("GET http://a.example:8080/ HTTP/1.1\r\n" HOST END),
	  WIRE_HOST_MISMATCH },
	{ "https with Host of port 80", TEXT("GET https://a/ HTTP/1.1\r\nHost: a:80\r\n\r\n"),
	  WIRE_HOST_MISMATCH },
	{ "absolute with an empty Host in 1.0", TEXT("GET http://a/ HTTP/1.0\r\nHost:\r\n\r\n"),
	  WIRE_BAD_HOST },
	{ "absolute with userinfo", TEXT("GET http://u@a.example/ HTTP/1.1\r\n" HOST END),
	  WIRE_BAD_HOST },
	{ "absolute without authority", TEXT("GET http:///x HTTP/1.1\r\n" HOST END),
	  WIRE_BAD_HOST },
	{ "absolute with one slash", TEXT("GET http:/a.example/ HTTP/1.1\r\n" HOST END),
	  WIRE_BAD_TARGET },
	{ "absolute with a query and no path", TEXT("GET http://a.example?q HTTP/1.1\r\n" HOST END),
	  WIRE_BAD_TARGET },
	{ "absolute without Host", TEXT("GET http://a.example/ HTTP/1.1\r\n\r\n"), WIRE_NO_HOST },
	{ "CONNECT with a path", TEXT("CONNECT / HTTP/1.1\r\n" HOST END), WIRE_BAD_HOST },
	{ "CONNECT without port", TEXT("CONNECT a.example HTTP/1.1\r\n" HOST END),
	  WIRE_BAD_TARGET },
	{ "CONNECT with another Host", TEXT("CONNECT b:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"),
	  WIRE_HOST_MISMATCH },
	/* RFC 9112, 5: field lines */
	{ "space before the colon", TEXT(GET HOST "X : a\r\n\r\n"), WIRE_SPACE_BEFORE_COLON },
	{ "tab before the colon", TEXT(GET HOST "Transfer-Encoding\t: chunked\r\n\r\n"),
	  WIRE_SPACE_BEFORE_COLON },
	{ "space in a name", TEXT(GET HOST "X Y: a\r\n\r\n"), WIRE_BAD_FIELD_NAME },
	{ "no colon", TEXT(GET HOST "XYZ\r\n\r\n"), WIRE_BAD_FIELD_NAME },
	{ "no colon, trailing space", TEXT(GET HOST "XYZ \r\n\r\n"), WIRE_BAD_FIELD_NAME },
	{ "no name", TEXT(GET HOST ": a\r\n\r\n"), WIRE_BAD_FIELD_NAME },
	{ "parentheses in a name", TEXT(GET HOST "X(a): 1\r\n\r\n"), WIRE_BAD_FIELD_NAME },
	{ "byte above 127 in a name", TEXT(GET HOST "X\xe9: 1\r\n\r\n"), WIRE_BAD_FIELD_NAME },
	{ "CTL in a name", TEXT(GET HOST "X\x01: 1\r\n\r\n"), WIRE_BAD_FIELD_NAME },
	{ "obs-fold by space", TEXT(GET HOST "X: a\r\n b\r\n\r\n"), WIRE_OBS_FOLD },
	{ "obs-fold by tab", TEXT(GET HOST "X: a\r\n\tb: c\r\n\r\n"), WIRE_OBS_FOLD },
	{ "CTL in a value", TEXT(GET HOST "X: a\x0b\r\n\r\n"), WIRE_BAD_FIELD_VALUE },
	{ "DEL in a value", TEXT(GET HOST "X: \x7f\r\n\r\n"), WIRE_BAD_FIELD_VALUE },
	{ "nine fields of eight",
	  TEXT(GET HOST "A:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\n\r\n"),
	  WIRE_TOO_MANY_FIELDS },
	/* RFC 9110, 7.2 and RFC 9112, 3.2: Host */
	{ "no Host", TEXT(GET END), WIRE_NO_HOST },
	{ "empty Host", TEXT(GET "Host:\r\n\r\n"), WIRE_NO_HOST },
	{ "blank Host", TEXT(GET "Host: \t \r\n\r\n"), WIRE_NO_HOST },
	{ "two equal Hosts", TEXT(GET HOST HOST END), WIRE_SECOND_HOST },
	{ "two Hosts", TEXT(GET HOST "hOST: b\r\n\r\n"), WIRE_SECOND_HOST },
	{ "two Hosts in 1.0", TEXT("GET / HTTP/1.0\r\n" HOST HOST END), WIRE_SECOND_HOST },
	{ "Host with a slash", TEXT(GET "Host: a/b\r\n\r\n"), WIRE_BAD_HOST },
	{ "Host with userinfo", TEXT(GET "Host: u@a\r\n\r\n"), WIRE_BAD_HOST },
	{ "Host list", TEXT(GET "Host: a, b\r\n\r\n"), WIRE_BAD_HOST },
	{ "Host with port 0", TEXT(GET "Host: a:0\r\n\r\n"), WIRE_BAD_HOST },
	{ "Host with port 65536", TEXT(GET "Host: a:65536\r\n\r\n"), WIRE_BAD_HOST },
	{ "Host with empty port", TEXT(GET "Host: a:\r\n\r\n"), WIRE_BAD_HOST },
	{ "Host with two ports", TEXT(GET "Host: a:80:80\r\n\r\n"), WIRE_BAD_HOST },
	{ "Host of IPv6 without brackets", TEXT(GET "Host: ::1\r\n\r\n"), WIRE_BAD_HOST },
	{ "Host with an escape", TEXT(GET "Host: a%2eb\r\n\r\n"), WIRE_BAD_HOST },
	/* RFC 9112, 6: framing */
	{ "length and coding",
	  TEXT(POST HOST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
	  WIRE_LENGTH_AND_CODING },
	{ "coding and length",
	  TEXT(POST HOST "Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n"),
	  WIRE_LENGTH_AND_CODING },
	{ "coding in 1.0", TEXT("POST / HTTP/1.0\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"),
	  WIRE_CODING_IN_1_0 },
	{ "gzip, chunked", TEXT(POST HOST "Transfer-Encoding: gzip, chunked\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "chunked, gzip", TEXT(POST HOST "Transfer-Encoding: chunked, gzip\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "chunked, chunked", TEXT(POST HOST "Transfer-Encoding: chunked, chunked\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "xchunked", TEXT(POST HOST "Transfer-Encoding: xchunked\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "identity", TEXT(POST HOST "Transfer-Encoding: identity\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "quoted chunked", TEXT(POST HOST "Transfer-Encoding: \"chunked\"\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "chunked with a parameter", TEXT(POST HOST "Transfer-Encoding: chunked;q=1\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "vertical tab and chunked",
	  TEXT(POST HOST "Transfer-Encoding: \x0b"
			 "chunked\r\n\r\n"),
	  WIRE_BAD_FIELD_VALUE },
	{ "empty coding", TEXT(POST HOST "Transfer-Encoding:\r\n\r\n"), WIRE_BAD_TRANSFER_CODING },
	{ "coding twice",
	  TEXT(POST HOST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"),
	  WIRE_BAD_TRANSFER_CODING },
	{ "equal lengths", TEXT(POST HOST "Content-Length: 2\r\nContent-Length: 2\r\n\r\n"),
	  WIRE_SECOND_CONTENT_LENGTH },
	{ "differing lengths", TEXT(POST HOST "Content-Length: 2\r\ncontent-length: 3\r\n\r\n"),
	  WIRE_SECOND_CONTENT_LENGTH },
	{ "list of lengths", TEXT(POST HOST "Content-Length: 2, 2\r\n\r\n"),
	  WIRE_BAD_CONTENT_LENGTH },
	{ "length +2", TEXT(POST HOST "Content-Length: +2\r\n\r\n"), WIRE_BAD_CONTENT_LENGTH },
	{ "length -2", TEXT(POST HOST "Content-Length: -2\r\n\r\n"), WIRE_BAD_CONTENT_LENGTH },
	{ "length 0x2", TEXT(POST HOST "Content-Length: 0x2\r\n\r\n"), WIRE_BAD_CONTENT_LENGTH },
	{ "length 2 0", TEXT(POST HOST "Content-Length: 2 0\r\n\r\n"), WIRE_BAD_CONTENT_LENGTH },
	{ "empty length", TEXT(POST HOST "Content-Length:\r\n\r\n"), WIRE_BAD_CONTENT_LENGTH },
	{ "length 2^63", TEXT(POST HOST "Content-Length: 9223372036854775808\r\n\r\n"),
	  WIRE_BAD_CONTENT_LENGTH },
	{ "length 2^64", TEXT(POST HOST "Content-Length: 18446744073709551616\r\n\r\n"),
	  WIRE_BAD_CONTENT_LENGTH },
	{ "length 10 * 2^64", TEXT(POST HOST "Content-Length: 184467440737095516160\r\n\r\n"),
	  WIRE_BAD_CONTENT_LENGTH },
	{ "length of 20 digits", TEXT(POST HOST "Content-Length: 00000000000000000002\r\n\r\n"),
	  WIRE_BAD_CONTENT_LENGTH },
	{ "TRACE with a body", TEXT("TRACE / HTTP/1.1\r\n" HOST "Content-Length: 2\r\n\r\n"),
	  WIRE_BODY_NOT_ALLOWED },
	{ "TRACE with chunks",
	  TEXT("TRACE / HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n"),
	  WIRE_BODY_NOT_ALLOWED },
	{ "CONNECT with a body",
	  TEXT("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nContent-Length: 2\r\n\r\n"),
	  WIRE_BODY_NOT_ALLOWED },
	/* RFC 9110, 10.1.1 and 7.6.1 */
	{ "another expectation", TEXT(POST HOST "Expect: foo\r\n\r\n"), WIRE_BAD_EXPECT },
	{ "expectation list", TEXT(POST HOST "Expect: 100-continue, foo\r\n\r\n"),
	  WIRE_BAD_EXPECT },
	{ "expectation twice",
	  TEXT(POST HOST "Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n"), WIRE_BAD_EXPECT },
	{ "option that is no token", TEXT(GET HOST "Connection: a b\r\n\r\n"),
	  WIRE_BAD_FIELD_VALUE },
};

START_TEST(refuses)
{
	const struct refusal *row = &refusals[_i];
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request request;
	enum wire_reason reason = scan_all_cuts(row->name, row->head, row->len);
	char *head = copy_exactly(row->head, row->len);
	/* The parser alone must refuse too: what the scanner saw first may be all that it saw. */
	enum wire_reason parsed = wire_h1_parse_request(head, row->len, &limits, fields, &request);
	free(head);
	if (reason == WIRE_OK)
		reason = parsed;
	ck_assert_msg(reason == row->want, "%s: %s, not %s", row->name, wire_reason_name(reason),
		      wire_reason_name(row->want));
	ck_assert_msg(parsed != WIRE_OK, "%s: the parser took it", row->name);
}
END_TEST

/* want: what describe() prints of the parsed request. */
static const struct acceptance {
	const char *name, *head;
	size_t len;
	const char *want;
} acceptances[] = {
	{ "smallest", TEXT("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "GET(1) / path=/ host=a 1.1" },
	{ "one leading empty line", TEXT("\r\n" GET HOST END),
	  "GET(1) / path=/ host=a.example 1.1" },
	{ "query", TEXT("GET /a?b?c HTTP/1.1\r\n" HOST END),
	  "GET(1) /a?b?c path=/a query=b?c host=a.example 1.1" },
	{ "empty query", TEXT("GET /a? HTTP/1.1\r\n" HOST END),
	  "GET(1) /a? path=/a query= host=a.example 1.1" },
	{ "target of 64 bytes", TEXT("GET " LONG_TARGET "x HTTP/1.1\r\n" HOST END),
	  "GET(1) " LONG_TARGET "x path=" LONG_TARGET "x host=a.example 1.1" },
	{ "lower case is another method", TEXT("get / HTTP/1.1\r\n" HOST END),
	  "get(0) / path=/ host=a.example 1.1" },
	{ "token method", TEXT("M-SEARCH / HTTP/1.1\r\n" HOST END),
	  "M-SEARCH(0) / path=/ host=a.example 1.1" },
	{ "HTTP/1.9 is HTTP/1.1 and more", TEXT("GET / HTTP/1.9\r\n" HOST END),
	  "GET(1) / path=/ host=a.example 1.9" },
	{ "1.0 closes", TEXT("GET / HTTP/1.0\r\n\r\n"), "GET(1) / path=/ host= 1.0 close" },
	{ "1.0 with empty Host", TEXT("GET / HTTP/1.0\r\nHost:\r\n\r\n"),
	  "GET(1) / path=/ host= 1.0 close" },
	{ "1.0 kept alive", TEXT("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"),
	  "GET(1) / path=/ host= 1.0 -Connection" },
	{ "close", TEXT(GET HOST "Connection: close\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 close -Connection" },
	{ "close wins", TEXT(GET HOST "Connection: keep-alive\r\nConnection: ,, Close ,\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 close -Connection -Connection" },
	{ "absolute-form", TEXT("GET http://A.example./x?y HTTP/1.1\r\nHost: a.EXAMPLE:80\r\n\r\n"),
	  "GET(1) /x?y path=/x query=y host=a.EXAMPLE:80 absolute 1.1" },
	{ "absolute-form, https", TEXT("GET HTTPS://a.example:443/ HTTP/1.1\r\n" HOST END),
	  "GET(1) / path=/ host=a.example absolute 1.1" },
	{ "absolute-form without path", TEXT("GET http://a.example HTTP/1.1\r\n" HOST END),
	  "GET(1) / path=/ host=a.example absolute 1.1" },
	{ "absolute-form in 1.0 without Host", TEXT("GET http://a:81/ HTTP/1.0\r\n\r\n"),
	  "GET(1) / path=/ host=a:81 absolute 1.0 close" },
	{ "absolute-form of IPv6", TEXT("GET http://[::0001]/ HTTP/1.1\r\nHost: [::1]\r\n\r\n"),
	  "GET(1) / path=/ host=[::1] absolute 1.1" },
	{ "OPTIONS *", TEXT("OPTIONS * HTTP/1.1\r\n" HOST END),
	  "OPTIONS(6) * path=* host=a.example asterisk 1.1" },
	{ "OPTIONS absolute without path (RFC 9112, 3.2.4)",
	  TEXT("OPTIONS http://a.example HTTP/1.1\r\n" HOST END),
	  "OPTIONS(6) * path=* host=a.example asterisk 1.1" },
	{ "CONNECT", TEXT("CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n"),
	  "CONNECT(8) a.example:443 path= host=a.example:443 authority 1.1" },
	{ "length", TEXT(POST HOST "Content-Length: 10\r\n\r\n"),
	  "POST(3) / path=/ host=a.example 1.1 length=10" },
	{ "length with zeros", TEXT(POST HOST "Content-Length: 0002\r\n\r\n"),
	  "POST(3) / path=/ host=a.example 1.1 length=2" },
	{ "length 2^63 - 1", TEXT(POST HOST "Content-Length: 9223372036854775807\r\n\r\n"),
	  "POST(3) / path=/ host=a.example 1.1 length=9223372036854775807" },
	{ "GET with a body", TEXT(GET HOST "Content-Length: 2\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 length=2" },
	{ "TRACE of length 0", TEXT("TRACE / HTTP/1.1\r\n" HOST "Content-Length: 0\r\n\r\n"),
	  "TRACE(7) / path=/ host=a.example 1.1 length=0" },
	{ "chunked", TEXT(POST HOST "Transfer-Encoding: \tChunked \r\n\r\n"),
	  "POST(3) / path=/ host=a.example 1.1 chunked -Transfer-Encoding" },
	{ "expects 100", TEXT(POST HOST "Expect: 100-Continue\r\n\r\n"),
	  "POST(3) / path=/ host=a.example 1.1 continue" },
	{ "1.0 expects nothing", TEXT("POST / HTTP/1.0\r\nExpect: 100-continue\r\n\r\n"),
	  "POST(3) / path=/ host= 1.0 close" },
	{ "TE", TEXT(GET HOST "TE: gzip;q=0.5, trailers\r\nConnection: TE\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 trailers -TE -Connection" },
	{ "upgrade", TEXT(GET HOST "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 upgrade -Connection -Upgrade" },
	{ "upgrade without Upgrade", TEXT(GET HOST "Connection: Upgrade\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 -Connection" },
	{ "Upgrade that Connection does not name",
	  TEXT(GET HOST "Upgrade: h2c\r\nHTTP2-Settings: x\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 -Upgrade -HTTP2-Settings" },
	{ "upgrade in 1.0", TEXT("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"),
	  "GET(1) / path=/ host= 1.0 close -Connection -Upgrade" },
	{ "hop-by-hop fields",
	  TEXT(GET HOST "Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy: x\r\nProxy-Authorization: "
			"x\r\nTrailer: x\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 -Keep-Alive -Proxy-Connection -Proxy "
	  "-Proxy-Authorization" },
	{ "named by Connection, before and after",
	  TEXT(GET HOST "x-REAL: 1\r\nConnection: X-Real, X-Two\r\nX-two: 2\r\nX-Three: 3\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 -x-REAL -Connection -X-two" },
	{ "protected from Connection",
	  TEXT(POST HOST "Connection: host, cookie, authorization, x-forwarded-for, "
			 "x-forwarded-prefix, content-length\r\n"
			 "Cookie: a\r\nAuthorization: b\r\nX-Forwarded-For: "
			 "c\r\nX-Forwarded-Prefix: d\r\nContent-Length: 0\r\n\r\n"),
	  "POST(3) / path=/ host=a.example 1.1 length=0 -Connection" },
	{ "underscore", TEXT(GET HOST "X_Real_IP: 1\r\nContent_Length: 5\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1 -X_Real_IP -Content_Length" },
	{ "value with tab and bytes above 127", TEXT(GET HOST "X:\ta\tb\xff  \r\nY:\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1" },
	{ "eight fields of eight", TEXT(GET HOST "A:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\nA:\r\n\r\n"),
	  "GET(1) / path=/ host=a.example 1.1" },
	{ "Host of IPv6 with port", TEXT(GET "Host: [2001:DB8::1]:8443\r\n\r\n"),
	  "GET(1) / path=/ host=[2001:DB8::1]:8443 1.1" },
};

static void describe(const struct wire_h1_request *r, char *dst, size_t size)
{
	static const char *const forms[] = { "", " absolute", " authority", " asterisk" };
	int n = snprintf(dst, size, "%.*s(%d) %.*s path=%.*s", (int)r->method_text.len,
			 r->method_text.at, (int)r->method, (int)r->target.len, r->target.at,
			 (int)r->path.len, r->path.at);
	if (r->query.at != NULL)
		n += snprintf(dst + n, size - (size_t)n, " query=%.*s", (int)r->query.len,
			      r->query.at);
	n += snprintf(dst + n, size - (size_t)n, " host=%.*s%s 1.%u%s%s%s%s%s", (int)r->host.len,
		      r->host.at != NULL ? r->host.at : "", forms[r->target_form], r->minor,
		      r->is_chunked ? " chunked" : "", r->wants_close ? " close" : "",
		      r->wants_continue ? " continue" : "", r->accepts_trailers ? " trailers" : "",
		      r->wants_upgrade ? " upgrade" : "");
	if (r->has_length)
		n += snprintf(dst + n, size - (size_t)n, " length=%lld",
			      (long long)r->content_length);
	for (uint32_t i = 0; i < r->field_cnt; i++)
		if (r->fields[i].is_dropped)
			n += snprintf(dst + n, size - (size_t)n, " -%.*s",
				      (int)r->fields[i].name.len, r->fields[i].name.at);
}

START_TEST(accepts)
{
	const struct acceptance *row = &acceptances[_i];
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request request;
	enum wire_reason reason = scan_all_cuts(row->name, row->head, row->len);
	ck_assert_msg(reason == WIRE_OK, "%s: scanner says %s", row->name,
		      wire_reason_name(reason));
	char *head = copy_exactly(row->head, row->len);
	reason = wire_h1_parse_request(head, row->len, &limits, fields, &request);
	ck_assert_msg(reason == WIRE_OK, "%s: %s", row->name, wire_reason_name(reason));
	char text[512];
	describe(&request, text, sizeof(text));
	char host[WIRE_HOST_MAX];
	size_t host_len = 0;
	uint16_t port;
	ck_assert(request.host.len == 0 ||
		  wire_host_normalise(request.host.at, request.host.len, host, &host_len, &port));
	ck_assert_uint_eq(request.host_name_len, host_len);
	ck_assert_mem_eq(request.host_name, host, host_len);
	free(head);
	ck_assert_msg(strcmp(text, row->want) == 0, "%s:\n%s\n%s", row->name, text, row->want);
}
END_TEST

/* Each known name by its own id, in any case; a name one letter off by none. */
static const struct {
	const char *name;
	enum wire_field_id id;
} names[] = {
	{ "HOST", WIRE_FIELD_HOST },
	{ "Connection", WIRE_FIELD_CONNECTION },
	{ "Keep-Alive", WIRE_FIELD_KEEP_ALIVE },
	{ "Proxy-Connection", WIRE_FIELD_PROXY_CONNECTION },
	{ "te", WIRE_FIELD_TE },
	{ "Transfer-Encoding", WIRE_FIELD_TRANSFER_ENCODING },
	{ "content-LENGTH", WIRE_FIELD_CONTENT_LENGTH },
	{ "Upgrade", WIRE_FIELD_UPGRADE },
	{ "HTTP2-Settings", WIRE_FIELD_HTTP2_SETTINGS },
	{ "Expect", WIRE_FIELD_EXPECT },
	{ "Trailer", WIRE_FIELD_TRAILER },
	{ "X-Forwarded-For", WIRE_FIELD_X_FORWARDED_FOR },
	{ "X-Forwarded-Proto", WIRE_FIELD_X_FORWARDED_PROTO },
	{ "X-Forwarded-Host", WIRE_FIELD_X_FORWARDED_HOST },
	{ "X-Forwarded-Port", WIRE_FIELD_X_FORWARDED_PORT },
	{ "X-Real-IP", WIRE_FIELD_X_REAL_IP },
	{ "Forwarded", WIRE_FIELD_FORWARDED },
	{ "Date", WIRE_FIELD_DATE },
	{ "Server", WIRE_FIELD_SERVER },
	{ "Authorization", WIRE_FIELD_AUTHORIZATION },
	{ "Proxy-Authenticate", WIRE_FIELD_PROXY_AUTHENTICATE },
	{ "Proxy-Authorization", WIRE_FIELD_PROXY_AUTHORIZATION },
	{ "Cookie", WIRE_FIELD_COOKIE },
	{ "Set-Cookie", WIRE_FIELD_SET_COOKIE },
	{ "Sec-WebSocket-Key", WIRE_FIELD_SEC_WEBSOCKET_KEY },
	{ "SEC-websocket-version", WIRE_FIELD_SEC_WEBSOCKET_VERSION },
	{ "Sec-WebSocket-Keys", WIRE_FIELD_OTHER },
	{ "Hosts", WIRE_FIELD_OTHER },
	{ "Hosu", WIRE_FIELD_OTHER },
	{ "X-Forwarded-Foo", WIRE_FIELD_OTHER },
	{ "Content_Length", WIRE_FIELD_OTHER },
	{ "X-Name-That-Is-Longer-Than-All", WIRE_FIELD_OTHER },
	{ "A", WIRE_FIELD_OTHER },
};

START_TEST(knows_names)
{
	char line[80];
	struct wire_field field;
	uint32_t cnt = 0;
	int len = snprintf(line, sizeof(line), "%s: x\r\n", names[_i].name);
	ck_assert_int_eq(wire_h1_parse_trailers(line, (size_t)len, 1, &field, &cnt), WIRE_OK);
	ck_assert_uint_eq(cnt, 1);
	ck_assert_msg(field.id == names[_i].id, "%s: id %d", names[_i].name, (int)field.id);
	for (size_t i = 0; i < strlen(names[_i].name); i++) {
		(void)snprintf(line, sizeof(line), "%s: x\r\n", names[_i].name);
		line[i] = line[i] == 'j' ? 'i' : 'j';
		ck_assert_int_eq(wire_h1_parse_trailers(line, (size_t)len, 1, &field, &cnt),
				 WIRE_OK);
		ck_assert_msg(field.id == WIRE_FIELD_OTHER, "%s: id %d", line, (int)field.id);
	}
}
END_TEST

/* Connection may not make the parser compare every option with every field of a large head. */
START_TEST(options_are_bounded)
{
	char head[1024];
	int len = snprintf(head, sizeof(head), GET HOST "Connection: ");
	for (int i = 0; i < 129; i++)
		len += snprintf(head + len, sizeof(head) - (size_t)len, "x%d,", i);
	len += snprintf(head + len, sizeof(head) - (size_t)len, "\r\n\r\n");
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request request;
	ck_assert_int_eq(wire_h1_parse_request(head, (size_t)len, &limits, fields, &request),
			 WIRE_TOO_MANY_FIELDS);
}
END_TEST

START_TEST(reasons_have_names_and_statuses)
{
	for (int i = 0; i < WIRE_REASON_CNT; i++) {
		unsigned status = wire_h1_status((enum wire_reason)i);
		ck_assert_str_ne(wire_reason_name((enum wire_reason)i), "unknown");
		ck_assert(i == WIRE_OK ? status == 200 : status >= 400 && status <= 505);
	}
	ck_assert_uint_eq(wire_h1_status(WIRE_TARGET_TOO_LONG), 414);
	ck_assert_uint_eq(wire_h1_status(WIRE_BAD_EXPECT), 417);
	ck_assert_uint_eq(wire_h1_status(WIRE_TOO_MANY_FIELDS), 431);
	ck_assert_uint_eq(wire_h1_status(WIRE_HEAD_TOO_LARGE), 431);
	ck_assert_uint_eq(wire_h1_status(WIRE_BAD_TRANSFER_CODING), 501);
	ck_assert_uint_eq(wire_h1_status(WIRE_VERSION_TOO_HIGH), 505);
	ck_assert(wire_method_is_idempotent(WIRE_METHOD_PUT));
	ck_assert(!wire_method_is_idempotent(WIRE_METHOD_POST));
	ck_assert(!wire_method_is_idempotent(WIRE_METHOD_OTHER));
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("h1_request");
	TCase *tc = tcase_create("rows");
	tcase_add_loop_test(tc, refuses, 0, ROW_CNT(refusals));
	tcase_add_loop_test(tc, accepts, 0, ROW_CNT(acceptances));
	tcase_add_loop_test(tc, knows_names, 0, ROW_CNT(names));
	tcase_add_test(tc, options_are_bounded);
	tcase_add_test(tc, reasons_have_names_and_statuses);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
