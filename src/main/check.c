#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "smartproxy/assert.h"
#include "smartproxy/config.h"
#include "smartproxy/control.h"
#include "smartproxy/route.h"
#include "smartproxy/tls.h"
#include "smartproxy/tls_client.h"

static void print_problems(const struct config_problems *problems, const char *file, enum err e)
{
	struct text text = { 0 };
	config_problems_text(problems, &text);
	if (text.data != NULL)
		(void)fputs(text.data, stderr);
	else
		(void)fprintf(stderr, "%s: %s\n", file, err_text(e));
	text_fini(&text);
}

static struct config *load(const char *file)
{
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	enum err e = config_load(file, &config, &problems);
	if (e != ERR_OK)
		print_problems(&problems, file, e);
	config_problems_fini(&problems);
	return e == ERR_OK ? config : NULL;
}

/* Where what is wrong was found. */
struct place {
	const char *file;
	const struct config_route *route;
	size_t ix;
};

static void complain(const struct place *place, const char *key, const struct text *why, enum err e)
{
	(void)fprintf(stderr, "%s:%u: routes[%zu].action.tls.%s: %s (route %s)\n", place->file,
		      place->route->line, place->ix, key, why->len > 0 ? why->data : err_text(e),
		      place->route->name);
}

/* key: of the group that names the two files. */
static bool check_files(const struct place *place, const char *key, const char *chain_file,
			const char *key_file)
{
	char path[64];
	struct tls_cert *cert = NULL;
	struct tls_files_error error = { 0 };
	enum err e = tls_cert_load(chain_file, key_file, NULL, &cert, &error);
	if (e == ERR_OK)
		tls_cert_put(cert);
	text_format(path, sizeof(path), "%s.chain_file", key);
	if (error.chain.len > 0)
		complain(place, path, &error.chain, e);
	text_format(path, sizeof(path), "%s.key_file", key);
	if (error.key.len > 0)
		complain(place, path, &error.key, e);
	if (e != ERR_OK && error.chain.len == 0 && error.key.len == 0)
		complain(place, key, &error.both, e);
	tls_files_error_fini(&error);
	return e == ERR_OK;
}

/* Trust anchors and client certificate of TLS towards targets. */
static bool check_client(const struct place *place)
{
	const struct config_upstream_tls *tls = &place->route->action.upstream_tls;
	struct tls_client_settings settings = { .wants_verify = tls->wants_verify,
						.ca_file = tls->ca_file,
						.chain_file = tls->chain_file,
						.key_file = tls->key_file };
	struct tls_client *client = NULL;
	struct text why = { 0 };
	bool is_ok = true;
	sp_role_assume_control();
	enum err e = tls->wants_verify && tls->ca_file != NULL
			     ? tls_authorities_check(tls->ca_file, &why)
			     : ERR_OK;
	if (e != ERR_OK) {
		complain(place, "upstream.ca_file", &why, e);
		is_ok = false;
	}
	if (tls->chain_file != NULL &&
	    !check_files(place, "upstream.certificate", tls->chain_file, tls->key_file))
		is_ok = false;
	e = is_ok ? tls_client_new(&settings, 1, &client, &why) : ERR_OK;
	if (e != ERR_OK)
		complain(place, "upstream", &why, e);
	tls_client_free(client);
	text_fini(&why);
	return is_ok && e == ERR_OK;
}

static bool check_routes(const char *file, const struct config *config)
{
	struct route_index *index = NULL;
	struct tls_slot **slots = calloc(config->route_cnt + 1, sizeof(struct tls_slot *));
	enum err e = slots == NULL ? ERR_NOMEM : route_index_new(config, slots, &index);
	free((void *)slots);
	route_index_free(index);
	if (e != ERR_OK)
		(void)fprintf(stderr, "%s: routes: %s\n", file, err_text(e));
	return e == ERR_OK;
}

static bool check_route_files(const char *file, const struct config *config, size_t ix)
{
	const struct config_route *route = &config->routes[ix];
	const struct config_action_data *action = &route->action;
	const struct place place = { file, route, ix };
	if (!route->is_enabled)
		return true;
	bool is_ok = action->chain_file == NULL || action->certificate != CONFIG_CERT_FILES ||
		     check_files(&place, "certificate", action->chain_file, action->key_file);
	if (action->tls_mode == CONFIG_TLS_REENCRYPT && !check_client(&place))
		is_ok = false;
	return is_ok;
}

/* What the keys outside of routes name. */
static bool check_global(const char *file, const struct config *config) SP_ON_CONTROL;
static bool check_global(const char *file, const struct config *config)
{
	enum err (*const checks[])(const struct config *config, struct text *reterr) = {
		control_check_account,
		control_check_authority,
	};
	bool is_ok = true;
	for (size_t i = 0; i < SP_ARRAY_LEN(checks); i++) {
		struct text why = { 0 };
		enum err e = checks[i](config, &why);
		if (e != ERR_OK)
			(void)fprintf(stderr, "%s: %s\n", file,
				      why.len > 0 ? why.data : err_text(e));
		is_ok = is_ok && e == ERR_OK;
		text_fini(&why);
	}
	return is_ok;
}

int check_file(const char *file)
{
	struct config *config = load(file);
	if (config == NULL)
		return 1;
	bool is_ok = check_routes(file, config);
	if (tls_init() != ERR_OK) {
		(void)fprintf(stderr, "%s: OpenSSL cannot be used\n", file);
		config_put(config);
		return 1;
	}
	is_ok = check_global(file, config) && is_ok;
	for (size_t i = 0; i < config->route_cnt; i++)
		is_ok = check_route_files(file, config, i) && is_ok;
	if (is_ok)
		(void)printf("%s: ok, %zu route%s\n", file, config->route_cnt,
			     config->route_cnt == 1 ? "" : "s");
	tls_fini();
	config_put(config);
	return is_ok ? 0 : 1;
}

int check_print(const char *file)
{
	struct config *config = load(file);
	if (config == NULL)
		return 1;
	struct text text = { 0 };
	config_print(config, &text);
	bool is_ok = !text.has_failed && text.data != NULL && fputs(text.data, stdout) >= 0;
	text_fini(&text);
	config_put(config);
	return is_ok ? 0 : 1;
}

int check_keys(void)
{
	size_t cnt = 0;
	const struct config_key *keys = config_keys(&cnt);
	for (size_t i = 0; i < cnt; i++)
		(void)printf("%s\t%s\t%s\n", keys[i].path, keys[i].type,
			     keys[i].default_text == NULL ? "" : keys[i].default_text);
	return 0;
}
