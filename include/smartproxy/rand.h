#pragma once
/* base: random numbers. Threads: any. */
#include <stddef.h>
#include <stdint.h>

/* Fills from the kernel; never fails (aborts if the kernel has none). For keys, tokens, seeds. */
void rand_bytes(void *dst, size_t len);
/* Uniform in [0, bound); bound 0 gives 0. For jitter; not for secrets. */
uint32_t rand_below(uint32_t bound);
/* value with +-percent jitter. */
int64_t rand_jitter(int64_t value, unsigned percent);
/* SipHash-2-4 of data under a key drawn once per process: for tables whose keys come from a
 * network. */
uint64_t rand_hash(const void *data, size_t len);
