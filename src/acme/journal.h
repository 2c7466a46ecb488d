#pragma once
/* acme, private: the journal, one file orders/NAME.journal per order under way, one JSON object a
 * line.
 *
 * A line is on disk before the step that it announces, so that after a crash the order goes on from
 * the CA's status and the CA's validation finds its answer. A last line without its end is what a
 * crash leaves and is passed over. plan       directory, names, key_type, key (PEM): an order is
 * about to be asked for order      url, finalize challenge  name, authz, url, token: about to be
 * triggered triggered  token: the CA has taken it (not synced: without it the challenge's state is
 * asked for) finalize   the request with our key's CSR is about to be sent issued     the chain has
 * been read and is about to be stored Threads: control. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/tls_key.h"
#include "store.h"

struct journal_challenge {
	char *name, *authz_url, *url, *token;
	bool is_triggered;
};

/* What a journal says: all that is needed to go on. */
struct journal_order {
	char *file_name; /* without ".journal": the certificate's folder */
	char *directory;
	char **names;
	size_t name_cnt;
	enum tls_key_type key_type;
	struct tls_key *key;
	char *url, *finalize_url; /* NULL: the order was not known yet */
	struct journal_challenge *challenges;
	size_t challenge_cnt;
	bool has_finalize, has_chain;
};
void journal_order_free(struct journal_order *order);
/* text: a journal's contents. ERR_NOENT: not one whole line; ERR_SYNTAX: a line that is none of
 * ours. */
enum err journal_parse(const char *text, size_t len, struct journal_order **ret_order) SP_MUST_USE;
/* ERR_NOENT: no journal of that name. */
enum err journal_load(struct store *store, const char *name, struct journal_order **ret_order)
	SP_MUST_USE;
/* Calls each for every journal, giving it the order; damaged ones are renamed and logged. */
void journal_each(struct store *store, void (*each)(void *arg, struct journal_order *order),
		  void *arg);

/* The open journal of an order under way. Zero is "none": fd is only used when is_open. */
struct journal {
	bool is_open;
	int fd;
	int orders_fd;      /* the store's, to be synced with the order's line; -1: has been */
	int64_t good_bytes; /* what follows was half written */
};
/* A new journal with its plan. key_pem is the leaf's private key. */
enum err journal_begin(struct journal *journal, struct store *store, const char *name,
		       const struct journal_order *plan, const char *key_pem,
		       struct text *reterr_text) SP_MUST_USE;
/* Opens the journal of an order that goes on. */
enum err journal_reopen(struct journal *journal, struct store *store, const char *name) SP_MUST_USE;
enum err journal_add_order(struct journal *journal, const char *url, const char *finalize_url,
			   struct text *reterr_text) SP_MUST_USE;
/* Several, one write and one sync. */
enum err journal_add_challenges(struct journal *journal, const struct journal_challenge *challenges,
				size_t cnt, struct text *reterr_text) SP_MUST_USE;
/* what: "finalize", "issued". */
enum err journal_add_mark(struct journal *journal, const char *what, struct text *reterr_text)
	SP_MUST_USE;
void journal_add_triggered(struct journal *journal, const char *token);
void journal_close(struct journal *journal);
/* The order is over: the file goes. */
void journal_drop(struct store *store, const char *name);
