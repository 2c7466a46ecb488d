#pragma once
/* acme, private: the state directory.
 *
 *   lock                                     flock, holds our pid
 *   accounts/CA/{key.pem,account.json,limits.json}
 *   certificates/NAME/gen-K/{fullchain.pem,privkey.pem,meta.json}
 *   certificates/NAME/current -> gen-K       swapped by rename when gen-K is on disk
 *   certificates/NAME/retry.json             back-off
 *   orders/NAME.journal                      journal.h
 *
 * A generation is written whole and synced before current points to it, so a crash leaves the old
 * pair or the new one. Files are 0600, directories 0700. Threads: control. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/err.h"
#include "smartproxy/text.h"
#include "smartproxy/tls.h"

#define STORE_NAME_MAX 320

struct store {
	char *path;
	int64_t tried_ms; /* last good trial write; 0: none */
	int dir_fd, lock_fd, accounts_fd, certificates_fd, orders_fd;
};

/* Takes the lock. ERR_LOCKED: *reterr_text names the other process. */
enum err store_open(struct store *store, const char *path, struct text *reterr_text) SP_MUST_USE;
void store_close(struct store *store);
/* Writes, syncs and removes 16 KiB: can what an order will bring be kept? A good outcome is believed for a second. */
enum err store_try(struct store *store, struct text *reterr_text) SP_MUST_USE;
/* Is the folder of this certificate, made when missing, fit for a new generation? */
enum err store_try_cert(struct store *store, const char *name, struct text *reterr_text)
	SP_MUST_USE;

/* The folder's name of a set of names: the first one, for any other set or key type with a digest
 * of all. */
void store_cert_name(char dst[STORE_NAME_MAX], const char *const *names, size_t name_cnt,
		     enum tls_key_type key_type);
/* The folder's name of a CA, from its directory URL. */
void store_ca_name(char dst[STORE_NAME_MAX], const char *directory_url);

struct store_meta {
	char *directory; /* the CA's */
	char *order_url;
};
void store_meta_fini(struct store_meta *meta);

struct store_pair {
	struct tls_cert *cert; /* the caller's */
	struct store_meta meta;
	bool is_older; /* current was damaged; an older generation serves until the renewal */
};
/* ERR_NOENT: nothing usable. A damaged generation is renamed to gen-K.damaged-TIME and named in the
 * log. A directory named current becomes a generation. */
enum err store_load_cert(struct store *store, const char *name, struct store_pair *ret_pair)
	SP_MUST_USE;
/* A new generation. On failure the old one stays current. Keeps two generations. */
enum err store_save_cert(struct store *store, const char *name, const char *chain, const char *key,
			 const struct store_meta *meta, struct text *reterr_text) SP_MUST_USE;

/* Small files of a certificate's folder (made when missing) or a CA's; text NULL removes. */
enum err store_put_cert_file(struct store *store, const char *name, const char *file,
			     const char *text, struct text *reterr_text) SP_MUST_USE;
enum err store_get_cert_file(struct store *store, const char *name, const char *file,
			     struct text *ret_text) SP_MUST_USE;
enum err store_put_ca_file(struct store *store, const char *ca, const char *file, const char *text,
			   struct text *reterr_text) SP_MUST_USE;
/* is_key: warns when others may read it. */
enum err store_get_ca_file(struct store *store, const char *ca, const char *file, bool is_key,
			   struct text *ret_text) SP_MUST_USE;
