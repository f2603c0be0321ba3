/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/delta_cache.h"

#include "base/checked.h"
#include "base/error.h"
#include "transform/survival.h"
#include "transform/ulp.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

struct cached {
	pthread_mutex_t lock;
	int loaded;
	uint64_t takes_left;
	struct tn_loaded contents;
	struct tn_buffer memory, prepared, basis;  /* basis: what tn_loaded has beside the delta */
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
		if (status == TN_OK && tn_dtype_unit(part.coarsest) > tn_dtype_unit(slot->contents.delta.coarsest))
			slot->contents.delta.coarsest = part.coarsest;
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

/* Of one group, in bytes: the basis, A packed, the directions; and what making these takes. */
struct basis_bytes {
	size_t basis, packed, directions, work;
};

static struct basis_bytes basis_bytes(const struct tn_kernels *k, enum tn_factor_width width, size_t rank, size_t cols)
{
	return (struct basis_bytes){ tn_align_up(rank * rank * sizeof(double), 64), k->lowrank_bytes(width, rank, cols),
				     tn_align_up(tn_directions_bytes(rank, cols), 64), rank * TN_DIRECTION_COLS * sizeof(float) };
}

static tn_status load_basis(const struct tn_joint *joint, const struct tn_slot *from, struct cached *slot,
			    struct tn_error *err)
{
	const struct tn_kernels *k = joint->ctx->kernels;
	const struct tn_delta *d = &slot->contents.delta;
	size_t groups = d->rows / d->group_rows;
	struct basis_bytes bytes = basis_bytes(k, d->width, d->rank, d->cols);
	if (!wants_basis(joint, from))
		return TN_OK;
	TN_TRY(tn_buffer_alloc(joint->ctx, groups * (bytes.basis + bytes.packed + bytes.directions) + bytes.work, "factors",
			       &slot->basis, err));
	unsigned char *packed = slot->basis.data, *directions = packed + groups * bytes.packed;
	unsigned char *basis = directions + groups * bytes.directions, *work = basis + groups * bytes.basis;
	slot->contents.least = INFINITY;
	for (size_t g = 0; g < groups; g++) {
		const float *a = d->a + g * d->rank * d->cols;
		double *l = (double *)(void *)basis + g * d->rank * d->rank;
		tn_basis_make(k, a, d->rank, d->cols, l);
		tn_directions_make(a, d->rank, d->cols, l, (float *)(void *)work,
				   (uint16_t *)(void *)(directions + g * bytes.directions));
		slot->contents.least = fminf(slot->contents.least,
					     k->lowrank_pack(packed + g * bytes.packed, a, d->width, d->rank, d->cols));
	}
	slot->contents.basis = (double *)(void *)basis;
	slot->contents.directions = (uint16_t *)(void *)directions;
	slot->contents.directions_bytes = bytes.directions;
	slot->contents.packed = packed;
	slot->contents.packed_bytes = bytes.packed;
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
	uint64_t largest = 0, features = slot->shape.rows_are_inputs ? m->in_features : m->out_features;
	uint64_t rows = slot->kind == TN_SLOT_BIAS ? 1 : features;
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
	if (wants_basis(joint, slot)) {
		struct basis_bytes b = basis_bytes(joint->ctx->kernels, TN_FACTORS_WIDE, (size_t)slot->rank, (size_t)slot->cols);
		bytes += slot->entry->groups * (b.basis + b.packed + b.directions) + b.work;
	}
	if (slot->kind == TN_SLOT_BIAS || slot->stacked)
		return bytes + (slot->stacked ? 0 : factor_bytes(slot));
	tn_prepare_bytes(joint, slot, &stays, &works);
	return bytes + tn_adapter_delta_bytes(slot->entry, &slot->shape) + stays +
	       tn_max_u64(works, tn_adapter_delta_extra_bytes(slot->entry)) + 512;
}
