/* SPDX-License-Identifier: Apache-2.0 */
#include "base/pool.h"

#include "base/cpu.h"
#include "base/error.h"

#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

/* How often a thread looks for something to do, or for the others to end, before it sleeps: some tens of microseconds. To wake
 * takes as long as a small product, and a step of a model is hundreds of those, one right after the other. */
enum { LOOKS = 2000 };

/* Tasks that one worker begins with; on a cache line of its own. */
struct stretch {
	_Alignas(64) _Atomic uint64_t next;
	uint64_t end;
};

struct job {
	const struct tn_work *work;
	_Atomic uint64_t next_task;   /* without stretches */
	struct stretch *stretches;    /* [stretch_count] */
	unsigned stretch_count;
	_Atomic int stop;
	pthread_mutex_t failure_lock;
	uint64_t failed_task; /* valid when status is a failure; the tick counts as the last task */
	tn_status status;
	struct tn_error error;
};

struct tn_pool {
	tn_context *ctx;
	pthread_mutex_t run_lock; /* held by the caller whose work the workers do */
	pthread_mutex_t lock;     /* guards all below */
	pthread_cond_t wake, idle;
	struct job *job;
	_Atomic unsigned active;  /* workers inside the current job; changed under the lock, looked at without */
	_Atomic uint64_t generation; /* counts jobs, so that a worker joins each one once; likewise */
	_Atomic int closing;      /* likewise */
	unsigned sleeping;        /* workers that must be woken */
	unsigned looks;           /* LOOKS, or 0 when there are more threads than CPUs */
	unsigned started;         /* running threads, without the caller */
	int no_more;              /* a thread could not be started */
	struct stretch *stretches; /* [threads] of the job */
	struct tn_buffer stretch_memory;
	pthread_t threads[];
};

static void record_failure(struct job *job, uint64_t task, tn_status status, const struct tn_error *error)
{
	pthread_mutex_lock(&job->failure_lock);
	if (job->status == TN_OK || task < job->failed_task) {
		job->status = status;
		job->failed_task = task;
		job->error = *error;
	}
	pthread_mutex_unlock(&job->failure_lock);
	atomic_store(&job->stop, 1);
}

static void cut_stretches(struct job *job, struct stretch *stretches, unsigned workers)
{
	const uint64_t count = job->work->task_count, each = count / workers, rest = count % workers;
	uint64_t first = 0;
	for (unsigned w = 0; w < workers; w++) {
		const uint64_t end = first + each + (w < rest);
		atomic_store(&stretches[w].next, first);
		stretches[w].end = end;
		first = end;
	}
	job->stretches = stretches;
	job->stretch_count = workers;
}

/* The next task of the worker's own stretch, then of the others'; task_count when none is left. */
static uint64_t take_task(struct job *job, unsigned worker)
{
	if (!job->stretches)
		return atomic_fetch_add(&job->next_task, 1);
	for (unsigned i = 0; i < job->stretch_count; i++) {
		struct stretch *s = &job->stretches[(worker + i) % job->stretch_count];
		if (atomic_load(&s->next) >= s->end)
			continue;
		uint64_t task = atomic_fetch_add(&s->next, 1);
		if (task < s->end)
			return task;
	}
	return job->work->task_count;
}

/* Takes one task and does it; 0 when none is left. */
static int do_one_task(struct job *job, unsigned worker)
{
	if (atomic_load(&job->stop))
		return 0;
	uint64_t task = take_task(job, worker);
	if (task >= job->work->task_count)
		return 0;
	struct tn_error error = { 0 };
	tn_status status = job->work->run(job->work->arg, task, worker, &error);
	if (status != TN_OK)
		record_failure(job, task, status, &error);
	return 1;
}

/* With the lock held, before and after: a job that the worker has not seen, which it now has; 0 when the pool closes. */
static int wait_for_job(struct tn_pool *pool, unsigned looks, uint64_t *seen)
{
	while (!pool->closing && (pool->generation == *seen || !pool->job)) {
		*seen = pool->generation; /* one that is over */
		pthread_mutex_unlock(&pool->lock);
		for (unsigned i = 0; i < looks && pool->generation == *seen && !pool->closing; i++)
			tn_cpu_relax();
		pthread_mutex_lock(&pool->lock);
		pool->sleeping++;
		while (!pool->closing && pool->generation == *seen)
			pthread_cond_wait(&pool->wake, &pool->lock);
		pool->sleeping--;
	}
	*seen = pool->generation;
	return !pool->closing;
}

static unsigned workers_of(const tn_context *ctx, const struct tn_work *work)
{
	unsigned most = work->workers && !work->in_stretches ? tn_pool_most(ctx) : ctx->threads;
	return work->workers && work->workers < most ? work->workers : most;
}

struct worker_start {
	struct tn_pool *pool;
	unsigned worker;
};

static void *worker_main(void *arg)
{
	struct worker_start *start = arg;
	struct tn_pool *pool = start->pool;
	unsigned worker = start->worker;
	tn_free(pool->ctx, start, sizeof *start);

	uint64_t seen = 0;
	unsigned looks = worker < pool->ctx->threads ? pool->looks : 0;
	pthread_mutex_lock(&pool->lock);
	while (wait_for_job(pool, looks, &seen)) {
		struct job *job = pool->job;
		pool->active++;
		pthread_mutex_unlock(&pool->lock);
		if (worker < workers_of(pool->ctx, job->work))
			while (do_one_task(job, worker))
				continue;
		pthread_mutex_lock(&pool->lock);
		if (--pool->active == 0)
			pthread_cond_signal(&pool->idle);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* Starts what can be started; fewer threads than wished for is slower, not wrong. */
static void start_threads(struct tn_pool *pool, unsigned workers)
{
	while (!pool->no_more && pool->started + 1 < workers) {
		struct worker_start *start;
		pool->no_more = tn_alloc(pool->ctx, sizeof *start, "worker", &start, NULL) != TN_OK;
		if (pool->no_more)
			return;
		*start = (struct worker_start){ pool, pool->started + 1 };
		pool->no_more = pthread_create(&pool->threads[pool->started], NULL, worker_main, start) != 0;
		if (pool->no_more)
			tn_free(pool->ctx, start, sizeof *start);
		else
			pool->started++;
	}
}

static size_t pool_bytes(const tn_context *ctx)
{
	return sizeof(struct tn_pool) + tn_pool_most(ctx) * sizeof(pthread_t);
}

tn_status tn_pool_create(tn_context *ctx, struct tn_pool **out, struct tn_error *err)
{
	struct tn_pool *pool;
	struct tn_buffer stretches;
	TN_TRY(tn_buffer_alloc(ctx, ctx->threads * sizeof(struct stretch), "thread pool", &stretches, err));
	tn_status status = tn_alloc_array(ctx, 1, pool_bytes(ctx), "thread pool", &pool, err);
	if (status != TN_OK) {
		tn_buffer_release(ctx, &stretches);
		return status;
	}
	pool->ctx = ctx;
	pool->stretch_memory = stretches;
	pool->stretches = stretches.data;
	pool->looks = ctx->threads <= tn_cpu_count() ? LOOKS : 0;
	pthread_mutex_init(&pool->run_lock, NULL);
	pthread_mutex_init(&pool->lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&pool->wake, NULL);
	pthread_cond_init(&pool->idle, &attr);
	pthread_condattr_destroy(&attr);
	*out = pool;
	return TN_OK;
}

void tn_pool_destroy(struct tn_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->closing = 1;
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->started; i++)
		pthread_join(pool->threads[i], NULL);
	pthread_cond_destroy(&pool->idle);
	pthread_cond_destroy(&pool->wake);
	pthread_mutex_destroy(&pool->lock);
	pthread_mutex_destroy(&pool->run_lock);
	tn_buffer_release(pool->ctx, &pool->stretch_memory);
	tn_free(pool->ctx, pool, pool_bytes(pool->ctx));
}

unsigned tn_pool_workers(const tn_context *ctx)
{
	return ctx->threads;
}

unsigned tn_pool_most(const tn_context *ctx)
{
	return ctx->threads + ctx->spare_threads;
}

static void tick(struct job *job)
{
	if (!job->work->tick || atomic_load(&job->stop))
		return;
	struct tn_error error = { 0 };
	tn_status status = job->work->tick(job->work->arg, &error);
	if (status != TN_OK)
		record_failure(job, job->work->task_count, status, &error);
}

/* The caller works along, then waits for the workers, ticking. */
static void run_with_workers(struct tn_pool *pool, struct job *job)
{
	if (job->work->in_stretches)
		cut_stretches(job, pool->stretches, workers_of(pool->ctx, job->work));
	pthread_mutex_lock(&pool->lock);
	start_threads(pool, workers_of(pool->ctx, job->work));
	pool->job = job;
	pool->generation++;
	if (pool->sleeping)
		pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);

	while (do_one_task(job, 0))
		tick(job);

	pthread_mutex_lock(&pool->lock);
	pool->job = NULL; /* a worker that wakes late finds nothing */
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->looks && pool->active; i++)
		tn_cpu_relax();
	pthread_mutex_lock(&pool->lock);
	while (pool->active) {
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += 100 * 1000 * 1000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_cond_timedwait(&pool->idle, &pool->lock, &until);
		if (!pool->active)
			break;
		pthread_mutex_unlock(&pool->lock);
		tick(job);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
}

tn_status tn_pool_run(tn_context *ctx, const struct tn_work *work, struct tn_error *err)
{
	struct job job = { .work = work };
	pthread_mutex_init(&job.failure_lock, NULL);
	if (workers_of(ctx, work) > 1 && work->task_count > 1 && pthread_mutex_trylock(&ctx->pool->run_lock) == 0) {
		run_with_workers(ctx->pool, &job);
		pthread_mutex_unlock(&ctx->pool->run_lock);
	} else {
		while (do_one_task(&job, 0))
			tick(&job);
	}
	pthread_mutex_destroy(&job.failure_lock);
	if (job.status != TN_OK && err)
		*err = job.error;
	return job.status;
}
