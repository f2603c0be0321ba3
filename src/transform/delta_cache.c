/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/delta_cache.h"

#include "base/checked.h"
#include "base/error.h"

#include <pthread.h>
#include <string.h>

struct cached {
	pthread_mutex_t lock;
	int loaded;
	uint64_t takes_left;
	struct tn_loaded contents;
	struct tn_buffer memory, prepared;
};

struct tn_delta_cache {
	const struct tn_joint *joint;
	size_t count;
	struct cached slots[];
};

static size_t cache_bytes(size_t count)
{
	return sizeof(struct tn_delta_cache) + count * sizeof(struct cached);
}

tn_status tn_delta_cache_create(const struct tn_joint *joint, const uint64_t *takes, struct tn_delta_cache **out,
				struct tn_error *err)
{
	struct tn_delta_cache *cache;
	TN_TRY(tn_alloc_array(joint->adapter->ctx, 1, cache_bytes(joint->slot_count), "factors", &cache, err));
	cache->joint = joint;
	cache->count = joint->slot_count;
	for (size_t i = 0; i < cache->count; i++) {
		cache->slots[i].takes_left = takes[i];
		pthread_mutex_init(&cache->slots[i].lock, NULL);
	}
	*out = cache;
	return TN_OK;
}

static void unload(struct tn_delta_cache *cache, struct cached *slot)
{
	tn_buffer_release(cache->joint->adapter->ctx, &slot->prepared);
	tn_buffer_release(cache->joint->adapter->ctx, &slot->memory);
	slot->loaded = 0;
}

void tn_delta_cache_free(struct tn_delta_cache *cache)
{
	if (!cache)
		return;
	for (size_t i = 0; i < cache->count; i++) {
		unload(cache, &cache->slots[i]);
		pthread_mutex_destroy(&cache->slots[i].lock);
	}
	tn_free(cache->joint->adapter->ctx, cache, cache_bytes(cache->count));
}

static tn_status load_rows(const tn_adapter *adapter, const struct tn_adapter_entry *entry, struct cached *slot,
			   struct tn_error *err)
{
	TN_TRY(tn_buffer_alloc(adapter->ctx, (size_t)entry->values->elements * sizeof(float), entry->module.path, &slot->memory,
			       err));
	slot->contents.rows = slot->memory.data;
	return tn_adapter_load_f32(adapter, entry->values, slot->memory.data, err);
}

static tn_status load(const struct tn_joint *joint, const struct tn_slot *from, struct cached *slot, struct tn_error *err)
{
	const tn_adapter *adapter = joint->adapter;
	struct tn_delta *delta = &slot->contents.delta;
	if (from->kind == TN_SLOT_TOKENS)
		return load_rows(adapter, from->entry, slot, err);
	if (from->kind == TN_SLOT_BIAS)
		return tn_adapter_load_bias(adapter, from->entry, delta, &slot->memory, err);
	TN_TRY(tn_adapter_load_delta(adapter, from->entry, &from->shape, delta, &slot->memory, err));
	return tn_prepare(joint, from, delta, &slot->prepared, err);
}

tn_status tn_delta_cache_take(struct tn_delta_cache *cache, size_t i, const struct tn_loaded **out, struct tn_error *err)
{
	struct cached *slot = &cache->slots[i];
	tn_status status = TN_OK;
	pthread_mutex_lock(&slot->lock);
	if (!slot->loaded) {
		status = load(cache->joint, &cache->joint->slots[i], slot, err);
		if (status == TN_OK)
			slot->loaded = 1;
		else
			unload(cache, slot);
	}
	pthread_mutex_unlock(&slot->lock);
	if (status == TN_OK)
		*out = &slot->contents;
	return status;
}

void tn_delta_cache_return(struct tn_delta_cache *cache, size_t i)
{
	struct cached *slot = &cache->slots[i];
	pthread_mutex_lock(&slot->lock);
	if (--slot->takes_left == 0)
		unload(cache, slot);
	pthread_mutex_unlock(&slot->lock);
}

uint64_t tn_delta_cache_bytes(const struct tn_joint *joint, const struct tn_slot *slot)
{
	const struct tn_adapter_entry *entry = slot->entry;
	uint64_t stays, works;
	if (slot->kind == TN_SLOT_TOKENS)
		return entry->values->elements * 3 * sizeof(float);
	if (slot->kind == TN_SLOT_BIAS)
		return entry->bias->elements * 3 * sizeof(float) + 256;
	tn_prepare_bytes(joint, slot, &stays, &works);
	return tn_adapter_delta_bytes(entry, &slot->shape) + stays +
	       tn_max_u64(works, tn_adapter_delta_extra_bytes(entry)) + 512;
}
