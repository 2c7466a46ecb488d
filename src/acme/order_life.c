/* An order's beginning and its ends; what lies between is order.c. */
#include <stdlib.h>

#include "files.h"
#include "order.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"

#define ORDER_LIFE_MS (INT64_C(20) * 60 * 1000)

void order_forget(struct order *o)
{
	for (size_t i = 0; i < o->authz_cnt; i++)
		authz_withdraw(&o->authzs[i]);
	for (size_t i = 0; i < o->authz_cnt; i++)
		authz_fini(&o->authzs[i]);
	free(o->authzs);
	o->authzs = NULL;
	o->authz_cnt = 0;
	if (o->saved != NULL)
		resume_withdraw(o->acme, o->saved);
	journal_order_free(o->saved);
	o->saved = NULL;
	free(o->url);
	free(o->finalize_url);
	free(o->certificate_url);
	o->url = o->finalize_url = o->certificate_url = NULL;
	o->is_finalize_sent = false;
}

bool order_start_over(struct order *o, const char *why)
{
	if (o->has_restarted)
		return false;
	o->has_restarted = true;
	log_warn("acme", "the order is begun anew: %s name=%s", why, o->cert->names[0]);
	order_forget(o);
	journal_close(&o->journal);
	journal_drop(&o->acme->store, o->cert->store_name);
	return true;
}

struct order *order_new(struct cert *cert)
{
	struct order *o = calloc(1, sizeof(*o));
	if (o == NULL)
		return NULL;
	o->acme = cert->acme;
	o->cert = cert;
	o->ca = cert->acme->ca;
	ca_get(o->ca);
	o->saved = cert->saved;
	cert->saved = NULL;
	o->failure.retry_after_ms = -1;
	o->timer.on_due = order_on_timer;
	o->waiter.wake = order_on_account;
	o->poll_ms = ORDER_POLL_FIRST_MS;
	o->give_up_boot_ms = clock_boot_ms() + ORDER_LIFE_MS;
	list_init(&o->waiter.link);
	list_append(&o->acme->orders, &o->link);
	o->acme->order_cnt++;
	cert->order = o;
	return o;
}

void order_free(struct order *order)
{
	struct order *o = order;
	o->cert->order = NULL;
	list_remove(&o->link);
	o->acme->order_cnt--;
	list_remove(&o->waiter.link);
	order_leave_key(o);
	client_cancel(o->call);
	answer_free(o->answer);
	loop_timer_disarm(o->acme->loop, &o->timer);
	for (size_t i = 0; i < o->authz_cnt; i++)
		authz_fini(&o->authzs[i]);
	free(o->authzs);
	journal_close(&o->journal);
	journal_order_free(o->saved);
	tls_key_free(o->key);
	files_wipe(&o->key_pem);
	free(o->url);
	free(o->finalize_url);
	free(o->certificate_url);
	if (o->tls != NULL)
		tls_cert_put(o->tls);
	text_fini(&o->chain);
	ca_put(o->ca);
	free(o);
}

void order_give_up(struct order *order)
{
	struct order *o = order;
	for (size_t i = 0; i < o->authz_cnt; i++) {
		struct authz *az = &o->authzs[i];
		bool is_pending = az->state == AUTHZ_PUBLISH || az->state == AUTHZ_TRIGGER ||
				  az->state == AUTHZ_POLL;
		if (is_pending)
			ca_deactivate(o->ca, az->url);
	}
	log_info("acme", "an order is given up, nothing wants it any more name=%s step=%s",
		 o->cert->names[0], order_state_name(o->state));
	order_forget(o);
	journal_drop(&o->acme->store, o->cert->store_name);
	order_free(o);
}
