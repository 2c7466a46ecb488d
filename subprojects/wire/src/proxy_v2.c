#include "proxy_v2.h"

#include <string.h>

/* What is known of a type; of all others any number with any content is passed over. */
struct form {
	uint8_t type;
	bool is_text;        /* no control characters: it goes to logs and header fields */
	uint16_t min, limit; /* bytes */
	size_t place;        /* of its span in struct wire_proxy; 0: not kept */
};
#define SPAN_OF(member) offsetof(struct wire_proxy, member)

static const struct form outer_forms[] = {
	{ PROXY2_ALPN, false, 1, PROXY2_TEXT_MAX, SPAN_OF(alpn) },
	{ PROXY2_AUTHORITY, true, 1, PROXY2_TEXT_MAX, SPAN_OF(authority) },
	{ PROXY2_CRC32C, false, 4, 4, 0 },
	{ PROXY2_UNIQUE_ID, false, 0, WIRE_PROXY_UNIQUE_ID_MAX, SPAN_OF(unique_id) },
	{ PROXY2_SSL, false, PROXY2_SSL_HEAD_LEN, UINT16_MAX, 0 },
	{ PROXY2_NETNS, true, 1, PROXY2_TEXT_MAX, 0 },
	{ 0 },
};
static const struct form ssl_forms[] = {
	{ PROXY2_SSL_VERSION, true, 0, PROXY2_TEXT_MAX, SPAN_OF(ssl_version) },
	{ PROXY2_SSL_CN, true, 0, PROXY2_CN_MAX, SPAN_OF(ssl_cn) },
	{ PROXY2_SSL_CIPHER, true, 0, PROXY2_TEXT_MAX, SPAN_OF(ssl_cipher) },
	{ PROXY2_SSL_SIG_ALG, true, 0, PROXY2_TEXT_MAX, 0 },
	{ PROXY2_SSL_KEY_ALG, true, 0, PROXY2_TEXT_MAX, 0 },
	{ 0 },
};
static const struct form any_form = { .limit = UINT16_MAX };

/* TLVs one behind the other in data from `at` to end; data is there up to have. */
struct block {
	const struct form *forms;
	const uint8_t *data;
	size_t at, have, end;
	unsigned seen; /* one bit a form */
};
struct tlv {
	uint8_t type;
	size_t at, len; /* of the content */
	size_t there;   /* how much of it is there */
};

static enum wire_step refuse(enum wire_proxy_reason reason, enum wire_proxy_reason *ret_reason)
{
	*ret_reason = reason;
	return WIRE_FAIL;
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Whether TLVs can fill len bytes exactly. */
static bool is_fillable(size_t len)
{
	return len == 0 || len >= PROXY2_TLV_HEAD_LEN;
}

/* Whether a length from low to high is right for the form and leaves a rest of `left` that can be filled. */
static enum wire_proxy_reason check_length(const struct form *form, size_t left, size_t low,
					   size_t high)
{
	size_t from = low > form->min ? low : form->min;
	size_t to = least(high, form->limit);
	if (from > to)
		return WIRE_PROXY_BAD_TLV;
	to = least(to, left);
	if (from > to)
		return WIRE_PROXY_BAD_LENGTH;
	if (is_fillable(left - to))
		return WIRE_PROXY_OK;
	return left >= from + PROXY2_TLV_HEAD_LEN ? WIRE_PROXY_OK : WIRE_PROXY_BAD_LENGTH;
}

static enum wire_proxy_reason find_form(struct block *b, uint8_t type, const struct form **ret_form)
{
	*ret_form = &any_form;
	for (unsigned i = 0; b->forms[i].type != 0; i++) {
		if (b->forms[i].type != type)
			continue;
		if ((b->seen & 1U << i) != 0)
			return WIRE_PROXY_BAD_TLV;
		b->seen |= 1U << i;
		*ret_form = &b->forms[i];
	}
	return WIRE_PROXY_OK;
}

static bool is_text(const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (data[i] < ' ' || data[i] == 0x7f)
			return false;
	return true;
}

static void keep(const struct form *form, const char *content, size_t len, struct wire_proxy *proxy)
{
	const struct wire_span span = { content, (uint32_t)len };
	if (form->place != 0)
		memcpy((char *)proxy + form->place, &span, sizeof(span));
}

/* Reads the next TLV as far as it is there; the block's at moves behind its head. DONE although the content
 * may not be whole: see there. */
static enum wire_step take_tlv(struct block *b, struct wire_proxy *proxy, struct tlv *ret_tlv,
			       enum wire_proxy_reason *ret_reason)
{
	const uint8_t *head = b->data + b->at;
	size_t head_len = least(b->have - b->at, PROXY2_TLV_HEAD_LEN);
	if (head_len == 0)
		return WIRE_MORE;
	const struct form *form;
	size_t left = b->end - b->at - PROXY2_TLV_HEAD_LEN;
	enum wire_proxy_reason reason = find_form(b, head[0], &form);
	if (reason == WIRE_PROXY_OK)
		reason = check_length(form, left, 0, UINT16_MAX);
	if (reason == WIRE_PROXY_OK && head_len > 1)
		reason = check_length(form, left, (size_t)head[1] << 8, (size_t)head[1] << 8 | 255);
	size_t len = head_len > 2 ? (size_t)head[1] << 8 | head[2] : 0;
	if (reason == WIRE_PROXY_OK && head_len > 2)
		reason = check_length(form, left, len, len);
	if (reason != WIRE_PROXY_OK)
		return refuse(reason, ret_reason);
	if (head_len < PROXY2_TLV_HEAD_LEN)
		return WIRE_MORE;
	b->at += PROXY2_TLV_HEAD_LEN;
	const uint8_t *content = b->data + b->at;
	*ret_tlv = (struct tlv){ head[0], b->at, len, least(len, b->have - b->at) };
	if (form->is_text && !is_text(content, ret_tlv->there))
		return refuse(WIRE_PROXY_BAD_TLV, ret_reason);
	keep(form, (const char *)content, len, proxy);
	return WIRE_DONE;
}

/* The block's at moves behind the content of a TLV that holds no more. */
static enum wire_step pass_content(struct block *b, const struct tlv *tlv)
{
	b->at += tlv->len;
	return tlv->there == tlv->len ? WIRE_DONE : WIRE_MORE;
}

static void read_ssl_head(const uint8_t *content, struct wire_proxy *proxy)
{
	static const uint8_t zeros[4];
	proxy->is_ssl = (content[0] & PROXY2_CLIENT_SSL) != 0;
	proxy->has_client_cert =
		proxy->is_ssl &&
		(content[0] & (PROXY2_CLIENT_CERT_CONN | PROXY2_CLIENT_CERT_SESS)) != 0;
	proxy->is_client_verified = proxy->has_client_cert && memcmp(content + 1, zeros, 4) == 0;
}

static enum wire_step read_ssl(const uint8_t *data, const struct tlv *ssl, struct wire_proxy *proxy,
			       enum wire_proxy_reason *ret_reason)
{
	if (!is_fillable(ssl->len - PROXY2_SSL_HEAD_LEN))
		return refuse(WIRE_PROXY_BAD_LENGTH, ret_reason);
	if (ssl->there < PROXY2_SSL_HEAD_LEN)
		return WIRE_MORE;
	read_ssl_head(data + ssl->at, proxy);
	struct block block = { .forms = ssl_forms,
			       .data = data,
			       .at = ssl->at + PROXY2_SSL_HEAD_LEN,
			       .have = ssl->at + ssl->there,
			       .end = ssl->at + ssl->len };
	while (block.at < block.end) {
		struct tlv tlv;
		enum wire_step step = take_tlv(&block, proxy, &tlv, ret_reason);
		if (step == WIRE_DONE)
			step = pass_content(&block, &tlv);
		if (step != WIRE_DONE)
			return step;
	}
	if (!proxy->is_ssl)
		proxy->ssl_version = proxy->ssl_cn = proxy->ssl_cipher =
			(struct wire_span){ NULL, 0 };
	return WIRE_DONE;
}

/* The checksum is made with zeros in its own place. */
static bool is_checksum_right(const uint8_t *data, size_t len, size_t place)
{
	static const uint8_t zeros[4];
	const uint8_t *c = data + place;
	uint32_t crc = wire_crc32c(0, data, place);
	crc = wire_crc32c(crc, zeros, sizeof(zeros));
	crc = wire_crc32c(crc, c + 4, len - place - 4);
	return crc == ((uint32_t)c[0] << 24 | (uint32_t)c[1] << 16 | (uint32_t)c[2] << 8 | c[3]);
}

/* The TLVs of data from `at` to end, as far as they are there (have). */
static enum wire_step read_tlvs(const uint8_t *data, size_t have, size_t at, size_t end,
				struct wire_proxy *proxy, enum wire_proxy_reason *ret_reason)
{
	struct block block = {
		.forms = outer_forms, .data = data, .at = at, .have = have, .end = end
	};
	size_t checksum_at = 0;
	while (block.at < block.end) {
		struct tlv tlv;
		enum wire_step step = take_tlv(&block, proxy, &tlv, ret_reason);
		if (step == WIRE_DONE && tlv.type == PROXY2_SSL)
			step = read_ssl(data, &tlv, proxy, ret_reason);
		if (step == WIRE_DONE)
			step = pass_content(&block, &tlv);
		if (step != WIRE_DONE)
			return step;
		if (tlv.type == PROXY2_CRC32C)
			checksum_at = tlv.at;
	}
	if (checksum_at != 0 && !is_checksum_right(data, end, checksum_at))
		return refuse(WIRE_PROXY_BAD_CHECKSUM, ret_reason);
	proxy->has_checksum = checksum_at != 0;
	return WIRE_DONE;
}

static bool find_address_len(uint8_t family, size_t *ret_len)
{
	switch (family) {
	case PROXY2_UNSPEC:
		*ret_len = 0;
		return true;
	case PROXY2_TCP4:
		*ret_len = 12;
		return true;
	case PROXY2_TCP6:
		*ret_len = 36;
		return true;
	case PROXY2_UNIX:
		*ret_len = 216;
		return true;
	default:
		return false;
	}
}

/* A LOCAL command's block is to be discarded, whatever it is (2.2); only a checksum that is there counts. */
static enum wire_step read_local(const uint8_t *data, size_t end, struct wire_proxy *proxy,
				 enum wire_proxy_reason *ret_reason)
{
	struct wire_proxy block = { .has_checksum = false };
	size_t address_len;
	if (!find_address_len(data[13], &address_len) || PROXY2_HEAD_LEN + address_len > end ||
	    !is_fillable(end - PROXY2_HEAD_LEN - address_len))
		return WIRE_DONE;
	enum wire_proxy_reason reason = WIRE_PROXY_OK;
	enum wire_step step =
		read_tlvs(data, end, PROXY2_HEAD_LEN + address_len, end, &block, &reason);
	if (step == WIRE_FAIL && reason == WIRE_PROXY_BAD_CHECKSUM)
		return refuse(reason, ret_reason);
	proxy->has_checksum = block.has_checksum;
	return WIRE_DONE;
}

static void read_addresses(const uint8_t *at, struct wire_proxy *proxy)
{
	size_t len = proxy->family == WIRE_PROXY_TCP6 ? 16 : 4;
	const uint8_t *ports = at + 2 * len;
	if (proxy->family == WIRE_PROXY_LOCAL)
		return;
	memcpy(proxy->src, at, len);
	memcpy(proxy->dst, at + len, len);
	proxy->src_port = (uint16_t)(ports[0] << 8 | ports[1]);
	proxy->dst_port = (uint16_t)(ports[2] << 8 | ports[3]);
}

/* The 16 bytes before the addresses, as far as they are there. */
static enum wire_proxy_reason check_head(const uint8_t *data, size_t len, size_t *ret_address_len)
{
	const size_t limit = WIRE_PROXY_MAX - PROXY2_HEAD_LEN;
	if (memcmp(data, PROXY2_SIGNATURE, least(len, PROXY2_SIGNATURE_LEN)) != 0)
		return WIRE_PROXY_NO_SIGNATURE;
	if (len > 12 && data[12] != PROXY2_PROXY && data[12] != PROXY2_LOCAL)
		return WIRE_PROXY_BAD_VERSION;
	bool is_local = len > 12 && data[12] == PROXY2_LOCAL;
	if (len > 13 && !find_address_len(data[13], ret_address_len) && !is_local)
		return WIRE_PROXY_BAD_VERSION;
	if (len > 14 && (size_t)data[14] << 8 > limit)
		return WIRE_PROXY_TOO_LARGE;
	if (len < PROXY2_HEAD_LEN)
		return WIRE_PROXY_OK;
	size_t block_len = (size_t)data[14] << 8 | data[15];
	if (block_len > limit)
		return WIRE_PROXY_TOO_LARGE;
	if (!is_local &&
	    (block_len < *ret_address_len || !is_fillable(block_len - *ret_address_len)))
		return WIRE_PROXY_BAD_LENGTH;
	return WIRE_PROXY_OK;
}

enum wire_step wire_proxy_v2_read(const uint8_t *data, size_t len, struct wire_proxy *proxy,
				  size_t *ret_used, enum wire_proxy_reason *ret_reason)
{
	size_t address_len = 0;
	enum wire_proxy_reason reason = check_head(data, len, &address_len);
	if (reason != WIRE_PROXY_OK)
		return refuse(reason, ret_reason);
	if (len < PROXY2_HEAD_LEN)
		return WIRE_MORE;
	size_t end = PROXY2_HEAD_LEN + ((size_t)data[14] << 8 | data[15]);
	size_t have = least(len, end);
	bool is_local = data[12] == PROXY2_LOCAL;
	proxy->version = 2;
	*ret_used = end;
	if (is_local)
		return have < end ? WIRE_MORE : read_local(data, end, proxy, ret_reason);
	if (have < PROXY2_HEAD_LEN + address_len)
		return WIRE_MORE;
	if (data[13] == PROXY2_TCP4 || data[13] == PROXY2_TCP6)
		proxy->family = data[13] == PROXY2_TCP4 ? WIRE_PROXY_TCP4 : WIRE_PROXY_TCP6;
	read_addresses(data + PROXY2_HEAD_LEN, proxy);
	return read_tlvs(data, have, PROXY2_HEAD_LEN + address_len, end, proxy, ret_reason);
}
