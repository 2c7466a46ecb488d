#include <string.h>

#include "proxy_v2.h"

/* What fits; from the first piece that does not on, is_full. */
struct out {
	uint8_t *at;
	size_t len, cap;
	bool is_full;
};

static void put(struct out *o, const void *data, size_t len)
{
	if (o->is_full || len > o->cap - o->len) {
		o->is_full = true;
		return;
	}
	if (len > 0)
		memcpy(o->at + o->len, data, len);
	o->len += len;
}

static void put_u16(struct out *o, size_t value)
{
	const uint8_t bytes[] = { (uint8_t)(value >> 8), (uint8_t)value };
	put(o, bytes, sizeof(bytes));
}

static void put_tlv_head(struct out *o, uint8_t type, size_t len)
{
	put(o, &type, 1);
	put_u16(o, len);
}

/* Nothing for a span that is not there; limit: what a reader takes. */
static void put_span(struct out *o, uint8_t type, struct wire_span span, size_t limit)
{
	if (span.at == NULL)
		return;
	o->is_full |= span.len > limit;
	put_tlv_head(o, type, span.len);
	put(o, span.at, span.len);
}

static size_t tlv_len(struct wire_span span)
{
	return span.at != NULL ? PROXY2_TLV_HEAD_LEN + (size_t)span.len : 0;
}

static void put_ssl(struct out *o, const struct wire_proxy *proxy)
{
	uint8_t head[PROXY2_SSL_HEAD_LEN] = { PROXY2_CLIENT_SSL };
	if (proxy->has_client_cert)
		head[0] |= PROXY2_CLIENT_CERT_CONN | PROXY2_CLIENT_CERT_SESS;
	head[4] = proxy->has_client_cert && proxy->is_client_verified ? 0 : 1;
	put_tlv_head(o, PROXY2_SSL,
		     sizeof(head) + tlv_len(proxy->ssl_version) + tlv_len(proxy->ssl_cn) +
			     tlv_len(proxy->ssl_cipher));
	put(o, head, sizeof(head));
	put_span(o, PROXY2_SSL_VERSION, proxy->ssl_version, PROXY2_TEXT_MAX);
	put_span(o, PROXY2_SSL_CN, proxy->ssl_cn, PROXY2_CN_MAX);
	put_span(o, PROXY2_SSL_CIPHER, proxy->ssl_cipher, PROXY2_TEXT_MAX);
}

static void put_addresses(struct out *o, const struct wire_proxy *proxy)
{
	size_t len = proxy->family == WIRE_PROXY_TCP6 ? 16 : 4;
	put(o, proxy->src, len);
	put(o, proxy->dst, len);
	put_u16(o, proxy->src_port);
	put_u16(o, proxy->dst_port);
}

static void put_u32_at(uint8_t *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = (uint8_t)(value >> (24 - 8 * i));
}

size_t wire_proxy_write_v2(const struct wire_proxy *proxy, uint8_t *dst, size_t cap)
{
	static const uint8_t families[] = { [WIRE_PROXY_LOCAL] = PROXY2_UNSPEC,
					    [WIRE_PROXY_TCP4] = PROXY2_TCP4,
					    [WIRE_PROXY_TCP6] = PROXY2_TCP6 };
	static const uint8_t zeros[4];
	struct out o = { .at = dst, .cap = cap < WIRE_PROXY_MAX ? cap : WIRE_PROXY_MAX };
	bool is_local = proxy->family == WIRE_PROXY_LOCAL;
	const uint8_t kind[] = { is_local ? PROXY2_LOCAL : PROXY2_PROXY, families[proxy->family] };
	size_t checksum_at = 0;
	put(&o, PROXY2_SIGNATURE, PROXY2_SIGNATURE_LEN);
	put(&o, kind, sizeof(kind));
	put_u16(&o, 0);
	if (!is_local) {
		put_addresses(&o, proxy);
		put_span(&o, PROXY2_ALPN, proxy->alpn, PROXY2_TEXT_MAX);
		put_span(&o, PROXY2_AUTHORITY, proxy->authority, PROXY2_TEXT_MAX);
	}
	if (proxy->has_checksum) {
		put_tlv_head(&o, PROXY2_CRC32C, sizeof(zeros));
		checksum_at = o.len;
		put(&o, zeros, sizeof(zeros));
	}
	if (!is_local) {
		put_span(&o, PROXY2_UNIQUE_ID, proxy->unique_id, WIRE_PROXY_UNIQUE_ID_MAX);
		if (proxy->is_ssl)
			put_ssl(&o, proxy);
	}
	if (o.is_full)
		return 0;
	size_t block_len = o.len - PROXY2_HEAD_LEN;
	dst[14] = (uint8_t)(block_len >> 8);
	dst[15] = (uint8_t)block_len;
	if (proxy->has_checksum)
		put_u32_at(dst + checksum_at, wire_crc32c(0, dst, o.len));
	return o.len;
}
