#pragma once
/* The numbers of version 2 (proxy-protocol.txt, 2.2). Threads: any (constant). */
#include "proxy.h"

#define PROXY2_SIGNATURE     "\r\n\r\n\0\r\nQUIT\n"
#define PROXY2_SIGNATURE_LEN 12
#define PROXY2_HEAD_LEN      16
#define PROXY2_TLV_HEAD_LEN  3
#define PROXY2_SSL_HEAD_LEN  5   /* client and verify, before the TLVs inside */
#define PROXY2_TEXT_MAX      255 /* bytes of a name */
#define PROXY2_CN_MAX        1024

enum { /* version and command */
       PROXY2_LOCAL = 0x20,
       PROXY2_PROXY = 0x21,
};
enum { /* family and protocol */
       PROXY2_UNSPEC = 0x00,
       PROXY2_TCP4 = 0x11,
       PROXY2_TCP6 = 0x21,
       PROXY2_UNIX = 0x31,
};
enum {
	PROXY2_ALPN = 0x01,
	PROXY2_AUTHORITY = 0x02,
	PROXY2_CRC32C = 0x03,
	PROXY2_UNIQUE_ID = 0x05,
	PROXY2_SSL = 0x20,
	PROXY2_SSL_VERSION = 0x21,
	PROXY2_SSL_CN = 0x22,
	PROXY2_SSL_CIPHER = 0x23,
	PROXY2_SSL_SIG_ALG = 0x24,
	PROXY2_SSL_KEY_ALG = 0x25,
	PROXY2_NETNS = 0x30,
};
enum { /* of PP2_TYPE_SSL's first byte */
       PROXY2_CLIENT_SSL = 1,
       PROXY2_CLIENT_CERT_CONN = 2,
       PROXY2_CLIENT_CERT_SESS = 4,
};
