#pragma once
/* proxy: what the control thread shares with the worker threads: the list of them, and calls into their
 * threads. */
#include <semaphore.h>
#include <stdatomic.h>

#include "proxy.h"

struct workers {
	unsigned cnt;
	struct upstreams *upstreams;
	struct loop **loops;
	int access_fd; /* control's, as of the last drain; -1: none */
	struct worker *list[];
};

enum call_state { CALL_POSTED, CALL_TAKEN, CALL_WITHDRAWN };

/* A call into a worker's thread that the control thread waits for. */
struct call {
	struct task task;
	struct worker *worker;
	void (*body)(struct worker *w, struct call *call);
	struct listener_set *const *sets; /* the caller's */
	size_t set_cnt;
	size_t view_max;         /* for workers_connections */
	struct conn_view *views; /* its answer; owned by the batch */
	size_t view_cnt;
	enum err result;
	struct batch *batch;
	_Atomic(enum call_state) state;
};

/* What one question to all workers needs; it outlives the one who asked when a worker does not
 * answer. */
struct batch {
	sem_t done;
	unsigned cnt;
	atomic_uint ref_cnt; /* held by: each call until it has run, the one who asked */
	struct call calls[];
};

/* Runs question->body on every worker and waits for time_ms. A worker that does not answer for seconds is a
 * defect that the log names; calls about listeners are then taken back, the others stay with it.
 * ret_batch: NULL, or the answers, to be given back with workers_put_batch; only on ERR_OK. */
enum err workers_ask(struct workers *ws, const struct call *question, int64_t time_ms,
		     struct batch **ret_batch);
void workers_put_batch(struct batch *batch);

/* Bodies of calls about a worker's listeners and its end (worker.c). */
void worker_adopt(struct worker *w, struct call *call);
void worker_release(struct worker *w, struct call *call);
void worker_drain(struct worker *w, struct call *call);
void worker_end(struct worker *w, struct call *call);
/* The body of a worker's thread. */
void worker_run(void *arg);
