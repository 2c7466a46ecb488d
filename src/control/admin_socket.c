#include "admin_socket.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smartproxy/log.h"

#define ROOM    "control"
#define BACKLOG 128

static enum err refuse(const struct sockaddr_un *addr, enum err e, const char *why,
		       const char *then)
{
	log_error(ROOM, "start failed: control socket %s: %s: %s", addr->sun_path, why, then);
	return e;
}

/* What to do about a system call that failed. */
static const char *advice(int sys_errno)
{
	switch (sys_errno) {
	case EACCES:
	case EPERM:
	case EROFS:
		return "the user that smartproxy runs as has to be able to write to its folder";
	case ENOENT:
	case ENOTDIR:
		return "make its folder, or change global.control.path";
	case EMFILE:
	case ENFILE:
		return "raise LimitNOFILE or ulimit -n";
	default:
		return "change global.control.path";
	}
}

static enum err fail(const struct sockaddr_un *addr, int sys_errno)
{
	return refuse(addr, ERR_SYSTEM, strerrordesc_np(sys_errno), advice(sys_errno));
}

/* 0, or the errno: ECONNREFUSED when nobody listens there any more (an earlier run was killed). */
static int ask(int fd, const struct sockaddr_un *addr)
{
	return connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 ? 0 : errno;
}

static enum err remove_stale(const struct sockaddr_un *addr)
{
	struct stat st;
	if (lstat(addr->sun_path, &st) != 0)
		return ERR_OK; /* bind says what else is wrong */
	if (!S_ISSOCK(st.st_mode))
		return refuse(addr, ERR_EXISTS, "there is a file of that name that is no socket",
			      "remove it or change global.control.path");
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(addr, errno);
	int answer = ask(fd, addr);
	(void)close(fd);
	if (answer == 0 || answer == EAGAIN)
		return refuse(addr, ERR_LOCKED, "another process answers on it",
			      "stop it or change global.control.path");
	if (answer != ECONNREFUSED && answer != ENOENT)
		return refuse(addr, ERR_LOCKED, strerrordesc_np(answer),
			      "it cannot be seen whether another process answers on it; remove it, "
			      "or change global.control.path");
	return unlink(addr->sun_path) == 0 || errno == ENOENT ? ERR_OK : fail(addr, errno);
}

static enum err listen_on(const struct sockaddr_un *addr, unsigned mode, int *ret_fd)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return fail(addr, errno);
	mode_t old = umask((mode_t)(~mode & 0777));
	bool is_bound = bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0;
	int bind_errno = errno;
	(void)umask(old);
	if (is_bound && listen(fd, BACKLOG) == 0) {
		*ret_fd = fd;
		return ERR_OK;
	}
	int sys_errno = is_bound ? errno : bind_errno;
	if (is_bound)
		(void)unlink(addr->sun_path);
	(void)close(fd);
	return fail(addr, sys_errno);
}

enum err admin_socket_open(const char *path, unsigned mode, struct admin_socket *ret_socket)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct admin_socket opened = { .fd = -1 };
	struct stat st;
	size_t len = strlen(path);
	if (len >= sizeof(addr.sun_path)) {
		log_error(ROOM,
			  "start failed: control socket %s: the path is longer than %zu bytes",
			  path, sizeof(addr.sun_path) - 1);
		return ERR_INVALID;
	}
	memcpy(addr.sun_path, path, len + 1);
	memcpy(opened.path, path, len + 1);
	enum err e = remove_stale(&addr);
	if (e == ERR_OK)
		e = listen_on(&addr, mode, &opened.fd);
	if (e != ERR_OK)
		return e;
	if (lstat(path, &st) == 0) {
		opened.dev = st.st_dev;
		opened.ino = st.st_ino;
	}
	*ret_socket = opened;
	return ERR_OK;
}

void admin_socket_close(struct admin_socket *socket)
{
	struct stat st;
	(void)close(socket->fd);
	if (lstat(socket->path, &st) == 0 && st.st_dev == socket->dev && st.st_ino == socket->ino)
		(void)unlink(socket->path);
}
