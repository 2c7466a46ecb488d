#pragma once
/* route: match -> route, compiled once and immutable.
 *
 * An index answers "which route takes this request?" in a time that does not grow with the number
 * of routes: hash by (port, host pattern), then a trie of path segments, then the few remaining
 * conditions in rank order. Rank is one total order of DESIGN: priority, exact domain > longer
 * wildcard > none, exact path > longer prefix > none, more conditions, file order. It also answers
 * "which certificate slot serves this (port, SNI)?".
 *
 * Threads: built and freed on the control thread, read by workers inside a section or under a pin
 * of its generation. Lifetime: one arena, freed whole. Standards: RFC 9110, 7.4 (421), RFC 6066, 3
 * (SNI). */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/addr.h"
#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "wire/h1.h"
#include "wire/tls.h"

struct route_index;
struct limit_counter;
struct tls_slot;
struct upstream_group;

/* A compiled route. Strings live in its configuration or in the index's arena. */
struct route {
	const struct config_route *config;
	struct tls_slot *slot; /* NULL: plain; owned by the index's maker */
	uint32_t ix;           /* among the enabled routes, in file order */
	/* Filled and owned by the generation room. */
	struct upstream_group *group;  /* forward */
	struct limit_counter *counter; /* NULL: no max_connections */
};

/* What a lookup decides by. host: normalised, lower case, no port; len 0: none. path: normalised.
 */
struct route_request {
	uint16_t port;
	const struct addr *listen_addr; /* address of the listener set that took the connection */
	const char *host;
	size_t host_len;
	const char *path;
	size_t path_len;
	struct wire_span method;
	const struct wire_field *fields;
	uint32_t field_cnt;
	const struct addr *client;
	unsigned tls_version; /* 12, 13; 0: plain */
};

/* slots[i] belongs to the i-th route of config (NULL for plain and disabled ones). The index keeps
 * pointers into config. ERR_NOMEM. Cost: about a microsecond a route. */
enum err route_index_new(const struct config *config, struct tls_slot *const *slots,
			 struct route_index **ret_index) SP_MUST_USE;
void route_index_free(struct route_index *index);
/* The best route, or NULL. Cost: hash probes in proportion to labels of the host times segments of
 * the path. */
const struct route *route_find(const struct route_index *index,
			       const struct route_request *request);
/* The slot for a handshake on this port: exact name, then wildcards, then (also without SNI) the
 * port's first TLS route of the file.
 * NULL: the port has no TLS route. */
struct tls_slot *route_find_slot(const struct route_index *index, uint16_t port, const char *sni,
				 size_t sni_len);
/* What connections of the listener on this address and port start with. The configuration keeps the routes of
 * one listener all alike. */
enum route_listener {
	ROUTE_LISTENER_HTTP,
	ROUTE_LISTENER_TCP, /* raw: a route is known before any byte */
	ROUTE_LISTENER_TLS, /* a ClientHello: terminated or passed through */
};
enum route_listener route_listener_kind(const struct route_index *index, const struct addr *listen);
/* May its connections be accepted with their first bytes only? Not where a server may speak first, nor where
 * "listeners" of the configuration says otherwise. A listener of no route (the challenges') is one of HTTP. */
bool route_listener_is_deferred(const struct route_index *index, const struct addr *listen);
/* Does this listener take PROXY headers ("listeners" of the configuration names its port), and does it believe
 * this peer's? */
enum route_trust { ROUTE_TRUST_OFF, ROUTE_TRUST_PEER, ROUTE_TRUST_NOT };
/* All, for one lookup. */
struct route_listening {
	enum route_listener kind;
	enum route_trust trust;
	bool is_deferred;
};
struct route_listening route_listener_ask(const struct route_index *index,
					  const struct addr *listen, const struct addr *peer);

/* Decides by what is known before HTTP: port, SNI, ALPN, client address. */
struct route_l4 {
	const struct addr *listen;
	const struct addr *client;
	const struct wire_hello *hello; /* NULL: ROUTE_LISTENER_TCP */
};
enum route_l4_verdict {
	ROUTE_L4_HTTP,   /* terminate TLS with route_find_slot's slot, then HTTP */
	ROUTE_L4_TUNNEL, /* *ret_route: passthrough, or TCP (behind TLS: with its slot) */
	ROUTE_L4_NONE,   /* nothing takes it: unrecognized_name, or close */
};
/* Among the routes of the port whose domains have the SNI the best in rank wins; HTTP routes count whatever
 * their path, methods and headers. Without SNI: the port's single passthrough route if there is just one, else
 * the best route without domains, else (no passthrough on the port) HTTP with the default slot. An SNI that
 * nothing has: as HTTP on a port without passthrough and TCP routes, else none. */
enum route_l4_verdict route_find_l4(const struct route_index *index, const struct route_l4 *want,
				    const struct route **ret_route);
/* Would a ClientHello with this name and no ALPN from this client lead to a tunnel? Then a request for it, on a
 * connection that came by another name, is misdirected. host: normalised. */
bool route_host_is_tunnelled(const struct route_index *index, const struct addr *listen,
			     const struct addr *client, const char *host, size_t host_len);
size_t route_index_cnt(const struct route_index *index);
/* Enabled routes in file order. */
struct route *route_index_at(const struct route_index *index, size_t ix);
/* Distinct addresses that the routes listen on; the array is the index's. */
const struct addr *route_index_listeners(const struct route_index *index, size_t *ret_cnt);

/* Expands a redirect template: {host} (without port), {path} as received, {query} with its '?'
 * (nothing when there is none), {port} of the listener; a '\\' of the client's is written %5C. NULL:
 * does not fit in cap. A result never starts with "//". */
struct route_redirect {
	struct wire_span host, path, query;
	uint16_t port;
};
const char *route_expand_location(const char *template, const struct route_redirect *values,
				  char *dst, size_t cap);
