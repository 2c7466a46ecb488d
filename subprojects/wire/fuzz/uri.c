/* Normal forms: normalising twice is normalising once, and what came out has nothing left to
 * remove. */
#include "wire/uri.h"

#include "fuzz.h"

static bool holds(const char *text, size_t len, const char *part)
{
	return memmem(text, len, part, strlen(part)) != NULL;
}

static bool ends_in(const char *text, size_t len, const char *end)
{
	size_t end_len = strlen(end);
	return len >= end_len && memcmp(text + len - end_len, end, end_len) == 0;
}

/* What a server sees that decodes the slashes of a path: no dots that were not looked at. */
static void check_decoded(const char *path, size_t len)
{
	char *decoded = copy_exactly(path, len);
	size_t out = 0;
	for (size_t i = 0; i < len; i++, out++) {
		bool is_escaped = len - i >= 3 && (memcmp(path + i, "%2F", 3) == 0 ||
						   memcmp(path + i, "%5C", 3) == 0);
		decoded[out] = is_escaped || path[i] == '\\' ? '/' : path[i];
		i += is_escaped ? 2 : 0;
	}
	CHECK(!holds(decoded, out, "/./") && !holds(decoded, out, "/../"));
	CHECK(!ends_in(decoded, out, "/.") && !ends_in(decoded, out, "/.."));
	free(decoded);
}

static void check_path(const char *path, size_t len)
{
	size_t once_len, twice_len;
	char *once = copy_exactly(path, len);
	char *twice = copy_exactly(path, len);
	if (wire_path_normalise(path, len, once, &once_len)) {
		CHECK(once_len >= 1 && once_len <= len && once[0] == '/');
		CHECK(!holds(once, once_len, "//") && !holds(once, once_len, "/./") &&
		      !holds(once, once_len, "/../"));
		CHECK(!ends_in(once, once_len, "/.") && !ends_in(once, once_len, "/.."));
		CHECK(!holds(once, once_len, "%00") && !holds(once, once_len, "%2E") &&
		      !holds(once, once_len, "%2e"));
		check_decoded(once, once_len);
		CHECK(wire_path_normalise(once, once_len, twice, &twice_len));
		CHECK(twice_len == once_len && memcmp(once, twice, once_len) == 0);
	}
	free(once);
	free(twice);
}

static void check_host(const char *host, size_t len)
{
	char *once = malloc(WIRE_HOST_MAX);
	char *twice = malloc(WIRE_HOST_MAX);
	CHECK(once != NULL && twice != NULL);
	size_t once_len, twice_len;
	uint16_t port;
	if (wire_host_normalise(host, len, once, &once_len, &port)) {
		char text[WIRE_HOST_MAX + 16];
		bool is_v6 = memchr(once, ':', once_len) != NULL;
		CHECK(once_len > 0 && once_len < WIRE_HOST_MAX && strlen(once) == once_len);
		CHECK(once[once_len - 1] != '.' && !holds(once, once_len, ".."));
		CHECK(is_v6 == (host[0] == '['));
		int text_len = snprintf(text, sizeof(text), is_v6 ? "[%s]" : "%s", once);
		if (port != 0)
			text_len += snprintf(text + text_len, sizeof(text) - (size_t)text_len,
					     ":%u", port);
		uint16_t again;
		CHECK(wire_host_normalise(text, (size_t)text_len, twice, &twice_len, &again));
		CHECK(again == port && twice_len == once_len && strcmp(once, twice) == 0);
	}
	free(once);
	free(twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *copy = copy_exactly(data, len);
	check_path(copy, len);
	check_host(copy, len);
	free(copy);
	return 0;
}
