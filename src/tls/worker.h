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
