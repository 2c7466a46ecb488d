/* Connections and their rate by client address: a hash table in shards, each with a lock of its own. */
#include <stdlib.h>
#include <string.h>

#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/rand.h"
#include "table.h"

#define BUCKETS_MIN 64

enum err addresses_init(struct limits *limits)
{
	for (size_t i = 0; i < SHARD_CNT; i++) {
		struct shard *shard = &limits->shards[i];
		list_init(&shard->idle);
		shard->bucket_cnt = BUCKETS_MIN;
		shard->buckets = fault_hits(FAULT_MALLOC)
					 ? NULL
					 : calloc(BUCKETS_MIN, sizeof(struct entry *));
		(void)pthread_mutex_init(&shard->lock, NULL);
		if (shard->buckets == NULL) {
			addresses_fini(limits);
			return ERR_NOMEM;
		}
	}
	return ERR_OK;
}

/* A shard that was never reached has no buckets and no lock to end. */
void addresses_fini(struct limits *limits)
{
	for (size_t i = 0; i < SHARD_CNT; i++) {
		struct shard *shard = &limits->shards[i];
		if (shard->bucket_cnt == 0)
			continue;
		while (shard->chunks != NULL) {
			struct chunk *chunk = shard->chunks;
			shard->chunks = chunk->next;
			free(chunk);
		}
		free(shard->buckets);
		(void)pthread_mutex_destroy(&shard->lock);
	}
}

static void make_key(struct address_key *key, const struct addr *client, unsigned ipv6_prefix)
{
	*key = (struct address_key){ .prefix = 128 };
	if (client->sa.sa_family == AF_INET) {
		key->bytes[10] = key->bytes[11] = 0xff;
		memcpy(key->bytes + 12, &client->v4.sin_addr, 4);
		return;
	}
	memcpy(key->bytes, &client->v6.sin6_addr, 16);
	key->prefix = (uint8_t)(ipv6_prefix == 0 || ipv6_prefix > 128 ? 128 : ipv6_prefix);
	for (unsigned bit = key->prefix; bit < 128; bit++)
		key->bytes[bit / 8] &= (uint8_t) ~(0x80u >> bit % 8);
}

static struct entry **bucket_of(struct shard *shard, uint64_t hash)
{
	return &shard->buckets[hash / SHARD_CNT & (shard->bucket_cnt - 1)];
}

static struct entry *find(struct shard *shard, uint64_t hash, const struct address_key *key)
{
	for (struct entry *e = *bucket_of(shard, hash); e != NULL; e = e->next) {
		if (memcmp(&e->key, key, sizeof(*key)) == 0)
			return e;
	}
	return NULL;
}

/* When there is no memory the chains just grow longer. */
static void grow(struct shard *shard)
{
	uint32_t old_cnt = shard->bucket_cnt;
	struct entry **old = shard->buckets;
	if (shard->entry_cnt <= old_cnt)
		return;
	struct entry **buckets = calloc((size_t)old_cnt * 2, sizeof(struct entry *));
	if (buckets == NULL)
		return;
	shard->buckets = buckets;
	shard->bucket_cnt = old_cnt * 2;
	for (uint32_t i = 0; i < old_cnt; i++) {
		while (old[i] != NULL) {
			struct entry *e = old[i];
			old[i] = e->next;
			struct entry **bucket =
				bucket_of(shard, rand_hash(&e->key, sizeof(e->key)));
			e->next = *bucket;
			*bucket = e;
		}
	}
	free(old);
}

static void forget(struct shard *shard, struct entry *entry)
{
	struct entry **link = bucket_of(shard, rand_hash(&entry->key, sizeof(entry->key)));
	while (*link != entry)
		link = &(*link)->next;
	*link = entry->next;
	if (!list_is_empty(&entry->idle)) {
		list_remove(&entry->idle);
		shard->idle_cnt--;
	}
	entry->next = shard->free_entries;
	shard->free_entries = entry;
	shard->entry_cnt--;
}

/* Those without a connection whose rate has recovered, and the oldest beyond the bound. */
static void forget_idle(struct shard *shard, int64_t now_us)
{
	for (int i = 0; i < 2 && !list_is_empty(&shard->idle); i++) {
		struct entry *oldest = SP_CONTAINER_OF(shard->idle.next, struct entry, idle);
		if (oldest->due_us > now_us && shard->idle_cnt <= REMEMBERED_MAX)
			return;
		forget(shard, oldest);
	}
}

static struct entry *add(struct shard *shard, uint64_t hash, const struct address_key *key)
{
	if (shard->free_entries == NULL) {
		struct chunk *chunk = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*chunk));
		if (chunk == NULL)
			return NULL;
		chunk->next = shard->chunks;
		shard->chunks = chunk;
		for (size_t i = 0; i < CHUNK_CNT; i++) {
			chunk->entries[i].next = shard->free_entries;
			shard->free_entries = &chunk->entries[i];
		}
	}
	struct entry *entry = shard->free_entries;
	shard->free_entries = entry->next;
	*entry = (struct entry){ .key = *key };
	list_init(&entry->idle);
	shard->entry_cnt++;
	grow(shard);
	struct entry **bucket = bucket_of(shard, hash);
	entry->next = *bucket;
	*bucket = entry;
	return entry;
}

/* A bucket of tokens as one time (GCRA): each connection moves it on by the interval; more than the burst
 * ahead of now is too fast. */
static bool take_rate(struct entry *entry, const struct limit_settings *settings, int64_t now_us)
{
	if (settings->rate_per_ip == 0)
		return true;
	int64_t interval_us = 1000000 / (int64_t)settings->rate_per_ip;
	uint32_t burst =
		settings->burst_per_ip > 0 ? settings->burst_per_ip : settings->rate_per_ip;
	if (interval_us == 0)
		interval_us = 1;
	int64_t due_us = entry->due_us > now_us ? entry->due_us : now_us;
	if (due_us - now_us > interval_us * ((int64_t)burst - 1))
		return false;
	entry->due_us = due_us + interval_us;
	return true;
}

static enum limit_verdict enter(struct shard *shard, struct entry *entry,
				const struct limit_settings *settings, int64_t now_us)
{
	if (settings->per_ip > 0 && entry->cnt >= settings->per_ip)
		return LIMIT_PER_IP;
	if (!take_rate(entry, settings, now_us))
		return LIMIT_RATE;
	if (!list_is_empty(&entry->idle)) {
		list_remove(&entry->idle);
		shard->idle_cnt--;
	}
	entry->cnt++;
	return LIMIT_OK;
}

enum limit_verdict limits_enter_address(struct limits *limits,
					const struct limit_settings *settings,
					const struct addr *client, int64_t now_ms,
					bool *ret_is_counted)
{
	*ret_is_counted = false;
	if (settings->per_ip == 0 && settings->rate_per_ip == 0)
		return LIMIT_OK;
	struct address_key key;
	make_key(&key, client, settings->ipv6_prefix);
	uint64_t hash = rand_hash(&key, sizeof(key));
	struct shard *shard = &limits->shards[hash % SHARD_CNT];
	int64_t now_us = now_ms * 1000;
	enum limit_verdict verdict = LIMIT_NO_MEMORY;
	(void)pthread_mutex_lock(&shard->lock);
	forget_idle(shard, now_us);
	struct entry *entry = find(shard, hash, &key);
	if (entry == NULL)
		entry = add(shard, hash, &key);
	if (entry != NULL)
		verdict = enter(shard, entry, settings, now_us);
	(void)pthread_mutex_unlock(&shard->lock);
	*ret_is_counted = verdict == LIMIT_OK;
	return verdict;
}

void limits_leave_address(struct limits *limits, const struct addr *client, unsigned ipv6_prefix)
{
	struct address_key key;
	make_key(&key, client, ipv6_prefix);
	uint64_t hash = rand_hash(&key, sizeof(key));
	struct shard *shard = &limits->shards[hash % SHARD_CNT];
	(void)pthread_mutex_lock(&shard->lock);
	struct entry *entry = find(shard, hash, &key);
	SP_ASSERT(entry != NULL && entry->cnt > 0);
	if (--entry->cnt == 0 && entry->due_us == 0) {
		forget(shard, entry);
	} else if (entry->cnt == 0) {
		list_append(&shard->idle, &entry->idle);
		shard->idle_cnt++;
		if (shard->idle_cnt > REMEMBERED_MAX)
			forget(shard, SP_CONTAINER_OF(shard->idle.next, struct entry, idle));
	}
	(void)pthread_mutex_unlock(&shard->lock);
}

uint64_t limits_address_cnt(struct limits *limits)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < SHARD_CNT; i++) {
		struct shard *shard = &limits->shards[i];
		(void)pthread_mutex_lock(&shard->lock);
		sum += shard->entry_cnt;
		(void)pthread_mutex_unlock(&shard->lock);
	}
	return sum;
}

uint64_t limits_bound(void)
{
	return (uint64_t)SHARD_CNT * REMEMBERED_MAX;
}
