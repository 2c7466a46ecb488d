#pragma once
/* wire: the PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt of 2020/03/05), both ways. Pure
 * functions, no allocation. Threads: any. Security: every length is checked; what is not exactly of the form
 * is refused. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/h1.h"

#define WIRE_PROXY_V1_MAX 107 /* bytes with CRLF */
#define WIRE_PROXY_MAX \
	4096 /* bytes of a version 2 header that are taken; the format allows 65551 */
#define WIRE_PROXY_UNIQUE_ID_MAX 128

enum wire_proxy_reason {
	WIRE_PROXY_OK,
	WIRE_PROXY_NO_SIGNATURE, /* the first bytes are neither version's */
	WIRE_PROXY_BAD_LINE,     /* version 1: not exactly of its form */
	WIRE_PROXY_BAD_VERSION, /* version 2: version, command or family unknown, or a family of datagrams */
	WIRE_PROXY_BAD_LENGTH,   /* addresses or a TLV do not fit */
	WIRE_PROXY_BAD_TLV,      /* one that must be of a form is not, or comes twice */
	WIRE_PROXY_BAD_CHECKSUM, /* PP2_TYPE_CRC32C */
	WIRE_PROXY_TOO_LARGE,
	WIRE_PROXY_REASON_CNT,
};
const char *wire_proxy_reason_name(enum wire_proxy_reason reason); /* "bad_checksum" */

enum wire_proxy_family {
	WIRE_PROXY_LOCAL, /* LOCAL, UNKNOWN, AF_UNSPEC, AF_UNIX: the connection's own addresses count */
	WIRE_PROXY_TCP4,
	WIRE_PROXY_TCP6,
};
struct wire_proxy {
	unsigned version; /* 1 or 2 */
	enum wire_proxy_family family;
	uint8_t src[16], dst[16];    /* network order; the first 4 bytes of IPv4 */
	uint16_t src_port, dst_port; /* host order */
	/* TLVs of version 2, except those of a LOCAL command; spans point into the header, at == NULL: not
	 * there. Text has no control characters, other than alpn and unique_id, which are any bytes. */
	struct wire_span alpn;      /* PP2_TYPE_ALPN, 1 to 255 bytes */
	struct wire_span authority; /* PP2_TYPE_AUTHORITY, 1 to 255 bytes, perhaps no host name */
	struct wire_span unique_id; /* PP2_TYPE_UNIQUE_ID, at most 128 bytes */
	bool has_checksum;          /* PP2_TYPE_CRC32C was there and right */
	bool is_ssl;                /* PP2_TYPE_SSL with PP2_CLIENT_SSL */
	bool has_client_cert;       /* PP2_CLIENT_CERT_CONN or _CERT_SESS */
	bool is_client_verified;    /* verify == 0 with such a certificate; says nothing without */
	struct wire_span ssl_version, ssl_cn, ssl_cipher;
};

/* data: the first bytes of the connection, as far as they are there. DONE: *ret_used bytes are the header.
 * MORE: not whole yet; what is refused is refused at the byte that shows it (the checksum: at the last one),
 * so that MORE after n bytes means they are a prefix of a right header. ret_proxy and ret_used are written on
 * DONE only. Each call starts at the first byte.
 * Version 1: the CRLF is within 107 bytes; numbers have no leading zeros; of IPv6 addresses with dots the
 * forms ::192.0.2.1 and ::ffff:192.0.2.1 alone. Version 2: a LOCAL command is right whatever its block holds
 * (2.2), a wrong checksum excepted; of TLVs that are known, none comes twice; others are passed over. */
enum wire_step wire_proxy_parse(const uint8_t *data, size_t len, struct wire_proxy *ret_proxy,
				size_t *ret_used, enum wire_proxy_reason *ret_reason);
/* Version 1 of proxy's family and addresses (UNKNOWN for LOCAL). Returns its length, 0: cap is too small. */
size_t wire_proxy_write_v1(const struct wire_proxy *proxy, char *dst, size_t cap);
/* Version 2 with the TLVs that proxy has (checksum when has_checksum; SSL when is_ssl); for LOCAL the LOCAL
 * command with none but the checksum. version does not matter. 0: cap is too small, or a TLV or the whole
 * longer than wire_proxy_parse takes. */
size_t wire_proxy_write_v2(const struct wire_proxy *proxy, uint8_t *dst, size_t cap);
/* CRC-32C (Castagnoli, RFC 3720 appendix B.4), for tests too. */
uint32_t wire_crc32c(uint32_t crc, const void *data, size_t len);
