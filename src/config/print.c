/* The model as libconfig text or JSON, by the table of keys; groups are walked with a stack of
 * frames. */
#include <string.h>

#include "keys.h"
#include "smartproxy/assert.h"
#include "units.h"

#define DEPTH_MAX 12

struct frame {
	const struct key_group *group;
	const char *data; /* the struct, or the next element of a list */
	size_t key_ix;    /* of a struct */
	size_t left;      /* of a list */
	bool is_list, has_items;
};
struct printer {
	struct text *out;
	bool is_json;
	struct frame frames[DEPTH_MAX];
	size_t depth;
};

static void indent(struct printer *p)
{
	static const char spaces[] = "                        ";
	SP_ASSERT(p->depth * 2 < sizeof(spaces));
	if (!p->is_json)
		text_add(p->out, spaces, p->depth * 2);
}

static void put_escape(struct printer *p, unsigned char byte)
{
	static const char shorts[] = "\n\r\t\f\"\\", letters[] = "nrtf\"\\";
	const char *at = byte ? strchr(shorts, byte) : NULL;
	if (at)
		text_printf(p->out, "\\%c", letters[at - shorts]);
	else
		text_printf(p->out, p->is_json ? "\\u%04x" : "\\x%02x", byte);
}

static void put_string(struct printer *p, const char *s)
{
	text_puts(p->out, "\"");
	while (*s) {
		size_t len = 0;
		while ((unsigned char)s[len] >= ' ' && s[len] != 0x7f && s[len] != '"' &&
		       s[len] != '\\')
			len++;
		text_add(p->out, s, len);
		s += len;
		if (*s)
			put_escape(p, (unsigned char)*s++);
	}
	text_puts(p->out, "\"");
}

static void begin_item(struct printer *p)
{
	struct frame *top = &p->frames[p->depth - 1];
	if (top->has_items && p->is_json)
		text_puts(p->out, ",");
	else if (top->has_items && top->is_list)
		text_puts(p->out, ",\n");
	top->has_items = true;
	indent(p);
}

static void begin_key(struct printer *p, const char *name)
{
	begin_item(p);
	text_printf(p->out, p->is_json ? "\"%s\":" : "%s = ", name);
}

static void end_key(struct printer *p)
{
	if (!p->is_json)
		text_puts(p->out, ";\n");
}

static void push(struct printer *p, struct frame frame)
{
	SP_ASSERT(p->depth < DEPTH_MAX);
	text_puts(p->out, frame.is_list ? (p->is_json ? "[" : "(\n") : p->is_json ? "{" : "{\n");
	p->frames[p->depth++] = frame;
}

static void pop(struct printer *p)
{
	struct frame *top = &p->frames[--p->depth];
	if (!p->is_json && top->is_list && top->has_items)
		text_puts(p->out, "\n");
	indent(p);
	text_puts(p->out, top->is_list ? (p->is_json ? "]" : ")") : "}");
	if (p->depth && !p->frames[p->depth - 1].is_list)
		end_key(p);
}

static const void *read_pointer(const char *at)
{
	const void *pointer;
	memcpy(&pointer, at, sizeof(pointer));
	return pointer;
}

static size_t read_cnt(const struct key *key, const char *data)
{
	size_t cnt;
	memcpy(&cnt, data + key->cnt_offset, sizeof(cnt));
	return cnt;
}

static int64_t read_number(const struct key *key, const char *at)
{
	int64_t wide;
	int32_t word;
	uint16_t port;
	bool flag;
	switch (key->type) {
	case KEY_BOOL:
		memcpy(&flag, at, sizeof(flag));
		return flag;
	case KEY_PORT:
		memcpy(&port, at, sizeof(port));
		return port;
	case KEY_DURATION:
	case KEY_SIZE64:
		memcpy(&wide, at, sizeof(wide));
		return wide;
	default:
		memcpy(&word, at, sizeof(word));
		return word;
	}
}

static void put_scalar(struct printer *p, const struct key *key, const char *data)
{
	char number_text[UNITS_TEXT_MAX];
	if (key->type == KEY_STRING) {
		const char *s = read_pointer(data + key->offset);
		put_string(p, s ? s : "");
		return;
	}
	int64_t number = read_number(key, data + key->offset);
	const struct key_word *word = key->words;
	while (word && word->word && word->value != number)
		word++;
	if (word && word->word) {
		text_printf(p->out, "\"%s\"", word->word);
		return;
	}
	switch (key->type) {
	case KEY_BOOL:
		text_puts(p->out, number ? "true" : "false");
		break;
	case KEY_DURATION:
		text_printf(p->out, "\"%s\"", units_format_duration(number_text, number));
		break;
	case KEY_SIZE32:
	case KEY_SIZE64:
		text_printf(p->out, "\"%s\"", units_format_size(number_text, number));
		break;
	case KEY_OCTAL:
		text_printf(p->out, "\"%04llo\"", (unsigned long long)number);
		break;
	default:
		text_printf(p->out, "%lld", (long long)number);
	}
}

static void begin_array(struct printer *p)
{
	text_puts(p->out, p->is_json ? "[" : "( ");
}

static void end_array(struct printer *p)
{
	text_puts(p->out, p->is_json ? "]" : " )");
}

static void put_strings(struct printer *p, const struct key *key, const char *data)
{
	const char *const *strings = read_pointer(data + key->offset);
	size_t cnt = read_cnt(key, data);
	begin_array(p);
	for (size_t i = 0; i < cnt; i++) {
		text_puts(p->out, i ? ", " : "");
		put_string(p, strings[i]);
	}
	end_array(p);
}

static void put_ports(struct printer *p, const struct key *key, const char *data)
{
	const struct config_ports *list = read_pointer(data + key->offset);
	size_t cnt = read_cnt(key, data);
	begin_array(p);
	for (size_t i = 0; i < cnt; i++) {
		const struct config_ports *ports = &list[i];
		text_puts(p->out, i ? ", " : "");
		if (ports->first == ports->last)
			text_printf(p->out, "%u", ports->first);
		else
			text_printf(p->out, "\"%u-%u\"", ports->first, ports->last);
	}
	end_array(p);
}

static void put_versions(struct printer *p, const struct config_match *match)
{
	begin_array(p);
	text_puts(p->out, match->has_tls12 ? "\"1.2\"" : "");
	text_puts(p->out, match->has_tls12 && match->has_tls13 ? ", " : "");
	text_puts(p->out, match->has_tls13 ? "\"1.3\"" : "");
	end_array(p);
}

static int64_t read_kind(const struct key_group *group, const char *data)
{
	const struct key *kind = key_find(group, group->kind);
	return read_number(kind, data + kind->offset);
}

static void put_hash_key(struct printer *p, const struct config_upstream *upstream)
{
	static const char *const words[] = {
		[CONFIG_HASH_CLIENT_IP] = "client_ip",
		[CONFIG_HASH_PATH] = "path",
		[CONFIG_HASH_HEADER] = "header:",
		[CONFIG_HASH_COOKIE] = "cookie:",
	};
	text_printf(p->out, "\"%s%s\"", words[upstream->hash_key],
		    upstream->hash_name ? upstream->hash_name : "");
}

/* Whether the key says anything here; what is skipped reads back as it is. */
static bool is_worth(const struct key_group *group, const struct key *key, const char *data)
{
	const struct config_match *match = (const struct config_match *)(const void *)data;
	if (key->kinds && !(key->kinds & KEY_KIND((unsigned)read_kind(group, data))))
		return false;
	if (key->is_worth && !key->is_worth(data))
		return false;
	switch (key->type) {
	case KEY_STRING:
		return (key->flags & KEY_EMPTY_IS_NONE) || read_pointer(data + key->offset);
	case KEY_STRINGS:
	case KEY_GROUPS:
	case KEY_HEADERS:
		return read_cnt(key, data) > 0;
	case KEY_VERSIONS:
		return match->has_tls12 || match->has_tls13;
	default:
		return true;
	}
}

static void put_certificate(struct printer *p, const struct key *key, const char *data)
{
	const struct config_action_data *action =
		(const struct config_action_data *)(const void *)data;
	if (action->certificate == CONFIG_CERT_FILES) {
		push(p, (struct frame){ .group = key->group, .data = data });
		return;
	}
	put_string(p, "auto");
	end_key(p);
}

static void print_key(struct printer *p, const struct key *key, const char *data)
{
	const struct config_upstream *upstream = (const struct config_upstream *)(const void *)data;
	begin_key(p, key->name);
	switch (key->type) {
	case KEY_GROUP:
		push(p, (struct frame){ .group = key->group, .data = data + key->offset });
		return;
	case KEY_GROUPS:
	case KEY_HEADERS:
		push(p, (struct frame){ .group = key->group,
					.data = read_pointer(data + key->offset),
					.left = read_cnt(key, data),
					.is_list = true });
		return;
	case KEY_CERTIFICATE:
		put_certificate(p, key, data);
		return;
	case KEY_STRINGS:
		put_strings(p, key, data);
		break;
	case KEY_PORTS:
		put_ports(p, key, data);
		break;
	case KEY_VERSIONS:
		put_versions(p, (const struct config_match *)(const void *)data);
		break;
	case KEY_HASH:
		put_hash_key(p, upstream);
		break;
	case KEY_STATUSES:
		text_printf(p->out, "\"%u-%u\"", upstream->check.status_first,
			    upstream->check.status_last);
		break;
	default:
		put_scalar(p, key, data);
	}
	end_key(p);
}

static void run(struct printer *p)
{
	while (p->depth) {
		struct frame *top = &p->frames[p->depth - 1];
		if (top->is_list && top->left) {
			const char *element = top->data;
			top->data += top->group->bytes;
			top->left--;
			begin_item(p);
			push(p, (struct frame){ .group = top->group, .data = element });
		} else if (!top->is_list && top->key_ix < top->group->cnt) {
			const struct key *key = &top->group->keys[top->key_ix++];
			if (is_worth(top->group, key, top->data))
				print_key(p, key, top->data);
		} else {
			pop(p);
		}
	}
}

void config_print(const struct config *config, struct text *ret_text)
{
	/* The root has no braces; each of its groups is a run of its own. */
	for (size_t i = 0; i < key_root.cnt; i++) {
		const struct key *key = &key_root.keys[i];
		struct printer p = { .out = ret_text };
		text_printf(ret_text, "%s = ", key->name);
		if (key->type == KEY_GROUPS)
			push(&p, (struct frame){
					 .group = key->group,
					 .data = read_pointer((const char *)config + key->offset),
					 .left = read_cnt(key, (const char *)config),
					 .is_list = true });
		else
			push(&p,
			     (struct frame){ .group = key->group, .data = (const char *)config });
		run(&p);
		text_puts(ret_text, ";\n");
	}
}

void config_routes_json(const struct config *config, struct text *ret_text)
{
	struct printer p = { .out = ret_text, .is_json = true };
	push(&p, (struct frame){ .group = &key_group_route,
				 .data = (const char *)config->routes,
				 .left = config->route_cnt,
				 .is_list = true });
	run(&p);
}
