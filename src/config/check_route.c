#include <string.h>

#include "check.h"
#include "load.h"

/* The row of routes[].action. */
static const struct key *action_key(const char *name)
{
	return key_find(key_find(&key_group_route, "action")->group, name);
}

static void check_forward(struct loader *l, const struct value *action)
{
	const struct value *targets = value_member(action, "targets");
	const struct value *upstream = value_member(action, "upstream");
	const struct value *balance = value_member(action, "balance");
	bool is_empty = targets && targets->type == VALUE_LIST && targets->cnt == 0;
	if (targets && upstream)
		load_problem(
			l, upstream, "action.upstream",
			"stands beside targets: a route has the one or the other; leave one out");
	else if (is_empty || (!targets && !upstream))
		load_problem(l, targets ? targets : action, "action.targets",
			     "\"forward\" needs one target at least: %s, or an upstream",
			     l->notation == VALUE_JSON
				     ? "[{\"host\": \"10.0.0.10\", \"port\": 8080}]"
				     : "( { host = \"10.0.0.10\"; port = 8080; } )");
	else if (upstream && balance)
		load_problem(l, balance, "action.balance",
			     "belongs to targets; the upstream has a balance of its own, change it "
			     "there");
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
	switch (a->type) {
	case CONFIG_FORWARD:
		check_forward(l, action);
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

enum err check_route(struct loader *l, const struct value *group, void *data)
{
	struct config_route *route = data;
	const struct value *action = value_member(group, "action");
	route->line = group->line;
	if (action && action->type == VALUE_GROUP)
		check_action(l, action, &route->action);
	check_tls(l, group, route);
	check_protocol(l, group, route);
	return ERR_OK;
}
