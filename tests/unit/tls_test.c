#include <stdlib.h>

#include "smartproxy/assert.h"
#include "tls_pair.h"

/* ---- handshakes ---- */

static const struct {
	int version;
	const char *key_type;
	const char *want;
} handshakes[] = {
	{ TLS1_2_VERSION, "P-256", "TLSv1.2" },   { TLS1_3_VERSION, "P-256", "TLSv1.3" },
	{ TLS1_2_VERSION, "P-384", "TLSv1.2" },   { TLS1_3_VERSION, "P-384", "TLSv1.3" },
	{ TLS1_2_VERSION, "RSA", "TLSv1.2" },     { TLS1_3_VERSION, "RSA", "TLSv1.3" },
	{ TLS1_2_VERSION, "ED25519", "TLSv1.2" }, { TLS1_3_VERSION, "ED25519", "TLSv1.3" },
};

START_TEST(handshake_and_data)
{
	start();
	struct pair p = { .cert = load_plain(handshakes[_i].key_type) };
	struct tls_conn_info info;
	char got[8];
	size_t len = 0;
	pair_open(&p, &defaults, handshakes[_i].version, 1);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_DONE);
	ck_assert_int_eq(p.client_rc, 1);
	pair_echo(&p);
	tls_conn_info(p.conn, &info);
	ck_assert_str_eq(info.version, handshakes[_i].want);
	ck_assert_str_eq(info.cipher, SSL_get_cipher_name(p.client));
	ck_assert_str_eq(info.alpn, "");
	ck_assert(!info.is_resumed);
	ck_assert_int_eq(tls_conn_close_notify(p.conn), STEP_DONE);
	ck_assert_int_eq(tls_conn_close_notify(p.conn), STEP_DONE);
	ck_assert_int_eq(SSL_get_error(p.client, SSL_read(p.client, got, sizeof(got))),
			 SSL_ERROR_ZERO_RETURN);
	SSL_shutdown(p.client);
	ck_assert_int_eq(tls_conn_read(p.conn, got, sizeof(got), &len), STEP_EOF);
	pair_fini(&p);
	finish();
}
END_TEST

START_TEST(whole_chain_is_sent)
{
	start();
	struct made root = make_cert(EVP_EC_gen("P-256"), "Root", NULL, NULL, 30);
	struct made sub = make_cert(EVP_EC_gen("P-256"), "Sub", NULL, &root, 30);
	struct made leaf = make_cert(EVP_EC_gen("P-256"), "leaf", "DNS:a.example", &sub, 30);
	const struct made chain[] = { leaf, sub };
	struct pair p = { .cert = load(chain, 2) };
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_DONE);
	STACK_OF(X509) *got = SSL_get_peer_cert_chain(p.client);
	ck_assert_int_eq(sk_X509_num(got), 2);
	ck_assert_int_eq(X509_cmp(sk_X509_value(got, 0), leaf.x509), 0);
	ck_assert_int_eq(X509_cmp(sk_X509_value(got, 1), sub.x509), 0);
	ck_assert_str_eq(tls_cert_info(p.cert)->issuer, "Sub");
	pair_fini(&p);
	made_fini(&leaf);
	made_fini(&sub);
	made_fini(&root);
	finish();
}
END_TEST

START_TEST(version_below_minimum_is_refused)
{
	start();
	static const struct tls_settings only_1_3 = { TLS_VERSION_1_3, NULL };
	struct pair p = { 0 };
	size_t len = 0;
	pair_open(&p, &only_1_3, TLS1_2_VERSION, 1);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_FAIL);
	ck_assert_str_eq(tls_conn_error(p.conn), "unsupported protocol");
	ck_assert_int_eq(ERR_GET_REASON(p.client_code), SSL_R_TLSV1_ALERT_PROTOCOL_VERSION);
	/* A failed connection stays failed, quietly. */
	ck_assert_int_eq(tls_conn_handshake(p.conn), STEP_FAIL);
	ck_assert_int_eq(tls_conn_read(p.conn, &len, 1, &len), STEP_FAIL);
	ck_assert_int_eq(tls_conn_write(p.conn, "x", 1, &len), STEP_FAIL);
	ck_assert_int_eq(tls_conn_close_notify(p.conn), STEP_DONE);
	ck_assert(!tls_conn_has_pending(p.conn));
	pair_fini(&p);
	finish();
}
END_TEST

START_TEST(ciphers_of_the_settings)
{
	start();
	static const struct tls_settings bad = { TLS_VERSION_1_2, "NO-SUCH-CIPHER" };
	static const struct tls_settings one = { TLS_VERSION_1_2, "ECDHE-ECDSA-AES256-GCM-SHA384" };
	struct tls_worker *worker = NULL;
	struct tls_conn_info info;
	struct pair p = { 0 };
	ck_assert_int_eq(tls_worker_new(&bad, &worker), ERR_INVALID);
	ck_assert_ptr_null(worker);
	pair_open(&p, &one, TLS1_2_VERSION, 1);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_DONE);
	tls_conn_info(p.conn, &info);
	ck_assert_str_eq(info.cipher, "ECDHE-ECDSA-AES256-GCM-SHA384");
	pair_fini(&p);
	finish();
}
END_TEST

static const char *const weak_ciphers[] = { "AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA256",
					    "DHE-RSA-AES128-GCM-SHA256" };

START_TEST(weak_cipher_is_refused)
{
	start();
	struct pair p = { .ctx = SSL_CTX_new(TLS_client_method()) };
	ck_assert_int_eq(SSL_CTX_set_cipher_list(p.ctx, weak_ciphers[_i]), 1);
	pair_open(&p, &defaults, TLS1_2_VERSION, 1);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_FAIL);
	ck_assert_str_eq(tls_conn_error(p.conn), "no shared cipher");
	pair_fini(&p);
	finish();
}
END_TEST

static const struct {
	const char *offer; /* as on the wire */
	unsigned offer_len;
	const char *want; /* NULL: refused */
} alpns[] = {
	{ NULL, 0, "" },
	{ "\x08http/1.1", 9, "http/1.1" },
	{ "\x02h2\x08http/1.1", 12, "http/1.1" },
	{ "\x08http/1.0\x08http/1.1", 18, "http/1.1" },
	{ "\x08http/1.0", 9, "" },
	{ "\x02h2", 3, NULL },
	{ "\x0a\x61\x63me-tls/1", 11, NULL },
};

START_TEST(alpn)
{
	start();
	struct pair p = { 0 };
	struct tls_conn_info info;
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	if (alpns[_i].offer != NULL)
		SSL_set_alpn_protos(p.client, (const uint8_t *)alpns[_i].offer,
				    alpns[_i].offer_len);
	pair_handshake(&p);
	if (alpns[_i].want == NULL) {
		ck_assert_int_eq(p.step, STEP_FAIL);
		ck_assert_str_eq(tls_conn_error(p.conn), "no application protocol");
		/* RFC 7301, 3.2: alert 120 */
		ck_assert_int_eq(ERR_GET_REASON(p.client_code),
				 SSL_AD_REASON_OFFSET + SSL_AD_NO_APPLICATION_PROTOCOL);
	} else {
		ck_assert_int_eq(p.step, STEP_DONE);
		tls_conn_info(p.conn, &info);
		ck_assert_str_eq(info.alpn, alpns[_i].want);
	}
	pair_fini(&p);
	finish();
}
END_TEST

/* RFC 5246, 7.2.2: no_renegotiation is only a warning; the connection goes on or ends, but is not
 * renegotiated. */
START_TEST(renegotiation_is_refused)
{
	start();
	struct pair p = { 0 };
	char got[8];
	size_t len = 0;
	pair_open(&p, &defaults, TLS1_2_VERSION, 1);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_DONE);
	ck_assert_int_eq(SSL_renegotiate(p.client), 1);
	(void)SSL_do_handshake(p.client);
	ck_assert_int_eq(tls_conn_read(p.conn, got, sizeof(got), &len), STEP_READ);
	ERR_clear_error();
	ck_assert_int_ne(SSL_do_handshake(p.client), 1);
	ck_assert_int_eq(ERR_GET_REASON(ERR_peek_error()), SSL_R_NO_RENEGOTIATION);
	ERR_clear_error();
	pair_fini(&p);
	finish();
}
END_TEST

START_TEST(alert_of_the_client_is_told)
{
	start();
	struct pair p = { 0 };
	pair_open(&p, &defaults, TLS1_2_VERSION, 1);
	SSL_set_verify(p.client, SSL_VERIFY_PEER, NULL);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_FAIL);
	ck_assert_str_eq(tls_conn_error(p.conn), "tlsv1 alert unknown ca");
	pair_fini(&p);
	finish();
}
END_TEST

static const struct {
	const char *bytes;
	const char *want;
} garbage[] = {
	{ "GET / HTTP/1.1\r\nHost: a\r\n\r\n", "http request" },
	{ "\x16\x03\x01\x01\x05"
	  "zzzz",
	  NULL },
	{ "SSH-2.0-OpenSSH_9.2\r\n", "wrong version number" },
};

START_TEST(garbage_is_refused)
{
	start();
	struct pair p = { 0 };
	char rest[300];
	memset(rest, 'z', sizeof(rest));
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	ck_assert_int_eq(tls_conn_feed(p.conn, garbage[_i].bytes, 3, false), ERR_OK);
	memcpy(rest, garbage[_i].bytes + 3, strlen(garbage[_i].bytes + 3));
	ck_assert_int_eq(send(p.client_fd, rest, sizeof(rest), 0), sizeof(rest));
	ck_assert_int_eq(tls_conn_handshake(p.conn), STEP_FAIL);
	if (garbage[_i].want != NULL)
		ck_assert_str_eq(tls_conn_error(p.conn), garbage[_i].want);
	ck_assert_uint_gt(strlen(tls_conn_error(p.conn)), 0);
	pair_fini(&p);
	finish();
}
END_TEST

START_TEST(client_that_goes_away_is_no_failure)
{
	start();
	struct pair p = { 0 };
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	(void)SSL_do_handshake(p.client);
	ck_assert_int_eq(tls_conn_handshake(p.conn), STEP_READ);
	shutdown(p.client_fd, SHUT_RDWR);
	ck_assert_int_eq(tls_conn_handshake(p.conn), STEP_EOF);
	ck_assert_ptr_nonnull(strstr(tls_conn_error(p.conn), "without close_notify"));
	pair_fini(&p);
	finish();
}
END_TEST

/* ---- fed bytes: the client writes to memory, the test moves single bytes ---- */

struct relay {
	struct pair p;
	BIO *to_client, *from_client;
};

static void relay_open(struct relay *r, int version)
{
	pair_open(&r->p, &defaults, version, 1);
	r->to_client = BIO_new(BIO_s_mem());
	r->from_client = BIO_new(BIO_s_mem());
	BIO_set_mem_eof_return(r->to_client, -1);
	SSL_set_bio(r->p.client, r->to_client,
		    r->from_client); /* frees the socket's BIO, not the socket */
	(void)SSL_do_handshake(r->p.client);
}

/* Client's bytes through the socket one by one, with a step after each; the answer back at once. */
static void relay_pump(struct relay *r)
{
	char byte, answer[4096];
	for (int i = 0; i < PUMP_MAX; i++) {
		int n = BIO_read(r->from_client, &byte, 1);
		if (n == 1)
			ck_assert_int_eq(send(r->p.client_fd, &byte, 1, 0), 1);
		if (r->p.step != STEP_DONE)
			r->p.step = tls_conn_handshake(r->p.conn);
		ck_assert(r->p.step == STEP_READ || r->p.step == STEP_DONE);
		ssize_t len = recv(r->p.client_fd, answer, sizeof(answer), 0);
		if (len > 0) {
			BIO_write(r->to_client, answer, (int)len);
			r->p.client_rc = SSL_do_handshake(r->p.client);
		}
		if (n != 1 && len <= 0)
			return;
	}
}

enum { ALL_BUT_ONE = -1, ALL = -2 };

static const struct {
	int version;
	int fed; /* bytes of the ClientHello */
	int piece;
} feeds[] = {
	{ TLS1_3_VERSION, 0, 1 },           { TLS1_3_VERSION, 1, 1 },
	{ TLS1_3_VERSION, 5, 1 },           { TLS1_3_VERSION, 100, 1 },
	{ TLS1_3_VERSION, ALL_BUT_ONE, 1 }, { TLS1_3_VERSION, ALL, 1 },
	{ TLS1_3_VERSION, ALL, 65536 },     { TLS1_2_VERSION, 7, 3 },
	{ TLS1_2_VERSION, ALL, 1 },         { TLS1_2_VERSION, ALL, 65536 },
};

START_TEST(fed_hello)
{
	start();
	struct relay r = { .p.step = STEP_READ };
	char hello[4096];
	relay_open(&r, feeds[_i].version);
	int len = (int)BIO_ctrl_pending(r.from_client);
	int fed = feeds[_i].fed == ALL_BUT_ONE ? len - 1
		  : feeds[_i].fed == ALL       ? len
					       : feeds[_i].fed;
	ck_assert_int_eq(BIO_read(r.from_client, hello, fed), fed);
	for (int at = 0; at < fed; at += feeds[_i].piece) {
		int n = fed - at < feeds[_i].piece ? fed - at : feeds[_i].piece;
		ck_assert_int_eq(tls_conn_feed(r.p.conn, hello + at, (size_t)n, false), ERR_OK);
	}
	ck_assert_int_eq(tls_conn_has_pending(r.p.conn), fed > 0);
	relay_pump(&r);
	ck_assert_int_eq(r.p.step, STEP_DONE);
	ck_assert_int_eq(r.p.client_rc, 1);
	ck_assert(!tls_conn_has_pending(r.p.conn));
	pair_fini(&r.p);
	finish();
}
END_TEST

/* The second half of a ClientHello is seen by the next step, when the first was said to be all. */
START_TEST(fed_bytes_that_are_all_spare_a_look)
{
	start();
	struct relay r = { 0 };
	char hello[4096];
	relay_open(&r, TLS1_3_VERSION);
	int len = BIO_read(r.from_client, hello, sizeof(hello));
	ck_assert_int_gt(len, 100);
	ck_assert_int_eq(send(r.p.client_fd, hello + 100, (size_t)len - 100, 0), len - 100);
	ck_assert_int_eq(tls_conn_feed(r.p.conn, hello, 100, true), ERR_OK);
	ck_assert_int_eq(tls_conn_handshake(r.p.conn), STEP_READ);
	ck_assert(!tls_conn_has_pending(r.p.conn));
	ck_assert_int_eq(recv(r.p.client_fd, hello, sizeof(hello), 0), -1);
	ck_assert_int_eq(tls_conn_handshake(r.p.conn), STEP_READ);
	ck_assert_int_gt(recv(r.p.client_fd, hello, sizeof(hello), 0), 0);
	pair_fini(&r.p);
	finish();
}
END_TEST

/* A record that came after the last read is an event of its own: nobody may take the socket for empty. */
START_TEST(drained_is_said_of_the_last_read_only)
{
	start();
	struct pair p = { 0 };
	char got[16];
	size_t len = 0;
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	pair_handshake(&p);
	ck_assert_int_eq(SSL_write(p.client, "one", 3), 3);
	ck_assert_int_eq(SSL_write(p.client, "two", 3), 3);
	ck_assert_int_eq(tls_conn_read(p.conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert(!tls_conn_is_drained(p.conn));
	ck_assert_int_eq(SSL_write(p.client, "three", 5), 5);
	ck_assert_int_eq(tls_conn_read(p.conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert(!tls_conn_is_drained(p.conn));
	ck_assert_int_eq(tls_conn_read(p.conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert_uint_eq(len, 5);
	ck_assert(tls_conn_is_drained(p.conn));
	ck_assert_int_eq(tls_conn_read(p.conn, got, sizeof(got), &len), STEP_READ);
	ck_assert(!tls_conn_is_drained(p.conn));
	pair_fini(&p);
	finish();
}
END_TEST

START_TEST(feed_has_a_limit)
{
	start();
	struct pair p = { 0 };
	char *big = calloc(1, 65537);
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	ck_assert_int_eq(tls_conn_feed(p.conn, big, 65537, false), ERR_LIMIT);
	ck_assert_int_eq(tls_conn_feed(p.conn, big, 65536, false), ERR_OK);
	ck_assert_int_eq(tls_conn_feed(p.conn, big, 1, false), ERR_LIMIT);
	free(big);
	pair_fini(&p);
	finish();
}
END_TEST

/* Two and a half records arrive in one read: pending until what is whole has been taken. */
START_TEST(pending_with_read_ahead)
{
	start();
	struct relay r = { .p.step = STEP_READ };
	char records[256], got[16];
	size_t len = 0;
	relay_open(&r, TLS1_3_VERSION);
	relay_pump(&r);
	ck_assert_int_eq(r.p.step, STEP_DONE);
	ck_assert_int_eq(SSL_write(r.p.client, "one", 3), 3);
	ck_assert_int_eq(SSL_write(r.p.client, "two", 3), 3);
	ck_assert_int_eq(SSL_write(r.p.client, "three", 5), 5);
	int all = BIO_read(r.from_client, records, sizeof(records));
	ck_assert_int_eq(send(r.p.client_fd, records, (size_t)all - 4, 0), all - 4);
	ck_assert_int_eq(tls_conn_read(r.p.conn, got, 1, &len), STEP_DONE);
	ck_assert_uint_eq(len, 1);
	ck_assert(tls_conn_has_pending(r.p.conn));
	ck_assert(!tls_conn_is_drained(r.p.conn));
	ck_assert_int_eq(tls_conn_read(r.p.conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert_uint_eq(len, 2);
	ck_assert(!tls_conn_is_drained(r.p.conn));
	ck_assert(tls_conn_has_pending(r.p.conn));
	ck_assert_int_eq(tls_conn_read(r.p.conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert_mem_eq(got, "two", 3);
	/* Half a record is left. */
	ck_assert_int_eq(tls_conn_read(r.p.conn, got, sizeof(got), &len), STEP_READ);
	ck_assert(!tls_conn_has_pending(r.p.conn));
	ck_assert_int_eq(send(r.p.client_fd, records + all - 4, 4, 0), 4);
	ck_assert_int_eq(tls_conn_read(r.p.conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert_mem_eq(got, "three", 5);
	ck_assert(!tls_conn_has_pending(r.p.conn));
	pair_fini(&r.p);
	finish();
}
END_TEST

/* ---- data ---- */

START_TEST(half_closed_client_still_gets_its_answer)
{
	start();
	struct pair p = { 0 };
	char got[8];
	size_t len = 0;
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	pair_handshake(&p);
	ck_assert_int_eq(SSL_write(p.client, "req", 3), 3);
	shutdown(p.client_fd, SHUT_WR);
	ck_assert_int_eq(tls_conn_read(p.conn, got, sizeof(got), &len), STEP_DONE);
	ck_assert_int_eq(tls_conn_read(p.conn, got, sizeof(got), &len), STEP_EOF);
	ck_assert_ptr_nonnull(strstr(tls_conn_error(p.conn), "without close_notify"));
	ck_assert_int_eq(tls_conn_write(p.conn, "ans", 3, &len), STEP_DONE);
	ck_assert_int_eq(SSL_read(p.client, got, sizeof(got)), 3);
	ck_assert_mem_eq(got, "ans", 3);
	pair_fini(&p);
	finish();
}
END_TEST

/* 1 MiB through a socket that fills, each repeated write from another buffer. */
START_TEST(write_waits_and_goes_on_from_a_moved_buffer)
{
	start();
	struct pair p = { 0 };
	enum { TOTAL = 1024 * 1024, PIECE = 50000 };
	uint8_t *bufs[2] = { malloc(PIECE), malloc(PIECE) };
	size_t sent = 0, got = 0, len = 0;
	int waits = 0;
	pair_open(&p, &defaults, _i == 0 ? TLS1_2_VERSION : TLS1_3_VERSION, 1);
	pair_handshake(&p);
	for (int round = 0; got < TOTAL && round < PUMP_MAX; round++) {
		uint8_t *buf = bufs[round % 2];
		size_t want = TOTAL - sent < PIECE ? TOTAL - sent : PIECE;
		for (size_t i = 0; i < want; i++)
			buf[i] = pattern(sent + i);
		enum step step = want == 0 ? STEP_WRITE : tls_conn_write(p.conn, buf, want, &len);
		memset(buf, 0xee, PIECE);
		ck_assert(step == STEP_DONE || step == STEP_WRITE);
		if (step == STEP_DONE)
			sent += len;
		else
			got = drain_client(p.client, got);
		waits += step == STEP_WRITE;
	}
	ck_assert_uint_eq(got, TOTAL);
	ck_assert_int_gt(waits, 1);
	free(bufs[0]);
	free(bufs[1]);
	pair_fini(&p);
	finish();
}
END_TEST

START_TEST(write_to_a_gone_client_fails)
{
	start();
	struct pair p = { 0 };
	size_t len = 0;
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	pair_handshake(&p);
	shutdown(p.client_fd, SHUT_RDWR);
	ck_assert_int_eq(tls_conn_write(p.conn, "x", 1, &len), STEP_FAIL);
	ck_assert_str_eq(tls_conn_error(p.conn), "send: Broken pipe");
	ck_assert_int_eq(tls_conn_close_notify(p.conn), STEP_DONE);
	pair_fini(&p);
	finish();
}
END_TEST

/* ---- resumption ---- */

static const struct {
	int version;
	int rotations;
	uint64_t slot_hash; /* of the second connection; the first has 1 */
	bool is_other_worker;
	bool want;
} resumptions[] = {
	{ TLS1_2_VERSION, 0, 1, false, true },  { TLS1_3_VERSION, 0, 1, false, true },
	{ TLS1_2_VERSION, 0, 1, true, true },   { TLS1_3_VERSION, 0, 1, true, true },
	{ TLS1_2_VERSION, 0, 2, false, false }, { TLS1_3_VERSION, 0, 2, false, false },
	{ TLS1_2_VERSION, 1, 1, false, true },  { TLS1_3_VERSION, 1, 1, false, true },
	{ TLS1_2_VERSION, 2, 1, false, true },  { TLS1_3_VERSION, 2, 1, false, true },
	{ TLS1_2_VERSION, 3, 1, false, false }, { TLS1_3_VERSION, 3, 1, false, false },
	{ TLS1_2_VERSION, 1, 2, true, false },  { TLS1_3_VERSION, 1, 2, true, false },
};

START_TEST(resumption)
{
	start();
	sp_role_assume_control();
	struct pair p = { 0 };
	struct tls_conn_info info;
	pair_open(&p, &defaults, resumptions[_i].version, 1);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_DONE);
	pair_echo(&p);
	SSL_SESSION *session = SSL_get1_session(p.client);
	ck_assert_int_eq(SSL_SESSION_has_ticket(session), 1);
	pair_close(&p);
	for (int i = 0; i < resumptions[_i].rotations; i++)
		ck_assert_int_eq(tls_tickets_rotate(), ERR_OK);
	if (resumptions[_i].is_other_worker) {
		tls_worker_free(p.worker);
		p.worker = NULL;
	}
	pair_open(&p, &defaults, resumptions[_i].version, resumptions[_i].slot_hash);
	ck_assert_int_eq(SSL_set_session(p.client, session), 1);
	pair_handshake(&p);
	ck_assert_int_eq(p.step, STEP_DONE);
	ck_assert_int_eq(p.client_rc, 1);
	pair_echo(&p);
	tls_conn_info(p.conn, &info);
	ck_assert_int_eq(info.is_resumed, resumptions[_i].want);
	ck_assert_int_eq(SSL_session_reused(p.client), resumptions[_i].want);
	SSL_SESSION_free(session);
	pair_fini(&p);
	finish();
}
END_TEST

/* RFC 8446, C.4: a ticket is used once, so each connection has to bring the next one's. */
START_TEST(each_resumption_brings_a_new_ticket)
{
	start();
	struct pair p = { 0 };
	SSL_SESSION *last = NULL;
	for (int i = 0; i < 4; i++) {
		struct tls_conn_info info;
		pair_open(&p, &defaults, TLS1_3_VERSION, 1);
		if (last != NULL)
			ck_assert_int_eq(SSL_set_session(p.client, last), 1);
		pair_handshake(&p);
		pair_echo(&p);
		tls_conn_info(p.conn, &info);
		ck_assert_int_eq(info.is_resumed, i > 0);
		SSL_SESSION *session = SSL_get1_session(p.client);
		ck_assert_ptr_ne(session, last);
		ck_assert_int_eq(SSL_SESSION_is_resumable(session), 1);
		SSL_SESSION_free(last);
		last = session;
		pair_close(&p);
	}
	SSL_SESSION_free(last);
	pair_open(&p, &defaults, TLS1_3_VERSION, 1);
	pair_fini(&p);
	finish();
}
END_TEST

static TCase *handshake_tests(void)
{
	TCase *tc = tcase_create("handshake");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, handshake_and_data, 0, SP_ARRAY_LEN(handshakes));
	tcase_add_test(tc, whole_chain_is_sent);
	tcase_add_test(tc, version_below_minimum_is_refused);
	tcase_add_test(tc, ciphers_of_the_settings);
	tcase_add_loop_test(tc, weak_cipher_is_refused, 0, SP_ARRAY_LEN(weak_ciphers));
	tcase_add_loop_test(tc, alpn, 0, SP_ARRAY_LEN(alpns));
	tcase_add_test(tc, renegotiation_is_refused);
	tcase_add_test(tc, alert_of_the_client_is_told);
	tcase_add_loop_test(tc, garbage_is_refused, 0, SP_ARRAY_LEN(garbage));
	tcase_add_test(tc, client_that_goes_away_is_no_failure);
	tcase_add_loop_test(tc, resumption, 0, SP_ARRAY_LEN(resumptions));
	tcase_add_test(tc, each_resumption_brings_a_new_ticket);
	return tc;
}

static TCase *data_tests(void)
{
	TCase *tc = tcase_create("data");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, fed_hello, 0, SP_ARRAY_LEN(feeds));
	tcase_add_test(tc, fed_bytes_that_are_all_spare_a_look);
	tcase_add_test(tc, drained_is_said_of_the_last_read_only);
	tcase_add_test(tc, feed_has_a_limit);
	tcase_add_test(tc, pending_with_read_ahead);
	tcase_add_test(tc, half_closed_client_still_gets_its_answer);
	tcase_add_loop_test(tc, write_waits_and_goes_on_from_a_moved_buffer, 0, 2);
	tcase_add_test(tc, write_to_a_gone_client_fails);
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("tls");
	suite_add_tcase(suite, handshake_tests());
	suite_add_tcase(suite, data_tests());
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
