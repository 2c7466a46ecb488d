/* Wishes become certificates of ours; what the store holds is installed, what is no longer wanted
 * is given up. */
#include <stdlib.h>
#include <string.h>

#include "manager.h"
#include "order.h"
#include "smartproxy/assert.h"
#include "smartproxy/log.h"

/* ---- settings ---- */
static char *copy_or_empty(const char *s)
{
	return strdup(s != NULL ? s : "");
}

void settings_fini(struct settings *settings)
{
	free(settings->email);
	free(settings->directory);
	free(settings->ca_file);
	*settings = (struct settings){ 0 };
}

enum err settings_copy(struct settings *ret, const struct config *config)
{
	struct settings s = {
		.email = copy_or_empty(config->acme.email),
		.directory = copy_or_empty(config->acme.directory),
		.ca_file = copy_or_empty(config->acme.ca_file),
		.renew_before_ms = config->acme.renew_before_ms,
		.max_orders = config->acme.max_orders > 0 ? config->acme.max_orders : 1,
		.order_interval_ms = config->acme.order_interval_ms,
		.order_burst = config->acme.order_burst > 0 ? config->acme.order_burst : 1,
		.wants_placeholder = config->tls.wants_placeholder,
	};
	if (s.email == NULL || s.directory == NULL || s.ca_file == NULL) {
		settings_fini(&s);
		return ERR_NOMEM;
	}
	*ret = s;
	return ERR_OK;
}

/* ---- one certificate ---- */
static struct cert **find_link(struct acme *acme, const struct tls_slot *slot)
{
	struct cert **link = &acme->buckets[tls_slot_hash(slot) % acme->bucket_cnt];
	while (*link != NULL && (*link)->slot != slot)
		link = &(*link)->next_by_slot;
	return link;
}

static void set_renewal(struct cert *cert)
{
	cert->renew_at_unix_s = plan_renew_at(cert->not_before_unix_s, cert->not_after_unix_s,
					      cert->acme->settings.renew_before_ms);
}

static void replace_string(char **dst, const char *src)
{
	char *copy = src != NULL ? strdup(src) : NULL;
	free(*dst);
	*dst = copy;
}

void cert_adopt(struct cert *cert, struct tls_cert *tls, const char *directory,
		const char *order_url)
{
	sp_role_assume_control();
	const struct tls_cert_info *info = tls_cert_info(tls);
	cert->has_cert = true;
	cert->not_before_unix_s = info->not_before_unix_s;
	cert->not_after_unix_s = info->not_after_unix_s;
	replace_string(&cert->issuer, info->issuer);
	replace_string(&cert->directory, directory);
	replace_string(&cert->order_url, order_url);
	set_renewal(cert);
	tls_slot_install(cert->slot, tls);
}

void cert_free(struct cert *cert)
{
	sp_role_assume_control();
	if (cert == NULL)
		return;
	list_remove(&cert->link);
	for (size_t i = 0; i < cert->name_cnt; i++)
		free(cert->names[i]);
	free(cert->names);
	free(cert->issuer);
	free(cert->directory);
	free(cert->order_url);
	journal_order_free(cert->saved);
	cert_forget_unsaved(cert);
	cert_leave_save(cert);
	tls_slot_put(cert->slot);
	free(cert);
}

static struct cert *new_cert(struct acme *acme, const struct acme_wish *wish)
{
	sp_role_assume_control();
	struct cert *cert = calloc(1, sizeof(*cert));
	if (cert == NULL)
		return NULL;
	list_init(&cert->link);
	cert->acme = acme;
	cert->key_type = wish->key_type;
	cert->failure.retry_after_ms = -1;
	cert->slot = wish->slot;
	tls_slot_hold(cert->slot);
	cert->names = calloc(wish->name_cnt, sizeof(*cert->names));
	for (size_t i = 0; cert->names != NULL && i < wish->name_cnt; i++) {
		cert->names[i] = strdup(wish->names[i]);
		if (cert->names[i] == NULL)
			break;
		cert->name_cnt++;
	}
	if (cert->name_cnt < wish->name_cnt) {
		cert_free(cert);
		return NULL;
	}
	store_cert_name(cert->store_name, wish->names, wish->name_cnt, wish->key_type);
	return cert;
}

static void install_placeholder(struct cert *cert)
{
	sp_role_assume_control();
	struct tls_cert *tls = NULL;
	if (!cert->acme->settings.wants_placeholder || tls_slot_current(cert->slot) != NULL)
		return;
	if (tls_cert_self_signed((const char *const *)cert->names, cert->name_cnt, &tls) == ERR_OK)
		tls_slot_install(cert->slot, tls);
	else
		log_warn("acme", "no placeholder certificate could be made name=%s",
			 cert->names[0]);
}

/* What a file of that name holds may have been put there by hand, for other names. */
static bool has_all_names(const struct cert *cert, const struct tls_cert *tls)
{
	for (size_t i = 0; i < cert->name_cnt; i++)
		if (!tls_cert_has_name(tls, cert->names[i]))
			return false;
	return true;
}

static void load(struct cert *cert)
{
	struct store_pair pair = { 0 };
	enum err e = store_load_cert(&cert->acme->store, cert->store_name, &pair);
	if (e == ERR_OK && !has_all_names(cert, pair.cert)) {
		log_warn("acme", "the stored certificate lacks a name and is not used name=%s",
			 cert->names[0]);
		tls_cert_put(pair.cert);
		store_meta_fini(&pair.meta);
		e = ERR_NOENT;
	}
	if (e != ERR_OK) {
		install_placeholder(cert);
		return;
	}
	cert_adopt(cert, pair.cert, pair.meta.directory, pair.meta.order_url);
	cert->is_forced = pair.is_older;
	store_meta_fini(&pair.meta);
}

/* The journal of an order whose certificate is in the store already: the crash came just before its
 * end. */
static void claim_order(struct cert *cert)
{
	cert->saved = resume_claim(cert->acme, cert);
	if (cert->saved == NULL || cert->saved->url == NULL || cert->order_url == NULL ||
	    strcmp(cert->saved->url, cert->order_url) != 0)
		return;
	resume_withdraw(cert->acme, cert->saved);
	journal_drop(&cert->acme->store, cert->store_name);
	journal_order_free(cert->saved);
	cert->saved = NULL;
}

static void add_cert(struct acme *acme, const struct acme_wish *wish)
{
	struct cert *cert = new_cert(acme, wish);
	if (cert == NULL) {
		log_error("acme", "out of memory for the certificate of %s", wish->names[0]);
		return;
	}
	struct cert **link = &acme->buckets[tls_slot_hash(cert->slot) % acme->bucket_cnt];
	cert->next_by_slot = *link;
	*link = cert;
	list_append(&acme->certs, &cert->link);
	acme->cert_cnt++;
	cert->is_wanted = true;
	load(cert);
	retry_read(cert);
	claim_order(cert);
}

static void drop_cert(struct cert *cert)
{
	struct acme *acme = cert->acme;
	struct cert **link = find_link(acme, cert->slot);
	*link = cert->next_by_slot;
	acme->cert_cnt--;
	if (cert->order != NULL)
		order_give_up(cert->order);
	if (cert->saved != NULL)
		resume_give_up(acme, cert->saved);
	cert->saved = NULL;
	cert_free(cert);
}

/* ---- all of them ---- */
static void grow_buckets(struct acme *acme)
{
	size_t cnt = acme->bucket_cnt;
	while (cnt < acme->cert_cnt)
		cnt *= 2;
	struct cert **buckets = cnt > acme->bucket_cnt ? calloc(cnt, sizeof(struct cert *)) : NULL;
	if (buckets == NULL)
		return;
	free(acme->buckets);
	acme->buckets = buckets;
	acme->bucket_cnt = cnt;
	LIST_FOREACH(at, &acme->certs)
	{
		struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		struct cert **link = &buckets[tls_slot_hash(cert->slot) % cnt];
		cert->next_by_slot = *link;
		*link = cert;
	}
}

/* Orders at the former CA are not what the new settings want. */
static void change_ca(struct acme *acme)
{
	struct ca *ca = NULL;
	enum err e = ca_new(acme, acme->settings.directory, acme->settings.ca_file, &ca);
	if (e != ERR_OK) {
		log_error("acme", "the new CA cannot be used: %s directory=%s", err_text(e),
			  acme->settings.directory);
		return;
	}
	LIST_FOREACH(at, &acme->certs)
	{
		struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		if (cert->order != NULL)
			order_give_up(cert->order);
		if (cert->saved != NULL)
			resume_give_up(acme, cert->saved);
		cert->saved = NULL;
		cert->failure_cnt = cert->failure_run = 0;
		cert->retry_at_boot_ms = cert->retry_at_unix_s = 0;
		cert->rest_cnt = 0;
		cert->rest_until_boot_ms = 0;
	}
	ca_put(acme->ca);
	acme->ca = ca;
}

static void apply_settings(struct acme *acme, const struct config *config)
{
	struct settings now, before = acme->settings;
	if (settings_copy(&now, config) != ERR_OK) {
		log_error("acme", "out of memory for the new settings, the old ones stay");
		return;
	}
	acme->settings = now;
	if (strcmp(now.directory, before.directory) != 0 ||
	    strcmp(now.ca_file, before.ca_file) != 0)
		change_ca(acme);
	if (now.renew_before_ms != before.renew_before_ms)
		LIST_FOREACH(at, &acme->certs)
		{
			struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
			if (cert->has_cert)
				set_renewal(cert);
		}
	if (strcmp(now.email, before.email) != 0) /* the pump tells the CA */
		acme->ca->contact_retry_boot_ms = acme->ca->contact_run = 0;
	settings_fini(&before);
}

void acme_set_wishes(struct acme *acme, const struct config *config, const struct acme_wish *wishes,
		     size_t wish_cnt)
{
	if (acme->stop.is_stopping)
		return;
	apply_settings(acme, config);
	LIST_FOREACH(at, &acme->certs)
	SP_CONTAINER_OF(at, struct cert, link)->is_wanted = false;
	for (size_t i = 0; i < wish_cnt; i++) {
		struct cert *cert = *find_link(acme, wishes[i].slot);
		if (cert != NULL)
			cert->is_wanted = true;
		else
			add_cert(acme, &wishes[i]);
	}
	LIST_FOREACH_SAFE(at, &acme->certs)
	{
		struct cert *cert = SP_CONTAINER_OF(at, struct cert, link);
		if (!cert->is_wanted)
			drop_cert(cert);
	}
	grow_buckets(acme);
	manager_pump(acme);
}
