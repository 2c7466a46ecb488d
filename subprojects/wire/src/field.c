#include "field.h"

#include <string.h>

#include "chars.h"
#include "lines.h"
#include "skim.h"

#define LONGEST_NAME 21
#define VALUE_NEAR   64 /* bytes; what goes on behind them is worth a call that looks for its end */

/* Names by length; at most three share one. */
static const struct known {
	char name[LONGEST_NAME + 1];
	uint8_t id; /* enum wire_field_id */
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
	if (len >= 8) {
		/* The last eight may have been looked at already. */
		for (size_t i = 0;; i = i + 16 > len ? len - 8 : i + 8) {
			uint64_t left, right;
			memcpy(&left, name + i, 8);
			memcpy(&right, lower + i, 8);
			if ((left | 0x2020202020202020U) != right)
				return false;
			if (i + 8 == len)
				return true;
		}
	}
	for (size_t i = 0; i < len; i++)
		if ((name[i] | 0x20) != lower[i])
			return false;
	return true;
}

enum wire_field_id wire_field_lookup(const char *name, size_t len)
{
	if (len == 0 || len > LONGEST_NAME)
		return WIRE_FIELD_OTHER;
	for (const struct known *k = known[len]; k < known[len] + 3; k++)
		if (k->name[0] == (name[0] | 0x20) && equals_token(name, k->name, len))
			return k->id;
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

static const char *find_value_end(const char *start, const char *value, const char *end)
{
	const char *near = end - value > VALUE_NEAR ? value + VALUE_NEAR : end;
	const char *stop = WIRE_SKIM(start, value, near, text);
	return stop < near && *stop == '\r' ? stop
					    : stop + wire_scan_ctl(stop, (size_t)(end - stop));
}

/* Reads one line; *at moves behind its CRLF. start: of the section that it is in. */
static inline enum wire_reason read_line(const char *start, const char **at, const char *end,
					 struct wire_field *field)
{
	const char *name = *at;
	const char *colon = WIRE_SKIM(start, name, end, name);
	bool has_underscore = false;
	for (; colon < end && wire_is_char(*colon, WIRE_CHAR_TOKEN); colon++)
		has_underscore |= *colon == '_';
	if (colon == end || *colon != ':')
		return explain_name(name, colon, end);
	if (colon == name)
		return WIRE_BAD_FIELD_NAME;
	const char *value = colon + 1;
	if (value < end && *value == ' ')
		value++;
	while (value < end && wire_is_blank(*value))
		value++;
	const char *stop = find_value_end(start, value, end);
	if (stop == end)
		return WIRE_BAD_FIELD_VALUE;
	if (end - stop < 2 || stop[0] != '\r' || stop[1] != '\n')
		return wire_line_end(stop, (size_t)(end - stop));
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
		struct wire_field excess;
		enum wire_reason reason =
			read_line(data, &at, end, cnt < max ? &fields[cnt] : &excess);
		if (reason != WIRE_OK)
			return reason;
		if (cnt == max)
			return WIRE_TOO_MANY_FIELDS;
		cnt++;
	}
	*ret_cnt = cnt;
	return WIRE_OK;
}
