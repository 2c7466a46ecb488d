#include <stdio.h>
#include <string.h>

#include "smartproxy/route.h"
#include "smartproxy/text.h"

struct out {
	char *dst;
	size_t len, cap;
	bool has_failed;
};

static void put(struct out *out, const char *s, size_t len)
{
	if (len == 0 || s == NULL)
		return;
	if (len >= out->cap - out->len) {
		out->has_failed = true;
		return;
	}
	memcpy(out->dst + out->len, s, len);
	out->len += len;
}

/* What the client sent of its target. A browser takes '\\' for '/', so "/\\name" would be another site as
 * well. */
static void put_target(struct out *out, const struct wire_span *span)
{
	for (uint32_t i = 0; span->at != NULL && i < span->len; i++) {
		if (span->at[i] == '\\')
			put(out, "%5C", 3);
		else
			put(out, span->at + i, 1);
	}
}

static void put_value(struct out *out, const char *name, size_t name_len,
		      const struct route_redirect *values)
{
	char port[8];
	if (name_len == 4 && memcmp(name, "host", 4) == 0) {
		bool is_v6 = values->host.len > 0 &&
			     memchr(values->host.at, ':', values->host.len) != NULL;
		put(out, "[", is_v6);
		put(out, values->host.at, values->host.len);
		put(out, "]", is_v6);
	} else if (name_len == 4 && memcmp(name, "path", 4) == 0) {
		put_target(out, &values->path);
	} else if (name_len == 5 && memcmp(name, "query", 5) == 0) {
		put(out, "?", values->query.at != NULL);
		put_target(out, &values->query);
	} else if (name_len == 4 && memcmp(name, "port", 4) == 0) {
		put(out, port, text_format(port, sizeof(port), "%u", (unsigned)values->port));
	}
}

const char *route_expand_location(const char *template, const struct route_redirect *values,
				  char *dst, size_t cap)
{
	struct out out = { dst, 0, cap, false };
	while (*template != '\0') {
		const char *end = *template == '{' ? strchr(template, '}') : NULL;
		if (end == NULL) {
			put(&out, template ++, 1);
			continue;
		}
		put_value(&out, template + 1, (size_t)(end - template - 1), values);
		template = end + 1;
	}
	if (out.has_failed || out.len >= cap)
		return NULL;
	dst[out.len] = '\0';
	/* "//name" would be another site (RFC 3986, 4.2). */
	while (dst[0] == '/' && dst[1] == '/')
		dst++;
	return dst;
}
