#include "smartproxy/socket.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <string.h>
#include <unistd.h>

#include "smartproxy/fault.h"

enum step socket_recv(int fd, void *dst, size_t cap, size_t *ret_len)
{
	ssize_t n;
	do {
		n = recv(fd, dst, cap, 0);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? STEP_READ : STEP_FAIL;
	if (n == 0)
		return STEP_EOF;
	*ret_len = (size_t)n;
	return STEP_DONE;
}

static enum step send_with(int fd, const void *src, size_t len, int flags, size_t *ret_len)
{
	ssize_t n;
	do {
		n = send(fd, src, len, flags | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN || errno == EWOULDBLOCK ? STEP_WRITE : STEP_FAIL;
	*ret_len = (size_t)n;
	return STEP_DONE;
}

enum step socket_send(int fd, const void *src, size_t len, size_t *ret_len)
{
	return send_with(fd, src, len, 0, ret_len);
}

enum step socket_send_last(int fd, const void *src, size_t len, size_t *ret_len)
{
	return send_with(fd, src, len, MSG_MORE, ret_len);
}

unsigned socket_queue_len(int listen_fd)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);
	if (getsockopt(listen_fd, IPPROTO_TCP, TCP_INFO, &info, &len) != 0 ||
	    info.tcpi_state != TCP_LISTEN)
		return 1;
	return info.tcpi_unacked;
}

/* Returns an errno, 0: begun. Urgent bytes keep their place among the others (RFC 6093, 6). */
static int begin(int fd, const struct addr *addr, bool has_first_bytes)
{
	int one = 1, zero = 0;
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	(void)setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &one, sizeof(one));
	if (has_first_bytes)
		(void)setsockopt(fd, IPPROTO_TCP, TCP_QUICKACK, &zero, sizeof(zero));
	if (fault_hits(FAULT_CONNECT))
		return ECONNREFUSED;
	return connect(fd, &addr->sa, addr->len) == 0 || errno == EINPROGRESS ? 0 : errno;
}

void socket_keep_alive(int fd)
{
	int one = 1;
	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
}

enum err socket_connect(const struct addr *addr, bool has_first_bytes, int *ret_fd,
			const char **reterr_why)
{
	int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0) {
		*reterr_why = strerrordesc_np(errno);
		return errno == EAFNOSUPPORT ? ERR_NETWORK : ERR_LIMIT;
	}
	int error = begin(fd, addr, has_first_bytes);
	if (error == 0) {
		*ret_fd = fd;
		return ERR_OK;
	}
	(void)close(fd);
	*reterr_why = strerrordesc_np(error);
	bool is_own_lack =
		error == EADDRNOTAVAIL || error == EAGAIN || error == ENOBUFS || error == ENOMEM;
	return is_own_lack ? ERR_LIMIT : ERR_NETWORK;
}

enum step socket_connect_look(int fd, const char **reterr_why)
{
	if (send(fd, NULL, 0, MSG_NOSIGNAL) == 0)
		return STEP_DONE;
	if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)
		return STEP_WRITE;
	*reterr_why = strerrordesc_np(errno);
	return STEP_FAIL;
}

enum err socket_connect_result(int fd, const char **reterr_why)
{
	int error = 0;
	socklen_t len = sizeof(error);
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0)
		error = errno;
	if (error == 0)
		return ERR_OK;
	*reterr_why = strerrordesc_np(error);
	return error == ETIMEDOUT ? ERR_TIMEOUT : ERR_NETWORK;
}
