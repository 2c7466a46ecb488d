#pragma once
/* Classes of bytes. Threads: any (constant). */
#include <stdbool.h>
#include <stdint.h>

enum wire_char {
	WIRE_CHAR_TOKEN = 1,      /* tchar: RFC 9110, 5.6.2 */
	WIRE_CHAR_TARGET = 2,     /* 0x21 to 0x7e without '#' */
	WIRE_CHAR_HOST = 4,       /* letters, digits, "-._" */
	WIRE_CHAR_UNRESERVED = 8, /* RFC 3986, 2.3 */
	WIRE_CHAR_PLAIN =
		16, /* 0x21 to 0x7e without '%', '/' and '\\': in a path it is just itself */
};

extern const uint8_t wire_chars[256];

static inline bool wire_is_char(char c, enum wire_char class)
{
	return (wire_chars[(unsigned char)c] & class) != 0;
}

static inline bool wire_is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static inline bool wire_is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* -1 when c is no hex digit. */
static inline int wire_hex_value(char c)
{
	if (wire_is_digit(c))
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

static inline char wire_lower(char c)
{
	if (c < 'A' || c > 'Z')
		return c;
	return (char)(c - 'A' + 'a');
}
