#include <stdlib.h>
#include <string.h>

#include "load.h"
#include "rules.h"
#include "smartproxy/assert.h"
#include "units.h"

#define LEAF_MAX         64
#define STRING_MAX_BYTES ((size_t)16 << 20)

static void refuse_string(struct loader *l, const struct value *v, const char *leaf, size_t ix,
			  const char *wanted)
{
	char found[VALUE_TEXT_MAX], element[LEAF_MAX];
	if (ix != LOAD_NO_IX) {
		text_format(element, sizeof(element), "%s[%zu]", leaf, ix);
		leaf = element;
	}
	load_problem(l, v, leaf, "found %s, expected %s", value_describe(v, l->notation, found),
		     wanted);
}

const char *load_string(struct loader *l, const char *(*rule)(char *text), const struct value *v,
			const char *leaf, size_t ix)
{
	if (v->type != VALUE_STRING) {
		refuse_string(l, v, leaf, ix, "a string");
		return NULL;
	}
	size_t len = strlen(v->string);
	if (len > STRING_MAX_BYTES) {
		refuse_string(l, v, leaf, ix, "16 MiB at most");
		return NULL;
	}
	char *copy = arena_strndup(l->arena, v->string, len);
	if (!copy) {
		l->error = ERR_NOMEM;
		return NULL;
	}
	const char *wanted = rule ? rule(copy) : rule_text(copy);
	if (!wanted)
		return copy;
	refuse_string(l, v, leaf, ix, wanted);
	return NULL;
}

static void load_text(struct loader *l, const struct key *key, const struct value *v,
		      const char *leaf, char *data)
{
	const char *string = NULL;
	bool is_none =
		v->type == VALUE_STRING && v->string[0] == '\0' && (key->flags & KEY_EMPTY_IS_NONE);
	if (!is_none)
		string = load_string(l, key->rule, v, leaf, LOAD_NO_IX);
	memcpy(data + key->offset, &string, sizeof(string));
	if (key->cnt_offset) {
		size_t len = string ? strlen(string) : 0;
		memcpy(data + key->cnt_offset, &len, sizeof(len));
	}
}

static bool is_within(const struct key *key, int64_t number)
{
	return number >= key->min && number <= key->max;
}

/* The number that a value of such a key means. */
static bool read_number(const struct key *key, const struct value *v, int64_t *ret_number)
{
	bool is_string = v->type == VALUE_STRING;
	const struct key_word *word =
		is_string && key->words ? key_find_word(key, v->string) : NULL;
	if (word) {
		*ret_number = word->value;
		return true;
	}
	switch (key->type) {
	case KEY_BOOL:
		*ret_number = v->type == VALUE_BOOL && v->boolean;
		return v->type == VALUE_BOOL;
	case KEY_UINT:
	case KEY_INT:
	case KEY_PORT:
		*ret_number = v->type == VALUE_INT ? v->integer : 0;
		return v->type == VALUE_INT && is_within(key, *ret_number);
	case KEY_DURATION:
		return is_string && units_parse_duration(v->string, ret_number) &&
		       is_within(key, *ret_number);
	case KEY_SIZE32:
	case KEY_SIZE64:
		return is_string && units_parse_size(v->string, ret_number) &&
		       is_within(key, *ret_number);
	case KEY_OCTAL:
		return is_string && units_parse_octal(v->string, ret_number) &&
		       is_within(key, *ret_number);
	case KEY_WORD:
		return false;
	default:
		SP_UNREACHABLE();
	}
}

static void write_number(const struct key *key, int64_t number, char *at)
{
	bool flag = number != 0;
	uint16_t port = (uint16_t)number;
	uint32_t word = (uint32_t)number; /* also an int, of the same size */
	switch (key->type) {
	case KEY_BOOL:
		memcpy(at, &flag, sizeof(flag));
		break;
	case KEY_PORT:
		memcpy(at, &port, sizeof(port));
		break;
	case KEY_DURATION:
	case KEY_SIZE64:
		memcpy(at, &number, sizeof(number));
		break;
	default:
		memcpy(at, &word, sizeof(word));
	}
}

void load_scalar(struct loader *l, const struct key *key, const struct value *v, const char *leaf,
		 void *data)
{
	int64_t number = 0;
	if (key->type == KEY_STRING) {
		load_text(l, key, v, leaf, data);
		return;
	}
	if (!read_number(key, v, &number)) {
		load_mismatch(l, key, v, leaf);
		return;
	}
	write_number(key, number, (char *)data + key->offset);
}

void load_default(struct loader *l, const struct key *key, void *data)
{
	struct value v = { .type = VALUE_STRING, .string = key->default_text };
	switch (key->type) {
	case KEY_BOOL:
		v = (struct value){ .type = VALUE_BOOL,
				    .boolean = strcmp(key->default_text, "true") == 0 };
		break;
	case KEY_UINT:
	case KEY_INT:
	case KEY_PORT:
		v = (struct value){ .type = VALUE_INT,
				    .integer = strtoll(key->default_text, NULL, 10) };
		break;
	default:
		break;
	}
	if (key->type == KEY_HASH || key->type == KEY_STATUSES)
		load_special(l, key, &v, data);
	else
		load_scalar(l, key, &v, key->name, data);
}
