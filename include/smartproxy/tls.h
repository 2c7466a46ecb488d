#pragma once
/* tls: the only room that includes <openssl/...>: certificates, slots, session tickets, connections
 * of clients and towards targets.
 *
 * A slot is the long-lived place of one certificate: generations refer to slots, and a new
 * certificate is swapped into its slot by RCU, in O(1), without a new generation. A certificate is
 * immutable and reference counted (counted up once per handshake, never per request). Each worker
 * has one SSL_CTX; the certificate is set per connection.
 *
 * Threads: slots and certificates on the control thread; tls_slot_cert_get in a worker's read
 * section; a tls_conn belongs to its worker. Standards: RFC 8446, RFC 5246, RFC 5077 (tickets), RFC
 * 7301 (ALPN), RFC 6066 (SNI). */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/err.h"
#include "smartproxy/rcu.h"
#include "smartproxy/tls_client.h"
#include "smartproxy/tls_key.h"

/* Once, before any thread starts. Loads providers, makes the ticket key ring. */
enum err tls_init(void) SP_MUST_USE;
void tls_fini(void);

/* ---- certificates ---- */
struct tls_cert_info {
	char issuer[256];  /* one line, printable, escaped */
	char subject[256]; /* first name of the SANs, else CN */
	char serial_hex[64];
	int64_t not_before_unix_s, not_after_unix_s;
	char key_type[16];
	bool is_placeholder;
	size_t name_cnt;
	char **names; /* DNS and IP SANs; owned by the certificate */
};

struct tls_cert;
/* chain: leaf first, PEM. ERR_KEY_MISMATCH, ERR_SYNTAX, ERR_TLS; *reterr_text (may be NULL) gets a sentence. */
enum err tls_cert_from_pem(const char *chain, size_t chain_len, const char *key, size_t key_len,
			   struct tls_cert **ret_cert, struct text *reterr_text) SP_MUST_USE;
/* Warns in the log, naming the file, of a key that others can read. ERR_NOENT, ERR_SYSTEM, ERR_INVALID (not a regular
 * file, above 1 MiB) and the ones above. current (may be NULL), what the caller has of these files, is returned itself,
 * with a reference, if they hold the same bytes still: some microseconds; else about 0.2 ms. */
enum err tls_cert_from_files(const char *chain_file, const char *key_file, struct tls_cert *current,
			     struct tls_cert **ret_cert, struct text *reterr_text) SP_MUST_USE;
/* The same; says what is wrong with each file or, when both can be read, with what they hold; else empty. */
struct tls_files_error {
	struct text chain, key, both;
};
enum err tls_cert_load(const char *chain_file, const char *key_file, struct tls_cert *current,
		       struct tls_cert **ret_cert, struct tls_files_error *reterr) SP_MUST_USE;
void tls_files_error_fini(struct tls_files_error *error);
/* Self-signed P-256, valid 7 days, marked as placeholder. */
enum err tls_cert_self_signed(const char *const *names, size_t name_cnt, struct tls_cert **ret_cert)
	SP_MUST_USE;
const struct tls_cert_info *tls_cert_info(const struct tls_cert *cert);
/* Reference counting; any thread. held by: its slot, each handshake under way, whoever asked. */
void tls_cert_get(struct tls_cert *cert);
void tls_cert_put(struct tls_cert *cert);
/* Does name (lower case) match a SAN: exact or one wildcard label (RFC 6125, 6.4.3)? */
bool tls_cert_has_name(const struct tls_cert *cert, const char *name);

/* ---- slots ---- */
struct tls_slots;
struct tls_slot;
enum err tls_slots_new(struct tls_slots **ret_slots) SP_MUST_USE;
void tls_slots_free(struct tls_slots *slots) SP_ON_CONTROL;
/* The slot of this identity (e.g. "auto:p256:a.example,b.example", "file:6:/x.pem:/x.key"), made if
 * new, reference counted up. held by: generations, the acme manager. */
enum err tls_slot_get(struct tls_slots *slots, const char *identity, struct tls_slot **ret_slot)
	SP_ON_CONTROL SP_MUST_USE;
/* Counts one more reference of a slot that the caller was handed. */
void tls_slot_hold(struct tls_slot *slot) SP_ON_CONTROL;
void tls_slot_put(struct tls_slot *slot) SP_ON_CONTROL;
const char *tls_slot_identity(const struct tls_slot *slot);
/* Swaps cert in (taking the caller's reference), retires the old one after a grace period. NULL empties it. */
void tls_slot_install(struct tls_slot *slot, struct tls_cert *cert) SP_ON_CONTROL;
/* Control thread's view; NULL: empty. No reference is taken. */
struct tls_cert *tls_slot_current(const struct tls_slot *slot) SP_ON_CONTROL;
/* Marked: the update under way has a certificate for this slot. Returns what it was; false at first. */
bool tls_slot_mark(struct tls_slot *slot, bool is_marked) SP_ON_CONTROL;
/* Worker, inside a read section: the certificate with a reference, or NULL. */
struct tls_cert *tls_slot_cert_get(const struct tls_slot *slot) SP_RCU_READER;

/* ---- per worker ---- */
enum tls_version { TLS_VERSION_1_2, TLS_VERSION_1_3 };
struct tls_settings {
	enum tls_version min_version;
	const char *ciphers_1_2; /* OpenSSL list; NULL: Mozilla intermediate */
};
struct tls_worker;
enum err tls_worker_new(const struct tls_settings *settings, struct tls_worker **ret_worker)
	SP_MUST_USE;
void tls_worker_free(struct tls_worker *worker);

/* Ticket keys: a ring of three (RFC 5077, 4), the newest encrypts, all decrypt; by RCU. */
enum err tls_tickets_rotate(void) SP_ON_CONTROL SP_MUST_USE;

/* ---- server connections ---- */
struct tls_conn;
/* fd stays the caller's. The connection counts cert up; the caller keeps and puts its own reference. A worker thread
 * registered with RCU (the ticket keys are read in a short section of its own); resumption is bound to slot_hash (a
 * session of one slot is never resumed under another). */
enum err tls_conn_new(struct tls_worker *worker, int fd, struct tls_cert *cert, uint64_t slot_hash,
		      struct tls_conn **ret_conn) SP_NO_RCU SP_MUST_USE;
uint64_t tls_slot_hash(const struct tls_slot *slot);
void tls_conn_free(struct tls_conn *conn);
/* Bytes that were read from fd before TLS took over; copied, given to OpenSSL before anything else
 * is read. At most WIRE_HELLO_MAX bytes. is_all: fd has nothing more, the next step need not look. */
enum err tls_conn_feed(struct tls_conn *conn, const void *data, size_t len, bool is_all)
	SP_MUST_USE;
/* STEP_DONE, STEP_READ, STEP_WRITE, STEP_EOF (client went away), STEP_FAIL. A failure's alert is
 * sent by OpenSSL. */
enum step tls_conn_handshake(struct tls_conn *conn) SP_NO_RCU;
/* STEP_DONE with *ret_len > 0, STEP_READ, STEP_WRITE, STEP_EOF (close_notify, or tls_conn_is_cut),
 * STEP_FAIL. */
enum step tls_conn_read(struct tls_conn *conn, void *dst, size_t cap, size_t *ret_len) SP_NO_RCU;
/* STEP_DONE with *ret_len > 0 (may be less than len). A write that had to wait may be repeated with
 * a moved buffer. */
enum step tls_conn_write(struct tls_conn *conn, const void *src, size_t len, size_t *ret_len)
	SP_NO_RCU;
/* What is written from now on may wait for close_notify and the FIN, which follow at once. */
void tls_conn_expect_end(struct tls_conn *conn);
/* True when bytes wait inside, so that no new read event will come for them. False after each
 * STEP_READ; may be true once when only a part of a record is held: the next read then says
 * STEP_READ. */
bool tls_conn_has_pending(const struct tls_conn *conn);
/* After a handshake or a read that was done: it emptied fd and nothing waits inside, so that the next
 * bytes are a new event. As with a short read, an end or urgent data may be there all the same. */
bool tls_conn_is_drained(const struct tls_conn *conn);
/* Sends close_notify, once; does not wait for the client's. The FIN has to follow at once. */
enum step tls_conn_close_notify(struct tls_conn *conn) SP_NO_RCU;
/* After STEP_EOF of a read: TCP has ended without close_notify, by whomever, and bytes may be missing
 * (RFC 8446, 6.1). */
bool tls_conn_is_cut(const struct tls_conn *conn);
/* No close_notify is sent from now on: what came to this connection was cut, and so is what it passes
 * on. */
void tls_conn_forgo_notify(struct tls_conn *conn);
struct tls_conn_info {
	const char *version; /* "TLSv1.3"; static */
	const char *cipher;  /* static */
	bool is_resumed;
	char alpn[32];
};
void tls_conn_info(const struct tls_conn *conn, struct tls_conn_info *ret_info);
/* Why the last step failed or was an EOF, static or owned by conn; printable. "": nothing yet. */
const char *tls_conn_error(const struct tls_conn *conn);
/* The name that the client asked for, "" for none; lives as long as conn. */
const char *tls_conn_sni(const struct tls_conn *conn);
