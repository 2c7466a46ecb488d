#include "smartproxy/buf.h"

#include <stdlib.h>

#include "smartproxy/assert.h"

static const uint32_t class_bytes[2] = { BUF_BYTES, BUF_LARGE_BYTES };

static char *take(struct buf_pool *pool, unsigned class)
{
	char *data = pool->free_list[class];
	if (data != NULL) {
		memcpy(&pool->free_list[class], data, sizeof(void *));
		pool->free_cnt[class]--;
	} else {
		data = malloc(class_bytes[class]);
		if (data == NULL)
			return NULL;
	}
	__atomic_store_n(&pool->used_cnt, pool->used_cnt + 1,
			 __ATOMIC_RELAXED); /* read by the metrics */
	pool->used_large_cnt += class;
	return data;
}

static void give(struct buf_pool *pool, char *data, unsigned class)
{
	SP_ASSERT(pool->used_cnt > 0);
	__atomic_store_n(&pool->used_cnt, pool->used_cnt - 1, __ATOMIC_RELAXED);
	pool->used_large_cnt -= class;
	if (pool->free_cnt[class] >= (class == 0 ? BUF_POOL_KEEP : BUF_POOL_KEEP_LARGE)) {
		free(data);
		return;
	}
	memcpy(data, &pool->free_list[class], sizeof(void *));
	pool->free_list[class] = data;
	pool->free_cnt[class]++;
}

static unsigned class_of(const struct buf *b)
{
	return b->cap == BUF_BYTES ? 0 : 1;
}

bool buf_reserve(struct buf *b, struct buf_pool *pool)
{
	if (b->data == NULL) {
		b->data = take(pool, 0);
		if (b->data == NULL)
			return false;
		b->cap = BUF_BYTES;
		b->start = b->end = 0;
		return true;
	}
	if (b->end < b->cap)
		return true;
	if (b->start == 0)
		return false;
	memmove(b->data, b->data + b->start, b->end - b->start);
	b->end -= b->start;
	b->start = 0;
	return true;
}

bool buf_grow(struct buf *b, struct buf_pool *pool)
{
	if (b->cap == BUF_LARGE_BYTES)
		return true;
	char *data = take(pool, 1);
	if (data == NULL)
		return false;
	uint32_t len = b->end - b->start;
	if (b->data != NULL) {
		memcpy(data, b->data + b->start, len);
		give(pool, b->data, 0);
	}
	*b = (struct buf){ .data = data, .cap = BUF_LARGE_BYTES, .start = 0, .end = len };
	return true;
}

bool buf_reserve_large(struct buf *b, struct buf_pool *pool)
{
	if (b->cap < BUF_LARGE_BYTES && pool->used_large_cnt < BUF_LARGE_LENT_MAX &&
	    buf_grow(b, pool))
		return true;
	return buf_reserve(b, pool);
}

bool buf_append(struct buf *b, const void *data, size_t len)
{
	if (len > buf_space(b))
		return false;
	memcpy(b->data + b->end, data, len);
	b->end += (uint32_t)len;
	return true;
}

void buf_release(struct buf *b, struct buf_pool *pool)
{
	if (b->data != NULL)
		give(pool, b->data, class_of(b));
	*b = (struct buf){ 0 };
}

void buf_pool_fini(struct buf_pool *pool)
{
	for (unsigned class = 0; class < 2; class ++) {
		while (pool->free_cnt[class] > 0) {
			char *data = pool->free_list[class];
			memcpy(&pool->free_list[class], data, sizeof(void *));
			pool->free_cnt[class]--;
			free(data);
		}
	}
}
