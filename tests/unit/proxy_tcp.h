#pragma once
/* Raw TCP routes in a test's proxy, and what its origins do. Include in one .c file. */
#include <signal.h>

#include "proxy_rig.h"

static struct rig rig;
static struct origin origin;

/* A proxy with one raw TCP route to port. more: keys of the action; settings: keys before the routes. */
static inline void start_tcp_to(uint16_t target_port, const char *settings, const char *target,
				const char *more)
{
	uint16_t port = free_port();
	char listeners[256] = "";
	if (strncmp(settings, "trusted ", 8) == 0) {
		(void)snprintf(listeners, sizeof(listeners),
			       "listeners: ( { ports = [ %u ]; address = \"127.0.0.1\"; "
			       "proxy_protocol = { trusted = [ \"%s\" ]; }; } );",
			       (unsigned)port, settings + 8);
		settings = listeners;
	}
	rig_start(&rig,
		  load_text("%s routes: ( { name = \"tcp\"; %s match = { address = \"127.0.0.1\"; "
			    "ports = [ %u ]; }; action = { type = \"forward\"; protocol = \"tcp\"; "
			    "targets = ( { host = \"127.0.0.1\"; port = %u; %s } ); }; } );",
			    settings, more, (unsigned)port, (unsigned)target_port, target),
		  port);
}

static inline void start_tcp(void (*serve)(struct origin *o, struct side *s, unsigned nth),
			     const char *settings, const char *target)
{
	origin_start(&origin, serve);
	start_tcp_to(origin.port, settings, target, "");
}

static inline void stop(void)
{
	rig_stop(&rig);
	origin_stop(&origin);
}

static inline uint64_t ends_of(enum exchange_end end)
{
	return rig_stats(&rig).conn_ends[end];
}

static inline void await_end(enum exchange_end end, uint64_t cnt)
{
	for (int64_t until_ms = clock_now_ms() + PATIENCE_MS; clock_now_ms() < until_ms; nap()) {
		if (ends_of(end) == cnt)
			return;
	}
	struct worker_stats stats = rig_stats(&rig);
	for (int i = 0; i < EXCHANGE_END_CNT; i++) {
		if (stats.conn_ends[i] > 0)
			printf("# %s: %llu\n", exchange_end_name((enum exchange_end)i),
			       (unsigned long long)stats.conn_ends[i]);
	}
	ck_abort_msg("%s: %llu, wanted %llu", exchange_end_name(end),
		     (unsigned long long)ends_of(end), (unsigned long long)cnt);
}

static inline void await_open(uint64_t cnt)
{
	int64_t until_ms = clock_now_ms() + PATIENCE_MS;
	while (rig_stats(&rig).connections_open != cnt && clock_now_ms() < until_ms)
		nap();
	ck_assert_uint_eq(rig_stats(&rig).connections_open, cnt);
}

static inline bool gives(struct side *s, const char *text)
{
	size_t len = side_until(s, text);
	bool is_same = len == strlen(text);
	side_use(s, len);
	return is_same;
}

/* ---- origins ---- */

static inline void serve_echo(struct origin *o, struct side *s, unsigned nth)
{
	(void)o, (void)nth;
	while (side_fill(s) > 0) {
		if (!side_send(s, s->data, s->len))
			return;
		side_use(s, s->len);
	}
}

static inline void set_reset(int fd)
{
	const struct linger reset = { .l_onoff = 1 };
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
}

/* A reset at once, without a close: others may still have a look at the descriptor. */
static inline void break_off(int fd)
{
	const struct sockaddr none = { .sa_family = AF_UNSPEC };
	SP_ASSERT(connect(fd, &none, sizeof(none)) == 0);
}
