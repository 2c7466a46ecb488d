#pragma once
/* net, private: the kernel's TCP sockets of one local port, by NETLINK_SOCK_DIAG, else by
 * /proc/net/tcp and tcp6. Threads: any. */
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>

#include "smartproxy/addr.h"

/* One bit a state (1 << TCP_LISTEN); bit 13 is "bound, neither listening nor connected", known to
 * Linux 6.8 and later. */
#define DIAG_LISTENING     (1U << TCP_LISTEN)
#define DIAG_NOT_LISTENING (((1U << 14) - 1) & ~DIAG_LISTENING & ~(1U << TCP_TIME_WAIT))

struct diag_socket {
	struct addr addr; /* mapped IPv6 is IPv4 */
	bool is_v6only;
	uint32_t uid;
	uint32_t inode; /* 0: none, a socket of the kernel's own or one that no process holds any
			   more */
};

/* Calls visit for each socket of both families. ERR_SYSTEM: the kernel would not tell. */
enum err diag_visit(uint16_t port, uint32_t states,
		    void (*visit)(void *arg, const struct diag_socket *seen), void *arg)
	SP_MUST_USE;
/* Whether a socket bound as seen keeps wanted from being bound (without SO_REUSEPORT). "::" takes
 * IPv4 as well. */
bool diag_conflicts(const struct diag_socket *seen, const struct addr *wanted);
