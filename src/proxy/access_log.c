/* The record of an ended exchange or tunnel, put into the worker's ring and written by the control thread. */
#include <string.h>

#include "exchange.h"
#include "smartproxy/clock.h"
#include "smartproxy/text.h"

#define RECORD_MAX 1536
#define TARGET_MAX 1024 /* of the request target that a record shows, escapes included */

struct record {
	char client[ADDR_TEXT_MAX];
	char method[32];
	char host[WIRE_HOST_MAX * 4];
	char target[TARGET_MAX];
	char time[32];
	int millisecond;
	const char *tls, *kind;
};

static void fill(struct record *r, const struct access_record *record)
{
	const struct conn *conn = record->conn;
	const struct exchange *x = record->exchange;
	const char *(*escape)(char *dst, size_t cap, const char *src, size_t len) =
		conn->worker->settings.is_access_json ? text_escape_json : text_escape;
	int64_t now_ms = clock_unix_ms();
	(void)clock_format_utc(r->time, sizeof(r->time), now_ms / 1000);
	r->time[strlen(r->time) - 1] = '\0'; /* the Z, to put milliseconds before it */
	r->millisecond = (int)(now_ms % 1000);
	(void)addr_format(r->client, sizeof(r->client), &conn->client);
	r->method[0] = r->host[0] = r->target[0] = '\0';
	if (x != NULL) {
		const struct wire_h1_request *request = &x->request;
		(void)escape(r->method, sizeof(r->method), request->method_text.at,
			     request->method_text.len);
		(void)escape(r->host, sizeof(r->host), x->request.host_name,
			     x->request.host_name_len);
		(void)escape(r->target, sizeof(r->target), request->target.at, request->target.len);
	}
	r->kind = x == NULL ? "tunnel" : record->status == 101 ? "websocket" : "http";
	r->tls = conn->tls == NULL ? "" : conn->tls_version == 13 ? "1.3" : "1.2";
}

void access_log_record(const struct access_record *record)
{
	struct worker *w = record->conn->worker;
	if (!w->settings.wants_access_log)
		return;
	struct record r;
	fill(&r, record);
	const char *format =
		w->settings.is_access_json
			? "{\"time\":\"%s.%03dZ\",\"conn\":%llu,\"client\":\"%s\",\"tls\":\"%s\","
			  "\"method\":\"%s\",\"host\":\"%s\",\"target\":\"%s\",\"status\":%u,"
			  "\"bytes_in\":%llu,\"bytes_out\":%llu,\"ms\":%lld,\"route\":\"%s\","
			  "\"upstream\":\"%s\",\"end\":\"%s\",\"tries\":%u,\"kind\":\"%s\"}"
			: "%s.%03dZ conn=%llu client=%s tls=%s method=%s host=%s target=\"%s\" "
			  "status=%u bytes_in=%llu bytes_out=%llu ms=%lld route=%s upstream=%s "
			  "end=%s tries=%u kind=%s";
	char line[RECORD_MAX + TARGET_MAX];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	size_t len =
		text_format(line, sizeof(line) - 1, format, r.time, r.millisecond,
			    (unsigned long long)record->conn->id, r.client, r.tls, r.method, r.host,
			    r.target, record->status, (unsigned long long)record->bytes_in,
			    (unsigned long long)record->bytes_out, (long long)record->duration_ms,
			    record->route, record->upstream, exchange_end_name(record->end),
			    record->tries, r.kind);
#pragma GCC diagnostic pop
	line[len++] = '\n';
	(void)log_ring_put(w->access_ring, line, len);
}

void access_log_write(const struct exchange *x)
{
	if (!x->worker->settings.wants_access_log)
		return;
	struct access_record record = {
		.conn = x->conn,
		.exchange = x,
		.route = x->route == NULL ? "" : x->route->config->name,
		.upstream = x->upstream_name == NULL ? "" : x->upstream_name,
		.end = x->end,
		.status = x->status,
		.duration_ms = loop_now_ms(x->worker->loop) - x->start_ms,
		.bytes_in = (uint64_t)x->request_body.total,
		.bytes_out = x->to_client.sent_bytes,
		.tries = x->to.choice.tried_cnt,
	};
	access_log_record(&record);
}
