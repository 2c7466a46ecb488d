#pragma once
/* acme, private: when to renew, when to try again. Pure functions. */
#include <stdint.h>

#include "smartproxy/err.h"

/* The wall-clock second at which a certificate is to be renewed: renew_before_ms before its end, or
 * (0, or not shorter than its life) at 2/3 of its life, 1/2 when it lives less than 10 days. */
int64_t plan_renew_at(int64_t not_before_unix_s, int64_t not_after_unix_s, int64_t renew_before_ms);
/* Milliseconds that a certificate rests which was due for renewal when it came: 1, 2, 4 min ... 1 day, but no longer than
 * half of its life (or 1 min). run: such certificates in a row, 1 or more. */
int64_t plan_rest_ms(uint32_t run, int64_t life_s);

/* Retry-After (RFC 9110, 10.2.3): seconds or one of the three forms of HTTP-date (5.6.7).
 * Milliseconds from now, 0 or more, at most 30 days; ERR_SYNTAX. */
enum err plan_retry_after(const char *value, int64_t now_unix_s, int64_t *ret_ms) SP_MUST_USE;

enum failure_kind {
	FAILURE_NETWORK, /* unreachable, 5xx, time-out, foreign answers, our own disk: 5, 10, 20 s
			    ... 1 h */
	FAILURE_VALIDATION, /* the CA refused: 1, 10, 100 min, then daily */
	FAILURE_RATE_LIMIT, /* rateLimited: until Retry-After, without one 1 h */
	FAILURE_KIND_CNT,
};
const char *plan_failure_name(enum failure_kind kind);
/* Milliseconds to the next try, without jitter. run: failures of this kind in a row, 1 or more.
 * retry_after_ms -1: none. */
int64_t plan_backoff_ms(enum failure_kind kind, uint32_t run, int64_t retry_after_ms);
/* The longest that such a failure waits by itself; a rate limit, as long as Retry-After may be. */
int64_t plan_longest_wait_ms(enum failure_kind kind);
