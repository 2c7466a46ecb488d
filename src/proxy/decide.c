/* What becomes of a request: the steps of ROUTE and ADMIT (the table is in exchange.c). */
#include <string.h>
#include <strings.h>

#include "exchange.h"

static bool normalise_path(struct exchange *x)
{
	const struct wire_h1_request *request = &x->request;
	if (request->target_form == WIRE_TARGET_ASTERISK ||
	    request->target_form == WIRE_TARGET_AUTHORITY)
		return true; /* no path: only routes without one match */
	return wire_path_normalise(request->path.at, request->path.len, x->path, &x->path_len);
}

/* The challenge route comes before everything else on its port (RFC 8555, 8.3). */
static bool find_challenge(struct exchange *x, const struct generation *g) SP_RCU_READER;
static bool find_challenge(struct exchange *x, const struct generation *g)
{
	static const char prefix[] = CHALLENGE_PATH_PREFIX;
	const size_t prefix_len = sizeof(prefix) - 1;
	const struct wire_span *path = &x->request.path;
	if (!g->has_challenge_route || x->conn->port != g->challenge_port || x->conn->tls != NULL ||
	    path->len <= prefix_len || memcmp(path->at, prefix, prefix_len) != 0)
		return false;
	if (x->request.method != WIRE_METHOD_GET && x->request.method != WIRE_METHOD_HEAD)
		return false;
	return challenge_find(x->worker->challenges, x->request.host_name, x->request.host_name_len,
			      path->at + prefix_len, path->len - prefix_len, x->challenge,
			      &x->reply_text_len);
}

/* A certificate was chosen by SNI: a request for a name of another certificate, or for one whose connections are
 * tunnels, does not belong here (RFC 9110, 15.5.20). */
static bool is_misdirected(const struct exchange *x, const struct generation *g) SP_RCU_READER;
static bool is_misdirected(const struct exchange *x, const struct generation *g)
{
	const struct conn *conn = x->conn;
	if (conn->tls == NULL || !conn->has_sni || x->request.host_name_len == 0)
		return false;
	const struct tls_slot *slot = route_find_slot(g->routes, conn->port, x->request.host_name,
						      x->request.host_name_len);
	return slot == NULL || tls_slot_hash(slot) != conn->slot_hash ||
	       route_host_is_tunnelled(g->routes, &conn->listen, &conn->client,
				       x->request.host_name, x->request.host_name_len);
}

enum verdict { VERDICT_ROUTE, VERDICT_CHALLENGE, VERDICT_NONE, VERDICT_MISDIRECTED };

/* One decision, by the root that is published now, also on a connection that served older ones. */
static enum verdict decide(struct exchange *x)
{
	const struct conn *conn = x->conn;
	struct route_request want = {
		.port = conn->port,
		.listen_addr = &conn->listen,
		.host = x->request.host_name,
		.host_len = x->request.host_name_len,
		.path = x->path,
		.path_len = x->path_len,
		.method = x->request.method_text,
		.fields = x->request.fields,
		.field_cnt = x->request.field_cnt,
		.client = &conn->client,
		.tls_version = conn->tls_version,
	};
	enum verdict verdict = VERDICT_NONE;
	sp_rcu_enter();
	const struct generation *g = generation_current();
	if (find_challenge(x, g)) {
		verdict = VERDICT_CHALLENGE;
	} else if (is_misdirected(x, g)) {
		verdict = VERDICT_MISDIRECTED;
	} else {
		x->route = route_find(g->routes, &want);
		if (x->route != NULL) {
			generation_pin(g, x->worker->ix);
			x->generation = g;
			verdict = VERDICT_ROUTE;
		}
	}
	sp_rcu_leave();
	return verdict;
}

enum move decide_route(struct exchange *x)
{
	x->path = arena_alloc(&x->arena, (size_t)x->request.path.len + 1);
	if (x->path == NULL)
		return exchange_reply_with(x, 503, EXCHANGE_END_NO_MEMORY);
	if (!normalise_path(x)) {
		const struct wire_span *path = &x->request.path;
		refusal_of_request(x, WIRE_BAD_TARGET, 400, path->at, path->len);
		return exchange_reply_with(x, 400, EXCHANGE_END_BAD_REQUEST);
	}
	switch (decide(x)) {
	case VERDICT_CHALLENGE:
		challenge_notify(x->worker->challenges);
		stat_add(&x->worker->stats.challenges_served, 1);
		x->reply = 200;
		x->reply_text = x->challenge;
		x->end = EXCHANGE_END_LOCAL;
		return exchange_set_state(x, EXCHANGE_ANSWER);
	case VERDICT_MISDIRECTED:
		return exchange_reply_with(x, 421, EXCHANGE_END_MISDIRECTED);
	case VERDICT_NONE:
		return exchange_reply_with(x, 404, EXCHANGE_END_NO_ROUTE);
	default:
		return exchange_set_state(x, EXCHANGE_ADMIT);
	}
}

/* The first field of that name (lower case); NULL: there is none. */
static const struct wire_span *find_field(const struct exchange *x, const char *name)
{
	size_t len = strlen(name);
	for (uint32_t i = 0; i < x->request.field_cnt; i++) {
		const struct wire_field *field = &x->request.fields[i];
		if (field->name.len == len && strncasecmp(field->name.at, name, len) == 0)
			return &field->value;
	}
	return NULL;
}

/* A cookie-pair of this name within one cookie-string (RFC 6265, 4.2.1); names are case-sensitive. */
static bool find_pair(const struct wire_span *string, const char *name, struct wire_span *ret_value)
{
	size_t name_len = strlen(name);
	const char *at = string->at, *end = string->at + string->len;
	while (at < end) {
		while (at < end && (*at == ' ' || *at == '\t'))
			at++;
		const char *stop = memchr(at, ';', (size_t)(end - at));
		if (stop == NULL)
			stop = end;
		if ((size_t)(stop - at) > name_len && memcmp(at, name, name_len) == 0 &&
		    at[name_len] == '=') {
			at += name_len + 1;
			while (stop > at && (stop[-1] == ' ' || stop[-1] == '\t'))
				stop--;
			if (stop - at >= 2 && *at == '"' && stop[-1] == '"')
				at++, stop--;
			*ret_value = (struct wire_span){ at, (uint32_t)(stop - at) };
			return true;
		}
		at = stop + 1;
	}
	return false;
}

static bool find_cookie(const struct exchange *x, const char *name, struct wire_span *ret_value)
{
	for (uint32_t i = 0; i < x->request.field_cnt; i++) {
		const struct wire_field *field = &x->request.fields[i];
		if (field->id == WIRE_FIELD_COOKIE && find_pair(&field->value, name, ret_value))
			return true;
	}
	return false;
}

/* What the same target is wanted for; a request without it goes by its client's address. */
static uint64_t hash_key(const struct exchange *x, const struct config_upstream *group)
{
	struct wire_span key = { NULL, 0 };
	const struct wire_span *field;
	switch (group->hash_key) {
	case CONFIG_HASH_PATH:
		key = (struct wire_span){ x->path, (uint32_t)x->path_len };
		break;
	case CONFIG_HASH_HEADER:
		field = find_field(x, group->hash_name);
		if (field != NULL)
			key = *field;
		break;
	case CONFIG_HASH_COOKIE:
		(void)find_cookie(x, group->hash_name, &key);
		break;
	default:
		break;
	}
	return key.len > 0 ? upstream_hash(key.at, key.len) : target_hash_client(x->conn);
}

static enum move start_target(struct exchange *x)
{
	enum config_balance balance = upstream_group_balance(x->route->group);
	x->to = (struct target){
		.conn = x->conn, .route = x->route, .alpn = "http/1.1", .has_first_bytes = true
	};
	struct wire_span cookie;
	if (balance == CONFIG_BALANCE_HASH) {
		x->to.choice.key_hash = hash_key(x, upstream_group_config(x->route->group));
	} else if (balance == CONFIG_BALANCE_STICKY &&
		   find_cookie(x, upstream_group_config(x->route->group)->cookie, &cookie)) {
		x->to.choice.cookie = cookie.at;
		x->to.choice.cookie_len = cookie.len;
	}
	x->end = EXCHANGE_END_DONE;
	x->reply = 0;
	return exchange_set_state(x, EXCHANGE_CONNECT);
}

static enum move admit_forward(struct exchange *x)
{
	switch (x->request.websocket) {
	case WIRE_WEBSOCKET_BAD:
		return exchange_reply_with(x, 400, EXCHANGE_END_BAD_REQUEST);
	case WIRE_WEBSOCKET_BAD_VERSION:
		return exchange_reply_with(x, 426, EXCHANGE_END_BAD_REQUEST);
	default:
		return start_target(x);
	}
}

enum move decide_admit(struct exchange *x)
{
	const struct config_action_data *action = &x->route->config->action;
	const struct worker_settings *settings = &x->worker->settings;
	if (!conn_enter_route(x->conn, x->route)) {
		x->wants_close = true; /* else the connection would stay, and be one too many */
		return exchange_reply_with(x, 503, EXCHANGE_END_LIMITED);
	}
	if (settings->body_bytes > 0 && x->request.has_length &&
	    x->request.content_length > settings->body_bytes)
		return exchange_reply_with(x, 413, EXCHANGE_END_TOO_LARGE);
	if (x->request.method == WIRE_METHOD_CONNECT || x->request.method == WIRE_METHOD_TRACE) {
		/* Who asked for a tunnel may have sent its first bytes: they are no request (RFC 9110,
		 * 9.3.6). */
		x->wants_close |= x->request.method == WIRE_METHOD_CONNECT;
		return exchange_reply_with(x, 405, EXCHANGE_END_LOCAL);
	}
	if (action->type == CONFIG_FORWARD)
		return admit_forward(x);
	x->end = EXCHANGE_END_LOCAL;
	x->reply = action->status;
	switch (action->type) {
	case CONFIG_REDIRECT:
		return answer_redirect(x);
	case CONFIG_RESPOND:
		x->reply_text = action->body;
		x->reply_text_len = action->body_len;
		return exchange_set_state(x, EXCHANGE_ANSWER);
	default:
		return exchange_set_state(x, EXCHANGE_REPLY);
	}
}
