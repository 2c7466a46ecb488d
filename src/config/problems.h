#pragma once
/* config, private: collecting findings. */
#include <stdarg.h>

#include "smartproxy/config.h"

/* At most this many are kept; what follows is counted in one last line. */
#define PROBLEMS_MAX 10000

/* file and path may be NULL. ERR_NOMEM: the finding is lost, the caller must fail with that code.
 */
enum err problems_add(struct config_problems *problems, const char *file, unsigned line,
		      const char *path, const char *fmt, ...) SP_PRINTF(5, 6) SP_MUST_USE;
enum err problems_vadd(struct config_problems *problems, const char *file, unsigned line,
		       const char *path, const char *fmt, va_list args) SP_PRINTF(5, 0) SP_MUST_USE;
/* By line within runs of one file; findings of equal place stay in order. */
void problems_sort(struct config_problems *problems);
