/* What is refused for its bytes, in the log: a request's head at info, an answer's at warn, since there something of
 * ours does not work. Both sides choose how many there are, so a worker logs one a second of either kind; the next
 * line says how many were held back. Only the bytes of a head are shown: those of a body are nobody's business. */
#include <string.h>
#include <strings.h>

#include "proxy.h"
#include "smartproxy/text.h"

#define PAUSE_MS    1000
#define SHOWN_MAX   64 /* bytes of the head */
#define ESCAPED_MAX (SHOWN_MAX * 4 + 1)

/* Whether a line may be written now; *ret_held: those before it that might not. */
static bool may_log(struct worker *w, struct refusal_log *log, uint64_t *ret_held)
{
	int64_t now_ms = loop_now_ms(w->loop);
	if (log->has_logged && now_ms - log->logged_ms < PAUSE_MS) {
		log->held_cnt++;
		return false;
	}
	*ret_held = log->held_cnt;
	*log = (struct refusal_log){ .logged_ms = now_ms, .has_logged = true };
	return true;
}

/* As much as is shown: up to the name of a field that holds a secret. */
static size_t shown_len(const char *head, size_t len)
{
	static const char *const names[] = { "authorization", "cookie" };
	if (len > SHOWN_MAX)
		len = SHOWN_MAX;
	for (size_t at = 0; at < len; at++) {
		for (size_t i = 0; i < SP_ARRAY_LEN(names); i++) {
			size_t name_len = strlen(names[i]);
			if (len - at >= name_len && strncasecmp(head + at, names[i], name_len) == 0)
				return at + name_len;
		}
	}
	return len;
}

static const char *show(char *dst, const char *head, size_t len)
{
	return text_escape(dst, ESCAPED_MAX, head, shown_len(head, len));
}

void refusal_of_request(struct exchange *x, enum wire_reason reason, unsigned status,
			const char *head, size_t len)
{
	uint64_t held;
	uint64_t *rejects = x->worker->stats.rejects;
	stat_add(&rejects[(unsigned)reason % SP_ARRAY_LEN(x->worker->stats.rejects)], 1);
	if (!log_is_on(LOG_LEVEL_INFO) || !may_log(x->worker, &x->worker->refused_requests, &held))
		return;
	char client[ADDR_TEXT_MAX], bytes[ESCAPED_MAX];
	(void)addr_format(client, sizeof(client), &x->conn->client);
	log_info("proxy",
		 "request refused conn=%llu client=%s port=%u route=%s reason=%s status=%u "
		 "held_back=%llu bytes=\"%s\"",
		 (unsigned long long)x->conn->id, client, (unsigned)x->conn->port,
		 x->route == NULL ? "" : x->route->config->name, wire_reason_name(reason), status,
		 (unsigned long long)held, show(bytes, head, len));
}

void refusal_of_answer(struct exchange *x, const char *reason, const char *head, size_t len)
{
	uint64_t held;
	if (!log_is_on(LOG_LEVEL_WARN) || !may_log(x->worker, &x->worker->refused_answers, &held))
		return;
	char client[ADDR_TEXT_MAX], bytes[ESCAPED_MAX];
	(void)addr_format(client, sizeof(client), &x->conn->client);
	log_warn("proxy",
		 "answer of a target refused conn=%llu client=%s route=%s target=%s reason=\"%s\" "
		 "held_back=%llu bytes=\"%s\"",
		 (unsigned long long)x->conn->id, client, x->route->config->name, x->upstream_name,
		 reason, (unsigned long long)held, show(bytes, head, len));
}
