#pragma once
/* acme, private: why a step failed, in the CA's own words, and what follows from it. */
#include <stdbool.h>
#include <stdint.h>

#include "plan.h"
#include "smartproxy/err.h"

#define PROBLEM_TYPE_MAX 64
#define FAILURE_TEXT_MAX 512

struct failure {
	enum failure_kind kind;
	enum err err;
	bool is_unreachable; /* no HTTP answer at all: the probe of the CA tells when to try again
			      */
	int64_t retry_after_ms;      /* -1: the CA said nothing */
	char type[PROBLEM_TYPE_MAX]; /* "rateLimited"; "" when there was no problem document */
	char text[FAILURE_TEXT_MAX]; /* printable */
};

struct answer;
/* what: "newOrder", "authorization of a.example" ... */
void failure_from_answer(struct failure *ret, const char *what, const struct answer *answer);
/* Milliseconds to the next try, drawn with jitter; the CA's own wait is never cut short. run: as plan_backoff_ms. */
int64_t failure_draw_wait_ms(const struct failure *failure, uint32_t run);
void failure_set(struct failure *ret, enum failure_kind kind, enum err err, const char *fmt, ...)
	SP_PRINTF(4, 5);
