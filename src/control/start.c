/* From a configuration to a proxy that serves, and back to nothing. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "admin.h"
#include "api.h"
#include "privilege.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"
#include "smartproxy/thread.h"
#include "state.h"
#include "transaction.h"

#define ROOM        "control"
#define BACKLOG_MIN 4096

/* Asked for in the middle of a transaction (by acme_set_wishes), it is refused; the manager asks
 * again. */
static enum err set_challenge_route(void *arg, bool is_wanted, struct port_error *reterr)
{
	sp_role_assume_control();
	struct control *control = arg;
	if (control->updates.is_running || control->workers == NULL)
		return ERR_BUSY;
	struct transaction t = { .control = control, .has_challenge_route = is_wanted };
	control->updates.is_running = true;
	enum err e = transaction_apply_challenge(&t);
	control->updates.is_running = false;
	if (e != ERR_OK && reterr != NULL)
		*reterr = t.port;
	if (e != ERR_OK && t.port.code == ERR_OK)
		log_error(ROOM, "challenge route not %s error=%s: %s",
			  is_wanted ? "added" : "removed", err_name(e),
			  t.message.data != NULL ? t.message.data : "");
	text_fini(&t.message);
	return e;
}

static int backlog(void)
{
	int max = 0;
	FILE *file = fopen("/proc/sys/net/core/somaxconn", "re");
	if (file == NULL)
		return BACKLOG_MIN;
	if (fscanf(file, "%d", &max) != 1)
		max = 0;
	(void)fclose(file);
	return max > BACKLOG_MIN ? max : BACKLOG_MIN;
}

static enum err fail(const char *what, enum err e)
{
	if (e != ERR_OK)
		log_error(ROOM, "start failed: %s: %s", what, err_text(e));
	return e;
}

static enum err make_acme(struct control *control) SP_ON_CONTROL;
static enum err make_acme(struct control *control)
{
	control->acme_ops =
		(struct acme_ops){ .arg = control, .set_challenge_route = set_challenge_route };
	struct text why = { 0 };
	enum err e = acme_new(control->loop, control->config, control->challenges,
			      &control->acme_ops, &control->acme, &why);
	if (e != ERR_OK)
		log_error(ROOM, "start failed: state_dir %s: %s", control->config->global.state_dir,
			  why.data != NULL ? why.data : err_text(e));
	text_fini(&why);
	return e;
}

static enum err make_parts(struct control *control) SP_ON_CONTROL;
static enum err make_parts(struct control *control)
{
	unsigned cnt = control->worker_cnt;
	enum err e = fail("loop", loop_new(&control->loop));
	if (e == ERR_OK)
		e = fail("resolver", resolver_new(control->loop, &control->resolver));
	if (e == ERR_OK)
		e = fail("upstreams",
			 upstreams_new(cnt, control->loop, control->resolver, &control->upstreams));
	if (e == ERR_OK)
		e = fail("limits", limits_new(&control->limits));
	if (e == ERR_OK)
		e = fail("certificates", tls_slots_new(&control->slots));
	if (e == ERR_OK)
		e = fail("generations", generations_new(cnt, control->upstreams, control->slots,
							control->limits, &control->generations));
	if (e == ERR_OK)
		e = fail("challenges", challenge_table_new(&control->challenges));
	if (e == ERR_OK)
		e = fail("listeners", listeners_new(cnt, backlog(), &control->listeners));
	if (e == ERR_OK)
		e = make_acme(control);
	return e;
}

static enum err start_workers(struct control *control) SP_ON_CONTROL;
static enum err start_workers(struct control *control)
{
	const struct config *config = control->config;
	struct workers_options options = {
		.worker_cnt = control->worker_cnt,
		.challenges = control->challenges,
		.upstreams = control->upstreams,
		.limits = control->limits,
		.tls = { .min_version =
				 config->tls.min_version == 13 ? TLS_VERSION_1_3 : TLS_VERSION_1_2,
			 .ciphers_1_2 = config->tls.ciphers },
		.wants_pinning = config->global.workers == 0,
	};
	return fail("workers", workers_start(&options, &control->workers));
}

/* Publishes the first generation; its ports listen, but nobody accepts yet. */
static enum err publish_first(struct control *control) SP_ON_CONTROL SP_NO_RCU;
static enum err publish_first(struct control *control)
{
	struct transaction t = { .control = control, .config = control->config };
	enum err e = transaction_apply_config(&t);
	if (e != ERR_OK)
		log_error(ROOM, "start failed: %s",
			  t.message.data != NULL ? t.message.data : err_text(e));
	text_fini(&t.message);
	return e;
}

static enum err wish_first(struct control *control) SP_ON_CONTROL;
static enum err wish_first(struct control *control)
{
	struct wishes wishes;
	enum err e = plan_wishes(generation_latest(control->generations)->routes, &wishes);
	if (e != ERR_OK)
		return fail("certificates", e);
	control->updates.is_running = true;
	acme_set_wishes(control->acme, control->config, wishes.items, wishes.cnt);
	control->updates.is_running = false;
	wishes_fini(&wishes);
	return ERR_OK;
}

void control_log_ready(const struct control *control)
{
	struct text ports = { 0 };
	size_t cnt = listeners_cnt(control->listeners);
	for (size_t i = 0; i < cnt && i < 32; i++) {
		char text[ADDR_TEXT_MAX];
		text_printf(&ports, "%s%s", i == 0 ? "" : ",",
			    addr_format(text, sizeof(text),
					&listeners_at(control->listeners, i)->addr));
	}
	if (cnt > 32)
		text_printf(&ports, ",and_%zu_more", cnt - 32);
	log_info("main", "ready pid=%d version=%s workers=%u routes=%zu ports=%s", (int)getpid(),
		 SP_VERSION, control->worker_cnt,
		 route_index_cnt(generation_latest(control->generations)->routes),
		 ports.data != NULL ? ports.data : "none");
	text_fini(&ports);
}

/* What can fail comes first: nobody is served, and no CA is asked, by a start that is given up. The
 * first accept comes last: certificates are in their slots and journalled challenges are answered
 * by then, whatever waits in the sockets' queues. The admin API answers when the loop runs. */
static enum err begin_service(struct control *control) SP_ON_CONTROL SP_NO_RCU;
static enum err begin_service(struct control *control)
{
	enum err e = publish_first(control);
	access_log_open(control);
	if (e == ERR_OK)
		e = start_workers(control);
	if (e == ERR_OK)
		e = wish_first(control);
	if (e == ERR_OK)
		e = admin_new(control->loop, control->config->control.path,
			      control->config->control.mode, api_handle, control, &control->admin);
	if (e != ERR_OK)
		return e;
	acme_start(control->acme);
	return fail("workers", transaction_adopt_all(control));
}

enum err control_start(struct control *control, struct config *config)
{
	control->config = config;
	control->started_ms = clock_now_ms();
	control->started_unix_s = clock_unix_s();
	updates_init(&control->updates, control);
	log_configure(config->log.level, config->log.format);
	control->access_fd = -1;
	control->file = strdup(config->file);
	if (control->file == NULL)
		return fail("configuration", ERR_NOMEM);
	control->worker_cnt =
		config->global.workers > 0 ? config->global.workers : thread_cpu_cnt();
	log_debug(ROOM, "descriptors limit=%lu", privilege_raise_files());
	enum err e = privilege_drop(config);
	if (e == ERR_OK) {
		sp_rcu_start(); /* after the drop: a capability is each thread's own */
		e = fail("TLS", tls_init());
	}
	if (e == ERR_OK)
		e = make_parts(control);
	if (e == ERR_OK)
		e = begin_service(control);
	if (e == ERR_OK)
		control->phase = CONTROL_RUNNING;
	return e;
}

void control_free(struct control *control)
{
	updates_stop(&control->updates);
	admin_free(control->admin);
	access_log_drain(control);
	if (control->workers != NULL)
		workers_stop(control->workers);
	access_log_close(control);
	if (control->acme != NULL)
		acme_free(control->acme);
	if (control->generations != NULL)
		generations_free(control->generations);
	if (control->listeners != NULL)
		listeners_free(control->listeners);
	if (control->challenges != NULL)
		challenge_table_free(control->challenges);
	if (control->slots != NULL)
		tls_slots_free(control->slots);
	if (control->upstreams != NULL)
		upstreams_free(control->upstreams);
	if (control->limits != NULL)
		limits_free(control->limits);
	if (control->resolver != NULL)
		resolver_free(control->resolver);
	if (control->loop != NULL)
		loop_free(control->loop);
	sp_rcu_drain();
	tls_fini();
	if (control->config != NULL)
		config_put(control->config);
	free((char *)control->file);
}
