#include <string.h>

#include "check.h"
#include "load.h"

#define AUTO_NAMES_MAX 100 /* names in one certificate of Let's Encrypt */
#define LEAF_MAX       64

enum err check_limits(struct loader *l, const struct value *group, void *data)
{
	const struct config *c = data;
	const struct value *target = value_member(group, "target");
	if (c->limits.head_bytes && c->limits.target_bytes > c->limits.head_bytes)
		load_problem(l, target ? target : value_member(group, "head"), "target",
			     "is more than limits.head, which holds the target too");
	return ERR_OK;
}

/* The row of the group that name leads to, two levels below key_group_route. */
static const struct key *action_key(const char *name)
{
	return key_find(key_find(&key_group_route, "action")->group, name);
}

static const char *action_name(enum config_action type)
{
	const struct key_word *word = action_key("type")->words;
	while (word->value != (int)type)
		word++;
	return word->word;
}

/* Keys that were given and belong to another type of action. */
static void check_belonging(struct loader *l, const struct value *action,
			    const struct config_action_data *a)
{
	char leaf[LEAF_MAX], types[LEAF_MAX];
	for (size_t i = 0; i < action->cnt; i++) {
		const struct key *key = action_key(action->items[i].name);
		if (!key || !key->actions || key->actions & KEY_ACTION(a->type))
			continue;
		size_t len = 0;
		for (const struct key_word *w = action_key("type")->words; w->word; w++)
			if (key->actions & KEY_ACTION((unsigned)w->value))
				len += text_format(types + len, sizeof(types) - len, "%s\"%s\"",
						   len ? " or " : "", w->word);
		text_format(leaf, sizeof(leaf), "action.%s", key->name);
		load_problem(l, &action->items[i], leaf,
			     "belongs to a route of type %s; this one is \"%s\"", types,
			     action_name(a->type));
	}
}

static void check_forward(struct loader *l, const struct value *action,
			  struct config_action_data *a)
{
	const struct value *targets = value_member(action, "targets");
	if (!targets || (targets->type == VALUE_LIST && targets->cnt == 0))
		load_problem(l, targets ? targets : action, "action.targets",
			     "\"forward\" needs one target at least: "
			     "( { host = \"10.0.0.10\"; port = 8080; } )");
	(void)a;
}

static void check_redirect(struct loader *l, const struct value *action,
			   struct config_action_data *a)
{
	const struct value *status = value_member(action, "status");
	if (!value_member(action, "location"))
		load_problem(l, action, "action.location",
			     "\"redirect\" needs a location, such as \"https://{host}{path}\"");
	if (!status)
		a->status = 301;
	else if (a->status && a->status != 301 && a->status != 302 && a->status != 303 &&
		 a->status != 307 && a->status != 308)
		load_problem(l, status, "action.status",
			     "found %u, expected 301, 302, 303, 307 or 308 for \"redirect\"",
			     a->status);
}

static void check_respond(struct loader *l, const struct value *action,
			  struct config_action_data *a)
{
	if (!value_member(action, "status"))
		a->status = 200;
	if ((a->status == 204 || a->status == 205 || a->status == 304) && a->body_len)
		load_problem(l, value_member(action, "body"), "action.body",
			     "a %u answer has no body (RFC 9110, 15)", a->status);
}

static void check_action(struct loader *l, const struct value *action, struct config_action_data *a)
{
	const struct value *type = value_member(action, "type");
	if (!a->body)
		a->body = "";
	if (!type || type->type != VALUE_STRING || !key_find_word(action_key("type"), type->string))
		return; /* said already; the rest depends on it */
	check_belonging(l, action, a);
	switch (a->type) {
	case CONFIG_FORWARD:
		check_forward(l, action, a);
		break;
	case CONFIG_REDIRECT:
		check_redirect(l, action, a);
		break;
	case CONFIG_RESPOND:
		check_respond(l, action, a);
		break;
	case CONFIG_BLOCK:
		a->status = 403;
		break;
	}
}

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

static void check_tls(struct loader *l, const struct value *route, struct config_route *r)
{
	struct config_action_data *a = &r->action;
	const struct value *versions = value_member(value_member(route, "match"), "tls_versions");
	const struct value *tls = value_member(value_member(route, "action"), "tls");
	if (!tls && versions)
		load_problem(l, versions, "match.tls_versions",
			     "needs action.tls: a plain connection has no TLS version");
	if (!tls || tls->type != VALUE_GROUP)
		return;
	const struct value *mode = value_member(tls, "mode");
	const struct value *certificate = value_member(tls, "certificate");
	const struct value *key_type = value_member(tls, "key_type");
	if (a->tls_mode == CONFIG_TLS_PASSTHROUGH || a->tls_mode == CONFIG_TLS_REENCRYPT)
		load_problem(l, mode, "action.tls.mode",
			     "\"%s\" is not built yet in this version; use \"terminate\"",
			     mode->string);
	else if (!certificate)
		load_problem(l, tls, "action.tls.certificate",
			     "is missing: \"auto\", or a group { chain_file = \"...\"; key_file = "
			     "\"...\"; }");
	if (certificate && certificate->type == VALUE_STRING &&
	    strcmp(certificate->string, "auto") == 0)
		check_auto(l, route, &r->match);
	else
		a->certificate = CONFIG_CERT_FILES; /* nothing that follows from "auto" */
	if (key_type && certificate && certificate->type == VALUE_GROUP)
		load_problem(
			l, key_type, "action.tls.key_type",
			"belongs to certificate = \"auto\"; a key from a file has its own type");
}

enum err check_route(struct loader *l, const struct value *group, void *data)
{
	struct config_route *route = data;
	const struct value *action = value_member(group, "action");
	route->line = group->line;
	if (action && action->type == VALUE_GROUP)
		check_action(l, action, &route->action);
	check_tls(l, group, route);
	return ERR_OK;
}
