#pragma once
/* net: the event loop of one thread: edge-triggered epoll, a timer wheel, an inbox for other
 * threads.
 *
 * Threads: everything on the loop's own thread, except loop_post and loop_stop (any thread).
 * Lifetime: io and timer objects are embedded in their owner, which removes them before it is
 * freed; an object whose io may still have an event pending in this turn is freed through
 * loop_defer. The clock is read once a turn. */
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "smartproxy/err.h"
#include "smartproxy/list.h"
#include "smartproxy/rcu.h"

struct loop;

struct io {
	int fd; /* -1: not registered */
	/* events: EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLHUP | EPOLLERR as reported */
	void (*on_ready)(struct io *io, uint32_t events);
};

struct timer {
	struct list link; /* zero-initialised is fine before the first timer_arm */
	int64_t due_ms;   /* 0: not armed */
	int64_t slot_ms;  /* the wheel's own */
	void (*on_due)(struct timer *timer);
};

/* One that is due SHORT_TIMER_US after it was armed. */
#define SHORT_TIMER_US 100
struct short_timer {
	struct list link; /* zero-initialised is fine before the first arm */
	int64_t due_us;   /* 0: not armed */
	void (*on_due)(struct short_timer *timer);
};

/* A message to a loop. The owner keeps it alive until run is called; it may be posted again from
 * then on. */
struct task {
	struct task *next;
	void (*run)(struct task *task);
};

enum err loop_new(struct loop **ret_loop) SP_MUST_USE;
/* Runs what was posted or deferred and not run yet, then frees; io objects that are still in it are
 * forgotten. */
void loop_free(struct loop *loop);
/* Runs until loop_stop (one call of it ends one loop_run, also if it came before). Asserts before
 * each wait that no RCU read section is open. */
void loop_run(struct loop *loop) SP_NO_RCU;
void loop_stop(struct loop *loop);

/* CLOCK_MONOTONIC at the start of this turn. */
int64_t loop_now_ms(const struct loop *loop);
int64_t loop_now_us(const struct loop *loop);
/* Turns so far, readable by any thread (stall detector). */
uint64_t loop_turns(const struct loop *loop);

/* events: EPOLLIN, EPOLLPRI, EPOLLOUT, EPOLLRDHUP, EPOLLET as wanted; one epoll_ctl each. The fd is set in io
 * before. On failure (ERR_LIMIT: max_user_watches, ERR_NOMEM, ERR_SYSTEM) nothing changed. */
enum err loop_add(struct loop *loop, struct io *io, uint32_t events) SP_MUST_USE;
enum err loop_change(struct loop *loop, struct io *io, uint32_t events) SP_MUST_USE;
/* Takes the io out (does not close the fd) and sets fd to -1; events of this turn that wait for it
 * are dropped. */
void loop_remove(struct loop *loop, struct io *io);
/* The same, and closes the fd, for which the kernel takes it out: no epoll_ctl. The fd must not have been
 * duplicated. */
void loop_close(struct loop *loop, struct io *io);

/* Arms or re-arms; O(1). Re-arming to a later time only writes due_ms (the wheel moves the timer
 * when its slot comes). A timer fires at most once, never early, up to some milliseconds late. */
void loop_timer_arm(struct loop *loop, struct timer *timer, int64_t due_ms);
void loop_timer_disarm(struct loop *loop, struct timer *timer);
/* Arms or re-arms; O(1). It fires at most once, never early, behind the events of its turn. Arming reads the clock, and
 * so does each turn while one is armed. */
void loop_short_timer_arm(struct loop *loop, struct short_timer *timer);
void loop_short_timer_disarm(struct short_timer *timer);
/* False: the system cannot wait for less than a millisecond (Linux before 5.11), and none may be armed. */
bool loop_has_short_timers(const struct loop *loop);

/* Any thread: run is called on the loop's thread, in order of posting. Wakes the loop if it sleeps.
 */
void loop_post(struct loop *loop, struct task *task);
/* Own thread: run is called at the end of this turn, when no event of the turn is left, in order of
 * deferring; what run itself defers comes at the end of the next turn, which does not wait. */
void loop_defer(struct loop *loop, struct task *task);

/* Runs work on a helper thread, then done on the loop's thread. For what blocks (RSA keys, name
 * look-ups). arg is the caller's until done. Control loop only. loop_free waits for what is under
 * way. */
enum err loop_offload(struct loop *loop, void (*work)(void *arg), void (*done)(void *arg),
		      void *arg) SP_MUST_USE;
