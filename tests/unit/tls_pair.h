#pragma once
/* Tests of the tls room: certificates of the test's own, and a client with a connection on a socket
 * pair. */
#include <arpa/inet.h>
#include <check.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smartproxy/rcu.h"
#include "smartproxy/text.h"
#include "smartproxy/tls.h"

#define PUMP_MAX 10000

/* ---- certificates of the test's own ---- */

struct made {
	EVP_PKEY *pkey;
	X509 *x509;
};

static inline X509_NAME *name_of(const char *cn, const char *org)
{
	X509_NAME *name = X509_NAME_new();
	X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, (const uint8_t *)cn, -1, -1, 0);
	if (org != NULL)
		X509_NAME_add_entry_by_txt(name, "O", MBSTRING_UTF8, (const uint8_t *)org, -1, -1,
					   0);
	return name;
}

/* Takes pkey. issuer NULL: self-signed. days: validity, from one day ago. */
static inline struct made make_cert(EVP_PKEY *pkey, const char *cn, const char *san,
				    const struct made *issuer, int days)
{
	struct made made = { pkey, X509_new() };
	X509_NAME *name = name_of(cn, issuer == NULL ? "Test Org" : NULL);
	X509_set_version(made.x509, X509_VERSION_3);
	ASN1_INTEGER_set(X509_get_serialNumber(made.x509), 0xabcd);
	X509_set_subject_name(made.x509, name);
	X509_set_issuer_name(made.x509,
			     issuer == NULL ? name : X509_get_subject_name(issuer->x509));
	X509_gmtime_adj(X509_getm_notBefore(made.x509), -86400);
	X509_gmtime_adj(X509_getm_notAfter(made.x509), (long)days * 86400);
	X509_set_pubkey(made.x509, pkey);
	if (san != NULL) {
		X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, san);
		ck_assert_ptr_nonnull(ext);
		X509_add_ext(made.x509, ext, -1);
		X509_EXTENSION_free(ext);
	}
	EVP_PKEY *signer = issuer == NULL ? pkey : issuer->pkey;
	ck_assert_int_gt(X509_sign(made.x509, signer,
				   EVP_PKEY_is_a(signer, "ED25519") ? NULL : EVP_sha256()),
			 0);
	X509_NAME_free(name);
	return made;
}

static inline void made_fini(struct made *made)
{
	X509_free(made->x509);
	EVP_PKEY_free(made->pkey);
}

static inline void add_pem(struct text *dst, const struct made *made, bool wants_key)
{
	BIO *bio = BIO_new(BIO_s_mem());
	char *data = NULL;
	if (wants_key)
		PEM_write_bio_PrivateKey(bio, made->pkey, NULL, NULL, 0, NULL, NULL);
	else
		PEM_write_bio_X509(bio, made->x509);
	long len = BIO_get_mem_data(bio, &data);
	text_add(dst, data, (size_t)len);
	BIO_free(bio);
}

static inline enum err parse(const struct text *chain, const struct text *key,
			     struct tls_cert **ret_cert, struct text *why)
{
	return tls_cert_from_pem(chain->data == NULL ? "" : chain->data, chain->len,
				 key->data == NULL ? "" : key->data, key->len, ret_cert, why);
}

static inline struct tls_cert *load(const struct made *chain, size_t cnt)
{
	struct text pem = { 0 }, key = { 0 };
	struct tls_cert *cert = NULL;
	for (size_t i = 0; i < cnt; i++)
		add_pem(&pem, &chain[i], false);
	add_pem(&key, &chain[0], true);
	ck_assert_int_eq(parse(&pem, &key, &cert, NULL), ERR_OK);
	text_fini(&pem);
	text_fini(&key);
	return cert;
}

static inline struct tls_cert *load_plain(const char *type)
{
	EVP_PKEY *pkey = strcmp(type, "RSA") == 0       ? EVP_RSA_gen(2048)
			 : strcmp(type, "ED25519") == 0 ? EVP_PKEY_Q_keygen(NULL, NULL, "ED25519")
							: EVP_EC_gen(type);
	struct made made = make_cert(pkey, "a.example", "DNS:a.example", NULL, 30);
	struct tls_cert *cert = load(&made, 1);
	made_fini(&made);
	return cert;
}

/* ---- a client and a connection on a socket pair ---- */

struct pair {
	struct tls_worker *worker;
	struct tls_cert *cert;
	SSL_CTX *ctx;
	SSL *client;
	struct tls_conn *conn;
	int fd, client_fd;
	bool is_tcp;
	enum step step; /* of the handshake */
	int client_rc;
	unsigned long client_code; /* first error of the client */
};

static const struct tls_settings defaults = { TLS_VERSION_1_2, NULL };

static inline void start(void)
{
	sp_role_assume_control();
	rcu_register_thread();
	ck_assert_int_eq(tls_init(), ERR_OK);
}

static inline void finish(void)
{
	tls_fini();
	rcu_unregister_thread();
}

static inline void pair_sockets(struct pair *p)
{
	int fds[2];
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds),
			 0);
	p->fd = fds[0];
	p->client_fd = fds[1];
}

/* The same over TCP. */
static inline void pair_sockets_tcp(struct pair *p)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
				    .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&addr, len), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&addr, &len), 0);
	p->client_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ck_assert_int_eq(connect(p->client_fd, (struct sockaddr *)&addr, len), 0);
	p->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	ck_assert_int_ge(p->fd, 0);
	ck_assert_int_eq(fcntl(p->client_fd, F_SETFL, O_NONBLOCK), 0);
	close(listener);
}

/* Makes what is still missing. The client is on its socket; version: the highest that it offers. */
static inline void pair_open(struct pair *p, const struct tls_settings *settings, int version,
			     uint64_t slot_hash)
{
	if (p->is_tcp)
		pair_sockets_tcp(p);
	else
		pair_sockets(p);
	if (p->worker == NULL)
		ck_assert_int_eq(tls_worker_new(settings, &p->worker), ERR_OK);
	if (p->cert == NULL)
		p->cert = load_plain("P-256");
	if (p->ctx == NULL)
		p->ctx = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_max_proto_version(p->ctx, version);
	p->client = SSL_new(p->ctx);
	SSL_set_fd(p->client, p->client_fd);
	SSL_set_connect_state(p->client);
	ck_assert_int_eq(tls_conn_new(p->worker, p->fd, p->cert, slot_hash, &p->conn), ERR_OK);
}

/* Ends the connection, keeps worker, certificate and client context. */
static inline void pair_close(struct pair *p)
{
	/* An unclean end would make the client's session unfit for resumption. */
	SSL_set_shutdown(p->client, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
	SSL_free(p->client);
	tls_conn_free(p->conn);
	close(p->fd);
	close(p->client_fd);
	p->client = NULL;
	p->conn = NULL;
}

static inline void pair_fini(struct pair *p)
{
	pair_close(p);
	SSL_CTX_free(p->ctx);
	tls_cert_put(p->cert);
	tls_worker_free(p->worker);
}

static inline bool step_waits(enum step step)
{
	return step == STEP_READ || step == STEP_WRITE;
}

static inline bool client_waits(const struct pair *p)
{
	int error = SSL_get_error(p->client, p->client_rc);
	return p->client_rc != 1 && (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE);
}

static inline void pair_handshake(struct pair *p)
{
	p->step = STEP_READ;
	p->client_rc = 0;
	bool client_is_done = false;
	for (int i = 0; i < PUMP_MAX && (step_waits(p->step) || !client_is_done); i++) {
		if (!client_is_done) {
			ERR_clear_error();
			p->client_rc = SSL_do_handshake(p->client);
			client_is_done = !client_waits(p);
			if (client_is_done)
				p->client_code = ERR_peek_error();
		}
		if (step_waits(p->step))
			p->step = tls_conn_handshake(p->conn);
		if (p->step == STEP_FAIL)
			shutdown(p->fd, SHUT_WR);
		if (client_is_done && p->client_rc != 1)
			shutdown(p->client_fd, SHUT_WR);
	}
	ERR_clear_error();
}

/* Server to client and back; the client has read its tickets then. */
static inline void pair_echo(struct pair *p)
{
	char got[16];
	size_t len = 0;
	ck_assert_int_eq(tls_conn_write(p->conn, "hello", 5, &len), STEP_DONE);
	ck_assert_uint_eq(len, 5);
	ck_assert_int_eq(SSL_read(p->client, got, sizeof(got)), 5);
	ck_assert_mem_eq(got, "hello", 5);
	ck_assert_int_eq(SSL_write(p->client, "world!", 6), 6);
	ck_assert_int_eq(tls_conn_read(p->conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert_uint_eq(len, 6);
	ck_assert_mem_eq(got, "world!", 6);
	ck_assert_int_eq(tls_conn_read(p->conn, got, sizeof(got), &len), STEP_READ);
	ck_assert(!tls_conn_has_pending(p->conn));
}

static inline uint8_t pattern(size_t i)
{
	return (uint8_t)(i * 31 + (i >> 8));
}

/* Takes what the client can read; returns the count of bytes so far. */
static inline size_t drain_client(SSL *client, size_t done)
{
	uint8_t got[4096];
	size_t n = 0;
	while (SSL_read_ex(client, got, sizeof(got), &n) == 1) {
		for (size_t i = 0; i < n; i++)
			ck_assert_uint_eq(got[i], pattern(done + i));
		done += n;
	}
	return done;
}
