#pragma once
/* wire: HTTP/1.1 messages (RFC 9112) as pure functions on bytes. libc only, no allocation, no I/O,
 * no clock.
 *
 * Threads: any; no state but what the caller passes.
 * Lifetime: spans point into the bytes that the caller passed.
 * Security: every byte comes from a network and nothing in it can reach an assertion. What is
 * ambiguous is refused.
 * Standards: RFC 9112 (syntax and framing), RFC 9110 (fields, Host, Connection, Expect), RFC 3986
 * (authority). */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/uri.h"

enum wire_step { WIRE_DONE, WIRE_MORE, WIRE_FAIL };

/* Why a message was refused; wire_h1_status gives the answer to send, wire_reason_name its name for
 * metrics. */
enum wire_reason {
	WIRE_OK = 0,
	WIRE_BAD_REQUEST_LINE,
	WIRE_BAD_METHOD,
	WIRE_BAD_TARGET,
	WIRE_TARGET_TOO_LONG,
	WIRE_BAD_VERSION,      /* not HTTP/1.x at all */
	WIRE_VERSION_TOO_HIGH, /* HTTP/2 and above: 505 */
	WIRE_BAD_STATUS_LINE,
	WIRE_BARE_LF,
	WIRE_BARE_CR,
	WIRE_NUL,
	WIRE_BAD_FIELD_NAME,
	WIRE_SPACE_BEFORE_COLON,
	WIRE_BAD_FIELD_VALUE,
	WIRE_OBS_FOLD,
	WIRE_TOO_MANY_FIELDS,
	WIRE_HEAD_TOO_LARGE,
	WIRE_NO_HOST,
	WIRE_SECOND_HOST,
	WIRE_BAD_HOST,
	WIRE_HOST_MISMATCH, /* absolute-form authority differs from Host */
	WIRE_BAD_CONTENT_LENGTH,
	WIRE_SECOND_CONTENT_LENGTH,
	WIRE_LENGTH_AND_CODING, /* Content-Length with Transfer-Encoding */
	WIRE_BAD_TRANSFER_CODING,
	WIRE_CODING_IN_1_0,
	WIRE_BODY_NOT_ALLOWED, /* TRACE or CONNECT with a body */
	WIRE_BAD_EXPECT,
	WIRE_BAD_CHUNK_SIZE,
	WIRE_BAD_CHUNK_EXT,
	WIRE_BAD_CHUNK_END,
	WIRE_BAD_TRAILER,
	WIRE_REASON_CNT,
};

const char *wire_reason_name(enum wire_reason reason); /* "bare_lf" */
/* The status to answer a refused request with: 400, 414, 417, 431, 501 or 505. */
unsigned wire_h1_status(enum wire_reason reason);
/* The reason phrase that RFC 9110, 15 gives a status; "" when this table has none. Static storage. */
const char *wire_h1_status_phrase(unsigned status);

struct wire_span {
	const char *at;
	uint32_t len;
};

/* Fields that the proxy itself has to know; everything else is WIRE_FIELD_OTHER. */
enum wire_field_id {
	WIRE_FIELD_OTHER,
	WIRE_FIELD_HOST,
	WIRE_FIELD_CONNECTION,
	WIRE_FIELD_KEEP_ALIVE,
	WIRE_FIELD_PROXY_CONNECTION,
	WIRE_FIELD_TE,
	WIRE_FIELD_TRANSFER_ENCODING,
	WIRE_FIELD_CONTENT_LENGTH,
	WIRE_FIELD_UPGRADE,
	WIRE_FIELD_HTTP2_SETTINGS,
	WIRE_FIELD_EXPECT,
	WIRE_FIELD_TRAILER,
	WIRE_FIELD_X_FORWARDED_FOR,
	WIRE_FIELD_X_FORWARDED_PROTO,
	WIRE_FIELD_X_FORWARDED_HOST,
	WIRE_FIELD_X_FORWARDED_PORT,
	WIRE_FIELD_X_REAL_IP,
	WIRE_FIELD_FORWARDED,
	WIRE_FIELD_DATE,
	WIRE_FIELD_SERVER,
	WIRE_FIELD_AUTHORIZATION,
	WIRE_FIELD_PROXY_AUTHENTICATE,
	WIRE_FIELD_PROXY_AUTHORIZATION,
	WIRE_FIELD_COOKIE,
	WIRE_FIELD_SET_COOKIE,
	WIRE_FIELD_SEC_WEBSOCKET_KEY,
	WIRE_FIELD_SEC_WEBSOCKET_VERSION,
};

/* One header or trailer field. value has no surrounding white space; that of Content-Length no
 * leading zeros. */
struct wire_field {
	struct wire_span name, value;
	enum wire_field_id id;
	/* Not to be forwarded: hop-by-hop by RFC 9110, 7.6.1, Proxy and Proxy-* (but Proxy-Status),
	 * named by Connection (except the protected ones: Host, X-Forwarded-*, Forwarded,
	 * Authorization, Cookie, Content-Length), or a name with '_' (CGI ambiguity, nginx's way).
	 */
	bool is_dropped;
};

#define WIRE_FIELDS_MAX 128 /* room of the caller's array; the configured limit is at most this */

struct wire_h1_limits {
	uint32_t target_bytes; /* request target; more is WIRE_TARGET_TOO_LONG */
	uint32_t field_cnt;    /* at most WIRE_FIELDS_MAX */
};

/* Finds the end of a head. Zero-initialised before the first byte; each byte is looked at once,
 * however the bytes arrive (so a slow sender costs nothing extra). */
struct wire_h1_scan {
	uint32_t seen;       /* bytes already scanned */
	uint32_t line_start; /* offset of the current line */
	enum wire_reason reason;
};
/* data is the whole head so far, from its first byte. DONE: *ret_head_len is the length of the head
 * with its final empty line. FAIL (reason in scan): bare LF, bare CR, NUL. One leading empty line
 * (CRLF) is part of the head. The caller enforces the limit on bytes (WIRE_HEAD_TOO_LARGE) while it
 * gets MORE. */
enum wire_step wire_h1_scan_head(struct wire_h1_scan *scan, const char *data, size_t len,
				 size_t *ret_head_len);

enum wire_method {
	WIRE_METHOD_OTHER,
	WIRE_METHOD_GET,
	WIRE_METHOD_HEAD,
	WIRE_METHOD_POST,
	WIRE_METHOD_PUT,
	WIRE_METHOD_DELETE,
	WIRE_METHOD_OPTIONS,
	WIRE_METHOD_TRACE,
	WIRE_METHOD_CONNECT,
	WIRE_METHOD_PATCH,
};
/* Safe to send twice (RFC 9110, 9.2.2): GET HEAD PUT DELETE OPTIONS TRACE. */
bool wire_method_is_idempotent(enum wire_method method);

enum wire_target_form {
	WIRE_TARGET_ORIGIN,
	WIRE_TARGET_ABSOLUTE,
	WIRE_TARGET_AUTHORITY,
	WIRE_TARGET_ASTERISK
};

/* An opening handshake (RFC 6455, 4.1 and 4.2.1): GET, Upgrade that holds "websocket", Connection that holds
 * "upgrade", no body, one Sec-WebSocket-Version 13, one Sec-WebSocket-Key of 16 bytes in base64. */
enum wire_websocket {
	WIRE_WEBSOCKET_NONE, /* no such wish, or in HTTP/1.0: the request is ordinary without its Upgrade */
	WIRE_WEBSOCKET_OK,
	WIRE_WEBSOCKET_BAD_VERSION, /* right but for another version: 426 with Sec-WebSocket-Version: 13 */
	WIRE_WEBSOCKET_BAD,         /* 400 */
};

struct wire_h1_request {
	enum wire_method method;
	enum wire_target_form target_form;
	struct wire_span method_text;
	/* Path and query, as to be forwarded: "/" for an empty absolute-form path, "*" for OPTIONS
	 * without one (RFC 9112, 3.2.4), the authority for CONNECT. "/" and "*" may be constants
	 * outside the head. */
	struct wire_span target;
	struct wire_span path;  /* up to '?', as received; "*" for "*", empty for CONNECT */
	struct wire_span query; /* after '?', without it; at == NULL when there is none */
	struct wire_span host;  /* Host field (or authority), with port; empty only in HTTP/1.0 */
	unsigned minor;         /* HTTP/1.minor */
	bool is_chunked;
	bool has_length;
	int64_t content_length; /* bytes, when has_length */
	bool wants_close;       /* Connection: close, or HTTP/1.0 without keep-alive */
	bool wants_continue;    /* Expect: 100-continue, only on 1.1 */
	bool accepts_trailers;  /* TE: trailers */
	bool wants_upgrade;     /* Connection: upgrade with an Upgrade field */
	enum wire_websocket websocket;
	uint32_t field_cnt;
	struct wire_field *fields; /* the caller's array */
	size_t host_name_len;
	char host_name[WIRE_HOST_MAX]; /* host by wire_host_normalise, without the port */
};

/* Parses a whole head (as found by wire_h1_scan_head). fields has room for limits->field_cnt
 * entries; after a failure *ret_request is empty. Every check of RFC 9112 and of the rules above is made here:
 * a request that passes can be framed, routed and re-serialised. */
enum wire_reason wire_h1_parse_request(const char *head, size_t len,
				       const struct wire_h1_limits *limits,
				       struct wire_field *fields,
				       struct wire_h1_request *ret_request);

struct wire_h1_response {
	unsigned status; /* 100 to 999 */
	unsigned minor;
	struct wire_span reason_phrase;
	bool is_chunked;
	bool has_length;
	int64_t content_length;
	bool wants_close;
	bool is_websocket; /* 101 of 1.1, Upgrade just "websocket", Connection that holds "upgrade" */
	uint32_t field_cnt;
	struct wire_field *fields;
};
/* The same rules for an origin's answer; any reason here is a 502 to the client. A response with
 * neither length nor coding ends with the connection (RFC 9112, 6.3). 1xx and 204 with a coding or
 * a length other than 0 are refused (RFC 9110, 8.6); a length of 0 there is_dropped. The caller
 * knows of HEAD and 304 (no body whatever the fields say). */
enum wire_reason wire_h1_parse_response(const char *head, size_t len,
					const struct wire_h1_limits *limits,
					struct wire_field *fields,
					struct wire_h1_response *ret_response);

/* Chunked coding (RFC 9112, 7.1), decoding. Zero-initialised before the first byte. Strict: 1 to 15
 * hex digits, CRLF only, extensions parsed and dropped (256 bytes each chunk, 8 KiB a message). */
struct wire_chunked {
	uint64_t left; /* data bytes left of the current chunk; in the trailer section, where its
			  line begins */
	uint32_t ext_bytes;     /* of this message */
	uint32_t ext_here;      /* of this chunk */
	uint32_t trailer_bytes; /* of the unconsumed trailer section, already looked at */
	uint8_t state;
	uint8_t digit_cnt;
	enum wire_reason reason;
};
/* Consumes framing from data and reports the next run of payload: *ret_used bytes were looked at,
 * of which the LAST *ret_data_len are payload (the bytes before them are framing). DONE: the whole
 * body has been read, ret_used bytes belong to it, the trailer section (without the final empty
 * line) lies in *ret_trailer inside data. MORE: call again with the bytes after ret_used
 * (ret_data_len may be 0). While the trailer section is incomplete, MORE leaves it unconsumed, so
 * that it is contiguous when it is complete; a caller whose buffer is full then refuses. FAIL:
 * reason in the decoder. Never reads past len. */
enum wire_step wire_chunked_decode(struct wire_chunked *c, const char *data, size_t len,
				   size_t *ret_used, size_t *ret_data_len,
				   struct wire_span *ret_trailer);
/* Parses a trailer section (field lines with CRLF, no final empty line). Fields that must not be in
 * a trailer (framing, routing, request modifiers, authentication, response control: RFC
 * 9110, 6.5.1) come back with is_dropped. */
enum wire_reason wire_h1_parse_trailers(const char *data, size_t len, uint32_t field_max,
					struct wire_field *fields, uint32_t *ret_field_cnt);

/* Portable and SIMD search for the first byte that is a CTL (0x00-0x1f except HTAB, or 0x7f). The
 * fast one is chosen at run time (AVX2, SSE4.2, portable). Both return len when there is none.
 * Never read beyond len. */
size_t wire_scan_ctl(const char *data, size_t len);
size_t wire_scan_ctl_portable(const char *data, size_t len);
