#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "smartproxy/fault.h"

#define FILE_MAX_BYTES ((size_t)1024 * 1024)

static enum err fail(struct text *reterr_text, const char *what, const char *name, int sys_errno)
{
	if (reterr_text != NULL)
		text_printf(reterr_text, "cannot %s %s in the state directory: %s", what, name,
			    strerrordesc_np(sys_errno));
	return ERR_STORE;
}

enum err files_open_dir(int dir_fd, const char *name, int *ret_fd, struct text *reterr_text)
{
	bool is_new = mkdirat(dir_fd, name, 0700) == 0;
	if (!is_new && errno != EEXIST)
		return fail(reterr_text, "make the directory", name, errno);
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(reterr_text, "open the directory", name, errno);
	if (is_new) {
		enum err e = files_sync(dir_fd, "the directory", reterr_text);
		if (e != ERR_OK) {
			close(fd);
			return e;
		}
	}
	*ret_fd = fd;
	return ERR_OK;
}

enum err files_sync(int fd, const char *name, struct text *reterr_text)
{
	if (fault_hits(FAULT_FSYNC))
		return fail(reterr_text, "sync", name, EIO);
	if (fsync(fd) < 0)
		return fail(reterr_text, "sync", name, errno);
	return ERR_OK;
}

enum err files_write(int fd, const char *name, const void *data, size_t len,
		     struct text *reterr_text)
{
	const char *at = data;
	if (fault_hits(FAULT_WRITE))
		return fail(reterr_text, "write", name, ENOSPC);
	while (len > 0) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(reterr_text, "write", name, errno);
		at += n;
		len -= (size_t)n;
	}
	return ERR_OK;
}

enum err files_create(int dir_fd, const char *name, const void *data, size_t len,
		      struct text *reterr_text)
{
	int fd = openat(dir_fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return fail(reterr_text, "create", name, errno);
	enum err e = files_write(fd, name, data, len, reterr_text);
	if (e == ERR_OK)
		e = files_sync(fd, name, reterr_text);
	if (close(fd) < 0 && e == ERR_OK)
		e = fail(reterr_text, "close", name, errno);
	if (e != ERR_OK)
		(void)unlinkat(dir_fd, name, 0);
	return e;
}

enum err files_replace(int dir_fd, const char *name, const void *data, size_t len,
		       struct text *reterr_text)
{
	char temporary[256];
	text_format(temporary, sizeof(temporary), ".%s.new", name);
	(void)unlinkat(dir_fd, temporary, 0);
	enum err e = files_create(dir_fd, temporary, data, len, reterr_text);
	if (e != ERR_OK)
		return e;
	if (renameat(dir_fd, temporary, dir_fd, name) < 0) {
		e = fail(reterr_text, "rename", name, errno);
		(void)unlinkat(dir_fd, temporary, 0);
		return e;
	}
	return files_sync(dir_fd, "the directory", reterr_text);
}

static enum err read_all(int fd, const char *name, struct text *ret_text, struct text *reterr_text)
{
	char chunk[8192];
	for (;;) {
		ssize_t n = read(fd, chunk, sizeof(chunk));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return fail(reterr_text, "read", name, errno);
		if (n == 0)
			break;
		text_add(ret_text, chunk, (size_t)n);
		if (ret_text->len > FILE_MAX_BYTES)
			return fail(reterr_text, "read", name, EFBIG);
	}
	explicit_bzero(chunk, sizeof(chunk));
	text_puts(ret_text, ""); /* an empty file gives "" */
	return ret_text->has_failed ? ERR_NOMEM : ERR_OK;
}

enum err files_read(int dir_fd, const char *name, struct text *ret_text, mode_t *ret_mode,
		    struct text *reterr_text)
{
	struct stat st = { 0 };
	int fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 && errno == ENOENT)
		return ERR_NOENT;
	if (fd < 0)
		return fail(reterr_text, "open", name, errno);
	enum err e = ERR_OK;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		e = fail(reterr_text, "read", name, EINVAL);
	else
		e = read_all(fd, name, ret_text, reterr_text);
	if (e == ERR_OK && ret_mode != NULL)
		*ret_mode = st.st_mode;
	close(fd);
	return e;
}

DIR *files_scan(int dir_fd, const char *name)
{
	int fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (dir == NULL && fd >= 0)
		close(fd);
	return dir;
}

const char *files_next(DIR *dir)
{
	const struct dirent *entry;
	do /* NOLINTNEXTLINE(concurrency-mt-unsafe): glibc's is safe, one thread has this stream */
		entry = readdir(dir);
	while (entry != NULL &&
	       (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0));
	return entry == NULL ? NULL : entry->d_name;
}

void files_remove_dir(int dir_fd, const char *name)
{
	const char *file;
	DIR *dir = files_scan(dir_fd, name);
	if (dir == NULL)
		return;
	while ((file = files_next(dir)) != NULL)
		(void)unlinkat(dirfd(dir), file, 0);
	closedir(dir);
	(void)unlinkat(dir_fd, name, AT_REMOVEDIR);
}

void files_wipe(struct text *t)
{
	if (t->data != NULL)
		explicit_bzero(t->data, t->cap);
	text_fini(t);
}
