/* SPDX-License-Identifier: Apache-2.0 */
/* One quantized weight, and loading all of a folder: mlx-native 0.6.6, src/weight.rs. */
#include "base/arena.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "weights/array.h"
#include "weights/matrix.h"

#include <stdio.h>
#include <string.h>

struct tn_quantized_weight {
	tn_context *ctx;
	struct tn_arena arena; /* this struct, name and shape */
	const char *name;
	uint32_t rank;
	const uint64_t *shape;
	tn_dtype dtype;
	uint32_t bits;
	uint64_t group_size;
	struct tn_array packed, scales, biases;
};

static tn_status copy_array(tn_context *ctx, const struct tn_array *src, const char *what, struct tn_array *out,
			    struct tn_error *err)
{
	if (!src || !src->data)
		return TN_OK;
	TN_TRY(tn_array_make(ctx, src->dtype, src->rank, src->shape, what, out, err));
	memcpy(out->data, src->data, out->bytes);
	return TN_OK;
}

/* An empty one with name, shape and parameters. */
static tn_status make(tn_context *ctx, const char *name, uint32_t rank, const uint64_t *shape, tn_dtype dtype,
		      uint32_t bits, uint64_t group_size, tn_quantized_weight **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_quantized_weight *w;
	uint64_t *own_shape = NULL;
	const char *own_name = NULL;
	tn_arena_init(&arena, ctx);
	tn_status status = tn_arena_alloc(&arena, sizeof *w, &w, err);
	if (status == TN_OK)
		status = tn_arena_text(&arena, name, strlen(name), &own_name, err);
	if (status == TN_OK)
		status = tn_arena_array(&arena, rank, sizeof *own_shape, &own_shape, err);
	if (status != TN_OK) {
		tn_arena_release(&arena);
		return status;
	}
	if (rank)
		memcpy(own_shape, shape, rank * sizeof *shape);
	*w = (struct tn_quantized_weight){ .ctx = ctx,
					   .arena = arena,
					   .name = own_name,
					   .rank = rank,
					   .shape = own_shape,
					   .dtype = dtype,
					   .bits = bits,
					   .group_size = group_size };
	*out = w;
	return TN_OK;
}

tn_status tn_quantized_weight_create(tn_context *ctx, const char *name, uint32_t rank, const uint64_t *shape,
				     tn_dtype dtype, uint32_t bits, uint64_t group_size, const struct tn_array *packed,
				     const struct tn_array *scales, const struct tn_array *biases,
				     tn_quantized_weight **out, struct tn_error *err)
{
	tn_quantized_weight *w = NULL;
	TN_TRY(make(ctx, name, rank, shape, dtype, bits, group_size, &w, err));
	tn_status status = copy_array(ctx, packed, "packed data", &w->packed, err);
	if (status == TN_OK)
		status = copy_array(ctx, scales, "scales", &w->scales, err);
	if (status == TN_OK)
		status = copy_array(ctx, biases, "biases", &w->biases, err);
	if (status != TN_OK) {
		tn_quantized_weight_destroy(w);
		return status;
	}
	*out = w;
	return TN_OK;
}

void tn_quantized_weight_destroy(tn_quantized_weight *w)
{
	if (!w)
		return;
	tn_array_release(w->ctx, &w->packed);
	tn_array_release(w->ctx, &w->scales);
	tn_array_release(w->ctx, &w->biases);
	struct tn_arena arena = w->arena; /* it holds `w` itself */
	tn_arena_release(&arena);
}

/* ---- accessors ------------------------------------------------------------------------------------------- */

const char *tn_quantized_weight_name(const tn_quantized_weight *w)
{
	return w->name;
}

const uint64_t *tn_quantized_weight_shape(const tn_quantized_weight *w, uint32_t *rank)
{
	if (rank)
		*rank = w->rank;
	return w->shape;
}

tn_dtype tn_quantized_weight_dtype(const tn_quantized_weight *w)
{
	return w->dtype;
}

uint32_t tn_quantized_weight_bits(const tn_quantized_weight *w)
{
	return w->bits;
}

uint64_t tn_quantized_weight_group_size(const tn_quantized_weight *w)
{
	return w->group_size;
}

const struct tn_array *tn_quantized_weight_packed(const tn_quantized_weight *w)
{
	return &w->packed;
}

const struct tn_array *tn_quantized_weight_scales(const tn_quantized_weight *w)
{
	return &w->scales;
}

const struct tn_array *tn_quantized_weight_biases(const tn_quantized_weight *w)
{
	return w->biases.data ? &w->biases : NULL;
}

uint64_t tn_quantized_weight_elements(const tn_quantized_weight *w)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i < w->rank; i++)
		n *= w->shape[i];
	return n;
}

uint64_t tn_quantized_weight_groups(const tn_quantized_weight *w)
{
	uint64_t last = w->rank ? w->shape[w->rank - 1] : 0;
	return w->group_size ? last / w->group_size + (last % w->group_size != 0) : 0;
}

size_t tn_quantized_weight_describe(const tn_quantized_weight *w, char *dst, size_t bytes)
{
	char shape[256] = "";
	size_t used = 0;
	for (uint32_t i = 0; i < w->rank && used < sizeof shape - 24; i++)
		used += (size_t)snprintf(shape + used, sizeof shape - used, "%s%llu", i ? ", " : "",
					 (unsigned long long)w->shape[i]);
	int n = snprintf(dst, bytes,
			 "QuantizedWeight { tensor_name: \"%s\", shape: [%s], dtype: %s, bits: %u, group_size: %llu, "
			 "packed_data_bytes: %zu, scales_bytes: %zu, has_biases: %s }",
			 w->name, shape, tn_dtype_name(w->dtype), w->bits, (unsigned long long)w->group_size,
			 w->packed.bytes, w->scales.bytes, w->biases.data ? "true" : "false");
	return n < 0 ? 0 : (size_t)n;
}

/* ---- loading a folder ------------------------------------------------------------------------------------ */

struct loading {
	tn_context *ctx;
	const tn_checkpoint *checkpoint;
	const tn_quant_config *config;
	tn_quantized_weight **weights;
	size_t count, capacity;
};

static tn_status load_part(struct loading *l, const struct tn_tensor *t, struct tn_array *out, struct tn_error *err)
{
	if (!t)
		return TN_OK;
	if (t->bytes == 0)
		return tn_fail(err, TN_E_ARG, t->name, "'%.100s' is empty", t->name);
	TN_TRY(tn_array_make(l->ctx, t->dtype, t->rank, t->shape, t->name, out, err));
	return tn_checkpoint_read(l->checkpoint, t, 0, out->data, out->bytes, err);
}

static const struct tn_tensor *find(const struct loading *l, const char *base, size_t length, const char *suffix)
{
	char name[TN_NAME_BYTES];
	if (length + strlen(suffix) >= sizeof name)
		return NULL;
	memcpy(name, base, length);
	strcpy(name + length, suffix);
	return tn_checkpoint_find(l->checkpoint, name);
}

static tn_status load_weight(struct loading *l, const struct tn_tensor *scales, struct tn_error *err)
{
	size_t length = strlen(scales->name) - strlen(".scales");
	const struct tn_tensor *packed = find(l, scales->name, length, ".weight");
	struct tn_quantization q = { 0 };
	tn_quantized_weight *w = NULL;
	if (!packed)
		packed = find(l, scales->name, length, "");
	if (!packed)
		return TN_OK;
	tn_quant_config_for_tensor(l->config, packed->name, &q);
	TN_TRY(tn_grow(l->ctx, &l->weights, &l->capacity, l->count + 1, sizeof *l->weights, "weights", err));
	TN_TRY(make(l->ctx, packed->name, packed->rank, packed->shape, packed->dtype, (uint32_t)q.bits,
		    (uint64_t)q.group_size, &w, err));
	l->weights[l->count++] = w;
	TN_TRY(load_part(l, packed, &w->packed, err));
	TN_TRY(load_part(l, scales, &w->scales, err));
	return load_part(l, find(l, scales->name, length, ".biases"), &w->biases, err);
}

static tn_status load_all(struct loading *l, struct tn_error *err)
{
	for (size_t i = 0; i < tn_checkpoint_count(l->checkpoint); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(l->checkpoint, i);
		if (tn_ends_with(t->name, ".scales"))
			TN_TRY(load_weight(l, t, err));
	}
	return TN_OK;
}

void tn_quantized_weights_free(tn_context *ctx, tn_quantized_weight **weights, size_t count)
{
	if (!weights)
		return;
	for (size_t i = 0; i < count; i++)
		tn_quantized_weight_destroy(weights[i]);
	tn_free_array(ctx, weights, count, sizeof *weights);
}

/* The list is handed out with exactly as many places as it has weights, as tn_quantized_weights_free expects. */
static tn_status give(struct loading *l, tn_quantized_weight ***out, size_t *count, struct tn_error *err)
{
	tn_quantized_weight **list;
	TN_TRY(tn_alloc_array(l->ctx, l->count, sizeof *list, "weights", &list, err));
	if (l->count)
		memcpy(list, l->weights, l->count * sizeof *list);
	*out = list;
	*count = l->count;
	l->count = 0;
	return TN_OK;
}

tn_status tn_load_quantized_weights(tn_context *ctx, const char *folder, tn_quantized_weight ***out, size_t *count,
				    struct tn_error *err)
{
	struct loading l = { .ctx = ctx };
	tn_quant_config *config;
	tn_checkpoint *checkpoint;
	TN_TRY(tn_quant_config_load_native(ctx, folder, &config, err));
	tn_status status = tn_checkpoint_open(ctx, folder, &checkpoint, err);
	if (status == TN_OK) {
		l.config = config;
		l.checkpoint = checkpoint;
		status = load_all(&l, err);
		if (status == TN_OK)
			status = give(&l, out, count, err);
		for (size_t i = 0; i < l.count; i++)
			tn_quantized_weight_destroy(l.weights[i]);
		tn_free_array(ctx, l.weights, l.capacity, sizeof *l.weights);
		tn_checkpoint_close(checkpoint);
	}
	tn_quant_config_destroy(config);
	return status;
}
