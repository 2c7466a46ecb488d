#pragma once
/* tls, private: files of keys and certificates. */
#include <stddef.h>
#include <sys/stat.h>

#include "smartproxy/err.h"
#include "smartproxy/text.h"

/* A file's content; may hold a key, so it is wiped when freed. Zero-initialised. */
struct tls_file {
	char *data;
	size_t len;
	mode_t mode;
};
void tls_file_fini(struct tls_file *c);
/* A regular file of 1 MiB or less. ERR_NOENT, ERR_SYSTEM, ERR_INVALID, ERR_NOMEM; reterr_text may be
 * NULL. On failure too ended with tls_file_fini. */
enum err tls_file_read(const char *file, struct tls_file *c, struct text *reterr_text) SP_MUST_USE;
