#include "smartproxy/thread.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "smartproxy/fault.h"
#include "smartproxy/rcu.h"
#include "smartproxy/text.h"

struct thread {
	pthread_t id;
	void (*body)(void *arg);
	void *arg;
	int cpu;
	char name[16];
};

static void *run(void *arg)
{
	struct thread *thread = arg;
	(void)pthread_setname_np(pthread_self(), thread->name);
	if (thread->cpu >= 0) {
		cpu_set_t set;
		CPU_ZERO(&set);
		CPU_SET((unsigned)thread->cpu, &set);
		(void)pthread_setaffinity_np(pthread_self(), sizeof(set), &set);
	}
	/* Nobody cancels a thread. Said so, the C library's cancellation points do without an atomic operation
	 * before and after each system call. */
	(void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, NULL);
	(void)pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
	rcu_register_thread();
	thread->body(thread->arg);
	rcu_unregister_thread();
	return NULL;
}

enum err thread_start_on(const char *name, int cpu, void (*body)(void *arg), void *arg,
			 struct thread **ret_thread)
{
	struct thread *thread = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*thread));
	if (thread == NULL)
		return ERR_NOMEM;
	thread->body = body;
	thread->arg = arg;
	thread->cpu = cpu;
	(void)text_format(thread->name, sizeof(thread->name), "%s", name);
	sigset_t all, old;
	(void)sigfillset(&all);
	(void)pthread_sigmask(SIG_BLOCK, &all, &old);
	int rc = pthread_create(&thread->id, NULL, run, thread);
	(void)pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0) {
		free(thread);
		return ERR_SYSTEM;
	}
	*ret_thread = thread;
	return ERR_OK;
}

enum err thread_start(const char *name, void (*body)(void *arg), void *arg,
		      struct thread **ret_thread)
{
	return thread_start_on(name, -1, body, arg, ret_thread);
}

void thread_join(struct thread *thread)
{
	if (thread == NULL)
		return;
	(void)pthread_join(thread->id, NULL);
	free(thread);
}

unsigned thread_cpu_cnt(void)
{
	cpu_set_t set;
	if (sched_getaffinity(0, sizeof(set), &set) != 0)
		return 1;
	int cnt = CPU_COUNT(&set);
	return cnt < 1 ? 1 : (unsigned)cnt;
}
