/* Client connections as the admin API shows them: each worker copies its own, on its own thread. */
#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"
#include "smartproxy/text.h"
#include "tunnel.h"
#include "workers.h"

#define VIEW_TIME_MS 5000

static const char *state_name(const struct conn *conn)
{
	static const char *const states[] = {
		[CONN_PROXY] = "proxy",   [CONN_HELLO] = "hello",   [CONN_HANDSHAKE] = "handshake",
		[CONN_HTTP] = "idle",     [CONN_TUNNEL] = "tunnel", [CONN_LINGER] = "linger",
		[CONN_CLOSED] = "closed",
	};
	static const char *const exchange_states[EXCHANGE_STATE_CNT] = {
		[EXCHANGE_READ_HEAD] = "read_head", [EXCHANGE_ROUTE] = "route",
		[EXCHANGE_ADMIT] = "admit",         [EXCHANGE_CONNECT] = "connect",
		[EXCHANGE_SEND_HEAD] = "send_head", [EXCHANGE_AWAIT_HEAD] = "await_head",
		[EXCHANGE_RELAY] = "relay",         [EXCHANGE_ANSWER] = "answer",
		[EXCHANGE_REPLY] = "reply",         [EXCHANGE_FINISH] = "finish",
	};
	const struct target *to = conn->tunnel != NULL     ? &conn->tunnel->to
				  : conn->exchange != NULL ? &conn->exchange->to
							   : NULL;
	bool is_connecting = conn->tunnel != NULL     ? conn->tunnel->state == TUNNEL_CONNECT
			     : conn->exchange != NULL ? conn->exchange->state == EXCHANGE_CONNECT
						      : false;
	if (is_connecting)
		return to->phase == TARGET_QUEUE ? "queue" : "connect";
	return conn->exchange != NULL ? exchange_states[conn->exchange->state]
				      : states[conn->state];
}

static void fill(const struct conn *conn, struct conn_view *view)
{
	const struct worker *w = conn->worker;
	const struct exchange *x = conn->exchange;
	const struct tunnel *t = conn->tunnel;
	int64_t now_ms = loop_now_ms(w->loop);
	const char *route = "", *upstream = "";
	if (t != NULL) {
		route = t->route;
		upstream = tunnel_upstream_name(t);
	} else if (x != NULL && x->route != NULL) {
		route = x->route->config->name;
		upstream = x->upstream_name == NULL ? "" : x->upstream_name;
	} else if (conn->route != NULL) {
		route = conn->route->config->name;
	}
	*view = (struct conn_view){
		.id = conn->id,
		.worker_ix = w->ix,
		.client = conn->client,
		.peer = conn->peer,
		.listen = conn->listen,
		.age_ms = now_ms - conn->accepted_ms,
		.idle_ms = now_ms - conn->active_ms,
		.bytes_in = conn->bytes_in,
		.bytes_out = conn->bytes_out,
		.request_cnt = conn->request_cnt,
		.tls_version = conn->tls_version,
		.is_tunnel = t != NULL,
		.is_websocket = t != NULL && t->exchange != NULL,
	};
	(void)text_format(view->route, sizeof(view->route), "%s", route);
	(void)text_format(view->upstream, sizeof(view->upstream), "%s", upstream);
	(void)text_format(view->state, sizeof(view->state), "%s", state_name(conn));
}

/* On the worker. */
static void fill_views(struct worker *w, struct call *call)
{
	size_t cnt = w->stats.connections_open;
	if (cnt > call->view_max)
		cnt = call->view_max;
	if (cnt == 0)
		return;
	call->views = fault_hits(FAULT_MALLOC) ? NULL : malloc(cnt * sizeof(*call->views));
	if (call->views == NULL) {
		call->result = ERR_NOMEM;
		return;
	}
	LIST_FOREACH(pos, &w->conns)
	{
		if (call->view_cnt == cnt)
			break;
		fill(SP_CONTAINER_OF(pos, struct conn, link), &call->views[call->view_cnt++]);
	}
}

enum err workers_connections(struct workers *ws, size_t max, struct conn_view **ret_views,
			     size_t *ret_cnt)
{
	struct call question = { .body = fill_views, .view_max = max };
	struct batch *batch = NULL;
	enum err e = workers_ask(ws, &question, VIEW_TIME_MS, &batch);
	if (e != ERR_OK)
		return e;
	size_t sum = 0;
	for (unsigned i = 0; i < batch->cnt; i++)
		sum += batch->calls[i].view_cnt;
	if (sum > max)
		sum = max;
	struct conn_view *views =
		fault_hits(FAULT_MALLOC) ? NULL : malloc((sum + 1) * sizeof(*views));
	size_t cnt = 0;
	for (unsigned i = 0; i < batch->cnt && views != NULL; i++) {
		size_t part = batch->calls[i].view_cnt;
		if (part > sum - cnt)
			part = sum - cnt;
		if (part > 0)
			memcpy(views + cnt, batch->calls[i].views, part * sizeof(*views));
		cnt += part;
	}
	workers_put_batch(batch);
	if (views == NULL)
		return ERR_NOMEM;
	*ret_views = views;
	*ret_cnt = cnt;
	return ERR_OK;
}
