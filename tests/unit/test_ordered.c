/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/ordered.h"

#include "base/pool.h"
#include "testlib.h"

#include <sched.h>
#include <stdatomic.h>

enum { TASKS = 20000, FAILS = 700 };

struct job {
	struct tn_ordered *ordered;
	uint64_t next, sum;
	int in_order, fails;
	_Atomic int inside;
};

static void fold(void *arg, uint64_t task, const void *result)
{
	struct job *job = arg;
	const uint64_t *value = result;
	job->in_order &= task == job->next++ && atomic_fetch_add(&job->inside, 1) == 0;
	job->sum += *value;
	atomic_fetch_sub(&job->inside, 1);
}

static tn_status run(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct job *job = arg;
	uint64_t *place = tn_ordered_place(job->ordered, worker);
	*place += task;
	if (task % 17 == 3) /* others overtake it */
		for (int i = 0; i < 20; i++)
			sched_yield();
	if (job->fails && task == FAILS) {
		tn_ordered_stop(job->ordered);
		err->code = TN_E_IO;
		return TN_E_IO;
	}
	tn_ordered_done(job->ordered, worker, task);
	return TN_OK;
}

static void run_job(struct tt *t, unsigned threads, int fails)
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *ctx;
	struct job job = { .in_order = 1, .fails = fails };
	options.threads = threads;
	tt_ok(t, tn_context_create(&options, &ctx, &t->err));
	tt_ok(t, tn_ordered_create(ctx, threads, sizeof(uint64_t), fold, &job, &job.ordered, &t->err));
	struct tn_work work = { .task_count = TASKS, .workers = threads, .run = run, .arg = &job };
	assert_int_equal(tn_pool_run(ctx, &work, &t->err), fails ? TN_E_IO : TN_OK);
	assert_true(job.in_order);
	if (fails) {
		assert_true(job.next <= FAILS);
	} else {
		assert_int_equal(job.next, TASKS);
		assert_int_equal(job.sum, (uint64_t)TASKS * (TASKS - 1) / 2);
	}
	tn_ordered_free(job.ordered);
	tn_context_destroy(ctx);
}

static void in_order_for_any_threads(void **state)
{
	struct tt *t = *state;
	for (unsigned threads = 1; threads <= 9; threads += 4)
		run_job(t, threads, 0);
}

static void a_failure_leaves_nobody_waiting(void **state)
{
	struct tt *t = *state;
	for (unsigned threads = 1; threads <= 9; threads += 4)
		run_job(t, threads, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(in_order_for_any_threads), TT_TEST(a_failure_leaves_nobody_waiting) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
