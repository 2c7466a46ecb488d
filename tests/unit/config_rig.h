#pragma once
/* Configurations out of a test's own text, and what is asserted of them. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "smartproxy/assert.h"
#include "smartproxy/config.h"

#define MATCH "match = { ports = [ 80 ]; }; "
#define PLAIN "action = { type = \"block\"; }; "

static char folder[64];

static inline void write_file(const char *name, const char *data, size_t len, char *ret_path)
{
	text_format(ret_path, 128, "%s/%s", folder, name);
	FILE *f = fopen(ret_path, "w");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(data, 1, len, f), len);
	ck_assert_int_eq(fclose(f), 0);
}

static inline void make_folder(void)
{
	text_format(folder, sizeof(folder), "/tmp/smartproxy-config-XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(folder));
}

static inline void remove_folder(void)
{
	static const char *const names[] = { "test.conf", "a.conf", "b.conf", "deep" };
	char path[128];
	for (size_t i = 0; i < SP_ARRAY_LEN(names); i++) {
		text_format(path, sizeof(path), "%s/%s", folder, names[i]);
		(void)remove(path);
	}
	ck_assert_int_eq(rmdir(folder), 0);
}

static inline enum err load_bytes(const char *data, size_t len, struct config **ret_config,
				  struct config_problems *reterr)
{
	char path[128];
	write_file("test.conf", data, len, path);
	return config_load(path, ret_config, reterr);
}

/* The model, which must be sound. Where the text is about other keys, the list of routes that has
 * to be there is added. */
static inline struct config *load_good(const char *data)
{
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	struct text text = { 0 }, whole_text = { 0 };
	text_printf(&whole_text, "%s%s", data,
		    strstr(data, "routes") == NULL ? "\nroutes = ( );\n" : "");
	enum err e = load_bytes(whole_text.data, whole_text.len, &config, &problems);
	text_fini(&whole_text);
	config_problems_text(&problems, &text);
	ck_assert_msg(e == ERR_OK, "%s: %s%s", data, err_text(e), text.data ? text.data : "");
	ck_assert_uint_eq(problems.cnt, 0);
	config_problems_fini(&problems);
	text_fini(&text);
	return config;
}

static inline void put(struct config *config)
{
	sp_role_assume_control();
	config_put(config);
}

static inline void assert_round_trip(const struct config *c)
{
	struct text first = { 0 }, second = { 0 }, json = { 0 }, third = { 0 };
	struct config *other = NULL;
	struct config_problems problems = { 0 };
	config_print(c, &first);
	struct config *again = load_good(first.data);
	config_print(again, &second);
	ck_assert_str_eq(first.data, second.data);
	config_routes_json(again, &json);
	ck_assert_int_eq(config_with_routes(again, json.data, json.len, &other, &problems), ERR_OK);
	put(again); /* nothing of it is borrowed */
	config_print(other, &third);
	ck_assert_str_eq(first.data, third.data);
	ck_assert_str_eq(other->file, "(api)");
	put(other);
	/* And as the admin API answers with it. */
	struct text answer = { 0 };
	text_printf(&answer, "{\"routes\": %s}\n", json.data);
	again = load_good(first.data);
	ck_assert_int_eq(config_with_routes(again, answer.data, answer.len, &other, &problems),
			 ERR_OK);
	ck_assert_uint_eq(other->route_cnt, again->route_cnt);
	put(again);
	put(other);
	text_fini(&answer);
	text_fini(&first);
	text_fini(&second);
	text_fini(&third);
	text_fini(&json);
}

/* A text with something wrong: where, and words of the message. */
struct bad {
	const char *text;
	unsigned line;
	const char *path, *message;
};

static inline void assert_finding(const struct bad *row, bool wants_one)
{
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	struct text text = { 0 };
	enum err e = load_bytes(row->text, strlen(row->text), &config, &problems);
	config_problems_text(&problems, &text);
	ck_assert_msg(e == ERR_CONFIG || e == ERR_NOENT, "%s: %s", row->text, err_text(e));
	ck_assert_ptr_null(config);
	ck_assert_ptr_nonnull(text.data);
	const struct config_problem *p = &problems.items[0];
	ck_assert_msg(p->line == row->line && strcmp(p->path, row->path) == 0 &&
			      strstr(p->message, row->message),
		      "%s\n%s", row->text, text.data);
	ck_assert_msg(problems.cnt == 1 || !wants_one, "%s\n%s", row->text, text.data);
	config_problems_fini(&problems);
	text_fini(&text);
}
