#include "lines.h"

enum wire_reason wire_line_end(const char *at, size_t left)
{
	if (at[0] == '\r')
		return left >= 2 && at[1] == '\n' ? WIRE_OK : WIRE_BARE_CR;
	if (at[0] == '\n')
		return WIRE_BARE_LF;
	return at[0] == '\0' ? WIRE_NUL : WIRE_BAD_FIELD_VALUE;
}

enum wire_step wire_lines_scan(struct wire_lines *lines, const char *data, size_t len,
			       bool skips_first, size_t *ret_len)
{
	size_t at = lines->seen;
	while (at < len) {
		at += wire_scan_ctl(data + at, len - at);
		lines->seen = at;
		if (at == len || (data[at] == '\r' && at + 1 == len))
			return WIRE_MORE;
		bool is_crlf = data[at] == '\r' && data[at + 1] == '\n';
		enum wire_reason reason = is_crlf ? WIRE_OK : wire_line_end(data + at, len - at);
		if (reason ==
		    WIRE_BAD_FIELD_VALUE) { /* another CTL: the parser knows what it means here */
			lines->seen = ++at;
			continue;
		}
		if (reason != WIRE_OK) {
			lines->reason = reason;
			return WIRE_FAIL;
		}
		bool is_empty = lines->line_start == at;
		bool is_first = at == 0;
		at += 2;
		lines->seen = at;
		lines->line_start = at;
		if (is_empty && !(skips_first && is_first)) {
			*ret_len = at;
			return WIRE_DONE;
		}
	}
	return WIRE_MORE;
}

enum wire_step wire_h1_scan_head(struct wire_h1_scan *scan, const char *data, size_t len,
				 size_t *ret_head_len)
{
	if (scan->reason != WIRE_OK)
		return WIRE_FAIL;
	if (len > UINT32_MAX) {
		scan->reason = WIRE_HEAD_TOO_LARGE;
		return WIRE_FAIL;
	}
	struct wire_lines lines = { .seen = scan->seen, .line_start = scan->line_start };
	enum wire_step step = wire_lines_scan(&lines, data, len, true, ret_head_len);
	scan->seen = (uint32_t)lines.seen;
	scan->line_start = (uint32_t)lines.line_start;
	scan->reason = lines.reason;
	return step;
}
