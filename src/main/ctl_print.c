#include <stdio.h>
#include <string.h>

#include "ctl.h"
#include "smartproxy/assert.h"
#include "smartproxy/text.h"

#define COLUMNS_MAX 12
#define CELL_MAX    256

/* Cells are collected first, so that each column is as wide as its widest cell. */
struct table {
	struct text cells; /* each ends with NUL */
	size_t cnt, column_cnt;
	size_t widths[COLUMNS_MAX];
};

static void add(struct table *table, const char *cell)
{
	size_t len = strlen(cell), column = table->cnt++ % table->column_cnt;
	if (len > table->widths[column])
		table->widths[column] = len;
	text_add(&table->cells, cell, len + 1);
}

static void print_table(struct table *table)
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

static void add_heads(struct table *table, const char *const *heads, size_t cnt)
{
	table->column_cnt = cnt;
	for (size_t i = 0; i < cnt; i++)
		add(table, heads[i]);
}

static const char *string_of(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));
	return value == NULL || value[0] == '\0' ? "-" : value;
}

static long long number_of(const json_t *object, const char *key)
{
	return (long long)json_integer_value(json_object_get(object, key));
}

/* The array's scalars, separated; "more" says how many did not fit. */
static const char *joined(char *dst, size_t cap, const json_t *array, const char *separator)
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

static void line(const char *name, const char *value)
{
	(void)printf("%-16s %s\n", name, value);
}

static void line_number(const char *name, long long value)
{
	(void)printf("%-16s %lld\n", name, value);
}

void ctl_print_status(const json_t *answer)
{
	const json_t *acme = json_object_get(answer, "acme");
	const json_t *route = json_object_get(acme, "challenge_route");
	const json_t *orders = json_object_get(acme, "orders");
	const json_t *waiting = json_object_get(route, "waiting");
	long long uptime_s = number_of(answer, "uptime_s");
	(void)printf("%-16s %s (%s)\n", "smartproxy", string_of(answer, "state"),
		     string_of(answer, "version"));
	(void)printf("%-16s %lld\n", "pid", number_of(answer, "pid"));
	(void)printf("%-16s %lldd %02lld:%02lld:%02lld (since %s)\n", "up", uptime_s / 86400,
		     uptime_s / 3600 % 24, uptime_s / 60 % 60, uptime_s % 60,
		     string_of(answer, "started"));
	line("configuration", string_of(answer, "configuration"));
	(void)printf("%-16s %lld (%lld retired, still in use)\n", "generation",
		     number_of(answer, "generation"), number_of(answer, "retired_generations"));
	line_number("routes", number_of(answer, "routes"));
	line_number("workers", number_of(answer, "workers"));
	line_number("connections", number_of(answer, "connections"));
	line_number("certificates", number_of(acme, "certificates"));
	(void)printf("%-16s %lld active, %lld waiting, %lld created, %lld ok, %lld failed\n",
		     "orders", number_of(orders, "active"), number_of(orders, "waiting"),
		     number_of(orders, "created"), number_of(orders, "ok"),
		     number_of(orders, "failed"));
	(void)printf("%-16s %s (activated %lld, removed %lld)\n", "challenge route",
		     string_of(route, "state"), number_of(route, "activated"),
		     number_of(route, "removed"));
	if (json_is_object(waiting))
		line("  waiting", string_of(waiting, "message"));
}

/* "80,443,8000-8010" */
static const char *ports_of(char *dst, size_t cap, const json_t *match)
{
	return joined(dst, cap, json_object_get(match, "ports"), ",");
}

static const char *action_of(char *dst, size_t cap, const json_t *action)
{
	const char *type = string_of(action, "type");
	const json_t *targets = json_object_get(action, "targets");
	size_t i;
	json_t *target;
	if (strcmp(type, "redirect") == 0) {
		(void)text_format(dst, cap, "redirect %s", string_of(action, "location"));
		return dst;
	}
	if (strcmp(type, "forward") != 0) {
		(void)text_format(dst, cap, "%s %lld", type, number_of(action, "status"));
		return dst;
	}
	if (json_is_string(json_object_get(action, "upstream"))) {
		(void)text_format(dst, cap, "forward %s", string_of(action, "upstream"));
		return dst;
	}
	size_t at = text_format(dst, cap, "forward");
	json_array_foreach((json_t *)targets, i, target)
	{
		const json_t *port = json_object_get(target, "port");
		if (json_is_string(port)) /* "preserve" */
			at += text_format(dst + at, cap - at, "%s%s", i == 0 ? " " : ", ",
					  string_of(target, "host"));
		else
			at += text_format(dst + at, cap - at, "%s%s:%lld", i == 0 ? " " : ", ",
					  string_of(target, "host"), number_of(target, "port"));
	}
	return dst;
}

static const char *tls_of(char *dst, size_t cap, const json_t *action)
{
	const json_t *tls = json_object_get(action, "tls");
	if (!json_is_object(tls))
		return "-";
	const char *mode = string_of(tls, "mode");
	const json_t *certificate = json_object_get(tls, "certificate");
	const char *source = json_is_string(certificate)   ? json_string_value(certificate)
			     : json_is_object(certificate) ? "files"
							   : "";
	(void)text_format(dst, cap, "%s%s%s", mode, source[0] == '\0' ? "" : " ", source);
	return dst;
}

void ctl_print_routes(const json_t *answer)
{
	static const char *const heads[] = { "NAME", "PORTS", "DOMAINS", "PATH", "TLS", "ACTION" };
	struct table table = { 0 };
	size_t i;
	json_t *route;
	add_heads(&table, heads, SP_ARRAY_LEN(heads));
	json_array_foreach(json_object_get(answer, "routes"), i, route)
	{
		char cell[CELL_MAX];
		const json_t *match = json_object_get(route, "match");
		const json_t *action = json_object_get(route, "action");
		const json_t *enabled = json_object_get(route, "enabled");
		(void)text_format(cell, sizeof(cell), "%s%s", string_of(route, "name"),
				  json_is_false(enabled) ? " (disabled)" : "");
		add(&table, cell);
		add(&table, ports_of(cell, sizeof(cell), match));
		add(&table, joined(cell, sizeof(cell), json_object_get(match, "domains"), ","));
		add(&table, string_of(match, "path"));
		add(&table, tls_of(cell, sizeof(cell), action));
		add(&table, action_of(cell, sizeof(cell), action));
	}
	print_table(&table);
}

void ctl_print_certs(const json_t *answer)
{
	static const char *const heads[] = {
		"NAMES", "STATE", "KEY", "EXPIRES", "RENEWS", "ISSUER"
	};
	struct table table = { 0 };
	size_t i;
	json_t *cert;
	const json_t *certs = json_object_get(answer, "certificates");
	add_heads(&table, heads, SP_ARRAY_LEN(heads));
	json_array_foreach((json_t *)certs, i, cert)
	{
		char cell[CELL_MAX];
		add(&table, joined(cell, sizeof(cell), json_object_get(cert, "names"), ","));
		(void)text_format(cell, sizeof(cell), "%s%s%s", string_of(cert, "state"),
				  json_is_string(json_object_get(cert, "step")) ? " " : "",
				  json_is_string(json_object_get(cert, "step"))
					  ? string_of(cert, "step")
					  : "");
		add(&table, cell);
		add(&table, string_of(cert, "key_type"));
		add(&table, string_of(cert, "not_after"));
		add(&table, string_of(cert, "renew_at"));
		add(&table, string_of(cert, "issuer"));
	}
	print_table(&table);
	json_array_foreach((json_t *)certs, i, cert)
	{
		char cell[CELL_MAX];
		if (!json_is_string(json_object_get(cert, "last_error")))
			continue;
		(void)printf("\n%s: failed %lld time%s, next try %s:\n  %s\n",
			     joined(cell, sizeof(cell), json_object_get(cert, "names"), ","),
			     number_of(cert, "failures"),
			     number_of(cert, "failures") == 1 ? "" : "s",
			     string_of(cert, "retry_at"), string_of(cert, "last_error"));
	}
}

void ctl_print_ports(const json_t *answer)
{
	static const char *const heads[] = { "PORT", "ADDRESS", "SOCKETS", "OPENED", "FOR" };
	struct table table = { 0 };
	size_t i;
	json_t *set;
	add_heads(&table, heads, SP_ARRAY_LEN(heads));
	json_array_foreach(json_object_get(answer, "listeners"), i, set)
	{
		char cell[CELL_MAX];
		(void)text_format(cell, sizeof(cell), "%lld", number_of(set, "port"));
		add(&table, cell);
		add(&table, string_of(set, "address"));
		(void)text_format(cell, sizeof(cell), "%lld", number_of(set, "sockets"));
		add(&table, cell);
		add(&table, string_of(set, "opened"));
		add(&table, joined(cell, sizeof(cell), json_object_get(set, "for"), ","));
	}
	print_table(&table);
}

/* "950", "12.3K", "4.0M", ... */
static const char *bytes_text(char *dst, size_t cap, long long bytes)
{
	static const char units[] = "KMGTP";
	double value = (double)bytes;
	size_t unit = 0;
	if (bytes < 1000) {
		(void)text_format(dst, cap, "%lld", bytes);
		return dst;
	}
	for (value /= 1024; value >= 999.95 && units[unit + 1] != '\0'; unit++)
		value /= 1024;
	(void)text_format(dst, cap, "%.1f%c", value, units[unit]);
	return dst;
}

static const char *seconds_text(char *dst, size_t cap, const json_t *object, const char *key)
{
	(void)text_format(dst, cap, "%.1fs", json_real_value(json_object_get(object, key)));
	return dst;
}

void ctl_print_connections(const json_t *answer)
{
	static const char *const heads[] = { "ID",       "CLIENT", "LISTENER", "ROUTE",
					     "UPSTREAM", "KIND",   "STATE",    "AGE",
					     "IDLE",     "IN",     "OUT" };
	struct table table = { 0 };
	size_t i;
	json_t *conn;
	const json_t *conns = json_object_get(answer, "connections");
	add_heads(&table, heads, SP_ARRAY_LEN(heads));
	json_array_foreach((json_t *)conns, i, conn)
	{
		char cell[CELL_MAX];
		(void)text_format(cell, sizeof(cell), "%lld", number_of(conn, "id"));
		add(&table, cell);
		add(&table, string_of(conn, "client"));
		add(&table, string_of(conn, "listener"));
		add(&table, string_of(conn, "route"));
		add(&table, string_of(conn, "upstream"));
		add(&table, string_of(conn, "kind"));
		add(&table, string_of(conn, "state"));
		add(&table, seconds_text(cell, sizeof(cell), conn, "age_s"));
		add(&table, seconds_text(cell, sizeof(cell), conn, "idle_s"));
		add(&table, bytes_text(cell, sizeof(cell), number_of(conn, "bytes_in")));
		add(&table, bytes_text(cell, sizeof(cell), number_of(conn, "bytes_out")));
	}
	print_table(&table);
	if ((long long)json_array_size(conns) < number_of(answer, "open"))
		(void)printf("%lld connections are open, %zu are shown: smartproxyctl connections "
			     "MAX\n",
			     number_of(answer, "open"), json_array_size(conns));
}

void ctl_print_upstreams(const json_t *answer)
{
	static const char *const heads[] = { "GROUP",     "TARGET", "STATE",    "WEIGHT",  "CHECK",
					     "IN FLIGHT", "QUEUED", "REQUESTS", "FAILURES" };
	struct table table = { 0 };
	size_t i;
	json_t *target;
	const json_t *targets = json_object_get(answer, "upstreams");
	add_heads(&table, heads, SP_ARRAY_LEN(heads));
	json_array_foreach((json_t *)targets, i, target)
	{
		static const char *const numbers[] = { "in_flight", "queued", "requests",
						       "failures" };
		char cell[CELL_MAX];
		add(&table, string_of(target, "group"));
		add(&table, string_of(target, "target"));
		add(&table, string_of(target, "state"));
		(void)text_format(cell, sizeof(cell), "%lld%s", number_of(target, "weight"),
				  json_is_true(json_object_get(target, "backup")) ? " backup" : "");
		add(&table, cell);
		add(&table, string_of(target, "check"));
		for (size_t k = 0; k < SP_ARRAY_LEN(numbers); k++) {
			(void)text_format(cell, sizeof(cell), "%lld",
					  number_of(target, numbers[k]));
			add(&table, cell);
		}
	}
	print_table(&table);
	json_array_foreach((json_t *)targets, i, target)
	{
		const json_t *failure = json_object_get(target, "last_failure");
		if (json_is_object(failure))
			(void)printf("\n%s: last failure %s at %s: %s\n",
				     string_of(target, "target"), string_of(failure, "reason"),
				     string_of(failure, "at"), string_of(failure, "message"));
	}
}

void ctl_print_applied(const json_t *answer)
{
	if (json_is_integer(json_object_get(answer, "generation")))
		(void)printf("applied: generation %lld, %lld route%s\n",
			     number_of(answer, "generation"), number_of(answer, "routes"),
			     number_of(answer, "routes") == 1 ? "" : "s");
	else
		(void)printf("renewing: %s\n", json_is_string(json_object_get(answer, "name"))
						       ? string_of(answer, "name")
						       : "all certificates");
}

void ctl_print_error(const json_t *answer, long status)
{
	const json_t *error = json_object_get(answer, "error");
	size_t i;
	json_t *problem;
	(void)fprintf(stderr, "smartproxyctl: refused (%ld %s): %s\n", status,
		      string_of(error, "code"), string_of(error, "message"));
	json_array_foreach(json_object_get(error, "problems"), i, problem)(void) fprintf(
		stderr, "%s:%lld: %s: %s\n", string_of(problem, "file"), number_of(problem, "line"),
		string_of(problem, "path"), string_of(problem, "message"));
}
