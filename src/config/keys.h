#pragma once
/* config, private: the table of keys. One row says everything that the parser, the defaults, the
 * printer, the JSON form and the lint of the man page know about a key; a new key is a row here, a
 * field in the model and an item in the man page. */
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/config.h"
#include "value.h"

enum key_type {
	KEY_BOOL,     /* bool */
	KEY_UINT,     /* unsigned or uint32_t */
	KEY_INT,      /* int */
	KEY_PORT,     /* uint16_t; a number or one of words */
	KEY_DURATION, /* int64_t ms */
	KEY_SIZE32,   /* uint32_t bytes */
	KEY_SIZE64,   /* int64_t bytes */
	KEY_WORD,     /* an enum or unsigned: one of words */
	KEY_OCTAL,    /* unsigned */
	KEY_STRING,   /* const char *; with cnt_offset its length too */
	KEY_STRINGS,  /* const char *const * and a count */
	KEY_GROUP,    /* group, in place at offset */
	KEY_GROUPS,   /* pointer to an array of group, and a count */
	/* Types of one key each, in special.c */
	KEY_PORTS,
	KEY_HEADERS,     /* as KEY_GROUPS, or a group { Name = "value"; } */
	KEY_CERTIFICATE, /* "auto" or a group */
	KEY_VERSIONS,
	KEY_HASH,
	KEY_STATUSES, /* one status or a range */
};
enum key_flag {
	KEY_REQUIRED = 1,
	KEY_OPTIONAL = 2,      /* a group that leaves nothing behind when it is not given */
	KEY_EMPTY_IS_NONE = 4, /* "" is NULL */
	KEY_ANY_VALUE = 8,     /* the value of a header may be left out, or true */
};
#define KEY_KIND(word) (1u << (word))

struct key_word {
	const char *word; /* NULL ends the list */
	int value;
};
struct key_group;
struct key {
	const char *path, *name; /* "routes[].match.ports", "ports" */
	enum key_type type;
	unsigned flags;
	unsigned kinds; /* KEY_KIND() of the kinds of its group that it belongs to; 0: to all */
	size_t offset, cnt_offset;
	int64_t min, max;
	const char *default_text; /* as in the file without quotes; NULL: none */
	const char *help;
	const struct key_word *words;
	/* Normalises a NUL-terminated copy in place; NULL when it is right, else what is expected.
	 * NULL: any text. */
	const char *(*rule)(char *text);
	const struct key_group *group;
	/* false: it says nothing there, and is not printed. NULL: it does. */
	bool (*is_worth)(const void *data);
};
struct loader;
struct value;
struct key_group {
	const char *path; /* "routes[].match" */
	const struct key *keys;
	size_t cnt;
	size_t bytes; /* of one element, for KEY_GROUPS */
	/* The key whose word is the kind of such a group, and how a person calls the kind; NULL: it has
	 * none. */
	const char *kind, *kind_text;
	/* After all keys of one such group were read or defaulted. */
	enum err (*finish)(struct loader *l, const struct value *group, void *data);
};

extern const struct key_group key_root, key_group_route, key_group_upstream;
/* NULL when the group has no such key. */
const struct key *key_find(const struct key_group *group, const char *name);
/* What its value must be: for messages and the list of keys. dst holds KEY_TYPE_MAX. */
#define KEY_TYPE_MAX 200
const char *key_describe(const struct key *key, enum value_notation notation, char *dst);
/* The row of words that matches, or NULL. */
const struct key_word *key_find_word(const struct key *key, const char *word);
/* The path of the only key of this name in the whole table; NULL: there is none, or more than one.
 */
const char *key_find_elsewhere(const char *name);
