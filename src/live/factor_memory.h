/* Memory for the factors of attached adapters. Touching new memory page by page takes ten times as long as reading a file into it:
 * small adapters share slabs of large pages, and while adapters are swapped what one leaves is kept for the next. */
#ifndef TN_LIVE_FACTOR_MEMORY_H
#define TN_LIVE_FACTOR_MEMORY_H

#include "base/context.h"

#include <pthread.h>

struct tn_slab;

/* Where factors are kept. Any thread may take and give back. */
struct tn_factor_store {
	tn_context *ctx;
	pthread_mutex_t lock;
	struct tn_slab *slabs;
	struct tn_buffer spare;        /* the largest that was given back while `keeps` was set */
	int keeps;
};

/* A buffer of its own, or a piece of a slab. */
struct tn_factor_memory {
	void *data;                    /* aligned to 64 */
	size_t bytes;
	struct tn_slab *slab;          /* NULL: it is a buffer */
};

void tn_factor_store_init(struct tn_factor_store *store, tn_context *ctx);
/* All must have been given back. */
void tn_factor_store_release(struct tn_factor_store *store);

/* At least `bytes`. An adapter that comes alone gets its own, however small: a large page would be mostly unused. */
tn_status tn_factor_memory_take(struct tn_factor_store *store, uint64_t bytes, int is_alone, struct tn_factor_memory *out,
				struct tn_error *err);
/* A zeroed one allowed. */
void tn_factor_memory_give(struct tn_factor_store *store, struct tn_factor_memory *memory);
/* Whether what is given back is kept; 0 frees what was kept. */
void tn_factor_store_keep(struct tn_factor_store *store, int keep);

#endif
