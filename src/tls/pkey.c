/* Reading private keys. */
#include <limits.h>
#include <openssl/crypto.h>
#include <openssl/decoder.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <pthread.h>
#include <string.h>

#include "ossl.h"
#include "smartproxy/assert.h"

/* PEM_read_bio_PrivateKey builds a decoder for each key, which takes fifteen times as long as the
 * key itself (OpenSSL 3.0). This one is built once, and lives as long as the process. */
static struct {
	pthread_mutex_t lock; /* of all below; held while one key is decoded */
	OSSL_DECODER_CTX *decoder;
	EVP_PKEY *pkey; /* where it puts what it has read */
} reader = { .lock = PTHREAD_MUTEX_INITIALIZER };

static EVP_PKEY *decode(const uint8_t *der, size_t len)
{
	EVP_PKEY *pkey = NULL;
	(void)pthread_mutex_lock(&reader.lock);
	if (reader.decoder == NULL)
		reader.decoder = OSSL_DECODER_CTX_new_for_pkey(&reader.pkey, "DER", NULL, NULL,
							       EVP_PKEY_KEYPAIR, NULL, NULL);
	if (reader.decoder != NULL && OSSL_DECODER_from_data(reader.decoder, &der, &len) == 1)
		pkey = reader.pkey;
	else
		EVP_PKEY_free(reader.pkey);
	reader.pkey = NULL;
	(void)pthread_mutex_unlock(&reader.lock);
	return pkey;
}

/* RFC 7468, 10; RFC 5915, 4; the name that OpenSSL gave to PKCS #1. */
static bool is_private_key(const char *label)
{
	static const char *const labels[] = { "PRIVATE KEY", "EC PRIVATE KEY", "RSA PRIVATE KEY" };
	for (size_t i = 0; i < SP_ARRAY_LEN(labels); i++) {
		if (strcmp(label, labels[i]) == 0)
			return true;
	}
	return false;
}

/* The first block that is a private key. An encrypted one is none: it has a header, or another
 * label. */
static EVP_PKEY *read_plain_key(BIO *bio)
{
	EVP_PKEY *pkey = NULL;
	char *label = NULL, *header = NULL;
	unsigned char *der = NULL;
	long len = 0;
	bool is_found = false;
	while (!is_found && PEM_read_bio(bio, &label, &header, &der, &len) == 1) {
		is_found = is_private_key(label);
		if (is_found && header[0] == '\0')
			pkey = decode(der, (size_t)len);
		OPENSSL_free(label);
		OPENSSL_free(header);
		OPENSSL_clear_free(der, (size_t)len);
	}
	return pkey;
}

static int refuse_passphrase(char *dst, int cap, int is_writing, void *arg)
{
	(void)dst, (void)cap, (void)is_writing, (void)arg;
	return -1;
}

EVP_PKEY *tls_pkey_from_pem(const char *pem, size_t len)
{
	if (len > INT_MAX)
		return NULL;
	BIO *bio = BIO_new_mem_buf(pem, (int)len);
	if (bio == NULL)
		return NULL;
	EVP_PKEY *pkey = read_plain_key(bio);
	if (pkey == NULL) {
		/* What else OpenSSL can read, and why it can't. */
		ERR_clear_error();
		(void)BIO_reset(bio);
		pkey = PEM_read_bio_PrivateKey(bio, NULL, refuse_passphrase, NULL);
	}
	BIO_free(bio);
	return pkey;
}
