#pragma once
/* What a field's name and value may hold, said again without the library's table. */
#include "fuzz.h"
#include "wire/h1.h"

static inline bool is_token(struct wire_span span)
{
	for (uint32_t i = 0; i < span.len; i++) {
		char c = span.at[i];
		bool is_alnum =
			(c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
		if (!is_alnum && (c == '\0' || strchr("!#$%&'*+-.^_`|~", c) == NULL))
			return false;
	}
	return span.len > 0;
}

static inline bool is_value(struct wire_span span)
{
	for (uint32_t i = 0; i < span.len; i++) {
		unsigned char c = (unsigned char)span.at[i];
		bool is_blank = c == ' ' || c == '\t';
		if ((c < 0x20 && !is_blank) || c == 0x7f ||
		    (is_blank && (i == 0 || i == span.len - 1)))
			return false;
	}
	return true;
}
