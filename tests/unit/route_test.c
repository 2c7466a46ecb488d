/* route: which route takes a request, which certificate a handshake. The rules stand in tables; a
 * naive matcher, written from the rules alone, agrees with the index on random configurations. */
#include "route_briefs.h"

/* ---- the rules, one by one ---- */

static const struct {
	struct brief routes[ROUTES_MAX];
	struct ask ask;
	const char *want; /* "-": none */
} rules[] = {
	/* priority goes before everything */
	{ { { "exact", .domains = { "a.b" }, .path = "/x" }, { "any", .priority = 1 } },
	  { "a.b", "/x" },
	  "any" },
	{ { { "any", .priority = -1 }, { "any2" } }, { "a.b", "/x" }, "any2" },
	/* exact > longer wildcard > "**" > none */
	{ { { "none" },
	    { "many", .domains = { "**.b.c" } },
	    { "one", .domains = { "*.b.c" } },
	    { "exact", .domains = { "a.b.c" } } },
	  { "a.b.c", "/" },
	  "exact" },
	{ { { "none" }, { "many", .domains = { "**.b.c" } }, { "one", .domains = { "*.b.c" } } },
	  { "a.b.c", "/" },
	  "one" },
	{ { { "none" }, { "many", .domains = { "**.b.c" } } }, { "a.b.c", "/" }, "many" },
	{ { { "none" }, { "many", .domains = { "**.b.c" } } }, { "b.c", "/" }, "none" },
	{ { { "short", .domains = { "**.c" } }, { "long", .domains = { "**.b.c" } } },
	  { "a.b.c", "/" },
	  "long" },
	{ { { "short", .domains = { "**.c" } }, { "long", .domains = { "**.b.c" } } },
	  { "x.y.c", "/" },
	  "short" },
	{ { { "none", .path = "/deep/exact" }, { "many", .domains = { "**.c" } } },
	  { "a.b.c", "/deep/exact" },
	  "many" },
	/* "*" is one label, "**" one or more */
	{ { { "one", .domains = { "*.b.c" } } }, { "x.a.b.c", "/" }, "-" },
	{ { { "one", .domains = { "*.b.c" } } }, { "b.c", "/" }, "-" },
	{ { { "many", .domains = { "**.b.c" } } }, { "x.a.b.c", "/" }, "many" },
	{ { { "many", .domains = { "**.b.c" } } }, { "b.c", "/" }, "-" },
	{ { { "exact", .domains = { "b.c" } } }, { "a.b.c", "/" }, "-" },
	{ { { "exact", .domains = { "b.c", "d.e" } } }, { "d.e", "/" }, "exact" },
	{ { { "exact", .domains = { "b.c" } } }, { NULL, "/" }, "-" },
	{ { { "any" } }, { NULL, "/" }, "any" },
	{ { { "v6", .domains = { "b.c" } } }, { "::1", "/" }, "-" },
	/* exact path > ":name" > longer prefix > none */
	{ { { "none" },
	    { "prefix", .path = "/a/*" },
	    { "name", .path = "/a/:id" },
	    { "exact", .path = "/a/b" } },
	  { "h", "/a/b" },
	  "exact" },
	{ { { "none" }, { "prefix", .path = "/a/*" }, { "name", .path = "/a/:id" } },
	  { "h", "/a/b" },
	  "name" },
	{ { { "none" }, { "prefix", .path = "/a/*" } }, { "h", "/a/b" }, "prefix" },
	{ { { "none" }, { "prefix", .path = "/a/*" } }, { "h", "/b" }, "none" },
	{ { { "short", .path = "/*" }, { "long", .path = "/a/*" } }, { "h", "/a/b" }, "long" },
	{ { { "short", .path = "/*" }, { "long", .path = "/a/*" } }, { "h", "/ab" }, "short" },
	{ { { "long", .path = "/a/b/*" }, { "name", .path = "/a/:x/c" } },
	  { "h", "/a/b/c" },
	  "name" },
	{ { { "inner", .path = "/a/:x/*" }, { "outer", .path = "/a/*" } },
	  { "h", "/a/b/c" },
	  "inner" },
	/* what a prefix takes */
	{ { { "api", .path = "/api/*" } }, { "h", "/api" }, "-" },
	{ { { "api", .path = "/api/*" } }, { "h", "/api/" }, "api" },
	{ { { "api", .path = "/api/*" } }, { "h", "/api/v1/x" }, "api" },
	{ { { "api", .path = "/api/*" } }, { "h", "/apis/x" }, "-" },
	{ { { "all", .path = "/*" } }, { "h", "/" }, "all" },
	{ { { "root", .path = "/" } }, { "h", "/" }, "root" },
	{ { { "root", .path = "/" } }, { "h", "/a" }, "-" },
	/* empty segments count; ":name" takes none of them */
	{ { { "slash", .path = "/a/" } }, { "h", "/a" }, "-" },
	{ { { "slash", .path = "/a/" } }, { "h", "/a/" }, "slash" },
	{ { { "plain", .path = "/a" } }, { "h", "/a/" }, "-" },
	{ { { "name", .path = "/a/:id" } }, { "h", "/a/" }, "-" },
	{ { { "name", .path = "/a/:id" } }, { "h", "/a/b/c" }, "-" },
	{ { { "name", .path = "/:a/:b" } }, { "h", "/x/y" }, "name" },
	{ { { "dead", .path = "/a/b/c" }, { "back", .path = "/a/:x/d" } },
	  { "h", "/a/b/d" },
	  "back" },
	/* case: paths differ by it */
	{ { { "lower", .path = "/a" } }, { "h", "/A" }, "-" },
	/* more conditions first, then file order */
	{ { { "less", .methods = { "GET" } },
	    { "more", .methods = { "GET" }, .header = "x", .value = NULL } },
	  { "h", "/", .header = "X", .value = "1" },
	  "more" },
	{ { { "first", .methods = { "GET" } }, { "second", .header = "x" } },
	  { "h", "/", .header = "X", .value = "1" },
	  "first" },
	{ { { "first" }, { "second" } }, { "h", "/" }, "first" },
	{ { { "less", .path = "/a" }, { "more", .methods = { "GET" } } }, { "h", "/a" }, "less" },
	/* methods */
	{ { { "post", .methods = { "POST", "PUT" } } }, { "h", "/", .method = "PUT" }, "post" },
	{ { { "post", .methods = { "POST", "PUT" } } }, { "h", "/", .method = "GET" }, "-" },
	{ { { "post", .methods = { "POST" } } }, { "h", "/", .method = "POS" }, "-" },
	{ { { "post", .methods = { "POST" } } }, { "h", "/", .method = "post" }, "-" },
	/* headers */
	{ { { "there", .header = "x-a" } }, { "h", "/", .header = "X-A", .value = "" }, "there" },
	{ { { "there", .header = "x-a" } }, { "h", "/" }, "-" },
	{ { { "value", .header = "x-a", .value = "1" } },
	  { "h", "/", .header = "x-a", .value = "1" },
	  "value" },
	{ { { "value", .header = "x-a", .value = "1" } },
	  { "h", "/", .header = "x-a", .value = "12" },
	  "-" },
	{ { { "value", .header = "x-a", .value = "1" } },
	  { "h", "/", .header = "x-aa", .value = "1" },
	  "-" },
	/* clients */
	{ { { "net", .clients = { "10.0.0.0/8" } } }, { "h", "/", .client = "10.255.1.2" }, "net" },
	{ { { "net", .clients = { "10.0.0.0/8" } } }, { "h", "/", .client = "11.0.0.1" }, "-" },
	{ { { "net", .clients = { "10.0.0.0/8", "2001:db8::/33" } } },
	  { "h", "/", .client = "2001:db8:7fff::1" },
	  "net" },
	{ { { "net", .clients = { "10.0.0.0/8", "2001:db8::/33" } } },
	  { "h", "/", .client = "2001:db8:8000::1" },
	  "-" },
	{ { { "one", .clients = { "192.0.2.7" } } }, { "h", "/", .client = "192.0.2.7" }, "one" },
	{ { { "one", .clients = { "192.0.2.7" } } }, { "h", "/", .client = "192.0.2.8" }, "-" },
	{ { { "v6", .clients = { "::/0" } } }, { "h", "/", .client = "192.0.2.8" }, "-" },
	/* TLS versions */
	{ { { "new", .tls = 13 } }, { "h", "/", .tls = 13 }, "new" },
	{ { { "new", .tls = 13 } }, { "h", "/", .tls = 12 }, "-" },
	{ { { "new", .tls = 13 } }, { "h", "/" }, "-" },
	/* listener and port */
	{ { { "local", .address = "127.0.0.1" } }, { "h", "/", .listen = "127.0.0.1" }, "local" },
	{ { { "local", .address = "127.0.0.1" } }, { "h", "/", .listen = "127.0.0.2" }, "-" },
	{ { { "all" }, { "local", .address = "127.0.0.1" } },
	  { "h", "/", .listen = "127.0.0.1" },
	  "local" },
	{ { { "other", .port = 81 } }, { "h", "/" }, "-" },
	{ { { "other", .port = 81 } }, { "h", "/", .port = 81 }, "other" },
	/* asterisk-form and CONNECT have no path: only routes without one */
	{ { { "path", .path = "/*" }, { "any" } }, { "h", NULL, .method = "OPTIONS" }, "any" },
	{ { { "path", .path = "/*" } }, { "h", NULL, .method = "OPTIONS" }, "-" },
	/* off */
	{ { { "off", .is_disabled = true }, { "on" } }, { "h", "/" }, "on" },
	{ { { "off", .is_disabled = true } }, { "h", "/" }, "-" },
};

static size_t brief_cnt(const struct brief *briefs)
{
	size_t cnt = 0;
	while (cnt < ROUTES_MAX && briefs[cnt].name != NULL)
		cnt++;
	return cnt;
}

START_TEST(rule)
{
	static struct made made;
	make_config(&made, rules[_i].routes, brief_cnt(rules[_i].routes));
	struct route_index *index = build(&made.config, NULL);
	ck_assert_str_eq(find_name(index, &rules[_i].ask), rules[_i].want);
	route_index_free(index);
}
END_TEST

/* ---- against a naive matcher ---- */

static bool domain_fits(const char *pattern, const char *host)
{
	if (strncmp(pattern, "*", 1) != 0)
		return strcmp(pattern, host) == 0;
	bool is_many = strncmp(pattern, "**.", 3) == 0;
	const char *suffix = strchr(pattern, '.'); /* with its dot */
	size_t host_len = strlen(host), suffix_len = strlen(suffix);
	if (host_len <= suffix_len || strcmp(host + host_len - suffix_len, suffix) != 0)
		return false;
	return is_many || memchr(host, '.', host_len - suffix_len) == NULL;
}

static bool path_fits(const char *pattern, const char *path)
{
	while (*pattern != '\0') {
		if (strcmp(pattern, "/*") == 0)
			return *path == '/';
		if (*path != '/')
			return false;
		pattern++, path++;
		size_t want = strcspn(pattern, "/"), have = strcspn(path, "/");
		if (pattern[0] == ':' ? have == 0
				      : want != have || strncmp(pattern, path, have) != 0)
			return false;
		pattern += want;
		path += have;
	}
	return *path == '\0';
}

static bool brief_fits(const struct brief *b, const struct ask *ask)
{
	if (b->path != NULL && !path_fits(b->path, ask->path))
		return false;
	if (b->methods[0] != NULL && strcmp(b->methods[0], ask->method) != 0)
		return false;
	return b->header == NULL || (ask->header != NULL && strcmp(b->value, ask->value) == 0);
}

/* What a rank is made of, most important first. */
struct rank {
	long part[5];
};

static struct rank rank_of(const struct brief *b, const char *domain, size_t order)
{
	struct rank rank = { { b->priority } };
	size_t len = domain == NULL ? 0 : strlen(domain);
	if (domain == NULL)
		rank.part[1] = 0;
	else if (domain[0] != '*')
		rank.part[1] = 100000;
	else if (domain[1] != '*')
		rank.part[1] = 2 * (long)(len - 2) + 1;
	else
		rank.part[1] = 2 * (long)(len - 3);
	if (b->path == NULL)
		rank.part[2] = 0;
	else if (b->path[strlen(b->path) - 1] == '*')
		rank.part[2] = (long)strlen(b->path);
	else
		rank.part[2] =
			(strstr(b->path, "/:") == NULL ? 200000 : 100000) + (long)strlen(b->path);
	rank.part[3] = (b->methods[0] != NULL) + (b->header != NULL);
	rank.part[4] = -(long)order;
	return rank;
}

static bool is_better(const struct rank *a, const struct rank *b)
{
	for (size_t i = 0; i < SP_ARRAY_LEN(a->part); i++) {
		if (a->part[i] != b->part[i])
			return a->part[i] > b->part[i];
	}
	return false;
}

static const char *find_naively(const struct brief *briefs, size_t cnt, const struct ask *ask)
{
	const char *name = "-";
	struct rank best = { { -1000000 } };
	for (size_t i = 0; i < cnt; i++) {
		const struct brief *b = &briefs[i];
		size_t domain_cnt = cnt_of(b->domains);
		for (size_t d = 0; d < domain_cnt + (domain_cnt == 0); d++) {
			const char *domain = b->domains[d];
			if (!brief_fits(b, ask) ||
			    (domain != NULL && !domain_fits(domain, ask->host)))
				continue;
			struct rank rank = rank_of(b, domain, i);
			if (is_better(&rank, &best)) {
				best = rank;
				name = b->name;
			}
		}
	}
	return name;
}

static const char *const some_domains[] = { NULL,      "a.b",      "b",     "a.a.b",
					    "*.b",     "**.b",     "*.a.b", "**.a.b",
					    "*.a.a.b", "**.a.a.b", "c.a.b" };
static const char *const some_paths[] = { NULL,      "/",      "/*",     "/a",
					  "/a/",     "/a/*",   "/a/b",   "/:x",
					  "/:x/b",   "/a/:y",  "/:x/:y", "/:x/*",
					  "/a/:y/*", "/a/b/*", "/a/b/c", "/:x/b/:z" };
static const char *const some_methods[] = { NULL, "GET", "POST" };
static const char *const asked_hosts[] = { "b", "a.b", "a.a.b", "c.a.b", "x.y.a.a.b", "x.b", "z" };
static const char *const asked_paths[] = { "/",  "/a",   "/a/",    "/a/b",   "/a/b/", "/a/b/c",
					   "/b", "/b/b", "/c/d/e", "/a/c/c", "/a//b" };

#define PICK(list) ((list)[rand_below((uint32_t)SP_ARRAY_LEN(list))])

static void make_random(struct brief *b, size_t i)
{
	static const char *const names[ROUTES_MAX] = { "r0", "r1", "r2", "r3",
						       "r4", "r5", "r6", "r7" };
	*b = (struct brief){ .name = names[i],
			     .priority = rand_below(8) == 0 ? (int)rand_below(3) - 1 : 0,
			     .domains = { PICK(some_domains) },
			     .path = PICK(some_paths),
			     .methods = { PICK(some_methods) } };
	if (b->domains[0] != NULL && rand_below(3) == 0)
		b->domains[1] = PICK(some_domains);
	if (rand_below(4) == 0) {
		b->header = "x";
		b->value = rand_below(2) == 0 ? "1" : "2";
	}
}

START_TEST(as_the_naive_one)
{
	static struct made made;
	struct brief briefs[ROUTES_MAX];
	for (int round = 0; round < 400; round++) {
		size_t cnt = 1 + rand_below(ROUTES_MAX);
		for (size_t i = 0; i < cnt; i++)
			make_random(&briefs[i], i);
		make_config(&made, briefs, cnt);
		struct route_index *index = build(&made.config, NULL);
		for (int i = 0; i < 100; i++) {
			struct ask ask = { .host = PICK(asked_hosts),
					   .path = PICK(asked_paths),
					   .method = rand_below(2) == 0 ? "GET" : "POST" };
			if (rand_below(2) == 0) {
				ask.header = "X";
				ask.value = rand_below(2) == 0 ? "1" : "2";
			}
			const char *want = find_naively(briefs, cnt, &ask);
			const char *have = find_name(index, &ask);
			ck_assert_msg(strcmp(have, want) == 0, "%s %s%s: %s, naively %s",
				      ask.method, ask.host, ask.path, have, want);
		}
		route_index_free(index);
	}
}
END_TEST

/* ---- many ---- */

#define MANY 100000

START_TEST(many_routes)
{
	struct arena arena;
	arena_init(&arena, (size_t)1 << 30, NULL);
	struct config_route *routes = arena_calloc(&arena, MANY, sizeof(*routes));
	struct config_ports ports = { 443, 443 };
	for (size_t i = 0; i < MANY; i++) {
		const char **domain = arena_alloc(&arena, sizeof(*domain));
		*domain =
			arena_printf(&arena, i % 3 == 0 ? "*.h%zu.example" : "h%zu.example", i / 2);
		routes[i] = (struct config_route){
			.name = arena_printf(&arena, "r%zu", i),
			.is_enabled = true,
			.match = { .ports = &ports,
				   .port_cnt = 1,
				   .domains = domain,
				   .domain_cnt = 1,
				   .path = arena_printf(&arena, "/p%zu/:id", i) },
			.action = { .type = CONFIG_RESPOND },
		};
	}
	struct config config = { .routes = routes, .route_cnt = MANY };
	struct route_index *index = build(&config, NULL);
	ck_assert_uint_eq(route_index_cnt(index), MANY);
	for (size_t i = 0; i < MANY; i += 7) {
		char host[64], path[64];
		(void)snprintf(host, sizeof(host), i % 3 == 0 ? "x.h%zu.example" : "h%zu.example",
			       i / 2);
		(void)snprintf(path, sizeof(path), "/p%zu/7", i);
		struct ask ask = { .host = host, .path = path, .port = 443 };
		ck_assert_str_eq(find_name(index, &ask), routes[i].name);
		(void)snprintf(path, sizeof(path), "/p%zu/", i);
		ck_assert_str_eq(find_name(index, &ask), "-");
	}
	size_t listener_cnt = 0;
	const struct addr *listeners = route_index_listeners(index, &listener_cnt);
	ck_assert_uint_eq(listener_cnt, 1);
	ck_assert_uint_eq(addr_port(&listeners[0]), 443);
	route_index_free(index);
	arena_fini(&arena);
}
END_TEST

START_TEST(listeners_distinct)
{
	static const struct config_ports ports[] = { { 8000, 8003 }, { 8002, 8004 } };
	static struct config_route routes[3];
	for (size_t i = 0; i < 3; i++)
		routes[i] = (struct config_route){
			.name = "r",
			.is_enabled = i < 2,
			.match = { .ports = i == 2 ? &ports[1] : ports,
				   .port_cnt = i == 0 ? 2 : 1,
				   .address = i == 1 ? "127.0.0.1" : NULL },
			.action = { .type = CONFIG_BLOCK,
				    .tls_mode = i == 1 ? CONFIG_TLS_TERMINATE : CONFIG_TLS_NONE }
		};
	const struct config_listener prompt = { .ports = ports, .port_cnt = 1 };
	struct config config = { .routes = routes, .route_cnt = 3 };
	config.listeners = &prompt;
	config.listener_cnt = 1;
	struct route_index *index = build(&config, NULL);
	size_t cnt = 0;
	const struct addr *listeners = route_index_listeners(index, &cnt);
	ck_assert_uint_eq(cnt, 5 + 4);
	for (size_t i = 0; i < cnt; i++) {
		bool is_local = listeners[i].sa.sa_family == AF_INET;
		ck_assert((route_listener_kind(index, &listeners[i]) == ROUTE_LISTENER_TLS) ==
			  is_local);
		ck_assert(route_listener_is_deferred(index, &listeners[i]) ==
			  (is_local || addr_port(&listeners[i]) > 8003));
		for (size_t k = 0; k < i; k++)
			ck_assert(!addr_is_equal(&listeners[i], &listeners[k]));
	}
	route_index_free(index);
}
END_TEST

/* ---- before HTTP ---- */

/* Routes of one port by letters: h HTTP with TLS, p passthrough, t TCP behind TLS; a letter each. */
static const struct {
	const char *kinds;
	const char *domains[5]; /* NULL: none */
	const char *client_ip[5];
	const char *alpn[5];
	const char *sni, *offered;
	const char *want; /* "http", "none", or the number of the route */
} l4s[] = {
	/* SNI decides between passthrough and termination */
	{ "hp", { "a.x", "b.x" }, .sni = "a.x", .want = "http" },
	{ "hp", { "a.x", "b.x" }, .sni = "b.x", .want = "1" },
	{ "pt", { "a.x", "b.x" }, .sni = "b.x", .want = "1" },
	{ "pp", { "*.x", "a.x" }, .sni = "a.x", .want = "1" },
	{ "pp", { "*.x", "a.x" }, .sni = "b.x", .want = "0" },
	{ "ph", { "*.x", "a.x" }, .sni = "a.x", .want = "http" },
	{ "pp", { "*.x", "**.x" }, .sni = "c.b.x", .want = "1" },
	/* B31: "*." is one label */
	{ "p", { "*.x" }, .sni = "c.b.x", .want = "none" },
	{ "p", { "*.x" }, .sni = "x", .want = "none" },
	/* an unknown name: the route without domains, or nothing */
	{ "hp", { "a.x", NULL }, .sni = "z.x", .want = "1" },
	{ "ph", { "a.x", NULL }, .sni = "z.x", .want = "http" },
	{ "hp", { "a.x", "b.x" }, .sni = "z.x", .want = "none" },
	{ "h", { "a.x" }, .sni = "z.x", .want = "http" },
	/* no SNI: the single passthrough route, else the one without domains, else nothing */
	{ "p", { "a.x" }, .want = "0" },
	{ "hp", { "a.x", "b.x" }, .want = "1" },
	{ "hp", { NULL, "b.x" }, .want = "1" },
	{ "pp", { "a.x", "b.x" }, .want = "none" },
	{ "pph", { "a.x", "b.x", NULL }, .want = "http" },
	{ "ppp", { "a.x", "b.x", NULL }, .want = "2" },
	{ "h", { "a.x" }, .want = "http" },
	{ "t", { "a.x" }, .want = "none" },
	{ "t", { NULL }, .want = "0" },
	{ "pp", { "a.x", "b.x" }, { "10.0.0.0/8" }, .want = "1" },
	/* client address; B30: IPv6 blocks too (the client is 2001:db8::7) */
	{ "pp", { "a.x", "a.x" }, { "2001:db8::/32", NULL }, .sni = "a.x", .want = "0" },
	{ "pp", { "a.x", "a.x" }, { "2001:db9::/32", NULL }, .sni = "a.x", .want = "1" },
	{ "p", { "a.x" }, { "2001:db8:1::/48" }, .sni = "a.x", .want = "none" },
	{ "p", { "a.x" }, { "10.0.0.0/8" }, .sni = "a.x", .want = "none" },
	/* ALPN */
	{ "pp",
	  { "a.x", "a.x" },
	  .alpn = { "h2", NULL },
	  .sni = "a.x",
	  .offered = "h2",
	  .want = "0" },
	{ "pp",
	  { "a.x", "a.x" },
	  .alpn = { "h2", NULL },
	  .sni = "a.x",
	  .offered = "h3",
	  .want = "1" },
	{ "pp", { "a.x", "a.x" }, .alpn = { "h2", NULL }, .sni = "a.x", .want = "1" },
	{ "p", { "a.x" }, .alpn = { "h2" }, .sni = "a.x", .offered = "h", .want = "none" },
};

/* Requests for a name agree with ClientHellos for it. */
static void check_host(const struct route_index *index, const struct route_l4 *want,
		       enum route_l4_verdict verdict)
{
	const struct wire_hello *hello = want->hello;
	if (hello->sni_len == 0 || hello->alpn_cnt > 0)
		return;
	ck_assert(route_host_is_tunnelled(index, want->listen, want->client, hello->sni,
					  hello->sni_len) == (verdict == ROUTE_L4_TUNNEL));
}

START_TEST(before_http)
{
	static const struct config_ports ports[] = { { 443, 443 }, { 440, 450 } };
	struct config_route routes[5] = { 0 };
	size_t cnt = strlen(l4s[_i].kinds);
	for (size_t i = 0; i < cnt; i++) {
		char kind = l4s[_i].kinds[i];
		routes[i] = (struct config_route){ .name = "r", .is_enabled = true };
		routes[i].match = (struct config_match){
			.ports = ports,
			.port_cnt = 2, /* the port twice: the route counts once */
			.domains = &l4s[_i].domains[i],
			.domain_cnt = l4s[_i].domains[i] != NULL,
			.client_ip = &l4s[_i].client_ip[i],
			.client_ip_cnt = l4s[_i].client_ip[i] != NULL,
			.alpn = &l4s[_i].alpn[i],
			.alpn_cnt = l4s[_i].alpn[i] != NULL,
			.path = kind == 'h' ? "/only/*" : NULL,
		};
		routes[i].action.type = CONFIG_FORWARD;
		routes[i].action.protocol = kind == 'h' ? CONFIG_HTTP : CONFIG_TCP;
		routes[i].action.tls_mode =
			kind == 'p' ? CONFIG_TLS_PASSTHROUGH : CONFIG_TLS_TERMINATE;
	}
	struct config config = { .routes = routes, .route_cnt = cnt };
	struct route_index *index = build(&config, NULL);
	struct wire_hello hello = { 0 };
	if (l4s[_i].sni != NULL)
		hello.sni_len = text_format(hello.sni, sizeof(hello.sni), "%s", l4s[_i].sni);
	if (l4s[_i].offered != NULL) {
		hello.alpn_cnt = 2;
		hello.alpn[0].len = 1;
		hello.alpn[0].name[0] = '?';
		hello.alpn[1].len = (uint8_t)strlen(l4s[_i].offered);
		memcpy(hello.alpn[1].name, l4s[_i].offered, hello.alpn[1].len);
	}
	struct addr listen, client;
	ck_assert_int_eq(addr_parse("::", 443, &listen), ERR_OK);
	ck_assert_int_eq(addr_parse("2001:db8::7", 5000, &client), ERR_OK);
	ck_assert_int_eq(route_listener_kind(index, &listen), ROUTE_LISTENER_TLS);
	struct route_l4 want = { .listen = &listen, .client = &client, .hello = &hello };
	const struct route *route = NULL;
	char got[8] = "http";
	enum route_l4_verdict verdict = route_find_l4(index, &want, &route);
	if (verdict == ROUTE_L4_NONE)
		(void)text_format(got, sizeof(got), "none");
	else if (verdict == ROUTE_L4_TUNNEL)
		(void)text_format(got, sizeof(got), "%u", route->ix);
	ck_assert_str_eq(got, l4s[_i].want);
	check_host(index, &want, verdict);
	/* A request never reaches a route that is no HTTP. */
	struct route_request request = { .port = 443,
					 .listen_addr = &listen,
					 .host = "a.x",
					 .host_len = 3,
					 .path = "/only/x",
					 .path_len = 7,
					 .client = &client,
					 .tls_version = 13 };
	route = route_find(index, &request);
	ck_assert(route == NULL || route->config->action.protocol == CONFIG_HTTP);
	route_index_free(index);
}
END_TEST

START_TEST(raw_tcp_and_trust)
{
	static const struct config_ports ports[] = { { 5432, 5440 } }, other = { 80, 80 };
	static const char *const trusted[] = { "10.0.0.0/8", "2001:db8::/32" };
	static const char *const near[] = { "127.0.0.0/8" };
	struct config_route routes[3] = {
		{ .name = "near", .is_enabled = true },
		{ .name = "far", .is_enabled = true },
		{ .name = "web", .is_enabled = true },
	};
	for (size_t i = 0; i < 3; i++) {
		routes[i].match.ports = i < 2 ? ports : &other;
		routes[i].match.port_cnt = 1;
		routes[i].action.type = CONFIG_FORWARD;
		routes[i].action.protocol = i < 2 ? CONFIG_TCP : CONFIG_HTTP;
	}
	routes[0].match.client_ip = near;
	routes[0].match.client_ip_cnt = 1;
	const struct config_listener listeners[] = {
		{ .ports = ports, .port_cnt = 1, .trusted = trusted, .trusted_cnt = 2 },
		{ .ports = &other,
		  .port_cnt = 1,
		  .address = "10.0.0.1",
		  .trusted = trusted,
		  .trusted_cnt = 2 }, /* nothing listens there */
	};
	struct config config = {
		.routes = routes, .route_cnt = 3, .listeners = listeners, .listener_cnt = 2
	};
	struct route_index *index = build(&config, NULL);
	struct addr listen, web, local, far, v6, mapped;
	ck_assert_int_eq(addr_parse("::", 5433, &listen), ERR_OK);
	ck_assert_int_eq(addr_parse("::", 80, &web), ERR_OK);
	ck_assert_int_eq(addr_parse("127.0.0.1", 1, &local), ERR_OK);
	ck_assert_int_eq(addr_parse("192.0.2.1", 1, &far), ERR_OK);
	ck_assert_int_eq(addr_parse("10.1.2.3", 1, &mapped), ERR_OK);
	ck_assert_int_eq(addr_parse("2001:db8::1", 1, &v6), ERR_OK);
	ck_assert_int_eq(route_listener_kind(index, &listen), ROUTE_LISTENER_TCP);
	ck_assert_int_eq(route_listener_kind(index, &web), ROUTE_LISTENER_HTTP);
	ck_assert_int_eq(route_listener_ask(index, &listen, &far).kind, ROUTE_LISTENER_TCP);
	ck_assert_int_eq(route_listener_ask(index, &listen, &mapped).trust, ROUTE_TRUST_PEER);
	ck_assert_int_eq(route_listener_ask(index, &listen, &v6).trust, ROUTE_TRUST_PEER);
	ck_assert_int_eq(route_listener_ask(index, &listen, &far).trust, ROUTE_TRUST_NOT);
	ck_assert_int_eq(route_listener_ask(index, &web, &mapped).trust, ROUTE_TRUST_OFF);
	ck_assert(!route_listener_is_deferred(index, &listen));
	struct route_l4 want = { .listen = &listen, .client = &local };
	const struct route *route = NULL;
	ck_assert_int_eq(route_find_l4(index, &want, &route), ROUTE_L4_TUNNEL);
	ck_assert_str_eq(route->config->name, "near");
	want.client = &far;
	ck_assert_int_eq(route_find_l4(index, &want, &route), ROUTE_L4_TUNNEL);
	ck_assert_str_eq(route->config->name, "far");
	route_index_free(index);
}
END_TEST

/* ---- certificate slots ---- */

START_TEST(slots)
{
	static const struct brief briefs[] = {
		{ "first", .domains = { "first.x" } },
		{ "exact", .domains = { "a.b.c" } },
		{ "one", .domains = { "*.b.c" } },
		{ "many", .domains = { "**.b.c" } },
		{ "plain", .port = 81 },
	};
	static char marks[5];
	struct tls_slot *slot_list[5];
	for (size_t i = 0; i < 5; i++)
		slot_list[i] = i == 4 ? NULL : (struct tls_slot *)(void *)&marks[i];
	static struct made made;
	make_config(&made, briefs, 5);
	struct route_index *index = build(&made.config, slot_list);
	static const struct {
		const char *sni;
		uint16_t port;
		int want; /* -1: none */
	} rows[] = { { "a.b.c", 80, 1 },  { "x.b.c", 80, 2 }, { "y.x.b.c", 80, 3 },
		     { "b.c", 80, 0 },    { "zzz", 80, 0 },   { "", 80, 0 },
		     { "a.b.c", 81, -1 }, { "", 81, -1 },     { "", 82, -1 },
		     { "first.x", 80, 0 } };
	for (size_t i = 0; i < SP_ARRAY_LEN(rows); i++) {
		const char *sni = rows[i].sni;
		struct tls_slot *slot = route_find_slot(index, rows[i].port,
							sni[0] == '\0' ? NULL : sni, strlen(sni));
		ck_assert_msg(slot == (rows[i].want < 0 ? NULL : slot_list[rows[i].want]),
			      "%s on %u", sni, (unsigned)rows[i].port);
	}
	route_index_free(index);
}
END_TEST

/* ---- redirects ---- */

static const struct {
	const char *template, *host, *path, *query; /* query NULL: none */
	size_t cap;
	const char *want; /* NULL: does not fit */
} redirects[] = {
	{ "https://{host}{path}{query}", "a.b", "/x%20y", "q=1", 99, "https://a.b/x%20y?q=1" },
	{ "https://{host}{path}{query}", "a.b", "/", NULL, 99, "https://a.b/" },
	{ "https://{host}{path}{query}", "a.b", "/", "", 99, "https://a.b/?" },
	{ "https://{host}:{port}/", "::1", "/", NULL, 99, "https://[::1]:8080/" },
	{ "{path}", "a.b", "//evil.example/", NULL, 99, "/evil.example/" },
	{ "{path}", "a.b", "////", NULL, 99, "/" },
	{ "/{path}", "a.b", "/evil.example", NULL, 99, "/evil.example" },
	{ "{path}", "a.b", "/\\evil.example/", NULL, 99, "/%5Cevil.example/" },
	{ "{path}{query}", "a.b", "/\\/evil.example", "\\", 99, "/%5C/evil.example?%5C" },
	{ "/fixed", "a.b", "/", "x", 99, "/fixed" },
	{ "/{unknown}x", "a.b", "/", NULL, 99, "/x" },
	{ "/open{", "a.b", "/", NULL, 99, "/open{" },
	{ "{path}{path}", "a.b", "/12345", NULL, 13, "/12345/12345" },
	{ "{path}{path}", "a.b", "/12345", NULL, 12, NULL },
	{ "/123", "a.b", "/", NULL, 5, "/123" },
	{ "/123", "a.b", "/", NULL, 4, NULL },
};

START_TEST(redirect)
{
	char dst[100];
	struct route_redirect values = { .host = span_of(redirects[_i].host),
					 .path = span_of(redirects[_i].path),
					 .port = 8080 };
	if (redirects[_i].query != NULL)
		values.query = span_of(redirects[_i].query);
	memset(dst, 'Z', sizeof(dst));
	const char *have =
		route_expand_location(redirects[_i].template, &values, dst, redirects[_i].cap);
	if (redirects[_i].want == NULL)
		ck_assert_ptr_null(have);
	else
		ck_assert_str_eq(have, redirects[_i].want);
	for (size_t i = redirects[_i].cap; i < sizeof(dst); i++)
		ck_assert_int_eq(dst[i], 'Z');
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("route");
	TCase *tc = tcase_create("index");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, rule, 0, SP_ARRAY_LEN(rules));
	tcase_add_test(tc, as_the_naive_one);
	tcase_add_test(tc, many_routes);
	tcase_add_test(tc, listeners_distinct);
	tcase_add_loop_test(tc, before_http, 0, SP_ARRAY_LEN(l4s));
	tcase_add_test(tc, raw_tcp_and_trust);
	tcase_add_test(tc, slots);
	tcase_add_loop_test(tc, redirect, 0, SP_ARRAY_LEN(redirects));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
