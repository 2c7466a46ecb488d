#pragma once
/* smartproxyctl: a table on standard output, and what its cells are made of. */
#include <jansson.h>
#include <stddef.h>

#include "smartproxy/text.h"

#define CTL_COLUMNS_MAX 12
#define CTL_CELL_MAX    256

/* Cells are collected first, so that each column is as wide as its widest cell. Zero-initialised; heads first,
 * then cells row by row; ctl_table_print frees it. */
struct ctl_table {
	struct text cells; /* each ends with NUL */
	size_t cnt, column_cnt;
	size_t widths[CTL_COLUMNS_MAX];
};
void ctl_table_heads(struct ctl_table *table, const char *const *heads, size_t cnt);
void ctl_table_add(struct ctl_table *table, const char *cell);
void ctl_table_add_number(struct ctl_table *table, long long number);
void ctl_table_print(struct ctl_table *table);

/* "-" when it is missing, null or empty. */
const char *ctl_string(const json_t *object, const char *key);
long long ctl_number(const json_t *object, const char *key);
/* The array's scalars, separated; "more" says how many did not fit. "-" when there is none. */
const char *ctl_joined(char *dst, size_t cap, const json_t *array, const char *separator);
