#pragma once
/* config, private: a configuration file with its @include lines replaced by the files they name,
 * and a map from lines of the whole back to (file, line). Done here, and not by libconfig, because
 * that one ends the process when an included path is a directory and cannot take absolute names
 * beside relative ones. An included name is relative to the file that includes it. Limits: 256 MiB,
 * 10 files deep. */
#include <stddef.h>

#include "smartproxy/arena.h"
#include "smartproxy/config.h"
#include "smartproxy/text.h"

#define SOURCE_MAX_BYTES (256u << 20)

struct source_span { /* from line first_line of the whole on, until the next span */
	unsigned first_line;
	const char *file;
	unsigned file_line;
};
struct source {
	struct text text; /* NUL-terminated, without NUL inside */
	struct source_span *spans;
	size_t span_cnt, span_cap;
};

/* File names live in arena. On failure a problem was added (unless memory is out). Free with
 * source_fini in any case. */
enum err source_read(struct source *source, const char *file, struct arena *arena,
		     struct config_problems *problems) SP_MUST_USE;
/* Findings for integers that libconfig 1.5 would silently wrap around. ERR_NOMEM. */
enum err source_check_numbers(const struct source *source, struct config_problems *problems)
	SP_MUST_USE;
void source_fini(struct source *source);
/* Where a line of the whole came from. */
struct source_span source_locate(const struct source *source, unsigned line);
