/* Compiling: from a configuration to an immutable index. Control thread. */
#include <stdlib.h>
#include <string.h>

#include "index.h"
#include "smartproxy/fault.h"

#define ARENA_CAP  ((size_t)8 << 30)
#define SPEC_EXACT (1u << 20) /* above every length that a pattern can have */

/* One (route, domain) pair, with what its rank is made of. */
struct entry {
	const struct route *route;
	const char *domain; /* the pattern without its stars; "" for none */
	enum pattern_kind kind;
	int priority;
	uint32_t domain_spec, path_spec, condition_cnt, order;
};

static int compare_spec(uint32_t a, uint32_t b)
{
	return a == b ? 0 : a > b ? -1 : 1;
}

static int compare_entries(const void *va, const void *vb)
{
	const struct entry *a = va, *b = vb;
	if (a->priority != b->priority)
		return a->priority > b->priority ? -1 : 1;
	int order = compare_spec(a->domain_spec, b->domain_spec);
	if (order == 0)
		order = compare_spec(a->path_spec, b->path_spec);
	if (order == 0)
		order = compare_spec(a->condition_cnt, b->condition_cnt);
	return order != 0 ? order : -compare_spec(a->order, b->order);
}

static uint32_t path_spec(const char *path)
{
	if (path == NULL)
		return 0;
	uint32_t len = (uint32_t)strlen(path);
	if (len > 0 && path[len - 1] == '*')
		return len;
	return strstr(path, "/:") == NULL ? 2 * SPEC_EXACT + len : SPEC_EXACT + len;
}

static void fill_domain(struct entry *entry, const char *domain)
{
	entry->domain = domain;
	uint32_t len = (uint32_t)strlen(domain);
	if (strncmp(domain, "**.", 3) == 0) {
		entry->kind = PATTERN_MANY;
		entry->domain = domain + 3;
		entry->domain_spec = 2 * (len - 3);
	} else if (strncmp(domain, "*.", 2) == 0) {
		entry->kind = PATTERN_ONE;
		entry->domain = domain + 2;
		entry->domain_spec = 2 * (len - 2) + 1;
	} else {
		entry->kind = PATTERN_EXACT;
		entry->domain_spec = SPEC_EXACT;
	}
}

static uint32_t count_conditions(const struct config_match *match)
{
	return (uint32_t)((match->method_cnt > 0) + match->header_cnt + (match->client_ip_cnt > 0) +
			  (match->has_tls12 || match->has_tls13) + (match->address != NULL) +
			  (match->alpn_cnt > 0));
}

static enum err compile_conditions(struct route_index *index, const struct config_match *match,
				   struct conditions *c)
{
	c->client = arena_calloc(&index->arena, match->client_ip_cnt + 1, sizeof(*c->client));
	if (c->client == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < match->client_ip_cnt; i++) {
		enum err e = cidr_parse(match->client_ip[i], &c->client[i]);
		if (e != ERR_OK)
			return e;
	}
	c->client_cnt = match->client_ip_cnt;
	c->has_listen = match->address != NULL;
	return c->has_listen ? addr_parse(match->address, 0, &c->listen) : ERR_OK;
}

static enum err compile_routes(struct route_index *index, const struct config *config,
			       struct tls_slot *const *slots)
{
	index->routes = arena_calloc(&index->arena, config->route_cnt + 1, sizeof(*index->routes));
	index->conditions =
		arena_calloc(&index->arena, config->route_cnt + 1, sizeof(*index->conditions));
	if (index->routes == NULL || index->conditions == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < config->route_cnt; i++) {
		if (!config->routes[i].is_enabled)
			continue;
		struct route *route = &index->routes[index->route_cnt];
		route->config = &config->routes[i];
		route->slot = slots == NULL ? NULL : slots[i];
		route->ix = (uint32_t)index->route_cnt;
		enum err e = compile_conditions(index, &route->config->match,
						&index->conditions[route->ix]);
		if (e != ERR_OK)
			return e;
		index->route_cnt++;
	}
	return ERR_OK;
}

static size_t make_entries(const struct route_index *index, struct entry *entries)
{
	size_t cnt = 0;
	for (size_t i = 0; i < index->route_cnt; i++) {
		const struct route *route = &index->routes[i];
		const struct config_match *match = &route->config->match;
		struct entry base = { .route = route,
				      .domain = "",
				      .kind = PATTERN_ANY,
				      .priority = route->config->priority,
				      .path_spec = path_spec(match->path),
				      .condition_cnt = count_conditions(match),
				      .order = (uint32_t)i };
		for (size_t d = 0; d < match->domain_cnt; d++) {
			entries[cnt] = base;
			fill_domain(&entries[cnt++], match->domains[d]);
		}
		if (match->domain_cnt == 0)
			entries[cnt++] = base;
	}
	return cnt;
}

enum err index_append_hit(struct route_index *index, struct hit_list *list,
			  const struct route *route, uint32_t rank)
{
	const struct hit made = { .route = route,
				  .rank = rank,
				  .has_conditions = count_conditions(&route->config->match) > 0 };
	if (list->first.route == NULL) {
		list->first = made;
		return ERR_OK;
	}
	struct hit *hit = arena_alloc(&index->arena, sizeof(*hit));
	if (hit == NULL)
		return ERR_NOMEM;
	*hit = made;
	if (list->last == NULL)
		list->first.next = hit;
	else
		list->last->next = hit;
	list->last = hit;
	return ERR_OK;
}

/* 0: no memory. The array moves when it grows; the old copy stays in the arena. */
static uint32_t add_node(struct route_index *index)
{
	if (index->node_cnt + 1 >= index->node_cap) {
		size_t cap = index->node_cap < 64 ? 64 : index->node_cap * 2;
		struct node *nodes =
			cap > UINT32_MAX ? NULL : arena_calloc(&index->arena, cap, sizeof(*nodes));
		if (nodes == NULL)
			return 0;
		if (index->nodes != NULL)
			memcpy(nodes, index->nodes, (index->node_cnt + 1) * sizeof(*nodes));
		index->nodes = nodes;
		index->node_cap = cap;
	}
	return (uint32_t)++index->node_cnt;
}

static bool grow_edges(struct route_index *index)
{
	if (index->edges != NULL && (index->edge_cnt + 1) * 2 <= index->edge_mask)
		return true;
	size_t cap = index->edges == NULL ? 64 : (index->edge_mask + 1) * 2;
	struct edge *edges = arena_calloc(&index->arena, cap, sizeof(*edges));
	if (edges == NULL)
		return false;
	for (size_t i = 0; index->edges != NULL && i <= index->edge_mask; i++) {
		const struct edge *old = &index->edges[i];
		if (old->hash == 0)
			continue;
		size_t at = old->hash >> 8 & (cap - 1);
		while (edges[at].hash != 0)
			at = (at + 1) & (cap - 1);
		edges[at] = *old;
	}
	index->edges = edges;
	index->edge_mask = cap - 1;
	return true;
}

static uint32_t child_of(struct route_index *index, uint32_t parent, const char *name, size_t len)
{
	uint32_t child = index_find_edge(index, parent, name, len);
	if (child != 0)
		return child;
	child = grow_edges(index) ? add_node(index) : 0;
	if (child == 0)
		return 0;
	uint64_t hash = index_edge_hash(parent, name, len);
	size_t at = hash >> 8 & index->edge_mask;
	while (index->edges[at].hash != 0)
		at = (at + 1) & index->edge_mask;
	index->edges[at] = (struct edge){ hash, name, (uint32_t)len, parent, child };
	index->edge_cnt++;
	index->nodes[parent].has_edges = true;
	return child;
}

static uint32_t param_of(struct route_index *index, uint32_t parent)
{
	if (index->nodes[parent].param == 0) {
		uint32_t child = add_node(index);
		index->nodes[parent].param = child;
	}
	return index->nodes[parent].param;
}

static enum err add_path(struct route_index *index, struct bucket *bucket,
			 const struct entry *entry, uint32_t rank)
{
	const char *path = entry->route->config->match.path;
	if (path == NULL)
		return index_append_hit(index, &bucket->any, entry->route, rank);
	if (bucket->root == 0)
		bucket->root = add_node(index);
	uint32_t node = bucket->root;
	const char *segment = path + 1;
	for (size_t depth = 0; node != 0; depth++) {
		if (depth == SEGMENTS_MAX - 1)
			return ERR_LIMIT;
		const char *slash = strchr(segment, '/');
		size_t len = slash == NULL ? strlen(segment) : (size_t)(slash - segment);
		if (slash == NULL && len == 1 && segment[0] == '*')
			return index_append_hit(index, &index->nodes[node].prefix, entry->route,
						rank);
		node = segment[0] == ':' ? param_of(index, node)
					 : child_of(index, node, segment, len);
		if (slash == NULL)
			return node == 0 ? ERR_NOMEM
					 : index_append_hit(index, &index->nodes[node].exact,
							    entry->route, rank);
		segment = slash + 1;
	}
	return ERR_NOMEM;
}

static bool grow_buckets(struct route_index *index)
{
	if (index->buckets != NULL && (index->bucket_cnt + 1) * 2 <= index->bucket_mask)
		return true;
	size_t cap = index->buckets == NULL ? 64 : (index->bucket_mask + 1) * 2;
	struct bucket *buckets = fault_hits(FAULT_MALLOC) ? NULL : calloc(cap, sizeof(*buckets));
	if (buckets == NULL)
		return false;
	for (size_t i = 0; index->buckets != NULL && i <= index->bucket_mask; i++) {
		const struct bucket *old = &index->buckets[i];
		if (old->hash == 0)
			continue;
		size_t at = old->hash >> 8 & (cap - 1);
		while (buckets[at].hash != 0)
			at = (at + 1) & (cap - 1);
		buckets[at] = *old;
	}
	free(index->buckets);
	index->buckets = buckets;
	index->bucket_mask = cap - 1;
	return true;
}

struct bucket *index_bucket_of(struct route_index *index, uint16_t port, enum pattern_kind kind,
			       const char *name, size_t len)
{
	struct bucket *bucket = index_find_bucket(index, port, kind, name, len);
	if (bucket != NULL)
		return bucket;
	if (!grow_buckets(index))
		return NULL;
	uint64_t hash = index_bucket_hash(port, kind, name, len);
	size_t at = hash >> 8 & index->bucket_mask;
	while (index->buckets[at].hash != 0)
		at = (at + 1) & index->bucket_mask;
	index->buckets[at] = (struct bucket){ .hash = hash,
					      .name = name,
					      .name_len = (uint16_t)len,
					      .port = port,
					      .kind = (uint8_t)kind };
	index->bucket_cnt++;
	index->kinds |= 1u << kind;
	return &index->buckets[at];
}

/* What is known before HTTP decides by every route behind TLS and by those that are TCP. */
static bool route_has_l4(const struct route *route)
{
	const struct config_action_data *action = &route->config->action;
	return action->tls_mode != CONFIG_TLS_NONE || action->protocol == CONFIG_TCP;
}

static enum err add_entry(struct route_index *index, const struct entry *entry, uint32_t rank)
{
	const struct config_match *match = &entry->route->config->match;
	for (size_t p = 0; p < match->port_cnt; p++) {
		for (unsigned port = match->ports[p].first; port <= match->ports[p].last; port++) {
			struct bucket *bucket =
				index_bucket_of(index, (uint16_t)port, entry->kind, entry->domain,
						strlen(entry->domain));
			if (bucket == NULL)
				return ERR_NOMEM;
			if (bucket->slot == NULL)
				bucket->slot = entry->route->slot;
			enum err e = ERR_OK;
			if (route_has_l4(entry->route))
				e = index_append_hit(index, &bucket->l4, entry->route, rank);
			if (e == ERR_OK && entry->route->config->action.protocol == CONFIG_HTTP)
				e = add_path(index, bucket, entry, rank);
			if (e != ERR_OK)
				return e;
		}
	}
	return ERR_OK;
}

static enum err add_entries(struct route_index *index)
{
	size_t cap = 0;
	for (size_t i = 0; i < index->route_cnt; i++) {
		size_t domain_cnt = index->routes[i].config->match.domain_cnt;
		cap += domain_cnt == 0 ? 1 : domain_cnt;
	}
	struct entry *entries = fault_hits(FAULT_MALLOC) ? NULL : calloc(cap + 1, sizeof(*entries));
	if (entries == NULL)
		return ERR_NOMEM;
	size_t cnt = make_entries(index, entries);
	qsort(entries, cnt, sizeof(*entries), compare_entries);
	enum err e = cnt >= UINT32_MAX ? ERR_LIMIT : ERR_OK;
	for (size_t i = 0; i < cnt && e == ERR_OK; i++)
		e = add_entry(index, &entries[i], (uint32_t)i);
	free(entries);
	return e;
}

enum err route_index_new(const struct config *config, struct tls_slot *const *slots,
			 struct route_index **ret_index)
{
	struct route_index *index = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*index));
	if (index == NULL)
		return ERR_NOMEM;
	arena_init(&index->arena, ARENA_CAP, NULL);
	enum err e = compile_routes(index, config, slots);
	if (e == ERR_OK)
		e = add_entries(index);
	if (e == ERR_OK)
		e = index_collect_ports(index, config);
	if (e != ERR_OK) {
		route_index_free(index);
		return e;
	}
	*ret_index = index;
	return ERR_OK;
}

void route_index_free(struct route_index *index)
{
	if (index == NULL)
		return;
	free(index->buckets);
	arena_fini(&index->arena);
	free(index);
}
