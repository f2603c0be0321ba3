/* SPDX-License-Identifier: Apache-2.0 */
#include "weights/weight_map.h"

#include "base/checked.h"
#include "base/error.h"
#include "store/safetensors.h"
#include "weights/matrix.h"

#include <string.h>

/* ---- entries --------------------------------------------------------------------------------------------- */

tn_status tn_map_entry_make(tn_context *ctx, const char *name, tn_dtype dtype, uint32_t rank, const uint64_t *shape,
			    const struct tn_buffer *data, struct tn_map_entry **out, struct tn_error *err)
{
	size_t name_bytes = strlen(name) + 1, shape_bytes = rank * sizeof *shape;
	size_t bytes = sizeof(struct tn_map_entry) + shape_bytes + name_bytes;
	struct tn_map_entry *entry;
	TN_TRY(tn_alloc(ctx, bytes, name, &entry, err));
	uint64_t *own_shape = (uint64_t *)(void *)(entry + 1);
	char *own_name = (char *)own_shape + shape_bytes;
	if (rank)
		memcpy(own_shape, shape, shape_bytes);
	memcpy(own_name, name, name_bytes);
	*entry = (struct tn_map_entry){ .data = *data, .block_bytes = bytes };
	uint64_t elements = 1;
	for (uint32_t i = 0; i < rank; i++)
		elements *= shape[i];
	entry->tensor = (struct tn_tensor){
		.name = own_name,
		.dtype = dtype,
		.rank = rank,
		.shape = own_shape,
		.elements = elements,
		.bytes = data->bytes,
	};
	*out = entry;
	return TN_OK;
}

void tn_map_entry_free(tn_context *ctx, struct tn_map_entry *entry)
{
	if (!entry)
		return;
	tn_buffer_release(ctx, &entry->data);
	tn_free(ctx, entry, entry->block_bytes);
}

/* ---- the map --------------------------------------------------------------------------------------------- */

tn_status tn_weight_map_create(tn_context *ctx, tn_weight_map **out, struct tn_error *err)
{
	tn_weight_map *map;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *map, "weight map", &map, err));
	map->ctx = ctx;
	*out = map;
	return TN_OK;
}

void tn_weight_map_destroy(tn_weight_map *map)
{
	if (!map)
		return;
	tn_context *ctx = map->ctx;
	for (size_t i = 0; i < map->count; i++)
		tn_map_entry_free(ctx, map->entries[i]);
	tn_free_array(ctx, map->entries, map->capacity, sizeof *map->entries);
	tn_free(ctx, map, sizeof *map);
}

static size_t position(const tn_weight_map *map, const char *name, int *found)
{
	size_t low = 0, high = map->count;
	*found = 0;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(map->entries[middle]->tensor.name, name);
		if (order == 0) {
			*found = 1;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

tn_status tn_weight_map_reserve(tn_weight_map *map, size_t more, struct tn_error *err)
{
	return tn_grow(map->ctx, &map->entries, &map->capacity, map->count + more, sizeof *map->entries, "weight map",
		       err);
}

void tn_weight_map_put(tn_weight_map *map, struct tn_map_entry *entry)
{
	int found;
	size_t at = position(map, entry->tensor.name, &found);
	struct tn_map_entry **place = map->entries + at;
	if (found) {
		tn_map_entry_free(map->ctx, *place);
	} else {
		memmove(place + 1, place, (map->count - at) * sizeof *place);
		map->count++;
	}
	*place = entry;
}

void tn_weight_map_remove(tn_weight_map *map, const char *name)
{
	int found;
	size_t at = position(map, name, &found);
	if (!found)
		return;
	tn_map_entry_free(map->ctx, map->entries[at]);
	map->count--;
	memmove(map->entries + at, map->entries + at + 1, (map->count - at) * sizeof *map->entries);
}

static tn_status checked_bytes(const char *name, tn_dtype dtype, uint32_t rank, const uint64_t *shape, size_t *out,
			       struct tn_error *err)
{
	uint64_t bits = tn_dtype_bits(dtype), elements = 1;
	for (uint32_t i = 0; i < rank; i++)
		if (tn_mul_u64(elements, shape[i], &elements))
			return tn_fail(err, TN_E_LIMIT, name, "the shape of '%.100s' exceeds 2^64 elements", name);
	if (tn_mul_u64(bits, elements, &bits) || bits / 8 > SIZE_MAX / 2)
		return tn_fail(err, TN_E_LIMIT, name, "'%.100s' does not fit in memory", name);
	*out = (size_t)(bits / 8);
	return TN_OK;
}

tn_status tn_weight_map_set(tn_weight_map *map, const char *name, tn_dtype dtype, uint32_t rank, const uint64_t *shape,
			    const void *data, struct tn_error *err)
{
	size_t bytes = 0;
	struct tn_buffer copy;
	struct tn_map_entry *entry;
	TN_TRY(checked_bytes(name, dtype, rank, shape, &bytes, err));
	TN_TRY(tn_weight_map_reserve(map, 1, err));
	TN_TRY(tn_buffer_alloc(map->ctx, bytes, name, &copy, err));
	if (bytes)
		memcpy(copy.data, data, bytes);
	tn_status status = tn_map_entry_make(map->ctx, name, dtype, rank, shape, &copy, &entry, err);
	if (status != TN_OK) {
		tn_buffer_release(map->ctx, &copy);
		return status;
	}
	tn_weight_map_put(map, entry);
	return TN_OK;
}

size_t tn_weight_map_count(const tn_weight_map *map)
{
	return map->count;
}

const struct tn_tensor *tn_weight_map_at(const tn_weight_map *map, size_t i, const void **data)
{
	if (i >= map->count)
		return NULL;
	if (data)
		*data = map->entries[i]->data.data;
	return &map->entries[i]->tensor;
}

const struct tn_tensor *tn_weight_map_find(const tn_weight_map *map, const char *name, const void **data)
{
	int found;
	size_t at = position(map, name, &found);
	return found ? tn_weight_map_at(map, at, data) : NULL;
}

/* ---- from a checkpoint ----------------------------------------------------------------------------------- */

static tn_status load_tensor(tn_weight_map *map, const tn_checkpoint *checkpoint, const struct tn_tensor *t,
			     struct tn_error *err)
{
	struct tn_buffer data;
	struct tn_map_entry *entry;
	if (t->bytes > SIZE_MAX / 2)
		return tn_fail(err, TN_E_LIMIT, t->name, "'%.100s' does not fit in memory", t->name);
	TN_TRY(tn_buffer_alloc(map->ctx, (size_t)t->bytes, t->name, &data, err));
	tn_status status = tn_checkpoint_read(checkpoint, t, 0, data.data, data.bytes, err);
	if (status == TN_OK)
		status = tn_map_entry_make(map->ctx, t->name, t->dtype, t->rank, t->shape, &data, &entry, err);
	if (status != TN_OK) {
		tn_buffer_release(map->ctx, &data);
		return status;
	}
	map->entries[map->count++] = entry; /* the checkpoint has the order of names */
	return TN_OK;
}

tn_status tn_weight_map_load(tn_context *ctx, const tn_checkpoint *checkpoint, tn_weight_map **out,
			     struct tn_error *err)
{
	tn_weight_map *map;
	TN_TRY(tn_weight_map_create(ctx, &map, err));
	tn_status status = tn_weight_map_reserve(map, tn_checkpoint_count(checkpoint), err);
	for (size_t i = 0; i < tn_checkpoint_count(checkpoint) && status == TN_OK; i++)
		status = load_tensor(map, checkpoint, tn_checkpoint_at(checkpoint, i), err);
	if (status != TN_OK) {
		tn_weight_map_destroy(map);
		return status;
	}
	*out = map;
	return TN_OK;
}

/* ---- as a source ----------------------------------------------------------------------------------------- */

static const struct tn_tensor *find_in_map(const void *self, const char *name)
{
	return tn_weight_map_find(self, name, NULL);
}

static tn_status read_map(const void *self, const struct tn_tensor *tensor, uint64_t offset, void *dst, size_t n,
			  struct tn_error *err)
{
	const void *data = NULL;
	const struct tn_tensor *found = tn_weight_map_find(self, tensor->name, &data);
	if (!found || offset > found->bytes || n > found->bytes - offset)
		return tn_fail(err, TN_E_ARG, tensor->name, "%zu bytes at %llu reach past the end of '%.100s'", n,
			       (unsigned long long)offset, tensor->name);
	memcpy(dst, (const char *)data + offset, n);
	return TN_OK;
}

struct tn_tensor_source tn_weight_map_source(const tn_weight_map *map)
{
	return (struct tn_tensor_source){ map, find_in_map, read_map };
}
