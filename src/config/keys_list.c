#include <string.h>

#include "keys.h"
#include "smartproxy/assert.h"
#include "units.h"

#define KEYS_MAX  256
#define DEPTH_MAX 8

const struct key *key_find(const struct key_group *group, const char *name)
{
	for (size_t i = 0; i < group->cnt; i++)
		if (group->keys[i].name[0] == name[0] && strcmp(group->keys[i].name, name) == 0)
			return &group->keys[i];
	return NULL;
}

const struct key_word *key_find_word(const struct key *key, const char *word)
{
	for (const struct key_word *w = key->words; w->word; w++)
		if (strcmp(w->word, word) == 0)
			return w;
	return NULL;
}

static const char *describe_words(const struct key *key, char *dst, size_t len)
{
	for (const struct key_word *w = key->words; w->word; w++)
		len += text_format(dst + len, KEY_TYPE_MAX - len, "%s\"%s\"",
				   len == 0    ? ""
				   : w[1].word ? ", "
					       : " or ",
				   w->word);
	return dst;
}

static void describe_range(const struct key *key, char *dst)
{
	char min[UNITS_TEXT_MAX], max[UNITS_TEXT_MAX];
	if (key->type == KEY_DURATION)
		text_format(dst, KEY_TYPE_MAX, "a duration from %s to %s, such as \"30s\"",
			    units_format_duration(min, key->min),
			    units_format_duration(max, key->max));
	else if (key->type == KEY_SIZE32 || key->type == KEY_SIZE64)
		text_format(dst, KEY_TYPE_MAX, "a size from %s to %s, such as \"16 KiB\"",
			    units_format_size(min, key->min), units_format_size(max, key->max));
	else
		text_format(dst, KEY_TYPE_MAX, "an integer from %lld to %lld", (long long)key->min,
			    (long long)key->max);
}

/* What holds other values is written in two ways. */
static const char *describe_compound(const struct key *key, enum value_notation notation)
{
	static const char *const texts[][VALUE_NOTATION_CNT] = {
		[KEY_STRINGS] = { "a list of strings, such as [ \"a\", \"b\" ]",
				  "an array of strings, such as [\"a\", \"b\"]" },
		[KEY_GROUP] = { "a group { ... }", "an object {...}" },
		[KEY_GROUPS] = { "a list of groups ( { ... }, { ... } )",
				 "an array of objects [{...}, {...}]" },
		[KEY_PORTS] = { "a list of ports and ranges, such as ( 443, \"8000-8010\" )",
				"an array of ports and ranges, such as [443, \"8000-8010\"]" },
		[KEY_HEADERS] = { "a list ( { name = \"...\"; value = \"...\"; } ) or a group "
				  "{ Name = \"...\"; }",
				  "an array [{\"name\": \"...\", \"value\": \"...\"}] or an object "
				  "{\"Name\": \"...\"}" },
		[KEY_CERTIFICATE] = { "\"auto\" or a group { chain_file = \"...\"; "
				      "key_file = \"...\"; }",
				      "\"auto\" or an object {\"chain_file\": \"...\", "
				      "\"key_file\": \"...\"}" },
		[KEY_VERSIONS] = { "a list of \"1.2\" and \"1.3\"",
				   "an array of \"1.2\" and \"1.3\"" },
	};
	return key->type < SP_ARRAY_LEN(texts) ? texts[key->type][notation] : NULL;
}

const char *key_describe(const struct key *key, enum value_notation notation, char *dst)
{
	static const char *const fixed[] = {
		[KEY_BOOL] = "true or false",
		[KEY_OCTAL] = "octal permissions as a string, such as \"0660\"",
		[KEY_STRING] = "a string",
		[KEY_HASH] = "\"client_ip\", \"path\", \"header:NAME\" or \"cookie:NAME\"",
		[KEY_STATUSES] = "a status from 100 to 599 or a range, such as \"200-399\"",
	};
	if (key->type == KEY_WORD)
		return describe_words(key, dst, 0);
	const char *text = describe_compound(key, notation);
	if (!text && key->type < SP_ARRAY_LEN(fixed))
		text = fixed[key->type];
	if (text)
		text_format(dst, KEY_TYPE_MAX, "%s", text);
	else
		describe_range(key, dst);
	if (key->words && key->type == KEY_PORT)
		(void)describe_words(key, dst, strlen(dst));
	return dst;
}

/* Calls visit for every key, each group's own before those of its groups' groups, in the order of
 * the table. */
struct walk {
	struct {
		const struct key_group *group;
		size_t ix;
	} levels[DEPTH_MAX];
	size_t depth;
};

static const struct key *walk_next(struct walk *w)
{
	while (w->depth) {
		const struct key_group *group = w->levels[w->depth - 1].group;
		size_t ix = w->levels[w->depth - 1].ix++;
		if (ix == group->cnt) {
			w->depth--;
			continue;
		}
		const struct key *key = &group->keys[ix];
		if (key->group) {
			SP_ASSERT(w->depth < DEPTH_MAX);
			w->levels[w->depth].group = key->group;
			w->levels[w->depth++].ix = 0;
		}
		return key;
	}
	return NULL;
}

const char *key_find_elsewhere(const char *name)
{
	struct walk w = { .levels[0].group = &key_root, .depth = 1 };
	const char *found = NULL;
	for (const struct key *key = walk_next(&w); key; key = walk_next(&w)) {
		if (strcmp(key->name, name) != 0)
			continue;
		if (found)
			return NULL;
		found = key->path;
	}
	return found;
}

const struct config_key *config_keys(size_t *ret_cnt)
{
	static struct config_key list[KEYS_MAX];
	static char types[KEYS_MAX][KEY_TYPE_MAX];
	static size_t cnt;
	struct walk w = { .levels[0].group = &key_root, .depth = 1 };
	if (!cnt)
		for (const struct key *key = walk_next(&w); key; key = walk_next(&w)) {
			SP_ASSERT(cnt < KEYS_MAX);
			list[cnt] = (struct config_key){
				.path = key->path,
				.type = key_describe(key, VALUE_LIBCONFIG, types[cnt]),
				.default_text = key->default_text,
				.help = key->help,
			};
			cnt++;
		}
	*ret_cnt = cnt;
	return list;
}
