#pragma once
/* control: the queue of updates. Each is one transaction, they run one after another, and each has
 * a deadline that counts from its submission.
 *
 * Threads: control thread. Lifetime: an update belongs to the queue and is freed after its done. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/list.h"
#include "smartproxy/listener.h"
#include "smartproxy/loop.h"
#include "smartproxy/rcu.h"

enum update_kind {
	UPDATE_RELOAD, /* the file is read again */
	UPDATE_ROUTES, /* the whole list of routes, as JSON */
};
enum update_outcome {
	UPDATE_APPLIED,
	UPDATE_REFUSED,
	UPDATE_LATE,
	UPDATE_ROLLED_BACK,
	UPDATE_OUTCOME_CNT
};

/* What became of an update; the pointers are valid during the call of done. */
struct update_result {
	enum err code;
	const char *message;                    /* a sentence; "" on ERR_OK */
	const struct config_problems *problems; /* may be empty */
	const struct port_error *port;          /* code ERR_OK: none */
	uint64_t generation;                    /* in force now */
	size_t route_cnt;
};

struct update;
struct control;
struct updates {
	struct list queue;
	size_t queued_cnt;
	size_t json_bytes; /* of all that wait and the one in hand */
	struct task run_task;
	struct control *control;
	bool is_posted;
	bool is_running;  /* a transaction is in hand */
	bool is_stopping; /* nothing is taken any more */
	uint64_t outcome_cnt[UPDATE_OUTCOME_CNT];
	int64_t last_ms; /* how long the last one took */
};

void updates_init(struct updates *updates, struct control *control);
struct update_request {
	enum update_kind kind;
	char *json; /* UPDATE_ROUTES: malloc'ed, taken over in every case */
	size_t json_len;
	void (*done)(void *arg, const struct update_result *result); /* once; may be NULL */
	void *arg;
};
/* ERR_STOPPING, ERR_LIMIT (1024 wait, or 256 MiB of JSON do), ERR_NOMEM: done is not called. */
enum err updates_submit(struct updates *updates, const struct update_request *request,
			struct update **ret_update) SP_ON_CONTROL SP_MUST_USE;
/* A reload that nobody waits for (a signal); does nothing when one is the last in line already. */
enum err updates_reload(struct updates *updates) SP_ON_CONTROL SP_MUST_USE;
/* Whoever waited for it has gone; the update itself goes on. */
void update_forget(struct update *update);
/* Refuses what waits, with ERR_STOPPING, and all that comes. */
void updates_stop(struct updates *updates) SP_ON_CONTROL;
