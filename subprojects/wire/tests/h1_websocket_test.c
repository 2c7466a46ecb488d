/* Opening handshakes (RFC 6455, 4.1 and 4.2). */
#include "heads.h"

#define UPGRADE      "Connection: Upgrade\r\nUpgrade: websocket\r\n"
#define KEY          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
#define VERSION      "Sec-WebSocket-Version: 13\r\n"
#define ASKS(fields) TEXT(GET HOST fields END)
#define NONE         WIRE_WEBSOCKET_NONE
#define OK           WIRE_WEBSOCKET_OK
#define BAD          WIRE_WEBSOCKET_BAD
#define BAD_VERSION  WIRE_WEBSOCKET_BAD_VERSION

static const struct {
	const char *name, *head;
	size_t len;
	enum wire_websocket want;
} requests[] = {
	{ "as in RFC 6455, 1.2",
	  TEXT("GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: "
	       "websocket\r\nConnection: Upgrade\r\n" KEY
	       "Origin: http://example.com\r\nSec-WebSocket-Protocol: chat, superchat\r\n" VERSION
		       END),
	  OK },
	{ "any case",
	  ASKS("CONNECTION: uPGRADE\r\nUPGRADE: WebSocket\r\nsec-websocket-key: "
	       "dGhlIHNhbXBsZSBub25jZQ==\r\nSEC-WEBSOCKET-VERSION: 13\r\n"),
	  OK },
	{ "lists",
	  ASKS("Connection: keep-alive, ,Upgrade\r\nUpgrade: h2c , websocket\r\n" KEY VERSION),
	  OK },
	{ "lists in two lines",
	  ASKS("Connection: x\r\nConnection: upgrade\r\nUpgrade: a\r\nUpgrade: websocket\r\n" KEY
		       VERSION),
	  OK },
	{ "white space",
	  ASKS(UPGRADE "Sec-WebSocket-Key: \t dGhlIHNhbXBsZSBub25jZQ== \r\n"
		       "Sec-WebSocket-Version:13\t\r\n"),
	  OK },
	{ "length 0", ASKS(UPGRADE KEY VERSION "Content-Length: 0\r\n"), OK },
	{ "key with + and /",
	  ASKS(UPGRADE VERSION "Sec-WebSocket-Key: ++//++//++//++//++//Aw==\r\n"), OK },
	{ "HTTP/1.2", TEXT("GET / HTTP/1.2\r\n" HOST UPGRADE KEY VERSION END), OK },
	/* no wish */
	{ "nothing of it", ASKS(""), NONE },
	{ "h2c",
	  ASKS("Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n"),
	  NONE },
	{ "another protocol with a key",
	  ASKS("Connection: upgrade\r\nUpgrade: websockets\r\n" KEY VERSION), NONE },
	{ "a version of the protocol",
	  ASKS("Connection: upgrade\r\nUpgrade: websocket/13\r\n" KEY VERSION), NONE },
	{ "Upgrade that Connection does not name", ASKS("Upgrade: websocket\r\n" KEY VERSION),
	  NONE },
	{ "Connection names another",
	  ASKS("Connection: upgrades\r\nUpgrade: websocket\r\n" KEY VERSION), NONE },
	{ "Connection without Upgrade", ASKS("Connection: upgrade\r\n" KEY VERSION), NONE },
	{ "empty Upgrade", ASKS("Connection: upgrade\r\nUpgrade:\r\n" KEY VERSION), NONE },
	{ "HTTP/1.0 (RFC 9110, 7.8)", TEXT("GET / HTTP/1.0\r\n" HOST UPGRADE KEY VERSION END),
	  NONE },
	/* wrong ones */
	{ "no key", ASKS(UPGRADE VERSION), BAD },
	{ "empty key", ASKS(UPGRADE VERSION "Sec-WebSocket-Key:\r\n"), BAD },
	{ "key of 23", ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZ==\r\n"),
	  BAD },
	{ "key of 25", ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQA==\r\n"),
	  BAD },
	{ "key of 17 bytes",
	  ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQA=\r\n"), BAD },
	{ "key of 18 bytes",
	  ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQAA\r\n"), BAD },
	{ "= within the key",
	  ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSB=b25jZQ==\r\n"), BAD },
	{ "- in the key", ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSB-b25jZQ==\r\n"),
	  BAD },
	{ "space in the key",
	  ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSB b25jZQ==\r\n"), BAD },
	{ "byte above 127 in the key",
	  ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSB\xe1"
			       "b25jZQ==\r\n"),
	  BAD },
	{ "two keys", ASKS(UPGRADE KEY KEY VERSION), BAD },
	{ "two keys in one",
	  ASKS(UPGRADE VERSION "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==, a\r\n"), BAD },
	{ "version 8", ASKS(UPGRADE KEY "Sec-WebSocket-Version: 8\r\n"), BAD_VERSION },
	{ "version 0", ASKS(UPGRADE KEY "Sec-WebSocket-Version: 0\r\n"), BAD_VERSION },
	{ "version 255", ASKS(UPGRADE KEY "Sec-WebSocket-Version: 255\r\n"), BAD_VERSION },
	{ "version 14 with another sort of key",
	  ASKS(UPGRADE "Sec-WebSocket-Key: x\r\nSec-WebSocket-Version: 14\r\n"), BAD_VERSION },
	{ "no version", ASKS(UPGRADE KEY), BAD },
	{ "empty version", ASKS(UPGRADE KEY "Sec-WebSocket-Version:\r\n"), BAD },
	{ "version 013", ASKS(UPGRADE KEY "Sec-WebSocket-Version: 013\r\n"), BAD },
	{ "version +13", ASKS(UPGRADE KEY "Sec-WebSocket-Version: +13\r\n"), BAD },
	{ "a list of versions", ASKS(UPGRADE KEY "Sec-WebSocket-Version: 13, 8\r\n"), BAD },
	{ "two versions", ASKS(UPGRADE KEY VERSION VERSION), BAD },
	{ "POST", TEXT(POST HOST UPGRADE KEY VERSION END), BAD },
	{ "HEAD", TEXT("HEAD / HTTP/1.1\r\n" HOST UPGRADE KEY VERSION END), BAD },
	{ "get", TEXT("get / HTTP/1.1\r\n" HOST UPGRADE KEY VERSION END), BAD },
	{ "a body", ASKS(UPGRADE KEY VERSION "Content-Length: 1\r\n"), BAD },
	{ "a chunked body", ASKS(UPGRADE KEY VERSION "Transfer-Encoding: chunked\r\n"), BAD },
	{ "a key that would not go on",
	  ASKS("Connection: upgrade, sec-websocket-key\r\nUpgrade: websocket\r\n" KEY VERSION),
	  BAD },
	{ "a version that would not go on",
	  ASKS(KEY VERSION "Connection: sec-websocket-version, upgrade\r\nUpgrade: websocket\r\n"),
	  BAD },
};

START_TEST(tells_wishes)
{
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request request;
	ck_assert_int_eq(scan_all_cuts(requests[_i].name, requests[_i].head, requests[_i].len),
			 WIRE_OK);
	char *head = copy_exactly(requests[_i].head, requests[_i].len);
	enum wire_reason reason =
		wire_h1_parse_request(head, requests[_i].len, &limits, fields, &request);
	free(head);
	ck_assert_msg(reason == WIRE_OK, "%s: %s", requests[_i].name, wire_reason_name(reason));
	ck_assert_msg(request.websocket == requests[_i].want, "%s: %d", requests[_i].name,
		      (int)request.websocket);
}
END_TEST

static const struct {
	const char *name, *head;
	size_t len;
	bool want;
} responses[] = {
	{ "101",
	  TEXT("HTTP/1.1 101 x\r\n" UPGRADE
	       "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"),
	  true },
	{ "any case, a list in Connection",
	  TEXT("HTTP/1.1 101 x\r\nconnection: x, UPGRADE\r\nupgrade: WebSocket\r\n\r\n"), true },
	{ "no Connection", TEXT("HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n"), false },
	{ "no Upgrade", TEXT("HTTP/1.1 101 x\r\nConnection: upgrade\r\n\r\n"), false },
	{ "another protocol", TEXT("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n"),
	  false },
	{ "two protocols",
	  TEXT("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"), false },
	{ "two protocols in two lines", TEXT("HTTP/1.1 101 x\r\n" UPGRADE "Upgrade: h2c\r\n\r\n"),
	  false },
	{ "200", TEXT("HTTP/1.1 200 x\r\n" UPGRADE "\r\n"), false },
	{ "100", TEXT("HTTP/1.1 100 x\r\n" UPGRADE "\r\n"), false },
	{ "1.0", TEXT("HTTP/1.0 101 x\r\n" UPGRADE "\r\n"), false },
};

START_TEST(tells_answers)
{
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_response response;
	char *head = copy_exactly(responses[_i].head, responses[_i].len);
	enum wire_reason reason =
		wire_h1_parse_response(head, responses[_i].len, &limits, fields, &response);
	free(head);
	ck_assert_msg(reason == WIRE_OK, "%s: %s", responses[_i].name, wire_reason_name(reason));
	ck_assert_msg(response.is_websocket == responses[_i].want, "%s", responses[_i].name);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("h1_websocket");
	TCase *tc = tcase_create("rows");
	tcase_add_loop_test(tc, tells_wishes, 0, ROW_CNT(requests));
	tcase_add_loop_test(tc, tells_answers, 0, ROW_CNT(responses));
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
