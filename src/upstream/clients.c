/* TLS clients that targets share: one for equal settings, however many targets have them. Control thread. */
#include <stdlib.h>
#include <string.h>

#include "pool.h"
#include "smartproxy/fault.h"

struct upstream_client {
	struct list link;
	uint32_t ref_cnt; /* held by: upstreams, health checks */
	uint64_t round;   /* of upstreams_configure in which its files were read */
	struct tls_client *tls;
	struct tls_client_settings settings; /* strings are copies */
};

static bool is_same(const struct tls_client_settings *a, const struct tls_client_settings *b)
{
	return a->wants_verify == b->wants_verify && text_is_equal(a->ca_file, b->ca_file) &&
	       text_is_equal(a->chain_file, b->chain_file) &&
	       text_is_equal(a->key_file, b->key_file);
}

static void free_client(struct upstream_client *client)
{
	if (client == NULL)
		return;
	tls_client_free(client->tls);
	free((char *)client->settings.ca_file);
	free((char *)client->settings.chain_file);
	free((char *)client->settings.key_file);
	free(client);
}

static bool copy_text(const char *src, const char **ret_copy)
{
	if (src != NULL)
		*ret_copy = strdup(src);
	return src == NULL || *ret_copy != NULL;
}

/* Reads the files. */
static enum err make(const struct upstreams *us, const struct tls_client_settings *settings,
		     struct upstream_client **ret_client, struct text *reterr) SP_ON_CONTROL;
static enum err make(const struct upstreams *us, const struct tls_client_settings *settings,
		     struct upstream_client **ret_client, struct text *reterr)
{
	struct upstream_client *client =
		fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*client));
	enum err e = ERR_NOMEM;
	if (client == NULL)
		return e;
	list_init(&client->link);
	client->settings.wants_verify = settings->wants_verify;
	if (!copy_text(settings->ca_file, &client->settings.ca_file) ||
	    !copy_text(settings->chain_file, &client->settings.chain_file) ||
	    !copy_text(settings->key_file, &client->settings.key_file))
		goto out;
	/* The last context is for the checks of the control thread. */
	e = tls_client_new(settings, us->worker_cnt + 1, &client->tls, reterr);
	if (e != ERR_OK)
		goto out;
	*ret_client = client;
	return ERR_OK;
out:
	free_client(client);
	return e;
}

enum err client_get(struct upstreams *us, const struct config_upstream_tls *tls,
		    struct upstream_client **ret_client, struct text *reterr)
{
	struct tls_client_settings settings = { 0 };
	if (tls != NULL)
		settings = (struct tls_client_settings){ .wants_verify = tls->wants_verify,
							 .ca_file = tls->ca_file,
							 .chain_file = tls->chain_file,
							 .key_file = tls->key_file };
	struct upstream_client *found = NULL;
	bool has_files = settings.wants_verify || settings.chain_file != NULL;
	LIST_FOREACH(pos, &us->clients)
	{
		struct upstream_client *client = SP_CONTAINER_OF(pos, struct upstream_client, link);
		if (!is_same(&client->settings, &settings))
			continue;
		found = client;
		if (client->round == us->client_round || !has_files)
			goto out;
		break; /* the newest of these settings comes first */
	}
	struct upstream_client *client = NULL;
	enum err e = make(us, &settings, &client, reterr);
	if (e != ERR_OK)
		return e;
	if (found != NULL &&
	    strcmp(tls_client_identity(found->tls), tls_client_identity(client->tls)) == 0) {
		free_client(client);
	} else {
		found = client;
		list_prepend(&us->clients, &client->link);
	}
	found->round = us->client_round;
out:
	found->ref_cnt++;
	*ret_client = found;
	return ERR_OK;
}

void client_put(struct upstream_client *client)
{
	if (client == NULL || --client->ref_cnt > 0)
		return;
	list_remove(&client->link);
	free_client(client);
}

struct tls_client *client_tls(const struct upstream_client *client)
{
	return client->tls;
}
