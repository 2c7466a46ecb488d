#include <check.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/assert.h"
#include "smartproxy/tls_key.h"

static const struct {
	enum tls_key_type type;
	const char *name;
} types[] = {
	{ TLS_KEY_P256, "p256" },       { TLS_KEY_P384, "p384" },
	{ TLS_KEY_RSA2048, "rsa2048" }, { TLS_KEY_RSA3072, "rsa3072" },
	{ TLS_KEY_RSA4096, "rsa4096" },
};

START_TEST(every_type_survives_pem)
{
	struct tls_key *key = NULL, *again = NULL;
	struct text pem = { 0 }, pem_again = { 0 };
	ck_assert_str_eq(tls_key_type_name(types[_i].type), types[_i].name);
	ck_assert_int_eq(tls_key_generate(types[_i].type, &key), ERR_OK);
	ck_assert_int_eq(tls_key_type_of(key), types[_i].type);
	ck_assert_int_eq(tls_key_to_pem(key, &pem), ERR_OK);
	ck_assert_int_eq(strncmp(pem.data, "-----BEGIN PRIVATE KEY-----\n", 28), 0);
	ck_assert_int_eq(tls_key_from_pem(pem.data, pem.len, &again), ERR_OK);
	ck_assert_int_eq(tls_key_type_of(again), types[_i].type);
	ck_assert_int_eq(tls_key_to_pem(again, &pem_again), ERR_OK);
	ck_assert_str_eq(pem.data, pem_again.data);
	text_fini(&pem);
	text_fini(&pem_again);
	tls_key_free(key);
	tls_key_free(again);
}
END_TEST

static void check_traditional(EVP_PKEY *pkey, enum tls_key_type want)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *data = NULL;
	struct tls_key *key = NULL;
	ck_assert_int_eq(PEM_write_bio_PrivateKey_traditional(bio, pkey, NULL, NULL, 0, NULL, NULL),
			 1);
	long len = BIO_get_mem_data(bio, &data);
	ck_assert_int_eq(tls_key_from_pem(data, (size_t)len, &key), ERR_OK);
	ck_assert_int_eq(tls_key_type_of(key), want);
	tls_key_free(key);
	BIO_free(bio);
	EVP_PKEY_free(pkey);
}

START_TEST(traditional_pem_is_read)
{
	check_traditional(EVP_EC_gen("P-256"), TLS_KEY_P256);
	check_traditional(EVP_RSA_gen(2048), TLS_KEY_RSA2048);
}
END_TEST

static const struct {
	const char *pem;
	enum err want;
} bad_pems[] = {
	{ "", ERR_SYNTAX },
	{ "-----BEGIN PRIVATE KEY-----\n", ERR_SYNTAX },
	{ "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", ERR_SYNTAX },
	{ "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ERR_SYNTAX },
	/* Ed25519: a sound key of a type that no configuration asks for. */
	{ "-----BEGIN PRIVATE "
	  "KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n"
	  "-----END PRIVATE KEY-----\n",
	  ERR_UNSUPPORTED },
};

START_TEST(bad_pem_is_refused)
{
	struct tls_key *key = NULL;
	ck_assert_int_eq(tls_key_from_pem(bad_pems[_i].pem, strlen(bad_pems[_i].pem), &key),
			 bad_pems[_i].want);
	ck_assert_ptr_null(key);
}
END_TEST

/* One decoder reads them all: nothing of a key, or of one that could not be read, is left for the next. */
START_TEST(keys_are_read_one_after_another)
{
	static const enum tls_key_type order[] = { TLS_KEY_P256, TLS_KEY_RSA2048, TLS_KEY_P384,
						   TLS_KEY_P256 };
	for (size_t i = 0; i < SP_ARRAY_LEN(order); i++) {
		struct tls_key *key = NULL, *again = NULL, *bad = NULL;
		struct text pem = { 0 }, pem_again = { 0 };
		text_printf(&pem, "-----BEGIN CERTIFICATE-----\nAAAA\n"
				  "-----END CERTIFICATE-----\n");
		size_t before_len = pem.len;
		ck_assert_int_eq(tls_key_generate(order[i], &key), ERR_OK);
		ck_assert_int_eq(tls_key_to_pem(key, &pem), ERR_OK);
		ck_assert_int_eq(tls_key_from_pem(pem.data, pem.len, &again), ERR_OK);
		ck_assert_int_eq(tls_key_to_pem(again, &pem_again), ERR_OK);
		ck_assert_str_eq(pem.data + before_len, pem_again.data);
		for (size_t k = 0; k < SP_ARRAY_LEN(bad_pems); k++)
			ck_assert_int_eq(
				tls_key_from_pem(bad_pems[k].pem, strlen(bad_pems[k].pem), &bad),
				bad_pems[k].want);
		text_fini(&pem);
		text_fini(&pem_again);
		tls_key_free(key);
		tls_key_free(again);
	}
}
END_TEST

START_TEST(encrypted_key_is_refused_without_a_prompt)
{
	EVP_PKEY *pkey = EVP_EC_gen("P-256");
	BIO *bio = BIO_new(BIO_s_mem());
	char *data = NULL;
	struct tls_key *key = NULL;
	char pass[] = "pass";
	ck_assert_int_eq(
		PEM_write_bio_PKCS8PrivateKey(bio, pkey, EVP_aes_128_cbc(), pass, 4, NULL, NULL),
		1);
	long len = BIO_get_mem_data(bio, &data);
	ck_assert_int_eq(tls_key_from_pem(data, (size_t)len, &key), ERR_SYNTAX);
	BIO_free(bio);
	EVP_PKEY_free(pkey);
}
END_TEST

/* The public key as OpenSSL sees it when it is built from the two coordinates alone. */
static EVP_PKEY *public_from_point(const uint8_t x[32], const uint8_t y[32])
{
	uint8_t point[65] = { 4 };
	char group[] = "P-256";
	memcpy(point + 1, x, 32);
	memcpy(point + 33, y, 32);
	OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
		OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof(point)),
		OSSL_PARAM_construct_end(),
	};
	EVP_PKEY *pkey = NULL;
	EVP_PKEY_CTX *ctx = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	ck_assert_int_eq(EVP_PKEY_fromdata_init(ctx), 1);
	ck_assert_int_eq(EVP_PKEY_fromdata(ctx, &pkey, EVP_PKEY_PUBLIC_KEY, params), 1);
	EVP_PKEY_CTX_free(ctx);
	return pkey;
}

static int verify(EVP_PKEY *pkey, const uint8_t sig[64], const char *data, size_t len)
{
	ECDSA_SIG *parts = ECDSA_SIG_new();
	uint8_t *der = NULL;
	ECDSA_SIG_set0(parts, BN_bin2bn(sig, 32, NULL), BN_bin2bn(sig + 32, 32, NULL));
	int der_len = i2d_ECDSA_SIG(parts, &der);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	ck_assert_int_eq(EVP_DigestVerifyInit(md, NULL, EVP_sha256(), NULL, pkey), 1);
	int rc = EVP_DigestVerify(md, der, (size_t)der_len, (const uint8_t *)data, len);
	EVP_MD_CTX_free(md);
	OPENSSL_free(der);
	ECDSA_SIG_free(parts);
	return rc;
}

/* 300 rounds: R, S, X or Y begins with a zero byte about once in 64, and must be padded then. */
START_TEST(es256_verifies_with_the_exported_point)
{
	for (int round = 0; round < 300; round++) {
		struct tls_key *key = NULL;
		uint8_t x[32], y[32], sig[64];
		ck_assert_int_eq(tls_key_generate(TLS_KEY_P256, &key), ERR_OK);
		ck_assert_int_eq(tls_key_p256_point(key, x, y), ERR_OK);
		ck_assert_int_eq(tls_key_sign_es256(key, "header.payload", 14, sig), ERR_OK);
		EVP_PKEY *pkey = public_from_point(x, y);
		ck_assert_int_eq(verify(pkey, sig, "header.payload", 14), 1);
		ck_assert_int_eq(verify(pkey, sig, "header.payloaD", 14), 0);
		EVP_PKEY_free(pkey);
		tls_key_free(key);
	}
}
END_TEST

START_TEST(es256_wants_p256)
{
	struct tls_key *key = NULL;
	uint8_t sig[64], x[32], y[32];
	ck_assert_int_eq(tls_key_generate(TLS_KEY_P384, &key), ERR_OK);
	ck_assert_int_eq(tls_key_sign_es256(key, "a", 1, sig), ERR_INVALID);
	ck_assert_int_eq(tls_key_p256_point(key, x, y), ERR_INVALID);
	tls_key_free(key);
}
END_TEST

START_TEST(sha256_of_abc)
{
	/* FIPS 180-4, example 1 */
	static const uint8_t want[32] = { 0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea,
					  0x41, 0x41, 0x40, 0xde, 0x5d, 0xae, 0x22, 0x23,
					  0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17, 0x7a, 0x9c,
					  0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad };
	uint8_t got[32];
	tls_sha256("abc", 3, got);
	ck_assert_mem_eq(got, want, sizeof(want));
}
END_TEST

static const struct {
	enum tls_key_type type;
	int digest;
} csrs[] = {
	{ TLS_KEY_P256, NID_sha256 },
	{ TLS_KEY_P384, NID_sha384 },
	{ TLS_KEY_RSA2048, NID_sha256 },
};

static void check_san(X509_REQ *req)
{
	static const uint8_t v4[4] = { 192, 0, 2, 1 };
	STACK_OF(X509_EXTENSION) *exts = X509_REQ_get_extensions(req);
	ck_assert_int_eq(sk_X509_EXTENSION_num(exts), 1);
	GENERAL_NAMES *san = X509V3_get_d2i(exts, NID_subject_alt_name, NULL, NULL);
	ck_assert_int_eq(sk_GENERAL_NAME_num(san), 4);
	int type = 0;
	const ASN1_STRING *value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(san, 1), &type);
	ck_assert_int_eq(type, GEN_DNS);
	ck_assert_int_eq(ASN1_STRING_length(value), 13);
	ck_assert_mem_eq(ASN1_STRING_get0_data(value), "*.example.com", 13);
	value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(san, 2), &type);
	ck_assert_int_eq(type, GEN_IPADD);
	ck_assert_int_eq(ASN1_STRING_length(value), 4);
	ck_assert_mem_eq(ASN1_STRING_get0_data(value), v4, 4);
	value = GENERAL_NAME_get0_value(sk_GENERAL_NAME_value(san, 3), &type);
	ck_assert_int_eq(type, GEN_IPADD);
	ck_assert_int_eq(ASN1_STRING_length(value), 16);
	GENERAL_NAMES_free(san);
	sk_X509_EXTENSION_pop_free(exts, X509_EXTENSION_free);
}

START_TEST(csr_has_the_names_and_verifies)
{
	static const char *const names[] = { "example.com", "*.example.com", "192.0.2.1",
					     "2001:db8::1" };
	struct tls_key *key = NULL;
	uint8_t *der = NULL;
	size_t len = 0;
	ck_assert_int_eq(tls_key_generate(csrs[_i].type, &key), ERR_OK);
	ck_assert_int_eq(tls_csr_der(key, names, SP_ARRAY_LEN(names), &der, &len), ERR_OK);
	const uint8_t *at = der;
	X509_REQ *req = d2i_X509_REQ(NULL, &at, (long)len);
	ck_assert_ptr_nonnull(req);
	ck_assert_ptr_eq(at, der + len);
	ck_assert_int_eq(X509_REQ_verify(req, X509_REQ_get0_pubkey(req)), 1);
	ck_assert_int_eq(X509_NAME_entry_count(X509_REQ_get_subject_name(req)), 0);
	int digest = NID_undef;
	ck_assert_int_eq(OBJ_find_sigid_algs(X509_REQ_get_signature_nid(req), &digest, NULL), 1);
	ck_assert_int_eq(digest, csrs[_i].digest);
	check_san(req);
	X509_REQ_free(req);
	free(der);
	tls_key_free(key);
}
END_TEST

static const char *const bad_names[] = {
	"",
	"a..b",
	".a",
	"a.",
	"a b",
	"a,DNS:b",
	"*.",
	"*",
	"a.*",
	"**.a.b",
	"a/b.com",
	"a\nb",
	"\xc3\xa9.example",
	"*a.b",
	"aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg.example",
};

START_TEST(csr_refuses_what_is_no_name)
{
	const char *names[] = { "good.example", bad_names[_i] };
	struct tls_key *key = NULL;
	uint8_t *der = NULL;
	size_t len = 0;
	ck_assert_int_eq(tls_key_generate(TLS_KEY_P256, &key), ERR_OK);
	ck_assert_int_eq(tls_csr_der(key, names, 2, &der, &len), ERR_INVALID);
	ck_assert_int_eq(tls_csr_der(key, names, 0, &der, &len), ERR_INVALID);
	ck_assert_ptr_null(der);
	tls_key_free(key);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("tls_key");
	TCase *tc = tcase_create("key");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, every_type_survives_pem, 0, SP_ARRAY_LEN(types));
	tcase_add_test(tc, traditional_pem_is_read);
	tcase_add_loop_test(tc, bad_pem_is_refused, 0, SP_ARRAY_LEN(bad_pems));
	tcase_add_test(tc, keys_are_read_one_after_another);
	tcase_add_test(tc, encrypted_key_is_refused_without_a_prompt);
	tcase_add_test(tc, es256_verifies_with_the_exported_point);
	tcase_add_test(tc, es256_wants_p256);
	tcase_add_test(tc, sha256_of_abc);
	tcase_add_loop_test(tc, csr_has_the_names_and_verifies, 0, SP_ARRAY_LEN(csrs));
	tcase_add_loop_test(tc, csr_refuses_what_is_no_name, 0, SP_ARRAY_LEN(bad_names));
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
