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
	PATTERN_LISTENER, /* not a host: one address of the port, as raw bytes */
};

/* One (route, domain) pair at one place. */
struct hit {
	const struct route *route;
	struct hit *next;
	uint32_t rank;
	bool has_conditions; /* beyond host and path */
};
/* In rank order; nearly every list has one entry, which is at hand here. */
struct hit_list {
	struct hit first; /* route NULL: none */
	struct hit *last; /* NULL: no second one */
};

struct node { /* of the trie of path segments */
	struct hit_list exact, prefix;
	uint32_t param; /* child for ":name", 0: none */
	bool has_edges; /* children for literal segments */
};

struct bucket { /* one (port, host pattern); what an HTTP request needs comes first */
	uint64_t hash;
	const char *name;
	uint16_t name_len, port;
	uint8_t kind;
	uint8_t listener; /* PATTERN_LISTENER: enum route_listener */
	bool is_prompt; /* PATTERN_LISTENER: its connections are accepted before their first byte */
	uint32_t root;  /* node */
	struct hit_list any; /* HTTP routes without a path */
	/* A host pattern: all routes that count before HTTP. PATTERN_PORT: the TCP routes of the port. */
	struct hit_list l4;
	struct tls_slot *slot;
	struct cidr *
		trusted; /* PATTERN_LISTENER: whose PROXY header is believed; NULL: nobody's is taken */
	uint32_t trusted_cnt;
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
	struct bucket *buckets; /* open addressing, power of two; hash 0: free. On the heap */
	unsigned kinds;         /* that have a bucket: bit 1 << enum pattern_kind */
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
/* Made when new; NULL: no memory. Pointers from before may be invalid afterwards. */
struct bucket *index_bucket_of(struct route_index *index, uint16_t port, enum pattern_kind kind,
			       const char *name, size_t len);
enum err index_append_hit(struct route_index *index, struct hit_list *list,
			  const struct route *route, uint32_t rank);
static inline const struct hit *index_first_hit(const struct hit_list *list)
{
	return list->first.route == NULL ? NULL : &list->first;
}
/* Listeners, default slots, trust (ports.c). */
enum err index_collect_ports(struct route_index *index, const struct config *config);
/* The conditions that hold before HTTP too: client address and listener (find.c). */
bool index_peer_fits(const struct route_index *index, const struct route *route,
		     const struct addr *client, const struct addr *listen);
