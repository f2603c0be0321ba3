/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/parts.h"

#include "base/checked.h"
#include "base/direct.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"
#include "weights/format.h"

#include <string.h>

unsigned char *tn_parts_place(unsigned char *at, const struct tn_tensor *const *tensors, uint64_t first, uint64_t rows,
			      const size_t row_bytes[TN_PART_COUNT], unsigned char *parts[TN_PART_COUNT])
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		parts[p] = at;
		if (!row_bytes[p])
			continue;
		if (tensors && tensors[p])
			parts[p] = tn_direct_place(at, tensors[p]->offset + first * row_bytes[p]);
		at = parts[p] + tn_align_up((size_t)rows * row_bytes[p], 64);
		at += -(uintptr_t)at % 64;
	}
	return at;
}

tn_status tn_parts_read(const tn_checkpoint *base, const struct tn_stored stored[TN_PART_COUNT],
			const size_t row_bytes[TN_PART_COUNT], uint64_t first, uint64_t rows,
			unsigned char *const *dst, struct tn_error *err)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		const struct tn_stored *s = &stored[p];
		uint64_t at = first * row_bytes[p];
		size_t n = (size_t)rows * row_bytes[p];
		if (!s->tensor || !n)
			continue;
		if (s->file)
			TN_TRY(tn_safetensors_read(s->file, s->tensor, at, dst[p], n, err));
		else
			TN_TRY(tn_checkpoint_read(base, s->tensor, at, dst[p], n, err));
	}
	return TN_OK;
}

tn_status tn_parts_write(struct tn_output *output, size_t shard, struct tn_tensor *const *outputs,
			 const struct tn_part_plan *plan, uint64_t first, uint64_t rows,
			 unsigned char *const *src, struct tn_error *err)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		size_t row_bytes = plan[p].row_bytes;
		if (outputs[p])
			TN_TRY(tn_output_put(output, shard, outputs[p], first * row_bytes, src[p], (size_t)rows * row_bytes, err));
	}
	return TN_OK;
}

static tn_status describe_part(struct tn_arena *arena, const char *name, const struct tn_tensor *like, uint64_t rows,
			       const struct tn_part_plan *plan, struct tn_tensor **out, struct tn_error *err)
{
	struct tn_tensor *t;
	uint64_t *shape;
	TN_TRY(tn_arena_alloc(arena, sizeof *t, &t, err));
	TN_TRY(tn_arena_array(arena, like->rank, sizeof *shape, &shape, err));
	memcpy(shape, like->shape, like->rank * sizeof *shape);
	if (like->rank)
		shape[like->rank - 1] = plan->last;
	t->name = name;
	t->dtype = plan->dtype;
	t->rank = like->rank;
	t->shape = shape;
	t->elements = rows * plan->last;
	t->bytes = rows * plan->row_bytes;
	*out = t;
	return TN_OK;
}

tn_status tn_parts_describe(struct tn_arena *arena, const char *name, const struct tn_tensor *like, uint64_t rows,
			    uint64_t cols, const struct tn_format *format, struct tn_part_plan plan[TN_PART_COUNT],
			    struct tn_tensor *outputs[TN_PART_COUNT], struct tn_error *err)
{
	static const char *const suffixes[TN_PART_COUNT] = { NULL, ".scales", ".biases" };
	tn_format_parts(format, cols, plan);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		const char *part_name = name;
		if (plan[p].row_bytes == 0 && p != TN_PART_WEIGHT)
			continue;
		if (p != TN_PART_WEIGHT)
			TN_TRY(tn_arena_printf(arena, &part_name, err, "%.*s%s", (int)tn_layer_length(name), name, suffixes[p]));
		TN_TRY(describe_part(arena, part_name, like, rows, &plan[p], &outputs[p], err));
	}
	return TN_OK;
}

struct tn_matrix tn_parts_dense(const struct tn_tensor *t, uint64_t cols)
{
	struct tn_matrix m = { .part = { t }, .format = { .codec = TN_CODEC_dense, .dtype = t->dtype } };
	m.cols = cols;
	m.rows = m.cols ? t->elements / m.cols : 0;
	m.row_bytes[TN_PART_WEIGHT] = (size_t)(m.cols * tn_dtype_bits(t->dtype) / 8);
	return m;
}

tn_status tn_parts_text(struct tn_arena *arena, const struct tn_format *format, const char **out, struct tn_error *err)
{
	if (format->codec != TN_CODEC_dense)
		return tn_arena_printf(arena, out, err, "%s, %u bit%s, group %u", tn_codec_info(format->codec)->name,
				       format->bits, format->bits == 1 ? "" : "s", format->group);
	*out = tn_dtype_name(format->dtype);
	return TN_OK;
}
