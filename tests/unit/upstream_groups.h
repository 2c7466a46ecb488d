#pragma once
/* Tests of the workers' side of upstream: groups of targets, workers with a loop each. The test's own thread is all
 * of them in turn, unless it starts others. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "../../src/upstream/pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"

#define WORKERS_MAX 4
#define TARGETS_MAX 64

static struct loop *control_loop, *worker_loops[WORKERS_MAX];
static struct upstreams *upstreams;
static struct upstream_worker workers[WORKERS_MAX];
static unsigned worker_cnt;

static inline void set_up_workers(unsigned cnt) SP_TSA(assert_capability(sp_control));
static inline void set_up_workers(unsigned cnt)
{
	sp_role_assume_control();
	rcu_register_thread();
	worker_cnt = cnt;
	ck_assert_int_eq(loop_new(&control_loop), ERR_OK);
	ck_assert_int_eq(upstreams_new(cnt, control_loop, NULL, &upstreams), ERR_OK);
	for (unsigned i = 0; i < cnt; i++) {
		ck_assert_int_eq(loop_new(&worker_loops[i]), ERR_OK);
		workers[i] = (struct upstream_worker){ .loop = worker_loops[i],
						       .ix = i,
						       .idle_max = 4,
						       .idle_ms = 60000,
						       .rand_state = 12345 + i };
	}
	upstreams_set_loops(upstreams, worker_loops);
}

/* The workers end before the registry, the control loop after it. */
static inline void tear_down_workers(void)
{
	sp_role_assume_control();
	for (unsigned i = 0; i < worker_cnt; i++)
		upstream_worker_close_idle(&workers[i], upstreams);
	upstreams_set_loops(upstreams, NULL);
	for (unsigned i = 0; i < worker_cnt; i++)
		loop_free(worker_loops[i]);
	upstreams_free(upstreams);
	loop_free(control_loop);
	rcu_unregister_thread();
}

struct alarm {
	struct timer timer;
	struct loop *loop;
};

static inline void ring(struct timer *timer)
{
	loop_stop(SP_CONTAINER_OF(timer, struct alarm, timer)->loop);
}

static inline void run_ms(struct loop *loop, int64_t ms)
{
	struct alarm alarm = { .timer.on_due = ring, .loop = loop };
	loop_timer_arm(loop, &alarm.timer, clock_now_ms() + ms);
	loop_run(loop);
	loop_timer_disarm(loop, &alarm.timer);
}

/* A group of targets 127.0.0.1:1, :2, ... that all weigh 1; to be changed before make_group. */
struct model {
	struct config_upstream config;
	struct config_target targets[TARGETS_MAX];
	struct upstream_group *group;
};

static inline void model_init(struct model *m, enum config_balance balance, unsigned cnt)
{
	memset(m, 0, sizeof(*m));
	m->config = (struct config_upstream){
		.name = "app",
		.targets = m->targets,
		.target_cnt = cnt,
		.balance = balance,
		.cookie = "smartproxy",
		.queue = 100,
		.queue_timeout_ms = 10000,
		.ejection = { .failures = 5, .time_ms = 10000, .max_share_percent = 50 },
		.retry = { .tries = 3, .budget_percent = 20 }
	};
	for (unsigned i = 0; i < cnt; i++)
		m->targets[i] = (struct config_target){ .host = "127.0.0.1",
							.port = (uint16_t)(i + 1),
							.weight = 1 };
}

static inline void make_group(struct model *m)
{
	struct text why = { 0 };
	sp_role_assume_control();
	enum err e = upstream_group_get(upstreams, &m->config, NULL, &m->group, &why);
	ck_assert_msg(e == ERR_OK, "%s: %s", err_name(e), why.data == NULL ? "" : why.data);
	text_fini(&why);
}

static inline void put_group(struct model *m)
{
	sp_role_assume_control();
	upstream_group_put(upstreams, m->group);
	m->group = NULL;
}

static inline struct upstream *target_at(const struct model *m, unsigned ix)
{
	return m->group->targets[ix].upstream;
}

static inline unsigned choose_by(struct model *m, unsigned worker, struct upstream_choice *choice)
{
	ck_assert_int_eq(upstream_choose(&workers[worker], m->group, choice), ERR_OK);
	ck_assert_ptr_eq(choice->upstream, target_at(m, choice->target_ix));
	return choice->target_ix;
}

/* One choice of its own. */
static inline unsigned choose(struct model *m)
{
	struct upstream_choice choice = { 0 };
	return choose_by(m, 0, &choice);
}
