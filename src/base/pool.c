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

/* The gate of a pool: how many workers are inside the job, how many the job has room for, whether one may still enter, and which
 * job it is. All in one number, so that to enter and to leave takes one addition and no lock, whose waiters the system would have
 * to wake. */
enum { WANTED_SHIFT = 16, OPEN_SHIFT = 32, GENERATION_SHIFT = 33 };
static const uint64_t OPEN = (uint64_t)1 << OPEN_SHIFT;

static unsigned inside(uint64_t gate)
{
	return gate & 0xFFFF;
}

static uint64_t generation(uint64_t gate)
{
	return gate >> GENERATION_SHIFT;
}

/* Whether worker number `worker`, which was inside job `seen` last, has work there. */
static int lets_in(uint64_t gate, unsigned worker, uint64_t seen)
{
	return gate & OPEN && generation(gate) != seen && worker < ((gate >> WANTED_SHIFT) & 0xFFFF);
}

struct thread {
	pthread_t id;
	_Atomic int sleeps;        /* and must be woken */
};

struct tn_pool {
	_Alignas(64) _Atomic uint64_t gate;
	_Alignas(64) _Atomic int closing;
	_Atomic int waiting;       /* the caller sleeps until the last worker is out */
	_Alignas(64) tn_context *ctx;
	struct job *job;           /* behind the gate: written while nobody can be inside */
	pthread_mutex_t run_lock;  /* held by the caller whose work the workers do */
	pthread_mutex_t lock;      /* of those who sleep */
	pthread_cond_t wake, idle;
	unsigned looks;            /* LOOKS, or 0 when there are more threads than CPUs */
	unsigned started;          /* running threads, without the caller */
	int no_more;               /* a thread could not be started */
	struct tn_buffer memory;   /* that holds all this */
	struct thread *threads;    /* [tn_pool_most]; the caller is the first */
	struct stretch stretches[]; /* [threads of the context] of the job */
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

static unsigned workers_of(const tn_context *ctx, const struct tn_work *work)
{
	unsigned most = work->workers && !work->in_stretches ? tn_pool_most(ctx) : ctx->threads;
	return work->workers && work->workers < most ? work->workers : most;
}

/* The last one out wakes a caller that sleeps. Either it sees that the caller does, or the caller sees that nobody is inside: both
 * write before they look. */
static void leave(struct tn_pool *pool)
{
	const uint64_t before = atomic_fetch_sub(&pool->gate, 1);
	if (inside(before) > 1 || before & OPEN || !atomic_load(&pool->waiting))
		return;
	pthread_mutex_lock(&pool->lock);
	pthread_cond_signal(&pool->idle);
	pthread_mutex_unlock(&pool->lock);
}

/* Whoever comes when the gate is shut already only goes out again. */
static int enter(struct tn_pool *pool, unsigned worker, uint64_t *seen)
{
	const uint64_t gate = atomic_fetch_add(&pool->gate, 1);
	if (!lets_in(gate, worker, *seen)) {
		leave(pool);
		return 0;
	}
	*seen = generation(gate);
	return 1;
}

/* Until there is a job that the worker has not seen, which it then is inside of; 0 when the pool closes. */
static int wait_for_job(struct tn_pool *pool, unsigned worker, unsigned looks, uint64_t *seen)
{
	while (!atomic_load(&pool->closing)) {
		for (unsigned i = 0; i < looks && !lets_in(atomic_load(&pool->gate), worker, *seen) && !pool->closing; i++)
			tn_cpu_relax();
		if (lets_in(atomic_load(&pool->gate), worker, *seen)) {
			if (enter(pool, worker, seen))
				return 1;
			continue;
		}
		pthread_mutex_lock(&pool->lock);
		atomic_store(&pool->threads[worker].sleeps, 1);
		while (!pool->closing && !lets_in(atomic_load(&pool->gate), worker, *seen))
			pthread_cond_wait(&pool->wake, &pool->lock);
		atomic_store(&pool->threads[worker].sleeps, 0);
		pthread_mutex_unlock(&pool->lock);
	}
	return 0;
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
	while (wait_for_job(pool, worker, looks, &seen)) {
		while (do_one_task(pool->job, worker))
			continue;
		leave(pool);
	}
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
		pool->no_more = pthread_create(&pool->threads[start->worker].id, NULL, worker_main, start) != 0;
		if (pool->no_more)
			tn_free(pool->ctx, start, sizeof *start);
		else
			pool->started++;
	}
}

static size_t thread_bytes(const tn_context *ctx)
{
	return tn_pool_most(ctx) * sizeof(struct thread);
}

tn_status tn_pool_create(tn_context *ctx, struct tn_pool **out, struct tn_error *err)
{
	struct tn_buffer memory;
	struct thread *threads;
	const size_t bytes = sizeof(struct tn_pool) + ctx->threads * sizeof(struct stretch);
	TN_TRY(tn_buffer_alloc(ctx, bytes, "thread pool", &memory, err));
	tn_status status = tn_alloc(ctx, thread_bytes(ctx), "thread pool", &threads, err);
	if (status != TN_OK) {
		tn_buffer_release(ctx, &memory);
		return status;
	}
	struct tn_pool *pool = memset(memory.data, 0, bytes);
	pool->ctx = ctx;
	pool->memory = memory;
	pool->threads = memset(threads, 0, thread_bytes(ctx));
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
		pthread_join(pool->threads[i + 1].id, NULL);
	pthread_cond_destroy(&pool->idle);
	pthread_cond_destroy(&pool->wake);
	pthread_mutex_destroy(&pool->lock);
	pthread_mutex_destroy(&pool->run_lock);
	struct tn_buffer memory = pool->memory;
	tn_context *ctx = pool->ctx;
	tn_free(ctx, pool->threads, thread_bytes(ctx));
	tn_buffer_release(ctx, &memory);
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

/* Workers that sleep because small jobs have no room for them stay asleep. */
static int is_one_asleep(const struct tn_pool *pool, unsigned workers)
{
	for (unsigned w = 1; w < workers; w++)
		if (atomic_load(&pool->threads[w].sleeps))
			return 1;
	return 0;
}

static void open_gate(struct tn_pool *pool, struct job *job, unsigned workers)
{
	pool->job = job;
	uint64_t old = atomic_load(&pool->gate), new;
	do /* those who came too late for the last job may be on their way out */
		new = (generation(old) + 1) << GENERATION_SHIFT | OPEN | (uint64_t)workers << WANTED_SHIFT | inside(old);
	while (!atomic_compare_exchange_weak(&pool->gate, &old, new));
	if (!is_one_asleep(pool, workers))
		return;
	pthread_mutex_lock(&pool->lock);
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
}

/* Until nobody is inside, ticking. */
static void shut_gate(struct tn_pool *pool, struct job *job)
{
	atomic_fetch_and(&pool->gate, ~OPEN);
	for (unsigned i = 0; i < pool->looks && inside(atomic_load(&pool->gate)); i++)
		tn_cpu_relax();
	while (inside(atomic_load(&pool->gate))) {
		struct timespec until;
		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_nsec += 100 * 1000 * 1000;
		until.tv_sec += until.tv_nsec / 1000000000;
		until.tv_nsec %= 1000000000;
		pthread_mutex_lock(&pool->lock);
		atomic_store(&pool->waiting, 1);
		if (inside(atomic_load(&pool->gate)))
			pthread_cond_timedwait(&pool->idle, &pool->lock, &until);
		atomic_store(&pool->waiting, 0);
		pthread_mutex_unlock(&pool->lock);
		if (inside(atomic_load(&pool->gate)))
			tick(job);
	}
}

/* The caller works along, then waits for the workers. */
static void run_with_workers(struct tn_pool *pool, struct job *job)
{
	const uint64_t tasks = job->work->task_count;
	unsigned workers = workers_of(pool->ctx, job->work);
	workers = tasks < workers ? (unsigned)tasks : workers;
	if (job->work->in_stretches)
		cut_stretches(job, pool->stretches, workers);
	start_threads(pool, workers);
	open_gate(pool, job, workers);
	while (do_one_task(job, 0))
		tick(job);
	shut_gate(pool, job);
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
