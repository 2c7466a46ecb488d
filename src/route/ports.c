/* Compiling: what is known of ports and listeners before any byte has come. Control thread. */
#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "smartproxy/fault.h"

static int compare_listeners(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct addr));
}

/* What is known of a port and of one listener on it. */
static enum err add_port(struct route_index *index, const struct route *route,
			 const struct addr *listen)
{
	uint16_t port = addr_port(listen);
	struct bucket *bucket = index_bucket_of(index, port, PATTERN_PORT, "", 0);
	if (bucket == NULL)
		return ERR_NOMEM;
	if (bucket->slot == NULL)
		bucket->slot = route->slot;
	/* Once, however often the route names the port; the rank does not matter, they are only counted. */
	const struct hit *last =
		bucket->l4.last != NULL ? bucket->l4.last : index_first_hit(&bucket->l4);
	if (route->config->action.protocol == CONFIG_TCP &&
	    (last == NULL || last->route != route) &&
	    index_append_hit(index, &bucket->l4, route, 0) != ERR_OK)
		return ERR_NOMEM;
	const char *bytes;
	size_t len = index_addr_bytes(listen, &bytes);
	bytes = arena_strndup(&index->arena, bytes, len);
	bucket = bytes == NULL ? NULL : index_bucket_of(index, port, PATTERN_LISTENER, bytes, len);
	if (bucket == NULL)
		return ERR_NOMEM;
	const struct config_action_data *action = &route->config->action;
	bucket->listener = action->tls_mode != CONFIG_TLS_NONE ? ROUTE_LISTENER_TLS
			   : action->protocol == CONFIG_TCP    ? ROUTE_LISTENER_TCP
							       : ROUTE_LISTENER_HTTP;
	return ERR_OK;
}

static enum err add_ports(struct route_index *index, const struct route *route, struct addr *at,
			  size_t *cnt)
{
	const struct config_match *match = &route->config->match;
	const char *address = match->address == NULL ? "::" : match->address;
	for (size_t p = 0; p < match->port_cnt; p++) {
		for (unsigned port = match->ports[p].first; port <= match->ports[p].last; port++) {
			enum err e = addr_parse(address, (uint16_t)port, &at[*cnt]);
			if (e == ERR_OK)
				e = add_port(index, route, &at[*cnt]);
			if (e != ERR_OK)
				return e;
			++*cnt;
		}
	}
	return ERR_OK;
}

static enum err collect_listeners(struct route_index *index)
{
	size_t cap = 0;
	for (size_t i = 0; i < index->route_cnt; i++) {
		const struct config_match *match = &index->routes[i].config->match;
		for (size_t p = 0; p < match->port_cnt; p++)
			cap += (size_t)(match->ports[p].last - match->ports[p].first) + 1;
	}
	struct addr *all = fault_hits(FAULT_MALLOC) ? NULL : calloc(cap + 1, sizeof(*all));
	if (all == NULL)
		return ERR_NOMEM;
	size_t cnt = 0;
	enum err e = ERR_OK;
	for (size_t i = 0; i < index->route_cnt && e == ERR_OK; i++)
		e = add_ports(index, &index->routes[i], all, &cnt);
	qsort(all, cnt, sizeof(*all), compare_listeners);
	size_t distinct = 0;
	for (size_t i = 0; i < cnt; i++) {
		if (distinct == 0 || !addr_is_equal(&all[distinct - 1], &all[i]))
			all[distinct++] = all[i];
	}
	index->listeners = arena_calloc(&index->arena, distinct + 1, sizeof(*all));
	if (index->listeners == NULL)
		e = ERR_NOMEM;
	else
		memcpy(index->listeners, all, distinct * sizeof(*all));
	index->listener_cnt = distinct;
	free(all);
	return e;
}

static enum err compile_trusted(struct route_index *index, const struct config_listener *listener,
				struct cidr **ret_trusted)
{
	struct cidr *trusted =
		arena_calloc(&index->arena, listener->trusted_cnt + 1, sizeof(*trusted));
	if (trusted == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < listener->trusted_cnt; i++) {
		enum err e = cidr_parse(listener->trusted[i], &trusted[i]);
		if (e != ERR_OK)
			return e;
	}
	*ret_trusted = trusted;
	return ERR_OK;
}

/* Ports of an entry that no route listens on stay without effect. */
static enum err add_listener(struct route_index *index, const struct config_listener *listener)
{
	struct cidr *trusted = NULL;
	struct addr addr;
	enum err e =
		listener->trusted_cnt > 0 ? compile_trusted(index, listener, &trusted) : ERR_OK;
	if (e == ERR_OK)
		e = addr_parse(listener->address == NULL ? "::" : listener->address, 0, &addr);
	if (e != ERR_OK)
		return e;
	const char *bytes;
	size_t len = index_addr_bytes(&addr, &bytes);
	for (size_t p = 0; p < listener->port_cnt; p++) {
		for (unsigned port = listener->ports[p].first; port <= listener->ports[p].last;
		     port++) {
			struct bucket *bucket = index_find_bucket(index, (uint16_t)port,
								  PATTERN_LISTENER, bytes, len);
			if (bucket == NULL)
				continue;
			bucket->is_prompt = !listener->wants_defer;
			bucket->trusted = trusted;
			bucket->trusted_cnt = (uint32_t)listener->trusted_cnt;
		}
	}
	return ERR_OK;
}

enum err index_collect_ports(struct route_index *index, const struct config *config)
{
	enum err e = collect_listeners(index);
	for (size_t i = 0; e == ERR_OK && i < config->listener_cnt; i++)
		e = add_listener(index, &config->listeners[i]);
	return e;
}
