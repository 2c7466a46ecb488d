/* The byte formats: a head as wrk sends it, one of a browser, an origin's answer, chunks, a ClientHello. */
#include <string.h>

#include "../../../subprojects/wire/tests/hello_real.h"
#include "micro.h"
#include "smartproxy/assert.h"
#include "wire/h1.h"
#include "wire/tls.h"
#include "wire/uri.h"

static const char small[] = "GET /static/page.html HTTP/1.1\r\nHost: localhost\r\n\r\n";
static const char browser[] =
	"GET /shop/list?page=3&sort=price HTTP/1.1\r\nHost: www.example.com\r\n"
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
	"Chrome/128.0.0.0 Safari/537.36\r\n"
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
	"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: de-CH,de;q=0.9,en;q=0.7\r\n"
	"Cache-Control: max-age=0\r\nConnection: keep-alive\r\nDNT: 1\r\n"
	"Referer: https://www.example.com/shop/list?page=2&sort=price\r\n"
	"Cookie: session=5e1f5e1f5e1f5e1f5e1f5e1f5e1f5e1f5e1f5e1f5e1f5e1f; consent=all; "
	"theme=dark; _ga=GA1.2.1234567890.1700000000; cart=b7b7b7b7b7b7b7b7b7b7b7b7b7b7\r\n"
	"Sec-Fetch-Dest: document\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Site: same-origin\r\n"
	"Sec-Fetch-User: ?1\r\nUpgrade-Insecure-Requests: 1\r\n\r\n";
static const char answer[] =
	"HTTP/1.1 200 OK\r\nServer: origin/1.22.1\r\nDate: Mon, 23 Nov 2026 10:00:00 GMT\r\n"
	"Content-Type: text/plain\r\nContent-Length: 1024\r\n"
	"Last-Modified: Sun, 22 Nov 2026 10:00:00 GMT\r\nConnection: keep-alive\r\n"
	"ETag: \"6561d8e0-400\"\r\nAccept-Ranges: bytes\r\n\r\n";

struct bytes {
	const char *at;
	size_t len;
};

static const struct wire_h1_limits limits = { .target_bytes = 8192, .field_cnt = 100 };

static void scan(const struct bytes *head)
{
	struct wire_h1_scan state = { 0 };
	size_t len = 0;
	SP_ASSERT(wire_h1_scan_head(&state, head->at, head->len, &len) == WIRE_DONE);
	MICRO_KEEP(len);
}

static void read_request(void *arg, size_t cnt)
{
	const struct bytes *head = arg;
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request request;
	for (size_t i = 0; i < cnt; i++) {
		scan(head);
		SP_ASSERT(wire_h1_parse_request(head->at, head->len, &limits, fields, &request) ==
			  WIRE_OK);
		MICRO_KEEP(&request);
	}
}

static void read_response(void *arg, size_t cnt)
{
	const struct bytes *head = arg;
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_response response;
	for (size_t i = 0; i < cnt; i++) {
		scan(head);
		SP_ASSERT(wire_h1_parse_response(head->at, head->len, &limits, fields, &response) ==
			  WIRE_OK);
		MICRO_KEEP(&response);
	}
}

static void scan_only(void *arg, size_t cnt)
{
	for (size_t i = 0; i < cnt; i++)
		scan(arg);
}

static void find_ctl(void *arg, size_t cnt)
{
	const struct bytes *b = arg;
	for (size_t i = 0; i < cnt; i++)
		MICRO_KEEP(wire_scan_ctl(b->at, b->len));
}

static void find_ctl_portable(void *arg, size_t cnt)
{
	const struct bytes *b = arg;
	for (size_t i = 0; i < cnt; i++)
		MICRO_KEEP(wire_scan_ctl_portable(b->at, b->len));
}

static void decode_chunks(void *arg, size_t cnt)
{
	const struct bytes *b = arg;
	for (size_t i = 0; i < cnt; i++) {
		struct wire_chunked c = { 0 };
		struct wire_span trailer;
		enum wire_step step = WIRE_MORE;
		for (size_t at = 0; step == WIRE_MORE;) {
			size_t used = 0, data_len = 0;
			step = wire_chunked_decode(&c, b->at + at, b->len - at, &used, &data_len,
						   &trailer);
			SP_ASSERT(used > 0);
			at += used;
		}
		SP_ASSERT(step == WIRE_DONE);
	}
}

static void parse_hello(void *arg, size_t cnt)
{
	const struct bytes *b = arg;
	struct wire_hello hello;
	enum wire_hello_reason reason;
	for (size_t i = 0; i < cnt; i++) {
		SP_ASSERT(wire_hello_parse((const uint8_t *)b->at, b->len, &hello, &reason) ==
			  WIRE_DONE);
		MICRO_KEEP(&hello);
	}
}

static void normalise_host(void *arg, size_t cnt)
{
	const struct bytes *b = arg;
	char dst[WIRE_HOST_MAX];
	size_t len = 0;
	uint16_t port = 0;
	for (size_t i = 0; i < cnt; i++) {
		SP_ASSERT(wire_host_normalise(b->at, b->len, dst, &len, &port));
		MICRO_KEEP(dst);
	}
}

static void normalise_path(void *arg, size_t cnt)
{
	const struct bytes *b = arg;
	char dst[256];
	size_t len = 0;
	for (size_t i = 0; i < cnt; i++) {
		SP_ASSERT(b->len <= sizeof(dst) && wire_path_normalise(b->at, b->len, dst, &len));
		MICRO_KEEP(dst);
	}
}

static size_t unhex(const char *hex, char *dst, size_t cap)
{
	static const char digits[] = "0123456789abcdef";
	size_t len = strlen(hex) / 2;
	SP_ASSERT(len <= cap);
	for (size_t i = 0; i < len; i++)
		dst[i] = (char)((strchr(digits, hex[2 * i]) - digits) << 4 |
				(strchr(digits, hex[2 * i + 1]) - digits));
	return len;
}

/* head: a chunk's first line. Gives the length. */
static size_t make_chunks(const char *head, size_t chunk_len, size_t cnt, char *dst, size_t cap)
{
	size_t head_len = strlen(head), at = 0;
	for (size_t i = 0; i < cnt; i++) {
		SP_ASSERT(at + head_len + chunk_len + 2 + 5 <= cap);
		memcpy(dst + at, head, head_len);
		memset(dst + at + head_len, 'x', chunk_len);
		memcpy(dst + at + head_len + chunk_len, "\r\n", 2);
		at += head_len + chunk_len + 2;
	}
	memcpy(dst + at, "0\r\n\r\n", 5);
	return at + 5;
}

static void time_bytes(const char *name, micro_body *body, const char *at, size_t len)
{
	struct bytes b = { at, len };
	micro_time(name, len, body, &b);
}

void micro_wire(void)
{
	static char buffer[70000];
	size_t browser_len = sizeof(browser) - 1;
	time_bytes("wire.request_small", read_request, small, sizeof(small) - 1);
	time_bytes("wire.request_browser", read_request, browser, browser_len);
	time_bytes("wire.response", read_response, answer, sizeof(answer) - 1);
	time_bytes("wire.head_end_browser", scan_only, browser, browser_len);
	memset(buffer, 'a', 1024);
	time_bytes("wire.field_scan_1k", find_ctl, buffer, 1024);
	time_bytes("wire.field_scan_1k_portable", find_ctl_portable, buffer, 1024);
	size_t len = make_chunks("1000\r\n", 4096, 16, buffer, sizeof(buffer));
	time_bytes("wire.chunked_64k_by_4k", decode_chunks, buffer, len);
	len = make_chunks("10\r\n", 16, 1024, buffer, sizeof(buffer));
	time_bytes("wire.chunked_16k_by_16", decode_chunks, buffer, len);
	len = unhex(HELLO_OPENSSL_BOTH, buffer, sizeof(buffer));
	time_bytes("wire.client_hello", parse_hello, buffer, len);
	time_bytes("wire.host_normalise", normalise_host, "www.Example.com:8443", 20);
	time_bytes("wire.path_normalise", normalise_path, "/shop/list/%7Euser/page.html", 28);
}
