#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "copy.h"
#include "load.h"
#include "problems.h"
#include "smartproxy/assert.h"
#include "smartproxy/config.h"
#include "smartproxy/fault.h"
#include "source.h"
#include "value.h"

#define MODEL_MAX_BYTES   ((size_t)4 << 30)
#define SCRATCH_MAX_BYTES ((size_t)4 << 30)

static void free_model(struct config *config)
{
	struct arena *arena = config ? config->arena : NULL;
	if (arena)
		arena_fini(arena);
	free(arena);
	free(config);
}

static struct config *new_model(const char *file)
{
	struct config *config = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*config));
	struct arena *arena = calloc(1, sizeof(*arena));
	if (!config || !arena) {
		free(config);
		free(arena);
		return NULL;
	}
	arena_init(arena, MODEL_MAX_BYTES, NULL);
	config->arena = arena;
	config->ref_cnt = 1;
	config->file = arena_strdup(arena, file);
	if (config->file)
		return config;
	free_model(config);
	return NULL;
}

void config_get(struct config *config)
{
	config->ref_cnt++;
}

void config_put(struct config *config)
{
	if (!config)
		return;
	SP_ASSERT(config->ref_cnt > 0);
	if (--config->ref_cnt == 0)
		free_model(config);
}

/* What one load works with besides the model. */
struct work {
	struct arena scratch;
	struct source source;
	struct value_document document;
	struct value_error error;
	struct config *config;
	struct loader loader;
};

static void work_fini(struct work *w)
{
	value_document_fini(&w->document);
	source_fini(&w->source);
	arena_fini(&w->scratch);
	free_model(w->config);
}

static enum err add_syntax_error(const struct work *w, struct config_problems *problems)
{
	enum err e = problems_add(problems, w->error.file ? w->error.file : w->config->file,
				  w->error.line, NULL, "%s", w->error.message);
	return e ? e : ERR_CONFIG;
}

static enum err parse_file(struct work *w, const char *file, struct config_problems *problems,
			   const struct value **ret_root)
{
	size_t problem_cnt = problems->cnt;
	enum err e = source_read(&w->source, file, &w->scratch, problems);
	if (!e)
		e = source_check_numbers(&w->source, problems);
	if (e)
		return e;
	if (problems->cnt > problem_cnt)
		return ERR_CONFIG;
	e = value_from_libconfig(&w->source, &w->scratch, &w->document, ret_root, &w->error);
	return e == ERR_SYNTAX ? add_syntax_error(w, problems) : e;
}

/* The checks of the whole, and the verdict. */
static enum err judge(struct work *w, const struct check_lists *lists, size_t problem_cnt)
{
	if (!w->loader.error)
		w->loader.error = check_model(&w->loader, w->config, lists);
	if (w->loader.error)
		return w->loader.error;
	return w->loader.problems->cnt > problem_cnt ? ERR_CONFIG : ERR_OK;
}

static enum err begin(struct work *w, const char *file, struct config_problems *problems)
{
	*w = (struct work){ .config = new_model(file) };
	arena_init(&w->scratch, SCRATCH_MAX_BYTES, NULL);
	if (!w->config)
		return ERR_NOMEM;
	w->loader.arena = w->config->arena;
	w->loader.problems = problems;
	return ERR_OK;
}

/* A file that was cut short or emptied must not read as the wish to serve nothing. Said alone: with
 * other problems there it may only be misspelt. */
static void require_routes(struct work *w, const struct value *root, size_t problem_cnt)
{
	if (w->loader.error || w->loader.problems->cnt > problem_cnt ||
	    value_member(root, "routes"))
		return;
	if (problems_add(w->loader.problems, w->config->file, 0, "routes",
			 "is missing: the routes; for none at all write: routes = ( );"))
		w->loader.error = ERR_NOMEM;
}

enum err config_load(const char *file, struct config **ret_config, struct config_problems *reterr)
{
	struct work w;
	const struct value *root = NULL;
	size_t problem_cnt = reterr->cnt;
	enum err e = begin(&w, file, reterr);
	if (!e)
		e = parse_file(&w, file, reterr, &root);
	if (!e) {
		load_group(&w.loader, &key_root, NULL, root, w.config);
		require_routes(&w, root, problem_cnt);
		e = judge(&w,
			  &(struct check_lists){
				  .routes = value_member(root, "routes"),
				  .upstreams = value_member(root, "upstreams"),
				  .listeners = value_member(root, "listeners"),
			  },
			  problem_cnt);
		problems_sort(reterr);
	}
	if (!e) {
		*ret_config = w.config;
		w.config = NULL;
	}
	work_fini(&w);
	return e;
}

/* All of base but its routes. */
static enum err copy_base(struct config *config, const struct config *base)
{
	struct config copy = *base;
	copy.ref_cnt = config->ref_cnt;
	copy.file = config->file;
	copy.arena = config->arena;
	copy.routes = NULL;
	copy.route_cnt = 0;
	*config = copy;
	return copy_contents(config->arena, &key_root, config);
}

/* The list alone, or {"routes": [...]}, as GET gives it. NULL after a finding. */
static const struct value *find_list(struct work *w, const struct value *root)
{
	if (root->type != VALUE_GROUP)
		return root;
	const struct value *list = value_member(root, "routes");
	for (size_t i = 0; i < root->cnt; i++) {
		char name[64];
		const struct value *v = &root->items[i];
		text_escape(name, sizeof(name), v->name, strlen(v->name));
		if (v != list)
			load_problem(&w->loader, v, name,
				     "unknown key here; expected an array of routes, or "
				     "{\"routes\": [...]} and nothing else");
	}
	if (list == NULL)
		load_problem(&w->loader, root, "routes",
			     "is missing: expected an array of routes, or {\"routes\": [...]}");
	return list;
}

enum err config_with_routes(const struct config *base, const char *json, size_t len,
			    struct config **ret_config, struct config_problems *reterr)
{
	struct work w;
	const struct value *root = NULL;
	size_t problem_cnt = reterr->cnt;
	enum err e = begin(&w, "(api)", reterr);
	if (!e)
		e = copy_base(w.config, base);
	if (!e && len > SOURCE_MAX_BYTES) {
		text_format(w.error.message, sizeof(w.error.message),
			    "the list is larger than 256 MiB");
		e = ERR_SYNTAX;
	}
	if (!e)
		e = value_from_json(json, len, &w.scratch, &w.document, &root, &w.error);
	if (e == ERR_SYNTAX)
		e = add_syntax_error(&w, reterr);
	if (!e) {
		w.loader.notation = VALUE_JSON;
		const struct value *list = find_list(&w, root);
		if (list)
			load_key(&w.loader, key_find(&key_root, "routes"), list, w.config);
		e = judge(&w, &(struct check_lists){ .routes = list }, problem_cnt);
	}
	if (!e) {
		*ret_config = w.config;
		w.config = NULL;
	}
	work_fini(&w);
	return e;
}
