#pragma once
/* acme, private: files that are on disk when a function returns. Faults of fsync and write are
 * injected here. All names are relative to a directory descriptor. Failures are ERR_STORE with a
 * sentence in *reterr_text (which may be NULL); ERR_NOENT where the file's absence is an ordinary
 * outcome. */
#include <dirent.h>
#include <stddef.h>
#include <sys/types.h>

#include "smartproxy/err.h"
#include "smartproxy/text.h"

/* Opens a directory below dir_fd, made (0700) when it is not there. */
enum err files_open_dir(int dir_fd, const char *name, int *ret_fd, struct text *reterr_text)
	SP_MUST_USE;
enum err files_sync(int fd, const char *name, struct text *reterr_text) SP_MUST_USE;
/* A whole write; nothing is synced. */
enum err files_write(int fd, const char *name, const void *data, size_t len,
		     struct text *reterr_text) SP_MUST_USE;
/* A new file of mode 0600, synced; on failure it is gone again. */
enum err files_create(int dir_fd, const char *name, const void *data, size_t len,
		      struct text *reterr_text) SP_MUST_USE;
/* The file's new contents or the old ones, whatever happens (temporary file, rename, sync of the
 * directory). */
enum err files_replace(int dir_fd, const char *name, const void *data, size_t len,
		       struct text *reterr_text) SP_MUST_USE;
/* At most 1 MiB. ret_mode may be NULL. ERR_NOENT: no such file. */
enum err files_read(int dir_fd, const char *name, struct text *ret_text, mode_t *ret_mode,
		    struct text *reterr_text) SP_MUST_USE;
/* The entries of a directory; NULL when it cannot be read. files_next: the next name other than
 * "." and "..", valid until the next call; NULL at the end. Ended with closedir. */
DIR *files_scan(int dir_fd, const char *name);
const char *files_next(DIR *dir);
/* Empties a directory of plain files and removes it. What is not there is fine. */
void files_remove_dir(int dir_fd, const char *name);
/* Overwrites what may be a key, then frees it. */
void files_wipe(struct text *t);
