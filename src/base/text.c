#include "smartproxy/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"

static bool make_room(struct text *t, size_t len)
{
	if (t->has_failed)
		return false;
	if (len < t->cap - t->len && t->cap > t->len)
		return true;
	size_t cap = t->cap < 128 ? 256 : t->cap * 2;
	while (cap - t->len <= len)
		cap *= 2;
	char *data = fault_hits(FAULT_MALLOC) ? NULL : realloc(t->data, cap);
	if (data == NULL) {
		t->has_failed = true;
		return false;
	}
	t->data = data;
	t->cap = cap;
	return true;
}

void text_add(struct text *t, const char *s, size_t len)
{
	if (!make_room(t, len))
		return;
	memcpy(t->data + t->len, s, len);
	t->len += len;
	t->data[t->len] = '\0';
}

void text_puts(struct text *t, const char *s)
{
	text_add(t, s, strlen(s));
}

void text_printf(struct text *t, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int len = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (len < 0 || !make_room(t, (size_t)len))
		return;
	va_start(args, fmt);
	(void)vsnprintf(t->data + t->len, (size_t)len + 1, fmt, args);
	va_end(args);
	t->len += (size_t)len;
}

void text_fini(struct text *t)
{
	if (t->data != NULL)
		explicit_bzero(t->data, t->cap);
	free(t->data);
	*t = (struct text){ 0 };
}

static const char *escape(char *dst, size_t cap, const char *src, size_t len, const char *prefix)
{
	static const char hex[] = "0123456789abcdef";
	size_t prefix_len = strlen(prefix);
	size_t at = 0;
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)src[i];
		bool is_plain = c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
		if (at + (is_plain ? 1 : prefix_len + 2) >= cap)
			break;
		if (is_plain) {
			dst[at++] = (char)c;
			continue;
		}
		memcpy(dst + at, prefix, prefix_len);
		at += prefix_len;
		dst[at++] = hex[c >> 4];
		dst[at++] = hex[c & 15];
	}
	dst[at] = '\0';
	return dst;
}

const char *text_escape(char *dst, size_t cap, const char *src, size_t len)
{
	return escape(dst, cap, src, len, "\\x");
}

const char *text_escape_json(char *dst, size_t cap, const char *src, size_t len)
{
	return escape(dst, cap, src, len, "\\u00");
}

size_t text_format(char *dst, size_t cap, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int len = vsnprintf(dst, cap, fmt, args);
	va_end(args);
	if (len < 0) {
		dst[0] = '\0';
		return 0;
	}
	return (size_t)len < cap ? (size_t)len : cap - 1;
}

size_t text_copy(char *dst, size_t cap, const char *src)
{
	size_t len = strnlen(src, cap - 1);
	memcpy(dst, src, len);
	dst[len] = '\0';
	return len;
}

bool text_is_equal(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}
