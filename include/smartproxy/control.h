#pragma once
/* control: the control thread: updates as serialised transactions, the challenge route, the admin
 * API, signals, shutdown.
 *
 * Threads: the main thread is the control thread. Lifetime: one for the process. */
#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/rcu.h"

/* Before anything that takes time: SIGHUP, SIGTERM and SIGINT wait until control_run reads them. */
void control_hold_signals(void);
/* Are global.user and global.group there? ERR_NOENT with a sentence that begins with the key. */
enum err control_check_account(const struct config *config, struct text *reterr)
	SP_ON_CONTROL SP_MUST_USE;
/* Can the file acme.ca_file be used? ERR_OK when none is named; else a sentence that begins with the key. */
enum err control_check_authority(const struct config *config, struct text *reterr)
	SP_ON_CONTROL SP_MUST_USE;
/* Runs the proxy until it is told to stop (at once, if that was before); config's reference is taken. Returns the process's exit
 * code: 0 after a clean stop, 1 when the start failed (the reason has been logged). */
int control_run(struct config *config) SP_ON_CONTROL SP_NO_RCU;
