#include "field.h"

#define FORBIDDEN(text)                \
	{                              \
		text, sizeof(text) - 1 \
	}

/* RFC 9110, 6.5.1: routing, request modifiers, authentication, response control, content format, by
 * name. Those with an id are in is_forbidden. */
static const struct {
	const char *name;
	size_t len;
} forbidden[] = {
	FORBIDDEN("age"),
	FORBIDDEN("cache-control"),
	FORBIDDEN("clear-site-data"),
	FORBIDDEN("content-encoding"),
	FORBIDDEN("content-range"),
	FORBIDDEN("content-type"),
	FORBIDDEN("expires"),
	FORBIDDEN("if-match"),
	FORBIDDEN("if-modified-since"),
	FORBIDDEN("if-none-match"),
	FORBIDDEN("if-range"),
	FORBIDDEN("if-unmodified-since"),
	FORBIDDEN("location"),
	FORBIDDEN("max-forwards"),
	FORBIDDEN("pragma"),
	FORBIDDEN("range"),
	FORBIDDEN("retry-after"),
	FORBIDDEN("strict-transport-security"),
	FORBIDDEN("vary"),
	FORBIDDEN("warning"),
	FORBIDDEN("www-authenticate"),
};

static bool is_forbidden(const struct wire_field *field)
{
	if (field->id !=
	    WIRE_FIELD_OTHER) /* framing, routing, who the client is, authentication, cookies */
		return true;
	for (size_t i = 0; i < sizeof(forbidden) / sizeof(forbidden[0]); i++)
		if (wire_span_is(field->name, forbidden[i].name, forbidden[i].len))
			return true;
	return field->name.len >= 6 &&
	       wire_span_is((struct wire_span){ field->name.at, 6 }, "proxy-", 6);
}

enum wire_reason wire_h1_parse_trailers(const char *data, size_t len, uint32_t field_max,
					struct wire_field *fields, uint32_t *ret_field_cnt)
{
	if (len > UINT32_MAX)
		return WIRE_BAD_TRAILER;
	uint32_t cnt;
	enum wire_reason reason = wire_fields_read(data, len, field_max, fields, &cnt);
	if (reason != WIRE_OK)
		return reason;
	for (uint32_t i = 0; i < cnt; i++)
		if (is_forbidden(&fields[i]))
			fields[i].is_dropped = true;
	*ret_field_cnt = cnt;
	return WIRE_OK;
}
