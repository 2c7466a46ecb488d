#pragma once
/* net, private: a hierarchical timer wheel of 1 ms. Threads: its loop's own.
 *
 * A timer at level L shares all digits (6 bits each) above L with base_ms and has a larger digit at
 * L, so the lowest level that holds anything holds the earliest timer. The bit of a slot is set
 * exactly while the slot is not empty. */
#include <stdint.h>

#include "smartproxy/loop.h"

#define WHEEL_DIGIT_BITS 6
#define WHEEL_SLOTS      (1 << WHEEL_DIGIT_BITS)
#define WHEEL_LEVELS     7 /* 42 bits: 139 years */

struct timer_wheel {
	int64_t base_ms; /* no timer is linked at or before it, except in wheel_advance */
	int64_t now_ms;  /* end of the advance under way or of the last one */
	uint64_t filled[WHEEL_LEVELS];
	struct list slots[WHEEL_LEVELS][WHEEL_SLOTS];
};

void wheel_init(struct timer_wheel *wheel, int64_t now_ms);
void wheel_arm(struct timer_wheel *wheel, struct timer *timer, int64_t due_ms);
void wheel_disarm(struct timer_wheel *wheel, struct timer *timer);
/* Calls on_due of what is due at now_ms, in order of due_ms. now_ms never goes back. */
void wheel_advance(struct timer_wheel *wheel, int64_t now_ms);
/* When wheel_advance has something to do next (possibly only to move timers down); -1: nothing is
 * armed. */
int64_t wheel_next_ms(const struct timer_wheel *wheel);
