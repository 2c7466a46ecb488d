/* The queue of updates by itself: what it takes and what it leaves behind. No loop: none of them runs. */
#include <check.h>
#include <stdlib.h>

#include "../../src/control/state.h"
#include "../../src/control/update.h"

static unsigned done_cnt;

static void count_done(void *arg, const struct update_result *result)
{
	(void)arg;
	ck_assert_int_eq(result->code, ERR_STOPPING);
	done_cnt++;
}

/* Only the length is looked at until an update runs. */
static enum err submit(struct updates *updates, size_t json_len) SP_ON_CONTROL
{
	struct update *update = NULL;
	struct update_request request = {
		.kind = UPDATE_ROUTES, .json = malloc(1), .json_len = json_len, .done = count_done
	};
	enum err e = updates_submit(updates, &request, &update);
	ck_assert((e == ERR_OK) == (update != NULL));
	return e;
}

START_TEST(lists_that_wait_have_a_bound_together)
{
	sp_role_assume_control();
	struct control control = { 0 };
	struct updates updates;
	const size_t mib = (size_t)1 << 20;
	updates_init(&updates, &control);
	updates.is_posted = true;
	ck_assert_int_eq(submit(&updates, 200 * mib), ERR_OK);
	ck_assert_int_eq(submit(&updates, 57 * mib), ERR_LIMIT);
	ck_assert_int_eq(submit(&updates, 56 * mib), ERR_OK);
	ck_assert_int_eq(submit(&updates, 1), ERR_LIMIT);
	ck_assert_int_eq(updates_reload(&updates), ERR_OK);
	updates_stop(&updates);
	ck_assert_uint_eq(updates.json_bytes, 0);
	ck_assert_uint_eq(done_cnt, 2);
	ck_assert_int_eq(submit(&updates, 1), ERR_STOPPING);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("control_queue");
	TCase *tc = tcase_create("queue");
	tcase_add_test(tc, lists_that_wait_have_a_bound_together);
	suite_add_tcase(suite, tc);
	SRunner *runner = srunner_create(suite);
	srunner_run_all(runner, CK_ENV);
	int failed_cnt = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed_cnt == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
