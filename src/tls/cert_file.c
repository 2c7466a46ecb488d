#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/log.h"

#define FILE_BYTES_MAX 1048576L

/* A file's content; may hold a key. */
struct content {
	char *data;
	size_t len;
	mode_t mode;
};

static void content_fini(struct content *c)
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

static enum err read_all(int fd, const char *file, struct content *c, struct text *reterr_text)
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

static enum err read_open_file(int fd, const char *file, struct content *c,
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

static enum err read_file(const char *file, struct content *c, struct text *reterr_text)
{
	/* Not blocking: the name may be a FIFO's. */
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return complain_errno("open", file, errno, reterr_text);
	enum err e = read_open_file(fd, file, c, reterr_text);
	(void)close(fd);
	return e;
}

static void warn_of_mode(const char *key_file, mode_t mode)
{
	char name[512];
	if ((mode & 077) == 0)
		return;
	text_escape(name, sizeof(name), key_file, strlen(key_file));
	log_warn("tls",
		 "private key is open to others than its owner, chmod 600 it file=\"%s\" mode=%04o",
		 name, (unsigned)mode);
}

static void warn_of_time(const char *chain_file, const struct tls_cert_info *info)
{
	char name[512], when[32];
	int64_t now_unix_s = clock_unix_s();
	text_escape(name, sizeof(name), chain_file, strlen(chain_file));
	if (now_unix_s > info->not_after_unix_s)
		log_warn("tls", "certificate has expired file=\"%s\" not_after=%s", name,
			 clock_format_utc(when, sizeof(when), info->not_after_unix_s));
	else if (now_unix_s < info->not_before_unix_s)
		log_warn("tls", "certificate is not valid yet file=\"%s\" not_before=%s", name,
			 clock_format_utc(when, sizeof(when), info->not_before_unix_s));
}

enum err tls_cert_from_files(const char *chain_file, const char *key_file,
			     struct tls_cert **ret_cert, struct text *reterr_text)
{
	struct content chain = { 0 }, key = { 0 };
	struct tls_cert *cert = NULL;
	enum err e = read_file(chain_file, &chain, reterr_text);
	if (e == ERR_OK)
		e = read_file(key_file, &key, reterr_text);
	if (e == ERR_OK) {
		const struct tls_pem chain_pem = { chain_file, chain.data, chain.len };
		const struct tls_pem key_pem = { key_file, key.data, key.len };
		e = tls_cert_parse(&chain_pem, &key_pem, &cert, reterr_text);
	}
	if (e == ERR_OK) {
		warn_of_mode(key_file, key.mode);
		warn_of_time(chain_file, &cert->info);
		*ret_cert = cert;
	}
	content_fini(&chain);
	content_fini(&key);
	return e;
}
