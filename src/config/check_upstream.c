/* Groups of targets, and which one a route forwards to. */
#include <string.h>

#include "check.h"
#include "load.h"
#include "names.h"
#include "nearest.h"

#define PATH_MAX_BYTES  64
#define NEAREST_NAMES   10000 /* are compared with an unknown one */
#define NEAREST_REPORTS 100   /* unknown names get a nearest one */

enum err check_probe(struct loader *l, const struct value *group, void *data)
{
	const struct config_upstream *u = data;
	const struct value *timeout = value_member(group, "timeout");
	if (u->check.timeout_ms > u->check.interval_ms && u->check.interval_ms)
		load_problem(
			l, timeout ? timeout : value_member(group, "interval"), "timeout",
			"is more than check.interval: a check ends before the next one begins; "
			"lower the one or raise the other");
	return ERR_OK;
}

enum err check_upstream(struct loader *l, const struct value *group, void *data)
{
	struct config_upstream *u = data;
	const struct value *targets = value_member(group, "targets");
	const struct value *bound = value_member(group, "hash_bound");
	u->line = group->line;
	if (targets && targets->type == VALUE_LIST && targets->cnt == 0)
		load_problem(l, targets, "targets",
			     "one target at least: ( { host = \"10.0.0.10\"; port = 8080; } )");
	if (u->hash_bound_percent && u->hash_bound_percent < 100)
		load_problem(
			l, bound, "hash_bound",
			"found %u, expected 0 (no bound) or 100 to 1000: below 100 the targets "
			"together could not take the load",
			u->hash_bound_percent);
	if (u->check.type == CONFIG_CHECK_NONE || u->check.port)
		return ERR_OK;
	for (size_t i = 0; targets && targets->type == VALUE_LIST && i < u->target_cnt; i++) {
		const struct value *port = value_member(&targets->items[i], "port");
		if (!port || port->type != VALUE_STRING || u->targets[i].port)
			continue;
		load_problem(l, value_member(group, "check"), "check.port",
			     "is missing: targets[%zu] has the port \"preserve\", which no check "
			     "knows",
			     i);
		break;
	}
	return ERR_OK;
}

struct finder {
	struct loader *l;
	struct config *config;
	const struct value *routes;
	const struct names *names;
	struct config_upstream defaults;
	size_t unknown_cnt;
};

static void report(struct finder *f, size_t ix, const char *key, const char *sentence)
{
	char path[PATH_MAX_BYTES];
	const struct value *action = value_member(check_element(f->routes, ix), "action");
	const struct value *where = value_member(action, key);
	text_format(path, sizeof(path), "routes[%zu].action.%s", ix, key);
	load_problem(f->l, where ? where : action, path, "%s", sentence);
}

static void report_unknown(struct finder *f, size_t ix, const char *name)
{
	char sentence[512];
	struct nearest near = { .word = name };
	const struct config *c = f->config;
	for (size_t i = 0;
	     f->unknown_cnt < NEAREST_REPORTS && i < NEAREST_NAMES && i < c->upstream_cnt; i++)
		if (c->upstreams[i].name)
			nearest_try(&near, c->upstreams[i].name);
	f->unknown_cnt++;
	if (near.best)
		text_format(sentence, sizeof(sentence),
			    "no upstream has the name \"%s\"; did you mean \"%s\"?", name,
			    near.best);
	else
		text_format(
			sentence, sizeof(sentence),
			"no upstream has the name \"%s\": add one to \"upstreams\", or give the "
			"route targets of its own",
			name);
	report(f, ix, "upstream", sentence);
}

/* What a TCP route cannot balance by; NULL: it can. */
static const char *needs_http(const struct config_upstream *u)
{
	if (u->balance == CONFIG_BALANCE_STICKY)
		return "a sticky cookie";
	if (u->balance != CONFIG_BALANCE_HASH)
		return NULL;
	switch (u->hash_key) {
	case CONFIG_HASH_PATH:
		return "the path";
	case CONFIG_HASH_HEADER:
		return "a header field";
	case CONFIG_HASH_COOKIE:
		return "a cookie";
	case CONFIG_HASH_CLIENT_IP:
		break;
	}
	return NULL;
}

static void check_balance(struct finder *f, size_t ix, const struct config_route *r)
{
	char sentence[640], line[CHECK_LINE_MAX];
	const struct config_upstream *u = r->action.upstream;
	const char *by = r->action.protocol == CONFIG_TCP ? needs_http(u) : NULL;
	if (!by)
		return;
	if (u->name)
		text_format(
			sentence, sizeof(sentence),
			"upstream \"%s\"%s balances by %s, which route \"%s\" does not have: it "
			"forwards TCP; choose another upstream, or another balance for this one",
			u->name, check_line(u->line, line), by, r->name ? r->name : "?");
	else
		text_format(
			sentence, sizeof(sentence),
			"needs %s, which route \"%s\" does not have: it forwards TCP; use another "
			"balance",
			by, r->name ? r->name : "?");
	report(f, ix, u->name ? "upstream" : "balance", sentence);
}

static const struct config_upstream *own_upstream(struct finder *f, const struct config_route *r)
{
	struct config_upstream *u = load_alloc(f->l, 1, sizeof(*u));
	if (!u)
		return NULL;
	*u = f->defaults;
	u->line = r->line;
	u->targets = r->action.targets;
	u->target_cnt = r->action.target_cnt;
	u->balance = r->action.balance;
	return u;
}

enum err check_find_upstreams(struct loader *l, struct config *config, const struct value *routes,
			      const struct names *names)
{
	struct finder f = { .l = l, .config = config, .routes = routes, .names = names };
	struct config_route *list = (struct config_route *)config->routes;
	load_defaults(l, &key_group_upstream, &f.defaults);
	for (size_t i = 0; !l->error && i < config->route_cnt; i++) {
		struct config_action_data *a = &list[i].action;
		if (a->type != CONFIG_FORWARD)
			continue;
		if (a->upstream_name) {
			size_t at = names_find(names, a->upstream_name);
			if (at == NAMES_NONE)
				report_unknown(&f, i, a->upstream_name);
			else
				a->upstream = &config->upstreams[at];
		} else if (a->target_cnt) {
			a->upstream = own_upstream(&f, &list[i]);
		}
		if (a->upstream)
			check_balance(&f, i, &list[i]);
	}
	return l->error;
}
