#pragma once
/* Line ends of heads and trailer sections. Threads: any. */
#include "wire/h1.h"

/* Why the CTL at `at` cannot stand there: WIRE_OK when it is CRLF. left: bytes from `at` on, 2 or
 * more for a CR. */
enum wire_reason wire_line_end(const char *at, size_t left);

/* Where a scan for the end of a section stands. Zero-initialised before the first byte. */
struct wire_lines {
	size_t seen;       /* bytes already looked at */
	size_t line_start; /* offset of the current line */
	enum wire_reason reason;
};

/* Looks for the empty line that ends a section. skips_first: one empty line at offset 0 is passed
 * over. DONE: *ret_len includes the empty line. FAIL: reason in lines. */
enum wire_step wire_lines_scan(struct wire_lines *lines, const char *data, size_t len,
			       bool skips_first, size_t *ret_len);
