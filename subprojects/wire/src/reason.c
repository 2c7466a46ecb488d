#include "wire/h1.h"

static const struct {
	const char *name;
	unsigned status;
} reasons[WIRE_REASON_CNT] = {
	[WIRE_OK] = { "ok", 200 },
	[WIRE_BAD_REQUEST_LINE] = { "bad_request_line", 400 },
	[WIRE_BAD_METHOD] = { "bad_method", 400 },
	[WIRE_BAD_TARGET] = { "bad_target", 400 },
	[WIRE_TARGET_TOO_LONG] = { "target_too_long", 414 },
	[WIRE_BAD_VERSION] = { "bad_version", 400 },
	[WIRE_VERSION_TOO_HIGH] = { "version_too_high", 505 },
	[WIRE_BAD_STATUS_LINE] = { "bad_status_line", 400 },
	[WIRE_BARE_LF] = { "bare_lf", 400 },
	[WIRE_BARE_CR] = { "bare_cr", 400 },
	[WIRE_NUL] = { "nul", 400 },
	[WIRE_BAD_FIELD_NAME] = { "bad_field_name", 400 },
	[WIRE_SPACE_BEFORE_COLON] = { "space_before_colon", 400 },
	[WIRE_BAD_FIELD_VALUE] = { "bad_field_value", 400 },
	[WIRE_OBS_FOLD] = { "obs_fold", 400 },
	[WIRE_TOO_MANY_FIELDS] = { "too_many_fields", 431 },
	[WIRE_HEAD_TOO_LARGE] = { "head_too_large", 431 },
	[WIRE_NO_HOST] = { "no_host", 400 },
	[WIRE_SECOND_HOST] = { "second_host", 400 },
	[WIRE_BAD_HOST] = { "bad_host", 400 },
	[WIRE_HOST_MISMATCH] = { "host_mismatch", 400 },
	[WIRE_BAD_CONTENT_LENGTH] = { "bad_content_length", 400 },
	[WIRE_SECOND_CONTENT_LENGTH] = { "second_content_length", 400 },
	[WIRE_LENGTH_AND_CODING] = { "length_and_coding", 400 },
	[WIRE_BAD_TRANSFER_CODING] = { "bad_transfer_coding", 501 },
	[WIRE_CODING_IN_1_0] = { "coding_in_1_0", 400 },
	[WIRE_BODY_NOT_ALLOWED] = { "body_not_allowed", 400 },
	[WIRE_BAD_EXPECT] = { "bad_expect", 417 },
	[WIRE_BAD_CHUNK_SIZE] = { "bad_chunk_size", 400 },
	[WIRE_BAD_CHUNK_EXT] = { "bad_chunk_ext", 400 },
	[WIRE_BAD_CHUNK_END] = { "bad_chunk_end", 400 },
	[WIRE_BAD_TRAILER] = { "bad_trailer", 400 },
};

const char *wire_reason_name(enum wire_reason reason)
{
	return (unsigned)reason < WIRE_REASON_CNT ? reasons[reason].name : "unknown";
}

unsigned wire_h1_status(enum wire_reason reason)
{
	return (unsigned)reason < WIRE_REASON_CNT ? reasons[reason].status : 400;
}

static const struct {
	unsigned status;
	const char *text;
} phrases[] = {
	{ 100, "Continue" },
	{ 102, "Processing" },
	{ 103, "Early Hints" },
	{ 200, "OK" },
	{ 201, "Created" },
	{ 202, "Accepted" },
	{ 204, "No Content" },
	{ 206, "Partial Content" },
	{ 301, "Moved Permanently" },
	{ 302, "Found" },
	{ 303, "See Other" },
	{ 304, "Not Modified" },
	{ 307, "Temporary Redirect" },
	{ 308, "Permanent Redirect" },
	{ 400, "Bad Request" },
	{ 401, "Unauthorized" },
	{ 403, "Forbidden" },
	{ 404, "Not Found" },
	{ 405, "Method Not Allowed" },
	{ 408, "Request Timeout" },
	{ 409, "Conflict" },
	{ 410, "Gone" },
	{ 411, "Length Required" },
	{ 413, "Content Too Large" },
	{ 414, "URI Too Long" },
	{ 417, "Expectation Failed" },
	{ 418, "I'm a teapot" },
	{ 421, "Misdirected Request" },
	{ 429, "Too Many Requests" },
	{ 431, "Request Header Fields Too Large" },
	{ 451, "Unavailable For Legal Reasons" },
	{ 500, "Internal Server Error" },
	{ 501, "Not Implemented" },
	{ 502, "Bad Gateway" },
	{ 503, "Service Unavailable" },
	{ 504, "Gateway Timeout" },
	{ 505, "HTTP Version Not Supported" },
};

const char *wire_h1_status_phrase(unsigned status)
{
	for (size_t i = 0; i < sizeof(phrases) / sizeof(phrases[0]); i++) {
		if (phrases[i].status == status)
			return phrases[i].text;
	}
	return "";
}
