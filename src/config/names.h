#pragma once
/* config, private: names -> places in a list, in O(1). */
#include <stddef.h>

#include "smartproxy/err.h"

struct names_slot;
struct names {
	struct names_slot *slots;
	size_t size; /* a power of two */
};
#define NAMES_NONE ((size_t)-1)
/* Room for cnt names, which are borrowed. */
enum err names_init(struct names *n, size_t cnt) SP_MUST_USE;
void names_fini(struct names *n);
/* NAMES_NONE: put in; else the place of the one that has the name already. */
size_t names_add(struct names *n, const char *name, size_t ix);
size_t names_find(const struct names *n, const char *name);
