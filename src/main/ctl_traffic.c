/* smartproxyctl: the tables of connections and targets, made for who looks for what is stuck or broken. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ctl.h"
#include "ctl_table.h"
#include "smartproxy/assert.h"

/* ---- rows in order ---- */

struct row {
	const json_t *json;
	size_t ix; /* as the proxy sent it */
};

/* NULL: none, or no memory. */
static struct row *sort_rows(const json_t *array, int (*compare)(const void *, const void *))
{
	size_t cnt = json_array_size(array);
	struct row *rows = cnt == 0 ? NULL : calloc(cnt, sizeof(*rows));
	for (size_t i = 0; rows != NULL && i < cnt; i++)
		rows[i] = (struct row){ json_array_get(array, i), i };
	if (rows != NULL)
		qsort(rows, cnt, sizeof(*rows), compare);
	return rows;
}

static int compare_ix(const struct row *a, const struct row *b)
{
	return a->ix < b->ix ? -1 : a->ix > b->ix;
}

/* ---- cells ---- */

/* "950", "12.3K", "4.0M", ... */
static void add_bytes(struct ctl_table *table, const json_t *object, const char *key)
{
	static const char units[] = "KMGTP";
	char cell[32];
	long long bytes = ctl_number(object, key);
	double value = (double)bytes / 1024;
	size_t unit = 0;
	if (bytes < 1000) {
		ctl_table_add_number(table, bytes);
		return;
	}
	for (; value >= 999.95 && units[unit + 1] != '\0'; unit++)
		value /= 1024;
	(void)text_format(cell, sizeof(cell), "%.1f%c", value, units[unit]);
	ctl_table_add(table, cell);
}

/* "0.4s", "5m07s", "3h09m", "12d04h" */
static const char *format_age(char *dst, size_t cap, double seconds)
{
	long long s = (long long)seconds;
	if (seconds < 60)
		(void)text_format(dst, cap, seconds == (double)s ? "%.0fs" : "%.1fs", seconds);
	else if (s < 3600)
		(void)text_format(dst, cap, "%lldm%02llds", s / 60, s % 60);
	else if (s < 86400)
		(void)text_format(dst, cap, "%lldh%02lldm", s / 3600, s / 60 % 60);
	else
		(void)text_format(dst, cap, "%lldd%02lldh", s / 86400, s / 3600 % 24);
	return dst;
}

static void add_age(struct ctl_table *table, const json_t *object, const char *key)
{
	char cell[32];
	double seconds = json_number_value(json_object_get(object, key));
	ctl_table_add(table, format_age(cell, sizeof(cell), seconds));
}

/* Of a time such as 2026-11-23T05:11:51Z, by this machine's clock. */
static void add_ago(struct ctl_table *table, const char *when)
{
	struct tm tm = { 0 };
	char cell[32];
	const char *end = strptime(when, "%Y-%m-%dT%H:%M:%SZ", &tm);
	time_t now = time(NULL), then = end == NULL ? 0 : timegm(&tm);
	ctl_table_add(table, end == NULL ? "-"
					 : format_age(cell, sizeof(cell),
						      now > then ? difftime(now, then) : 0));
}

/* ---- connections ---- */

static int compare_conns(const void *va, const void *vb)
{
	const struct row *a = va, *b = vb;
	double age_a = json_number_value(json_object_get(a->json, "age_s"));
	double age_b = json_number_value(json_object_get(b->json, "age_s"));
	return age_a > age_b ? -1 : age_a < age_b ? 1 : compare_ix(a, b);
}

static void add_client(struct ctl_table *table, const json_t *conn)
{
	char cell[CTL_CELL_MAX];
	const char *client = ctl_string(conn, "client"), *peer = ctl_string(conn, "peer");
	bool is_direct = strcmp(client, peer) == 0;
	(void)text_format(cell, sizeof(cell), "%s%s%s", client, is_direct ? "" : " via ",
			  is_direct ? "" : peer);
	ctl_table_add(table, cell);
}

void ctl_print_connections(const json_t *answer)
{
	static const char *const heads[] = { "ID",    "CLIENT", "LISTENER", "TLS",
					     "ROUTE", "KIND",   "STATE",    "AGE",
					     "IDLE",  "IN",     "OUT",      "UPSTREAM" };
	struct ctl_table table = { 0 };
	const json_t *conns = json_object_get(answer, "connections");
	size_t cnt = json_array_size(conns);
	struct row *rows = sort_rows(conns, compare_conns);
	ctl_table_heads(&table, heads, SP_ARRAY_LEN(heads));
	for (size_t i = 0; rows != NULL && i < cnt; i++) {
		const json_t *conn = rows[i].json;
		ctl_table_add_number(&table, ctl_number(conn, "id"));
		add_client(&table, conn);
		ctl_table_add(&table, ctl_string(conn, "listener"));
		ctl_table_add(&table, ctl_string(conn, "tls"));
		ctl_table_add(&table, ctl_string(conn, "route"));
		ctl_table_add(&table, ctl_string(conn, "kind"));
		ctl_table_add(&table, ctl_string(conn, "state"));
		add_age(&table, conn, "age_s");
		add_age(&table, conn, "idle_s");
		add_bytes(&table, conn, "bytes_in");
		add_bytes(&table, conn, "bytes_out");
		ctl_table_add(&table, ctl_string(conn, "upstream"));
	}
	ctl_table_print(&table);
	free(rows);
	if ((long long)cnt < ctl_number(answer, "open"))
		(void)printf(
			"\n%lld connections are open, %zu are shown: smartproxyctl connections "
			"MAX shows more\n",
			ctl_number(answer, "open"), cnt);
}

/* ---- targets ---- */

/* By group, those that routes name themselves last. */
static int compare_targets(const void *va, const void *vb)
{
	const struct row *a = va, *b = vb;
	const char *group_a = json_string_value(json_object_get(a->json, "group"));
	const char *group_b = json_string_value(json_object_get(b->json, "group"));
	if (group_a == NULL || group_b == NULL)
		return group_a != NULL ? -1 : group_b != NULL ? 1 : compare_ix(a, b);
	int order = strcmp(group_a, group_b);
	return order != 0 ? order : compare_ix(a, b);
}

static void add_target(struct ctl_table *table, const json_t *target)
{
	char cell[CTL_CELL_MAX];
	long long max = ctl_number(target, "max_connections");
	bool is_name = !json_is_null(json_object_get(target, "ttl_s"));
	ctl_table_add(table, ctl_string(target, "group"));
	ctl_table_add(table, ctl_string(target, "target"));
	ctl_table_add(table, json_is_true(json_object_get(target, "tls")) ? "yes" : "-");
	ctl_table_add(table, ctl_string(target, "state"));
	(void)text_format(cell, sizeof(cell), "%lld%s", ctl_number(target, "weight"),
			  json_is_true(json_object_get(target, "backup")) ? " backup" : "");
	ctl_table_add(table, cell);
	ctl_table_add(table, ctl_string(target, "check"));
	(void)text_format(cell, sizeof(cell), max > 0 ? "%lld of %lld" : "%lld",
			  ctl_number(target, "in_flight"), max);
	ctl_table_add(table, cell);
	ctl_table_add_number(table, ctl_number(target, "queued"));
	ctl_table_add_number(table, ctl_number(target, "requests"));
	ctl_table_add_number(table, ctl_number(target, "failures"));
	ctl_table_add_number(table, ctl_number(target, "ejections"));
	ctl_table_add(table,
		      is_name ? ctl_joined(cell, 96, json_object_get(target, "addresses"), ",")
			      : "-");
}

static void print_failures(const struct row *rows, size_t cnt)
{
	static const char *const heads[] = { "LAST FAILURE", "GROUP",  "TARGET",
					     "STATE NOW",    "REASON", "MESSAGE" };
	struct ctl_table table = { 0 };
	ctl_table_heads(&table, heads, SP_ARRAY_LEN(heads));
	for (size_t i = 0; i < cnt; i++) {
		const json_t *target = rows[i].json;
		const json_t *failure = json_object_get(target, "last_failure");
		if (!json_is_object(failure))
			continue;
		add_ago(&table, ctl_string(failure, "at"));
		ctl_table_add(&table, ctl_string(target, "group"));
		ctl_table_add(&table, ctl_string(target, "target"));
		ctl_table_add(&table, ctl_string(target, "state"));
		ctl_table_add(&table, ctl_string(failure, "reason"));
		ctl_table_add(&table, ctl_string(failure, "message"));
	}
	if (table.cnt > SP_ARRAY_LEN(heads)) {
		(void)printf("\n");
		ctl_table_print(&table);
	} else {
		text_fini(&table.cells);
	}
}

static void print_sum(const json_t *targets)
{
	static const char *const states[] = { "up", "down", "ejected", "unresolved" };
	size_t cnts[SP_ARRAY_LEN(states)] = { 0 }, i;
	json_t *target;
	json_array_foreach((json_t *)targets, i, target)
	{
		for (size_t k = 0; k < SP_ARRAY_LEN(states); k++)
			cnts[k] += strcmp(ctl_string(target, "state"), states[k]) == 0;
	}
	(void)printf("\n%zu target%s", json_array_size(targets),
		     json_array_size(targets) == 1 ? "" : "s");
	for (size_t k = 0; k < SP_ARRAY_LEN(states); k++) {
		if (k == 0 || cnts[k] > 0)
			(void)printf("%s %zu %s", k == 0 ? ":" : ",", cnts[k], states[k]);
	}
	(void)printf("\n");
}

void ctl_print_upstreams(const json_t *answer)
{
	static const char *const heads[] = { "GROUP",    "TARGET", "TLS",       "STATE",
					     "WEIGHT",   "CHECK",  "IN FLIGHT", "QUEUED",
					     "REQUESTS", "FAILED", "EJECTED",   "ADDRESSES" };
	struct ctl_table table = { 0 };
	const json_t *targets = json_object_get(answer, "upstreams");
	size_t cnt = json_array_size(targets);
	struct row *rows = sort_rows(targets, compare_targets);
	ctl_table_heads(&table, heads, SP_ARRAY_LEN(heads));
	for (size_t i = 0; rows != NULL && i < cnt; i++)
		add_target(&table, rows[i].json);
	ctl_table_print(&table);
	if (rows != NULL)
		print_failures(rows, cnt);
	print_sum(targets);
	free(rows);
}
