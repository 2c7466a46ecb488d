/* upstream: who is who among targets, TLS clients that they share, names that are looked up, views. */
#include "smartproxy/thread.h"
#include "upstream_rig.h"

static struct names_server names;
static const struct config_upstream app = { .name = "app" };

/* ---- identity ---- */

struct who {
	const char *group, *host;
	uint16_t port;
	enum config_proxy_protocol proxy;
	const char *server_name;
	bool is_tls;
};
static const struct {
	struct who a, b;
	bool is_same;
} pairs[] = {
	{ { "g", "127.0.0.1", 80 }, { "g", "127.0.0.1", 80 }, true },
	{ { NULL, "127.0.0.1", 80 }, { NULL, "127.0.0.1", 80 }, true },
	{ { "g", "127.0.0.1", 80 }, { "h", "127.0.0.1", 80 }, false },
	{ { "g", "127.0.0.1", 80 }, { NULL, "127.0.0.1", 80 }, false },
	{ { "g", "127.0.0.1", 80 }, { "g", "127.0.0.2", 80 }, false },
	{ { "g", "127.0.0.1", 80 }, { "g", "127.0.0.1", 8 }, false },
	{ { "g", "127.0.0.1", 80 }, { "g", "127.0.0.1", 0 }, false },
	{ { "g", "::1", 80 }, { "g", "::1", 80 }, true },
	{ { "g", "127.0.0.1", 80, CONFIG_PROXY_V1 }, { "g", "127.0.0.1", 80 }, false },
	{ { "g", "127.0.0.1", 80, CONFIG_PROXY_V1 },
	  { "g", "127.0.0.1", 80, CONFIG_PROXY_V2 },
	  false },
	{ { "g", "127.0.0.1", 80, 0, "a", true }, { "g", "127.0.0.1", 80 }, false },
	{ { "g", "127.0.0.1", 80, 0, "a", true }, { "g", "127.0.0.1", 80, 0, "b", true }, false },
	{ { "g", "127.0.0.1", 80, 0, "a", true }, { "g", "127.0.0.1", 80, 0, "a", true }, true },
	{ { "g", "127.0.0.1", 80, 0, NULL, true },
	  { "g", "127.0.0.1", 80, 0, "127.0.0.1", true },
	  true },
};

static struct upstream *get_who(const struct who *who)
{
	sp_role_assume_control();
	struct config_upstream group = { .name = who->group };
	struct config_target target = {
		.host = who->host, .port = who->port, .proxy_protocol = who->proxy, .weight = 1
	};
	struct config_upstream_tls tls = { .server_name = who->server_name };
	struct upstream *u = NULL;
	ck_assert_int_eq(
		registry_get(upstreams, &group, &target, who->is_tls ? &tls : NULL, &u, NULL),
		ERR_OK);
	return u;
}

START_TEST(identity)
{
	rig_open();
	struct upstream *a = get_who(&pairs[_i].a), *b = get_who(&pairs[_i].b);
	ck_assert((a == b) == pairs[_i].is_same);
	ck_assert_uint_eq(names_addrs(a)->cnt, 1);
	ck_assert_uint_eq(addr_port(&names_addrs(a)->list[0]), pairs[_i].a.port);
	registry_put(upstreams, a);
	if (pairs[_i].is_same)
		ck_assert_ptr_eq(get_who(&pairs[_i].a), b);
	rig_close();
}
END_TEST

static const struct {
	const char *host;
	uint16_t port;
	const char *name;
} shown[] = {
	{ "127.0.0.1", 80, "127.0.0.1:80" },
	{ "::1", 8080, "[::1]:8080" },
	{ "127.0.0.1", 0, "127.0.0.1" },
	{ "::1", 0, "[::1]" },
};

START_TEST(name)
{
	rig_open();
	ck_assert_str_eq(upstream_name(rig_get(&app, shown[_i].host, shown[_i].port, NULL)),
			 shown[_i].name);
	rig_close();
}
END_TEST

/* What is known of a target survives for as long as one configuration after the other has it. */
START_TEST(survives_updates)
{
	rig_open();
	struct upstream *u = rig_get(&app, "127.0.0.1", 80, NULL);
	atomic_store(&u->is_down, 1);
	atomic_store(&u->ejected_until_ms, 42);
	u->pools[0].requests = 7;
	for (int i = 0; i < 3; i++) {
		ck_assert_int_eq(upstreams_configure(upstreams, &rig_config), ERR_OK);
		ck_assert_ptr_eq(rig_get(&app, "127.0.0.1", 80, NULL), u);
		registry_put(upstreams, u);
	}
	ck_assert(is_down(u) && atomic_load(&u->ejected_until_ms) == 42);
	ck_assert_uint_eq(u->pools[0].requests, 7);
	registry_put(upstreams, u);
	/* Wanted again while the workers let go: another one. */
	struct upstream *again = rig_get(&app, "127.0.0.1", 80, NULL);
	ck_assert_ptr_ne(again, u);
	ck_assert(!is_down(again));
	run_loop_ms(worker_loop, 1);
	run_loop_ms(control_loop, 1);
	ck_assert_ptr_eq(upstreams->all.next, &again->link);
	ck_assert_ptr_eq(upstreams->all.prev, &again->link);
	rig_close();
}
END_TEST

START_TEST(no_identity_is_cut)
{
	rig_open();
	char long_name[UPSTREAM_IDENTITY_MAX + 1];
	memset(long_name, 'a', sizeof(long_name) - 1);
	long_name[sizeof(long_name) - 1] = '\0';
	struct config_upstream group = { .name = long_name };
	struct config_target target = { .host = "127.0.0.1", .port = 1 };
	struct upstream *u = NULL;
	struct text why = { 0 };
	ck_assert_int_eq(registry_get(upstreams, &group, &target, NULL, &u, &why), ERR_INVALID);
	ck_assert_ptr_nonnull(strstr(why.data, "too long"));
	text_fini(&why);
	rig_close();
}
END_TEST

/* ---- TLS clients ---- */

static void write_cert(const char *file, const char *cn)
{
	struct made made = make_cert(EVP_EC_gen("P-256"), cn, NULL, NULL, 30);
	struct text pem = { 0 };
	add_pem(&pem, &made, false);
	FILE *f = fopen(file, "we");
	ck_assert_ptr_nonnull(f);
	ck_assert_uint_eq(fwrite(pem.data, 1, pem.len, f), pem.len);
	ck_assert_int_eq(fclose(f), 0);
	text_fini(&pem);
	made_fini(&made);
}

static unsigned client_cnt(void)
{
	unsigned cnt = 0;
	LIST_FOREACH(pos, &upstreams->clients)
	cnt++;
	return cnt;
}

START_TEST(clients_are_shared)
{
	rig_open();
	char file[] = "/tmp/upstream_registry_XXXXXX";
	(void)close(mkstemp(file));
	write_cert(file, "one.example");
	struct config_upstream_tls tls = { .wants_verify = true, .ca_file = file };
	struct upstream *first = rig_get(&app, "127.0.0.1", 1, &tls);
	/* Its file is not read again within a round: it could be gone. */
	(void)unlink(file);
	for (uint16_t port = 2; port < 100; port++)
		ck_assert_ptr_eq(rig_get(&app, "127.0.0.1", port, &tls)->tls, first->tls);
	ck_assert_uint_eq(client_cnt(), 1);
	struct config_upstream_tls lax = { .wants_verify = false };
	ck_assert_ptr_ne(rig_get(&app, "127.0.0.1", 1, &lax)->tls, first->tls);

	ck_assert_int_eq(upstreams_configure(upstreams, &rig_config), ERR_OK);
	struct config_target target = { .host = "127.0.0.1", .port = 1 };
	struct upstream *u = NULL;
	struct text why = { 0 };
	ck_assert_int_eq(registry_get(upstreams, &app, &target, &tls, &u, &why), ERR_NOENT);
	ck_assert_msg(strstr(why.data, file) != NULL, "%s", why.data);
	text_fini(&why);

	write_cert(file, "two.example");
	u = rig_get(&app, "127.0.0.1", 1, &tls);
	ck_assert_ptr_ne(u, first); /* another trust, another target */
	ck_assert_ptr_ne(u->tls, first->tls);
	ck_assert_int_eq(upstreams_configure(upstreams, &rig_config), ERR_OK);
	ck_assert_ptr_eq(rig_get(&app, "127.0.0.1", 1, &tls), u); /* read again, the same */
	ck_assert_uint_eq(client_cnt(), 3);
	(void)unlink(file);
	rig_close();
}
END_TEST

/* ---- names ---- */

static char server_text[ADDR_TEXT_MAX];
static const char *const servers[] = { server_text };

static void names_open(const char *ip, uint32_t ttl_s)
{
	sp_role_assume_control();
	names = (struct names_server){ .ips = { ip }, .ttl_s = ttl_s };
	names_server_open(&names);
	(void)text_format(server_text, sizeof(server_text), "127.0.0.1:%u", (unsigned)names.port);
	rig_config.dns.servers = servers;
	rig_config.dns.server_cnt = 1;
	ck_assert_int_eq(upstreams_configure(upstreams, &rig_config), ERR_OK);
}

static bool has_ip(const struct upstream *u, const char *ip)
{
	sp_role_assume_control();
	const struct upstream_addrs *addrs = names_addrs(u);
	char text[ADDR_TEXT_MAX];
	for (unsigned i = 0; addrs != NULL && i < addrs->cnt; i++)
		if (strcmp(addr_format_ip(text, sizeof(text), &addrs->list[i]), ip) == 0)
			return addr_port(&addrs->list[i]) == 80;
	return false;
}

START_TEST(ttl)
{
	rig_open();
	names_open("192.0.2.1", 0);
	struct upstream *u = rig_get(&app, "app.example", 80, NULL);
	ck_assert_ptr_null(names_addrs(u));
	ck_assert_uint_eq(upstreams->first_lookup_cnt, 1);
	WAIT_FOR(has_ip(u, "192.0.2.1"));
	ck_assert_uint_eq(upstreams->first_lookup_cnt, 0);
	const struct upstream_addrs *addrs = names_addrs(u);
	unsigned before = names.query_cnt;
	WAIT_FOR(names.query_cnt > before + 1);
	ck_assert_ptr_eq(names_addrs(u), addrs); /* the same answer changes nothing */
	names.ips[0] = "192.0.2.2";
	names.ips[1] = "192.0.2.3";
	WAIT_FOR(has_ip(u, "192.0.2.2"));
	ck_assert(has_ip(u, "192.0.2.3") && !has_ip(u, "192.0.2.1"));
	addrs = names_addrs(u);
	names.ips[0] = "192.0.2.3"; /* turned round */
	names.ips[1] = "192.0.2.2";
	before = names.query_cnt;
	WAIT_FOR(names.query_cnt > before + 2);
	ck_assert_ptr_eq(names_addrs(u), addrs);
	names_server_shut(&names);
	rig_close();
}
END_TEST

/* Bounds of the TTL: 0 is asked again after min_ttl, a day after max_ttl. */
START_TEST(ttl_bounds)
{
	rig_open();
	names_open("192.0.2.1", _i == 0 ? 0 : 86400);
	struct upstream *u = rig_get(&app, "app.example", 80, NULL);
	WAIT_FOR(has_ip(u, "192.0.2.1"));
	int64_t from_ms = clock_now_ms();
	unsigned before = names.query_cnt;
	WAIT_FOR(names.query_cnt >= before + 3);
	int64_t each_ms = (clock_now_ms() - from_ms) / 3;
	ck_assert_int_ge(each_ms, _i == 0 ? 80 : 420); /* jitter of 10 % */
	if (_i == 0)
		ck_assert_int_lt(each_ms, 400);
	ck_assert_int_le(names_ttl_left_s(u), 1);
	names_server_shut(&names);
	rig_close();
}
END_TEST

/* Failures keep the addresses; an authoritative no does for max_ttl. */
START_TEST(failures_keep)
{
	rig_open();
	names_open("192.0.2.1", 0);
	struct upstream *u = rig_get(&app, "app.example", 80, NULL);
	WAIT_FOR(has_ip(u, "192.0.2.1"));
	names.rcode = 2; /* SERVFAIL */
	WAIT_FOR(u->last_failure == UPSTREAM_FAILURE_UNRESOLVED);
	ck_assert(has_ip(u, "192.0.2.1"));
	int64_t from_ms = clock_now_ms();
	names.rcode = 3; /* NXDOMAIN */
	WAIT_FOR(names_addrs(u) == NULL);
	ck_assert_int_ge(clock_now_ms() - from_ms, 500);
	names.rcode = 0;
	WAIT_FOR(has_ip(u, "192.0.2.1")); /* and it is asked again */
	names_server_shut(&names);
	rig_close();
}
END_TEST

/* A name that has never been resolved is asked again. */
START_TEST(never_resolved)
{
	rig_open();
	names_open("192.0.2.1", 60);
	names.rcode = 3;
	struct upstream *u = rig_get(&app, "app.example", 80, NULL);
	WAIT_FOR(u->last_failure == UPSTREAM_FAILURE_UNRESOLVED);
	ck_assert_ptr_null(names_addrs(u));
	ck_assert_uint_eq(upstreams->first_lookup_cnt, 0);
	names.rcode = 0;
	WAIT_FOR(has_ip(u, "192.0.2.1"));
	names_server_shut(&names);
	rig_close();
}
END_TEST

/* Gone while it is being asked (0), between (1); by the end of the process (2, 3). */
START_TEST(gone_while_asked)
{
	rig_open();
	names_open("192.0.2.1", 0);
	names.is_silent = _i % 2 == 0;
	struct upstream *u = rig_get(&app, "app.example", 80, NULL);
	if (_i % 2 == 0)
		WAIT_FOR(names.query_cnt > 0);
	else
		WAIT_FOR(has_ip(u, "192.0.2.1"));
	if (_i < 2) {
		registry_put(upstreams, u);
		ck_assert_uint_eq(upstreams->first_lookup_cnt, 0);
		run_loop_ms(worker_loop, 1);
		run_loop_ms(control_loop, 150);
		ck_assert(list_is_empty(&upstreams->all));
	}
	names_server_shut(&names);
	rig_close();
}
END_TEST

/* Thousands at once neither stop the control loop nor drown the server; those that go away leave the queue. */
START_TEST(many_names)
{
	enum { CNT = 3000 };
	static struct upstream *all[CNT];
	rig_open();
	rig_config.dns.max_ttl_ms = 60000;
	names_open("192.0.2.1", 60);
	int64_t from_ms = clock_now_ms();
	for (unsigned i = 0; i < CNT; i++) {
		char host[64];
		(void)text_format(host, sizeof(host), "n%u.example", i);
		all[i] = rig_get(&app, host, 80, NULL);
	}
	ck_assert_uint_eq(upstreams->first_lookup_cnt, CNT);
	for (unsigned i = 0; i < CNT; i += 2)
		registry_put(upstreams, all[i]);
	ck_assert_uint_eq(upstreams->first_lookup_cnt, CNT / 2);
	WAIT_FOR(upstreams->first_lookup_cnt == 0);
	for (unsigned i = 1; i < CNT; i += 2)
		ck_assert(has_ip(all[i], "192.0.2.1"));
	ck_assert_uint_eq(upstreams->asking_cnt, 0);
	ck_assert_int_lt(clock_now_ms() - from_ms, RIG_PATIENCE_MS);
	names_server_shut(&names);
	rig_close();
}
END_TEST

static _Atomic bool names_end;

static void serve_names(void *arg)
{
	(void)arg;
	while (!names_end)
		run_loop_ms(worker_loop, 1);
}

/* A start waits for first answers, for some time. */
START_TEST(wait_for_names)
{
	rig_open();
	names_open("192.0.2.1", 60);
	struct thread *thread = NULL;
	/* Served by a thread of its own, since the control loop stands still. */
	int fd = names.io.fd;
	loop_remove(control_loop, &names.io);
	names.io.fd = fd;
	names.is_silent = _i == 1;
	ck_assert_int_eq(loop_add(worker_loop, &names.io, EPOLLIN), ERR_OK);
	ck_assert_int_eq(thread_start("names", serve_names, NULL, &thread), ERR_OK);
	struct upstream *u = rig_get(&app, "app.example", 80, NULL);
	int64_t from_ms = clock_now_ms();
	upstreams_wait_names(upstreams, _i == 0 ? RIG_PATIENCE_MS : 100);
	if (_i == 0)
		ck_assert(has_ip(u, "192.0.2.1"));
	else
		ck_assert_int_ge(clock_now_ms() - from_ms, 100);
	ck_assert_int_lt(clock_now_ms() - from_ms, RIG_PATIENCE_MS);
	names_end = true;
	thread_join(thread);
	loop_remove(worker_loop, &names.io);
	(void)close(fd);
	rig_close();
}
END_TEST

/* One of two addresses answers: the check goes on to it, and begins with it from then on. */
START_TEST(second_address)
{
	rig_open();
	struct origin origin = { 0 };
	origin_open_at(&origin, "127.0.0.3", 0);
	names_open("127.0.0.2", 60);
	names.ips[1] = "127.0.0.3";
	struct config_upstream group = { .name = "app",
					 .check = { .type = CONFIG_CHECK_TCP,
						    .port = origin.port,
						    .interval_ms = 20,
						    .timeout_ms = 1000,
						    .rise = 1,
						    .fall = 1 } };
	struct upstream *u = rig_get(&group, "app.example", 80, NULL);
	health_apply(u, &group); /* before it has an address */
	WAIT_FOR(origin.connection_cnt >= 2);
	ck_assert(!is_down(u));
	names.ips[1] = NULL;
	origin_shut(&origin);
	WAIT_FOR(is_down(u));
	names_server_shut(&names);
	rig_close();
}
END_TEST

/* Readers on another thread while addresses change. */
static void read_addrs(void *arg)
{
	struct upstream *u = arg;
	while (!names_end) {
		sp_rcu_enter();
		const struct upstream_addrs *addrs = sp_rcu_load(&u->addrs);
		if (addrs != NULL)
			ck_assert(addrs->cnt >= 1 && addrs->list[addrs->cnt - 1].len > 0);
		sp_rcu_leave();
	}
}

START_TEST(readers)
{
	rig_open();
	rig_config.dns.min_ttl_ms = 1;
	names_open("192.0.2.1", 0);
	struct thread *thread = NULL;
	struct upstream *u = rig_get(&app, "app.example", 80, NULL);
	ck_assert_int_eq(thread_start("reader", read_addrs, u, &thread), ERR_OK);
	for (int i = 0; i < 20; i++) {
		names.ips[0] = i % 2 == 0 ? "192.0.2.2" : "192.0.2.1";
		WAIT_FOR(has_ip(u, names.ips[0]));
	}
	names_end = true;
	thread_join(thread);
	names_server_shut(&names);
	rig_close();
}
END_TEST

/* ---- views ---- */

static struct upstream_view seen[8];
static char seen_text[8][64];
static unsigned seen_cnt;

static void see(void *arg, const struct upstream_view *view)
{
	ck_assert_ptr_eq(arg, seen);
	ck_assert_uint_lt(seen_cnt, SP_ARRAY_LEN(seen));
	(void)text_format(seen_text[seen_cnt], sizeof(seen_text[0]), "%s", view->last_failure_text);
	seen[seen_cnt++] = *view;
}

static void look(void)
{
	sp_role_assume_control();
	seen_cnt = 0;
	upstreams_each(upstreams, see, seen);
}

START_TEST(views)
{
	rig_open();
	names_open("192.0.2.1", 60);
	names.is_silent = true;
	const struct config_target targets[] = {
		{ .host = "127.0.0.1", .port = 80, .weight = 3, .max_connections = 9 },
		{ .host = "app.example", .port = 81, .weight = 1, .is_backup = true },
	};
	struct config_upstream config = { .name = "app", .targets = targets, .target_cnt = 2 };
	struct config_upstream newer = config;
	struct upstream_group *group = NULL, *next = NULL;
	ck_assert_int_eq(upstream_group_get(upstreams, &config, NULL, &group, NULL), ERR_OK);
	look();
	ck_assert_uint_eq(seen_cnt, 0); /* not in force */
	upstream_group_apply(upstreams, group);
	struct upstream *u = group->targets[0].upstream;
	u->pools[0].requests = 5;
	u->pools[0].idle_cnt = 2;
	upstream_note_failure(u, UPSTREAM_FAILURE_TLS, "it said so");
	look();
	ck_assert_uint_eq(seen_cnt, 2);
	ck_assert_str_eq(seen[0].group, "app");
	ck_assert_str_eq(seen[0].name, "127.0.0.1:80");
	ck_assert_str_eq(seen_text[0], "it said so");
	ck_assert_int_eq(seen[0].last_failure, UPSTREAM_FAILURE_TLS);
	ck_assert_int_gt(seen[0].last_failure_unix_s, 0);
	ck_assert(seen[0].state == UPSTREAM_UP && !seen[0].is_tls && !seen[0].is_backup);
	ck_assert(seen[0].weight == 3 && seen[0].max_connections == 9);
	ck_assert(seen[0].requests == 5 && seen[0].idle == 2 && seen[0].in_use == 0);
	ck_assert(seen[0].addr_cnt == 1 && seen[0].addrs_ttl_s == -1);
	ck_assert(seen[1].state == UPSTREAM_UNRESOLVED && seen[1].is_backup);
	ck_assert(seen[1].addr_cnt == 0 && seen[1].addrs_ttl_s == 0);

	/* Of two configurations that have it, the newer one counts, once it is in force. */
	const struct config_target heavier = { .host = "127.0.0.1", .port = 80, .weight = 7 };
	newer.targets = &heavier;
	newer.target_cnt = 1;
	ck_assert_int_eq(upstream_group_get(upstreams, &newer, NULL, &next, NULL), ERR_OK);
	look();
	ck_assert(seen_cnt == 2 && seen[0].weight == 3);
	upstream_group_apply(upstreams, next);
	look();
	ck_assert(seen_cnt == 2 &&
		  seen[0].weight == 7); /* the other is still in use by the older */
	atomic_store(&u->ejected_until_ms, clock_now_ms() + 60000);
	look();
	ck_assert_int_eq(seen[0].state, UPSTREAM_EJECTED);
	atomic_store(&u->is_down, 1);
	look();
	ck_assert_int_eq(seen[0].state, UPSTREAM_DOWN);
	atomic_store(&u->why_lock, 1); /* a worker is at it: nothing waits */
	look();
	ck_assert_str_eq(seen_text[0], "");
	atomic_store(&u->why_lock, 0);
	upstream_group_put(upstreams, group);
	look();
	ck_assert_uint_eq(seen_cnt, 1);
	upstream_group_put(upstreams, next);
	names_server_shut(&names);
	rig_close();
}
END_TEST

START_TEST(names_of_states)
{
	for (int i = 0; i < UPSTREAM_FAILURE_CNT; i++)
		ck_assert_str_ne(upstream_failure_name((enum upstream_failure)i), "unknown");
	ck_assert_str_eq(upstream_failure_name(UPSTREAM_FAILURE_VERIFY), "tls_verify");
	ck_assert_str_eq(upstream_failure_name((enum upstream_failure)99), "unknown");
	ck_assert_str_eq(upstream_state_name(UPSTREAM_UP), "up");
	ck_assert_str_eq(upstream_state_name(UPSTREAM_UNRESOLVED), "unresolved");
	ck_assert_str_eq(upstream_state_name((enum upstream_state)99), "unknown");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("upstream_registry");
	TCase *tc = tcase_create("control");
	tcase_set_timeout(tc, 60);
	tcase_add_loop_test(tc, identity, 0, SP_ARRAY_LEN(pairs));
	tcase_add_loop_test(tc, name, 0, SP_ARRAY_LEN(shown));
	tcase_add_test(tc, survives_updates);
	tcase_add_test(tc, no_identity_is_cut);
	tcase_add_test(tc, clients_are_shared);
	tcase_add_test(tc, ttl);
	tcase_add_loop_test(tc, ttl_bounds, 0, 2);
	tcase_add_test(tc, failures_keep);
	tcase_add_test(tc, never_resolved);
	tcase_add_loop_test(tc, gone_while_asked, 0, 4);
	tcase_add_test(tc, many_names);
	tcase_add_loop_test(tc, wait_for_names, 0, 2);
	tcase_add_test(tc, second_address);
	tcase_add_test(tc, readers);
	tcase_add_test(tc, views);
	tcase_add_test(tc, names_of_states);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
