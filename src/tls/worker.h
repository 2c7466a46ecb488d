#pragma once
/* tls, private: what a worker's connections share. */
#include "ossl.h"

struct tls_worker {
	SSL_CTX *ctx;
};

/* The method of the BIO in conn.c; made by tls_init, process-wide. */
enum err tls_conn_init(void) SP_MUST_USE;
void tls_conn_fini(void);
/* The key ring of ticket.c; made by tls_init. */
enum err tls_tickets_init(void) SP_MUST_USE;
void tls_tickets_fini(void);
void tls_tickets_attach(SSL_CTX *ctx);
/* Frees the system's store of authorities, if a client has loaded it; connections keep what they hold. */
void tls_client_store_fini(void);

/* What both roles offer in TLS 1.2. */
extern const char tls_ciphers_1_2[];
