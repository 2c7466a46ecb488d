#pragma once
/* base: bump allocator with a hard cap, freed whole.
 *
 * Two uses: a generation (configuration, routes) has one arena of the process's heap; an exchange
 * has one whose first block comes from its worker's block cache, so that a request in steady state
 * never calls malloc. Threads: one owner at a time. Lifetime: all pointers die with arena_reset()
 * or arena_fini(). Limits: total_bytes at most cap_bytes; what would pass it returns NULL. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ARENA_BLOCK_BYTES 4096

/* Free blocks of ARENA_BLOCK_BYTES of one worker; zero-initialised is empty. */
struct arena_cache {
	void *free_list;
	uint32_t cnt;
};
#define ARENA_CACHE_MAX 1024

struct arena_block;
struct arena {
	struct arena_block *blocks; /* newest first */
	char *at, *end;             /* free part of the newest block */
	size_t total_bytes, cap_bytes;
	struct arena_cache *cache; /* NULL: heap only */
};

void arena_init(struct arena *a, size_t cap_bytes, struct arena_cache *cache);
/* Frees every block; the arena can be used again as after arena_init(). Harmless on a zeroed arena.
 */
void arena_fini(struct arena *a);
/* Aligned to 16 bytes, not cleared; NULL when memory or the cap is out. Zero bytes give a valid
 * pointer. */
void *arena_alloc(struct arena *a, size_t bytes);
/* As arena_alloc, cleared; NULL also when cnt * bytes overflows. */
void *arena_calloc(struct arena *a, size_t cnt, size_t bytes);
/* Copies len bytes and adds a NUL. */
char *arena_strndup(struct arena *a, const char *s, size_t len);
char *arena_strdup(struct arena *a, const char *s);
char *arena_printf(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void arena_cache_fini(struct arena_cache *cache);
