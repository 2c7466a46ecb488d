/* Traffic as JSON and as metrics: client connections, targets, tunnels, limits. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "api.h"
#include "report.h"
#include "smartproxy/assert.h"
#include "smartproxy/limit.h"
#include "smartproxy/upstream.h"
#include "wire/proxy.h"

static json_t *name_or_null(const char *text)
{
	return text[0] == '\0' ? json_null() : json_string(text);
}

static json_t *addr_json(const struct addr *addr)
{
	char text[ADDR_TEXT_MAX];
	return json_string(addr_format(text, sizeof(text), addr));
}

static json_t *conn_json(const struct conn_view *v)
{
	const char *tls = v->tls_version == 13 ? "1.3" : v->tls_version == 12 ? "1.2" : NULL;
	const char *kind = v->is_websocket ? "websocket" : v->is_tunnel ? "tunnel" : "http";
	json_t *json =
		json_pack("{s:I, s:i, s:o, s:o, s:o, s:o, s:s, s:s, s:s?}", "id", (json_int_t)v->id,
			  "worker", (int)v->worker_ix, "client", addr_json(&v->client), "peer",
			  addr_json(&v->peer), "listener", addr_json(&v->listen), "route",
			  name_or_null(v->route), "kind", kind, "state", v->state, "tls", tls);
	json_t *more = json_pack("{s:o, s:f, s:f, s:I, s:I, s:I}", "upstream",
				 name_or_null(v->upstream), "age_s", (double)v->age_ms / 1000.0,
				 "idle_s", (double)v->idle_ms / 1000.0, "bytes_in",
				 (json_int_t)v->bytes_in, "bytes_out", (json_int_t)v->bytes_out,
				 "requests", (json_int_t)v->request_cnt);
	if (json != NULL && more != NULL)
		(void)json_object_update(json, more);
	json_decref(more);
	return json;
}

enum err report_connections(const struct control *control, size_t max, json_t **ret_json)
{
	struct conn_view *views = NULL;
	size_t cnt = 0;
	enum err e = workers_connections(control->workers, max, &views, &cnt);
	if (e != ERR_OK)
		return e;
	json_t *list = json_array();
	for (size_t i = 0; i < cnt; i++)
		(void)json_array_append_new(list, conn_json(&views[i]));
	free(views);
	*ret_json = json_pack("{s:I, s:o}", "open",
			      (json_int_t)workers_connection_cnt(control->workers), "connections",
			      list);
	return *ret_json == NULL ? ERR_NOMEM : ERR_OK;
}

static const char *check_name(enum config_check_type check)
{
	static const char *const names[] = { "none", "tcp", "http", "https" };
	return (size_t)check < SP_ARRAY_LEN(names) ? names[check] : "none";
}

static void add_upstream(void *arg, const struct upstream_view *v)
{
	json_t *addrs = json_array();
	for (unsigned i = 0; i < v->addr_cnt; i++) {
		char ip[ADDR_TEXT_MAX];
		(void)json_array_append_new(
			addrs, json_string(addr_format_ip(ip, sizeof(ip), &v->addrs[i])));
	}
	json_t *failure = v->last_failure == UPSTREAM_FAILURE_NONE
				  ? json_null()
				  : json_pack("{s:s, s:o, s:o}", "reason",
					      upstream_failure_name(v->last_failure), "message",
					      report_text(v->last_failure_text), "at",
					      report_time(v->last_failure_unix_s));
	json_t *ttl = v->addrs_ttl_s < 0 ? json_null() : json_integer((json_int_t)v->addrs_ttl_s);
	json_t *json = json_pack("{s:o, s:s, s:s, s:b, s:b, s:i, s:i, s:s, s:o}", "group",
				 name_or_null(v->group), "target", v->name, "state",
				 upstream_state_name(v->state), "tls", (int)v->is_tls, "backup",
				 (int)v->is_backup, "weight", (int)v->weight, "max_connections",
				 (int)v->max_connections, "check", check_name(v->check),
				 "last_check", report_time(v->last_check_unix_s));
	json_t *more = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "in_flight",
				 (json_int_t)v->in_use, "queued", (json_int_t)v->waiting, "idle",
				 (json_int_t)v->idle, "requests", (json_int_t)v->requests,
				 "failures", (json_int_t)v->failures, "retries",
				 (json_int_t)v->retries, "ejections", (json_int_t)v->ejections,
				 "last_failure", failure, "addresses", addrs, "ttl_s", ttl);
	if (json != NULL && more != NULL)
		(void)json_object_update(json, more);
	json_decref(more);
	(void)json_array_append_new(arg, json);
}

json_t *report_upstreams(const struct control *control)
{
	json_t *list = json_array();
	upstreams_each(control->upstreams, add_upstream, list);
	return json_pack("{s:o}", "upstreams", list);
}

/* ---- metrics ---- */

static void write_ends(struct text *t, const struct worker_stats *s)
{
	metrics_head(t, "connection_ends_total", "counter",
		     "Client connections, by why they ended.");
	for (unsigned i = 0; i < EXCHANGE_END_CNT; i++)
		text_printf(t, "smartproxy_connection_ends_total{end=\"%s\"} %" PRIu64 "\n",
			    exchange_end_name((enum exchange_end)i), s->conn_ends[i]);
	metrics_head(t, "proxy_header_rejects_total", "counter",
		     "Wrong PROXY headers of trusted peers, by reason.");
	for (unsigned i = 1; i < WIRE_PROXY_REASON_CNT; i++)
		text_printf(t, "smartproxy_proxy_header_rejects_total{reason=\"%s\"} %" PRIu64 "\n",
			    wire_proxy_reason_name((enum wire_proxy_reason)i), s->proxy_rejects[i]);
}

_Static_assert(WIRE_PROXY_REASON_CNT <= 8, "proxy_rejects has room for every reason");

static void write_tunnels(struct text *t, const struct worker_stats *s)
{
	metrics_counter(t, "tunnels_total", "Tunnels opened: TCP, passthrough, WebSocket.",
			s->tunnels_opened);
	metrics_counter(t, "websockets_total", "WebSockets opened.", s->websockets_opened);
	metrics_gauge(t, "tunnels_open", "Tunnels open now.", (int64_t)s->tunnels_open);
	metrics_directions(t, "tunnel_bytes_total", "Payload of tunnels from and to clients.",
			   s->tunnel_bytes_in, s->tunnel_bytes_out);
	metrics_counter(t, "splices_total",
			"Directions of tunnels, and bodies, that went over to splice.", s->splices);
	metrics_counter(t, "gathers_total",
			"Times that a direction of a tunnel began to wait for much at once.",
			s->gathers);
	metrics_counter(t, "proxy_headers_total", "PROXY headers taken from trusted peers.",
			s->proxy_headers);
}

/* One family at a time, as the format wants it: the targets are gone through once for each. */
struct family {
	struct text *text;
	const char *name;
	uint64_t (*value)(const struct upstream_view *view);
};

static uint64_t is_up(const struct upstream_view *v)
{
	return v->state == UPSTREAM_UP;
}
static uint64_t in_flight(const struct upstream_view *v)
{
	return v->in_use;
}
static uint64_t queued(const struct upstream_view *v)
{
	return v->waiting;
}
static uint64_t idle(const struct upstream_view *v)
{
	return v->idle;
}
static uint64_t requests(const struct upstream_view *v)
{
	return v->requests;
}
static uint64_t failures(const struct upstream_view *v)
{
	return v->failures;
}
static uint64_t retries(const struct upstream_view *v)
{
	return v->retries;
}
static uint64_t ejections(const struct upstream_view *v)
{
	return v->ejections;
}

static void write_target(void *arg, const struct upstream_view *view)
{
	const struct family *family = arg;
	struct text *t = family->text;
	text_printf(t, "smartproxy_%s{group=\"", family->name);
	metrics_label(t, view->group);
	text_puts(t, "\",target=\"");
	metrics_label(t, view->name);
	text_printf(t, "\",tls=\"%d\"} %" PRIu64 "\n", (int)view->is_tls, family->value(view));
}

static void write_targets(struct text *t, const struct control *control) SP_ON_CONTROL;
static void write_targets(struct text *t, const struct control *control)
{
	static const struct {
		const char *name, *type, *help;
		uint64_t (*value)(const struct upstream_view *view);
	} families[] = {
		{ "target_up", "gauge", "1: the target takes traffic.", is_up },
		{ "target_in_flight", "gauge", "Requests and tunnels at the target.", in_flight },
		{ "target_queued", "gauge", "Requests that wait for a place.", queued },
		{ "target_idle_connections", "gauge", "Idle connections kept.", idle },
		{ "target_requests_total", "counter", "Requests and tunnels sent there.",
		  requests },
		{ "target_failures_total", "counter", "Those that failed there.", failures },
		{ "target_retries_total", "counter", "Those sent once more for it.", retries },
		{ "target_ejections_total", "counter", "Times it was ejected.", ejections },
	};
	for (size_t i = 0; i < SP_ARRAY_LEN(families); i++) {
		struct family family = { t, families[i].name, families[i].value };
		metrics_head(t, families[i].name, families[i].type, families[i].help);
		upstreams_each(control->upstreams, write_target, &family);
	}
}

void metrics_write_traffic(const struct control *control, const struct worker_stats *stats,
			   struct text *t)
{
	write_ends(t, stats);
	write_tunnels(t, stats);
	metrics_gauge(t, "limited_addresses", "Client addresses in the table of limits.",
		      (int64_t)limits_address_cnt(control->limits));
	write_targets(t, control);
}
