#include "routing.h"

#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* "auto:p256:a.example,b.example": sorted, distinct, so that equal wishes share one slot. */
static enum err identify_auto(const struct config_route *route, struct text *identity)
{
	size_t cnt = route->match.domain_cnt;
	const char **names = calloc(cnt + 1, sizeof(*names));
	if (names == NULL)
		return ERR_NOMEM;
	memcpy(names, route->match.domains, cnt * sizeof(*names));
	qsort(names, cnt, sizeof(*names), compare_names);
	text_printf(identity,
		    "auto:%s:", tls_key_type_name((enum tls_key_type)route->action.key_type));
	bool is_first = true;
	for (size_t i = 0; i < cnt; i++) {
		if (i > 0 && strcmp(names[i - 1], names[i]) == 0)
			continue;
		text_printf(identity, "%s%s", is_first ? "" : ",", names[i]);
		is_first = false;
	}
	free(names);
	return identity->has_failed ? ERR_NOMEM : ERR_OK;
}

static enum err stage_files(struct routing *routing, const struct config_route *route,
			    struct tls_slot *slot, struct text *reterr) SP_ON_CONTROL;
static enum err stage_files(struct routing *routing, const struct config_route *route,
			    struct tls_slot *slot, struct text *reterr)
{
	if (tls_slot_mark(slot, true))
		return ERR_OK;
	struct text why = { 0 };
	struct tls_cert *cert = NULL;
	enum err e = tls_cert_from_files(route->action.chain_file, route->action.key_file,
					 tls_slot_current(slot), &cert, &why);
	routing->staged[routing->staged_cnt++] = (struct staged){ slot, cert };
	if (e != ERR_OK)
		text_printf(reterr, "route \"%s\": action.tls.certificate: %s", route->name,
			    why.data == NULL ? err_text(e) : why.data);
	text_fini(&why);
	return e;
}

static enum err take_slot(struct generations *gs, struct routing *routing, size_t ix,
			  struct text *reterr) SP_ON_CONTROL;
static enum err take_slot(struct generations *gs, struct routing *routing, size_t ix,
			  struct text *reterr)
{
	const struct config_route *route = &routing->config->routes[ix];
	if (!route->is_enabled || route->action.tls_mode == CONFIG_TLS_NONE ||
	    route->action.tls_mode == CONFIG_TLS_PASSTHROUGH)
		return ERR_OK;
	bool is_auto = route->action.certificate == CONFIG_CERT_AUTO;
	struct text identity = { 0 };
	enum err e = ERR_OK;
	if (is_auto)
		e = identify_auto(route, &identity);
	else /* the length: a path may have colons */
		text_printf(&identity, "file:%zu:%s:%s", strlen(route->action.chain_file),
			    route->action.chain_file, route->action.key_file);
	if (e == ERR_OK)
		e = identity.has_failed
			    ? ERR_NOMEM
			    : tls_slot_get(gs->slots, identity.data, &routing->slots[ix]);
	text_fini(&identity);
	if (e == ERR_OK && !is_auto)
		e = stage_files(routing, route, routing->slots[ix], reterr);
	return e;
}

static enum err take_group(struct generations *gs, struct route *route, struct text *reterr)
	SP_ON_CONTROL;
static enum err take_group(struct generations *gs, struct route *route, struct text *reterr)
{
	const struct config_action_data *action = &route->config->action;
	if (route->config->max_connections > 0) {
		enum err e = limit_counter_get(gs->limits, route->config->name, &route->counter);
		if (e != ERR_OK)
			return e;
	}
	if (action->type != CONFIG_FORWARD)
		return ERR_OK;
	bool is_tls = action->tls_mode == CONFIG_TLS_REENCRYPT;
	struct text why = { 0 };
	enum err e = upstream_group_get(gs->upstreams, action->upstream,
					is_tls ? &action->upstream_tls : NULL, &route->group, &why);
	if (e != ERR_OK)
		text_printf(reterr, "route \"%s\": %s", route->config->name,
			    why.data == NULL ? err_text(e) : why.data);
	text_fini(&why);
	return e;
}

static enum err fill(struct generations *gs, struct routing *routing, struct text *reterr)
	SP_ON_CONTROL;
static enum err fill(struct generations *gs, struct routing *routing, struct text *reterr)
{
	const struct config *config = routing->config;
	routing->slots = calloc(config->route_cnt + 1, sizeof(struct tls_slot *));
	routing->staged = calloc(config->route_cnt + 1, sizeof(*routing->staged));
	if (fault_hits(FAULT_MALLOC) || routing->slots == NULL || routing->staged == NULL)
		return ERR_NOMEM;
	for (size_t i = 0; i < config->route_cnt; i++) {
		enum err e = take_slot(gs, routing, i, reterr);
		if (e != ERR_OK)
			return e;
	}
	enum err e = route_index_new(config, routing->slots, &routing->index);
	for (size_t i = 0; e == ERR_OK && i < route_index_cnt(routing->index); i++)
		e = take_group(gs, route_index_at(routing->index, i), reterr);
	return e;
}

enum err routing_build(struct generations *gs, struct config *config, struct routing **ret_routing,
		       struct text *reterr)
{
	struct routing *routing = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*routing));
	if (routing == NULL)
		return ERR_NOMEM;
	routing->ref_cnt = 1;
	config_get(config);
	routing->config = config;
	enum err e = fill(gs, routing, reterr);
	if (e != ERR_OK) {
		routing_put(gs, routing);
		return e;
	}
	*ret_routing = routing;
	return ERR_OK;
}

static void put_groups(struct generations *gs, struct route_index *index) SP_ON_CONTROL;
static void put_groups(struct generations *gs, struct route_index *index)
{
	for (size_t i = 0; index != NULL && i < route_index_cnt(index); i++) {
		struct route *route = route_index_at(index, i);
		if (route->group != NULL)
			upstream_group_put(gs->upstreams, route->group);
		if (route->counter != NULL)
			limit_counter_put(gs->limits, route->counter);
	}
}

static void drop_certificates(struct routing *routing) SP_ON_CONTROL;
static void drop_certificates(struct routing *routing)
{
	for (size_t i = 0; i < routing->staged_cnt; i++) {
		(void)tls_slot_mark(routing->staged[i].slot, false);
		tls_cert_put(routing->staged[i].cert);
	}
	routing->staged_cnt = 0;
}

void routing_put(struct generations *gs, struct routing *routing)
{
	if (routing == NULL || --routing->ref_cnt > 0)
		return;
	put_groups(gs, routing->index);
	route_index_free(routing->index);
	drop_certificates(routing);
	for (size_t i = 0; routing->slots != NULL && i < routing->config->route_cnt; i++) {
		if (routing->slots[i] != NULL)
			tls_slot_put(routing->slots[i]);
	}
	free(routing->staged);
	free(routing->slots);
	config_put(routing->config);
	free(routing);
}

void routing_install_certificates(struct routing *routing)
{
	for (size_t i = 0; i < routing->staged_cnt; i++) {
		struct staged *staged = &routing->staged[i];
		if (staged->cert == tls_slot_current(staged->slot))
			continue;
		tls_slot_install(staged->slot, staged->cert);
		staged->cert = NULL;
	}
	drop_certificates(routing);
}

void routing_apply_groups(struct generations *gs, struct routing *routing)
{
	if (routing->is_applied)
		return;
	for (size_t i = 0; i < route_index_cnt(routing->index); i++) {
		struct upstream_group *group = route_index_at(routing->index, i)->group;
		if (group != NULL)
			upstream_group_apply(gs->upstreams, group);
	}
	routing->is_applied = true;
}
