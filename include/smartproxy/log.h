#pragma once
/* base: the program's log. One line an event: time, level, room, event text, then key=value pairs.
 *
 * Threads: any. The control thread writes at once. A worker's lines go through its ring
 * (log_thread_attach_ring) and are written by the control thread (log_ring_drain); a full ring drops
 * the line and counts it, and never blocks. A stderr that takes nothing (a pipe that nobody reads)
 * holds nobody up: 100 ms at once, 1 s in all of a burst, then the line is lost and counted, and
 * "N lines of the log were lost" is the first line that goes again. Security: bytes of a network pass text_escape() before they
 * come here; keys, tokens, Authorization and Cookie are never logged. Limits: a line is cut at
 * LOG_LINE_MAX bytes. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "smartproxy/err.h"

#define LOG_LINE_MAX 2048

enum log_level { LOG_LEVEL_ERROR, LOG_LEVEL_WARN, LOG_LEVEL_INFO, LOG_LEVEL_DEBUG };
enum log_format { LOG_FORMAT_TEXT, LOG_FORMAT_JSON };

/* Control thread; until called: info, text. Lines go to stderr. */
void log_configure(enum log_level level, enum log_format format);
bool log_is_on(enum log_level level);
/* room: "acme", "net" ...; message: what happened, key=value pairs after it. */
void log_line(enum log_level level, const char *room, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Lines that were lost elsewhere, as those that a ring dropped. */
void log_count_lost(uint64_t cnt);
/* Says how many were lost since it was last said. False: stderr takes nothing, it is still to be said. */
bool log_tell_lost(void);
/* All lines lost since the start. */
uint64_t log_lost_cnt(void);

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...)  log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...)                                          \
	do {                                                    \
		if (log_is_on(LOG_LEVEL_DEBUG))                 \
			log_line(LOG_LEVEL_DEBUG, __VA_ARGS__); \
	} while (0)

struct log_ring;
enum err log_ring_new(struct log_ring **ret_ring) SP_MUST_USE;
void log_ring_free(struct log_ring *ring);
/* The calling thread's lines go to the ring from now on (NULL: directly). */
void log_thread_attach_ring(struct log_ring *ring);
/* Control thread: writes what the ring holds and stderr takes, the rest stays in it. Returns the
 * count of lines dropped since the last call. */
uint64_t log_ring_drain(struct log_ring *ring);

/* Another use of a ring: records that are not the program's log (access log). The producer's
 * thread: true when it went in whole; false: dropped and counted. */
bool log_ring_put(struct log_ring *ring, const char *record, size_t len);
/* As log_ring_drain, to another descriptor; fd < 0 throws the records away. */
uint64_t log_ring_drain_to(struct log_ring *ring, int fd);
