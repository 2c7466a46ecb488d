#pragma once
/* acme, private: one CA: its client, our account there, its order limit, and the watch for its
 * return.
 *
 * Account: NONE -> REGISTERING -> READY; a CA that has lost it sends it back to NONE, the key
 * stays. The key is on disk before it is used, and newAccount finds the account of a known key
 * again (RFC 8555, 7.3), so a crash costs no second account. */
#include <stdbool.h>
#include <stdint.h>

#include "client.h"
#include "jws.h"
#include "smartproxy/list.h"
#include "store.h"

struct acme;

enum ca_state { CA_NONE, CA_REGISTERING, CA_READY };

struct ca {
	struct list link; /* acme->cas */
	unsigned ref_cnt; /* held by: the manager, each order, each farewell */
	struct acme *acme;
	char *directory;
	char store_name[STORE_NAME_MAX];
	struct client *client;
	struct tls_key *key; /* NULL: not made yet */
	char thumbprint[JWS_DIGEST_MAX];
	enum ca_state state;
	unsigned account_seq; /* counts accounts, so that a loss is seen once */
	char *account_url;    /* NULL: none */
	char *contact;        /* the e-mail that the CA has; NULL: none */
	char *contact_sent;   /* the one that it is being told */
	struct call *account_call, *contact_call;
	struct failure contact_failure; /* of the last try to tell it; contact_run in a row */
	uint32_t contact_run;
	int64_t contact_retry_boot_ms;
	struct failure
		account_failure; /* of the last newAccount, told to all who ask before account_retry_boot_ms */
	int64_t account_retry_boot_ms;
	struct list waiters;
	int64_t bucket_ms; /* theoretical arrival time (GCRA), wall clock; persisted */
	bool is_bucket_dirty;
	struct timer bucket_timer, probe_timer;
	int64_t probe_ms; /* delay of the next probe; 0: not watching */
	struct list farewells;
	struct task burial;
};

struct ca_waiter {
	struct list link;
	/* failure NULL: ask again */
	void (*wake)(struct ca_waiter *waiter, const struct failure *failure);
};

enum err ca_new(struct acme *acme, const char *directory, const char *ca_file, struct ca **ret_ca)
	SP_MUST_USE;
void ca_get(struct ca *ca);
void ca_put(struct ca *ca);
/* ERR_OK: there is an account; ERR_BUSY: waiter is woken later (list_remove(&waiter->link) takes it
 * back); else *reterr. */
enum err ca_account(struct ca *ca, struct ca_waiter *waiter, struct failure *reterr) SP_MUST_USE;
/* The CA does not know account number seq. */
void ca_account_lost(struct ca *ca, unsigned seq);
/* Tells the CA our e-mail address, if there is an account with another one. *next_ms: lowered to when to look again. */
void ca_look_at_contact(struct ca *ca, int64_t *next_ms);
/* A new order may be asked for now: takes it from the bucket. *ret_wait_ms: when not. */
bool ca_take_order(struct ca *ca, int64_t *ret_wait_ms);
/* Watches for the CA's return, then acme_on_ca_up. */
void ca_watch(struct ca *ca);
/* Sends a deactivation of an authorization (RFC 8555, 7.5.2) whose answer nobody waits for. */
void ca_deactivate(struct ca *ca, const char *authz_url);
void ca_drop_farewells(struct ca *ca);
