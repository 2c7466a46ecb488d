#include <string.h>

#include "chars.h"
#include "wire/tls.h"
#include "wire/uri.h"

#define RECORD_HEAD     5
#define RECORD_MAX      16384 /* RFC 8446, 5.1 */
#define TYPE_HANDSHAKE  22
#define CLIENT_HELLO    1
#define EXT_SERVER_NAME 0
#define EXT_ALPN        16
#define EXT_VERSIONS    43
#define EXT_ECH         0xfe0d
#define TLS_1_2         0x0303
#define TLS_1_3         0x0304

/* Reads the handshake's bytes in order, over record heads, so that what it decides at a byte does
 * not depend on what has arrived behind it. Once it has stopped (step is not DONE), every read
 * gives 0 and nothing changes. */
struct reader {
	const uint8_t *data;
	size_t len;
	size_t at;          /* next byte of data */
	size_t record_left; /* bytes of the current record not read yet */
	enum wire_step step;
	enum wire_hello_reason reason;
};

static void stop(struct reader *r, enum wire_step step, enum wire_hello_reason reason)
{
	if (r->step != WIRE_DONE)
		return;
	r->step = step;
	r->reason = reason;
}

static void open_record(struct reader *r)
{
	const uint8_t *head = r->data + r->at;
	size_t there = r->len - r->at;
	if (there > 0 && head[0] != TYPE_HANDSHAKE) {
		stop(r, WIRE_FAIL, r->at == 0 ? WIRE_HELLO_NOT_TLS : WIRE_HELLO_BAD_RECORD);
		return;
	}
	if (there < RECORD_HEAD) {
		stop(r, WIRE_MORE, WIRE_HELLO_OK);
		return;
	}
	size_t len = (size_t)head[3] << 8 | head[4];
	if (head[1] != 3 || len == 0 || len > RECORD_MAX)
		stop(r, WIRE_FAIL, WIRE_HELLO_BAD_RECORD);
	else if (r->at + RECORD_HEAD + len > WIRE_HELLO_MAX)
		stop(r, WIRE_FAIL, WIRE_HELLO_TOO_LARGE);
	r->at += RECORD_HEAD;
	r->record_left = len;
}

/* The run of bytes that lie together at the reader's place: 0 when it has stopped. */
static size_t peek_run(struct reader *r, size_t want)
{
	if (r->step == WIRE_DONE && r->record_left == 0)
		open_record(r);
	if (r->step != WIRE_DONE)
		return 0;
	size_t run = r->len - r->at;
	if (run == 0)
		stop(r, WIRE_MORE, WIRE_HELLO_OK);
	run = run < r->record_left ? run : r->record_left;
	return run < want ? run : want;
}

/* Reads len bytes, into dst unless it is NULL. */
static void read_bytes(struct reader *r, size_t len, char *dst)
{
	while (len > 0) {
		size_t run = peek_run(r, len);
		if (run == 0)
			return;
		if (dst != NULL) {
			memcpy(dst, r->data + r->at, run);
			dst += run;
		}
		r->at += run;
		r->record_left -= run;
		len -= run;
	}
}

static uint32_t read_raw(struct reader *r, unsigned byte_cnt)
{
	uint32_t value = 0;
	/* Most numbers lie within a record, and are there. */
	if (r->step == WIRE_DONE && byte_cnt <= r->record_left && byte_cnt <= r->len - r->at) {
		for (unsigned i = 0; i < byte_cnt; i++)
			value = value << 8 | r->data[r->at + i];
		r->at += byte_cnt;
		r->record_left -= byte_cnt;
		return value;
	}
	for (unsigned i = 0; i < byte_cnt; i++) {
		if (peek_run(r, 1) == 0)
			return 0;
		value = value << 8 | r->data[r->at++];
		r->record_left--;
	}
	return value;
}

/* Takes len bytes from *left; a length that does not fit fails. */
static bool claim(struct reader *r, uint32_t *left, uint32_t len)
{
	if (r->step != WIRE_DONE)
		return false;
	if (len > *left) {
		stop(r, WIRE_FAIL, WIRE_HELLO_BAD_LENGTH);
		return false;
	}
	*left -= len;
	return true;
}

/* A number of byte_cnt bytes out of the *left ones. */
static uint32_t read_number(struct reader *r, uint32_t *left, unsigned byte_cnt)
{
	return claim(r, left, byte_cnt) ? read_raw(r, byte_cnt) : 0;
}

/* A vector's length prefix (RFC 8446, 3.4), with the vector's bytes claimed from *left. min and
 * max: in bytes. */
static uint32_t open_vector(struct reader *r, uint32_t *left, unsigned prefix, uint32_t min,
			    uint32_t max)
{
	uint32_t len = read_number(r, left, prefix);
	if (r->step != WIRE_DONE)
		return 0;
	if (len < min || len > max) {
		stop(r, WIRE_FAIL, WIRE_HELLO_BAD_LENGTH);
		return 0;
	}
	return claim(r, left, len) ? len : 0;
}

/* The one list of an extension must fill it. */
static uint32_t open_list(struct reader *r, uint32_t ext_len, unsigned prefix, uint32_t min,
			  uint32_t max)
{
	uint32_t len = open_vector(r, &ext_len, prefix, min, max);
	if (ext_len != 0)
		stop(r, WIRE_FAIL, WIRE_HELLO_BAD_LENGTH);
	return len;
}

static void read_server_name(struct reader *r, uint32_t ext_len, struct wire_hello *hello)
{
	uint32_t left = open_list(r, ext_len, 2, 1, UINT16_MAX);
	uint32_t type = read_number(r, &left, 1);
	uint32_t len = open_vector(r, &left, 2, 0, UINT16_MAX);
	if (r->step != WIRE_DONE)
		return;
	/* One host_name and nothing else: no other type was ever defined (RFC 6066, 3). */
	char name[WIRE_HOST_MAX + 1];
	if (type != 0 || left != 0 || len == 0 || len > sizeof(name)) {
		stop(r, WIRE_FAIL, WIRE_HELLO_BAD_SNI);
		return;
	}
	read_bytes(r, len, name);
	if (r->step != WIRE_DONE)
		return;
	uint16_t port;
	if (memchr(name, ':', len) != NULL ||
	    !wire_host_normalise(name, len, hello->sni, &hello->sni_len, &port))
		stop(r, WIRE_FAIL, WIRE_HELLO_BAD_SNI);
}

static void read_alpn(struct reader *r, uint32_t ext_len, struct wire_hello *hello)
{
	uint32_t left = open_list(r, ext_len, 2, 2, UINT16_MAX);
	while (left > 0 && r->step == WIRE_DONE) {
		uint32_t len = open_vector(r, &left, 1, 1, UINT8_MAX);
		if (hello->alpn_cnt == WIRE_ALPN_MAX) {
			read_bytes(r, len, NULL);
			continue;
		}
		size_t room = sizeof(hello->alpn[0].name);
		uint32_t kept = len < room ? len : (uint32_t)room;
		read_bytes(r, kept, hello->alpn[hello->alpn_cnt].name);
		read_bytes(r, len - kept, NULL);
		hello->alpn[hello->alpn_cnt++].len = (uint8_t)kept;
	}
}

static void read_versions(struct reader *r, uint32_t ext_len, struct wire_hello *hello)
{
	uint32_t left = open_list(r, ext_len, 1, 2, 254);
	hello->has_tls12 = false;
	while (left > 0 && r->step == WIRE_DONE) {
		uint32_t version = read_number(r, &left, 2);
		hello->has_tls12 |= version == TLS_1_2;
		hello->has_tls13 |= version == TLS_1_3;
	}
}

/* Types of extensions so far. The common ones are below 64, and of others there are few: the map is for a hello
 * that has more, and is not cleared for others. */
struct types {
	uint64_t low;
	unsigned high_cnt;
	bool has_map;
	uint16_t high[16];
	uint64_t map[65536 / 64];
};

static bool note_bit(uint64_t *map, uint32_t type)
{
	uint64_t bit = 1ULL << (type % 64);
	bool is_new = (map[type / 64] & bit) == 0;
	map[type / 64] |= bit;
	return is_new;
}

/* False: it was there before. */
static bool note_type(struct types *seen, uint32_t type)
{
	if (type < 64)
		return note_bit(&seen->low, type);
	for (unsigned i = 0; i < seen->high_cnt; i++) {
		if (seen->high[i] == type)
			return false;
	}
	if (seen->high_cnt < sizeof(seen->high) / sizeof(seen->high[0])) {
		seen->high[seen->high_cnt++] = (uint16_t)type;
		return true;
	}
	if (!seen->has_map)
		memset(seen->map, 0, sizeof(seen->map));
	seen->has_map = true;
	return note_bit(seen->map, type);
}

static void read_extension(struct reader *r, uint32_t *left, struct types *seen,
			   struct wire_hello *hello)
{
	uint32_t type = read_number(r, left, 2);
	if (r->step != WIRE_DONE)
		return;
	if (!note_type(seen, type)) {
		stop(r, WIRE_FAIL, WIRE_HELLO_DUPLICATE);
		return;
	}
	uint32_t len = open_vector(r, left, 2, 0, UINT16_MAX);
	switch (type) {
	case EXT_SERVER_NAME:
		read_server_name(r, len, hello);
		break;
	case EXT_ALPN:
		read_alpn(r, len, hello);
		break;
	case EXT_VERSIONS:
		read_versions(r, len, hello);
		break;
	case EXT_ECH: { /* ECHClientHelloType: outer is 0 */
		uint32_t ech_type = read_number(r, &len, 1);
		hello->has_ech = r->step == WIRE_DONE && ech_type == 0;
		read_bytes(r, len, NULL);
		break;
	}
	default:
		read_bytes(r, len, NULL);
	}
}

/* RFC 8446, 4.1.2. */
static void read_hello(struct reader *r, struct wire_hello *hello)
{
	if (read_raw(r, 1) != CLIENT_HELLO)
		stop(r, WIRE_FAIL, WIRE_HELLO_NOT_HELLO);
	uint32_t left = read_raw(r, 3);
	if (left > WIRE_HELLO_MAX)
		stop(r, WIRE_FAIL, WIRE_HELLO_TOO_LARGE);
	hello->legacy_version = (uint16_t)read_number(r, &left, 2);
	hello->has_tls12 = hello->legacy_version >= TLS_1_2;
	if (claim(r, &left, 32))
		read_bytes(r, 32, NULL); /* random */
	read_bytes(r, open_vector(r, &left, 1, 0, 32), NULL);
	uint32_t suites_len = open_vector(r, &left, 2, 2, UINT16_MAX - 1);
	if (suites_len % 2 != 0)
		stop(r, WIRE_FAIL, WIRE_HELLO_BAD_LENGTH);
	read_bytes(r, suites_len, NULL);
	read_bytes(r, open_vector(r, &left, 1, 1, UINT8_MAX), NULL); /* compression methods */
	if (r->step != WIRE_DONE || left == 0) /* TLS 1.2 allows no extensions at all */
		return;
	uint32_t ext_left = open_list(r, left, 2, 0, UINT16_MAX);
	struct types seen;
	seen.low = 0;
	seen.high_cnt = 0;
	seen.has_map = false;
	while (ext_left > 0 && r->step == WIRE_DONE)
		read_extension(r, &ext_left, &seen, hello);
}

bool wire_hello_is_ready(struct wire_hello_scan *scan, const uint8_t *data, size_t len)
{
	while (scan->wanted == 0 || scan->got < scan->wanted) {
		if (len <= scan->next)
			return false;
		const uint8_t *record = data + scan->next;
		size_t there = len - scan->next;
		if (record[0] != TYPE_HANDSHAKE)
			return true;
		if (there < RECORD_HEAD)
			return false;
		size_t record_len = (size_t)record[3] << 8 | record[4];
		if (record[1] != 3 || record_len == 0 || record_len > RECORD_MAX ||
		    scan->next + RECORD_HEAD + record_len > WIRE_HELLO_MAX)
			return true;
		if (there < RECORD_HEAD + record_len)
			return false;
		for (size_t i = 0; i < record_len && scan->got + i < sizeof(scan->head); i++)
			scan->head[scan->got + i] = record[RECORD_HEAD + i];
		scan->got += (uint32_t)record_len;
		scan->next += RECORD_HEAD + record_len;
		if (scan->wanted == 0 && scan->got >= sizeof(scan->head))
			scan->wanted = 4 + ((uint32_t)scan->head[1] << 16 |
					    (uint32_t)scan->head[2] << 8 | scan->head[3]);
		if (scan->wanted > 0 &&
		    (scan->head[0] != CLIENT_HELLO || scan->wanted - 4 > WIRE_HELLO_MAX))
			return true;
	}
	return true;
}

enum wire_step wire_hello_parse(const uint8_t *data, size_t len, struct wire_hello *ret_hello,
				enum wire_hello_reason *ret_reason)
{
	struct reader r = { .data = data, .len = len };
	struct wire_hello hello;
	memset(&hello, 0, sizeof(hello));
	read_hello(&r, &hello);
	if (r.record_left != 0) /* more handshake data before our answer: RFC 8446, 5.1 */
		stop(&r, WIRE_FAIL, WIRE_HELLO_BAD_LENGTH);
	*ret_reason = r.reason;
	if (r.step != WIRE_DONE)
		return r.step;
	hello.consumed = r.at;
	*ret_hello = hello;
	return WIRE_DONE;
}
