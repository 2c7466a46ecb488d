#pragma once
/* Tests of the tls room: a connection to a target, both ends in one thread. */
#include "tls_pair.h"

struct line {
	struct tls_worker *worker;
	struct tls_cert *cert;
	SSL_CTX *raw_ctx; /* not NULL: the target is a plain OpenSSL */
	SSL *raw;
	struct tls_conn *target;
	struct tls_conn *conn;
	int target_fd, fd;
	enum step step, target_step;
};

static inline SSL_CTX *make_raw(const struct made *leaf, int max_version)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	SSL_CTX_set_max_proto_version(ctx, max_version);
	SSL_CTX_set_session_id_context(ctx, (const uint8_t *)"t", 1);
	ck_assert_int_eq(SSL_CTX_use_cert_and_key(ctx, leaf->x509, leaf->pkey, NULL, 1), 1);
	return ctx;
}

static inline void line_open(struct line *l, const struct tls_connect *connect)
{
	int fds[2];
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	l->target_fd = fds[0];
	l->fd = fds[1];
	struct tls_connect with_fd = *connect;
	with_fd.fd = l->fd;
	ck_assert_int_eq(tls_conn_connect(&with_fd, &l->conn), ERR_OK);
	if (l->raw_ctx != NULL) {
		l->raw = SSL_new(l->raw_ctx);
		SSL_set_fd(l->raw, l->target_fd);
		SSL_set_accept_state(l->raw);
		return;
	}
	if (l->worker == NULL)
		ck_assert_int_eq(tls_worker_new(&defaults, &l->worker), ERR_OK);
	ck_assert_int_eq(tls_conn_new(l->worker, l->target_fd, l->cert, 1, &l->target), ERR_OK);
}

static inline void line_close(struct line *l)
{
	tls_conn_free(l->conn);
	tls_conn_free(l->target);
	if (l->raw != NULL)
		SSL_set_shutdown(l->raw, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(l->raw);
	close(l->fd);
	close(l->target_fd);
	l->conn = l->target = NULL;
	l->raw = NULL;
}

static inline void line_fini(struct line *l)
{
	line_close(l);
	tls_cert_put(l->cert);
	tls_worker_free(l->worker);
	SSL_CTX_free(l->raw_ctx);
}

static inline enum step step_target(struct line *l)
{
	if (l->raw == NULL)
		return tls_conn_handshake(l->target);
	ERR_clear_error();
	int rc = SSL_do_handshake(l->raw);
	int error = SSL_get_error(l->raw, rc);
	ERR_clear_error();
	if (rc == 1)
		return STEP_DONE;
	return error == SSL_ERROR_WANT_READ ? STEP_READ : STEP_FAIL;
}

static inline void line_handshake(struct line *l)
{
	l->step = l->target_step = STEP_READ;
	for (int i = 0; i < PUMP_MAX && (step_waits(l->step) || step_waits(l->target_step)); i++) {
		if (step_waits(l->step))
			l->step = tls_conn_handshake(l->conn);
		if (step_waits(l->target_step))
			l->target_step = step_target(l);
		if (l->step != STEP_DONE && !step_waits(l->step))
			shutdown(l->fd, SHUT_WR);
		if (l->target_step == STEP_FAIL)
			shutdown(l->target_fd, SHUT_WR);
	}
}

/* There and back; tickets come with the answer. */
static inline void line_echo(struct line *l)
{
	char got[16];
	size_t len = 0;
	ck_assert_int_eq(tls_conn_write(l->conn, "hello", 5, &len), STEP_DONE);
	ck_assert_uint_eq(len, 5);
	if (l->raw != NULL) {
		ck_assert_int_eq(SSL_read(l->raw, got, sizeof(got)), 5);
		ck_assert_int_eq(SSL_write(l->raw, "world!", 6), 6);
	} else {
		ck_assert_int_eq(tls_conn_read(l->target, got, sizeof(got), &len), STEP_DONE);
		ck_assert_int_eq(tls_conn_write(l->target, "world!", 6, &len), STEP_DONE);
	}
	ck_assert_mem_eq(got, "hello", 5);
	ck_assert_int_eq(tls_conn_read(l->conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert_uint_eq(len, 6);
	ck_assert_mem_eq(got, "world!", 6);
	ck_assert_int_eq(tls_conn_read(l->conn, got, sizeof(got), &len), STEP_READ);
	ck_assert(!tls_conn_has_pending(l->conn));
}

static inline bool line_is_resumed(const struct line *l)
{
	struct tls_conn_info info;
	tls_conn_info(l->conn, &info);
	return info.is_resumed;
}
