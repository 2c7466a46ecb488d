/* Connections as they come: limits, and what their listener says they start with. */
#include <stdlib.h>
#include <unistd.h>

#include "conn.h"
#include "smartproxy/alloc.h"
#include "smartproxy/fault.h"

static enum exchange_end end_of(enum limit_verdict verdict)
{
	static const enum exchange_end ends[] = {
		[LIMIT_OK] = EXCHANGE_END_CNT,
		[LIMIT_OVERALL] = EXCHANGE_END_OVER_LIMIT,
		[LIMIT_PER_IP] = EXCHANGE_END_OVER_LIMIT_IP,
		[LIMIT_RATE] = EXCHANGE_END_OVER_RATE_IP,
		[LIMIT_NO_MEMORY] = EXCHANGE_END_NO_MEMORY,
	};
	return ends[verdict];
}

/* What the generation that is published now says of a connection before its first byte. */
static struct route_listening ask_listener(const struct addr *listen, const struct addr *peer)
{
	sp_rcu_enter();
	struct route_listening says =
		route_listener_ask(generation_current()->routes, listen, peer);
	sp_rcu_leave();
	return says;
}

static struct conn *new_conn(struct worker *w, int fd, const struct addr *peer,
			     const struct addr *listen)
{
	struct conn *conn = fault_hits(FAULT_MALLOC) ? NULL : alloc_zeroed(sizeof(*conn));
	if (conn == NULL)
		return NULL;
	conn->worker = w;
	conn->io.fd = fd;
	conn->client = conn->peer = *peer;
	conn->listen = *listen;
	conn->port = addr_port(listen);
	conn->id = ++w->next_conn_id * 256 + w->ix;
	conn->accepted_ms = conn->active_ms = loop_now_ms(w->loop);
	conn->end = EXCHANGE_END_CNT;
	conn->is_writable = true;
	return conn;
}

bool conn_enter_address(struct conn *conn)
{
	struct worker *w = conn->worker;
	enum limit_verdict verdict =
		limits_enter_address(w->limits, &w->settings.limits, &conn->client,
				     loop_now_ms(w->loop), &conn->is_ip_counted);
	conn->ipv6_prefix = (uint8_t)w->settings.limits.ipv6_prefix;
	if (verdict == LIMIT_OK)
		return true;
	conn->is_ip_counted = false;
	stat_add(&w->stats.connections_refused, 1);
	conn_close_for(conn, end_of(verdict));
	return false;
}

static void refuse(struct worker *w, int fd, enum exchange_end end)
{
	(void)close(fd);
	stat_add(&w->stats.connections_refused, 1);
	stat_add(&w->stats.conn_ends[end], 1);
}

static bool begin(struct conn *conn, enum route_listener kind)
{
	struct worker *w = conn->worker;
	int64_t now_ms = loop_now_ms(w->loop);
	while (kind == ROUTE_LISTENER_TCP) {
		if (conn_open_tcp(conn))
			return false;
		kind = ask_listener(&conn->listen, &conn->peer).kind;
	}
	if (kind == ROUTE_LISTENER_TLS) {
		conn_set_state(conn, CONN_HELLO);
		conn_arm_timer(conn, now_ms + w->settings.hello_ms);
	} else {
		conn_set_state(conn, CONN_HTTP);
		conn_count_in(conn, buf_len(&conn->in));
		conn_arm_timer(conn, now_ms + w->settings.header_ms);
	}
	return true;
}

void conn_accept(struct worker *w, int fd, const struct addr *client, const struct addr *listen,
		 bool reads_first)
{
	enum limit_verdict verdict = limits_enter(w->limits, &w->settings.limits);
	if (verdict != LIMIT_OK) {
		refuse(w, fd, end_of(verdict));
		return;
	}
	struct conn *conn = new_conn(w, fd, client, listen);
	if (conn == NULL) {
		limits_leave(w->limits);
		refuse(w, fd, EXCHANGE_END_NO_MEMORY);
		return;
	}
	struct route_listening says = ask_listener(listen, client);
	if (!conn_open(conn))
		return;
	/* Behind a proxy that is trusted the client is who its header names. */
	conn->is_proxy_trusted = says.trust == ROUTE_TRUST_PEER;
	if (!conn->is_proxy_trusted && !conn_enter_address(conn))
		return;
	/* A server of raw TCP may speak first: nothing is waited for there. */
	bool wants_look = says.trust == ROUTE_TRUST_NOT && says.kind != ROUTE_LISTENER_TCP;
	if (conn->is_proxy_trusted || wants_look) {
		int64_t time_ms = wants_look && says.kind == ROUTE_LISTENER_HTTP
					  ? w->settings.header_ms
					  : w->settings.hello_ms;
		conn_arm_timer(conn, conn->accepted_ms + time_ms);
	} else {
		(void)begin(conn, says.kind);
	}
	if (reads_first && says.is_deferred) { /* its first bytes are there already */
		conn->is_readable = true;
		conn_run(conn);
	}
}

bool conn_begin(struct conn *conn)
{
	return begin(conn, ask_listener(&conn->listen, &conn->peer).kind);
}

bool conn_enter_route(struct conn *conn, const struct route *route)
{
	struct limit_counter *counter = route->counter;
	if (counter == conn->route_counter)
		return true;
	if (conn->route_counter != NULL)
		limit_counter_leave(conn->route_counter);
	conn->route_counter = NULL;
	if (counter != NULL && !limit_counter_enter(counter, route->config->max_connections))
		return false;
	conn->route_counter = counter;
	return true;
}
