/* Responses: as for requests. */
#include "chars_of.h"
#include "head.h"

static void check_response(const struct wire_h1_response *r)
{
	CHECK(r->status >= 100 && r->status <= 999);
	CHECK(!(r->is_chunked && (r->has_length || r->minor == 0)));
	CHECK(r->has_length ? r->content_length >= 0 : r->content_length == 0);
	CHECK((r->status >= 200 && r->status != 204) || (!r->is_chunked && r->content_length == 0));
	CHECK(r->field_cnt <= limits.field_cnt);
	for (uint32_t i = 0; i < r->field_cnt; i++) {
		CHECK(is_token(r->fields[i].name));
		CHECK(is_value(r->fields[i].value));
	}
}

/* all: with the dropped fields; else as it would be forwarded. */
static void check_rewritten(const struct wire_h1_response *r, size_t head_len, bool all)
{
	struct text text = { .size = head_len + 600 };
	text.at = malloc(text.size);
	CHECK(text.at != NULL);
	text.len = (size_t)snprintf(text.at, text.size, "HTTP/1.%u %u ", r->minor, r->status);
	append_span(&text, r->reason_phrase);
	append_literal(&text, "\r\n");
	for (uint32_t i = 0; i < r->field_cnt; i++)
		if (all || !r->fields[i].is_dropped)
			append_field(&text, &r->fields[i]);
	append_literal(&text,
		       !all && r->is_chunked ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n");
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_response again;
	const struct wire_h1_limits wider = { .field_cnt = WIRE_FIELDS_MAX };
	CHECK(wire_h1_parse_response(text.at, text.len, &wider, fields, &again) == WIRE_OK);
	CHECK(again.status == r->status && again.minor == r->minor);
	CHECK(is_same_span(again.reason_phrase, r->reason_phrase));
	CHECK(again.is_chunked == r->is_chunked && again.content_length == r->content_length);
	if (all) {
		CHECK(again.field_cnt == r->field_cnt && again.wants_close == r->wants_close);
		CHECK(again.has_length == r->has_length);
		check_same_fields(r->fields, fields, r->field_cnt);
	}
	for (uint32_t i = 0; !all && i < again.field_cnt; i++)
		CHECK(!fields[i].is_dropped || fields[i].id == WIRE_FIELD_TRANSFER_ENCODING);
	free(text.at);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct wire_field fields[WIRE_FIELDS_MAX];
	struct wire_h1_response response;
	size_t head_len = 0;
	enum wire_step step = scan_both_ways(data, len, &head_len);
	if (wire_h1_parse_response((const char *)data, len, &limits, fields, &response) == WIRE_OK)
		CHECK(step == WIRE_DONE && head_len == len);
	if (step != WIRE_DONE)
		return 0;
	char *head = copy_exactly(data, head_len);
	if (wire_h1_parse_response(head, head_len, &limits, fields, &response) == WIRE_OK) {
		check_response(&response);
		check_rewritten(&response, head_len, true);
		check_rewritten(&response, head_len, false);
	}
	free(head);
	return 0;
}
