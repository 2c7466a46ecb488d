#pragma once
/* base: threads. The only place that creates one and registers it with RCU.
 *
 * Threads: thread_start and thread_join on the control thread. All signals are blocked in started
 * threads. */
#include "smartproxy/err.h"

struct thread;

/* Starts a thread named name (15 characters at most) that is registered with RCU while body runs.
 */
enum err thread_start(const char *name, void (*body)(void *arg), void *arg,
		      struct thread **ret_thread) SP_MUST_USE;
/* As thread_start, pinned to one CPU; a refused affinity is ignored. cpu < 0: not pinned. */
enum err thread_start_on(const char *name, int cpu, void (*body)(void *arg), void *arg,
			 struct thread **ret_thread) SP_MUST_USE;
/* Waits for the end and frees. NULL is allowed. The caller must not be inside a read section; grace
 * periods are not held up by the wait. */
void thread_join(struct thread *thread);
/* CPUs this process may run on, at least 1. */
unsigned thread_cpu_cnt(void);
