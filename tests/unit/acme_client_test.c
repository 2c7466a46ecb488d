/* Signatures, Retry-After, renewal and back-off times, and the challenge route's life with a
 * control room of the test's. */
#include <check.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/acme/challenge_route.h"
#include "../../src/acme/jws.h"
#include "../../src/acme/plan.h"
#include "smartproxy/assert.h"
#include "smartproxy/tls.h"

#define DAY_S 86400

/* ---- base64url (RFC 4648, section 10, without padding; RFC 7515, appendix C) ---- */
static const struct {
	const char *in, *want;
} base64_rows[] = {
	{ "", "" },
	{ "f", "Zg" },
	{ "fo", "Zm8" },
	{ "foo", "Zm9v" },
	{ "foob", "Zm9vYg" },
	{ "fooba", "Zm9vYmE" },
	{ "foobar", "Zm9vYmFy" },
	{ "\x03\xec\xff\xe0\xc1", "A-z_4ME" },
};

START_TEST(base64url)
{
	struct text t = { 0 };
	jws_base64url(&t, base64_rows[_i].in, strlen(base64_rows[_i].in));
	ck_assert_str_eq(t.data != NULL ? t.data : "", base64_rows[_i].want);
	text_fini(&t);
}
END_TEST

/* RFC 7638, 3.1. */
START_TEST(thumbprint_of_the_rfc)
{
	static const char jwk[] =
		"{\"e\":\"AQAB\",\"kty\":\"RSA\",\"n\":"
		"\"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86z"
		"wu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-"
		"5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4Q"
		"yQ5v-65YGjQR0_"
		"FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-b"
		"FTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-"
		"kEgU8awapJzKnqDKgw\"}";
	char digest[JWS_DIGEST_MAX];
	jws_digest(jwk, strlen(jwk), digest);
	ck_assert_str_eq(digest, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}
END_TEST

static json_t *decode_member(const json_t *root, const char *name)
{
	static const char alphabet[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const char *text = json_string_value(json_object_get(root, name));
	char out[2048];
	size_t len = 0;
	unsigned bits = 0, cnt = 0;
	ck_assert_ptr_nonnull(text);
	for (; *text != 0; text++) {
		const char *at = strchr(alphabet, *text);
		ck_assert_ptr_nonnull(at);
		bits = bits << 6 | (unsigned)(at - alphabet);
		cnt += 6;
		if (cnt >= 8) {
			cnt -= 8;
			out[len++] = (char)(bits >> cnt & 255);
		}
	}
	return json_loadb(out, len, 0, NULL);
}

static const struct {
	const char *kid, *payload;
} sign_rows[] = {
	{ NULL, "{\"termsOfServiceAgreed\":true}" },
	{ "https://ca.test/account/1", "{}" },
	{ "https://ca.test/account/1", NULL },
};

START_TEST(signed_request)
{
	struct tls_key *key = NULL;
	struct text body = { 0 };
	struct jws_header header = { .url = "https://ca.test/a\"b",
				     .nonce = "n-1",
				     .kid = sign_rows[_i].kid };
	ck_assert_int_eq(tls_key_generate(TLS_KEY_P256, &key), ERR_OK);
	ck_assert_int_eq(jws_sign(key, &header, sign_rows[_i].payload, &body), ERR_OK);
	json_t *root = json_loadb(body.data, body.len, 0, NULL);
	ck_assert_uint_eq(json_object_size(root), 3);
	json_t *protected = decode_member(root, "protected");
	ck_assert_str_eq(json_string_value(json_object_get(protected, "alg")), "ES256");
	ck_assert_str_eq(json_string_value(json_object_get(protected, "nonce")), "n-1");
	ck_assert_str_eq(json_string_value(json_object_get(protected, "url")), header.url);
	ck_assert_int_eq(json_object_get(protected, "jwk") != NULL, header.kid == NULL);
	ck_assert_int_eq(json_object_get(protected, "kid") != NULL, header.kid != NULL);
	ck_assert_uint_eq(strlen(json_string_value(json_object_get(root, "signature"))), 86);
	if (sign_rows[_i].payload == NULL)
		ck_assert_str_eq(json_string_value(json_object_get(root, "payload")), "");
	else
		json_decref(decode_member(root, "payload"));
	json_decref(protected);
	json_decref(root);
	text_fini(&body);
	tls_key_free(key);
}
END_TEST

/* ---- Retry-After: now is Sun, 06 Nov 1994 08:49:30 GMT ---- */
#define NOW 784111770
static const struct {
	const char *value;
	enum err e;
	int64_t want_ms;
} retry_rows[] = {
	{ "0", ERR_OK, 0 },
	{ "90", ERR_OK, 90000 },
	{ " 7 ", ERR_OK, 7000 },
	{ "Sun, 06 Nov 1994 08:49:37 GMT", ERR_OK, 7000 },
	{ "Sunday, 06-Nov-94 08:49:37 GMT", ERR_OK, 7000 },
	{ "Sun Nov  6 08:49:37 1994", ERR_OK, 7000 },
	{ "Sun, 06 Nov 1994 08:49:20 GMT", ERR_OK, 0 },
	{ "99999999999999999999999", ERR_OK, INT64_C(30) * DAY_S * 1000 },
	{ "", ERR_SYNTAX, 0 },
	{ "-1", ERR_SYNTAX, 0 },
	{ "3.5", ERR_SYNTAX, 0 },
	{ "10 s", ERR_SYNTAX, 0 },
	{ "soon", ERR_SYNTAX, 0 },
	{ "Sun, 06 Nov 1994 08:49:37 GMT x", ERR_SYNTAX, 0 },
};

START_TEST(retry_after)
{
	int64_t ms = -1;
	ck_assert_int_eq(plan_retry_after(retry_rows[_i].value, NOW, &ms), retry_rows[_i].e);
	if (retry_rows[_i].e == ERR_OK)
		ck_assert_int_eq(ms, retry_rows[_i].want_ms);
	else
		ck_assert_int_eq(ms, -1);
}
END_TEST

/* ---- renewal ---- */
static const struct {
	int64_t life_s, before_ms, want_s;
} renew_rows[] = {
	{ 90 * DAY_S, 0, 60 * DAY_S },
	{ 10 * DAY_S, 0, 10 * DAY_S * 2 / 3 },
	{ 10 * DAY_S - 1, 0, (10 * DAY_S - 1) / 2 },
	{ 6 * DAY_S, 0, 3 * DAY_S },
	{ 20, 0, 10 },
	{ 90 * DAY_S, INT64_C(30) * DAY_S * 1000, 60 * DAY_S },
	{ 90 * DAY_S, 3600 * 1000, 90 * DAY_S - 3600 },
	{ 6 * DAY_S, INT64_C(30) * DAY_S * 1000,
	  3 * DAY_S }, /* longer than its life: the default */
	{ 6 * DAY_S, INT64_C(6) * DAY_S * 1000, 3 * DAY_S },
};

START_TEST(renewal)
{
	int64_t begin = 1700000000, end = begin + renew_rows[_i].life_s;
	ck_assert_int_eq(plan_renew_at(begin, end, renew_rows[_i].before_ms) - begin,
			 renew_rows[_i].want_s);
}
END_TEST

static const struct {
	uint32_t run;
	int64_t life_s, want_s;
} rest_rows[] = {
	{ 1, 90 * DAY_S, 60 },
	{ 2, 90 * DAY_S, 120 },
	{ 11, 90 * DAY_S, 61440 },
	{ 12, 90 * DAY_S, DAY_S },
	{ UINT32_MAX, 90 * DAY_S, DAY_S },
	{ 0, 90 * DAY_S, 60 },
	{ 99, DAY_S, DAY_S / 2 },
	{ 99, 30, 60 },
	{ 99, -1, 60 },
};

START_TEST(rest)
{
	ck_assert_int_eq(plan_rest_ms(rest_rows[_i].run, rest_rows[_i].life_s),
			 rest_rows[_i].want_s * 1000);
}
END_TEST

/* ---- back-off ---- */
static const struct {
	enum failure_kind kind;
	uint32_t run;
	int64_t retry_after_ms, want_ms;
} backoff_rows[] = {
	{ FAILURE_NETWORK, 1, -1, 5000 },
	{ FAILURE_NETWORK, 2, -1, 10000 },
	{ FAILURE_NETWORK, 9, -1, 1280000 },
	{ FAILURE_NETWORK, 10, -1, 3600000 },
	{ FAILURE_NETWORK, 4000000000u, -1, 3600000 },
	{ FAILURE_NETWORK, 1, 60000, 60000 },
	{ FAILURE_VALIDATION, 1, -1, 60000 },
	{ FAILURE_VALIDATION, 2, -1, 600000 },
	{ FAILURE_VALIDATION, 3, -1, 6000000 },
	{ FAILURE_VALIDATION, 4, -1, 86400000 },
	{ FAILURE_VALIDATION, 99, -1, 86400000 },
	{ FAILURE_RATE_LIMIT, 1, -1, 3600000 },
	{ FAILURE_RATE_LIMIT, 1, 3000, 3000 },
	{ FAILURE_RATE_LIMIT, 7, 0, 64000 },
	{ FAILURE_RATE_LIMIT, 1, 0, 1000 },
	{ FAILURE_RATE_LIMIT, 0, 0, 512000 },
};

START_TEST(backoff)
{
	ck_assert_int_eq(plan_backoff_ms(backoff_rows[_i].kind, backoff_rows[_i].run,
					 backoff_rows[_i].retry_after_ms),
			 backoff_rows[_i].want_ms);
}
END_TEST

/* ---- the challenge route ---- */
struct room { /* a control room that answers what the test tells it */
	struct challenge_route route;
	struct loop *loop;
	enum err answers[8];
	size_t answer_cnt, asked_cnt;
	bool last_wanted;
	enum acme_route_state until;
};

static enum err answer(void *arg, bool is_wanted, struct port_error *reterr)
{
	struct room *room = arg;
	enum err e = room->asked_cnt < room->answer_cnt ? room->answers[room->asked_cnt] : ERR_OK;
	room->asked_cnt++;
	room->last_wanted = is_wanted;
	if (e == ERR_PORT_IN_USE)
		*reterr =
			(struct port_error){ .code = e, .is_holder_known = true, .holder_pid = 42 };
	return e;
}

static void on_change(struct challenge_route *route)
{
	struct room *room = SP_CONTAINER_OF(route, struct room, route);
	if (route->state == room->until)
		loop_stop(room->loop);
}

static void start_room(struct room *room)
{
	struct acme_ops ops = { .arg = room, .set_challenge_route = answer };
	ck_assert_int_eq(loop_new(&room->loop), ERR_OK);
	challenge_route_init(&room->route, room->loop, &ops, on_change);
}

static void wait_for(struct room *room, enum acme_route_state state)
{
	room->until = state;
	if (room->route.state != state)
		loop_run(room->loop);
	ck_assert_int_eq(room->route.state, state);
}

START_TEST(route_enters_and_leaves_once)
{
	struct room room = { 0 };
	start_room(&room);
	for (int i = 0; i < 3; i++)
		challenge_route_want(&room.route, true);
	ck_assert_int_eq(room.route.state, ACME_ROUTE_ACTIVE);
	ck_assert_uint_eq(room.asked_cnt, 1);
	for (int i = 0; i < 3; i++)
		challenge_route_want(&room.route, false);
	ck_assert_int_eq(room.route.state, ACME_ROUTE_ABSENT);
	ck_assert_uint_eq(room.asked_cnt, 2);
	ck_assert_uint_eq(room.route.activated_cnt, 1);
	ck_assert_uint_eq(room.route.removed_cnt, 1);
	challenge_route_fini(&room.route);
	loop_free(room.loop);
}
END_TEST

START_TEST(route_waits_for_its_port)
{
	struct room room = { .answers = { ERR_PORT_IN_USE, ERR_PORT_IN_USE, ERR_BUSY, ERR_OK },
			     .answer_cnt = 4 };
	start_room(&room);
	challenge_route_want(&room.route, true);
	ck_assert_int_eq(room.route.state, ACME_ROUTE_WAITING_FOR_PORT);
	ck_assert_int_eq(room.route.port_error.code, ERR_PORT_IN_USE);
	ck_assert_int_eq(room.route.port_error.holder_pid, 42);
	wait_for(&room, ACME_ROUTE_ACTIVE);
	ck_assert_uint_eq(room.asked_cnt, 4);
	ck_assert_int_eq(room.route.port_error.code, ERR_OK);
	ck_assert_uint_eq(room.route.activated_cnt, 1);
	challenge_route_fini(&room.route);
	loop_free(room.loop);
}
END_TEST

START_TEST(route_no_longer_wanted_while_waiting)
{
	struct room room = { .answers = { ERR_PORT_IN_USE }, .answer_cnt = 1 };
	start_room(&room);
	challenge_route_want(&room.route, true);
	challenge_route_want(&room.route, false);
	ck_assert_int_eq(room.route.state, ACME_ROUTE_ABSENT);
	ck_assert_uint_eq(room.asked_cnt, 1);
	ck_assert_uint_eq(room.route.activated_cnt + room.route.removed_cnt, 0);
	ck_assert_int_eq(room.route.timer.due_ms, 0);
	loop_free(room.loop);
}
END_TEST

START_TEST(route_busy_is_no_conflict)
{
	struct room room = { .answers = { ERR_BUSY, ERR_BUSY, ERR_OK, ERR_BUSY, ERR_OK },
			     .answer_cnt = 5 };
	start_room(&room);
	challenge_route_want(&room.route, true);
	ck_assert_int_eq(room.route.state, ACME_ROUTE_ABSENT);
	wait_for(&room, ACME_ROUTE_ACTIVE);
	challenge_route_want(&room.route, false);
	ck_assert_int_eq(room.route.state, ACME_ROUTE_DRAINING);
	wait_for(&room, ACME_ROUTE_ABSENT);
	ck_assert_uint_eq(room.asked_cnt, 5);
	ck_assert(!room.last_wanted);
	challenge_route_fini(&room.route);
	loop_free(room.loop);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("acme_client");
	TCase *tc = tcase_create("pure");
	tcase_add_loop_test(tc, base64url, 0, (int)SP_ARRAY_LEN(base64_rows));
	tcase_add_test(tc, thumbprint_of_the_rfc);
	tcase_add_loop_test(tc, signed_request, 0, (int)SP_ARRAY_LEN(sign_rows));
	tcase_add_loop_test(tc, retry_after, 0, (int)SP_ARRAY_LEN(retry_rows));
	tcase_add_loop_test(tc, renewal, 0, (int)SP_ARRAY_LEN(renew_rows));
	tcase_add_loop_test(tc, rest, 0, (int)SP_ARRAY_LEN(rest_rows));
	tcase_add_loop_test(tc, backoff, 0, (int)SP_ARRAY_LEN(backoff_rows));
	suite_add_tcase(suite, tc);
	tc = tcase_create("challenge route");
	tcase_add_test(tc, route_enters_and_leaves_once);
	tcase_add_test(tc, route_waits_for_its_port);
	tcase_add_test(tc, route_no_longer_wanted_while_waiting);
	tcase_add_test(tc, route_busy_is_no_conflict);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
