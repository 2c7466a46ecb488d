/* The record of an ended exchange, put into the worker's ring and written by the control thread. */
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
	const char *route, *upstream, *tls;
};

static void fill(struct record *r, const struct exchange *x)
{
	const struct conn *conn = x->conn;
	const char *(*escape)(char *dst, size_t cap, const char *src, size_t len) =
		x->worker->settings.is_access_json ? text_escape_json : text_escape;
	int64_t now_ms = clock_unix_ms();
	(void)clock_format_utc(r->time, sizeof(r->time), now_ms / 1000);
	r->time[strlen(r->time) - 1] = '\0'; /* the Z, to put milliseconds before it */
	r->millisecond = (int)(now_ms % 1000);
	(void)addr_format(r->client, sizeof(r->client), &conn->client);
	(void)escape(r->method, sizeof(r->method), x->request.method_text.at,
		     x->request.method_text.len);
	(void)escape(r->host, sizeof(r->host), x->host, x->host_len);
	(void)escape(r->target, sizeof(r->target), x->request.target.at, x->request.target.len);
	r->route = x->route == NULL ? "" : x->route->config->name;
	r->upstream = x->upstream_name == NULL ? "" : x->upstream_name;
	r->tls = conn->tls == NULL ? "" : conn->tls_version == 13 ? "1.3" : "1.2";
}

void access_log_write(const struct exchange *x)
{
	struct worker *w = x->worker;
	if (!w->settings.wants_access_log)
		return;
	struct record r;
	fill(&r, x);
	const char *format =
		w->settings.is_access_json
			? "{\"time\":\"%s.%03dZ\",\"conn\":%llu,\"client\":\"%s\",\"tls\":\"%s\","
			  "\"method\":\"%s\","
			  "\"host\":\"%s\",\"target\":\"%s\",\"status\":%u,\"bytes_in\":%lld,"
			  "\"bytes_out\":%llu,"
			  "\"ms\":%lld,\"route\":\"%s\",\"upstream\":\"%s\",\"end\":\"%s\"}"
			: "%s.%03dZ conn=%llu client=%s tls=%s method=%s host=%s target=\"%s\" "
			  "status=%u bytes_in=%lld "
			  "bytes_out=%llu ms=%lld route=%s upstream=%s end=%s";
	char line[RECORD_MAX + TARGET_MAX];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	size_t len = text_format(line, sizeof(line) - 1, format, r.time, r.millisecond,
				 (unsigned long long)x->conn->id, r.client, r.tls, r.method, r.host,
				 r.target, x->status, (long long)x->request_body.total,
				 (unsigned long long)x->to_client.sent_bytes,
				 (long long)(loop_now_ms(w->loop) - x->start_ms), r.route,
				 r.upstream, exchange_end_name(x->end));
#pragma GCC diagnostic pop
	line[len++] = '\n';
	(void)log_ring_put(w->access_ring, line, len);
}
