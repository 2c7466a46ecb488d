#include <strings.h>

#include "chars.h"
#include "field.h"

/* Connection options looked up among the fields; more than any honest sender needs, and it bounds
 * the work. */
#define OPTIONS_MAX 128

static bool has_prefix(struct wire_span name, const char *lower, uint32_t lower_len)
{
	return name.len >= lower_len &&
	       wire_span_is((struct wire_span){ name.at, lower_len }, lower, lower_len);
}

/* Fields that Connection cannot take away, or a client could strip what the proxy or the origin
 * relies on. */
static bool is_protected(const struct wire_field *field)
{
	switch (field->id) {
	case WIRE_FIELD_HOST:
	case WIRE_FIELD_CONTENT_LENGTH:
	case WIRE_FIELD_FORWARDED:
	case WIRE_FIELD_AUTHORIZATION:
	case WIRE_FIELD_COOKIE:
		return true;
	default:
		return has_prefix(field->name, "x-forwarded-", 12);
	}
}

/* "Proxy" itself would become HTTP_PROXY in a CGI origin. Proxy-Status (RFC 9209) is end to end. */
static bool is_proxy_field(struct wire_span name)
{
	return (name.len == 5 || (name.len > 5 && name.at[5] == '-')) &&
	       has_prefix(name, "proxy", 5) && !WIRE_SPAN_IS(name, "proxy-status");
}

#define ID(id) (UINT64_C(1) << (id))

static bool is_hop_by_hop(const struct wire_field *field)
{
	const uint64_t ids = ID(WIRE_FIELD_CONNECTION) | ID(WIRE_FIELD_KEEP_ALIVE) |
			     ID(WIRE_FIELD_TE) | ID(WIRE_FIELD_TRANSFER_ENCODING) |
			     ID(WIRE_FIELD_UPGRADE) | ID(WIRE_FIELD_HTTP2_SETTINGS);
	if ((ids & ID(field->id)) != 0)
		return true;
	return (field->name.at[0] | 0x20) == 'p' && is_proxy_field(field->name);
}

/* 1*DIGIT below 2^63. Leading zeros leave the value, so that what is forwarded is canonical. */
static bool read_length(struct wire_field *field, int64_t *ret_bytes)
{
	struct wire_span *value = &field->value;
	if (value->len == 0 || value->len > 19)
		return false;
	uint64_t bytes = 0;
	for (uint32_t i = 0; i < value->len; i++) {
		if (!wire_is_digit(value->at[i]))
			return false;
		bytes = bytes * 10 + (uint64_t)(value->at[i] - '0'); /* 19 digits fit 64 bits */
	}
	if (bytes > INT64_MAX)
		return false;
	while (value->len > 1 && value->at[0] == '0') {
		value->at++;
		value->len--;
	}
	*ret_bytes = (int64_t)bytes;
	return true;
}

static enum wire_reason take_field(struct wire_field *field, unsigned minor, struct wire_summary *s)
{
	struct wire_span list = field->value;
	struct wire_span element;
	switch (field->id) {
	case WIRE_FIELD_HOST:
		if (s->host != NULL)
			return WIRE_SECOND_HOST;
		s->host = field;
		return WIRE_OK;
	case WIRE_FIELD_CONTENT_LENGTH:
		if (s->length != NULL)
			return WIRE_SECOND_CONTENT_LENGTH;
		s->length = field;
		return read_length(field, &s->content_length) ? WIRE_OK : WIRE_BAD_CONTENT_LENGTH;
	case WIRE_FIELD_TRANSFER_ENCODING:
		if (minor == 0)
			return WIRE_CODING_IN_1_0;
		if (s->coding != NULL || !WIRE_SPAN_IS(field->value, "chunked"))
			return WIRE_BAD_TRANSFER_CODING;
		s->coding = field;
		s->is_chunked = true;
		return WIRE_OK;
	case WIRE_FIELD_TE:
		while (wire_list_next(&list, &element))
			s->accepts_trailers |= WIRE_SPAN_IS(element, "trailers");
		return WIRE_OK;
	case WIRE_FIELD_UPGRADE:
		s->has_upgrade |= field->value.len > 0;
		while (wire_list_next(&list, &element)) {
			bool is_websocket = WIRE_SPAN_IS(element, "websocket");
			s->upgrades_to_websocket |= is_websocket;
			s->upgrades_to_another |= !is_websocket;
		}
		return WIRE_OK;
	case WIRE_FIELD_SEC_WEBSOCKET_KEY:
		s->websocket_key = field;
		s->websocket_key_cnt++;
		return WIRE_OK;
	case WIRE_FIELD_SEC_WEBSOCKET_VERSION:
		s->websocket_version = field;
		s->websocket_version_cnt++;
		return WIRE_OK;
	case WIRE_FIELD_EXPECT:
		if (s->expect != NULL)
			return WIRE_BAD_EXPECT;
		s->expect = field;
		return WIRE_OK;
	default:
		return WIRE_OK;
	}
}

static void drop_named(struct wire_field *fields, uint32_t cnt, struct wire_span name)
{
	for (uint32_t i = 0; i < cnt; i++) {
		struct wire_field *field = &fields[i];
		if (field->name.len == name.len &&
		    strncasecmp(field->name.at, name.at, name.len) == 0 && !is_protected(field))
			field->is_dropped = true;
	}
}

static enum wire_reason take_options(struct wire_field *fields, uint32_t cnt, struct wire_span list,
				     unsigned *option_cnt, struct wire_summary *s)
{
	struct wire_span option;
	if (*option_cnt == 0 &&
	    WIRE_SPAN_IS(list, "keep-alive")) { /* what most say, and all of it */
		s->says_keep_alive = true;
		*option_cnt = 1;
		return WIRE_OK;
	}
	while (wire_list_next(&list, &option)) {
		for (uint32_t i = 0; i < option.len; i++)
			if (!wire_is_char(option.at[i], WIRE_CHAR_TOKEN))
				return WIRE_BAD_FIELD_VALUE;
		if (++*option_cnt > OPTIONS_MAX)
			return WIRE_TOO_MANY_FIELDS;
		if (WIRE_SPAN_IS(option, "close"))
			s->says_close = true;
		else if (WIRE_SPAN_IS(option, "keep-alive"))
			s->says_keep_alive = true;
		else if (WIRE_SPAN_IS(option, "upgrade"))
			s->says_upgrade = true;
		else
			drop_named(fields, cnt, option);
	}
	return WIRE_OK;
}

enum wire_reason wire_summary_make(struct wire_field *fields, uint32_t cnt, unsigned minor,
				   struct wire_summary *s)
{
	/* What take_field and take_options know. */
	const uint64_t telling = ID(WIRE_FIELD_HOST) | ID(WIRE_FIELD_CONTENT_LENGTH) |
				 ID(WIRE_FIELD_TRANSFER_ENCODING) | ID(WIRE_FIELD_TE) |
				 ID(WIRE_FIELD_UPGRADE) | ID(WIRE_FIELD_SEC_WEBSOCKET_KEY) |
				 ID(WIRE_FIELD_SEC_WEBSOCKET_VERSION) | ID(WIRE_FIELD_EXPECT) |
				 ID(WIRE_FIELD_CONNECTION);
	unsigned option_cnt = 0;
	*s = (struct wire_summary){ 0 };
	for (struct wire_field *field = fields; field < fields + cnt; field++) {
		enum wire_reason reason = WIRE_OK;
		if ((telling & ID(field->id)) != 0)
			reason = take_field(field, minor, s);
		if (reason == WIRE_OK && field->id == WIRE_FIELD_CONNECTION)
			reason = take_options(fields, cnt, field->value, &option_cnt, s);
		if (reason != WIRE_OK)
			return reason;
		if (is_hop_by_hop(field))
			field->is_dropped = true;
	}
	return s->length != NULL && s->coding != NULL ? WIRE_LENGTH_AND_CODING : WIRE_OK;
}
