#include <jansson.h>
#include <string.h>

#include "value.h"

struct level {
	json_t *json;
	struct value *value;
	size_t next_ix;
	void *iterator; /* objects */
};
struct converter {
	struct arena *arena;
	struct level levels[VALUE_DEPTH_MAX];
	size_t depth;
	struct value_error *error;
};

static void release(void *data)
{
	json_decref(data);
}

static enum err open_level(struct converter *c, json_t *json, struct value *v)
{
	if (c->depth == VALUE_DEPTH_MAX) {
		text_format(c->error->message, sizeof(c->error->message),
			    "nested deeper than %d levels", VALUE_DEPTH_MAX);
		return ERR_SYNTAX;
	}
	v->type = json_is_object(json) ? VALUE_GROUP : VALUE_LIST;
	v->cnt = json_is_object(json) ? json_object_size(json) : json_array_size(json);
	v->items = arena_calloc(c->arena, v->cnt, sizeof(*v->items));
	if (!v->items)
		return ERR_NOMEM;
	c->levels[c->depth++] = (struct level){
		.json = json,
		.value = v,
		.iterator = json_is_object(json) ? json_object_iter(json) : NULL,
	};
	return ERR_OK;
}

static enum err convert_one(struct converter *c, json_t *json, const char *name, struct value *v)
{
	*v = (struct value){ .name = name, .file = "(api)" };
	switch (json_typeof(json)) {
	case JSON_OBJECT:
	case JSON_ARRAY:
		return open_level(c, json, v);
	case JSON_STRING:
		v->type = VALUE_STRING;
		v->string = json_string_value(json);
		return ERR_OK;
	case JSON_INTEGER:
		v->type = VALUE_INT;
		v->integer = json_integer_value(json);
		return ERR_OK;
	case JSON_REAL:
		v->type = VALUE_REAL;
		v->real = json_real_value(json);
		return ERR_OK;
	case JSON_TRUE:
	case JSON_FALSE:
		v->type = VALUE_BOOL;
		v->boolean = json_is_true(json);
		return ERR_OK;
	case JSON_NULL:
		break;
	}
	v->type = VALUE_NULL;
	return ERR_OK;
}

static enum err convert(struct converter *c, json_t *root, struct value *ret_root)
{
	enum err e = convert_one(c, root, NULL, ret_root);
	while (!e && c->depth) {
		struct level *top = &c->levels[c->depth - 1];
		if (top->next_ix == top->value->cnt) {
			c->depth--;
			continue;
		}
		struct value *v = &top->value->items[top->next_ix];
		if (top->iterator) {
			void *at = top->iterator;
			top->iterator = json_object_iter_next(top->json, at);
			top->next_ix++;
			e = convert_one(c, json_object_iter_value(at), json_object_iter_key(at), v);
		} else {
			e = convert_one(c, json_array_get(top->json, top->next_ix++), NULL, v);
		}
	}
	return e;
}

enum err value_from_json(const char *json, size_t len, struct arena *arena,
			 struct value_document *ret_document, const struct value **ret_root,
			 struct value_error *reterr)
{
	json_error_t error;
	struct value *root = arena_calloc(arena, 1, sizeof(*root));
	if (!root)
		return ERR_NOMEM;
	json_t *parsed = json_loadb(json, len, JSON_REJECT_DUPLICATES, &error);
	if (!parsed) {
		/* jansson has no word for some places where memory runs out. */
		if (json_error_code(&error) == json_error_out_of_memory || error.text[0] == '\0')
			return ERR_NOMEM;
		text_format(reterr->message, sizeof(reterr->message), "JSON: %s (column %d)",
			    error.text, error.column);
		reterr->line = error.line > 0 ? (unsigned)error.line : 0;
		return ERR_SYNTAX;
	}
	*ret_document = (struct value_document){ .data = parsed, .release = release };
	struct converter c = { .arena = arena, .error = reterr };
	enum err e = convert(&c, parsed, root);
	if (!e)
		*ret_root = root;
	return e;
}
