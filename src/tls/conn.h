#pragma once
/* tls, private: one connection, of either role. */
#include "ossl.h"

/* Its worker writes all of it. */
struct tls_conn {
	SSL *ssl;
	struct tls_cert *cert; /* held; NULL: towards a target */
	int fd;
	/* Bytes read before TLS took over, not yet taken by OpenSSL. NULL: none. */
	uint8_t *fed;
	size_t fed_len, fed_at;
	int sys_errno;        /* of the last failed call */
	const char *sys_call; /* "recv" or "send" */
	bool is_dry;     /* the last look at the socket found nothing, so nothing whole waits inside
			    either */
	bool is_all_fed; /* nothing waits behind the fed bytes */
	bool has_read_short; /* the last call's last read emptied the socket */
	bool is_ending;      /* what is sent now is followed by the end at once */
	bool is_tcp_eof;     /* the other side's FIN was seen */
	bool has_failed;     /* OpenSSL allows no further call */
	bool is_notify_sent; /* close_notify, or none is to be sent */
	bool is_client;
	bool is_name_ip;
	bool has_verify_failed;
	char *name; /* asked for: by the client (its SNI), or by us of the target; NULL: none */
	struct tls_session_slot *session; /* towards a target only; NULL: none */
	uint64_t session_key;
	const char *error; /* static or error_text */
	char *error_text;  /* owned; NULL: no failure needed words of its own */
};

/* A connection of ctx with the BIO on fd; the role is not set yet. ERR_NOMEM. */
enum err tls_conn_open(SSL_CTX *ctx, int fd, struct tls_conn **ret_conn) SP_MUST_USE;
/* The connection under ssl. */
struct tls_conn *tls_conn_of(const SSL *ssl);
/* A client hello callback: keeps the name that is asked for. */
int tls_conn_note_hello(SSL *ssl, int *alert, void *arg);

/* ---- client_conn.c ---- */
#define TLS_WHY_BYTES 192
/* Did the target's certificate make the last call fail? Then dst says why, in TLS_WHY_BYTES at most, and
 * OpenSSL's queue is empty. */
bool tls_conn_explain_verify(struct tls_conn *conn, char *dst);
/* The session that the connection was made with is not offered again. */
void tls_conn_drop_session(struct tls_conn *conn);
/* A new session callback. */
int tls_conn_note_session(SSL *ssl, SSL_SESSION *session);
