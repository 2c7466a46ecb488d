#include "offload.h"

#include <pthread.h>
#include <stdlib.h>

#include "smartproxy/fault.h"
#include "smartproxy/thread.h"

struct job {
	struct task task;
	struct job *next;
	void (*work)(void *arg);
	void (*done)(void *arg);
	void *arg;
};

struct offload {
	struct loop *loop;
	struct thread *threads[OFFLOAD_THREADS_MAX]; /* the loop's thread */
	unsigned thread_cnt;
	struct { /* under lock */
		pthread_mutex_t lock;
		pthread_cond_t has_work;
		struct job *first, **end;
		unsigned waiting_cnt; /* jobs in the queue */
		unsigned idle_cnt;    /* threads in pthread_cond_wait */
		bool is_stopping;
	} shared;
};

static void finish_job(struct task *task)
{
	struct job *job = SP_CONTAINER_OF(task, struct job, task);
	void (*done)(void *arg) = job->done;
	void *arg = job->arg;
	free(job);
	done(arg);
}

static struct job *take_job(struct offload *offload)
{
	(void)pthread_mutex_lock(&offload->shared.lock);
	while (offload->shared.first == NULL && !offload->shared.is_stopping) {
		offload->shared.idle_cnt++;
		(void)pthread_cond_wait(&offload->shared.has_work, &offload->shared.lock);
		offload->shared.idle_cnt--;
	}
	struct job *job = offload->shared.first;
	if (job != NULL) {
		offload->shared.waiting_cnt--;
		offload->shared.first = job->next;
		if (job->next == NULL)
			offload->shared.end = &offload->shared.first;
	}
	(void)pthread_mutex_unlock(&offload->shared.lock);
	return job;
}

static void run_helper(void *arg)
{
	struct offload *offload = arg;
	for (struct job *job; (job = take_job(offload)) != NULL;) {
		job->work(job->arg);
		loop_post(offload->loop, &job->task);
	}
}

enum err offload_new(struct loop *loop, struct offload **ret_offload)
{
	struct offload *offload = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*offload));
	if (offload == NULL)
		return ERR_NOMEM;
	offload->loop = loop;
	(void)pthread_mutex_init(&offload->shared.lock, NULL);
	(void)pthread_cond_init(&offload->shared.has_work, NULL);
	offload->shared.end = &offload->shared.first;
	*ret_offload = offload;
	return ERR_OK;
}

void offload_free(struct offload *offload)
{
	if (offload == NULL)
		return;
	(void)pthread_mutex_lock(&offload->shared.lock);
	offload->shared.is_stopping = true;
	(void)pthread_cond_broadcast(&offload->shared.has_work);
	(void)pthread_mutex_unlock(&offload->shared.lock);
	for (unsigned i = 0; i < offload->thread_cnt; i++)
		thread_join(offload->threads[i]);
	(void)pthread_cond_destroy(&offload->shared.has_work);
	(void)pthread_mutex_destroy(&offload->shared.lock);
	free(offload);
}

static enum err ensure_thread(struct offload *offload)
{
	(void)pthread_mutex_lock(&offload->shared.lock);
	bool has_idle = offload->shared.idle_cnt > offload->shared.waiting_cnt;
	(void)pthread_mutex_unlock(&offload->shared.lock);
	if (has_idle || offload->thread_cnt == OFFLOAD_THREADS_MAX)
		return ERR_OK;
	enum err e =
		thread_start("helper", run_helper, offload, &offload->threads[offload->thread_cnt]);
	if (e == ERR_OK)
		offload->thread_cnt++;
	return offload->thread_cnt > 0 ? ERR_OK : e;
}

enum err offload_submit(struct offload *offload, void (*work)(void *arg), void (*done)(void *arg),
			void *arg)
{
	struct job *job = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*job));
	if (job == NULL)
		return ERR_NOMEM;
	enum err e = ensure_thread(offload);
	if (e != ERR_OK) {
		free(job);
		return e;
	}
	job->task.run = finish_job;
	job->work = work;
	job->done = done;
	job->arg = arg;
	(void)pthread_mutex_lock(&offload->shared.lock);
	*offload->shared.end = job;
	offload->shared.end = &job->next;
	offload->shared.waiting_cnt++;
	(void)pthread_cond_signal(&offload->shared.has_work);
	(void)pthread_mutex_unlock(&offload->shared.lock);
	return ERR_OK;
}
