/* Requests: the scan does not depend on cuts; the parser takes only what the scanner found whole;
 * what it takes says the same once written out again, as it was and as it would be forwarded. */
#include "chars_of.h"
#include "head.h"
#include "wire/uri.h"

static void check_request(const struct wire_h1_request *r)
{
	char host[WIRE_HOST_MAX];
	size_t host_len = 0;
	uint16_t port;
	CHECK(!(r->is_chunked && r->has_length));
	CHECK(r->has_length ? r->content_length >= 0 : r->content_length == 0);
	CHECK(r->minor >= 1 || !(r->is_chunked || r->wants_continue || r->wants_upgrade));
	CHECK(r->minor == 0 || r->host.len > 0);
	CHECK(r->websocket == WIRE_WEBSOCKET_NONE || r->wants_upgrade);
	CHECK(r->websocket != WIRE_WEBSOCKET_OK ||
	      (r->method == WIRE_METHOD_GET && !r->is_chunked && r->content_length == 0));
	CHECK(r->host.len == 0 ||
	      wire_host_normalise(r->host.at, r->host.len, host, &host_len, &port));
	CHECK(host_len == r->host_name_len && memcmp(host, r->host_name, host_len) == 0);
	CHECK(r->target.len > 0 && r->target.len <= limits.target_bytes);
	CHECK(r->field_cnt <= limits.field_cnt);
	if (r->target_form == WIRE_TARGET_ORIGIN || r->target_form == WIRE_TARGET_ABSOLUTE)
		CHECK(r->target.at[0] == '/' && r->path.len > 0);
	CHECK(r->query.at == NULL || r->path.len + 1 + r->query.len == r->target.len);
	for (uint32_t i = 0; i < r->field_cnt; i++) {
		CHECK(is_token(r->fields[i].name));
		CHECK(is_value(r->fields[i].value));
	}
}

static void append_request_line(struct text *text, const struct wire_h1_request *r)
{
	char version[] = " HTTP/1.0\r\n";
	version[8] = (char)('0' + r->minor);
	append_span(text, r->method_text);
	append_literal(text, " ");
	append_span(text, r->target);
	append_literal(text, version);
}

static void check_same(const struct wire_h1_request *a, const struct wire_h1_request *b)
{
	CHECK(a->method == b->method && is_same_span(a->method_text, b->method_text));
	CHECK(is_same_span(a->target, b->target));
	CHECK(is_same_span(a->path, b->path));
	CHECK((a->query.at == NULL) == (b->query.at == NULL) && is_same_span(a->query, b->query));
	CHECK(is_same_span(a->host, b->host));
	CHECK(a->minor == b->minor);
	CHECK(a->is_chunked == b->is_chunked && a->has_length == b->has_length);
	CHECK(a->content_length == b->content_length);
	CHECK(a->wants_continue == b->wants_continue);
}

/* The same fields again: all that was understood is understood again. */
static void check_rewritten(const struct wire_h1_request *r, size_t head_len)
{
	struct text text = { .size = head_len + 600 };
	text.at = malloc(text.size);
	CHECK(text.at != NULL);
	append_request_line(&text, r);
	for (uint32_t i = 0; i < r->field_cnt; i++)
		append_field(&text, &r->fields[i]);
	bool adds_host = true;
	for (uint32_t i = 0; i < r->field_cnt; i++)
		adds_host &= r->fields[i].id != WIRE_FIELD_HOST;
	adds_host &= r->host.len > 0;
	if (adds_host) {
		append_literal(&text, "Host:");
		append_span(&text, r->host);
		append_literal(&text, "\r\n");
	}
	append_literal(&text, "\r\n");
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request again;
	const struct wire_h1_limits wider = { .target_bytes = limits.target_bytes,
					      .field_cnt = WIRE_FIELDS_MAX };
	CHECK(wire_h1_parse_request(text.at, text.len, &wider, fields, &again) == WIRE_OK);
	CHECK(again.field_cnt == r->field_cnt + adds_host);
	check_same(r, &again);
	check_same_fields(r->fields, fields, r->field_cnt);
	CHECK(r->wants_close == again.wants_close && r->wants_upgrade == again.wants_upgrade);
	CHECK(r->accepts_trailers == again.accepts_trailers);
	CHECK(r->websocket == again.websocket);
	free(text.at);
}

/* Without what is dropped, framed anew: an origin with the same rules sees the same message and
 * nothing to drop. */
static void check_forwarded(const struct wire_h1_request *r, size_t head_len)
{
	struct text text = { .size = head_len + 600 };
	text.at = malloc(text.size);
	CHECK(text.at != NULL);
	append_request_line(&text, r);
	if (r->host.len > 0) {
		append_literal(&text, "Host:");
		append_span(&text, r->host);
		append_literal(&text, "\r\n");
	}
	for (uint32_t i = 0; i < r->field_cnt; i++)
		if (!r->fields[i].is_dropped && r->fields[i].id != WIRE_FIELD_HOST)
			append_field(&text, &r->fields[i]);
	append_literal(&text, r->is_chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request again;
	const struct wire_h1_limits wider = { .target_bytes = limits.target_bytes,
					      .field_cnt = WIRE_FIELDS_MAX };
	CHECK(wire_h1_parse_request(text.at, text.len, &wider, fields, &again) == WIRE_OK);
	check_same(r, &again);
	for (uint32_t i = 0; i < again.field_cnt; i++)
		CHECK(!fields[i].is_dropped || fields[i].id == WIRE_FIELD_TRANSFER_ENCODING);
	free(text.at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_request request;
	size_t head_len = 0;
	enum wire_step step = scan_both_ways(data, len, &head_len);
	if (wire_h1_parse_request((const char *)data, len, &limits, fields, &request) == WIRE_OK)
		CHECK(step == WIRE_DONE && head_len == len);
	if (step != WIRE_DONE)
		return 0;
	char *head = copy_exactly(data, head_len);
	if (wire_h1_parse_request(head, head_len, &limits, fields, &request) == WIRE_OK) {
		check_request(&request);
		check_rewritten(&request, head_len);
		check_forwarded(&request, head_len);
	}
	free(head);
	return 0;
}
