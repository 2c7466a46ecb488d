/* When the sockets of a port are deferred: as the generation in force says, whatever fails. */
#include "control_rig.h"

static bool is_deferred(uint16_t port)
{
	char text[96];
	struct answer answer = ask("GET", "/v1/listeners", "");
	(void)snprintf(text, sizeof(text), "\"port\": %u, \"sockets\": 2, \"defer_accept\": true",
		       (unsigned)port);
	return strstr(answer.text, text) != NULL;
}

static const char *raw_json(char *dst, size_t cap, uint16_t port, uint16_t more)
{
	(void)snprintf(
		dst, cap,
		"[{\"name\":\"raw\",\"match\":{\"ports\":[%u],\"address\":\"127.0.0.1\"},"
		"\"action\":{\"type\":\"forward\",\"protocol\":\"tcp\",\"targets\":[{\"host\":"
		"\"127.0.0.1\",\"port\":1}]}},{\"name\":\"more\",\"match\":{\"ports\":[%u],"
		"\"address\":\"127.0.0.1\"},\"action\":{\"type\":\"block\"}}]",
		port, more);
	return dst;
}

static void body_deferral(void)
{
	char raw[640], web[512];
	(void)raw_json(raw, sizeof(raw), ports[0], ports[1]);
	(void)route_json(web, sizeof(web), ports[0]);
	ck_assert(is_deferred(ports[0]));
	adopt_failures = 1; /* found out after the publish */
	expect("PUT", "/v1/routes", raw, 503, "the state before it is in force again");
	ck_assert(is_deferred(ports[0]) && !is_listening(ports[1]));
	expect("PUT", "/v1/routes", raw, 200, "applied");
	ck_assert(!is_deferred(ports[0]) && is_deferred(ports[1]));
	release_failures = 1; /* before it: ports[1] was to go */
	expect("PUT", "/v1/routes", web, 503, "nothing was changed");
	ck_assert(!is_deferred(ports[0]) && is_deferred(ports[1]));
	expect("PUT", "/v1/routes", web, 200, "applied");
	ck_assert(is_deferred(ports[0]));
	ck_assert_int_eq(metric("smartproxy_listener_binds_total"), 6);
}

START_TEST(deferral_follows_what_is_published)
{
	with_control(body_deferral);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("control_defer");
	TCase *tc = tcase_create("control_defer");
	tcase_set_timeout(tc, 30);
	tcase_add_checked_fixture(tc, set_up, clean_up);
	tcase_add_test(tc, deferral_follows_what_is_published);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
