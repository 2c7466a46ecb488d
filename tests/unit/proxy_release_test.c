/* proxy: a port that is given up loses no connection. */
#include <dlfcn.h>
#include <semaphore.h>

#include "proxy_scripts.h"

#define QUEUED_CNT 200

static struct rig rig;
static struct side *sides[QUEUED_CNT];

static void fill_queue(void)
{
	for (int i = 0; i < QUEUED_CNT; i++) {
		sides[i] = rig_connect(&rig);
		ck_assert(sides[i] != NULL && side_puts(sides[i], GET));
	}
}

static void check_queue_is_served(void)
{
	static struct message answer;
	for (int i = 0; i < QUEUED_CNT; i++) {
		ck_assert_msg(take_message(sides[i], &answer, true), "connection %d was lost", i);
		ck_assert_uint_eq(answer.status, 200);
		ck_assert_str_eq(answer.body, "ok");
		side_free(sides[i]);
	}
}

/* Connections that are in the queue when a port is given up are served. */
START_TEST(release_serves_queue)
{
	sp_role_assume_control();
	rig_respond(&rig);
	for (int round = 0; round < 10; round++) {
		fill_queue();
		struct addr addr = rig_give_up_port(&rig);
		ck_assert(rig_connect(&rig) == NULL);
		check_queue_is_served();
		ck_assert(rig_open(&rig, &addr, 1) != NULL);
	}
	rig_stop(&rig);
}
END_TEST

static int slow_ms;

/* How a worker answers control: its turn goes on for a while after that. */
int sem_post(sem_t *sem)
{
	int (*post)(sem_t *);
	*(void **)&post = dlsym(RTLD_NEXT, "sem_post");
	int rc = post(sem);
	int time_ms = __atomic_load_n(&slow_ms, __ATOMIC_RELAXED);
	if (time_ms > 0)
		(void)poll(NULL, 0, time_ms);
	return rc;
}

/* What is in the queue by then is answered by the routes that had the port, though others are published at once. */
START_TEST(release_serves_queue_by_its_routes)
{
	sp_role_assume_control();
	struct text text = { 0 };
	rig_respond(&rig);
	struct config *none = load_text(
		"routes: ( { name = \"none\"; match = { address = \"127.0.0.1\"; ports = [ %u ]; };"
		"action = { type = \"block\"; }; } );",
		(unsigned)rig.port);
	for (int round = 0; round < 3; round++) {
		struct generation *with = NULL, *without = NULL;
		ck_assert_int_eq(generation_build(rig.generations, none, false, &without, &text),
				 ERR_OK);
		/* They find the connections in the queue, and call and connections in one turn. */
		__atomic_store_n(&slow_ms, 200, __ATOMIC_RELAXED);
		ck_assert_int_eq(workers_release(rig.workers, NULL, 0, PATIENCE_MS), ERR_OK);
		fill_queue();
		struct addr addr = rig_give_up_port(&rig);
		generation_publish(rig.generations, without);
		__atomic_store_n(&slow_ms, 0, __ATOMIC_RELAXED);
		check_queue_is_served();
		ck_assert_int_eq(generation_build(rig.generations, rig.config, false, &with, &text),
				 ERR_OK);
		generation_publish(rig.generations, with);
		ck_assert(rig_open(&rig, &addr, 1) != NULL);
	}
	rig_stop(&rig);
	config_put(none);
}
END_TEST

/* A port is given up and taken again while clients come: who got a connection gets an answer. */
START_TEST(release_under_load)
{
	sp_role_assume_control();
	static struct asker askers[4];
	rig_respond(&rig);
	is_over = false;
	for (size_t i = 0; i < SP_ARRAY_LEN(askers); i++) {
		askers[i] = (struct asker){ .rig = &rig, .wants_new = true, .is_stubborn = true };
		ck_assert_int_eq(pthread_create(&askers[i].thread, NULL, keep_asking, &askers[i]),
				 0);
	}
	for (int round = 0; round < 4; round++) {
		unsigned wanted = __atomic_load_n(&askers[0].answered, __ATOMIC_RELAXED) + 20;
		while (!have_answers(askers, 1, wanted))
			nap();
		struct addr addr = rig_give_up_port(&rig);
		ck_assert(rig_open(&rig, &addr, 1) != NULL);
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
	unsigned lost = 0;
	for (size_t i = 0; i < SP_ARRAY_LEN(askers); i++) {
		(void)pthread_join(askers[i].thread, NULL);
		lost += askers[i].asked - askers[i].answered;
	}
	ck_assert_uint_eq(lost, 0);
	rig_stop(&rig);
}
END_TEST
int main(void)
{
	Suite *suite = suite_create("proxy_release");
	TCase *tc = tcase_create("release");
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, release_serves_queue);
	tcase_add_test(tc, release_serves_queue_by_its_routes);
	tcase_add_test(tc, release_under_load);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
