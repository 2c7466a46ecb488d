#pragma once
/* upstream: one attempt of a health check at one address, on the control loop. Threads: control. Lifetime: from
 * probe_start until on_done has returned or probe_cancel. Security: the answer comes from a network; its head
 * is bounded and goes through the parser of wire. */
#include "pool.h"

#define PROBE_WHY_MAX UPSTREAM_WHY_MAX

struct probe;

struct probe_plan {
	struct addr addr; /* with its port */
	enum config_check_type type;
	enum config_proxy_protocol proxy_protocol; /* a header of no client goes first */
	const char *path, *host;                   /* of the request; copied */
	struct tls_client *tls;                    /* HTTPS; outlives the probe */
	unsigned tls_ctx_ix;
	const char *server_name; /* outlives the start */
	unsigned status_first, status_last;
	int64_t timeout_ms; /* of all of it */
};
struct probe_result {
	enum upstream_failure failure; /* UPSTREAM_FAILURE_NONE: as it should be */
	bool is_unreached;             /* it failed before there was a connection */
	const char *why;               /* a sentence; "" without a failure */
};

/* ERR_NOMEM, ERR_LIMIT (descriptors, ports): none was made, which says nothing of the target. on_done never
 * comes before this has returned. */
enum err probe_start(struct loop *loop, const struct probe_plan *plan,
		     void (*on_done)(void *owner, const struct probe_result *result), void *owner,
		     struct probe **ret_probe) SP_ON_CONTROL SP_MUST_USE;
/* on_done does not come any more. NULL is allowed. */
void probe_cancel(struct probe *probe) SP_ON_CONTROL;
