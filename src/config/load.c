#include "load.h"

#include <stdio.h>
#include <string.h>

#include "nearest.h"
#include "problems.h"
#include "smartproxy/assert.h"

#define PATH_MAX_BYTES 512

void *load_alloc(struct loader *l, size_t cnt, size_t bytes)
{
	void *p = arena_calloc(l->arena, cnt, bytes);
	if (!p)
		l->error = ERR_NOMEM;
	return p;
}

static void format_path(const struct loader *l, const char *leaf, char *dst)
{
	size_t len = 0;
	dst[0] = '\0';
	for (size_t i = 0; i < l->depth; i++) {
		const struct frame *f = &l->frames[i];
		if (f->name)
			len += text_format(dst + len, PATH_MAX_BYTES - len, "%s%s", len ? "." : "",
					   f->name);
		else if (i && l->frames[i - 1].is_list)
			len += text_format(dst + len, PATH_MAX_BYTES - len, "[%zu]", f->ix);
	}
	if (leaf)
		text_format(dst + len, PATH_MAX_BYTES - len, "%s%s", len ? "." : "", leaf);
}

void load_problem(struct loader *l, const struct value *where, const char *leaf, const char *fmt,
		  ...)
{
	char path[PATH_MAX_BYTES];
	for (size_t i = l->depth; !where && i; i--)
		where = l->frames[i - 1].value;
	format_path(l, leaf, path);
	va_list args;
	va_start(args, fmt);
	if (problems_vadd(l->problems, where ? where->file : NULL, where ? where->line : 0, path,
			  fmt, args))
		l->error = ERR_NOMEM;
	va_end(args);
}

void load_mismatch(struct loader *l, const struct key *key, const struct value *v, const char *leaf)
{
	char found[VALUE_TEXT_MAX], wanted[KEY_TYPE_MAX];
	struct nearest near = { .word = v->type == VALUE_STRING ? v->string : "" };
	for (const struct key_word *w = key->words; w && w->word; w++)
		nearest_try(&near, w->word);
	load_problem(l, v, leaf, "found %s, expected %s%s%s%s",
		     value_describe(v, l->notation, found), key_describe(key, l->notation, wanted),
		     near.best ? "; did you mean \"" : "", near.best ? near.best : "",
		     near.best ? "\"?" : "");
}

static void report_unknown(struct loader *l, const struct key_group *group, const struct value *v)
{
	char name[64], known[300];
	size_t len = 0;
	text_escape(name, sizeof(name), v->name, strlen(v->name));
	struct nearest near = { .word = v->name };
	known[0] = '\0';
	for (size_t i = 0; i < group->cnt; i++) {
		nearest_try(&near, group->keys[i].name);
		len += text_format(known + len, sizeof(known) - len, "%s%s", i ? ", " : "",
				   group->keys[i].name);
	}
	const char *elsewhere = near.best ? NULL : key_find_elsewhere(v->name);
	if (near.best)
		load_problem(l, v, name, "unknown key; did you mean \"%s\"?", near.best);
	else if (elsewhere)
		load_problem(l, v, name, "unknown key here; it belongs at \"%s\"", elsewhere);
	else
		load_problem(l, v, name, "unknown key; known here: %s", known);
}

void load_push(struct loader *l, struct frame frame)
{
	SP_ASSERT(l->depth < LOAD_DEPTH_MAX); /* the table of keys is less deep */
	l->frames[l->depth++] = frame;
}

void load_list(struct loader *l, const struct key *key, const struct value *value, void *data)
{
	if (value->type != VALUE_LIST) {
		load_mismatch(l, key, value, key->name);
		return;
	}
	if (key->max && value->cnt > (size_t)key->max) {
		load_problem(l, value, key->name, "found %zu elements, expected %lld at most",
			     value->cnt, (long long)key->max);
		return;
	}
	char *array = load_alloc(l, value->cnt, key->group->bytes);
	if (!array)
		return;
	memcpy((char *)data + key->offset, &array, sizeof(array));
	memcpy((char *)data + key->cnt_offset, &value->cnt, sizeof(value->cnt));
	load_push(l, (struct frame){ .group = key->group,
				     .value = value,
				     .data = array,
				     .name = key->name,
				     .is_list = true });
}

static void load_member(struct loader *l, const struct key *key, const struct value *v, char *data)
{
	switch (key->type) {
	case KEY_GROUP:
		if (v->type == VALUE_GROUP)
			load_push(l, (struct frame){ .group = key->group,
						     .value = v,
						     .data = data + key->offset,
						     .name = key->name });
		else
			load_mismatch(l, key, v, key->name);
		return;
	case KEY_GROUPS:
		load_list(l, key, v, data);
		return;
	case KEY_STRINGS:
	case KEY_PORTS:
	case KEY_HEADERS:
	case KEY_CERTIFICATE:
	case KEY_VERSIONS:
	case KEY_HASH:
	case KEY_STATUSES:
		load_special(l, key, v, data);
		return;
	default:
		load_scalar(l, key, v, key->name, data);
	}
}

static void load_missing(struct loader *l, const struct key *key, const struct frame *f)
{
	if (key->flags & KEY_REQUIRED) {
		if (!f->is_default)
			load_problem(l, NULL, key->name, "is missing: %s", key->help);
	} else if (key->type == KEY_GROUP && !(key->flags & KEY_OPTIONAL))
		load_push(l, (struct frame){ .group = key->group,
					     .data = f->data + key->offset,
					     .name = key->name,
					     .is_default = f->is_default });
	else if (key->default_text)
		load_default(l, key, f->data);
}

/* Keys that were given and belong to another kind of group. */
static void check_kinds(struct loader *l, const struct frame *f)
{
	char kinds[KEY_TYPE_MAX];
	const struct key *kind = key_find(f->group, f->group->kind);
	const struct value *given = value_member(f->value, kind->name);
	const struct key_word *word = NULL;
	if (given && given->type == VALUE_STRING)
		word = key_find_word(kind, given->string);
	else if (!given && kind->default_text)
		word = key_find_word(kind, kind->default_text);
	for (size_t i = 0; word && i < f->value->cnt; i++) {
		const struct key *key = key_find(f->group, f->value->items[i].name);
		if (!key || !key->kinds || key->kinds & KEY_KIND((unsigned)word->value))
			continue;
		size_t len = 0;
		for (const struct key_word *w = kind->words; w->word; w++)
			if (key->kinds & KEY_KIND((unsigned)w->value))
				len += text_format(kinds + len, sizeof(kinds) - len, "%s\"%s\"",
						   len ? " or " : "", w->word);
		load_problem(l, &f->value->items[i], key->name,
			     "belongs to %s %s; this one is \"%s\"", f->group->kind_text, kinds,
			     word->word);
	}
}

static void step_list(struct loader *l, struct frame *f)
{
	size_t ix = f->member_ix++;
	if (ix == f->value->cnt) {
		l->depth--;
		return;
	}
	struct frame element = { .group = f->group,
				 .value = &f->value->items[ix],
				 .data = f->data + ix * f->group->bytes,
				 .ix = ix };
	load_push(l, element);
	if (element.value->type == VALUE_GROUP)
		return;
	char found[VALUE_TEXT_MAX];
	load_problem(l, element.value, NULL, "found %s, expected %s {...}",
		     value_describe(element.value, l->notation, found),
		     l->notation == VALUE_JSON ? "an object" : "a group");
	l->depth--;
}

static void step_group(struct loader *l, struct frame *f)
{
	if (f->value && f->member_ix < f->value->cnt) {
		const struct value *v = &f->value->items[f->member_ix++];
		const struct key *key = key_find(f->group, v->name);
		if (!key) {
			report_unknown(l, f->group, v);
			return;
		}
		f->seen |= (uint64_t)1 << (key - f->group->keys);
		load_member(l, key, v, f->data);
		return;
	}
	if (f->key_ix < f->group->cnt) {
		size_t ix = f->key_ix++;
		if (!(f->seen >> ix & 1))
			load_missing(l, &f->group->keys[ix], f);
		return;
	}
	if (f->group->kind && f->value)
		check_kinds(l, f);
	if (!f->is_default && f->group->finish && f->group->finish(l, f->value, f->data))
		l->error = ERR_NOMEM;
	l->depth--;
}

/* Works off all frames above base. */
static void run(struct loader *l, size_t base)
{
	while (l->depth > base && !l->error) {
		struct frame *top = &l->frames[l->depth - 1];
		if (top->is_list)
			step_list(l, top);
		else
			step_group(l, top);
	}
	l->depth = base;
}

void load_group(struct loader *l, const struct key_group *group, const char *name,
		const struct value *value, void *data)
{
	size_t base = l->depth;
	load_push(l, (struct frame){ .group = group, .value = value, .data = data, .name = name });
	run(l, base);
}

void load_key(struct loader *l, const struct key *key, const struct value *value, void *data)
{
	size_t base = l->depth;
	load_member(l, key, value, data);
	run(l, base);
}

void load_defaults(struct loader *l, const struct key_group *group, void *data)
{
	size_t base = l->depth;
	load_push(l, (struct frame){ .group = group, .data = data, .is_default = true });
	run(l, base);
}
