/* Which route takes a request, by the number of routes. */
#include "smartproxy/route.h"

#include <stdlib.h>
#include <string.h>

#include "micro.h"
#include "smartproxy/arena.h"
#include "smartproxy/assert.h"
#include "smartproxy/text.h"

#define PATHS_A_HOST 10
#define STRIDE       2654435761U /* odd and no factor of a power of ten: every route has its turn */

struct table {
	struct arena memory;
	struct config config;
	struct route_index *index;
	struct addr listen, client;
	size_t route_cnt;
	size_t share; /* routes of one host */
	bool has_paths;
	size_t next;
};

static void *take(struct table *t, size_t cnt, size_t bytes)
{
	void *p = arena_calloc(&t->memory, cnt, bytes);
	SP_ASSERT(p != NULL);
	return p;
}

/* The texts are made anew for each lookup, as a request brings its own. */
static size_t write_number(char *dst, const char *before, size_t number, const char *after)
{
	char digits[20];
	size_t digit_cnt = 0, len = strlen(before);
	memcpy(dst, before, len);
	do
		digits[digit_cnt++] = (char)('0' + number % 10);
	while ((number /= 10) > 0);
	while (digit_cnt > 0)
		dst[len++] = digits[--digit_cnt];
	memcpy(dst + len, after, strlen(after) + 1);
	return len + strlen(after);
}

static size_t write_host(const struct table *t, size_t ix, char *dst)
{
	return write_number(dst, "host", ix / t->share, ".example.com");
}

static size_t write_path(const struct table *t, size_t ix, const char *after, char *dst)
{
	return write_number(dst, "/api/part", t->has_paths ? ix % t->share : 0, after);
}

static void make_routes(struct table *t)
{
	static const struct config_ports port = { 80, 80 };
	struct config_route *routes = take(t, t->route_cnt, sizeof(*routes));
	const char **domains = take(t, t->route_cnt, sizeof(*domains));
	for (size_t i = 0; i < t->route_cnt; i++) {
		char text[64];
		domains[i] = arena_strndup(&t->memory, text, write_host(t, i, text));
		const char *path =
			t->has_paths ? arena_strndup(&t->memory, text, write_path(t, i, "/*", text))
				     : NULL;
		SP_ASSERT(domains[i] != NULL && (path != NULL) == t->has_paths);
		routes[i] = (struct config_route){
			.name = domains[i],
			.is_enabled = true,
			.match = { .ports = &port,
				   .port_cnt = 1,
				   .domains = &domains[i],
				   .domain_cnt = 1,
				   .path = path },
			.action = { .type = CONFIG_RESPOND },
		};
	}
	t->config.routes = routes;
	t->config.route_cnt = t->route_cnt;
}

static void find(void *arg, size_t cnt)
{
	struct table *t = arg;
	char host[64], path[64];
	struct route_request request = {
		.port = 80,
		.listen_addr = &t->listen,
		.host = host,
		.path = path,
		.method = { "GET", 3 },
		.client = &t->client,
	};
	for (size_t i = 0; i < cnt; i++) {
		size_t ix = t->next++ * STRIDE % t->route_cnt;
		request.host_len = write_host(t, ix, host);
		request.path_len = write_path(t, ix, "/item/7", path);
		const struct route *route = route_find(t->index, &request);
		SP_ASSERT(route != NULL && route->ix == ix);
	}
}

/* path_cnt routes of each host; 0: one, without a path. */
static void time_table(const char *name, size_t route_cnt, size_t path_cnt)
{
	struct table t = { .route_cnt = route_cnt,
			   .share = path_cnt == 0 ? 1 : path_cnt,
			   .has_paths = path_cnt > 0 };
	arena_init(&t.memory, SIZE_MAX, NULL);
	SP_ASSERT(addr_parse("::", 80, &t.listen) == ERR_OK);
	SP_ASSERT(addr_parse("192.0.2.1", 999, &t.client) == ERR_OK);
	make_routes(&t);
	struct tls_slot **slots = take(&t, route_cnt, sizeof(struct tls_slot *));
	int64_t begin_ns = micro_now_ns();
	SP_ASSERT(route_index_new(&t.config, slots, &t.index) == ERR_OK);
	struct micro_runs compile = { .cnt = 0 };
	micro_add(&compile, (double)(micro_now_ns() - begin_ns) / (double)route_cnt);
	char full[64];
	(void)text_format(full, sizeof(full), "route.compile_%s", name);
	micro_print(full, "ns", &compile);
	(void)text_format(full, sizeof(full), "route.find_%s", name);
	micro_time(full, 0, find, &t);
	route_index_free(t.index);
	arena_fini(&t.memory);
}

void micro_route(void)
{
	static const struct {
		const char *name;
		size_t route_cnt, path_cnt;
	} rows[] = {
		{ "1_host", 1, 0 },
		{ "10_hosts", 10, 0 },
		{ "100_hosts", 100, 0 },
		{ "1000_hosts", 1000, 0 },
		{ "10000_hosts", 10000, 0 },
		{ "100000_hosts", 100000, 0 },
		{ "100000_paths", 100000, PATHS_A_HOST },
		{ "1000000_hosts", 1000000, 0 },
	};
	for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
		if (!micro_is_tiny() || rows[i].route_cnt <= 1000)
			time_table(rows[i].name, rows[i].route_cnt, rows[i].path_cnt);
	}
}
