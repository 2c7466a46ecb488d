#pragma once
/* What the origins and the steady clients of proxy_test.c do with a connection. */
#include "proxy_rig.h"

#define BIG_BYTES (1024 * 1024)

static inline char big_byte(size_t i)
{
	return (char)('a' + i * 7 % 23);
}

static inline void send_big(struct side *s, bool is_chunked)
{
	char block[10007];
	for (size_t at = 0; at < BIG_BYTES;) {
		size_t len = BIG_BYTES - at < sizeof(block) ? BIG_BYTES - at : sizeof(block);
		for (size_t i = 0; i < len; i++)
			block[i] = big_byte(at + i);
		char head[16];
		(void)snprintf(head, sizeof(head), "%zx\r\n", len);
		if (!side_send(s, head, is_chunked ? strlen(head) : 0) ||
		    !side_send(s, block, len) || !side_puts(s, is_chunked ? "\r\n" : ""))
			return;
		at += len;
	}
	(void)side_puts(s, is_chunked ? "0\r\n\r\n" : "");
}

static inline unsigned big_sum(void)
{
	unsigned sum = 0;
	for (size_t i = 0; i < BIG_BYTES; i++)
		sum = sum * 31 + (unsigned char)big_byte(i);
	return sum;
}

/* Answers with what it got: "METHOD TARGET bytes sum"; /big and /big-chunked send a MiB. */
static inline void serve_report(struct origin *o, struct side *s, unsigned nth)
{
	(void)nth;
	struct message m;
	char text[8192], head[128];
	while (take_message(s, &m, true)) {
		__atomic_fetch_add(&o->request_cnt, 1, __ATOMIC_RELAXED);
		int line = (int)strcspn(m.head, "\r");
		if (strncmp(m.head, "GET /big", 8) == 0) {
			bool is_chunked = strncmp(m.head, "GET /big-chunked", 16) == 0;
			(void)snprintf(head, sizeof(head),
				       is_chunked ? "Transfer-Encoding: chunked"
						  : "Content-Length: %d",
				       BIG_BYTES);
			(void)snprintf(text, sizeof(text), "HTTP/1.1 200 OK\r\n%s\r\n\r\n", head);
			(void)side_puts(s, text);
			send_big(s, is_chunked);
			continue;
		}
		(void)snprintf(text, sizeof(text), "%.*s %zu %u%s", line - 9, m.head, m.body_len,
			       m.body_sum, m.trailer);
		(void)snprintf(head, sizeof(head), "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n",
			       strlen(text));
		if (!side_puts(s, head) || !side_puts(s, text))
			return;
	}
}

/* Bodies of lengths around a buffer's, chunked, with a trailer. */
static inline void serve_trailers(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	struct message m;
	char *text = malloc(40000), *pad = malloc(20000);
	memset(pad, 'p', 20000);
	while (take_message(s, &m, true)) {
		int len = (int)strtol(m.head + 5, NULL, 10);
		(void)snprintf(
			text, 40000,
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: "
			"chunked\r\n\r\n%x\r\n%.*s\r\n0\r\nX-T: a trailer of some length\r\n\r\n",
			len, len, pad);
		(void)side_puts(s, text);
	}
	free(text);
	free(pad);
}

/* The first connection answers one request, then ends at the second: before any byte, or in its
 * head. */
static inline void serve_stale(struct origin *o, struct side *s, unsigned nth)
{
	struct message m;
	for (unsigned i = 0; take_message(s, &m, true); i++) {
		__atomic_fetch_add(&o->request_cnt, 1, __ATOMIC_RELAXED);
		if (nth == 0 && i == 1) {
			(void)side_puts(s, o->arg);
			return;
		}
		(void)side_puts(s, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
	}
}

/* More than was framed: those bytes are nobody's answer. */
static inline void serve_excess(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	struct message m;
	char *text = calloc(1, 50000);
	while (take_message(s, &m, true)) {
		int len = snprintf(text, 50000, "HTTP/1.1 200 OK\r\nContent-Length: 40000\r\n\r\n");
		memset(text + len, 'b', 40000);
		(void)snprintf(text + len + 40000, 50,
			       "HTTP/1.1 418 Not Yours\r\nContent-Length: 0\r\n\r\n");
		(void)side_puts(s, text);
	}
	free(text);
}

/* Answers before it has read the body, and reads no more. */
static inline void serve_early(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	struct message m;
	if (!take_head(s, &m))
		return;
	(void)side_puts(s, "HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge");
	(void)side_until(s, "never");
}

static inline void serve_silence(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	(void)side_until(s, "never");
}

/* ---- clients that ask on and on ---- */

#define GET   "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n"
#define GET10 "GET /x HTTP/1.0\r\nHost: a.example\r\n\r\n"

struct asker {
	pthread_t thread;
	const struct rig *rig;
	bool wants_new;   /* a connection for each request */
	bool is_stubborn; /* goes on when refused or lost */
	unsigned asked;
	unsigned answered; /* atomic */
	bool has_ended;    /* atomic */
};
static bool is_over; /* atomic */

static inline void *keep_asking(void *arg)
{
	struct asker *a = arg;
	struct message *m = malloc(sizeof(*m));
	struct side *s = NULL;
	while (!__atomic_load_n(&is_over, __ATOMIC_RELAXED)) {
		if (s == NULL)
			s = rig_connect(a->rig);
		if (s == NULL && a->is_stubborn)
			continue;
		if (s == NULL)
			break;
		a->asked++;
		if (!ask(s,
			 a->asked % 2 == 0
				 ? GET
				 : "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
			 m) ||
		    m->status != 200 || m->has_closing) {
			if (!a->is_stubborn)
				break;
			side_free(s);
			s = NULL;
			continue;
		}
		__atomic_fetch_add(&a->answered, 1, __ATOMIC_RELAXED);
		if (a->wants_new) {
			side_free(s);
			s = NULL;
		}
	}
	if (s != NULL)
		side_free(s);
	free(m);
	__atomic_store_n(&a->has_ended, true, __ATOMIC_RELAXED);
	return NULL;
}

/* Every asker has that many answers, or has given up. */
static inline bool have_answers(const struct asker *askers, size_t cnt, unsigned wanted)
{
	for (size_t i = 0; i < cnt; i++) {
		if (__atomic_load_n(&askers[i].answered, __ATOMIC_RELAXED) < wanted &&
		    !__atomic_load_n(&askers[i].has_ended, __ATOMIC_RELAXED))
			return false;
	}
	return true;
}
