/* A configuration of N routes from its file to every worker: load, build, swap and grace period, free; and the
 * challenge route, which is put in and taken out by a fork of the root. Readers look routes up meanwhile. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "micro.h"
#include "smartproxy/assert.h"
#include "smartproxy/generation.h"
#include "smartproxy/thread.h"

#define RUNS       9
#define PUBLISHES  15
#define READER_MAX 8

struct publish_bench {
	struct upstreams *upstreams;
	struct tls_slots *slots;
	struct limits *limits;
	struct generations *generations;
	struct loop *loop;
	struct thread *readers[READER_MAX];
	unsigned reader_cnt;
	struct addr listen, client;
	struct {
		atomic_bool wants_stop; /* relaxed */
	} shared;
};

static void read_routes(void *arg)
{
	struct publish_bench *b = arg;
	sp_role_assume_worker();
	const struct route_request request = {
		.port = 8080,
		.listen_addr = &b->listen,
		.host = "host0.example.com",
		.host_len = 17,
		.path = "/",
		.path_len = 1,
		.method = { "GET", 3 },
		.client = &b->client,
	};
	while (!atomic_load_explicit(&b->shared.wants_stop, memory_order_relaxed)) {
		sp_rcu_enter();
		const struct generation *g = generation_current();
		SP_ASSERT(g == NULL || route_find(g->routes, &request) != NULL);
		sp_rcu_leave();
	}
}

static struct config *load(size_t route_cnt)
{
	char path[] = "/tmp/smartproxy-micro-XXXXXX";
	int fd = mkstemp(path);
	FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
	SP_ASSERT(f != NULL);
	(void)fputs("upstreams: ( { name = \"app\"; targets = ( { host = \"127.0.0.1\"; port = 1; "
		    "} ); } );\nroutes: (\n",
		    f);
	for (size_t i = 0; i < route_cnt; i++)
		(void)fprintf(f,
			      "%s{ name = \"r%zu\"; match = { ports = [ 8080 ]; domains = [ "
			      "\"host%zu.example.com\" ]; };"
			      " action = { type = \"forward\"; upstream = \"app\"; }; }\n",
			      i == 0 ? "" : ",", i, i);
	SP_ASSERT(fputs(");\n", f) >= 0 && fclose(f) == 0);
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	SP_ASSERT(config_load(path, &config, &problems) == ERR_OK);
	config_problems_fini(&problems);
	(void)unlink(path);
	return config;
}

static double since(int64_t *begin_ns)
{
	int64_t now_ns = micro_now_ns();
	double spent_ns = (double)(now_ns - *begin_ns);
	*begin_ns = now_ns;
	return spent_ns;
}

static void print(const char *what, size_t route_cnt, const char *unit, struct micro_runs *runs)
{
	char name[64];
	(void)text_format(name, sizeof(name), "publish.%s_%zu_routes", what, route_cnt);
	micro_print(name, unit, runs);
}

/* The published one lives on while the next one is timed. */
static const struct generation *pin_current(void)
{
	sp_rcu_enter();
	const struct generation *g = generation_current();
	if (g != NULL)
		generation_pin(g, 0);
	sp_rcu_leave();
	return g;
}

static void time_routes(struct publish_bench *b, size_t route_cnt) SP_ON_CONTROL SP_NO_RCU;
static void time_routes(struct publish_bench *b, size_t route_cnt)
{
	struct micro_runs loads = { .cnt = 0 }, builds = { .cnt = 0 }, publishes = { .cnt = 0 },
			  frees = { .cnt = 0 };
	for (int i = 0; i < (micro_is_tiny() ? 1 : RUNS); i++) {
		int64_t at_ns = micro_now_ns();
		struct config *config = load(route_cnt);
		micro_add(&loads, since(&at_ns) / (double)route_cnt);
		struct generation *g = NULL;
		struct text why = { 0 };
		SP_ASSERT(generation_build(b->generations, config, false, &g, &why) == ERR_OK);
		text_fini(&why);
		config_put(config);
		micro_add(&builds, since(&at_ns) / (double)route_cnt);
		const struct generation *old = pin_current();
		at_ns = micro_now_ns();
		generation_publish(b->generations, g);
		micro_add(&publishes, since(&at_ns) / 1000);
		if (old == NULL)
			continue;
		generation_unpin(old, 0);
		size_t old_cnt = route_index_cnt(old->routes);
		at_ns = micro_now_ns();
		SP_ASSERT(generation_reap(b->generations) == 0);
		if (old_cnt == route_cnt)
			micro_add(&frees, since(&at_ns) / (double)route_cnt);
	}
	print("load", route_cnt, "ns a route", &loads);
	print("build", route_cnt, "ns a route", &builds);
	print("swap_and_grace", route_cnt, "us", &publishes);
	if (frees.cnt > 0)
		print("free", route_cnt, "ns a route", &frees);
	struct micro_runs forks = { .cnt = 0 };
	for (int i = 0; i < (micro_is_tiny() ? 2 : PUBLISHES); i++) {
		int64_t at_ns = micro_now_ns();
		struct generation *g = NULL;
		SP_ASSERT(generation_fork(b->generations, i % 2 == 0, &g) == ERR_OK);
		generation_publish(b->generations, g);
		micro_add(&forks, since(&at_ns) / 1000);
		SP_ASSERT(generation_reap(b->generations) == 0);
	}
	print("challenge_route", route_cnt, "us", &forks);
}

static void start(struct publish_bench *b)
{
	rcu_register_thread();
	SP_ASSERT(tls_init() == ERR_OK && loop_new(&b->loop) == ERR_OK);
	b->reader_cnt =
		thread_cpu_cnt() < 2 ? 1 : thread_cpu_cnt() - 1; /* one CPU is the publisher's */
	if (b->reader_cnt > READER_MAX)
		b->reader_cnt = READER_MAX;
	SP_ASSERT(upstreams_new(b->reader_cnt, b->loop, NULL, &b->upstreams) == ERR_OK);
	SP_ASSERT(tls_slots_new(&b->slots) == ERR_OK && limits_new(&b->limits) == ERR_OK);
	SP_ASSERT(generations_new(b->reader_cnt, b->upstreams, b->slots, b->limits,
				  &b->generations) == ERR_OK);
	SP_ASSERT(addr_parse("::", 8080, &b->listen) == ERR_OK);
	SP_ASSERT(addr_parse("192.0.2.1", 999, &b->client) == ERR_OK);
	for (unsigned i = 0; i < b->reader_cnt; i++)
		SP_ASSERT(thread_start("reader", read_routes, b, &b->readers[i]) == ERR_OK);
}

static void stop(struct publish_bench *b) SP_ON_CONTROL SP_NO_RCU;
static void stop(struct publish_bench *b)
{
	atomic_store_explicit(&b->shared.wants_stop, true, memory_order_relaxed);
	for (unsigned i = 0; i < b->reader_cnt; i++)
		thread_join(b->readers[i]);
	generations_free(b->generations);
	sp_rcu_drain();
	upstreams_free(b->upstreams);
	limits_free(b->limits);
	tls_slots_free(b->slots);
	loop_free(b->loop);
	tls_fini();
	rcu_unregister_thread();
}

void micro_publish(void)
{
	static const size_t route_cnts[] = { 100, 1000, 10000, 100000 };
	struct publish_bench b = { .loop = NULL };
	sp_role_assume_control();
	start(&b);
	for (size_t i = 0; i < SP_ARRAY_LEN(route_cnts); i++) {
		if (!micro_is_tiny() || route_cnts[i] <= 1000)
			time_routes(&b, route_cnts[i]);
	}
	stop(&b);
}
