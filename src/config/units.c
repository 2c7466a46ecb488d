#include "units.h"

#include <string.h>

#include "smartproxy/assert.h"
#include "smartproxy/text.h"

struct unit {
	const char *name;
	int64_t factor;
};
/* Largest first: the order in which the formatters try them. */
static const struct unit durations[] = {
	{ "d", 86400000 }, { "h", 3600000 }, { "m", 60000 }, { "s", 1000 }, { "ms", 1 },
};
static const struct unit sizes[] = {
	{ "TiB", (int64_t)1 << 40 }, { "GiB", 1 << 30 }, { "MiB", 1 << 20 },
	{ "KiB", 1 << 10 },          { "B", 1 },
};

static bool read_number(const char **text, int64_t *ret_value)
{
	const char *s = *text;
	int64_t value = 0;
	if (*s < '0' || *s > '9')
		return false;
	for (; *s >= '0' && *s <= '9'; s++)
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_add_overflow(value, *s - '0', &value))
			return false;
	*text = s;
	*ret_value = value;
	return true;
}

static bool apply(const struct unit *units, size_t cnt, const char *name, int64_t *value)
{
	for (size_t i = 0; i < cnt; i++)
		if (strcmp(units[i].name, name) == 0)
			return !__builtin_mul_overflow(*value, units[i].factor, value);
	return false;
}

bool units_parse_duration(const char *text, int64_t *ret_ms)
{
	int64_t value;
	if (!read_number(&text, &value))
		return false;
	text += *text == ' ';
	if (!(value == 0 && *text == '\0') &&
	    !apply(durations, SP_ARRAY_LEN(durations), text, &value))
		return false;
	*ret_ms = value;
	return true;
}

bool units_parse_size(const char *text, int64_t *ret_bytes)
{
	int64_t value;
	if (!read_number(&text, &value))
		return false;
	text += *text == ' ';
	if (*text && !apply(sizes, SP_ARRAY_LEN(sizes), text, &value))
		return false;
	*ret_bytes = value;
	return true;
}

bool units_parse_octal(const char *text, int64_t *ret_value)
{
	int64_t value = 0;
	size_t len = strlen(text);
	if (len < 3 || len > 5)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '7')
			return false;
		value = value * 8 + (*text - '0');
	}
	*ret_value = value;
	return true;
}

static const char *format(char *dst, const struct unit *units, size_t cnt, int64_t value,
			  const char *space)
{
	size_t i = 0;
	while (i + 1 < cnt && value % units[i].factor)
		i++;
	text_format(dst, UNITS_TEXT_MAX, "%lld%s%s", (long long)(value / units[i].factor), space,
		    units[i].name);
	return dst;
}

const char *units_format_duration(char *dst, int64_t ms)
{
	if (ms)
		return format(dst, durations, SP_ARRAY_LEN(durations), ms, "");
	text_format(dst, UNITS_TEXT_MAX, "0");
	return dst;
}

const char *units_format_size(char *dst, int64_t bytes)
{
	if (bytes % 1024 == 0 && bytes)
		return format(dst, sizes, SP_ARRAY_LEN(sizes), bytes, " ");
	text_format(dst, UNITS_TEXT_MAX, "%lld", (long long)bytes);
	return dst;
}
