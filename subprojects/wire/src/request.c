#include <string.h>

#include "chars.h"
#include "field.h"
#include "skim.h"
#include "wire/uri.h"

bool wire_method_is_idempotent(enum wire_method method)
{
	switch (method) {
	case WIRE_METHOD_GET:
	case WIRE_METHOD_HEAD:
	case WIRE_METHOD_PUT:
	case WIRE_METHOD_DELETE:
	case WIRE_METHOD_OPTIONS:
	case WIRE_METHOD_TRACE:
		return true;
	default:
		return false;
	}
}

/* Methods are case-sensitive (RFC 9110, 9.1). */
static enum wire_method find_method(struct wire_span text)
{
	static const struct {
		const char *name;
		uint32_t len;
		enum wire_method method;
	} methods[] = {
		{ "GET", 3, WIRE_METHOD_GET },         { "POST", 4, WIRE_METHOD_POST },
		{ "HEAD", 4, WIRE_METHOD_HEAD },       { "PUT", 3, WIRE_METHOD_PUT },
		{ "DELETE", 6, WIRE_METHOD_DELETE },   { "OPTIONS", 7, WIRE_METHOD_OPTIONS },
		{ "PATCH", 5, WIRE_METHOD_PATCH },     { "TRACE", 5, WIRE_METHOD_TRACE },
		{ "CONNECT", 7, WIRE_METHOD_CONNECT },
	};
	for (size_t i = 0; i < sizeof(methods) / sizeof(methods[0]); i++)
		if (methods[i].len == text.len && memcmp(methods[i].name, text.at, text.len) == 0)
			return methods[i].method;
	return WIRE_METHOD_OTHER;
}

/* method SP target SP version CRLF (RFC 9112, 3), one space each. *at moves behind the line. */
static enum wire_reason read_request_line(const char **at, const char *end, uint32_t target_max,
					  struct wire_h1_request *request)
{
	const char *method = *at;
	const char *stop = method;
	while (stop < end && wire_is_char(*stop, WIRE_CHAR_TOKEN))
		stop++;
	if (stop == method || stop == end)
		return WIRE_BAD_REQUEST_LINE;
	if (*stop != ' ')
		return *stop == '\r' ? WIRE_BAD_REQUEST_LINE : WIRE_BAD_METHOD;
	request->method_text = (struct wire_span){ method, (uint32_t)(stop - method) };
	request->method = find_method(request->method_text);

	const char *target = stop + 1;
	stop = WIRE_SKIM(method, target, end, target);
	while (stop < end && wire_is_char(*stop, WIRE_CHAR_TARGET))
		stop++;
	if ((size_t)(stop - target) > target_max)
		return WIRE_TARGET_TOO_LONG;
	if (stop == target || stop == end || *stop == '\r')
		return WIRE_BAD_REQUEST_LINE;
	if (*stop != ' ')
		return WIRE_BAD_TARGET;
	request->target = (struct wire_span){ target, (uint32_t)(stop - target) };

	const char *version = stop + 1;
	enum wire_reason reason =
		wire_version_read(version, (size_t)(end - version), &request->minor);
	if (reason != WIRE_OK)
		return reason;
	if (end - version < 10 || version[8] != '\r' || version[9] != '\n')
		return WIRE_BAD_REQUEST_LINE;
	*at = version + 10;
	return WIRE_OK;
}

/* Length of "http://" or "https://" at the start of target, and the port that it stands for; 0:
 * neither. */
static uint32_t read_scheme(struct wire_span target, uint16_t *ret_port)
{
	if (target.len >= 7 && wire_span_is((struct wire_span){ target.at, 7 }, "http://", 7)) {
		*ret_port = 80;
		return 7;
	}
	if (target.len >= 8 && wire_span_is((struct wire_span){ target.at, 8 }, "https://", 8)) {
		*ret_port = 443;
		return 8;
	}
	return 0;
}

static void split_path(struct wire_h1_request *request)
{
	struct wire_span target = request->target;
	const char *mark = memchr(target.at, '?', target.len);
	request->path = target;
	request->query = (struct wire_span){ NULL, 0 };
	if (mark == NULL)
		return;
	request->path.len = (uint32_t)(mark - target.at);
	request->query = (struct wire_span){ mark + 1, target.len - request->path.len - 1 };
}

/* RFC 9112, 3.2. request->host is not empty. */
static bool take_host(struct wire_h1_request *request, uint16_t *ret_port)
{
	return wire_host_normalise(request->host.at, request->host.len, request->host_name,
				   &request->host_name_len, ret_port);
}

/* authority and Host: the same place when both are there, absent ports taken as default_port (0: they must be
 * there); the authority stands in for an HTTP/1.0 Host that is not. */
static enum wire_reason take_authority(struct wire_span authority, uint16_t default_port,
				       struct wire_h1_request *request)
{
	char name[WIRE_HOST_MAX];
	size_t name_len;
	uint16_t port, host_port;
	if (request->host.at == NULL)
		request->host = authority;
	if (!wire_host_normalise(authority.at, authority.len, name, &name_len, &port) ||
	    !take_host(request, &host_port))
		return WIRE_BAD_HOST;
	port = port == 0 ? default_port : port;
	host_port = host_port == 0 ? default_port : host_port;
	if (port == 0)
		return WIRE_BAD_TARGET;
	if (port != host_port || name_len != request->host_name_len ||
	    memcmp(name, request->host_name, name_len) != 0)
		return WIRE_HOST_MISMATCH;
	return WIRE_OK;
}

static enum wire_reason read_absolute(struct wire_h1_request *request)
{
	uint16_t default_port = 0;
	struct wire_span target = request->target;
	uint32_t skip = read_scheme(target, &default_port);
	if (skip == 0)
		return WIRE_BAD_TARGET;
	uint32_t stop = skip;
	while (stop < target.len && target.at[stop] != '/' && target.at[stop] != '?')
		stop++;
	if (stop < target.len &&
	    target.at[stop] == '?') /* "/?query" could not be forwarded as one span */
		return WIRE_BAD_TARGET;
	struct wire_span authority = { target.at + skip, stop - skip };
	request->target_form = WIRE_TARGET_ABSOLUTE;
	request->target = (struct wire_span){ target.at + stop, target.len - stop };
	if (stop == target.len && request->method == WIRE_METHOD_OPTIONS) { /* RFC 9112, 3.2.4 */
		request->target_form = WIRE_TARGET_ASTERISK;
		request->target = (struct wire_span){ "*", 1 };
	} else if (stop == target.len) {
		request->target = (struct wire_span){ "/", 1 };
	}
	split_path(request);
	return take_authority(authority, default_port, request);
}

/* RFC 9112, 3.2. request->host holds the Host field, if any. */
static enum wire_reason read_target(struct wire_h1_request *request)
{
	struct wire_span target = request->target;
	if (request->method == WIRE_METHOD_CONNECT) {
		request->target_form = WIRE_TARGET_AUTHORITY;
		request->path = (struct wire_span){ target.at, 0 };
		return take_authority(target, 0, request);
	}
	if (target.at[0] != '/' && !(target.len == 1 && target.at[0] == '*'))
		return read_absolute(request);
	if (target.at[0] == '*' && request->method != WIRE_METHOD_OPTIONS)
		return WIRE_BAD_TARGET;
	request->target_form = target.at[0] == '*' ? WIRE_TARGET_ASTERISK : WIRE_TARGET_ORIGIN;
	split_path(request);
	uint16_t port;
	return request->host.len == 0 || take_host(request, &port) ? WIRE_OK : WIRE_BAD_HOST;
}

/* 16 bytes in base64: 22 characters and "==" (RFC 6455, 4.1, item 7). */
static bool is_websocket_key(struct wire_span key)
{
	if (key.len != 24 || key.at[22] != '=' || key.at[23] != '=')
		return false;
	for (int i = 0; i < 22; i++) {
		char c = key.at[i];
		bool is_letter = wire_lower(c) >= 'a' && wire_lower(c) <= 'z';
		if (!is_letter && !wire_is_digit(c) && c != '+' && c != '/')
			return false;
	}
	return true;
}

/* One to three digits without a leading zero (RFC 6455, 4.3), but not 13. */
static bool is_other_version(struct wire_span version)
{
	if (version.len == 0 || version.len > 3 || (version.len > 1 && version.at[0] == '0'))
		return false;
	for (uint32_t i = 0; i < version.len; i++)
		if (!wire_is_digit(version.at[i]))
			return false;
	return !WIRE_SPAN_IS(version, "13");
}

/* A key or version that Connection names would not go on: half a handshake is none. */
static enum wire_websocket read_websocket(const struct wire_summary *s,
					  const struct wire_h1_request *request)
{
	bool has_body = s->is_chunked || s->content_length > 0;
	if (!request->wants_upgrade || !s->upgrades_to_websocket)
		return WIRE_WEBSOCKET_NONE;
	if (request->method != WIRE_METHOD_GET || has_body || s->websocket_key_cnt != 1 ||
	    s->websocket_version_cnt != 1 || s->websocket_key->is_dropped ||
	    s->websocket_version->is_dropped)
		return WIRE_WEBSOCKET_BAD;
	if (is_other_version(s->websocket_version->value))
		return WIRE_WEBSOCKET_BAD_VERSION;
	bool is_right = WIRE_SPAN_IS(s->websocket_version->value, "13") &&
			is_websocket_key(s->websocket_key->value);
	return is_right ? WIRE_WEBSOCKET_OK : WIRE_WEBSOCKET_BAD;
}

static enum wire_reason apply_summary(const struct wire_summary *s, struct wire_h1_request *request)
{
	bool is_1_1 = request->minor >= 1;
	if (s->host != NULL)
		request->host = s->host->value;
	if (is_1_1 && request->host.len == 0)
		return WIRE_NO_HOST;
	enum wire_reason reason = read_target(request);
	if (reason != WIRE_OK)
		return reason;
	request->is_chunked = s->is_chunked;
	request->has_length = s->length != NULL;
	request->content_length = s->content_length;
	request->wants_close = s->says_close || (!is_1_1 && !s->says_keep_alive);
	request->wants_upgrade = is_1_1 && s->says_upgrade && s->has_upgrade; /* RFC 9110, 7.8 */
	request->websocket = read_websocket(s, request);
	request->accepts_trailers = s->accepts_trailers;
	if (s->expect != NULL && is_1_1) { /* RFC 9110, 10.1.1: ignored in HTTP/1.0 */
		if (!WIRE_SPAN_IS(s->expect->value, "100-continue"))
			return WIRE_BAD_EXPECT;
		request->wants_continue = true;
	}
	bool has_body = s->is_chunked || s->content_length > 0;
	if (has_body &&
	    (request->method == WIRE_METHOD_TRACE || request->method == WIRE_METHOD_CONNECT))
		return WIRE_BODY_NOT_ALLOWED;
	return WIRE_OK;
}

static enum wire_reason parse(const char *head, size_t len, const struct wire_h1_limits *limits,
			      struct wire_h1_request *request)
{
	const char *at = head;
	const char *end = head + len;
	if (len > UINT32_MAX)
		return WIRE_HEAD_TOO_LARGE;
	if (len >= 2 && at[0] == '\r' && at[1] == '\n') /* RFC 9112, 2.2 */
		at += 2;
	enum wire_reason reason = read_request_line(&at, end, limits->target_bytes, request);
	if (reason != WIRE_OK)
		return reason;
	if (end - at < 2 || end[-2] != '\r' || end[-1] != '\n')
		return WIRE_BAD_FIELD_NAME;
	reason = wire_fields_read(at, (size_t)(end - at) - 2, limits->field_cnt, request->fields,
				  &request->field_cnt);
	if (reason != WIRE_OK)
		return reason;
	struct wire_summary summary;
	reason = wire_summary_make(request->fields, request->field_cnt, request->minor, &summary);
	return reason == WIRE_OK ? apply_summary(&summary, request) : reason;
}

static void clear(struct wire_h1_request *request)
{
	memset(request, 0, offsetof(struct wire_h1_request, host_name));
}

enum wire_reason wire_h1_parse_request(const char *head, size_t len,
				       const struct wire_h1_limits *limits,
				       struct wire_field *fields,
				       struct wire_h1_request *ret_request)
{
	clear(ret_request);
	ret_request->fields = fields;
	enum wire_reason reason = parse(head, len, limits, ret_request);
	if (reason != WIRE_OK)
		clear(ret_request);
	return reason;
}
