#pragma once
/* acme, private: the challenge route's life (see the table in challenge_route.c). */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/acme.h"
#include "smartproxy/loop.h"

struct challenge_route {
	struct loop *loop;
	struct acme_ops ops;
	void (*on_change)(struct challenge_route *route);
	enum acme_route_state state;
	bool is_wanted;
	bool is_asking; /* inside ops.set_challenge_route */
	struct timer timer;
	int64_t delay_ms;
	uint64_t activated_cnt, removed_cnt;
	struct port_error port_error;
};
void challenge_route_init(struct challenge_route *route, struct loop *loop,
			  const struct acme_ops *ops,
			  void (*on_change)(struct challenge_route *route));
/* Moves towards wanted or away from it; calls the control room, so not from inside its calls. */
void challenge_route_want(struct challenge_route *route, bool is_wanted);
void challenge_route_fini(struct challenge_route *route);
