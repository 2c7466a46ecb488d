#include "port_holder.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sock_diag.h"

struct candidate {
	struct diag_socket socket;
	bool is_held; /* by the process that was looked at last */
};

struct finding {
	const struct addr *wanted;
	bool (*is_own)(void *arg, uint32_t inode);
	void *arg;
	struct candidate *seen; /* those in the way */
	size_t cnt, cap;
	bool has_failed; /* no memory */
};

static void collect(void *arg, const struct diag_socket *seen)
{
	struct finding *f = arg;
	if (!diag_conflicts(seen, f->wanted) ||
	    (f->is_own != NULL && f->is_own(f->arg, seen->inode)))
		return;
	if (f->cnt == f->cap) {
		size_t cap = f->cap == 0 ? 16 : f->cap * 2;
		struct candidate *grown = realloc(f->seen, cap * sizeof(*grown));
		if (grown == NULL) {
			f->has_failed = true;
			return;
		}
		f->seen = grown;
		f->cap = cap;
	}
	f->seen[f->cnt++] = (struct candidate){ .socket = *seen };
}

/* The inode behind an entry of a /proc/PID/fd directory; 0: not a socket. */
static uint32_t read_inode(int dir_fd, const char *entry)
{
	static const char prefix[] = "socket:[";
	char link[64];
	ssize_t len = readlinkat(dir_fd, entry, link, sizeof(link) - 1);
	if (len <= 0)
		return 0;
	link[len] = '\0';
	if (strncmp(link, prefix, sizeof(prefix) - 1) != 0)
		return 0;
	return (uint32_t)strtoul(link + sizeof(prefix) - 1, NULL, 10);
}

static const struct dirent *next_entry(DIR *dir)
{
	return readdir(dir); /* NOLINT(concurrency-mt-unsafe): the DIR is its caller's alone */
}

/* Marks which of the cnt sockets the process of this /proc directory holds; returns how many. */
static size_t mark_held(int proc_fd, const char *pid, struct candidate *seen, size_t cnt)
{
	size_t held_cnt = 0;
	int fd = openat(proc_fd, pid, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	int list_fd = openat(fd, "fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	(void)close(fd);
	DIR *dir = list_fd >= 0 ? fdopendir(list_fd) : NULL;
	if (dir == NULL) {
		if (list_fd >= 0)
			(void)close(list_fd);
		return 0;
	}
	for (const struct dirent *entry; held_cnt < cnt && (entry = next_entry(dir)) != NULL;) {
		uint32_t inode = read_inode(dirfd(dir), entry->d_name);
		for (size_t i = 0; inode != 0 && i < cnt; i++) {
			if (seen[i].socket.inode != inode || seen[i].is_held)
				continue;
			seen[i].is_held = true;
			held_cnt++;
		}
	}
	(void)closedir(dir);
	return held_cnt;
}

static void read_name(int proc_fd, const char *pid, char *dst, size_t cap)
{
	char path[64];
	char name[32] = "";
	(void)text_format(path, sizeof(path), "%s/comm", pid);
	int fd = openat(proc_fd, path, O_RDONLY | O_CLOEXEC);
	ssize_t len = fd >= 0 ? read(fd, name, sizeof(name) - 1) : 0;
	if (fd >= 0)
		(void)close(fd);
	if (len > 0 && name[len - 1] == '\n')
		len--;
	(void)text_escape(dst, cap, name, len > 0 ? (size_t)len : 0);
}

/* The process with the lowest id that has the socket; of a forked family that is the one to stop.
 */
static void name_process(DIR *proc, const struct diag_socket *socket, struct port_error *e)
{
	for (const struct dirent *entry; (entry = next_entry(proc)) != NULL;) {
		struct candidate wanted = { .socket = *socket };
		if (!isdigit((unsigned char)entry->d_name[0]) ||
		    mark_held(dirfd(proc), entry->d_name, &wanted, 1) == 0)
			continue;
		pid_t pid = (pid_t)strtol(entry->d_name, NULL, 10);
		if (e->holder_pid != 0 && e->holder_pid < pid)
			continue;
		e->holder_pid = pid;
		read_name(dirfd(proc), entry->d_name, e->holder_name, sizeof(e->holder_name));
	}
}

static void describe(struct finding *f, struct port_error *e)
{
	DIR *proc = opendir("/proc");
	const struct candidate *holder = f->seen;
	if (proc != NULL)
		(void)mark_held(dirfd(proc), "self", f->seen, f->cnt);
	for (size_t i = 0; holder->is_held && i < f->cnt; i++) {
		if (!f->seen[i].is_held)
			holder = &f->seen[i];
	}
	e->is_holder_known = true;
	e->is_holder_ours = holder->is_held;
	e->holder_uid = holder->socket.uid;
	(void)addr_format(e->holder_addr, sizeof(e->holder_addr), &holder->socket.addr);
	if (proc == NULL)
		return;
	if (e->is_holder_ours) {
		e->holder_pid = getpid();
		read_name(dirfd(proc), "self", e->holder_name, sizeof(e->holder_name));
	} else if (holder->socket.inode != 0) {
		name_process(proc, &holder->socket, e);
	}
	(void)closedir(proc);
}

enum err holder_find(const struct addr *addr, bool wants_all,
		     bool (*is_own)(void *arg, uint32_t inode), void *arg,
		     struct port_error *ret_holder)
{
	struct finding f = { .wanted = addr, .is_own = is_own, .arg = arg };
	enum err e = diag_visit(addr_port(addr), DIAG_LISTENING, collect, &f);
	if (e == ERR_OK && f.cnt == 0 && wants_all)
		e = diag_visit(addr_port(addr), DIAG_NOT_LISTENING, collect, &f);
	if (e == ERR_OK && f.cnt == 0)
		e = f.has_failed ? ERR_NOMEM : ERR_NOENT;
	if (e == ERR_OK) {
		*ret_holder = (struct port_error){ .code = ERR_PORT_IN_USE,
						   .addr = *addr,
						   .sys_errno = EADDRINUSE };
		describe(&f, ret_holder);
	}
	free(f.seen);
	return e;
}

enum err port_find_holder(const struct addr *addr, struct port_error *ret_holder)
{
	return holder_find(addr, false, NULL, NULL, ret_holder);
}
