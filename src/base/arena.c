#include "smartproxy/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"

struct arena_block {
	struct arena_block *next;
	size_t bytes; /* with this header */
};

#define ALIGN          16
#define HEADER_BYTES   ((sizeof(struct arena_block) + ALIGN - 1) & ~(size_t)(ALIGN - 1))
#define GROWTH_MAX_LOG 8 /* heap arenas double their blocks up to 4 KiB << 8 */

void arena_init(struct arena *a, size_t cap_bytes, struct arena_cache *cache)
{
	*a = (struct arena){ .cap_bytes = cap_bytes, .cache = cache };
}

static struct arena_block *take_cached(struct arena_cache *cache)
{
	if (cache == NULL || cache->free_list == NULL)
		return NULL;
	struct arena_block *block = cache->free_list;
	cache->free_list = block->next;
	cache->cnt--;
	return block;
}

static void give_block(struct arena *a, struct arena_block *block)
{
	struct arena_cache *cache = a->cache;
	if (cache != NULL && block->bytes == ARENA_BLOCK_BYTES && cache->cnt < ARENA_CACHE_MAX) {
		block->next = cache->free_list;
		cache->free_list = block;
		cache->cnt++;
		return;
	}
	free(block);
}

void arena_fini(struct arena *a)
{
	struct arena_block *next;
	for (struct arena_block *block = a->blocks; block != NULL; block = next) {
		next = block->next;
		give_block(a, block);
	}
	arena_init(a, a->cap_bytes, a->cache);
}

/* Blocks of a heap arena double, so that a configuration of 100,000 routes takes few of them. */
static size_t block_bytes(const struct arena *a, size_t wanted)
{
	size_t bytes = ARENA_BLOCK_BYTES;
	if (a->cache == NULL) {
		while (bytes < a->total_bytes && bytes < (size_t)ARENA_BLOCK_BYTES
								 << GROWTH_MAX_LOG)
			bytes *= 2;
	}
	return bytes >= wanted ? bytes : wanted;
}

static bool add_block(struct arena *a, size_t payload_bytes)
{
	if (payload_bytes > a->cap_bytes)
		return false;
	size_t bytes = block_bytes(a, payload_bytes + HEADER_BYTES);
	if (bytes > a->cap_bytes - a->total_bytes)
		bytes = payload_bytes + HEADER_BYTES;
	if (bytes > a->cap_bytes - a->total_bytes)
		return false;
	struct arena_block *block = bytes == ARENA_BLOCK_BYTES ? take_cached(a->cache) : NULL;
	if (block == NULL)
		block = fault_hits(FAULT_MALLOC) ? NULL : malloc(bytes);
	if (block == NULL)
		return false;
	block->bytes = bytes;
	block->next = a->blocks;
	a->blocks = block;
	a->total_bytes += bytes;
	a->at = (char *)block + HEADER_BYTES;
	a->end = (char *)block + bytes;
	return true;
}

void *arena_alloc(struct arena *a, size_t bytes)
{
	if (bytes > SIZE_MAX / 2)
		return NULL;
	bytes = (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1);
	if ((size_t)(a->end - a->at) < bytes || a->at == NULL) {
		if (!add_block(a, bytes))
			return NULL;
	}
	void *p = a->at;
	a->at += bytes;
	return p;
}

void *arena_calloc(struct arena *a, size_t cnt, size_t bytes)
{
	size_t total;
	if (__builtin_mul_overflow(cnt, bytes, &total))
		return NULL;
	void *p = arena_alloc(a, total);
	if (p != NULL)
		memset(p, 0, total);
	return p;
}

char *arena_strndup(struct arena *a, const char *s, size_t len)
{
	char *copy = arena_alloc(a, len + 1);
	if (copy == NULL)
		return NULL;
	memcpy(copy, s, len);
	copy[len] = '\0';
	return copy;
}

char *arena_strdup(struct arena *a, const char *s)
{
	return arena_strndup(a, s, strlen(s));
}

char *arena_printf(struct arena *a, const char *fmt, ...)
{
	va_list args;
	va_start(args, fmt);
	int len = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	char *text = len < 0 ? NULL : arena_alloc(a, (size_t)len + 1);
	if (text == NULL)
		return NULL;
	va_start(args, fmt);
	(void)vsnprintf(text, (size_t)len + 1, fmt, args);
	va_end(args);
	return text;
}

void arena_cache_fini(struct arena_cache *cache)
{
	struct arena_block *block;
	while ((block = take_cached(cache)) != NULL)
		free(block);
}
