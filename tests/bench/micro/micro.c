/* Usage: micro [--json] [--tiny] [PART...]   PART: wire route publish timer arena; all without one
 *   --json   one object a line: name, unit, value, best
 *   --tiny   short runs and small tables, to see that it works */
#include "micro.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

#include "smartproxy/assert.h"

#define RUN_NS 10000000

static bool is_json, is_tiny;

bool micro_is_tiny(void)
{
	return is_tiny;
}

int64_t micro_now_ns(void)
{
	struct timespec t;
	SP_ASSERT(clock_gettime(CLOCK_MONOTONIC, &t) == 0);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static uint64_t cycles(void)
{
#if defined(__x86_64__)
	return __rdtsc();
#else
	return 0;
#endif
}

void micro_add(struct micro_runs *runs, double value)
{
	if (runs->cnt < MICRO_RUNS_MAX)
		runs->values[runs->cnt++] = value;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

void micro_print(const char *name, const char *unit, struct micro_runs *runs)
{
	SP_ASSERT(runs->cnt > 0);
	qsort(runs->values, runs->cnt, sizeof(runs->values[0]), compare);
	bool is_rate = strchr(unit, '/') != NULL; /* more is better */
	double median = runs->values[runs->cnt / 2];
	double best = runs->values[is_rate ? runs->cnt - 1 : 0];
	if (is_json)
		printf("{\"name\": \"%s\", \"unit\": \"%s\", \"value\": %.4g, \"best\": %.4g}\n",
		       name, unit, median, best);
	else
		printf("%-40s %-12s %10.4g  best %10.4g\n", name, unit, median, best);
	(void)fflush(stdout);
}

static size_t calibrate(micro_body *body, void *arg)
{
	size_t cnt = 1;
	while (!is_tiny) {
		int64_t begin_ns = micro_now_ns();
		body(arg, cnt);
		int64_t spent_ns = micro_now_ns() - begin_ns;
		if (spent_ns >= RUN_NS)
			break;
		cnt = spent_ns > RUN_NS / 10 ? cnt * (size_t)RUN_NS / (size_t)spent_ns + 1
					     : cnt * 8;
	}
	return cnt;
}

void micro_time(const char *name, size_t bytes, micro_body *body, void *arg)
{
	struct micro_runs ns = { .cnt = 0 }, rate = { .cnt = 0 };
	size_t cnt = calibrate(body, arg);
	for (int i = 0; i < (is_tiny ? 1 : MICRO_RUNS_MAX); i++) {
		uint64_t begin = cycles();
		int64_t begin_ns = micro_now_ns();
		body(arg, cnt);
		int64_t spent_ns = micro_now_ns() - begin_ns;
		uint64_t spent = cycles() - begin;
		micro_add(&ns, (double)spent_ns / (double)cnt);
		if (spent > 0)
			micro_add(&rate, (double)bytes * (double)cnt / (double)spent);
	}
	micro_print(name, "ns", &ns);
	if (bytes > 0 && rate.cnt > 0)
		micro_print(name, "bytes/cycle", &rate);
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{ "wire", micro_wire },   { "route", micro_route }, { "publish", micro_publish },
	{ "timer", micro_timer }, { "arena", micro_arena },
};

/* NULL: every part. */
static bool run(const char *wanted)
{
	bool is_found = false;
	for (size_t i = 0; i < SP_ARRAY_LEN(parts); i++) {
		if (wanted != NULL && strcmp(wanted, parts[i].name) != 0)
			continue;
		parts[i].run();
		is_found = true;
	}
	return is_found;
}

int main(int argc, char **argv)
{
	bool has_part = false;
	for (int i = 1; i < argc; i++) {
		is_json |= strcmp(argv[i], "--json") == 0;
		is_tiny |= strcmp(argv[i], "--tiny") == 0;
	}
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--json") == 0 || strcmp(argv[i], "--tiny") == 0)
			continue;
		has_part = true;
		if (!run(argv[i])) {
			(void)fprintf(stderr, "usage: micro [--json] [--tiny] "
					      "[wire|route|publish|timer|arena...]\n");
			return 2;
		}
	}
	if (!has_part)
		(void)run(NULL);
	return 0;
}
