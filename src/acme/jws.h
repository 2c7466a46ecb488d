#pragma once
/* acme, private: signatures of requests (RFC 7515, RFC 7517, RFC 7638, RFC 8555 section 6.2). No
 * I/O. */
#include <stddef.h>

#include "smartproxy/text.h"
#include "smartproxy/tls_key.h"

#define JWS_DIGEST_MAX 44 /* base64url of 32 bytes, with NUL */

/* Without padding (RFC 7515, section 2). */
void jws_base64url(struct text *t, const void *data, size_t len);
/* base64url(SHA-256(text)): a thumbprint when text is a canonical JWK. "" when memory is out. */
void jws_digest(const char *text, size_t len, char ret_digest[JWS_DIGEST_MAX]);
/* The public key of a P-256 key as JWK: members in lexical order without spaces, the form that RFC
 * 7638 hashes. */
enum err jws_jwk(const struct tls_key *key, struct text *ret_jwk) SP_MUST_USE;
enum err jws_thumbprint(const struct tls_key *key, char ret_thumbprint[JWS_DIGEST_MAX]) SP_MUST_USE;

struct jws_header {
	const char *url, *nonce;
	const char *kid; /* NULL: the JWK is embedded (newAccount) */
};
/* Flattened JSON serialisation. payload NULL: POST-as-GET (RFC 8555, section 6.3), an empty
 * payload. */
enum err jws_sign(const struct tls_key *key, const struct jws_header *header, const char *payload,
		  struct text *ret_body) SP_MUST_USE;
