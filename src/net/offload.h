#pragma once
/* net, private: helper threads of one loop. Started when work waits and none is idle, at most
 * OFFLOAD_THREADS_MAX. */
#include "smartproxy/loop.h"

#define OFFLOAD_THREADS_MAX 4

struct offload;

/* done is posted to loop. */
enum err offload_new(struct loop *loop, struct offload **ret_offload) SP_MUST_USE;
/* Waits until all work that was submitted has run and its done is posted. NULL is allowed. */
void offload_free(struct offload *offload);
enum err offload_submit(struct offload *offload, void (*work)(void *arg), void (*done)(void *arg),
			void *arg) SP_MUST_USE;
