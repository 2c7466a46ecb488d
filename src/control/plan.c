/* What a set of routes asks of the rest: ports to listen on, certificates to have. */
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"
#include "transaction.h"

static bool is_wildcard(const struct addr *a)
{
	if (a->sa.sa_family == AF_INET)
		return a->v4.sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr);
}

static bool is_auto(const struct route *route)
{
	const struct config_action_data *action = &route->config->action;
	bool is_terminated = action->tls_mode == CONFIG_TLS_TERMINATE ||
			     action->tls_mode == CONFIG_TLS_REENCRYPT;
	return is_terminated && action->certificate == CONFIG_CERT_AUTO && route->slot != NULL;
}

static bool has_auto_route(const struct route_index *routes)
{
	for (size_t i = 0; i < route_index_cnt(routes); i++) {
		if (is_auto(route_index_at((struct route_index *)routes, i)))
			return true;
	}
	return false;
}

/* Is the set that the challenge route made (not one of the user's addresses) open? */
static bool is_open(const struct listeners *listeners, const struct addr *addr)
{
	for (size_t i = 0; i < listeners_cnt(listeners); i++) {
		if (addr_is_equal(&listeners_at(listeners, i)->addr, addr))
			return true;
	}
	return false;
}

enum err plan_listeners(const struct control *control, const struct route_index *routes,
			const struct config *config, bool has_challenge_route,
			struct addr **ret_addrs, size_t *ret_cnt)
{
	size_t cnt;
	const struct addr *of_routes = route_index_listeners(routes, &cnt);
	struct addr *addrs = fault_hits(FAULT_MALLOC) ? NULL : calloc(cnt + 1, sizeof(*addrs));
	if (addrs == NULL)
		return ERR_NOMEM;
	if (cnt > 0)
		memcpy(addrs, of_routes, cnt * sizeof(*addrs));
	bool is_shared = false;
	for (size_t i = 0; i < cnt; i++)
		is_shared |= addr_port(&addrs[i]) == config->acme.port && is_wildcard(&addrs[i]);
	struct addr challenge;
	enum err e = addr_parse("::", config->acme.port, &challenge);
	if (e != ERR_OK) {
		free(addrs);
		return e;
	}
	/* Bound once: a port that was opened for the challenges stays while certificates are
	 * wanted at all. */
	bool is_kept = config->acme.wants_port_kept && is_open(control->listeners, &challenge) &&
		       has_auto_route(routes);
	if (!is_shared && (has_challenge_route || is_kept))
		addrs[cnt++] = challenge;
	*ret_addrs = addrs;
	*ret_cnt = cnt;
	return ERR_OK;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* By slot, then in file order, so that the first of each run speaks for it. */
static int compare_slots(const void *va, const void *vb)
{
	const struct route *a = *(struct route *const *)va, *b = *(struct route *const *)vb;
	if (a->slot != b->slot)
		return (uintptr_t)a->slot < (uintptr_t)b->slot ? -1 : 1;
	return a->ix < b->ix ? -1 : a->ix > b->ix;
}

static int compare_ix(const void *va, const void *vb)
{
	const struct route *a = *(struct route *const *)va, *b = *(struct route *const *)vb;
	return a->ix < b->ix ? -1 : a->ix > b->ix;
}

/* The routes that speak for one certificate each, in file order. */
static size_t collect_auto(const struct route_index *routes, const struct route **found)
{
	size_t cnt = 0, distinct = 0;
	for (size_t i = 0; i < route_index_cnt(routes); i++) {
		const struct route *route = route_index_at((struct route_index *)routes, i);
		if (is_auto(route))
			found[cnt++] = route;
	}
	if (cnt == 0)
		return 0;
	qsort(found, cnt, sizeof(struct route *), compare_slots);
	for (size_t i = 0; i < cnt; i++) {
		if (distinct == 0 || found[distinct - 1]->slot != found[i]->slot)
			found[distinct++] = found[i];
	}
	qsort(found, distinct, sizeof(struct route *), compare_ix);
	return distinct;
}

static void fill_wish(struct acme_wish *wish, const struct route *route, const char **names)
{
	const struct config_match *match = &route->config->match;
	size_t cnt = 0;
	for (size_t i = 0; i < match->domain_cnt; i++)
		names[i] = match->domains[i];
	if (match->domain_cnt > 0)
		qsort(names, match->domain_cnt, sizeof(*names), compare_names);
	for (size_t i = 0; i < match->domain_cnt; i++) {
		if (cnt == 0 || strcmp(names[cnt - 1], names[i]) != 0)
			names[cnt++] = names[i];
	}
	wish->names = names;
	wish->name_cnt = cnt;
	wish->key_type = (enum tls_key_type)route->config->action.key_type;
	wish->slot = route->slot;
}

enum err plan_wishes(const struct route_index *routes, struct wishes *ret_wishes)
{
	size_t max = route_index_cnt(routes), name_cnt = 0;
	const struct route **found =
		fault_hits(FAULT_MALLOC) ? NULL : calloc(max + 1, sizeof(const struct route *));
	if (found == NULL)
		return ERR_NOMEM;
	size_t cnt = collect_auto(routes, found);
	for (size_t i = 0; i < cnt; i++)
		name_cnt += found[i]->config->match.domain_cnt;
	struct wishes wishes = {
		.items = calloc(cnt + 1, sizeof(*wishes.items)),
		.cnt = cnt,
		.names = calloc(name_cnt + 1, sizeof(*wishes.names)),
	};
	enum err e = ERR_NOMEM;
	if (wishes.items == NULL || wishes.names == NULL)
		goto out;
	const char **names = wishes.names;
	for (size_t i = 0; i < cnt; i++) {
		fill_wish(&wishes.items[i], found[i], names);
		names += found[i]->config->match.domain_cnt;
	}
	*ret_wishes = wishes;
	wishes = (struct wishes){ 0 };
	e = ERR_OK;
out:
	wishes_fini(&wishes);
	free(found);
	return e;
}

void wishes_fini(struct wishes *wishes)
{
	free(wishes->items);
	free(wishes->names);
	*wishes = (struct wishes){ 0 };
}
