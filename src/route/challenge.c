#include "smartproxy/challenge.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/rand.h"

#define BUCKET_CNT 1024 /* orders at once are few; a chain stays short */

struct entry {
	struct entry *next; /* RCU */
	struct rcu_head rcu;
	uint64_t hash;
	_Atomic uint32_t served_cnt; /* written by workers, relaxed; read by control */
	uint16_t identifier_len, token_len, text_len;
	char bytes[]; /* identifier, token, key authorization */
};

struct challenge_table {
	struct entry *buckets[BUCKET_CNT]; /* RCU; written by control */
	size_t cnt;
	struct {
		/* Guards both, and the call itself: after challenge_on_served the old one is not called
		 * any more. Answers are rare. */
		pthread_mutex_t lock;
		void (*notify)(void *arg);
		void *arg;
	} shared;
};

enum err challenge_table_new(struct challenge_table **ret_table)
{
	struct challenge_table *table = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*table));
	if (table == NULL)
		return ERR_NOMEM;
	SP_ASSERT(pthread_mutex_init(&table->shared.lock, NULL) == 0);
	*ret_table = table;
	return ERR_OK;
}

void challenge_table_free(struct challenge_table *table)
{
	if (table == NULL)
		return;
	for (size_t i = 0; i < BUCKET_CNT; i++) {
		struct entry *next;
		for (struct entry *e = table->buckets[i]; e != NULL; e = next) {
			next = e->next;
			free(e);
		}
	}
	(void)pthread_mutex_destroy(&table->shared.lock);
	free(table);
}

/* The link that points to the token's entry, or to NULL at the end of its chain. Control thread. */
static struct entry **find_link(struct challenge_table *table, const char *token, size_t token_len)
{
	uint64_t hash = rand_hash(token, token_len);
	struct entry **link = &table->buckets[hash % BUCKET_CNT];
	for (; *link != NULL; link = &(*link)->next) {
		const struct entry *e = *link;
		if (e->hash == hash && e->token_len == token_len &&
		    memcmp(e->bytes + e->identifier_len, token, token_len) == 0)
			break;
	}
	return link;
}

enum err challenge_add(struct challenge_table *table, const char *identifier, const char *token,
		       const char *key_authorization)
{
	size_t identifier_len = strlen(identifier);
	size_t token_len = strlen(token);
	size_t text_len = strlen(key_authorization);
	if (identifier_len > 255 || token_len == 0 || token_len > CHALLENGE_TOKEN_MAX ||
	    text_len >= CHALLENGE_TEXT_MAX)
		return ERR_INVALID;
	struct entry **link = find_link(table, token, token_len);
	if (*link != NULL)
		return ERR_EXISTS;
	size_t bytes = sizeof(struct entry) + identifier_len + token_len + text_len;
	struct entry *e = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, bytes);
	if (e == NULL)
		return ERR_NOMEM;
	e->hash = rand_hash(token, token_len);
	e->identifier_len = (uint16_t)identifier_len;
	e->token_len = (uint16_t)token_len;
	e->text_len = (uint16_t)text_len;
	memcpy(e->bytes, identifier, identifier_len);
	memcpy(e->bytes + identifier_len, token, token_len);
	memcpy(e->bytes + identifier_len + token_len, key_authorization, text_len);
	(void)sp_rcu_swap(link, e);
	table->cnt++;
	return ERR_OK;
}

static void destroy(struct rcu_head *head)
{
	SP_TSAN_ACQUIRE();
	free(caa_container_of(head, struct entry, rcu));
}

enum err challenge_remove(struct challenge_table *table, const char *token)
{
	struct entry **link = find_link(table, token, strlen(token));
	struct entry *e = *link;
	if (e == NULL)
		return ERR_NOENT;
	(void)sp_rcu_swap(link, e->next);
	table->cnt--;
	sp_rcu_retire(&e->rcu, destroy);
	return ERR_OK;
}

size_t challenge_cnt(const struct challenge_table *table)
{
	return table->cnt;
}

uint32_t challenge_served(const struct challenge_table *table, const char *token)
{
	uint64_t hash = rand_hash(token, strlen(token));
	for (const struct entry *e = table->buckets[hash % BUCKET_CNT]; e != NULL; e = e->next) {
		if (e->hash == hash && e->token_len == strlen(token) &&
		    memcmp(e->bytes + e->identifier_len, token, e->token_len) == 0)
			return atomic_load_explicit(&e->served_cnt, memory_order_relaxed);
	}
	return 0;
}

void challenge_on_served(struct challenge_table *table, void (*notify)(void *arg), void *arg)
{
	SP_ASSERT(pthread_mutex_lock(&table->shared.lock) == 0);
	table->shared.notify = notify;
	table->shared.arg = arg;
	SP_ASSERT(pthread_mutex_unlock(&table->shared.lock) == 0);
}

/* NOLINTNEXTLINE(readability-function-size): two byte strings in, one out */
bool challenge_find(struct challenge_table *table, const char *host, size_t host_len,
		    const char *token, size_t token_len, char *dst, size_t *ret_len)
{
	if (token_len == 0 || token_len > CHALLENGE_TOKEN_MAX)
		return false;
	uint64_t hash = rand_hash(token, token_len);
	for (struct entry *e = sp_rcu_load(&table->buckets[hash % BUCKET_CNT]); e != NULL;
	     e = sp_rcu_load(&e->next)) {
		if (e->hash != hash || e->token_len != token_len || e->identifier_len != host_len ||
		    memcmp(e->bytes + e->identifier_len, token, token_len) != 0 ||
		    memcmp(e->bytes, host, host_len) != 0)
			continue;
		memcpy(dst, e->bytes + e->identifier_len + e->token_len, e->text_len);
		*ret_len = e->text_len;
		atomic_fetch_add_explicit(&e->served_cnt, 1, memory_order_relaxed);
		return true;
	}
	return false;
}

void challenge_notify(struct challenge_table *table)
{
	SP_ASSERT(pthread_mutex_lock(&table->shared.lock) == 0);
	if (table->shared.notify != NULL)
		table->shared.notify(table->shared.arg);
	SP_ASSERT(pthread_mutex_unlock(&table->shared.lock) == 0);
}
