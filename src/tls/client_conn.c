#include <arpa/inet.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>

#include "client.h"
#include "conn.h"
#include "smartproxy/assert.h"

#define ALPN_MAX 255 /* RFC 7301, 3.1 */

/* ---- the name of the target ---- */

/* An address, with or without the brackets of a URL. Returns its bytes, 0: it is none. */
static size_t parse_ip(const char *name, unsigned char ret_bytes[16])
{
	char bare[INET6_ADDRSTRLEN];
	size_t len = strlen(name);
	if (len > 2 && name[0] == '[' && name[len - 1] == ']') {
		name++;
		len -= 2;
	}
	if (len >= sizeof(bare))
		return 0;
	memcpy(bare, name, len);
	bare[len] = '\0';
	if (inet_pton(AF_INET, bare, ret_bytes) == 1)
		return 4;
	return inet_pton(AF_INET6, bare, ret_bytes) == 1 ? 16 : 0;
}

/* RFC 6066, 3: without the final dot. */
static char *copy_name(const char *name)
{
	size_t len = strlen(name);
	if (len > 0 && name[len - 1] == '.')
		len--;
	return strndup(name, len);
}

static enum err name_target(struct tls_conn *conn, bool wants_verify)
{
	unsigned char ip[16];
	size_t ip_len = parse_ip(conn->name, ip);
	conn->is_name_ip = ip_len > 0;
	if (conn->name[0] == '\0')
		return wants_verify ? ERR_INVALID : ERR_OK;
	if (conn->is_name_ip) {
		bool is_set = X509_VERIFY_PARAM_set1_ip(SSL_get0_param(conn->ssl), ip, ip_len) == 1;
		return is_set ? ERR_OK : ERR_NOMEM;
	}
	if (strlen(conn->name) > TLSEXT_MAXLEN_host_name)
		return ERR_INVALID;
	/* RFC 9525, 6.3: the subject's CN is no name of a host, "a*.example" no wildcard. */
	SSL_set_hostflags(conn->ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS |
					     X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
	if (SSL_set1_host(conn->ssl, conn->name) != 1 ||
	    SSL_set_tlsext_host_name(conn->ssl, conn->name) != 1)
		return ERR_NOMEM;
	return ERR_OK;
}

static enum err offer_alpn(struct tls_conn *conn, const char *alpn)
{
	unsigned char list[1 + ALPN_MAX];
	size_t len = strlen(alpn);
	SP_ASSERT(len > 0 && len <= ALPN_MAX);
	list[0] = (unsigned char)len;
	memcpy(list + 1, alpn, len);
	/* 0 is success here. */
	return SSL_set_alpn_protos(conn->ssl, list, (unsigned)len + 1) == 0 ? ERR_OK : ERR_NOMEM;
}

/* ---- sessions ---- */

/* A resumed session is not verified again, so it must never be one of another trust or name. */
static uint64_t key_session(const struct tls_client *client, const char *name)
{
	char both[sizeof(client->identity) + TLSEXT_MAXLEN_host_name + 2];
	uint8_t hash[32];
	uint64_t key;
	size_t len = text_format(both, sizeof(both), "%s %s", client->identity, name);
	tls_sha256(both, len, hash);
	memcpy(&key, hash, sizeof(key));
	return key;
}

void tls_session_fini(struct tls_session_slot *slot)
{
	SSL_SESSION_free(slot->session);
	slot->session = NULL;
}

void tls_conn_drop_session(struct tls_conn *conn)
{
	if (conn->session != NULL)
		tls_session_fini(conn->session);
}

int tls_conn_note_session(SSL *ssl, SSL_SESSION *session)
{
	struct tls_conn *conn = tls_conn_of(ssl);
	if (conn->session == NULL || SSL_SESSION_is_resumable(session) != 1)
		return 0;
	tls_session_fini(conn->session);
	conn->session->session = session;
	conn->session->key = conn->session_key;
	return 1; /* the reference is ours now */
}

static enum err offer_session(struct tls_conn *conn)
{
	struct tls_session_slot *slot = conn->session;
	if (slot->session == NULL)
		return ERR_OK;
	if (slot->key != conn->session_key || SSL_SESSION_is_resumable(slot->session) != 1) {
		tls_session_fini(slot);
		return ERR_OK;
	}
	return SSL_set_session(conn->ssl, slot->session) == 1 ? ERR_OK : ERR_TLS;
}

/* ---- the connection ---- */

static enum err set_up(struct tls_conn *conn, const struct tls_connect *connect)
{
	const struct tls_client *client = connect->client;
	conn->is_client = true;
	conn->name = copy_name(connect->server_name == NULL ? "" : connect->server_name);
	if (conn->name == NULL)
		return ERR_NOMEM;
	enum err e = name_target(conn, client->wants_verify);
	if (e == ERR_OK && connect->alpn != NULL)
		e = offer_alpn(conn, connect->alpn);
	if (e == ERR_OK && connect->session != NULL) {
		conn->session = connect->session;
		conn->session_key = key_session(client, conn->name);
		e = offer_session(conn);
	}
	SSL_set_connect_state(conn->ssl);
	return e;
}

enum err tls_conn_connect(const struct tls_connect *connect, struct tls_conn **ret_conn)
{
	struct tls_conn *conn = NULL;
	SP_ASSERT(connect->ctx_ix < connect->client->ctx_cnt);
	ERR_clear_error();
	enum err e = tls_conn_open(connect->client->ctxs[connect->ctx_ix], connect->fd, &conn);
	if (e == ERR_OK)
		e = set_up(conn, connect);
	ERR_clear_error();
	if (e != ERR_OK) {
		tls_conn_free(conn);
		return e;
	}
	*ret_conn = conn;
	return ERR_OK;
}

bool tls_conn_explain_verify(struct tls_conn *conn, char *dst)
{
	long result = SSL_get_verify_result(conn->ssl);
	if (!conn->is_client || result == X509_V_OK ||
	    ERR_GET_REASON(ERR_peek_last_error()) != SSL_R_CERTIFICATE_VERIFY_FAILED)
		return false;
	conn->has_verify_failed = true;
	if (result == X509_V_ERR_HOSTNAME_MISMATCH || result == X509_V_ERR_IP_ADDRESS_MISMATCH)
		text_format(dst, TLS_WHY_BYTES, "hostname mismatch: asked for %s", conn->name);
	else
		text_format(dst, TLS_WHY_BYTES, "certificate verify failed: %s",
			    X509_verify_cert_error_string(result));
	ERR_clear_error();
	return true;
}

bool tls_conn_has_verify_failed(const struct tls_conn *conn)
{
	return conn->has_verify_failed;
}
