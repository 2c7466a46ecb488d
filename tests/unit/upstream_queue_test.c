/* upstream: places at targets with max_connections, over all workers, and the lines of those who wait;
 * what becomes of requests: ejection, budgets of retries. */
#include "smartproxy/thread.h"
#include "upstream_groups.h"

static struct model model;

static void start_group(unsigned workers_wanted, unsigned max, unsigned queue)
{
	set_up_workers(workers_wanted);
	model_init(&model, CONFIG_BALANCE_P2C, 1);
	model.config.max_connections = max;
	model.config.queue = queue;
	make_group(&model);
}

static void end_group(void)
{
	put_group(&model);
	tear_down_workers();
}

/* ---- one thread ---- */

struct guest {
	struct upstream_ticket ticket;
	unsigned turn; /* 0: not yet */
};
static unsigned turn_cnt;

static void on_turn(struct upstream_ticket *ticket)
{
	ck_assert(ticket->is_held);
	SP_CONTAINER_OF(ticket, struct guest, ticket)->turn = ++turn_cnt;
}

static enum step enter(struct guest *guest, unsigned worker)
{
	struct upstream_choice choice = { .upstream = target_at(&model, 0) };
	guest->ticket.on_turn = on_turn;
	enum step step = upstream_enter(&workers[worker], model.group, &choice, &guest->ticket);
	ck_assert(guest->ticket.is_held == (step == STEP_DONE));
	ck_assert((guest->ticket.upstream != NULL) == (step != STEP_FAIL));
	return step;
}

static void turn_loops(void)
{
	for (unsigned i = 0; i < worker_cnt; i++)
		run_ms(worker_loops[i], 1);
}

static uint32_t places(void)
{
	return atomic_load(&target_at(&model, 0)->place_cnt);
}

static uint32_t waiting(void)
{
	struct upstream *u = target_at(&model, 0);
	uint32_t sum = 0;
	for (unsigned i = 0; i < worker_cnt; i++)
		sum += u->pools[i].waiting_cnt;
	ck_assert_uint_eq(sum, atomic_load(&u->waiting_cnt));
	return sum;
}

START_TEST(no_limit)
{
	start_group(1, 0, 0);
	static struct guest guests[1000];
	struct upstream *u = target_at(&model, 0);
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(enter(&guests[i], 0), STEP_DONE);
	ck_assert_uint_eq(u->pools[0].in_use, 1000);
	ck_assert_uint_eq(places(), 0); /* nothing shared is written */
	for (int i = 0; i < 1000; i++) {
		upstream_leave(&guests[i].ticket);
		upstream_leave(&guests[i].ticket); /* harmless */
	}
	ck_assert_uint_eq(u->pools[0].in_use, 0);
	ck_assert_uint_eq(u->pools[0].requests, 1000);
	end_group();
}
END_TEST

START_TEST(first_come)
{
	start_group(1, 2, 3);
	struct guest g[6] = { 0 };
	turn_cnt = 0;
	ck_assert_int_eq(enter(&g[0], 0), STEP_DONE);
	ck_assert_int_eq(enter(&g[1], 0), STEP_DONE);
	for (int i = 2; i < 5; i++)
		ck_assert_int_eq(enter(&g[i], 0), STEP_READ);
	ck_assert_int_eq(enter(&g[5], 0), STEP_FAIL); /* the line is full */
	upstream_leave(&g[0].ticket);
	ck_assert_uint_eq(g[2].turn, 0); /* not from within */
	/* Who comes now does not go first. */
	ck_assert_int_eq(enter(&g[5], 0), STEP_FAIL);
	turn_loops();
	ck_assert_uint_eq(g[2].turn, 1);
	ck_assert_int_eq(enter(&g[5], 0), STEP_READ);
	upstream_leave(&g[1].ticket);
	upstream_leave(&g[2].ticket);
	turn_loops();
	ck_assert(g[3].turn == 2 && g[4].turn == 3 && g[5].turn == 0);
	ck_assert_uint_eq(places(), 2);
	upstream_leave(&g[3].ticket);
	upstream_leave(&g[4].ticket);
	turn_loops();
	ck_assert_uint_eq(g[5].turn, 4);
	upstream_leave(&g[5].ticket);
	ck_assert_uint_eq(places(), 0);
	end_group();
}
END_TEST

/* Who leaves the line while a place is on the way leaves the place to the next one, or to nobody. */
START_TEST(cancelled)
{
	start_group(2, 1, 10);
	struct guest g[4] = { 0 };
	turn_cnt = 0;
	ck_assert_int_eq(enter(&g[0], 0), STEP_DONE);
	ck_assert_int_eq(enter(&g[1], 1), STEP_READ);
	ck_assert_int_eq(enter(&g[2], 0), STEP_READ);
	ck_assert_int_eq(enter(&g[3], 0), STEP_READ);
	upstream_leave(&g[3].ticket); /* merely waits */
	ck_assert_uint_eq(waiting(), 2);
	upstream_leave(&g[0].ticket);
	if (_i == 0) { /* both give up: the place is free in the end */
		upstream_leave(&g[1].ticket);
		upstream_leave(&g[2].ticket);
		turn_loops();
		turn_loops();
		ck_assert_uint_eq(turn_cnt, 0);
	} else { /* one gives up: the other one gets it, whoever it was meant for */
		upstream_leave(&g[_i].ticket);
		turn_loops();
		turn_loops();
		ck_assert_uint_eq(g[3 - _i].turn, 1);
		ck_assert_uint_eq(places(), 1);
		upstream_leave(&g[3 - _i].ticket);
	}
	ck_assert_uint_eq(waiting(), 0);
	ck_assert_uint_eq(places(), 0);
	end_group();
}
END_TEST

/* Workers with a line are served in turn. */
START_TEST(workers_in_turn)
{
	start_group(3, 1, 100);
	static struct guest g[31];
	memset(g, 0, sizeof(g));
	turn_cnt = 0;
	ck_assert_int_eq(enter(&g[30], 0), STEP_DONE);
	for (unsigned i = 0; i < 30; i++)
		ck_assert_int_eq(enter(&g[i], i % 3), STEP_READ);
	struct guest *now = &g[30];
	for (unsigned turn = 1; turn <= 30; turn++) {
		upstream_leave(&now->ticket);
		turn_loops();
		ck_assert_uint_eq(turn_cnt, turn);
		now = NULL;
		for (unsigned i = 0; i < 30; i++) {
			if (g[i].turn == turn)
				now = &g[i];
		}
		ck_assert_ptr_nonnull(now);
		/* No worker is more than one turn ahead of the others. */
		unsigned served[3] = { 0 };
		for (unsigned i = 0; i < 30; i++)
			served[i % 3] += g[i].turn != 0;
		for (int i = 0; i < 3; i++)
			ck_assert(served[i] >= turn / 3 && served[i] <= turn / 3 + 1);
	}
	upstream_leave(&now->ticket);
	ck_assert_uint_eq(places(), 0);
	end_group();
}
END_TEST

/* A new generation has another limit. */
START_TEST(limit_changes)
{
	start_group(1, 4, 10);
	struct guest g[8] = { 0 };
	turn_cnt = 0;
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(enter(&g[i], 0), STEP_DONE);
	ck_assert_int_eq(enter(&g[4], 0), STEP_READ);
	model.group->targets[0].max_connections = 2;
	ck_assert_int_eq(enter(&g[5], 0), STEP_READ);
	upstream_leave(&g[0].ticket);
	upstream_leave(&g[1].ticket);
	turn_loops();
	ck_assert_uint_eq(places(), 2);
	ck_assert_uint_eq(turn_cnt, 0); /* two is all there may be */
	upstream_leave(&g[2].ticket);
	turn_loops();
	ck_assert_uint_eq(g[4].turn, 1);
	model.group->targets[0].max_connections = 5;
	ck_assert_int_eq(enter(&g[6], 0), STEP_READ); /* behind the fifth, but there is room */
	turn_loops();
	ck_assert(g[5].turn == 2 && g[6].turn == 3);
	ck_assert_uint_eq(places(), 4);
	upstream_leave(&g[3].ticket);
	for (int i = 4; i < 7; i++)
		upstream_leave(&g[i].ticket);
	ck_assert_uint_eq(places(), 0);
	end_group();
}
END_TEST

/* ---- life ---- */

static bool is_registered(void)
{
	return !list_is_empty(&upstreams->all);
}

static void settle(void)
{
	for (int i = 0; i < 3; i++) {
		turn_loops();
		run_ms(control_loop, 1);
	}
}

/* A tunnel of a group that is gone keeps its target (_i == 0), as does one that waits (_i == 1) and one whose
 * place is on the way to another worker (_i == 2). */
START_TEST(kept_by_tickets)
{
	start_group(2, 1, 10);
	struct guest g[2] = { 0 };
	ck_assert_int_eq(enter(&g[0], 0), STEP_DONE);
	if (_i > 0)
		ck_assert_int_eq(enter(&g[1], 1), STEP_READ);
	put_group(&model);
	settle();
	ck_assert(is_registered());
	if (_i == 2)
		upstream_leave(&g[1].ticket);
	else
		upstream_leave(&g[0].ticket);
	if (_i > 0) {
		settle();
		ck_assert(is_registered());
		upstream_leave(_i == 1 ? &g[1].ticket : &g[0].ticket);
	}
	settle();
	ck_assert(!is_registered());
	tear_down_workers();
}
END_TEST

/* The hand-over is still on its way when all have let go. */
START_TEST(kept_by_hand_over)
{
	start_group(2, 1, 10);
	struct guest g[2] = { 0 };
	ck_assert_int_eq(enter(&g[0], 0), STEP_DONE);
	ck_assert_int_eq(enter(&g[1], 1), STEP_READ);
	put_group(&model);
	settle();
	upstream_leave(&g[0].ticket);
	upstream_leave(&g[1].ticket); /* its wake is posted */
	run_ms(control_loop, 1);
	ck_assert(is_registered());
	settle();
	ck_assert(!is_registered());
	tear_down_workers();
}
END_TEST

/* ---- threads ---- */

#define GUESTS      16    /* of each worker */
#define ROUNDS      10000 /* of each worker, over its guests */
#define PLACES      3
#define PATIENCE_MS 30000

struct crowd {
	struct upstream_worker *w;
	struct task step_task;
	struct upstream_ticket tickets[GUESTS];
	unsigned rounds, held_times, cancelled_times, refused_times;
	uint64_t rand_state;
	struct timer alarm;
	bool has_starved;
};
static _Atomic int held_now;
static _Atomic bool has_exceeded;

static unsigned draw(struct crowd *c, unsigned bound)
{
	c->rand_state = c->rand_state * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned)(c->rand_state >> 33) % bound;
}

static void note_held(struct crowd *c)
{
	c->held_times++;
	if (atomic_fetch_add(&held_now, 1) + 1 > PLACES)
		atomic_store(&has_exceeded, true);
}

static void on_crowd_turn(struct upstream_ticket *ticket)
{
	note_held(ticket->owner);
}

static void leave(struct upstream_ticket *ticket)
{
	if (ticket->upstream != NULL && ticket->is_held)
		(void)atomic_fetch_sub(&held_now, 1);
	upstream_leave(ticket);
}

/* One guest does something: comes, goes, gives up. */
static void act(struct crowd *c)
{
	unsigned ix = draw(c, GUESTS);
	struct upstream_ticket *ticket = &c->tickets[ix];
	if (ticket->upstream != NULL) {
		if (!ticket->is_held) {
			if (draw(c, 50) != 0)
				return; /* goes on waiting */
			c->cancelled_times++;
		}
		leave(ticket);
		return;
	}
	struct upstream_choice choice = { .upstream = target_at(&model, 0) };
	ticket->on_turn = on_crowd_turn;
	ticket->owner = c;
	enum step step = upstream_enter(c->w, model.group, &choice, ticket);
	if (step == STEP_DONE)
		note_held(c);
	if (step == STEP_FAIL)
		c->refused_times++;
	else
		c->rounds++;
}

/* At the end nobody gives up: those who wait must be served. */
static bool is_done(struct crowd *c)
{
	bool is_any_left = false;
	for (int i = 0; i < GUESTS; i++) {
		if (c->tickets[i].upstream != NULL && c->tickets[i].is_held)
			leave(&c->tickets[i]);
		is_any_left |= c->tickets[i].upstream != NULL;
	}
	return !is_any_left;
}

static void step_crowd(struct task *task)
{
	struct crowd *c = SP_CONTAINER_OF(task, struct crowd, step_task);
	for (int i = 0; i < 8 && c->rounds < ROUNDS; i++)
		act(c);
	if (c->rounds >= ROUNDS && is_done(c))
		loop_stop(c->w->loop);
	else
		loop_post(c->w->loop, &c->step_task);
}

static void on_starved(struct timer *timer)
{
	struct crowd *c = SP_CONTAINER_OF(timer, struct crowd, alarm);
	c->has_starved = true;
	loop_stop(c->w->loop);
}

static void run_crowd(void *arg)
{
	struct crowd *c = arg;
	c->step_task.run = step_crowd;
	c->alarm.on_due = on_starved;
	loop_timer_arm(c->w->loop, &c->alarm, clock_now_ms() + PATIENCE_MS);
	loop_post(c->w->loop, &c->step_task);
	loop_run(c->w->loop);
	loop_timer_disarm(c->w->loop, &c->alarm);
}

START_TEST(crowds)
{
	start_group(4, PLACES, _i == 0 ? 100 : 5);
	static struct crowd list[4];
	struct thread *threads[4];
	memset(list, 0, sizeof(list));
	for (unsigned i = 0; i < 4; i++) {
		list[i].w = &workers[i];
		list[i].rand_state = i + 1;
		ck_assert_int_eq(thread_start("crowd", run_crowd, &list[i], &threads[i]), ERR_OK);
	}
	unsigned refused_times = 0;
	for (unsigned i = 0; i < 4; i++)
		thread_join(threads[i]);
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_msg(!list[i].has_starved, "worker %u waits in vain", i);
		/* Who did not give up was served. */
		ck_assert_uint_eq(list[i].held_times + list[i].cancelled_times, list[i].rounds);
		ck_assert_uint_gt(list[i].held_times, 0);
		ck_assert_uint_gt(list[i].cancelled_times, 0);
		refused_times += list[i].refused_times;
	}
	ck_assert(!atomic_load(&has_exceeded));
	ck_assert((refused_times > 0) == (_i == 1));
	turn_loops(); /* hand-overs that nobody wanted any more */
	turn_loops();
	ck_assert_uint_eq(places(), 0);
	ck_assert_uint_eq(waiting(), 0);
	for (unsigned i = 0; i < 4; i++)
		ck_assert_uint_eq(target_at(&model, 0)->pools[i].in_use, 0);
	end_group();
}
END_TEST

/* ---- ejection ---- */

static void start_targets(unsigned cnt)
{
	set_up_workers(1);
	model_init(&model, CONFIG_BALANCE_P2C, cnt);
	make_group(&model);
}

static void report(unsigned ix, enum upstream_failure failure)
{
	struct upstream_choice choice = { .upstream = target_at(&model, ix),
					  .target_ix = (uint16_t)ix };
	upstream_report(&workers[0], model.group, &choice, failure, "why");
}

static void fail_times(unsigned ix, unsigned times)
{
	while (times-- > 0)
		report(ix, UPSTREAM_FAILURE_CLOSED);
}

static bool is_ejected(unsigned ix)
{
	return atomic_load(&target_at(&model, ix)->ejected_until_ms) > loop_now_ms(worker_loops[0]);
}

static int64_t ejected_for_ms(unsigned ix)
{
	return atomic_load(&target_at(&model, ix)->ejected_until_ms) - loop_now_ms(worker_loops[0]);
}

START_TEST(ejection)
{
	start_targets(4);
	struct upstream *u = target_at(&model, 0);
	fail_times(0, 4);
	ck_assert(!is_ejected(0));
	report(0, UPSTREAM_FAILURE_NONE); /* no longer in a row */
	fail_times(0, 4);
	ck_assert(!is_ejected(0));
	report(0, UPSTREAM_FAILURE_UNRESOLVED); /* not of traffic */
	ck_assert(!is_ejected(0));
	fail_times(0, 1);
	ck_assert(is_ejected(0));
	ck_assert_uint_eq(atomic_load(&u->ejections), 1);
	ck_assert_int_eq(ejected_for_ms(0), 10000);
	ck_assert_uint_eq(u->pools[0].failures, 10);
	ck_assert_int_eq(atomic_load(&u->last_failure), UPSTREAM_FAILURE_CLOSED);
	ck_assert_str_eq(u->last_why, "why");
	ck_assert_int_gt(atomic_load(&u->last_failure_unix_s), 0);
	/* What was under way ends badly or well: neither longer nor shorter. */
	fail_times(0, 20);
	report(0, UPSTREAM_FAILURE_NONE);
	ck_assert_int_eq(ejected_for_ms(0), 10000);
	for (int i = 0; i < 100; i++)
		ck_assert_uint_ne(choose(&model), 0);
	end_group();
}
END_TEST

/* Times grow while it comes back no better, at most tenfold; a success makes them short again. */
START_TEST(ejection_grows)
{
	start_targets(4);
	struct upstream *u = target_at(&model, 0);
	for (int i = 1; i <= 12; i++) {
		fail_times(0, 5);
		ck_assert_int_eq(ejected_for_ms(0), 10000 * (i < 10 ? i : 10));
		atomic_store(&u->ejected_until_ms, loop_now_ms(worker_loops[0]));
	}
	report(0, UPSTREAM_FAILURE_NONE);
	fail_times(0, 5);
	ck_assert_int_eq(ejected_for_ms(0), 10000);
	end_group();
}
END_TEST

static const struct {
	unsigned cnt, backup_cnt, failures, share;
	unsigned want; /* that are ejected when all of them fail */
} ejection_shares[] = {
	{ 4, 0, 5, 50, 2 },  { 3, 0, 5, 50, 1 },  { 2, 0, 5, 10, 1 },  { 1, 0, 5, 50, 0 },
	{ 10, 0, 5, 30, 3 }, { 4, 0, 5, 100, 3 }, { 4, 0, 0, 100, 0 }, { 4, 0, 5, 0, 0 },
	{ 1, 1, 5, 50, 1 },  { 2, 1, 5, 100, 2 },
};

START_TEST(ejection_share)
{
	set_up_workers(1);
	unsigned cnt = ejection_shares[_i].cnt, all = cnt + ejection_shares[_i].backup_cnt;
	model_init(&model, CONFIG_BALANCE_P2C, all);
	model.config.ejection.failures = ejection_shares[_i].failures;
	model.config.ejection.max_share_percent = ejection_shares[_i].share;
	for (unsigned i = cnt; i < all; i++)
		model.targets[i].is_backup = true;
	make_group(&model);
	unsigned ejected = 0;
	for (unsigned i = 0; i < cnt; i++)
		fail_times(i, 50);
	for (unsigned i = 0; i < cnt; i++)
		ejected += is_ejected(i);
	ck_assert_uint_eq(ejected, ejection_shares[_i].want);
	end_group();
}
END_TEST

/* ---- retries ---- */

START_TEST(budget)
{
	start_group(1, 0, 0);
	struct upstream_choice choice = { 0 };
	(void)choose_by(&model, 0, &choice);
	struct upstream_pool *pool = &choice.upstream->pools[0];
	struct upstream_ticket ticket = { 0 };
	unsigned cnt = 0;
	while (upstream_may_retry(&workers[0], model.group, &choice))
		cnt++;
	ck_assert_uint_eq(cnt, 10); /* of a quiet target */
	ck_assert_uint_eq(pool->retries, 10);
	for (int i = 0; i < 100; i++) {
		ck_assert_int_eq(upstream_enter(&workers[0], model.group, &choice, &ticket),
				 STEP_DONE);
		upstream_leave(&ticket);
	}
	for (cnt = 0; upstream_may_retry(&workers[0], model.group, &choice);)
		cnt++;
	ck_assert_uint_eq(cnt, 20); /* percent of 100 requests */
	for (int i = 0; i < 10000; i++) {
		ck_assert_int_eq(upstream_enter(&workers[0], model.group, &choice, &ticket),
				 STEP_DONE);
		upstream_leave(&ticket);
	}
	for (cnt = 0; upstream_may_retry(&workers[0], model.group, &choice);)
		cnt++;
	ck_assert_uint_eq(cnt, 100); /* saved up at most */
	ck_assert_uint_eq(pool->requests, 10100);
	choice.tried_cnt = 3;
	pool->retry_credit = 1000;
	ck_assert(!upstream_may_retry(&workers[0], model.group, &choice)); /* tries are used up */
	end_group();
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("upstream_queue");
	TCase *tc = tcase_create("queue");
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, no_limit);
	tcase_add_test(tc, first_come);
	tcase_add_loop_test(tc, cancelled, 0, 3);
	tcase_add_test(tc, workers_in_turn);
	tcase_add_test(tc, limit_changes);
	tcase_add_loop_test(tc, kept_by_tickets, 0, 3);
	tcase_add_test(tc, kept_by_hand_over);
	tcase_add_loop_test(tc, crowds, 0, 2);
	tcase_add_test(tc, ejection);
	tcase_add_test(tc, ejection_grows);
	tcase_add_loop_test(tc, ejection_share, 0, SP_ARRAY_LEN(ejection_shares));
	tcase_add_test(tc, budget);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
