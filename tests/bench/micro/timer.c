/* The timer wheel: what a connection's deadlines cost. */
#include <stdlib.h>

#include "../../../src/net/timer_wheel.h"
#include "micro.h"
#include "smartproxy/assert.h"

#define TIMER_CNT 100000
#define SPREAD_MS 60000

struct wheel_bench {
	struct timer_wheel wheel;
	int64_t now_ms;
	size_t fired_cnt;
	struct timer timers[TIMER_CNT];
};

static struct wheel_bench *bench;

static void on_due(struct timer *timer)
{
	MICRO_KEEP(timer);
	bench->fired_cnt++;
}

static int64_t due_of(size_t ix)
{
	return bench->now_ms + 1 + (int64_t)(ix * 7919 % SPREAD_MS);
}

static void arm_and_disarm(void *arg, size_t cnt)
{
	(void)arg;
	for (size_t i = 0; i < cnt; i++) {
		struct timer *timer = &bench->timers[i % TIMER_CNT];
		wheel_arm(&bench->wheel, timer, due_of(i));
		wheel_disarm(&bench->wheel, timer);
	}
}

/* A deadline that moves on with each request. */
static void postpone(void *arg, size_t cnt)
{
	(void)arg;
	for (size_t i = 0; i < cnt; i++)
		wheel_arm(&bench->wheel, &bench->timers[i % TIMER_CNT],
			  bench->now_ms + SPREAD_MS + (int64_t)(i / TIMER_CNT));
}

static void fire(void *arg, size_t cnt)
{
	(void)arg;
	for (size_t done = 0; done < cnt;) {
		size_t here = cnt - done < TIMER_CNT ? cnt - done : TIMER_CNT;
		for (size_t i = 0; i < here; i++)
			wheel_arm(&bench->wheel, &bench->timers[i], due_of(i));
		bench->fired_cnt = 0;
		for (int64_t end_ms = bench->now_ms + SPREAD_MS; bench->now_ms < end_ms;)
			wheel_advance(&bench->wheel, ++bench->now_ms);
		SP_ASSERT(bench->fired_cnt == here);
		done += here;
	}
}

/* A turn of the loop in which nothing is due. */
static void idle_turn(void *arg, size_t cnt)
{
	(void)arg;
	for (size_t i = 0; i < cnt; i++) {
		wheel_advance(&bench->wheel, bench->now_ms);
		MICRO_KEEP(wheel_next_ms(&bench->wheel));
	}
}

void micro_timer(void)
{
	bench = calloc(1, sizeof(*bench));
	SP_ASSERT(bench != NULL);
	bench->now_ms = 1000000;
	wheel_init(&bench->wheel, bench->now_ms);
	for (size_t i = 0; i < TIMER_CNT; i++)
		bench->timers[i].on_due = on_due;
	micro_time("timer.arm_and_disarm", 0, arm_and_disarm, NULL);
	micro_time("timer.arm_and_fire", 0, fire, NULL);
	for (size_t i = 0; i < TIMER_CNT; i++)
		wheel_arm(&bench->wheel, &bench->timers[i], due_of(i));
	micro_time("timer.idle_turn_100000_armed", 0, idle_turn, NULL);
	micro_time("timer.postpone", 0, postpone, NULL);
	free(bench);
}
