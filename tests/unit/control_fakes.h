#pragma once
/* Stand in for the proxy and acme rooms in control_rig.h: they count, and fail on demand. Included
 * once, since the functions have their doors' names. */
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/acme.h"
#include "smartproxy/worker.h"

static atomic_int adopt_cnt, release_cnt, adopt_failures, release_failures, release_passes,
	wish_cnt, name_cnt;
static atomic_int reentered_result; /* of set_challenge_route out of acme_set_wishes */
static atomic_bool wants_block, wants_reenter;
static char wished_names[256];
static sem_t blocked, unblock;

struct workers {
	unsigned cnt;
};

static bool take_failure(atomic_int *left)
{
	return atomic_load(left) > 0 && atomic_fetch_sub(left, 1) > 0;
}

enum err workers_start(const struct workers_options *options, struct workers **ret_workers)
{
	*ret_workers = calloc(1, sizeof(**ret_workers));
	(*ret_workers)->cnt = options->worker_cnt;
	return ERR_OK;
}
enum err workers_adopt(struct workers *ws, struct listener_set *set, int64_t time_ms)
{
	(void)ws, (void)set, (void)time_ms;
	if (take_failure(&adopt_failures))
		return ERR_TIMEOUT;
	if (atomic_load(&wants_block)) {
		sem_post(&blocked);
		sem_wait(&unblock);
	}
	adopt_cnt++;
	return ERR_OK;
}
enum err workers_release(struct workers *ws, struct listener_set *const *sets, size_t cnt,
			 int64_t time_ms)
{
	(void)ws, (void)time_ms;
	if (cnt == 0)
		return ERR_OK;
	listeners_hush(sets, cnt);
	if (!take_failure(&release_passes) && take_failure(&release_failures))
		return ERR_TIMEOUT;
	release_cnt++;
	return ERR_OK;
}
void workers_drain(struct workers *ws)
{
	(void)ws;
}
uint64_t workers_connection_cnt(const struct workers *ws)
{
	(void)ws;
	return 0;
}
void workers_stop(struct workers *ws)
{
	free(ws);
}
uint64_t workers_drain_logs(struct workers *ws)
{
	(void)ws;
	return 0;
}

uint64_t workers_drain_access(struct workers *ws, int fd)
{
	(void)ws;
	(void)fd;
	return 0;
}
int64_t workers_stall_ms(struct workers *ws, unsigned *ret_ix)
{
	(void)ws, (void)ret_ix;
	return 0;
}
enum err workers_connections(struct workers *ws, size_t max, struct conn_view **ret_views,
			     size_t *ret_cnt)
{
	(void)ws, (void)max;
	*ret_views = NULL;
	*ret_cnt = 0;
	return ERR_OK;
}
void workers_stats(const struct workers *ws, struct worker_stats *ret_stats)
{
	(void)ws;
	*ret_stats = (struct worker_stats){ .requests = 7 };
}
const char *exchange_end_name(enum exchange_end end)
{
	return end == EXCHANGE_END_DONE ? "done" : "other";
}

struct acme {
	const struct acme_ops *ops;
};

enum err acme_new(struct loop *loop, const struct config *config, struct challenge_table *table,
		  const struct acme_ops *ops, struct acme **ret_acme, struct text *reterr_text)
{
	(void)loop, (void)config, (void)table, (void)reterr_text;
	*ret_acme = calloc(1, sizeof(**ret_acme));
	(*ret_acme)->ops = ops;
	return ERR_OK;
}
void acme_set_wishes(struct acme *acme, const struct config *config, const struct acme_wish *wishes,
		     size_t cnt)
{
	(void)config;
	wish_cnt = (int)cnt;
	name_cnt = cnt > 0 ? (int)wishes[0].name_cnt : 0;
	wished_names[0] = '\0';
	for (size_t i = 0; cnt > 0 && i < wishes[0].name_cnt; i++) {
		size_t at = strlen(wished_names);
		(void)snprintf(wished_names + at, sizeof(wished_names) - at, "%s ",
			       wishes[0].names[i]);
	}
	struct port_error why = { 0 };
	if (atomic_load(&wants_reenter))
		reentered_result = acme->ops->set_challenge_route(acme->ops->arg, true, &why);
}
void acme_start(struct acme *acme)
{
	(void)acme;
}
void acme_stop(struct acme *acme, int64_t grace_ms, void (*done)(void *arg), void *arg)
{
	(void)acme, (void)grace_ms;
	done(arg);
}
void acme_free(struct acme *acme)
{
	free(acme);
}
/* The names "on" and "off" stand for what the manager would do at the begin and end of a cycle. */
enum err acme_renew(struct acme *acme, const char *name)
{
	struct port_error why = { 0 };
	bool is_on = name != NULL && strcmp(name, "on") == 0;
	if (is_on || (name != NULL && strcmp(name, "off") == 0))
		return acme->ops->set_challenge_route(acme->ops->arg, is_on, &why);
	return name == NULL || strcmp(name, "*.a.example") == 0 ? ERR_OK : ERR_NOENT;
}
const char *acme_route_state_name(enum acme_route_state state)
{
	return state == ACME_ROUTE_ABSENT ? "absent" : "other";
}
void acme_stats(const struct acme *acme, struct acme_stats *ret_stats)
{
	(void)acme;
	*ret_stats = (struct acme_stats){ 0 };
}
void acme_each_cert(const struct acme *acme,
		    void (*each)(void *arg, const struct acme_cert_status *status), void *arg)
{
	(void)acme;
	const char *names[] = { "a.example", "b.example" };
	struct acme_cert_status status = { .names = names,
					   .name_cnt = 2,
					   .key_type = "p256",
					   .state = "failed",
					   .step = "",
					   .issuer = "",
					   .retry_at_unix_s = 1764000000,
					   .last_error = "the \"CA\" says no",
					   .failure_cnt = 3 };
	each(arg, &status);
}
