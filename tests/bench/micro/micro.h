#pragma once
/* Microbenches: what one operation of a room costs, in nanoseconds and, over bytes, in bytes a cycle of the time stamp
 * counter. A figure is the median of several runs, with the best beside it. Timings, never asserted. Threads: main. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Few and short runs: the code is exercised, the figures mean nothing. */
bool micro_is_tiny(void);
int64_t micro_now_ns(void);
/* The value has to be computed. */
#define MICRO_KEEP(x) __asm__("" : : "g"(x) : "memory")

/* Does an operation cnt times. */
typedef void micro_body(void *arg, size_t cnt);
/* Times body and prints it. bytes: what one operation goes through; 0: not told. */
void micro_time(const char *name, size_t bytes, micro_body *body, void *arg);

#define MICRO_RUNS_MAX 15
/* Runs that the caller timed, in any unit. */
struct micro_runs {
	double values[MICRO_RUNS_MAX];
	size_t cnt;
};
void micro_add(struct micro_runs *runs, double value);
void micro_print(const char *name, const char *unit, struct micro_runs *runs);

void micro_wire(void);
void micro_route(void);
void micro_publish(void);
void micro_timer(void);
void micro_arena(void);
