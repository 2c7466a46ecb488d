/* Addresses of targets: at once for an address, by look-ups that go on for as long as the target lives for a
 * name. Control thread; workers see addresses by RCU.
 *
 *   state      timer        query       leaves it by
 *   queued     -            -           its turn: asking
 *   asking     -            under way   the answer: fresh or failing
 *   fresh      end of TTL   -           the timer: queued
 *   failing    1, 2 .. 30 s -           the timer: queued
 *
 * At most ASKING_MAX are asking: more would overrun what a socket holds, and c-ares
 * looks at all that are under way for each answer.
 *
 * A failure keeps the addresses of before. Only "there is no such name", said again and again for max_ttl,
 * takes them away (an operator who has removed a name means it; a zone that was published broken is mended
 * within that time). */
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "pool.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"
#include "smartproxy/rand.h"

#define ROOM           "upstream"
#define RETRY_MAX_MS   30000
#define JITTER_PERCENT 10
#define ASKING_MAX     64
#define LOG_ADDRS_MAX  256
#define WAIT_PART_MS   20

struct upstream_name {
	struct resolver_query query;
	struct timer timer; /* next look-up */
	struct list link;   /* in to_ask */
	struct upstream *upstream;
	bool is_asking, is_first;
	unsigned failure_cnt;   /* in a row */
	enum err said;          /* failure that the log knows of */
	int64_t fresh_until_ms; /* end of the TTL; 0: no answer yet */
	int64_t gone_since_ms; /* first of the answers in a row that there is no such name; 0: none */
};

const struct upstream_addrs *names_addrs(const struct upstream *u)
	SP_TSA(no_thread_safety_analysis);
const struct upstream_addrs *names_addrs(const struct upstream *u)
{
	return u->addrs; /* written by this thread only */
}

static void free_addrs(struct rcu_head *head)
{
	SP_TSAN_ACQUIRE();
	free(caa_container_of(head, struct upstream_addrs, rcu));
}

/* addrs is taken; NULL: none any more. */
static void publish(struct upstream *u, struct upstream_addrs *addrs) SP_ON_CONTROL;
static void publish(struct upstream *u, struct upstream_addrs *addrs)
{
	struct upstream_addrs *old = sp_rcu_swap(&u->addrs, addrs);
	atomic_fetch_add_explicit(&u->addrs_change, 1, memory_order_release);
	if (old != NULL)
		sp_rcu_retire(&old->rcu, free_addrs);
	health_hurry(u);
}

static bool has_addr(const struct upstream_addrs *addrs, const struct addr *addr)
{
	for (unsigned i = 0; i < addrs->cnt; i++)
		if (addr_is_equal(&addrs->list[i], addr))
			return true;
	return false;
}

/* The same ones, in whatever order: servers turn their answers round. */
static bool is_same(const struct upstream_addrs *a, const struct upstream_addrs *b)
{
	if (a == NULL || a->cnt != b->cnt)
		return false;
	for (unsigned i = 0; i < a->cnt; i++)
		if (!has_addr(b, &a->list[i]))
			return false;
	return true;
}

static struct upstream_addrs *make_addrs(const struct addr *list, size_t cnt, uint16_t port)
{
	struct upstream_addrs *addrs = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*addrs));
	for (size_t i = 0; addrs != NULL && i < cnt && addrs->cnt < UPSTREAM_ADDRS_MAX; i++) {
		struct addr addr = list[i];
		addr_set_port(&addr, port);
		if (!has_addr(addrs, &addr))
			addrs->list[addrs->cnt++] = addr;
	}
	return addrs;
}

static const char *format_addrs(char *dst, size_t cap, const struct upstream_addrs *addrs)
{
	size_t len = text_format(dst, cap, addrs == NULL ? "none" : "");
	for (unsigned i = 0; addrs != NULL && i < addrs->cnt; i++) {
		char ip[ADDR_TEXT_MAX];
		len += text_format(dst + len, cap - len, "%s%s", i == 0 ? "" : ",",
				   addr_format_ip(ip, sizeof(ip), &addrs->list[i]));
	}
	return dst;
}

static void log_change(const struct upstream *u, const struct upstream_addrs *old,
		       const struct upstream_addrs *addrs)
{
	char before[LOG_ADDRS_MAX], after[LOG_ADDRS_MAX];
	log_info(ROOM, "a target's addresses have changed target=%s group=%s before=%s now=%s",
		 u->name, u->group, format_addrs(before, sizeof(before), old),
		 format_addrs(after, sizeof(after), addrs));
}

static void wait_ms(struct upstream_name *name, int64_t ms)
{
	loop_timer_arm(name->upstream->registry->control_loop, &name->timer,
		       clock_now_ms() + rand_jitter(ms, JITTER_PERCENT));
}

/* Returns when it is tried again. */
static int64_t wait_after_failure(struct upstream_name *name)
{
	unsigned shift = name->failure_cnt < 5 ? name->failure_cnt : 5;
	int64_t ms = (int64_t)1000 << shift;
	name->failure_cnt++;
	ms = ms < RETRY_MAX_MS ? ms : RETRY_MAX_MS;
	wait_ms(name, ms);
	return ms;
}

static void take(struct upstream_name *name, const struct resolver_answer *answer) SP_ON_CONTROL;
static void take(struct upstream_name *name, const struct resolver_answer *answer)
{
	struct upstream *u = name->upstream;
	const struct upstreams *us = u->registry;
	const struct upstream_addrs *old = names_addrs(u);
	struct upstream_addrs *addrs = make_addrs(answer->addrs, answer->addr_cnt, u->port);
	if (addrs == NULL) {
		(void)wait_after_failure(name);
		return;
	}
	if (name->said != ERR_OK)
		log_info(ROOM, "a target's name is resolved again target=%s group=%s", u->name,
			 u->group);
	int64_t ttl_ms = (int64_t)answer->ttl_s * 1000;
	ttl_ms = ttl_ms > us->min_ttl_ms ? ttl_ms : us->min_ttl_ms;
	ttl_ms = ttl_ms < us->max_ttl_ms ? ttl_ms : us->max_ttl_ms;
	bool was_known = name->fresh_until_ms != 0;
	name->said = ERR_OK;
	name->failure_cnt = 0;
	name->gone_since_ms = 0;
	name->fresh_until_ms = clock_now_ms() + ttl_ms;
	wait_ms(name, ttl_ms);
	if (is_same(old, addrs)) {
		free(addrs);
		return;
	}
	if (was_known)
		log_change(u, old, addrs);
	publish(u, addrs);
}

/* Whether the addresses of before are not to be used any more. */
static bool is_gone(struct upstream_name *name, enum err error)
{
	int64_t now_ms = clock_now_ms();
	if (error != ERR_NOENT)
		return false;
	if (name->gone_since_ms == 0)
		name->gone_since_ms = now_ms;
	return now_ms - name->gone_since_ms >= name->upstream->registry->max_ttl_ms;
}

static void fail(struct upstream_name *name, const struct resolver_answer *answer) SP_ON_CONTROL;
static void fail(struct upstream_name *name, const struct resolver_answer *answer)
{
	struct upstream *u = name->upstream;
	enum err error = answer->error == ERR_OK ? ERR_NOENT : answer->error;
	const char *why = answer->why == NULL ? err_text(error) : answer->why;
	int64_t next_ms = wait_after_failure(name);
	bool has_lost = names_addrs(u) != NULL && is_gone(name, error);
	if (has_lost)
		publish(u, NULL);
	upstream_note_failure(u, UPSTREAM_FAILURE_UNRESOLVED, why);
	if (name->said == error && !has_lost)
		return;
	name->said = error;
	log_warn(ROOM,
		 "a target's name cannot be resolved: %s target=%s group=%s error=%s "
		 "next_try_ms=%" PRId64 " %s",
		 why, u->name, u->group, err_name(error), next_ms,
		 names_addrs(u) != NULL ? "(its last addresses stay in use)"
					: "(it gets no traffic until then)");
}

static void ask_next(struct upstreams *us) SP_ON_CONTROL;

static void on_done(struct resolver_query *query, const struct resolver_answer *answer)
{
	sp_role_assume_control();
	struct upstream_name *name = SP_CONTAINER_OF(query, struct upstream_name, query);
	struct upstreams *us = name->upstream->registry;
	name->is_asking = false;
	us->asking_cnt--;
	us->first_lookup_cnt -= name->is_first;
	name->is_first = false;
	if (answer->error == ERR_OK && answer->addr_cnt > 0)
		take(name, answer);
	else
		fail(name, answer);
	ask_next(us);
}

/* A loop, whatever answers come before resolver_start returns. */
static void ask_next(struct upstreams *us)
{
	if (us->is_asking || us->is_ending)
		return;
	us->is_asking = true;
	while (us->asking_cnt < ASKING_MAX && !list_is_empty(&us->to_ask)) {
		struct upstream_name *name =
			SP_CONTAINER_OF(us->to_ask.next, struct upstream_name, link);
		list_remove(&name->link);
		name->is_asking = true;
		us->asking_cnt++;
		name->query = (struct resolver_query){ .on_done = on_done };
		resolver_start(us->resolver, name->upstream->host, &name->query);
	}
	us->is_asking = false;
}

static void ask(struct upstream_name *name) SP_ON_CONTROL;
static void ask(struct upstream_name *name)
{
	struct upstreams *us = name->upstream->registry;
	list_append(&us->to_ask, &name->link);
	ask_next(us);
}

static void on_due(struct timer *timer)
{
	sp_role_assume_control();
	ask(SP_CONTAINER_OF(timer, struct upstream_name, timer));
}

enum err names_start(struct upstream *u)
{
	struct addr addr;
	if (addr_parse(u->host, u->port, &addr) == ERR_OK) {
		struct upstream_addrs *addrs = make_addrs(&addr, 1, u->port);
		if (addrs != NULL)
			publish(u, addrs);
		return addrs == NULL ? ERR_NOMEM : ERR_OK;
	}
	if (u->registry->resolver == NULL)
		return ERR_OK;
	struct upstream_name *name = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*name));
	if (name == NULL)
		return ERR_NOMEM;
	name->upstream = u;
	name->timer.on_due = on_due;
	list_init(&name->link);
	name->is_first = true;
	u->registry->first_lookup_cnt++;
	u->resolving = name;
	ask(name);
	return ERR_OK;
}

void names_stop(struct upstream *u)
{
	struct upstream_name *name = u->resolving;
	if (name == NULL)
		return;
	struct upstreams *us = u->registry;
	u->resolving = NULL;
	if (name->is_asking)
		resolver_cancel(us->resolver, &name->query);
	us->asking_cnt -= name->is_asking;
	us->first_lookup_cnt -= name->is_first;
	list_remove(&name->link);
	loop_timer_disarm(us->control_loop, &name->timer);
	free(name);
	ask_next(us);
}

int64_t names_ttl_left_s(const struct upstream *u)
{
	if (u->resolving == NULL)
		return -1;
	int64_t left_ms = u->resolving->fresh_until_ms - clock_now_ms();
	return left_ms > 0 ? (left_ms + 999) / 1000 : 0;
}

void upstreams_wait_names(struct upstreams *us, int64_t time_ms)
{
	int64_t end_ms = clock_now_ms() + time_ms;
	while (us->first_lookup_cnt > 0) {
		int64_t left_ms = end_ms - clock_now_ms();
		if (left_ms <= 0)
			break;
		/* In parts: look-ups of names that have addresses are not waited for. */
		resolver_wait(us->resolver, left_ms < WAIT_PART_MS ? left_ms : WAIT_PART_MS);
	}
}
