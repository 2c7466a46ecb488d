#include <string.h>

#include "load.h"
#include "rules.h"
#include "smartproxy/assert.h"

#define LEAF_MAX 128

static const char *element_leaf(char *dst, const struct key *key, size_t ix)
{
	text_format(dst, LEAF_MAX, "%s[%zu]", key->name, ix);
	return dst;
}

static void write_array(const struct key *key, const void *array, size_t cnt, char *data)
{
	memcpy(data + key->offset, &array, sizeof(array));
	memcpy(data + key->cnt_offset, &cnt, sizeof(cnt));
}

static void load_strings(struct loader *l, const struct key *key, const struct value *v, char *data)
{
	if (v->type != VALUE_LIST) {
		load_mismatch(l, key, v, key->name);
		return;
	}
	const char **strings = load_alloc(l, v->cnt, sizeof(*strings));
	for (size_t i = 0; strings && i < v->cnt; i++)
		strings[i] = load_string(l, key->rule, &v->items[i], key->name, i);
	if (strings)
		write_array(key, strings, v->cnt, data);
}

static bool read_port(const char **text, uint16_t *ret_port)
{
	unsigned port = 0;
	const char *s = *text;
	while (*s >= '0' && *s <= '9' && port <= 65535)
		port = port * 10 + (unsigned)(*s++ - '0');
	if (s == *text || port == 0 || port > 65535)
		return false;
	*text = s;
	*ret_port = (uint16_t)port;
	return true;
}

static bool read_ports(const struct value *v, struct config_ports *ret_ports)
{
	if (v->type == VALUE_INT && v->integer >= 1 && v->integer <= 65535) {
		ret_ports->first = ret_ports->last = (uint16_t)v->integer;
		return true;
	}
	if (v->type != VALUE_STRING)
		return false;
	const char *s = v->string;
	if (!read_port(&s, &ret_ports->first))
		return false;
	ret_ports->last = ret_ports->first;
	if (*s == '-' && (s++, !read_port(&s, &ret_ports->last)))
		return false;
	return *s == '\0' && ret_ports->first <= ret_ports->last;
}

static void load_ports(struct loader *l, const struct key *key, const struct value *v, char *data)
{
	char leaf[LEAF_MAX], found[VALUE_TEXT_MAX];
	if (v->type != VALUE_LIST || v->cnt == 0) {
		load_mismatch(l, key, v, key->name);
		return;
	}
	struct config_ports *ports = load_alloc(l, v->cnt, sizeof(*ports));
	for (size_t i = 0; ports && i < v->cnt; i++)
		if (!read_ports(&v->items[i], &ports[i]))
			load_problem(l, &v->items[i], element_leaf(leaf, key, i),
				     "found %s, expected a port from 1 to 65535 or a range such as "
				     "\"8000-8010\"",
				     value_describe(&v->items[i], l->notation, found));
	if (ports)
		write_array(key, ports, v->cnt, data);
}

/* { Name = "value"; }: each member is one element of key->group, whose keys are name and value. */
static void load_header_group(struct loader *l, const struct key *key, const struct value *v,
			      char *data)
{
	char leaf[LEAF_MAX];
	const struct key *keys = key->group->keys;
	char *array = load_alloc(l, v->cnt, key->group->bytes);
	for (size_t i = 0; array && i < v->cnt; i++) {
		const struct value *member = &v->items[i];
		struct value name = { .type = VALUE_STRING,
				      .line = member->line,
				      .file = member->file,
				      .string = member->name };
		char escaped[64];
		text_escape(escaped, sizeof(escaped), member->name, strlen(member->name));
		text_format(leaf, sizeof(leaf), "%s.%s", key->name, escaped);
		char *element = array + i * key->group->bytes;
		load_scalar(l, &keys[0], &name, leaf, element);
		bool is_any = member->type == VALUE_BOOL && member->boolean;
		if (!is_any || !(key->flags & KEY_ANY_VALUE))
			load_scalar(l, &keys[1], member, leaf, element);
	}
	if (array)
		write_array(key, array, v->cnt, data);
}

static void load_certificate(struct loader *l, const struct key *key, const struct value *v,
			     char *data)
{
	struct config_action_data *action = (struct config_action_data *)(void *)data;
	bool is_auto = v->type == VALUE_STRING && strcmp(v->string, "auto") == 0;
	if (!is_auto && v->type != VALUE_GROUP) {
		load_mismatch(l, key, v, key->name);
		return;
	}
	action->certificate = is_auto ? CONFIG_CERT_AUTO : CONFIG_CERT_FILES;
	if (!is_auto)
		load_push(l, (struct frame){ .group = key->group,
					     .value = v,
					     .data = data,
					     .name = key->name });
}

static void load_hash_key(struct loader *l, const struct key *key, const struct value *v,
			  char *data)
{
	static const struct {
		const char *prefix;
		enum config_hash_key key;
		const char *(*rule)(char *name); /* NULL: no name follows */
	} kinds[] = {
		{ "client_ip", CONFIG_HASH_CLIENT_IP, NULL },
		{ "path", CONFIG_HASH_PATH, NULL },
		{ "header:", CONFIG_HASH_HEADER, rule_match_field_name },
		{ "cookie:", CONFIG_HASH_COOKIE, rule_cookie_name },
	};
	struct config_upstream *upstream = (struct config_upstream *)(void *)data;
	for (size_t i = 0; v->type == VALUE_STRING && i < SP_ARRAY_LEN(kinds); i++) {
		size_t len = strlen(kinds[i].prefix);
		if (strncmp(v->string, kinds[i].prefix, len) != 0 ||
		    (!kinds[i].rule && v->string[len]))
			continue;
		struct value name = *v;
		name.string += len;
		upstream->hash_key = kinds[i].key;
		upstream->hash_name = NULL;
		if (kinds[i].rule)
			upstream->hash_name =
				load_string(l, kinds[i].rule, &name, key->name, LOAD_NO_IX);
		return;
	}
	load_mismatch(l, key, v, key->name);
}

static bool read_status(const char **text, unsigned *ret_status)
{
	const char *s = *text;
	unsigned status = 0;
	for (size_t i = 0; i < 3; i++, s++) {
		if (*s < '0' || *s > '9')
			return false;
		status = status * 10 + (unsigned)(*s - '0');
	}
	*text = s;
	*ret_status = status;
	return status >= 100 && status <= 599;
}

static void load_statuses(struct loader *l, const struct key *key, const struct value *v,
			  char *data)
{
	struct config_upstream *upstream = (struct config_upstream *)(void *)data;
	const char *s = v->type == VALUE_STRING ? v->string : "";
	unsigned first = 0, last = 0;
	bool is_good = read_status(&s, &first);
	last = first;
	if (is_good && *s == '-')
		is_good = (s++, read_status(&s, &last));
	if (!is_good || *s || first > last) {
		load_mismatch(l, key, v, key->name);
		return;
	}
	upstream->check.status_first = first;
	upstream->check.status_last = last;
}

static void load_versions(struct loader *l, const struct key *key, const struct value *v,
			  char *data)
{
	struct config_match *match = (struct config_match *)(void *)data;
	char leaf[LEAF_MAX];
	if (v->type != VALUE_LIST) {
		load_mismatch(l, key, v, key->name);
		return;
	}
	for (size_t i = 0; i < v->cnt; i++) {
		const struct value *item = &v->items[i];
		const struct key_word *word =
			item->type == VALUE_STRING ? key_find_word(key, item->string) : NULL;
		if (!word)
			load_problem(l, item, element_leaf(leaf, key, i),
				     "expected \"1.2\" or \"1.3\"");
		else if (word->value == 12)
			match->has_tls12 = true;
		else
			match->has_tls13 = true;
	}
}

void load_special(struct loader *l, const struct key *key, const struct value *v, void *data)
{
	switch (key->type) {
	case KEY_STRINGS:
		load_strings(l, key, v, data);
		break;
	case KEY_PORTS:
		load_ports(l, key, v, data);
		break;
	case KEY_HEADERS:
		if (v->type == VALUE_GROUP)
			load_header_group(l, key, v, data);
		else
			load_list(l, key, v, data);
		break;
	case KEY_CERTIFICATE:
		load_certificate(l, key, v, data);
		break;
	case KEY_VERSIONS:
		load_versions(l, key, v, data);
		break;
	case KEY_HASH:
		load_hash_key(l, key, v, data);
		break;
	case KEY_STATUSES:
		load_statuses(l, key, v, data);
		break;
	default:
		SP_UNREACHABLE();
	}
}
