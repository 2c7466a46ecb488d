/* Lookups: what a worker does for each connection and each request. No allocation, no write. */
#include <string.h>
#include <strings.h>

#include "index.h"
#include "smartproxy/rand.h"

static uint64_t mix(uint64_t a, uint64_t b)
{
	a ^= b * 0x9e3779b97f4a7c15ULL;
	a ^= a >> 29;
	return a * 0xbf58476d1ce4e5b9ULL;
}

uint64_t index_bucket_hash(uint16_t port, enum pattern_kind kind, const char *name, size_t len)
{
	/* What has no name is nobody's choice: the secret of the hash is not needed. */
	return mix(len == 0 ? 0 : rand_hash(name, len), (uint64_t)port << 8 | (uint64_t)kind) | 1;
}

uint64_t index_edge_hash(uint32_t parent, const char *name, size_t len)
{
	return mix(rand_hash(name, len), parent) | 1;
}

struct bucket *index_find_bucket(const struct route_index *index, uint16_t port,
				 enum pattern_kind kind, const char *name, size_t len)
{
	if ((index->kinds & 1u << kind) == 0)
		return NULL;
	uint64_t hash = index_bucket_hash(port, kind, name, len);
	for (size_t i = hash >> 8 & index->bucket_mask;; i = (i + 1) & index->bucket_mask) {
		struct bucket *b = &index->buckets[i];
		if (b->hash == 0)
			return NULL;
		if (b->hash == hash && b->port == port && b->kind == kind && b->name_len == len &&
		    memcmp(b->name, name, len) == 0)
			return b;
	}
}

uint32_t index_find_edge(const struct route_index *index, uint32_t parent, const char *name,
			 size_t len)
{
	if (index->edges == NULL)
		return 0;
	uint64_t hash = index_edge_hash(parent, name, len);
	for (size_t i = hash >> 8 & index->edge_mask;; i = (i + 1) & index->edge_mask) {
		const struct edge *e = &index->edges[i];
		if (e->hash == 0)
			return 0;
		if (e->hash == hash && e->parent == parent && e->name_len == len &&
		    memcmp(e->name, name, len) == 0)
			return e->child;
	}
}

static bool method_fits(const struct config_match *match, const struct wire_span *method)
{
	if (match->method_cnt == 0)
		return true;
	for (size_t i = 0; i < match->method_cnt; i++) {
		if (strlen(match->methods[i]) == method->len &&
		    memcmp(match->methods[i], method->at, method->len) == 0)
			return true;
	}
	return false;
}

static bool has_field(const struct route_request *request, const struct config_header_match *want)
{
	size_t name_len = strlen(want->name);
	for (uint32_t i = 0; i < request->field_cnt; i++) {
		const struct wire_field *field = &request->fields[i];
		if (field->name.len != name_len ||
		    strncasecmp(field->name.at, want->name, name_len) != 0)
			continue;
		if (want->value == NULL ||
		    (strlen(want->value) == field->value.len &&
		     memcmp(want->value, field->value.at, field->value.len) == 0))
			return true;
	}
	return false;
}

static bool client_fits(const struct conditions *conditions, const struct addr *client)
{
	if (conditions->client_cnt == 0)
		return true;
	for (size_t i = 0; i < conditions->client_cnt; i++) {
		if (cidr_has(&conditions->client[i], client))
			return true;
	}
	return false;
}

static bool listener_fits(const struct conditions *conditions, const struct addr *listen_addr)
{
	if (!conditions->has_listen)
		return true;
	struct addr own = conditions->listen;
	addr_set_port(&own, addr_port(listen_addr));
	return addr_is_equal(&own, listen_addr);
}

bool index_peer_fits(const struct route_index *index, const struct route *route,
		     const struct addr *client, const struct addr *listen)
{
	const struct conditions *conditions = &index->conditions[route->ix];
	return client_fits(conditions, client) && listener_fits(conditions, listen);
}

static bool conditions_fit(const struct route_index *index, const struct route *route,
			   const struct route_request *request)
{
	const struct config_match *match = &route->config->match;
	if (!method_fits(match, &request->method) ||
	    !index_peer_fits(index, route, request->client, request->listen_addr))
		return false;
	if ((match->has_tls12 || match->has_tls13) &&
	    !((match->has_tls12 && request->tls_version == 12) ||
	      (match->has_tls13 && request->tls_version == 13)))
		return false;
	for (size_t i = 0; i < match->header_cnt; i++) {
		if (!has_field(request, &match->headers[i]))
			return false;
	}
	return true;
}

struct best {
	const struct route *route;
	uint32_t rank;
};

static void try_list(const struct route_index *index, const struct hit_list *list,
		     const struct route_request *request, struct best *best)
{
	for (const struct hit *hit = index_first_hit(list); hit != NULL && hit->rank < best->rank;
	     hit = hit->next) {
		if (hit->has_conditions && !conditions_fit(index, hit->route, request))
			continue;
		best->route = hit->route;
		best->rank = hit->rank;
		return;
	}
}

/* Walks the trie with a stack of places still to be tried: at each one the literal child goes
 * first, the ":name" child waits. */
static void walk_paths(const struct route_index *index, const struct bucket *bucket,
		       const struct route_request *request, struct best *best)
{
	struct {
		uint32_t node;
		uint32_t at; /* offset of the next segment; past the end: none left */
	} stack[SEGMENTS_MAX];
	size_t depth = 1;
	stack[0].node = bucket->root;
	stack[0].at = 1;
	while (depth > 0) {
		depth--;
		const struct node *node = &index->nodes[stack[depth].node];
		size_t at = stack[depth].at;
		if (at > request->path_len) {
			try_list(index, &node->exact, request, best);
			continue;
		}
		try_list(index, &node->prefix, request, best);
		const char *segment = request->path + at;
		const char *slash = memchr(segment, '/', request->path_len - at);
		size_t len = slash == NULL ? request->path_len - at : (size_t)(slash - segment);
		uint32_t next = (uint32_t)(at + len + 1);
		if (node->param != 0 && len > 0 && depth < SEGMENTS_MAX) {
			stack[depth].node = node->param;
			stack[depth++].at = next;
		}
		uint32_t literal = 0;
		if (node->has_edges)
			literal = index_find_edge(index, (uint32_t)(node - index->nodes), segment,
						  len);
		if (literal != 0 && depth < SEGMENTS_MAX) {
			stack[depth].node = literal;
			stack[depth++].at = next;
		}
	}
}

static void try_bucket(const struct route_index *index, const struct bucket *bucket,
		       const struct route_request *request, struct best *best)
{
	if (bucket == NULL)
		return;
	try_list(index, &bucket->any, request, best);
	if (bucket->root != 0 && request->path_len > 0 && request->path[0] == '/')
		walk_paths(index, bucket, request, best);
}

const struct route *route_find(const struct route_index *index, const struct route_request *request)
{
	struct best best = { NULL, UINT32_MAX };
	uint16_t port = request->port;
	if (request->host_len > 0) {
		const char *host = request->host;
		size_t len = request->host_len;
		try_bucket(index, index_find_bucket(index, port, PATTERN_EXACT, host, len), request,
			   &best);
		bool is_first = true;
		const char *dot;
		while ((dot = memchr(host, '.', len)) != NULL) {
			len -= (size_t)(dot + 1 - host);
			host = dot + 1;
			if (is_first)
				try_bucket(index,
					   index_find_bucket(index, port, PATTERN_ONE, host, len),
					   request, &best);
			try_bucket(index, index_find_bucket(index, port, PATTERN_MANY, host, len),
				   request, &best);
			is_first = false;
		}
	}
	try_bucket(index, index_find_bucket(index, port, PATTERN_ANY, "", 0), request, &best);
	return best.route;
}

struct tls_slot *route_find_slot(const struct route_index *index, uint16_t port, const char *sni,
				 size_t sni_len)
{
	if (sni_len == 0)
		sni = "";
	const struct bucket *bucket = index_find_bucket(index, port, PATTERN_EXACT, sni, sni_len);
	if (bucket != NULL && bucket->slot != NULL)
		return bucket->slot;
	bool is_first = true;
	const char *dot;
	while (sni_len > 0 && (dot = memchr(sni, '.', sni_len)) != NULL) {
		sni_len -= (size_t)(dot + 1 - sni);
		sni = dot + 1;
		bucket =
			is_first ? index_find_bucket(index, port, PATTERN_ONE, sni, sni_len) : NULL;
		if (bucket == NULL || bucket->slot == NULL)
			bucket = index_find_bucket(index, port, PATTERN_MANY, sni, sni_len);
		if (bucket != NULL && bucket->slot != NULL)
			return bucket->slot;
		is_first = false;
	}
	bucket = index_find_bucket(index, port, PATTERN_ANY, "", 0);
	if (bucket != NULL && bucket->slot != NULL)
		return bucket->slot;
	bucket = index_find_bucket(index, port, PATTERN_PORT, "", 0);
	return bucket == NULL ? NULL : bucket->slot;
}

size_t index_addr_bytes(const struct addr *addr, const char **ret_bytes)
{
	bool is_v4 = addr->sa.sa_family == AF_INET;
	*ret_bytes = is_v4 ? (const char *)&addr->v4.sin_addr : (const char *)&addr->v6.sin6_addr;
	return is_v4 ? sizeof(addr->v4.sin_addr) : sizeof(addr->v6.sin6_addr);
}

size_t route_index_cnt(const struct route_index *index)
{
	return index->route_cnt;
}

struct route *route_index_at(const struct route_index *index, size_t ix)
{
	return &index->routes[ix];
}

const struct addr *route_index_listeners(const struct route_index *index, size_t *ret_cnt)
{
	*ret_cnt = index->listener_cnt;
	return index->listeners;
}
