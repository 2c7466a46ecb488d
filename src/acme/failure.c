#include "failure.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "client.h"
#include "smartproxy/rand.h"
#include "smartproxy/text.h"

#define JITTER_PERCENT 10

void failure_set(struct failure *ret, enum failure_kind kind, enum err err, const char *fmt, ...)
{
	char raw[FAILURE_TEXT_MAX];
	va_list args;
	va_start(args, fmt);
	(void)vsnprintf(raw, sizeof(raw), fmt, args);
	va_end(args);
	*ret = (struct failure){ .kind = kind, .err = err, .retry_after_ms = -1 };
	text_escape(ret->text, sizeof(ret->text), raw, strlen(raw));
}

void failure_from_answer(struct failure *ret, const char *what, const struct answer *answer)
{
	enum failure_kind kind = FAILURE_NETWORK;
	if (strcmp(answer->type, "rateLimited") == 0 || answer->status == 429)
		kind = FAILURE_RATE_LIMIT;
	else if (answer->err == ERR_ACME && strcmp(answer->type, "badNonce") != 0 &&
		 strcmp(answer->type, "serverInternal") != 0)
		kind = FAILURE_VALIDATION;
	*ret = (struct failure){
		.kind = kind,
		.err = answer->err,
		.is_unreachable = answer->status == 0,
		.retry_after_ms = answer->retry_after_ms,
	};
	memcpy(ret->type, answer->type, sizeof(ret->type));
	if (answer->type[0] != 0)
		text_format(ret->text, sizeof(ret->text), "%s: %s: %s", what, answer->type,
			    answer->text);
	else
		text_format(ret->text, sizeof(ret->text), "%s: %s", what, answer->text);
}

int64_t failure_draw_wait_ms(const struct failure *failure, uint32_t run)
{
	int64_t wait_ms = plan_backoff_ms(failure->kind, run, failure->retry_after_ms);
	int64_t drawn_ms = rand_jitter(wait_ms, JITTER_PERCENT);
	return drawn_ms < failure->retry_after_ms ? 2 * wait_ms - drawn_ms : drawn_ms;
}
