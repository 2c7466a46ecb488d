#include "update.h"

#include <stdlib.h>
#include <string.h>

#include "admin.h"
#include "smartproxy/arena.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"
#include "transaction.h"

#define ROOM      "control"
#define QUEUE_MAX 1024
#define JSON_MAX  ADMIN_BODIES_MAX /* of all that wait together; one that large is taken alone */

struct update {
	struct list link;
	int64_t submitted_ms;
	struct update_request request; /* json is ours; done NULL: nobody waits */
};

/* What one run works with and hands to those who wait. */
struct run {
	struct transaction transaction;
	struct config_problems problems;
	enum update_outcome outcome;
};

static struct update *first_of(struct updates *updates)
{
	return SP_CONTAINER_OF(updates->queue.next, struct update, link);
}

/* ---- what cannot change without a restart ---- */

static void warn_kept(const char *key)
{
	log_warn(ROOM,
		 "%s changed in the configuration: it takes effect after a restart, the old "
		 "value stays",
		 key);
}

static enum err keep_text(struct config *next, const char *key, const char *old, const char **value)
{
	if (text_is_equal(old, *value))
		return ERR_OK;
	warn_kept(key);
	const char *copy = old == NULL ? NULL : arena_strdup(next->arena, old);
	if (copy == NULL && old != NULL)
		return ERR_NOMEM;
	*value = copy;
	return ERR_OK;
}

static enum err keep_fixed(const struct config *old, struct config *next)
{
	if (old->global.workers != next->global.workers) {
		warn_kept("global.workers");
		next->global.workers = old->global.workers;
	}
	if (old->control.mode != next->control.mode) {
		warn_kept("global.control.mode");
		next->control.mode = old->control.mode;
	}
	if (old->tls.min_version != next->tls.min_version) {
		warn_kept("tls.min_version");
		next->tls.min_version = old->tls.min_version;
	}
	enum err e = keep_text(next, "global.user", old->global.user, &next->global.user);
	if (e == ERR_OK)
		e = keep_text(next, "global.group", old->global.group, &next->global.group);
	if (e == ERR_OK)
		e = keep_text(next, "global.state_dir", old->global.state_dir,
			      &next->global.state_dir);
	if (e == ERR_OK)
		e = keep_text(next, "global.control.path", old->control.path, &next->control.path);
	if (e == ERR_OK)
		e = keep_text(next, "tls.ciphers", old->tls.ciphers, &next->tls.ciphers);
	return e;
}

/* ---- one update ---- */

static int64_t deadline_ms(const struct control *control, const struct update *update)
{
	return update->submitted_ms + control->config->control.update_timeout_ms;
}

static bool is_late(const struct control *control, const struct update *update)
{
	return clock_now_ms() >= deadline_ms(control, update);
}

static enum err read_config(struct control *control, const struct update *update, struct run *run)
	SP_ON_CONTROL;
static enum err read_config(struct control *control, const struct update *update, struct run *run)
{
	struct transaction *t = &run->transaction;
	enum err e =
		update->request.kind == UPDATE_RELOAD
			? config_load(control->file, &t->config, &run->problems)
			: config_with_routes(control->config, update->request.json,
					     update->request.json_len, &t->config, &run->problems);
	if (e == ERR_OK && update->request.kind == UPDATE_RELOAD)
		e = keep_fixed(control->config, t->config);
	if (e == ERR_OK)
		return e;
	if (run->problems.cnt > 0 && e != ERR_NOMEM)
		e = ERR_CONFIG; /* also for a file that cannot be read */
	if (run->problems.cnt > 0)
		text_printf(&t->message, "%zu problem%s in the configuration", run->problems.cnt,
			    run->problems.cnt == 1 ? "" : "s");
	else
		text_puts(&t->message, err_text(e));
	return e;
}

static enum err run_one(struct control *control, const struct update *update, struct run *run)
	SP_ON_CONTROL SP_NO_RCU;
static enum err run_one(struct control *control, const struct update *update, struct run *run)
{
	struct transaction *t = &run->transaction;
	t->control = control;
	t->deadline_ms = deadline_ms(control, update);
	t->has_challenge_route = generation_latest(control->generations)->has_challenge_route;
	if (is_late(control, update)) {
		text_puts(&t->message,
			  "it waited longer than global.control.update_timeout for the updates "
			  "before it, nothing was changed");
		return ERR_TIMEOUT;
	}
	enum err e = read_config(control, update, run);
	if (e != ERR_OK)
		return e;
	e = transaction_apply_config(t);
	if (generation_latest(control->generations)->config != t->config)
		return e;
	/* In force; also when the way back from a late failure failed. */
	struct config *old = control->config;
	control->config = t->config;
	access_log_open(control);
	t->config = NULL;
	config_put(old);
	if (update->request.kind == UPDATE_RELOAD)
		log_configure(control->config->log.level, control->config->log.format);
	return e;
}

/* One line of the log, whatever the configuration holds. */
static const char *clean(char *dst, size_t cap, const char *text)
{
	size_t len = text_format(dst, cap, "%s", text);
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)dst[i] < 0x20 || dst[i] == 0x7f)
			dst[i] = ' ';
	}
	return dst;
}

static void log_outcome(const struct update *update, const struct run *run,
			const struct update_result *result)
{
	const char *what = update->request.kind == UPDATE_RELOAD ? "reload" : "routes";
	if (result->code == ERR_OK) {
		log_info(ROOM, "update applied kind=%s generation=%llu routes=%zu ms=%lld", what,
			 (unsigned long long)result->generation, result->route_cnt,
			 (long long)(clock_now_ms() - update->submitted_ms));
		return;
	}
	char message[1024];
	log_error(ROOM, "update refused kind=%s error=%s: %s", what, err_name(result->code),
		  clean(message, sizeof(message), result->message));
	for (size_t i = 0; i < run->problems.cnt && i < 100; i++) {
		const struct config_problem *p = &run->problems.items[i];
		char line[1024];
		(void)text_format(line, sizeof(line), "%s:%u: %s%s%s", p->file, p->line,
				  p->path == NULL ? "" : p->path,
				  p->path == NULL || p->path[0] == '\0' ? "" : ": ", p->message);
		log_error(ROOM, "%s", clean(message, sizeof(message), line));
	}
}

static void finish(struct updates *updates, struct update *update,
		   const struct update_result *result)
{
	if (update->request.done != NULL)
		update->request.done(update->request.arg, result);
	updates->json_bytes -= update->request.json_len;
	free(update->request.json);
	free(update);
}

static enum update_outcome outcome_of(enum err e, const struct transaction *t)
{
	if (e == ERR_OK)
		return UPDATE_APPLIED;
	if (t->was_rolled_back)
		return UPDATE_ROLLED_BACK;
	return e == ERR_TIMEOUT ? UPDATE_LATE : UPDATE_REFUSED;
}

static void take_first(struct updates *updates) SP_ON_CONTROL SP_NO_RCU;
static void take_first(struct updates *updates)
{
	struct control *control = updates->control;
	struct update *update = first_of(updates);
	list_remove(&update->link);
	updates->queued_cnt--;
	/* The reloads right behind it want the same: the file as it is from now on. Not those
	 * behind one that is late already: they are not. */
	struct list same;
	list_init(&same);
	while (update->request.kind == UPDATE_RELOAD && !is_late(control, update) &&
	       !list_is_empty(&updates->queue) &&
	       first_of(updates)->request.kind == UPDATE_RELOAD) {
		struct list *next = updates->queue.next;
		list_remove(next);
		list_append(&same, next);
		updates->queued_cnt--;
	}
	struct run run = { 0 };
	int64_t begin_ms = clock_now_ms();
	updates->is_running = true;
	enum err e = run_one(control, update, &run);
	updates->is_running = false;
	updates->last_ms = clock_now_ms() - begin_ms;
	updates->outcome_cnt[outcome_of(e, &run.transaction)]++;
	const struct generation *latest = generation_latest(control->generations);
	const char *message = run.transaction.message.len > 0 ? run.transaction.message.data
			      : e == ERR_OK                   ? ""
							      : err_text(e);
	struct update_result result = {
		.code = e,
		.message = message,
		.problems = &run.problems,
		.port = &run.transaction.port,
		.generation = latest->number,
		.route_cnt = route_index_cnt(latest->routes),
	};
	log_outcome(update, &run, &result);
	finish(updates, update, &result);
	LIST_FOREACH_SAFE(link, &same)
	finish(updates, SP_CONTAINER_OF(link, struct update, link), &result);
	if (run.transaction.config != NULL)
		config_put(run.transaction.config);
	config_problems_fini(&run.problems);
	text_fini(&run.transaction.message);
}

/* One update a turn, so that questions are answered between two long ones. */
static void run_queue(struct task *task)
{
	sp_role_assume_control();
	struct updates *updates = SP_CONTAINER_OF(task, struct updates, run_task);
	updates->is_posted = false;
	if (list_is_empty(&updates->queue))
		return;
	take_first(updates);
	if (!list_is_empty(&updates->queue) && !updates->is_posted) {
		updates->is_posted = true;
		loop_post(updates->control->loop, &updates->run_task);
	}
}

void updates_init(struct updates *updates, struct control *control)
{
	*updates = (struct updates){ .control = control, .run_task.run = run_queue };
	list_init(&updates->queue);
}

enum err updates_submit(struct updates *updates, const struct update_request *request,
			struct update **ret_update)
{
	bool is_full =
		updates->queued_cnt >= QUEUE_MAX ||
		(updates->json_bytes > 0 && request->json_len > JSON_MAX - updates->json_bytes);
	enum err e = updates->is_stopping ? ERR_STOPPING : is_full ? ERR_LIMIT : ERR_OK;
	struct update *update =
		e != ERR_OK || fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*update));
	if (update == NULL) {
		free(request->json);
		return e != ERR_OK ? e : ERR_NOMEM;
	}
	update->request = *request;
	update->submitted_ms = clock_now_ms();
	list_append(&updates->queue, &update->link);
	updates->queued_cnt++;
	updates->json_bytes += update->request.json_len;
	if (!updates->is_posted) {
		updates->is_posted = true;
		loop_post(updates->control->loop, &updates->run_task);
	}
	*ret_update = update;
	return ERR_OK;
}

enum err updates_reload(struct updates *updates)
{
	static const struct update_request reload = { .kind = UPDATE_RELOAD };
	struct update *update;
	struct update *last = SP_CONTAINER_OF(updates->queue.prev, struct update, link);
	/* One that waits reads the file later than now; it has the time of this one. */
	if (!list_is_empty(&updates->queue) && last->request.kind == UPDATE_RELOAD &&
	    last->request.done == NULL) {
		last->submitted_ms = clock_now_ms();
		return ERR_OK;
	}
	return updates_submit(updates, &reload, &update);
}

void update_forget(struct update *update)
{
	update->request.done = NULL;
}

void updates_stop(struct updates *updates)
{
	static const struct config_problems none;
	static const struct port_error no_port;
	updates->is_stopping = true;
	const struct generation *latest =
		updates->control->generations == NULL
			? NULL
			: generation_latest(updates->control->generations);
	struct update_result result = {
		.code = ERR_STOPPING,
		.message = "the proxy is shutting down, nothing was changed",
		.problems = &none,
		.port = &no_port,
		.generation = latest == NULL ? 0 : latest->number,
	};
	while (updates->queue.next != NULL && !list_is_empty(&updates->queue)) {
		struct update *update = first_of(updates);
		list_remove(&update->link);
		updates->queued_cnt--;
		finish(updates, update, &result);
	}
}
