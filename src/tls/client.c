#include "client.h"

#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <string.h>

#include "cert.h"
#include "conn.h"
#include "file.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "worker.h"

/* The system's authorities, loaded by the first client that needs them: a MiB or more. */
static X509_STORE *system_store;

/* What the contexts of a client are made from. */
struct parts {
	X509_STORE *store; /* held; NULL: nothing is verified */
	struct tls_cert *cert;
	struct text digest; /* what the identity is taken of */
};

static void parts_fini(struct parts *parts)
{
	X509_STORE_free(parts->store);
	tls_cert_put(parts->cert);
	text_fini(&parts->digest);
}

/* ---- trust ---- */

void tls_client_store_fini(void)
{
	X509_STORE_free(system_store);
	system_store = NULL;
}

static enum err hold_system_store(struct parts *parts, struct text *reterr)
{
	char why[128];
	if (system_store == NULL) {
		X509_STORE *store = fault_hits(FAULT_MALLOC) ? NULL : X509_STORE_new();
		if (store == NULL)
			return ERR_NOMEM;
		if (X509_STORE_set_default_paths(store) != 1) {
			X509_STORE_free(store);
			if (reterr != NULL)
				text_printf(reterr, "the system's store of authorities: %s",
					    tls_error_take(why, sizeof(why)));
			return ERR_TLS;
		}
		system_store = store;
	}
	X509_STORE_up_ref(system_store);
	parts->store = system_store;
	text_puts(&parts->digest, "ca=system\n");
	return ERR_OK;
}

/* All certificates of the text go to store. ERR_SYNTAX when there is none or one is damaged. */
static enum err add_authorities(X509_STORE *store, const char *name, const struct tls_file *file,
				struct text *reterr)
{
	char why[128];
	int cnt = 0;
	bool is_added = true;
	BIO *bio = BIO_new_mem_buf(file->data, (int)file->len);
	if (bio == NULL)
		return ERR_NOMEM;
	for (; is_added; cnt += is_added) {
		X509 *x509 = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
		if (x509 == NULL)
			break;
		is_added = X509_STORE_add_cert(store, x509) == 1;
		X509_free(x509);
	}
	BIO_free(bio);
	bool is_end = is_added && ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
	tls_error_take(why, sizeof(why));
	if (is_end && cnt > 0)
		return ERR_OK;
	if (reterr != NULL && is_end)
		text_printf(reterr,
			    "%s: no certificate in it; expected those of the authorities to trust, "
			    "in PEM",
			    name);
	else if (reterr != NULL)
		text_printf(reterr, "%s: certificate %d cannot be read (%s)", name, cnt + 1, why);
	return ERR_SYNTAX;
}

static enum err load_ca_file(const char *name, struct parts *parts, struct text *reterr)
{
	struct tls_file file = { 0 };
	enum err e = tls_file_read(name, &file, reterr);
	if (e != ERR_OK)
		goto out;
	e = ERR_NOMEM;
	parts->store = fault_hits(FAULT_MALLOC) ? NULL : X509_STORE_new();
	if (parts->store == NULL)
		goto out;
	/* What the file names is trusted as it stands, also an authority below a root. */
	X509_STORE_set_flags(parts->store, X509_V_FLAG_PARTIAL_CHAIN);
	e = add_authorities(parts->store, name, &file, reterr);
	text_printf(&parts->digest, "ca=%zu\n", file.len);
	text_add(&parts->digest, file.data, file.len);
out:
	tls_file_fini(&file);
	return e;
}

enum err tls_authorities_check(const char *ca_file, struct text *reterr)
{
	struct parts parts = { 0 };
	ERR_clear_error();
	enum err e = load_ca_file(ca_file, &parts, reterr);
	ERR_clear_error();
	parts_fini(&parts);
	return e;
}

/* ---- client certificate ---- */

static enum err add_der(struct text *digest, X509 *x509)
{
	unsigned char *der = NULL;
	int len = i2d_X509(x509, &der);
	if (len < 0)
		return ERR_NOMEM;
	text_printf(digest, "cert=%d\n", len);
	text_add(digest, (const char *)der, (size_t)len);
	OPENSSL_free(der);
	return ERR_OK;
}

/* The key is not digested: it is the one that belongs to the certificate. */
static enum err load_cert(const struct tls_client_settings *settings, struct parts *parts,
			  struct text *reterr)
{
	enum err e = tls_cert_from_files(settings->chain_file, settings->key_file, NULL,
					 &parts->cert, reterr);
	if (e == ERR_OK)
		e = add_der(&parts->digest, parts->cert->leaf);
	for (int i = 0; e == ERR_OK && i < sk_X509_num(parts->cert->chain); i++)
		e = add_der(&parts->digest, sk_X509_value(parts->cert->chain, i));
	return e;
}

/* ---- contexts ---- */

static enum err configure(SSL_CTX *ctx, const struct parts *parts)
{
	if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1 ||
	    SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384") != 1 ||
	    SSL_CTX_set_cipher_list(ctx, tls_ciphers_1_2) != 1)
		return ERR_TLS;
	SSL_CTX_clear_options(ctx, SSL_OP_LEGACY_SERVER_CONNECT);
	SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
	SSL_CTX_sess_set_new_cb(ctx, tls_conn_note_session);
	SSL_CTX_set_verify(ctx, parts->store == NULL ? SSL_VERIFY_NONE : SSL_VERIFY_PEER, NULL);
	if (parts->store != NULL)
		SSL_CTX_set1_cert_store(ctx, parts->store);
	const struct tls_cert *cert = parts->cert;
	if (cert != NULL &&
	    SSL_CTX_use_cert_and_key(ctx, cert->leaf, cert->pkey, cert->chain, 1) != 1)
		return ERR_TLS;
	return ERR_OK;
}

static enum err make_contexts(struct tls_client *client, const struct parts *parts)
{
	for (unsigned i = 0; i < client->ctx_cnt; i++) {
		client->ctxs[i] = SSL_CTX_new(TLS_client_method());
		if (client->ctxs[i] == NULL)
			return ERR_NOMEM;
		enum err e = configure(client->ctxs[i], parts);
		if (e != ERR_OK)
			return e;
	}
	return ERR_OK;
}

static enum err gather(const struct tls_client_settings *settings, struct parts *parts,
		       struct text *reterr)
{
	enum err e = ERR_OK;
	if (!settings->wants_verify)
		text_puts(&parts->digest, "ca=none\n");
	else if (settings->ca_file == NULL)
		e = hold_system_store(parts, reterr);
	else
		e = load_ca_file(settings->ca_file, parts, reterr);
	if (e == ERR_OK && settings->chain_file != NULL)
		e = load_cert(settings, parts, reterr);
	if (e == ERR_OK && parts->digest.has_failed)
		e = ERR_NOMEM;
	return e;
}

static void write_identity(struct tls_client *client, const struct text *digest)
{
	static const char hex[] = "0123456789abcdef";
	uint8_t hash[32];
	tls_sha256(digest->data, digest->len, hash);
	for (size_t i = 0; i < sizeof(hash); i++) {
		client->identity[2 * i] = hex[hash[i] >> 4];
		client->identity[2 * i + 1] = hex[hash[i] & 15];
	}
	client->identity[2 * sizeof(hash)] = '\0';
}

enum err tls_client_new(const struct tls_client_settings *settings, unsigned ctx_cnt,
			struct tls_client **ret_client, struct text *reterr)
{
	struct parts parts = { 0 };
	SP_ASSERT((settings->chain_file == NULL) == (settings->key_file == NULL));
	struct tls_client *client = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*client));
	if (client == NULL)
		return ERR_NOMEM;
	enum err e = ERR_NOMEM;
	client->ctxs = calloc(ctx_cnt, sizeof(SSL_CTX *));
	if (client->ctxs == NULL)
		goto out;
	client->ctx_cnt = ctx_cnt;
	client->wants_verify = settings->wants_verify;
	ERR_clear_error();
	e = gather(settings, &parts, reterr);
	if (e == ERR_OK)
		e = make_contexts(client, &parts);
	if (e == ERR_OK)
		write_identity(client, &parts.digest);
out:
	ERR_clear_error();
	parts_fini(&parts);
	if (e != ERR_OK)
		tls_client_free(client);
	else
		*ret_client = client;
	return e;
}

void tls_client_free(struct tls_client *client)
{
	if (client == NULL)
		return;
	for (unsigned i = 0; i < client->ctx_cnt; i++)
		SSL_CTX_free(client->ctxs[i]);
	free(client->ctxs);
	free(client);
}

const char *tls_client_identity(const struct tls_client *client)
{
	return client->identity;
}
