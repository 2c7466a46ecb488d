#pragma once
/* The end of every test program: one suite, its cases, Check's own choice of output. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROW_CNT(rows) ((int)(sizeof(rows) / sizeof((rows)[0])))

static inline int run_suite(Suite *suite)
{
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed_cnt = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed_cnt == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* A copy in a block of exactly len bytes, so that the sanitizer sees the first byte read beyond it.
 */
static inline char *copy_exactly(const char *data, size_t len)
{
	char *copy = calloc(1, len > 0 ? len : 1);
	ck_assert_ptr_nonnull(copy);
	memcpy(copy, data, len);
	return copy;
}
