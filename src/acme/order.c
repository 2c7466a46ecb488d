/* One order (RFC 8555, 7.1.6 and 7.4).
 *
 *   state      step            waits for                      leaves to
 *   PLAN       step_plan       trial write, leaf key          ACCOUNT | FAILED
 *   ACCOUNT    step_account    the CA's account               NEW_ORDER | FAILED
 *   NEW_ORDER  step_new_order  the CA                         AUTHORIZE | READY | FINALIZE | DOWNLOAD | PLAN | FAILED
 *   AUTHORIZE  step_authorize  each authorization (authz.c)   READY | PLAN | FAILED
 *   READY      step_ready      nothing (journal)              FINALIZE
 *   FINALIZE   step_finalize   the CA, poll 50 ms ... 5 s     DOWNLOAD | PLAN | FAILED
 *   DOWNLOAD   step_download   the CA                         INSTALL | PLAN | FAILED
 *   INSTALL    step_install    the disk (save.c)              DONE
 *   DONE, FAILED: manager_on_order_end(), then the order is freed
 *
 * Back to PLAN, once in an order's life: the account or the order is gone at the CA, or what an
 * earlier process left turned out to be invalid. An order that goes on after a restart passes the
 * same states; NEW_ORDER then asks for the order's status instead of a new one. Callbacks keep the
 * answer and call order_run(). */
#include "order.h"

#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "smartproxy/addr.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"

#define POLL_MAX_MS 5000

const char *order_state_name(enum order_state state)
{
	static const char *const names[ORDER_STATE_CNT] = { "PLAN",      "ACCOUNT", "NEW_ORDER",
							    "AUTHORIZE", "READY",   "FINALIZE",
							    "DOWNLOAD",  "INSTALL", "DONE",
							    "FAILED" };
	SP_ASSERT(state < ORDER_STATE_CNT);
	return names[state];
}

static enum order_state fail(struct order *o, enum failure_kind kind, enum err e, const char *text)
{
	failure_set(&o->failure, kind, e, "%s", text);
	return ORDER_FAILED;
}

/* The CA refused: a lost account or order starts over, anything else ends this try. Takes the
 * answer. */
static enum order_state refuse(struct order *o, const char *what, struct answer *answer)
{
	bool is_account_lost = strcmp(answer->type, "accountDoesNotExist") == 0;
	bool is_order_lost = answer->status == 404 && o->url != NULL;
	failure_from_answer(&o->failure, what, answer);
	answer_free(answer);
	if (is_account_lost)
		ca_account_lost(o->ca, o->account_seq);
	if ((is_account_lost || is_order_lost) && order_start_over(o, o->failure.text))
		return ORDER_PLAN;
	if (is_order_lost)
		o->failure.kind = FAILURE_NETWORK;
	return ORDER_FAILED;
}

/* ---- talking ---- */
static void on_answer(void *arg, struct answer *answer)
{
	struct order *o = arg;
	o->call = NULL;
	o->answer = answer;
	order_run(o);
}

static struct answer *take_answer(struct order *o)
{
	struct answer *answer = o->answer;
	o->answer = NULL;
	return answer;
}

/* Waits for the answer. */
static enum order_state send_request(struct order *o, struct client_request *req)
{
	req->done = on_answer;
	req->arg = o;
	o->is_due = false;
	o->call = client_send(o->ca->client, req);
	return o->call != NULL ? ORDER_WAIT : fail(o, FAILURE_NETWORK, ERR_NOMEM, "out of memory");
}

static enum order_state read_order_url(struct order *o)
{
	struct client_request req = { .target = CLIENT_URL, .url = o->url, .member = "status" };
	return send_request(o, &req);
}

void order_on_timer(struct timer *timer)
{
	struct order *o = SP_CONTAINER_OF(timer, struct order, timer);
	o->is_due = true;
	order_run(o);
}

static enum order_state poll_later(struct order *o, int64_t retry_after_ms)
{
	int64_t wait_ms = retry_after_ms > o->poll_ms ? retry_after_ms : o->poll_ms;
	if (clock_boot_ms() > o->give_up_boot_ms)
		return fail(o, FAILURE_NETWORK, ERR_TIMEOUT,
			    "the CA has not issued within 20 minutes");
	o->poll_ms = o->poll_ms * 3 / 2 > POLL_MAX_MS ? POLL_MAX_MS : o->poll_ms * 3 / 2;
	loop_timer_arm(o->acme->loop, &o->timer, loop_now_ms(o->acme->loop) + wait_ms);
	return ORDER_WAIT;
}

/* ---- PLAN ---- */
static enum order_state write_plan(struct order *o)
{
	struct text why = { 0 };
	enum order_state next = ORDER_ACCOUNT;
	struct journal_order plan = { .directory = o->ca->directory,
				      .names = o->cert->names,
				      .name_cnt = o->cert->name_cnt,
				      .key_type = o->cert->key_type };
	fault_point("acme-plan-before");
	enum err e = store_try(&o->acme->store, &why);
	if (e == ERR_OK)
		e = store_try_cert(&o->acme->store, o->cert->store_name, &why);
	if (e == ERR_OK)
		e = journal_begin(&o->journal, &o->acme->store, o->cert->store_name, &plan,
				  o->key_pem.data, &why);
	fault_point("acme-plan-after");
	if (e != ERR_OK)
		next = fail(o, FAILURE_NETWORK, e, why.data != NULL ? why.data : err_text(e));
	text_fini(&why);
	return next;
}

static enum order_state step_plan(struct order *o)
{
	if (o->key == NULL && o->saved != NULL) {
		o->key = o->saved->key;
		o->saved->key = NULL;
	}
	enum err e = order_need_key(o);
	if (e == ERR_BUSY)
		return ORDER_WAIT;
	if (e != ERR_OK)
		return fail(o, FAILURE_NETWORK, e, "the certificate's key could not be made");
	if (o->saved == NULL)
		return write_plan(o);
	if (journal_reopen(&o->journal, &o->acme->store, o->cert->store_name) != ERR_OK)
		log_warn("acme", "the order goes on without its journal name=%s",
			 o->cert->names[0]);
	o->url = o->saved->url;
	o->finalize_url = o->saved->finalize_url;
	o->saved->url = o->saved->finalize_url = NULL;
	return ORDER_ACCOUNT;
}

/* ---- ACCOUNT ---- */
void order_on_account(struct ca_waiter *waiter, const struct failure *failure)
{
	struct order *o = SP_CONTAINER_OF(waiter, struct order, waiter);
	if (failure != NULL)
		o->failure = *failure;
	order_run(o);
}

static enum order_state step_account(struct order *o)
{
	if (o->failure.err != ERR_OK)
		return ORDER_FAILED;
	if (!list_is_empty(&o->waiter.link))
		return ORDER_WAIT;
	enum err e = ca_account(o->ca, &o->waiter, &o->failure);
	if (e == ERR_BUSY)
		return ORDER_WAIT;
	if (e != ERR_OK)
		return ORDER_FAILED;
	o->account_seq = o->ca->account_seq;
	return ORDER_NEW_ORDER;
}

/* ---- NEW_ORDER ---- */
static enum order_state ask_new_order(struct order *o)
{
	struct addr addr;
	json_t *root = json_object(), *identifiers = json_array();
	for (size_t i = 0; i < o->cert->name_cnt; i++) {
		bool is_ip = addr_parse(o->cert->names[i], 0, &addr) == ERR_OK; /* RFC 8738 */
		json_array_append_new(identifiers,
				      json_pack("{s:s, s:s}", "type", is_ip ? "ip" : "dns", "value",
						o->cert->names[i]));
	}
	json_object_set_new(root, "identifiers", identifiers);
	char *payload = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	struct client_request req = { .target = CLIENT_NEW_ORDER,
				      .payload = payload,
				      .member = "status",
				      .has_location = true };
	enum order_state next =
		payload != NULL ? send_request(o, &req)
				: fail(o, FAILURE_NETWORK, ERR_NOMEM, "newOrder: out of memory");
	free(payload);
	fault_point("acme-order-sent");
	return next;
}

static char *copy_member(const struct answer *answer, const char *name)
{
	const char *value = answer_string(answer, name);
	return value != NULL ? strdup(value) : NULL;
}

static bool read_authorizations(struct order *o, const struct answer *answer)
{
	const json_t *urls = json_object_get(answer->json, "authorizations");
	size_t cnt = json_array_size(urls);
	if (cnt == 0 || cnt > 10000)
		return false;
	o->authzs = calloc(cnt, sizeof(*o->authzs));
	if (o->authzs == NULL)
		return false;
	for (size_t i = 0; i < cnt; i++) {
		const char *url = json_string_value(json_array_get(urls, i));
		struct authz *az = &o->authzs[o->authz_cnt];
		if (url == NULL)
			return false;
		az->order = o;
		list_init(&az->publish_link);
		o->authz_cnt++;
		az->url = strdup(url);
		if (az->url == NULL)
			return false;
	}
	return true;
}

static enum order_state fail_invalid(struct order *o, const struct answer *answer)
{
	const json_t *error = json_object_get(answer->json, "error");
	const char *detail = json_string_value(json_object_get(error, "detail"));
	failure_set(&o->failure, FAILURE_VALIDATION, ERR_ACME, "the order is invalid: %s",
		    detail != NULL ? detail : "the CA gives no reason");
	if (o->saved != NULL && order_start_over(o, "an earlier try has become invalid"))
		return ORDER_PLAN;
	return ORDER_FAILED;
}

/* Where the CA is, there we go on; a new order need not be pending. */
static enum order_state follow_status(struct order *o, const struct answer *answer)
{
	const char *status = answer_string(answer, "status");
	if (o->finalize_url == NULL)
		o->finalize_url = copy_member(answer, "finalize");
	if (status == NULL || o->finalize_url == NULL)
		return fail(o, FAILURE_NETWORK, ERR_SYNTAX,
			    "newOrder: the CA's answer is no order");
	if (strcmp(status, "pending") == 0) {
		if (!read_authorizations(o, answer))
			return fail(o, FAILURE_NETWORK, ERR_SYNTAX,
				    "newOrder: no list of authorizations");
		return ORDER_AUTHORIZE;
	}
	if (strcmp(status, "ready") == 0)
		return ORDER_READY;
	if (strcmp(status, "processing") == 0) {
		o->is_finalize_sent = true;
		o->is_due = true;
		return ORDER_FINALIZE;
	}
	if (strcmp(status, "valid") == 0) {
		o->certificate_url = copy_member(answer, "certificate");
		return o->certificate_url != NULL ? ORDER_DOWNLOAD
						  : fail(o, FAILURE_NETWORK, ERR_SYNTAX,
							 "the order has no certificate URL");
	}
	return fail_invalid(o, answer);
}

void order_note_journal(enum err e, struct text *why)
{
	if (e != ERR_OK)
		log_warn("acme", "the order goes on without its journal: %s",
			 why->data != NULL ? why->data : err_text(e));
	text_fini(why);
}

static void journal_url(struct order *o, const struct answer *answer)
{
	struct text why = { 0 };
	fault_point("acme-order-before");
	order_note_journal(
		journal_add_order(&o->journal, o->url, answer_string(answer, "finalize"), &why),
		&why);
	fault_point("acme-order-after");
}

static enum order_state step_new_order(struct order *o)
{
	struct answer *answer = take_answer(o);
	if (answer == NULL)
		return o->call != NULL  ? ORDER_WAIT
		       : o->url != NULL ? read_order_url(o)
					: ask_new_order(o);
	if (answer->err != ERR_OK)
		return refuse(o, o->url != NULL ? "order" : "newOrder", answer);
	bool is_new = o->url == NULL;
	if (is_new) {
		o->acme->orders_created_cnt++;
		o->url = answer->location != NULL ? strdup(answer->location) : NULL;
		if (o->url == NULL) {
			answer_free(answer);
			return fail(o, FAILURE_NETWORK, ERR_SYNTAX,
				    "newOrder: the answer names no order URL");
		}
		journal_url(o, answer);
	}
	/* A damaged body with its Location: the order exists, its status is asked for. */
	enum order_state next = answer->json != NULL ? follow_status(o, answer) : read_order_url(o);
	answer_free(answer);
	return next;
}

/* ---- AUTHORIZE ---- */
static const struct authz *find_failed(const struct order *o)
{
	for (size_t i = 0; i < o->authz_cnt; i++)
		if (o->authzs[i].state == AUTHZ_FAILED)
			return &o->authzs[i];
	return NULL;
}

bool order_is_validating(const struct order *order)
{
	for (size_t i = 0; i < order->authz_cnt; i++)
		if (authz_is_triggered(&order->authzs[i]))
			return true;
	return false;
}

bool order_must_settle(const struct order *order)
{
	bool is_asked =
		order->state == ORDER_NEW_ORDER && order->url == NULL && order->call != NULL;
	return (is_asked && client_is_sent(order->call)) || order_is_validating(order) ||
	       order->state == ORDER_INSTALL;
}

/* One has failed, so the order has. Those that the CA is validating are answered to their end: each
 * failed validation counts against us. */
static enum order_state settle_failed(struct order *o, const struct authz *failed)
{
	for (size_t i = 0; i < o->authz_cnt; i++)
		if (authz_is_triggered(&o->authzs[i]))
			authz_run(&o->authzs[i]);
	if (order_is_validating(o) && clock_boot_ms() <= o->give_up_boot_ms)
		return ORDER_WAIT;
	o->failure = failed->failure;
	if (strcmp(o->failure.type, "accountDoesNotExist") == 0)
		ca_account_lost(o->ca, o->account_seq);
	else if (o->failure.kind != FAILURE_VALIDATION || o->saved == NULL)
		return ORDER_FAILED;
	return order_start_over(o, o->failure.text) ? ORDER_PLAN : ORDER_FAILED;
}

static enum order_state step_authorize(struct order *o)
{
	size_t valid_cnt = 0;
	const struct authz *failed = find_failed(o);
	for (size_t i = 0; i < o->authz_cnt && failed == NULL; i++) {
		authz_run(&o->authzs[i]);
		valid_cnt += o->authzs[i].state == AUTHZ_VALID;
		failed = find_failed(o);
	}
	if (failed != NULL)
		return settle_failed(o, failed);
	if (valid_cnt < o->authz_cnt && clock_boot_ms() > o->give_up_boot_ms)
		return fail(o, FAILURE_NETWORK, ERR_TIMEOUT,
			    "the CA has not validated within 20 minutes");
	return valid_cnt == o->authz_cnt ? ORDER_READY : ORDER_WAIT;
}

/* ---- READY ---- */
static void journal_mark(struct order *o, const char *what)
{
	struct text why = { 0 };
	order_note_journal(journal_add_mark(&o->journal, what, &why), &why);
}

static enum order_state step_ready(struct order *o)
{
	fault_point("acme-finalize-before");
	journal_mark(o, "finalize");
	fault_point("acme-finalize-after");
	o->poll_ms = ORDER_POLL_FIRST_MS;
	return ORDER_FINALIZE;
}

/* ---- FINALIZE (RFC 8555, 7.4) ---- */
static enum order_state send_csr(struct order *o)
{
	uint8_t *der = NULL;
	size_t len = 0;
	struct text payload = { 0 };
	enum err e = tls_csr_der(o->key, (const char *const *)o->cert->names, o->cert->name_cnt,
				 &der, &len);
	if (e != ERR_OK)
		return fail(o, FAILURE_VALIDATION, e, "the certificate request could not be made");
	text_puts(&payload, "{\"csr\":\"");
	jws_base64url(&payload, der, len);
	text_puts(&payload, "\"}");
	free(der);
	struct client_request req = { .target = CLIENT_URL,
				      .url = o->finalize_url,
				      .payload = payload.data,
				      .member = "status" };
	enum order_state next =
		payload.has_failed ? fail(o, FAILURE_NETWORK, ERR_NOMEM, "finalize: out of memory")
				   : send_request(o, &req);
	text_fini(&payload);
	fault_point("acme-finalize-sent");
	return next;
}

static enum order_state read_finalize(struct order *o, const struct answer *answer)
{
	const char *status = answer_string(answer, "status");
	if (status == NULL)
		return fail(o, FAILURE_NETWORK, ERR_SYNTAX,
			    "finalize: the CA's answer is no order");
	if (strcmp(status, "valid") == 0) {
		o->certificate_url = copy_member(answer, "certificate");
		if (o->certificate_url != NULL)
			return ORDER_DOWNLOAD;
	} else if (strcmp(status, "invalid") == 0) {
		return fail_invalid(o, answer);
	}
	/* "ready" in a poll: the request did not reach the CA, or it was too early; "pending" will
	 * be ready. */
	o->is_finalize_sent = strcmp(status, "ready") != 0;
	return poll_later(o, answer->retry_after_ms);
}

static enum order_state step_finalize(struct order *o)
{
	struct answer *answer = take_answer(o);
	if (answer == NULL) {
		bool is_idle = o->call == NULL && (o->timer.due_ms == 0 || o->is_due);
		if (!is_idle)
			return ORDER_WAIT;
		return o->is_finalize_sent ? read_order_url(o) : send_csr(o);
	}
	bool was_early = strcmp(answer->type, "orderNotReady") == 0;
	if (answer->err != ERR_OK && !was_early)
		return refuse(o, "finalize", answer);
	enum order_state next = ORDER_WAIT;
	if (was_early) { /* not yet ready, or past it: the order's status tells */
		o->is_finalize_sent = true;
		next = poll_later(o, answer->retry_after_ms);
	} else {
		next = read_finalize(o, answer);
	}
	answer_free(answer);
	return next;
}

/* ---- DOWNLOAD (RFC 8555, 7.4.2) ---- */
static enum order_state check_chain(struct order *o)
{
	struct text why = { 0 };
	enum err e = tls_cert_from_pem(o->chain.data, o->chain.len, o->key_pem.data, o->key_pem.len,
				       &o->tls, &why);
	enum order_state next = ORDER_INSTALL;
	if (e == ERR_KEY_MISMATCH && o->saved != NULL &&
	    order_start_over(o, "it was finalized with another key"))
		next = ORDER_PLAN;
	else if (e != ERR_OK)
		/* What is no PEM at all comes from something between the CA and us: it is asked
		 * again. */
		next = fail(o, e == ERR_SYNTAX ? FAILURE_NETWORK : FAILURE_VALIDATION, e,
			    why.data != NULL ? why.data : err_text(e));
	for (size_t i = 0; next == ORDER_INSTALL && i < o->cert->name_cnt; i++)
		if (!tls_cert_has_name(o->tls, o->cert->names[i]))
			next = fail(o, FAILURE_VALIDATION, ERR_ACME,
				    "the CA's certificate lacks a name that was ordered");
	text_fini(&why);
	return next;
}

static enum order_state step_download(struct order *o)
{
	struct answer *answer = take_answer(o);
	if (answer == NULL && o->call != NULL)
		return ORDER_WAIT;
	if (answer == NULL) {
		struct client_request req = { .target = CLIENT_URL,
					      .url = o->certificate_url,
					      .wants_pem = true };
		fault_point("acme-download-before");
		return send_request(o, &req);
	}
	if (answer->err != ERR_OK)
		return refuse(o, "certificate", answer);
	text_fini(&o->chain);
	o->chain = answer->body;
	answer->body = (struct text){ 0 };
	answer_free(answer);
	fault_point("acme-download-after");
	if (o->chain.data == NULL || o->chain.has_failed)
		return fail(o, FAILURE_NETWORK, ERR_SYNTAX,
			    "certificate: the CA's answer is empty");
	return check_chain(o);
}

/* ---- INSTALL ---- */
/* Served first, then written: what the disk does is no reason to wait. */
static enum order_state step_install(struct order *o)
{
	/* Its own save, or an older one that a slow disk still has: the end of either comes back here. */
	if (o->cert->save != NULL)
		return ORDER_WAIT;
	if (o->tls == NULL)
		return ORDER_DONE;
	fault_point("acme-issued-before");
	journal_mark(o, "issued");
	fault_point("acme-issued-after");
	cert_adopt(o->cert, o->tls, o->ca->directory, o->url);
	o->tls = NULL;
	bool is_writing = cert_start_save(o->cert, o->chain.data, o->key_pem.data);
	fault_point("acme-install-after");
	if (!is_writing) {
		log_error("acme",
			  "the certificate is served but cannot be saved: out of memory name=%s",
			  o->cert->names[0]);
	}
	return is_writing ? ORDER_WAIT : ORDER_DONE;
}

/* ---- the driver ---- */
static void set_state(struct order *o, enum order_state state)
{
#define TO(s) (1u << ORDER_##s)
	static const unsigned allowed[ORDER_STATE_CNT] = {
		[ORDER_PLAN] = TO(ACCOUNT) | TO(FAILED),
		[ORDER_ACCOUNT] = TO(NEW_ORDER) | TO(FAILED),
		[ORDER_NEW_ORDER] = TO(AUTHORIZE) | TO(READY) | TO(FINALIZE) | TO(DOWNLOAD) |
				    TO(PLAN) | TO(FAILED),
		[ORDER_AUTHORIZE] = TO(READY) | TO(PLAN) | TO(FAILED),
		[ORDER_READY] = TO(FINALIZE),
		[ORDER_FINALIZE] = TO(DOWNLOAD) | TO(PLAN) | TO(FAILED),
		[ORDER_DOWNLOAD] = TO(INSTALL) | TO(PLAN) | TO(FAILED),
		[ORDER_INSTALL] = TO(DONE),
	};
#undef TO
	SP_ASSERT(allowed[o->state] & 1u << state);
	log_debug("acme", "order %s -> %s name=%s", order_state_name(o->state),
		  order_state_name(state), o->cert->names[0]);
	loop_timer_disarm(o->acme->loop, &o->timer);
	if (state == ORDER_PLAN)
		o->failure = (struct failure){ .retry_after_ms = -1 };
	o->state = state;
}

/* Only what the CA validates goes on, and what it has made is kept: a new order's URL, a
 * certificate. */
static bool is_allowed_while_stopping(const struct order *o)
{
	return o->state == ORDER_AUTHORIZE || o->state == ORDER_INSTALL ||
	       (o->state == ORDER_NEW_ORDER && o->url == NULL && o->answer != NULL);
}

void order_run(struct order *order)
{
	static enum order_state (*const steps[])(struct order * o) = {
		[ORDER_PLAN] = step_plan,           [ORDER_ACCOUNT] = step_account,
		[ORDER_NEW_ORDER] = step_new_order, [ORDER_AUTHORIZE] = step_authorize,
		[ORDER_READY] = step_ready,         [ORDER_FINALIZE] = step_finalize,
		[ORDER_DOWNLOAD] = step_download,   [ORDER_INSTALL] = step_install,
	};
	struct order *o = order;
	while (o->state != ORDER_DONE && o->state != ORDER_FAILED) {
		if (o->acme->stop.is_stopping && !is_allowed_while_stopping(o))
			break;
		enum order_state next = steps[o->state](o);
		if (next == ORDER_WAIT)
			break;
		set_state(o, next);
	}
	if (o->acme->stop.is_stopping && o->state != ORDER_DONE) {
		stop_check(o->acme);
		return;
	}
	if (o->state == ORDER_DONE || o->state == ORDER_FAILED) {
		manager_on_order_end(o);
		if (!o->is_kept)
			order_forget(o);
		order_free(o);
	}
}
