#pragma once
/* What the targets share: a check that no build option takes away, and cuts that depend on the
 * input alone. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                        \
	do {                                                                                    \
		if (!(condition)) {                                                             \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			abort();                                                                \
		}                                                                               \
	} while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* A copy in a block of exactly len bytes, so that the sanitizer sees the first byte read beyond it.
 */
static inline char *copy_exactly(const void *data, size_t len)
{
	char *copy = calloc(1, len > 0 ? len : 1);
	CHECK(copy != NULL);
	if (len > 0)
		memcpy(copy, data, len);
	return copy;
}

/* Seeds next_below: FNV-1a over the input. */
static inline uint64_t seed_of(const uint8_t *data, size_t len)
{
	uint64_t hash = 0xcbf29ce484222325;
	for (size_t i = 0; i < len; i++)
		hash = (hash ^ data[i]) * 0x100000001b3;
	return hash | 1;
}

/* xorshift64: 0 to limit - 1. */
static inline size_t next_below(uint64_t *state, size_t limit)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (size_t)(*state % limit);
}
