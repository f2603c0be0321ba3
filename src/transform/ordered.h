/* Results of tasks that end in any order, handed on in the order of the tasks: what is added up does not depend on threads,
 * and memory not on the number of tasks. */
#ifndef TN_ORDERED_H
#define TN_ORDERED_H

#include "base/arena.h"

struct tn_ordered;

/* Takes the result of a task; never called for two at a time. */
typedef void (*tn_ordered_fn)(void *arg, uint64_t task, const void *result);

/* For that many workers and results of that size; `fold` gets `arg`. */
tn_status tn_ordered_create(tn_context *ctx, unsigned workers, size_t result_bytes, tn_ordered_fn fold, void *arg,
			    struct tn_ordered **out, struct tn_error *err);
void tn_ordered_free(struct tn_ordered *ordered);

/* A place for a worker's result, filled with zeros. */
void *tn_ordered_place(struct tn_ordered *ordered, unsigned worker);

/* The worker has done the task, with its result in its place. Waits while the task is far ahead of the first that is not
 * done. Tasks have to be begun in their order, and each that is begun ends here or in tn_ordered_stop. */
void tn_ordered_done(struct tn_ordered *ordered, unsigned worker, uint64_t task);

/* A task has failed: nobody waits for it. */
void tn_ordered_stop(struct tn_ordered *ordered);

#endif
