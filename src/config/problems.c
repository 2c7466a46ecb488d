#include "problems.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/assert.h"

void config_problems_fini(struct config_problems *problems)
{
	for (size_t i = 0; i < problems->cnt; i++)
		free((void *)problems->items[i].message); /* file and path are in the same block */
	free(problems->items);
	*problems = (struct config_problems){ 0 };
}

void config_problems_text(const struct config_problems *problems, struct text *ret_text)
{
	for (size_t i = 0; i < problems->cnt; i++) {
		const struct config_problem *p = &problems->items[i];
		if (p->file && p->line)
			text_printf(ret_text, "%s:%u: ", p->file, p->line);
		else if (p->file)
			text_printf(ret_text, "%s: ", p->file);
		if (p->path && *p->path)
			text_printf(ret_text, "%s: ", p->path);
		text_printf(ret_text, "%s\n", p->message);
	}
}

static bool reserve(struct config_problems *problems)
{
	if (problems->cnt < problems->cap)
		return true;
	size_t cap = problems->cap ? problems->cap * 2 : 8;
	struct config_problem *items = realloc(problems->items, cap * sizeof(*items));
	if (!items)
		return false;
	problems->items = items;
	problems->cap = cap;
	return true;
}

enum err problems_vadd(struct config_problems *problems, const char *file, unsigned line,
		       const char *path, const char *fmt, va_list args)
{
	if (problems->cnt > PROBLEMS_MAX)
		return ERR_OK;
	struct text message = { 0 };
	char sentence[1024];
	if (vsnprintf(sentence, sizeof(sentence), fmt, args) < 0)
		sentence[0] = '\0';
	if (problems->cnt == PROBLEMS_MAX) {
		file = path = NULL;
		text_puts(&message, "there are more problems; only the first ones are listed");
	} else {
		text_puts(&message, sentence);
	}
	/* One block: message, path, file, each with its NUL. */
	size_t path_at = message.len + 1;
	text_add(&message, "", 1);
	text_add(&message, path ? path : "", path ? strlen(path) + 1 : 1);
	size_t file_at = message.len;
	text_add(&message, file ? file : "", file ? strlen(file) + 1 : 1);
	if (message.has_failed || !reserve(problems)) {
		text_fini(&message);
		return ERR_NOMEM;
	}
	problems->items[problems->cnt++] = (struct config_problem){
		.file = file ? message.data + file_at : NULL,
		.line = line,
		.path = message.data + path_at,
		.message = message.data,
	};
	return ERR_OK;
}

enum err problems_add(struct config_problems *problems, const char *file, unsigned line,
		      const char *path, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	enum err e = problems_vadd(problems, file, line, path, fmt, args);
	va_end(args);
	return e;
}

struct ordered {
	struct config_problem problem;
	size_t file_ix, ix;
};

static int compare(const void *va, const void *vb)
{
	const struct ordered *a = va, *b = vb;
	if (a->file_ix != b->file_ix)
		return a->file_ix < b->file_ix ? -1 : 1;
	if (a->problem.line != b->problem.line)
		return a->problem.line < b->problem.line ? -1 : 1;
	return a->ix < b->ix ? -1 : a->ix > b->ix;
}

/* Files in the order in which they first occur; few differ, so the last one is tried first. */
static size_t first_of_file(const struct ordered *all, size_t ix, const char *file)
{
	if (ix && strcmp(all[ix - 1].problem.file ? all[ix - 1].problem.file : "", file) == 0)
		return all[ix - 1].file_ix;
	for (size_t i = 0; i < ix; i++)
		if (strcmp(all[i].problem.file ? all[i].problem.file : "", file) == 0)
			return all[i].file_ix;
	return ix;
}

void problems_sort(struct config_problems *problems)
{
	size_t cnt = problems->cnt < PROBLEMS_MAX ? problems->cnt : PROBLEMS_MAX;
	struct ordered *all = cnt > 1 ? calloc(cnt, sizeof(*all)) : NULL;
	if (!all)
		return;
	for (size_t i = 0; i < cnt; i++) {
		const char *file = problems->items[i].file;
		all[i] = (struct ordered){ .problem = problems->items[i], .ix = i };
		all[i].file_ix = first_of_file(all, i, file ? file : "");
	}
	qsort(all, cnt, sizeof(*all), compare);
	for (size_t i = 0; i < cnt; i++)
		problems->items[i] = all[i].problem;
	free(all);
}
