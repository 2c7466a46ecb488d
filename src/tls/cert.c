#include "cert.h"

#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/assert.h"
#include "smartproxy/fault.h"

#define CHAIN_MAX    16 /* certificates; a public chain has two to four */
#define RSA_BITS_MIN 2048

/* What is being parsed, for sentences. */
struct source {
	const char *chain_name, *key_name;
	struct text *err; /* may be NULL */
};

#define complain(src, ...)                                    \
	do {                                                  \
		if ((src)->err != NULL)                       \
			text_printf((src)->err, __VA_ARGS__); \
	} while (0)

struct tls_cert *tls_cert_wrap(X509 *leaf, STACK_OF(X509) * chain, EVP_PKEY *pkey)
{
	struct tls_cert *cert = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*cert));
	if (cert == NULL)
		return NULL;
	if (tls_cert_info_fill(leaf, pkey, &cert->info) != ERR_OK) {
		tls_cert_info_fini(&cert->info);
		free(cert);
		return NULL;
	}
	cert->leaf = leaf;
	cert->chain = chain;
	cert->pkey = pkey;
	atomic_init(&cert->shared.ref_cnt, 1);
	return cert;
}

const struct tls_cert_info *tls_cert_info(const struct tls_cert *cert)
{
	return &cert->info;
}

void tls_cert_get(struct tls_cert *cert)
{
	atomic_fetch_add_explicit(&cert->shared.ref_cnt, 1, memory_order_relaxed);
}

void tls_cert_put(struct tls_cert *cert)
{
	if (cert == NULL ||
	    atomic_fetch_sub_explicit(&cert->shared.ref_cnt, 1, memory_order_acq_rel) != 1)
		return;
	X509_free(cert->leaf);
	sk_X509_pop_free(cert->chain, X509_free);
	EVP_PKEY_free(cert->pkey);
	tls_cert_info_fini(&cert->info);
	free(cert);
}

static void drop_retired(struct rcu_head *head)
{
	SP_TSAN_ACQUIRE();
	struct tls_cert *cert = caa_container_of(head, struct tls_cert, rcu);
	atomic_store_explicit(&cert->shared.is_retiring, false, memory_order_release);
	tls_cert_put(cert);
}

/* The head can be queued once. A certificate that leaves a second slot, or leaves again before its
 * callback has run, waits for its grace period here: rare, and nothing has to be allocated. */
void tls_cert_retire(struct tls_cert *cert)
{
	if (atomic_exchange_explicit(&cert->shared.is_retiring, true, memory_order_acq_rel)) {
		sp_rcu_wait();
		tls_cert_put(cert);
		return;
	}
	sp_rcu_retire(&cert->rcu, drop_retired);
}

/* No further certificate could be read after cnt: the text has ended, or it is damaged. */
static enum err judge_end(const struct source *src, int cnt)
{
	char why[128];
	bool is_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
	tls_error_take(why, sizeof(why));
	if (is_end && cnt > 0)
		return ERR_OK;
	if (is_end)
		complain(src,
			 "%s: no certificate in it; expected PEM, \"-----BEGIN CERTIFICATE-----\"",
			 src->chain_name);
	else
		complain(src, "%s: certificate %d cannot be read (%s)", src->chain_name, cnt + 1,
			 why);
	return ERR_SYNTAX;
}

/* All certificates of the text, in its order. Other blocks (a key in the same file) are passed
 * over. */
static enum err read_chain(const struct source *src, BIO *bio, STACK_OF(X509) * all)
{
	for (;;) {
		X509 *x509 = PEM_read_bio_X509(bio, NULL, NULL, NULL);
		int cnt = sk_X509_num(all);
		if (x509 == NULL)
			return judge_end(src, cnt);
		if (cnt < CHAIN_MAX && sk_X509_push(all, x509) > 0)
			continue;
		X509_free(x509);
		if (cnt < CHAIN_MAX)
			return ERR_NOMEM;
		complain(src, "%s: more than %d certificates", src->chain_name, CHAIN_MAX);
		return ERR_SYNTAX;
	}
}

/* Each certificate must have issued the one before it (RFC 5246, 7.4.2; RFC 8446, 4.4.2 asks for
 * the same order). */
static enum err check_order(const struct source *src, const STACK_OF(X509) * all)
{
	for (int i = 1; i < sk_X509_num(all); i++) {
		X509 *lower = sk_X509_value(all, i - 1);
		X509 *upper = sk_X509_value(all, i);
		if (X509_NAME_cmp(X509_get_issuer_name(lower), X509_get_subject_name(upper)) == 0)
			continue;
		char issuer[256], subject[256];
		tls_x509_name_text(X509_get_issuer_name(lower), issuer, sizeof(issuer));
		tls_x509_name_text(X509_get_subject_name(upper), subject, sizeof(subject));
		complain(src,
			 "%s: wrong order: certificate %d was issued by \"%s\", but certificate %d "
			 "is \"%s\"; put the "
			 "server's certificate first and each issuer after what it issued",
			 src->chain_name, i, issuer, i + 1, subject);
		return ERR_SYNTAX;
	}
	return ERR_OK;
}

static bool has_key(X509 *x509, const EVP_PKEY *pkey)
{
	const EVP_PKEY *public = X509_get0_pubkey(x509);
	return public != NULL && EVP_PKEY_eq(public, pkey) == 1;
}

static enum err check_type(const struct source *src, const EVP_PKEY *pkey)
{
	char type[32];
	tls_pkey_name(pkey, type, sizeof(type));
	if (EVP_PKEY_is_a(pkey, "RSA")) {
		if (EVP_PKEY_get_bits(pkey) >= RSA_BITS_MIN)
			return ERR_OK;
		complain(src, "%s: RSA key of %d bits; %d or more are needed", src->key_name,
			 EVP_PKEY_get_bits(pkey), RSA_BITS_MIN);
		return ERR_TLS;
	}
	if (strcmp(type, "p256") == 0 || strcmp(type, "p384") == 0 || strcmp(type, "ED25519") == 0)
		return ERR_OK;
	complain(src, "%s: key type %s is not supported; use P-256, P-384, RSA or Ed25519",
		 src->key_name, type);
	return ERR_TLS;
}

static enum err check_key(const struct source *src, const STACK_OF(X509) * all,
			  const EVP_PKEY *pkey)
{
	if (has_key(sk_X509_value(all, 0), pkey))
		return ERR_OK;
	for (int i = 1; i < sk_X509_num(all); i++) {
		if (!has_key(sk_X509_value(all, i), pkey))
			continue;
		complain(src, "%s: the key %s belongs to certificate %d; put that one first",
			 src->chain_name, src->key_name, i + 1);
		return ERR_KEY_MISMATCH;
	}
	complain(src, "%s: the private key does not belong to the certificate in %s", src->key_name,
		 src->chain_name);
	return ERR_KEY_MISMATCH;
}

/* A context costs as much as reading a certificate: one for all checks, for as long as the process
 * lives. NULL: no memory. */
static SSL *new_trial(void)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static SSL_CTX *ctx;
	(void)pthread_mutex_lock(&lock);
	if (ctx == NULL)
		ctx = SSL_CTX_new(TLS_server_method());
	SSL *ssl = ctx == NULL ? NULL : SSL_new(ctx);
	(void)pthread_mutex_unlock(&lock);
	return ssl;
}

/* What a connection will do with them, tried now: a weak signature is an error of the configuration
 * then, not of each handshake. */
static enum err check_use(const struct source *src, X509 *leaf, STACK_OF(X509) * chain,
			  EVP_PKEY *pkey)
{
	SSL *ssl = new_trial();
	if (ssl == NULL)
		return ERR_NOMEM;
	bool is_ok = SSL_use_cert_and_key(ssl, leaf, pkey, chain, 1) == 1;
	SSL_free(ssl);
	if (is_ok)
		return ERR_OK;
	char why[128];
	complain(src, "%s: refused by OpenSSL: %s", src->chain_name,
		 tls_error_take(why, sizeof(why)));
	return ERR_TLS;
}

static enum err read_key(const struct source *src, const struct tls_pem *key, EVP_PKEY **ret_pkey)
{
	char why[128];
	*ret_pkey = tls_pkey_from_pem(key->data, key->len);
	if (*ret_pkey != NULL)
		return ERR_OK;
	complain(src, "%s: no private key that can be read (%s); expected PEM without a passphrase",
		 src->key_name, tls_error_take(why, sizeof(why)));
	return ERR_SYNTAX;
}

/* Takes what all holds when it succeeds. */
static enum err build_cert(const struct source *src, STACK_OF(X509) * all, EVP_PKEY *pkey,
			   struct tls_cert **ret_cert)
{
	enum err e = check_type(src, pkey);
	if (e == ERR_OK)
		e = check_key(src, all, pkey);
	if (e == ERR_OK)
		e = check_order(src, all);
	if (e != ERR_OK)
		return e;
	X509 *leaf = sk_X509_shift(all);
	e = check_use(src, leaf, all, pkey);
	struct tls_cert *cert = e == ERR_OK ? tls_cert_wrap(leaf, all, pkey) : NULL;
	if (cert == NULL) {
		X509_free(leaf);
		return e == ERR_OK ? ERR_NOMEM : e;
	}
	*ret_cert = cert;
	return ERR_OK;
}

enum err tls_cert_parse(const struct tls_pem *chain, const struct tls_pem *key,
			struct tls_cert **ret_cert, struct text *reterr_text)
{
	const struct source src = { chain->name, key->name, reterr_text };
	enum err e = ERR_NOMEM;
	EVP_PKEY *pkey = NULL;
	SP_ASSERT(chain->len <= INT_MAX);
	ERR_clear_error();
	STACK_OF(X509) *all = sk_X509_new_null();
	BIO *bio = BIO_new_mem_buf(chain->data, (int)chain->len);
	if (all == NULL || bio == NULL)
		goto out;
	e = read_chain(&src, bio, all);
	if (e == ERR_OK)
		e = read_key(&src, key, &pkey);
	if (e == ERR_OK)
		e = build_cert(&src, all, pkey, ret_cert);
out:
	BIO_free(bio);
	if (e != ERR_OK) {
		sk_X509_pop_free(all, X509_free);
		EVP_PKEY_free(pkey);
	}
	ERR_clear_error();
	return e;
}

enum err tls_cert_from_pem(const char *chain, size_t chain_len, const char *key, size_t key_len,
			   struct tls_cert **ret_cert, struct text *reterr_text)
{
	const struct tls_pem chain_pem = { "the chain", chain, chain_len };
	const struct tls_pem key_pem = { "the key", key, key_len };
	return tls_cert_parse(&chain_pem, &key_pem, ret_cert, reterr_text);
}
