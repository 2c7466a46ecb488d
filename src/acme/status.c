/* What the manager tells of itself. */
#include <stdlib.h>

#include "manager.h"
#include "order.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"

const char *const *acme_failpoints(size_t *ret_cnt)
{
	static const char *const names[] = {
		"acme-account-key-before", "acme-account-key-after", "acme-account-before",
		"acme-account-after",      "acme-plan-before",       "acme-plan-after",
		"acme-order-sent",         "acme-order-before",      "acme-order-after",
		"acme-challenge-before",   "acme-challenge-after",   "acme-trigger-sent",
		"acme-triggered-before",   "acme-triggered-after",   "acme-authz-valid",
		"acme-finalize-before",    "acme-finalize-after",    "acme-finalize-sent",
		"acme-download-before",    "acme-download-after",    "acme-issued-before",
		"acme-issued-after",       "acme-store-key",         "acme-store-chain",
		"acme-store-before-link",  "acme-store-after-link",  "acme-install-after",
		"acme-journal-dropped",
	};
	*ret_cnt = SP_ARRAY_LEN(names);
	return names;
}

static bool is_waiting(const struct cert *cert)
{
	return cert->order == NULL && manager_wait_ms(cert) == 0;
}

static const char *describe(const struct cert *cert)
{
	if (cert->unsaved_chain != NULL)
		return "not-saved";
	if (cert->order != NULL)
		return cert->has_cert ? "renewing" : "ordering";
	if (cert->failure_cnt > 0)
		return "failed";
	if (is_waiting(cert) && cert->acme->route.state == ACME_ROUTE_WAITING_FOR_PORT)
		return "waiting-for-port";
	return cert->has_cert ? "valid" : "pending";
}

void acme_stats(const struct acme *acme, struct acme_stats *ret_stats)
{
	*ret_stats = (struct acme_stats){
		.route_state = acme->route.state,
		.route_activated_cnt = acme->route.activated_cnt,
		.route_removed_cnt = acme->route.removed_cnt,
		.port_error = acme->route.port_error,
		.orders_created_cnt = acme->orders_created_cnt,
		.orders_ok_cnt = acme->orders_ok_cnt,
		.orders_failed_cnt = acme->orders_failed_cnt,
		.requests_cnt = acme->client_stats.requests_cnt,
		.bad_nonce_cnt = acme->client_stats.bad_nonce_cnt,
		.orders_active = acme->order_cnt,
	};
	LIST_FOREACH(at, &acme->certs)
	ret_stats->orders_waiting += is_waiting(SP_CONTAINER_OF(at, struct cert, link));
}

/* A wait that goes on ends at a time of the wall clock, which may have been set meanwhile. */
static int64_t shown_at(int64_t at_unix_s, int64_t at_boot_ms)
{
	int64_t left_ms = at_boot_ms - clock_boot_ms();
	int64_t end_unix_s = (clock_unix_ms() + left_ms) / 1000;
	return left_ms <= 0 || llabs(end_unix_s - at_unix_s) <= 2 ? at_unix_s : end_unix_s;
}

static int64_t renewal_at(const struct cert *cert)
{
	int64_t rest_at = shown_at(0, cert->rest_until_boot_ms);
	return rest_at > cert->renew_at_unix_s ? rest_at : cert->renew_at_unix_s;
}

void acme_each_cert(const struct acme *acme,
		    void (*each)(void *arg, const struct acme_cert_status *status), void *arg)
{
	LIST_FOREACH(at, &acme->certs)
	{
		const struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		struct acme_cert_status status = {
			.names = (const char *const *)cert->names,
			.name_cnt = cert->name_cnt,
			.key_type = tls_key_type_name(cert->key_type),
			.state = describe(cert),
			.step = cert->order != NULL ? order_state_name(cert->order->state) : "",
			.issuer = cert->issuer != NULL ? cert->issuer : "",
			.not_after_unix_s = cert->has_cert ? cert->not_after_unix_s : 0,
			.renew_at_unix_s = cert->has_cert ? renewal_at(cert) : 0,
			.retry_at_unix_s = shown_at(cert->retry_at_unix_s, cert->retry_at_boot_ms),
			.last_error = cert->failure_cnt > 0 ? cert->failure.text : "",
			.failure_cnt = cert->failure_cnt,
		};
		each(arg, &status);
	}
}
