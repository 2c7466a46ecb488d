#pragma once
/* tls, private: what the files of this room share about OpenSSL. */
#include <openssl/evp.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdbool.h>
#include <stddef.h>

#include "smartproxy/err.h"
#include "smartproxy/tls.h"
#include "smartproxy/tls_key.h"

struct tls_key {
	EVP_PKEY *pkey;
	enum tls_key_type type;
};

/* Writes the oldest error of the queue (the cause; later ones tell its way up) to dst and empties
 * the queue. "no detail" when there is none. Returns dst. */
const char *tls_error_take(char *dst, size_t cap);

/* "p256", "rsa3072", "ed25519", ... of any key, also of those that tls_key does not know. */
void tls_pkey_name(const EVP_PKEY *pkey, char *dst, size_t cap);
/* One unencrypted private key; never asks for a passphrase. NULL: none, and the queue says why. */
EVP_PKEY *tls_pkey_from_pem(const char *pem, size_t len);

/* May name stand in a SAN: an IP address, or a host name of 253 bytes or fewer, "*" only as its
 * first label? */
bool tls_name_is_valid(const char *name);
/* Names as GENERAL_NAMES; skips nothing. ERR_INVALID, ERR_NOMEM. The caller frees with
 * GENERAL_NAMES_free. */
enum err tls_names_build(const char *const *names, size_t name_cnt, GENERAL_NAMES **ret_names)
	SP_MUST_USE;
/* The digest that a key signs with: SHA-384 for P-384 (RFC 5656, 6.2.1), none for Ed25519, else
 * SHA-256. */
const EVP_MD *tls_pkey_digest(const EVP_PKEY *pkey);
