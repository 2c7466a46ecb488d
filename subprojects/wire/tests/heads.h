#pragma once
/* Heads through wire_h1_scan_head, cut at every byte. */
#include "run.h"
#include "wire/h1.h"

#define GET      "GET / HTTP/1.1\r\n"
#define POST     "POST / HTTP/1.1\r\n"
#define HOST     "Host: a.example\r\n"
#define END      "\r\n"
#define RESPONSE "HTTP/1.1 200 OK\r\n"

/* Text with its length, so that a NUL may be inside. */
#define TEXT(literal) (literal), sizeof(literal) - 1

static const struct wire_h1_limits limits = { .target_bytes = 64, .field_cnt = 8 };

/* Scans the head whole and cut once at each place, asserts that all agree, and gives the scanner's
 * reason. */
static inline enum wire_reason scan_all_cuts(const char *name, const char *head, size_t len)
{
	struct wire_h1_scan whole = { 0 };
	size_t whole_len = 0;
	enum wire_step whole_step = wire_h1_scan_head(&whole, head, len, &whole_len);
	ck_assert_msg(whole_step != WIRE_MORE, "%s: not a whole head", name);
	if (whole_step == WIRE_DONE)
		ck_assert_msg(whole_len == len, "%s: head of %zu, not %zu bytes", name, whole_len,
			      len);
	struct wire_h1_scan bytewise = { 0 };
	enum wire_step step = WIRE_MORE;
	size_t step_len = 0;
	for (size_t cut = 0; cut <= len; cut++) {
		char *part = copy_exactly(head, cut);
		if (step == WIRE_MORE)
			step = wire_h1_scan_head(&bytewise, part, cut, &step_len);
		struct wire_h1_scan once = { 0 };
		size_t once_len = 0;
		enum wire_step once_step = wire_h1_scan_head(&once, part, cut, &once_len);
		free(part);
		ck_assert_msg(once_step == step && once.reason == bytewise.reason, "%s: cut at %zu",
			      name, cut);
		if (once_step == WIRE_MORE) {
			once_step = wire_h1_scan_head(&once, head, len, &once_len);
			ck_assert_msg(once_step == whole_step && once.reason == whole.reason &&
					      once_len == whole_len,
				      "%s: cut at %zu, then whole", name, cut);
		}
	}
	ck_assert_msg(step == whole_step && step_len == whole_len, "%s: byte by byte", name);
	return whole.reason;
}
