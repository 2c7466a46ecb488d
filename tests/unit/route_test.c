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
	struct config config = { .routes = routes, .route_cnt = 3 };
	struct route_index *index = build(&config, NULL);
	size_t cnt = 0;
	const struct addr *listeners = route_index_listeners(index, &cnt);
	ck_assert_uint_eq(cnt, 5 + 4);
	for (size_t i = 0; i < cnt; i++) {
		bool is_local = listeners[i].sa.sa_family == AF_INET;
		ck_assert(route_listener_is_tls(index, &listeners[i]) == is_local);
		for (size_t k = 0; k < i; k++)
			ck_assert(!addr_is_equal(&listeners[i], &listeners[k]));
	}
	route_index_free(index);
}
END_TEST

/* ---- schedules ---- */

static struct route_index *build_forward(const struct config_target *targets, size_t cnt)
{
	static struct config_ports ports = { 80, 80 };
	static struct config_route route;
	route = (struct config_route){
		.name = "r",
		.is_enabled = true,
		.match = { .ports = &ports, .port_cnt = 1 },
		.action = { .type = CONFIG_FORWARD, .targets = targets, .target_cnt = cnt },
	};
	struct config config = { .routes = &route, .route_cnt = 1 };
	return build(&config, NULL);
}

static const struct {
	unsigned weights[5]; /* 0: end */
} weightings[] = { { { 1 } },
		   { { 1, 1, 1 } },
		   { { 5, 1, 1 } },
		   { { 256, 1 } },
		   { { 3, 2, 1, 4 } },
		   { { 7, 7, 7, 7, 1 } },
		   { { 100, 100, 50, 25, 5 } } };

START_TEST(schedule)
{
	struct config_target targets[5];
	size_t cnt = 0;
	unsigned total = 0;
	for (; cnt < 5 && weightings[_i].weights[cnt] > 0; cnt++) {
		targets[cnt] = (struct config_target){ "h", 1, weightings[_i].weights[cnt] };
		total += targets[cnt].weight;
	}
	struct route_index *index = build_forward(targets, cnt);
	const struct route *made = route_index_at(index, 0);
	ck_assert_uint_eq(made->schedule_len, total);
	unsigned seen[5] = { 0 };
	for (uint32_t i = 0; i < made->schedule_len; i++) {
		ck_assert_uint_lt(made->schedule[i], cnt);
		seen[made->schedule[i]]++;
		/* Spread: no target is ever more than one round ahead of or behind its share. */
		for (size_t t = 0; t < cnt; t++) {
			double due = (double)(i + 1) * targets[t].weight / total;
			ck_assert_msg((double)seen[t] - due < (double)cnt &&
					      due - (double)seen[t] < (double)cnt,
				      "target %zu at %u", t, i);
		}
	}
	for (size_t t = 0; t < cnt; t++)
		ck_assert_uint_eq(seen[t], targets[t].weight);
	route_index_free(index);
}
END_TEST

START_TEST(schedule_is_bounded)
{
	static struct config_target targets[200];
	for (size_t i = 0; i < 200; i++)
		targets[i] = (struct config_target){ "h", 1, i == 0 ? 256 : 100 };
	struct route_index *index = build_forward(targets, 200);
	const struct route *made = route_index_at(index, 0);
	unsigned seen[200] = { 0 };
	for (uint32_t i = 0; i < made->schedule_len; i++)
		seen[made->schedule[i]]++;
	for (size_t i = 1; i < 200; i++)
		ck_assert_uint_eq(seen[i], seen[1]);
	ck_assert_uint_gt(seen[1], 0);
	ck_assert_uint_gt(seen[0], 2 * seen[1]);
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
	tcase_add_loop_test(tc, schedule, 0, SP_ARRAY_LEN(weightings));
	tcase_add_test(tc, schedule_is_bounded);
	tcase_add_test(tc, slots);
	tcase_add_loop_test(tc, redirect, 0, SP_ARRAY_LEN(redirects));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
