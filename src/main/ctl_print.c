#include <stdio.h>
#include <string.h>

#include "ctl.h"
#include "ctl_table.h"
#include "smartproxy/assert.h"
#include "smartproxy/text.h"

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
	long long uptime_s = ctl_number(answer, "uptime_s");
	(void)printf("%-16s %s (%s)\n", "smartproxy", ctl_string(answer, "state"),
		     ctl_string(answer, "version"));
	(void)printf("%-16s %lld\n", "pid", ctl_number(answer, "pid"));
	(void)printf("%-16s %lldd %02lld:%02lld:%02lld (since %s)\n", "up", uptime_s / 86400,
		     uptime_s / 3600 % 24, uptime_s / 60 % 60, uptime_s % 60,
		     ctl_string(answer, "started"));
	line("configuration", ctl_string(answer, "configuration"));
	(void)printf("%-16s %lld (%lld retired, still in use)\n", "generation",
		     ctl_number(answer, "generation"), ctl_number(answer, "retired_generations"));
	line_number("routes", ctl_number(answer, "routes"));
	line_number("workers", ctl_number(answer, "workers"));
	line_number("connections", ctl_number(answer, "connections"));
	line_number("certificates", ctl_number(acme, "certificates"));
	(void)printf("%-16s %lld active, %lld waiting, %lld created, %lld ok, %lld failed\n",
		     "orders", ctl_number(orders, "active"), ctl_number(orders, "waiting"),
		     ctl_number(orders, "created"), ctl_number(orders, "ok"),
		     ctl_number(orders, "failed"));
	(void)printf("%-16s %s (activated %lld, removed %lld)\n", "challenge route",
		     ctl_string(route, "state"), ctl_number(route, "activated"),
		     ctl_number(route, "removed"));
	if (json_is_object(waiting))
		line("  waiting", ctl_string(waiting, "message"));
}

/* "80,443,8000-8010" */
static const char *ports_of(char *dst, size_t cap, const json_t *match)
{
	return ctl_joined(dst, cap, json_object_get(match, "ports"), ",");
}

static const char *action_of(char *dst, size_t cap, const json_t *action)
{
	const char *type = ctl_string(action, "type");
	const json_t *targets = json_object_get(action, "targets");
	size_t i;
	json_t *target;
	if (strcmp(type, "redirect") == 0) {
		(void)text_format(dst, cap, "redirect %s", ctl_string(action, "location"));
		return dst;
	}
	if (strcmp(type, "forward") != 0) {
		(void)text_format(dst, cap, "%s %lld", type, ctl_number(action, "status"));
		return dst;
	}
	if (json_is_string(json_object_get(action, "upstream"))) {
		(void)text_format(dst, cap, "forward %s", ctl_string(action, "upstream"));
		return dst;
	}
	size_t at = text_format(dst, cap, "forward");
	json_array_foreach((json_t *)targets, i, target)
	{
		const json_t *port = json_object_get(target, "port");
		if (json_is_string(port)) /* "preserve" */
			at += text_format(dst + at, cap - at, "%s%s", i == 0 ? " " : ", ",
					  ctl_string(target, "host"));
		else
			at += text_format(dst + at, cap - at, "%s%s:%lld", i == 0 ? " " : ", ",
					  ctl_string(target, "host"), ctl_number(target, "port"));
	}
	return dst;
}

static const char *tls_of(char *dst, size_t cap, const json_t *action)
{
	const json_t *tls = json_object_get(action, "tls");
	if (!json_is_object(tls))
		return "-";
	const char *mode = ctl_string(tls, "mode");
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
	struct ctl_table table = { 0 };
	size_t i;
	json_t *route;
	ctl_table_heads(&table, heads, SP_ARRAY_LEN(heads));
	json_array_foreach(json_object_get(answer, "routes"), i, route)
	{
		char cell[CTL_CELL_MAX];
		const json_t *match = json_object_get(route, "match");
		const json_t *action = json_object_get(route, "action");
		const json_t *enabled = json_object_get(route, "enabled");
		(void)text_format(cell, sizeof(cell), "%s%s", ctl_string(route, "name"),
				  json_is_false(enabled) ? " (disabled)" : "");
		ctl_table_add(&table, cell);
		ctl_table_add(&table, ports_of(cell, sizeof(cell), match));
		ctl_table_add(&table, ctl_joined(cell, sizeof(cell),
						 json_object_get(match, "domains"), ","));
		ctl_table_add(&table, ctl_string(match, "path"));
		ctl_table_add(&table, tls_of(cell, sizeof(cell), action));
		ctl_table_add(&table, action_of(cell, sizeof(cell), action));
	}
	ctl_table_print(&table);
}

void ctl_print_certs(const json_t *answer)
{
	static const char *const heads[] = {
		"NAMES", "STATE", "KEY", "EXPIRES", "RENEWS", "ISSUER"
	};
	struct ctl_table table = { 0 };
	size_t i;
	json_t *cert;
	const json_t *certs = json_object_get(answer, "certificates");
	ctl_table_heads(&table, heads, SP_ARRAY_LEN(heads));
	json_array_foreach((json_t *)certs, i, cert)
	{
		char cell[CTL_CELL_MAX];
		ctl_table_add(&table,
			      ctl_joined(cell, sizeof(cell), json_object_get(cert, "names"), ","));
		(void)text_format(cell, sizeof(cell), "%s%s%s", ctl_string(cert, "state"),
				  json_is_string(json_object_get(cert, "step")) ? " " : "",
				  json_is_string(json_object_get(cert, "step"))
					  ? ctl_string(cert, "step")
					  : "");
		ctl_table_add(&table, cell);
		ctl_table_add(&table, ctl_string(cert, "key_type"));
		ctl_table_add(&table, ctl_string(cert, "not_after"));
		ctl_table_add(&table, ctl_string(cert, "renew_at"));
		ctl_table_add(&table, ctl_string(cert, "issuer"));
	}
	ctl_table_print(&table);
	json_array_foreach((json_t *)certs, i, cert)
	{
		char cell[CTL_CELL_MAX];
		if (!json_is_string(json_object_get(cert, "last_error")))
			continue;
		(void)printf("\n%s: failed %lld time%s, next try %s:\n  %s\n",
			     ctl_joined(cell, sizeof(cell), json_object_get(cert, "names"), ","),
			     ctl_number(cert, "failures"),
			     ctl_number(cert, "failures") == 1 ? "" : "s",
			     ctl_string(cert, "retry_at"), ctl_string(cert, "last_error"));
	}
}

void ctl_print_ports(const json_t *answer)
{
	static const char *const heads[] = { "PORT", "ADDRESS", "SOCKETS", "OPENED", "FOR" };
	struct ctl_table table = { 0 };
	size_t i;
	json_t *set;
	ctl_table_heads(&table, heads, SP_ARRAY_LEN(heads));
	json_array_foreach(json_object_get(answer, "listeners"), i, set)
	{
		char cell[CTL_CELL_MAX];
		(void)text_format(cell, sizeof(cell), "%lld", ctl_number(set, "port"));
		ctl_table_add(&table, cell);
		ctl_table_add(&table, ctl_string(set, "address"));
		(void)text_format(cell, sizeof(cell), "%lld", ctl_number(set, "sockets"));
		ctl_table_add(&table, cell);
		ctl_table_add(&table, ctl_string(set, "opened"));
		ctl_table_add(&table,
			      ctl_joined(cell, sizeof(cell), json_object_get(set, "for"), ","));
	}
	ctl_table_print(&table);
}

void ctl_print_applied(const json_t *answer)
{
	if (json_is_integer(json_object_get(answer, "generation")))
		(void)printf("applied: generation %lld, %lld route%s\n",
			     ctl_number(answer, "generation"), ctl_number(answer, "routes"),
			     ctl_number(answer, "routes") == 1 ? "" : "s");
	else
		(void)printf("renewing: %s\n", json_is_string(json_object_get(answer, "name"))
						       ? ctl_string(answer, "name")
						       : "all certificates");
}

void ctl_print_error(const json_t *answer, long status)
{
	const json_t *error = json_object_get(answer, "error");
	size_t i;
	json_t *problem;
	(void)fprintf(stderr, "smartproxyctl: refused (%ld %s): %s\n", status,
		      ctl_string(error, "code"), ctl_string(error, "message"));
	json_array_foreach(json_object_get(error, "problems"), i, problem)(void)
		fprintf(stderr, "%s:%lld: %s: %s\n", ctl_string(problem, "file"),
			ctl_number(problem, "line"), ctl_string(problem, "path"),
			ctl_string(problem, "message"));
}
