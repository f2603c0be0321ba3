/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/delta_cache.h"

#include "base/error.h"

#include <pthread.h>
#include <string.h>

struct slot {
	const struct tn_adapter_entry *entry;
	pthread_mutex_t lock;
	int loaded;
	uint64_t blocks_left;
	struct tn_delta delta;
	struct tn_buffer memory;
};

struct tn_delta_cache {
	const tn_adapter *adapter;
	size_t count;
	struct slot slots[];
};

static size_t cache_bytes(size_t count)
{
	return sizeof(struct tn_delta_cache) + count * sizeof(struct slot);
}

tn_status tn_delta_cache_create(const tn_adapter *adapter, const struct tn_landing *landings, const uint64_t *blocks,
				size_t count, struct tn_delta_cache **out, struct tn_error *err)
{
	struct tn_delta_cache *cache;
	TN_TRY(tn_alloc_array(adapter->ctx, 1, cache_bytes(count), "factors", &cache, err));
	cache->adapter = adapter;
	cache->count = count;
	for (size_t i = 0; i < count; i++) {
		cache->slots[i].entry = landings[i].entry;
		cache->slots[i].blocks_left = blocks[i];
		pthread_mutex_init(&cache->slots[i].lock, NULL);
	}
	*out = cache;
	return TN_OK;
}

void tn_delta_cache_free(struct tn_delta_cache *cache)
{
	if (!cache)
		return;
	for (size_t i = 0; i < cache->count; i++) {
		tn_buffer_release(cache->adapter->ctx, &cache->slots[i].memory);
		pthread_mutex_destroy(&cache->slots[i].lock);
	}
	tn_free(cache->adapter->ctx, cache, cache_bytes(cache->count));
}

tn_status tn_delta_cache_take(struct tn_delta_cache *cache, size_t i, const struct tn_delta **out, struct tn_error *err)
{
	struct slot *slot = &cache->slots[i];
	tn_status status = TN_OK;
	pthread_mutex_lock(&slot->lock);
	if (!slot->loaded) {
		status = tn_adapter_load_delta(cache->adapter, slot->entry, &slot->delta, &slot->memory, err);
		slot->loaded = status == TN_OK;
	}
	pthread_mutex_unlock(&slot->lock);
	if (status == TN_OK)
		*out = &slot->delta;
	return status;
}

void tn_delta_cache_return(struct tn_delta_cache *cache, size_t i)
{
	struct slot *slot = &cache->slots[i];
	pthread_mutex_lock(&slot->lock);
	if (--slot->blocks_left == 0) {
		tn_buffer_release(cache->adapter->ctx, &slot->memory);
		slot->loaded = 0;
	}
	pthread_mutex_unlock(&slot->lock);
}

/* While it loads: the values, one factor's bytes in the file and, where it is transposed, its values once more. */
uint64_t tn_delta_cache_bytes(const struct tn_adapter_entry *entry)
{
	uint64_t larger = entry->a->bytes > entry->b->bytes ? entry->a->bytes : entry->b->bytes;
	uint64_t elements = entry->a->elements > entry->b->elements ? entry->a->elements : entry->b->elements;
	return tn_adapter_delta_bytes(entry) + larger + (entry->transposed ? elements * sizeof(float) : 0);
}
