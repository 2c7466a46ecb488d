#include "copy.h"

#include <string.h>

#include "smartproxy/assert.h"

#define DEPTH_MAX 8

struct level {
	const struct key_group *group;
	char *data;  /* the struct in hand */
	size_t left; /* structs after it */
	size_t key_ix;
};
struct copier {
	struct arena *arena;
	struct level levels[DEPTH_MAX];
	size_t depth;
};

static void push(struct copier *c, const struct key_group *group, char *data, size_t cnt)
{
	SP_ASSERT(c->depth < DEPTH_MAX);
	c->levels[c->depth++] = (struct level){ .group = group, .data = data, .left = cnt - 1 };
}

static enum err copy_string(struct copier *c, char *at)
{
	const char *s;
	memcpy(&s, at, sizeof(s));
	const char *copy = s ? arena_strdup(c->arena, s) : NULL;
	memcpy(at, &copy, sizeof(copy));
	return s && !copy ? ERR_NOMEM : ERR_OK;
}

/* The array of a key: *ret_array (NULL when it is empty) and its count. */
static enum err copy_array(struct copier *c, const struct key *key, size_t bytes, char *data,
			   char **ret_array, size_t *ret_cnt)
{
	const void *old;
	char *array = NULL;
	memcpy(&old, data + key->offset, sizeof(old));
	memcpy(ret_cnt, data + key->cnt_offset, sizeof(*ret_cnt));
	if (*ret_cnt) {
		array = arena_calloc(c->arena, *ret_cnt, bytes);
		if (!array)
			return ERR_NOMEM;
		memcpy(array, old, *ret_cnt * bytes);
	}
	memcpy(data + key->offset, &array, sizeof(array));
	*ret_array = array;
	return ERR_OK;
}

static enum err copy_key(struct copier *c, const struct key *key, char *data)
{
	char *array;
	size_t cnt = 0;
	enum err e = ERR_OK;
	switch (key->type) {
	case KEY_GROUP:
		push(c, key->group, data + key->offset, 1);
		return ERR_OK;
	case KEY_GROUPS:
		e = copy_array(c, key, key->group->bytes, data, &array, &cnt);
		if (!e && cnt)
			push(c, key->group, array, cnt);
		return e;
	case KEY_PORTS:
		return copy_array(c, key, sizeof(struct config_ports), data, &array, &cnt);
	case KEY_STRINGS:
		e = copy_array(c, key, sizeof(char *), data, &array, &cnt);
		for (size_t i = 0; !e && i < cnt; i++)
			e = copy_string(c, array + i * sizeof(char *));
		return e;
	case KEY_STRING:
		return copy_string(c, data + key->offset);
	case KEY_HASH:
		return copy_string(c, data + offsetof(struct config_upstream, hash_name));
	default:
		return ERR_OK;
	}
}

enum err copy_contents(struct arena *arena, const struct key_group *group, void *data)
{
	struct copier c = { .arena = arena };
	push(&c, group, data, 1);
	while (c.depth) {
		struct level *top = &c.levels[c.depth - 1];
		if (top->key_ix < top->group->cnt) {
			const struct key *key = &top->group->keys[top->key_ix++];
			enum err e = copy_key(&c, key, top->data);
			if (e)
				return e;
		} else if (top->left) {
			top->left--;
			top->data += top->group->bytes;
			top->key_ix = 0;
		} else {
			c.depth--;
		}
	}
	return ERR_OK;
}
