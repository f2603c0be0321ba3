/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/stages.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

/* Disks that machines share serve what is queued as one, and say so when the last of it is done: whoever had everything queued
 * would have nothing to give to a disk that is idle from then on. So a few are written at once, and those that are ready wait;
 * a thread whose write has ended begins with the next of them before it does anything else.
 *
 * Why it always goes on. Threads sleep in one place only, sleep_for below, and hold nothing there: a task that waits for a turn
 * is a line in a table, not a thread. Take the first task in order that has not ended. When some thread is at one of its stages,
 * it comes to the end of it, because no stage waits for what another task has still to do; nor do results, which have room for
 * all tasks that can be under way (WINDOW_PER_PLACE). When it stands in the table, it is the first to be chosen of those that
 * want its stage, and those inside that stage come to their end likewise. When it has not begun, nothing else is under way, for
 * tasks begin in their order: then every place and every turn is free. Whoever comes back from something looks for the next thing
 * himself, and whoever goes to something wakes another when there is more to do (let_others), so work is never left to sleepers
 * alone. None of this counts threads or places: one of each is enough. */
enum { LEAST_TURNS = 4, WINDOW_PER_PLACE = 2 };
enum { TICK_MS = 100, SHORT_NS = 50 * 1000 };

/* A task under way waits for a turn at `next`, or a thread is at that stage of it. */
struct place {
	uint64_t task;
	enum tn_stage next;
	int is_taken, is_inside;
};

struct stages {
	const struct tn_stage_work *work;
	size_t stride;                  /* of a result */
	uint64_t window;                /* tasks that are begun before the first that has not ended has done so */
	unsigned char *results;         /* [window], each at its task's number modulo that */
	unsigned most[TN_STAGES];
	pthread_mutex_t lock;           /* guards all below */
	pthread_cond_t moved;
	struct place *places;
	unsigned char *has_ended;       /* [window] */
	unsigned inside[TN_STAGES];
	unsigned sleeping, active;      /* threads that wait for something to do; that do something */
	uint64_t first, next;           /* task that has not ended; that has not begun */
	uint64_t end;                   /* this task and those behind it do not go on */
	int reads_wait;                 /* for a disk: the last one did */
	tn_status status;
	struct tn_error error;
};

/* ---- who is next ----------------------------------------------------------------------------------------- */

/* The first in order; NULL when there is none. */
static struct place *waiting_for(const struct stages *s, enum tn_stage stage)
{
	struct place *found = NULL;
	for (struct place *p = s->places; p < s->places + s->work->places; p++)
		if (p->is_taken && !p->is_inside && p->next == stage && p->task < s->end && (!found || p->task < found->task))
			found = p;
	return found;
}

/* One for a task that begins. While reading takes no time but the processor's, it counts as computing. */
static struct place *free_place(const struct stages *s)
{
	unsigned busy = s->inside[TN_STAGE_READ] + s->inside[TN_STAGE_COMPUTE];
	if (s->next >= s->end || s->next - s->first >= s->window || (!s->reads_wait && busy >= s->most[TN_STAGE_COMPUTE]))
		return NULL;
	for (struct place *p = s->places; p < s->places + s->work->places; p++)
		if (!p->is_taken)
			return p;
	return NULL;
}

/* What is nearest to its end; NULL when there is nothing to do now. */
static struct place *choose(const struct stages *s)
{
	struct place *p = NULL;
	for (enum tn_stage stage = TN_STAGES; !p && stage-- > 0;)
		if (s->inside[stage] < s->most[stage])
			p = stage == TN_STAGE_READ ? free_place(s) : waiting_for(s, stage);
	return p;
}

/* Gives the lock away, by one who is at something and so will not look for what there is to do now. */
static void let_others(struct stages *s)
{
	if (s->sleeping && choose(s))
		pthread_cond_signal(&s->moved);
	pthread_mutex_unlock(&s->lock);
}

/* ---- one stage ------------------------------------------------------------------------------------------- */

static void *result_of(const struct stages *s, uint64_t task)
{
	return s->results + task % s->window * s->stride;
}

/* Tasks from `end` on stop. The first failure in order is the one that counts, whenever it comes. */
static void stop(struct stages *s, uint64_t end, tn_status status, const struct tn_error *error)
{
	if (s->status == TN_OK || end < s->end) {
		s->status = status;
		s->error = *error;
	}
	s->end = tn_min_u64(s->end, end);
	pthread_cond_broadcast(&s->moved);
}

static int64_t nanoseconds(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Without the lock, as all callbacks but `fold`. *waited: for most of the time. */
static tn_status run_stage(const struct stages *s, enum tn_stage stage, const struct tn_stage_task *task, int *waited,
			   struct tn_error *err)
{
	int64_t cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID), start = nanoseconds(CLOCK_MONOTONIC);
	tn_status status = s->work->run(s->work->arg, stage, task, err);
	cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
	int64_t took = nanoseconds(CLOCK_MONOTONIC) - start;
	*waited = took > SHORT_NS && cpu < took / 2;
	return status;
}

/* A task has ended. */
static void hand_on(struct stages *s, uint64_t task)
{
	const struct tn_stage_work *work = s->work;
	uint64_t before = s->first;
	s->has_ended[task % s->window] = 1;
	for (; s->has_ended[s->first % s->window]; s->first++) {
		s->has_ended[s->first % s->window] = 0;
		if (work->fold)
			work->fold(work->arg, s->first, result_of(s, s->first));
	}
	if (s->first == before || !work->follow)
		return;
	struct tn_error error = { 0 };
	let_others(s);
	tn_status status = work->follow(work->arg, &error);
	pthread_mutex_lock(&s->lock);
	if (status != TN_OK)
		stop(s, task, status, &error);
}

static void begin(struct stages *s, struct place *p)
{
	*p = (struct place){ .task = s->next++, .next = TN_STAGE_READ, .is_taken = 1 };
	memset(result_of(s, p->task), 0, s->stride);
}

/* With the lock held before and after. */
static void do_stage(struct stages *s, struct place *p)
{
	struct tn_error error = { 0 };
	int waited;
	if (!p->is_taken)
		begin(s, p);
	enum tn_stage stage = p->next;
	struct tn_stage_task task = { p->task, (unsigned)(p - s->places), result_of(s, p->task) };
	p->is_inside = 1;
	s->inside[stage]++;
	s->active++;
	let_others(s);
	tn_status status = run_stage(s, stage, &task, &waited, &error);
	pthread_mutex_lock(&s->lock);
	p->is_inside = 0;
	s->inside[stage]--;
	if (stage == TN_STAGE_READ)
		s->reads_wait = waited;
	p->next = stage + 1;
	p->is_taken = p->next < TN_STAGES;
	if (status != TN_OK)
		stop(s, task.number, status, &error);
	else if (!p->is_taken)
		hand_on(s, task.number);
	if (--s->active == 0 && s->first >= s->end)
		pthread_cond_broadcast(&s->moved);
}

/* ---- threads --------------------------------------------------------------------------------------------- */

static void tick(struct stages *s)
{
	struct tn_error error = { 0 };
	let_others(s);
	tn_status status = s->work->tick(s->work->arg, &error);
	pthread_mutex_lock(&s->lock);
	if (status != TN_OK)
		stop(s, 0, status, &error);
}

static void sleep_for(struct stages *s, int64_t milliseconds)
{
	struct timespec until;
	int64_t end = nanoseconds(CLOCK_MONOTONIC) + milliseconds * 1000000;
	until.tv_sec = (time_t)(end / 1000000000);
	until.tv_nsec = (long)(end % 1000000000);
	s->sleeping++;
	pthread_cond_timedwait(&s->moved, &s->lock, &until);
	s->sleeping--;
}

/* All that one thread does; the calling one stays for the ticks until nobody does anything. */
static tn_status work_along(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct stages *s = arg;
	(void)task;
	(void)err;
	pthread_mutex_lock(&s->lock);
	while (s->first < s->end || (worker == 0 && s->active)) {
		struct place *p = choose(s);
		if (p)
			do_stage(s, p);
		else
			sleep_for(s, TICK_MS);
		if (worker == 0 && s->work->tick && s->status == TN_OK)
			tick(s);
	}
	pthread_mutex_unlock(&s->lock);
	return TN_OK;
}

static void init_lock(struct stages *s)
{
	pthread_condattr_t attr;
	pthread_mutex_init(&s->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&s->moved, &attr);
	pthread_condattr_destroy(&attr);
}

/* One piece of memory for results, places and flags. */
static tn_status allocate(tn_context *ctx, struct stages *s, struct tn_buffer *memory, struct tn_error *err)
{
	size_t places = s->work->places * sizeof *s->places, results = (size_t)s->window * s->stride;
	TN_TRY(tn_buffer_alloc(ctx, results + places + (size_t)s->window, "results", memory, err));
	memset(memory->data, 0, results + places + (size_t)s->window);
	s->results = memory->data;
	s->places = (struct place *)(void *)(s->results + results);
	s->has_ended = s->results + results + places;
	return TN_OK;
}

tn_status tn_stages_run(tn_context *ctx, const struct tn_stage_work *work, struct tn_error *err)
{
	const unsigned threads = tn_pool_workers(ctx), turns = threads > LEAST_TURNS ? threads : LEAST_TURNS;
	const unsigned workers = work->workers ? work->workers : threads;
	struct stages s = { .work = work, .end = work->task_count, .most = { turns, threads, turns } };
	struct tn_work threads_work = { .task_count = workers, .workers = workers, .run = work_along, .arg = &s };
	struct tn_buffer memory;
	if (!work->task_count)
		return TN_OK;
	s.window = (uint64_t)work->places * WINDOW_PER_PLACE;
	s.stride = tn_align_up(work->result_bytes, 64);
	TN_TRY(allocate(ctx, &s, &memory, err));
	init_lock(&s);
	tn_pool_run(ctx, &threads_work, NULL); /* fails by what it runs alone */
	pthread_cond_destroy(&s.moved);
	pthread_mutex_destroy(&s.lock);
	tn_buffer_release(ctx, &memory);
	if (s.status != TN_OK && err)
		*err = s.error;
	return s.status;
}
