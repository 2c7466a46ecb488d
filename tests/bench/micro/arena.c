/* The memory of a request: blocks of the worker's cache, given back at its end. */
#include "smartproxy/arena.h"

#include "micro.h"
#include "smartproxy/assert.h"

#define ALLOCS_A_REQUEST 32

static void allocate(void *arg, size_t cnt)
{
	struct arena *a = arg;
	for (size_t i = 0; i < cnt; i++) {
		if (i % ALLOCS_A_REQUEST == 0)
			arena_fini(a);
		void *p = arena_alloc(a, 64);
		SP_ASSERT(p != NULL);
		MICRO_KEEP(p);
	}
}

static void request(void *arg, size_t cnt)
{
	struct arena *a = arg;
	for (size_t i = 0; i < cnt; i++) {
		MICRO_KEEP(arena_alloc(a, 256));
		arena_fini(a);
	}
}

void micro_arena(void)
{
	struct arena_cache cache = { 0 };
	struct arena a;
	arena_init(&a, 1 << 20, &cache);
	micro_time("arena.alloc_64", 0, allocate, &a);
	micro_time("arena.first_alloc_and_reset", 0, request, &a);
	arena_fini(&a);
	arena_cache_fini(&cache);
	arena_init(&a, 1 << 20, NULL);
	micro_time("arena.alloc_64_heap", 0, allocate, &a);
	arena_fini(&a);
}
