/* What is written: request heads to targets, answers and replies to clients. Always from the parsed
 * form; lines that came just as they are to be written are copied together. */
#include <string.h>

#include "proxy.h"
#include "smartproxy/text.h"

/* Appends to a flow's buffer, which grows to the head size once; afterwards a lack of room marks the writer
 * failed, and what is still written is taken back by finish. */
struct writer {
	struct exchange *x;
	struct buf *buf;
	char *at, *end;    /* free part of buf; buf->end is set by finish */
	size_t len_before; /* what buf held at the start, to go back to */
	bool has_failed;
};

static bool grow(struct writer *w, size_t len)
{
	struct buf *buf = w->buf;
	buf->end = (uint32_t)(w->at - buf->data);
	if (w->has_failed || buf->cap == BUF_LARGE_BYTES || !buf_grow(buf, &w->x->worker->bufs) ||
	    len > buf_space(buf)) {
		w->has_failed = true;
		return false;
	}
	w->at = buf_tail(buf);
	w->end = w->at + buf_space(buf);
	return true;
}

/* Inlined: most of what is put is a literal, which then is a few stores. */
__attribute__((always_inline)) static inline void put(struct writer *w, const char *s, size_t len)
{
	if (!SP_LIKELY(len <= (size_t)(w->end - w->at)) && !grow(w, len))
		return;
	memcpy(w->at, s, len);
	w->at += len;
}

static void put_text(struct writer *w, const char *s)
{
	put(w, s, strlen(s));
}

#define PUT(w, literal) put((w), (literal), sizeof(literal) - 1)

static void put_span(struct writer *w, const struct wire_span *span)
{
	put(w, span->at, span->len);
}

static void put_number(struct writer *w, uint64_t value)
{
	char digits[24];
	size_t at = sizeof(digits);
	do {
		digits[--at] = (char)('0' + value % 10);
		value /= 10;
	} while (value > 0);
	put(w, digits + at, sizeof(digits) - at);
}

/* Whether its line was sent as it is written: "name: value" and CRLF, with no other white space. */
static bool is_canonical(const struct wire_field *field)
{
	const struct wire_span *value = &field->value;
	return value->at == field->name.at + field->name.len + 2 && value->at[-1] == ' ' &&
	       value->at[value->len] == '\r';
}

static void put_field(struct writer *w, const struct wire_field *field)
{
	put_span(w, &field->name);
	PUT(w, ": ");
	put_span(w, &field->value);
	PUT(w, "\r\n");
}

#define ID(id) (UINT64_C(1) << (id))

/* All but those that are dropped or among left_out (bits of ids). Neighbours that were sent as they are written go
 * in one piece. Returns the ids that there were. */
static uint64_t put_fields(struct writer *w, const struct wire_field *fields, uint32_t cnt,
			   uint64_t left_out)
{
	uint64_t seen = 0;
	const char *run = "", *run_end = run; /* lines to be put */
	for (const struct wire_field *field = fields; field < fields + cnt; field++) {
		seen |= ID(field->id);
		if (field->is_dropped || (left_out & ID(field->id)) != 0)
			continue;
		if (!is_canonical(field)) {
			put(w, run, (size_t)(run_end - run));
			put_field(w, field);
			run = run_end = "";
			continue;
		}
		if (field->name.at != run_end) {
			put(w, run, (size_t)(run_end - run));
			run = field->name.at;
		}
		run_end = field->value.at + field->value.len + 2;
	}
	put(w, run, (size_t)(run_end - run));
	return seen;
}

static bool start(struct writer *w, struct exchange *x, struct buf *buf)
{
	if (!buf_reserve(buf, &x->worker->bufs) && !buf_grow(buf, &x->worker->bufs))
		return false;
	*w = (struct writer){ .x = x,
			      .buf = buf,
			      .at = buf_tail(buf),
			      .end = buf_tail(buf) + buf_space(buf),
			      .len_before = buf_len(buf) };
	return true;
}

/* A head that does not fit is taken back whole: another one may follow in its place. */
static bool finish(struct writer *w)
{
	w->buf->end = w->has_failed ? w->buf->start + (uint32_t)w->len_before
				    : (uint32_t)(w->at - w->buf->data);
	return !w->has_failed;
}

/* ---- to targets ---- */

/* The client's own address is what this edge knows; what the client said of itself is not passed on. */
#define REWRITTEN                                                                                 \
	(ID(WIRE_FIELD_HOST) | ID(WIRE_FIELD_CONTENT_LENGTH) | ID(WIRE_FIELD_TRANSFER_ENCODING) | \
	 ID(WIRE_FIELD_CONNECTION) | ID(WIRE_FIELD_EXPECT) | ID(WIRE_FIELD_TE) |                  \
	 ID(WIRE_FIELD_UPGRADE) | ID(WIRE_FIELD_X_FORWARDED_FOR) |                                \
	 ID(WIRE_FIELD_X_FORWARDED_PROTO) | ID(WIRE_FIELD_X_FORWARDED_HOST) |                     \
	 ID(WIRE_FIELD_X_FORWARDED_PORT) | ID(WIRE_FIELD_FORWARDED))

static void put_forwarded(struct writer *w)
{
	const struct exchange *x = w->x;
	struct conn *conn = x->conn;
	if (conn->client_text_len == 0) {
		char text[ADDR_TEXT_MAX];
		(void)addr_format_ip(text, sizeof(text), &conn->client);
		conn->client_text_len = (uint8_t)strlen(text);
		SP_ASSERT(conn->client_text_len <= sizeof(conn->client_text));
		memcpy(conn->client_text, text, conn->client_text_len);
	}
	struct wire_span ip = { conn->client_text, conn->client_text_len };
	bool is_v6 = conn->client.sa.sa_family == AF_INET6;
	PUT(w, "X-Forwarded-For: ");
	put_span(w, &ip);
	if (conn->tls != NULL)
		PUT(w, "\r\nX-Forwarded-Proto: https\r\n");
	else
		PUT(w, "\r\nX-Forwarded-Proto: http\r\n");
	if (x->request.host.len > 0) {
		PUT(w, "X-Forwarded-Host: ");
		put_span(w, &x->request.host);
		PUT(w, "\r\n");
	}
	/* RFC 7239, 4 and 6: an IPv6 address is bracketed and quoted, a host may hold ':' and is
	 * quoted. */
	PUT(w, "Forwarded: for=");
	if (is_v6)
		PUT(w, "\"[");
	put_span(w, &ip);
	if (is_v6)
		PUT(w, "]\"");
	if (x->request.host.len > 0) {
		PUT(w, ";host=\"");
		put_span(w, &x->request.host);
		PUT(w, "\"");
	}
	if (conn->tls != NULL)
		PUT(w, ";proto=https\r\n");
	else
		PUT(w, ";proto=http\r\n");
}

static void put_request_framing(struct writer *w)
{
	const struct wire_h1_request *request = &w->x->request;
	if (request->is_chunked) {
		PUT(w, "Transfer-Encoding: chunked\r\n");
	} else if (request->has_length) {
		PUT(w, "Content-Length: ");
		put_number(w, (uint64_t)request->content_length);
		PUT(w, "\r\n");
	}
	/* The one protocol that connections are upgraded to (RFC 6455, 4.1). */
	if (request->websocket == WIRE_WEBSOCKET_OK)
		PUT(w, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
	else if (request->accepts_trailers)
		PUT(w, "Connection: TE\r\nTE: trailers\r\n"); /* RFC 9110, 10.1.4 */
}

bool head_write_request(struct exchange *x)
{
	struct writer w;
	if (!start(&w, x, &x->to_upstream.buf))
		return false;
	const struct wire_h1_request *request = &x->request;
	put_span(&w, &request->method_text);
	PUT(&w, " ");
	put_span(&w, &request->target);
	PUT(&w, " HTTP/1.1\r\nHost: ");
	if (x->route->config->action.wants_host_kept && request->host.len > 0)
		put_span(&w, &request->host);
	else
		put_text(&w, upstream_name(x->to.up->upstream));
	PUT(&w, "\r\n");
	(void)put_fields(&w, request->fields, request->field_cnt, REWRITTEN);
	put_forwarded(&w);
	put_request_framing(&w);
	PUT(&w, "\r\n");
	return finish(&w);
}

void head_write_trailers(struct flow *flow, const struct body_source *source)
{
	for (uint32_t i = 0; i < source->trailer_cnt; i++) {
		const struct wire_field *field = &source->trailers[i];
		size_t len = (size_t)field->name.len + field->value.len + 4;
		/* The final empty line must fit as well. */
		if (field->is_dropped || len + 2 > buf_space(&flow->buf))
			continue;
		(void)buf_append(&flow->buf, field->name.at, field->name.len);
		(void)buf_append(&flow->buf, ": ", 2);
		(void)buf_append(&flow->buf, field->value.at, field->value.len);
		(void)buf_append(&flow->buf, "\r\n", 2);
	}
}

/* ---- to clients ---- */

static void put_status(struct writer *w, unsigned status, const struct wire_span *phrase)
{
	char line[] = "HTTP/1.1 200 "; /* status is of three digits */
	line[9] = (char)('0' + status / 100);
	line[10] = (char)('0' + status / 10 % 10);
	line[11] = (char)('0' + status % 10);
	put(w, line, sizeof(line) - 1);
	if (phrase != NULL)
		put_span(w, phrase);
	else
		put_text(w, wire_h1_status_phrase(status));
	PUT(w, "\r\n");
}

static void put_connection(struct writer *w)
{
	if (w->x->wants_close)
		PUT(w, "Connection: close\r\n");
	else if (w->x->request.minor == 0)
		PUT(w, "Connection: keep-alive\r\n");
}

static void put_date(struct writer *w)
{
	PUT(w, "Date: ");
	put_text(w, worker_date(w->x->worker));
	PUT(w, "\r\n");
}

/* Leads this client back to its target (RFC 6265, 4.1). */
static void put_sticky_cookie(struct writer *w)
{
	const struct exchange *x = w->x;
	const struct upstream_group *group = x->route->group;
	char value[UPSTREAM_COOKIE_LEN];
	upstream_cookie(group, &x->to.choice, value);
	PUT(w, "Set-Cookie: ");
	put_text(w, upstream_group_config(group)->cookie);
	PUT(w, "=");
	put(w, value, sizeof(value));
	PUT(w, "; Path=/; HttpOnly; SameSite=Lax");
	if (x->conn->tls != NULL)
		PUT(w, "; Secure");
	PUT(w, "\r\n");
}

bool head_write_response(struct exchange *x, const struct wire_h1_response *response)
{
	struct writer w;
	if (!start(&w, x, &x->to_client.buf))
		return false;
	put_status(&w, response->status, &response->reason_phrase);
	bool is_final = response->status >= 200;
	bool is_upgrade = response->status == 101;
	uint64_t seen =
		put_fields(&w, response->fields, response->field_cnt,
			   ID(WIRE_FIELD_CONTENT_LENGTH) | ID(WIRE_FIELD_TRANSFER_ENCODING) |
				   ID(WIRE_FIELD_CONNECTION) | ID(WIRE_FIELD_UPGRADE));
	if ((is_final || is_upgrade) && x->to.choice.wants_cookie)
		put_sticky_cookie(&w);
	if (is_upgrade)
		PUT(&w, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
	if (is_final) {
		if ((seen & ID(WIRE_FIELD_DATE)) == 0)
			put_date(&w);
		if (x->to_client.framing == FRAMING_CHUNKED) {
			PUT(&w, "Transfer-Encoding: chunked\r\n");
		} else if (response->has_length && response->status != 204) {
			PUT(&w, "Content-Length: ");
			put_number(&w, (uint64_t)response->content_length);
			PUT(&w, "\r\n");
		}
		put_connection(&w);
	}
	PUT(&w, "\r\n");
	return finish(&w);
}

static void put_own_fields(struct writer *w)
{
	const struct exchange *x = w->x;
	bool has_type = false;
	if (x->location != NULL) {
		PUT(w, "Location: ");
		put_text(w, x->location);
		PUT(w, "\r\n");
	}
	/* RFC 9110, 15.5.22; RFC 6455, 4.4 */
	if (x->reply == 426 && x->end == EXCHANGE_END_BAD_REQUEST)
		PUT(w,
		    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
	bool is_respond = x->end == EXCHANGE_END_LOCAL && x->route != NULL &&
			  x->route->config->action.type == CONFIG_RESPOND &&
			  x->reply == x->route->config->action.status;
	for (size_t i = 0; is_respond && i < x->route->config->action.header_cnt; i++) {
		const struct config_field *field = &x->route->config->action.headers[i];
		has_type |= strcasecmp(field->name, "content-type") == 0;
		put_text(w, field->name);
		PUT(w, ": ");
		put_text(w, field->value);
		PUT(w, "\r\n");
	}
	if (!has_type && x->reply_text_len > 0)
		PUT(w, "Content-Type: text/plain; charset=utf-8\r\n");
}

/* A whole answer of our own: x->reply, x->reply_text, x->location. */
bool head_write_reply(struct exchange *x)
{
	struct writer w;
	if (!start(&w, x, &x->to_client.buf))
		return false;
	put_status(&w, x->reply, NULL);
	put_date(&w);
	put_own_fields(&w);
	bool has_body = x->reply != 204 && x->reply != 304;
	if (has_body) {
		PUT(&w, "Content-Length: ");
		put_number(&w, x->reply_text_len);
		PUT(&w, "\r\n");
	}
	put_connection(&w);
	PUT(&w, "\r\n");
	x->to_client.framing = FRAMING_LENGTH;
	return finish(&w);
}
