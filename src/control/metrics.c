/* The Prometheus text format. Counters end in _total, units are base units (seconds, bytes). */
#include <inttypes.h>
#include <string.h>

#include "admin.h"
#include "api.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"

void metrics_head(struct text *t, const char *name, const char *type, const char *help)
{
	text_printf(t, "# HELP smartproxy_%s %s\n# TYPE smartproxy_%s %s\n", name, help, name,
		    type);
}

void metrics_counter(struct text *t, const char *name, const char *help, uint64_t value)
{
	metrics_head(t, name, "counter", help);
	text_printf(t, "smartproxy_%s %" PRIu64 "\n", name, value);
}

void metrics_gauge(struct text *t, const char *name, const char *help, int64_t value)
{
	metrics_head(t, name, "gauge", help);
	text_printf(t, "smartproxy_%s %" PRId64 "\n", name, value);
}

void metrics_directions(struct text *t, const char *name, const char *help, uint64_t in_bytes,
			uint64_t out_bytes)
{
	metrics_head(t, name, "counter", help);
	text_printf(t,
		    "smartproxy_%s{direction=\"in\"} %" PRIu64
		    "\nsmartproxy_%s{direction=\"out\"} %" PRIu64 "\n",
		    name, in_bytes, name, out_bytes);
}

/* A label's value: '\', '"' and line feeds escaped; other control bytes cannot come here. */
void metrics_label(struct text *t, const char *value)
{
	for (const char *c = value; *c != '\0'; c++) {
		if (*c == '\\' || *c == '"')
			text_printf(t, "\\%c", *c);
		else if (*c == '\n')
			text_puts(t, "\\n");
		else
			text_add(t, c, 1);
	}
}

_Static_assert(WIRE_REASON_CNT <= 64, "rejects has room for every reason");

static void write_exchanges(struct text *t, const struct worker_stats *s)
{
	metrics_counter(t, "requests_total", "Requests whose head was read.", s->requests);
	metrics_head(t, "responses_total", "counter", "Answers sent, by class of status.");
	for (unsigned i = 1; i < 6; i++)
		text_printf(t, "smartproxy_responses_total{class=\"%uxx\"} %" PRIu64 "\n", i,
			    s->responses[i]);
	metrics_head(t, "exchanges_total", "counter", "Exchanges, by why they ended.");
	for (unsigned i = 0; i < EXCHANGE_END_CNT; i++)
		text_printf(t, "smartproxy_exchanges_total{end=\"%s\"} %" PRIu64 "\n",
			    exchange_end_name((enum exchange_end)i), s->ends[i]);
	metrics_head(t, "rejects_total", "counter",
		     "Messages that the HTTP parser refused, by reason.");
	for (unsigned i = 1; i < WIRE_REASON_CNT; i++)
		text_printf(t, "smartproxy_rejects_total{reason=\"%s\"} %" PRIu64 "\n",
			    wire_reason_name((enum wire_reason)i), s->rejects[i]);
	metrics_counter(t, "challenges_served_total", "ACME challenges answered.",
			s->challenges_served);
}

static void write_workers(struct text *t, const struct control *control) SP_ON_CONTROL;
static void write_workers(struct text *t, const struct control *control)
{
	struct worker_stats s = { 0 };
	workers_stats(control->workers, &s);
	metrics_gauge(t, "workers", "Worker threads.", control->worker_cnt);
	metrics_counter(t, "connections_accepted_total", "Client connections accepted.",
			s.connections_accepted);
	metrics_gauge(t, "connections_open", "Client connections open now.",
		      (int64_t)s.connections_open);
	metrics_counter(t, "connections_refused_total",
			"Client connections closed for a limit or memory.", s.connections_refused);
	metrics_counter(t, "tls_handshakes_total", "TLS handshakes completed.", s.tls_handshakes);
	metrics_counter(t, "tls_failures_total", "TLS handshakes that failed.", s.tls_failures);
	metrics_counter(t, "tls_resumed_total", "TLS handshakes that resumed a session.",
			s.tls_resumed);
	write_exchanges(t, &s);
	metrics_directions(t, "client_bytes_total", "Bytes from and to clients.", s.client_bytes_in,
			   s.client_bytes_out);
	metrics_directions(t, "upstream_bytes_total", "Bytes from and to upstreams.",
			   s.upstream_bytes_in, s.upstream_bytes_out);
	metrics_counter(t, "upstream_connects_total", "Connections to upstreams opened.",
			s.upstream_connects);
	metrics_counter(t, "upstream_reuses_total", "Requests sent on a kept connection.",
			s.upstream_reuses);
	metrics_counter(t, "upstream_connect_failures_total",
			"Connections to upstreams that failed.", s.upstream_connect_failures);
	metrics_counter(t, "upstream_retries_total", "Requests sent a second time.",
			s.upstream_retries);
	metrics_gauge(t, "buffers_used", "Traffic buffers lent out.", (int64_t)s.buffers_used);
	metrics_write_traffic(control, &s, t);
}

static void write_cert(void *arg, const struct acme_cert_status *status)
{
	struct text *t = arg;
	if (status->not_after_unix_s == 0)
		return;
	text_puts(t, "smartproxy_certificate_not_after_seconds{names=\"");
	for (size_t i = 0; i < status->name_cnt; i++) {
		text_puts(t, i == 0 ? "" : ",");
		metrics_label(t, status->names[i]);
	}
	text_printf(t, "\",key_type=\"%s\"} %" PRId64 "\n", status->key_type,
		    status->not_after_unix_s);
}

static void write_acme(struct text *t, const struct control *control) SP_ON_CONTROL;
static void write_acme(struct text *t, const struct control *control)
{
	struct acme_stats s = { 0 };
	acme_stats(control->acme, &s);
	metrics_head(t, "challenge_route_state", "gauge",
		     "1 for the state that the challenge route is in.");
	for (unsigned i = ACME_ROUTE_ABSENT; i <= ACME_ROUTE_DRAINING; i++)
		text_printf(t, "smartproxy_challenge_route_state{state=\"%s\"} %d\n",
			    acme_route_state_name((enum acme_route_state)i), i == s.route_state);
	metrics_counter(t, "challenge_route_activated_total",
			"Times the challenge route became active.", s.route_activated_cnt);
	metrics_counter(t, "challenge_route_removed_total",
			"Times the challenge route was removed.", s.route_removed_cnt);
	metrics_counter(t, "acme_orders_created_total", "Orders created at the CA.",
			s.orders_created_cnt);
	metrics_counter(t, "acme_orders_ok_total", "Orders that gave a certificate.",
			s.orders_ok_cnt);
	metrics_counter(t, "acme_orders_failed_total", "Orders that failed.", s.orders_failed_cnt);
	metrics_counter(t, "acme_requests_total", "Requests sent to the CA.", s.requests_cnt);
	metrics_counter(t, "acme_bad_nonces_total", "Requests that the CA refused for their nonce.",
			s.bad_nonce_cnt);
	metrics_gauge(t, "acme_orders_active", "Orders under way.", s.orders_active);
	metrics_gauge(t, "acme_orders_waiting", "Certificates that wait for an order.",
		      s.orders_waiting);
	metrics_head(t, "certificate_not_after_seconds", "gauge",
		     "When a certificate expires, in seconds since 1970.");
	acme_each_cert(control->acme, write_cert, t);
}

static void write_control(struct text *t, const struct control *control) SP_ON_CONTROL;
static void write_control(struct text *t, const struct control *control)
{
	static const char *const results[UPDATE_OUTCOME_CNT] = { "applied", "refused", "late",
								 "rolled_back" };
	const struct generation *latest = generation_latest(control->generations);
	metrics_head(t, "build_info", "gauge", "Always 1.");
	text_printf(t, "smartproxy_build_info{version=\"%s\"} 1\n", SP_VERSION);
	metrics_gauge(t, "start_time_seconds", "When the process started, in seconds since 1970.",
		      control->started_unix_s);
	metrics_gauge(t, "generation", "Number of the generation in force.",
		      (int64_t)latest->number);
	metrics_gauge(t, "generations_retired", "Generations that connections still use.",
		      (int64_t)generation_reap(control->generations));
	metrics_gauge(t, "routes", "Routes in force.", (int64_t)route_index_cnt(latest->routes));
	metrics_head(t, "update_total", "counter",
		     "Updates (reloads, lists of routes), by result.");
	for (unsigned i = 0; i < UPDATE_OUTCOME_CNT; i++)
		text_printf(t, "smartproxy_update_total{result=\"%s\"} %" PRIu64 "\n", results[i],
			    control->updates.outcome_cnt[i]);
	metrics_gauge(t, "updates_queued", "Updates that wait.",
		      (int64_t)control->updates.queued_cnt);
	metrics_head(t, "update_last_seconds", "gauge", "How long the last update took.");
	text_printf(t, "smartproxy_update_last_seconds %.3f\n",
		    (double)control->updates.last_ms / 1000.0);
	metrics_gauge(t, "listeners", "Listener sets open.",
		      (int64_t)listeners_cnt(control->listeners));
	metrics_counter(t, "listener_binds_total", "bind calls on listener sockets.",
			listeners_bind_cnt(control->listeners));
	metrics_gauge(t, "admin_connections", "Connections to the admin API.",
		      (int64_t)admin_conn_cnt(control->admin));
	metrics_counter(t, "log_lines_dropped_total",
			"Log lines that were lost: a ring was full, or standard error took none.",
			log_lost_cnt());
	metrics_counter(t, "access_records_dropped_total",
			"Access records of workers that were dropped.",
			control->access_dropped_cnt);
	metrics_head(t, "loop_stall_seconds", "gauge",
		     "How long the slowest worker has not turned its loop although events wait.");
	text_printf(t, "smartproxy_loop_stall_seconds %.3f\n", (double)control->stall_ms / 1000.0);
}

void metrics_write(const struct control *control, struct text *ret_text)
{
	write_control(ret_text, control);
	write_workers(ret_text, control);
	write_acme(ret_text, control);
}
