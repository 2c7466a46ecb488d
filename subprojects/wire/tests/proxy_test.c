#include <arpa/inet.h>

#include "run.h"
#include "wire/proxy.h"

#define TEXT(literal) (literal), sizeof(literal) - 1
#define SIGNATURE     "\r\n\r\n\0\r\nQUIT\n"
#define V4            "\xc0\x00\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb"
#define IP6(last)     "\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0" last
#define V6            IP6("\x01") IP6("\x02") "\x30\x39\x01\xbb"
#define UNIX_54 \
	"/run/" \
	"a."    \
	"socket\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
#define UNIX      UNIX_54 UNIX_54 UNIX_54 UNIX_54
#define CRC       "\x03\x00\x04\0\0\0\0" /* the test fills it in */
#define ALPN_H2   "\x01\x00\x02h2"
#define AUTHORITY "\x02\x00\x0bwww.example"
#define UNIQUE_ID "\x05\x00\x04\x01\x00\xff\x7f"
/* As HAProxy sends it with send-proxy-v2-ssl-cn and proxy-v2-options ssl,cert-cn,ssl-cipher,cert-sig,cert-key. */
#define SSL_VERSION "\x21\x00\x07TLSv1.3"
#define SSL_CERT                                                                           \
	"\x20\x00\x4b\x07\0\0\0\0" SSL_VERSION "\x25\x00\x07RSA2048\x24\x00\x0aRSA-SHA256" \
	"\x23\x00\x16TLS_AES_256_GCM_SHA384\x22\x00\x09"                                   \
	"A. Client"
#define SSL_PLAIN "\x20\x00\x0f\x01\0\0\0\x00" SSL_VERSION

static const struct {
	const char *name, *line, *text;
} lines[] = {
	{ "TCP4", "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n",
	  "1 192.0.2.1 12345 198.51.100.2 443" },
	{ "TCP4, least", "PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n", "1 0.0.0.0 0 0.0.0.0 0" },
	{ "TCP4, longest", "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
	  "1 255.255.255.255 65535 255.255.255.255 65535" },
	{ "TCP6", "PROXY TCP6 2001:db8::1 2001:DB8::2 12345 443\r\n",
	  "1 2001:db8::1 12345 2001:db8::2 443" },
	{ "TCP6, longest",
	  "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
	  "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 "
	  "65535\r\n",
	  "1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
	  "65535" },
	{ "TCP6, gaps", "PROXY TCP6 :: ::1 1 2\r\n", "1 :: 1 ::1 2" },
	{ "TCP6, gap at the end", "PROXY TCP6 fe80:: 1:2:3:4:5:6:7:: 1 2\r\n",
	  "1 fe80:: 1 1:2:3:4:5:6:7:0 2" },
	{ "TCP6, mapped", "PROXY TCP6 ::ffff:192.0.2.1 ::1.2.3.4 1 2\r\n",
	  "1 ::ffff:192.0.2.1 1 ::1.2.3.4 2" },
	{ "UNKNOWN", "PROXY UNKNOWN\r\n", "1 local" },
	{ "UNKNOWN with addresses",
	  "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff "
	  "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 "
	  "65535\r\n",
	  "1 local" },
};

#define HAPROXY_TEXT                                                                       \
	"2 192.0.2.1 12345 198.51.100.2 443 alpn=h2 authority=www.example id=0100ff7f crc" \
	" ssl cert verified version=TLSv1.3 cn=A. Client cipher=TLS_AES_256_GCM_SHA384"
static const struct block_row {
	const char *name;
	uint8_t command, family;
	const char *body;
	size_t len;
	const char *text;
} blocks[] = {
	{ "TCP4", 0x21, 0x11, TEXT(V4), "2 192.0.2.1 12345 198.51.100.2 443" },
	{ "TCP6", 0x21, 0x21, TEXT(V6), "2 2001:db8::1 12345 2001:db8::2 443" },
	{ "UNIX", 0x21, 0x31, TEXT(UNIX), "2 local" },
	{ "UNSPEC", 0x21, 0x00, TEXT(""), "2 local" },
	{ "UNSPEC with TLVs", 0x21, 0x00, TEXT(AUTHORITY CRC),
	  "2 local authority=www.example crc" },
	{ "LOCAL", 0x20, 0x00, TEXT(""), "2 local" },
	{ "LOCAL with a checksum", 0x20, 0x00, TEXT(CRC), "2 local crc" },
	{ "LOCAL with all of TCP4", 0x20, 0x11, TEXT(V4 AUTHORITY CRC), "2 local crc" },
	{ "LOCAL with less than its family", 0x20, 0x11, TEXT("abc"), "2 local" },
	{ "LOCAL with an unknown family", 0x20, 0x7f, TEXT("anything"), "2 local" },
	{ "LOCAL with a torn TLV", 0x20, 0x11, TEXT(V4 "\x02\x01"), "2 local" },
	{ "TLVs of HAProxy", 0x21, 0x11, TEXT(V4 ALPN_H2 AUTHORITY CRC UNIQUE_ID SSL_CERT),
	  HAPROXY_TEXT },
	{ "SSL without a certificate", 0x21, 0x11, TEXT(V4 SSL_PLAIN),
	  "2 192.0.2.1 12345 198.51.100.2 443 ssl version=TLSv1.3" },
	{ "SSL with one of the session, not verified", 0x21, 0x11,
	  TEXT(V4 "\x20\x00\x05\x05\0\0\0\x01"), "2 192.0.2.1 12345 198.51.100.2 443 ssl cert" },
	{ "SSL without its bit", 0x21, 0x11, TEXT(V4 "\x20\x00\x0f\x06\0\0\0\0" SSL_VERSION),
	  "2 192.0.2.1 12345 198.51.100.2 443" },
	{ "checksum first", 0x21, 0x21, TEXT(V6 CRC ALPN_H2),
	  "2 2001:db8::1 12345 2001:db8::2 443 alpn=h2 crc" },
	{ "checksum last", 0x21, 0x21, TEXT(V6 ALPN_H2 CRC),
	  "2 2001:db8::1 12345 2001:db8::2 443 alpn=h2 crc" },
	{ "NOOP twice, types of others twice, a namespace", 0x21, 0x11,
	  TEXT(V4 "\x04\x00\x00\x04\x00\x02xx\xea\x00\x01\x01\xea\x00\x01\x02\x30\x00\x02ns"),
	  "2 192.0.2.1 12345 198.51.100.2 443" },
	{ "empty unique id", 0x21, 0x11, TEXT(V4 "\x05\x00\x00"),
	  "2 192.0.2.1 12345 198.51.100.2 443 id=" },
};

/* What HAProxy 2.6 sends: send-proxy-v2-ssl-cn with proxy-v2-options ssl, cert-cn, ssl-cipher, cert-sig, cert-key,
 * authority, crc32c, unique-id. Without a certificate it sends verify 0 all the same. */
static const struct {
	const char *name, *hex, *text;
} real[] = {
	{ "crc32c", "0d0a0d0a000d0a515549540a211100137f0000017f00000186d2b469030004882c6c2d",
	  "2 127.0.0.1 34514 127.0.0.1 46185 crc" },
	{ "every option, no client certificate",
	  "0d0a0d0a000d0a515549540a2111007c7f0000017f000001c084dc1d0300043597b818010002683202000f77"
	  "77"
	  "772e6578616d706c652e636f6d05000d37463030303030313a4330383420003f0100000000210007544c5376"
	  "31"
	  "2e332500075253413230343824000a5253412d534841323536230016544c535f4145535f3235365f47434d5f"
	  "53"
	  "4841333834",
	  "2 127.0.0.1 49284 127.0.0.1 56349 alpn=h2 authority=www.example.com "
	  "id=37463030303030313a43303834 crc ssl version=TLSv1.3 cipher=TLS_AES_256_GCM_SHA384" },
	{ "every option",
	  "0d0a0d0a000d0a515549540a211100887f0000017f000001c090dc1d0300040345c7b0010002683202000f77"
	  "77"
	  "772e6578616d706c652e636f6d05000d37463030303030313a4330393020004b0700000000210007544c5376"
	  "31"
	  "2e33220009412e20436c69656e742500075253413230343824000a5253412d534841323536230016544c535f"
	  "41"
	  "45535f3235365f47434d5f534841333834",
	  "2 127.0.0.1 49296 127.0.0.1 56349 alpn=h2 authority=www.example.com "
	  "id=37463030303030313a43303930 crc ssl cert verified version=TLSv1.3 cn=A. Client "
	  "cipher=TLS_AES_256_GCM_SHA384" },
};

struct bytes {
	size_t len;
	uint8_t at[8192];
};

static void put(struct bytes *b, const void *data, size_t len)
{
	ck_assert(b->len + len <= sizeof(b->at));
	if (len > 0)
		memcpy(b->at + b->len, data, len);
	b->len += len;
}

/* Bit by bit, as a second opinion. */
static uint32_t crc_slowly(const uint8_t *data, size_t len)
{
	uint32_t crc = UINT32_MAX;
	for (size_t i = 0; i < len * 8; i++) {
		if (i % 8 == 0)
			crc ^= data[i / 8];
		crc = (crc & 1) != 0 ? crc >> 1 ^ 0x82f63b78 : crc >> 1;
	}
	return ~crc;
}

static void fill_checksum(struct bytes *b)
{
	uint8_t *at = memmem(b->at, b->len, TEXT(CRC));
	if (at == NULL)
		return;
	uint32_t crc = crc_slowly(b->at, b->len);
	for (int i = 0; i < 4; i++)
		at[3 + i] = (uint8_t)(crc >> (24 - 8 * i));
}

static void build(struct bytes *b, const struct block_row *row)
{
	const uint8_t head[] = { row->command, row->family, (uint8_t)(row->len >> 8),
				 (uint8_t)row->len };
	b->len = 0;
	put(b, TEXT(SIGNATURE));
	put(b, head, sizeof(head));
	put(b, row->body, row->len);
	fill_checksum(b);
}

static int say_span(char *dst, size_t size, const char *name, struct wire_span span)
{
	return span.at == NULL ? 0 : snprintf(dst, size, " %s=%.*s", name, (int)span.len, span.at);
}

static void describe(const struct wire_proxy *p, char *dst, size_t size)
{
	char src[INET6_ADDRSTRLEN] = "", target[INET6_ADDRSTRLEN] = "";
	int family = p->family == WIRE_PROXY_TCP6 ? AF_INET6 : AF_INET;
	ck_assert(inet_ntop(family, p->src, src, sizeof(src)) &&
		  inet_ntop(family, p->dst, target, sizeof(target)));
	int n = p->family == WIRE_PROXY_LOCAL ? snprintf(dst, size, "%u local", p->version)
					      : snprintf(dst, size, "%u %s %u %s %u", p->version,
							 src, p->src_port, target, p->dst_port);
	n += say_span(dst + n, size - (size_t)n, "alpn", p->alpn);
	n += say_span(dst + n, size - (size_t)n, "authority", p->authority);
	if (p->unique_id.at != NULL)
		n += snprintf(dst + n, size - (size_t)n, " id=");
	for (uint32_t i = 0; p->unique_id.at != NULL && i < p->unique_id.len; i++)
		n += snprintf(dst + n, size - (size_t)n, "%02x", (unsigned char)p->unique_id.at[i]);
	n += snprintf(dst + n, size - (size_t)n, "%s%s%s%s", p->has_checksum ? " crc" : "",
		      p->is_ssl ? " ssl" : "", p->has_client_cert ? " cert" : "",
		      p->is_client_verified ? " verified" : "");
	n += say_span(dst + n, size - (size_t)n, "version", p->ssl_version);
	n += say_span(dst + n, size - (size_t)n, "cn", p->ssl_cn);
	say_span(dst + n, size - (size_t)n, "cipher", p->ssl_cipher);
}

static enum wire_step parse(const uint8_t *data, size_t len, struct wire_proxy *ret_proxy,
			    size_t *ret_used, enum wire_proxy_reason *ret_reason)
{
	char *copy = copy_exactly((const char *)data, len);
	enum wire_step step =
		wire_proxy_parse((const uint8_t *)copy, len, ret_proxy, ret_used, ret_reason);
	free(copy);
	ck_assert((step == WIRE_FAIL) == (*ret_reason != WIRE_PROXY_OK));
	return step;
}

/* MORE before the last byte of the header, DONE from there on, whatever follows. */
static void check_all_cuts(const char *name, const struct bytes *b, const char *want)
{
	struct bytes more = *b;
	put(&more, TEXT("GET / HTTP/1.1\r\n"));
	for (size_t cut = 0; cut <= more.len; cut++) {
		struct wire_proxy proxy;
		size_t used = 0;
		enum wire_proxy_reason reason;
		char text[2048];
		enum wire_step step = parse(more.at, cut, &proxy, &used, &reason);
		ck_assert_msg(step == (cut < b->len ? WIRE_MORE : WIRE_DONE),
			      "%s: step %d, %s at %zu of %zu", name, (int)step,
			      wire_proxy_reason_name(reason), cut, b->len);
		if (step != WIRE_DONE)
			continue;
		ck_assert_uint_eq(used, b->len);
		ck_assert_int_eq(wire_proxy_parse(more.at, cut, &proxy, &used, &reason), WIRE_DONE);
		describe(&proxy, text, sizeof(text));
		ck_assert_msg(strcmp(text, want) == 0, "%s:\n%s\n%s", name, text, want);
	}
}

/* Each byte, each bit of it, and both ends of its range: nothing is read beyond the end. Under a checksum
 * nothing damaged gets through, unless the damage takes the checksum itself away. */
static void check_damage(const char *name, const struct bytes *b, bool has_checksum)
{
	struct bytes bad = *b;
	for (size_t i = 0; i < b->len; i++) {
		for (int k = 0; k < 10; k++) {
			bad.at[i] =
				k < 8 ? b->at[i] ^ (uint8_t)(1 << k) : (uint8_t)(k == 8 ? 0 : 0xff);
			struct wire_proxy proxy;
			size_t used = 0;
			enum wire_proxy_reason reason;
			enum wire_step step = parse(bad.at, bad.len, &proxy, &used, &reason);
			ck_assert(step != WIRE_DONE || used <= bad.len);
			if (has_checksum && bad.at[i] != b->at[i])
				ck_assert_msg(step != WIRE_DONE || !proxy.has_checksum,
					      "%s: byte %zu, %02x", name, i, bad.at[i]);
		}
		bad.at[i] = b->at[i];
	}
}

START_TEST(reads_lines)
{
	struct bytes b = { 0 };
	put(&b, lines[_i].line, strlen(lines[_i].line));
	ck_assert_uint_le(b.len, WIRE_PROXY_V1_MAX);
	check_all_cuts(lines[_i].name, &b, lines[_i].text);
	check_damage(lines[_i].name, &b, false);
}
END_TEST

START_TEST(reads_blocks)
{
	struct bytes b;
	build(&b, &blocks[_i]);
	check_all_cuts(blocks[_i].name, &b, blocks[_i].text);
	check_damage(blocks[_i].name, &b, strstr(blocks[_i].text, " crc") != NULL);
}
END_TEST

static unsigned digit(char c)
{
	return (unsigned)(c <= '9' ? c - '0' : c - 'a' + 10);
}

static void build_real(struct bytes *b, const char *hex)
{
	b->len = 0;
	for (; *hex != '\0'; hex += 2) {
		const uint8_t byte = (uint8_t)(digit(hex[0]) << 4 | digit(hex[1]));
		put(b, &byte, 1);
	}
}

START_TEST(reads_real_ones)
{
	struct bytes b;
	build_real(&b, real[_i].hex);
	check_all_cuts(real[_i].name, &b, real[_i].text);
	check_damage(real[_i].name, &b, true);
}
END_TEST

/* What was read is written, by each version that can say it, and read again. */
static void check_round_trip(const char *name, const struct bytes *b)
{
	struct wire_proxy proxy, again;
	size_t used;
	enum wire_proxy_reason reason;
	uint8_t out[WIRE_PROXY_MAX];
	char want[2048], text[2048];
	ck_assert_int_eq(wire_proxy_parse(b->at, b->len, &proxy, &used, &reason), WIRE_DONE);
	describe(&proxy, want, sizeof(want));
	bool is_local = proxy.family == WIRE_PROXY_LOCAL;
	size_t len = proxy.version == 1 ? wire_proxy_write_v1(&proxy, (char *)out, sizeof(out))
					: wire_proxy_write_v2(&proxy, out, sizeof(out));
	for (size_t cap = 0; cap < len; cap++) {
		char *block = copy_exactly("", 0);
		block = realloc(block, cap > 0 ? cap : 1);
		ck_assert_uint_eq(proxy.version == 1
					  ? wire_proxy_write_v1(&proxy, block, cap)
					  : wire_proxy_write_v2(&proxy, (uint8_t *)block, cap),
				  0);
		free(block);
	}
	ck_assert_msg(wire_proxy_parse(out, len, &again, &used, &reason) == WIRE_DONE &&
			      used == len,
		      "%s: %s", name, wire_proxy_reason_name(reason));
	describe(&again, text, sizeof(text));
	if (is_local)
		snprintf(want, sizeof(want), "%u local%s", proxy.version,
			 proxy.has_checksum ? " crc" : "");
	ck_assert_msg(strcmp(text, want) == 0, "%s:\n%s\n%s", name, text, want);
}

START_TEST(round_trips)
{
	const int block_ix = _i - ROW_CNT(lines);
	const int real_ix = block_ix - ROW_CNT(blocks);
	struct bytes b = { 0 };
	if (real_ix >= 0)
		build_real(&b, real[real_ix].hex);
	else if (block_ix >= 0)
		build(&b, &blocks[block_ix]);
	else
		put(&b, lines[_i].line, strlen(lines[_i].line));
	check_round_trip(real_ix >= 0    ? real[real_ix].name
			 : block_ix >= 0 ? blocks[block_ix].name
					 : lines[_i].name,
			 &b);
}
END_TEST

/* Refused at this byte (the row's last) and not before. */
static const struct {
	const char *name, *data;
	size_t len;
	enum wire_proxy_reason want;
} refusals[] = {
	{ "HTTP", TEXT("G"), WIRE_PROXY_NO_SIGNATURE },
	{ "TLS", TEXT("\x16"), WIRE_PROXY_NO_SIGNATURE },
	{ "POST", TEXT("PO"), WIRE_PROXY_NO_SIGNATURE },
	{ "PROXY in small letters", TEXT("p"), WIRE_PROXY_NO_SIGNATURE },
	{ "PROXY and a tab", TEXT("PROXY\t"), WIRE_PROXY_NO_SIGNATURE },
	{ "an empty line, then HTTP", TEXT("\r\nG"), WIRE_PROXY_NO_SIGNATURE },
	{ "half a signature", TEXT("\r\n\r\n\0\r\nQUIT\r"), WIRE_PROXY_NO_SIGNATURE },
	{ "two spaces", TEXT("PROXY  "), WIRE_PROXY_BAD_LINE },
	{ "UDP4", TEXT("PROXY UD"), WIRE_PROXY_BAD_LINE },
	{ "TCP5", TEXT("PROXY TCP5"), WIRE_PROXY_BAD_LINE },
	{ "tcp4", TEXT("PROXY t"), WIRE_PROXY_BAD_LINE },
	{ "UNKNOWNS", TEXT("PROXY UNKNOWNS"), WIRE_PROXY_BAD_LINE },
	{ "UNKNOWN and a bare LF", TEXT("PROXY UNKNOWN\n"), WIRE_PROXY_BAD_LINE },
	{ "UNKNOWN and a bare CR", TEXT("PROXY UNKNOWN\rx"), WIRE_PROXY_BAD_LINE },
	{ "UNKNOWN with a NUL", TEXT("PROXY UNKNOWN a\0"), WIRE_PROXY_BAD_LINE },
	{ "UNKNOWN of 108 bytes",
	  TEXT("PROXY UNKNOWN "
	       "56789012345678901234567890123456789012345678901234567890123456789012345678901234567"
	       "8901"
	       "23456"),
	  WIRE_PROXY_TOO_LARGE },
	{ "octet above 255", TEXT("PROXY TCP4 192.0.2.256"), WIRE_PROXY_BAD_LINE },
	{ "octet with a leading zero", TEXT("PROXY TCP4 192.00"), WIRE_PROXY_BAD_LINE },
	{ "octet missing", TEXT("PROXY TCP4 192.0.2 "), WIRE_PROXY_BAD_LINE },
	{ "octet empty", TEXT("PROXY TCP4 192.."), WIRE_PROXY_BAD_LINE },
	{ "a fifth octet", TEXT("PROXY TCP4 1.2.3.4."), WIRE_PROXY_BAD_LINE },
	{ "IPv6 in TCP4", TEXT("PROXY TCP4 2:"), WIRE_PROXY_BAD_LINE },
	{ "IPv4 in TCP6", TEXT("PROXY TCP6 1."), WIRE_PROXY_BAD_LINE },
	{ "group of five digits", TEXT("PROXY TCP6 12345"), WIRE_PROXY_BAD_LINE },
	{ "nine groups", TEXT("PROXY TCP6 1:2:3:4:5:6:7:8:"), WIRE_PROXY_BAD_LINE },
	{ "seven groups", TEXT("PROXY TCP6 1:2:3:4:5:6:7 "), WIRE_PROXY_BAD_LINE },
	{ "seven groups, a gap and more", TEXT("PROXY TCP6 1::2:3:4:5:6:7:"), WIRE_PROXY_BAD_LINE },
	{ "three colons", TEXT("PROXY TCP6 1:::"), WIRE_PROXY_BAD_LINE },
	{ "two gaps", TEXT("PROXY TCP6 1::2::"), WIRE_PROXY_BAD_LINE },
	{ "one colon first", TEXT("PROXY TCP6 :1"), WIRE_PROXY_BAD_LINE },
	{ "one colon last", TEXT("PROXY TCP6 1::2: "), WIRE_PROXY_BAD_LINE },
	{ "a zone", TEXT("PROXY TCP6 fe80::1%"), WIRE_PROXY_BAD_LINE },
	{ "brackets", TEXT("PROXY TCP6 ["), WIRE_PROXY_BAD_LINE },
	{ "no address", TEXT("PROXY TCP4 \r"), WIRE_PROXY_BAD_LINE },
	{ "port above 65535", TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 65536"), WIRE_PROXY_BAD_LINE },
	{ "port with a leading zero", TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 01"), WIRE_PROXY_BAD_LINE },
	{ "port with a sign", TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 +"), WIRE_PROXY_BAD_LINE },
	{ "one port", TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 1\r"), WIRE_PROXY_BAD_LINE },
	{ "a space before CRLF", TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 "), WIRE_PROXY_BAD_LINE },
	{ "a bare LF", TEXT("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n"), WIRE_PROXY_BAD_LINE },
	{ "version 1 in binary", TEXT(SIGNATURE "\x11"), WIRE_PROXY_BAD_VERSION },
	{ "version 3", TEXT(SIGNATURE "\x31"), WIRE_PROXY_BAD_VERSION },
	{ "command 2", TEXT(SIGNATURE "\x22"), WIRE_PROXY_BAD_VERSION },
	{ "UDP", TEXT(SIGNATURE "\x21\x12"), WIRE_PROXY_BAD_VERSION },
	{ "UNIX datagrams", TEXT(SIGNATURE "\x21\x32"), WIRE_PROXY_BAD_VERSION },
	{ "INET without a protocol", TEXT(SIGNATURE "\x21\x10"), WIRE_PROXY_BAD_VERSION },
	{ "family 4", TEXT(SIGNATURE "\x21\x41"), WIRE_PROXY_BAD_VERSION },
	{ "block of 4081 bytes", TEXT(SIGNATURE "\x21\x11\x0f\xf1"), WIRE_PROXY_TOO_LARGE },
	{ "block of 65535 bytes", TEXT(SIGNATURE "\x21\x11\xff"), WIRE_PROXY_TOO_LARGE },
	{ "LOCAL of 4096 bytes", TEXT(SIGNATURE "\x20\x00\x10"), WIRE_PROXY_TOO_LARGE },
	{ "TCP4 of 11 bytes", TEXT(SIGNATURE "\x21\x11\x00\x0b"), WIRE_PROXY_BAD_LENGTH },
	{ "TCP6 of 12 bytes", TEXT(SIGNATURE "\x21\x21\x00\x0c"), WIRE_PROXY_BAD_LENGTH },
	{ "UNIX of 215 bytes", TEXT(SIGNATURE "\x21\x31\x00\xd7"), WIRE_PROXY_BAD_LENGTH },
	{ "no room for the TLV", TEXT(SIGNATURE "\x21\x11\x00\x0e"), WIRE_PROXY_BAD_LENGTH },
	{ "TLV longer than the block", TEXT(SIGNATURE "\x21\x11\x00\x10" V4 "\x04\x00\x02"),
	  WIRE_PROXY_BAD_LENGTH },
	{ "TLV much longer", TEXT(SIGNATURE "\x21\x11\x00\x10" V4 "\x04\x01"),
	  WIRE_PROXY_BAD_LENGTH },
	{ "two bytes behind the TLV", TEXT(SIGNATURE "\x21\x11\x00\x12" V4 "\x04\x00\x01"),
	  WIRE_PROXY_BAD_LENGTH },
	{ "authority twice", TEXT(SIGNATURE "\x21\x11\x00\x28" V4 AUTHORITY "\x02"),
	  WIRE_PROXY_BAD_TLV },
	{ "checksum twice", TEXT(SIGNATURE "\x21\x11\x00\x1a" V4 CRC "\x03"), WIRE_PROXY_BAD_TLV },
	{ "checksum of three bytes", TEXT(SIGNATURE "\x21\x11\x00\x20" V4 "\x03\x00\x03"),
	  WIRE_PROXY_BAD_TLV },
	{ "no room for the checksum", TEXT(SIGNATURE "\x21\x11\x00\x12" V4 "\x03"),
	  WIRE_PROXY_BAD_LENGTH },
	{ "empty ALPN", TEXT(SIGNATURE "\x21\x11\x00\x20" V4 "\x01\x00\x00"), WIRE_PROXY_BAD_TLV },
	{ "authority of 256 bytes", TEXT(SIGNATURE "\x21\x11\x02\x20" V4 "\x02\x01"),
	  WIRE_PROXY_BAD_TLV },
	{ "authority with a NUL",
	  TEXT(SIGNATURE "\x21\x11\x00\x20" V4 "\x02\x00\x03"
			 "a\0"),
	  WIRE_PROXY_BAD_TLV },
	{ "unique id of 129 bytes", TEXT(SIGNATURE "\x21\x11\x01\x00" V4 "\x05\x00\x81"),
	  WIRE_PROXY_BAD_TLV },
	{ "SSL of four bytes", TEXT(SIGNATURE "\x21\x11\x00\x20" V4 "\x20\x00\x04"),
	  WIRE_PROXY_BAD_TLV },
	{ "SSL with a byte too many", TEXT(SIGNATURE "\x21\x11\x00\x15" V4 "\x20\x00\x06"),
	  WIRE_PROXY_BAD_LENGTH },
	{ "SSL twice", TEXT(SIGNATURE "\x21\x11\x00\x21" V4 SSL_PLAIN "\x20"), WIRE_PROXY_BAD_TLV },
	{ "SSL version twice",
	  TEXT(SIGNATURE "\x21\x11\x00\x28" V4 "\x20\x00\x19\x01\0\0\0\x00" SSL_VERSION "\x21"),
	  WIRE_PROXY_BAD_TLV },
	{ "LF in a common name",
	  TEXT(SIGNATURE "\x21\x11\x00\x1a" V4 "\x20\x00\x0b\x07\0\0\0\x00\x22\x00\x03"
			 "a\n"),
	  WIRE_PROXY_BAD_TLV },
	{ "TLV beyond the SSL",
	  TEXT(SIGNATURE "\x21\x11\x00\x20" V4 "\x20\x00\x0a\x07\0\0\0\x00\x22\x00\x03"),
	  WIRE_PROXY_BAD_LENGTH },
	{ "wrong checksum", TEXT(SIGNATURE "\x21\x11\x00\x13" V4 CRC), WIRE_PROXY_BAD_CHECKSUM },
	{ "wrong checksum of LOCAL", TEXT(SIGNATURE "\x20\x00\x00\x07" CRC),
	  WIRE_PROXY_BAD_CHECKSUM },
};

START_TEST(refuses_at_the_byte)
{
	struct bytes b = { 0 };
	put(&b, refusals[_i].data, refusals[_i].len);
	put(&b, TEXT("192.0.2.1 and more\r\n"));
	for (size_t cut = 0; cut <= b.len; cut++) {
		struct wire_proxy proxy;
		size_t used;
		enum wire_proxy_reason reason;
		enum wire_step step = parse(b.at, cut, &proxy, &used, &reason);
		ck_assert_msg(step == (cut < refusals[_i].len ? WIRE_MORE : WIRE_FAIL),
			      "%s: step %d, %s at %zu of %zu", refusals[_i].name, (int)step,
			      wire_proxy_reason_name(reason), cut, refusals[_i].len);
		ck_assert_msg(step == WIRE_MORE || reason == refusals[_i].want, "%s: %s",
			      refusals[_i].name, wire_proxy_reason_name(reason));
	}
}
END_TEST

/* Many texts out of the parts of addresses, held against inet_pton. */
START_TEST(reads_ipv6_as_the_libc)
{
	static const char *const parts[] = { ":",        "::", "1",  "0",   "ff", "ffff",
					     "12.3.4.5", ".",  "1:", "::1", "9.9" };
	uint64_t state = 88172645463325252;
	int right_cnt = 0;
	for (int round = 0; round < 300000; round++) {
		char text[80] = "", line[160];
		for (int i = (int)(state >> 60) + 1; i > 0 && strlen(text) < 40; i--) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			strncat(text, parts[state % (unsigned)ROW_CNT(parts)], 10);
		}
		state ^= state << 13;
		state ^= state >> 7;
		state ^= state << 17;
		int n = snprintf(line, sizeof(line), "PROXY TCP6 %s ::1 1 2\r\n", text);
		uint8_t want[16];
		bool is_right = inet_pton(AF_INET6, text, want) == 1;
		/* dots only in the two forms that the libc writes itself */
		if (is_right && strchr(text, '.') != NULL)
			is_right = strncmp(text, "::", 2) == 0 &&
				   strchr(text + (strncmp(text, "::ffff:", 7) == 0 ? 7 : 2), ':') ==
					   NULL;
		struct wire_proxy proxy;
		size_t used;
		enum wire_proxy_reason reason;
		enum wire_step step =
			wire_proxy_parse((const uint8_t *)line, (size_t)n, &proxy, &used, &reason);
		ck_assert_msg(step == (is_right ? WIRE_DONE : WIRE_FAIL), "%s: %d", text,
			      (int)step);
		if (is_right)
			ck_assert_msg(memcmp(proxy.src, want, 16) == 0, "%s", text);
		right_cnt += is_right;
	}
	ck_assert_int_gt(right_cnt, 1000);
}
END_TEST

START_TEST(refuses_to_write_too_much)
{
	static char text[2000];
	memset(text, 'x', sizeof(text));
	uint8_t out[WIRE_PROXY_MAX];
	struct wire_proxy proxy = { .family = WIRE_PROXY_TCP4 };
	ck_assert_uint_eq(wire_proxy_write_v2(&proxy, out, sizeof(out)), 28);
	proxy.authority = (struct wire_span){ text, 255 };
	ck_assert_uint_eq(wire_proxy_write_v2(&proxy, out, sizeof(out)), 28 + 258);
	proxy.authority.len = 256;
	ck_assert_uint_eq(wire_proxy_write_v2(&proxy, out, sizeof(out)), 0);
	proxy.authority = (struct wire_span){ NULL, 0 };
	proxy.unique_id = (struct wire_span){ text, WIRE_PROXY_UNIQUE_ID_MAX + 1 };
	ck_assert_uint_eq(wire_proxy_write_v2(&proxy, out, sizeof(out)), 0);
	proxy.unique_id.at = NULL;
	proxy.ssl_cn = (struct wire_span){ text, 1025 };
	ck_assert_uint_gt(wire_proxy_write_v2(&proxy, out, sizeof(out)),
			  0); /* no SSL: not written */
	proxy.is_ssl = true;
	ck_assert_uint_eq(wire_proxy_write_v2(&proxy, out, sizeof(out)), 0);
}
END_TEST

START_TEST(sums_as_the_rfc)
{
	/* RFC 3720, appendix B.4 */
	uint8_t data[32] = { 0 };
	ck_assert_uint_eq(wire_crc32c(0, data, 32), 0x8a9136aa);
	memset(data, 0xff, 32);
	ck_assert_uint_eq(wire_crc32c(0, data, 32), 0x62a8ab43);
	for (int i = 0; i < 32; i++)
		data[i] = (uint8_t)i;
	ck_assert_uint_eq(wire_crc32c(0, data, 32), 0x46dd794e);
	ck_assert_uint_eq(wire_crc32c(wire_crc32c(0, data, 5), data + 5, 27), 0x46dd794e);
	ck_assert_uint_eq(wire_crc32c(0, "123456789", 9), 0xe3069283);
}
END_TEST

START_TEST(names_every_reason)
{
	for (int i = 0; i < WIRE_PROXY_REASON_CNT; i++)
		ck_assert(strlen(wire_proxy_reason_name((enum wire_proxy_reason)i)) > 1);
	ck_assert_str_eq(wire_proxy_reason_name(WIRE_PROXY_BAD_CHECKSUM), "bad_checksum");
	ck_assert_str_eq(wire_proxy_reason_name(WIRE_PROXY_REASON_CNT), "unknown");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("proxy");
	TCase *tc = tcase_create("rows");
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, reads_lines, 0, ROW_CNT(lines));
	tcase_add_loop_test(tc, reads_blocks, 0, ROW_CNT(blocks));
	tcase_add_loop_test(tc, round_trips, 0, ROW_CNT(lines) + ROW_CNT(blocks) + ROW_CNT(real));
	tcase_add_loop_test(tc, reads_real_ones, 0, ROW_CNT(real));
	tcase_add_loop_test(tc, refuses_at_the_byte, 0, ROW_CNT(refusals));
	tcase_add_test(tc, reads_ipv6_as_the_libc);
	tcase_add_test(tc, refuses_to_write_too_much);
	tcase_add_test(tc, sums_as_the_rfc);
	tcase_add_test(tc, names_every_reason);
	suite_add_tcase(suite, tc);
	return run_suite(suite);
}
