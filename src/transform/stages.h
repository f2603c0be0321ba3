/* Tasks that are read, computed and written: while some wait for files, others compute. Tasks begin in their order and take the
 * stages one after the other, each on any thread. What they find is handed on in the order of tasks: what is added up does not
 * depend on threads, and memory not on the number of tasks. */
#ifndef TN_STAGES_H
#define TN_STAGES_H

#include "base/context.h"

enum tn_stage { TN_STAGE_READ, TN_STAGE_COMPUTE, TN_STAGE_WRITE, TN_STAGES };

struct tn_stage_task {
	uint64_t number;
	unsigned place;        /* below `places`; nobody else's until the last stage has ended */
	void *result;          /* result_bytes, zeros at first; aligned to 64 */
};

struct tn_stage_work {
	uint64_t task_count;
	unsigned workers;      /* threads, no more than tn_pool_most; 0: tn_pool_workers */
	unsigned places;       /* tasks under way at once, at least one */
	size_t result_bytes;
	/* Waits for nothing that another task has still to do. When a task fails, those before it go on to their end and those
	 * behind it go no further: the failure that is returned is of the first task in order that has one, for any number of
	 * threads. */
	tn_status (*run)(void *arg, enum tn_stage stage, const struct tn_stage_task *task, struct tn_error *err);
	/* Takes the result of a task that has ended, in the order of tasks and never two at a time. Everybody waits meanwhile.
	 * May be NULL. */
	void (*fold)(void *arg, uint64_t task, const void *result);
	/* Called by any thread after results were folded, to do what takes long. May be NULL. */
	tn_status (*follow)(void *arg, struct tn_error *err);
	/* Called on the calling thread between its stages and at least every 100 ms while it has none; a failure stops the work at
	 * once. May be NULL. */
	tn_status (*tick)(void *arg, struct tn_error *err);
	void *arg;
};

/* Returns when all have ended. No more tasks than the context has threads compute at once. When the pool is busy, or no thread can
 * be started, the calling thread does everything. */
tn_status tn_stages_run(tn_context *ctx, const struct tn_stage_work *work, struct tn_error *err);

#endif
