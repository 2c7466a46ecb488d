#include "names.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct names_slot {
	const char *name; /* NULL: free */
	size_t ix;
};

/* FNV-1a is enough: the file is the operator's. */
static uint64_t hash(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h ^ h >> 32;
}

enum err names_init(struct names *n, size_t cnt)
{
	n->size = 16;
	while (n->size < cnt * 2)
		n->size *= 2;
	n->slots = calloc(n->size, sizeof(*n->slots));
	return n->slots ? ERR_OK : ERR_NOMEM;
}

void names_fini(struct names *n)
{
	free(n->slots);
	*n = (struct names){ 0 };
}

/* Open addressing; never full. */
static struct names_slot *probe(const struct names *n, const char *name)
{
	size_t at = hash(name) & (n->size - 1);
	while (n->slots[at].name && strcmp(n->slots[at].name, name) != 0)
		at = (at + 1) & (n->size - 1);
	return &n->slots[at];
}

size_t names_add(struct names *n, const char *name, size_t ix)
{
	struct names_slot *slot = probe(n, name);
	if (slot->name)
		return slot->ix;
	*slot = (struct names_slot){ .name = name, .ix = ix };
	return NAMES_NONE;
}

size_t names_find(const struct names *n, const char *name)
{
	const struct names_slot *slot = probe(n, name);
	return slot->name ? slot->ix : NAMES_NONE;
}
