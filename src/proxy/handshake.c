/* The steps HELLO and HANDSHAKE, and where a connection goes that has no HTTP in it (the table is in conn.c). */
#include <string.h>
#include <sys/socket.h>

#include "conn.h"

void conn_send_alert(struct conn *conn, uint8_t description)
{
	const uint8_t alert[7] = { 21, 3, 1, 0, 2, 2, description };
	(void)send(conn->io.fd, alert, sizeof(alert), MSG_NOSIGNAL);
}

/* Never a reset, which would overtake the alert: the rest of what the client sends is read for a moment. */
static bool refuse(struct conn *conn, uint8_t description, enum exchange_end end)
{
	stat_add(&conn->worker->stats.tls_failures, 1);
	conn_unpin(conn);
	tls_conn_free(conn->tls);
	conn->tls = NULL;
	conn->end = end;
	conn_send_alert(conn, description);
	conn_linger(conn);
	return false;
}

static const char plain_on_tls[] =
	"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 47\r\n"
	"Connection: close\r\n\r\nThis port takes HTTPS: the request was not TLS.\n";

static bool refuse_plain(struct conn *conn)
{
	char first = *buf_at(&conn->in);
	if (first < 'A' || first > 'Z')
		return refuse(conn, ALERT_DECODE_ERROR, EXCHANGE_END_TLS_FAILED);
	(void)send(conn->io.fd, plain_on_tls, sizeof(plain_on_tls) - 1, MSG_NOSIGNAL);
	stat_add(&conn->worker->stats.tls_failures, 1);
	conn->end = EXCHANGE_END_TLS_FAILED;
	conn_linger(conn);
	return false;
}

/* One decision: HTTP, with the certificate of this name; a TCP route, pinned, with its certificate unless TLS
 * is passed through; or nothing. Without hello: HTTP when the listener is no more one of raw TCP. */
static enum route_l4_verdict decide(struct conn *conn, const struct wire_hello *hello,
				    struct tls_cert **ret_cert)
{
	const struct route *route = NULL;
	struct route_l4 want = { .listen = &conn->listen, .client = &conn->client, .hello = hello };
	const struct tls_slot *slot = NULL;
	sp_rcu_enter();
	const struct generation *g = generation_current();
	enum route_l4_verdict verdict = route_find_l4(g->routes, &want, &route);
	if (hello == NULL && verdict == ROUTE_L4_HTTP)
		verdict = ROUTE_L4_NONE;
	if (hello == NULL && route_listener_kind(g->routes, &conn->listen) != ROUTE_LISTENER_TCP)
		verdict = ROUTE_L4_HTTP;
	if (verdict == ROUTE_L4_TUNNEL) {
		generation_pin(g, conn->worker->ix);
		conn->generation = g;
		conn->route = route;
		slot = route->slot;
	} else if (verdict == ROUTE_L4_HTTP && hello != NULL) {
		slot = route_find_slot(g->routes, conn->port, hello->sni, hello->sni_len);
	}
	if (slot != NULL) {
		*ret_cert = tls_slot_cert_get(slot);
		conn->slot_hash = tls_slot_hash(slot);
	}
	sp_rcu_leave();
	return verdict;
}

/* The tunnel takes over the connection's pin. */
static void open_tunnel(struct conn *conn, const char *sni)
{
	const struct generation *g = conn->generation;
	const struct route *route = conn->route;
	conn->generation = NULL;
	conn->route = NULL;
	conn_count_in(conn,
		      buf_len(&conn->in)); /* a ClientHello that is passed through is payload */
	tunnel_open(conn, g, route, sni);
}

bool conn_open_tcp(struct conn *conn)
{
	struct tls_cert *cert = NULL;
	enum route_l4_verdict verdict = decide(conn, NULL, &cert);
	SP_ASSERT(cert == NULL);
	if (verdict == ROUTE_L4_HTTP)
		return false;
	if (verdict != ROUTE_L4_TUNNEL)
		conn_close_for(conn, EXCHANGE_END_NO_ROUTE);
	else if (!conn_enter_route(conn, conn->route))
		conn_close_for(conn, EXCHANGE_END_LIMITED);
	else
		open_tunnel(conn, "");
	return true;
}

static bool start_tls(struct conn *conn, const struct wire_hello *hello, struct tls_cert *cert)
{
	struct worker *w = conn->worker;
	conn->has_sni = hello->sni_len > 0;
	enum err e = tls_conn_new(w->tls, conn->io.fd, cert, conn->slot_hash, &conn->tls);
	tls_cert_put(cert);
	if (e == ERR_OK)
		e = tls_conn_feed(conn->tls, buf_at(&conn->in), buf_len(&conn->in),
				  !conn->is_readable);
	if (e != ERR_OK)
		return refuse(conn, ALERT_INTERNAL_ERROR, EXCHANGE_END_NO_MEMORY);
	buf_release(&conn->in, &w->bufs);
	memset(&conn->scan, 0, sizeof(conn->scan));
	conn_set_state(conn, CONN_HANDSHAKE);
	conn_arm_timer(conn, loop_now_ms(w->loop) + w->settings.header_ms);
	return true;
}

static bool take_hello(struct conn *conn, const struct wire_hello *hello)
{
	struct tls_cert *cert = NULL;
	enum route_l4_verdict verdict = decide(conn, hello, &cert);
	const char *sni = hello->sni_len > 0 ? hello->sni : "";
	bool is_tunnel = verdict == ROUTE_L4_TUNNEL;
	if (is_tunnel && !conn_enter_route(conn, conn->route)) {
		tls_cert_put(cert);
		return refuse(conn, ALERT_INTERNAL_ERROR, EXCHANGE_END_LIMITED);
	}
	if (is_tunnel && conn->route->config->action.tls_mode == CONFIG_TLS_PASSTHROUGH) {
		open_tunnel(conn, sni);
		return false;
	}
	if (cert != NULL)
		return start_tls(conn, hello, cert);
	log_debug("proxy", "handshake refused conn=%llu sni=%s: %s", (unsigned long long)conn->id,
		  hello->sni_len > 0 ? sni : "-",
		  verdict == ROUTE_L4_NONE ? "no route has this name" : "no certificate yet");
	return refuse(conn, ALERT_UNRECOGNIZED_NAME,
		      verdict == ROUTE_L4_NONE ? EXCHANGE_END_NO_ROUTE : EXCHANGE_END_TLS_FAILED);
}

/* Reads on, until the buffer is as long as a ClientHello may be. STEP_FAIL: no memory, or too long. */
static enum step read_hello(struct conn *conn)
{
	struct buf_pool *bufs = &conn->worker->bufs;
	if (!buf_reserve(&conn->in, bufs) && !buf_grow(&conn->in, bufs))
		return STEP_FAIL;
	size_t cap = buf_space(&conn->in);
	if (cap > WIRE_HELLO_MAX - buf_len(&conn->in))
		cap = WIRE_HELLO_MAX - buf_len(&conn->in);
	if (cap == 0)
		return STEP_FAIL;
	size_t len = 0;
	enum step step = conn_recv(conn, buf_tail(&conn->in), cap, &len);
	conn->in.end += (uint32_t)len;
	buf_release_if_empty(&conn->in, bufs);
	return step == STEP_FAIL ? STEP_EOF : step;
}

bool conn_step_hello(struct conn *conn)
{
	for (;;) {
		struct wire_hello hello;
		enum wire_hello_reason reason = WIRE_HELLO_OK;
		enum wire_step found = WIRE_MORE;
		size_t len = buf_len(&conn->in);
		const uint8_t *data = len > 0 ? (const uint8_t *)buf_at(&conn->in) : NULL;
		if (len > 0 && wire_hello_is_ready(&conn->scan.hello, data, len))
			found = wire_hello_parse(data, len, &hello, &reason);
		if (found == WIRE_DONE)
			return take_hello(conn, &hello);
		if (found == WIRE_FAIL && reason == WIRE_HELLO_NOT_TLS)
			return refuse_plain(conn);
		if (found == WIRE_FAIL)
			return refuse(conn, ALERT_DECODE_ERROR, EXCHANGE_END_TLS_FAILED);
		enum step step = read_hello(conn);
		if (step == STEP_FAIL)
			return refuse(conn, ALERT_DECODE_ERROR, EXCHANGE_END_TLS_FAILED);
		if (step == STEP_EOF) {
			conn_close_for(conn,
				       len > 0 ? EXCHANGE_END_TLS_FAILED : EXCHANGE_END_CLOSED);
			return false;
		}
		if (step != STEP_DONE)
			return false;
	}
}

static bool fail_handshake(struct conn *conn, enum step step)
{
	stat_add(&conn->worker->stats.tls_failures, 1);
	log_debug("proxy", "handshake failed conn=%llu: %s", (unsigned long long)conn->id,
		  tls_conn_error(conn->tls));
	conn->end = EXCHANGE_END_TLS_FAILED;
	if (step == STEP_FAIL)
		conn_linger(conn); /* OpenSSL has sent an alert */
	else
		conn_close(conn);
	return false;
}

bool conn_step_handshake(struct conn *conn)
{
	struct worker *w = conn->worker;
	enum step step = tls_conn_handshake(conn->tls);
	if (step == STEP_READ || step == STEP_WRITE) {
		conn->is_readable &= step != STEP_READ;
		conn->is_writable &= step != STEP_WRITE;
		return false;
	}
	if (step != STEP_DONE)
		return fail_handshake(conn, step);
	struct tls_conn_info info;
	tls_conn_info(conn->tls, &info);
	conn->tls_version = info.version[strlen(info.version) - 1] == '3' ? 13 : 12;
	stat_add(&w->stats.tls_handshakes, 1);
	stat_add(&w->stats.tls_resumed, info.is_resumed);
	conn->is_readable =
		true; /* application data may have come with the handshake's last flight */
	if (tls_conn_is_drained(conn->tls))
		conn_note_drained(conn);
	if (conn->generation != NULL) {
		open_tunnel(conn, tls_conn_sni(conn->tls));
		return false;
	}
	conn_set_state(conn, CONN_HTTP);
	conn_arm_timer(conn, loop_now_ms(w->loop) + w->settings.header_ms);
	return true;
}
