/* One turn: wait - events (the inbox is one of them) - due timers, short ones first - deferred tasks. */
#include "smartproxy/loop.h"

#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "offload.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "timer_wheel.h"

#define EVENTS_MAX     256
#define TIMER_SLACK_NS 5000 /* the system's 50 us would make half as much again of a short timer */

struct loop {
	int epoll_fd;
	struct io wake_io; /* the eventfd */
	int64_t now_us, now_ms;
	struct list short_timers; /* of one length: in order */
	bool has_short_timers;
	int batch_ix; /* events before it have been handed out */
	int batch_cnt;
	struct task *deferred, **deferred_end;
	struct offload *offload; /* NULL until first needed */
	bool is_freeing;
	struct epoll_event batch[EVENTS_MAX];
	struct timer_wheel wheel;
	struct {
		_Alignas(64) _Atomic(struct task *)
			inbox;          /* latest first; push: release, take: acquire */
		atomic_bool is_woken;   /* the eventfd is readable or about to be; acq_rel */
		atomic_bool wants_stop; /* release, acquire */
		atomic_ullong turn_cnt; /* relaxed, written by the loop */
	} shared;
};

static void wake(struct loop *loop)
{
	if (atomic_exchange_explicit(&loop->shared.is_woken, true, memory_order_acq_rel))
		return;
	uint64_t one = 1;
	while (write(loop->wake_io.fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

static void run_inbox(struct loop *loop)
{
	/* is_woken goes first: whoever pushes after the take then sees false and wakes again. */
	(void)atomic_exchange_explicit(&loop->shared.is_woken, false, memory_order_acq_rel);
	struct task *latest =
		atomic_exchange_explicit(&loop->shared.inbox, NULL, memory_order_acquire);
	struct task *oldest = NULL;
	while (latest != NULL) {
		struct task *next = latest->next;
		latest->next = oldest;
		oldest = latest;
		latest = next;
	}
	while (oldest != NULL) {
		struct task *task = oldest;
		oldest = task->next;
		task->run(task);
	}
}

static void on_wake(struct io *io, uint32_t events)
{
	(void)events;
	struct loop *loop = SP_CONTAINER_OF(io, struct loop, wake_io);
	uint64_t cnt;
	(void)!read(io->fd, &cnt, sizeof(cnt));
	run_inbox(loop);
}

static void run_deferred(struct loop *loop)
{
	struct task *task = loop->deferred;
	loop->deferred = NULL;
	loop->deferred_end = &loop->deferred;
	while (task != NULL) {
		struct task *next = task->next;
		task->run(task);
		task = next;
	}
}

static void read_clock(struct loop *loop)
{
	loop->now_us = clock_now_us();
	loop->now_ms = loop->now_us / 1000;
}

static int wait_short(struct loop *loop, int64_t time_us)
{
	const struct timespec time = { .tv_nsec = time_us > 0 ? time_us * 1000 : 0 };
	return epoll_pwait2(loop->epoll_fd, loop->batch, EVENTS_MAX, &time, NULL);
}

enum err loop_new(struct loop **ret_loop)
{
	struct loop *loop = fault_hits(FAULT_MALLOC)
				    ? NULL
				    : aligned_alloc(_Alignof(struct loop), sizeof(*loop));
	if (loop == NULL)
		return ERR_NOMEM;
	memset(loop, 0, sizeof(*loop));
	loop->epoll_fd = -1;
	loop->wake_io = (struct io){ .fd = -1, .on_ready = on_wake };
	loop->deferred_end = &loop->deferred;
	list_init(&loop->short_timers);
	read_clock(loop);
	wheel_init(&loop->wheel, loop->now_ms);
	enum err e = ERR_SYSTEM;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		goto fail;
	loop->wake_io.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->wake_io.fd < 0)
		goto fail;
	e = loop_add(loop, &loop->wake_io, EPOLLIN);
	if (e != ERR_OK)
		goto fail;
	loop->has_short_timers = wait_short(loop, 0) == 0;
	*ret_loop = loop;
	return ERR_OK;
fail:
	loop_free(loop);
	return e;
}

void loop_free(struct loop *loop)
{
	if (loop == NULL)
		return;
	loop->is_freeing = true;
	offload_free(loop->offload);
	do {
		run_inbox(loop);
		run_deferred(loop);
	} while (loop->deferred != NULL ||
		 atomic_load_explicit(&loop->shared.inbox, memory_order_acquire) != NULL);
	if (loop->wake_io.fd >= 0)
		(void)close(loop->wake_io.fd);
	if (loop->epoll_fd >= 0)
		(void)close(loop->epoll_fd);
	free(loop);
}

static int wait_ms(const struct loop *loop)
{
	if (loop->deferred != NULL)
		return 0;
	int64_t next_ms = wheel_next_ms(&loop->wheel);
	if (next_ms < 0)
		return -1;
	int64_t left_ms = next_ms - loop->now_ms;
	if (left_ms <= 0)
		return 0;
	return left_ms < INT_MAX ? (int)left_ms : INT_MAX;
}

static struct short_timer *first_short(struct loop *loop)
{
	return SP_CONTAINER_OF(loop->short_timers.next, struct short_timer, link);
}

static int wait_events(struct loop *loop)
{
	int time_ms = wait_ms(loop);
	if (SP_LIKELY(list_is_empty(&loop->short_timers)) || time_ms == 0)
		return epoll_wait(loop->epoll_fd, loop->batch, EVENTS_MAX, time_ms);
	return wait_short(loop, first_short(loop)->due_us - clock_now_us());
}

static void run_short_timers(struct loop *loop)
{
	while (!list_is_empty(&loop->short_timers)) {
		struct short_timer *timer = first_short(loop);
		if (timer->due_us > loop->now_us)
			break;
		loop_short_timer_disarm(timer);
		timer->on_due(timer);
	}
}

static void run_turn(struct loop *loop)
{
	SP_ASSERT(!sp_rcu_is_reading());
	int cnt = wait_events(loop);
	SP_ASSERT(cnt >= 0 || errno == EINTR);
	read_clock(loop);
	unsigned long long turn_cnt =
		atomic_load_explicit(&loop->shared.turn_cnt, memory_order_relaxed);
	atomic_store_explicit(&loop->shared.turn_cnt, turn_cnt + 1, memory_order_relaxed);
	loop->batch_cnt = cnt > 0 ? cnt : 0;
	loop->batch_ix = 0;
	while (loop->batch_ix < loop->batch_cnt) {
		const struct epoll_event *event = &loop->batch[loop->batch_ix++];
		struct io *io = event->data.ptr;
		if (io != NULL)
			io->on_ready(io, event->events);
	}
	run_short_timers(loop);
	wheel_advance(&loop->wheel, loop->now_ms);
	run_deferred(loop);
}

void loop_run(struct loop *loop)
{
	(void)prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS, 0, 0, 0);
	while (!atomic_load_explicit(&loop->shared.wants_stop, memory_order_acquire))
		run_turn(loop);
	atomic_store_explicit(&loop->shared.wants_stop, false, memory_order_relaxed);
	while (loop->deferred != NULL)
		run_deferred(loop);
}

void loop_stop(struct loop *loop)
{
	atomic_store_explicit(&loop->shared.wants_stop, true, memory_order_release);
	wake(loop);
}

int64_t loop_now_ms(const struct loop *loop)
{
	return loop->now_ms;
}

int64_t loop_now_us(const struct loop *loop)
{
	return loop->now_us;
}

uint64_t loop_turns(const struct loop *loop)
{
	return atomic_load_explicit(&loop->shared.turn_cnt, memory_order_relaxed);
}

static enum err control_epoll(struct loop *loop, int op, struct io *io, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = io };
	if (epoll_ctl(loop->epoll_fd, op, io->fd, &event) == 0)
		return ERR_OK;
	if (errno == ENOMEM)
		return ERR_NOMEM;
	return errno == ENOSPC ? ERR_LIMIT : ERR_SYSTEM;
}

enum err loop_add(struct loop *loop, struct io *io, uint32_t events)
{
	return control_epoll(loop, EPOLL_CTL_ADD, io, events);
}

enum err loop_change(struct loop *loop, struct io *io, uint32_t events)
{
	return control_epoll(loop, EPOLL_CTL_MOD, io, events);
}

static void drop_events(struct loop *loop, const struct io *io)
{
	for (int i = loop->batch_ix; i < loop->batch_cnt; i++) {
		if (loop->batch[i].data.ptr == io)
			loop->batch[i].data.ptr = NULL;
	}
}

void loop_remove(struct loop *loop, struct io *io)
{
	if (io->fd < 0)
		return;
	(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, io->fd, NULL);
	io->fd = -1;
	drop_events(loop, io);
}

void loop_close(struct loop *loop, struct io *io)
{
	if (io->fd < 0)
		return;
	(void)close(io->fd);
	io->fd = -1;
	drop_events(loop, io);
}

void loop_timer_arm(struct loop *loop, struct timer *timer, int64_t due_ms)
{
	wheel_arm(&loop->wheel, timer, due_ms);
}

void loop_timer_disarm(struct loop *loop, struct timer *timer)
{
	wheel_disarm(&loop->wheel, timer);
}

void loop_short_timer_arm(struct loop *loop, struct short_timer *timer)
{
	loop_short_timer_disarm(timer);
	timer->due_us = clock_now_us() + SHORT_TIMER_US;
	list_append(&loop->short_timers, &timer->link);
}

void loop_short_timer_disarm(struct short_timer *timer)
{
	if (timer->due_us == 0)
		return;
	timer->due_us = 0;
	list_remove(&timer->link);
}

bool loop_has_short_timers(const struct loop *loop)
{
	return loop->has_short_timers;
}

void loop_post(struct loop *loop, struct task *task)
{
	struct task *head = atomic_load_explicit(&loop->shared.inbox, memory_order_relaxed);
	do {
		task->next = head;
	} while (!atomic_compare_exchange_weak_explicit(
		&loop->shared.inbox, &head, task, memory_order_release, memory_order_relaxed));
	wake(loop);
}

void loop_defer(struct loop *loop, struct task *task)
{
	task->next = NULL;
	*loop->deferred_end = task;
	loop->deferred_end = &task->next;
}

enum err loop_offload(struct loop *loop, void (*work)(void *arg), void (*done)(void *arg),
		      void *arg)
{
	if (loop->is_freeing)
		return ERR_STOPPING;
	if (loop->offload == NULL) {
		enum err e = offload_new(loop, &loop->offload);
		if (e != ERR_OK)
			return e;
	}
	return offload_submit(loop->offload, work, done, arg);
}
