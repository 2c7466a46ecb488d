/* ClientHello: once decided, more bytes change nothing; the last byte of the hello is the one that
 * decides it; the same message in other records is the same hello. */
#include "fuzz.h"
#include "wire/tls.h"
#include "wire/uri.h"

static enum wire_step parse(const uint8_t *data, size_t len, struct wire_hello *ret_hello,
			    enum wire_hello_reason *ret_reason)
{
	char *copy = copy_exactly(data, len);
	memset(ret_hello, 0, sizeof(*ret_hello));
	enum wire_step step = wire_hello_parse((const uint8_t *)copy, len, ret_hello, ret_reason);
	free(copy);
	CHECK((step == WIRE_FAIL) == (*ret_reason != WIRE_HELLO_OK));
	return step;
}

static void check_same(const struct wire_hello *a, const struct wire_hello *b)
{
	CHECK(a->legacy_version == b->legacy_version && a->has_ech == b->has_ech);
	CHECK(a->has_tls12 == b->has_tls12 && a->has_tls13 == b->has_tls13);
	CHECK(a->sni_len == b->sni_len && strcmp(a->sni, b->sni) == 0);
	CHECK(a->alpn_cnt == b->alpn_cnt);
	for (uint32_t i = 0; i < a->alpn_cnt; i++)
		CHECK(a->alpn[i].len == b->alpn[i].len &&
		      memcmp(a->alpn[i].name, b->alpn[i].name, a->alpn[i].len) == 0);
}

/* The records' contents, cut into records of record_len bytes. Gives the length. */
static size_t cut_anew(const uint8_t *data, size_t len, size_t record_len, uint8_t *dst)
{
	uint8_t *message = malloc(len);
	CHECK(message != NULL);
	size_t message_len = 0;
	for (size_t at = 0; at < len;) {
		size_t here = (size_t)data[at + 3] << 8 | data[at + 4];
		CHECK(at + 5 + here <= len);
		memcpy(message + message_len, data + at + 5, here);
		message_len += here;
		at += 5 + here;
	}
	size_t out = 0;
	for (size_t at = 0; at < message_len; at += record_len) {
		size_t here = message_len - at < record_len ? message_len - at : record_len;
		const uint8_t head[] = { 22, 3, 3, (uint8_t)(here >> 8), (uint8_t)here };
		memcpy(dst + out, head, sizeof(head));
		memcpy(dst + out + 5, message + at, here);
		out += 5 + here;
	}
	free(message);
	return out;
}

static void check_hello(const uint8_t *data, const struct wire_hello *hello, uint64_t *seed)
{
	struct wire_hello again;
	enum wire_hello_reason reason;
	char host[WIRE_HOST_MAX];
	size_t host_len;
	uint16_t port;
	CHECK(hello->sni_len < WIRE_HOST_MAX && strlen(hello->sni) == hello->sni_len);
	CHECK(hello->sni_len == 0 ||
	      (wire_host_normalise(hello->sni, hello->sni_len, host, &host_len, &port) &&
	       host_len == hello->sni_len && strcmp(host, hello->sni) == 0 && port == 0));
	CHECK(hello->alpn_cnt <= WIRE_ALPN_MAX);
	CHECK(parse(data, hello->consumed - 1, &again, &reason) == WIRE_MORE);
	CHECK(parse(data, hello->consumed, &again, &reason) == WIRE_DONE);
	check_same(hello, &again);
	uint8_t *other = malloc(hello->consumed * 6);
	CHECK(other != NULL);
	size_t other_len = cut_anew(data, hello->consumed, 1 + next_below(seed, 300), other);
	if (other_len <= WIRE_HELLO_MAX) {
		CHECK(parse(other, other_len, &again, &reason) == WIRE_DONE);
		CHECK(again.consumed == other_len);
		check_same(hello, &again);
	}
	free(other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct wire_hello whole, part;
	enum wire_hello_reason whole_reason, part_reason;
	uint64_t seed = seed_of(data, len);
	enum wire_step step = parse(data, len, &whole, &whole_reason);
	struct wire_hello_scan scan = { 0 };
	(void)wire_hello_is_ready(&scan, data, next_below(&seed, len + 1));
	bool is_ready = wire_hello_is_ready(&scan, data, len);
	CHECK(is_ready ? step != WIRE_MORE : step != WIRE_DONE);
	CHECK(step != WIRE_DONE || (whole.consumed > 0 && whole.consumed <= len));
	for (int i = 0; i < 8 && len > 0; i++) {
		enum wire_step part_step = parse(data, next_below(&seed, len), &part, &part_reason);
		if (part_step == WIRE_MORE)
			continue;
		CHECK(part_step == step && part_reason == whole_reason);
		if (step == WIRE_DONE) {
			CHECK(part.consumed == whole.consumed);
			check_same(&whole, &part);
		}
	}
	if (step == WIRE_DONE)
		check_hello(data, &whole, &seed);
	return 0;
}
