/* proxy: raw TCP behind TLS, towards clients and towards targets. */
#include "proxy_tcp.h"
#include "tls_pair.h"
#include "wire/proxy.h"

/* ---- certificate and key of the test, in files ---- */

static char chain_file[] = "/tmp/smartproxy-chain-XXXXXX",
	    key_file[] = "/tmp/smartproxy-key-XXXXXX";
static SSL_CTX *server_ctx; /* of an origin that speaks TLS */

static void write_file(char *name, const struct text *text)
{
	int fd = mkstemp(name);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text->data, text->len), (ssize_t)text->len);
	(void)close(fd);
}

static void make_files(void)
{
	struct made made = make_cert(EVP_EC_gen("P-256"), "a.example", "DNS:a.example", NULL, 30);
	struct text chain = { 0 }, key = { 0 };
	add_pem(&chain, &made, false);
	add_pem(&key, &made, true);
	write_file(chain_file, &chain);
	write_file(key_file, &key);
	server_ctx = SSL_CTX_new(TLS_server_method());
	ck_assert_int_eq(SSL_CTX_use_certificate(server_ctx, made.x509), 1);
	ck_assert_int_eq(SSL_CTX_use_PrivateKey(server_ctx, made.pkey), 1);
	text_fini(&chain);
	text_fini(&key);
	made_fini(&made);
}

static void drop_files(void)
{
	(void)unlink(chain_file);
	(void)unlink(key_file);
	SSL_CTX_free(server_ctx);
}

/* mode: "terminate" or "terminate-and-reencrypt"; upstream: keys of tls beside. */
static void start_tls_route(uint16_t target_port, const char *mode, const char *upstream,
			    const char *target)
{
	uint16_t port = free_port();
	make_files();
	rig_start(
		&rig,
		load_text(
			"routes: ( { name = \"tls\"; match = { address = \"127.0.0.1\"; ports = [ "
			"%u ]; domains = [ \"a.example\" ]; }; action = { type = \"forward\"; "
			"protocol = \"tcp\"; targets = ( { host = \"127.0.0.1\"; port = %u; %s } "
			"); tls = { mode = \"%s\"; certificate = { chain_file = \"%s\"; key_file "
			"= \"%s\"; }; %s }; }; } );",
			(unsigned)port, (unsigned)target_port, target, mode, chain_file, key_file,
			upstream),
		port);
}

static void stop_tls(void)
{
	stop();
	drop_files();
}

/* ---- clients ---- */

struct client {
	struct side *side;
	SSL_CTX *ctx;
	SSL *ssl;
};

static struct client connect_tls(int version)
{
	struct client c = { .side = rig_connect(&rig), .ctx = SSL_CTX_new(TLS_client_method()) };
	SSL_CTX_set_max_proto_version(c.ctx, version);
	c.ssl = SSL_new(c.ctx);
	ck_assert_int_eq(SSL_set_tlsext_host_name(c.ssl, "a.example"), 1);
	ck_assert_int_eq(SSL_set_fd(c.ssl, c.side->fd), 1);
	ck_assert_int_eq(SSL_connect(c.ssl), 1);
	return c;
}

static void free_client(struct client *c)
{
	SSL_free(c->ssl);
	SSL_CTX_free(c->ctx);
	side_free(c->side);
}

static void check_read(struct client *c, const char *want)
{
	char got[256] = "";
	size_t len = 0;
	while (len < strlen(want)) {
		int n = SSL_read(c->ssl, got + len, (int)(strlen(want) - len));
		ck_assert_int_gt(n, 0);
		len += (size_t)n;
	}
	ck_assert_str_eq(got, want);
}

static int read_end(struct client *c)
{
	char byte;
	int n = SSL_read(c->ssl, &byte, 1);
	ck_assert_int_le(n, 0);
	return SSL_get_error(c->ssl, n);
}

static void put(struct client *c, const char *text)
{
	ck_assert_int_eq(SSL_write(c->ssl, text, (int)strlen(text)), (int)strlen(text));
}

/* ---- tests ---- */

static const int versions[] = { TLS1_2_VERSION, TLS1_3_VERSION };

/* The server speaks first; an end of the client is passed on, and what comes after it comes back. */
static void serve_farewell(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	char text[64];
	(void)side_puts(s, "hello ");
	ssize_t len = side_rest(s);
	(void)snprintf(text, sizeof(text), "%zd bytes", len);
	(void)side_puts(s, text);
}

START_TEST(half_close)
{
	origin_start(&origin, serve_farewell);
	start_tls_route(origin.port, "terminate", "", "");
	struct client c = connect_tls(versions[_i]);
	check_read(&c, "hello ");
	put(&c, "some");
	ck_assert_int_ge(SSL_shutdown(c.ssl), 0); /* close_notify, and the other side goes on */
	check_read(&c, "4 bytes");
	ck_assert_int_eq(read_end(&c), SSL_ERROR_ZERO_RETURN);
	free_client(&c);
	await_end(EXCHANGE_END_DONE, 1);
	struct worker_stats stats = rig_stats(&rig);
	ck_assert_uint_eq(stats.tunnel_bytes_in, 4);
	ck_assert_uint_eq(stats.tunnel_bytes_out, 13);
	ck_assert_uint_eq(stats.splices, 0);
	stop_tls();
}
END_TEST

static void serve_break(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	(void)side_puts(s, "half");
	(void)side_fill(s);
	break_off(s->fd);
}

/* A reset must not look like an end in good order. */
START_TEST(reset_is_no_end)
{
	origin_start(&origin, serve_break);
	start_tls_route(origin.port, "terminate", "", "");
	struct client c = connect_tls(versions[_i]);
	check_read(&c, "half");
	put(&c, "x");
	ck_assert_int_ne(read_end(&c), SSL_ERROR_ZERO_RETURN);
	free_client(&c);
	await_end(EXCHANGE_END_UPSTREAM_GONE, 1);
	stop_tls();
}
END_TEST

START_TEST(no_target)
{
	origin_start(&origin, serve_echo);
	start_tls_route(free_port(), "terminate", "", "");
	struct client c = connect_tls(versions[_i]);
	ck_assert_int_eq(read_end(&c), SSL_ERROR_ZERO_RETURN);
	free_client(&c);
	await_end(EXCHANGE_END_CONNECT_FAILED, 1);
	stop_tls();
}
END_TEST

static bool has_text(const struct wire_span *span, const char *text)
{
	return span->at != NULL && span->len == strlen(text) &&
	       memcmp(span->at, text, span->len) == 0;
}

static void serve_tlvs(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	struct wire_proxy header;
	enum wire_proxy_reason reason;
	enum wire_step step = WIRE_MORE;
	size_t used = 0;
	while (step == WIRE_MORE && side_fill(s) > 0)
		step = wire_proxy_parse((const uint8_t *)s->data, s->len, &header, &used, &reason);
	bool is_right = step == WIRE_DONE && header.version == 2 && header.has_checksum &&
			header.is_ssl && !header.has_client_cert && !header.is_client_verified &&
			has_text(&header.authority, "a.example") &&
			has_text(&header.ssl_version, "TLSv1.3") && header.ssl_cipher.len > 0;
	(void)side_puts(s, is_right ? "right" : "wrong");
	(void)side_fill(s);
}

START_TEST(header_says_tls)
{
	origin_start(&origin, serve_tlvs);
	start_tls_route(origin.port, "terminate", "", "proxy_protocol = \"v2\";");
	struct client c = connect_tls(TLS1_3_VERSION);
	check_read(&c, "right");
	free_client(&c);
	stop_tls();
}
END_TEST

/* An echo behind TLS, which ends its side in good order when the client has. */
static void serve_tls_echo(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	char data[4096];
	SSL *ssl = SSL_new(server_ctx);
	(void)SSL_set_fd(ssl, s->fd);
	int n = SSL_accept(ssl);
	while (n > 0 && (n = SSL_read(ssl, data, sizeof(data))) > 0)
		n = SSL_write(ssl, data, n);
	bool is_clean = SSL_get_error(ssl, n) == SSL_ERROR_ZERO_RETURN;
	__atomic_store_n(&o->request_cnt, is_clean ? 1 : 2, __ATOMIC_RELEASE);
	(void)SSL_shutdown(ssl);
	SSL_free(ssl);
}

static void await_origin(unsigned request_cnt)
{
	int64_t until_ms = clock_now_ms() + PATIENCE_MS;
	while (__atomic_load_n(&origin.request_cnt, __ATOMIC_ACQUIRE) == 0 &&
	       clock_now_ms() < until_ms)
		nap();
	ck_assert_uint_eq(origin.request_cnt, request_cnt);
}

START_TEST(encrypted_again)
{
	origin_start(&origin, serve_tls_echo);
	start_tls_route(origin.port, "terminate-and-reencrypt", "upstream = { verify = false; };",
			"");
	struct client c = connect_tls(versions[_i]);
	put(&c, "there and back");
	check_read(&c, "there and back");
	ck_assert_int_ge(SSL_shutdown(c.ssl), 0);
	await_origin(1);
	ck_assert_int_eq(read_end(&c), SSL_ERROR_ZERO_RETURN);
	free_client(&c);
	await_end(EXCHANGE_END_DONE, 1);
	stop_tls();
}
END_TEST

/* A client that breaks off is no clean end for the target. */
START_TEST(break_is_passed_on)
{
	origin_start(&origin, serve_tls_echo);
	start_tls_route(origin.port, "terminate-and-reencrypt", "upstream = { verify = false; };",
			"");
	struct client c = connect_tls(versions[_i]);
	put(&c, "ping");
	check_read(&c, "ping");
	set_reset(c.side->fd);
	free_client(&c);
	await_origin(2);
	await_end(EXCHANGE_END_CLIENT_GONE, 1);
	stop_tls();
}
END_TEST

START_TEST(does_not_verify)
{
	origin_start(&origin, serve_tls_echo);
	start_tls_route(origin.port, "terminate-and-reencrypt", "", "");
	struct client c = connect_tls(versions[_i]);
	ck_assert_int_eq(read_end(&c), SSL_ERROR_ZERO_RETURN);
	free_client(&c);
	await_end(EXCHANGE_END_UPSTREAM_TLS, 1);
	stop_tls();
}
END_TEST

/* ---- a port that changes its kind ---- */

#define FLOOD_CNT  4
#define PUBLISH_MS 3000

static bool is_over; /* atomic */

static void *flood(void *arg)
{
	(void)arg;
	struct addr a = loopback(rig.port);
	while (!__atomic_load_n(&is_over, __ATOMIC_ACQUIRE)) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		SP_ASSERT(fd >= 0);
		(void)connect(fd, &a.sa, a.len);
		set_reset(fd);
		(void)close(fd);
	}
	return NULL;
}

static struct config *load_kind(uint16_t port, uint16_t target_port, bool is_tls)
{
	char tls[256] = "";
	if (is_tls)
		(void)snprintf(tls, sizeof(tls),
			       "tls: { mode = \"terminate\"; certificate = { chain_file = \"%s\"; "
			       "key_file = \"%s\"; }; };",
			       chain_file, key_file);
	return load_text(
		"routes: ( { name = \"kind\"; match = { address = \"127.0.0.1\"; ports = "
		"[ %u ]; }; action = { type = \"forward\"; protocol = \"tcp\"; targets = ( "
		"{ host = \"127.0.0.1\"; port = %u; } ); %s }; } );",
		(unsigned)port, (unsigned)target_port, tls);
}

/* Raw TCP by one generation and TLS by the next, between two looks at the same connection. */
START_TEST(changes_its_kind)
{
	sp_role_assume_control();
	make_files();
	uint16_t port = free_port(), target_port = free_port();
	rig_start(&rig, load_kind(port, target_port, false), port);
	struct config *other = load_kind(port, target_port, true);
	pthread_t threads[FLOOD_CNT];
	for (int i = 0; i < FLOOD_CNT; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, flood, NULL), 0);
	int64_t until_ms = clock_now_ms() + PUBLISH_MS;
	for (bool is_tls = true; clock_now_ms() < until_ms; is_tls = !is_tls) {
		struct generation *g = NULL;
		struct text text = { 0 };
		ck_assert_int_eq(generation_build(rig.generations, is_tls ? other : rig.config,
						  false, &g, &text),
				 ERR_OK);
		generation_publish(rig.generations, g);
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELEASE);
	for (int i = 0; i < FLOOD_CNT; i++)
		(void)pthread_join(threads[i], NULL);
	ck_assert_uint_gt(rig_stats(&rig).connections_accepted, 0);
	rig_stop(&rig);
	config_put(other);
	drop_files();
}
END_TEST

int main(void)
{
	(void)signal(SIGPIPE, SIG_IGN);
	Suite *suite = suite_create("proxy_tls");
	TCase *tc = tcase_create("tls");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, half_close, 0, SP_ARRAY_LEN(versions));
	tcase_add_loop_test(tc, reset_is_no_end, 0, SP_ARRAY_LEN(versions));
	tcase_add_loop_test(tc, no_target, 0, SP_ARRAY_LEN(versions));
	tcase_add_test(tc, header_says_tls);
	tcase_add_loop_test(tc, encrypted_again, 0, SP_ARRAY_LEN(versions));
	tcase_add_loop_test(tc, break_is_passed_on, 0, SP_ARRAY_LEN(versions));
	tcase_add_loop_test(tc, does_not_verify, 0, SP_ARRAY_LEN(versions));
	tcase_add_test(tc, changes_its_kind);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
