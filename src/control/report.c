#include "report.h"

#include <string.h>
#include <unistd.h>

#include "smartproxy/clock.h"

json_t *report_time(int64_t unix_s)
{
	char text[32];
	if (unix_s == 0)
		return json_null();
	return json_string(clock_format_utc(text, sizeof(text), unix_s));
}

json_t *report_text(const char *text)
{
	if (text == NULL)
		text = "";
	json_t *json = json_string(text);
	if (json != NULL)
		return json;
	char escaped[2048];
	return json_string(text_escape(escaped, sizeof(escaped), text, strlen(text)));
}

static json_t *text_or_null(const char *text)
{
	return text == NULL || text[0] == '\0' ? json_null() : report_text(text);
}

json_t *report_port_error(const struct port_error *error)
{
	struct text message = { 0 };
	char ip[ADDR_TEXT_MAX];
	port_error_text(error, &message);
	json_t *holder = error->is_holder_known && error->holder_pid > 0
				 ? json_pack("{s:i, s:o, s:I}", "pid", (int)error->holder_pid,
					     "name", report_text(error->holder_name), "uid",
					     (json_int_t)error->holder_uid)
			 : error->is_holder_known ? json_pack("{s:n, s:n, s:I}", "pid", "name",
							      "uid", (json_int_t)error->holder_uid)
						  : json_null();
	json_t *json = json_pack("{s:o, s:s, s:i, s:o}", "message",
				 report_text(message.data != NULL ? message.data : ""), "address",
				 addr_format_ip(ip, sizeof(ip), &error->addr), "port",
				 (int)addr_port(&error->addr), "holder", holder);
	text_fini(&message);
	return json;
}

json_t *report_error(enum err code, const char *message, const struct config_problems *problems,
		     const struct port_error *port)
{
	json_t *list = json_array();
	for (size_t i = 0; problems != NULL && i < problems->cnt; i++) {
		const struct config_problem *p = &problems->items[i];
		(void)json_array_append_new(
			list,
			json_pack("{s:o, s:i, s:o, s:o}", "file", text_or_null(p->file), "line",
				  (int)p->line, "path", report_text(p->path == NULL ? "" : p->path),
				  "message", report_text(p->message)));
	}
	json_t *error = json_pack("{s:s, s:o, s:o}", "code", err_name(code), "message",
				  report_text(message), "problems", list);
	if (error != NULL && port != NULL && port->code != ERR_OK) {
		json_t *fields = report_port_error(port);
		(void)json_object_del(fields, "message");
		(void)json_object_update(error, fields);
		json_decref(fields);
	}
	return json_pack("{s:o}", "error", error);
}

static bool is_open(const struct control *control, uint16_t port) SP_ON_CONTROL;
static bool is_open(const struct control *control, uint16_t port)
{
	for (size_t i = 0; i < listeners_cnt(control->listeners); i++) {
		if (addr_port(&listeners_at(control->listeners, i)->addr) == port)
			return true;
	}
	return false;
}

static json_t *acme_json(const struct control *control) SP_ON_CONTROL;

static void count_cert(void *arg, const struct acme_cert_status *status)
{
	(void)status;
	++*(size_t *)arg;
}

static json_t *acme_json(const struct control *control)
{
	struct acme_stats stats = { 0 };
	size_t cert_cnt = 0;
	acme_stats(control->acme, &stats);
	acme_each_cert(control->acme, count_cert, &cert_cnt);
	uint16_t port = control->config->acme.port;
	json_t *waiting = stats.port_error.code != ERR_OK ? report_port_error(&stats.port_error)
							  : json_null();
	json_t *route = json_pack("{s:s, s:I, s:I, s:{s:i, s:b}, s:o}", "state",
				  acme_route_state_name(stats.route_state), "activated",
				  (json_int_t)stats.route_activated_cnt, "removed",
				  (json_int_t)stats.route_removed_cnt, "port", "port", (int)port,
				  "is_open", is_open(control, port), "waiting", waiting);
	json_t *orders = json_pack(
		"{s:i, s:i, s:I, s:I, s:I}", "active", (int)stats.orders_active, "waiting",
		(int)stats.orders_waiting, "created", (json_int_t)stats.orders_created_cnt, "ok",
		(json_int_t)stats.orders_ok_cnt, "failed", (json_int_t)stats.orders_failed_cnt);
	return json_pack("{s:o, s:o, s:I, s:I, s:I}", "challenge_route", route, "orders", orders,
			 "certificates", (json_int_t)cert_cnt, "requests",
			 (json_int_t)stats.requests_cnt, "bad_nonces",
			 (json_int_t)stats.bad_nonce_cnt);
}

json_t *report_status(const struct control *control)
{
	const struct generation *latest = generation_latest(control->generations);
	int64_t uptime_s = (clock_now_ms() - control->started_ms) / 1000;
	json_t *json = json_pack(
		"{s:s, s:i, s:I, s:o, s:I, s:i, s:I, s:s, s:I, s:I, s:s}", "version", SP_VERSION,
		"pid", (int)getpid(), "uptime_s", (json_int_t)uptime_s, "started",
		report_time(control->started_unix_s), "generation", (json_int_t)latest->number,
		"workers", (int)control->worker_cnt, "connections",
		(json_int_t)workers_connection_cnt(control->workers), "state",
		control->phase == CONTROL_STOPPING ? "draining" : "running", "routes",
		(json_int_t)route_index_cnt(latest->routes), "retired_generations",
		(json_int_t)generation_reap(control->generations), "configuration", control->file);
	if (json != NULL && json_object_set_new(json, "acme", acme_json(control)) != 0) {
		json_decref(json);
		return NULL;
	}
	return json;
}

/* Why a set is open: routes, the challenge route, or only because keep_port is on. */
static json_t *reasons_json(const struct control *control, const struct addr *addr) SP_ON_CONTROL;
static json_t *reasons_json(const struct control *control, const struct addr *addr)
{
	const struct generation *latest = generation_latest(control->generations);
	size_t cnt = 0;
	const struct addr *of_routes = route_index_listeners(latest->routes, &cnt);
	json_t *reasons = json_array();
	bool has_reason = false;
	for (size_t i = 0; i < cnt && !has_reason; i++)
		has_reason = addr_is_equal(&of_routes[i], addr);
	if (has_reason)
		(void)json_array_append_new(reasons, json_string("route"));
	if (latest->has_challenge_route && addr_port(addr) == latest->challenge_port) {
		(void)json_array_append_new(reasons, json_string("challenge"));
		has_reason = true;
	}
	if (!has_reason)
		(void)json_array_append_new(reasons, json_string("kept"));
	return reasons;
}

json_t *report_listeners(const struct control *control)
{
	json_t *list = json_array();
	for (size_t i = 0; i < listeners_cnt(control->listeners); i++) {
		const struct listener_set *set = listeners_at(control->listeners, i);
		char ip[ADDR_TEXT_MAX];
		(void)json_array_append_new(
			list, json_pack("{s:s, s:i, s:i, s:b, s:o, s:o}", "address",
					addr_format_ip(ip, sizeof(ip), &set->addr), "port",
					(int)addr_port(&set->addr), "sockets", (int)set->socket_cnt,
					"defer_accept", set->is_deferred, "opened",
					report_time(set->opened_unix_s), "for",
					reasons_json(control, &set->addr)));
	}
	return json_pack("{s:o}", "listeners", list);
}

static void add_cert(void *arg, const struct acme_cert_status *status)
{
	json_t *names = json_array();
	for (size_t i = 0; i < status->name_cnt; i++)
		(void)json_array_append_new(names, json_string(status->names[i]));
	(void)json_array_append_new(
		arg, json_pack("{s:o, s:s, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:I}", "names", names,
			       "key_type", status->key_type, "state", status->state, "step",
			       text_or_null(status->step), "issuer", text_or_null(status->issuer),
			       "not_after", report_time(status->not_after_unix_s), "renew_at",
			       report_time(status->renew_at_unix_s), "retry_at",
			       report_time(status->retry_at_unix_s), "last_error",
			       text_or_null(status->last_error), "failures",
			       (json_int_t)status->failure_cnt));
}

json_t *report_certificates(const struct control *control)
{
	json_t *list = json_array();
	acme_each_cert(control->acme, add_cert, list);
	return json_pack("{s:o}", "certificates", list);
}
