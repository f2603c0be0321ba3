/* The context from inside: heap, log, progress, workers, kernels. */
#ifndef TN_CONTEXT_H
#define TN_CONTEXT_H

#include "tenon/base.h"

struct tn_pool;
struct tn_kernels;

struct tn_context {
	struct tn_allocator heap;
	tn_log_fn log;
	void *log_user;
	tn_progress_fn progress;
	void *progress_user;
	unsigned threads;              /* resolved: at least 1 */
	unsigned spare_threads;        /* for work that waits for files, beside those that compute; 0 where one was asked for */
	uint64_t memory_budget_bytes;  /* resolved: at least 1 */
	struct tn_pool *pool;
	const struct tn_kernels *kernels;
};

/* Heap through the context's allocator. tn_alloc(0) gives a valid pointer. Contents are not cleared. `what` names the
 * thing in the error. */
tn_status tn_alloc(tn_context *ctx, size_t bytes, const char *what, void *out, struct tn_error *err);
/* count * size bytes, cleared; overflow is TN_E_LIMIT. */
tn_status tn_alloc_array(tn_context *ctx, size_t count, size_t size, const char *what, void *out, struct tn_error *err);
/* Grows *array (capacity *capacity elements of `size`) so that it holds at least `needed` elements. */
tn_status tn_grow(tn_context *ctx, void *array, size_t *capacity, size_t needed, size_t size, const char *what,
		  struct tn_error *err);
/* `bytes` as it was asked for; NULL allowed. */
void tn_free(tn_context *ctx, void *ptr, size_t bytes);
void tn_free_array(tn_context *ctx, void *ptr, size_t count, size_t size);

/* A buffer aligned to 64 of exactly `bytes` (0 allowed). */
tn_status tn_buffer_alloc(tn_context *ctx, size_t bytes, const char *what, struct tn_buffer *out, struct tn_error *err);

/* For memory that is about to be written whole: asks for large pages, which are there, and are given back, in a fraction of the
 * time. Does nothing for a few megabytes, and where the system has none. */
void tn_buffer_use_large_pages(const struct tn_buffer *buffer);

/* Sets ctx->kernels to the table of `isa`, or of the best instruction set this CPU has when NULL. Defined on floor 1
 * (kernels/select.c), which this floor does not know: the context only carries the table. */
tn_status tn_context_pick_kernels(tn_context *ctx, const char *isa, struct tn_error *err);

void tn_logf(tn_context *ctx, tn_log_level level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
