#pragma once
/* control: from root to the configured user. Control thread, before any other thread exists. */
#include "smartproxy/config.h"
#include "smartproxy/err.h"
#include "smartproxy/rcu.h"

/* As root with global.user set: makes what the user has to write to (state_dir, the control
 * socket's folder) if it is missing, then becomes the user for good, keeping CAP_NET_BIND_SERVICE
 * alone. Otherwise nothing happens. ERR_NOENT, ERR_SYSTEM, ERR_STORE: the reason has been logged.
 */
enum err privilege_drop(const struct config *config) SP_ON_CONTROL SP_MUST_USE;
/* The soft limit of descriptors up to the hard one. Returns what is in force. */
unsigned long privilege_raise_files(void);
