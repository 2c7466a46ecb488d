/* proxy: when a source is waited for: times and counts of a made-up clock in, decisions out; and what SO_RCVLOWAT leaves to
 * be told. */
#include <check.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../src/proxy/gather.h"
#include "smartproxy/assert.h"
#include "smartproxy/loop.h"

#define RECORD    16384U
#define RECORD_US 20 /* 819 MB/s */
#define GAIN      (GATHER_BYTES / 4)

static struct gather g;
static int64_t now_us = 1000000;

/* So many bytes, portion by portion, within so long. */
static bool run(uint32_t bytes, uint32_t portion, int64_t time_us)
{
	for (uint32_t at = 0; at < bytes; at += portion)
		gather_count(&g, portion);
	now_us += time_us;
	return gather_end_run(&g, now_us);
}

/* Fast runs until it is one to be gathered from. */
static unsigned runs_needed(void)
{
	unsigned cnt = 1;
	while (!run(RECORD, RECORD, RECORD_US))
		ck_assert_uint_lt(cnt++, 1000);
	return cnt;
}

static void enter(void)
{
	(void)run(RECORD, RECORD, 1000000);
	(void)runs_needed();
	gather_enter(&g);
	gather_wait(&g, now_us, 0);
}

static enum gather_step look(uint32_t bytes)
{
	now_us += SHORT_TIMER_US;
	return gather_look(&g, now_us, bytes);
}

static const struct {
	uint32_t bytes, portion;
	int64_t time_us;
	bool is_worth;
} runs[] = {
	{ RECORD, RECORD, 20, true },
	{ 3 * RECORD, RECORD, 60, true },
	{ GATHER_BYTES, RECORD, GATHER_TIME_US, true },      /* just fast enough */
	{ GATHER_BYTES, RECORD, GATHER_TIME_US + 1, false }, /* just not */
	{ RECORD, RECORD, 1000, false },
	{ RECORD, RECORD, 0, false },  /* nobody can tell yet */
	{ 1 << 20, GAIN, 100, false }, /* much at a time already */
	{ 1 << 20, GAIN / 2, 100, true },
	{ 0, RECORD, 1, false },
	{ 0, RECORD, 0, false },
	{ RECORD, RECORD, -5, false },
	{ RECORD, RECORD, INT64_C(1) << 40, false }, /* no overflow */
	{ RECORD, RECORD, INT64_C(1) << 46, false }, /* since the machine's start two years ago */
};

START_TEST(only_fast_small_portions_are_worth_it)
{
	(void)run(0, 1, 1000); /* the first run began with the clock */
	ck_assert(run(runs[_i].bytes, runs[_i].portion, runs[_i].time_us) == runs[_i].is_worth);
}
END_TEST

START_TEST(first_run_behind_an_idle_time_is_slow)
{
	ck_assert(!run(RECORD, RECORD, 0));
	ck_assert(!run(RECORD, RECORD, 5000000));
	ck_assert(run(RECORD, RECORD, RECORD_US));
}
END_TEST

START_TEST(runs_of_one_turn_are_one_run)
{
	(void)run(0, 1, 1000);
	ck_assert(!run(RECORD, RECORD, 0));
	ck_assert(!run(RECORD, RECORD, 0));
	ck_assert(run(RECORD, RECORD, 3 * RECORD_US));
	ck_assert(!run(RECORD, RECORD, 0));
	ck_assert(!run(RECORD, RECORD, 4 * RECORD_US)); /* 2 records in the time of 4 */
}
END_TEST

START_TEST(endless_run_does_not_wrap)
{
	(void)run(0, 1, 1000);
	for (int i = 0; i < 100000; i++)
		gather_count(&g, RECORD + 7 * RECORD);
	ck_assert_uint_gt(g.run_bytes, GATHER_BYTES);
	ck_assert(!run(0, 1, INT64_C(1000000000)));
}
END_TEST

START_TEST(waits_only_while_more_come)
{
	enter();
	ck_assert_int_eq(look(1), GATHER_WAIT);
	ck_assert_int_eq(look(2), GATHER_WAIT);
	ck_assert_int_eq(look(2), GATHER_LEAVE);
}
END_TEST

START_TEST(nothing_at_the_first_look_ends_it)
{
	enter();
	ck_assert_int_eq(look(0), GATHER_LEAVE);
}
END_TEST

START_TEST(rest_of_the_last_portion_counts_as_seen)
{
	enter();
	gather_wait(&g, now_us, 5000);
	ck_assert_int_eq(look(5000), GATHER_LEAVE);
	gather_wait(&g, now_us, 5000);
	ck_assert_int_eq(look(5001), GATHER_WAIT);
}
END_TEST

/* However steadily they come. _i 1: each look is late, as on a busy machine. */
START_TEST(waits_no_longer_than_said)
{
	enter();
	int64_t begin_us = now_us;
	uint32_t bytes = 0;
	enum gather_step step;
	do {
		now_us += _i * 70;
		step = look(bytes += RECORD * 2);
		ck_assert(step != GATHER_LEAVE || bytes < GAIN);
	} while (step == GATHER_WAIT);
	ck_assert_int_le(now_us - begin_us, GATHER_TIME_US + _i * 70);
	ck_assert_int_gt(now_us - begin_us, GATHER_TIME_US / 2);
	ck_assert(step == GATHER_TAKE);
}
END_TEST

START_TEST(too_few_within_the_longest_wait_end_it)
{
	enter();
	uint32_t bytes = 0;
	enum gather_step step;
	do
		step = look(bytes += 1000);
	while (step == GATHER_WAIT);
	ck_assert(step == GATHER_LEAVE);
}
END_TEST

static unsigned runs_after(bool has_gained)
{
	enter();
	if (has_gained)
		gather_take(&g, GATHER_BYTES);
	gather_leave(&g);
	(void)run(RECORD, RECORD, 1000000);
	return runs_needed();
}

START_TEST(each_one_in_vain_makes_the_next_less_likely)
{
	unsigned last = 1;
	for (int i = 0; i < 7; i++) {
		unsigned cnt = runs_after(false);
		ck_assert_uint_eq(cnt, 2 * last);
		last = cnt;
	}
	ck_assert_uint_eq(runs_after(false), last); /* and not for ever */
	ck_assert_uint_eq(runs_after(true), 1);
	ck_assert_uint_eq(runs_after(false), 2);
}
END_TEST

/* A slow run between them: they are not in a row. */
START_TEST(slow_run_begins_the_count_anew)
{
	for (int i = 0; i < 3; i++)
		ck_assert_uint_gt(runs_after(false), 1);
	(void)run(RECORD, RECORD, 1000000);
	for (int i = 0; i < 7; i++)
		ck_assert(!run(RECORD, RECORD, RECORD_US));
	ck_assert(!run(RECORD, RECORD, 1000000));
	ck_assert_uint_eq(runs_needed(), 8);
}
END_TEST

START_TEST(one_that_is_on_tells_so)
{
	ck_assert(!g.is_on);
	enter();
	ck_assert(g.is_on);
	gather_leave(&g);
	ck_assert(!g.is_on);
}
END_TEST

/* --- what the kernel tells below the mark --- */

static int source, far, epoll;

static void set_mark(int bytes)
{
	ck_assert_int_eq(setsockopt(source, SOL_SOCKET, SO_RCVLOWAT, &bytes, sizeof(bytes)), 0);
}

static uint32_t events_within(int time_ms)
{
	struct epoll_event event = { 0 };
	return epoll_wait(epoll, &event, 1, time_ms) == 1 ? event.events : 0;
}

/* A connection of which one byte has come and waits below the mark. */
static void begin_below_mark(void)
{
	struct sockaddr_in address = { .sin_family = AF_INET,
				       .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0), cnt = 0;
	far = socket(AF_INET, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(listener, (struct sockaddr *)&address, len), 0);
	ck_assert_int_eq(getsockname(listener, (struct sockaddr *)&address, &len), 0);
	ck_assert_int_eq(listen(listener, 1), 0);
	ck_assert_int_eq(connect(far, (struct sockaddr *)&address, len), 0);
	source = accept(listener, NULL, NULL);
	epoll = epoll_create1(0);
	struct epoll_event event = { .events = EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLET };
	ck_assert_int_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, source, &event), 0);
	set_mark(GATHER_BYTES);
	ck_assert_int_eq(send(far, "x", 1, 0), 1);
	while (cnt == 0)
		ck_assert_int_eq(ioctl(source, SIOCINQ, &cnt), 0);
	ck_assert_uint_eq(events_within(0), 0);
}

START_TEST(end_is_told_below_the_mark)
{
	begin_below_mark();
	ck_assert_int_eq(shutdown(far, SHUT_WR), 0);
	ck_assert_uint_eq(events_within(10000), EPOLLIN | EPOLLRDHUP);
}
END_TEST

START_TEST(reset_is_told_below_the_mark)
{
	const struct linger reset = { .l_onoff = 1 };
	begin_below_mark();
	ck_assert_int_eq(setsockopt(far, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)), 0);
	ck_assert_int_eq(close(far), 0);
	uint32_t events = events_within(10000);
	ck_assert_uint_eq(events & (EPOLLHUP | EPOLLERR), EPOLLHUP | EPOLLERR);
}
END_TEST

START_TEST(urgent_bytes_are_told_below_the_mark)
{
	begin_below_mark();
	ck_assert_int_eq(send(far, "!", 1, MSG_OOB), 1);
	ck_assert_uint_ne(events_within(10000) & EPOLLPRI, 0);
}
END_TEST

START_TEST(lower_mark_tells_at_once)
{
	begin_below_mark();
	set_mark(1);
	ck_assert_uint_eq(events_within(10000), EPOLLIN);
}
END_TEST

START_TEST(mark_that_is_reached_is_told)
{
	static const char bytes[GATHER_BYTES];
	begin_below_mark();
	ck_assert_int_eq(send(far, bytes, sizeof(bytes), 0), (int)sizeof(bytes));
	ck_assert_uint_eq(events_within(10000), EPOLLIN);
}
END_TEST

/* The window is too small for it: told all the same, else both sides would wait for ever. */
START_TEST(mark_that_cannot_be_reached_stops_nobody)
{
	static const char bytes[GATHER_BYTES];
	int small = 16 << 10;
	begin_below_mark();
	ck_assert_int_eq(setsockopt(source, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	for (size_t at = 0; at < sizeof(bytes);) {
		ssize_t n = send(far, bytes + at, sizeof(bytes) - at, MSG_DONTWAIT);
		if (n > 0)
			at += (size_t)n;
		else if (events_within(10000) != 0)
			while (recv(source, (char[4096]){ 0 }, 4096, MSG_DONTWAIT) > 0)
				;
		else
			ck_abort_msg("stuck");
	}
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("proxy_gather");
	TCase *tc = tcase_create("gather");
	tcase_add_loop_test(tc, only_fast_small_portions_are_worth_it, 0, SP_ARRAY_LEN(runs));
	tcase_add_test(tc, first_run_behind_an_idle_time_is_slow);
	tcase_add_test(tc, runs_of_one_turn_are_one_run);
	tcase_add_test(tc, endless_run_does_not_wrap);
	tcase_add_test(tc, waits_only_while_more_come);
	tcase_add_test(tc, nothing_at_the_first_look_ends_it);
	tcase_add_test(tc, rest_of_the_last_portion_counts_as_seen);
	tcase_add_loop_test(tc, waits_no_longer_than_said, 0, 2);
	tcase_add_test(tc, too_few_within_the_longest_wait_end_it);
	tcase_add_test(tc, each_one_in_vain_makes_the_next_less_likely);
	tcase_add_test(tc, slow_run_begins_the_count_anew);
	tcase_add_test(tc, one_that_is_on_tells_so);
	suite_add_tcase(suite, tc);
	tc = tcase_create("kernel");
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, end_is_told_below_the_mark);
	tcase_add_test(tc, reset_is_told_below_the_mark);
	tcase_add_test(tc, urgent_bytes_are_told_below_the_mark);
	tcase_add_test(tc, lower_mark_tells_at_once);
	tcase_add_test(tc, mark_that_is_reached_is_told);
	tcase_add_test(tc, mark_that_cannot_be_reached_stops_nobody);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed_cnt = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed_cnt == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
