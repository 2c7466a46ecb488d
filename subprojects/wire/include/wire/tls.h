#pragma once
/* wire: the TLS ClientHello (RFC 8446, 4.1.2; RFC 6066, 3; RFC 7301), read before any TLS library
 * sees it. Pure functions, no allocation. Threads: any. Security: every length is checked; nothing
 * is trusted. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "wire/h1.h"

#define WIRE_HELLO_MAX 65536 /* bytes of records that a ClientHello may span */
#define WIRE_ALPN_MAX  16

enum wire_hello_reason {
	WIRE_HELLO_OK,
	WIRE_HELLO_NOT_TLS,    /* first byte is not a handshake record */
	WIRE_HELLO_BAD_RECORD, /* version, length 0 or above 16384 (RFC 8446, 5.1) */
	WIRE_HELLO_NOT_HELLO,  /* handshake message of another type */
	WIRE_HELLO_TOO_LARGE,
	WIRE_HELLO_BAD_LENGTH, /* an inner length does not fit */
	WIRE_HELLO_BAD_SNI,    /* more than one host_name, empty, NUL, or not a host name */
	WIRE_HELLO_DUPLICATE,  /* an extension twice */
};

struct wire_hello {
	uint16_t legacy_version;
	bool has_tls12, has_tls13; /* offered, by supported_versions or legacy_version */
	bool has_ech;              /* encrypted_client_hello (outer) */
	size_t sni_len;            /* 0: none */
	char sni[256];             /* lower case, no trailing dot, NUL-terminated */
	uint32_t alpn_cnt;         /* entries beyond WIRE_ALPN_MAX are ignored */
	struct {
		uint8_t len;
		char name[32]; /* longer names are cut; none that we know is longer */
	} alpn[WIRE_ALPN_MAX];
	size_t consumed; /* bytes of data that the records of the ClientHello take */
};

/* How far the records of a ClientHello were followed; zero-initialised. */
struct wire_hello_scan {
	size_t next;     /* where the head of the next record is */
	uint32_t got;    /* handshake bytes in the records before it */
	uint32_t wanted; /* of the message, with its own head; 0: not known yet */
	uint8_t head[4];
};

/* Whether wire_hello_parse has more to say about data than MORE: the announced message is there, or its
 * records are not what they must be. Called after each arrival with all bytes so far; each record is
 * looked at once, so that a hello that comes by single bytes costs no more than one that comes whole. */
bool wire_hello_is_ready(struct wire_hello_scan *scan, const uint8_t *data, size_t len);

/* data: the first bytes of the connection, as far as they are there. MORE: not whole yet (at any
 * cut, over records and over reads). The result does not depend on how the bytes were cut, and what
 * is refused is refused at the byte that shows it. ret_hello is written on DONE only. Each call
 * starts at the first byte: cost is linear in len. Handshake data behind the hello in its last
 * record is refused (RFC 8446, 5.1). */
enum wire_step wire_hello_parse(const uint8_t *data, size_t len, struct wire_hello *ret_hello,
				enum wire_hello_reason *ret_reason);
