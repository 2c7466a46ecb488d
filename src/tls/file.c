#include "file.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "smartproxy/fault.h"

#define FILE_BYTES_MAX 1048576L

void tls_file_fini(struct tls_file *c)
{
	if (c->data != NULL)
		OPENSSL_cleanse(c->data, c->len);
	free(c->data);
}

static enum err complain_errno(const char *what, const char *file, int code,
			       struct text *reterr_text)
{
	char why[128];
	if (reterr_text != NULL)
		text_printf(reterr_text, "cannot %s %s: %s", what, file,
			    strerror_r(code, why, sizeof(why)));
	return code == ENOENT || code == ENOTDIR ? ERR_NOENT : ERR_SYSTEM;
}

static enum err read_all(int fd, const char *file, struct tls_file *c, struct text *reterr_text)
{
	size_t done = 0;
	while (done < c->len) {
		ssize_t n = read(fd, c->data + done, c->len - done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return complain_errno("read", file, errno, reterr_text);
		if (n == 0)
			break; /* truncated meanwhile: the parser will say what is missing */
		done += (size_t)n;
	}
	c->len = done;
	return ERR_OK;
}

static enum err read_open_file(int fd, const char *file, struct tls_file *c,
			       struct text *reterr_text)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return complain_errno("stat", file, errno, reterr_text);
	if (!S_ISREG(st.st_mode) || st.st_size > FILE_BYTES_MAX) {
		if (reterr_text != NULL)
			text_printf(reterr_text, "%s is %s", file,
				    S_ISREG(st.st_mode) ? "larger than 1 MiB"
							: "not a regular file");
		return ERR_INVALID;
	}
	c->mode = st.st_mode & 07777;
	c->len = (size_t)st.st_size;
	c->data = fault_hits(FAULT_MALLOC) ? NULL : malloc(c->len + 1);
	return c->data == NULL ? ERR_NOMEM : read_all(fd, file, c, reterr_text);
}

enum err tls_file_read(const char *file, struct tls_file *c, struct text *reterr_text)
{
	/* Not blocking: the name may be a FIFO's. */
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return complain_errno("open", file, errno, reterr_text);
	enum err e = read_open_file(fd, file, c, reterr_text);
	(void)close(fd);
	return e;
}
