/* What an earlier process or try left: journals of orders, and the back-off of each certificate. */
#include <stdlib.h>
#include <string.h>

#include "manager.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"

/* ---- journals ---- */
void resume_publish(struct acme *acme, const struct journal_order *saved, const char *thumbprint)
{
	sp_role_assume_control();
	for (size_t i = 0; i < saved->challenge_cnt; i++) {
		const struct journal_challenge *c = &saved->challenges[i];
		char text[CHALLENGE_TEXT_MAX];
		text_format(text, sizeof(text), "%s.%s", c->token, thumbprint);
		enum err e = challenge_add(acme->table, c->name, c->token, text);
		if (e != ERR_OK && e != ERR_EXISTS)
			log_error("acme",
				  "a challenge of the journal cannot be answered: %s name=%s",
				  err_text(e), saved->names[0]);
	}
}

void resume_withdraw(struct acme *acme, const struct journal_order *saved)
{
	sp_role_assume_control();
	for (size_t i = 0; i < saved->challenge_cnt; i++)
		(void)!challenge_remove(acme->table, saved->challenges[i].token);
}

static void keep(void *arg, struct journal_order *order)
{
	struct acme *acme = arg;
	bool is_ours = strcmp(order->directory, acme->ca->directory) == 0 && acme->ca->key != NULL;
	struct journal_order **more =
		is_ours ? reallocarray(acme->resumable, acme->resumable_cnt + 1,
				       sizeof(struct journal_order *))
			: NULL;
	if (more == NULL) {
		log_info("acme",
			 "a journalled order is dropped, it is of another CA or account name=%s "
			 "directory=%s",
			 order->names[0], order->directory);
		journal_drop(&acme->store, order->file_name);
		journal_order_free(order);
		return;
	}
	acme->resumable = more;
	acme->resumable[acme->resumable_cnt++] = order;
	resume_publish(acme, order, acme->ca->thumbprint);
	log_info("acme", "an order goes on name=%s challenges=%zu url=%s", order->names[0],
		 order->challenge_cnt, order->url != NULL ? order->url : "unknown");
}

void resume_read(struct acme *acme)
{
	journal_each(&acme->store, keep, acme);
}

static bool is_of(const struct journal_order *order, const struct cert *cert)
{
	if (order->key_type != cert->key_type || order->name_cnt != cert->name_cnt ||
	    strcmp(order->file_name, cert->store_name) != 0)
		return false;
	for (size_t i = 0; i < cert->name_cnt; i++)
		if (strcmp(order->names[i], cert->names[i]) != 0)
			return false;
	return true;
}

struct journal_order *resume_claim(struct acme *acme, const struct cert *cert)
{
	for (size_t i = 0; i < acme->resumable_cnt; i++) {
		struct journal_order *order = acme->resumable[i];
		if (!is_of(order, cert))
			continue;
		acme->resumable[i] = acme->resumable[--acme->resumable_cnt];
		return order;
	}
	return NULL;
}

void resume_give_up(struct acme *acme, struct journal_order *saved)
{
	for (size_t i = 0; i < saved->challenge_cnt; i++)
		ca_deactivate(acme->ca, saved->challenges[i].authz_url);
	log_info("acme", "a journalled order is given up, nothing wants it any more name=%s",
		 saved->names[0]);
	resume_withdraw(acme, saved);
	journal_drop(&acme->store, saved->file_name);
	journal_order_free(saved);
}

void resume_drop_rest(struct acme *acme)
{
	while (acme->resumable_cnt > 0)
		resume_give_up(acme, acme->resumable[--acme->resumable_cnt]);
	free(acme->resumable);
	acme->resumable = NULL;
}

/* ---- back-off: certificates/NAME/retry.json ---- */
static int64_t limit(int64_t value, int64_t max)
{
	return value < 0 ? 0 : value > max ? max : value;
}

static int64_t left_s(const json_t *at_unix_s)
{
	return limit(json_integer_value(at_unix_s), INT64_MAX / 2) - clock_unix_s();
}

/* The clock may have been ahead when the time was written: no more than the whole wait is left of it. */
static void read_wait(struct cert *cert, const json_t *root)
{
	const json_t *wait = json_object_get(root, "wait");
	int64_t max_s = plan_longest_wait_ms(cert->failure.kind) / 1000;
	if (json_is_integer(wait))
		max_s = limit(json_integer_value(wait),
			      plan_longest_wait_ms(FAILURE_RATE_LIMIT) / 1000);
	int64_t wait_s = limit(left_s(json_object_get(root, "retry_at")), max_s);
	cert->retry_at_unix_s = json_integer_value(json_object_get(root, "retry_at"));
	if (wait_s == 0)
		return;
	cert->retry_at_unix_s = clock_unix_s() + wait_s;
	cert->retry_at_boot_ms = clock_boot_ms() + 1000 * wait_s;
}

static void read_rest(struct cert *cert, const json_t *root)
{
	int64_t life_s = cert->not_after_unix_s - cert->not_before_unix_s;
	cert->rest_cnt =
		(uint32_t)limit(json_integer_value(json_object_get(root, "rests")), UINT32_MAX);
	int64_t rest_s = limit(left_s(json_object_get(root, "rest_until")),
			       plan_rest_ms(cert->rest_cnt, life_s) / 1000);
	if (cert->rest_cnt > 0 && rest_s > 0)
		cert->rest_until_boot_ms = clock_boot_ms() + 1000 * rest_s;
}

/* Full seconds, rounded up. */
static int64_t still_s(int64_t at_boot_ms)
{
	int64_t left_ms = at_boot_ms - clock_boot_ms();
	return left_ms > 0 ? (left_ms + 999) / 1000 : 0;
}

void retry_read(struct cert *cert)
{
	struct text text = { 0 };
	json_t *root = NULL;
	if (store_get_cert_file(&cert->acme->store, cert->store_name, "retry.json", &text) ==
	    ERR_OK)
		root = json_loadb(text.data, text.len, 0, NULL);
	text_fini(&text);
	const char *directory = json_string_value(json_object_get(root, "directory"));
	const char *words = json_string_value(json_object_get(root, "error"));
	const char *type = json_string_value(json_object_get(root, "type"));
	json_int_t kind = json_integer_value(json_object_get(root, "kind"));
	if (directory != NULL && strcmp(directory, cert->acme->settings.directory) == 0 &&
	    kind >= 0 && kind < FAILURE_KIND_CNT) {
		cert->failure_cnt = (uint32_t)json_integer_value(json_object_get(root, "failures"));
		cert->failure_run = (uint32_t)json_integer_value(json_object_get(root, "run"));
		cert->failure = (struct failure){ .kind = (enum failure_kind)kind,
						  .err = ERR_ACME,
						  .retry_after_ms = -1 };
		cert->failure.is_unreachable =
			json_is_true(json_object_get(root, "is_unreachable"));
		text_format(cert->failure.text, sizeof(cert->failure.text), "%s",
			    words != NULL ? words : "");
		text_format(cert->failure.type, sizeof(cert->failure.type), "%s",
			    type != NULL ? type : "");
		read_wait(cert, root);
		read_rest(cert, root);
	}
	json_decref(root);
}

void retry_write(struct cert *cert)
{
	const struct failure *f = &cert->failure;
	int64_t rest_until_unix_s = clock_unix_s() + still_s(cert->rest_until_boot_ms);
	char *dump = NULL;
	if (cert->failure_cnt > 0 || cert->rest_cnt > 0) {
		json_t *root = json_pack(
			"{s:s, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:b, s:I, s:I}", "directory",
			cert->acme->settings.directory, "kind", (json_int_t)f->kind, "failures",
			(json_int_t)cert->failure_cnt, "run", (json_int_t)cert->failure_run,
			"retry_at", (json_int_t)cert->retry_at_unix_s, "wait",
			(json_int_t)still_s(cert->retry_at_boot_ms), "type", f->type, "error",
			f->text, "is_unreachable", (int)f->is_unreachable, "rests",
			(json_int_t)cert->rest_cnt, "rest_until", (json_int_t)rest_until_unix_s);
		dump = json_dumps(root, JSON_INDENT(2));
		json_decref(root);
		if (dump == NULL)
			return;
	}
	struct text why = { 0 };
	if (store_put_cert_file(&cert->acme->store, cert->store_name, "retry.json", dump, &why) !=
	    ERR_OK)
		log_warn("acme", "the time of the next try is not saved: %s",
			 why.data != NULL ? why.data : "");
	text_fini(&why);
	free(dump);
}
