/* A call's life:
 *
 *   WAITING  in client->waiting: for the directory, for a nonce
 *   SENT     signed and on its way                             -> WAITING (badNonce, stale) | RESTING | done
 *   RESTING  until its timer (0.5, 1, 2, 4, 8 s, Retry-After)  -> WAITING
 */
#include "client.h"

#include <stdlib.h>
#include <string.h>

#include "jws.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"
#include "smartproxy/rand.h"

#define NONCE_POOL_CNT     64
#define NONCE_FETCHES_MAX  8u
#define NONCE_TRIES_MAX    100u
#define NONCE_BUDGET_MS    30000
#define NET_TRIES_MAX      5u
#define CONNECT_TRIES_MAX  3u    /* nobody there: then the order waits, and the CA is probed */
#define RETRY_AFTER_MAX_MS 30000 /* a longer one ends the call, and the order waits */
#define DIRECTORY_LIFE_MS  (INT64_C(12) * 3600 * 1000)
#define TROUBLE_QUIET_MS   60000

#define STALE_TRIES_MAX 8

struct call {
	struct list link;      /* client->calls */
	struct list wait_link; /* client->waiting, or to itself */
	struct client *client;
	struct client_request req;
	char *url, *payload;
	struct http_call *http_call;
	struct timer timer;
	int64_t nonce_since_ms; /* of the first badNonce; 0: none yet */
	unsigned nonce_tries, net_tries, stale_tries;
	bool has_refetched;
	char *nonce; /* of a badNonce answer: for the next try */
};

struct client {
	struct loop *loop;
	struct http *http;
	struct client_stats *stats;
	char *directory_url;
	char *new_nonce, *new_account, *new_order, *terms;
	int64_t directory_at_ms; /* boot clock; 0: none */
	struct http_call *directory_call;
	struct timer directory_timer;
	unsigned directory_tries;
	const struct tls_key *key;
	char *kid;
	char *nonces[NONCE_POOL_CNT];
	unsigned nonce_cnt;
	struct nonce_fetch {
		struct client *client;
		struct http_call *http_call; /* NULL: idle */
	} nonce_fetches[NONCE_FETCHES_MAX];
	struct timer nonce_timer;
	unsigned nonce_tries;
	struct list calls, waiting;
	int64_t trouble_quiet_until_ms; /* 0: nothing said yet */
	struct task wake_task;
	bool is_wake_posted, is_dead;
	struct http_call *probe_call;
	void (*probe_done)(void *arg, bool is_up);
	void *probe_arg;
};

static void wake(struct client *c);

static const char no_memory[] = "out of memory";

/* ---- answers ---- */
void answer_free(struct answer *answer)
{
	if (answer == NULL)
		return;
	json_decref(answer->json);
	text_fini(&answer->body);
	free(answer->location);
	free(answer);
}

const char *answer_string(const struct answer *answer, const char *name)
{
	return json_string_value(json_object_get(answer->json, name));
}

static void free_call(struct call *call)
{
	list_remove(&call->link);
	list_remove(&call->wait_link);
	http_cancel(call->http_call);
	loop_timer_disarm(call->client->loop, &call->timer);
	free(call->nonce);
	free(call->url);
	free(call->payload);
	free(call);
}

static void finish(struct call *call, struct answer *answer)
{
	struct client_request req = call->req;
	free_call(call);
	req.done(req.arg, answer);
}

/* Without memory for the answer the call rests instead and tries again. */
static void finish_error(struct call *call, enum err e, long status, const char *text)
{
	struct answer *answer = calloc(1, sizeof(*answer));
	if (answer == NULL) {
		loop_timer_arm(call->client->loop, &call->timer,
			       loop_now_ms(call->client->loop) + 1000);
		return;
	}
	answer->err = e;
	answer->status = status;
	answer->retry_after_ms = -1;
	text_escape(answer->text, sizeof(answer->text), text, strlen(text));
	finish(call, answer);
}

/* detail, then "; NAME: detail" for each subproblem (RFC 8555, 6.7.1). */
static void read_problem(struct answer *answer, const json_t *problem)
{
	struct text t = { 0 };
	const char *type = json_string_value(json_object_get(problem, "type"));
	const char *detail = json_string_value(json_object_get(problem, "detail"));
	const char *title = json_string_value(json_object_get(problem, "title"));
	const char *colon = type != NULL ? strrchr(type, ':') : NULL;
	if (type != NULL) {
		const char *last = colon != NULL ? colon + 1 : type;
		text_escape(answer->type, sizeof(answer->type), last, strlen(last));
	}
	text_puts(&t, detail != NULL ? detail : title != NULL ? title : "no detail given");
	size_t ix;
	json_t *sub;
	json_array_foreach(json_object_get(problem, "subproblems"), ix, sub)
	{
		json_t *identifier = json_object_get(sub, "identifier");
		const char *name = json_string_value(json_object_get(identifier, "value"));
		const char *words = json_string_value(json_object_get(sub, "detail"));
		text_printf(&t, "; %s: %s", name != NULL ? name : "?", words != NULL ? words : "?");
	}
	if (!t.has_failed)
		text_escape(answer->text, sizeof(answer->text), t.data, t.len);
	text_fini(&t);
}

/* RFC 7807, 3.1. JSON of another kind is no word of the CA's: some other box on the way has answered. */
static bool is_problem(const json_t *root)
{
	return json_is_string(json_object_get(root, "type")) ||
	       json_is_string(json_object_get(root, "title")) ||
	       json_is_string(json_object_get(root, "detail"));
}

static struct answer *make_answer(const struct call *call, const struct http_response *res)
{
	struct answer *a = calloc(1, sizeof(*a));
	if (a == NULL)
		return NULL;
	bool is_good = res->status >= 200 && res->status < 300;
	a->status = res->status;
	a->retry_after_ms = -1;
	if (res->retry_after[0] != 0 &&
	    plan_retry_after(res->retry_after, clock_unix_s(), &a->retry_after_ms) != ERR_OK)
		a->retry_after_ms = -1;
	a->location = res->location[0] != 0 ? strdup(res->location) : NULL;
	if (res->err == ERR_OK && (!is_good || !call->req.wants_pem))
		a->json = json_loadb(res->body, res->body_len, is_good ? 0 : JSON_ALLOW_NUL, NULL);
	bool lacks_member = is_good && call->req.member != NULL &&
			    json_string_value(json_object_get(a->json, call->req.member)) == NULL;
	if (a->json != NULL &&
	    (!json_is_object(a->json) || lacks_member || (!is_good && !is_problem(a->json)))) {
		json_decref(a->json);
		a->json = NULL;
	}
	if (is_good) {
		if (call->req.wants_pem)
			text_add(&a->body, res->body, res->body_len);
		return a;
	}
	a->err = a->json != NULL ? ERR_ACME : ERR_NETWORK;
	text_format(a->text, sizeof(a->text), "HTTP status %ld", res->status);
	if (a->json != NULL)
		read_problem(a, a->json);
	return a;
}

/* ---- nonces ---- */
static void push_nonce(struct client *c, const char *nonce)
{
	if (nonce[0] == 0 || c->nonce_cnt == NONCE_POOL_CNT)
		return;
	char *copy = strdup(nonce);
	if (copy != NULL)
		c->nonces[c->nonce_cnt++] = copy;
}

/* The youngest first: the oldest are the ones that the CA may have forgotten. */
static char *take_nonce(struct client *c, struct call *call)
{
	char *nonce = call->nonce;
	call->nonce = NULL;
	if (nonce == NULL && c->nonce_cnt > 0)
		nonce = c->nonces[--c->nonce_cnt];
	return nonce;
}

static void fail_waiting(struct client *c, const struct http_response *res)
{
	struct list failed;
	list_init(&failed);
	LIST_FOREACH_SAFE(at, &c->waiting)
	{
		list_remove(at);
		list_append(&failed, at);
	}
	while (!list_is_empty(&failed)) {
		struct call *call = SP_CONTAINER_OF(failed.next, struct call, wait_link);
		list_remove(&call->wait_link);
		finish_error(call, res->err != ERR_OK ? res->err : ERR_NETWORK, res->status,
			     res->err != ERR_OK
				     ? res->error_text
				     : "the CA's directory or nonce service answers with an error");
	}
}

/* An order may rest for minutes before it fails with a line of its own: the first repeat says why, one in a minute. */
static void note_trouble(struct client *c, const char *url, const struct http_response *res)
{
	char what[FAILURE_TEXT_MAX], where[FAILURE_TEXT_MAX];
	if (loop_now_ms(c->loop) < c->trouble_quiet_until_ms)
		return;
	c->trouble_quiet_until_ms = loop_now_ms(c->loop) + TROUBLE_QUIET_MS;
	if (res->err == ERR_OK)
		text_format(what, sizeof(what), "HTTP status %ld", res->status);
	else
		text_escape(what, sizeof(what), res->error_text, strlen(res->error_text));
	text_escape(where, sizeof(where), url, strlen(url));
	log_warn("acme", "no usable answer from the CA, trying again: %s url=%s", what, where);
}

static unsigned tries_max(const struct http_response *res)
{
	if (res->err == ERR_TLS) /* it will not become trusted in seconds */
		return 0;
	return res->status == 0 && res->err == ERR_NETWORK ? CONNECT_TRIES_MAX : NET_TRIES_MAX;
}

static int64_t rest_ms(unsigned tries)
{
	SP_ASSERT(tries > 0);
	return rand_jitter(INT64_C(500) << (tries - 1), 10);
}

static void on_nonce(void *arg, const struct http_response *res)
{
	struct nonce_fetch *fetch = arg;
	struct client *c = fetch->client;
	fetch->http_call = NULL;
	if (res->err == ERR_OK && res->status / 100 == 2 && res->nonce[0] != 0) {
		c->nonce_tries = 0;
		push_nonce(c, res->nonce);
		wake(c);
		return;
	}
	if (c->nonce_timer.due_ms != 0) /* this round has been counted */
		return;
	if (res->status == 404)
		c->directory_at_ms = 0;
	if (++c->nonce_tries > tries_max(res)) {
		c->nonce_tries = 0;
		fail_waiting(c, res);
		return;
	}
	note_trouble(c, c->new_nonce, res);
	loop_timer_arm(c->loop, &c->nonce_timer, loop_now_ms(c->loop) + rest_ms(c->nonce_tries));
}

static void on_nonce_timer(struct timer *timer)
{
	wake(SP_CONTAINER_OF(timer, struct client, nonce_timer));
}

/* As many as calls wait, a few at once. */
static void fetch_nonces(struct client *c, unsigned wanted_cnt)
{
	unsigned under_way = 0;
	if (c->nonce_timer.due_ms != 0)
		return;
	for (unsigned i = 0; i < NONCE_FETCHES_MAX; i++)
		under_way += c->nonce_fetches[i].http_call != NULL;
	for (unsigned i = 0; i < NONCE_FETCHES_MAX && under_way < wanted_cnt; i++) {
		struct nonce_fetch *fetch = &c->nonce_fetches[i];
		struct http_request req = { .method = HTTP_HEAD, .url = c->new_nonce };
		if (fetch->http_call != NULL)
			continue;
		fetch->client = c;
		if (http_send(c->http, &req, on_nonce, fetch, &fetch->http_call) != ERR_OK) {
			loop_timer_arm(c->loop, &c->nonce_timer, loop_now_ms(c->loop) + 500);
			break;
		}
		c->stats->requests_cnt++;
		under_way++;
	}
}

/* ---- directory (RFC 8555, 7.1.1) ---- */
static bool replace_url(char **url, const json_t *root, const char *name)
{
	const char *value = json_string_value(json_object_get(root, name));
	char *copy = value != NULL ? strdup(value) : NULL;
	if (copy == NULL)
		return false;
	free(*url);
	*url = copy;
	return true;
}

static bool read_directory(struct client *c, const struct http_response *res)
{
	json_t *root = res->err == ERR_OK && res->status == 200
			       ? json_loadb(res->body, res->body_len, 0, NULL)
			       : NULL;
	bool is_ok = replace_url(&c->new_nonce, root, "newNonce") &&
		     replace_url(&c->new_account, root, "newAccount") &&
		     replace_url(&c->new_order, root, "newOrder");
	if (is_ok) {
		c->directory_at_ms = clock_boot_ms();
		(void)replace_url(&c->terms, json_object_get(root, "meta"), "termsOfService");
	}
	json_decref(root);
	return is_ok;
}

static void on_directory(void *arg, const struct http_response *res)
{
	struct client *c = arg;
	c->directory_call = NULL;
	if (read_directory(c, res)) {
		c->directory_tries = 0;
		wake(c);
	} else if (++c->directory_tries > tries_max(res)) {
		c->directory_tries = 0;
		fail_waiting(c, res);
	} else {
		note_trouble(c, c->directory_url, res);
		loop_timer_arm(c->loop, &c->directory_timer,
			       loop_now_ms(c->loop) + rest_ms(c->directory_tries));
	}
}

static void on_directory_timer(struct timer *timer)
{
	wake(SP_CONTAINER_OF(timer, struct client, directory_timer));
}

static bool has_directory(struct client *c)
{
	if (c->directory_at_ms != 0 && clock_boot_ms() - c->directory_at_ms < DIRECTORY_LIFE_MS)
		return true;
	if (c->directory_call != NULL || c->directory_timer.due_ms != 0)
		return false;
	struct http_request req = { .method = HTTP_GET,
				    .url = c->directory_url,
				    .accept = "application/json" };
	if (http_send(c->http, &req, on_directory, c, &c->directory_call) != ERR_OK)
		loop_timer_arm(c->loop, &c->directory_timer, loop_now_ms(c->loop) + 500);
	else
		c->stats->requests_cnt++;
	return false;
}

const char *client_terms(const struct client *client)
{
	return client->terms != NULL ? client->terms : "";
}

/* ---- the call ---- */
static void enqueue(struct call *call)
{
	list_append(&call->client->waiting, &call->wait_link);
	wake(call->client);
}

static void on_rest_over(struct timer *timer)
{
	enqueue(SP_CONTAINER_OF(timer, struct call, timer));
}

static void rest(struct call *call, int64_t ms)
{
	loop_timer_arm(call->client->loop, &call->timer, loop_now_ms(call->client->loop) + ms);
}

static const char *target_url(const struct call *call)
{
	if (call->req.target == CLIENT_NEW_ACCOUNT)
		return call->client->new_account;
	return call->req.target == CLIENT_NEW_ORDER ? call->client->new_order : call->url;
}

/* No usable answer: again after a rest, or the end. */
static void retry(struct call *call, const struct http_response *res, int64_t retry_after_ms)
{
	/* Nothing was lost but a kept connection; one that is lost again and again is a network error. */
	if (res->is_stale && ++call->stale_tries <= STALE_TRIES_MAX) {
		enqueue(call);
		return;
	}
	if (retry_after_ms > RETRY_AFTER_MAX_MS || ++call->net_tries > tries_max(res)) {
		struct answer *a = res->err == ERR_OK ? make_answer(call, res) : NULL;
		if (a != NULL) {
			a->err = ERR_NETWORK;
			if (res->status / 100 == 2)
				text_format(a->text, sizeof(a->text),
					    "the answer is not what RFC 8555 wants");
			finish(call, a);
			return;
		}
		finish_error(call, res->err == ERR_OK ? ERR_NETWORK : res->err, res->status,
			     res->error_text);
		return;
	}
	note_trouble(call->client, target_url(call), res);
	int64_t ms = rest_ms(call->net_tries);
	rest(call, ms > retry_after_ms ? ms : retry_after_ms);
}

static void on_bad_nonce(struct call *call, const struct http_response *res, struct answer *answer)
{
	struct client *c = call->client;
	c->stats->bad_nonce_cnt++;
	if (call->nonce_since_ms == 0)
		call->nonce_since_ms = loop_now_ms(c->loop);
	if (++call->nonce_tries >= NONCE_TRIES_MAX ||
	    loop_now_ms(c->loop) - call->nonce_since_ms > NONCE_BUDGET_MS) {
		answer->err = ERR_NETWORK;
		finish(call, answer);
		return;
	}
	answer_free(answer);
	call->nonce = res->nonce[0] != 0 ? strdup(res->nonce) : NULL;
	enqueue(call);
}

/* A moved endpoint (404 of a URL of the directory) is looked up again, once. */
static bool has_moved(struct call *call, const struct answer *a)
{
	if (a->status != 404 || call->req.target == CLIENT_URL || call->has_refetched)
		return false;
	call->has_refetched = true;
	call->client->directory_at_ms = 0;
	return true;
}

/* A success that holds nothing of what was asked for: some other box on the way has answered. */
static bool is_foreign(const struct call *call, const struct answer *a)
{
	if (a->err != ERR_OK)
		return false;
	if (!call->req.wants_pem)
		return a->json == NULL;
	return a->body.data == NULL ||
	       strstr(a->body.data, "-----BEGIN CERTIFICATE-----") == NULL ||
	       strstr(a->body.data, "-----END CERTIFICATE-----") == NULL;
}

static void on_response(void *arg, const struct http_response *res)
{
	struct call *call = arg;
	call->http_call = NULL;
	bool is_kept = call->req.has_location && res->status / 100 == 2 && res->location[0] != 0;
	if ((res->err != ERR_OK || res->status == 0) && !is_kept) {
		retry(call, res, -1);
		return;
	}
	struct answer *a = make_answer(call, res);
	if (a == NULL) {
		finish_error(call, ERR_NOMEM, res->status, no_memory);
		return;
	}
	if (strcmp(a->type, "badNonce") == 0) {
		on_bad_nonce(call, res, a);
		return;
	}
	push_nonce(call->client, res->nonce);
	if (a->status >= 500 || (is_foreign(call, a) && !is_kept) ||
	    (a->status >= 300 && a->json == NULL && a->status != 404 && a->status != 429)) {
		int64_t retry_after_ms = a->retry_after_ms;
		answer_free(a);
		retry(call, res, retry_after_ms);
	} else if (has_moved(call, a)) {
		answer_free(a);
		enqueue(call);
	} else {
		finish(call, a);
	}
}

static void send_signed(struct call *call, const char *nonce)
{
	struct client *c = call->client;
	struct text body = { 0 };
	struct jws_header header = {
		.url = target_url(call),
		.nonce = nonce,
		.kid = call->req.wants_jwk ? NULL : c->kid,
	};
	enum err e = c->key != NULL ? jws_sign(c->key, &header, call->payload, &body) : ERR_INVALID;
	struct http_request req = {
		.method = HTTP_POST,
		.url = header.url,
		.body = body.data,
		.body_len = body.len,
		.accept = call->req.wants_pem ? "application/pem-certificate-chain"
					      : "application/json",
	};
	if (e == ERR_OK)
		e = http_send(c->http, &req, on_response, call, &call->http_call);
	text_fini(&body);
	if (e == ERR_OK)
		c->stats->requests_cnt++;
	else
		finish_error(call, e, 0, "the request could not be signed or sent: out of memory");
}

/* Sends what can be sent; at the end of a turn, once for all that was queued in it. */
static void on_wake(struct task *task)
{
	struct client *c = SP_CONTAINER_OF(task, struct client, wake_task);
	c->is_wake_posted = false;
	if (c->is_dead) {
		free(c);
		return;
	}
	if (list_is_empty(&c->waiting) || !has_directory(c))
		return;
	unsigned without_cnt = 0;
	struct list
		batch; /* an answer's receiver may cancel any call, so no place in a list is kept */
	list_init(&batch);
	while (!list_is_empty(&c->waiting)) {
		struct list *first = c->waiting.next;
		list_remove(first);
		list_append(&batch, first);
	}
	while (!list_is_empty(&batch)) {
		struct call *call = SP_CONTAINER_OF(batch.next, struct call, wait_link);
		char *nonce = take_nonce(c, call);
		list_remove(&call->wait_link);
		if (nonce == NULL) {
			list_append(&c->waiting, &call->wait_link);
			without_cnt++;
			continue;
		}
		send_signed(call, nonce);
		free(nonce);
	}
	if (without_cnt > 0)
		fetch_nonces(c, without_cnt);
}

static void wake(struct client *c)
{
	if (c->is_wake_posted)
		return;
	c->is_wake_posted = true;
	loop_defer(c->loop, &c->wake_task);
}

struct call *client_send(struct client *client, const struct client_request *request)
{
	struct call *call = calloc(1, sizeof(*call));
	if (call == NULL)
		return NULL;
	call->client = client;
	call->req = *request;
	call->timer.on_due = on_rest_over;
	list_init(&call->link);
	list_init(&call->wait_link);
	call->url = request->url != NULL ? strdup(request->url) : NULL;
	call->payload = request->payload != NULL ? strdup(request->payload) : NULL;
	if ((request->url != NULL && call->url == NULL) ||
	    (request->payload != NULL && call->payload == NULL)) {
		free_call(call);
		return NULL;
	}
	list_append(&client->calls, &call->link);
	enqueue(call);
	return call;
}

void client_cancel(struct call *call)
{
	if (call != NULL)
		free_call(call);
}

bool client_is_sent(const struct call *call)
{
	return call->http_call != NULL;
}

/* ---- probe ---- */
static void on_probe(void *arg, const struct http_response *res)
{
	struct client *c = arg;
	c->probe_call = NULL;
	c->probe_done(c->probe_arg, res->status != 0);
}

void client_probe(struct client *client, void (*done)(void *arg, bool is_up), void *arg)
{
	if (client->probe_call != NULL)
		return;
	struct http_request req = { .method = HTTP_GET, .url = client->directory_url };
	client->probe_done = done;
	client->probe_arg = arg;
	if (http_send(client->http, &req, on_probe, client, &client->probe_call) == ERR_OK)
		client->stats->requests_cnt++;
}

/* ---- the client ---- */
enum err client_new(struct loop *loop, const char *directory_url, const char *ca_file,
		    struct client_stats *stats, struct client **ret_client)
{
	struct client *c = calloc(1, sizeof(*c));
	if (c == NULL)
		return ERR_NOMEM;
	c->loop = loop;
	c->stats = stats;
	c->directory_timer.on_due = on_directory_timer;
	c->nonce_timer.on_due = on_nonce_timer;
	c->wake_task.run = on_wake;
	list_init(&c->calls);
	list_init(&c->waiting);
	c->directory_url = strdup(directory_url);
	enum err e = c->directory_url != NULL ? http_new(loop, ca_file, &c->http) : ERR_NOMEM;
	if (e != ERR_OK) {
		free(c->directory_url);
		free(c);
		return e;
	}
	*ret_client = c;
	return ERR_OK;
}

void client_free(struct client *client)
{
	struct client *c = client;
	if (c == NULL)
		return;
	LIST_FOREACH_SAFE(at, &c->calls)
	free_call(SP_CONTAINER_OF(at, struct call, link));
	http_free(c->http);
	loop_timer_disarm(c->loop, &c->directory_timer);
	loop_timer_disarm(c->loop, &c->nonce_timer);
	while (c->nonce_cnt > 0)
		free(c->nonces[--c->nonce_cnt]);
	free(c->kid);
	free(c->new_nonce);
	free(c->new_account);
	free(c->new_order);
	free(c->terms);
	free(c->directory_url);
	c->is_dead = true;
	if (!c->is_wake_posted)
		free(c);
}

void client_set_key(struct client *client, const struct tls_key *key)
{
	client->key = key;
}

enum err client_set_account(struct client *client, const char *kid)
{
	char *copy = kid != NULL ? strdup(kid) : NULL;
	if (kid != NULL && copy == NULL)
		return ERR_NOMEM;
	free(client->kid);
	client->kid = copy;
	return ERR_OK;
}
