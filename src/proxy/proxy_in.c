/* The PROXY protocol (proxy-protocol.txt of 2020/03/05): the step PROXY (the table is in conn.c), and the header
 * that a target gets. A header is believed from peers that the listener trusts and demanded of them; from anybody
 * else it is a lie, and the connection ends. */
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "conn.h"
#include "smartproxy/fault.h"

#define LOGGED_MAX \
	10 /* refusals that a worker logs in a second: clients choose how many there are */
#define SIGNATURE_MAX 12 /* bytes after which a version's signature has been seen whole */

/* ---- in ---- */

static bool may_log(struct worker *w)
{
	int64_t now_ms = loop_now_ms(w->loop);
	if (now_ms - w->refused_ms >= 1000) {
		w->refused_ms = now_ms;
		w->refused_cnt = 0;
	}
	return w->refused_cnt++ < LOGGED_MAX;
}

static void log_refusal(const struct conn *conn, enum exchange_end end,
			enum wire_proxy_reason reason)
{
	char peer[ADDR_TEXT_MAX];
	(void)addr_format(peer, sizeof(peer), &conn->peer);
	if (end == EXCHANGE_END_PROXY_MALFORMED)
		log_info("proxy", "PROXY header refused conn=%llu peer=%s port=%u reason=%s",
			 (unsigned long long)conn->id, peer, (unsigned)conn->port,
			 wire_proxy_reason_name(reason));
	else
		log_info("proxy",
			 "PROXY header refused conn=%llu peer=%s port=%u: not in "
			 "proxy_protocol.trusted of this listener",
			 (unsigned long long)conn->id, peer, (unsigned)conn->port);
}

static bool refuse(struct conn *conn, enum exchange_end end, enum wire_proxy_reason reason)
{
	struct worker *w = conn->worker;
	if (end == EXCHANGE_END_PROXY_MALFORMED)
		stat_add(&w->stats.proxy_rejects[(unsigned)reason %
						 SP_ARRAY_LEN(w->stats.proxy_rejects)],
			 1);
	if (may_log(w))
		log_refusal(conn, end, reason);
	conn_close_for(conn, end);
	return false;
}

static void fill_addr(struct addr *dst, enum wire_proxy_family family, const uint8_t *bytes,
		      uint16_t port)
{
	struct sockaddr_storage ss = { 0 };
	if (family == WIRE_PROXY_TCP4) {
		struct sockaddr_in *in = (struct sockaddr_in *)&ss;
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		memcpy(&in->sin_addr, bytes, 4);
	} else {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)&ss;
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		memcpy(&in6->sin6_addr, bytes, 16);
	}
	addr_from_sockaddr(&ss, dst);
}

static uint8_t keep(char *dst, size_t cap, const struct wire_span *tlv)
{
	if (tlv->at == NULL || tlv->len > cap)
		return 0;
	memcpy(dst, tlv->at, tlv->len);
	return (uint8_t)tlv->len;
}

/* LOCAL and UNKNOWN: the connection is the peer's own. False: no memory. */
static bool take_header(struct conn *conn, const struct wire_proxy *header)
{
	if (header->family == WIRE_PROXY_LOCAL)
		return true;
	struct conn_proxy *proxy = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*proxy));
	if (proxy == NULL)
		return false;
	fill_addr(&conn->client, header->family, header->src, header->src_port);
	fill_addr(&proxy->dst, header->family, header->dst, header->dst_port);
	proxy->unique_id_len = keep(proxy->unique_id, sizeof(proxy->unique_id), &header->unique_id);
	proxy->authority_len =
		keep(proxy->authority, sizeof(proxy->authority) - 1, &header->authority);
	proxy->alpn_len = keep(proxy->alpn, sizeof(proxy->alpn), &header->alpn);
	conn->proxy = proxy;
	return true;
}

/* What stands behind the header is the next state's. */
static bool pass_header(struct conn *conn, const struct wire_proxy *header, size_t used)
{
	if (!take_header(conn, header)) {
		conn_close_for(conn, EXCHANGE_END_NO_MEMORY);
		return false;
	}
	buf_consume(&conn->in, used);
	buf_release_if_empty(&conn->in, &conn->worker->bufs);
	stat_add(&conn->worker->stats.proxy_headers, 1);
	return conn_enter_address(conn) && conn_begin(conn);
}

static bool end_early(struct conn *conn)
{
	if (buf_len(&conn->in) == 0) {
		conn_close_for(conn, EXCHANGE_END_CLOSED);
		return false;
	}
	return conn->is_proxy_trusted
		       ? refuse(conn, EXCHANGE_END_PROXY_MALFORMED, WIRE_PROXY_BAD_LENGTH)
		       : conn_begin(conn);
}

bool conn_step_proxy(struct conn *conn)
{
	for (;;) {
		struct wire_proxy header;
		enum wire_proxy_reason reason = WIRE_PROXY_OK;
		enum wire_step found = WIRE_MORE;
		size_t used = 0, len = buf_len(&conn->in);
		if (len > 0)
			found = wire_proxy_parse((const uint8_t *)buf_at(&conn->in), len, &header,
						 &used, &reason);
		bool is_signed = found == WIRE_MORE ? len >= SIGNATURE_MAX
						    : reason != WIRE_PROXY_NO_SIGNATURE;
		if (!conn->is_proxy_trusted && is_signed)
			return refuse(conn, EXCHANGE_END_PROXY_UNTRUSTED, reason);
		if (found == WIRE_DONE)
			return pass_header(conn, &header, used);
		if (found == WIRE_FAIL)
			return conn->is_proxy_trusted
				       ? refuse(conn, EXCHANGE_END_PROXY_MALFORMED, reason)
				       : conn_begin(conn);
		if (!buf_reserve(&conn->in, &conn->worker->bufs)) {
			conn_close_for(conn, EXCHANGE_END_NO_MEMORY);
			return false;
		}
		size_t got = 0;
		enum step step = conn_recv(conn, buf_tail(&conn->in), buf_space(&conn->in), &got);
		conn->in.end += (uint32_t)got;
		buf_release_if_empty(&conn->in, &conn->worker->bufs);
		if (step == STEP_EOF || step == STEP_FAIL)
			return end_early(conn);
		if (step != STEP_DONE)
			return false;
	}
}

/* ---- out ---- */

static void put_addr(const struct addr *a, bool wants_v6, uint8_t *ret_bytes, uint16_t *ret_port)
{
	*ret_port = addr_port(a);
	if (a->sa.sa_family == AF_INET6) {
		memcpy(ret_bytes, &a->v6.sin6_addr, 16);
	} else if (wants_v6) { /* mapped: RFC 4291, 2.5.5.2 */
		memset(ret_bytes + 10, 0xff, 2);
		memcpy(ret_bytes + 12, &a->v4.sin_addr, 4);
	} else {
		memcpy(ret_bytes, &a->v4.sin_addr, 4);
	}
}

static void put_addrs(const struct conn *conn, struct wire_proxy *header)
{
	struct addr dst = conn->listen;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	if (conn->proxy != NULL)
		dst = conn->proxy->dst;
	else if (getsockname(conn->io.fd, (struct sockaddr *)&ss, &len) == 0)
		addr_from_sockaddr(&ss, &dst);
	bool is_v6 = conn->client.sa.sa_family == AF_INET6 || dst.sa.sa_family == AF_INET6;
	header->family = is_v6 ? WIRE_PROXY_TCP6 : WIRE_PROXY_TCP4;
	put_addr(&conn->client, is_v6, header->src, &header->src_port);
	put_addr(&dst, is_v6, header->dst, &header->dst_port);
}

static struct wire_span span_of(const char *at, size_t len)
{
	return len == 0 ? (struct wire_span){ 0 } : (struct wire_span){ at, (uint32_t)len };
}

size_t conn_write_proxy_header(const struct conn *conn, enum config_proxy_protocol version,
			       const char *sni, void *dst, size_t cap)
{
	if (version == CONFIG_PROXY_NONE)
		return 0;
	struct wire_proxy header = { .version = version == CONFIG_PROXY_V1 ? 1 : 2,
				     .has_checksum = true };
	struct tls_conn_info info;
	put_addrs(conn, &header);
	if (version == CONFIG_PROXY_V1)
		return wire_proxy_write_v1(&header, dst, cap);
	const struct conn_proxy *in = conn->proxy;
	if (in != NULL) {
		header.unique_id = span_of(in->unique_id, in->unique_id_len);
		header.authority = span_of(in->authority, in->authority_len);
		header.alpn = span_of(in->alpn, in->alpn_len);
	}
	if (sni[0] != '\0')
		header.authority = span_of(sni, strlen(sni));
	if (conn->tls != NULL) {
		tls_conn_info(conn->tls, &info);
		header.is_ssl = true;
		header.ssl_version = span_of(info.version, strlen(info.version));
		header.ssl_cipher = span_of(info.cipher, strlen(info.cipher));
		header.alpn = span_of(info.alpn, strlen(info.alpn));
	}
	return wire_proxy_write_v2(&header, dst, cap);
}
