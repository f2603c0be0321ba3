/* Worker threads. Work is a number of independent tasks; each task knows only its own number, so results cannot depend
 * on how many threads there are. */
#ifndef TN_POOL_H
#define TN_POOL_H

#include "base/context.h"

struct tn_pool;

tn_status tn_pool_create(tn_context *ctx, struct tn_pool **out, struct tn_error *err);
void tn_pool_destroy(struct tn_pool *pool);

struct tn_work {
	uint64_t task_count;
	unsigned workers;      /* at most so many work at once; 0: tn_pool_workers. More than tn_pool_most are not there,
	                        * nor than tn_pool_workers in stretches */
	/* Tasks are pieces of memory that lie one behind the other: each worker has a stretch of them, which it does in order, and
	 * then helps the others. What one task asks for ahead of time is what the same worker needs next. */
	int in_stretches;
	/* Does task `task` on worker `worker` (0 is the calling thread; below the number of workers). A failure stops the rest:
	 * tasks that have not begun are skipped. */
	tn_status (*run)(void *arg, uint64_t task, unsigned worker, struct tn_error *err);
	/* Called on the calling thread between its tasks and at least every 100 ms; a failure stops the work. May be NULL. */
	tn_status (*tick)(void *arg, struct tn_error *err);
	void *arg;
};

/* How many workers tn_pool_run may use at once: scratch memory is needed for as many. */
unsigned tn_pool_workers(const tn_context *ctx);
/* The same for work that waits for files for much of its time: while some wait, others compute. */
unsigned tn_pool_most(const tn_context *ctx);

/* Runs all tasks, on the calling thread too, and returns when all have ended. Of several failures the one with the
 * lowest task number among those that ran is returned. When the pool is busy with another caller's work, or no thread
 * can be started, the calling thread does everything. */
tn_status tn_pool_run(tn_context *ctx, const struct tn_work *work, struct tn_error *err);

#endif
