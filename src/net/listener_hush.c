/* Sets that are about to close take no new connection. */
#include <linux/filter.h>
#include <poll.h>
#include <sys/socket.h>

#include "smartproxy/assert.h"
#include "smartproxy/listener.h"

/* For the last ACK of handshakes whose SYN came before. */
#define HUSH_MS 10

/* A socket filter of a TCP socket sees the segment from its TCP header on (RFC 9293, 3.1): a SYN
 * without ACK is dropped, all else passes, so that handshakes under way end. */
#define TCP_FLAGS_AT 13
#define TCP_SYN      0x02
#define TCP_SYN_ACK  0x12

void listeners_hush(struct listener_set *const *sets, size_t cnt)
{
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, TCP_FLAGS_AT),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, TCP_SYN_ACK),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, TCP_SYN, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, 0xffffffffU),
	};
	const struct sock_fprog program = { .len = SP_ARRAY_LEN(code), .filter = code };
	/* A kernel that refuses the filter costs the connections of some microseconds, no more. */
	for (size_t i = 0; i < cnt; i++) {
		listeners_defer(sets[i], false);
		for (unsigned k = 0; k < sets[i]->socket_cnt; k++)
			(void)setsockopt(sets[i]->fds[k], SOL_SOCKET, SO_ATTACH_FILTER, &program,
					 sizeof(program));
	}
	if (cnt > 0)
		(void)poll(NULL, 0, HUSH_MS);
}

void listeners_unhush(struct listener_set *set)
{
	int unused = 0;
	for (unsigned k = 0; k < set->socket_cnt; k++)
		(void)setsockopt(set->fds[k], SOL_SOCKET, SO_DETACH_FILTER, &unused,
				 sizeof(unused));
}
