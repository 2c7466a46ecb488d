#pragma once
/* base: growing text for control-side work (JSON answers, messages, metrics). Never on a worker's
 * hot path. Threads: one owner. On lack of memory the text is marked failed and further appends do
 * nothing. */
#include <stdbool.h>
#include <stddef.h>

struct text {
	char *data; /* NUL-terminated when not NULL; owner frees with text_fini */
	size_t len, cap;
	bool has_failed;
};

void text_add(struct text *t, const char *s, size_t len);
void text_puts(struct text *t, const char *s);
void text_printf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void text_fini(struct text *t);
/* Copies src to dst, at most cap bytes with NUL, with bytes outside 0x20-0x7e, '"' and '\' written
 * as \xHH. For anything that came from a network and goes to a log line. Returns dst. */
const char *text_escape(char *dst, size_t cap, const char *src, size_t len);
/* As text_escape, for the inside of a JSON string: \u00HH. */
const char *text_escape_json(char *dst, size_t cap, const char *src, size_t len);
/* snprintf that always terminates and returns what was stored (never more than cap - 1). */
size_t text_format(char *dst, size_t cap, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/* As text_format(dst, cap, "%s", src), for what is copied for each connection. cap: 1 or more. */
size_t text_copy(char *dst, size_t cap, const char *src);
/* NULL is equal to NULL only. */
bool text_is_equal(const char *a, const char *b);
