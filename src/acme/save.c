/* Certificates go to the disk on a helper thread: half a dozen syncs each, which must not hold up the control loop. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "manager.h"
#include "order.h"
#include "smartproxy/clock.h"
#include "smartproxy/log.h"

#define SAVE_RETRY_MS 10000

struct save { /* owns copies of all that it needs: certificate and manager may go meanwhile */
	struct cert *cert;  /* NULL: nobody waits any more */
	struct store store; /* path and certificates_fd only */
	char name[STORE_NAME_MAX];
	char *chain, *key;
	struct store_meta meta;
	enum err err;
	struct text why;
};

static void wipe_string(char **s)
{
	if (*s != NULL)
		explicit_bzero(*s, strlen(*s));
	free(*s);
	*s = NULL;
}

static void free_save(struct save *save)
{
	if (save->store.certificates_fd >= 0)
		close(save->store.certificates_fd);
	free(save->store.path);
	free(save->chain);
	wipe_string(&save->key);
	store_meta_fini(&save->meta);
	text_fini(&save->why);
	free(save);
}

static char *copy(const char *s)
{
	return s != NULL ? strdup(s) : NULL;
}

static struct save *new_save(struct cert *cert, const char *chain, const char *key)
{
	struct save *save = calloc(1, sizeof(*save));
	if (save == NULL)
		return NULL;
	save->cert = cert;
	save->store.certificates_fd = fcntl(cert->acme->store.certificates_fd, F_DUPFD_CLOEXEC, 0);
	save->store.path = strdup(cert->acme->store.path);
	text_format(save->name, sizeof(save->name), "%s", cert->store_name);
	save->chain = strdup(chain);
	save->key = strdup(key);
	save->meta = (struct store_meta){ copy(cert->directory), copy(cert->order_url) };
	if (save->store.certificates_fd >= 0 && save->store.path != NULL && save->chain != NULL &&
	    save->key != NULL)
		return save;
	free_save(save);
	return NULL;
}

static void write_pair(void *arg)
{
	struct save *save = arg;
	save->err = store_save_cert(&save->store, save->name, save->chain, save->key, &save->meta,
				    &save->why);
}

void cert_forget_unsaved(struct cert *cert)
{
	free(cert->unsaved_chain);
	cert->unsaved_chain = NULL;
	wipe_string(&cert->unsaved_key);
}

/* Takes chain and key over from save. */
static void keep_unsaved(struct cert *cert, struct save *save)
{
	if (cert->unsaved_chain == NULL)
		log_error("acme",
			  "the certificate is served from memory and will be saved when that is "
			  "possible again: %s name=%s",
			  save->why.data != NULL ? save->why.data : err_text(save->err),
			  cert->names[0]);
	cert_forget_unsaved(cert);
	cert->unsaved_chain = save->chain;
	cert->unsaved_key = save->key;
	save->chain = save->key = NULL;
	cert->save_at_boot_ms = clock_boot_ms() + SAVE_RETRY_MS;
}

static void note_saved(struct cert *cert)
{
	if (cert->unsaved_chain == NULL)
		return;
	log_info("acme", "the certificate is saved now name=%s", cert->names[0]);
	cert_forget_unsaved(cert);
	if (cert->order == NULL)
		journal_drop(&cert->acme->store, cert->store_name);
}

static void on_written(void *arg)
{
	struct save *save = arg;
	struct cert *cert = save->cert;
	if (cert == NULL) {
		free_save(save);
		return;
	}
	cert->save = NULL;
	if (save->err == ERR_OK)
		note_saved(cert);
	else
		keep_unsaved(cert, save);
	free_save(save);
	if (cert->order != NULL && cert->order->state == ORDER_INSTALL)
		order_run(cert->order);
	else
		manager_pump(cert->acme);
}

bool cert_start_save(struct cert *cert, const char *chain, const char *key)
{
	struct save *save = new_save(cert, chain, key);
	if (save == NULL)
		return false;
	cert->save = save;
	if (loop_offload(cert->acme->loop, write_pair, on_written, save) == ERR_OK)
		return true;
	cert->save = NULL;
	free_save(save);
	return false;
}

void cert_leave_save(struct cert *cert)
{
	if (cert->save != NULL)
		cert->save->cert = NULL;
	cert->save = NULL;
}

void cert_retry_save(struct cert *cert)
{
	if (cert->unsaved_chain == NULL || cert->save != NULL ||
	    clock_boot_ms() < cert->save_at_boot_ms)
		return;
	cert->save_at_boot_ms = clock_boot_ms() + SAVE_RETRY_MS;
	(void)cert_start_save(cert, cert->unsaved_chain, cert->unsaved_key);
}
