#pragma once
/* net, private: one c-ares channel on the loop: its sockets, its timer, its end. */
#include <ares.h>
#include <stdbool.h>

#include "smartproxy/err.h"
#include "smartproxy/list.h"
#include "smartproxy/loop.h"
#include "smartproxy/resolver.h"

/* Freed by itself once it is retired and no look-up is left. */
struct dns_channel {
	struct list link; /* the owner's */
	struct loop *loop;
	ares_channel ares;
	struct timer timer; /* armed exactly while c-ares waits for an answer */
	struct list sockets;
	unsigned lookup_cnt; /* held by: each look-up that c-ares has */
	unsigned depth;      /* calls of c-ares under way */
	bool is_retired;
};

/* ERR_INVALID: a server that is no address; ERR_NOMEM, ERR_SYSTEM. */
enum err dns_channel_open(struct loop *loop, const struct resolver_settings *settings,
			  struct dns_channel **ret_channel) SP_MUST_USE;
/* Ends what is under way: its callbacks come with ARES_EDESTRUCTION. NULL is fine. */
void dns_channel_close(struct dns_channel *channel);
/* No look-up is started on it any more. NULL is fine. */
void dns_channel_retire(struct dns_channel *channel);
/* Around each call of c-ares, since callbacks may come from there. The channel may be gone after
 * dns_channel_leave. */
void dns_channel_enter(struct dns_channel *channel);
void dns_channel_leave(struct dns_channel *channel);
/* fd -1: only what has timed out. The channel may be gone afterwards. */
void dns_channel_step(struct dns_channel *channel, int fd, bool is_readable, bool is_writable);

struct pollfd;
/* Appends the sockets to fds, at most cap. Returns their number. */
size_t dns_channel_poll(const struct dns_channel *channel, struct pollfd *fds, size_t cap);
/* When c-ares has something to do without an event; -1: nothing is under way. */
int64_t dns_channel_left_ms(const struct dns_channel *channel);
