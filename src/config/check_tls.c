/* TLS of a route, and what follows from its protocol. */
#include <string.h>

#include "check.h"
#include "load.h"

#define AUTO_NAMES_MAX 100 /* names in one certificate of Let's Encrypt */
#define LEAF_MAX       64

static bool is_doubled(const struct config_match *m, size_t ix)
{
	for (size_t i = 0; i < ix; i++)
		if (m->domains[i] && strcmp(m->domains[i], m->domains[ix]) == 0)
			return true;
	return false;
}

static void check_auto(struct loader *l, const struct value *route, const struct config_match *m)
{
	char leaf[LEAF_MAX];
	const struct value *domains = value_member(value_member(route, "match"), "domains");
	const struct value *tls = value_member(value_member(route, "action"), "tls");
	const struct value *certificate = value_member(tls, "certificate");
	if (!domains || (domains->type == VALUE_LIST && domains->cnt == 0)) {
		load_problem(l, certificate, "action.tls.certificate",
			     "\"auto\" needs match.domains: they are the names in the certificate");
		return;
	}
	if (m->domain_cnt > AUTO_NAMES_MAX) {
		load_problem(l, domains, "match.domains",
			     "found %zu names, expected %d at most in one \"auto\" certificate: "
			     "split the route",
			     m->domain_cnt, AUTO_NAMES_MAX);
		return;
	}
	for (size_t i = 0; i < m->domain_cnt; i++) {
		text_format(leaf, sizeof(leaf), "match.domains[%zu]", i);
		if (m->domains[i] && m->domains[i][0] == '*')
			load_problem(
				l, &domains->items[i], leaf,
				"\"%s\": a wildcard name needs dns-01, which this version does "
				"not have: use certificate files",
				m->domains[i]);
		else if (m->domains[i] && is_doubled(m, i))
			load_problem(l, &domains->items[i], leaf, "\"%s\" is given twice",
				     m->domains[i]);
	}
}

/* The member of route.action.tls or route.match that would have to be absent. */
static void forbid(struct loader *l, const struct value *group, const char *path, const char *name,
		   const char *why)
{
	char leaf[LEAF_MAX];
	const struct value *v = value_member(group, name);
	if (!v)
		return;
	text_format(leaf, sizeof(leaf), "%s.%s", path, name);
	load_problem(l, v, leaf, "%s", why);
}

static void check_passthrough(struct loader *l, const struct value *tls,
			      struct config_action_data *a)
{
	static const char why[] =
		"belongs to mode \"terminate\" and \"terminate-and-reencrypt\": with "
		"\"passthrough\" the target shows its own certificate; leave it out";
	forbid(l, tls, "action.tls", "certificate", why);
	forbid(l, tls, "action.tls", "key_type", why);
	a->certificate = CONFIG_CERT_FILES; /* nothing that follows from "auto" */
}

static void check_certificate(struct loader *l, const struct value *route, struct config_route *r)
{
	const struct value *tls = value_member(value_member(route, "action"), "tls");
	const struct value *certificate = value_member(tls, "certificate");
	const struct value *key_type = value_member(tls, "key_type");
	if (!certificate)
		load_problem(l, tls, "action.tls.certificate", "is missing: \"auto\", or %s",
			     l->notation == VALUE_JSON
				     ? "an object {\"chain_file\": \"...\", \"key_file\": \"...\"}"
				     : "a group { chain_file = \"...\"; key_file = \"...\"; }");
	if (certificate && certificate->type == VALUE_STRING &&
	    strcmp(certificate->string, "auto") == 0)
		check_auto(l, route, &r->match);
	else
		r->action.certificate = CONFIG_CERT_FILES; /* nothing that follows from "auto" */
	if (key_type && certificate && certificate->type == VALUE_GROUP)
		load_problem(
			l, key_type, "action.tls.key_type",
			"belongs to the certificate \"auto\"; a key from a file has its own type");
}

void check_tls(struct loader *l, const struct value *route, struct config_route *r)
{
	struct config_action_data *a = &r->action;
	const struct value *action = value_member(route, "action");
	const struct value *type = value_member(action, "type");
	const struct value *tls = value_member(action, "tls");
	const struct value *mode = value_member(tls, "mode");
	if (!tls)
		forbid(l, value_member(route, "match"), "match", "tls_versions",
		       "needs action.tls: a plain connection has no TLS version");
	if (!tls || tls->type != VALUE_GROUP || (mode && a->tls_mode == CONFIG_TLS_NONE))
		return;
	if (a->tls_mode == CONFIG_TLS_PASSTHROUGH)
		check_passthrough(l, tls, a);
	else
		check_certificate(l, route, r);
	if (a->tls_mode != CONFIG_TLS_REENCRYPT)
		forbid(l, tls, "action.tls", "upstream",
		       "belongs to mode \"terminate-and-reencrypt\": only there the proxy speaks "
		       "TLS to targets");
	if (mode && type && a->tls_mode != CONFIG_TLS_TERMINATE && a->type != CONFIG_FORWARD)
		load_problem(l, mode, "action.tls.mode",
			     "\"%s\" is for routes of type \"forward\", which have a target; use "
			     "\"terminate\"",
			     mode->string);
}

static void check_tcp_match(struct loader *l, const struct value *match, bool has_tls)
{
	static const char no_http[] = "is of HTTP requests: a route that forwards TCP reads none; "
				      "leave it out, or forward HTTP";
	forbid(l, match, "match", "path", no_http);
	forbid(l, match, "match", "methods", no_http);
	forbid(l, match, "match", "headers", no_http);
	if (!has_tls)
		forbid(l, match, "match", "domains",
		       "nothing names a host on a raw TCP port; leave it out, or use TLS, where "
		       "the "
		       "client names one (SNI)");
	else
		forbid(l, match, "match", "tls_versions",
		       "is not known before the handshake, when a route that forwards TCP is "
		       "chosen; "
		       "leave it out");
}

/* What fits to HTTP or to TCP alone. */
void check_protocol(struct loader *l, const struct value *route, struct config_route *r)
{
	struct config_action_data *a = &r->action;
	const struct value *match = value_member(route, "match");
	const struct value *action = value_member(route, "action");
	const struct value *protocol = value_member(action, "protocol");
	bool has_tls = a->tls_mode != CONFIG_TLS_NONE;
	bool is_passed = a->tls_mode == CONFIG_TLS_PASSTHROUGH;
	if (is_passed && protocol && a->protocol == CONFIG_HTTP)
		load_problem(l, protocol, "action.protocol",
			     "\"passthrough\" forwards the bytes of TLS unread, which is \"tcp\"; "
			     "leave it out, or use \"terminate\"");
	if (is_passed)
		a->protocol = CONFIG_TCP;
	bool is_tcp = a->type == CONFIG_FORWARD && a->protocol == CONFIG_TCP;
	if (!is_tcp || !has_tls)
		forbid(l, match, "match", "alpn",
		       "is for TCP behind TLS (\"passthrough\", or protocol \"tcp\" with tls): "
		       "elsewhere nothing is chosen by it");
	if (!is_tcp)
		return;
	check_tcp_match(l, match, has_tls);
	forbid(l, action, "action", "preserve_host",
	       "is of HTTP requests: a route that forwards TCP has no Host; leave it out");
}
