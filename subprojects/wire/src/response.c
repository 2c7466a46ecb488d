#include "chars.h"
#include "field.h"
#include "lines.h"

/* version SP 3DIGIT SP [reason] CRLF (RFC 9112, 4); without a reason the second space may be
 * missing. */
static enum wire_reason read_status_line(const char **at, const char *end,
					 struct wire_h1_response *response)
{
	const char *line = *at;
	enum wire_reason reason = wire_version_read(line, (size_t)(end - line), &response->minor);
	if (reason != WIRE_OK)
		return reason;
	if (end - line < 14 || line[8] != ' ')
		return WIRE_BAD_STATUS_LINE;
	for (int i = 9; i < 12; i++) {
		if (!wire_is_digit(line[i]))
			return WIRE_BAD_STATUS_LINE;
		response->status = response->status * 10 + (unsigned)(line[i] - '0');
	}
	const char *phrase = line + 12;
	if (response->status < 100 || (*phrase != ' ' && *phrase != '\r'))
		return WIRE_BAD_STATUS_LINE;
	if (*phrase == ' ')
		phrase++;
	const char *stop = phrase + wire_scan_ctl(phrase, (size_t)(end - phrase));
	if (stop == end)
		return WIRE_BAD_STATUS_LINE;
	reason = wire_line_end(stop, (size_t)(end - stop));
	if (reason != WIRE_OK)
		return reason == WIRE_BAD_FIELD_VALUE ? WIRE_BAD_STATUS_LINE : reason;
	response->reason_phrase = (struct wire_span){ phrase, (uint32_t)(stop - phrase) };
	*at = stop + 2;
	return WIRE_OK;
}

static enum wire_reason apply_summary(const struct wire_summary *s,
				      struct wire_h1_response *response)
{
	response->is_chunked = s->is_chunked;
	response->has_length = s->length != NULL;
	response->content_length = s->content_length;
	response->wants_close = s->says_close || (response->minor == 0 && !s->says_keep_alive);
	/* RFC 6455, 4.1: what the answer has to say, but for the key's hash, which is the client's to check. */
	response->is_websocket = response->status == 101 && response->minor >= 1 &&
				 s->says_upgrade && s->upgrades_to_websocket &&
				 !s->upgrades_to_another;
	/* RFC 9112, 6.1 and RFC 9110, 8.6. A length of 0 says nothing untrue, but must not be sent
	 * on. */
	if (response->status < 200 || response->status == 204) {
		if (s->is_chunked || s->content_length > 0)
			return WIRE_BODY_NOT_ALLOWED;
		if (s->length != NULL)
			response->fields[s->length - response->fields].is_dropped = true;
	}
	return WIRE_OK;
}

enum wire_reason wire_h1_parse_response(const char *head, size_t len,
					const struct wire_h1_limits *limits,
					struct wire_field *fields,
					struct wire_h1_response *ret_response)
{
	struct wire_h1_response response = { .fields = fields };
	const char *at = head;
	const char *end = head + len;
	if (len > UINT32_MAX)
		return WIRE_HEAD_TOO_LARGE;
	enum wire_reason reason = read_status_line(&at, end, &response);
	if (reason != WIRE_OK)
		return reason;
	if (end - at < 2 || end[-2] != '\r' || end[-1] != '\n')
		return WIRE_BAD_FIELD_NAME;
	reason = wire_fields_read(at, (size_t)(end - at) - 2, limits->field_cnt, fields,
				  &response.field_cnt);
	if (reason != WIRE_OK)
		return reason;
	struct wire_summary summary;
	reason = wire_summary_make(fields, response.field_cnt, response.minor, &summary);
	if (reason == WIRE_OK)
		reason = apply_summary(&summary, &response);
	if (reason == WIRE_OK)
		*ret_response = response;
	return reason;
}
