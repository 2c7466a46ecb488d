/* Lists of the whole model: names are unique. */
#include "check.h"

#include <string.h>

#include "load.h"
#include "names.h"

#define PATH_MAX_BYTES 64

const struct value *check_element(const struct value *list, size_t ix)
{
	return list && list->type == VALUE_LIST && ix < list->cnt ? &list->items[ix] : NULL;
}

const char *check_line(unsigned line, char *dst)
{
	dst[0] = '\0';
	if (line)
		text_format(dst, CHECK_LINE_MAX, " (line %u)", line);
	return dst;
}

static void report_taken(struct loader *l, const char *list_name, const struct value *element,
			 size_t ix, size_t first, unsigned first_line)
{
	char path[PATH_MAX_BYTES], line[CHECK_LINE_MAX];
	const struct value *name = value_member(element, "name");
	text_format(path, sizeof(path), "%s[%zu].name", list_name, ix);
	load_problem(l, name, path, "the name \"%s\" is taken by %s[%zu]%s: names are unique",
		     name ? name->string : "?", list_name, first, check_line(first_line, line));
}

static enum err check_route_names(struct loader *l, const struct config *config,
				  const struct value *list)
{
	struct names names;
	enum err e = names_init(&names, config->route_cnt);
	for (size_t i = 0; !e && i < config->route_cnt; i++) {
		const char *name = config->routes[i].name;
		size_t first = name ? names_add(&names, name, i) : NAMES_NONE;
		if (first != NAMES_NONE)
			report_taken(l, "routes", check_element(list, i), i, first,
				     config->routes[first].line);
	}
	names_fini(&names);
	return e;
}

static void add_upstream_names(struct loader *l, const struct config *config,
			       const struct value *list, struct names *names)
{
	for (size_t i = 0; i < config->upstream_cnt; i++) {
		const char *name = config->upstreams[i].name;
		size_t first = name ? names_add(names, name, i) : NAMES_NONE;
		if (first != NAMES_NONE)
			report_taken(l, "upstreams", check_element(list, i), i, first,
				     config->upstreams[first].line);
	}
}

enum err check_model(struct loader *l, struct config *config, const struct check_lists *lists)
{
	struct names names;
	enum err e = names_init(&names, config->upstream_cnt);
	if (!e) {
		add_upstream_names(l, config, lists->upstreams, &names);
		e = check_find_upstreams(l, config, lists->routes, &names);
	}
	names_fini(&names);
	if (!e)
		e = check_places(l, config, lists);
	if (!e)
		e = check_route_names(l, config, lists->routes);
	return e ? e : check_ports(l, config, lists);
}
