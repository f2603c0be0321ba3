/* The factors of the modules that blocks are being worked on: read when the first block of a module begins, freed when
 * its last one has ended. */
#ifndef TN_DELTA_CACHE_H
#define TN_DELTA_CACHE_H

#include "adapter/adapter.h"

struct tn_delta_cache;

/* One slot for each of `count` landings; blocks[i] is how many blocks will take slot i. */
tn_status tn_delta_cache_create(const tn_adapter *adapter, const struct tn_landing *landings, const uint64_t *blocks,
				size_t count, struct tn_delta_cache **out, struct tn_error *err);
void tn_delta_cache_free(struct tn_delta_cache *cache);

/* The delta of a slot, valid until tn_delta_cache_return. Each block takes once and returns once, also after a failure of
 * its own work. */
tn_status tn_delta_cache_take(struct tn_delta_cache *cache, size_t slot, const struct tn_delta **out,
			      struct tn_error *err);
void tn_delta_cache_return(struct tn_delta_cache *cache, size_t slot);

/* Memory that loading and holding one entry takes. */
uint64_t tn_delta_cache_bytes(const struct tn_adapter_entry *entry);

#endif
