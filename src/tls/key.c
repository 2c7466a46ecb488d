#include <limits.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "ossl.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"

static const struct {
	const char *name;
	const char *curve; /* NULL: RSA */
	unsigned rsa_bits;
} types[TLS_KEY_TYPE_CNT] = {
	[TLS_KEY_P256] = { "p256", "P-256", 0 },
	[TLS_KEY_P384] = { "p384", "P-384", 0 },
	[TLS_KEY_RSA2048] = { "rsa2048", NULL, 2048 },
	[TLS_KEY_RSA3072] = { "rsa3072", NULL, 3072 },
	[TLS_KEY_RSA4096] = { "rsa4096", NULL, 4096 },
};

const char *tls_key_type_name(enum tls_key_type type)
{
	SP_ASSERT((unsigned)type < TLS_KEY_TYPE_CNT);
	return types[type].name;
}

const char *tls_error_take(char *dst, size_t cap)
{
	unsigned long code = ERR_get_error();
	const char *reason = code == 0 ? NULL : ERR_reason_error_string(code);
	if (reason == NULL)
		reason = "no detail";
	ERR_clear_error();
	return text_escape(dst, cap, reason, strlen(reason));
}

void tls_pkey_name(const EVP_PKEY *pkey, char *dst, size_t cap)
{
	char group[64] = "";
	int bits = EVP_PKEY_get_bits(pkey);
	if (EVP_PKEY_is_a(pkey, "RSA")) {
		text_format(dst, cap, "rsa%d", bits);
	} else if (EVP_PKEY_is_a(pkey, "EC") &&
		   EVP_PKEY_get_group_name(pkey, group, sizeof(group), NULL) == 1) {
		if (strcmp(group, SN_X9_62_prime256v1) == 0)
			text_format(dst, cap, "p256");
		else if (strcmp(group, SN_secp384r1) == 0)
			text_format(dst, cap, "p384");
		else
			text_format(dst, cap, "%s", group);
	} else {
		const char *name = EVP_PKEY_get0_type_name(pkey);
		text_format(dst, cap, "%s", name == NULL ? "unknown" : name);
	}
}

/* Takes pkey. ERR_UNSUPPORTED for a key that no configuration could have asked for. */
static enum err wrap_key(EVP_PKEY *pkey, struct tls_key **ret_key)
{
	char name[32];
	tls_pkey_name(pkey, name, sizeof(name));
	for (unsigned i = 0; i < TLS_KEY_TYPE_CNT; i++) {
		if (strcmp(types[i].name, name) != 0)
			continue;
		struct tls_key *key = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*key));
		if (key == NULL) {
			EVP_PKEY_free(pkey);
			return ERR_NOMEM;
		}
		key->pkey = pkey;
		key->type = (enum tls_key_type)i;
		*ret_key = key;
		return ERR_OK;
	}
	EVP_PKEY_free(pkey);
	return ERR_UNSUPPORTED;
}

enum err tls_key_generate(enum tls_key_type type, struct tls_key **ret_key)
{
	SP_ASSERT((unsigned)type < TLS_KEY_TYPE_CNT);
	ERR_clear_error();
	EVP_PKEY *pkey = types[type].curve != NULL ? EVP_EC_gen(types[type].curve)
						   : EVP_RSA_gen(types[type].rsa_bits);
	ERR_clear_error();
	return pkey == NULL ? ERR_TLS : wrap_key(pkey, ret_key);
}

enum err tls_key_from_pem(const char *pem, size_t len, struct tls_key **ret_key)
{
	ERR_clear_error();
	EVP_PKEY *pkey = tls_pkey_from_pem(pem, len);
	ERR_clear_error();
	return pkey == NULL ? ERR_SYNTAX : wrap_key(pkey, ret_key);
}

enum err tls_key_to_pem(const struct tls_key *key, struct text *ret_pem)
{
	enum err e = ERR_TLS;
	char *data = NULL;
	ERR_clear_error();
	/* A memory BIO cleanses what it frees. */
	BIO *bio = BIO_new(BIO_s_mem());
	if (bio != NULL &&
	    PEM_write_bio_PKCS8PrivateKey(bio, key->pkey, NULL, NULL, 0, NULL, NULL) == 1) {
		long len = BIO_get_mem_data(bio, &data);
		text_add(ret_pem, data, (size_t)len);
		e = ret_pem->has_failed ? ERR_NOMEM : ERR_OK;
	}
	BIO_free(bio);
	ERR_clear_error();
	return e;
}

void tls_key_free(struct tls_key *key)
{
	if (key == NULL)
		return;
	EVP_PKEY_free(key->pkey);
	free(key);
}

enum tls_key_type tls_key_type_of(const struct tls_key *key)
{
	return key->type;
}

/* DER signature (RFC 3279, 2.2.3) to R || S. */
static enum err split_signature(const uint8_t *der, size_t der_len, uint8_t ret_sig[64])
{
	ECDSA_SIG *sig = d2i_ECDSA_SIG(NULL, &der, (long)der_len);
	if (sig == NULL)
		return ERR_TLS;
	bool is_ok = BN_bn2binpad(ECDSA_SIG_get0_r(sig), ret_sig, 32) == 32 &&
		     BN_bn2binpad(ECDSA_SIG_get0_s(sig), ret_sig + 32, 32) == 32;
	ECDSA_SIG_free(sig);
	return is_ok ? ERR_OK : ERR_TLS;
}

enum err tls_key_sign_es256(const struct tls_key *key, const void *data, size_t len,
			    uint8_t ret_sig[64])
{
	if (key->type != TLS_KEY_P256)
		return ERR_INVALID;
	uint8_t der[80]; /* two integers of 33 bytes with their headers: 72 at most */
	size_t der_len = sizeof(der);
	enum err e = ERR_TLS;
	ERR_clear_error();
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	if (md != NULL && EVP_DigestSignInit(md, NULL, EVP_sha256(), NULL, key->pkey) == 1 &&
	    EVP_DigestSign(md, der, &der_len, data, len) == 1)
		e = split_signature(der, der_len, ret_sig);
	EVP_MD_CTX_free(md);
	ERR_clear_error();
	return e;
}

static bool copy_coordinate(const EVP_PKEY *pkey, const char *param, uint8_t dst[32])
{
	BIGNUM *bn = NULL;
	bool is_ok =
		EVP_PKEY_get_bn_param(pkey, param, &bn) == 1 && BN_bn2binpad(bn, dst, 32) == 32;
	BN_free(bn);
	return is_ok;
}

enum err tls_key_p256_point(const struct tls_key *key, uint8_t ret_x[32], uint8_t ret_y[32])
{
	if (key->type != TLS_KEY_P256)
		return ERR_INVALID;
	ERR_clear_error();
	bool is_ok = copy_coordinate(key->pkey, OSSL_PKEY_PARAM_EC_PUB_X, ret_x) &&
		     copy_coordinate(key->pkey, OSSL_PKEY_PARAM_EC_PUB_Y, ret_y);
	ERR_clear_error();
	return is_ok ? ERR_OK : ERR_TLS;
}

void tls_sha256(const void *data, size_t len, uint8_t ret_digest[32])
{
	SHA256(data, len, ret_digest);
}
