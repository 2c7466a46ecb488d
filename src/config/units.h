#pragma once
/* config, private: durations ("100ms", "30s", "5m", "12h", "30d", "0") and sizes ("16 KiB", "100")
 * in text form. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UNITS_TEXT_MAX 32

/* false: not of this form, or more than an int64_t takes. */
bool units_parse_duration(const char *text, int64_t *ret_ms);
bool units_parse_size(const char *text, int64_t *ret_bytes);
/* Three or four octal digits, with or without leading zeros beyond them. */
bool units_parse_octal(const char *text, int64_t *ret_value);
/* The largest unit that loses nothing; dst holds UNITS_TEXT_MAX. Returns dst. */
const char *units_format_duration(char *dst, int64_t ms);
const char *units_format_size(char *dst, int64_t bytes);
