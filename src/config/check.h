#pragma once
/* config, private: what no single key can tell: keys that do not fit together. */
#include "smartproxy/config.h"

struct loader;
struct names;
struct value;
/* Hooks of the table of keys. group NULL: not given. */
enum err check_route(struct loader *l, const struct value *group, void *data);
enum err check_global(struct loader *l, const struct value *group, void *data);
enum err check_limits(struct loader *l, const struct value *group, void *data);
enum err check_dns(struct loader *l, const struct value *group, void *data);
enum err check_listener(struct loader *l, const struct value *group, void *data);
enum err check_upstream(struct loader *l, const struct value *group, void *data);
enum err check_probe(struct loader *l, const struct value *group, void *data);

/* check_tls.c: TLS and protocol of a route, within check_route. */
void check_tls(struct loader *l, const struct value *route, struct config_route *r);
void check_protocol(struct loader *l, const struct value *route, struct config_route *r);

/* Where the lists of a whole model were written, for lines. NULL: not in this document. */
struct check_lists {
	const struct value *routes, *upstreams, *listeners;
};
/* The lists of a model within themselves and among each other: names, ports; and what a route's
 * upstream is (action.upstream). */
enum err check_model(struct loader *l, struct config *config, const struct check_lists *lists)
	SP_MUST_USE;
/* check_ports.c: what listens where. */
enum err check_ports(struct loader *l, const struct config *config, const struct check_lists *lists)
	SP_MUST_USE;
/* check_places.c: one target, one max_connections; behind check_find_upstreams. */
enum err check_places(struct loader *l, const struct config *config,
		      const struct check_lists *lists) SP_MUST_USE;
/* check_upstream.c: fills action.upstream of all routes; names: of config->upstreams. */
enum err check_find_upstreams(struct loader *l, struct config *config, const struct value *routes,
			      const struct names *names) SP_MUST_USE;
/* The element of a list that was written, or NULL. */
const struct value *check_element(const struct value *list, size_t ix);
/* " (line 12)", "" without one. dst holds CHECK_LINE_MAX. Returns dst. */
#define CHECK_LINE_MAX 32
const char *check_line(unsigned line, char *dst);
