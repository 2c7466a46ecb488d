/* Targets that are one and the same have one count of places (smartproxy/upstream.h), and so one max_connections:
 * those of one group, and those of all routes that have no group by name. */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "load.h"
#include "smartproxy/fault.h"

#define PATH_MAX_BYTES 96

/* One target of a list. */
struct place {
	const struct config_upstream *group;
	const struct config_target *target;
	const struct config_upstream_tls *tls; /* of a route that encrypts again, else NULL */
	bool is_route;                         /* else of an upstream */
	size_t ix;                             /* of the route or upstream, in its list */
};

static int compare_text(const char *a, const char *b)
{
	return strcmp(a ? a : "", b ? b : "");
}

static int compare_tls(const struct config_upstream_tls *a, const struct config_upstream_tls *b)
{
	if (!a || !b)
		return (a != NULL) - (b != NULL);
	int order = compare_text(a->server_name, b->server_name);
	order = order ? order : (int)a->wants_verify - (int)b->wants_verify;
	order = order ? order : compare_text(a->ca_file, b->ca_file);
	order = order ? order : compare_text(a->chain_file, b->chain_file);
	return order ? order : compare_text(a->key_file, b->key_file);
}

/* 0: the same target, as upstreams are told apart. */
static int compare(const struct place *a, const struct place *b)
{
	int order = compare_text(a->group->name, b->group->name);
	order = order ? order : compare_text(a->target->host, b->target->host);
	order = order ? order : (int)a->target->port - (int)b->target->port;
	order = order ? order : (int)a->target->proxy_protocol - (int)b->target->proxy_protocol;
	return order ? order : compare_tls(a->tls, b->tls);
}

static int by_target(const void *left, const void *right)
{
	const struct place *a = left, *b = right;
	int order = compare(a, b);
	if (order == 0)
		order = (a->ix > b->ix) - (a->ix < b->ix);
	if (order == 0) /* of one list */
		order = (a->target > b->target) - (a->target < b->target);
	return order;
}

static unsigned max_of(const struct place *p)
{
	return p->target->max_connections ? p->target->max_connections : p->group->max_connections;
}

static size_t add_all(struct place *places, const struct config_upstream *group,
		      const struct config_upstream_tls *tls, bool is_route, size_t ix)
{
	for (size_t i = 0; i < group->target_cnt; i++)
		places[i] = (struct place){ group, &group->targets[i], tls, is_route, ix };
	return group->target_cnt;
}

/* The targets of a route that is served and has its own, or NULL. */
static const struct config_upstream *own_group(const struct config_route *r)
{
	const struct config_upstream *u = r->action.upstream;
	return r->is_enabled && r->action.type == CONFIG_FORWARD && u && !u->name ? u : NULL;
}

static size_t collect(const struct config *config, struct place *places)
{
	size_t cnt = 0;
	for (size_t i = 0; i < config->upstream_cnt; i++)
		if (config->upstreams[i].name)
			cnt += add_all(&places[cnt], &config->upstreams[i], NULL, false, i);
	for (size_t i = 0; i < config->route_cnt; i++) {
		const struct config_action_data *a = &config->routes[i].action;
		const struct config_upstream_tls *tls =
			a->tls_mode == CONFIG_TLS_REENCRYPT ? &a->upstream_tls : NULL;
		if (own_group(&config->routes[i]))
			cnt += add_all(&places[cnt], a->upstream, tls, true, i);
	}
	return cnt;
}

static size_t count(const struct config *config)
{
	size_t cnt = 0;
	for (size_t i = 0; i < config->upstream_cnt; i++)
		cnt += config->upstreams[i].target_cnt;
	for (size_t i = 0; i < config->route_cnt; i++) {
		const struct config_upstream *u = own_group(&config->routes[i]);
		cnt += u ? u->target_cnt : 0;
	}
	return cnt;
}

static void format_path(char *dst, const struct place *p)
{
	text_format(dst, PATH_MAX_BYTES,
		    p->is_route ? "routes[%zu].action.targets[%zu]" : "upstreams[%zu].targets[%zu]",
		    p->ix, (size_t)(p->target - p->group->targets));
}

static void report(struct loader *l, const struct check_lists *lists, const struct place *p,
		   const struct place *first)
{
	char path[PATH_MAX_BYTES + 16], other[PATH_MAX_BYTES];
	const struct value *element =
		check_element(p->is_route ? lists->routes : lists->upstreams, p->ix);
	const struct value *holder = p->is_route ? value_member(element, "action") : element;
	const struct value *target = check_element(value_member(holder, "targets"),
						   (size_t)(p->target - p->group->targets));
	const struct value *where = value_member(target, "max_connections");
	format_path(path, p);
	format_path(other, first);
	text_format(path + strlen(path), 16 + 1, ".max_connections");
	load_problem(l, where ? where : target, path,
		     "is %u, and %u in %s, which is the same target and shares its places: write "
		     "the same number%s",
		     max_of(p), max_of(first), other,
		     p->is_route ? ", or give the routes upstreams with names" : "");
}

enum err check_places(struct loader *l, const struct config *config,
		      const struct check_lists *lists)
{
	size_t cnt = count(config);
	struct place *places =
		fault_hits(FAULT_MALLOC) || cnt == 0 ? NULL : calloc(cnt, sizeof(*places));
	if (!places)
		return cnt == 0 ? ERR_OK : ERR_NOMEM;
	cnt = collect(config, places);
	qsort(places, cnt, sizeof(*places), by_target);
	const struct place *first = places;
	for (size_t i = 1; i < cnt; i++) {
		if (compare(first, &places[i]) != 0)
			first = &places[i];
		else if (max_of(first) != max_of(&places[i]))
			report(l, lists, &places[i], first);
	}
	free(places);
	return ERR_OK;
}
