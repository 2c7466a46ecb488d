/* The certificate's own key. */
#include <stdlib.h>

#include "order.h"

struct keygen { /* an RSA key in the making; outlives an order that is freed meanwhile */
	struct order *order; /* NULL: nobody waits any more */
	enum tls_key_type type;
	struct tls_key *key;
	enum err err;
};

static void make_key(void *arg)
{
	struct keygen *job = arg;
	job->err = tls_key_generate(job->type, &job->key);
}

static void on_key(void *arg)
{
	struct keygen *job = arg;
	struct order *o = job->order;
	if (o == NULL) {
		tls_key_free(job->key);
		free(job);
		return;
	}
	o->keygen = NULL;
	o->key = job->key;
	if (job->err != ERR_OK)
		failure_set(&o->failure, FAILURE_NETWORK, job->err, "the certificate's key: %s",
			    err_text(job->err));
	free(job);
	order_run(o);
}

static enum err start_keygen(struct order *o)
{
	struct keygen *job = calloc(1, sizeof(*job));
	if (job == NULL)
		return ERR_NOMEM;
	*job = (struct keygen){ .order = o, .type = o->cert->key_type };
	enum err e = loop_offload(o->acme->loop, make_key, on_key, job);
	if (e == ERR_OK)
		o->keygen = job;
	else
		free(job);
	return e;
}

enum err order_need_key(struct order *o)
{
	bool is_quick = o->cert->key_type == TLS_KEY_P256 || o->cert->key_type == TLS_KEY_P384;
	enum err e = ERR_OK;
	if (o->key == NULL && o->failure.err != ERR_OK)
		return o->failure.err;
	if (o->key == NULL && !is_quick) {
		e = o->keygen != NULL ? ERR_OK : start_keygen(o);
		return e == ERR_OK ? ERR_BUSY : e;
	}
	if (o->key == NULL)
		e = tls_key_generate(o->cert->key_type, &o->key);
	if (e == ERR_OK && o->key_pem.data == NULL)
		e = tls_key_to_pem(o->key, &o->key_pem);
	return e;
}

void order_leave_key(struct order *o)
{
	if (o->keygen != NULL)
		o->keygen->order = NULL;
	o->keygen = NULL;
}
