#include "worker.h"

#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "conn.h"
#include "smartproxy/fault.h"
#include "smartproxy/rcu.h"

/* Mozilla's intermediate list (ssl-config.mozilla.org, 5.7) without its two DHE suites: no client
 * that has TLS 1.2 with AEAD needs them, and they cost the server most. The client's preference
 * decides, as the list is all good. */
const char tls_ciphers_1_2[] = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
			       "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
			       "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305";

enum err tls_init(void)
{
	if (OPENSSL_init_ssl(OPENSSL_INIT_LOAD_SSL_STRINGS | OPENSSL_INIT_LOAD_CRYPTO_STRINGS,
			     NULL) != 1)
		return ERR_TLS;
	enum err e = tls_conn_init();
	if (e != ERR_OK)
		return e;
	e = tls_tickets_init();
	if (e != ERR_OK)
		tls_conn_fini();
	return e;
}

void tls_fini(void)
{
	sp_rcu_drain();
	tls_tickets_fini();
	tls_client_store_fini();
	tls_conn_fini();
}

/* http/1.1 or nothing; a client that offers only others is told so (RFC 7301, 3.2). One that names
 * http/1.0 is served as if it had sent no ALPN. */
static int choose_alpn(SSL *ssl, const unsigned char **ret_name, unsigned char *ret_len,
		       const unsigned char *offer, unsigned offer_len, void *arg)
{
	bool has_http10 = false;
	(void)ssl, (void)arg;
	for (unsigned at = 0; at < offer_len; at += 1U + offer[at]) {
		unsigned len = offer[at];
		if (len > offer_len - at - 1)
			break; /* OpenSSL has checked the list; this keeps the loop safe by itself
				*/
		if (len == 8 && memcmp(offer + at + 1, "http/1.1", 8) == 0) {
			*ret_name = offer + at + 1;
			*ret_len = 8;
			return SSL_TLSEXT_ERR_OK;
		}
		has_http10 = has_http10 || (len == 8 && memcmp(offer + at + 1, "http/1.0", 8) == 0);
	}
	return has_http10 ? SSL_TLSEXT_ERR_NOACK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static enum err configure(SSL_CTX *ctx, const struct tls_settings *settings)
{
	int min = settings->min_version == TLS_VERSION_1_3 ? TLS1_3_VERSION : TLS1_2_VERSION;
	const char *ciphers =
		settings->ciphers_1_2 == NULL ? tls_ciphers_1_2 : settings->ciphers_1_2;
	if (SSL_CTX_set_min_proto_version(ctx, min) != 1 ||
	    SSL_CTX_set1_groups_list(ctx, "X25519:P-256:P-384") != 1)
		return ERR_TLS;
	if (SSL_CTX_set_cipher_list(ctx, ciphers) != 1)
		return ERR_INVALID;
	SSL_CTX_clear_options(ctx, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_LEGACY_SERVER_CONNECT);
	SSL_CTX_set_options(ctx, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
	SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
				      SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_num_tickets(ctx, 1);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_client_hello_cb(ctx, tls_conn_note_hello, NULL);
	SSL_CTX_set_alpn_select_cb(ctx, choose_alpn, NULL);
	tls_tickets_attach(ctx);
	return ERR_OK;
}

enum err tls_worker_new(const struct tls_settings *settings, struct tls_worker **ret_worker)
{
	struct tls_worker *worker = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*worker));
	if (worker == NULL)
		return ERR_NOMEM;
	ERR_clear_error();
	worker->ctx = SSL_CTX_new(TLS_server_method());
	enum err e = worker->ctx == NULL ? ERR_TLS : configure(worker->ctx, settings);
	ERR_clear_error();
	if (e != ERR_OK) {
		tls_worker_free(worker);
		return e;
	}
	*ret_worker = worker;
	return ERR_OK;
}

void tls_worker_free(struct tls_worker *worker)
{
	if (worker == NULL)
		return;
	SSL_CTX_free(worker->ctx);
	free(worker);
}
