#include "lines.h"

enum wire_reason wire_line_end(const char *at, size_t left)
{
	if (at[0] == '\r')
		return left >= 2 && at[1] == '\n' ? WIRE_OK : WIRE_BARE_CR;
	if (at[0] == '\n')
		return WIRE_BARE_LF;
	return at[0] == '\0' ? WIRE_NUL : WIRE_BAD_FIELD_VALUE;
}

enum wire_step wire_section_scan(const char *data, size_t len, bool skips_first, size_t *seen,
				 size_t *line_start, size_t *ret_len,
				 enum wire_reason *reterr_reason)
{
	size_t at = *seen;
	if (at >= len)
		return WIRE_MORE;
	for (;;) {
		at += wire_scan_ctl(data + at, len - at);
		*seen = at;
		if (at == len || (data[at] == '\r' && at + 1 == len))
			return WIRE_MORE;
		enum wire_reason reason = wire_line_end(data + at, len - at);
		if (reason ==
		    WIRE_BAD_FIELD_VALUE) { /* another CTL: the parser knows what it means here */
			at++;
			continue;
		}
		if (reason != WIRE_OK) {
			*reterr_reason = reason;
			return WIRE_FAIL;
		}
		if (*line_start == at && !(skips_first && at == 0)) {
			*seen = at + 2;
			*ret_len = at + 2;
			return WIRE_DONE;
		}
		at += 2;
		*line_start = at;
	}
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
	size_t seen = scan->seen;
	size_t line_start = scan->line_start;
	enum wire_step step =
		wire_section_scan(data, len, true, &seen, &line_start, ret_head_len, &scan->reason);
	scan->seen = (uint32_t)seen;
	scan->line_start = (uint32_t)line_start;
	return step;
}
