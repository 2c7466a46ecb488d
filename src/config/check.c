/* The routes among each other, in O(n log n). */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "load.h"

struct checker {
	struct loader *l;
	const struct config *config;
	const struct value *routes;
};

static const char *place(const struct checker *c, const char *key, size_t ix, char *dst)
{
	text_format(dst, 64, "routes[%zu]%s", ix, key);
	(void)c;
	return dst;
}

/* " (line 12)" of a route that came from a file. */
static const char *line_text(const struct config_route *route, char *dst)
{
	dst[0] = '\0';
	if (route->line)
		text_format(dst, 32, " (line %u)", route->line);
	return dst;
}

/* Names: open addressing; a slot holds the index of a route plus 1. FNV-1a is enough, the file is
 * the operator's. */
static uint64_t hash(const char *s)
{
	uint64_t h = 0xcbf29ce484222325u;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3u;
	return h ^ h >> 32;
}

static enum err check_names(const struct checker *c)
{
	const struct config *config = c->config;
	size_t size = 16;
	while (size < config->route_cnt * 2)
		size *= 2;
	uint32_t *slots = calloc(size, sizeof(*slots));
	if (!slots)
		return ERR_NOMEM;
	for (size_t i = 0; i < config->route_cnt; i++) {
		const char *name = config->routes[i].name;
		if (!name)
			continue;
		size_t at = hash(name) & (size - 1);
		while (slots[at] && strcmp(config->routes[slots[at] - 1].name, name) != 0)
			at = (at + 1) & (size - 1);
		if (!slots[at]) {
			slots[at] = (uint32_t)i + 1;
			continue;
		}
		char path[64], line[32];
		size_t first = slots[at] - 1;
		load_problem(c->l, value_member(&c->routes->items[i], "name"),
			     place(c, ".name", i, path),
			     "the name \"%s\" is taken by routes[%zu]%s: names are unique", name,
			     first, line_text(&config->routes[first], line));
	}
	free(slots);
	return ERR_OK;
}

/* What an enabled route listens on. */
struct span {
	uint32_t first, last;
	const char *address; /* "": all */
	uint32_t route_ix;
	bool has_tls;
};

static int by_port(const void *va, const void *vb)
{
	const struct span *a = va, *b = vb;
	if (a->first != b->first)
		return a->first < b->first ? -1 : 1;
	return a->route_ix < b->route_ix ? -1 : a->route_ix > b->route_ix;
}

static int by_address(const void *va, const void *vb)
{
	int order = strcmp(((const struct span *)va)->address, ((const struct span *)vb)->address);
	return order ? order : by_port(va, vb);
}

static void report_mix(const struct checker *c, const struct span *a, const struct span *b)
{
	const struct config_route *routes = c->config->routes;
	const struct span *tls = a->has_tls ? a : b, *plain = a->has_tls ? b : a;
	const struct span *later = a->route_ix > b->route_ix ? a : b;
	char path[64], tls_line[32], plain_line[32];
	const struct value *match = value_member(&c->routes->items[later->route_ix], "match");
	const char *tls_name = routes[tls->route_ix].name,
		   *plain_name = routes[plain->route_ix].name;
	load_problem(c->l, value_member(match, "ports"),
		     place(c, ".match.ports", later->route_ix, path),
		     "port %u is TLS for route \"%s\"%s and plain for route \"%s\"%s: all enabled "
		     "routes of a port are the one or the other",
		     a->first > b->first ? a->first : b->first, tls_name ? tls_name : "?",
		     line_text(&routes[tls->route_ix], tls_line), plain_name ? plain_name : "?",
		     line_text(&routes[plain->route_ix], plain_line));
}

static bool overlaps(const struct span *farthest, const struct span *span)
{
	return farthest && farthest->last >= span->first;
}

static void keep_farthest(const struct span **farthest, const struct span *span)
{
	if (!*farthest || (*farthest)->last < span->last)
		*farthest = span;
}

/* Spans of one address, by first port: one that begins before the farthest of the other kind has
 * ended is mixed with it. */
static void check_mix_same(const struct checker *c, struct span *spans, size_t cnt)
{
	const struct span *farthest[2] = { NULL, NULL };
	qsort(spans, cnt, sizeof(*spans), by_address);
	for (size_t i = 0; i < cnt; i++) {
		if (i && strcmp(spans[i].address, spans[i - 1].address) != 0)
			farthest[0] = farthest[1] = NULL;
		if (overlaps(farthest[!spans[i].has_tls], &spans[i]))
			report_mix(c, &spans[i], farthest[!spans[i].has_tls]);
		keep_farthest(&farthest[spans[i].has_tls], &spans[i]);
	}
}

/* The same for a span of all addresses against those of one. */
static void check_mix_wildcard(const struct checker *c, struct span *spans, size_t cnt)
{
	const struct span *farthest[2][2] = { { NULL, NULL },
					      { NULL, NULL } }; /* [is_wild][has_tls] */
	qsort(spans, cnt, sizeof(*spans), by_port);
	for (size_t i = 0; i < cnt; i++) {
		bool is_wild = spans[i].address[0] == '\0';
		if (overlaps(farthest[!is_wild][!spans[i].has_tls], &spans[i]))
			report_mix(c, &spans[i], farthest[!is_wild][!spans[i].has_tls]);
		keep_farthest(&farthest[is_wild][spans[i].has_tls], &spans[i]);
	}
}

static void check_acme_port(const struct checker *c, const struct span *spans, size_t cnt,
			    bool wants_auto)
{
	uint16_t port = c->config->acme.port;
	for (size_t i = 0; wants_auto && i < cnt; i++) {
		const struct config_route *route = &c->config->routes[spans[i].route_ix];
		if (!spans[i].has_tls || spans[i].first > port || spans[i].last < port)
			continue;
		char path[64];
		const struct value *match =
			value_member(&c->routes->items[spans[i].route_ix], "match");
		load_problem(c->l, value_member(match, "ports"),
			     place(c, ".match.ports", spans[i].route_ix, path),
			     "port %u is acme.port, where http-01 challenges are answered in plain "
			     "HTTP; route \"%s\" cannot have TLS on it",
			     port, route->name ? route->name : "?");
		return;
	}
}

static enum err check_ports(const struct checker *c)
{
	const struct config *config = c->config;
	size_t cnt = 0;
	bool wants_auto = false;
	for (size_t i = 0; i < config->route_cnt; i++)
		cnt += config->routes[i].is_enabled ? config->routes[i].match.port_cnt : 0;
	struct span *spans = calloc(cnt + 1, sizeof(*spans));
	if (!spans)
		return ERR_NOMEM;
	cnt = 0;
	for (size_t i = 0; i < config->route_cnt; i++) {
		const struct config_route *r = &config->routes[i];
		bool has_tls = r->action.tls_mode != CONFIG_TLS_NONE;
		if (!r->is_enabled)
			continue;
		wants_auto |= has_tls && r->action.certificate == CONFIG_CERT_AUTO;
		for (size_t j = 0; j < r->match.port_cnt; j++)
			if (r->match.ports[j].first)
				spans[cnt++] = (struct span){
					.first = r->match.ports[j].first,
					.last = r->match.ports[j].last,
					.address = r->match.address ? r->match.address : "",
					.route_ix = (uint32_t)i,
					.has_tls = has_tls,
				};
	}
	check_mix_same(c, spans, cnt);
	check_mix_wildcard(c, spans, cnt);
	check_acme_port(c, spans, cnt, wants_auto);
	free(spans);
	return ERR_OK;
}

enum err check_routes(struct loader *l, const struct config *config, const struct value *routes)
{
	struct checker c = { .l = l, .config = config, .routes = routes };
	if (!config->route_cnt)
		return ERR_OK;
	enum err e = check_names(&c);
	return e ? e : check_ports(&c);
}
