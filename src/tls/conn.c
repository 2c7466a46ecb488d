#include "conn.h"

#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "cert.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "wire/tls.h"
#include "worker.h"

static BIO_METHOD *method;

/* ---- the BIO: fed bytes first, then the socket ---- */

static int take_fed(struct tls_conn *conn, char *dst, int cap)
{
	size_t len = conn->fed_len - conn->fed_at;
	if (len > (size_t)cap)
		len = (size_t)cap;
	memcpy(dst, conn->fed + conn->fed_at, len);
	conn->fed_at += len;
	if (conn->fed_at == conn->fed_len) {
		free(conn->fed);
		conn->fed = NULL;
		conn->fed_len = conn->fed_at = 0;
	}
	return (int)len;
}

static void note_errno(struct tls_conn *conn, const char *call)
{
	conn->sys_errno = errno;
	conn->sys_call = call;
}

static int read_bio(BIO *bio, char *dst, int cap)
{
	struct tls_conn *conn = BIO_get_data(bio);
	BIO_clear_retry_flags(bio);
	if (cap <= 0)
		return 0;
	conn->is_dry = false;
	if (conn->fed != NULL)
		return take_fed(conn, dst, cap);
	if (conn->is_all_fed) {
		conn->is_dry = true;
		BIO_set_retry_read(bio);
		return -1;
	}
	ssize_t n;
	do
		n = recv(conn->fd, dst, (size_t)cap, 0);
	while (n < 0 && errno == EINTR);
	conn->has_read_short = n > 0 && n < cap;
	if (n > 0)
		return (int)n;
	conn->is_dry = true;
	if (n == 0) {
		conn->is_tcp_eof = true;
		return 0;
	}
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		BIO_set_retry_read(bio);
	else
		note_errno(conn, "recv");
	return -1;
}

/* A segment less: what the kernel holds back goes with what follows, or after 200 ms. A ticket waits for
 * the first answer if the request has come with the handshake's end; else the client may wait for the
 * ACK that the ticket brings, before it sends the request (Nagle). */
static int choose_flags(const struct tls_conn *conn)
{
	bool is_answer_next = SSL_get_state(conn->ssl) == TLS_ST_SW_SESSION_TICKET &&
			      SSL_has_pending(conn->ssl) == 1;
	return conn->is_ending || is_answer_next ? MSG_NOSIGNAL | MSG_MORE : MSG_NOSIGNAL;
}

static int write_bio(BIO *bio, const char *src, int len)
{
	struct tls_conn *conn = BIO_get_data(bio);
	int flags = choose_flags(conn);
	BIO_clear_retry_flags(bio);
	ssize_t n;
	do
		n = send(conn->fd, src, (size_t)len, flags);
	while (n < 0 && errno == EINTR);
	if (n >= 0)
		return (int)n;
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		BIO_set_retry_write(bio);
	else
		note_errno(conn, "send");
	return -1;
}

/* End of file is not told here: OpenSSL would make it a fatal error, after which the answer to a
 * client that has shut down its sending side could not be written any more. */
static long control_bio(BIO *bio, int cmd, long num, void *ptr)
{
	(void)bio, (void)num, (void)ptr;
	return cmd == BIO_CTRL_FLUSH ? 1 : 0;
}

enum err tls_conn_init(void)
{
	int type = BIO_get_new_index();
	if (type == -1)
		return ERR_TLS;
	method = BIO_meth_new(type | BIO_TYPE_SOURCE_SINK, "smartproxy connection");
	if (method == NULL)
		return ERR_NOMEM;
	BIO_meth_set_read(method, read_bio);
	BIO_meth_set_write(method, write_bio);
	BIO_meth_set_ctrl(method, control_bio);
	return ERR_OK;
}

void tls_conn_fini(void)
{
	BIO_meth_free(method);
	method = NULL;
}

/* ---- life ---- */

enum err tls_conn_open(SSL_CTX *ctx, int fd, struct tls_conn **ret_conn)
{
	SP_ASSERT(method != NULL);
	struct tls_conn *conn = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*conn));
	if (conn == NULL)
		return ERR_NOMEM;
	conn->fd = fd;
	conn->error = "";
	conn->ssl = SSL_new(ctx);
	BIO *bio = conn->ssl == NULL ? NULL : BIO_new(method);
	if (bio == NULL) {
		tls_conn_free(conn);
		return ERR_NOMEM;
	}
	BIO_set_data(bio, conn);
	BIO_set_init(bio, 1);
	SSL_set_bio(conn->ssl, bio, bio);
	*ret_conn = conn;
	return ERR_OK;
}

struct tls_conn *tls_conn_of(const SSL *ssl)
{
	return BIO_get_data(SSL_get_rbio(ssl));
}

static enum err set_up_server(struct tls_conn *conn, struct tls_cert *cert, uint64_t slot_hash)
{
	tls_cert_get(cert);
	conn->cert = cert;
	/* Counts up what the certificate holds; nothing is parsed or copied. */
	if (SSL_use_cert_and_key(conn->ssl, cert->leaf, cert->pkey, cert->chain, 1) != 1 ||
	    SSL_set_session_id_context(conn->ssl, (const unsigned char *)&slot_hash,
				       sizeof(slot_hash)) != 1)
		return ERR_TLS;
	SSL_set_accept_state(conn->ssl);
	return ERR_OK;
}

enum err tls_conn_new(struct tls_worker *worker, int fd, struct tls_cert *cert, uint64_t slot_hash,
		      struct tls_conn **ret_conn)
{
	struct tls_conn *conn = NULL;
	ERR_clear_error();
	enum err e = tls_conn_open(worker->ctx, fd, &conn);
	if (e == ERR_OK)
		e = set_up_server(conn, cert, slot_hash);
	ERR_clear_error();
	if (e != ERR_OK) {
		tls_conn_free(conn);
		return e;
	}
	*ret_conn = conn;
	return ERR_OK;
}

void tls_conn_free(struct tls_conn *conn)
{
	if (conn == NULL)
		return;
	/* Since TLS 1.1 a missing close_notify does not spoil the session (RFC 5246, 7.2.1); OpenSSL
	 * would still drop it. A fatal alert does, and has by now. */
	if (conn->is_client && conn->ssl != NULL && !conn->has_failed)
		SSL_set_shutdown(conn->ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(conn->ssl);
	tls_cert_put(conn->cert);
	free(conn->name);
	free(conn->fed);
	free(conn->error_text);
	free(conn);
}

/* The server_name extension (RFC 6066, 3) of a list with one host name; of any other OpenSSL thinks
 * for itself. */
static size_t find_sni(const unsigned char *ext, size_t len, const char **ret_name)
{
	if (len < 6 || ext[2] != TLSEXT_NAMETYPE_host_name)
		return 0;
	size_t name_len = (size_t)ext[3] << 8 | ext[4];
	if (name_len != len - 5 || name_len > TLSEXT_MAXLEN_host_name)
		return 0;
	for (size_t i = 0; i < name_len; i++) {
		if (ext[5 + i] <= ' ' || ext[5 + i] > '~')
			return 0;
	}
	*ret_name = (const char *)ext + 5;
	return name_len;
}

/* OpenSSL forgets the name where a TLS 1.2 session is resumed, so it is kept here. */
int tls_conn_note_hello(SSL *ssl, int *alert, void *arg)
{
	struct tls_conn *conn = tls_conn_of(ssl);
	const unsigned char *ext = NULL;
	const char *name = NULL;
	size_t len = 0;
	(void)alert, (void)arg;
	if (conn->name == NULL &&
	    SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &ext, &len) == 1)
		len = find_sni(ext, len, &name);
	if (name != NULL)
		conn->name = strndup(name, len);
	return SSL_CLIENT_HELLO_SUCCESS;
}

const char *tls_conn_sni(const struct tls_conn *conn)
{
	return conn->name == NULL || conn->is_name_ip ? "" : conn->name;
}

enum err tls_conn_feed(struct tls_conn *conn, const void *data, size_t len, bool is_all)
{
	conn->is_all_fed = is_all;
	if (len == 0)
		return ERR_OK;
	size_t held = conn->fed_len - conn->fed_at;
	if (len > WIRE_HELLO_MAX - held)
		return ERR_LIMIT;
	uint8_t *fed = fault_hits(FAULT_MALLOC) ? NULL : malloc(held + len);
	if (fed == NULL)
		return ERR_NOMEM;
	if (held > 0)
		memcpy(fed, conn->fed + conn->fed_at, held);
	memcpy(fed + held, data, len);
	free(conn->fed);
	conn->fed = fed;
	conn->fed_len = held + len;
	conn->fed_at = 0;
	conn->is_dry = false;
	return ERR_OK;
}

/* ---- steps ---- */

static enum step fail(struct tls_conn *conn, const char *why)
{
	conn->has_failed = true;
	conn->error = why;
	return STEP_FAIL;
}

/* Few connections fail: none holds room for words before it does. */
static enum step fail_with(struct tls_conn *conn, const char *why)
{
	free(conn->error_text);
	conn->error_text = strdup(why);
	return fail(conn, conn->error_text == NULL ? "out of memory" : conn->error_text);
}

static enum step fail_in_ssl(struct tls_conn *conn)
{
	char why[TLS_WHY_BYTES];
	if (!tls_conn_explain_verify(conn, why))
		tls_error_take(why, sizeof(why));
	return fail_with(conn, why);
}

/* The socket ended or broke under OpenSSL. */
static enum step end_of_socket(struct tls_conn *conn, bool is_reading)
{
	ERR_clear_error();
	if (is_reading && conn->is_tcp_eof) {
		conn->error = conn->is_client ? "the target closed TCP without close_notify"
					      : "the client closed TCP without close_notify";
		return STEP_EOF;
	}
	char text[96], why[TLS_WHY_BYTES];
	text_format(why, sizeof(why), "%s: %s",
		    conn->sys_call == NULL ? "connection" : conn->sys_call,
		    strerror_r(conn->sys_errno, text, sizeof(text)));
	return fail_with(conn, why);
}

/* The step that a call's result rc (1: success) stands for. is_reading: the call was one that
 * reads. */
static enum step judge(struct tls_conn *conn, int rc, bool is_reading)
{
	if (SP_LIKELY(rc == 1))
		return STEP_DONE;
	switch (SSL_get_error(conn->ssl, rc)) {
	case SSL_ERROR_WANT_READ:
		return STEP_READ;
	case SSL_ERROR_WANT_WRITE:
		return STEP_WRITE;
	case SSL_ERROR_ZERO_RETURN:
		conn->error = conn->is_client ? "the target sent close_notify"
					      : "the client sent close_notify";
		return is_reading ? STEP_EOF : fail(conn, conn->error);
	case SSL_ERROR_SYSCALL:
		return end_of_socket(conn, is_reading);
	default:
		return fail_in_ssl(conn);
	}
}

enum step tls_conn_handshake(struct tls_conn *conn)
{
	if (conn->has_failed)
		return STEP_FAIL;
	ERR_clear_error();
	conn->has_read_short = false;
	enum step step = judge(conn, SSL_do_handshake(conn->ssl), true);
	conn->is_all_fed = false;
	if (step == STEP_FAIL || step == STEP_EOF)
		tls_conn_drop_session(conn);
	if (step == STEP_FAIL && !conn->has_verify_failed &&
	    (conn->sys_errno == ECONNRESET || conn->sys_errno == EPIPE))
		return STEP_EOF;
	return step;
}

enum step tls_conn_read(struct tls_conn *conn, void *dst, size_t cap, size_t *ret_len)
{
	if (conn->has_failed)
		return STEP_FAIL;
	ERR_clear_error();
	conn->has_read_short = false;
	return judge(conn, SSL_read_ex(conn->ssl, dst, cap, ret_len), true);
}

enum step tls_conn_write(struct tls_conn *conn, const void *src, size_t len, size_t *ret_len)
{
	SP_ASSERT(len > 0);
	if (conn->has_failed)
		return STEP_FAIL;
	ERR_clear_error();
	return judge(conn, SSL_write_ex(conn->ssl, src, len, ret_len), false);
}

void tls_conn_expect_end(struct tls_conn *conn)
{
	conn->is_ending = true;
}

bool tls_conn_has_pending(const struct tls_conn *conn)
{
	if (conn->has_failed)
		return false;
	if (SSL_pending(conn->ssl) > 0)
		return true;
	return !conn->is_dry && (conn->fed != NULL || SSL_has_pending(conn->ssl) == 1);
}

bool tls_conn_is_drained(const struct tls_conn *conn)
{
	return conn->has_read_short && conn->fed == NULL && SSL_has_pending(conn->ssl) == 0;
}

enum step tls_conn_close_notify(struct tls_conn *conn)
{
	if (conn->has_failed || conn->is_notify_sent || !SSL_is_init_finished(conn->ssl))
		return STEP_DONE;
	ERR_clear_error();
	conn->is_ending = true;
	int rc = SSL_shutdown(conn->ssl);
	/* 0: sent, the client's has not come, which nobody waits for. */
	enum step step = rc >= 0 ? STEP_DONE : judge(conn, rc, false);
	conn->is_notify_sent = step == STEP_DONE;
	return step;
}

bool tls_conn_is_cut(const struct tls_conn *conn)
{
	return conn->is_tcp_eof && (SSL_get_shutdown(conn->ssl) & SSL_RECEIVED_SHUTDOWN) == 0;
}

void tls_conn_forgo_notify(struct tls_conn *conn)
{
	conn->is_notify_sent = true;
}

void tls_conn_info(const struct tls_conn *conn, struct tls_conn_info *ret_info)
{
	const unsigned char *alpn = NULL;
	unsigned alpn_len = 0;
	ret_info->version = SSL_get_version(conn->ssl);
	ret_info->cipher = SSL_get_cipher_name(conn->ssl);
	ret_info->is_resumed = SSL_session_reused(conn->ssl) == 1;
	SSL_get0_alpn_selected(conn->ssl, &alpn, &alpn_len);
	text_escape(ret_info->alpn, sizeof(ret_info->alpn), (const char *)alpn, alpn_len);
}

const char *tls_conn_error(const struct tls_conn *conn)
{
	return conn->error;
}
