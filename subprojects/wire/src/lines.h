#pragma once
/* Line ends of heads and trailer sections. Threads: any. */
#include "wire/h1.h"

/* Why the CTL at `at` cannot stand there: WIRE_OK when it is CRLF. left: bytes from `at` on, 2 or
 * more for a CR. */
enum wire_reason wire_line_end(const char *at, size_t left);

/* Looks for the empty line that ends a section, from *seen on, with the current line begun at
 * *line_start; both move on. skips_first: one empty line at offset 0 is passed over. DONE: *ret_len
 * includes the empty line. */
enum wire_step wire_section_scan(const char *data, size_t len, bool skips_first, size_t *seen,
				 size_t *line_start, size_t *ret_len,
				 enum wire_reason *reterr_reason);
