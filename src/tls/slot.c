#include <stdlib.h>
#include <string.h>

#include "cert.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"
#include "smartproxy/rand.h"

#define BUCKET_CNT_MIN 64 /* a power of two */

struct tls_slot {
	struct tls_cert *cert SP_RCU_PTR; /* written by control, read by workers */
	uint64_t hash;
	/* control thread only */
	struct tls_slots *owner;
	struct tls_slot *next; /* of its bucket */
	size_t ref_cnt;        /* held by: generations, the acme manager */
	bool is_marked;
	struct rcu_head rcu;
	char identity[];
};

/* Slots by identity. Control thread only; workers reach a slot through their generation. */
struct tls_slots {
	struct tls_slot **buckets;
	size_t bucket_cnt; /* a power of two */
	size_t slot_cnt;
};

enum err tls_slots_new(struct tls_slots **ret_slots)
{
	struct tls_slots *slots = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*slots));
	struct tls_slot **buckets = calloc(BUCKET_CNT_MIN, sizeof(struct tls_slot *));
	if (slots == NULL || buckets == NULL) {
		free(slots);
		free(buckets);
		return ERR_NOMEM;
	}
	slots->buckets = buckets;
	slots->bucket_cnt = BUCKET_CNT_MIN;
	*ret_slots = slots;
	return ERR_OK;
}

void tls_slots_free(struct tls_slots *slots)
{
	if (slots == NULL)
		return;
	if (slots->slot_cnt > 0) {
		/* Their holders would put into freed memory. */
		log_error("tls", "certificate slots are still held at the end slots=%zu",
			  slots->slot_cnt);
		return;
	}
	free(slots->buckets);
	free(slots);
}

static struct tls_slot **find_bucket(const struct tls_slots *slots, uint64_t hash)
{
	return &slots->buckets[hash & (slots->bucket_cnt - 1)];
}

/* Doubles the buckets; without memory the lists only grow longer. */
static void grow_buckets(struct tls_slots *slots)
{
	struct tls_slot **old = slots->buckets;
	size_t old_cnt = slots->bucket_cnt;
	struct tls_slot **buckets = calloc(old_cnt * 2, sizeof(struct tls_slot *));
	if (buckets == NULL)
		return;
	slots->buckets = buckets;
	slots->bucket_cnt = old_cnt * 2;
	for (size_t i = 0; i < old_cnt; i++) {
		struct tls_slot *next = NULL;
		for (struct tls_slot *slot = old[i]; slot != NULL; slot = next) {
			struct tls_slot **at = find_bucket(slots, slot->hash);
			next = slot->next;
			slot->next = *at;
			*at = slot;
		}
	}
	free(old);
}

enum err tls_slot_get(struct tls_slots *slots, const char *identity, struct tls_slot **ret_slot)
{
	size_t len = strlen(identity);
	uint64_t hash = rand_hash(identity, len);
	for (struct tls_slot *slot = *find_bucket(slots, hash); slot != NULL; slot = slot->next) {
		if (slot->hash == hash && strcmp(slot->identity, identity) == 0) {
			slot->ref_cnt++;
			*ret_slot = slot;
			return ERR_OK;
		}
	}
	struct tls_slot *slot =
		fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*slot) + len + 1);
	if (slot == NULL)
		return ERR_NOMEM;
	if (slots->slot_cnt >= slots->bucket_cnt)
		grow_buckets(slots);
	struct tls_slot **at = find_bucket(slots, hash);
	memcpy(slot->identity, identity, len + 1);
	slot->hash = hash;
	slot->owner = slots;
	slot->ref_cnt = 1;
	slot->next = *at;
	*at = slot;
	slots->slot_cnt++;
	*ret_slot = slot;
	return ERR_OK;
}

static void free_slot(struct rcu_head *head)
{
	SP_TSAN_ACQUIRE();
	free(caa_container_of(head, struct tls_slot, rcu));
}

void tls_slot_hold(struct tls_slot *slot)
{
	slot->ref_cnt++;
}

void tls_slot_put(struct tls_slot *slot)
{
	if (slot == NULL || --slot->ref_cnt > 0)
		return;
	struct tls_slot **at = find_bucket(slot->owner, slot->hash);
	while (*at != slot)
		at = &(*at)->next;
	*at = slot->next;
	slot->owner->slot_cnt--;
	tls_slot_install(slot, NULL);
	sp_rcu_retire(&slot->rcu, free_slot);
}

const char *tls_slot_identity(const struct tls_slot *slot)
{
	return slot->identity;
}

uint64_t tls_slot_hash(const struct tls_slot *slot)
{
	return slot->hash;
}

void tls_slot_install(struct tls_slot *slot, struct tls_cert *cert)
{
	struct tls_cert *old = sp_rcu_swap(&slot->cert, cert);
	if (old != NULL)
		tls_cert_retire(old);
}

struct tls_cert *tls_slot_current(const struct tls_slot *slot)
{
	return sp_rcu_load(&slot->cert);
}

bool tls_slot_mark(struct tls_slot *slot, bool is_marked)
{
	bool was_marked = slot->is_marked;
	slot->is_marked = is_marked;
	return was_marked;
}

/* The slot's own reference is dropped a grace period after the swap, so the count is not 0 while a
 * section that saw the pointer is open. */
struct tls_cert *tls_slot_cert_get(const struct tls_slot *slot)
{
	struct tls_cert *cert = sp_rcu_load(&slot->cert);
	if (cert != NULL)
		tls_cert_get(cert);
	return cert;
}
