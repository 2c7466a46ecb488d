/* state             wanted                                   not wanted
 * ABSENT            ask: ACTIVE | WAITING_FOR_PORT | again   -
 * WAITING_FOR_PORT  ask again after 100 ms ... 30 s          ABSENT (nothing to take out)
 * ACTIVE            -                                        DRAINING
 * DRAINING          ask: ACTIVE                              take out: ABSENT | again after 100 ms ... 30 s
 *
 * ERR_BUSY means that an update is in hand: asked again after 10 ms, whatever the state. */
#include "challenge_route.h"

#include "smartproxy/assert.h"
#include "smartproxy/log.h"
#include "smartproxy/rand.h"

#define BUSY_MS        10
#define DELAY_MIN_MS   100
#define DELAY_MAX_MS   30000
#define JITTER_PERCENT 10

static void step(struct challenge_route *r);

const char *acme_route_state_name(enum acme_route_state state)
{
	static const char *const names[] = { "absent", "waiting-for-port", "active", "draining" };
	SP_ASSERT((size_t)state < SP_ARRAY_LEN(names));
	return names[state];
}

static void set_state(struct challenge_route *r, enum acme_route_state state)
{
	static const unsigned allowed[] = {
		[ACME_ROUTE_ABSENT] = 1u << ACME_ROUTE_ACTIVE | 1u << ACME_ROUTE_WAITING_FOR_PORT,
		[ACME_ROUTE_WAITING_FOR_PORT] = 1u << ACME_ROUTE_ACTIVE | 1u << ACME_ROUTE_ABSENT,
		[ACME_ROUTE_ACTIVE] = 1u << ACME_ROUTE_DRAINING,
		[ACME_ROUTE_DRAINING] = 1u << ACME_ROUTE_ABSENT | 1u << ACME_ROUTE_ACTIVE,
	};
	if (r->state == state)
		return;
	SP_ASSERT(allowed[r->state] & 1u << state);
	if (state == ACME_ROUTE_ACTIVE && r->state != ACME_ROUTE_DRAINING)
		r->activated_cnt++;
	if (state == ACME_ROUTE_ABSENT && r->state == ACME_ROUTE_DRAINING)
		r->removed_cnt++;
	log_info("acme", "challenge route is %s, was %s", acme_route_state_name(state),
		 acme_route_state_name(r->state));
	r->state = state;
	r->delay_ms = 0;
	if (state != ACME_ROUTE_WAITING_FOR_PORT)
		r->port_error = (struct port_error){ .code = ERR_OK };
	loop_timer_disarm(r->loop, &r->timer);
}

static void ask_again(struct challenge_route *r, enum err e)
{
	int64_t delay_ms = BUSY_MS;
	if (e != ERR_BUSY) {
		r->delay_ms = r->delay_ms == 0 ? DELAY_MIN_MS : r->delay_ms * 2;
		if (r->delay_ms > DELAY_MAX_MS)
			r->delay_ms = DELAY_MAX_MS;
		delay_ms = rand_jitter(r->delay_ms, JITTER_PERCENT);
	}
	loop_timer_arm(r->loop, &r->timer, loop_now_ms(r->loop) + delay_ms);
}

/* Once per change of cause or holder, not once per try. */
static void note_conflict(struct challenge_route *r, enum err e, const struct port_error *pe)
{
	bool is_same = r->port_error.code == e && r->port_error.holder_pid == pe->holder_pid &&
		       r->port_error.sys_errno == pe->sys_errno;
	r->port_error = *pe;
	r->port_error.code = e;
	if (is_same)
		return;
	struct text text = { 0 };
	port_error_text(&r->port_error, &text);
	log_warn("acme", "orders wait for the challenge port: %s",
		 text.data != NULL ? text.data : err_text(e));
	text_fini(&text);
}

static void enter(struct challenge_route *r)
{
	struct port_error pe = { .code = ERR_OK };
	enum err e = r->ops.set_challenge_route(r->ops.arg, true, &pe);
	if (e == ERR_OK) {
		set_state(r, ACME_ROUTE_ACTIVE);
		return;
	}
	if (e != ERR_BUSY) {
		if (r->state == ACME_ROUTE_ABSENT)
			set_state(r, ACME_ROUTE_WAITING_FOR_PORT);
		note_conflict(r, e, &pe);
	}
	ask_again(r, e);
}

static void leave(struct challenge_route *r)
{
	struct port_error pe = { .code = ERR_OK };
	enum err e = r->ops.set_challenge_route(r->ops.arg, false, &pe);
	if (e == ERR_OK) {
		set_state(r, ACME_ROUTE_ABSENT);
		return;
	}
	if (e != ERR_BUSY && r->delay_ms == 0)
		log_warn("acme", "the challenge route could not be taken out, trying again err=%s",
			 err_name(e));
	ask_again(r, e);
}

static void step(struct challenge_route *r)
{
	if (r->is_asking)
		return;
	enum acme_route_state before = r->state;
	r->is_asking = true;
	if (r->is_wanted && r->state != ACME_ROUTE_ACTIVE) {
		enter(r);
	} else if (!r->is_wanted && r->state == ACME_ROUTE_WAITING_FOR_PORT) {
		set_state(r, ACME_ROUTE_ABSENT);
	} else if (!r->is_wanted && r->state != ACME_ROUTE_ABSENT) {
		if (r->state == ACME_ROUTE_ACTIVE)
			set_state(r, ACME_ROUTE_DRAINING);
		leave(r);
	}
	r->is_asking = false;
	if (r->state != before)
		r->on_change(r);
}

static void on_timer(struct timer *timer)
{
	step(SP_CONTAINER_OF(timer, struct challenge_route, timer));
}

void challenge_route_init(struct challenge_route *route, struct loop *loop,
			  const struct acme_ops *ops,
			  void (*on_change)(struct challenge_route *route))
{
	*route = (struct challenge_route){ .loop = loop, .ops = *ops, .on_change = on_change };
	route->timer.on_due = on_timer;
	route->port_error.code = ERR_OK;
}

void challenge_route_want(struct challenge_route *route, bool is_wanted)
{
	bool is_changed = route->is_wanted != is_wanted;
	route->is_wanted = is_wanted;
	if (is_changed || route->timer.due_ms == 0)
		step(route);
}

void challenge_route_fini(struct challenge_route *route)
{
	loop_timer_disarm(route->loop, &route->timer);
}
