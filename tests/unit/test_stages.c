/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/stages.h"

#include "base/error.h"
#include "base/pool.h"
#include "testlib.h"

#include <sched.h>
#include <stdatomic.h>
#include <time.h>

enum { TASKS = 3000, PLACES = 5, MOST_PLACES = 16, NONE = -1, FOLLOW = TN_STAGES };

struct shared {
	tn_context *ctx;
	unsigned threads, places;
	int fails_in, delays_in;            /* a stage, NONE, or FOLLOW */
	uint64_t fails_at;
	int all_fail_behind;                /* in any stage */
	uint64_t delayed;                   /* of so many tasks the first; the others overtake it */
	unsigned stop_at_tick;              /* 0: never */
	_Atomic uint64_t owner[MOST_PLACES]; /* of the place: the task and 1; 0: nobody */
	_Atomic unsigned passed[TASKS];     /* stages */
	_Atomic unsigned inside[TN_STAGES], ticks;
	_Atomic int folding, wrong;
	_Atomic uint64_t folded;
	uint64_t sum;
};

/* What a task finds. */
struct found {
	uint64_t value;
	unsigned stages;
};

static void expect(struct shared *s, int holds)
{
	if (!holds)
		atomic_store(&s->wrong, 1);
}

/* Threads meet in other orders each time, and where a stage is slow what comes behind it waits. */
static void linger(const struct shared *s, int stage, uint64_t task)
{
	const struct timespec some_time = { 0, 2 * 1000 * 1000 };
	if (s->delays_in == stage && task % s->delayed == 0)
		nanosleep(&some_time, NULL);
	for (uint64_t i = 0; i < (task * 7 + (unsigned)stage) % 5; i++)
		sched_yield();
}

static int fails(const struct shared *s, int stage, uint64_t task)
{
	return (s->fails_in == stage && task == s->fails_at) || (s->all_fail_behind && task > s->fails_at);
}

static void check_entry(struct shared *s, enum tn_stage stage, const struct tn_stage_task *task)
{
	struct found *found = task->result;
	uint64_t nobody = 0;
	unsigned inside = atomic_fetch_add(&s->inside[stage], 1) + 1;
	expect(s, task->place < s->places && (uintptr_t)found % 64 == 0);
	if (stage == TN_STAGE_READ)
		expect(s, atomic_compare_exchange_strong(&s->owner[task->place], &nobody, task->number + 1));
	expect(s, atomic_load(&s->owner[task->place]) == task->number + 1);
	expect(s, atomic_fetch_add(&s->passed[task->number], 1) == (unsigned)stage);
	expect(s, stage != TN_STAGE_COMPUTE || inside <= s->threads);
	expect(s, found->stages++ == (unsigned)stage);
	found->value += task->number;
}

static tn_status run(void *arg, enum tn_stage stage, const struct tn_stage_task *task, struct tn_error *err)
{
	struct shared *s = arg;
	check_entry(s, stage, task);
	linger(s, (int)stage, task->number);
	if (stage == TN_STAGE_WRITE)
		atomic_store(&s->owner[task->place], 0);
	atomic_fetch_sub(&s->inside[stage], 1);
	if (fails(s, (int)stage, task->number))
		return tn_fail(err, TN_E_MISMATCH, "task", "%llu", (unsigned long long)task->number);
	return TN_OK;
}

static void fold(void *arg, uint64_t task, const void *result)
{
	struct shared *s = arg;
	const struct found *found = result;
	expect(s, atomic_exchange(&s->folding, 1) == 0);
	expect(s, task == atomic_load(&s->folded) && atomic_load(&s->passed[task]) == TN_STAGES);
	expect(s, found->stages == TN_STAGES && found->value == TN_STAGES * task);
	s->sum += found->value;
	atomic_store(&s->folded, task + 1);
	atomic_store(&s->folding, 0);
}

static tn_status follow(void *arg, struct tn_error *err)
{
	struct shared *s = arg;
	uint64_t folded = atomic_load(&s->folded);
	expect(s, folded > 0);
	linger(s, FOLLOW, folded);
	return s->fails_in == FOLLOW && folded > s->fails_at ? tn_fail(err, TN_E_IO, "follow", "no") : TN_OK;
}

static tn_status tick(void *arg, struct tn_error *err)
{
	struct shared *s = arg;
	unsigned n = atomic_fetch_add(&s->ticks, 1) + 1;
	return s->stop_at_tick && n >= s->stop_at_tick ? tn_fail(err, TN_E_CANCELLED, "tick", "stop") : TN_OK;
}

static tn_status run_tasks(struct shared *s, uint64_t count, struct tn_error *err)
{
	unsigned most = tn_pool_most(s->ctx);
	struct tn_stage_work work = { .task_count = count, .workers = s->places < most ? s->places : most, .places = s->places,
				      .result_bytes = sizeof(struct found), .run = run, .fold = fold, .follow = follow,
				      .tick = tick, .arg = s };
	return tn_stages_run(s->ctx, &work, err);
}

static void begin(struct tt *t, struct shared *s, unsigned threads, unsigned places)
{
	struct tn_options options = TN_OPTIONS_INIT;
	options.threads = threads;
	options.allocator = tt_heap_allocator(&t->heap);
	*s = (struct shared){ .threads = threads, .places = places, .fails_in = NONE, .delays_in = NONE, .delayed = 1 };
	tt_ok(t, tn_context_create(&options, &s->ctx, &t->err));
}

static void end(struct shared *s)
{
	assert_false(atomic_load(&s->wrong));
	tn_context_destroy(s->ctx);
}

static void check_all_done(const struct shared *s, uint64_t count)
{
	for (size_t i = 0; i < count; i++)
		assert_int_equal(atomic_load(&s->passed[i]), TN_STAGES);
	assert_int_equal(s->folded, count);
	assert_int_equal(s->sum, TN_STAGES * (count * (count - 1) / 2));
	assert_true(atomic_load(&s->ticks) > 0);
}

static void every_task_takes_every_stage(void **state)
{
	struct tt *t = *state;
	struct shared s;
	for (unsigned threads = 1; threads <= 9; threads += 4)
		for (unsigned places = 1; places <= MOST_PLACES; places += PLACES) {
			begin(t, &s, threads, places);
			tt_ok(t, run_tasks(&s, TASKS, &t->err));
			check_all_done(&s, TASKS);
			tt_ok(t, run_tasks(&s, 0, &t->err));
			end(&s);
		}
}

/* One task in so many takes long at one stage, and all others overtake it there: they must neither fill the turns of a later stage
 * while they wait for its result, nor go so far ahead that theirs find no room. */
static void none_waits_for_one_behind_it(void **state)
{
	struct tt *t = *state;
	struct shared s;
	for (int stage = 0; stage <= FOLLOW; stage++)
		for (unsigned threads = 1; threads <= 5; threads += 2)
			for (unsigned places = 1; places <= MOST_PLACES; places += 3) {
				begin(t, &s, threads, places);
				s.delays_in = stage;
				s.delayed = 20 + 3 * places;
				tt_ok(t, run_tasks(&s, TASKS / 10, &t->err));
				check_all_done(&s, TASKS / 10);
				end(&s);
			}
}

/* And nothing begins behind it, while everything before it ends. */
static void the_first_failure_counts(void **state)
{
	enum { AT = 1000 };
	struct tt *t = *state;
	struct shared s;
	for (int stage = 0; stage < TN_STAGES; stage++)
		for (unsigned threads = 1; threads <= 5; threads += 4)
			for (int delays_in = NONE; delays_in < TN_STAGES; delays_in++) {
				begin(t, &s, threads, PLACES);
				s.fails_in = stage;
				s.fails_at = AT;
				s.all_fail_behind = 1;
				s.delays_in = delays_in;
				s.delayed = AT;
				assert_int_equal(run_tasks(&s, TASKS, &t->err), TN_E_MISMATCH);
				assert_string_equal(t->err.msg, "1000");
				assert_int_equal(s.folded, AT);
				for (size_t i = AT + 2 * PLACES; i < TASKS; i++)
					assert_int_equal(atomic_load(&s.passed[i]), 0);
				end(&s);
			}
}

static void what_follows_can_fail(void **state)
{
	struct tt *t = *state;
	struct shared s;
	for (unsigned threads = 1; threads <= 5; threads += 4) {
		begin(t, &s, threads, PLACES);
		s.fails_in = FOLLOW;
		s.fails_at = 500;
		assert_int_equal(run_tasks(&s, TASKS, &t->err), TN_E_IO);
		assert_true(s.folded > 500 && s.folded < TASKS);
		end(&s);
		begin(t, &s, threads, PLACES);
		s.fails_in = FOLLOW;
		s.fails_at = TASKS - 1;
		assert_int_equal(run_tasks(&s, TASKS, &t->err), TN_E_IO);
		end(&s);
	}
}

static void the_caller_can_stop_it(void **state)
{
	struct tt *t = *state;
	struct shared s;
	for (unsigned threads = 1; threads <= 5; threads += 4) {
		begin(t, &s, threads, PLACES);
		s.stop_at_tick = 3;
		assert_int_equal(run_tasks(&s, TASKS, &t->err), TN_E_CANCELLED);
		assert_int_equal(atomic_load(&s.ticks), 3);
		end(&s);
	}
}

static tn_status sleeps(void *arg, enum tn_stage stage, const struct tn_stage_task *task, struct tn_error *err)
{
	const struct timespec long_time = { 0, 250 * 1000 * 1000 };
	(void)arg;
	(void)err;
	if (stage == TN_STAGE_WRITE && task->number > 0)
		nanosleep(&long_time, NULL);
	return TN_OK;
}

/* While others write for long, the calling thread has nothing to do but that; with one task, it comes back from the last. */
static void ticks_go_on(void **state)
{
	struct tt *t = *state;
	struct shared s;
	begin(t, &s, 2, PLACES);
	struct tn_stage_work work = { .task_count = 4, .workers = 4, .places = 4, .run = sleeps, .tick = tick, .arg = &s };
	tt_ok(t, tn_stages_run(s.ctx, &work, &t->err));
	assert_true(atomic_load(&s.ticks) >= 3);
	end(&s);
}

static tn_status nested(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct shared *s = arg;
	(void)worker;
	return task == 0 ? run_tasks(s, TASKS, err) : TN_OK;
}

static void one_thread_does_all_when_the_pool_is_busy(void **state)
{
	struct tt *t = *state;
	struct shared s;
	begin(t, &s, 4, PLACES);
	struct tn_work outer = { .task_count = 2, .workers = 2, .run = nested, .arg = &s };
	tt_ok(t, tn_pool_run(s.ctx, &outer, &t->err));
	check_all_done(&s, TASKS);
	end(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(every_task_takes_every_stage), TT_TEST(none_waits_for_one_behind_it),
					    TT_TEST(the_first_failure_counts), TT_TEST(what_follows_can_fail),
					    TT_TEST(the_caller_can_stop_it), TT_TEST(ticks_go_on),
					    TT_TEST(one_thread_does_all_when_the_pool_is_busy) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
