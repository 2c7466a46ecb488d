#include "check.h"

#include <stdio.h>
#include <stdlib.h>

#include "smartproxy/config.h"
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

static bool check_certificate(const char *file, const struct config_route *route)
{
	const struct config_action_data *action = &route->action;
	struct tls_cert *cert = NULL;
	struct text why = { 0 };
	enum err e = tls_cert_from_files(action->chain_file, action->key_file, &cert, &why);
	if (e == ERR_OK)
		tls_cert_put(cert);
	else
		(void)fprintf(stderr, "%s:%u: route %s: certificate: %s\n", file, route->line,
			      route->name, why.data != NULL ? why.data : err_text(e));
	text_fini(&why);
	return e == ERR_OK;
}

/* Trust anchors and client certificate of TLS towards targets. */
static bool check_client(const char *file, const struct config_route *route)
{
	const struct config_upstream_tls *tls = &route->action.upstream_tls;
	struct tls_client_settings settings = { .wants_verify = tls->wants_verify,
						.ca_file = tls->ca_file,
						.chain_file = tls->chain_file,
						.key_file = tls->key_file };
	struct tls_client *client = NULL;
	struct text why = { 0 };
	sp_role_assume_control();
	enum err e = tls_client_new(&settings, 1, &client, &why);
	if (e != ERR_OK)
		(void)fprintf(stderr, "%s:%u: route %s: tls.upstream: %s\n", file, route->line,
			      route->name, why.data != NULL ? why.data : err_text(e));
	tls_client_free(client);
	text_fini(&why);
	return e == ERR_OK;
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
	for (size_t i = 0; i < config->route_cnt; i++) {
		const struct config_route *route = &config->routes[i];
		bool has_files = route->is_enabled && route->action.chain_file != NULL &&
				 route->action.certificate == CONFIG_CERT_FILES;
		bool has_client =
			route->is_enabled && route->action.tls_mode == CONFIG_TLS_REENCRYPT;
		if (has_files && !check_certificate(file, route))
			is_ok = false;
		if (has_client && !check_client(file, route))
			is_ok = false;
	}
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
