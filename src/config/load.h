#pragma once
/* config, private: a tree of values -> the model, by the table of keys. All findings are collected;
 * a value that is wrong leaves its field cleared. Groups are walked with a stack of frames, which
 * is also the path of what is being read. */
#include <stdarg.h>

#include "keys.h"
#include "value.h"

#define LOAD_DEPTH_MAX 12

struct frame {
	const struct key_group *group;
	const struct value *value; /* NULL: not given, defaults only */
	char *data;                /* the struct, or the array of a list */
	const char *name;          /* in the path; NULL: the root, or an element */
	size_t ix;                 /* of an element in its list */
	bool is_list;
	bool is_default;          /* nothing is given, nor missed, nor checked */
	size_t member_ix, key_ix; /* next one */
	uint64_t seen;            /* bit a key of group */
};
struct loader {
	struct arena *arena; /* the model's */
	struct config_problems *problems;
	enum err error; /* sticky: ERR_NOMEM */
	enum value_notation notation;
	struct frame frames[LOAD_DEPTH_MAX];
	size_t depth;
};

/* Reads all of value into data, a struct of group. name: the path's first part, NULL for none. */
void load_group(struct loader *l, const struct key_group *group, const char *name,
		const struct value *value, void *data);
/* Reads the value of one key of the struct data. */
void load_key(struct loader *l, const struct key *key, const struct value *value, void *data);
/* Opens a frame for a list of groups; the array and its count are written. */
void load_list(struct loader *l, const struct key *key, const struct value *value, void *data);

/* A finding at the innermost frame; leaf (may be NULL) ends the path. where NULL: the line of the
 * frame. */
void load_problem(struct loader *l, const struct value *where, const char *leaf, const char *fmt,
		  ...) SP_PRINTF(4, 5);
/* "found X, expected Y". */
void load_mismatch(struct loader *l, const struct key *key, const struct value *v,
		   const char *leaf);
/* A cleared block of the model; NULL sets the sticky error. */
void *load_alloc(struct loader *l, size_t cnt, size_t bytes);
/* Opens a frame that the driver works off next. */
void load_push(struct loader *l, struct frame frame);

/* load_scalar.c: one value that is no group and no list. */
void load_scalar(struct loader *l, const struct key *key, const struct value *v, const char *leaf,
		 void *data);
/* A copy in the model that rule (NULL: any text) has normalised; NULL after a finding. ix: of an
 * element of the list leaf, or LOAD_NO_IX. */
#define LOAD_NO_IX SIZE_MAX
const char *load_string(struct loader *l, const char *(*rule)(char *text), const struct value *v,
			const char *leaf, size_t ix);
void load_default(struct loader *l, const struct key *key, void *data);
/* Fills data, a struct of group, with the defaults of all its keys that have one. */
void load_defaults(struct loader *l, const struct key_group *group, void *data);
/* special.c: the types of one key each, and lists of strings. */
void load_special(struct loader *l, const struct key *key, const struct value *v, void *data);
