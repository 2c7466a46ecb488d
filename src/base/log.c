#include "smartproxy/log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "smartproxy/assert.h"
#include "smartproxy/clock.h"
#include "smartproxy/fault.h"
#include "smartproxy/text.h"

#define RING_BYTES  (64u << 10)
#define TTY_BYTES   128 /* what a terminal that has room takes, of one line and without its end */
#define STILL_MS    100 /* a reader that takes nothing for so long stands still */
#define PATIENCE_MS 1000
#define REGAIN      20 /* a ms of patience comes back in so many */

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

/* ---- a stderr that takes nothing ---- */

/* Waiting for stderr's reader is bounded: a burst (a start with many ports) is not lost to one that is slow, PATIENCE_MS
 * in all and then a REGAINth of the time; one that stands still costs STILL_MS once. */
static struct {
	/* any thread that writes at once, relaxed: control, but for a start and an end */
	_Atomic bool is_still;
	_Atomic int64_t spent_until_ms; /* waiting for n ms puts it off by n * REGAIN */
	_Atomic bool is_cut;            /* the last line went in part */
	_Atomic uint64_t lost_cnt, untold_cnt;
} out_state;

static bool load_flag(const _Atomic bool *flag)
{
	return atomic_load_explicit(flag, memory_order_relaxed);
}

static void store_flag(_Atomic bool *flag, bool value)
{
	atomic_store_explicit(flag, value, memory_order_relaxed);
}

static bool wait_for_reader(struct pollfd *out)
{
	int64_t now_ms = clock_now_ms();
	int64_t until_ms = atomic_load_explicit(&out_state.spent_until_ms, memory_order_relaxed);
	if (until_ms < now_ms)
		until_ms = now_ms;
	if (load_flag(&out_state.is_still) || until_ms - now_ms >= (int64_t)PATIENCE_MS * REGAIN)
		return false;
	int cnt = poll(out, 1, STILL_MS);
	until_ms += (clock_now_ms() - now_ms) * REGAIN;
	atomic_store_explicit(&out_state.spent_until_ms, until_ms, memory_order_relaxed);
	store_flag(&out_state.is_still, cnt == 0);
	return cnt > 0;
}

/* So many bytes can be written to fd at once, 0: none now. A pipe, a socket (journald) or a terminal (Ctrl-S) whose
 * reader stands still must not hold up the control loop, and its O_NONBLOCK is not ours to set: others share it. */
static size_t room_of(int fd)
{
	struct stat st;
	if (fstat(fd, &st) != 0)
		return 0;
	if (S_ISREG(st.st_mode))
		return SSIZE_MAX;
	struct pollfd out = { .fd = fd, .events = POLLOUT };
	int cnt = poll(&out, 1, 0);
	if (cnt == 0 && fd == STDERR_FILENO && !wait_for_reader(&out))
		return 0;
	if ((out.revents & POLLOUT) == 0)
		return 0;
	if (fd == STDERR_FILENO)
		store_flag(&out_state.is_still, false);
	return S_ISCHR(st.st_mode) && isatty(fd) ? TTY_BYTES : PIPE_BUF; /* pipe(7) */
}

/* Of len bytes, what goes in one call. The two bytes that a terminal makes of a line's end want room of their own. */
static size_t piece_of(const char *data, size_t len, size_t room)
{
	if (room != TTY_BYTES)
		return len < room ? len : room;
	const char *end = memchr(data, '\n', len < room ? len : room);
	if (end == data)
		return 1;
	return end != NULL ? (size_t)(end - data) : len < room ? len : room;
}

/* To stderr. False: not, or not wholly. */
static bool put_line(const char *line, size_t len)
{
	size_t done = 0;
	while (done < len) {
		size_t room = room_of(STDERR_FILENO);
		if (room == 0)
			break;
		ssize_t n =
			write(STDERR_FILENO, line + done, piece_of(line + done, len - done, room));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		done += (size_t)n;
	}
	if (done > 0)
		store_flag(&out_state.is_cut, done < len);
	return done == len;
}

void log_count_lost(uint64_t cnt)
{
	atomic_fetch_add_explicit(&out_state.lost_cnt, cnt, memory_order_relaxed);
	atomic_fetch_add_explicit(&out_state.untold_cnt, cnt, memory_order_relaxed);
}

uint64_t log_lost_cnt(void)
{
	return atomic_load_explicit(&out_state.lost_cnt, memory_order_relaxed);
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

bool log_tell_lost(void)
{
	uint64_t cnt = atomic_exchange_explicit(&out_state.untold_cnt, 0, memory_order_relaxed);
	if (cnt == 0)
		return true;
	char message[64], line[LOG_LINE_MAX + 1];
	text_format(message, sizeof(message), "%llu lines of the log were lost",
		    (unsigned long long)cnt);
	line[0] = '\n'; /* ends a line that was cut */
	size_t len = format_line(line + 1, LOG_LEVEL_WARN, "log", message);
	bool is_cut = load_flag(&out_state.is_cut);
	if (is_cut ? put_line(line, len + 1) : put_line(line + 1, len))
		return true;
	atomic_fetch_add_explicit(&out_state.untold_cnt, cnt, memory_order_relaxed);
	return false;
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
	else if (!log_tell_lost() || !put_line(line, len))
		log_count_lost(1);
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

/* Of len bytes from tail on, those of whole lines; all of them where there is none. */
static size_t whole_lines(const struct log_ring *ring, uint64_t tail, size_t len)
{
	size_t whole = len;
	while (whole > 0 && ring->bytes[(tail + whole - 1) % RING_BYTES] != '\n')
		whole--;
	return whole > 0 ? whole : len;
}

/* Bytes written, 0: none now. */
static size_t write_some(struct log_ring *ring, uint64_t tail, size_t len, int fd)
{
	size_t room = room_of(fd);
	if (room == 0)
		return 0;
	size_t at = tail % RING_BYTES;
	size_t first = len < RING_BYTES - at ? len : RING_BYTES - at;
	if (room == TTY_BYTES)
		len = first = piece_of(ring->bytes + at, first, room);
	else if (len > room)
		len = whole_lines(ring, tail, room);
	first = first < len ? first : len;
	const struct iovec parts[] = { { ring->bytes + at, first }, { ring->bytes, len - first } };
	ssize_t n = writev(fd, parts, SP_ARRAY_LEN(parts));
	return n > 0 ? (size_t)n : 0;
}

uint64_t log_ring_drain_to(struct log_ring *ring, int fd)
{
	uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
	uint64_t head = atomic_load_explicit(&ring->head, memory_order_acquire);
	if (fd == STDERR_FILENO)
		(void)log_tell_lost();
	while (tail != head) {
		size_t len = (size_t)(head - tail);
		if (fd >= 0)
			len = write_some(ring, tail, len, fd);
		if (len == 0)
			break; /* it stays in the ring; what does not fit there is counted */
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
	(void)put_line(text, len);
	abort();
}
