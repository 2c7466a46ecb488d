#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../src/net/timer_wheel.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/loop.h"
#include "smartproxy/thread.h"

/* --- the wheel, its time driven by hand --- */

static struct timer_wheel wheel;
static int64_t wheel_now_ms;

struct probe {
	struct timer timer;
	int64_t due_ms; /* the model: 0 when not armed */
	int64_t fired_ms;
	unsigned fired_cnt;
	struct probe *disarms; /* in its callback */
	int64_t rearm_after_ms;
};

static int64_t last_due_ms;

static void on_probe(struct timer *timer)
{
	struct probe *probe = SP_CONTAINER_OF(timer, struct probe, timer);
	if (probe->due_ms == 0 || probe->due_ms > wheel_now_ms || probe->due_ms < last_due_ms)
		ck_abort_msg("disarmed, early or out of order");
	last_due_ms = probe->due_ms;
	probe->due_ms = 0;
	probe->fired_ms = wheel_now_ms;
	probe->fired_cnt++;
	if (probe->disarms != NULL) {
		wheel_disarm(&wheel, &probe->disarms->timer);
		probe->disarms->due_ms = 0;
	}
	if (probe->rearm_after_ms != 0) {
		probe->due_ms = wheel_now_ms + probe->rearm_after_ms;
		wheel_arm(&wheel, &probe->timer, probe->due_ms);
	}
}

static void arm(struct probe *probe, int64_t due_ms)
{
	probe->timer.on_due = on_probe;
	probe->due_ms = due_ms;
	wheel_arm(&wheel, &probe->timer, due_ms);
}

static void advance(int64_t now_ms)
{
	wheel_now_ms = now_ms;
	last_due_ms = 0;
	wheel_advance(&wheel, now_ms);
}

/* As the loop does: never beyond what the wheel asks for. */
static void advance_by_steps(int64_t until_ms)
{
	for (int64_t next_ms; (next_ms = wheel_next_ms(&wheel)) >= 0 && next_ms <= until_ms;)
		advance(next_ms);
	advance(until_ms);
}

/* Distances around the borders of each level. */
static const int64_t distances_ms[] = { 1,        2,        63,       64,      65,     4095,
					4096,     4097,     262143,   262144,  262145, 16777216,
					1L << 30, 1L << 31, 1L << 36, 1L << 40 };
static const int64_t starts_ms[] = { 0, 1, 62, 63, 64, 4095, 4096, 262143, 123456789 };

START_TEST(wheel_fires_on_the_millisecond)
{
	for (size_t i = 0; i < SP_ARRAY_LEN(starts_ms); i++) {
		struct probe probe = { 0 };
		wheel_init(&wheel, starts_ms[i]);
		int64_t due_ms = starts_ms[i] + distances_ms[_i];
		arm(&probe, due_ms);
		advance_by_steps(due_ms - 1);
		ck_assert_uint_eq(probe.fired_cnt, 0);
		advance_by_steps(due_ms);
		ck_assert_uint_eq(probe.fired_cnt, 1);
		ck_assert_int_eq(wheel_next_ms(&wheel), -1);
	}
}
END_TEST

START_TEST(wheel_asks_for_few_wakeups)
{
	struct probe probe = { 0 };
	wheel_init(&wheel, 12345);
	arm(&probe, 12345 + 60000);
	int wakeup_cnt = 0;
	for (int64_t next_ms; (next_ms = wheel_next_ms(&wheel)) >= 0; wakeup_cnt++)
		advance(next_ms);
	ck_assert_uint_eq(probe.fired_cnt, 1);
	ck_assert_int_le(wakeup_cnt, 3);
}
END_TEST

START_TEST(wheel_rearms_later_and_earlier)
{
	struct probe probe = { 0 };
	wheel_init(&wheel, 100);
	arm(&probe, 150);
	arm(&probe, 100000);
	arm(&probe, 500);
	advance_by_steps(499);
	ck_assert_uint_eq(probe.fired_cnt, 0);
	advance_by_steps(500);
	ck_assert_uint_eq(probe.fired_cnt, 1);
	arm(&probe, 90000);
	arm(&probe, 600);
	advance_by_steps(600);
	ck_assert_uint_eq(probe.fired_cnt, 2);
	advance_by_steps(200000);
	ck_assert_uint_eq(probe.fired_cnt, 2);
}
END_TEST

START_TEST(wheel_past_due_comes_once_next)
{
	struct probe probe = { .rearm_after_ms = -50 };
	wheel_init(&wheel, 1000);
	arm(&probe, 10);
	ck_assert_int_eq(wheel_next_ms(&wheel), 1001);
	advance(5000); /* re-arms in the past each time: must not spin */
	ck_assert_uint_eq(probe.fired_cnt, 1);
	advance(5001);
	ck_assert_uint_eq(probe.fired_cnt, 2);
	wheel_disarm(&wheel, &probe.timer);
	wheel_disarm(&wheel, &probe.timer);
	ck_assert_int_eq(wheel_next_ms(&wheel), -1);
	arm(&probe, -5);
	ck_assert_int_ne(probe.timer.due_ms, 0);
}
END_TEST

START_TEST(wheel_disarms_in_callback)
{
	struct probe victims[2] = { 0 }, killer = { .disarms = &victims[0] };
	wheel_init(&wheel, 0);
	arm(&killer, 70);
	arm(&victims[0], 70);
	arm(&victims[1], 70);
	advance_by_steps(1000);
	ck_assert_uint_eq(killer.fired_cnt, 1);
	ck_assert_uint_eq(victims[0].fired_cnt, 0);
	ck_assert_uint_eq(victims[1].fired_cnt, 1);
}
END_TEST

#define PROBE_CNT 4000

static int64_t random_distance(void)
{
	return 1 + random() % (INT64_C(1) << (random() % 24));
}

/* Random arming, re-arming, disarming and jumps of time against the model in struct probe. */
START_TEST(wheel_agrees_with_model)
{
	static struct probe probes[PROBE_CNT];
	srandom((unsigned)_i + 1);
	int64_t now_ms = random();
	wheel_init(&wheel, now_ms);
	for (int round = 0; round < 300; round++) {
		for (int i = 0; i < 100; i++) {
			struct probe *probe = &probes[random() % PROBE_CNT];
			if (random() % 5 == 0) {
				wheel_disarm(&wheel, &probe->timer);
				probe->due_ms = 0;
			} else {
				arm(probe, now_ms + random_distance());
			}
		}
		now_ms += random_distance();
		if (random() % 2 == 0)
			advance_by_steps(now_ms);
		else
			advance(now_ms);
		int64_t earliest_ms = INT64_MAX;
		bool same = true;
		for (int i = 0; i < PROBE_CNT; i++) {
			same &= probes[i].due_ms == probes[i].timer.due_ms;
			if (probes[i].due_ms == 0)
				continue;
			if (probes[i].due_ms < earliest_ms)
				earliest_ms = probes[i].due_ms;
		}
		int64_t next_ms = wheel_next_ms(&wheel);
		ck_assert(same);
		ck_assert_int_gt(earliest_ms, now_ms); /* none forgotten */
		ck_assert(earliest_ms == INT64_MAX || (next_ms > now_ms && next_ms <= earliest_ms));
	}
}
END_TEST

/* --- the loop --- */

#define POSTER_CNT 4
#define POST_CNT   20000

static struct loop *loop;
static unsigned next_of[POSTER_CNT];
static unsigned seen_cnt;

struct message {
	struct task task;
	unsigned poster, number;
};

static struct message messages[POSTER_CNT][POST_CNT];

static void on_message(struct task *task)
{
	struct message *m = SP_CONTAINER_OF(task, struct message, task);
	if (m->number != next_of[m->poster]++)
		ck_abort_msg("out of order");
	if (++seen_cnt == POSTER_CNT * POST_CNT)
		loop_stop(loop);
}

static void post_all(void *arg)
{
	struct message *mine = arg;
	for (unsigned i = 0; i < POST_CNT; i++)
		loop_post(loop, &mine[i].task);
}

START_TEST(post_keeps_order_per_thread)
{
	struct thread *threads[POSTER_CNT];
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	for (unsigned p = 0; p < POSTER_CNT; p++) {
		for (unsigned i = 0; i < POST_CNT; i++)
			messages[p][i] = (struct message){ { NULL, on_message }, p, i };
		ck_assert_int_eq(thread_start("post", post_all, messages[p], &threads[p]), ERR_OK);
	}
	loop_run(loop);
	for (unsigned p = 0; p < POSTER_CNT; p++)
		thread_join(threads[p]);
	ck_assert_uint_eq(seen_cnt, POSTER_CNT * POST_CNT);
	ck_assert_uint_gt(loop_turns(loop), 0);
	loop_free(loop);
}
END_TEST

struct end {
	struct io io;
	struct task task;
	struct end *other;
	bool wants_close;
	unsigned ready_cnt;
	int step; /* order of what happened */
};

static int step_cnt;

static void on_deferred(struct task *task)
{
	SP_CONTAINER_OF(task, struct end, task)->step = ++step_cnt;
	loop_stop(loop);
}

static void on_end(struct io *io, uint32_t events)
{
	struct end *end = SP_CONTAINER_OF(io, struct end, io);
	ck_assert(events & EPOLLIN);
	end->ready_cnt++;
	end->step = ++step_cnt;
	loop_defer(loop, &end->task);
	if (end->other != NULL) { /* both are ready in this turn */
		int fd = end->other->io.fd;
		if (end->wants_close) {
			loop_close(loop, &end->other->io);
			ck_assert_int_eq(fcntl(fd, F_GETFD), -1);
		} else {
			loop_remove(loop, &end->other->io);
			ck_assert_int_eq(close(fd), 0);
		}
		ck_assert_int_eq(end->other->io.fd, -1);
		loop_close(loop, &end->other->io);
	}
}

static void make_pair(struct end *end, int *ret_far_fd)
{
	int fds[2];
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds), 0);
	*end = (struct end){ .io = { fds[0], on_end }, .task = { NULL, on_deferred } };
	ck_assert_int_eq(loop_add(loop, &end->io, EPOLLIN | EPOLLET), ERR_OK);
	*ret_far_fd = fds[1];
}

START_TEST(remove_drops_pending_event)
{
	struct end a, b;
	int far_a, far_b;
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	make_pair(&a, &far_a);
	make_pair(&b, &far_b);
	a.other = &b;
	b.other = &a;
	a.wants_close = b.wants_close = _i == 1;
	ck_assert_int_eq(write(far_a, "x", 1), 1);
	ck_assert_int_eq(write(far_b, "x", 1), 1);
	loop_run(loop);
	ck_assert_uint_eq(a.ready_cnt + b.ready_cnt, 1);
	loop_free(loop);
}
END_TEST

START_TEST(defer_runs_after_all_events)
{
	struct end a, b;
	int far_a, far_b;
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	make_pair(&a, &far_a);
	make_pair(&b, &far_b);
	ck_assert_int_eq(write(far_a, "x", 1), 1);
	ck_assert_int_eq(write(far_b, "x", 1), 1);
	loop_run(loop);
	ck_assert_uint_eq(a.ready_cnt, 1);
	ck_assert_uint_eq(b.ready_cnt, 1);
	ck_assert_int_ge(a.step, 3); /* the deferred steps came after both events */
	ck_assert_int_ge(b.step, 3);
	ck_assert_int_eq(step_cnt, 4);
	loop_free(loop);
}
END_TEST

START_TEST(add_refuses_bad_descriptor)
{
	struct io io = { .fd = 1 << 20, .on_ready = on_end };
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	ck_assert_int_eq(loop_add(loop, &io, EPOLLIN), ERR_SYSTEM);
	loop_remove(loop, &io);
	ck_assert_int_eq(io.fd, -1);
	loop_remove(loop, &io);
	loop_free(loop);
}
END_TEST

static int64_t fired_ms;

static void on_due(struct timer *timer)
{
	(void)timer;
	fired_ms = clock_now_ms();
	loop_stop(loop);
}

START_TEST(timer_wakes_a_sleeping_loop)
{
	struct timer timer = { .on_due = on_due };
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	int64_t due_ms = clock_now_ms() + 30;
	loop_timer_arm(loop, &timer, due_ms);
	loop_run(loop);
	ck_assert_int_ge(fired_ms, due_ms);
	ck_assert_int_le(loop_turns(loop), 4);
	loop_free(loop);
}
END_TEST

struct brief {
	struct short_timer timer;
	struct brief *disarms;
	int64_t armed_us, fired_us;
	unsigned fired_cnt, rearm_cnt;
	int step;
	bool is_last;
};

static void arm_brief(struct brief *brief)
{
	brief->armed_us = loop_now_us(loop);
	loop_short_timer_arm(loop, &brief->timer);
}

static void on_brief(struct short_timer *timer)
{
	struct brief *brief = SP_CONTAINER_OF(timer, struct brief, timer);
	brief->fired_us = clock_now_us();
	brief->fired_cnt++;
	brief->step = ++step_cnt;
	if (brief->disarms != NULL)
		loop_short_timer_disarm(&brief->disarms->timer);
	if (brief->rearm_cnt > 0) {
		brief->rearm_cnt--;
		arm_brief(brief);
	} else if (brief->is_last) {
		loop_stop(loop);
	}
}

static void need_short_timers(void)
{
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	if (!loop_has_short_timers(loop))
		exit(EXIT_SUCCESS);
}

START_TEST(short_timers_fire_in_order_and_not_early)
{
	struct brief briefs[4] = { 0 };
	need_short_timers();
	for (size_t i = 0; i < SP_ARRAY_LEN(briefs); i++) {
		briefs[i].timer.on_due = on_brief;
		arm_brief(&briefs[i]);
	}
	arm_brief(&briefs[0]); /* again: now it is the last one */
	briefs[0].is_last = true;
	briefs[1].disarms = &briefs[2];
	loop_run(loop);
	ck_assert_int_eq(briefs[1].step, 1);
	ck_assert_uint_eq(briefs[2].fired_cnt, 0);
	ck_assert_int_eq(briefs[3].step, 2);
	ck_assert_int_eq(briefs[0].step, 3);
	ck_assert_uint_eq(briefs[0].fired_cnt, 1);
	ck_assert_int_ge(briefs[1].fired_us, briefs[1].armed_us + SHORT_TIMER_US);
	loop_free(loop);
}
END_TEST

/* Neither a busy loop nor one that sleeps for longer: with a timer of a minute beside it. */
START_TEST(short_timer_rearms_in_its_callback)
{
	struct timer minute = { .on_due = on_due };
	struct brief brief = { .timer.on_due = on_brief, .rearm_cnt = 50, .is_last = true };
	need_short_timers();
	int64_t begin_us = loop_now_us(loop);
	loop_timer_arm(loop, &minute, loop_now_ms(loop) + 60000);
	arm_brief(&brief);
	loop_run(loop);
	ck_assert_uint_eq(brief.fired_cnt, 51);
	ck_assert_int_ge(brief.fired_us, begin_us + INT64_C(51) * SHORT_TIMER_US);
	ck_assert_uint_le(loop_turns(loop), 2 * 51 + 2);
	ck_assert_int_eq(fired_ms, 0);
	loop_short_timer_disarm(&brief.timer);
	loop_free(loop);
}
END_TEST

static struct brief *behind;

static void on_end_before(struct io *io, uint32_t events)
{
	(void)io;
	(void)events;
	step_cnt++;
	if (behind->is_last)
		return;
	loop_short_timer_disarm(&behind->timer);
	loop_stop(loop);
}

/* _i 1: the event disarms it. */
START_TEST(short_timer_fires_behind_the_events_of_its_turn)
{
	struct brief brief = { .timer.on_due = on_brief, .is_last = _i == 0 };
	struct end end;
	int far;
	need_short_timers();
	make_pair(&end, &far);
	end.io.on_ready = on_end_before;
	behind = &brief;
	arm_brief(&brief);
	while (clock_now_us() < brief.timer.due_us)
		;
	ck_assert_int_eq(write(far, "x", 1), 1);
	loop_run(loop);
	ck_assert_uint_eq(brief.fired_cnt, _i == 0);
	ck_assert_int_eq(brief.step, _i == 0 ? 2 : 0);
	loop_free(loop);
}
END_TEST

#define JOB_CNT 50

struct job {
	int input, output;
	bool is_done;
};
static struct job jobs[JOB_CNT];
static unsigned done_cnt;

static void work(void *arg)
{
	struct job *job = arg;
	job->output = job->input * 2;
}

static void done(void *arg)
{
	struct job *job = arg;
	ck_assert_int_eq(job->output, job->input * 2);
	job->is_done = true;
	if (++done_cnt == JOB_CNT)
		loop_stop(loop);
}

/* _i 0: the loop runs them; 1: loop_free alone must finish them. */
START_TEST(offload_runs_every_job)
{
	ck_assert_int_eq(loop_new(&loop), ERR_OK);
	for (int i = 0; i < JOB_CNT; i++) {
		jobs[i].input = i + 1;
		ck_assert_int_eq(loop_offload(loop, work, done, &jobs[i]), ERR_OK);
	}
	if (_i == 0)
		loop_run(loop);
	loop_free(loop);
	ck_assert_uint_eq(done_cnt, JOB_CNT);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("net_loop");
	TCase *tc = tcase_create("loop");
	tcase_set_timeout(tc, 30);
	tcase_add_loop_test(tc, wheel_fires_on_the_millisecond, 0, SP_ARRAY_LEN(distances_ms));
	tcase_add_test(tc, wheel_asks_for_few_wakeups);
	tcase_add_test(tc, wheel_rearms_later_and_earlier);
	tcase_add_test(tc, wheel_past_due_comes_once_next);
	tcase_add_test(tc, wheel_disarms_in_callback);
	tcase_add_loop_test(tc, wheel_agrees_with_model, 0, 5);
	tcase_add_test(tc, post_keeps_order_per_thread);
	tcase_add_loop_test(tc, remove_drops_pending_event, 0, 2);
	tcase_add_test(tc, defer_runs_after_all_events);
	tcase_add_test(tc, add_refuses_bad_descriptor);
	tcase_add_test(tc, timer_wakes_a_sleeping_loop);
	tcase_add_test(tc, short_timers_fire_in_order_and_not_early);
	tcase_add_test(tc, short_timer_rearms_in_its_callback);
	tcase_add_loop_test(tc, short_timer_fires_behind_the_events_of_its_turn, 0, 2);
	tcase_add_loop_test(tc, offload_runs_every_job, 0, 2);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
