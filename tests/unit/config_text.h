#pragma once
/* A configuration out of a test's own text. */
#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "smartproxy/config.h"

/* text: printf form of a whole configuration. */
static struct config *load_text(const char *fmt, ...) SP_PRINTF(1, 2);
static struct config *load_text(const char *fmt, ...)
{
	char path[] = "/tmp/smartproxy-test-XXXXXX";
	int fd = mkstemp(path);
	ck_assert_int_ge(fd, 0);
	va_list args;
	va_start(args, fmt);
	ck_assert_int_gt(vdprintf(fd, fmt, args), 0);
	va_end(args);
	(void)close(fd);
	struct config *config = NULL;
	struct config_problems problems = { 0 };
	enum err e = config_load(path, &config, &problems);
	(void)unlink(path);
	struct text text = { 0 };
	if (e != ERR_OK)
		config_problems_text(&problems, &text);
	ck_assert_msg(e == ERR_OK, "%s", text.data != NULL ? text.data : "");
	config_problems_fini(&problems);
	return config;
}
