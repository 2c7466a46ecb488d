/* The life of the manager: what is due, and the end of each order.
 *
 * Everything that changes something calls manager_pump(), which looks once, at the end of the turn:
 * which certificates want an order, does the challenge route have to be there, how many orders may
 * start, when to look again. */
#include "manager.h"

#include <stdlib.h>
#include <string.h>

#include "order.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"

#define LOOK_MAX_MS   60000 /* also bounds how late a jump of a clock is seen */
#define HOLD_DUE_MS   1500  /* what is due so soon belongs to this cycle of the challenge route */
#define HOLD_RETRY_MS 45000
#define SAVE_RETRY_MS 10000

/* ---- what is due ---- */
static int64_t left_ms(int64_t at_ms, int64_t now_ms)
{
	return at_ms > now_ms ? at_ms - now_ms : 0;
}

int64_t manager_wait_ms(const struct cert *cert)
{
	int64_t now_ms = clock_boot_ms();
	int64_t retry_ms = left_ms(cert->retry_at_boot_ms, now_ms);
	if (retry_ms > 0)
		return retry_ms;
	if (cert->is_forced || cert->saved != NULL || !cert->has_cert)
		return 0;
	if (cert->directory != NULL && strcmp(cert->directory, cert->acme->settings.directory) != 0)
		return 0;
	/* Validity is of the wall clock, which may be set at any time: nothing of it is kept. */
	int64_t rest_ms = left_ms(cert->rest_until_boot_ms, now_ms);
	int64_t renew_ms = left_ms(1000 * cert->renew_at_unix_s, clock_unix_ms());
	return renew_ms > rest_ms ? renew_ms : rest_ms;
}

/* Orders that go on, then names without a certificate, then renewals. */
static unsigned rank(const struct cert *cert)
{
	return cert->saved != NULL ? 0 : cert->has_cert ? 2 : 1;
}

static bool start_order(struct cert *cert, int64_t *next_ms)
{
	int64_t wait_ms = 0;
	bool is_known_to_ca = cert->saved != NULL && cert->saved->url != NULL;
	if (!is_known_to_ca && !ca_take_order(cert->acme->ca, &wait_ms)) {
		*next_ms = wait_ms < *next_ms ? wait_ms : *next_ms;
		return false;
	}
	struct order *order = order_new(cert);
	if (order != NULL)
		order_run(order);
	return order != NULL;
}

static void start_orders(struct acme *acme, int64_t *next_ms)
{
	for (unsigned wanted = 0; wanted < 3; wanted++) {
		LIST_FOREACH(at, &acme->certs)
		{
			struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
			if (acme->order_cnt >= acme->settings.max_orders)
				return;
			if (cert->order != NULL || rank(cert) != wanted ||
			    manager_wait_ms(cert) > 0)
				continue;
			if (!start_order(cert, next_ms))
				return;
		}
	}
}

static void pump(struct acme *acme)
{
	int64_t next_ms = LOOK_MAX_MS, hold_ms = LOOK_MAX_MS + 1;
	size_t due_cnt = 0;
	LIST_FOREACH(at, &acme->certs)
	{
		struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		cert_retry_save(cert);
		if (cert->unsaved_chain != NULL)
			next_ms = next_ms < SAVE_RETRY_MS ? next_ms : SAVE_RETRY_MS;
		if (cert->order != NULL)
			continue;
		int64_t wait_ms = manager_wait_ms(cert);
		due_cnt += wait_ms == 0;
		if (wait_ms > 0 && wait_ms < next_ms)
			next_ms = wait_ms;
		bool is_held = cert->saved != NULL || wait_ms <= HOLD_DUE_MS ||
			       (cert->retry_at_boot_ms != 0 && wait_ms <= HOLD_RETRY_MS);
		if (is_held)
			hold_ms = 0;
	}
	bool is_there = acme->route.state != ACME_ROUTE_ABSENT;
	ca_look_at_contact(acme->ca, &next_ms);
	challenge_route_want(&acme->route,
			     due_cnt > 0 || acme->order_cnt > 0 || (hold_ms == 0 && is_there));
	/* While nobody answers at the CA, its probe says when to go on. */
	if (acme->route.state == ACME_ROUTE_ACTIVE && due_cnt > 0 && acme->ca->probe_ms == 0)
		start_orders(acme, &next_ms);
	loop_timer_arm(acme->loop, &acme->pump_timer, loop_now_ms(acme->loop) + next_ms);
}

static void on_pump(struct task *task)
{
	struct acme *acme = SP_CONTAINER_OF(task, struct acme, pump_task);
	acme->is_pump_posted = false;
	if (acme->is_started && !acme->is_freeing && !acme->stop.is_stopping)
		pump(acme);
}

static void on_pump_timer(struct timer *timer)
{
	manager_pump(SP_CONTAINER_OF(timer, struct acme, pump_timer));
}

void manager_pump(struct acme *acme)
{
	stop_check(acme);
	if (acme->is_pump_posted)
		return;
	acme->is_pump_posted = true;
	loop_defer(acme->loop, &acme->pump_task);
}

static void on_route_change(struct challenge_route *route)
{
	manager_pump(SP_CONTAINER_OF(route, struct acme, route));
}

/* ---- the end of an order ---- */
/* A certificate that is due for renewal when it comes, by our clock: a wrong clock, or renew_before, makes it so, and
 * another order would bring the same again. */
static void note_rest(struct cert *cert)
{
	int64_t now_unix_s = clock_unix_s();
	char begin[32], end[32], due[32], now[32], next[32];
	if (cert->renew_at_unix_s > now_unix_s) {
		cert->rest_cnt = 0;
		cert->rest_until_boot_ms = 0;
		return;
	}
	if (cert->rest_cnt < UINT32_MAX)
		cert->rest_cnt++;
	int64_t rest_ms =
		plan_rest_ms(cert->rest_cnt, cert->not_after_unix_s - cert->not_before_unix_s);
	cert->rest_until_boot_ms = clock_boot_ms() + rest_ms;
	log_warn("acme",
		 "the new certificate is due for renewal already, the next order waits: it lives "
		 "from %s to %s and is to be renewed at %s, but our clock says %s: set the clock, "
		 "or a shorter acme.renew_before name=%s in_a_row=%u next_order_at=%s",
		 clock_format_utc(begin, sizeof(begin), cert->not_before_unix_s),
		 clock_format_utc(end, sizeof(end), cert->not_after_unix_s),
		 clock_format_utc(due, sizeof(due), cert->renew_at_unix_s),
		 clock_format_utc(now, sizeof(now), now_unix_s), cert->names[0], cert->rest_cnt,
		 clock_format_utc(next, sizeof(next), now_unix_s + rest_ms / 1000));
}

static void on_done(struct order *o)
{
	struct cert *cert = o->cert;
	o->acme->orders_ok_cnt++;
	bool had_file = cert->failure_cnt > 0 || cert->rest_cnt > 0;
	cert->is_forced = false;
	cert->failure_cnt = cert->failure_run = 0;
	cert->failure = (struct failure){ .retry_after_ms = -1 };
	cert->retry_at_boot_ms = cert->retry_at_unix_s = 0;
	note_rest(cert);
	if (had_file || cert->rest_cnt > 0)
		retry_write(cert);
	log_info("acme", "certificate %s name=%s names=%zu issuer=\"%s\" days_left=%lld",
		 cert->unsaved_chain != NULL ? "issued but not saved yet" : "issued",
		 cert->names[0], cert->name_cnt, cert->issuer != NULL ? cert->issuer : "",
		 (long long)(cert->not_after_unix_s - clock_unix_s()) / 86400);
	journal_close(&o->journal);
	if (cert->unsaved_chain == NULL) {
		journal_drop(&o->acme->store, cert->store_name);
		fault_point("acme-journal-dropped");
	}
}

static void keep_for_later(struct order *o)
{
	struct cert *cert = o->cert;
	if (o->failure.kind == FAILURE_VALIDATION || o->url == NULL || !o->journal.is_open)
		return;
	o->is_kept = journal_load(&o->acme->store, cert->store_name, &cert->saved) == ERR_OK;
}

static void on_failed(struct order *o)
{
	struct cert *cert = o->cert;
	const struct failure *f = &o->failure;
	char retry[32];
	o->acme->orders_failed_cnt++;
	cert->failure_run =
		cert->failure_cnt > 0 && cert->failure.kind == f->kind ? cert->failure_run + 1 : 1;
	cert->failure_cnt++;
	cert->failure = *f;
	cert->is_forced = cert->is_forced && f->kind == FAILURE_NETWORK;
	int64_t wait_ms = failure_draw_wait_ms(f, cert->failure_run);
	cert->retry_at_boot_ms = clock_boot_ms() + wait_ms;
	cert->retry_at_unix_s = clock_unix_s() + wait_ms / 1000;
	keep_for_later(o);
	if (!o->is_kept) {
		journal_close(&o->journal);
		journal_drop(&o->acme->store, cert->store_name);
	}
	retry_write(cert);
	log_warn("acme", "no certificate for %s%s: %s kind=%s failures=%u retry_at=%s",
		 cert->names[0], cert->has_cert ? ", the old one stays" : "", f->text,
		 plan_failure_name(f->kind), cert->failure_cnt,
		 clock_format_utc(retry, sizeof(retry), cert->retry_at_unix_s));
	if (f->is_unreachable)
		ca_watch(o->ca);
}

void manager_on_order_end(struct order *order)
{
	if (order->state == ORDER_DONE)
		on_done(order);
	else
		on_failed(order);
	manager_pump(order->acme);
}

void manager_on_ca_up(struct acme *acme, struct ca *ca)
{
	if (ca != acme->ca)
		return;
	ca->account_retry_boot_ms = ca->contact_retry_boot_ms = 0;
	LIST_FOREACH(at, &acme->certs)
	{
		struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		if (cert->failure_cnt > 0 && cert->failure.is_unreachable)
			cert->retry_at_boot_ms = cert->retry_at_unix_s = 0;
	}
	manager_pump(acme);
}

/* ---- tasks ---- */
static void on_publish(struct task *task)
{
	struct acme *acme = SP_CONTAINER_OF(task, struct acme, publish_task);
	acme->is_publish_posted = false;
	if (!acme->is_freeing)
		authz_publish_all(acme);
}

static void on_served(struct task *task)
{
	struct acme *acme = SP_CONTAINER_OF(task, struct acme, served_task);
	atomic_store_explicit(&acme->is_served_posted, false, memory_order_release);
	if (acme->is_freeing)
		return;
	LIST_FOREACH(at, &acme->orders)
	{
		struct order *o = SP_CONTAINER_OF(at, struct order, link);
		for (size_t i = 0; i < o->authz_cnt; i++)
			authz_on_served(&o->authzs[i]);
	}
}

/* Any worker, after it has answered a validation request. */
static void notify_served(void *arg)
{
	struct acme *acme = arg;
	if (!atomic_exchange_explicit(&acme->is_served_posted, true, memory_order_acq_rel))
		loop_post(acme->loop, &acme->served_task);
}

/* ---- life ---- */
static void init_parts(struct acme *acme, struct loop *loop, struct challenge_table *table,
		       const struct acme_ops *ops)
{
	acme->loop = loop;
	acme->table = table;
	list_init(&acme->cas);
	list_init(&acme->certs);
	list_init(&acme->orders);
	list_init(&acme->to_publish);
	acme->pump_task.run = on_pump;
	acme->pump_timer.on_due = on_pump_timer;
	acme->publish_task.run = on_publish;
	acme->served_task.run = on_served;
	challenge_route_init(&acme->route, loop, ops, on_route_change);
	stop_init(acme);
}

enum err acme_new(struct loop *loop, const struct config *config, struct challenge_table *table,
		  const struct acme_ops *ops, struct acme **ret_acme, struct text *reterr_text)
{
	struct acme *acme = calloc(1, sizeof(*acme));
	if (acme == NULL)
		return ERR_NOMEM;
	init_parts(acme, loop, table, ops);
	enum err e = store_open(&acme->store, config->global.state_dir, reterr_text);
	if (e != ERR_OK) {
		free(acme);
		return e;
	}
	acme->bucket_cnt = 1024;
	acme->buckets = calloc(acme->bucket_cnt, sizeof(struct cert *));
	e = acme->buckets != NULL ? settings_copy(&acme->settings, config) : ERR_NOMEM;
	if (e == ERR_OK)
		e = ca_new(acme, acme->settings.directory, acme->settings.ca_file, &acme->ca);
	if (e != ERR_OK) {
		text_puts(reterr_text, err_text(e));
		acme_free(acme);
		return e;
	}
	resume_read(acme);
	challenge_on_served(table, notify_served, acme);
	*ret_acme = acme;
	return ERR_OK;
}

void acme_start(struct acme *acme)
{
	acme->is_started = true;
	resume_drop_rest(acme);
	LIST_FOREACH(at, &acme->certs)
	{
		struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		if (cert->failure_cnt > 0 && cert->failure.is_unreachable)
			cert->retry_at_boot_ms = cert->retry_at_unix_s = 0;
	}
	pump(acme);
}

enum err acme_renew(struct acme *acme, const char *name)
{
	size_t found_cnt = 0;
	if (acme->stop.is_stopping)
		return ERR_STOPPING;
	acme->ca->account_retry_boot_ms = acme->ca->contact_retry_boot_ms = 0;
	LIST_FOREACH(at, &acme->certs)
	{
		struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		bool is_meant = name == NULL;
		for (size_t i = 0; i < cert->name_cnt && !is_meant; i++)
			is_meant = strcmp(cert->names[i], name) == 0;
		if (!is_meant)
			continue;
		found_cnt++;
		if (cert->order != NULL)
			continue;
		cert->is_forced = true;
		cert->failure_cnt = cert->failure_run = 0;
		cert->failure = (struct failure){ .retry_after_ms = -1 };
		cert->retry_at_boot_ms = cert->retry_at_unix_s = 0;
		cert->rest_cnt = 0;
		cert->rest_until_boot_ms = 0;
		retry_write(cert);
	}
	manager_pump(acme);
	return found_cnt > 0 || name == NULL ? ERR_OK : ERR_NOENT;
}

static void on_free(struct task *task)
{
	struct acme *acme = SP_CONTAINER_OF(task, struct acme, free_task);
	free(acme);
}

/* Behind a note of a worker that is still in the inbox, and behind the tasks of this turn. */
static void on_free_posted(struct task *task)
{
	struct acme *acme = SP_CONTAINER_OF(task, struct acme, free_task);
	acme->free_task.run = on_free;
	loop_defer(acme->loop, task);
}

void acme_free(struct acme *acme)
{
	if (acme == NULL)
		return;
	acme->is_freeing = true;
	challenge_on_served(acme->table, NULL, NULL);
	LIST_FOREACH_SAFE(at, &acme->certs)
	{
		struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		if (cert->order != NULL)
			order_free(cert->order);
		cert_free(cert);
	}
	for (size_t i = 0; i < acme->resumable_cnt; i++)
		journal_order_free(acme->resumable[i]);
	free(acme->resumable);
	LIST_FOREACH_SAFE(at, &acme->cas)
	ca_drop_farewells(SP_CONTAINER_OF(at, struct ca, link));
	ca_put(acme->ca);
	challenge_route_fini(&acme->route);
	loop_timer_disarm(acme->loop, &acme->pump_timer);
	loop_timer_disarm(acme->loop, &acme->stop.timer);
	store_close(&acme->store);
	settings_fini(&acme->settings);
	free(acme->buckets);
	acme->free_task.run = on_free_posted;
	loop_post(acme->loop, &acme->free_task);
}
