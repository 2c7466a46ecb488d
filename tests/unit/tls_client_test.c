#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "tls_line.h"

/* ---- authorities and files ---- */

/* Signed anew with the mark of an authority. Takes pkey. */
static struct made make_ca(const char *cn)
{
	struct made ca = make_cert(EVP_EC_gen("P-256"), cn, NULL, NULL, 30);
	X509_EXTENSION *ext =
		X509V3_EXT_conf_nid(NULL, NULL, NID_basic_constraints, "critical,CA:TRUE");
	X509_add_ext(ca.x509, ext, -1);
	X509_EXTENSION_free(ext);
	ck_assert_int_gt(X509_sign(ca.x509, ca.pkey, EVP_sha256()), 0);
	return ca;
}

static struct made make_leaf(const char *san, const struct made *issuer, int days)
{
	return make_cert(EVP_EC_gen("P-256"), "app.internal", san, issuer, days);
}

struct files {
	char dir[64];
	char paths[4][96];
	size_t cnt;
};

static const char *write_pem(struct files *files, const struct made *made, bool wants_key)
{
	struct text pem = { 0 };
	if (files->cnt == 0) {
		text_format(files->dir, sizeof(files->dir), "/tmp/tls_client_test.XXXXXX");
		ck_assert_ptr_nonnull(mkdtemp(files->dir));
	}
	ck_assert_uint_lt(files->cnt, SP_ARRAY_LEN(files->paths));
	char *path = files->paths[files->cnt++];
	text_format(path, sizeof(files->paths[0]), "%s/%zu.pem", files->dir, files->cnt);
	if (made != NULL)
		add_pem(&pem, made, wants_key);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, pem.data, pem.len), (ssize_t)pem.len);
	close(fd);
	text_fini(&pem);
	return path;
}

static void files_fini(struct files *files)
{
	for (size_t i = 0; i < files->cnt; i++)
		unlink(files->paths[i]);
	if (files->cnt > 0)
		rmdir(files->dir);
}

/* ---- clients ---- */

static struct tls_client *make_client(const struct tls_client_settings *settings)
{
	struct tls_client *client = NULL;
	struct text why = { 0 };
	sp_role_assume_control();
	enum err e = tls_client_new(settings, 2, &client, &why);
	ck_assert_msg(e == ERR_OK, "%s: %s", err_name(e), why.data == NULL ? "" : why.data);
	text_fini(&why);
	return client;
}

/* ---- verification ---- */

#define NO_ISSUER "certificate verify failed: unable to get local issuer certificate"

enum trust { TRUST_CA, TRUST_OTHER, TRUST_LEAF, TRUST_ANY };

static const struct {
	const char *san;
	const char *server_name;
	enum trust trust;
	int days;
	const char *want; /* the error; NULL: good */
} verifies[] = {
	{ "DNS:app.internal", "app.internal", TRUST_CA, 30, NULL },
	{ "DNS:app.internal", "APP.internal.", TRUST_CA, 30, NULL },
	{ "DNS:b.internal,DNS:app.internal", "app.internal", TRUST_CA, 30, NULL },
	{ "DNS:*.corp.internal", "app.corp.internal", TRUST_CA, 30, NULL },
	{ "DNS:app.internal", "app.internal", TRUST_LEAF, 30, NULL },
	{ "DNS:app.internal", "app.internal", TRUST_OTHER, 30, NO_ISSUER },
	{ "DNS:app.internal", "app.internal", TRUST_CA, -1,
	  "certificate verify failed: certificate has expired" },
	{ "DNS:b.internal", "app.internal", TRUST_CA, 30,
	  "hostname mismatch: asked for app.internal" },
	{ "DNS:b.internal", "app.internal", TRUST_LEAF, 30,
	  "hostname mismatch: asked for app.internal" },
	/* RFC 9525, 6.3: a wildcard is one whole label; 6.2: the CN is no name */
	{ "DNS:*.corp.internal", "a.b.corp.internal", TRUST_CA, 30,
	  "hostname mismatch: asked for a.b.corp.internal" },
	{ "DNS:a*.corp.internal", "app.corp.internal", TRUST_CA, 30,
	  "hostname mismatch: asked for app.corp.internal" },
	{ NULL, "app.internal", TRUST_CA, 30, "hostname mismatch: asked for app.internal" },
	{ "IP:192.0.2.1", "192.0.2.1", TRUST_CA, 30, NULL },
	{ "IP:2001:db8::1", "2001:db8:0::1", TRUST_CA, 30, NULL },
	{ "IP:2001:db8::1", "[2001:db8::1]", TRUST_CA, 30, NULL },
	{ "IP:192.0.2.1", "192.0.2.2", TRUST_CA, 30, "hostname mismatch: asked for 192.0.2.2" },
	{ "DNS:192.0.2.1", "192.0.2.1", TRUST_CA, 30, "hostname mismatch: asked for 192.0.2.1" },
	{ "IP:192.0.2.1", "app.internal", TRUST_CA, 30,
	  "hostname mismatch: asked for app.internal" },
	{ "DNS:b.internal", "app.internal", TRUST_ANY, -1, NULL },
	{ "DNS:b.internal", "192.0.2.1", TRUST_ANY, 30, NULL },
	{ "DNS:b.internal", "", TRUST_ANY, 30, NULL },
};

START_TEST(verification)
{
	start();
	struct files files = { 0 };
	struct line l = { 0 };
	struct made ca = make_ca("CA"), other = make_ca("Other");
	struct made leaf = make_leaf(verifies[_i].san, &ca, verifies[_i].days);
	const struct made *trusted[] = { &ca, &other, &leaf };
	enum trust trust = verifies[_i].trust;
	struct tls_client_settings settings = { .wants_verify = trust != TRUST_ANY };
	if (trust != TRUST_ANY)
		settings.ca_file = write_pem(&files, trusted[trust], false);
	struct tls_client *client = make_client(&settings);
	struct tls_connect connect = { .client = client, .server_name = verifies[_i].server_name };
	l.cert = load(&leaf, 1);
	line_open(&l, &connect);
	line_handshake(&l);
	if (verifies[_i].want == NULL) {
		ck_assert_str_eq(tls_conn_error(l.conn), "");
		ck_assert_int_eq(l.step, STEP_DONE);
		ck_assert(!tls_conn_has_verify_failed(l.conn));
		line_echo(&l);
	} else {
		ck_assert_int_eq(l.step, STEP_FAIL);
		ck_assert(tls_conn_has_verify_failed(l.conn));
		ck_assert_str_eq(tls_conn_error(l.conn), verifies[_i].want);
		ck_assert_int_eq(tls_conn_handshake(l.conn), STEP_FAIL);
	}
	line_fini(&l);
	tls_client_free(client);
	made_fini(&leaf);
	made_fini(&ca);
	made_fini(&other);
	files_fini(&files);
	finish();
}
END_TEST

/* The alert of a refusal cannot be sent: the reason is still told. */
START_TEST(verification_fails_although_the_target_is_gone)
{
	start();
	struct made leaf = make_leaf("DNS:app.internal", NULL, 30);
	struct tls_client *client =
		make_client(&(struct tls_client_settings){ .wants_verify = true });
	struct line l = { .cert = load(&leaf, 1) };
	line_open(&l, &(struct tls_connect){ .client = client, .server_name = "app.internal" });
	ck_assert_int_eq(tls_conn_handshake(l.conn), STEP_READ);
	ck_assert_int_eq(tls_conn_handshake(l.target), STEP_READ);
	shutdown(l.target_fd, SHUT_RDWR);
	ck_assert_int_eq(tls_conn_handshake(l.conn), STEP_FAIL);
	ck_assert(tls_conn_has_verify_failed(l.conn));
	ck_assert_str_eq(tls_conn_error(l.conn),
			 "certificate verify failed: self-signed certificate");
	line_fini(&l);
	tls_client_free(client);
	made_fini(&leaf);
	finish();
}
END_TEST

START_TEST(system_store)
{
	start();
	struct files files = { 0 };
	struct made ca = make_ca("CA"), leaf = make_leaf("DNS:app.internal", &ca, 30);
	ck_assert_int_eq(setenv("SSL_CERT_FILE", write_pem(&files, &ca, false), 1), 0);
	const struct tls_client_settings settings = { .wants_verify = true };
	struct tls_client *client = make_client(&settings), *second = make_client(&settings);
	ck_assert_str_eq(tls_client_identity(client), tls_client_identity(second));
	tls_client_free(client);
	struct line l = { .cert = load(&leaf, 1) };
	line_open(&l, &(struct tls_connect){
			      .client = second, .ctx_ix = 1, .server_name = "app.internal" });
	/* What the connection holds stays when the client goes. */
	tls_client_free(second);
	line_handshake(&l);
	ck_assert_str_eq(tls_conn_error(l.conn), "");
	ck_assert_int_eq(l.step, STEP_DONE);
	line_fini(&l);
	made_fini(&leaf);
	made_fini(&ca);
	files_fini(&files);
	finish();
}
END_TEST

START_TEST(a_name_is_needed_for_verification)
{
	start();
	struct tls_client *client =
		make_client(&(struct tls_client_settings){ .wants_verify = true });
	char longest[300];
	memset(longest, 'a', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = '\0';
	const char *const names[] = { NULL, "", ".", longest };
	for (size_t i = 0; i < SP_ARRAY_LEN(names); i++) {
		struct tls_conn *conn = NULL;
		const struct tls_connect connect = { .client = client, .server_name = names[i] };
		ck_assert_int_eq(tls_conn_connect(&connect, &conn), ERR_INVALID);
		ck_assert_ptr_null(conn);
	}
	tls_client_free(client);
	finish();
}
END_TEST

/* ---- what is offered ---- */

static const struct {
	const char *server_name;
	const char *alpn;
	const char *want_sni;
} offers[] = {
	{ "app.internal", "http/1.1", "app.internal" },
	{ "App.Internal.", NULL, "App.Internal" },
	{ "192.0.2.1", "http/1.1", "" },
	{ "[2001:db8::1]", NULL, "" },
	{ "", NULL, "" },
};

START_TEST(sni_and_alpn)
{
	start();
	struct tls_client *client = make_client(&(struct tls_client_settings){ 0 });
	struct tls_conn_info info;
	const char *alpn = offers[_i].alpn;
	struct line l = { .cert = load_plain("P-256") };
	line_open(&l, &(struct tls_connect){ .client = client,
					     .server_name = offers[_i].server_name,
					     .alpn = alpn });
	line_handshake(&l);
	ck_assert_int_eq(l.step, STEP_DONE);
	ck_assert_str_eq(tls_conn_sni(l.target), offers[_i].want_sni);
	ck_assert_str_eq(tls_conn_sni(l.conn), offers[_i].want_sni);
	tls_conn_info(l.conn, &info);
	ck_assert_str_eq(info.alpn, alpn == NULL ? "" : alpn);
	ck_assert_str_eq(info.version, "TLSv1.3");
	ck_assert(!info.is_resumed);
	line_fini(&l);
	tls_client_free(client);
	finish();
}
END_TEST

/* OpenSSL alone forgets the name of a resumed TLS 1.2 session. */
START_TEST(sni_of_a_resumed_client_is_known)
{
	start();
	struct pair p = { 0 };
	SSL_SESSION *session = NULL;
	for (int i = 0; i < 2; i++) {
		pair_open(&p, &defaults, _i == 0 ? TLS1_2_VERSION : TLS1_3_VERSION, 1);
		SSL_set_tlsext_host_name(p.client, "a.example");
		if (session != NULL)
			SSL_set_session(p.client, session);
		pair_handshake(&p);
		ck_assert_int_eq(p.step, STEP_DONE);
		pair_echo(&p);
		ck_assert_int_eq(SSL_session_reused(p.client), i);
		ck_assert_str_eq(tls_conn_sni(p.conn), "a.example");
		SSL_SESSION_free(session);
		session = SSL_get1_session(p.client);
		if (i == 0)
			pair_close(&p);
	}
	SSL_SESSION_free(session);
	pair_fini(&p);
	finish();
}
END_TEST

START_TEST(client_certificate)
{
	start();
	struct files files = { 0 };
	struct made ca = make_ca("CA"), leaf = make_leaf("DNS:app.internal", &ca, 30);
	struct made own = make_leaf("DNS:proxy.internal", &ca, 30);
	bool has_cert = _i < 2;
	struct tls_client_settings settings = { 0 };
	if (has_cert) {
		settings.chain_file = write_pem(&files, &own, false);
		settings.key_file = write_pem(&files, &own, true);
	}
	struct tls_client *client = make_client(&settings);
	struct line l = { .raw_ctx = make_raw(&leaf, _i % 2 ? TLS1_2_VERSION : TLS1_3_VERSION) };
	SSL_CTX_set_verify(l.raw_ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	X509_STORE_add_cert(SSL_CTX_get_cert_store(l.raw_ctx), ca.x509);
	line_open(&l, &(struct tls_connect){ .client = client, .server_name = "app.internal" });
	line_handshake(&l);
	if (has_cert) {
		ck_assert_int_eq(l.step, STEP_DONE);
		ck_assert_int_eq(X509_cmp(SSL_get0_peer_certificate(l.raw), own.x509), 0);
		line_echo(&l);
	} else {
		/* RFC 8446, 4.4.2.4: a TLS 1.3 client hears of it after its handshake. */
		char got[8];
		size_t len = 0;
		enum step step = l.step == STEP_DONE ? tls_conn_read(l.conn, got, sizeof(got), &len)
						     : l.step;
		ck_assert_int_eq(step, STEP_FAIL);
		ck_assert(!tls_conn_has_verify_failed(l.conn));
		ck_assert_ptr_nonnull(strstr(tls_conn_error(l.conn), "alert"));
	}
	line_fini(&l);
	tls_client_free(client);
	made_fini(&own);
	made_fini(&leaf);
	made_fini(&ca);
	files_fini(&files);
	finish();
}
END_TEST

/* ---- sessions ---- */

enum second { SAME, OTHER_NAME, OTHER_CLIENT, OTHER_SLOT, NO_SLOT };

static const struct {
	int version;
	enum second second;
	bool is_clean_end;
	bool want_resumed;
} sessions[] = {
	{ TLS1_3_VERSION, SAME, true, true },          { TLS1_2_VERSION, SAME, true, true },
	{ TLS1_3_VERSION, SAME, false, true },         { TLS1_2_VERSION, SAME, false, true },
	{ TLS1_3_VERSION, OTHER_NAME, true, false },   { TLS1_2_VERSION, OTHER_NAME, true, false },
	{ TLS1_3_VERSION, OTHER_CLIENT, true, false }, { TLS1_3_VERSION, OTHER_SLOT, true, false },
	{ TLS1_3_VERSION, NO_SLOT, true, false },
};

START_TEST(session_is_resumed)
{
	start();
	struct files files = { 0 };
	struct made ca = make_ca("CA");
	struct made leaf = make_leaf("DNS:app.internal,DNS:b.internal", &ca, 30);
	struct tls_session_slot slot = { 0 }, other_slot = { 0 };
	const struct tls_client_settings settings = { true, write_pem(&files, &ca, false) };
	struct tls_client *any = make_client(&(struct tls_client_settings){ 0 });
	struct tls_client *strict = make_client(&settings);
	enum second second = sessions[_i].second;
	struct line l = { .raw_ctx = make_raw(&leaf, sessions[_i].version) };
	struct tls_connect connect = { .client = second == OTHER_CLIENT ? any : strict,
				       .server_name = "app.internal",
				       .session = &slot };
	line_open(&l, &connect);
	line_handshake(&l);
	line_echo(&l);
	ck_assert(!line_is_resumed(&l));
	ck_assert_ptr_nonnull(slot.session);
	if (sessions[_i].is_clean_end)
		ck_assert_int_eq(tls_conn_close_notify(l.conn), STEP_DONE);
	line_close(&l);
	connect.client = strict;
	if (second == OTHER_NAME)
		connect.server_name = "b.internal";
	if (second == OTHER_SLOT || second == NO_SLOT)
		connect.session = second == NO_SLOT ? NULL : &other_slot;
	for (int i = 0; i < 2; i++) {
		line_open(&l, &connect);
		line_handshake(&l);
		ck_assert_int_eq(l.step, STEP_DONE);
		line_echo(&l);
		/* The second time round each slot has a session of its own name and client. */
		ck_assert_int_eq(line_is_resumed(&l),
				 sessions[_i].want_resumed || (i == 1 && second != NO_SLOT));
		line_close(&l);
		line_open(&l, &connect);
		line_close(&l);
	}
	line_open(&l, &connect);
	line_fini(&l);
	tls_session_fini(&slot);
	tls_session_fini(&slot);
	tls_session_fini(&other_slot);
	tls_client_free(any);
	tls_client_free(strict);
	made_fini(&leaf);
	made_fini(&ca);
	files_fini(&files);
	finish();
}
END_TEST

/* A session that breaks the handshake is not tried for ever. */
START_TEST(session_of_a_failed_handshake_is_dropped)
{
	start();
	struct tls_client *client = make_client(&(struct tls_client_settings){ 0 });
	struct tls_session_slot slot = { 0 };
	struct line l = { .cert = load_plain("P-256") };
	const struct tls_connect connect = { .client = client,
					     .server_name = "a.example",
					     .session = &slot };
	line_open(&l, &connect);
	line_handshake(&l);
	line_echo(&l);
	line_close(&l);
	ck_assert_ptr_nonnull(slot.session);
	line_open(&l, &connect);
	ck_assert_int_eq(tls_conn_handshake(l.conn), STEP_READ);
	shutdown(l.target_fd, SHUT_RDWR);
	ck_assert_int_eq(tls_conn_handshake(l.conn), STEP_EOF);
	ck_assert_ptr_null(slot.session);
	line_fini(&l);
	tls_client_free(client);
	finish();
}
END_TEST

/* ---- ends ---- */

START_TEST(target_that_goes_away)
{
	start();
	struct tls_client *client = make_client(&(struct tls_client_settings){ 0 });
	struct line l = { .cert = load_plain("P-256") };
	char got[8];
	size_t len = 0;
	line_open(&l, &(struct tls_connect){ .client = client, .server_name = "a.example" });
	if (_i == 0) {
		ck_assert_int_eq(tls_conn_handshake(l.conn), STEP_READ);
	} else {
		line_handshake(&l);
		line_echo(&l);
	}
	if (_i == 2)
		ck_assert_int_eq(tls_conn_close_notify(l.target), STEP_DONE);
	shutdown(l.target_fd, SHUT_RDWR);
	if (_i == 0)
		ck_assert_int_eq(tls_conn_handshake(l.conn), STEP_EOF);
	else
		ck_assert_int_eq(tls_conn_read(l.conn, got, sizeof(got), &len), STEP_EOF);
	ck_assert_str_eq(tls_conn_error(l.conn),
			 _i == 2 ? "the target sent close_notify"
				 : "the target closed TCP without close_notify");
	line_fini(&l);
	tls_client_free(client);
	finish();
}
END_TEST

static const char *const no_tls[] = { "HTTP/1.1 400 Bad Request\r\n\r\n", "220 mail ESMTP\r\n",
				      "\x15\x03\x03\x00\x02\x02\x28" };
static const char *const no_tls_errors[] = { "wrong version number", "wrong version number",
					     "sslv3 alert handshake failure" };

START_TEST(target_that_speaks_no_tls)
{
	start();
	struct tls_client *client =
		make_client(&(struct tls_client_settings){ .wants_verify = true });
	struct line l = { .cert = load_plain("P-256") };
	size_t len = _i == 2 ? 7 : strlen(no_tls[_i]);
	line_open(&l, &(struct tls_connect){ .client = client, .server_name = "a.example" });
	ck_assert_int_eq(send(l.target_fd, no_tls[_i], len, 0), (ssize_t)len);
	ck_assert_int_eq(tls_conn_handshake(l.conn), STEP_FAIL);
	ck_assert_str_eq(tls_conn_error(l.conn), no_tls_errors[_i]);
	ck_assert(!tls_conn_has_verify_failed(l.conn));
	line_fini(&l);
	tls_client_free(client);
	finish();
}
END_TEST

START_TEST(old_version_is_refused)
{
	start();
	struct tls_client *client = make_client(&(struct tls_client_settings){ 0 });
	struct made leaf = make_leaf("DNS:app.internal", NULL, 30);
	struct line l = { .raw_ctx = make_raw(&leaf, TLS1_1_VERSION) };
	SSL_CTX_set_min_proto_version(l.raw_ctx, TLS1_VERSION);
	SSL_CTX_set_security_level(l.raw_ctx, 0);
	line_open(&l, &(struct tls_connect){ .client = client, .server_name = "app.internal" });
	line_handshake(&l);
	ck_assert_int_eq(l.step, STEP_FAIL);
	ck_assert_str_eq(tls_conn_error(l.conn), "tlsv1 alert protocol version");
	line_fini(&l);
	tls_client_free(client);
	made_fini(&leaf);
	finish();
}
END_TEST

/* ---- settings ---- */

START_TEST(identity_follows_settings_and_contents)
{
	start();
	struct files files = { 0 };
	struct made ca = make_ca("CA"), other = make_ca("Other"), own = make_leaf(NULL, &ca, 30);
	const char *ca_file = write_pem(&files, &ca, false);
	const char *other_file = write_pem(&files, &other, false);
	const char *chain_file = write_pem(&files, &own, false);
	const char *key_file = write_pem(&files, &own, true);
	const struct tls_client_settings settings[] = {
		{ false, NULL, NULL, NULL },          { true, NULL, NULL, NULL },
		{ true, ca_file, NULL, NULL },        { true, other_file, NULL, NULL },
		{ true, NULL, chain_file, key_file }, { true, ca_file, chain_file, key_file },
	};
	struct tls_client *clients[SP_ARRAY_LEN(settings)];
	for (size_t i = 0; i < SP_ARRAY_LEN(settings); i++) {
		clients[i] = make_client(&settings[i]);
		ck_assert_uint_eq(strlen(tls_client_identity(clients[i])), 64);
		for (size_t j = 0; j < i; j++)
			ck_assert_str_ne(tls_client_identity(clients[i]),
					 tls_client_identity(clients[j]));
		struct tls_client *again = make_client(&settings[i]);
		ck_assert_str_eq(tls_client_identity(clients[i]), tls_client_identity(again));
		tls_client_free(again);
	}
	/* The same name with another content is another client. */
	ck_assert_int_eq(rename(other_file, ca_file), 0);
	struct tls_client *changed = make_client(&settings[2]);
	ck_assert_str_ne(tls_client_identity(changed), tls_client_identity(clients[2]));
	ck_assert_str_eq(tls_client_identity(changed), tls_client_identity(clients[3]));
	tls_client_free(changed);
	for (size_t i = 0; i < SP_ARRAY_LEN(settings); i++)
		tls_client_free(clients[i]);
	made_fini(&own);
	made_fini(&other);
	made_fini(&ca);
	files_fini(&files);
	finish();
}
END_TEST

static void expect_refusal(const struct tls_client_settings *settings, enum err want,
			   const char *want_text)
{
	struct tls_client *client = NULL;
	struct text why = { 0 };
	sp_role_assume_control();
	ck_assert_int_eq(tls_client_new(settings, 1, &client, &why), want);
	ck_assert_ptr_null(client);
	ck_assert_ptr_nonnull(why.data);
	ck_assert_msg(strstr(why.data, want_text) != NULL, "%s", why.data);
	text_fini(&why);
	ck_assert_int_eq(tls_client_new(settings, 1, &client, NULL), want);
}

START_TEST(bad_files_are_told)
{
	start();
	struct files files = { 0 };
	struct made ca = make_ca("CA"), own = make_leaf(NULL, &ca, 30);
	const char *ca_file = write_pem(&files, &ca, false);
	const char *key_file = write_pem(&files, &own, true);
	const char *empty = write_pem(&files, NULL, false);
	expect_refusal(&(struct tls_client_settings){ true, "/nowhere/ca.pem" }, ERR_NOENT,
		       "/nowhere/ca.pem");
	expect_refusal(&(struct tls_client_settings){ true, empty }, ERR_SYNTAX, empty);
	expect_refusal(&(struct tls_client_settings){ true, key_file }, ERR_SYNTAX,
		       "no certificate in it");
	expect_refusal(&(struct tls_client_settings){ false, NULL, ca_file, key_file },
		       ERR_KEY_MISMATCH, key_file);
	expect_refusal(&(struct tls_client_settings){ false, NULL, ca_file, "/nowhere/k.pem" },
		       ERR_NOENT, "/nowhere/k.pem");
	ck_assert_int_eq(truncate(ca_file, 200), 0);
	expect_refusal(&(struct tls_client_settings){ true, ca_file }, ERR_SYNTAX,
		       "certificate 1 cannot be read");
	made_fini(&own);
	made_fini(&ca);
	files_fini(&files);
	finish();
}
END_TEST

static enum err try_all(const struct tls_client_settings *settings)
{
	struct tls_client *client = NULL;
	struct tls_conn *conn = NULL;
	sp_role_assume_control();
	enum err e = tls_client_new(settings, 2, &client, NULL);
	if (e == ERR_OK) {
		const struct tls_connect connect = { .client = client,
						     .fd = -1,
						     .server_name = "app.internal" };
		e = tls_conn_connect(&connect, &conn);
	}
	tls_conn_free(conn);
	tls_client_free(client);
	return e;
}

START_TEST(lack_of_memory_is_an_error)
{
	start();
	struct files files = { 0 };
	struct made ca = make_ca("CA"), own = make_leaf(NULL, &ca, 30);
	const char *ca_file = write_pem(&files, &ca, false);
	const struct tls_client_settings settings = { true, _i == 0 ? ca_file : NULL,
						      write_pem(&files, &own, false),
						      write_pem(&files, &own, true) };
	unsigned ok_cnt = 0, failed_cnt = 0;
	setenv("SMARTPROXY_FAULTS", "malloc=0.15", 1);
	fault_init();
	for (int i = 0; i < 200; i++) {
		enum err e = try_all(&settings);
		ck_assert_msg(e == ERR_OK || e == ERR_NOMEM, "%s", err_name(e));
		ok_cnt += e == ERR_OK;
		failed_cnt += e == ERR_NOMEM;
	}
	unsetenv("SMARTPROXY_FAULTS");
	fault_is_on = false;
	ck_assert_uint_gt(ok_cnt, 0);
	ck_assert_uint_gt(failed_cnt, 0);
	ck_assert_int_eq(try_all(&settings), ERR_OK);
	made_fini(&own);
	made_fini(&ca);
	files_fini(&files);
	finish();
}
END_TEST

static TCase *handshake_tests(void)
{
	TCase *tc = tcase_create("handshake");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, verification, 0, SP_ARRAY_LEN(verifies));
	tcase_add_test(tc, verification_fails_although_the_target_is_gone);
	tcase_add_test(tc, system_store);
	tcase_add_test(tc, a_name_is_needed_for_verification);
	tcase_add_loop_test(tc, sni_and_alpn, 0, SP_ARRAY_LEN(offers));
	tcase_add_loop_test(tc, sni_of_a_resumed_client_is_known, 0, 2);
	tcase_add_loop_test(tc, client_certificate, 0, 4);
	tcase_add_loop_test(tc, session_is_resumed, 0, SP_ARRAY_LEN(sessions));
	tcase_add_test(tc, session_of_a_failed_handshake_is_dropped);
	tcase_add_loop_test(tc, target_that_goes_away, 0, 3);
	tcase_add_loop_test(tc, target_that_speaks_no_tls, 0, SP_ARRAY_LEN(no_tls));
	tcase_add_test(tc, old_version_is_refused);
	return tc;
}

static TCase *client_tests(void)
{
	TCase *tc = tcase_create("client");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, identity_follows_settings_and_contents);
	tcase_add_test(tc, bad_files_are_told);
	tcase_add_loop_test(tc, lack_of_memory_is_an_error, 0, 2);
	return tc;
}

int main(void)
{
	Suite *suite = suite_create("tls_client");
	suite_add_tcase(suite, handshake_tests());
	suite_add_tcase(suite, client_tests());
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
