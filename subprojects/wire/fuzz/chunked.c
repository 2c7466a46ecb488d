/* Chunked bodies: pieces of any size give the payload, the end, the trailers and the reason that
 * the whole gives, and the payload encoded again decodes to itself. */
#include "chars_of.h"

struct outcome {
	enum wire_step step;
	enum wire_reason reason;
	size_t used, payload_len;
	char *payload;
	struct wire_span trailer; /* inside the input */
};

/* piece_max: the most new bytes a call sees; what was not used is seen again. */
static void decode(const uint8_t *data, size_t len, size_t piece_max, struct outcome *ret)
{
	struct wire_chunked c = { 0 };
	uint64_t seed = seed_of(data, len);
	size_t end = 0;
	memset(ret, 0, sizeof(*ret));
	ret->payload = copy_exactly(data, len);
	ret->step = WIRE_MORE;
	for (bool is_stuck = true; ret->step == WIRE_MORE;) {
		if (is_stuck && end == len)
			break;
		if (is_stuck)
			end += 1 + next_below(&seed, len - end < piece_max ? len - end : piece_max);
		size_t used = 0;
		size_t run = 0;
		struct wire_span trailer;
		char *part = copy_exactly(data + ret->used, end - ret->used);
		ret->step = wire_chunked_decode(&c, part, end - ret->used, &used, &run, &trailer);
		CHECK(ret->step == WIRE_FAIL || (used <= end - ret->used && run <= used));
		if (ret->step != WIRE_FAIL) {
			if (run > 0)
				memcpy(ret->payload + ret->payload_len, part + used - run, run);
			ret->payload_len += run;
			if (ret->step == WIRE_DONE)
				ret->trailer = (struct wire_span){ (const char *)data + ret->used +
									   (trailer.at - part),
								   trailer.len };
			ret->used += used;
		}
		is_stuck = used == 0;
		free(part);
	}
	ret->reason = c.reason;
	CHECK((ret->step == WIRE_FAIL) == (c.reason != WIRE_OK));
}

static void check_again(const struct outcome *o)
{
	size_t size = o->payload_len + 64;
	char *body = malloc(size);
	CHECK(body != NULL);
	size_t len = 0;
	if (o->payload_len > 0) {
		len = (size_t)snprintf(body, size, "%zx\r\n", o->payload_len);
		memcpy(body + len, o->payload, o->payload_len);
		len += o->payload_len;
		memcpy(body + len, "\r\n", 2);
		len += 2;
	}
	memcpy(body + len, "0\r\n\r\n", 5);
	len += 5;
	struct outcome again;
	decode((const uint8_t *)body, len, len, &again);
	CHECK(again.step == WIRE_DONE && again.used == len && again.trailer.len == 0);
	CHECK(again.payload_len == o->payload_len);
	CHECK(memcmp(again.payload, o->payload, o->payload_len) == 0);
	free(again.payload);
	free(body);
}

static void check_trailers(struct wire_span section)
{
	struct wire_field fields[32];
	uint32_t cnt = 0;
	char *copy = copy_exactly(section.at, section.len);
	if (wire_h1_parse_trailers(copy, section.len, 32, fields, &cnt) == WIRE_OK)
		for (uint32_t i = 0; i < cnt; i++) {
			CHECK(is_token(fields[i].name) && is_value(fields[i].value));
			CHECK(fields[i].id == WIRE_FIELD_OTHER || fields[i].is_dropped);
		}
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct outcome whole, pieces;
	decode(data, len, len > 0 ? len : 1, &whole);
	for (size_t piece_max = 1; piece_max <= 27; piece_max *= 3) {
		decode(data, len, piece_max, &pieces);
		CHECK(pieces.step == whole.step && pieces.reason == whole.reason);
		CHECK(pieces.payload_len == whole.payload_len);
		CHECK(memcmp(pieces.payload, whole.payload, whole.payload_len) == 0);
		if (whole.step == WIRE_DONE) {
			CHECK(pieces.used == whole.used);
			CHECK(pieces.trailer.at == whole.trailer.at &&
			      pieces.trailer.len == whole.trailer.len);
		}
		free(pieces.payload);
	}
	if (whole.step == WIRE_DONE) {
		check_again(&whole);
		check_trailers(whole.trailer);
	}
	free(whole.payload);
	return 0;
}
