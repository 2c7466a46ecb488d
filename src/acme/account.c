#include "account.h"

#include <stdlib.h>
#include <string.h>

#include "files.h"
#include "manager.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"
#include "smartproxy/rand.h"

#define PROBE_MIN_MS   1000
#define PROBE_MAX_MS   5000 /* issued within 10 s of its return */
#define BUCKET_SAVE_MS 1000

struct farewell { /* a deactivation under way */
	struct list link;
	struct ca *ca;
	struct call *call;
};

/* ---- files ---- */
static enum err read_key(struct ca *ca)
{
	struct text pem = { 0 };
	enum err e = store_get_ca_file(&ca->acme->store, ca->store_name, "key.pem", true, &pem);
	if (e == ERR_OK)
		e = tls_key_from_pem(pem.data, pem.len, &ca->key);
	files_wipe(&pem);
	if (e == ERR_OK)
		e = jws_thumbprint(ca->key, ca->thumbprint);
	if (e != ERR_OK && e != ERR_NOENT && e != ERR_NOMEM)
		log_error("acme",
			  "the account key cannot be read, a new account will be made "
			  "path=%s/accounts/%s/key.pem err=%s",
			  ca->acme->store.path, ca->store_name, err_name(e));
	if (e != ERR_OK) {
		tls_key_free(ca->key);
		ca->key = NULL;
	}
	return e;
}

/* "" or NULL: none. */
static void set_contact(struct ca *ca, const char *email)
{
	char *copy = email != NULL && email[0] != 0 ? strdup(email) : NULL;
	free(ca->contact);
	ca->contact = copy;
}

static enum err set_account(struct ca *ca, const char *url)
{
	char *copy = url != NULL ? strdup(url) : NULL;
	if ((url != NULL && copy == NULL) || client_set_account(ca->client, url) != ERR_OK) {
		free(copy);
		return ERR_NOMEM;
	}
	free(ca->account_url);
	ca->account_url = copy;
	return ERR_OK;
}

static void read_account(struct ca *ca)
{
	struct text text = { 0 };
	if (store_get_ca_file(&ca->acme->store, ca->store_name, "account.json", false, &text) !=
	    ERR_OK) {
		text_fini(&text);
		return;
	}
	json_t *root = json_loadb(text.data, text.len, 0, NULL);
	const char *url = json_string_value(json_object_get(root, "url"));
	const char *contact = json_string_value(json_object_get(root, "contact"));
	if (url != NULL && set_account(ca, url) == ERR_OK) {
		ca->state = CA_READY;
		ca->account_seq++;
		set_contact(ca, contact);
	}
	json_decref(root);
	text_fini(&text);
}

static void read_bucket(struct ca *ca)
{
	struct text text = { 0 };
	if (store_get_ca_file(&ca->acme->store, ca->store_name, "limits.json", false, &text) ==
	    ERR_OK) {
		json_t *root = json_loadb(text.data, text.len, 0, NULL);
		ca->bucket_ms = json_integer_value(json_object_get(root, "orders_at_ms"));
		json_decref(root);
	}
	text_fini(&text);
}

static void write_bucket(struct ca *ca)
{
	char text[64];
	if (!ca->is_bucket_dirty)
		return;
	ca->is_bucket_dirty = false;
	text_format(text, sizeof(text), "{\"orders_at_ms\": %lld}\n", (long long)ca->bucket_ms);
	if (store_put_ca_file(&ca->acme->store, ca->store_name, "limits.json", text, NULL) !=
	    ERR_OK)
		log_debug("acme", "the count of orders could not be saved");
}

static void on_bucket_timer(struct timer *timer)
{
	write_bucket(SP_CONTAINER_OF(timer, struct ca, bucket_timer));
}

static void write_account(struct ca *ca)
{
	struct text why = { 0 };
	json_t *root = json_pack("{s:s, s:s, s:s?}", "url", ca->account_url, "directory",
				 ca->directory, "contact", ca->contact);
	char *dump = json_dumps(root, JSON_INDENT(2));
	fault_point("acme-account-before");
	if (dump == NULL || store_put_ca_file(&ca->acme->store, ca->store_name, "account.json",
					      dump, &why) != ERR_OK)
		log_warn("acme",
			 "the account's URL could not be saved, it will be found again by its key: "
			 "%s",
			 why.data != NULL ? why.data : "out of memory");
	fault_point("acme-account-after");
	free(dump);
	json_decref(root);
	text_fini(&why);
}

/* On disk before anything is signed with it. */
static enum err make_key(struct ca *ca, struct failure *reterr)
{
	struct text pem = { 0 }, why = { 0 };
	enum err e = tls_key_generate(TLS_KEY_P256, &ca->key);
	if (e == ERR_OK)
		e = tls_key_to_pem(ca->key, &pem);
	fault_point("acme-account-key-before");
	if (e == ERR_OK)
		e = store_put_ca_file(&ca->acme->store, ca->store_name, "key.pem", pem.data, &why);
	fault_point("acme-account-key-after");
	if (e == ERR_OK)
		e = jws_thumbprint(ca->key, ca->thumbprint);
	if (e != ERR_OK) {
		failure_set(reterr, FAILURE_NETWORK, e, "the account key: %s",
			    why.data != NULL ? why.data : err_text(e));
		tls_key_free(ca->key);
		ca->key = NULL;
	}
	files_wipe(&pem);
	text_fini(&why);
	return e;
}

/* ---- registration (RFC 8555, 7.3) ---- */
static void wake_all(struct ca *ca, const struct failure *failure)
{
	struct list woken;
	list_init(&woken);
	LIST_FOREACH_SAFE(at, &ca->waiters)
	{
		list_remove(at);
		list_append(&woken, at);
	}
	ca_get(ca);
	while (!list_is_empty(&woken)) {
		struct ca_waiter *waiter = SP_CONTAINER_OF(woken.next, struct ca_waiter, link);
		list_remove(&waiter->link);
		waiter->wake(waiter, failure);
	}
	ca_put(ca);
}

static const char *read_contact(const struct answer *answer)
{
	static const char scheme[] = "mailto:";
	const json_t *first = json_array_get(json_object_get(answer->json, "contact"), 0);
	const char *url = json_string_value(first);
	bool is_mail = url != NULL && strncmp(url, scheme, sizeof(scheme) - 1) == 0;
	return is_mail ? url + sizeof(scheme) - 1 : NULL;
}

static void on_account(void *arg, struct answer *answer)
{
	struct ca *ca = arg;
	struct failure failure;
	ca->account_call = NULL;
	if (answer->err == ERR_OK &&
	    (answer->location == NULL || set_account(ca, answer->location) != ERR_OK)) {
		answer->err = ERR_NETWORK;
		text_format(answer->text, sizeof(answer->text), "the CA names no account URL");
	}
	if (answer->err != ERR_OK) {
		ca->state = CA_NONE;
		failure_from_answer(&failure, "newAccount", answer);
		ca->account_failure = failure;
		ca->account_retry_boot_ms =
			clock_boot_ms() + plan_backoff_ms(failure.kind, 1, failure.retry_after_ms);
		log_warn("acme", "no account at the CA: %s", failure.text);
		answer_free(answer);
		wake_all(ca, &failure);
		return;
	}
	/* One that was there already keeps the address it had. */
	set_contact(ca, answer->status == 201 ? ca->contact_sent : read_contact(answer));
	ca->state = CA_READY;
	ca->account_seq++;
	write_account(ca);
	char terms[256];
	text_escape(terms, sizeof(terms), client_terms(ca->client),
		    strlen(client_terms(ca->client)));
	log_info("acme", "account %s url=%s terms_of_service=%s",
		 answer->status == 201 ? "created" : "found again by its key", answer->location,
		 terms);
	answer_free(answer);
	wake_all(ca, NULL);
}

static char *account_payload(struct ca *ca, bool is_new)
{
	const char *email = ca->acme->settings.email;
	free(ca->contact_sent);
	ca->contact_sent = strdup(email);
	if (ca->contact_sent == NULL)
		return NULL;
	json_t *root = json_object(), *contact = json_array();
	char mailto[512];
	text_format(mailto, sizeof(mailto), "mailto:%s", email);
	if (email[0] != 0)
		json_array_append_new(contact, json_string(mailto));
	if (is_new)
		json_object_set_new(root, "termsOfServiceAgreed", json_true());
	json_object_set_new(root, "contact", contact);
	char *dump = json_dumps(root, JSON_COMPACT);
	json_decref(root);
	return dump;
}

enum err ca_account(struct ca *ca, struct ca_waiter *waiter, struct failure *reterr)
{
	if (ca->state == CA_READY)
		return ERR_OK;
	int64_t now_ms = clock_boot_ms();
	if (ca->state == CA_NONE && now_ms < ca->account_retry_boot_ms) {
		*reterr = ca->account_failure;
		if (reterr->retry_after_ms >= 0)
			reterr->retry_after_ms = ca->account_retry_boot_ms - now_ms;
		return reterr->err;
	}
	if (ca->state == CA_NONE) {
		enum err e = ca->key != NULL ? ERR_OK : make_key(ca, reterr);
		if (e != ERR_OK)
			return e;
		client_set_key(ca->client, ca->key);
		char *payload = account_payload(ca, true);
		struct client_request req = { .target = CLIENT_NEW_ACCOUNT,
					      .payload = payload,
					      .wants_jwk = true,
					      .has_location = true,
					      .done = on_account,
					      .arg = ca };
		ca->account_call = payload != NULL ? client_send(ca->client, &req) : NULL;
		free(payload);
		if (ca->account_call == NULL) {
			failure_set(reterr, FAILURE_NETWORK, ERR_NOMEM,
				    "newAccount: out of memory");
			return ERR_NOMEM;
		}
		ca->state = CA_REGISTERING;
	}
	list_append(&ca->waiters, &waiter->link);
	return ERR_BUSY;
}

void ca_account_lost(struct ca *ca, unsigned seq)
{
	if (ca->state != CA_READY || ca->account_seq != seq)
		return;
	log_warn("acme",
		 "the CA does not know our account any more, registering again with the same key "
		 "directory=%s",
		 ca->directory);
	ca->state = CA_NONE;
	client_cancel(ca->contact_call);
	ca->contact_call = NULL;
	(void)!set_account(ca, NULL);
	if (store_put_ca_file(&ca->acme->store, ca->store_name, "account.json", NULL, NULL) !=
	    ERR_OK)
		log_debug("acme", "account.json could not be removed");
}

/* ---- the contact (RFC 8555, 7.3.2) ---- */
static void note_untold(struct ca *ca, const struct answer *answer)
{
	struct failure f;
	char retry[32];
	failure_from_answer(&f, "account", answer);
	bool is_same = ca->contact_run > 0 && ca->contact_failure.kind == f.kind;
	ca->contact_run = is_same ? ca->contact_run + 1 : 1;
	ca->contact_failure = f;
	int64_t wait_ms = failure_draw_wait_ms(&f, ca->contact_run);
	ca->contact_retry_boot_ms = clock_boot_ms() + wait_ms;
	log_warn("acme", "the CA did not take the new e-mail address: %s kind=%s retry_at=%s",
		 f.text, plan_failure_name(f.kind),
		 clock_format_utc(retry, sizeof(retry), clock_unix_s() + wait_ms / 1000));
	if (strcmp(f.type, "accountDoesNotExist") == 0)
		ca_account_lost(ca, ca->account_seq);
	if (f.is_unreachable)
		ca_watch(ca);
}

static void on_contact(void *arg, struct answer *answer)
{
	struct ca *ca = arg;
	ca->contact_call = NULL;
	if (answer->err == ERR_OK) {
		ca->contact_run = 0;
		set_contact(ca, ca->contact_sent);
		write_account(ca);
		log_info("acme", "the CA has our new e-mail address");
	} else {
		note_untold(ca, answer);
	}
	answer_free(answer);
	manager_pump(ca->acme);
}

void ca_look_at_contact(struct ca *ca, int64_t *next_ms)
{
	const char *email = ca->acme->settings.email;
	const char *known = ca->contact != NULL ? ca->contact : "";
	/* While nobody answers at the CA, its probe says when to go on. */
	if (ca->state != CA_READY || ca->contact_call != NULL || ca->probe_ms != 0 ||
	    strcmp(email, known) == 0)
		return;
	int64_t wait_ms = ca->contact_retry_boot_ms - clock_boot_ms();
	if (wait_ms > 0) {
		*next_ms = wait_ms < *next_ms ? wait_ms : *next_ms;
		return;
	}
	char *payload = account_payload(ca, false);
	struct client_request req = { .target = CLIENT_URL,
				      .url = ca->account_url,
				      .payload = payload,
				      .done = on_contact,
				      .arg = ca };
	if (payload != NULL)
		ca->contact_call = client_send(ca->client, &req);
	free(payload);
}

/* ---- the order limit: a bucket of order_burst that gains one each order_interval_ms, as one time
 * (GCRA) ---- */
bool ca_take_order(struct ca *ca, int64_t *ret_wait_ms)
{
	const struct settings *s = &ca->acme->settings;
	int64_t now_ms = clock_unix_ms(), full_ms = s->order_interval_ms * s->order_burst;
	if (s->order_interval_ms <= 0)
		return true;
	if (ca->bucket_ms < now_ms)
		ca->bucket_ms = now_ms;
	if (ca->bucket_ms >
	    now_ms + full_ms) /* the wall clock went back, or the limit was raised */
		ca->bucket_ms = now_ms + full_ms;
	int64_t after_ms = ca->bucket_ms + s->order_interval_ms;
	if (after_ms - now_ms > full_ms) {
		*ret_wait_ms = after_ms - now_ms - full_ms;
		return false;
	}
	ca->bucket_ms = after_ms;
	ca->is_bucket_dirty = true;
	if (ca->bucket_timer.due_ms == 0)
		loop_timer_arm(ca->acme->loop, &ca->bucket_timer,
			       loop_now_ms(ca->acme->loop) + BUCKET_SAVE_MS);
	return true;
}

/* ---- the watch for a CA that cannot be reached: 1, 2, 4, 5, 5 ... s ---- */
static void arm_probe(struct ca *ca)
{
	loop_timer_arm(ca->acme->loop, &ca->probe_timer,
		       loop_now_ms(ca->acme->loop) + rand_jitter(ca->probe_ms, 10));
}

static void on_probed(void *arg, bool is_up)
{
	struct ca *ca = arg;
	if (ca->ref_cnt == 0)
		return; /* about to be buried */
	if (!is_up) {
		ca->probe_ms = ca->probe_ms * 2 > PROBE_MAX_MS ? PROBE_MAX_MS : ca->probe_ms * 2;
		arm_probe(ca);
		return;
	}
	loop_timer_disarm(ca->acme->loop, &ca->probe_timer);
	ca->probe_ms = 0;
	log_info("acme", "the CA answers again directory=%s", ca->directory);
	manager_on_ca_up(ca->acme, ca);
}

static void on_probe_timer(struct timer *timer)
{
	struct ca *ca = SP_CONTAINER_OF(timer, struct ca, probe_timer);
	if (ca->probe_ms == 0)
		return; /* it answers: nothing to watch */
	client_probe(ca->client, on_probed, ca);
	if (ca->probe_timer.due_ms == 0) /* a lost probe must not end the watch */
		loop_timer_arm(ca->acme->loop, &ca->probe_timer,
			       loop_now_ms(ca->acme->loop) + 60000);
}

void ca_watch(struct ca *ca)
{
	if (ca->probe_ms != 0 || ca->acme->stop.is_stopping)
		return;
	ca->probe_ms = PROBE_MIN_MS;
	arm_probe(ca);
}

/* ---- farewells ---- */
static void free_farewell(struct farewell *f)
{
	struct ca *ca = f->ca;
	list_remove(&f->link);
	client_cancel(f->call);
	ca->acme->farewell_cnt--;
	free(f);
}

static void on_farewell(void *arg, struct answer *answer)
{
	struct farewell *f = arg;
	struct ca *ca = f->ca;
	struct acme *acme = ca->acme;
	f->call = NULL;
	if (answer->err != ERR_OK)
		log_debug("acme", "an authorization could not be deactivated: %s", answer->text);
	answer_free(answer);
	free_farewell(f);
	ca_put(ca);
	stop_check(acme);
}

void ca_deactivate(struct ca *ca, const char *authz_url)
{
	struct farewell *f = ca->state == CA_READY ? calloc(1, sizeof(*f)) : NULL;
	if (f == NULL)
		return;
	struct client_request req = { .target = CLIENT_URL,
				      .url = authz_url,
				      .payload = "{\"status\":\"deactivated\"}",
				      .done = on_farewell,
				      .arg = f };
	f->ca = ca;
	f->call = client_send(ca->client, &req);
	if (f->call == NULL) {
		free(f);
		return;
	}
	list_append(&ca->farewells, &f->link);
	ca->acme->farewell_cnt++;
	ca_get(ca);
}

/* ---- life ---- */
enum err ca_new(struct acme *acme, const char *directory, const char *ca_file, struct ca **ret_ca)
{
	struct ca *ca = calloc(1, sizeof(*ca));
	if (ca == NULL)
		return ERR_NOMEM;
	ca->ref_cnt = 1;
	ca->acme = acme;
	list_init(&ca->waiters);
	list_init(&ca->farewells);
	ca->bucket_timer.on_due = on_bucket_timer;
	ca->probe_timer.on_due = on_probe_timer;
	ca->directory = strdup(directory);
	enum err e = ca->directory == NULL ? ERR_NOMEM
					   : client_new(acme->loop, directory, ca_file,
							&acme->client_stats, &ca->client);
	if (e != ERR_OK) {
		free(ca->directory);
		free(ca);
		return e;
	}
	store_ca_name(ca->store_name, directory);
	if (read_key(ca) == ERR_OK) {
		client_set_key(ca->client, ca->key);
		read_account(ca);
	}
	read_bucket(ca);
	list_append(&acme->cas, &ca->link);
	*ret_ca = ca;
	return ERR_OK;
}

void ca_get(struct ca *ca)
{
	ca->ref_cnt++;
}

static void bury(struct task *task)
{
	struct ca *ca = SP_CONTAINER_OF(task, struct ca, burial);
	client_free(ca->client);
	tls_key_free(ca->key);
	free(ca->contact);
	free(ca->contact_sent);
	free(ca->account_url);
	free(ca->directory);
	free(ca);
}

void ca_put(struct ca *ca)
{
	if (ca == NULL || --ca->ref_cnt > 0)
		return;
	list_remove(&ca->link);
	write_bucket(ca);
	loop_timer_disarm(ca->acme->loop, &ca->bucket_timer);
	loop_timer_disarm(ca->acme->loop, &ca->probe_timer);
	/* Its answer would find a CA that nobody holds any more. */
	client_cancel(ca->account_call);
	client_cancel(ca->contact_call);
	ca->account_call = ca->contact_call = NULL;
	ca->burial.run = bury;
	if (ca->acme->is_freeing)
		bury(&ca->burial);
	else /* the client cannot be freed inside one of its own answers */
		loop_defer(ca->acme->loop, &ca->burial);
}

void ca_drop_farewells(struct ca *ca)
{
	ca_get(ca);
	while (!list_is_empty(&ca->farewells)) {
		free_farewell(SP_CONTAINER_OF(ca->farewells.next, struct farewell, link));
		ca_put(ca);
	}
	ca_put(ca);
}
