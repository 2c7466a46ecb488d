#include "api.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"

#define TYPE_JSON "application/json"

unsigned api_status(enum err e)
{
	switch (e) {
	case ERR_OK:
		return 200;
	case ERR_CONFIG:
	case ERR_SYNTAX:
	case ERR_INVALID:
	case ERR_KEY_MISMATCH:
	case ERR_TLS:
	case ERR_ADDRESS:
	case ERR_PORT_DENIED:
	case ERR_UNSUPPORTED:
		return 400;
	case ERR_NOENT:
		return 404;
	case ERR_PORT_IN_USE:
	case ERR_EXISTS:
	case ERR_LOCKED:
		return 409;
	case ERR_TIMEOUT:
	case ERR_STOPPING:
	case ERR_BUSY:
	case ERR_LIMIT:
	case ERR_NOMEM:
		return 503;
	default:
		return 500;
	}
}

static void answer_json(struct admin_conn *conn, unsigned status, json_t *json)
{
	struct text body = { .has_failed = true };
	char *dump = json == NULL ? NULL : json_dumps(json, 0);
	json_decref(json);
	if (dump != NULL) {
		body.has_failed = false;
		text_puts(&body, dump);
		text_puts(&body, "\n");
	}
	free(dump);
	admin_answer(conn, status, TYPE_JSON, &body);
}

static void answer_error(struct admin_conn *conn, unsigned status, enum err code,
			 const char *message)
{
	answer_json(conn, status, report_error(code, message, NULL, NULL));
}

/* ---- updates: the answer comes when it is applied, or refused ---- */

/* Ties a connection to its update: either may end first. */
struct wait {
	struct admin_conn *conn;
	struct update *update;
};

static void on_done(void *arg, const struct update_result *result)
{
	struct wait *wait = arg;
	struct admin_conn *conn = wait->conn;
	free(wait);
	if (result->code == ERR_OK)
		answer_json(conn, 200,
			    json_pack("{s:b, s:I, s:I}", "applied", 1, "generation",
				      (json_int_t)result->generation, "routes",
				      (json_int_t)result->route_cnt));
	else
		answer_json(conn, api_status(result->code),
			    report_error(result->code, result->message, result->problems,
					 result->port));
}

static void on_gone(void *arg)
{
	struct wait *wait = arg;
	update_forget(wait->update);
	free(wait);
}

static void submit(struct control *control, struct admin_conn *conn, enum update_kind kind,
		   char *json, size_t len) SP_ON_CONTROL;
static void submit(struct control *control, struct admin_conn *conn, enum update_kind kind,
		   char *json, size_t len)
{
	struct wait *wait = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*wait));
	if (wait == NULL) {
		free(json);
		answer_error(conn, 503, ERR_NOMEM, "out of memory, nothing was changed");
		return;
	}
	wait->conn = conn;
	struct update_request request = {
		.kind = kind, .json = json, .json_len = len, .done = on_done, .arg = wait
	};
	enum err e = updates_submit(&control->updates, &request, &wait->update);
	if (e == ERR_OK) {
		admin_on_gone(conn, on_gone, wait);
		return;
	}
	free(wait);
	if (e == ERR_LIMIT)
		admin_answer_field(conn, "Retry-After", ADMIN_RETRY_S);
	answer_error(conn, api_status(e), e,
		     e == ERR_STOPPING ? "the proxy is shutting down, nothing was changed"
		     : e == ERR_LIMIT  ? "too many updates wait already, nothing was changed"
				       : err_text(e));
}

static void put_routes(struct control *control, struct admin_conn *conn,
		       const struct admin_request *request) SP_ON_CONTROL;
static void put_routes(struct control *control, struct admin_conn *conn,
		       const struct admin_request *request)
{
	char *json = fault_hits(FAULT_MALLOC) ? NULL : malloc(request->body_len + 1);
	if (json == NULL) {
		answer_error(conn, 503, ERR_NOMEM, "out of memory, nothing was changed");
		return;
	}
	memcpy(json, request->body, request->body_len);
	json[request->body_len] = '\0';
	submit(control, conn, UPDATE_ROUTES, json, request->body_len);
}

static void post_reload(struct control *control, struct admin_conn *conn,
			const struct admin_request *request) SP_ON_CONTROL;
static void post_reload(struct control *control, struct admin_conn *conn,
			const struct admin_request *request)
{
	(void)request;
	submit(control, conn, UPDATE_RELOAD, NULL, 0);
}

/* ---- questions ---- */

static void get_routes(struct control *control, struct admin_conn *conn,
		       const struct admin_request *request) SP_ON_CONTROL;
static void get_routes(struct control *control, struct admin_conn *conn,
		       const struct admin_request *request)
{
	(void)request;
	struct text body = { 0 };
	text_puts(&body, "{\"routes\": ");
	config_routes_json(control->config, &body);
	text_puts(&body, "}\n");
	admin_answer(conn, 200, TYPE_JSON, &body);
}

static void get_metrics(struct control *control, struct admin_conn *conn,
			const struct admin_request *request) SP_ON_CONTROL;
static void get_metrics(struct control *control, struct admin_conn *conn,
			const struct admin_request *request)
{
	(void)request;
	struct text body = { 0 };
	metrics_write(control, &body);
	admin_answer(conn, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}

static void post_renew(struct control *control, struct admin_conn *conn,
		       const struct admin_request *request) SP_ON_CONTROL;
static void post_renew(struct control *control, struct admin_conn *conn,
		       const struct admin_request *request)
{
	char *name = NULL;
	enum err e = api_query_value(request->query, "name", &name);
	if (e != ERR_OK) {
		answer_error(conn, 400, ERR_SYNTAX,
			     "the query cannot be read: name=NAME is expected");
		return;
	}
	e = control->phase == CONTROL_STOPPING ? ERR_STOPPING : acme_renew(control->acme, name);
	if (e == ERR_OK) {
		answer_json(conn, 200, json_pack("{s:b, s:s?}", "applied", 1, "name", name));
	} else {
		struct text message = { 0 };
		if (e == ERR_NOENT)
			text_printf(&message, "no certificate of ours has the name %s", name);
		else
			text_puts(&message, err_text(e));
		answer_error(conn, api_status(e), e, message.data == NULL ? "" : message.data);
		text_fini(&message);
	}
	free(name);
}

#define CONNECTIONS_DEFAULT 1000
#define CONNECTIONS_MAX     100000

static bool read_limit(const char *text, size_t *ret_limit)
{
	size_t limit = 0;
	for (const char *c = text; *c != '\0'; c++) {
		if (*c < '0' || *c > '9' || limit > CONNECTIONS_MAX)
			return false;
		limit = limit * 10 + (size_t)(*c - '0');
	}
	*ret_limit = limit;
	return limit > 0 && limit <= CONNECTIONS_MAX;
}

static void get_connections(struct control *control, struct admin_conn *conn,
			    const struct admin_request *request) SP_ON_CONTROL;
static void get_connections(struct control *control, struct admin_conn *conn,
			    const struct admin_request *request)
{
	char *text = NULL;
	size_t limit = CONNECTIONS_DEFAULT;
	enum err e = api_query_value(request->query, "limit", &text);
	bool is_good = e == ERR_OK && (text == NULL || read_limit(text, &limit));
	free(text);
	if (!is_good) {
		answer_error(conn, 400, ERR_SYNTAX, "limit is a number from 1 to 100000");
		return;
	}
	json_t *json = NULL;
	e = report_connections(control, limit, &json);
	if (e == ERR_OK)
		answer_json(conn, 200, json);
	else
		answer_error(conn, api_status(e), e,
			     e == ERR_TIMEOUT ? "a worker did not answer in time" : err_text(e));
}

/* ---- which request is which ---- */

static const struct endpoint {
	const char *method, *path;
	json_t *(*report)(const struct control *control); /* the answer, or NULL: run gives it */
	void (*run)(struct control *control, struct admin_conn *conn,
		    const struct admin_request *request);
} endpoints[] = {
	{ "GET", "/v1/status", report_status, NULL },
	{ "GET", "/v1/routes", NULL, get_routes },
	{ "PUT", "/v1/routes", NULL, put_routes },
	{ "GET", "/v1/certificates", report_certificates, NULL },
	{ "POST", "/v1/certificates/renew", NULL, post_renew },
	{ "GET", "/v1/listeners", report_listeners, NULL },
	{ "GET", "/v1/connections", NULL, get_connections },
	{ "GET", "/v1/upstreams", report_upstreams, NULL },
	{ "POST", "/v1/reload", NULL, post_reload },
	{ "GET", "/metrics", NULL, get_metrics },
};

static bool is_method(const struct endpoint *endpoint, const char *method)
{
	return strcmp(endpoint->method, method) == 0 ||
	       (strcmp(method, "HEAD") == 0 && strcmp(endpoint->method, "GET") == 0);
}

/* The Allow field (RFC 9110, 15.5.6) of a path; NULL: there is no such path. */
static const char *allowed(const char *path)
{
	const char *method = NULL;
	for (size_t i = 0; i < SP_ARRAY_LEN(endpoints); i++) {
		if (strcmp(endpoints[i].path, path) != 0)
			continue;
		if (method != NULL)
			return "GET, HEAD, PUT";
		method =
			strcmp(endpoints[i].method, "GET") == 0 ? "GET, HEAD" : endpoints[i].method;
	}
	return method;
}

void api_handle(void *arg, struct admin_conn *conn, const struct admin_request *request)
{
	sp_role_assume_control();
	for (size_t i = 0; i < SP_ARRAY_LEN(endpoints); i++) {
		const struct endpoint *endpoint = &endpoints[i];
		if (strcmp(endpoint->path, request->path) != 0 ||
		    !is_method(endpoint, request->method))
			continue;
		if (endpoint->report != NULL)
			answer_json(conn, 200, endpoint->report(arg));
		else
			endpoint->run(arg, conn, request);
		return;
	}
	const char *methods = allowed(request->path);
	struct text message = { 0 };
	unsigned status = methods == NULL ? 404 : 405;
	if (methods == NULL) {
		text_puts(&message, "no such path; there are");
		for (size_t i = 0; i < SP_ARRAY_LEN(endpoints); i++)
			text_printf(&message, "%s %s %s", i == 0 ? "" : ",", endpoints[i].method,
				    endpoints[i].path);
	} else {
		admin_answer_field(conn, "Allow", methods);
		text_printf(&message, "this path takes %s", methods);
	}
	answer_error(conn, status, methods == NULL ? ERR_NOENT : ERR_UNSUPPORTED,
		     message.data == NULL ? "" : message.data);
	text_fini(&message);
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static enum err decode(const char *text, size_t len, char *dst)
{
	size_t at = 0;
	for (size_t i = 0; i < len; i++) {
		char c = text[i];
		if (c == '%') {
			int high = i + 2 < len ? hex_value(text[i + 1]) : -1;
			int low = i + 2 < len ? hex_value(text[i + 2]) : -1;
			if (high < 0 || low < 0 || (high == 0 && low == 0))
				return ERR_SYNTAX;
			c = (char)(high * 16 + low);
			i += 2;
		}
		if (c == '+' && text[i] == '+')
			c = ' ';
		dst[at++] = c;
	}
	dst[at] = '\0';
	return ERR_OK;
}

enum err api_query_value(const char *query, const char *key, char **ret_value)
{
	size_t key_len = strlen(key);
	*ret_value = NULL;
	for (const char *at = query; *at != '\0';) {
		size_t len = strcspn(at, "&");
		if (len > key_len && strncmp(at, key, key_len) == 0 && at[key_len] == '=') {
			char *value = malloc(len - key_len);
			if (value == NULL)
				return ERR_NOMEM;
			enum err e = decode(at + key_len + 1, len - key_len - 1, value);
			if (e == ERR_OK)
				*ret_value = value;
			else
				free(value);
			return e;
		}
		at += len + (at[len] == '&');
	}
	return ERR_OK;
}
