#pragma once
/* base: memory of things that come and go often. Threads: any. Lifetime: free() frees it. */
#include <stdlib.h>
#include <string.h>

/* Zeroed, or NULL. As calloc, which in glibc takes nothing from the thread's cache that free() fills. */
static inline void *alloc_zeroed(size_t size)
{
	void *data = malloc(size);
	__asm__("" : "+r"(data)); /* else the compiler makes a calloc of it */
	return data == NULL ? NULL : memset(data, 0, size);
}
