/* The orderly stop:
 *
 *   1 no more updates; the acme manager settles (its challenges are answered meanwhile)
 *   2 its route is gone: the listeners are released, closed, verified
 *   3 idle connections are closed, the rest is waited for
 *   4 the loop ends */
#include <inttypes.h>
#include <stdlib.h>

#include "smartproxy/clock.h"
#include "smartproxy/log.h"
#include "state.h"
#include "transaction.h"

#define ROOM          "control"
#define ACME_GRACE_MS 5000
#define DRAIN_LOOK_MS 10

static void look_whether_drained(struct timer *timer)
{
	sp_role_assume_control();
	struct control *control = SP_CONTAINER_OF(timer, struct control, drain_timer);
	uint64_t cnt = workers_connection_cnt(control->workers);
	int64_t now_ms = clock_now_ms();
	if (cnt > 0 && now_ms < control->stop_deadline_ms) {
		loop_timer_arm(control->loop, timer, now_ms + DRAIN_LOOK_MS);
		return;
	}
	if (cnt > 0)
		log_warn(ROOM, "shutdown_timeout passed, closing connections=%" PRIu64, cnt);
	loop_stop(control->loop);
}

static void close_listeners(struct control *control) SP_ON_CONTROL;
static void close_listeners(struct control *control)
{
	size_t cnt = listeners_cnt(control->listeners);
	struct listener_set **sets = calloc(cnt + 1, sizeof(struct listener_set *));
	if (sets == NULL)
		return; /* listeners_free does it, after the workers' end */
	for (size_t i = 0; i < cnt; i++)
		sets[i] = listeners_at(control->listeners, i);
	enum err e = transaction_leave(control, sets, cnt);
	if (e != ERR_OK)
		log_error(ROOM, "a worker did not let go of its ports error=%s", err_name(e));
	for (size_t i = 0; i < cnt && e == ERR_OK; i++) {
		struct port_error why = { 0 };
		enum err closed = listeners_close(control->listeners, sets[i], &why);
		if (closed != ERR_OK)
			log_error(ROOM, "a port could not be closed error=%s", err_name(closed));
	}
	free(sets);
}

static void begin_drain(void *arg)
{
	sp_role_assume_control();
	struct control *control = arg;
	if (control->is_draining)
		return;
	control->is_draining = true;
	close_listeners(control);
	workers_drain(control->workers);
	look_whether_drained(&control->drain_timer);
}

void control_stop(struct control *control)
{
	if (control->phase == CONTROL_STOPPING) {
		log_warn(ROOM, "second signal, stopping at once");
		loop_stop(control->loop);
		return;
	}
	control->phase = CONTROL_STOPPING;
	int64_t timeout_ms = control->config->global.shutdown_timeout_ms;
	log_info(ROOM, "stopping connections=%" PRIu64 " shutdown_timeout_ms=%" PRId64,
		 workers_connection_cnt(control->workers), timeout_ms);
	control->stop_deadline_ms = clock_now_ms() + timeout_ms;
	control->drain_timer.on_due = look_whether_drained;
	updates_stop(&control->updates);
	acme_stop(control->acme, timeout_ms < ACME_GRACE_MS ? timeout_ms : ACME_GRACE_MS,
		  begin_drain, control);
}
