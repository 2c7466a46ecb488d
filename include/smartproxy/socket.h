#pragma once
/* net: calls on TCP sockets that do not block. Threads: any, one at a time for a socket. Security: what they
 * read comes from a network. */
#include <stdbool.h>
#include <stddef.h>

#include "smartproxy/addr.h"
#include "smartproxy/err.h"

/* One recv or send, again after a signal. STEP_DONE with *ret_len, STEP_READ or STEP_WRITE, STEP_EOF (recv),
 * STEP_FAIL. Never SIGPIPE. */
enum step socket_recv(int fd, void *dst, size_t cap, size_t *ret_len);
enum step socket_send(int fd, const void *src, size_t len, size_t *ret_len);
/* As socket_send, when more of the last bytes or the end follows at once: the kernel may hold back a segment that is
 * not full (for 200 ms at most), and the FIN goes in the last one. */
enum step socket_send_last(int fd, const void *src, size_t len, size_t *ret_len);

/* Connections that wait to be accepted; 1 when the kernel does not say. */
unsigned socket_queue_len(int listen_fd);
/* Begins to connect; the caller owns the descriptor, which is writable or broken when it is decided. ERR_NETWORK:
 * refused at once, which is the other side's fault, *reterr_why (static) says how; ERR_LIMIT: this machine has no
 * descriptor, port or memory left. has_first_bytes: they follow as soon as it is writable, and the ACK that ends the
 * handshake goes with them (without them it would come 200 ms late). */
enum err socket_connect(const struct addr *addr, bool has_first_bytes, int *ret_fd,
			const char **reterr_why) SP_MUST_USE;
/* The kernel asks now and then whether the other side is still there. */
void socket_keep_alive(int fd);
/* Whether it stands already, as it does on this machine: a send of nothing, which does nothing else. STEP_DONE;
 * STEP_WRITE: not yet; STEP_FAIL: refused, *reterr_why (static) says how, and the socket no more. */
enum step socket_connect_look(int fd, const char **reterr_why);
/* What became of it. ERR_TIMEOUT, ERR_NETWORK: *reterr_why (static) says how. */
enum err socket_connect_result(int fd, const char **reterr_why) SP_MUST_USE;
