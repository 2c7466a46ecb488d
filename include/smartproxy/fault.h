#pragma once
/* base: failpoints and fault injection for tests, always compiled in; off costs one load of a
 * process constant.
 *
 * SMARTPROXY_FAILPOINT=NAME[:N] in the environment: the N-th (default 1st) pass of
 * fault_point("NAME") ends the process with SIGKILL.
 * SMARTPROXY_FAULTS="malloc=P,bind=P,fsync=P,accept=P,connect=P": fault_hits(kind) is true with
 * probability P (0 to 1). SMARTPROXY_FAULT_SEED seeds the draw. Control-side and accept paths only;
 * both variables are ignored when the process has elevated privileges from a set-id bit
 * (secure_getenv). Threads: any; fault_init once at the start. */
#include <stdbool.h>

enum fault_kind {
	FAULT_MALLOC,
	FAULT_BIND,
	FAULT_FSYNC,
	FAULT_ACCEPT,
	FAULT_CONNECT,
	FAULT_WRITE,
	FAULT_KIND_CNT
};

extern bool fault_is_on; /* written by fault_init only */

void fault_init(void);
bool fault_draw(enum fault_kind kind);
void fault_pass(const char *name);

static inline bool fault_hits(enum fault_kind kind)
{
	return __builtin_expect(fault_is_on, 0) && fault_draw(kind);
}
static inline void fault_point(const char *name)
{
	if (__builtin_expect(fault_is_on, 0))
		fault_pass(name);
}
