#pragma once
/* tls: private keys, signatures and certificate requests, for the acme room and for placeholders.
 * OpenSSL stays inside. Threads: any one at a time per key; generation of an RSA key takes seconds:
 * loop_offload. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/err.h"
#include "smartproxy/text.h"

enum tls_key_type {
	TLS_KEY_P256,
	TLS_KEY_P384,
	TLS_KEY_RSA2048,
	TLS_KEY_RSA3072,
	TLS_KEY_RSA4096,
	TLS_KEY_TYPE_CNT
};
const char *tls_key_type_name(
	enum tls_key_type type); /* "p256", "p384", "rsa2048", ... as in the configuration */

struct tls_key;
enum err tls_key_generate(enum tls_key_type type, struct tls_key **ret_key) SP_MUST_USE;
/* PEM, PKCS#8 or traditional, unencrypted. */
enum err tls_key_from_pem(const char *pem, size_t len, struct tls_key **ret_key) SP_MUST_USE;
enum err tls_key_to_pem(const struct tls_key *key, struct text *ret_pem)
	SP_MUST_USE; /* PKCS#8; cleansed by text_fini's caller */
void tls_key_free(struct tls_key *key);
enum tls_key_type tls_key_type_of(const struct tls_key *key);

/* ES256 (RFC 7518, 3.4): R || S of 64 bytes over SHA-256 of data. P-256 keys only. */
enum err tls_key_sign_es256(const struct tls_key *key, const void *data, size_t len,
			    uint8_t ret_sig[64]) SP_MUST_USE;
/* Affine coordinates of a P-256 public key, big-endian. */
enum err tls_key_p256_point(const struct tls_key *key, uint8_t ret_x[32], uint8_t ret_y[32])
	SP_MUST_USE;
void tls_sha256(const void *data, size_t len, uint8_t ret_digest[32]);

/* PKCS#10 request (RFC 2986) in DER with the names as SAN (DNS, or IP when a name parses as an
 * address), no CN. The caller frees *ret_der with free(). */
enum err tls_csr_der(const struct tls_key *key, const char *const *names, size_t name_cnt,
		     uint8_t **ret_der, size_t *ret_len) SP_MUST_USE;
