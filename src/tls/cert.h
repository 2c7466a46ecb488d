#pragma once
/* tls, private: the certificate object. */
#include <stdatomic.h>

#include "ossl.h"

struct tls_cert {
	X509 *leaf;
	STACK_OF(X509) * chain; /* issuers, leaf's first; may be empty */
	EVP_PKEY *pkey;
	struct tls_cert_info info; /* written before the certificate is shared */
	/* SHA-256 of the two files, if it came from files, else zeros */
	struct tls_files_digest {
		uint8_t chain[32], key[32];
	} digest;
	struct {
		_Atomic uint32_t ref_cnt; /* held by: its slot, each connection, whoever asked; drop
					     is acq_rel */
		_Atomic bool is_retiring; /* rcu is queued; acq_rel */
	} shared;
	struct rcu_head rcu;
};

/* Takes leaf, chain and pkey on success. info is filled from leaf. NULL: no memory. */
struct tls_cert *tls_cert_wrap(X509 *leaf, STACK_OF(X509) * chain, EVP_PKEY *pkey);
/* PEM text; name stands in the sentences: a file's, or "the chain". */
struct tls_pem {
	const char *name;
	const char *data;
	size_t len;
};
enum err tls_cert_parse(const struct tls_pem *chain, const struct tls_pem *key,
			struct tls_cert **ret_cert, struct text *reterr_text) SP_MUST_USE;
/* Fills info from cert; names are allocated. ERR_NOMEM. */
enum err tls_cert_info_fill(X509 *x509, const EVP_PKEY *pkey, struct tls_cert_info *ret_info)
	SP_MUST_USE;
void tls_cert_info_fini(struct tls_cert_info *info);
/* "CN (O)", or what there is of the two, escaped. */
void tls_x509_name_text(const X509_NAME *name, char *dst, size_t cap);
/* Drops one reference after a grace period. */
void tls_cert_retire(struct tls_cert *cert);
