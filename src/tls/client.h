#pragma once
/* tls, private: what connections to one kind of target have in common. */
#include "ossl.h"

/* Immutable once made. */
struct tls_client {
	SSL_CTX **ctxs; /* one a thread */
	unsigned ctx_cnt;
	bool wants_verify;
	char identity[65]; /* SHA-256 in hex */
};
