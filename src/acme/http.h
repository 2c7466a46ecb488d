#pragma once
/* acme, private: HTTP requests by libcurl's multi interface on the control loop. Never blocks.
 *
 * HTTP/1.1 with keep-alive, https only, the system's trust store plus ca_file. Limits: a body of 1
 * MiB, 10 s to connect, 30 s in all. A signed body is written once: when a kept connection turns
 * out to be dead, the answer is is_stale and the caller signs anew (RFC 8555, 6.5: a nonce is used
 * once). */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/err.h"
#include "smartproxy/loop.h"
#include "smartproxy/text.h"

struct http;
struct http_call;

enum http_method { HTTP_GET, HTTP_HEAD, HTTP_POST };
struct http_request {
	enum http_method method;
	const char *url;
	const char *body; /* copied; POST only, application/jose+json */
	size_t body_len;
	const char *accept; /* NULL: none */
};
struct http_response { /* valid during done */
	enum err err;  /* ERR_OK: a whole answer; ERR_NETWORK, ERR_TIMEOUT, ERR_TLS, ERR_LIMIT,
			  ERR_NOMEM */
	bool is_stale;
	long status; /* 0: no head arrived. With an error: the head arrived, the body did not */
	const char *body; /* NUL-terminated */
	size_t body_len;
	const char *nonce, *location, *retry_after; /* "" when absent */
	const char *error_text;                     /* libcurl's words */
};
typedef void http_done(void *arg, const struct http_response *response);

enum err http_new(struct loop *loop, const char *ca_file, struct http **ret_http) SP_MUST_USE;
/* Drops what is under way without calling done. Not inside a done. */
void http_free(struct http *http);
/* done is called once, never before http_send returns. */
enum err http_send(struct http *http, const struct http_request *request, http_done *done,
		   void *arg, struct http_call **ret_call) SP_MUST_USE;
/* done will not be called. */
void http_cancel(struct http_call *call);
