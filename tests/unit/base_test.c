#include <check.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "smartproxy/arena.h"
#include "smartproxy/assert.h"
#include "smartproxy/buf.h"
#include "smartproxy/clock.h"
#include "smartproxy/err.h"
#include "smartproxy/log.h"
#include "smartproxy/rand.h"
#include "smartproxy/text.h"
#include "smartproxy/thread.h"

START_TEST(arena_stops_at_its_cap)
{
	struct arena a;
	arena_init(&a, 10000, NULL);
	size_t got = 0;
	while (arena_alloc(&a, 100) != NULL)
		got += 112;
	ck_assert_uint_gt(got, 8000);
	ck_assert_uint_le(got, 10000);
	ck_assert_ptr_null(arena_alloc(&a, SIZE_MAX));
	ck_assert_ptr_null(arena_calloc(&a, SIZE_MAX / 2, 4));
	arena_fini(&a);
	ck_assert_ptr_nonnull(arena_alloc(&a, 5000));
	arena_fini(&a);
}
END_TEST

START_TEST(arena_reuses_cached_blocks)
{
	struct arena_cache cache = { 0 };
	struct arena a;
	arena_init(&a, 65536, &cache);
	void *first = arena_alloc(&a, 64);
	arena_fini(&a);
	ck_assert_uint_eq(cache.cnt, 1);
	ck_assert_ptr_eq(arena_alloc(&a, 64), first);
	ck_assert_uint_eq(cache.cnt, 0);
	arena_fini(&a);
	arena_cache_fini(&cache);
}
END_TEST

START_TEST(buf_keeps_bytes_when_it_moves)
{
	struct buf_pool pool = { 0 };
	struct buf b = { 0 };
	ck_assert(buf_reserve(&b, &pool));
	memset(buf_tail(&b), 'x', BUF_BYTES);
	b.end = BUF_BYTES;
	ck_assert(!buf_reserve(&b, &pool));
	buf_consume(&b, 10);
	ck_assert(buf_reserve(&b, &pool));
	ck_assert_uint_eq(buf_len(&b), BUF_BYTES - 10);
	ck_assert_uint_eq(buf_space(&b), 10);
	ck_assert(buf_grow(&b, &pool));
	ck_assert_uint_eq(buf_len(&b), BUF_BYTES - 10);
	ck_assert_int_eq(buf_at(&b)[0], 'x');
	buf_release(&b, &pool);
	ck_assert_uint_eq(pool.used_cnt, 0);
	buf_pool_fini(&pool);
}
END_TEST

START_TEST(buf_large_while_few_are_lent)
{
	struct buf_pool pool = { 0 };
	struct buf b[BUF_LARGE_LENT_MAX + 1] = { 0 };
	for (size_t i = 0; i < SP_ARRAY_LEN(b); i++)
		ck_assert(buf_reserve_large(&b[i], &pool));
	ck_assert_uint_eq(b[BUF_LARGE_LENT_MAX - 1].cap, BUF_LARGE_BYTES);
	ck_assert_uint_eq(b[BUF_LARGE_LENT_MAX].cap, BUF_BYTES);
	ck_assert_uint_eq(pool.used_large_cnt, BUF_LARGE_LENT_MAX);
	struct buf *last = &b[BUF_LARGE_LENT_MAX];
	ck_assert(buf_append(last, "kept", 4));
	ck_assert(buf_reserve_large(last, &pool));
	ck_assert_uint_eq(last->cap, BUF_BYTES);
	buf_release(&b[0], &pool);
	ck_assert(buf_reserve_large(last, &pool));
	ck_assert_uint_eq(last->cap, BUF_LARGE_BYTES);
	ck_assert_mem_eq(buf_at(last), "kept", 4);
	/* A head has to fit, however many are lent. */
	ck_assert(buf_reserve(&b[0], &pool));
	ck_assert(buf_grow(&b[0], &pool));
	for (size_t i = 0; i < SP_ARRAY_LEN(b); i++)
		buf_release(&b[i], &pool);
	ck_assert_uint_eq(pool.used_cnt, 0);
	ck_assert_uint_eq(pool.used_large_cnt, 0);
	ck_assert_uint_eq(pool.free_cnt[1], BUF_POOL_KEEP_LARGE);
	buf_pool_fini(&pool);
}
END_TEST

static const struct {
	const char *in;
	size_t len, cap;
	const char *want;
} escapes[] = {
	{ "plain", 5, 32, "plain" },
	{ "a\nb", 3, 32, "a\\x0ab" },
	{ "a\0b", 3, 32, "a\\x00b" },
	{ "\"\\", 2, 32, "\\x22\\x5c" },
	{ "\x1b[31m", 5, 32, "\\x1b[31m" },
	{ "abcdef", 6, 4, "abc" },
	{ "ab\n", 3, 6, "ab" },
	{ "\xff", 1, 32, "\\xff" },
};

START_TEST(escape_rows)
{
	char dst[64];
	ck_assert_str_eq(text_escape(dst, escapes[_i].cap, escapes[_i].in, escapes[_i].len),
			 escapes[_i].want);
}
END_TEST

START_TEST(copy_is_cut)
{
	char dst[6];
	ck_assert_uint_eq(text_copy(dst, sizeof(dst), "abcde"), 5);
	ck_assert_str_eq(dst, "abcde");
	ck_assert_uint_eq(text_copy(dst, sizeof(dst), "abcdefgh"), 5);
	ck_assert_str_eq(dst, "abcde");
	ck_assert_uint_eq(text_copy(dst, sizeof(dst), ""), 0);
	ck_assert_str_eq(dst, "");
	ck_assert_uint_eq(text_copy(dst, 1, "a"), 0);
	ck_assert_str_eq(dst, "");
}
END_TEST

START_TEST(err_has_text_and_name)
{
	ck_assert_str_eq(err_text(ERR_PORT_IN_USE), "port in use by another process");
	ck_assert_str_eq(err_name(ERR_PORT_IN_USE), "port_in_use");
	ck_assert_str_eq(err_name((enum err)77), "unknown");
}
END_TEST

START_TEST(jitter_stays_in_its_band)
{
	bool has_varied = false;
	for (int i = 0; i < 1000; i++) {
		int64_t v = rand_jitter(1000, 10);
		ck_assert_int_ge(v, 900);
		ck_assert_int_le(v, 1100);
		has_varied |= v != 1000;
		ck_assert_uint_lt(rand_below(7), 7);
	}
	ck_assert(has_varied);
	ck_assert_uint_eq(rand_below(0), 0);
	ck_assert(rand_hash("abc", 3) == rand_hash("abc", 3));
	ck_assert(rand_hash("abc", 3) != rand_hash("abd", 3));
}
END_TEST

static void log_many(void *arg)
{
	log_thread_attach_ring(arg);
	for (int i = 0; i < 2000; i++)
		log_info("base", "line=%d", i);
}

START_TEST(a_full_ring_drops_and_counts)
{
	struct log_ring *ring = NULL;
	ck_assert_int_eq(log_ring_new(&ring), ERR_OK);
	int fds[2];
	ck_assert_int_eq(pipe(fds), 0);
	struct thread *thread = NULL;
	ck_assert_int_eq(thread_start("log", log_many, ring, &thread), ERR_OK);
	thread_join(thread);
	ck_assert_int_ge(dup2(fds[1], STDERR_FILENO), 0);
	char sink[1 << 17];
	uint64_t dropped = 0, lines = 0;
	/* the ring holds 64 KiB, a pipe a little less of whole lines */
	for (int turn = 0; turn < 2; turn++) {
		dropped += log_ring_drain(ring);
		ssize_t n = read(fds[0], sink, sizeof(sink));
		ck_assert_int_gt(n, 0);
		for (ssize_t i = 0; i < n; i++)
			lines += sink[i] == '\n';
	}
	ck_assert_uint_gt(dropped, 0);
	ck_assert_uint_eq(lines + dropped, 2000);
	log_ring_free(ring);
}
END_TEST

/* Standard error: a pipe, a socket as journald's, a terminal. Returns the end that is read; it never waits. */
static int open_stderr(int kind)
{
	int fds[2] = { -1, -1 };
	if (kind == 0)
		ck_assert_int_eq(pipe(fds), 0);
	if (kind == 1)
		ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	if (kind == 2) {
		fds[0] = posix_openpt(O_RDWR | O_NOCTTY);
		ck_assert_int_ge(fds[0], 0);
		ck_assert_int_eq(grantpt(fds[0]), 0);
		ck_assert_int_eq(unlockpt(fds[0]), 0);
		char name[64];
		ck_assert_int_eq(ptsname_r(fds[0], name, sizeof(name)), 0);
		fds[1] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	}
	ck_assert_int_ge(dup2(fds[1], STDERR_FILENO), 0);
	ck_assert_int_eq(close(fds[1]), 0);
	ck_assert_int_eq(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
	return fds[0];
}

/* Until there are so many lines, and then nothing for a while: a terminal passes things on late. */
static void read_lines(int fd, uint64_t wanted_cnt, unsigned *cnt, uint64_t *told)
{
	static char text[1 << 20];
	size_t len = 0;
	uint64_t end_cnt = 0;
	struct pollfd in = { .fd = fd, .events = POLLIN };
	while (poll(&in, 1, end_cnt < wanted_cnt ? 10000 : 200) == 1 && len < sizeof(text) - 1) {
		ssize_t n = read(fd, text + len, sizeof(text) - 1 - len);
		if (n <= 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			end_cnt += text[len + (size_t)i] == '\n';
		len += (size_t)n;
	}
	text[len] = '\0';
	for (char *at = text, *end; (end = strchr(at, '\n')) != NULL; at = end + 1) {
		*end = '\0';
		const char *lost = strstr(at, "log: ");
		*told += lost != NULL ? strtoull(lost + 5, NULL, 10) : 0;
		*cnt += strstr(at, "base: line=") != NULL && strstr(at, "end") != NULL;
	}
}

/* A reader that stands still costs no more than a moment, and what it misses is told it. */
START_TEST(a_stderr_that_takes_nothing)
{
	enum { LINE_CNT = 20000 };
	int fd = open_stderr(_i);
	int64_t begin_ms = clock_now_ms();
	for (int i = 0; i < LINE_CNT; i++)
		log_info("base", "line=%d end", i);
	ck_assert_int_lt(clock_now_ms() - begin_ms, 5000);
	uint64_t lost = log_lost_cnt(), told = 0;
	unsigned cnt = 0;
	ck_assert_uint_gt(lost, 0);
	ck_assert_uint_lt(lost, LINE_CNT);
	ck_assert(!log_tell_lost());
	read_lines(fd, LINE_CNT - lost, &cnt, &told);
	ck_assert_uint_eq(cnt, LINE_CNT - lost);
	ck_assert(log_tell_lost());
	log_info("base", "line=%d end", LINE_CNT);
	read_lines(fd, 2, &cnt, &told);
	ck_assert_uint_eq(told, lost);
	ck_assert_uint_eq(cnt, LINE_CNT + 1 - lost);
	ck_assert_uint_eq(log_lost_cnt(), lost);
}
END_TEST

/* Also before what a ring holds: the line that was cut is not gone on with. */
START_TEST(what_was_lost_is_told_first)
{
	struct log_ring *ring = NULL;
	static const char line[] = "a line of a ring\n";
	char text[1 << 12];
	ck_assert_int_eq(log_ring_new(&ring), ERR_OK);
	int fd = open_stderr(0);
	ck_assert_int_gt(fcntl(STDERR_FILENO, F_SETPIPE_SZ, 8192), 0);
	while (log_lost_cnt() < 3)
		log_info("base", "a line");
	while (read(fd, text, sizeof(text)) > 0)
		;
	ck_assert(log_ring_put(ring, line, sizeof(line) - 1));
	ck_assert_uint_eq(log_ring_drain(ring), 0);
	ssize_t n = read(fd, text, sizeof(text) - 1);
	ck_assert_int_gt(n, 0);
	text[n] = '\0';
	const char *told = strstr(text, "log: 3 lines of the log were lost\n");
	ck_assert_ptr_nonnull(told);
	ck_assert_ptr_eq(strstr(told, line), strchr(told, '\n') + 1);
	log_ring_free(ring);
}
END_TEST

/* What a reader that stands still does not take stays in the ring. */
START_TEST(a_ring_keeps_what_nobody_takes)
{
	struct log_ring *ring = NULL;
	int fds[2];
	char record[1000], got[1 << 17];
	memset(record, 'r', sizeof(record));
	record[sizeof(record) - 1] = '\n';
	ck_assert_int_eq(log_ring_new(&ring), ERR_OK);
	ck_assert_int_eq(pipe(fds), 0);
	ck_assert_int_gt(fcntl(fds[1], F_SETPIPE_SZ, 8192), 0);
	size_t len = 0;
	for (int round = 0; round < 3; round++) { /* the last ones wrap */
		for (int i = 0; i < 60; i++)
			ck_assert(log_ring_put(ring, record, sizeof(record)));
		for (int i = 0; i < 60; i++) {
			ck_assert_uint_eq(log_ring_drain_to(ring, fds[1]), 0);
			ck_assert_int_eq(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
			ssize_t n = read(fds[0], got + len % 1000, sizeof(got) - 1000);
			if (n < 0)
				break;
			ck_assert_int_eq(n % 1000, 0); /* whole records */
			len += (size_t)n;
		}
	}
	ck_assert_uint_eq(len, 180 * sizeof(record));
	log_ring_free(ring);
}
END_TEST

START_TEST(utc_is_iso_8601)
{
	char dst[32];
	ck_assert_str_eq(clock_format_utc(dst, sizeof(dst), 1763868774), "2025-11-23T03:32:54Z");
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("base");
	TCase *tc = tcase_create("base");
	tcase_set_timeout(tc, 30);
	tcase_add_test(tc, arena_stops_at_its_cap);
	tcase_add_test(tc, arena_reuses_cached_blocks);
	tcase_add_test(tc, buf_keeps_bytes_when_it_moves);
	tcase_add_test(tc, buf_large_while_few_are_lent);
	tcase_add_loop_test(tc, escape_rows, 0, SP_ARRAY_LEN(escapes));
	tcase_add_test(tc, copy_is_cut);
	tcase_add_test(tc, err_has_text_and_name);
	tcase_add_test(tc, jitter_stays_in_its_band);
	tcase_add_test(tc, a_full_ring_drops_and_counts);
	tcase_add_loop_test(tc, a_stderr_that_takes_nothing, 0, 3);
	tcase_add_test(tc, what_was_lost_is_told_first);
	tcase_add_test(tc, a_ring_keeps_what_nobody_takes);
	tcase_add_test(tc, utc_is_iso_8601);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
