#pragma once
/* limit: the process's tables, shared by the files of this room. */
#include <pthread.h>
#include <stdatomic.h>

#include "smartproxy/limit.h"
#include "smartproxy/list.h"

#define SHARD_CNT       256
#define REMEMBERED_MAX  1024 /* addresses of one shard that are kept for their rate alone */
#define COUNTER_BUCKETS 1024
#define CHUNK_CNT       64 /* entries that are allocated at once */

struct address_key { /* masked; IPv4 as its mapped IPv6 address */
	uint8_t bytes[16];
	uint8_t prefix; /* so that a change of the setting mixes nothing */
};
struct entry {
	struct entry *next; /* of its bucket, or of the free ones */
	struct list idle;   /* linked while cnt is 0: oldest first */
	struct address_key key;
	uint32_t cnt;   /* connections open */
	int64_t due_us; /* of the rate: when the next one would come if they came evenly */
};
struct chunk {
	struct chunk *next;
	struct entry entries[CHUNK_CNT];
};
struct shard {
	_Alignas(64) pthread_mutex_t lock;
	struct entry **buckets; /* a power of two */
	uint32_t bucket_cnt, entry_cnt, idle_cnt;
	struct list idle;
	struct entry *free_entries;
	struct chunk *chunks;
};
struct limit_counter {
	struct limit_counter *next;
	uint32_t ref_cnt; /* held by: generations; control thread */
	_Alignas(64) _Atomic uint32_t cnt;
	char name[];
};
struct limits {
	_Alignas(64) _Atomic uint32_t connection_cnt;
	struct shard shards[SHARD_CNT];
	/* control */
	struct limit_counter *counters[COUNTER_BUCKETS];
	uint32_t orphan_cnt; /* counters that connections alone keep */
};

enum err addresses_init(struct limits *limits) SP_MUST_USE;
void addresses_fini(struct limits *limits);
void counters_fini(struct limits *limits);
