/* Upstreams, listeners, names, tunnels: what an edge node has beyond HTTP routes. */
#include <check.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "config_rig.h"
#include "smartproxy/fault.h"

/* All keys, none with its default. */
static const char whole[] =
	"dns: { servers = [ \"127.0.0.1:5353\", \"192.0.2.53\", \"[2001:db8::53]\", "
	"\"[2001:db8::53]:54\" ]; timeout = \"3s\"; min_ttl = \"2s\"; max_ttl = \"30m\"; };\n"
	"listeners: ( { ports = ( 443, \"8000-8010\" ); address = \"192.0.2.1\"; proxy_protocol = "
	"{ "
	"trusted = [ \"10.0.0.0/8\", \"2001:db8::/32\" ]; }; } );\n"
	"upstreams: ( { name = \"app\"; targets = ( { host = \"10.0.0.10\"; port = 8080; weight = "
	"7; "
	"backup = true; max_connections = 5; proxy_protocol = \"v2\"; }, { host = \"B.example\"; "
	"port "
	"= \"preserve\"; proxy_protocol = \"v1\"; } ); balance = \"hash\"; hash_key = "
	"\"header:X-User\"; hash_bound = 150; max_connections = 9; queue = 8; queue_timeout = "
	"\"7s\"; "
	"slow_start = \"6s\";\n"
	"check = { type = \"https\"; path = \"/up?x=%20\"; host = \"h.example\"; status = "
	"\"200-204\"; port = 81; interval = \"4s\"; timeout = \"3s\"; rise = 5; fall = 6; };\n"
	"ejection = { failures = 2; time = \"20s\"; max_share = 30; }; retry = { tries = 2; budget "
	"= "
	"10; }; },\n"
	"{ name = \"sticky\"; targets = ( { host = \"::1\"; port = 1; } ); balance = \"sticky\"; "
	"cookie = \"sid\"; check = { type = \"http\"; status = \"204\"; }; },\n"
	"{ name = \"plain\"; targets = ( { host = \"::1\"; port = 1; } ); balance = "
	"\"least-connections\"; } );\n"
	"timeouts: { hello = \"6s\"; tunnel_idle = \"2h\"; tunnel_max = \"1d\"; };\n"
	"limits: { connections = 5; connections_per_ip = 4; connection_rate_per_ip = 3; "
	"connection_burst_per_ip = 2; ipv6_prefix = 56; };\n"
	"routes: ( { name = \"named\"; max_connections = 12; match = { ports = [ 80 ]; }; action = "
	"{ "
	"type = \"forward\"; upstream = \"sticky\"; }; },\n"
	"{ name = \"own\"; match = { ports = [ 80 ]; path = \"/own/*\"; }; action = { type = "
	"\"forward\"; targets = ( { host = \"o\"; port = 2; backup = false; } ); balance = "
	"\"round-robin\"; }; },\n"
	"{ name = \"passed\"; match = { ports = [ 443 ]; domains = [ \"a.example\" ]; alpn = [ "
	"\"h2\", "
	"\"acme-tls/1\" ]; }; action = { type = \"forward\"; upstream = \"plain\"; tls = { mode = "
	"\"passthrough\"; }; }; },\n"
	"{ name = \"again\"; match = { ports = [ 443 ]; domains = [ \"b.example\" ]; }; action = { "
	"type "
	"= \"forward\"; upstream = \"app\"; tls = { mode = \"terminate-and-reencrypt\"; "
	"certificate = "
	"\"auto\"; upstream = { verify = false; ca_file = \"ca.pem\"; server_name = "
	"\"In.example\"; "
	"certificate = { chain_file = \"c\"; key_file = \"k\"; }; }; }; }; },\n"
	"{ name = \"raw\"; match = { ports = [ \"9000-9010\" ]; client_ip = [ \"10.0.0.0/8\" ]; }; "
	"action = { type = \"forward\"; protocol = \"tcp\"; targets = ( { host = \"r\"; port = "
	"\"preserve\"; } ); balance = \"hash\"; }; },\n"
	"{ name = \"inner\"; match = { ports = [ 636 ]; }; action = { type = \"forward\"; protocol "
	"= "
	"\"tcp\"; upstream = \"plain\"; tls = { certificate = { chain_file = \"c\"; key_file = "
	"\"k\"; }; }; }; } );\n";

START_TEST(model_of_upstreams)
{
	struct config *c = load_good(whole);
	ck_assert_uint_eq(c->upstream_cnt, 3);
	const struct config_upstream *u = &c->upstreams[0];
	ck_assert_uint_eq(u->line, 3);
	ck_assert_uint_eq(u->target_cnt, 2);
	ck_assert_uint_eq(u->targets[0].weight, 7);
	ck_assert(u->targets[0].is_backup && !u->targets[1].is_backup);
	ck_assert_uint_eq(u->targets[0].max_connections, 5);
	ck_assert_int_eq(u->targets[0].proxy_protocol, CONFIG_PROXY_V2);
	ck_assert_int_eq(u->targets[1].proxy_protocol, CONFIG_PROXY_V1);
	ck_assert_uint_eq(u->targets[1].port, 0);
	ck_assert_str_eq(u->targets[1].host, "b.example");
	ck_assert_int_eq(u->balance, CONFIG_BALANCE_HASH);
	ck_assert_int_eq(u->hash_key, CONFIG_HASH_HEADER);
	ck_assert_str_eq(u->hash_name, "x-user");
	ck_assert_uint_eq(u->hash_bound_percent, 150);
	ck_assert_uint_eq(u->max_connections, 9);
	ck_assert_uint_eq(u->queue, 8);
	ck_assert_int_eq(u->queue_timeout_ms, 7000);
	ck_assert_int_eq(u->slow_start_ms, 6000);
	ck_assert_int_eq(u->check.type, CONFIG_CHECK_HTTPS);
	ck_assert_str_eq(u->check.path, "/up?x=%20");
	ck_assert_str_eq(u->check.host, "h.example");
	ck_assert_uint_eq(u->check.status_first, 200);
	ck_assert_uint_eq(u->check.status_last, 204);
	ck_assert_uint_eq(u->check.port, 81);
	ck_assert_int_eq(u->check.interval_ms, 4000);
	ck_assert_int_eq(u->check.timeout_ms, 3000);
	ck_assert_uint_eq(u->check.rise, 5);
	ck_assert_uint_eq(u->check.fall, 6);
	ck_assert_uint_eq(u->ejection.failures, 2);
	ck_assert_int_eq(u->ejection.time_ms, 20000);
	ck_assert_uint_eq(u->ejection.max_share_percent, 30);
	ck_assert_uint_eq(u->retry.tries, 2);
	ck_assert_uint_eq(u->retry.budget_percent, 10);
	ck_assert_str_eq(c->upstreams[1].cookie, "sid");
	ck_assert_uint_eq(c->upstreams[1].check.status_last, 204);
	put(c);
}
END_TEST

static void assert_defaults(const struct config_upstream *u)
{
	ck_assert_str_eq(u->cookie, "smartproxy");
	ck_assert_int_eq(u->hash_key, CONFIG_HASH_CLIENT_IP);
	ck_assert_ptr_null(u->hash_name);
	ck_assert_uint_eq(u->hash_bound_percent, 125);
	ck_assert_uint_eq(u->max_connections, 0);
	ck_assert_uint_eq(u->queue, 100);
	ck_assert_int_eq(u->queue_timeout_ms, 10000);
	ck_assert_int_eq(u->slow_start_ms, 0);
	ck_assert_int_eq(u->check.type, CONFIG_CHECK_NONE);
	ck_assert_str_eq(u->check.path, "/");
	ck_assert_ptr_null(u->check.host);
	ck_assert_uint_eq(u->check.status_first, 200);
	ck_assert_uint_eq(u->check.status_last, 399);
	ck_assert_uint_eq(u->check.port, 0);
	ck_assert_int_eq(u->check.interval_ms, 5000);
	ck_assert_int_eq(u->check.timeout_ms, 2000);
	ck_assert_uint_eq(u->check.rise, 2);
	ck_assert_uint_eq(u->check.fall, 3);
	ck_assert_uint_eq(u->ejection.failures, 5);
	ck_assert_int_eq(u->ejection.time_ms, 10000);
	ck_assert_uint_eq(u->ejection.max_share_percent, 50);
	ck_assert_uint_eq(u->retry.tries, 3);
	ck_assert_uint_eq(u->retry.budget_percent, 20);
}

START_TEST(model_of_routes)
{
	struct config *c = load_good(whole);
	ck_assert_uint_eq(c->route_cnt, 6);
	const struct config_route *r = c->routes;
	ck_assert_uint_eq(r[0].max_connections, 12);
	ck_assert_ptr_eq(r[0].action.upstream, &c->upstreams[1]);
	const struct config_upstream *own = r[1].action.upstream;
	ck_assert_ptr_nonnull(own);
	ck_assert_ptr_null(own->name);
	ck_assert_ptr_eq(own->targets, r[1].action.targets);
	ck_assert_uint_eq(own->target_cnt, 1);
	ck_assert_int_eq(own->balance, CONFIG_BALANCE_ROUND_ROBIN);
	ck_assert_uint_eq(own->line, r[1].line);
	assert_defaults(own);
	ck_assert_int_eq(r[2].action.tls_mode, CONFIG_TLS_PASSTHROUGH);
	ck_assert_int_eq(r[2].action.protocol, CONFIG_TCP);
	ck_assert_uint_eq(r[2].match.alpn_cnt, 2);
	ck_assert_str_eq(r[2].match.alpn[1], "acme-tls/1");
	const struct config_upstream_tls *tls = &r[3].action.upstream_tls;
	ck_assert_int_eq(r[3].action.protocol, CONFIG_HTTP);
	ck_assert(!tls->wants_verify);
	ck_assert_str_eq(tls->ca_file, "ca.pem");
	ck_assert_str_eq(tls->server_name, "in.example");
	ck_assert_str_eq(tls->chain_file, "c");
	ck_assert_str_eq(tls->key_file, "k");
	ck_assert_int_eq(r[4].action.protocol, CONFIG_TCP);
	ck_assert_int_eq(r[4].action.tls_mode, CONFIG_TLS_NONE);
	ck_assert_int_eq(r[4].action.upstream->balance, CONFIG_BALANCE_HASH);
	ck_assert_uint_eq(r[4].action.upstream->targets[0].port, 0);
	ck_assert_int_eq(r[5].action.tls_mode, CONFIG_TLS_TERMINATE);
	ck_assert_int_eq(r[5].action.protocol, CONFIG_TCP);
	put(c);
}
END_TEST

START_TEST(model_of_the_rest)
{
	struct config *c = load_good(whole);
	ck_assert_uint_eq(c->dns.server_cnt, 4);
	ck_assert_str_eq(c->dns.servers[0], "127.0.0.1:5353");
	ck_assert_str_eq(c->dns.servers[2], "2001:db8::53");
	ck_assert_str_eq(c->dns.servers[3], "[2001:db8::53]:54");
	ck_assert_int_eq(c->dns.timeout_ms, 3000);
	ck_assert_int_eq(c->dns.min_ttl_ms, 2000);
	ck_assert_int_eq(c->dns.max_ttl_ms, 1800000);
	ck_assert_uint_eq(c->listener_cnt, 1);
	ck_assert_uint_eq(c->listeners[0].line, 2);
	ck_assert_uint_eq(c->listeners[0].port_cnt, 2);
	ck_assert_uint_eq(c->listeners[0].ports[1].last, 8010);
	ck_assert_str_eq(c->listeners[0].address, "192.0.2.1");
	ck_assert_uint_eq(c->listeners[0].trusted_cnt, 2);
	ck_assert_str_eq(c->listeners[0].trusted[1], "2001:db8::/32");
	ck_assert_int_eq(c->timeouts.hello_ms, 6000);
	ck_assert_int_eq(c->timeouts.tunnel_idle_ms, 7200000);
	ck_assert_int_eq(c->timeouts.tunnel_max_ms, 86400000);
	ck_assert_uint_eq(c->limits.connections, 5);
	ck_assert_uint_eq(c->limits.connections_per_ip, 4);
	ck_assert_uint_eq(c->limits.connection_rate_per_ip, 3);
	ck_assert_uint_eq(c->limits.connection_burst_per_ip, 2);
	ck_assert_uint_eq(c->limits.ipv6_prefix, 56);
	put(c);
}
END_TEST

START_TEST(defaults)
{
	struct config *c = load_good(
		"upstreams = ( { name = \"a\"; targets = ( { host = \"h\"; port = 1; } ); } );\n");
	ck_assert_uint_eq(c->dns.server_cnt, 0);
	ck_assert_int_eq(c->dns.timeout_ms, 2000);
	ck_assert_int_eq(c->dns.min_ttl_ms, 1000);
	ck_assert_int_eq(c->dns.max_ttl_ms, 3600000);
	ck_assert_uint_eq(c->listener_cnt, 0);
	ck_assert_int_eq(c->timeouts.hello_ms, 5000);
	ck_assert_int_eq(c->timeouts.tunnel_idle_ms, 3600000);
	ck_assert_int_eq(c->timeouts.tunnel_max_ms, 0);
	ck_assert_uint_eq(c->limits.connections, 100000);
	ck_assert_uint_eq(c->limits.connections_per_ip, 0);
	ck_assert_uint_eq(c->limits.connection_rate_per_ip, 0);
	ck_assert_uint_eq(c->limits.connection_burst_per_ip, 0);
	ck_assert_uint_eq(c->limits.ipv6_prefix, 64);
	ck_assert_int_eq(c->upstreams[0].balance, CONFIG_BALANCE_P2C);
	ck_assert_uint_eq(c->upstreams[0].targets[0].weight, 1);
	ck_assert(!c->upstreams[0].targets[0].is_backup);
	ck_assert_uint_eq(c->upstreams[0].targets[0].max_connections, 0);
	ck_assert_int_eq(c->upstreams[0].targets[0].proxy_protocol, CONFIG_PROXY_NONE);
	assert_defaults(&c->upstreams[0]);
	assert_round_trip(c);
	put(c);
}
END_TEST

START_TEST(round_trip)
{
	struct config *c = load_good(whole);
	assert_round_trip(c);
	put(c);
}
END_TEST

/* Routes by the API go to the file's upstreams. */
START_TEST(json_refers_to_upstreams)
{
	static const char good[] =
		"[{\"name\":\"r\",\"match\":{\"ports\":[80]},\"action\":{\"type\":"
		"\"forward\",\"upstream\":\"app\"}}]";
	static const char bad[] =
		"[{\"name\":\"r\",\"match\":{\"ports\":[80]},\"action\":{\"type\":"
		"\"forward\",\"upstream\":\"ap\"}}]";
	struct config *base = load_good(whole), *c = NULL, *none = NULL;
	struct config_problems problems = { 0 };
	ck_assert_int_eq(config_with_routes(base, bad, strlen(bad), &none, &problems), ERR_CONFIG);
	ck_assert_uint_eq(problems.cnt, 1);
	ck_assert_str_eq(problems.items[0].path, "routes[0].action.upstream");
	ck_assert_ptr_nonnull(strstr(problems.items[0].message, "did you mean \"app\"?"));
	ck_assert_int_eq(config_with_routes(base, good, strlen(good), &c, &problems), ERR_OK);
	config_problems_fini(&problems);
	put(base); /* nothing of it is borrowed */
	const struct config_upstream *u = c->routes[0].action.upstream;
	ck_assert_ptr_eq(u, &c->upstreams[0]);
	ck_assert_str_eq(u->hash_name, "x-user");
	ck_assert_str_eq(u->targets[1].host, "b.example");
	ck_assert_str_eq(c->listeners[0].trusted[0], "10.0.0.0/8");
	ck_assert_uint_eq(c->listeners[0].ports[0].first, 443);
	ck_assert_str_eq(c->dns.servers[1], "192.0.2.53");
	put(c);
}
END_TEST

/* Names are found in no time that grows with their number. */
START_TEST(many_upstreams)
{
	const size_t cnt = 20000;
	struct config *c = NULL;
	struct config_problems problems = { 0 };
	struct text text = { 0 };
	struct timespec start, end;
	text_puts(&text, "upstreams = (");
	for (size_t i = 0; i < cnt; i++)
		text_printf(&text,
			    "%s{ name = \"u%zu\"; targets = ( { host = \"h\"; port = 1; } ); }",
			    i ? "," : "", i);
	text_puts(&text, ");\nroutes = (");
	for (size_t i = 0; i < cnt; i++)
		text_printf(&text,
			    "%s{ name = \"r%zu\"; match = { ports = [ 80 ]; }; action = { type = "
			    "\"forward\"; upstream = \"%s%zu\"; }; }\n",
			    i ? "," : "", i, _i ? "v" : "u", cnt - 1 - i);
	text_puts(&text, ");\n");
	ck_assert(!text.has_failed);
	ck_assert_int_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start), 0);
	enum err e = load_bytes(text.data, text.len, &c, &problems);
	ck_assert_int_eq(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end), 0);
	ck_assert_int_eq(e, _i ? ERR_CONFIG : ERR_OK);
	if (c)
		ck_assert_ptr_eq(c->routes[5].action.upstream, &c->upstreams[cnt - 6]);
	ck_assert_int_lt(end.tv_sec - start.tv_sec, 20);
	put(c);
	config_problems_fini(&problems);
	text_fini(&text);
}
END_TEST

/* Whatever a file holds, it is refused, or loaded and printed back; nothing leaks or is read beyond
 * its end. */
START_TEST(damaged_files)
{
	static const char odd[] = "\"{}()[];,=@ 0a:-";
	char bytes[sizeof(whole)];
	unsigned seed = 7;
	for (size_t i = 0; i < 1500; i++) {
		struct config *c = NULL;
		struct config_problems problems = { 0 };
		size_t len = sizeof(whole) - 1;
		memcpy(bytes, whole, sizeof(whole));
		for (size_t j = 0; j < 1 + i % 3; j++) {
			seed = seed * 1103515245 + 12345;
			size_t at = (seed >> 8) % len;
			/* A letter for a letter keeps the syntax and changes words. */
			bool is_letter = bytes[at] >= 'a' && bytes[at] <= 'z';
			bytes[at] = i % 2 && is_letter ? (char)('a' + (seed >> 4) % 26)
						       : odd[(seed >> 4) % (sizeof(odd) - 1)];
		}
		enum err e = load_bytes(bytes, len, &c, &problems);
		ck_assert(e == ERR_OK || (e == ERR_CONFIG && problems.cnt > 0) || e == ERR_NOENT);
		if (c)
			assert_round_trip(c);
		put(c);
		config_problems_fini(&problems);
	}
}
END_TEST

START_TEST(memory_runs_out)
{
	size_t failed_cnt = 0;
	char path[128];
	write_file("test.conf", whole, sizeof(whole) - 1, path);
	ck_assert_int_eq(setenv("SMARTPROXY_FAULTS", "malloc=0.1", 1), 0);
	fault_init();
	for (int i = 0; i < 200; i++) {
		struct config *c = NULL, *other = NULL;
		struct config_problems problems = { 0 };
		enum err e = config_load(path, &c, &problems);
		ck_assert(e == ERR_OK || e == ERR_NOMEM);
		failed_cnt += e == ERR_NOMEM;
		if (c) {
			e = config_with_routes(c, "[]", 2, &other, &problems);
			ck_assert(e == ERR_OK || e == ERR_NOMEM);
		}
		put(c);
		put(other);
		config_problems_fini(&problems);
	}
	ck_assert_uint_gt(failed_cnt, 0);
	ck_assert_uint_lt(failed_cnt, 200);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("config_upstream");
	TCase *tc = tcase_create("config_upstream");
	tcase_add_checked_fixture(tc, make_folder, remove_folder);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, model_of_upstreams);
	tcase_add_test(tc, model_of_routes);
	tcase_add_test(tc, model_of_the_rest);
	tcase_add_test(tc, defaults);
	tcase_add_test(tc, round_trip);
	tcase_add_test(tc, json_refers_to_upstreams);
	tcase_add_loop_test(tc, many_upstreams, 0, 2);
	tcase_add_test(tc, damaged_files);
	tcase_add_test(tc, memory_runs_out);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
