#pragma once
/* acme, private: one order of one certificate (order.c) and its authorizations (authz.c). */
#include "manager.h"

enum order_state {
	ORDER_PLAN,
	ORDER_ACCOUNT,
	ORDER_NEW_ORDER,
	ORDER_AUTHORIZE,
	ORDER_READY,
	ORDER_FINALIZE,
	ORDER_DOWNLOAD,
	ORDER_INSTALL,
	ORDER_DONE,
	ORDER_FAILED,
	ORDER_STATE_CNT,
	ORDER_WAIT = ORDER_STATE_CNT, /* a step's answer: nothing to do until something wakes us */
};

enum authz_state {
	AUTHZ_FETCH,
	AUTHZ_PUBLISH,
	AUTHZ_TRIGGER,
	AUTHZ_POLL,
	AUTHZ_VALID,
	AUTHZ_FAILED,
	AUTHZ_STATE_CNT,
};

struct authz {
	struct order *order;
	enum authz_state state;
	struct list publish_link; /* acme->to_publish, or to itself */
	char *url, *name, *challenge_url, *token;
	bool is_published;           /* token is in the table by our doing */
	bool is_journalled, is_live; /* live: every worker has the answer */
	bool was_triggered;          /* by an earlier process or try */
	int64_t unsure_until_ms;     /* 0: we know that it was triggered */
	struct call *call;
	struct answer *answer;
	struct timer timer;
	bool is_due;
	int64_t interval_ms;
	int64_t not_before_ms; /* Retry-After: no poll before */
	uint32_t served_cnt;
	bool was_served_since; /* since the poll that is under way was sent */
	struct failure failure;
};

struct order {
	struct list link; /* acme->orders */
	struct acme *acme;
	struct cert *cert;
	struct ca *ca; /* a reference of ours */
	enum order_state state;
	struct journal journal;
	struct journal_order
		*saved; /* what the journal said when the order went on; NULL: a new order */
	struct tls_key *key;
	struct text key_pem;
	struct keygen *keygen; /* an RSA key is being made */
	struct ca_waiter waiter;
	unsigned account_seq;
	char *url, *finalize_url, *certificate_url;
	struct authz *authzs;
	size_t authz_cnt;
	struct call *call;
	struct answer *answer;
	struct timer timer;
	bool is_due;
	int64_t poll_ms;
	int64_t give_up_boot_ms;
	bool is_finalize_sent;
	bool has_restarted;
	bool is_kept; /* FAILED, but it can go on at the CA: the journal stays */
	struct tls_cert *tls;
	struct text chain;
	struct failure failure;
};

const char *order_state_name(enum order_state state);
/* cert->saved, when there, is what goes on. NULL: out of memory. The first step is made by
 * order_run. */
struct order *order_new(struct cert *cert) SP_MUST_USE;
void order_run(struct order *order);
/* Nothing is sent; journal and answers stay, so that the order goes on later. */
void order_free(struct order *order);
/* No longer wanted: deactivates what is pending, takes the answers out, drops the journal, frees.
 */
void order_give_up(struct order *order);
/* Has the CA been told of a challenge that is not final yet? */
bool order_is_validating(const struct order *order);
/* Is there an answer on its way, or a verdict, that must be seen before we go? */
bool order_must_settle(const struct order *order);

/* ---- between the files of an order ---- */
#define ORDER_POLL_FIRST_MS 50
void order_on_timer(struct timer *timer);
void order_on_account(struct ca_waiter *waiter, const struct failure *failure);
/* Everything of the order at the CA is forgotten; key and certificate's wish stay. */
void order_forget(struct order *order);
/* order_forget and a journal of its own, once in an order's life. false: it has been done before,
 * the failure counts. */
bool order_start_over(struct order *order, const char *why);
/* EC keys take microseconds; RSA ones seconds, on a helper thread. ERR_BUSY: order_run is called
 * when it is there. */
enum err order_need_key(struct order *order) SP_MUST_USE;
/* A key still in the making is thrown away when it is done. */
void order_leave_key(struct order *order);
/* A journal that cannot be written does not end the order: a warning on failure. Frees why. */
void order_note_journal(enum err e, struct text *why);

/* ---- authz.c ---- */
/* Does what can be done now. */
void authz_run(struct authz *az);
void authz_fini(struct authz *az);
/* Waits for the CA's verdict: must stay answered. */
bool authz_is_triggered(const struct authz *az);
void authz_withdraw(struct authz *az);
void authz_publish_all(struct acme *acme);
void authz_on_served(struct authz *az);
