#pragma once
/* control: what the rooms' control sides look like from here; one object for the process. Private
 * to the room.
 *
 * Threads: control thread. Lifetime: control_run's stack; members are made by start.c in the order
 * below and freed by it in the reverse order. */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/acme.h"
#include "smartproxy/challenge.h"
#include "smartproxy/config.h"
#include "smartproxy/generation.h"
#include "smartproxy/limit.h"
#include "smartproxy/listener.h"
#include "smartproxy/loop.h"
#include "smartproxy/resolver.h"
#include "smartproxy/tls.h"
#include "smartproxy/upstream.h"
#include "smartproxy/worker.h"
#include "update.h"

#define WORKER_WAIT_MS 5000 /* for all workers to take or leave a set; far above a loop turn */

enum control_phase { CONTROL_STARTING, CONTROL_RUNNING, CONTROL_STOPPING };

struct admin;
struct control {
	struct config *config; /* in force; a reference of our own */
	const char *file;      /* what a reload reads; a copy, owned */
	unsigned worker_cnt;
	enum control_phase phase;
	int exit_code;
	int64_t started_ms, started_unix_s;

	struct loop *loop;
	struct io signal_io;
	struct resolver *resolver;
	struct upstreams *upstreams;
	struct limits *limits;
	struct tls_slots *slots;
	struct generations *generations;
	struct challenge_table *challenges;
	struct listeners *listeners;
	struct acme_ops acme_ops;
	struct acme *acme;
	struct workers *workers;
	struct admin *admin;
	struct updates updates;

	bool needs_mending; /* sets that workers have not taken or left yet */
	int64_t mend_due_ms;
	struct timer tick_timer; /* log lines, retired generations, stalls, ticket keys */
	int64_t tickets_due_ms;
	bool has_stall_logged;
	int64_t stall_ms; /* as of the last look */
	int64_t stall_due_ms;
	int access_fd; /* -1: no access log */
	uint64_t access_dropped_cnt, access_untold_cnt;
	int64_t access_tell_due_ms;

	struct timer drain_timer;
	int64_t stop_deadline_ms;
	bool is_draining; /* the listeners are closed, connections are waited for */
};

/* start.c: all of control_run before and after the loop. ERR_*: the reason has been logged. */
enum err control_start(struct control *control, struct config *config)
	SP_ON_CONTROL SP_NO_RCU SP_MUST_USE;
void control_log_ready(const struct control *control) SP_ON_CONTROL;
/* Harmless on what was never made. */
void control_free(struct control *control) SP_ON_CONTROL SP_NO_RCU;

/* stop.c: begins the orderly stop; the loop ends by itself when it is done. */
void control_stop(struct control *control) SP_ON_CONTROL;

/* access.c: the file of log.access. Opened anew after every reload, so that a rotated file is let
 * go. A file that cannot be opened is logged and costs nothing else. */
void access_log_open(struct control *control) SP_ON_CONTROL;
void access_log_drain(struct control *control) SP_ON_CONTROL;
void access_log_close(struct control *control) SP_ON_CONTROL;
