/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/delta_cache.h"

#include "base/checked.h"
#include "base/error.h"
#include "transform/survival.h"

#include <pthread.h>
#include <string.h>

struct cached {
	pthread_mutex_t lock;
	int loaded;
	uint64_t takes_left;
	struct tn_loaded contents;
	struct tn_buffer memory, prepared, basis;
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
	TN_TRY(tn_alloc_array(joint->ctx, 1, cache_bytes(joint->slot_count), "factors", &cache, err));
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
	tn_buffer_release(cache->joint->ctx, &slot->basis);
	tn_buffer_release(cache->joint->ctx, &slot->prepared);
	tn_buffer_release(cache->joint->ctx, &slot->memory);
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
	tn_free(cache->joint->ctx, cache, cache_bytes(cache->count));
}

static tn_status load_rows(const tn_adapter *adapter, const struct tn_adapter_entry *entry, struct cached *slot,
			   struct tn_error *err)
{
	TN_TRY(tn_buffer_alloc(adapter->ctx, (size_t)entry->values->elements * sizeof(float), entry->module.path, &slot->memory,
			       err));
	slot->contents.rows = slot->memory.data;
	return tn_adapter_load_f32(adapter, entry->values, slot->memory.data, err);
}

static tn_status load_one(const struct tn_slot *from, struct tn_delta *delta, struct tn_buffer *memory,
			  struct tn_error *err)
{
	if (from->kind == TN_SLOT_BIAS)
		TN_TRY(tn_adapter_load_bias(from->adapter, from->entry, delta, memory, err));
	else
		TN_TRY(tn_adapter_load_delta(from->adapter, from->entry, &from->shape, delta, memory, err));
	delta->scale *= from->weight;
	return TN_OK;
}

/* The factors of one slot into their place in the stack. */
static void put_stacked(const struct tn_delta *part, const struct tn_slot_part *place, size_t rank, float *a, float *b)
{
	size_t groups = part->rows / part->group_rows, first = (size_t)place->first_rank;
	size_t offset = place->group == TN_EVERY_GROUP ? 0 : (size_t)place->group;
	for (size_t g = 0; g < groups; g++)
		memcpy(a + ((g + offset) * rank + first) * part->cols, part->a + g * part->rank * part->cols,
		       part->rank * part->cols * sizeof *a);
	b += offset * part->group_rows * rank;
	for (size_t row = 0; row < part->rows; row++)
		for (size_t k = 0; k < part->rank; k++)
			b[row * rank + first + k] = (float)(part->scale * (double)part->b[row * part->rank + k]);
}

/* What the stack is like its first part, but for the rank; what no part fills is zero. */
static tn_status begin_stack(const struct tn_joint *joint, const struct tn_delta *first, size_t rank, struct cached *slot,
			     struct tn_error *err)
{
	struct tn_delta *delta = &slot->contents.delta;
	size_t a = first->rows / first->group_rows * rank * first->cols, b = first->rows * rank;
	TN_TRY(tn_buffer_alloc(joint->ctx, (a + b) * sizeof(float), "factors", &slot->memory, err));
	memset(slot->memory.data, 0, (a + b) * sizeof(float));
	*delta = *first;
	delta->a = slot->memory.data;
	delta->b = (float *)slot->memory.data + a;
	delta->rank = rank;
	delta->scale = 1;
	delta->left = delta->product = TN_F32;
	return TN_OK;
}

static tn_status load_stacked(const struct tn_joint *joint, const struct tn_slot *from, struct cached *slot,
			      struct tn_error *err)
{
	size_t rank = (size_t)from->rank;
	float *a = NULL, *b = NULL;
	for (size_t i = 0; i < from->stacked_count; i++) {
		struct tn_delta part;
		struct tn_buffer memory;
		TN_TRY(load_one(&joint->slots[from->stacked[i].slot], &part, &memory, err));
		tn_status status = i == 0 ? begin_stack(joint, &part, rank, slot, err) : TN_OK;
		if (status == TN_OK && i == 0) {
			a = slot->memory.data;
			b = a + part.rows / part.group_rows * rank * part.cols;
		}
		if (status == TN_OK)
			put_stacked(&part, &from->stacked[i], rank, a, b);
		tn_buffer_release(joint->ctx, &memory);
		TN_TRY(status);
	}
	return TN_OK;
}

static int wants_basis(const struct tn_joint *joint, const struct tn_slot *slot)
{
	return joint->targets[slot->target].matrix && slot->kind == TN_SLOT_DELTA;
}

static tn_status load_basis(const struct tn_joint *joint, const struct tn_slot *from, struct cached *slot,
			    struct tn_error *err)
{
	const struct tn_delta *d = &slot->contents.delta;
	size_t groups = d->rows / d->group_rows, n = d->rank * d->rank;
	if (!wants_basis(joint, from))
		return TN_OK;
	TN_TRY(tn_buffer_alloc(joint->ctx, groups * n * sizeof(double), "factors", &slot->basis, err));
	double *basis = slot->basis.data;
	for (size_t g = 0; g < groups; g++)
		tn_basis_make(joint->ctx->kernels, d->a + g * d->rank * d->cols, d->rank, d->cols, basis + g * n);
	slot->contents.basis = basis;
	return TN_OK;
}

static tn_status load(const struct tn_joint *joint, const struct tn_slot *from, struct cached *slot, struct tn_error *err)
{
	struct tn_delta *delta = &slot->contents.delta;
	if (from->kind == TN_SLOT_TOKENS)
		return load_rows(from->adapter, from->entry, slot, err);
	if (from->stacked)
		TN_TRY(load_stacked(joint, from, slot, err));
	else
		TN_TRY(load_one(from, delta, &slot->memory, err));
	delta->width = tn_delta_width(delta);
	TN_TRY(load_basis(joint, from, slot, err));
	return from->kind == TN_SLOT_DELTA ? tn_prepare(joint, from, delta, &slot->prepared, err) : TN_OK;
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

static uint64_t factor_bytes(const struct tn_slot *slot)
{
	const struct tn_adapter_entry *entry = slot->entry;
	if (slot->kind == TN_SLOT_BIAS)
		return entry->bias->elements * 3 * sizeof(float) + 256;
	return tn_adapter_delta_bytes(entry, &slot->shape) + tn_adapter_delta_extra_bytes(entry) + 512;
}

/* The stack, and the largest of its parts while it is put in. */
static uint64_t stack_bytes(const struct tn_joint *joint, const struct tn_slot *slot)
{
	const struct tn_adapter_module *m = &slot->entry->module;
	uint64_t largest = 0, rows = slot->kind == TN_SLOT_BIAS ? 1 : slot->shape.rows_are_inputs ? m->in_features : m->out_features;
	for (size_t i = 0; i < slot->stacked_count; i++)
		largest = tn_max_u64(largest, factor_bytes(&joint->slots[slot->stacked[i].slot]));
	return largest + slot->entry->groups * slot->rank * (slot->cols + rows) * sizeof(float) + 512;
}

uint64_t tn_delta_cache_bytes(const struct tn_joint *joint, const struct tn_slot *slot)
{
	uint64_t stays, works, bytes = 0;
	if (slot->kind == TN_SLOT_TOKENS)
		return slot->entry->values->elements * 3 * sizeof(float);
	if (slot->stacked)
		bytes += stack_bytes(joint, slot);
	if (wants_basis(joint, slot))
		bytes += slot->entry->groups * slot->rank * slot->rank * sizeof(double);
	if (slot->kind == TN_SLOT_BIAS || slot->stacked)
		return bytes + (slot->stacked ? 0 : factor_bytes(slot));
	tn_prepare_bytes(joint, slot, &stays, &works);
	return bytes + tn_adapter_delta_bytes(slot->entry, &slot->shape) + stays +
	       tn_max_u64(works, tn_adapter_delta_extra_bytes(slot->entry)) + 512;
}
