#pragma once
/* base: clocks. Threads: any. A worker reads the clock once a loop turn (struct loop holds the
 * value). */
#include <stddef.h>
#include <stdint.h>

int64_t clock_now_ms(void); /* CLOCK_MONOTONIC */
int64_t clock_now_us(void); /* the same */
int64_t clock_boot_ms(
	void); /* CLOCK_BOOTTIME: goes on while the machine sleeps; for waits of hours */
int64_t clock_unix_s(void);
int64_t clock_unix_ms(void);
/* "2026-11-23T03:32:54Z"; dst holds 21 bytes or more. */
const char *clock_format_utc(char *dst, size_t cap, int64_t unix_s);
