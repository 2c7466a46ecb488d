#pragma once
/* acme, private: signed requests to one CA (RFC 8555, section 6): directory, nonces, badNonce,
 * repeats.
 *
 * Nothing blocks; an answer comes to done on the control thread, never inside client_send. Repeats:
 * badNonce signs anew at once with the nonce of that answer, 100 times or 30 s; no answer, 5xx and
 * foreign JSON after 0.5, 1, 2, 4, 8 s. Each repeat is a new signature with a new nonce. */
#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "failure.h"
#include "http.h"
#include "smartproxy/tls_key.h"

struct client;
struct call;

struct client_stats { /* shared by all clients of the manager */
	uint64_t requests_cnt, bad_nonce_cnt;
};

/* What the CA said in the end. Owned by whom done gave it to. */
struct answer {
	enum err err; /* ERR_OK: status 2xx; ERR_ACME: refused, see type and text; else no usable
			 answer */
	long status;  /* 0: none */
	json_t *json; /* NULL: none, or not asked for */
	struct text body;            /* of a download */
	char *location;              /* NULL: none */
	int64_t retry_after_ms;      /* -1: none */
	char type[PROBLEM_TYPE_MAX]; /* last part of the problem's URN; "" */
	char text[FAILURE_TEXT_MAX]; /* problem's words or libcurl's; printable */
};
void answer_free(struct answer *answer);
/* A string member of the answer's object; NULL when there is none. */
const char *answer_string(const struct answer *answer, const char *name);

enum client_target { CLIENT_URL, CLIENT_NEW_ACCOUNT, CLIENT_NEW_ORDER };
struct client_request {
	enum client_target target;
	const char *url;     /* CLIENT_URL; copied */
	const char *payload; /* NULL: POST-as-GET; copied */
	bool wants_jwk;      /* newAccount */
	bool wants_pem;      /* the body is a chain, not JSON */
	bool has_location;   /* a 2xx answer with Location is good even when its body is damaged */
	const char *member;  /* a string that the answer's object must have, else it is foreign;
				static, NULL: none */
	void (*done)(void *arg, struct answer *answer);
	void *arg;
};

enum err client_new(struct loop *loop, const char *directory_url, const char *ca_file,
		    struct client_stats *stats, struct client **ret_client) SP_MUST_USE;
/* Drops all calls without answers. Not inside a done. */
void client_free(struct client *client);
/* The account's key (not owned) and its URL (copied; NULL: none). */
void client_set_key(struct client *client, const struct tls_key *key);
enum err client_set_account(struct client *client, const char *kid) SP_MUST_USE;
/* NULL: out of memory. */
struct call *client_send(struct client *client, const struct client_request *request) SP_MUST_USE;
/* No answer will come. NULL is allowed. */
void client_cancel(struct call *call);
/* On its way to the CA, the answer not there yet. */
bool client_is_sent(const struct call *call);

/* One plain GET of the directory, without repeats: done(arg, true) when the CA answers. */
void client_probe(struct client *client, void (*done)(void *arg, bool is_up), void *arg);
/* RFC 8555, 7.1.1: "" when the CA names none. */
const char *client_terms(const struct client *client);
