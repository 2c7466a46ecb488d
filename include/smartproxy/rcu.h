#pragma once
/* base: the only file that includes <urcu.h> (membarrier flavour). Clang checks the annotations
 * (-Wthread-safety).
 *
 * A read section covers one decision (match, choose, pin): no I/O, no SSL_*, no allocation, no log
 * inside. Publish: build unseen (may fail), sp_rcu_swap (cannot fail), then sp_rcu_wait or
 * sp_rcu_retire. Threads: readers are threads of thread.h; publishing on the control thread only.
 */
#include <urcu.h>

#if defined(__clang__)
#define SP_TSA(x) __attribute__((x))
#else
#define SP_TSA(x)
#endif
#if defined(__SANITIZE_THREAD__)
#define SP_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SP_TSAN 1
#endif
#endif
#if defined(SP_TSAN)
void __tsan_acquire(void *);
void __tsan_release(void *);
extern char sp_rcu_tag;
#define SP_TSAN_ACQUIRE() __tsan_acquire(&sp_rcu_tag)
#define SP_TSAN_RELEASE() __tsan_release(&sp_rcu_tag)
#else
#define SP_TSAN_ACQUIRE() ((void)0)
#define SP_TSAN_RELEASE() ((void)0)
#endif

struct SP_TSA(capability("role")) sp_role {
	char unused;
};
extern struct sp_role sp_rcu, sp_worker, sp_control;

#define SP_RCU_READER SP_TSA(requires_shared_capability(sp_rcu))
#define SP_NO_RCU     SP_TSA(locks_excluded(sp_rcu))
#define SP_ON_WORKER  SP_TSA(requires_capability(sp_worker))
#define SP_ON_CONTROL SP_TSA(requires_capability(sp_control))
#define SP_RCU_PTR    SP_TSA(pt_guarded_by(sp_rcu))

/* A thread states its role once, at its start; from then on clang knows. */
static inline void sp_role_assume_control(void) SP_TSA(assert_capability(sp_control));
static inline void sp_role_assume_control(void)
{
}
static inline void sp_role_assume_worker(void) SP_TSA(assert_capability(sp_worker));
static inline void sp_role_assume_worker(void)
{
}

static inline void sp_rcu_enter(void) SP_TSA(acquire_shared_capability(sp_rcu))
	SP_TSA(no_thread_safety_analysis);
static inline void sp_rcu_enter(void)
{
	rcu_read_lock();
}
static inline void sp_rcu_leave(void) SP_TSA(release_shared_capability(sp_rcu))
	SP_TSA(no_thread_safety_analysis);
static inline void sp_rcu_leave(void)
{
	SP_TSAN_RELEASE();
	rcu_read_unlock();
}
/* Whether the calling thread is inside a read section; for assertions. */
static inline int sp_rcu_is_reading(void)
{
	return rcu_read_ongoing();
}
#define sp_rcu_load(pp)    __atomic_load_n((pp), __ATOMIC_CONSUME)
#define sp_rcu_swap(pp, v) __atomic_exchange_n((pp), (v), __ATOMIC_ACQ_REL)
/* Makes the thread that runs the callbacks of sp_rcu_retire. At the start of the process: liburcu
 * makes it when it is first needed else, and ends the process when it cannot. */
static inline void sp_rcu_start(void)
{
	(void)get_default_call_rcu_data();
}
static inline void sp_rcu_retire(struct rcu_head *head, void (*destroy)(struct rcu_head *))
{
	SP_TSAN_RELEASE();
	call_rcu(head, destroy);
}
/* One grace period: when it returns, every read section that was open when it was called has ended.
 * Cost: tens of microseconds, some milliseconds on a busy machine. Control thread only. */
static inline void sp_rcu_wait(void) SP_NO_RCU;
static inline void sp_rcu_wait(void)
{
	SP_TSAN_RELEASE();
	synchronize_rcu();
	SP_TSAN_ACQUIRE();
}
/* Waits for all callbacks of sp_rcu_retire. */
static inline void sp_rcu_drain(void) SP_NO_RCU;
static inline void sp_rcu_drain(void)
{
	rcu_barrier();
	SP_TSAN_ACQUIRE();
}
