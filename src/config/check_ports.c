/* What listens where, in O(n log n). */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "load.h"

enum kind { KIND_TLS, KIND_HTTP, KIND_TCP, KIND_CNT };
static const char *const kind_names[] = { "TLS", "plain HTTP", "raw TCP" };

/* Ports of an enabled route, or of a listener. */
struct span {
	uint32_t first, last;
	const char *address; /* "": all */
	uint32_t ix;         /* of the route or listener */
	enum kind kind;
	const struct config_match *match; /* NULL: a listener's */
};
struct checker {
	struct loader *l;
	const struct config *config;
	const struct check_lists *lists;
};

static int by_port(const void *va, const void *vb)
{
	const struct span *a = va, *b = vb;
	if (a->first != b->first)
		return a->first < b->first ? -1 : 1;
	return a->ix < b->ix ? -1 : a->ix > b->ix;
}

static int by_address(const void *va, const void *vb)
{
	int order = strcmp(((const struct span *)va)->address, ((const struct span *)vb)->address);
	return order ? order : by_port(va, vb);
}

/* By address and client_ip, as written. */
static int compare_sources(const struct span *a, const struct span *b)
{
	const struct config_match *x = a->match, *y = b->match;
	int order = strcmp(a->address, b->address);
	if (!order && x->client_ip_cnt != y->client_ip_cnt)
		order = x->client_ip_cnt < y->client_ip_cnt ? -1 : 1;
	for (size_t i = 0; !order && i < x->client_ip_cnt; i++)
		order = strcmp(x->client_ip[i] ? x->client_ip[i] : "",
			       y->client_ip[i] ? y->client_ip[i] : "");
	return order;
}

static int by_source(const void *va, const void *vb)
{
	int order = compare_sources(va, vb);
	return order ? order : by_port(va, vb);
}

static uint32_t common_port(const struct span *a, const struct span *b)
{
	return a->first > b->first ? a->first : b->first;
}

static void report(const struct checker *c, const struct span *span, const char *sentence)
{
	char path[64];
	const struct value *list = span->match ? c->lists->routes : c->lists->listeners;
	const struct value *element = check_element(list, span->ix);
	text_format(path, sizeof(path),
		    span->match ? "routes[%u].match.ports" : "listeners[%u].ports", span->ix);
	if (span->match)
		element = value_member(element, "match");
	load_problem(c->l, value_member(element, "ports"), path, "%s", sentence);
}

/* route "a" (line 12) */
static const char *route_text(const struct checker *c, const struct span *span, char *dst)
{
	char line[CHECK_LINE_MAX];
	const struct config_route *route = &c->config->routes[span->ix];
	text_format(dst, 192, "route \"%s\"%s", route->name ? route->name : "?",
		    check_line(route->line, line));
	return dst;
}

static void report_mix(const struct checker *c, const struct span *a, const struct span *b)
{
	char sentence[640], texts[2][192];
	const struct span *x = a->kind < b->kind ? a : b, *y = x == a ? b : a;
	text_format(sentence, sizeof(sentence),
		    "port %u is %s for %s and %s for %s: all enabled routes of a port are of one "
		    "kind; move one of them to another port",
		    common_port(a, b), kind_names[x->kind], route_text(c, x, texts[0]),
		    kind_names[y->kind], route_text(c, y, texts[1]));
	report(c, a->ix > b->ix ? a : b, sentence);
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

/* farthest: of each kind. */
static void check_kinds(const struct checker *c, const struct span *const *farthest,
			const struct span *span)
{
	for (unsigned kind = 0; kind < KIND_CNT; kind++) {
		if (kind == (unsigned)span->kind || !overlaps(farthest[kind], span))
			continue;
		report_mix(c, span, farthest[kind]);
		return;
	}
}

/* Spans of one address, by first port: one that begins before the farthest of another kind has
 * ended is mixed with it. */
static void check_mix_same(const struct checker *c, struct span *spans, size_t cnt)
{
	const struct span *farthest[KIND_CNT] = { NULL };
	qsort(spans, cnt, sizeof(*spans), by_address);
	for (size_t i = 0; i < cnt; i++) {
		if (i && strcmp(spans[i].address, spans[i - 1].address) != 0)
			memset(farthest, 0, sizeof(farthest));
		check_kinds(c, farthest, &spans[i]);
		keep_farthest(&farthest[spans[i].kind], &spans[i]);
	}
}

/* The same for a span of all addresses against those of one. */
static void check_mix_wildcard(const struct checker *c, struct span *spans, size_t cnt)
{
	const struct span *farthest[2][KIND_CNT] = { { NULL }, { NULL } }; /* [is_wild] */
	qsort(spans, cnt, sizeof(*spans), by_port);
	for (size_t i = 0; i < cnt; i++) {
		bool is_wild = spans[i].address[0] == '\0';
		check_kinds(c, farthest[!is_wild], &spans[i]);
		keep_farthest(&farthest[is_wild][spans[i].kind], &spans[i]);
	}
}

static void check_acme_port(const struct checker *c, const struct span *spans, size_t cnt)
{
	char sentence[640], text[192];
	uint16_t port = c->config->acme.port;
	for (size_t i = 0; i < cnt; i++) {
		if (spans[i].kind == KIND_HTTP || spans[i].first > port || spans[i].last < port)
			continue;
		text_format(sentence, sizeof(sentence),
			    "port %u is acme.port, where http-01 challenges are answered in plain "
			    "HTTP; %s cannot have %s on it",
			    port, route_text(c, &spans[i], text), kind_names[spans[i].kind]);
		report(c, &spans[i], sentence);
		return;
	}
}

/* Raw TCP routes that nothing tells apart before a byte is read. Sorts spans. */
static void check_raw(const struct checker *c, struct span *spans, size_t cnt)
{
	char sentence[640], text[192];
	size_t raw_cnt = 0;
	for (size_t i = 0; i < cnt; i++)
		if (spans[i].kind == KIND_TCP)
			spans[raw_cnt++] = spans[i];
	qsort(spans, raw_cnt, sizeof(*spans), by_source);
	const struct span *farthest = NULL;
	for (size_t i = 0; i < raw_cnt; i++) {
		if (farthest && compare_sources(farthest, &spans[i]) != 0)
			farthest = NULL;
		if (overlaps(farthest, &spans[i]) && farthest->ix != spans[i].ix) {
			const struct span *first =
				farthest->ix < spans[i].ix ? farthest : &spans[i];
			text_format(
				sentence, sizeof(sentence),
				"port %u is raw TCP for %s too, from the same clients: one of the "
				"two is never reached; give it another port, address or client_ip",
				common_port(farthest, &spans[i]), route_text(c, first, text));
			report(c, first == farthest ? &spans[i] : farthest, sentence);
		}
		keep_farthest(&farthest, &spans[i]);
	}
}

static enum kind kind_of(const struct config_action_data *a)
{
	if (a->tls_mode != CONFIG_TLS_NONE)
		return KIND_TLS;
	return a->type == CONFIG_FORWARD && a->protocol == CONFIG_TCP ? KIND_TCP : KIND_HTTP;
}

static bool wants_auto(const struct config_action_data *a)
{
	return (a->tls_mode == CONFIG_TLS_TERMINATE || a->tls_mode == CONFIG_TLS_REENCRYPT) &&
	       a->certificate == CONFIG_CERT_AUTO;
}

static enum err check_route_ports(const struct checker *c)
{
	const struct config *config = c->config;
	size_t cnt = 0;
	bool has_auto = false;
	for (size_t i = 0; i < config->route_cnt; i++)
		cnt += config->routes[i].is_enabled ? config->routes[i].match.port_cnt : 0;
	struct span *spans = calloc(cnt + 1, sizeof(*spans));
	if (!spans)
		return ERR_NOMEM;
	cnt = 0;
	for (size_t i = 0; i < config->route_cnt; i++) {
		const struct config_route *r = &config->routes[i];
		if (!r->is_enabled)
			continue;
		has_auto |= wants_auto(&r->action);
		for (size_t j = 0; j < r->match.port_cnt; j++)
			if (r->match.ports[j].first)
				spans[cnt++] = (struct span){
					.first = r->match.ports[j].first,
					.last = r->match.ports[j].last,
					.address = r->match.address ? r->match.address : "",
					.ix = (uint32_t)i,
					.kind = kind_of(&r->action),
					.match = &r->match,
				};
	}
	check_mix_same(c, spans, cnt);
	check_mix_wildcard(c, spans, cnt);
	if (has_auto)
		check_acme_port(c, spans, cnt);
	check_raw(c, spans, cnt);
	free(spans);
	return ERR_OK;
}

static enum err check_listener_ports(const struct checker *c)
{
	const struct config *config = c->config;
	char sentence[160], line[CHECK_LINE_MAX];
	size_t cnt = 0;
	for (size_t i = 0; i < config->listener_cnt; i++)
		cnt += config->listeners[i].port_cnt;
	struct span *spans = calloc(cnt + 1, sizeof(*spans));
	if (!spans)
		return ERR_NOMEM;
	cnt = 0;
	for (size_t i = 0; i < config->listener_cnt; i++) {
		const struct config_listener *listener = &config->listeners[i];
		for (size_t j = 0; j < listener->port_cnt; j++)
			if (listener->ports[j].first)
				spans[cnt++] = (struct span){
					.first = listener->ports[j].first,
					.last = listener->ports[j].last,
					.address = listener->address ? listener->address : "",
					.ix = (uint32_t)i,
				};
	}
	qsort(spans, cnt, sizeof(*spans), by_address);
	const struct span *farthest = NULL;
	for (size_t i = 0; i < cnt; i++) {
		if (farthest && strcmp(farthest->address, spans[i].address) != 0)
			farthest = NULL;
		if (overlaps(farthest, &spans[i])) {
			const struct span *a = farthest, *b = &spans[i];
			uint32_t first = a->ix < b->ix ? a->ix : b->ix;
			text_format(
				sentence, sizeof(sentence),
				"port %u is in listeners[%u]%s already: each port of an address "
				"stands once",
				common_port(a, b), first,
				check_line(config->listeners[first].line, line));
			report(c, a->ix < b->ix ? b : a, sentence);
		}
		keep_farthest(&farthest, &spans[i]);
	}
	free(spans);
	return ERR_OK;
}

enum err check_ports(struct loader *l, const struct config *config, const struct check_lists *lists)
{
	struct checker c = { .l = l, .config = config, .lists = lists };
	enum err e = check_route_ports(&c);
	return e ? e : check_listener_ports(&c);
}
