#pragma once
/* acme, private: the manager's own parts. Everything on the control thread. */
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "account.h"
#include "challenge_route.h"
#include "failure.h"
#include "journal.h"
#include "smartproxy/acme.h"
#include "store.h"

struct order;

struct settings {                          /* copied from a configuration; strings owned */
	char *email, *directory, *ca_file; /* "" when none */
	int64_t renew_before_ms;
	unsigned max_orders;
	int64_t order_interval_ms;
	unsigned order_burst;
	bool wants_placeholder;
};

/* One certificate that is wanted, from the wish on until no route wants it. */
struct cert {
	struct list link; /* acme->certs */
	struct acme *acme;
	char store_name[STORE_NAME_MAX];
	char **names;
	size_t name_cnt;
	enum tls_key_type key_type;
	struct tls_slot *slot; /* a reference of ours; also the identity */
	struct cert *next_by_slot;
	bool is_wanted; /* mark of acme_set_wishes */

	/* What is installed; a placeholder does not count. */
	bool has_cert;
	int64_t not_before_unix_s, not_after_unix_s;
	int64_t renew_at_unix_s;
	/* Certificates in a row that were due when they came, and the rest that keeps them from a storm of orders. */
	uint32_t rest_cnt;
	int64_t rest_until_boot_ms; /* 0: none */
	char *issuer;
	char *directory; /* of the CA that it came from; NULL: unknown */
	char *order_url; /* NULL: unknown */
	bool is_forced;  /* renew now */

	/* Back-off. */
	uint32_t failure_cnt,
		failure_run; /* in all since the last success; of this kind in a row */
	struct failure failure;
	int64_t retry_at_unix_s, retry_at_boot_ms; /* 0: none */

	struct order *order;         /* NULL: none under way */
	struct journal_order *saved; /* an order that goes on at the next try; NULL: none */

	/* Not saved yet because the disk was full: served from memory. */
	char *unsaved_chain, *unsaved_key;
	struct save *save; /* being written; NULL: none */
	int64_t save_at_boot_ms;
};

struct stop {
	bool is_stopping, is_past_grace, is_past_all;
	void (*done)(void *arg); /* NULL: told already */
	void *arg;
	struct timer timer;
	struct task task;
	bool is_task_posted;
};

struct acme {
	struct loop *loop;
	struct challenge_table *table;
	struct store store;
	struct settings settings;
	struct client_stats client_stats;
	struct ca *ca;   /* of settings.directory */
	struct list cas; /* that one and those of earlier settings with work left */
	struct challenge_route route;
	bool is_started, is_freeing;

	struct list certs;
	size_t cert_cnt;
	struct cert **buckets; /* by slot */
	size_t bucket_cnt;
	struct list orders; /* under way */
	unsigned order_cnt;
	struct journal_order **resumable; /* read at the start, not claimed by a wish yet */
	size_t resumable_cnt;

	struct task pump_task;
	bool is_pump_posted;
	struct timer pump_timer;

	struct list to_publish; /* authorizations whose answers wait for the grace period */
	struct task publish_task;
	bool is_publish_posted;

	struct task served_task;
	atomic_bool is_served_posted; /* any thread */

	struct stop stop;
	struct task free_task;
	unsigned farewell_cnt;
	uint64_t orders_created_cnt, orders_ok_cnt, orders_failed_cnt;
};

/* ---- manager.c ---- */
/* Looks at the end of this turn what is due: orders, renewals, the route. */
void manager_pump(struct acme *acme);
/* Milliseconds until the certificate wants an order; 0: now. */
int64_t manager_wait_ms(const struct cert *cert);
void manager_on_ca_up(struct acme *acme, struct ca *ca);
/* An order has reached DONE or FAILED and is freed next. */
void manager_on_order_end(struct order *order);

/* ---- wishes.c ---- */
enum err settings_copy(struct settings *ret, const struct config *config) SP_MUST_USE;
void settings_fini(struct settings *settings);
void cert_free(struct cert *cert);
/* Takes over what the store or an order brought; the slot gets its own reference of tls. */
void cert_adopt(struct cert *cert, struct tls_cert *tls, const char *directory,
		const char *order_url);

/* ---- save.c ---- */
/* Writes chain and key on a helper thread; cert->save is set until then, and an order in INSTALL is run after it. On
 * failure they are kept in memory and tried again. false: out of memory. */
bool cert_start_save(struct cert *cert, const char *chain, const char *key);
void cert_retry_save(struct cert *cert);
/* The write goes on, nobody waits for it. */
void cert_leave_save(struct cert *cert);
void cert_forget_unsaved(struct cert *cert);

/* ---- resume.c ---- */
void resume_read(struct acme *acme);
/* The journalled order of these names, key type and CA, taken out; NULL: none. */
struct journal_order *resume_claim(struct acme *acme, const struct cert *cert);
/* Gives up what no wish claimed. */
void resume_drop_rest(struct acme *acme);
/* Deactivates what is pending, takes the answers out, drops the journal and frees. */
void resume_give_up(struct acme *acme, struct journal_order *saved);
/* Puts the answers of a journalled order into the challenge table. */
void resume_publish(struct acme *acme, const struct journal_order *saved, const char *thumbprint);
void resume_withdraw(struct acme *acme, const struct journal_order *saved);
void retry_read(struct cert *cert);
void retry_write(struct cert *cert);

/* ---- stop.c ---- */
void stop_init(struct acme *acme);
/* Looks at the end of this turn whether all has settled; nothing before acme_stop. */
void stop_check(struct acme *acme);
