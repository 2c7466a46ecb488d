#pragma once
/* generation: what the routes of one configuration compile to, shared by the generations made of
 * it. Control thread. */
#include "smartproxy/generation.h"

struct generations {
	unsigned worker_cnt;
	struct upstreams *upstreams;
	struct tls_slots *slots;
	struct limits *limits;
	struct generation *latest;
	struct generation *retired; /* newest first */
	uint64_t last_number;
};

struct routing {
	uint32_t ref_cnt; /* held by: generations; control thread */
	struct config *config;
	struct route_index *index;
	struct tls_slot **slots; /* by route of the configuration; NULL: plain */
	bool is_applied;         /* its groups' settings are in force */
	/* Certificates that were read from files for this configuration, to be installed when it is
	 * published. */
	struct staged {
		struct tls_slot *slot;
		struct tls_cert *cert;
	} * staged;
	size_t staged_cnt;
};

enum err routing_build(struct generations *gs, struct config *config, struct routing **ret_routing,
		       struct text *reterr) SP_ON_CONTROL SP_MUST_USE;
void routing_put(struct generations *gs, struct routing *routing) SP_ON_CONTROL;
void routing_install_certificates(struct routing *routing) SP_ON_CONTROL;
void routing_apply_groups(struct generations *gs, struct routing *routing) SP_ON_CONTROL;
