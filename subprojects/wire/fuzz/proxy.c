/* PROXY headers: once decided, more bytes change nothing; the last byte of the header is the one that decides
 * it; what is said to be the beginning of a header can be made one; what was read says the same once written
 * out again. */
#include "wire/proxy.h"

#include "fuzz.h"

static enum wire_step parse(const uint8_t *data, size_t len, struct wire_proxy *ret_proxy,
			    size_t *ret_used, enum wire_proxy_reason *ret_reason)
{
	char *copy = copy_exactly(data, len);
	memset(ret_proxy, 0, sizeof(*ret_proxy));
	*ret_used = 0;
	enum wire_step step =
		wire_proxy_parse((const uint8_t *)copy, len, ret_proxy, ret_used, ret_reason);
	free(copy);
	CHECK((step == WIRE_FAIL) == (*ret_reason != WIRE_PROXY_OK));
	CHECK(step != WIRE_DONE ||
	      (*ret_used > 0 && *ret_used <= len && *ret_used <= WIRE_PROXY_MAX));
	return step;
}

static void check_same_span(struct wire_span a, struct wire_span b)
{
	CHECK((a.at == NULL) == (b.at == NULL) && a.len == b.len);
	CHECK(a.len == 0 || memcmp(a.at, b.at, a.len) == 0);
}

static void check_same(const struct wire_proxy *a, const struct wire_proxy *b)
{
	CHECK(a->family == b->family);
	CHECK(memcmp(a->src, b->src, 16) == 0 && memcmp(a->dst, b->dst, 16) == 0);
	CHECK(a->src_port == b->src_port && a->dst_port == b->dst_port);
	CHECK(a->has_checksum == b->has_checksum);
	if (a->family == WIRE_PROXY_LOCAL)
		return;
	check_same_span(a->alpn, b->alpn);
	check_same_span(a->authority, b->authority);
	check_same_span(a->unique_id, b->unique_id);
	CHECK(a->is_ssl == b->is_ssl && a->has_client_cert == b->has_client_cert);
	CHECK(a->is_client_verified == b->is_client_verified);
	check_same_span(a->ssl_version, b->ssl_version);
	check_same_span(a->ssl_cn, b->ssl_cn);
	check_same_span(a->ssl_cipher, b->ssl_cipher);
}

static void check_written(const uint8_t *data, size_t used)
{
	uint8_t text[WIRE_PROXY_MAX];
	struct wire_proxy proxy, again;
	size_t again_used;
	enum wire_proxy_reason reason;
	CHECK(wire_proxy_parse(data, used, &proxy, &again_used, &reason) == WIRE_DONE &&
	      again_used == used);
	size_t len = wire_proxy_write_v2(&proxy, text, sizeof(text));
	CHECK(len >= 16);
	CHECK(wire_proxy_write_v2(&proxy, text, len - 1) == 0);
	CHECK(wire_proxy_write_v2(&proxy, text, len) == len);
	CHECK(wire_proxy_parse(text, len, &again, &again_used, &reason) == WIRE_DONE &&
	      again_used == len);
	check_same(&proxy, &again);
	if (proxy.version != 1)
		return;
	len = wire_proxy_write_v1(&proxy, (char *)text, sizeof(text));
	CHECK(len >= 15 && len <= WIRE_PROXY_V1_MAX);
	CHECK(wire_proxy_parse(text, len, &again, &again_used, &reason) == WIRE_DONE &&
	      again_used == len);
	check_same(&proxy, &again);
}

/* Adds the first byte that does not lead to a refusal for its own sake; false: there is none. */
static bool add_byte(uint8_t *header, size_t len, enum wire_step *ret_step)
{
	static const uint8_t likely[] = "\0\n\r 0:.TCP46UNKOWRXY";
	struct wire_proxy proxy;
	size_t used;
	enum wire_proxy_reason reason;
	for (size_t i = 0; i < sizeof(likely) - 1 + 256; i++) {
		header[len] =
			i < sizeof(likely) - 1 ? likely[i] : (uint8_t)(i - (sizeof(likely) - 1));
		*ret_step = wire_proxy_parse(header, len + 1, &proxy, &used, &reason);
		if (*ret_step != WIRE_FAIL || reason == WIRE_PROXY_BAD_CHECKSUM)
			return true;
	}
	return false;
}

/* From MORE, byte by byte, one gets to a whole header. */
static void check_completable(const uint8_t *data, size_t len)
{
	uint8_t header[1200];
	enum wire_step step = WIRE_MORE;
	size_t least = len >= 15 && data[0] == '\r' ? 16 + ((size_t)data[14] << 8) : 0;
	if (len > 500 || least > 300)
		return;
	memcpy(header, data, len);
	while (step == WIRE_MORE) {
		CHECK(len < sizeof(header));
		CHECK(add_byte(header, len++, &step));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct wire_proxy whole, part;
	size_t used, part_used;
	enum wire_proxy_reason whole_reason, part_reason;
	uint64_t seed = seed_of(data, len);
	enum wire_step step = parse(data, len, &whole, &used, &whole_reason);
	for (int i = 0; i < 8 && len > 0; i++) {
		enum wire_step part_step =
			parse(data, next_below(&seed, len), &part, &part_used, &part_reason);
		if (part_step == WIRE_MORE)
			continue;
		CHECK(part_step == step && part_reason == whole_reason && part_used == used);
	}
	if (step == WIRE_MORE && len > 0)
		check_completable(data, len);
	if (step != WIRE_DONE)
		return 0;
	CHECK(parse(data, used - 1, &part, &part_used, &part_reason) == WIRE_MORE);
	CHECK(parse(data, used, &part, &part_used, &part_reason) == WIRE_DONE);
	check_written(data, used);
	return 0;
}
