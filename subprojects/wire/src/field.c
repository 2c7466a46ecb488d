#include "field.h"

#include <string.h>

#include "chars.h"
#include "lines.h"

#define LONGEST_NAME 21

/* Names by length; at most three share one. */
static const struct known {
	const char *name;
	enum wire_field_id id;
} known[LONGEST_NAME + 1][3] = {
	[2] = { { "te", WIRE_FIELD_TE } },
	[4] = { { "host", WIRE_FIELD_HOST }, { "date", WIRE_FIELD_DATE } },
	[6] = { { "cookie", WIRE_FIELD_COOKIE },
		{ "server", WIRE_FIELD_SERVER },
		{ "expect", WIRE_FIELD_EXPECT } },
	[7] = { { "upgrade", WIRE_FIELD_UPGRADE }, { "trailer", WIRE_FIELD_TRAILER } },
	[9] = { { "x-real-ip", WIRE_FIELD_X_REAL_IP }, { "forwarded", WIRE_FIELD_FORWARDED } },
	[10] = { { "connection", WIRE_FIELD_CONNECTION },
		 { "keep-alive", WIRE_FIELD_KEEP_ALIVE },
		 { "set-cookie", WIRE_FIELD_SET_COOKIE } },
	[13] = { { "authorization", WIRE_FIELD_AUTHORIZATION } },
	[14] = { { "content-length", WIRE_FIELD_CONTENT_LENGTH },
		 { "http2-settings", WIRE_FIELD_HTTP2_SETTINGS } },
	[15] = { { "x-forwarded-for", WIRE_FIELD_X_FORWARDED_FOR } },
	[16] = { { "x-forwarded-host", WIRE_FIELD_X_FORWARDED_HOST },
		 { "x-forwarded-port", WIRE_FIELD_X_FORWARDED_PORT },
		 { "proxy-connection", WIRE_FIELD_PROXY_CONNECTION } },
	[17] = { { "transfer-encoding", WIRE_FIELD_TRANSFER_ENCODING },
		 { "sec-websocket-key", WIRE_FIELD_SEC_WEBSOCKET_KEY },
		 { "x-forwarded-proto", WIRE_FIELD_X_FORWARDED_PROTO } },
	[18] = { { "proxy-authenticate", WIRE_FIELD_PROXY_AUTHENTICATE } },
	[19] = { { "proxy-authorization", WIRE_FIELD_PROXY_AUTHORIZATION } },
	[21] = { { "sec-websocket-version", WIRE_FIELD_SEC_WEBSOCKET_VERSION } },
};

/* For tokens, | 0x20 folds case and makes no two other characters of a known name equal. */
static bool equals_token(const char *name, const char *lower, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if ((name[i] | 0x20) != lower[i])
			return false;
	return true;
}

enum wire_field_id wire_field_lookup(const char *name, size_t len)
{
	if (len > LONGEST_NAME)
		return WIRE_FIELD_OTHER;
	for (size_t i = 0; i < 3 && known[len][i].name != NULL; i++)
		if (equals_token(name, known[len][i].name, len))
			return known[len][i].id;
	return WIRE_FIELD_OTHER;
}

bool wire_span_is(struct wire_span span, const char *lower, size_t lower_len)
{
	if (span.len != lower_len)
		return false;
	for (size_t i = 0; i < lower_len; i++)
		if (wire_lower(span.at[i]) != lower[i])
			return false;
	return true;
}

bool wire_list_next(struct wire_span *list, struct wire_span *ret_element)
{
	const char *at = list->at;
	const char *end = at + list->len;
	while (at < end && (wire_is_blank(*at) || *at == ','))
		at++;
	const char *start = at;
	const char *last = at; /* after the last byte that is not blank */
	for (; at < end && *at != ','; at++)
		if (!wire_is_blank(*at))
			last = at + 1;
	*list = (struct wire_span){ at, (uint32_t)(end - at) };
	*ret_element = (struct wire_span){ start, (uint32_t)(last - start) };
	return last > start;
}

enum wire_reason wire_version_read(const char *data, size_t len, unsigned *ret_minor)
{
	if (len < 8 || memcmp(data, "HTTP/", 5) != 0 || !wire_is_digit(data[5]) || data[6] != '.' ||
	    !wire_is_digit(data[7]))
		return WIRE_BAD_VERSION;
	if (data[5] != '1')
		return data[5] > '1' ? WIRE_VERSION_TOO_HIGH : WIRE_BAD_VERSION;
	*ret_minor = (unsigned)(data[7] - '0');
	return WIRE_OK;
}

/* What is wrong with a name that ended at `at`, not at a colon. */
static enum wire_reason explain_name(const char *name, const char *at, const char *end)
{
	if (at == end)
		return WIRE_BAD_FIELD_NAME;
	if (wire_is_blank(*at)) {
		if (at == name)
			return WIRE_OBS_FOLD;
		while (at < end && wire_is_blank(*at))
			at++;
		return at < end && *at == ':' ? WIRE_SPACE_BEFORE_COLON : WIRE_BAD_FIELD_NAME;
	}
	enum wire_reason reason = wire_line_end(at, (size_t)(end - at));
	return reason == WIRE_OK || reason == WIRE_BAD_FIELD_VALUE ? WIRE_BAD_FIELD_NAME : reason;
}

/* Reads one line; *at moves behind its CRLF. */
static enum wire_reason read_line(const char **at, const char *end, struct wire_field *field)
{
	const char *name = *at;
	const char *colon = name;
	bool has_underscore = false;
	for (; colon < end && wire_is_char(*colon, WIRE_CHAR_TOKEN); colon++)
		has_underscore |= *colon == '_';
	if (colon == end || *colon != ':')
		return explain_name(name, colon, end);
	if (colon == name)
		return WIRE_BAD_FIELD_NAME;
	const char *value = colon + 1;
	while (value < end && wire_is_blank(*value))
		value++;
	const char *stop = value + wire_scan_ctl(value, (size_t)(end - value));
	if (stop == end)
		return WIRE_BAD_FIELD_VALUE;
	enum wire_reason reason = wire_line_end(stop, (size_t)(end - stop));
	if (reason != WIRE_OK)
		return reason;
	*at = stop + 2;
	while (stop > value && wire_is_blank(stop[-1]))
		stop--;
	field->name = (struct wire_span){ name, (uint32_t)(colon - name) };
	field->value = (struct wire_span){ value, (uint32_t)(stop - value) };
	field->id = wire_field_lookup(name, field->name.len);
	field->is_dropped = has_underscore;
	return WIRE_OK;
}

enum wire_reason wire_fields_read(const char *data, size_t len, uint32_t max,
				  struct wire_field *fields, uint32_t *ret_cnt)
{
	const char *at = data;
	const char *end = len > 0 ? data + len : data;
	uint32_t cnt = 0;
	while (at < end) {
		struct wire_field field;
		enum wire_reason reason = read_line(&at, end, &field);
		if (reason != WIRE_OK)
			return reason;
		if (cnt == max)
			return WIRE_TOO_MANY_FIELDS;
		fields[cnt++] = field;
	}
	*ret_cnt = cnt;
	return WIRE_OK;
}
