/* The end: no new step; what the CA validates is answered until it settles or the grace passes,
 * then deactivated (one second for that); the challenge route is taken out (one second); done is
 * called, once. Journals stay. */
#include "manager.h"
#include "order.h"
#include "smartproxy/log.h"

#define LAST_WORD_MS 1000

static void finish(struct acme *acme)
{
	void (*done)(void *arg) = acme->stop.done;
	acme->stop.done = NULL;
	loop_timer_disarm(acme->loop, &acme->stop.timer);
	if (done != NULL)
		done(acme->stop.arg);
}

/* Orders that wait for nothing of the CA's are put down where they are. */
static void park(struct acme *acme)
{
	LIST_FOREACH_SAFE(at, &acme->orders)
	{
		struct order *o = SP_CONTAINER_OF(at, struct order, link);
		if (!order_must_settle(o))
			order_free(o);
	}
}

static void on_task(struct task *task)
{
	struct acme *acme = SP_CONTAINER_OF(task, struct acme, stop.task);
	struct stop *stop = &acme->stop;
	stop->is_task_posted = false;
	if (acme->is_freeing || !stop->is_stopping || stop->done == NULL)
		return;
	park(acme);
	if (!stop->is_past_all && (acme->order_cnt > 0 || acme->farewell_cnt > 0))
		return;
	challenge_route_want(&acme->route, false);
	if (acme->route.state == ACME_ROUTE_ABSENT || stop->is_past_all)
		finish(acme);
}

void stop_check(struct acme *acme)
{
	if (!acme->stop.is_stopping || acme->stop.is_task_posted)
		return;
	acme->stop.is_task_posted = true;
	loop_defer(acme->loop, &acme->stop.task);
}

static void on_timer(struct timer *timer)
{
	struct acme *acme = SP_CONTAINER_OF(timer, struct acme, stop.timer);
	struct stop *stop = &acme->stop;
	stop->is_past_all = stop->is_past_grace;
	stop->is_past_grace = true;
	LIST_FOREACH_SAFE(at, &acme->orders)
	order_give_up(SP_CONTAINER_OF(at, struct order, link));
	loop_timer_arm(acme->loop, &stop->timer, loop_now_ms(acme->loop) + LAST_WORD_MS);
	stop_check(acme);
}

void stop_init(struct acme *acme)
{
	acme->stop.timer.on_due = on_timer;
	acme->stop.task.run = on_task;
}

void acme_stop(struct acme *acme, int64_t grace_ms, void (*done)(void *arg), void *arg)
{
	if (acme->stop.is_stopping)
		return;
	acme->stop.is_stopping = true;
	acme->stop.done = done;
	acme->stop.arg = arg;
	loop_timer_disarm(acme->loop, &acme->pump_timer);
	park(acme);
	if (acme->order_cnt > 0)
		log_info("acme", "waiting for the CA's verdict on what it is validating orders=%u",
			 acme->order_cnt);
	loop_timer_arm(acme->loop, &acme->stop.timer, loop_now_ms(acme->loop) + grace_ms);
	stop_check(acme);
}
