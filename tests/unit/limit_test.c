/* limit: exact over threads, bounded under a flood, nothing left behind. */
#include <check.h>
#include <pthread.h>
#include <stdlib.h>

#include "smartproxy/assert.h"
#include "smartproxy/limit.h"

#define THREAD_CNT 8

static struct addr address(const char *ip, uint16_t port)
{
	struct addr addr;
	ck_assert_int_eq(addr_parse(ip, port, &addr), ERR_OK);
	return addr;
}

static enum limit_verdict enter(struct limits *limits, const struct limit_settings *settings,
				const char *ip, int64_t now_ms)
{
	struct addr client = address(ip, 1234);
	bool is_counted = false;
	enum limit_verdict verdict =
		limits_enter_address(limits, settings, &client, now_ms, &is_counted);
	ck_assert(is_counted ==
		  (verdict == LIMIT_OK && (settings->per_ip > 0 || settings->rate_per_ip > 0)));
	return verdict;
}

static void leave(struct limits *limits, const struct limit_settings *settings, const char *ip)
{
	struct addr client = address(ip, 99);
	limits_leave_address(limits, &client, settings->ipv6_prefix);
}

START_TEST(per_address)
{
	sp_role_assume_control();
	struct limits *limits = NULL;
	struct limit_settings settings = { .per_ip = 2, .ipv6_prefix = 64 };
	ck_assert_int_eq(limits_new(&limits), ERR_OK);
	ck_assert_int_eq(enter(limits, &settings, "192.0.2.1", 0), LIMIT_OK);
	ck_assert_int_eq(enter(limits, &settings, "192.0.2.1", 0), LIMIT_OK);
	ck_assert_int_eq(enter(limits, &settings, "192.0.2.1", 0), LIMIT_PER_IP);
	ck_assert_int_eq(enter(limits, &settings, "192.0.2.2", 0), LIMIT_OK);
	/* One /64 is one client, its neighbour is another. */
	ck_assert_int_eq(enter(limits, &settings, "2001:db8:0:1::1", 0), LIMIT_OK);
	ck_assert_int_eq(enter(limits, &settings, "2001:db8:0:1:ffff::9", 0), LIMIT_OK);
	ck_assert_int_eq(enter(limits, &settings, "2001:db8:0:1::3", 0), LIMIT_PER_IP);
	ck_assert_int_eq(enter(limits, &settings, "2001:db8:0:2::1", 0), LIMIT_OK);
	ck_assert_uint_eq(limits_address_cnt(limits), 4);
	leave(limits, &settings, "192.0.2.1");
	ck_assert_int_eq(enter(limits, &settings, "192.0.2.1", 0), LIMIT_OK);
	leave(limits, &settings, "192.0.2.1");
	leave(limits, &settings, "192.0.2.1");
	leave(limits, &settings, "192.0.2.2");
	leave(limits, &settings, "2001:db8:0:1::7");
	leave(limits, &settings, "2001:db8:0:1::8");
	leave(limits, &settings, "2001:db8:0:2::1");
	ck_assert_uint_eq(limits_address_cnt(limits), 0);
	struct limit_settings off = { .ipv6_prefix = 64 };
	ck_assert_int_eq(enter(limits, &off, "192.0.2.1", 0), LIMIT_OK);
	ck_assert_uint_eq(limits_address_cnt(limits), 0);
	limits_free(limits);
}
END_TEST

static const struct {
	uint32_t rate, burst;
	int64_t at_ms[8]; /* -1 ends */
	const char *want; /* a letter each: y, n */
} rates[] = {
	{ 1, 1, { 0, 0, 999, 1000, 1001, 2000, -1 }, "ynnyny" },
	{ 10, 3, { 0, 0, 0, 0, 99, 100, 100, 200 }, "yyynnyny" },
	{ 2, 0, { 0, 0, 0, 500, 500, -1 }, "yynyn" },
	{ 5,
	  2,
	  { 0, 0, 10000, 10000, 10000, -1 },
	  "yyyyn" }, /* no more than the burst is saved up */
};

START_TEST(rate)
{
	sp_role_assume_control();
	struct limits *limits = NULL;
	struct limit_settings settings = { .rate_per_ip = rates[_i].rate,
					   .burst_per_ip = rates[_i].burst,
					   .ipv6_prefix = 64 };
	ck_assert_int_eq(limits_new(&limits), ERR_OK);
	for (size_t i = 0; i < 8 && rates[_i].at_ms[i] >= 0; i++) {
		enum limit_verdict verdict =
			enter(limits, &settings, "192.0.2.1", 5000 + rates[_i].at_ms[i]);
		ck_assert_msg(verdict == (rates[_i].want[i] == 'y' ? LIMIT_OK : LIMIT_RATE),
			      "step %zu: %d", i, (int)verdict);
		if (verdict == LIMIT_OK)
			leave(limits, &settings, "192.0.2.1");
	}
	/* The address is remembered for its rate, and forgotten when that has recovered. */
	ck_assert_uint_eq(limits_address_cnt(limits), 1);
	limits_free(limits);
}
END_TEST

/* B28: a million addresses that come and go leave a bounded table behind. */
START_TEST(flood_is_bounded)
{
	sp_role_assume_control();
	struct limits *limits = NULL;
	struct limit_settings settings = { .rate_per_ip = 1, .ipv6_prefix = 128 };
	ck_assert_int_eq(limits_new(&limits), ERR_OK);
	struct addr client = address("2001:db8::", 1);
	for (uint32_t i = 0; i < 1000000; i++) {
		bool is_counted = false;
		client.v6.sin6_addr.s6_addr[12] = (uint8_t)(i >> 24);
		client.v6.sin6_addr.s6_addr[13] = (uint8_t)(i >> 16);
		client.v6.sin6_addr.s6_addr[14] = (uint8_t)(i >> 8);
		client.v6.sin6_addr.s6_addr[15] = (uint8_t)i;
		ck_assert_int_eq(
			limits_enter_address(limits, &settings, &client, 1000, &is_counted),
			LIMIT_OK);
		limits_leave_address(limits, &client, settings.ipv6_prefix);
	}
	ck_assert_uint_le(limits_address_cnt(limits), limits_bound());
	ck_assert_uint_gt(limits_address_cnt(limits), limits_bound() / 2);
	limits_free(limits);
}
END_TEST

static struct {
	struct limits *limits;
	struct limit_settings settings;
	struct limit_counter *counter;
	uint32_t open, most; /* atomic: of each kind */
	uint32_t refused;
} burst;

static void note(uint32_t now, uint32_t max)
{
	SP_ASSERT(now <= max);
	uint32_t most = __atomic_load_n(&burst.most, __ATOMIC_RELAXED);
	while (now > most && !__atomic_compare_exchange_n(&burst.most, &most, now, false,
							  __ATOMIC_RELAXED, __ATOMIC_RELAXED))
		;
}

/* Enters and leaves as fast as it can; at no moment are there more than the limit. */
static void *run_burst(void *arg)
{
	(void)arg;
	struct addr client = { 0 };
	SP_ASSERT(addr_parse("192.0.2.7", 1, &client) == ERR_OK);
	for (int i = 0; i < 20000; i++) {
		bool is_counted = false;
		if (limits_enter(burst.limits, &burst.settings) != LIMIT_OK) {
			__atomic_fetch_add(&burst.refused, 1, __ATOMIC_RELAXED);
			continue;
		}
		enum limit_verdict verdict = limits_enter_address(burst.limits, &burst.settings,
								  &client, i, &is_counted);
		if (verdict == LIMIT_OK) {
			bool has_route =
				limit_counter_enter(burst.counter, burst.settings.per_ip - 1);
			note(__atomic_add_fetch(&burst.open, 1, __ATOMIC_RELAXED),
			     burst.settings.per_ip);
			__atomic_sub_fetch(&burst.open, 1, __ATOMIC_RELAXED);
			if (has_route)
				limit_counter_leave(burst.counter);
			limits_leave_address(burst.limits, &client, burst.settings.ipv6_prefix);
		} else {
			SP_ASSERT(verdict == LIMIT_PER_IP);
			__atomic_fetch_add(&burst.refused, 1, __ATOMIC_RELAXED);
		}
		limits_leave(burst.limits);
	}
	return NULL;
}

START_TEST(exact_over_threads)
{
	sp_role_assume_control();
	pthread_t threads[THREAD_CNT];
	burst.settings =
		(struct limit_settings){ .connections = 6, .per_ip = 3, .ipv6_prefix = 64 };
	ck_assert_int_eq(limits_new(&burst.limits), ERR_OK);
	ck_assert_int_eq(limit_counter_get(burst.limits, "r", &burst.counter), ERR_OK);
	for (size_t i = 0; i < THREAD_CNT; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, run_burst, NULL), 0);
	for (size_t i = 0; i < THREAD_CNT; i++)
		(void)pthread_join(threads[i], NULL);
	ck_assert_uint_le(burst.most, 3);
	ck_assert_uint_eq(limits_connection_cnt(burst.limits), 0);
	ck_assert_uint_eq(limits_address_cnt(burst.limits), 0);
	ck_assert_uint_eq(limit_counter_cnt(burst.counter), 0);
	limit_counter_put(burst.limits, burst.counter);
	limits_free(burst.limits);
}
END_TEST

START_TEST(over_all)
{
	sp_role_assume_control();
	struct limits *limits = NULL;
	struct limit_settings settings = { .connections = 2 }, none = { 0 };
	ck_assert_int_eq(limits_new(&limits), ERR_OK);
	ck_assert_int_eq(limits_enter(limits, &settings), LIMIT_OK);
	ck_assert_int_eq(limits_enter(limits, &settings), LIMIT_OK);
	ck_assert_int_eq(limits_enter(limits, &settings), LIMIT_OVERALL);
	ck_assert_uint_eq(limits_connection_cnt(limits), 2);
	ck_assert_int_eq(limits_enter(limits, &none), LIMIT_OK);
	limits_leave(limits);
	limits_leave(limits);
	ck_assert_int_eq(limits_enter(limits, &settings), LIMIT_OK);
	limits_free(limits);
}
END_TEST

static void *run_refused(void *arg)
{
	(void)arg;
	for (int i = 0; i < 200000; i++)
		SP_ASSERT(limits_enter(burst.limits, &burst.settings) == LIMIT_OVERALL);
	__atomic_fetch_add(&burst.refused, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* Who is refused is not counted for a moment: it would refuse who has a place. */
START_TEST(refused_leave_no_trace)
{
	pthread_t threads[2];
	sp_role_assume_control();
	burst.settings = (struct limit_settings){ .connections = 1 };
	ck_assert_int_eq(limits_new(&burst.limits), ERR_OK);
	ck_assert_int_eq(limits_enter(burst.limits, &burst.settings), LIMIT_OK);
	for (size_t i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&threads[i], NULL, run_refused, NULL), 0);
	while (__atomic_load_n(&burst.refused, __ATOMIC_ACQUIRE) < 2)
		ck_assert_uint_eq(limits_connection_cnt(burst.limits), 1);
	for (size_t i = 0; i < 2; i++)
		(void)pthread_join(threads[i], NULL);
	limits_leave(burst.limits);
	limits_free(burst.limits);
}
END_TEST

START_TEST(counters)
{
	struct limits *limits = NULL;
	struct limit_counter *a = NULL, *again = NULL, *b = NULL;
	sp_role_assume_control();
	ck_assert_int_eq(limits_new(&limits), ERR_OK);
	ck_assert_int_eq(limit_counter_get(limits, "a", &a), ERR_OK);
	ck_assert_int_eq(limit_counter_get(limits, "b", &b), ERR_OK);
	ck_assert_ptr_ne(a, b);
	ck_assert(limit_counter_enter(a, 2) && limit_counter_enter(a, 2));
	ck_assert(!limit_counter_enter(a, 2));
	ck_assert(limit_counter_enter(b, 1) && !limit_counter_enter(b, 1));
	/* The route went and came back while its connections stayed: they count still. */
	limit_counter_put(limits, a);
	ck_assert_int_eq(limit_counter_get(limits, "a", &again), ERR_OK);
	ck_assert_ptr_eq(again, a);
	ck_assert(!limit_counter_enter(again, 2));
	limit_counter_leave(a);
	ck_assert_uint_eq(limit_counter_cnt(a), 1);
	/* Gone with connections left; they give back into what is still there. */
	limit_counter_put(limits, a);
	limit_counter_leave(a);
	limit_counter_put(limits, b);
	for (int i = 0; i < 200; i++) { /* left to connections that end later */
		char name[8] = { 'x', (char)('a' + i % 26), (char)('a' + i / 26) };
		struct limit_counter *c = NULL;
		ck_assert_int_eq(limit_counter_get(limits, name, &c), ERR_OK);
		ck_assert(limit_counter_enter(c, 5));
		limit_counter_put(limits, c);
		if (i % 2 == 0)
			limit_counter_leave(c);
	}
	limits_free(limits);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("limit");
	TCase *tc = tcase_create("limits");
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, per_address);
	tcase_add_loop_test(tc, rate, 0, SP_ARRAY_LEN(rates));
	tcase_add_test(tc, flood_is_bounded);
	tcase_add_test(tc, exact_over_threads);
	tcase_add_test(tc, over_all);
	tcase_add_test(tc, refused_leave_no_trace);
	tcase_add_test(tc, counters);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
