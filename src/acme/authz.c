/* One authorization with its http-01 challenge (RFC 8555, 7.5 and 8.3).
 *
 *   state    does                                     waits for                   leaves to
 *   FETCH    reads the authorization                  the CA                      PUBLISH | VALID | FAILED
 *   PUBLISH  puts the answer into the table, journal  end of turn, grace period   TRIGGER | POLL (was triggered) | FAILED
 *   TRIGGER  tells the CA                             the CA                      POLL | FAILED
 *   POLL     reads the authorization                  our responder, timer, CA    VALID | FAILED | TRIGGER (unsure)
 *   VALID, FAILED: the answer is out of the table
 *
 * Polling starts when our own responder has served the validation (+50 ms), else at 250 ms, x1.5 to
 * 5 s; Retry-After wins over both. After a restart it may be unknown whether the CA was told: then
 * its validation is awaited for some seconds before it is told (again), since a second trigger
 * could fail after the first has succeeded. */
#include <stdlib.h>
#include <string.h>

#include "order.h"
#include "smartproxy/addr.h"
#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"

#define SERVED_DELAY_MS   50
#define POLL_FIRST_MS     250
#define POLL_MAX_MS       5000
#define UNSURE_MS         3000
#define TRIGGERED_WAIT_MS 60000

static void set_state(struct authz *az, enum authz_state state)
{
	static const unsigned allowed[AUTHZ_STATE_CNT] = {
		[AUTHZ_FETCH] = 1u << AUTHZ_PUBLISH | 1u << AUTHZ_VALID | 1u << AUTHZ_FAILED,
		[AUTHZ_PUBLISH] = 1u << AUTHZ_TRIGGER | 1u << AUTHZ_POLL | 1u << AUTHZ_FAILED,
		[AUTHZ_TRIGGER] = 1u << AUTHZ_POLL | 1u << AUTHZ_FAILED,
		[AUTHZ_POLL] = 1u << AUTHZ_VALID | 1u << AUTHZ_FAILED | 1u << AUTHZ_TRIGGER,
	};
	SP_ASSERT(allowed[az->state] & 1u << state);
	az->state = state;
	az->is_due = false;
	loop_timer_disarm(az->order->acme->loop, &az->timer);
	if (state == AUTHZ_VALID || state == AUTHZ_FAILED)
		authz_withdraw(az);
}

static void fail(struct authz *az, const struct failure *failure)
{
	az->failure = *failure;
	set_state(az, AUTHZ_FAILED);
}

bool authz_is_triggered(const struct authz *az)
{
	return az->state == AUTHZ_POLL || az->state == AUTHZ_TRIGGER ||
	       (az->state == AUTHZ_PUBLISH && az->was_triggered);
}

/* Another order may share the authorization, and so the token. */
static bool is_token_shared(const struct authz *az)
{
	LIST_FOREACH(at, &az->order->acme->orders)
	{
		const struct order *o = SP_CONTAINER_OF(at, struct order, link);
		for (size_t i = 0; i < o->authz_cnt; i++) {
			const struct authz *other = &o->authzs[i];
			if (other != az && other->token != NULL && other->is_published &&
			    strcmp(other->token, az->token) == 0)
				return true;
		}
	}
	return false;
}

void authz_withdraw(struct authz *az)
{
	sp_role_assume_control();
	if (az->is_published && !is_token_shared(az))
		(void)!challenge_remove(az->order->acme->table, az->token);
	az->is_published = false;
}

void authz_fini(struct authz *az)
{
	client_cancel(az->call);
	answer_free(az->answer);
	loop_timer_disarm(az->order->acme->loop, &az->timer);
	list_remove(&az->publish_link);
	free(az->url);
	free(az->name);
	free(az->challenge_url);
	free(az->token);
}

/* ---- talking ---- */
static void on_answer(void *arg, struct answer *answer)
{
	struct authz *az = arg;
	az->call = NULL;
	az->answer = answer;
	order_run(az->order);
}

static void send_request(struct authz *az, const char *url, const char *payload)
{
	struct client_request req = { .target = CLIENT_URL,
				      .url = url,
				      .payload = payload,
				      .member = "status",
				      .done = on_answer,
				      .arg = az };
	struct failure failure;
	az->is_due = false;
	az->call = client_send(az->order->ca->client, &req);
	if (az->call != NULL)
		return;
	failure_set(&failure, FAILURE_NETWORK, ERR_NOMEM, "authorization: out of memory");
	fail(az, &failure);
}

static struct answer *take_answer(struct authz *az)
{
	struct answer *answer = az->answer;
	az->answer = NULL;
	return answer;
}

static void on_timer(struct timer *timer)
{
	struct authz *az = SP_CONTAINER_OF(timer, struct authz, timer);
	az->is_due = true;
	order_run(az->order);
}

static void poll_at(struct authz *az, int64_t due_ms)
{
	struct loop *loop = az->order->acme->loop;
	if (due_ms < az->not_before_ms)
		due_ms = az->not_before_ms;
	loop_timer_arm(loop, &az->timer, due_ms);
}

/* ---- reading ---- */
static const json_t *find_http01(const json_t *authz)
{
	size_t ix;
	json_t *challenge;
	json_array_foreach(json_object_get(authz, "challenges"), ix, challenge)
	{
		const char *type = json_string_value(json_object_get(challenge, "type"));
		if (type != NULL && strcmp(type, "http-01") == 0)
			return challenge;
	}
	return NULL;
}

/* RFC 8555, 8.1: base64url characters; anything else would be a path of the CA's choosing. */
static bool is_token(const char *token)
{
	size_t len = strlen(token);
	return len > 0 && len <= CHALLENGE_TOKEN_MAX &&
	       strspn(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") ==
		       len;
}

static bool is_our_name(const struct order *o, const char *name)
{
	for (size_t i = 0; i < o->cert->name_cnt; i++)
		if (strcmp(o->cert->names[i], name) == 0)
			return true;
	return false;
}

static void read_failure(struct authz *az, const json_t *root, const char *status)
{
	struct failure failure;
	const json_t *error = json_object_get(find_http01(root), "error");
	const char *type = json_string_value(json_object_get(error, "type"));
	const char *detail = json_string_value(json_object_get(error, "detail"));
	const char *colon = type != NULL ? strrchr(type, ':') : NULL;
	failure_set(&failure, FAILURE_VALIDATION, ERR_ACME, "authorization of %s is %s%s%s%s%s",
		    az->name != NULL ? az->name : "?", status, type != NULL ? ": " : "",
		    colon != NULL ? colon + 1 : "", detail != NULL ? ": " : "",
		    detail != NULL ? detail : "");
	fail(az, &failure);
}

static void fail_foreign(struct authz *az, const char *what)
{
	struct failure failure;
	failure_set(&failure, FAILURE_NETWORK, ERR_SYNTAX, "authorization: %s", what);
	fail(az, &failure);
}

/* An answer that is no authorization. */
static bool is_refused(struct authz *az, struct answer *answer)
{
	struct failure failure;
	char what[300];
	if (answer->err == ERR_OK)
		return false;
	text_format(what, sizeof(what), "authorization of %s", az->name != NULL ? az->name : "?");
	failure_from_answer(&failure, what, answer);
	answer_free(answer);
	fail(az, &failure);
	return true;
}

static bool copy_challenge(struct authz *az, const json_t *root)
{
	const json_t *challenge = find_http01(root);
	const char *name =
		json_string_value(json_object_get(json_object_get(root, "identifier"), "value"));
	const char *url = json_string_value(json_object_get(challenge, "url"));
	const char *token = json_string_value(json_object_get(challenge, "token"));
	free(az->name);
	az->name = name != NULL ? strdup(name) : NULL;
	if (az->name == NULL || !is_our_name(az->order, az->name)) {
		fail_foreign(az, "it is for a name that was not ordered");
		return false;
	}
	if (url == NULL || token == NULL || !is_token(token)) {
		fail_foreign(az, "the CA offers no http-01 challenge");
		return false;
	}
	az->challenge_url = strdup(url);
	az->token = strdup(token);
	if (az->challenge_url == NULL || az->token == NULL)
		fail_foreign(az, "out of memory");
	return az->state != AUTHZ_FAILED;
}

/* What an earlier process or try has told the CA about this authorization. */
static void recall(struct authz *az, const char *challenge_status)
{
	const struct journal_order *saved = az->order->saved;
	bool is_processing =
		challenge_status != NULL && strcmp(challenge_status, "processing") == 0;
	az->was_triggered = is_processing;
	az->unsure_until_ms = 0;
	for (size_t i = 0; saved != NULL && i < saved->challenge_cnt; i++) {
		const struct journal_challenge *c = &saved->challenges[i];
		if (strcmp(c->token, az->token) != 0)
			continue;
		az->is_journalled = az->was_triggered = true;
		az->unsure_until_ms =
			loop_now_ms(az->order->acme->loop) +
			(is_processing || c->is_triggered ? TRIGGERED_WAIT_MS : UNSURE_MS);
	}
}

static void put_into_table(struct authz *az)
{
	sp_role_assume_control();
	struct acme *acme = az->order->acme;
	char text[CHALLENGE_TEXT_MAX];
	text_format(text, sizeof(text), "%s.%s", az->token, az->order->ca->thumbprint);
	enum err e = challenge_add(acme->table, az->name, az->token, text);
	if (e != ERR_OK && e != ERR_EXISTS) {
		fail_foreign(az, err_text(e));
		return;
	}
	az->is_published = true;
	az->served_cnt = challenge_served(acme->table, az->token);
	set_state(az, AUTHZ_PUBLISH);
	list_append(&acme->to_publish, &az->publish_link);
	if (!acme->is_publish_posted) {
		acme->is_publish_posted = true;
		loop_defer(acme->loop, &acme->publish_task);
	}
}

static void run_fetch(struct authz *az)
{
	struct answer *answer = take_answer(az);
	if (answer == NULL) {
		if (az->call == NULL && !az->order->acme->stop.is_stopping)
			send_request(az, az->url, NULL);
		return;
	}
	if (is_refused(az, answer))
		return;
	const char *status = answer_string(answer, "status");
	if (status == NULL) {
		fail_foreign(az, "it has no status");
	} else if (strcmp(status, "valid") == 0) {
		set_state(az, AUTHZ_VALID);
	} else if (strcmp(status, "pending") != 0) {
		(void)copy_challenge(az, answer->json);
		if (az->state == AUTHZ_FETCH)
			read_failure(az, answer->json, status);
	} else if (copy_challenge(az, answer->json)) {
		recall(az, json_string_value(json_object_get(find_http01(answer->json), "status")));
		put_into_table(az);
	}
	answer_free(answer);
}

/* ---- publish: one grace period and one line of journal an order for all of this turn ---- */
static void journal_order_tokens(struct order *o)
{
	struct journal_challenge *lines = calloc(o->authz_cnt, sizeof(*lines));
	struct text why = { 0 };
	size_t cnt = 0;
	for (size_t i = 0; lines != NULL && i < o->authz_cnt; i++) {
		const struct authz *az = &o->authzs[i];
		if (az->state != AUTHZ_PUBLISH || az->is_journalled)
			continue;
		lines[cnt++] = (struct journal_challenge){ .name = az->name,
							   .authz_url = az->url,
							   .url = az->challenge_url,
							   .token = az->token };
	}
	fault_point("acme-challenge-before");
	if (cnt > 0)
		order_note_journal(journal_add_challenges(&o->journal, lines, cnt, &why), &why);
	fault_point("acme-challenge-after");
	free(lines);
}

void authz_publish_all(struct acme *acme)
{
	struct list batch;
	list_init(&batch);
	LIST_FOREACH_SAFE(at, &acme->to_publish)
	{
		list_remove(at);
		list_append(&batch, at);
	}
	if (list_is_empty(&batch))
		return;
	sp_rcu_wait();
	while (!list_is_empty(&batch)) {
		struct order *o = SP_CONTAINER_OF(batch.next, struct authz, publish_link)->order;
		journal_order_tokens(o);
		for (size_t i = 0; i < o->authz_cnt; i++) {
			list_remove(&o->authzs[i].publish_link);
			o->authzs[i].is_live = o->authzs[i].state == AUTHZ_PUBLISH;
		}
		order_run(o);
	}
}

static void start_polling(struct authz *az, int64_t first_ms)
{
	sp_role_assume_control();
	struct loop *loop = az->order->acme->loop;
	az->interval_ms = POLL_FIRST_MS;
	set_state(az, AUTHZ_POLL);
	if (challenge_served(az->order->acme->table, az->token) > az->served_cnt) {
		az->served_cnt = challenge_served(az->order->acme->table, az->token);
		first_ms = SERVED_DELAY_MS;
	}
	poll_at(az, loop_now_ms(loop) + first_ms);
}

static void run_publish(struct authz *az)
{
	if (!az->is_live)
		return;
	if (az->was_triggered)
		start_polling(az, 0);
	else if (!az->order->acme->stop.is_stopping)
		set_state(az, AUTHZ_TRIGGER);
}

/* ---- trigger (RFC 8555, 7.5.1) ---- */
static void run_trigger(struct authz *az)
{
	struct answer *answer = take_answer(az);
	struct failure failure;
	if (answer == NULL) {
		if (az->call == NULL)
			send_request(az, az->challenge_url, "{}");
		fault_point("acme-trigger-sent");
		return;
	}
	/* Refused with a status: perhaps it is valid already, or an earlier try of ours came
	 * through; the poll tells. */
	if (answer->err != ERR_OK && answer->status == 0) {
		failure_from_answer(&failure, "challenge", answer);
		answer_free(answer);
		fail(az, &failure);
		return;
	}
	if (answer->retry_after_ms > 0)
		az->not_before_ms = loop_now_ms(az->order->acme->loop) + answer->retry_after_ms;
	az->unsure_until_ms = 0;
	fault_point("acme-triggered-before");
	if (answer->err == ERR_OK)
		journal_add_triggered(&az->order->journal, az->token);
	fault_point("acme-triggered-after");
	start_polling(az, answer->err == ERR_OK ? POLL_FIRST_MS : 0);
	answer_free(answer);
}

/* ---- poll ---- */
static void rearm(struct authz *az, int64_t retry_after_ms)
{
	int64_t now_ms = loop_now_ms(az->order->acme->loop);
	int64_t wait_ms = az->was_served_since ? SERVED_DELAY_MS : az->interval_ms;
	az->was_served_since = false;
	az->interval_ms =
		az->interval_ms * 3 / 2 > POLL_MAX_MS ? POLL_MAX_MS : az->interval_ms * 3 / 2;
	az->not_before_ms = retry_after_ms > 0 ? now_ms + retry_after_ms : 0;
	poll_at(az, now_ms + wait_ms);
}

static bool is_forgotten(const struct authz *az)
{
	sp_role_assume_control();
	const struct acme *acme = az->order->acme;
	return az->unsure_until_ms != 0 && loop_now_ms(acme->loop) >= az->unsure_until_ms &&
	       challenge_served(acme->table, az->token) == 0 && !acme->stop.is_stopping;
}

static void run_poll(struct authz *az)
{
	struct answer *answer = take_answer(az);
	if (answer == NULL) {
		if (az->is_due && az->call == NULL) {
			az->was_served_since = false;
			send_request(az, az->url, NULL);
		}
		return;
	}
	if (is_refused(az, answer))
		return;
	const char *status = answer_string(answer, "status");
	if (status == NULL) {
		fail_foreign(az, "it has no status");
	} else if (strcmp(status, "valid") == 0) {
		fault_point("acme-authz-valid");
		set_state(az, AUTHZ_VALID);
	} else if (strcmp(status, "pending") != 0) {
		read_failure(az, answer->json, status);
	} else if (is_forgotten(az)) {
		set_state(az, AUTHZ_TRIGGER);
	} else {
		rearm(az, answer->retry_after_ms);
	}
	answer_free(answer);
}

void authz_on_served(struct authz *az)
{
	sp_role_assume_control();
	struct acme *acme = az->order->acme;
	if (az->state != AUTHZ_POLL || !az->is_published)
		return;
	uint32_t cnt = challenge_served(acme->table, az->token);
	if (cnt == az->served_cnt)
		return;
	az->served_cnt = cnt;
	az->was_served_since = true;
	if (az->call == NULL && az->timer.due_ms != 0 &&
	    az->timer.due_ms > loop_now_ms(acme->loop) + SERVED_DELAY_MS)
		poll_at(az, loop_now_ms(acme->loop) + SERVED_DELAY_MS);
}

void authz_run(struct authz *az)
{
	static void (*const run[AUTHZ_STATE_CNT])(struct authz * az) = {
		[AUTHZ_FETCH] = run_fetch,
		[AUTHZ_PUBLISH] = run_publish,
		[AUTHZ_TRIGGER] = run_trigger,
		[AUTHZ_POLL] = run_poll,
	};
	enum authz_state before;
	az->timer.on_due = on_timer;
	do {
		before = az->state;
		if (run[before] != NULL)
			run[before](az);
	} while (az->state != before);
}
