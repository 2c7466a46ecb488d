#pragma once
/* tls: connections to targets, whose certificates are verified.
 *
 * A certificate counts if its chain ends in the system's store, or in ca_file alone (also at an
 * authority there that is no root), and a SAN names the host: whole labels, no CN, an address as an
 * address (RFC 9525, 6). The system's store is loaded once for all clients. A session is resumed
 * without another look at the certificate, so a slot's is used only for the same client identity and
 * name.
 *
 * Threads: clients are made and freed on the control thread; a connection belongs to its worker, and
 * outlives its client if need be. Security: server names come from the configuration, all else from
 * the target. Standards: RFC 8446, RFC 5246, RFC 6066 (SNI), RFC 7301 (ALPN), RFC 9525. */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/err.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"

struct tls_conn;

/* What connections to one kind of target have in common: trust, client certificate, one SSL_CTX a
 * thread. */
struct tls_client;
struct tls_client_settings {
	bool wants_verify;
	const char *ca_file;               /* trusted alone; NULL: the system's store */
	const char *chain_file, *key_file; /* client certificate; NULL: none */
};
/* Reads the files. ctx_cnt: threads that will use it, each with an index of its own. ERR_NOENT,
 * ERR_SYSTEM, ERR_INVALID, ERR_SYNTAX, ERR_KEY_MISMATCH, ERR_TLS with a sentence that names the file
 * (reterr may be NULL). */
enum err tls_client_new(const struct tls_client_settings *settings, unsigned ctx_cnt,
			struct tls_client **ret_client, struct text *reterr)
	SP_ON_CONTROL SP_MUST_USE;
void tls_client_free(struct tls_client *client);
/* Can the certificates of authorities in this file be used? The errors of tls_client_new. */
enum err tls_authorities_check(const char *ca_file, struct text *reterr) SP_MUST_USE;
/* Digest of the settings and of what the files held, 64 characters of hex: two clients with the same
 * one are the same to every target. */
const char *tls_client_identity(const struct tls_client *client);
/* The latest session of one target on one thread; zero-initialised, ended with tls_session_fini. It
 * must outlive every connection that was made with it. */
struct tls_session_slot {
	void *session;
	uint64_t key; /* of the client and the name that the session was made with */
};
void tls_session_fini(struct tls_session_slot *slot);
/* fd is connected and stays the caller's. server_name: a host name (SNI, and the name to verify) or
 * an address (verified as such, no SNI: RFC 6066, 3); copied. session: tried if there is one,
 * replaced by what the target gives, emptied when the handshake fails; may be NULL. alpn: "http/1.1"
 * or NULL. Then tls_conn_handshake and the other functions of tls_conn. ERR_INVALID: a name of more
 * than 255 bytes, or none that could be verified; ERR_NOMEM, ERR_TLS. */
struct tls_connect {
	struct tls_client *client;
	unsigned ctx_ix;
	int fd;
	const char *server_name;
	const char *alpn;
	struct tls_session_slot *session;
};
enum err tls_conn_connect(const struct tls_connect *connect, struct tls_conn **ret_conn)
	SP_MUST_USE;
/* After a failed handshake: was it the target's certificate? tls_conn_error says why. */
bool tls_conn_has_verify_failed(const struct tls_conn *conn);
