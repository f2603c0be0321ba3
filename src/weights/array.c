/* SPDX-License-Identifier: Apache-2.0 */
#include "weights/array.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "base/pool.h"
#include "weights/format.h"

#include <string.h>

tn_status tn_array_make(tn_context *ctx, tn_dtype dtype, uint32_t rank, const uint64_t *shape, const char *what,
			struct tn_array *out, struct tn_error *err)
{
	struct tn_array made = { .dtype = dtype, .rank = rank };
	struct tn_buffer buffer;
	uint64_t bytes = tn_dtype_bits(dtype) / 8;
	int empty = 0;
	if (rank > TN_ARRAY_RANK)
		return tn_fail(err, TN_E_LIMIT, what, "%s has rank %u, at most %d was expected", what, rank,
			       TN_ARRAY_RANK);
	for (uint32_t i = 0; i < rank; i++) {
		made.shape[i] = shape[i];
		empty |= shape[i] == 0;
	}
	for (uint32_t i = 0; i < rank && !empty; i++)
		if (tn_mul_u64(bytes, shape[i], &bytes) || bytes > SIZE_MAX / 2)
			return tn_fail(err, TN_E_LIMIT, what, "%s does not fit in memory", what);
	TN_TRY(tn_buffer_alloc(ctx, empty ? 0 : (size_t)bytes, what, &buffer, err));
	made.data = buffer.data;
	made.bytes = buffer.bytes;
	*out = made;
	return TN_OK;
}

struct tn_array tn_array_view(tn_dtype dtype, uint32_t rank, const uint64_t *shape, const void *data)
{
	struct tn_array view = { .dtype = dtype, .rank = rank };
	uint64_t elements = 1;
	for (uint32_t i = 0; i < rank && i < TN_ARRAY_RANK; i++) {
		view.shape[i] = shape[i];
		elements *= shape[i];
	}
	memcpy(&view.data, &data, sizeof data); /* arguments are only read: weights.h */
	view.bytes = (size_t)elements * (tn_dtype_bits(dtype) / 8);
	return view;
}

void tn_array_release(tn_context *ctx, struct tn_array *array)
{
	if (!array)
		return;
	struct tn_buffer buffer = { array->data, array->bytes };
	tn_buffer_release(ctx, &buffer);
	array->data = NULL;
	array->bytes = 0;
}

void tn_quantized_release(tn_context *ctx, struct tn_quantized *matrix)
{
	if (!matrix)
		return;
	tn_array_release(ctx, &matrix->weight);
	tn_array_release(ctx, &matrix->scales);
	tn_array_release(ctx, &matrix->biases);
	tn_array_release(ctx, &matrix->global_scale);
}

uint64_t tn_array_elements(const struct tn_array *array)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i < array->rank; i++)
		n *= array->shape[i];
	return n;
}

/* ---- elements -------------------------------------------------------------------------------------------- */

static float integer_at(const unsigned char *src, tn_dtype dtype, size_t i)
{
	int16_t i16;
	uint16_t u16;
	int32_t i32;
	uint32_t u32;
	int64_t i64;
	uint64_t u64;
	switch (dtype) {
	case TN_I8: return (float)(int8_t)src[i];
	case TN_I16: memcpy(&i16, src + 2 * i, 2); return (float)i16;
	case TN_U16: memcpy(&u16, src + 2 * i, 2); return (float)u16;
	case TN_I32: memcpy(&i32, src + 4 * i, 4); return (float)i32;
	case TN_U32: memcpy(&u32, src + 4 * i, 4); return (float)u32;
	case TN_I64: memcpy(&i64, src + 8 * i, 8); return (float)i64;
	case TN_U64: memcpy(&u64, src + 8 * i, 8); return (float)u64;
	default: return (float)src[i]; /* U8, BOOL */
	}
}

static int is_integer(tn_dtype dtype)
{
	return dtype == TN_BOOL || dtype == TN_U8 || dtype == TN_I8 || dtype == TN_U16 || dtype == TN_I16 ||
	       dtype == TN_U32 || dtype == TN_I32 || dtype == TN_U64 || dtype == TN_I64;
}

tn_status tn_array_floats(const struct tn_array *array, uint64_t first, size_t n, float *dst, struct tn_error *err)
{
	const unsigned char *src = (const unsigned char *)array->data + first * (tn_dtype_bits(array->dtype) / 8);
	if (tn_is_weight_dtype(array->dtype)) {
		struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = array->dtype };
		struct tn_row row = { .part = { src } };
		tn_codec_info(TN_CODEC_dense)->decode(dst, &row, &dense, n);
		return TN_OK;
	}
	if (!is_integer(array->dtype))
		return tn_fail(err, TN_E_UNSUPPORTED, NULL, "values of dtype %s cannot be multiplied",
			       tn_dtype_name(array->dtype));
	for (size_t i = 0; i < n; i++)
		dst[i] = integer_at(src, array->dtype, i);
	return TN_OK;
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

void tn_row_block_init(struct tn_row_block *rows, const struct tn_format *format, uint64_t count, size_t cols)
{
	*rows = (struct tn_row_block){ .format = *format, .rows = count, .cols = cols };
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		rows->row_bytes[p] = tn_codec_info(format->codec)->part_bytes(format, p, cols);
}

enum { TASK_ELEMENTS = 1 << 16 };

struct conversion {
	const struct tn_kernels *kernels;
	const struct tn_row_block *dst, *src;
	uint64_t rows_per_task;
	float *scratch; /* cols for each worker */
};

/* More than this does not stay in the caches. */
enum { FAR_BYTES = 16 << 20 };

static tn_status convert_block(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct conversion *c = arg;
	const struct tn_row_block *dst = c->dst, *src = c->src;
	uint64_t first = task * c->rows_per_task, end = tn_min_u64(first + c->rows_per_task, src->rows);
	struct tn_rows in;
	struct tn_rows_out out;
	struct tn_recoding how = { &src->format, &dst->format, (size_t)(end - first), src->cols,
				   dst->rows * dst->row_bytes[TN_PART_WEIGHT] > FAR_BYTES, c->scratch + worker * src->cols };
	(void)err;
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		in.first.part[p] = src->part[p] ? (const char *)src->part[p] + first * src->row_bytes[p] : NULL;
		in.stride[p] = (size_t)src->row_bytes[p];
		out.first.part[p] = dst->part[p] ? (char *)dst->part[p] + first * dst->row_bytes[p] : NULL;
		out.stride[p] = (size_t)dst->row_bytes[p];
	}
	c->kernels->recode_rows(&out, &in, &how);
	return TN_OK;
}

tn_status tn_row_block_convert(tn_context *ctx, const struct tn_row_block *dst, const struct tn_row_block *src,
			       struct tn_error *err)
{
	size_t workers = tn_pool_workers(ctx);
	struct conversion c = { .kernels = ctx->kernels, .dst = dst, .src = src };
	if (src->rows == 0 || src->cols == 0)
		return TN_OK;
	c.rows_per_task = tn_max_u64(1, TASK_ELEMENTS / src->cols);
	TN_TRY(tn_alloc_array(ctx, workers * src->cols, sizeof *c.scratch, "rows", &c.scratch, err));
	struct tn_work work = { .task_count = tn_ceil_div(src->rows, c.rows_per_task),
				.run = convert_block,
				.arg = &c };
	tn_status status = tn_pool_run(ctx, &work, err);
	tn_free_array(ctx, c.scratch, workers * src->cols, sizeof *c.scratch);
	return status;
}
