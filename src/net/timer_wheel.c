#include "timer_wheel.h"

#include "smartproxy/assert.h"

#define DIGIT_MASK (WHEEL_SLOTS - 1)
#define LAST_MS    ((INT64_C(1) << (WHEEL_DIGIT_BITS * WHEEL_LEVELS)) - 1)

void wheel_init(struct timer_wheel *wheel, int64_t now_ms)
{
	SP_ASSERT(now_ms >= 0 && now_ms < LAST_MS);
	wheel->base_ms = wheel->now_ms = now_ms;
	for (int level = 0; level < WHEEL_LEVELS; level++) {
		wheel->filled[level] = 0;
		for (int digit = 0; digit < WHEEL_SLOTS; digit++)
			list_init(&wheel->slots[level][digit]);
	}
}

/* slot_ms is base_ms or later. */
static void place(struct timer_wheel *wheel, struct timer *timer, int64_t slot_ms)
{
	uint64_t differs = (uint64_t)(slot_ms ^ wheel->base_ms);
	int level = differs == 0 ? 0 : (63 - __builtin_clzll(differs)) / WHEEL_DIGIT_BITS;
	int digit = (int)(slot_ms >> (level * WHEEL_DIGIT_BITS)) & DIGIT_MASK;
	timer->slot_ms = slot_ms;
	list_append(&wheel->slots[level][digit], &timer->link);
	wheel->filled[level] |= UINT64_C(1) << digit;
}

static void unlink_timer(struct timer_wheel *wheel, struct timer *timer)
{
	struct list *head = timer->link.next;
	bool is_alone = head == timer->link.prev;
	list_remove(&timer->link);
	if (!is_alone)
		return;
	ptrdiff_t ix = head - &wheel->slots[0][0];
	SP_ASSERT(ix >= 0 && ix < (ptrdiff_t)WHEEL_LEVELS * WHEEL_SLOTS);
	wheel->filled[ix / WHEEL_SLOTS] &= ~(UINT64_C(1) << (ix % WHEEL_SLOTS));
}

void wheel_arm(struct timer_wheel *wheel, struct timer *timer, int64_t due_ms)
{
	if (due_ms < 1) /* 0 means not armed */
		due_ms = 1;
	/* What is due already comes with the next advance, so a callback cannot keep this one
	 * going. */
	int64_t slot_ms = due_ms > wheel->now_ms ? due_ms : wheel->now_ms + 1;
	if (slot_ms > LAST_MS)
		slot_ms = LAST_MS;
	bool is_linked = timer->due_ms != 0;
	timer->due_ms = due_ms;
	if (is_linked && timer->slot_ms <= slot_ms)
		return;
	if (is_linked)
		unlink_timer(wheel, timer);
	place(wheel, timer, slot_ms);
}

void wheel_disarm(struct timer_wheel *wheel, struct timer *timer)
{
	if (timer->due_ms == 0)
		return;
	timer->due_ms = 0;
	unlink_timer(wheel, timer);
}

static int find_level(const struct timer_wheel *wheel)
{
	for (int level = 0; level < WHEEL_LEVELS; level++) {
		if (wheel->filled[level] != 0)
			return level;
	}
	return -1;
}

static int64_t find_slot_ms(const struct timer_wheel *wheel, int level)
{
	int shift = level * WHEEL_DIGIT_BITS;
	int64_t digit = __builtin_ctzll(wheel->filled[level]);
	return (wheel->base_ms >> (shift + WHEEL_DIGIT_BITS) << WHEEL_DIGIT_BITS | digit) << shift;
}

int64_t wheel_next_ms(const struct timer_wheel *wheel)
{
	int level = find_level(wheel);
	return level < 0 ? -1 : find_slot_ms(wheel, level);
}

/* Fires or moves the first timer of a slot whose time has come. */
static void serve_first(struct timer_wheel *wheel, struct list *slot)
{
	struct timer *timer = SP_CONTAINER_OF(slot->next, struct timer, link);
	/* due_ms is later when re-armed, slot_ms is later when it was due already. */
	int64_t at_ms = timer->due_ms > timer->slot_ms ? timer->due_ms : timer->slot_ms;
	if (at_ms > LAST_MS)
		at_ms = LAST_MS;
	unlink_timer(wheel, timer);
	if (at_ms > wheel->base_ms) {
		place(wheel, timer, at_ms);
		return;
	}
	timer->due_ms = 0;
	timer->on_due(timer);
}

void wheel_advance(struct timer_wheel *wheel, int64_t now_ms)
{
	SP_ASSERT(now_ms >= wheel->now_ms && now_ms < LAST_MS);
	wheel->now_ms = now_ms;
	for (;;) {
		int level = find_level(wheel);
		if (level < 0)
			break;
		int64_t slot_ms = find_slot_ms(wheel, level);
		if (slot_ms > now_ms)
			break;
		wheel->base_ms = slot_ms;
		struct list *slot = &wheel->slots[level][__builtin_ctzll(wheel->filled[level])];
		while (!list_is_empty(slot))
			serve_first(wheel, slot);
	}
	wheel->base_ms = now_ms;
}
