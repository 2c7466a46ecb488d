#include "journal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"

#define SUFFIX    ".journal"
#define NAMES_MAX 10000

/* ---- reading ---- */
void journal_order_free(struct journal_order *order)
{
	if (order == NULL)
		return;
	for (size_t i = 0; i < order->name_cnt; i++)
		free(order->names[i]);
	for (size_t i = 0; i < order->challenge_cnt; i++) {
		free(order->challenges[i].name);
		free(order->challenges[i].authz_url);
		free(order->challenges[i].url);
		free(order->challenges[i].token);
	}
	free(order->names);
	free(order->challenges);
	free(order->file_name);
	free(order->directory);
	free(order->url);
	free(order->finalize_url);
	tls_key_free(order->key);
	free(order);
}

static char *copy_member(const json_t *line, const char *name)
{
	const char *value = json_string_value(json_object_get(line, name));
	return value != NULL ? strdup(value) : NULL;
}

static enum err read_plan(struct journal_order *o, const json_t *line)
{
	const json_t *names = json_object_get(line, "names");
	const char *key = json_string_value(json_object_get(line, "key"));
	const char *type = json_string_value(json_object_get(line, "key_type"));
	size_t cnt = json_array_size(names);
	if (o->directory != NULL || key == NULL || type == NULL || cnt == 0 || cnt > NAMES_MAX)
		return ERR_SYNTAX;
	o->directory = copy_member(line, "directory");
	o->names = calloc(cnt, sizeof(*o->names));
	if (o->directory == NULL || o->names == NULL)
		return ERR_SYNTAX;
	for (size_t i = 0; i < cnt; i++) {
		const char *name = json_string_value(json_array_get(names, i));
		o->names[i] = name != NULL ? strdup(name) : NULL;
		if (o->names[i] == NULL)
			return ERR_SYNTAX;
		o->name_cnt++;
	}
	enum err e = tls_key_from_pem(key, strlen(key), &o->key);
	if (e != ERR_OK)
		return e;
	o->key_type = tls_key_type_of(o->key);
	return strcmp(tls_key_type_name(o->key_type), type) == 0 ? ERR_OK : ERR_SYNTAX;
}

static enum err read_challenge(struct journal_order *o, const json_t *line)
{
	struct journal_challenge *more =
		reallocarray(o->challenges, o->challenge_cnt + 1, sizeof(*more));
	if (more == NULL)
		return ERR_NOMEM;
	o->challenges = more;
	struct journal_challenge *c = &more[o->challenge_cnt++];
	*c = (struct journal_challenge){
		.name = copy_member(line, "name"),
		.authz_url = copy_member(line, "authz"),
		.url = copy_member(line, "url"),
		.token = copy_member(line, "token"),
	};
	return c->name != NULL && c->authz_url != NULL && c->url != NULL && c->token != NULL
		       ? ERR_OK
		       : ERR_SYNTAX;
}

static enum err read_line(struct journal_order *o, const json_t *line)
{
	const char *what = json_string_value(json_object_get(line, "step"));
	if (what == NULL)
		return ERR_SYNTAX;
	if (strcmp(what, "plan") == 0)
		return read_plan(o, line);
	if (strcmp(what, "order") == 0 && o->url == NULL) {
		o->url = copy_member(line, "url");
		o->finalize_url = copy_member(line, "finalize");
	} else if (strcmp(what, "challenge") == 0) {
		return read_challenge(o, line);
	} else if (strcmp(what, "triggered") == 0) {
		const char *token = json_string_value(json_object_get(line, "token"));
		for (size_t i = 0; token != NULL && i < o->challenge_cnt; i++)
			if (strcmp(o->challenges[i].token, token) == 0)
				o->challenges[i].is_triggered = true;
	} else if (strcmp(what, "finalize") == 0) {
		o->has_finalize = true;
	} else if (strcmp(what, "issued") == 0) {
		o->has_chain = true;
	}
	return ERR_OK;
}

enum err journal_parse(const char *text, size_t len, struct journal_order **ret_order)
{
	struct journal_order *o = calloc(1, sizeof(*o));
	const char *at = text, *end = text + len, *newline;
	enum err e = o != NULL ? ERR_OK : ERR_NOMEM;
	while (e == ERR_OK && (newline = memchr(at, '\n', (size_t)(end - at))) != NULL) {
		json_t *line = json_loadb(at, (size_t)(newline - at), 0, NULL);
		e = line != NULL ? read_line(o, line) : ERR_SYNTAX;
		json_decref(line);
		at = newline + 1;
	}
	if (e == ERR_OK &&
	    o->key == NULL) /* not one whole line: the crash came before anything was sent */
		e = ERR_NOENT;
	if (e != ERR_OK) {
		journal_order_free(o);
		return e;
	}
	*ret_order = o;
	return ERR_OK;
}

static void file_of(char dst[STORE_NAME_MAX + 16], const char *name)
{
	text_format(dst, STORE_NAME_MAX + 16, "%s" SUFFIX, name);
}

enum err journal_load(struct store *store, const char *name, struct journal_order **ret_order)
{
	char file[STORE_NAME_MAX + 16];
	struct text text = { 0 };
	file_of(file, name);
	enum err e = files_read(store->orders_fd, file, &text, NULL, NULL);
	if (e == ERR_OK)
		e = journal_parse(text.data, text.len, ret_order);
	files_wipe(&text);
	if (e == ERR_OK) {
		(*ret_order)->file_name = strdup(name);
		if ((*ret_order)->file_name == NULL) {
			journal_order_free(*ret_order);
			e = ERR_NOMEM;
		}
	}
	return e;
}

static void set_aside(struct store *store, const char *file)
{
	char to[STORE_NAME_MAX + 64];
	text_format(to, sizeof(to), "%s.damaged-%lld", file, (long long)clock_unix_s());
	(void)renameat(store->orders_fd, file, store->orders_fd, to);
	log_error("acme",
		  "a damaged order journal is set aside, its certificate is ordered anew "
		  "path=%s/orders/%s",
		  store->path, to);
}

void journal_each(struct store *store, void (*each)(void *arg, struct journal_order *order),
		  void *arg)
{
	const char *file;
	DIR *dir = files_scan(store->orders_fd, ".");
	if (dir == NULL)
		return;
	while ((file = files_next(dir)) != NULL) {
		char name[STORE_NAME_MAX];
		struct journal_order *order = NULL;
		size_t len = strlen(file), suffix_len = sizeof(SUFFIX) - 1;
		if (len <= suffix_len || len - suffix_len >= sizeof(name) ||
		    strcmp(file + len - suffix_len, SUFFIX) != 0)
			continue;
		text_format(name, sizeof(name), "%.*s", (int)(len - suffix_len), file);
		enum err e = journal_load(store, name, &order);
		if (e == ERR_OK)
			each(arg, order);
		else if (e == ERR_NOENT)
			journal_drop(store, name);
		else if (e != ERR_NOMEM && e != ERR_STORE)
			set_aside(store, file);
	}
	closedir(dir);
}

/* ---- writing ---- */
/* Half a line must not stay in front of the next one. */
static enum err append(struct journal *j, const struct text *lines, bool is_synced,
		       struct text *reterr_text)
{
	if (!j->is_open || lines->has_failed)
		return lines->has_failed ? ERR_NOMEM : ERR_STORE;
	enum err e =
		files_write(j->fd, "the order's journal", lines->data, lines->len, reterr_text);
	if (e == ERR_OK && is_synced)
		e = files_sync(j->fd, "the order's journal", reterr_text);
	if (e == ERR_OK)
		j->good_bytes += (int64_t)lines->len;
	else if (ftruncate(j->fd, j->good_bytes) < 0)
		journal_close(j);
	return e;
}

static void add_line(struct text *lines, json_t *object)
{
	char *dump = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;
	if (dump == NULL)
		lines->has_failed = true;
	else
		text_printf(lines, "%s\n", dump);
	if (dump != NULL)
		explicit_bzero(dump, strlen(dump));
	free(dump);
	json_decref(object);
}

static json_t *plan_line(const struct journal_order *plan, const char *key_pem)
{
	json_t *names = json_array();
	for (size_t i = 0; i < plan->name_cnt; i++)
		json_array_append_new(names, json_string(plan->names[i]));
	return json_pack("{s:s, s:s, s:o, s:s, s:s, s:I}", "step", "plan", "directory",
			 plan->directory, "names", names, "key_type",
			 tls_key_type_name(plan->key_type), "key", key_pem, "at",
			 (json_int_t)clock_unix_s());
}

enum err journal_begin(struct journal *journal, struct store *store, const char *name,
		       const struct journal_order *plan, const char *key_pem,
		       struct text *reterr_text)
{
	char file[STORE_NAME_MAX + 16];
	struct text lines = { 0 };
	file_of(file, name);
	journal_close(journal);
	journal->fd = openat(store->orders_fd, file,
			     O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
	if (journal->fd < 0) {
		text_printf(reterr_text, "cannot create the journal %s/orders/%s: %s", store->path,
			    file, strerrordesc_np(errno));
		return ERR_STORE;
	}
	journal->is_open = true;
	journal->good_bytes = 0;
	add_line(&lines, plan_line(plan, key_pem));
	enum err e = append(journal, &lines, false, reterr_text);
	files_wipe(&lines);
	journal->orders_fd = store->orders_fd;
	if (e != ERR_OK) {
		journal_close(journal);
		journal_drop(store, name);
	}
	return e;
}

enum err journal_reopen(struct journal *journal, struct store *store, const char *name)
{
	char file[STORE_NAME_MAX + 16];
	char last = 0;
	file_of(file, name);
	journal_close(journal);
	journal->fd = openat(store->orders_fd, file, O_RDWR | O_APPEND | O_CLOEXEC);
	if (journal->fd < 0)
		return ERR_STORE;
	journal->is_open = true;
	journal->orders_fd = -1;
	journal->good_bytes = lseek(journal->fd, 0, SEEK_END);
	while (journal->good_bytes > 0 &&
	       pread(journal->fd, &last, 1, journal->good_bytes - 1) == 1 && last != '\n')
		journal->good_bytes--;
	if (ftruncate(journal->fd, journal->good_bytes) == 0)
		return ERR_OK;
	journal_close(journal);
	return ERR_STORE;
}

enum err journal_add_order(struct journal *journal, const char *url, const char *finalize_url,
			   struct text *reterr_text)
{
	struct text lines = { 0 };
	add_line(&lines, json_pack("{s:s, s:s, s:s?}", "step", "order", "url", url, "finalize",
				   finalize_url));
	enum err e = append(journal, &lines, true, reterr_text);
	if (e == ERR_OK && journal->orders_fd >= 0)
		e = files_sync(journal->orders_fd, "orders", reterr_text);
	text_fini(&lines);
	return e;
}

enum err journal_add_challenges(struct journal *journal, const struct journal_challenge *challenges,
				size_t cnt, struct text *reterr_text)
{
	struct text lines = { 0 };
	for (size_t i = 0; i < cnt; i++)
		add_line(&lines, json_pack("{s:s, s:s, s:s, s:s, s:s}", "step", "challenge", "name",
					   challenges[i].name, "authz", challenges[i].authz_url,
					   "url", challenges[i].url, "token", challenges[i].token));
	enum err e = append(journal, &lines, true, reterr_text);
	text_fini(&lines);
	return e;
}

enum err journal_add_mark(struct journal *journal, const char *what, struct text *reterr_text)
{
	struct text lines = { 0 };
	add_line(&lines, json_pack("{s:s}", "step", what));
	enum err e = append(journal, &lines, false, reterr_text);
	text_fini(&lines);
	return e;
}

void journal_add_triggered(struct journal *journal, const char *token)
{
	struct text lines = { 0 };
	add_line(&lines, json_pack("{s:s, s:s}", "step", "triggered", "token", token));
	enum err e = append(journal, &lines, false, NULL);
	if (e != ERR_OK)
		log_debug("acme", "the journal does not know that a challenge was triggered err=%s",
			  err_name(e));
	text_fini(&lines);
}

void journal_close(struct journal *journal)
{
	if (journal->is_open)
		close(journal->fd);
	journal->is_open = false;
}

void journal_drop(struct store *store, const char *name)
{
	char file[STORE_NAME_MAX + 16];
	file_of(file, name);
	(void)unlinkat(store->orders_fd, file, 0);
}
