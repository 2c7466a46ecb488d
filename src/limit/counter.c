/* Counters of routes, by name. */
#include <stdlib.h>
#include <string.h>

#include "smartproxy/assert.h"
#include "smartproxy/fault.h"
#include "smartproxy/rand.h"
#include "table.h"

static struct limit_counter **bucket_of(struct limits *limits, const char *name)
{
	return &limits->counters[rand_hash(name, strlen(name)) % COUNTER_BUCKETS];
}

/* Frees those of one bucket that neither a generation nor a connection holds any more. */
static void sweep(struct limits *limits, struct limit_counter **link)
{
	while (*link != NULL) {
		struct limit_counter *counter = *link;
		if (counter->ref_cnt > 0 ||
		    atomic_load_explicit(&counter->cnt, memory_order_acquire) > 0) {
			link = &counter->next;
			continue;
		}
		*link = counter->next;
		limits->orphan_cnt--;
		free(counter);
	}
}

enum err limit_counter_get(struct limits *limits, const char *name,
			   struct limit_counter **ret_counter)
{
	struct limit_counter **bucket = bucket_of(limits, name);
	for (struct limit_counter *c = *bucket; c != NULL; c = c->next) {
		if (strcmp(c->name, name) != 0)
			continue;
		limits->orphan_cnt -= c->ref_cnt == 0;
		c->ref_cnt++;
		*ret_counter = c;
		return ERR_OK;
	}
	size_t len = strlen(name);
	size_t bytes = (sizeof(struct limit_counter) + len + 1 + 63) & ~(size_t)63;
	struct limit_counter *counter = fault_hits(FAULT_MALLOC) ? NULL : aligned_alloc(64, bytes);
	if (counter == NULL)
		return ERR_NOMEM;
	memset(counter, 0, bytes);
	memcpy(counter->name, name, len);
	counter->ref_cnt = 1;
	counter->next = *bucket;
	*bucket = counter;
	*ret_counter = counter;
	return ERR_OK;
}

void limit_counter_put(struct limits *limits, struct limit_counter *counter)
{
	SP_ASSERT(counter->ref_cnt > 0);
	if (--counter->ref_cnt > 0)
		return;
	/* Connections may hold it still; they enter none any more. */
	limits->orphan_cnt++;
	sweep(limits, bucket_of(limits, counter->name));
	for (size_t i = 0; i < COUNTER_BUCKETS && limits->orphan_cnt > 64; i++)
		sweep(limits, &limits->counters[i]);
}

void counters_fini(struct limits *limits)
{
	for (size_t i = 0; i < COUNTER_BUCKETS; i++) {
		while (limits->counters[i] != NULL) {
			struct limit_counter *counter = limits->counters[i];
			limits->counters[i] = counter->next;
			free(counter);
		}
	}
}

bool limit_counter_enter(struct limit_counter *counter, uint32_t max)
{
	uint32_t cnt = atomic_load_explicit(&counter->cnt, memory_order_relaxed);
	while (cnt < max) {
		if (atomic_compare_exchange_weak_explicit(&counter->cnt, &cnt, cnt + 1,
							  memory_order_relaxed,
							  memory_order_relaxed))
			return true;
	}
	return false;
}

void limit_counter_leave(struct limit_counter *counter)
{
	(void)atomic_fetch_sub_explicit(&counter->cnt, 1, memory_order_release);
}

uint32_t limit_counter_cnt(const struct limit_counter *counter)
{
	return atomic_load_explicit(&counter->cnt, memory_order_relaxed);
}
