/* What is written: request heads to targets, answers and replies to clients. Always from the parsed
 * form, never copied. */
#include <string.h>

#include "proxy.h"
#include "smartproxy/text.h"

/* Appends to a flow's buffer, which grows to the head size once; afterwards a lack of room marks
 * the writer failed. */
struct writer {
	struct exchange *x;
	struct buf *buf;
	size_t len_before; /* what buf held at the start, to go back to */
	bool has_failed;
};

static void put(struct writer *w, const char *s, size_t len)
{
	if (w->has_failed || len == 0)
		return;
	if (len > buf_space(w->buf)) {
		if (w->buf->cap == BUF_LARGE_BYTES || !buf_grow(w->buf, &w->x->worker->bufs) ||
		    len > buf_space(w->buf)) {
			w->has_failed = true;
			return;
		}
	}
	memcpy(buf_tail(w->buf), s, len);
	w->buf->end += (uint32_t)len;
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

static void put_field(struct writer *w, const struct wire_field *field)
{
	put_span(w, &field->name);
	PUT(w, ": ");
	put_span(w, &field->value);
	PUT(w, "\r\n");
}

static bool start(struct writer *w, struct exchange *x, struct buf *buf)
{
	*w = (struct writer){ .x = x, .buf = buf, .len_before = buf_len(buf) };
	return buf_reserve(buf, &x->worker->bufs) || buf_grow(buf, &x->worker->bufs);
}

/* A head that does not fit is taken back whole: another one may follow in its place. */
static bool finish(struct writer *w)
{
	if (w->has_failed)
		w->buf->end = w->buf->start + (uint32_t)w->len_before;
	return !w->has_failed;
}

/* ---- to targets ---- */

/* The client's own address is what this edge knows; what the client said of itself is not passed
 * on. */
static bool is_rewritten(enum wire_field_id id)
{
	switch (id) {
	case WIRE_FIELD_HOST:
	case WIRE_FIELD_CONTENT_LENGTH:
	case WIRE_FIELD_TRANSFER_ENCODING:
	case WIRE_FIELD_CONNECTION:
	case WIRE_FIELD_EXPECT:
	case WIRE_FIELD_TE:
	case WIRE_FIELD_UPGRADE:
	case WIRE_FIELD_X_FORWARDED_FOR:
	case WIRE_FIELD_X_FORWARDED_PROTO:
	case WIRE_FIELD_X_FORWARDED_HOST:
	case WIRE_FIELD_X_FORWARDED_PORT:
	case WIRE_FIELD_FORWARDED:
		return true;
	default:
		return false;
	}
}

static void put_forwarded(struct writer *w)
{
	const struct exchange *x = w->x;
	const struct conn *conn = x->conn;
	char ip[ADDR_TEXT_MAX];
	(void)addr_format_ip(ip, sizeof(ip), &conn->client);
	const char *proto = conn->tls != NULL ? "https" : "http";
	PUT(w, "X-Forwarded-For: ");
	put_text(w, ip);
	PUT(w, "\r\nX-Forwarded-Proto: ");
	put_text(w, proto);
	if (x->request.host.len > 0) {
		PUT(w, "\r\nX-Forwarded-Host: ");
		put_span(w, &x->request.host);
	}
	/* RFC 7239, 4 and 6: an IPv6 address is bracketed and quoted, a host may hold ':' and is
	 * quoted. */
	bool is_v6 = strchr(ip, ':') != NULL;
	put_text(w, is_v6 ? "\r\nForwarded: for=\"[" : "\r\nForwarded: for=");
	put_text(w, ip);
	put_text(w, is_v6 ? "]\"" : "");
	if (x->request.host.len > 0) {
		PUT(w, ";host=\"");
		put_span(w, &x->request.host);
		PUT(w, "\"");
	}
	PUT(w, ";proto=");
	put_text(w, proto);
	PUT(w, "\r\n");
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
	for (uint32_t i = 0; i < request->field_cnt; i++) {
		const struct wire_field *field = &request->fields[i];
		if (!field->is_dropped && !is_rewritten(field->id))
			put_field(&w, field);
	}
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
	PUT(w, "HTTP/1.1 ");
	put_number(w, status);
	PUT(w, " ");
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
	bool has_date = false;
	bool is_final = response->status >= 200;
	bool is_upgrade = response->status == 101;
	for (uint32_t i = 0; i < response->field_cnt; i++) {
		const struct wire_field *field = &response->fields[i];
		has_date |= field->id == WIRE_FIELD_DATE;
		if (field->is_dropped || field->id == WIRE_FIELD_CONTENT_LENGTH ||
		    field->id == WIRE_FIELD_TRANSFER_ENCODING ||
		    field->id == WIRE_FIELD_CONNECTION || field->id == WIRE_FIELD_UPGRADE)
			continue;
		put_field(&w, field);
	}
	if ((is_final || is_upgrade) && x->to.choice.wants_cookie)
		put_sticky_cookie(&w);
	if (is_upgrade)
		PUT(&w, "Connection: Upgrade\r\nUpgrade: websocket\r\n");
	if (is_final) {
		if (!has_date)
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
