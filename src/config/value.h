#pragma once
/* config, private: what libconfig and jansson read, as one kind of tree. Strings are borrowed from
 * the source document, which outlives the tree; nodes live in an arena. Security: depth is bounded
 * by VALUE_DEPTH_MAX, whatever the file says. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/arena.h"
#include "smartproxy/err.h"
#include "smartproxy/text.h"

#define VALUE_DEPTH_MAX 16

enum value_type {
	VALUE_NULL,
	VALUE_BOOL,
	VALUE_INT,
	VALUE_REAL,
	VALUE_STRING,
	VALUE_GROUP,
	VALUE_LIST,
};

struct value {
	enum value_type type;
	unsigned line;    /* 0: unknown */
	const char *file; /* NULL: unknown */
	const char *name; /* in a group, else NULL */
	union {
		bool boolean;
		int64_t integer;
		double real;
		const char *string;
		struct {
			struct value *items;
			size_t cnt;
		};
	};
};

/* NULL when group has no such member (or is NULL, or no group). */
const struct value *value_member(const struct value *group, const char *name);
/* Messages speak as the document does: of groups ( { ... } ) or of objects [{ ... }]. */
enum value_notation { VALUE_LIBCONFIG, VALUE_JSON, VALUE_NOTATION_CNT };
/* What a person would call it: the string "abc", 17, a list. dst holds VALUE_TEXT_MAX. Returns dst.
 */
#define VALUE_TEXT_MAX 160
const char *value_describe(const struct value *v, enum value_notation notation, char *dst);

struct source;
/* What the strings of a tree live in; release it after the tree, also when building the tree
 * failed. */
struct value_document {
	void *data;
	void (*release)(void *data);
};
void value_document_fini(struct value_document *document);

/* What is wrong with the syntax, where. */
struct value_error {
	char message[256];
	unsigned line;    /* 0: unknown */
	const char *file; /* NULL: unknown; lives as long as the source */
};
/* ERR_SYNTAX: see *reterr. ERR_NOMEM. */
enum err value_from_libconfig(const struct source *source, struct arena *arena,
			      struct value_document *ret_document, const struct value **ret_root,
			      struct value_error *reterr) SP_MUST_USE;
enum err value_from_json(const char *json, size_t len, struct arena *arena,
			 struct value_document *ret_document, const struct value **ret_root,
			 struct value_error *reterr) SP_MUST_USE;
