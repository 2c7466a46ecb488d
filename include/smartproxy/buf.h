#pragma once
/* base: byte buffer of one direction of one connection, from a per-worker pool.
 *
 * An empty buffer owns no memory: an idle connection has none. Two sizes: BUF_BYTES, and BUF_LARGE_BYTES for a
 * head that does not fit in it and for bodies, as long as few are lent. Threads: one owner at a time, pool per
 * worker.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Multiples of what a record of TLS holds (RFC 8446, 5.1): a full buffer makes full records only. */
#define BUF_BYTES       16384
#define BUF_LARGE_BYTES (80 * 1024)

struct buf_pool {
	void *free_list[2];
	uint32_t free_cnt[2];
	uint32_t used_cnt; /* buffers lent out, both sizes */
	uint32_t used_large_cnt;
};
#define BUF_POOL_KEEP       512
#define BUF_POOL_KEEP_LARGE 64
/* So many buf_reserve_large lends: slow receivers hold no more than these, 20 MiB. */
#define BUF_LARGE_LENT_MAX 256

struct buf {
	char *data; /* NULL: owns nothing */
	uint32_t cap, start, end;
};

static inline size_t buf_len(const struct buf *b)
{
	return b->end - b->start;
}
static inline size_t buf_space(const struct buf *b)
{
	return b->cap - b->end;
}
static inline char *buf_at(const struct buf *b)
{
	return b->data + b->start;
}
static inline char *buf_tail(const struct buf *b)
{
	return b->data + b->end;
}
static inline void buf_consume(struct buf *b, size_t len)
{
	b->start += (uint32_t)len;
	if (b->start == b->end)
		b->start = b->end = 0;
}

/* Makes the buffer own memory with at least one byte of space (moving what is there to the front if
 * needed); false when the pool's allocation failed or the buffer is full. */
bool buf_reserve(struct buf *b, struct buf_pool *pool);
/* As buf_reserve, of BUF_LARGE_BYTES (where the contents move to) while fewer than BUF_LARGE_LENT_MAX are lent. */
bool buf_reserve_large(struct buf *b, struct buf_pool *pool);
/* Moves the contents to a buffer of BUF_LARGE_BYTES; false when memory is out. No-op on one of that
 * size. */
bool buf_grow(struct buf *b, struct buf_pool *pool);
/* Appends if it fits whole; false otherwise. The buffer must own memory. */
bool buf_append(struct buf *b, const void *data, size_t len);
/* Gives memory back to the pool. Contents are lost. Harmless when it owns none. */
void buf_release(struct buf *b, struct buf_pool *pool);
static inline void buf_release_if_empty(struct buf *b, struct buf_pool *pool)
{
	if (b->data != NULL && b->start == b->end)
		buf_release(b, pool);
}
void buf_pool_fini(struct buf_pool *pool);
