/* Active health checks: when a target is checked, and what its checks make of it. Control thread.
 *
 *   state of the check  timer              probe      leaves it by
 *   waiting             begin of the next  NULL       the timer: under way
 *   under way           -                  one        its result: waiting, or under way at the next address
 *
 *   state of the target   is_down  leaves it by
 *   new (never checked)   0        a check that succeeds: up; that fails: down at once (it takes no traffic
 *                                  before it has answered once)
 *   up                    0        `fall` failures in a row: down
 *   down                  1        `rise` successes in a row: up, with slow start
 *
 * A check takes the address that answered last, and goes on to the others while there is no connection. A
 * check that this machine could not make (descriptors, memory) changes nothing. */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"
#include "probe.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"
#include "smartproxy/rand.h"

#define ROOM           "upstream"
#define JITTER_PERCENT 10
#define BURST_MAX \
	64 /* first checks that begin in one turn; further ones are spread over an interval */
#define HOST_MAX UPSTREAM_NAME_MAX

struct upstream_check {
	struct upstream *upstream;
	struct config_check settings; /* its texts are owned */
	struct upstream_client
		*client; /* HTTPS of a plain target: one that verifies nothing; counted */
	struct timer timer;
	struct probe *probe;               /* NULL: none under way */
	unsigned addr_ix;                  /* that answered last */
	unsigned tried_cnt;                /* addresses of this check that could not be reached */
	unsigned success_cnt, failure_cnt; /* in a row */
	bool has_been_up;
	int64_t begun_ms;
	int64_t last_unix_s;
};

/* ---- settings ---- */

static void fini_settings(struct config_check *settings)
{
	free((char *)settings->path);
	free((char *)settings->host);
	*settings = (struct config_check){ 0 };
}

static bool is_same(const struct config_check *a, const struct config_check *b)
{
	return a->type == b->type && text_is_equal(a->path, b->path) &&
	       text_is_equal(a->host, b->host) && a->status_first == b->status_first &&
	       a->status_last == b->status_last && a->port == b->port &&
	       a->interval_ms == b->interval_ms && a->timeout_ms == b->timeout_ms &&
	       a->rise == b->rise && a->fall == b->fall;
}

static enum err copy_settings(const struct config_check *from, struct config_check *ret_settings)
{
	struct config_check copy = *from;
	copy.path = from->path == NULL ? NULL : strdup(from->path);
	copy.host = from->host == NULL ? NULL : strdup(from->host);
	if ((from->path != NULL && copy.path == NULL) ||
	    (from->host != NULL && copy.host == NULL)) {
		fini_settings(&copy);
		return ERR_NOMEM;
	}
	*ret_settings = copy;
	return ERR_OK;
}

static uint16_t port_of(const struct upstream_check *check)
{
	return check->settings.port != 0 ? check->settings.port : check->upstream->port;
}

/* ---- when ---- */

static void wait_until(struct upstream_check *check, int64_t due_ms)
{
	loop_timer_arm(check->upstream->registry->control_loop, &check->timer, due_ms);
}

static void wait_for_next(struct upstream_check *check)
{
	int64_t now_ms = clock_now_ms();
	int64_t due_ms = check->begun_ms + rand_jitter(check->settings.interval_ms, JITTER_PERCENT);
	wait_until(check, due_ms > now_ms ? due_ms : now_ms);
}

/* At once, unless many others begin with it. */
static void begin_soon(struct upstream_check *check)
{
	struct upstreams *us = check->upstream->registry;
	uint64_t turn = loop_turns(us->control_loop);
	if (us->burst_turn != turn)
		us->burst_cnt = 0;
	us->burst_turn = turn;
	int64_t interval_ms = check->settings.interval_ms;
	uint32_t bound = interval_ms < UINT32_MAX ? (uint32_t)interval_ms : UINT32_MAX;
	wait_until(check, clock_now_ms() + (us->burst_cnt++ < BURST_MAX ? 0 : rand_below(bound)));
}

/* ---- what it makes of the target ---- */

static void set_up(struct upstream_check *check)
{
	struct upstream *u = check->upstream;
	atomic_store_explicit(&u->up_since_ms, clock_now_ms(), memory_order_relaxed);
	atomic_store_explicit(&u->is_down, 0, memory_order_release);
	log_info(ROOM, "a target is up again by its checks target=%s group=%s successes=%u",
		 u->name, u->group, check->success_cnt);
}

static void set_down(struct upstream_check *check, const struct probe_result *result)
{
	struct upstream *u = check->upstream;
	check->success_cnt = 0;
	atomic_store_explicit(&u->is_down, 1, memory_order_release);
	log_warn(ROOM,
		 "a target is down by its checks: %s target=%s group=%s reason=%s failures=%u "
		 "(it gets no traffic until %u checks in a row succeed)",
		 result->why, u->name, u->group, upstream_failure_name(result->failure),
		 check->failure_cnt, check->settings.rise);
}

static void judge(struct upstream_check *check, const struct probe_result *result)
{
	struct upstream *u = check->upstream;
	bool is_down = atomic_load_explicit(&u->is_down, memory_order_relaxed) != 0;
	check->last_unix_s = clock_unix_s();
	if (result->failure == UPSTREAM_FAILURE_NONE) {
		check->failure_cnt = 0;
		check->success_cnt++;
		if (is_down && check->success_cnt >= check->settings.rise)
			set_up(check);
		check->has_been_up |= !is_down || check->success_cnt >= check->settings.rise;
		return;
	}
	check->success_cnt = 0;
	check->failure_cnt++;
	upstream_note_failure(u, result->failure, result->why);
	if (!is_down && (!check->has_been_up || check->failure_cnt >= check->settings.fall))
		set_down(check, result);
}

/* ---- one check ---- */

/* Host of the request: as set, or the target's name, without the port that the scheme has by itself. */
static const char *format_host(char *dst, const struct upstream_check *check)
{
	const struct upstream *u = check->upstream;
	if (check->settings.host != NULL)
		return check->settings.host;
	uint16_t port = port_of(check);
	bool is_usual = port == (check->settings.type == CONFIG_CHECK_HTTPS ? 443 : 80);
	registry_format_name(dst, HOST_MAX, u->host, is_usual ? 0 : port);
	return dst;
}

/* The name of TLS for a plain target: check.host without a port, else the target's host. */
static const char *format_server_name(char *dst, const struct upstream_check *check)
{
	const char *host = check->settings.host;
	if (check->upstream->tls != NULL)
		return check->upstream->server_name;
	if (host == NULL)
		return check->upstream->host;
	(void)text_format(dst, HOST_MAX, "%s", host);
	char *colon = strrchr(dst, ':');
	if (colon != NULL && strchr(colon, ']') == NULL)
		*colon = '\0';
	return dst;
}

static void on_result(void *owner, const struct probe_result *result);

/* ERR_OK: under way. ERR_NOENT: no address; probe_start's. */
static enum err try_addr(struct upstream_check *check) SP_ON_CONTROL;
static enum err try_addr(struct upstream_check *check)
{
	struct upstream *u = check->upstream;
	const struct config_check *s = &check->settings;
	const struct upstream_addrs *addrs = names_addrs(u);
	char host[HOST_MAX], server_name[HOST_MAX];
	if (addrs == NULL)
		return ERR_NOENT;
	struct probe_plan plan = {
		.addr = addrs->list[(check->addr_ix + check->tried_cnt) % addrs->cnt],
		.type = s->type,
		.proxy_protocol = u->proxy_protocol,
		.path = s->path != NULL ? s->path : "/",
		.host = format_host(host, check),
		.tls = check->client != NULL ? client_tls(check->client) : u->tls,
		.tls_ctx_ix = u->worker_cnt,
		.server_name = format_server_name(server_name, check),
		.status_first = s->status_first,
		.status_last = s->status_last,
		.timeout_ms = s->timeout_ms,
	};
	addr_set_port(&plan.addr, port_of(check));
	return probe_start(u->registry->control_loop, &plan, on_result, check, &check->probe);
}

static void on_result(void *owner, const struct probe_result *result)
{
	sp_role_assume_control();
	struct upstream_check *check = owner;
	const struct upstream_addrs *addrs = names_addrs(check->upstream);
	check->probe = NULL;
	if (result->is_unreached && result->failure != UPSTREAM_FAILURE_NONE && addrs != NULL &&
	    check->tried_cnt + 1 < addrs->cnt) {
		check->tried_cnt++;
		if (try_addr(check) == ERR_OK)
			return;
	}
	if (addrs != NULL)
		check->addr_ix = (check->addr_ix + check->tried_cnt) % addrs->cnt;
	judge(check, result);
	wait_for_next(check);
}

static void on_due(struct timer *timer)
{
	sp_role_assume_control();
	struct upstream_check *check = SP_CONTAINER_OF(timer, struct upstream_check, timer);
	check->begun_ms = clock_now_ms();
	check->tried_cnt = 0;
	enum err e = try_addr(check);
	if (e == ERR_OK)
		return;
	log_debug(ROOM, "a target could not be checked target=%s error=%s", check->upstream->name,
		  err_name(e));
	wait_for_next(check);
}

/* ---- the rest of the room ---- */

void health_stop(struct upstream *u)
{
	struct upstream_check *check = u->check;
	if (check == NULL)
		return;
	u->check = NULL;
	probe_cancel(check->probe);
	loop_timer_disarm(u->registry->control_loop, &check->timer);
	client_put(check->client);
	fini_settings(&check->settings);
	free(check);
}

static void end_checks(struct upstream *u) SP_ON_CONTROL;
static void end_checks(struct upstream *u)
{
	health_stop(u);
	if (atomic_exchange_explicit(&u->is_down, 0, memory_order_release) != 0)
		log_info(ROOM,
			 "a target is not checked any more and counts as up target=%s group=%s",
			 u->name, u->group);
}

static enum err change(struct upstream *u, const struct config_upstream *config) SP_ON_CONTROL;
static enum err change(struct upstream *u, const struct config_upstream *config)
{
	struct upstream_check *check = u->check;
	struct upstream_client *client = NULL;
	struct config_check settings;
	enum err e = copy_settings(&config->check, &settings);
	if (e != ERR_OK)
		return e;
	if (config->check.type == CONFIG_CHECK_HTTPS && u->tls == NULL)
		e = client_get(u->registry, NULL, &client, NULL);
	if (e == ERR_OK && check == NULL) {
		check = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*check));
		e = check == NULL ? ERR_NOMEM : ERR_OK;
	}
	if (e != ERR_OK) {
		client_put(client);
		fini_settings(&settings);
		return e;
	}
	probe_cancel(check->probe); /* one by the old settings counts no more */
	check->probe = NULL;
	client_put(check->client);
	fini_settings(&check->settings);
	check->upstream = u;
	check->settings = settings;
	check->client = client;
	check->timer.on_due = on_due;
	check->success_cnt = check->failure_cnt = 0;
	u->check = check;
	begin_soon(check);
	return ERR_OK;
}

void health_apply(struct upstream *u, const struct config_upstream *config)
{
	bool is_without_port = config->check.port == 0 && u->port == 0;
	if (config->check.type == CONFIG_CHECK_NONE || is_without_port) {
		if (config->check.type != CONFIG_CHECK_NONE)
			log_warn(ROOM,
				 "a target whose port is \"preserve\" is not checked: set "
				 "check.port "
				 "target=%s group=%s",
				 u->name, u->group);
		end_checks(u);
		return;
	}
	if (u->check != NULL && is_same(&u->check->settings, &config->check))
		return;
	enum err e = change(u, config);
	if (e != ERR_OK)
		log_error(ROOM,
			  "the checks of a target could not be set: %s target=%s group=%s "
			  "(load the configuration again)",
			  err_text(e), u->name, u->group);
}

void health_hurry(struct upstream *u)
{
	if (u->check != NULL && u->check->probe == NULL)
		begin_soon(u->check);
}

void health_view(const struct upstream *u, struct upstream_view *view)
{
	view->check = u->check == NULL ? CONFIG_CHECK_NONE : u->check->settings.type;
	view->last_check_unix_s = u->check == NULL ? 0 : u->check->last_unix_s;
}
