#pragma once
/* Properties of heads that requests and responses share. */
#include "fuzz.h"
#include "wire/h1.h"

static const struct wire_h1_limits limits = { .target_bytes = 1024, .field_cnt = 64 };

struct text {
	char *at;
	size_t len, size;
};

static inline void append(struct text *text, const char *data, size_t len)
{
	CHECK(text->len + len <= text->size);
	if (len > 0)
		memcpy(text->at + text->len, data, len);
	text->len += len;
}

static inline void append_span(struct text *text, struct wire_span span)
{
	append(text, span.at, span.len);
}

static inline void append_literal(struct text *text, const char *literal)
{
	append(text, literal, strlen(literal));
}

static inline void append_field(struct text *text, const struct wire_field *field)
{
	append_span(text, field->name);
	append_literal(text, ":");
	append_span(text, field->value);
	append_literal(text, "\r\n");
}

static inline bool is_same_span(struct wire_span a, struct wire_span b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}

static inline void check_same_fields(const struct wire_field *a, const struct wire_field *b,
				     uint32_t cnt)
{
	for (uint32_t i = 0; i < cnt; i++) {
		CHECK(is_same_span(a[i].name, b[i].name));
		CHECK(is_same_span(a[i].value, b[i].value));
		CHECK(a[i].id == b[i].id);
		CHECK(a[i].is_dropped == b[i].is_dropped);
	}
}

/* Scans whole and in pieces; both must agree. Gives the step, and the head's length when it is
 * DONE. */
static inline enum wire_step scan_both_ways(const uint8_t *data, size_t len, size_t *ret_head_len)
{
	struct wire_h1_scan whole = { 0 };
	struct wire_h1_scan pieces = { 0 };
	size_t whole_len = 0;
	size_t pieces_len = 0;
	uint64_t seed = seed_of(data, len);
	enum wire_step step = wire_h1_scan_head(&whole, (const char *)data, len, &whole_len);
	enum wire_step piece_step = WIRE_MORE;
	for (size_t at = 0; piece_step == WIRE_MORE && at < len;) {
		at += 1 + next_below(&seed, len - at < 40 ? len - at : 40);
		char *part = copy_exactly(data, at);
		piece_step = wire_h1_scan_head(&pieces, part, at, &pieces_len);
		free(part);
	}
	CHECK(step == piece_step);
	CHECK(whole.reason == pieces.reason);
	CHECK(whole_len == pieces_len);
	CHECK((step == WIRE_FAIL) == (whole.reason != WIRE_OK));
	*ret_head_len = whole_len;
	return step;
}
