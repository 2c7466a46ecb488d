/* Lookups before HTTP: what a listener takes, and where a connection goes by its ClientHello. No allocation,
 * no write. */
#include <string.h>

#include "index.h"

static const struct bucket *find_listener(const struct route_index *index,
					  const struct addr *listen)
{
	const char *bytes;
	size_t len = index_addr_bytes(listen, &bytes);
	return index_find_bucket(index, addr_port(listen), PATTERN_LISTENER, bytes, len);
}

static enum route_listener kind_of(const struct bucket *bucket)
{
	return bucket == NULL ? ROUTE_LISTENER_HTTP : (enum route_listener)bucket->listener;
}

static enum route_trust trust_in(const struct bucket *bucket, const struct addr *peer)
{
	if (bucket == NULL || bucket->trusted == NULL)
		return ROUTE_TRUST_OFF;
	for (uint32_t i = 0; i < bucket->trusted_cnt; i++) {
		if (cidr_has(&bucket->trusted[i], peer))
			return ROUTE_TRUST_PEER;
	}
	return ROUTE_TRUST_NOT;
}

enum route_listener route_listener_kind(const struct route_index *index, const struct addr *listen)
{
	return kind_of(find_listener(index, listen));
}

static bool is_deferred(const struct bucket *bucket)
{
	return kind_of(bucket) != ROUTE_LISTENER_TCP && (bucket == NULL || !bucket->is_prompt);
}

bool route_listener_is_deferred(const struct route_index *index, const struct addr *listen)
{
	return is_deferred(find_listener(index, listen));
}

struct route_listening route_listener_ask(const struct route_index *index,
					  const struct addr *listen, const struct addr *peer)
{
	const struct bucket *bucket = find_listener(index, listen);
	return (struct route_listening){ .kind = kind_of(bucket),
					 .trust = trust_in(bucket, peer),
					 .is_deferred = is_deferred(bucket) };
}

static bool alpn_fits(const struct config_match *match, const struct wire_hello *hello)
{
	if (match->alpn_cnt == 0)
		return true;
	uint32_t offered = hello == NULL                     ? 0
			   : hello->alpn_cnt > WIRE_ALPN_MAX ? WIRE_ALPN_MAX
							     : hello->alpn_cnt;
	for (size_t i = 0; i < match->alpn_cnt; i++) {
		size_t len = strlen(match->alpn[i]);
		for (uint32_t k = 0; k < offered; k++) {
			if (hello->alpn[k].len == len &&
			    memcmp(hello->alpn[k].name, match->alpn[i], len) == 0)
				return true;
		}
	}
	return false;
}

static bool fits(const struct route_index *index, const struct route *route,
		 const struct route_l4 *want)
{
	return index_peer_fits(index, route, want->client, want->listen) &&
	       alpn_fits(&route->config->match, want->hello);
}

struct best_l4 {
	const struct route *route;
	uint32_t rank;
};

static void try_bucket(const struct route_index *index, const struct bucket *bucket,
		       const struct route_l4 *want, struct best_l4 *best)
{
	if (bucket == NULL)
		return;
	for (const struct hit *hit = index_first_hit(&bucket->l4);
	     hit != NULL && hit->rank < best->rank; hit = hit->next) {
		if (!fits(index, hit->route, want))
			continue;
		best->route = hit->route;
		best->rank = hit->rank;
		return;
	}
}

static void try_name(const struct route_index *index, const char *name, size_t len,
		     const struct route_l4 *want, struct best_l4 *best)
{
	uint16_t port = addr_port(want->listen);
	try_bucket(index, index_find_bucket(index, port, PATTERN_EXACT, name, len), want, best);
	bool is_first = true;
	const char *dot;
	while ((dot = memchr(name, '.', len)) != NULL) {
		len -= (size_t)(dot + 1 - name);
		name = dot + 1;
		if (is_first)
			try_bucket(index, index_find_bucket(index, port, PATTERN_ONE, name, len),
				   want, best);
		try_bucket(index, index_find_bucket(index, port, PATTERN_MANY, name, len), want,
			   best);
		is_first = false;
	}
}

static bool is_passthrough(const struct route *route)
{
	return route->config->action.tls_mode == CONFIG_TLS_PASSTHROUGH;
}

/* The port's only passthrough route that takes this client, whatever its domains. */
static const struct route *find_single(const struct route_index *index,
				       const struct bucket *of_port, const struct route_l4 *want)
{
	const struct route *found = NULL;
	for (const struct hit *hit = index_first_hit(&of_port->l4); hit != NULL; hit = hit->next) {
		if (!is_passthrough(hit->route) || !fits(index, hit->route, want))
			continue;
		if (found != NULL)
			return NULL;
		found = hit->route;
	}
	return found;
}

enum route_l4_verdict route_find_l4(const struct route_index *index, const struct route_l4 *want,
				    const struct route **ret_route)
{
	struct best_l4 best = { NULL, UINT32_MAX };
	uint16_t port = addr_port(want->listen);
	const struct bucket *of_port = index_find_bucket(index, port, PATTERN_PORT, "", 0);
	if (of_port == NULL)
		return ROUTE_L4_NONE;
	bool has_name = want->hello != NULL && want->hello->sni_len > 0;
	if (has_name)
		try_name(index, want->hello->sni, want->hello->sni_len, want, &best);
	else if (want->hello != NULL)
		best.route = find_single(index, of_port, want);
	if (best.route == NULL || has_name)
		try_bucket(index, index_find_bucket(index, port, PATTERN_ANY, "", 0), want, &best);
	if (best.route == NULL)
		return index_first_hit(&of_port->l4) == NULL ? ROUTE_L4_HTTP : ROUTE_L4_NONE;
	if (best.route->config->action.protocol == CONFIG_HTTP)
		return ROUTE_L4_HTTP;
	*ret_route = best.route;
	return ROUTE_L4_TUNNEL;
}

bool route_host_is_tunnelled(const struct route_index *index, const struct addr *listen,
			     const struct addr *client, const char *host, size_t host_len)
{
	struct best_l4 best = { NULL, UINT32_MAX };
	struct route_l4 want = { .listen = listen, .client = client };
	uint16_t port = addr_port(listen);
	const struct bucket *of_port = index_find_bucket(index, port, PATTERN_PORT, "", 0);
	if (of_port == NULL ||
	    index_first_hit(&of_port->l4) == NULL) /* most ports: nothing but HTTP */
		return false;
	try_name(index, host, host_len, &want, &best);
	try_bucket(index, index_find_bucket(index, port, PATTERN_ANY, "", 0), &want, &best);
	return best.route != NULL && best.route->config->action.protocol == CONFIG_TCP;
}
