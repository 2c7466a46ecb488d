#include "plan.h"

#include <stdbool.h>
#include <stddef.h>
#include <time.h>

#include "smartproxy/assert.h"

#define DAY_S             ((int64_t)86400)
#define MINUTE_MS         ((int64_t)60000)
#define HOUR_MS           ((int64_t)3600000)
#define RETRY_AFTER_MAX_S (30 * DAY_S)

int64_t plan_renew_at(int64_t not_before_unix_s, int64_t not_after_unix_s, int64_t renew_before_ms)
{
	int64_t life_s = not_after_unix_s - not_before_unix_s;
	if (renew_before_ms > 0 && renew_before_ms / 1000 < life_s)
		return not_after_unix_s - renew_before_ms / 1000;
	if (life_s >= 10 * DAY_S)
		return not_before_unix_s + life_s * 2 / 3;
	return not_before_unix_s + life_s / 2;
}

int64_t plan_rest_ms(uint32_t run, int64_t life_s)
{
	int64_t longest_ms = (life_s / 2 < DAY_S ? life_s / 2 : DAY_S) * 1000;
	int64_t ms = MINUTE_MS << (run > 11 ? 11 : run > 0 ? run - 1 : 0);
	ms = ms < longest_ms ? ms : longest_ms;
	return ms > MINUTE_MS ? ms : MINUTE_MS;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool parse_seconds(const char *value, int64_t *ret_s)
{
	int64_t s = 0;
	if (!is_digit(*value))
		return false;
	for (; is_digit(*value); value++)
		s = s > RETRY_AFTER_MAX_S ? s : s * 10 + (*value - '0');
	while (*value == ' ' || *value == '\t')
		value++;
	*ret_s = s;
	return *value == 0;
}

static bool parse_date(const char *value, int64_t *ret_unix_s)
{
	static const char *const forms[] = {
		"%a, %d %b %Y %H:%M:%S GMT", /* IMF-fixdate */
		"%A, %d-%b-%y %H:%M:%S GMT", /* RFC 850 */
		"%a %b %e %H:%M:%S %Y",      /* asctime */
	};
	for (size_t i = 0; i < SP_ARRAY_LEN(forms); i++) {
		struct tm tm = { 0 };
		const char *end = strptime(value, forms[i], &tm);
		if (end == NULL || *end != 0)
			continue;
		*ret_unix_s = timegm(&tm);
		return true;
	}
	return false;
}

enum err plan_retry_after(const char *value, int64_t now_unix_s, int64_t *ret_ms)
{
	int64_t s = 0;
	while (*value == ' ' || *value == '\t')
		value++;
	if (!parse_seconds(value, &s)) {
		if (!parse_date(value, &s))
			return ERR_SYNTAX;
		s -= now_unix_s;
	}
	s = s < 0 ? 0 : s;
	*ret_ms = (s > RETRY_AFTER_MAX_S ? RETRY_AFTER_MAX_S : s) * 1000;
	return ERR_OK;
}

const char *plan_failure_name(enum failure_kind kind)
{
	static const char *const names[] = { "network", "validation", "rate-limit" };
	SP_ASSERT(kind < FAILURE_KIND_CNT);
	return names[kind];
}

int64_t plan_backoff_ms(enum failure_kind kind, uint32_t run, int64_t retry_after_ms)
{
	static const int64_t validation_s[] = { 60, 600, 6000, DAY_S };
	int64_t ms = HOUR_MS;
	if (run == 0) /* a count that went round, out of a file */
		run = UINT32_MAX;
	if (kind == FAILURE_VALIDATION)
		ms = 1000 * validation_s[run > 4 ? 3 : run - 1];
	else if (kind == FAILURE_RATE_LIMIT)
		/* A Retry-After of nothing, or in the past, must not become a storm. */
		ms = retry_after_ms < 0 ? HOUR_MS : INT64_C(1000) << (run < 10 ? run - 1 : 9);
	else if (run < 10)
		ms = INT64_C(5000) << (run - 1);
	return ms > retry_after_ms ? ms : retry_after_ms;
}

int64_t plan_longest_wait_ms(enum failure_kind kind)
{
	static const int64_t longest_ms[] = { HOUR_MS, DAY_S * 1000, RETRY_AFTER_MAX_S * 1000 };
	SP_ASSERT(kind < FAILURE_KIND_CNT);
	return longest_ms[kind];
}
