/* One change of what is published, all or nothing:
 *
 *   build    the generation, the list of addresses, the wishes     may fail, nothing is visible
 *   open     bind and listen on what is new                        may fail, nothing is visible
 *   leave    ports no longer wanted get no new connections, what   may fail, then they are taken again
 *            their queues hold is accepted, workers let go
 *   prompt   ports that are not deferred from now on (raw TCP)     cannot fail
 *   publish  swap and one grace period                             cannot fail
 *   defer    ports where clients speak first                       cannot fail
 *   wish     the acme manager learns what is wanted now            cannot fail
 *   adopt    workers take the new sockets                          from here on a failure rolls back
 *   close    what was left is closed and verified
 *
 * Publish comes before adopt: a new socket listens, but nobody accepts from it before every worker
 * decides by the new generation, so no connection on a new port is answered by the old one. It
 * comes after leave, so that a request that was there on a port that goes is answered as ever. */
#include "transaction.h"

#include <stdlib.h>

#include "smartproxy/clock.h"
#include "smartproxy/control.h"
#include "smartproxy/tls_client.h"

#define NAMES_WAIT_MS 1000

/* What install() works with. */
struct install {
	struct generation *next; /* consumed in every case */
	const struct config *config;
	bool has_challenge_route;
	struct wishes wishes; /* of a configuration: has_wishes */
	bool has_wishes;
	bool is_published;
};

static bool is_late(const struct transaction *t)
{
	return t->deadline_ms != 0 && clock_now_ms() >= t->deadline_ms;
}

static enum err fail_late(struct transaction *t)
{
	text_printf(&t->message,
		    "it was not ready within global.control.update_timeout (%lld ms), nothing was "
		    "changed",
		    (long long)t->control->config->control.update_timeout_ms);
	return ERR_TIMEOUT;
}

static enum err fail_port(struct transaction *t, enum err e)
{
	if (t->port.code != ERR_OK)
		port_error_text(&t->port, &t->message);
	else
		text_puts(&t->message, err_text(e));
	return e;
}

/* A set's owner_data: NULL: open, not yet with the workers. */
static char held; /* the workers have it */
static char left; /* they have let go: to be closed */

/* Turns deferral on, or off, for the ports where g says so: off before g is seen, on after, so that no port is
 * deferred while it is raw TCP. */
static void set_deferral(struct control *control, const struct generation *g, bool is_wanted)
	SP_ON_CONTROL;
static void set_deferral(struct control *control, const struct generation *g, bool is_wanted)
{
	for (size_t i = 0; i < listeners_cnt(control->listeners); i++) {
		struct listener_set *set = listeners_at(control->listeners, i);
		if (set->owner_data != &left &&
		    route_listener_is_deferred(g->routes, &set->addr) == is_wanted)
			listeners_defer(set, is_wanted);
	}
}

enum err transaction_adopt_all(struct control *control)
{
	for (size_t i = 0; i < listeners_cnt(control->listeners); i++) {
		struct listener_set *set = listeners_at(control->listeners, i);
		if (set->owner_data != NULL)
			continue;
		listeners_unhush(set);
		enum err e = workers_adopt(control->workers, set, WORKER_WAIT_MS);
		if (e != ERR_OK)
			return e;
		set->owner_data = &held;
	}
	return ERR_OK;
}

enum err transaction_leave(struct control *control, struct listener_set *const *sets, size_t cnt)
{
	return workers_release(control->workers, sets, cnt, WORKER_WAIT_MS);
}

/* The workers take back what some of them have let go. */
static enum err fail_leave(struct transaction *t, struct listener_change *change, enum err e)
	SP_ON_CONTROL;
static enum err fail_leave(struct transaction *t, struct listener_change *change, enum err e)
{
	struct control *control = t->control;
	for (size_t i = 0; i < change->dropped_cnt; i++)
		change->dropped[i]->owner_data = NULL;
	listeners_abort(control->listeners, change);
	control->needs_mending = true;
	transaction_mend(control);
	text_printf(&t->message, "a worker did not let go of a port: %s; nothing was changed",
		    err_text(e));
	return e;
}

static enum err close_left(struct transaction *t) SP_ON_CONTROL;
static enum err close_left(struct transaction *t)
{
	struct listeners *listeners = t->control->listeners;
	enum err first = ERR_OK;
	for (size_t i = listeners_cnt(listeners); i-- > 0;) {
		struct listener_set *set = listeners_at(listeners, i);
		if (set->owner_data != &left)
			continue;
		char text[ADDR_TEXT_MAX];
		(void)addr_format(text, sizeof(text), &set->addr);
		enum err e = listeners_close(listeners, set, &t->port);
		if (e != ERR_OK && first == ERR_OK) {
			first = e;
			text_printf(&t->message, "%s could not be closed: ", text);
			(void)fail_port(t, e);
		}
	}
	return first;
}

static void commit(struct control *control, struct listener_change *change) SP_ON_CONTROL;
static void commit(struct control *control, struct listener_change *change)
{
	for (size_t i = 0; i < change->opened_cnt; i++)
		change->opened[i]->owner_data = NULL;
	for (size_t i = 0; i < change->dropped_cnt; i++)
		change->dropped[i]->owner_data = &left;
	listeners_commit(control->listeners, change);
}

static enum err install_open(struct transaction *t, const struct install *in,
			     struct listener_change **ret_change) SP_ON_CONTROL;
static enum err install_open(struct transaction *t, const struct install *in,
			     struct listener_change **ret_change)
{
	struct addr *addrs = NULL;
	size_t cnt = 0;
	enum err e = plan_listeners(t->control, in->next->routes, in->config,
				    in->has_challenge_route, &addrs, &cnt);
	if (e == ERR_OK)
		e = listeners_open(t->control->listeners, addrs, cnt, t->deadline_ms, ret_change,
				   &t->port);
	free(addrs);
	if (e == ERR_TIMEOUT) {
		t->port = (struct port_error){ .code = ERR_OK }; /* of no port's own */
		return fail_late(t);
	}
	if (e != ERR_OK)
		return fail_port(t, e);
	if (is_late(t)) {
		listeners_abort(t->control->listeners, *ret_change);
		return fail_late(t);
	}
	struct listener_change *change = *ret_change;
	if (change->dropped_cnt > 0)
		e = transaction_leave(t->control, change->dropped, change->dropped_cnt);
	return e == ERR_OK ? ERR_OK : fail_leave(t, change, e);
}

static enum err install(struct transaction *t, struct install *in) SP_ON_CONTROL SP_NO_RCU;
static enum err install(struct transaction *t, struct install *in)
{
	struct control *control = t->control;
	struct listener_change *change = NULL;
	enum err e = install_open(t, in, &change);
	if (e != ERR_OK) {
		generation_discard(control->generations, in->next);
		return e;
	}
	set_deferral(control, in->next, false);
	generation_publish(control->generations, in->next);
	in->is_published = true;
	commit(control, change);
	set_deferral(control, in->next, true);
	if (control->workers == NULL) /* the start: nobody accepts yet */
		return ERR_OK;
	if (in->has_wishes)
		acme_set_wishes(control->acme, in->config, in->wishes.items, in->wishes.cnt);
	e = transaction_adopt_all(control);
	if (e != ERR_OK)
		text_printf(&t->message, "a worker did not take a new port: %s", err_text(e));
	else
		e = close_left(t);
	control->needs_mending = e != ERR_OK;
	(void)generation_reap(control->generations);
	return e;
}

void transaction_mend(struct control *control)
{
	struct transaction t = { .control = control };
	if (!control->needs_mending)
		return;
	set_deferral(control, generation_latest(control->generations), true);
	enum err e = transaction_adopt_all(control);
	if (e == ERR_OK)
		e = close_left(&t);
	control->needs_mending = e != ERR_OK;
	text_fini(&t.message);
}

/* config, wishes: of the state to go back to. On failure the new state stays, and it says so. */
static void roll_back(struct transaction *t, struct install *back) SP_ON_CONTROL SP_NO_RCU;
static void roll_back(struct transaction *t, struct install *back)
{
	t->was_rolled_back = true;
	t->deadline_ms = 0;
	text_puts(&t->message, "; ");
	size_t len = t->message.len;
	enum err e = install(t, back);
	if (e == ERR_OK || back->is_published)
		text_puts(&t->message, len == t->message.len
					       ? "the state before it is in force again"
					       : "; the routes before it are in force again");
	else
		text_puts(&t->message,
			  ": and the way back failed as well, the new state is in force");
}

static void roll_back_config(struct transaction *t) SP_ON_CONTROL SP_NO_RCU;
static void roll_back_config(struct transaction *t)
{
	struct control *control = t->control;
	bool had_challenge_route = generation_latest(control->generations)->has_challenge_route;
	struct install back = { .config = control->config,
				.has_challenge_route = had_challenge_route };
	enum err e = generation_build(control->generations, control->config, had_challenge_route,
				      &back.next, &t->message);
	if (e == ERR_OK)
		e = plan_wishes(back.next->routes, &back.wishes);
	if (e != ERR_OK) {
		generation_discard(control->generations, back.next);
		text_puts(&t->message,
			  "; the state before it could not be built again, the new one "
			  "is in force");
		return;
	}
	back.has_wishes = true;
	roll_back(t, &back);
	wishes_fini(&back.wishes);
}

/* libcurl reads the file at each connection, long after somebody looks. */
enum err control_check_authority(const struct config *config, struct text *reterr)
{
	const char *ca_file = config->acme.ca_file;
	struct text why = { 0 };
	enum err e = ca_file != NULL ? tls_authorities_check(ca_file, &why) : ERR_OK;
	if (e != ERR_OK)
		text_printf(reterr, "acme.ca_file: %s", why.len > 0 ? why.data : err_text(e));
	text_fini(&why);
	return e;
}

/* A name that is new is given a moment, so that the first requests find addresses; one that takes longer, or
 * does not exist, holds nothing up: its route answers 503 until it is there. */
static enum err build(struct transaction *t, struct generation **ret_generation) SP_ON_CONTROL;
static enum err build(struct transaction *t, struct generation **ret_generation)
{
	struct control *control = t->control;
	enum err e = control_check_authority(t->config, &t->message);
	if (e == ERR_OK)
		e = upstreams_configure(control->upstreams, t->config);
	if (e == ERR_OK)
		e = generation_build(control->generations, t->config, t->has_challenge_route,
				     ret_generation, &t->message);
	if (e == ERR_OK) {
		upstreams_wait_names(control->upstreams, NAMES_WAIT_MS);
		return ERR_OK;
	}
	if (t->message.len == 0)
		text_puts(&t->message, err_text(e));
	/* A file or a name that the configuration speaks of is not there. */
	return e == ERR_NOENT ? ERR_CONFIG : e;
}

static enum err apply(struct transaction *t, struct install *in) SP_ON_CONTROL SP_NO_RCU;
static enum err apply(struct transaction *t, struct install *in)
{
	struct control *control = t->control;
	enum err e = build(t, &in->next);
	if (e != ERR_OK)
		return e;
	e = plan_wishes(in->next->routes, &in->wishes);
	if (e != ERR_OK) {
		generation_discard(control->generations, in->next);
		return fail_port(t, e);
	}
	in->has_wishes = true;
	e = install(t, in);
	wishes_fini(&in->wishes);
	return e;
}

/* Names are looked up as the configuration in force says. */
static void set_back_names(struct transaction *t) SP_ON_CONTROL;
static void set_back_names(struct transaction *t)
{
	struct control *control = t->control;
	if (control->config != t->config &&
	    upstreams_configure(control->upstreams, control->config) != ERR_OK)
		text_puts(&t->message, "; the servers for names could not be set back");
}

enum err transaction_apply_config(struct transaction *t)
{
	struct install in = { .config = t->config, .has_challenge_route = t->has_challenge_route };
	enum err e = apply(t, &in);
	if (e == ERR_OK)
		return ERR_OK;
	set_back_names(t);
	if (in.is_published && t->control->workers != NULL)
		roll_back_config(t);
	return e;
}

enum err transaction_apply_challenge(struct transaction *t)
{
	struct control *control = t->control;
	const struct generation *now = generation_latest(control->generations);
	if (now->has_challenge_route == t->has_challenge_route)
		return ERR_OK;
	struct install in = { .config = control->config,
			      .has_challenge_route = t->has_challenge_route };
	enum err e = generation_fork(control->generations, t->has_challenge_route, &in.next);
	if (e != ERR_OK)
		return fail_port(t, e);
	e = install(t, &in);
	if (e == ERR_OK || !in.is_published)
		return e;
	struct install back = { .config = control->config,
				.has_challenge_route = !t->has_challenge_route };
	if (generation_fork(control->generations, back.has_challenge_route, &back.next) == ERR_OK)
		roll_back(t, &back);
	return e;
}
