#include <pthread.h>
#include <string.h>

#include "config_text.h"
#include "smartproxy/assert.h"
#include "smartproxy/generation.h"

#define WORKER_CNT 3

#define FORWARD(name, host)                                                           \
	"{ name = \"" name "\"; match = { ports = [ 8080 ]; path = \"/" name "\"; };" \
	"  action = { type = \"forward\"; targets = ( { host = \"" host "\"; port = 1; } ); }; }"
#define SECURE(name, domains, certificate)                                                 \
	"{ name = \"" name "\"; match = { ports = [ 8443 ]; domains = [ " domains " ]; };" \
	"  action = { type = \"respond\"; tls = { mode = \"terminate\"; certificate "      \
	"= " certificate "; }; }; }"
#define FILES "{ chain_file = \"/nonexistent/chain.pem\"; key_file = \"/nonexistent/key.pem\"; }"

static struct loop *loop;
static struct upstreams *upstreams;
static struct tls_slots *slots;
static struct limits *limits;
static struct generations *generations;

static void set_up(void) SP_TSA(assert_capability(sp_control));
static void set_up(void)
{
	sp_role_assume_control();
	rcu_register_thread();
	ck_assert_int_eq(tls_init(), ERR_OK);
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	ck_assert_int_eq(upstreams_new(WORKER_CNT, loop, NULL, &upstreams), ERR_OK);
	ck_assert_int_eq(tls_slots_new(&slots), ERR_OK);
	ck_assert_int_eq(limits_new(&limits), ERR_OK);
	ck_assert_int_eq(generations_new(WORKER_CNT, upstreams, slots, limits, &generations),
			 ERR_OK);
}

static void tear_down(struct config *config)
{
	sp_role_assume_control();
	generations_free(generations);
	sp_rcu_drain();
	upstreams_free(upstreams);
	limits_free(limits);
	tls_slots_free(slots);
	loop_free(loop);
	ck_assert_uint_eq(config->ref_cnt, 1);
	config_put(config);
	tls_fini();
	rcu_unregister_thread();
}

static struct generation *build(struct config *config)
{
	sp_role_assume_control();
	struct generation *g = NULL;
	struct text why = { 0 };
	enum err e = generation_build(generations, config, false, &g, &why);
	ck_assert_msg(e == ERR_OK, "%s", why.data != NULL ? why.data : err_text(e));
	text_fini(&why);
	return g;
}

static const struct generation *pin_current(unsigned worker_ix)
{
	sp_rcu_enter();
	const struct generation *g = generation_current();
	generation_pin(g, worker_ix);
	sp_rcu_leave();
	return g;
}

START_TEST(pinned_one_survives)
{
	set_up();
	struct config *config = load_text("routes: ( " FORWARD("a", "127.0.0.1") " );");
	struct generation *first = build(config);
	ck_assert_ptr_null(generation_latest(generations));
	generation_publish(generations, first);
	ck_assert_ptr_eq(generation_latest(generations), first);
	ck_assert_uint_eq(first->number, 1);
	ck_assert(pin_current(1) == first && pin_current(1) == first && pin_current(2) == first);
	for (uint64_t i = 2; i < 6; i++) {
		struct generation *g = build(config);
		generation_publish(generations, g);
		ck_assert_uint_eq(g->number, i);
		ck_assert_uint_eq(generation_reap(generations), 1); /* the first one, no other */
	}
	ck_assert_uint_eq(first->number, 1);
	ck_assert_str_eq(route_index_at(first->routes, 0)->config->name, "a");
	generation_unpin(first, 2);
	generation_unpin(first, 1);
	ck_assert_uint_eq(generation_reap(generations), 1);
	generation_unpin(first, 1);
	ck_assert_uint_eq(generation_reap(generations), 0);
	tear_down(config);
}
END_TEST

START_TEST(fork_shares)
{
	set_up();
	struct config *config =
		load_text("acme: { port = 8081; }; routes: ( " FORWARD("a", "127.0.0.1") " );");
	struct generation *first = build(config);
	generation_publish(generations, first);
	const struct route_index *routes = first->routes;
	struct upstream_group *group = route_index_at(routes, 0)->group;
	ck_assert_ptr_nonnull(group);
	struct generation *g = NULL;
	for (int i = 0; i < 5; i++) {
		ck_assert_int_eq(generation_fork(generations, i % 2 == 0, &g), ERR_OK);
		ck_assert_ptr_eq(g->routes, routes);
		ck_assert_ptr_eq(route_index_at(g->routes, 0)->group, group);
		ck_assert(g->has_challenge_route == (i % 2 == 0));
		ck_assert_uint_eq(g->challenge_port, 8081);
		ck_assert_ptr_eq(g->config, config);
		if (i == 3)
			generation_discard(generations, g);
		else
			generation_publish(generations, g);
	}
	generation_discard(generations, NULL);
	ck_assert_uint_eq(generation_reap(generations), 0);
	tear_down(config);
}
END_TEST

static void count_target(void *arg, const struct upstream_view *view)
{
	ck_assert_str_eq(view->name, "127.0.0.1:1");
	++*(size_t *)arg;
}

static size_t count_targets(void)
{
	sp_role_assume_control();
	size_t cnt = 0;
	upstreams_each(upstreams, count_target, &cnt);
	return cnt;
}

/* Targets and slots outlive the generations that share them. */
START_TEST(shares_by_identity)
{
	set_up();
	struct config *config = load_text(
		"routes: ( " FORWARD("a", "127.0.0.1") ", " FORWARD("b", "127.0.0.1") ", " SECURE(
			"c", "\"y.example\", \"x.example\"",
			"\"auto\"") ", " SECURE("d", "\"x.example\", \"y.example\"",
						"\"auto\"") ", " SECURE("e", "\"x.example\"",
									"\"auto\"") " );");
	struct generation *first = build(config);
	struct route *route[5];
	for (size_t i = 0; i < 5; i++)
		route[i] = route_index_at(first->routes, i);
	ck_assert_ptr_null(route[0]->slot);
	ck_assert_ptr_eq(route[2]->slot, route[3]->slot);
	ck_assert_ptr_ne(route[2]->slot, route[4]->slot);
	ck_assert_str_eq(tls_slot_identity(route[2]->slot), "auto:p256:x.example,y.example");
	struct tls_slot *slot = route[2]->slot;
	generation_publish(generations, first);
	ck_assert_uint_eq(count_targets(), 1);
	generation_publish(generations, build(config));
	const struct generation *latest = generation_latest(generations);
	ck_assert_uint_eq(count_targets(), 1);
	ck_assert_ptr_eq(route_index_at(latest->routes, 3)->slot, slot);
	tear_down(config);
}
END_TEST

static const struct {
	const char *text;
	enum err want;
	const char *says[3];
} failures[] = {
	{ "routes: ( " FORWARD("good", "127.0.0.1") ", " SECURE(
		  "auto", "\"x.example\"", "\"auto\"") ", " SECURE("files", "\"y.example\"",
								   FILES) " );",
	  ERR_NOENT,
	  { "route \"files\"", "/nonexistent/chain.pem", "/nonexistent/key.pem" } },
};

/* What cannot be built says why and leaves nothing behind; the published one stays. */
START_TEST(failure)
{
	set_up();
	struct config *good = load_text("routes: ( " FORWARD("a", "127.0.0.1") " );");
	generation_publish(generations, build(good));
	const struct generation *before = generation_latest(generations);
	struct config *config = load_text("%s", failures[_i].text);
	for (int times = 0; times < 3; times++) {
		struct generation *g = NULL;
		struct text why = { 0 };
		enum err e = generation_build(generations, config, false, &g, &why);
		ck_assert_msg(e != ERR_OK && why.data != NULL, "%s", err_name(e));
		ck_assert_str_eq(err_name(e), err_name(failures[_i].want));
		for (size_t i = 0; i < 3; i++)
			ck_assert_msg(strstr(why.data, failures[_i].says[i]) != NULL, "%s",
				      why.data);
		ck_assert_ptr_null(g);
		ck_assert_uint_eq(config->ref_cnt, 1);
		text_fini(&why);
	}
	ck_assert_ptr_eq(generation_latest(generations), before);
	config_put(config);
	tear_down(good);
}
END_TEST

static bool is_over; /* atomic */

struct reader {
	pthread_t thread;
	unsigned ix;
	uint64_t turns;
};

static void *read_on(void *arg)
{
	struct reader *r = arg;
	uint64_t last = 0;
	const struct generation *held = NULL; /* now and then one is kept for longer */
	rcu_register_thread();
	while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED)) {
		const struct generation *g = pin_current(r->ix);
		SP_ASSERT(g->number >= last);
		last = g->number;
		SP_ASSERT(route_index_cnt(g->routes) == g->config->route_cnt);
		struct route *route = route_index_at(g->routes, 0);
		SP_ASSERT(upstream_group_config(route->group)->target_cnt == 1);
		if (held != NULL && r->turns % 64 == 0) {
			SP_ASSERT(held->number <= last && held->config->route_cnt > 0);
			generation_unpin(held, r->ix);
			held = NULL;
		}
		if (held == NULL)
			held = g;
		else
			generation_unpin(g, r->ix);
		r->turns++;
	}
	if (held != NULL)
		generation_unpin(held, r->ix);
	rcu_unregister_thread();
	return NULL;
}

START_TEST(publish_storm)
{
	static struct reader readers[WORKER_CNT];
	set_up();
	struct config *configs[2] = {
		load_text("routes: ( " FORWARD("a", "127.0.0.1") " );"),
		load_text("routes: ( " FORWARD("a", "127.0.0.1") ", " FORWARD("b",
									      "127.0.0.2") " );"),
	};
	generation_publish(generations, build(configs[0]));
	for (unsigned i = 0; i < WORKER_CNT; i++) {
		readers[i].ix = i;
		ck_assert_int_eq(pthread_create(&readers[i].thread, NULL, read_on, &readers[i]), 0);
	}
	for (int i = 0; i < 1000; i++) {
		struct generation *g = NULL;
		if (i % 4 == 3)
			ck_assert_int_eq(generation_fork(generations, i % 8 == 3, &g), ERR_OK);
		else
			g = build(configs[i % 2]);
		generation_publish(generations, g);
		/* Each reader holds two at most: the one in hand and the one it keeps. */
		ck_assert_uint_le(generation_reap(generations), 2 * WORKER_CNT);
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < WORKER_CNT; i++)
		(void)pthread_join(readers[i].thread, NULL);
	ck_assert_uint_eq(generation_reap(generations), 0);
	ck_assert_uint_eq(generation_latest(generations)->number, 1001);
	generations_free(generations);
	ck_assert_int_eq(generations_new(WORKER_CNT, upstreams, slots, limits, &generations),
			 ERR_OK);
	config_put(configs[1]);
	tear_down(configs[0]);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("generation");
	TCase *tc = tcase_create("root");
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, pinned_one_survives);
	tcase_add_test(tc, fork_shares);
	tcase_add_test(tc, shares_by_identity);
	tcase_add_loop_test(tc, failure, 0, SP_ARRAY_LEN(failures));
	tcase_add_test(tc, publish_storm);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
