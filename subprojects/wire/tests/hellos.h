#pragma once
/* ClientHellos: records made anew, parsed at every cut. */
#include "run.h"
#include "wire/tls.h"

struct bytes {
	size_t len;
	uint8_t at[70000];
};

static inline void put(struct bytes *b, unsigned value, unsigned byte_cnt)
{
	ck_assert(b->len + byte_cnt <= sizeof(b->at));
	while (byte_cnt-- > 0)
		b->at[b->len++] = (uint8_t)(value >> (8 * byte_cnt));
}

static inline void put_text(struct bytes *b, const char *text, size_t len)
{
	ck_assert(b->len + len <= sizeof(b->at));
	memcpy(b->at + b->len, text, len);
	b->len += len;
}

/* The message in records of record_len bytes, the first one of first_len. */
static inline void build_records(struct bytes *b, const struct bytes *message, size_t first_len,
				 size_t record_len)
{
	b->len = 0;
	for (size_t at = 0; at < message->len;) {
		size_t left = message->len - at;
		size_t len = at == 0 ? first_len : record_len;
		len = left < len ? left : len;
		put(b, 0x160301, 3);
		put(b, (unsigned)len, 2);
		put_text(b, (const char *)message->at + at, len);
		at += len;
	}
}

static inline void describe(const struct wire_hello *h, char *dst, size_t size)
{
	int n = snprintf(dst, size, "%04x sni=%s%s%s%s", h->legacy_version, h->sni,
			 h->has_tls12 ? " 1.2" : "", h->has_tls13 ? " 1.3" : "",
			 h->has_ech ? " ech" : "");
	for (uint32_t i = 0; i < h->alpn_cnt; i++)
		n += snprintf(dst + n, size - (size_t)n, " %.*s", h->alpn[i].len, h->alpn[i].name);
}

/* Parses b at every cut: MORE up to one byte, and from there on always what is wanted. */
static inline void check_all_cuts(const char *name, const struct bytes *b, size_t hello_len,
				  enum wire_hello_reason want, const char *want_text)
{
	bool is_decided = false;
	struct wire_hello_scan scan = { 0 };
	for (size_t cut = 0; cut <= b->len; cut++) {
		struct wire_hello hello = { 0 };
		enum wire_hello_reason reason;
		char *part = copy_exactly((const char *)b->at, cut);
		enum wire_step step = wire_hello_parse((const uint8_t *)part, cut, &hello, &reason);
		bool is_ready = wire_hello_is_ready(&scan, (const uint8_t *)part, cut);
		free(part);
		ck_assert_msg(is_ready ? step != WIRE_MORE : step != WIRE_DONE,
			      "%s: ready %d, step %d at %zu", name, is_ready, (int)step, cut);
		ck_assert_msg(!is_decided || step != WIRE_MORE, "%s: undecided again at %zu", name,
			      cut);
		if (step == WIRE_MORE)
			continue;
		is_decided = true;
		ck_assert_msg(reason == want, "%s: reason %d at %zu", name, (int)reason, cut);
		ck_assert_msg((step == WIRE_DONE) == (want == WIRE_HELLO_OK), "%s: step %d", name,
			      (int)step);
		if (step == WIRE_FAIL)
			continue;
		char text[512];
		describe(&hello, text, sizeof(text));
		ck_assert_msg(strcmp(text, want_text) == 0, "%s:\n%s\n%s", name, text, want_text);
		ck_assert_msg(cut >= hello_len && hello.consumed == hello_len,
			      "%s: %zu of %zu bytes, cut at %zu", name, hello.consumed, hello_len,
			      cut);
		ck_assert_uint_eq(hello.sni_len, strlen(hello.sni));
	}
	ck_assert_msg(is_decided, "%s: never decided", name);
}
