#include "smartproxy/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/text.h"

#define RING_BYTES (64u << 10)

/* One producer (the worker), one consumer (control). Lines lie in it one after another, whole
 * bytes, wrapping. */
struct log_ring {
	char bytes[RING_BYTES];
	/* written by the worker (release), read by control (acquire) */
	_Atomic uint64_t head;
	_Atomic uint64_t dropped;
	/* written by control (release), read by the worker (acquire) */
	_Atomic uint64_t tail;
	uint64_t dropped_seen; /* control's own */
};

static _Atomic int level_on = LOG_LEVEL_INFO;
static _Atomic int format_on = LOG_FORMAT_TEXT;
static _Thread_local struct log_ring *own_ring;

static const char *const level_names[] = { "error", "warn", "info", "debug" };

void log_configure(enum log_level level, enum log_format format)
{
	atomic_store_explicit(&level_on, (int)level, memory_order_relaxed);
	atomic_store_explicit(&format_on, (int)format, memory_order_relaxed);
}

bool log_is_on(enum log_level level)
{
	return (int)level <= atomic_load_explicit(&level_on, memory_order_relaxed);
}

static void write_all(int fd, const char *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return; /* nowhere to complain */
		data += n;
		len -= (size_t)n;
	}
}

bool log_ring_put(struct log_ring *ring, const char *line, size_t len)
{
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	if (RING_BYTES - (head - tail) < len) {
		atomic_fetch_add_explicit(&ring->dropped, 1, memory_order_relaxed);
		return false;
	}
	size_t at = head % RING_BYTES;
	size_t first = len < RING_BYTES - at ? len : RING_BYTES - at;
	memcpy(ring->bytes + at, line, first);
	memcpy(ring->bytes, line + first, len - first);
	atomic_store_explicit(&ring->head, head + len, memory_order_release);
	return true;
}

static size_t format_stamp(char *dst, size_t cap)
{
	int64_t now_ms = clock_unix_ms();
	char utc[32];
	(void)clock_format_utc(utc, sizeof(utc), now_ms / 1000);
	utc[strlen(utc) - 1] = '\0'; /* the Z, to put milliseconds before it */
	return text_format(dst, cap, "%s.%03dZ", utc, (int)(now_ms % 1000));
}

static size_t format_line(char *line, enum log_level level, const char *room, const char *message)
{
	char stamp[40];
	(void)format_stamp(stamp, sizeof(stamp));
	size_t cap = LOG_LINE_MAX - 1;
	size_t len;
	if (atomic_load_explicit(&format_on, memory_order_relaxed) == LOG_FORMAT_JSON) {
		char escaped[LOG_LINE_MAX];
		size_t at = 0;
		for (const char *c = message; *c != '\0' && at + 7 < sizeof(escaped); c++) {
			if (*c == '"' || *c == '\\') {
				escaped[at++] = '\\';
				escaped[at++] = *c;
			} else if ((unsigned char)*c < 0x20 || *c == 0x7f) {
				at += text_format(escaped + at, 7, "\\u%04x",
						  (unsigned)(unsigned char)*c);
			} else {
				escaped[at++] = *c;
			}
		}
		escaped[at] = '\0';
		len = text_format(
			line, cap - 2,
			"{\"time\":\"%s\",\"level\":\"%s\",\"room\":\"%s\",\"message\":\"%s", stamp,
			level_names[level], room, escaped);
		len += text_format(line + len, 3, "\"}");
	} else {
		len = text_format(line, cap, "%s %-5s %s: %s", stamp, level_names[level], room,
				  message);
	}
	line[len++] = '\n';
	return len;
}

void log_line(enum log_level level, const char *room, const char *fmt, ...)
{
	if (!log_is_on(level))
		return;
	char message[LOG_LINE_MAX - 128];
	va_list args;
	va_start(args, fmt);
	(void)vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	char line[LOG_LINE_MAX];
	size_t len = format_line(line, level, room, message);
	if (own_ring != NULL)
		(void)log_ring_put(own_ring, line, len);
	else
		write_all(STDERR_FILENO, line, len);
}

enum err log_ring_new(struct log_ring **ret_ring)
{
	struct log_ring *ring = fault_hits(FAULT_MALLOC) ? NULL : calloc(1, sizeof(*ring));
	if (ring == NULL)
		return ERR_NOMEM;
	*ret_ring = ring;
	return ERR_OK;
}

void log_ring_free(struct log_ring *ring)
{
	free(ring);
}

void log_thread_attach_ring(struct log_ring *ring)
{
	own_ring = ring;
}

uint64_t log_ring_drain(struct log_ring *ring)
{
	return log_ring_drain_to(ring, STDERR_FILENO);
}

uint64_t log_ring_drain_to(struct log_ring *ring, int fd)
{
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
	while (tail != head) {
		size_t at = tail % RING_BYTES;
		size_t len =
			head - tail < RING_BYTES - at ? (size_t)(head - tail) : RING_BYTES - at;
		if (fd >= 0)
			write_all(fd, ring->bytes + at, len);
		tail += len;
	}
	atomic_store_explicit(&ring->tail, tail, memory_order_release);
	uint64_t dropped = atomic_load_explicit(&ring->dropped, memory_order_relaxed);
	uint64_t fresh = dropped - ring->dropped_seen;
	ring->dropped_seen = dropped;
	return fresh;
}

_Noreturn void sp_panic(const char *file, int line, const char *what)
{
	char text[LOG_LINE_MAX];
	size_t len = text_format(text, sizeof(text), "smartproxy: assertion failed at %s:%d: %s\n",
				 file, line, what);
	write_all(STDERR_FILENO, text, len);
	abort();
}
