#include <libconfig.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"
#include "source.h"
#include "value.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAS_LEAK_CHECK
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAS_LEAK_CHECK
#endif
#endif
#if defined(HAS_LEAK_CHECK)
#include <sanitizer/lsan_interface.h>
#define LEAKS_OFF() __lsan_disable()
#define LEAKS_ON()  __lsan_enable()
#else
#define LEAKS_OFF() ((void)0)
#define LEAKS_ON()  ((void)0)
#endif

struct level {
	const config_setting_t *setting;
	struct value *value;
	size_t next_ix;
};
struct converter {
	const struct source *source;
	struct arena *arena;
	struct level levels[VALUE_DEPTH_MAX];
	size_t depth;
	struct value_error *error;
};

static void release(void *data)
{
	config_destroy(data);
	free(data);
}

static enum err syntax_error(const config_t *parsed, const struct source *source,
			     struct value_error *reterr)
{
	struct source_span at = source_locate(source, (unsigned)config_error_line(parsed));
	const char *text = config_error_text(parsed) ? config_error_text(parsed) : "syntax error";
	const char *hint = "";
	if (strstr(text, "mismatched element type"))
		hint = ": the elements of [ ] are all of one type; write ( ) around a mixed list";
	else if (strstr(text, "duplicate setting"))
		hint = ": each key may be given once in a group";
	else if (strstr(text, "syntax error"))
		hint = " here or just before (a missing \";\", \",\", quote or bracket?)";
	text_format(reterr->message, sizeof(reterr->message), "%s%s", text, hint);
	reterr->file = at.file;
	reterr->line = at.file_line;
	return ERR_SYNTAX;
}

/* Fills one node. A group or list becomes a new level, whose items are filled later. */
static enum err convert_one(struct converter *c, const config_setting_t *setting, struct value *v)
{
	struct source_span at = source_locate(c->source, config_setting_source_line(setting));
	*v = (struct value){ .line = at.file_line, .file = at.file, .name = setting->name };
	switch (config_setting_type(setting)) {
	case CONFIG_TYPE_BOOL:
		v->type = VALUE_BOOL;
		v->boolean = config_setting_get_bool(setting);
		return ERR_OK;
	case CONFIG_TYPE_INT:
	case CONFIG_TYPE_INT64:
		v->type = VALUE_INT;
		v->integer = config_setting_type(setting) == CONFIG_TYPE_INT ? setting->value.ival
									     : setting->value.llval;
		return ERR_OK;
	case CONFIG_TYPE_FLOAT:
		v->type = VALUE_REAL;
		v->real = config_setting_get_float(setting);
		return ERR_OK;
	case CONFIG_TYPE_STRING:
		v->type = VALUE_STRING;
		v->string = setting->value.sval ? setting->value.sval : "";
		return ERR_OK;
	case CONFIG_TYPE_GROUP:
	case CONFIG_TYPE_ARRAY:
	case CONFIG_TYPE_LIST:
		break;
	default:
		v->type = VALUE_NULL;
		return ERR_OK;
	}
	if (c->depth == VALUE_DEPTH_MAX) {
		text_format(c->error->message, sizeof(c->error->message),
			    "nested deeper than %d levels", VALUE_DEPTH_MAX);
		c->error->file = at.file;
		c->error->line = at.file_line;
		return ERR_SYNTAX;
	}
	v->type = config_setting_is_group(setting) ? VALUE_GROUP : VALUE_LIST;
	v->cnt = (size_t)config_setting_length(setting);
	v->items = arena_calloc(c->arena, v->cnt, sizeof(*v->items));
	if (!v->items)
		return ERR_NOMEM;
	c->levels[c->depth++] = (struct level){ .setting = setting, .value = v };
	return ERR_OK;
}

static enum err convert(struct converter *c, const config_setting_t *root, struct value *ret_root)
{
	enum err e = convert_one(c, root, ret_root);
	while (!e && c->depth) {
		struct level *top = &c->levels[c->depth - 1];
		if (top->next_ix == top->value->cnt) {
			c->depth--;
			continue;
		}
		size_t ix = top->next_ix++;
		e = convert_one(c, config_setting_get_elem(top->setting, (unsigned)ix),
				&top->value->items[ix]);
	}
	return e;
}

enum err value_from_libconfig(const struct source *source, struct arena *arena,
			      struct value_document *ret_document, const struct value **ret_root,
			      struct value_error *reterr)
{
	config_t *parsed = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*parsed));
	struct value *root = arena_calloc(arena, 1, sizeof(*root));
	if (!parsed || !root) {
		free(parsed);
		return ERR_NOMEM;
	}
	config_init(parsed);
	*ret_document = (struct value_document){ .data = parsed, .release = release };
	/* libconfig 1.5 loses the string that it was in when a syntax error ends it; not ours to
	 * report. */
	LEAKS_OFF();
	bool is_good = config_read_string(parsed, source->text.data);
	LEAKS_ON();
	if (!is_good)
		return syntax_error(parsed, source, reterr);
	struct converter c = { .source = source, .arena = arena, .error = reterr };
	enum err e = convert(&c, config_root_setting(parsed), root);
	if (!e)
		*ret_root = root;
	return e;
}
