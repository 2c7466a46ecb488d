#include <check.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/assert.h"
#include "smartproxy/challenge.h"

static struct challenge_table *table;
static char found[CHALLENGE_TEXT_MAX];

static void set_up(void) SP_TSA(assert_capability(sp_control));
static void set_up(void)
{
	sp_role_assume_control();
	rcu_register_thread();
	ck_assert_int_eq(challenge_table_new(&table), ERR_OK);
}

static void tear_down(void)
{
	sp_role_assume_control();
	challenge_table_free(table);
	sp_rcu_drain();
	rcu_unregister_thread();
}

/* The answer as a string in found, or NULL. */
static const char *find(const char *host, const char *token)
{
	size_t len = 0;
	sp_rcu_enter();
	bool is_there =
		challenge_find(table, host, strlen(host), token, strlen(token), found, &len);
	sp_rcu_leave();
	if (!is_there)
		return NULL;
	found[len] = '\0';
	return found;
}

START_TEST(add_find_remove)
{
	set_up();
	ck_assert_ptr_null(find("a.example", "token-a"));
	ck_assert_int_eq(challenge_add(table, "a.example", "token-a", "token-a.key"), ERR_OK);
	ck_assert_int_eq(challenge_add(table, "b.example", "token-b", "token-b.key"), ERR_OK);
	ck_assert_uint_eq(challenge_cnt(table), 2);
	ck_assert_str_eq(find("a.example", "token-a"), "token-a.key");
	ck_assert_str_eq(find("b.example", "token-b"), "token-b.key");
	ck_assert_int_eq(challenge_add(table, "c.example", "token-a", "other.key"), ERR_EXISTS);
	ck_assert_str_eq(find("a.example", "token-a"), "token-a.key");
	ck_assert_int_eq(challenge_remove(table, "token-a"), ERR_OK);
	ck_assert_ptr_null(find("a.example", "token-a"));
	ck_assert_str_eq(find("b.example", "token-b"), "token-b.key");
	ck_assert_int_eq(challenge_remove(table, "token-a"), ERR_NOENT);
	ck_assert_int_eq(challenge_add(table, "a.example", "token-a", "token-a.key2"), ERR_OK);
	ck_assert_str_eq(find("a.example", "token-a"), "token-a.key2");
	tear_down();
}
END_TEST

static const struct {
	const char *host, *token;
} misses[] = {
	{ "b.example", "token" },     { "", "token" },
	{ "a.exampl", "token" },      { "a.examplex", "token" },
	{ "A.EXAMPLE", "token" },     { "a.example", "toke" },
	{ "a.example", "tokenx" },    { "a.example", "Token" },
	{ "a.example", "" },          { "a.example", "token/" },
	{ "a.example", "token.key" },
};

START_TEST(miss)
{
	set_up();
	ck_assert_int_eq(challenge_add(table, "a.example", "token", "token.key"), ERR_OK);
	ck_assert_ptr_null(find(misses[_i].host, misses[_i].token));
	ck_assert_uint_eq(challenge_served(table, "token"), 0);
	tear_down();
}
END_TEST

/* Nothing that is too long is stored or looked for. */
START_TEST(bounds)
{
	char longest[CHALLENGE_TEXT_MAX + 2];
	memset(longest, 'x', sizeof(longest));
	longest[CHALLENGE_TEXT_MAX + 1] = '\0';
	set_up();
	ck_assert_int_eq(challenge_add(table, "a", "", "k"), ERR_INVALID);
	ck_assert_int_eq(challenge_add(table, "a", "t", &longest[1]), ERR_INVALID);
	ck_assert_int_eq(challenge_add(table, "a", longest, "k"), ERR_INVALID);
	ck_assert_int_eq(challenge_add(table, longest, "t", "k"), ERR_INVALID);
	ck_assert_ptr_null(find("a", longest));
	ck_assert_int_eq(challenge_add(table, "a", "t", &longest[2]), ERR_OK);
	ck_assert_str_eq(find("a", "t"), &longest[2]);
	const char *token = &longest[CHALLENGE_TEXT_MAX + 1 - CHALLENGE_TOKEN_MAX];
	ck_assert_int_eq(challenge_add(table, "a", token, "k"), ERR_OK);
	ck_assert_str_eq(find("a", token), "k");
	tear_down();
}
END_TEST

static unsigned noted_cnt;

static void note(void *arg)
{
	*(unsigned *)arg += 1;
}

START_TEST(served)
{
	set_up();
	challenge_notify(table); /* nobody listens yet */
	challenge_on_served(table, note, &noted_cnt);
	ck_assert_int_eq(challenge_add(table, "a", "t", "k"), ERR_OK);
	ck_assert_int_eq(challenge_add(table, "a", "u", "k"), ERR_OK);
	for (unsigned i = 1; i <= 5; i++) {
		ck_assert_ptr_nonnull(find("a", "t"));
		challenge_notify(table);
		ck_assert_uint_eq(challenge_served(table, "t"), i);
		ck_assert_uint_eq(noted_cnt, i);
	}
	ck_assert_uint_eq(challenge_served(table, "u"), 0);
	ck_assert_uint_eq(challenge_served(table, "none"), 0);
	tear_down();
}
END_TEST

START_TEST(many)
{
	char token[32], key[64];
	set_up();
	for (int i = 0; i < 5000; i++) {
		(void)snprintf(token, sizeof(token), "token-%d", i);
		(void)snprintf(key, sizeof(key), "key of %d", i);
		ck_assert_int_eq(challenge_add(table, "a", token, key), ERR_OK);
	}
	for (int i = 0; i < 5000; i += 2) {
		(void)snprintf(token, sizeof(token), "token-%d", i);
		ck_assert_int_eq(challenge_remove(table, token), ERR_OK);
	}
	ck_assert_uint_eq(challenge_cnt(table), 2500);
	for (int i = 0; i < 5000; i++) {
		(void)snprintf(token, sizeof(token), "token-%d", i);
		(void)snprintf(key, sizeof(key), "key of %d", i);
		if (i % 2 == 0)
			ck_assert_ptr_null(find("a", token));
		else
			ck_assert_str_eq(find("a", token), key);
	}
	tear_down();
}
END_TEST

#define HAMMERED 40

static bool is_over; /* atomic */
/* By token: the control thread has it in the table for sure (atomic). */
static bool is_in[HAMMERED];

static void *hammer(void *arg)
{
	unsigned *hits = arg;
	char token[32], want[64], have[CHALLENGE_TEXT_MAX];
	rcu_register_thread();
	for (unsigned i = 0; !__atomic_load_n(&is_over, __ATOMIC_RELAXED); i = (i + 1) % HAMMERED) {
		(void)snprintf(token, sizeof(token), "token-%u", i);
		(void)snprintf(want, sizeof(want), "%s.key", token);
		size_t len = 0;
		bool was_in = __atomic_load_n(&is_in[i], __ATOMIC_ACQUIRE);
		sp_rcu_enter();
		bool is_found = challenge_find(table, "a", 1, token, strlen(token), have, &len);
		sp_rcu_leave();
		SP_ASSERT(!is_found || (len == strlen(want) && memcmp(have, want, len) == 0));
		/* Only a removal in between excuses a miss. */
		SP_ASSERT(is_found || !was_in || !__atomic_load_n(&is_in[i], __ATOMIC_ACQUIRE) ||
			  i % 2 == 0);
		*hits += is_found;
	}
	rcu_unregister_thread();
	return NULL;
}

/* Odd tokens come once and stay: no removal of another may hide them. Even ones come and go. */
START_TEST(readers_all_along)
{
	pthread_t threads[3];
	unsigned hits[3] = { 0 };
	char token[32], key[64];
	set_up();
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, hammer, &hits[i]), 0);
	for (int round = 0; round < 200; round++) {
		for (unsigned i = 0; i < HAMMERED; i++) {
			(void)snprintf(token, sizeof(token), "token-%u", i);
			(void)snprintf(key, sizeof(key), "%s.key", token);
			if (i % 2 == 1 && round > 0)
				continue;
			if (round % 2 == 1) {
				ck_assert_int_eq(challenge_remove(table, token), ERR_OK);
				continue;
			}
			ck_assert_int_eq(challenge_add(table, "a", token, key), ERR_OK);
			if (i % 2 == 1) {
				sp_rcu_wait();
				__atomic_store_n(&is_in[i], true, __ATOMIC_RELEASE);
			}
		}
		sp_rcu_wait();
	}
	__atomic_store_n(&is_over, true, __ATOMIC_RELAXED);
	unsigned total = 0;
	for (int i = 0; i < 3; i++) {
		(void)pthread_join(threads[i], NULL);
		total += hits[i];
	}
	ck_assert_uint_gt(total, 0);
	tear_down();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("challenge");
	TCase *tc = tcase_create("table");
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, add_find_remove);
	tcase_add_loop_test(tc, miss, 0, SP_ARRAY_LEN(misses));
	tcase_add_test(tc, bounds);
	tcase_add_test(tc, served);
	tcase_add_test(tc, many);
	tcase_add_test(tc, readers_all_along);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
