#include "listener_socket.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "port_holder.h"
#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "sock_diag.h"

#define DEFER_S            1
#define BIND_TRIES_MAX     3
#define BIND_RETRY_MS      5
#define CLOSE_DEADLINE_MS  1000
#define CLOSE_RETRY_MS_MAX 10

static uint64_t last_id; /* control thread */

struct held_set *held_set_new(const struct addr *addr, unsigned socket_cnt)
{
	if (fault_hits(FAULT_MALLOC))
		return NULL;
	struct held_set *held = calloc(1, sizeof(*held));
	if (held == NULL)
		return NULL;
	held->set.fds = calloc(socket_cnt, sizeof(*held->set.fds));
	held->inodes = calloc(socket_cnt, sizeof(*held->inodes));
	if (held->set.fds == NULL || held->inodes == NULL) {
		held_set_free(held);
		return NULL;
	}
	held->set.addr = *addr;
	held->set.socket_cnt = socket_cnt;
	held->set.id = ++last_id;
	for (unsigned i = 0; i < socket_cnt; i++)
		held->set.fds[i] = -1;
	return held;
}

static void close_sockets(struct held_set *held)
{
	for (unsigned i = 0; i < held->set.socket_cnt; i++) {
		if (held->set.fds[i] >= 0)
			(void)close(held->set.fds[i]);
		held->set.fds[i] = -1;
	}
}

void held_set_free(struct held_set *held)
{
	if (held == NULL)
		return;
	if (held->set.fds != NULL)
		close_sockets(held);
	free(held->set.fds);
	free(held->inodes);
	free(held);
}

bool held_set_has_inode(const struct held_set *held, uint32_t inode)
{
	for (unsigned i = 0; i < held->set.socket_cnt; i++) {
		if (held->inodes[i] == inode)
			return true;
	}
	return false;
}

static enum err classify(int sys_errno)
{
	switch (sys_errno) {
	case EADDRINUSE:
		return ERR_PORT_IN_USE;
	case EACCES:
	case EPERM:
		return ERR_PORT_DENIED;
	case EADDRNOTAVAIL:
	case EAFNOSUPPORT:
	case EINVAL: /* a link-local address without its interface */
		return ERR_ADDRESS;
	case EMFILE:
	case ENFILE:
		return ERR_LIMIT;
	case ENOMEM:
	case ENOBUFS:
		return ERR_NOMEM;
	default:
		return ERR_SYSTEM;
	}
}

static enum err report(const struct held_set *held, int sys_errno, struct port_error *reterr)
{
	struct port_error holder;
	if (sys_errno == EADDRINUSE &&
	    holder_find(&held->set.addr, true, NULL, NULL, &holder) == ERR_OK)
		*reterr = holder;
	else
		*reterr = (struct port_error){ .code = classify(sys_errno),
					       .addr = held->set.addr,
					       .sys_errno = sys_errno };
	return reterr->code;
}

static bool set_option(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

static bool is_dual(const struct addr *a)
{
	return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_UNSPECIFIED(&a->v6.sin6_addr);
}

/* -1 with errno set. */
static int open_socket(const struct addr *addr)
{
	int fd = socket(addr->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -1;
	/* Both are inherited by what is accepted; an urgent byte keeps its place among the others (RFC 6093, 6). */
	if (set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1) &&
	    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1) &&
	    set_option(fd, SOL_SOCKET, SO_OOBINLINE, 1) &&
	    (!is_dual(addr) || set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0)))
		return fd;
	int sys_errno = errno;
	(void)close(fd);
	errno = sys_errno;
	return -1;
}

/* Opens and binds socket ix; 0 or the errno. */
static int bind_socket(struct held_set *held, unsigned ix, const struct addr *addr,
		       bool is_exclusive, uint64_t *bind_cnt)
{
	int fd = open_socket(addr);
	if (fd < 0)
		return errno;
	struct stat st;
	(*bind_cnt)++;
	if (fstat(fd, &st) == 0 && (is_exclusive || set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1)) &&
	    bind(fd, &addr->sa, addr->len) == 0 &&
	    (!is_exclusive || set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1))) {
		held->set.fds[ix] = fd;
		held->inodes[ix] = (uint32_t)st.st_ino;
		return 0;
	}
	int sys_errno = errno;
	(void)close(fd);
	return sys_errno;
}

/* Whether the conflict may pass by itself: nobody else is in the way (a socket of ours is being
 * closed). */
static bool is_passing(const struct port_error *e)
{
	return e->code == ERR_PORT_IN_USE && (!e->is_holder_known || e->is_holder_ours);
}

static enum err bind_first(struct held_set *held, struct addr *addr, bool is_shared,
			   uint64_t *bind_cnt, struct port_error *reterr)
{
	enum err e = ERR_OK;
	for (int tries = 0; tries < BIND_TRIES_MAX; tries++) {
		if (tries > 0)
			(void)poll(NULL, 0, BIND_RETRY_MS);
		int sys_errno = bind_socket(held, 0, addr, !is_shared, bind_cnt);
		if (is_dual(addr) && (sys_errno == EAFNOSUPPORT || sys_errno == EADDRNOTAVAIL)) {
			/* A machine without IPv6: all of IPv4 is what is left of "*". */
			uint16_t port = addr_port(addr);
			*addr = (struct addr){ .v4.sin_family = AF_INET, .len = sizeof(addr->v4) };
			addr_set_port(addr, port);
			sys_errno = bind_socket(held, 0, addr, !is_shared, bind_cnt);
		}
		if (sys_errno == 0)
			return ERR_OK;
		e = report(held, sys_errno, reterr);
		if (!is_passing(reterr))
			break;
	}
	return e;
}

static bool hits_fault(const struct held_set *held, struct port_error *reterr)
{
	if (!fault_hits(FAULT_BIND))
		return false;
	*reterr = (struct port_error){ .code = ERR_PORT_IN_USE,
				       .addr = held->set.addr,
				       .sys_errno = EADDRINUSE };
	return true;
}

enum err held_set_bind(struct held_set *held, bool is_shared, uint64_t *bind_cnt,
		       struct port_error *reterr)
{
	struct addr addr = held->set.addr;
	enum err e = hits_fault(held, reterr)
			     ? ERR_PORT_IN_USE
			     : bind_first(held, &addr, is_shared, bind_cnt, reterr);
	for (unsigned i = 1; e == ERR_OK && i < held->set.socket_cnt; i++) {
		if (hits_fault(held, reterr)) {
			e = ERR_PORT_IN_USE;
			break;
		}
		int sys_errno = bind_socket(held, i, &addr, false, bind_cnt);
		if (sys_errno != 0)
			e = report(held, sys_errno, reterr);
	}
	if (e != ERR_OK)
		close_sockets(held);
	return e;
}

void listeners_defer(struct listener_set *set, bool is_wanted)
{
	if (set->is_deferred == is_wanted)
		return;
	bool is_deferred = false; /* one of them at least */
	for (unsigned i = 0; i < set->socket_cnt; i++)
		is_deferred |= set_option(set->fds[i], IPPROTO_TCP, TCP_DEFER_ACCEPT,
					  is_wanted ? DEFER_S : 0) == is_wanted;
	set->is_deferred = is_deferred;
}

enum err held_set_listen(struct held_set *held, int backlog, struct port_error *reterr)
{
	for (unsigned i = 0; i < held->set.socket_cnt; i++) {
		if (listen(held->set.fds[i], backlog) != 0)
			return report(held, errno, reterr);
	}
	held->set.opened_unix_s = clock_unix_s();
	return ERR_OK;
}

struct verification {
	const struct held_set *held;
	bool is_seen;
};

static void look_for_own(void *arg, const struct diag_socket *seen)
{
	struct verification *v = arg;
	if (seen->inode != 0 && held_set_has_inode(v->held, seen->inode))
		v->is_seen = true;
}

enum err held_set_close(struct held_set *held, struct port_error *reterr)
{
	close_sockets(held);
	int64_t deadline_ms = clock_now_ms() + CLOSE_DEADLINE_MS;
	for (int wait_ms = 1;;
	     wait_ms = wait_ms * 2 < CLOSE_RETRY_MS_MAX ? wait_ms * 2 : CLOSE_RETRY_MS_MAX) {
		struct verification v = { .held = held };
		enum err e =
			diag_visit(addr_port(&held->set.addr), DIAG_LISTENING, look_for_own, &v);
		if (e !=
		    ERR_OK) /* nothing to look at here: the count of closed descriptors has to do */
			return ERR_OK;
		if (!v.is_seen)
			return ERR_OK;
		if (clock_now_ms() >= deadline_ms)
			break;
		/* Some other reference is about to go (an accept under way); the kernel tells
		 * nobody when. */
		(void)poll(NULL, 0, wait_ms);
	}
	*reterr = (struct port_error){ .code = ERR_VERIFY, .addr = held->set.addr };
	return ERR_VERIFY;
}
