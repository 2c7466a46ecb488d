#pragma once
/* limit: how many client connections there may be: over all, per client address, per route, and how fast
 * they may come from one address. Counted when a connection is taken and given back when it ends, exactly,
 * over all workers: a burst on every worker at once gets no more than the limit.
 *
 * Threads: any worker, unless said otherwise; one lock of 256 for a client address, an atomic for the
 * others; never in a request's steady state. Lifetime: the tables are the process's, whatever generations
 * come and go. Bounded: at most one entry per open connection and limits_bound() addresses that are
 * remembered for their rate alone, oldest forgotten first. */
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/addr.h"
#include "smartproxy/err.h"
#include "smartproxy/rcu.h"

struct limits;

struct limit_settings {
	uint32_t connections;  /* over all; 0: no limit */
	uint32_t per_ip;       /* at once; 0: no limit */
	uint32_t rate_per_ip;  /* new ones a second; 0: no limit */
	uint32_t burst_per_ip; /* at once before the rate counts; 0: as rate_per_ip */
	unsigned ipv6_prefix;  /* bits that make one client, 1 to 128 */
};
enum limit_verdict { LIMIT_OK, LIMIT_OVERALL, LIMIT_PER_IP, LIMIT_RATE, LIMIT_NO_MEMORY };

enum err limits_new(struct limits **ret_limits) SP_MUST_USE;
void limits_free(struct limits *limits) SP_ON_CONTROL;

/* One connection more over all, or LIMIT_OVERALL. */
enum limit_verdict limits_enter(struct limits *limits, const struct limit_settings *settings);
void limits_leave(struct limits *limits);
/* One connection more of this client; its port does not matter. *ret_is_counted: limits_leave_address is
 * due (false when no limit per address is set: nothing is kept). */
enum limit_verdict limits_enter_address(struct limits *limits,
					const struct limit_settings *settings,
					const struct addr *client, int64_t now_ms,
					bool *ret_is_counted);
/* With the prefix that it was entered with. */
void limits_leave_address(struct limits *limits, const struct addr *client, unsigned ipv6_prefix);
uint64_t limits_connection_cnt(const struct limits *limits);
/* Addresses in the table, for the metrics. */
uint64_t limits_address_cnt(struct limits *limits);
/* Addresses without a connection that are remembered at most. */
uint64_t limits_bound(void);

/* ---- one counter per route name, kept while a generation or a connection needs it ---- */
struct limit_counter;
enum err limit_counter_get(struct limits *limits, const char *name,
			   struct limit_counter **ret_counter) SP_ON_CONTROL SP_MUST_USE;
void limit_counter_put(struct limits *limits, struct limit_counter *counter) SP_ON_CONTROL;
/* false: max are there. */
bool limit_counter_enter(struct limit_counter *counter, uint32_t max);
/* Any thread; the counter may outlive its generations for it. */
void limit_counter_leave(struct limit_counter *counter);
uint32_t limit_counter_cnt(const struct limit_counter *counter);
