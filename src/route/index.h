#pragma once
/* route: the compiled form, shared by the files of this room. */
#include "smartproxy/arena.h"
#include "smartproxy/route.h"

#define SEGMENTS_MAX 128 /* of a path pattern, and of a lookup's walk */

enum pattern_kind {
	PATTERN_EXACT,    /* "a.example" */
	PATTERN_ONE,      /* "*.example": one label */
	PATTERN_MANY,     /* "**.example": one or more */
	PATTERN_ANY,      /* no domain condition */
	PATTERN_PORT,     /* not a host: the port itself, with its default slot */
	PATTERN_LISTENER, /* not a host: one address of the port, as raw bytes; is its traffic TLS?
			   */
};

/* One (route, domain) pair at one place; lists are in rank order. */
struct hit {
	const struct route *route;
	struct hit *next;
	uint32_t rank;
};
struct hit_list {
	struct hit *first, *last;
};

struct node { /* of the trie of path segments */
	struct hit_list exact, prefix;
	uint32_t param; /* child for ":name", 0: none */
};

struct bucket { /* one (port, host pattern) */
	uint64_t hash;
	const char *name;
	uint16_t name_len, port;
	uint8_t kind;
	bool is_tls;
	uint32_t root;       /* node */
	struct hit_list any; /* routes without a path */
	struct tls_slot *slot;
};

struct edge { /* from a node by a literal segment */
	uint64_t hash;
	const char *name;
	uint32_t name_len, parent, child;
};

struct conditions { /* of one route, beyond host and path */
	struct cidr *client;
	size_t client_cnt;
	struct addr listen;
	bool has_listen;
};

struct route_index {
	struct arena arena;
	struct route *routes;
	struct conditions *conditions; /* by route ix */
	size_t route_cnt;
	struct bucket *
		buckets; /* open addressing, power of two; name NULL and kind PATTERN_EXACT: free */
	size_t bucket_mask, bucket_cnt;
	struct edge *edges;
	size_t edge_mask, edge_cnt;
	struct node *nodes; /* [0] is unused */
	size_t node_cnt, node_cap;
	struct addr *listeners;
	size_t listener_cnt;
};

uint64_t index_bucket_hash(uint16_t port, enum pattern_kind kind, const char *name, size_t len);
uint64_t index_edge_hash(uint32_t parent, const char *name, size_t len);
struct bucket *index_find_bucket(const struct route_index *index, uint16_t port,
				 enum pattern_kind kind, const char *name, size_t len);
/* The IP address without the port, in network order. */
size_t index_addr_bytes(const struct addr *addr, const char **ret_bytes);
uint32_t index_find_edge(const struct route_index *index, uint32_t parent, const char *name,
			 size_t len);
