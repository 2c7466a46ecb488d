#pragma once
/* config, private: what no single key can tell: keys that do not fit together. */
#include "smartproxy/config.h"

struct loader;
struct value;
/* Hooks of the table of keys. group NULL: not given. */
enum err check_route(struct loader *l, const struct value *group, void *data);
enum err check_limits(struct loader *l, const struct value *group, void *data);
/* The routes among each other: names, plain and TLS on one port, the port of ACME. routes: the
 * list's value, for lines. */
enum err check_routes(struct loader *l, const struct config *config, const struct value *routes)
	SP_MUST_USE;
