/* SPDX-License-Identifier: Apache-2.0 */
#include "testlib.h"

#include "base/error.h"
#include "base/pool.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TASKS = 5000 };

struct shared {
	uint64_t result[TASKS];
	_Atomic unsigned runs, ticks;
	uint64_t fail_from;         /* tasks from here on fail; 0: none */
	unsigned stop_at_tick;      /* 0: never */
	_Atomic unsigned busy_workers[64];
	_Atomic int overlap;        /* two tasks had one worker number at a time */
	_Atomic unsigned largest_worker;
};

static tn_status work_on(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct shared *s = arg;
	if (atomic_fetch_add(&s->busy_workers[worker], 1) != 0)
		atomic_store(&s->overlap, 1);
	atomic_fetch_add(&s->runs, 1);
	unsigned largest = atomic_load(&s->largest_worker);
	while (worker > largest && !atomic_compare_exchange_weak(&s->largest_worker, &largest, worker))
		continue;
	uint64_t seed = task;
	for (int i = 0; i < 50; i++)
		s->result[task] += tt_random(&seed);
	atomic_fetch_sub(&s->busy_workers[worker], 1);
	if (s->fail_from && task >= s->fail_from)
		return tn_fail(err, TN_E_MISMATCH, "task", "%llu", (unsigned long long)task);
	return TN_OK;
}

static tn_status tick(void *arg, struct tn_error *err)
{
	struct shared *s = arg;
	unsigned n = atomic_fetch_add(&s->ticks, 1) + 1;
	return s->stop_at_tick && n >= s->stop_at_tick ? tn_fail(err, TN_E_CANCELLED, "tick", "stop") : TN_OK;
}

static tn_context *with_threads(struct tt *t, unsigned threads)
{
	struct tn_options o = TN_OPTIONS_INIT;
	tn_context *ctx;
	o.threads = threads;
	o.allocator = tt_heap_allocator(&t->heap);
	tt_ok(t, tn_context_create(&o, &ctx, &t->err));
	assert_int_equal(tn_pool_workers(ctx), threads);
	return ctx;
}

static void same_results_for_any_thread_count(void **state)
{
	struct tt *t = *state;
	struct shared *first = calloc(1, sizeof *first), *s = calloc(1, sizeof *s);
	for (unsigned threads = 1; threads <= 9; threads += 2) {
		tn_context *ctx = with_threads(t, threads);
		for (int round = 0; round < 20; round++) {
			memset(s, 0, sizeof *s);
			struct tn_work work = { .task_count = TASKS, .run = work_on, .arg = s, .workers = round % 3 ? 0 : 2,
						.in_stretches = round % 2 };
			tt_ok(t, tn_pool_run(ctx, &work, &t->err));
			assert_int_equal(s->runs, TASKS);
			assert_int_equal(s->overlap, 0);
			if (threads == 1)
				memcpy(first, s, sizeof *s);
			assert_memory_equal(first->result, s->result, sizeof s->result);
		}
		tn_context_destroy(ctx);
	}
	free(first);
	free(s);
}

/* Spare threads are for work that asks for them, and there are none where one thread was asked for. */
static void work_that_waits_has_more_workers(void **state)
{
	struct tt *t = *state;
	struct shared *s = calloc(1, sizeof *s);
	for (unsigned threads = 1; threads <= 3; threads++) {
		tn_context *ctx = with_threads(t, threads);
		unsigned most = tn_pool_most(ctx);
		assert_true(threads == 1 ? most == 1 : most > threads);
		for (unsigned workers = 0; workers <= most + 2; workers++) {
			memset(s, 0, sizeof *s);
			struct tn_work work = { .task_count = TASKS, .workers = workers, .run = work_on, .arg = s };
			tt_ok(t, tn_pool_run(ctx, &work, &t->err));
			assert_int_equal(s->runs, TASKS);
			assert_int_equal(s->overlap, 0);
			assert_true(s->largest_worker < (workers == 0 ? threads : workers < most ? workers : most));
		}
		tn_context_destroy(ctx);
	}
	free(s);
}

static void first_failure_wins(void **state)
{
	struct tt *t = *state;
	struct shared *s = calloc(1, sizeof *s);
	for (unsigned threads = 1; threads <= 5; threads++) {
		tn_context *ctx = with_threads(t, threads);
		for (uint64_t from = 1; from < 100; from += 7) {
			memset(s, 0, sizeof *s);
			s->fail_from = from;
			struct tn_work work = { .task_count = TASKS, .run = work_on, .tick = tick, .arg = s };
			tt_expect(t, tn_pool_run(ctx, &work, &t->err), TN_E_MISMATCH);
			/* tasks are handed out in order, so the first that fails always runs */
			assert_int_equal(strtoull(t->err.msg, NULL, 10), from);
			assert_true(s->runs < from + 1 + 2 * threads || s->runs < TASKS);
		}
		memset(s, 0, sizeof *s);
		struct tn_work again = { .task_count = TASKS, .run = work_on, .tick = tick, .arg = s };
		tt_ok(t, tn_pool_run(ctx, &again, &t->err));
		assert_int_equal(s->runs, TASKS);
		tn_context_destroy(ctx);
	}
	free(s);
}

/* Long enough that the caller ticks before the workers have done everything, on a busy machine too. */
static tn_status sleep_briefly(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct timespec pause = { 0, 5 * 1000 * 1000 };
	struct shared *s = arg;
	(void)task;
	(void)worker;
	(void)err;
	atomic_fetch_add(&s->runs, 1);
	nanosleep(&pause, NULL);
	return TN_OK;
}

static void tick_cancels(void **state)
{
	struct tt *t = *state;
	struct shared *s = calloc(1, sizeof *s);
	for (unsigned threads = 1; threads <= 3; threads++) {
		tn_context *ctx = with_threads(t, threads);
		memset(s, 0, sizeof *s);
		s->stop_at_tick = 3;
		struct tn_work work = { .task_count = TASKS, .run = sleep_briefly, .tick = tick, .arg = s };
		tt_expect(t, tn_pool_run(ctx, &work, &t->err), TN_E_CANCELLED);
		assert_true(s->runs < TASKS);
		tn_context_destroy(ctx);
	}
	free(s);
}

static tn_status sleep_long(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct timespec pause = { 0, worker ? 350 * 1000 * 1000 : 50 * 1000 * 1000 };
	(void)arg;
	(void)task;
	(void)err;
	nanosleep(&pause, NULL);
	return TN_OK;
}

/* While the caller waits for a slow worker it ticks. The caller may get both tasks; then there is nothing to see. */
static void tick_while_waiting(void **state)
{
	struct tt *t = *state;
	struct shared *s = calloc(1, sizeof *s);
	struct tn_work work = { .task_count = 4, .run = sleep_long, .tick = tick, .arg = s };
	tt_ok(t, tn_pool_run(t->ctx, &work, &t->err));
	assert_true(s->ticks >= 2);
	free(s);
}

static void nothing_to_do(void **state)
{
	struct tt *t = *state;
	struct shared *s = calloc(1, sizeof *s);
	struct tn_work none = { .run = work_on, .tick = tick, .arg = s }, one = none;
	one.task_count = 1;
	tt_ok(t, tn_pool_run(t->ctx, &none, &t->err));
	assert_int_equal(s->runs, 0);
	tt_ok(t, tn_pool_run(t->ctx, &one, NULL));
	assert_int_equal(s->runs, 1);
	free(s);
}

static tn_status count_run(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	(void)task;
	(void)err;
	atomic_fetch_add((_Atomic unsigned *)arg, 1);
	return worker < 2 ? TN_OK : TN_E_MISMATCH;
}

/* Most workers wake when the work is done already, and must not touch it; more of them than there are tasks stay out. */
static void many_small_runs(void **state)
{
	struct tt *t = *state;
	tn_context *ctx = with_threads(t, 8);
	for (int i = 0; i < 5000; i++) {
		_Atomic unsigned *runs = calloc(1, sizeof *runs);
		struct tn_work work = { .task_count = 2, .run = count_run, .arg = runs, .in_stretches = i % 2 };
		tt_ok(t, tn_pool_run(ctx, &work, &t->err));
		assert_int_equal(*runs, 2);
		free(runs);
	}
	tn_context_destroy(ctx);
}

struct caller {
	tn_context *ctx;
	int wrong;
};

static void *call_often(void *arg)
{
	struct caller *c = arg;
	struct shared *s = calloc(1, sizeof *s);
	for (int i = 0; i < 50; i++) {
		memset(s, 0, sizeof *s);
		s->fail_from = i % 3 == 0 ? 4000 : 0;
		struct tn_work work = { .task_count = TASKS, .run = work_on, .tick = NULL, .arg = s };
		struct tn_error error;
		tn_status want = s->fail_from ? TN_E_MISMATCH : TN_OK;
		c->wrong |= tn_pool_run(c->ctx, &work, &error) != want;
		c->wrong |= want == TN_OK && s->runs != TASKS;
		c->wrong |= want != TN_OK && strcmp(error.msg, "4000") != 0;
	}
	free(s);
	return NULL;
}

static void callers_at_the_same_time(void **state)
{
	struct tt *t = *state;
	tn_context *ctx = with_threads(t, 3);
	pthread_t threads[4];
	struct caller callers[4];
	for (int i = 0; i < 4; i++) {
		callers[i] = (struct caller){ ctx, 0 };
		assert_int_equal(pthread_create(&threads[i], NULL, call_often, &callers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(callers[i].wrong, 0);
	}
	tn_context_destroy(ctx);
}

/* Without memory for a worker the caller does everything. */
static void no_memory_for_workers(void **state)
{
	struct tt *t = *state;
	struct shared *s = calloc(1, sizeof *s);
	tn_context *ctx = with_threads(t, 4);
	t->heap.fail_at = t->heap.calls + 1;
	struct tn_work work = { .task_count = TASKS, .run = work_on, .tick = NULL, .arg = s };
	tt_ok(t, tn_pool_run(ctx, &work, &t->err));
	assert_int_equal(s->runs, TASKS);
	tn_context_destroy(ctx);
	free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(same_results_for_any_thread_count), TT_TEST(work_that_waits_has_more_workers),
		TT_TEST(first_failure_wins), TT_TEST(tick_cancels),
		TT_TEST(tick_while_waiting),                TT_TEST(nothing_to_do),      TT_TEST(callers_at_the_same_time),
		TT_TEST(no_memory_for_workers),             TT_TEST(many_small_runs),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
