#pragma once
/* Routes and requests in short, for route_test.c. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/arena.h"
#include "smartproxy/assert.h"
#include "smartproxy/rand.h"
#include "smartproxy/route.h"

#define ROUTES_MAX 8
#define LIST_MAX   4

/* A route in short: NULL and 0 are "no condition". */
struct brief {
	const char *name;
	int priority;
	const char *domains[LIST_MAX];
	const char *path;
	const char *methods[LIST_MAX];
	const char *header, *value;
	const char *clients[LIST_MAX];
	unsigned tls; /* 12, 13 */
	const char *address;
	uint16_t port; /* 0: 80 */
	bool is_disabled;
};

/* Storage of a configuration made of briefs. */
struct made {
	struct config config;
	struct config_route routes[ROUTES_MAX];
	struct config_ports ports[ROUTES_MAX];
	struct config_header_match headers[ROUTES_MAX];
};

static size_t cnt_of(const char *const *list)
{
	size_t cnt = 0;
	while (cnt < LIST_MAX && list[cnt] != NULL)
		cnt++;
	return cnt;
}

static void make_config(struct made *m, const struct brief *briefs, size_t cnt)
{
	SP_ASSERT(cnt <= ROUTES_MAX);
	memset(m, 0, sizeof(*m));
	for (size_t i = 0; i < cnt; i++) {
		const struct brief *b = &briefs[i];
		uint16_t port = b->port == 0 ? 80 : b->port;
		m->ports[i] = (struct config_ports){ port, port };
		m->headers[i] = (struct config_header_match){ b->header, b->value };
		m->routes[i] = (struct config_route){
			.name = b->name,
			.priority = b->priority,
			.is_enabled = !b->is_disabled,
			.match = { .ports = &m->ports[i],
				   .port_cnt = 1,
				   .address = b->address,
				   .domains = b->domains,
				   .domain_cnt = cnt_of(b->domains),
				   .path = b->path,
				   .methods = b->methods,
				   .method_cnt = cnt_of(b->methods),
				   .headers = &m->headers[i],
				   .header_cnt = b->header != NULL,
				   .client_ip = b->clients,
				   .client_ip_cnt = cnt_of(b->clients),
				   .has_tls12 = b->tls == 12,
				   .has_tls13 = b->tls == 13 },
			.action = { .type = CONFIG_RESPOND },
		};
	}
	m->config.routes = m->routes;
	m->config.route_cnt = cnt;
}

static struct route_index *build(const struct config *config, struct tls_slot *const *slots)
{
	struct route_index *index = NULL;
	ck_assert_int_eq(route_index_new(config, slots, &index), ERR_OK);
	return index;
}

/* A request in short. */
struct ask {
	const char *host, *path;
	const char *method; /* NULL: GET */
	const char *header, *value;
	const char *client; /* NULL: 192.0.2.1 */
	unsigned tls;
	const char *listen; /* NULL: :: */
	uint16_t port;      /* 0: 80 */
};

struct asked {
	struct route_request request;
	struct addr listen, client;
	struct wire_field field;
};

static struct wire_span span_of(const char *s)
{
	return (struct wire_span){ s, (uint32_t)strlen(s) };
}

static void make_request(struct asked *a, const struct ask *ask)
{
	uint16_t port = ask->port == 0 ? 80 : ask->port;
	const char *method = ask->method == NULL ? "GET" : ask->method;
	memset(a, 0, sizeof(*a));
	SP_ASSERT(addr_parse(ask->listen == NULL ? "::" : ask->listen, port, &a->listen) == ERR_OK);
	SP_ASSERT(addr_parse(ask->client == NULL ? "192.0.2.1" : ask->client, 999, &a->client) ==
		  ERR_OK);
	if (ask->header != NULL)
		a->field = (struct wire_field){ .name = span_of(ask->header),
						.value = span_of(ask->value) };
	a->request = (struct route_request){ .port = port,
					     .listen_addr = &a->listen,
					     .host = ask->host == NULL ? "" : ask->host,
					     .host_len = ask->host == NULL ? 0 : strlen(ask->host),
					     .path = ask->path == NULL ? "" : ask->path,
					     .path_len = ask->path == NULL ? 0 : strlen(ask->path),
					     .method = span_of(method),
					     .fields = &a->field,
					     .field_cnt = ask->header != NULL,
					     .client = &a->client,
					     .tls_version = ask->tls };
}

static const char *find_name(const struct route_index *index, const struct ask *ask)
{
	struct asked a;
	make_request(&a, ask);
	const struct route *route = route_find(index, &a.request);
	return route == NULL ? "-" : route->config->name;
}
