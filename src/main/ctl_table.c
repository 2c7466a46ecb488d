#include "ctl_table.h"

#include <stdio.h>
#include <string.h>

void ctl_table_add(struct ctl_table *table, const char *cell)
{
	size_t len = strlen(cell), column = table->cnt++ % table->column_cnt;
	if (len > table->widths[column])
		table->widths[column] = len;
	text_add(&table->cells, cell, len + 1);
}

void ctl_table_add_number(struct ctl_table *table, long long number)
{
	char cell[32];
	(void)text_format(cell, sizeof(cell), "%lld", number);
	ctl_table_add(table, cell);
}

void ctl_table_print(struct ctl_table *table)
{
	const char *cell = table->cells.data;
	for (size_t i = 0; i < table->cnt && cell != NULL && !table->cells.has_failed; i++) {
		bool is_last = (i + 1) % table->column_cnt == 0;
		if (is_last)
			(void)printf("%s\n", cell);
		else
			(void)printf("%-*s  ", (int)table->widths[i % table->column_cnt], cell);
		cell += strlen(cell) + 1;
	}
	text_fini(&table->cells);
}

void ctl_table_heads(struct ctl_table *table, const char *const *heads, size_t cnt)
{
	table->column_cnt = cnt;
	for (size_t i = 0; i < cnt; i++)
		ctl_table_add(table, heads[i]);
}

const char *ctl_string(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));
	return value == NULL || value[0] == '\0' ? "-" : value;
}

long long ctl_number(const json_t *object, const char *key)
{
	return (long long)json_integer_value(json_object_get(object, key));
}

const char *ctl_joined(char *dst, size_t cap, const json_t *array, const char *separator)
{
	size_t at = 0, i;
	json_t *item;
	dst[0] = '\0';
	json_array_foreach((json_t *)array, i, item)
	{
		char number[32];
		const char *value = json_string_value(item);
		if (value == NULL) {
			(void)text_format(number, sizeof(number), "%lld",
					  (long long)json_integer_value(item));
			value = number;
		}
		if (at + strlen(value) + 24 > cap) {
			(void)text_format(dst + at, cap - at, "%s and %zu more", separator,
					  json_array_size(array) - i);
			break;
		}
		at += text_format(dst + at, cap - at, "%s%s", i == 0 ? "" : separator, value);
	}
	return dst[0] == '\0' ? "-" : dst;
}
