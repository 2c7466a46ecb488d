#include <check.h>
#include <stdlib.h>
#include <string.h>
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
	uint64_t dropped = 0;
	/* the ring holds 64 KiB, as a pipe does: what it took can be written without a reader */
	dropped = log_ring_drain(ring);
	ssize_t n = read(fds[0], sink, sizeof(sink));
	ck_assert_int_gt(n, 0);
	uint64_t lines = 0;
	for (ssize_t i = 0; i < n; i++)
		lines += sink[i] == '\n';
	ck_assert_uint_gt(dropped, 0);
	ck_assert_uint_eq(lines + dropped, 2000);
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
	tcase_add_test(tc, arena_stops_at_its_cap);
	tcase_add_test(tc, arena_reuses_cached_blocks);
	tcase_add_test(tc, buf_keeps_bytes_when_it_moves);
	tcase_add_test(tc, buf_large_while_few_are_lent);
	tcase_add_loop_test(tc, escape_rows, 0, SP_ARRAY_LEN(escapes));
	tcase_add_test(tc, copy_is_cut);
	tcase_add_test(tc, err_has_text_and_name);
	tcase_add_test(tc, jitter_stays_in_its_band);
	tcase_add_test(tc, a_full_ring_drops_and_counts);
	tcase_add_test(tc, utc_is_iso_8601);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
