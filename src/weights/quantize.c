/* SPDX-License-Identifier: Apache-2.0 */
/* tn_quantize and tn_dequantize: checks and messages of mx.quantize and mx.dequantize (mlx/ops.cpp, MLX 0.32.4), rows
 * through the codecs. */
#include "weights/array.h"
#include "weights/format.h"
#include "weights/matrix.h"

#include "base/checked.h"
#include "base/error.h"

#include <string.h>

/* Sizes in front of the last, multiplied: the caller has memory for them all. */
static uint64_t rows_of(const struct tn_array *a)
{
	uint64_t rows = 1;
	for (uint32_t i = 0; i + 1 < a->rank; i++)
		rows *= a->shape[i];
	return rows;
}

static tn_status check_global_scale(const struct tn_array *g, const char *op, struct tn_error *err)
{
	char shape[TN_SHAPE_TEXT];
	if (g->data && tn_array_elements(g) != 1)
		return tn_fail(err, TN_E_ARG, "global_scale", "[%s] Global scale must be a scalar but got shape %s.",
			       op, tn_shape_text(shape, g->shape, g->rank));
	if (g->data && g->dtype != TN_F32)
		return tn_fail(err, TN_E_ARG, "global_scale", "[%s] Global scale must have dtype float32 but got %s.",
			       op, tn_mlx_dtype_name(g->dtype));
	return TN_OK;
}

/* ---- quantize -------------------------------------------------------------------------------------------- */

static tn_status check_input(const struct tn_array *w, const struct tn_quantization *q, const struct tn_codec *codec,
			     const struct tn_array *global_scale, struct tn_error *err)
{
	char shape[TN_SHAPE_TEXT];
	if (w->dtype == TN_F64)
		return tn_fail(err, TN_E_ARG, "w",
			       "[quantize] Only supports floating point inputs of at most 32 bits, w is float64");
	if (!tn_is_weight_dtype(w->dtype))
		return tn_fail(err, TN_E_ARG, "w",
			       "[quantize] Only real floating types can be quantized but w has type %s.",
			       tn_mlx_dtype_name(w->dtype));
	if (w->rank < 2)
		return tn_fail(
			err, TN_E_ARG, "w",
			"[quantize] The matrix to be quantized must have at least 2 dimension but it has only %u.",
			w->rank);
	if (q->group_size == 0 || w->shape[w->rank - 1] % (uint64_t)(q->group_size < 0 ? 1 : q->group_size) != 0)
		return tn_fail(err, TN_E_ARG, "group_size",
			       "[quantize] The last dimension of the matrix needs to be divisible by the quantization "
			       "group size %d. "
			       "However the provided  matrix has shape %s",
			       q->group_size, tn_shape_text(shape, w->shape, w->rank));
	if (global_scale && global_scale->data && !codec->takes_global_scale)
		return tn_fail(err, TN_E_ARG, "global_scale",
			       "[quantize] Global scale is only supported for 'nvfp4' quantization mode.");
	return global_scale ? check_global_scale(global_scale, "quantize", err) : TN_OK;
}

/* Allocates the parts of a quantized array whose logical shape is that of `like`, with `cols` columns. */
static tn_status make_parts(tn_context *ctx, const struct tn_array *like, const struct tn_format *format, uint64_t cols,
			    struct tn_quantized *out, struct tn_error *err)
{
	static const char *const names[TN_PART_COUNT] = { "weight", "scales", "biases" };
	struct tn_array *const parts[TN_PART_COUNT] = { &out->weight, &out->scales, &out->biases };
	struct tn_part_plan plan[TN_PART_COUNT];
	const struct tn_codec *codec = tn_codec_info(format->codec);
	tn_format_parts(format, cols, plan);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		uint64_t shape[TN_ARRAY_RANK];
		if (p == TN_PART_BIASES && !codec->has_biases)
			continue;
		memcpy(shape, like->shape, sizeof shape);
		shape[like->rank - 1] = plan[p].last;
		TN_TRY(tn_array_make(ctx, plan[p].dtype, like->rank, shape, names[p], parts[p], err));
	}
	return TN_OK;
}

static void attach_parts(struct tn_row_block *rows, const struct tn_quantized *matrix)
{
	rows->part[TN_PART_WEIGHT] = matrix->weight.data;
	rows->part[TN_PART_SCALES] = matrix->scales.data;
	rows->part[TN_PART_BIASES] = matrix->biases.data;
}

static tn_status run_quantize(tn_context *ctx, const struct tn_array *w, const struct tn_format *format,
			      struct tn_quantized *out, struct tn_error *err)
{
	uint64_t cols = w->shape[w->rank - 1];
	struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = w->dtype };
	struct tn_row_block from, to;
	TN_TRY(make_parts(ctx, w, format, cols, out, err));
	if (format->has_global_scale) {
		TN_TRY(tn_array_make(ctx, TN_F32, 0, NULL, "global_scale", &out->global_scale, err));
		memcpy(out->global_scale.data, &format->global_scale, sizeof format->global_scale);
	}
	tn_row_block_init(&from, &dense, rows_of(w), (size_t)cols);
	tn_row_block_init(&to, format, rows_of(w), (size_t)cols);
	from.part[TN_PART_WEIGHT] = w->data;
	attach_parts(&to, out);
	return tn_row_block_convert(ctx, &to, &from, err);
}

tn_status tn_quantize(tn_context *ctx, const struct tn_array *w, const struct tn_quantization *q,
		      const struct tn_array *global_scale, tn_flavour flavour, struct tn_quantized *out,
		      struct tn_error *err)
{
	struct tn_quantization resolved = *q;
	struct tn_quantized made = { 0 };
	struct tn_format format;
	const struct tn_codec *codec = tn_codec_of_mode(q->mode, NULL);
	if (!codec)
		return tn_fail(err, TN_E_ARG, "mode", "[quantize] Invalid quantization mode '%.40s'.", q->mode);
	TN_TRY(tn_quantization_resolve(&resolved, err));
	TN_TRY(check_input(w, &resolved, codec, global_scale, err));
	TN_TRY(tn_format_make(&resolved, w->dtype, flavour, "quantize", &format, err));
	if (global_scale && global_scale->data) {
		format.has_global_scale = 1;
		memcpy(&format.global_scale, global_scale->data, sizeof format.global_scale);
	}
	tn_status status = run_quantize(ctx, w, &format, &made, err);
	if (status != TN_OK) {
		tn_quantized_release(ctx, &made);
		return status;
	}
	*out = made;
	return TN_OK;
}

/* ---- dequantize ------------------------------------------------------------------------------------------ */

static int same_leading(const struct tn_array *a, const struct tn_array *b)
{
	return a->rank == b->rank && memcmp(a->shape, b->shape, (a->rank - 1) * sizeof *a->shape) == 0;
}

static tn_status check_mode(const struct tn_quantized *m, const struct tn_codec *codec, tn_dtype dtype,
			    struct tn_error *err)
{
	if (dtype != TN_DTYPE_COUNT && !tn_is_weight_dtype(dtype))
		return tn_fail(err, TN_E_ARG, "dtype",
			       "[dequantize] Only real floating types are supported but output dtype == %s.",
			       tn_mlx_dtype_name(dtype));
	if (codec->has_biases && !m->biases.data)
		return tn_fail(err, TN_E_ARG, "biases", "[dequantize] Biases must be provided for %s quantization.",
			       codec->name);
	if (codec->byte_scales && m->scales.dtype != TN_U8)
		return tn_fail(err, TN_E_ARG, "scales", "[dequantize] Scale type must be uint8 but received type %s.",
			       tn_mlx_dtype_name(m->scales.dtype));
	if (!codec->has_biases && m->biases.data)
		return tn_fail(err, TN_E_ARG, "biases", "[dequantize] Biases must be null for quantization mode '%s'.",
			       codec->name);
	if (m->global_scale.data && !codec->takes_global_scale)
		return tn_fail(err, TN_E_ARG, "global_scale",
			       "[dequantize] Global scale is only supported for 'nvfp4' quantization mode.");
	return TN_OK;
}

static tn_status check_triple(const struct tn_quantized *m, const struct tn_quantization *q,
			      const struct tn_codec *codec, struct tn_error *err)
{
	const struct tn_array *w = &m->weight, *s = &m->scales;
	char of_w[TN_SHAPE_TEXT], of_s[TN_SHAPE_TEXT];
	if (q->bits <= 0)
		return tn_fail(err, TN_E_ARG, "bits", "[dequantize] Invalid value for bits: %d", q->bits);
	if (q->group_size <= 0)
		return tn_fail(err, TN_E_ARG, "group_size", "[dequantize] Invalid value for group_size: %d",
			       q->group_size);
	if (w->dtype != TN_U32)
		return tn_fail(err, TN_E_ARG, "w", "[dequantize] The matrix should be given as a uint32");
	if (w->rank < 2)
		return tn_fail(
			err, TN_E_ARG, "w",
			"[dequantize] The matrix to be dequantized must have at least 2 dimension but it has only %u.",
			w->rank);
	if (!same_leading(w, s) || (m->biases.data && !same_leading(w, &m->biases)))
		return tn_fail(err, TN_E_ARG, "scales",
			       "[dequantize] Shape of scales and biases does not match the matrix");
	tn_shape_text(of_w, w->shape, w->rank);
	tn_shape_text(of_s, s->shape, s->rank);
	if (w->shape[w->rank - 1] * 32 / (uint64_t)q->bits == s->shape[s->rank - 1] * (uint64_t)q->group_size)
		return TN_OK;
	if (codec->has_biases)
		return tn_fail(
			err, TN_E_ARG, "scales",
			"[dequantize] Shape of scales and biases does not match the matrix given the quantization "
			"parameters. "
			"Provided matrix of shape %s and scales/biases of shape %s with group_size=%d and bits=%d.",
			of_w, of_s, q->group_size, q->bits);
	return tn_fail(err, TN_E_ARG, "scales",
		       "[dequantize] Shape of scales does not match the matrix given the quantization parameters. "
		       "Provided matrix of shape %s and scales of shape %s.",
		       of_w, of_s);
}

/* What MLX accepts or not by accident, and tenon refuses. */
static tn_status check_biases(const struct tn_quantized *m, struct tn_error *err)
{
	const struct tn_array *s = &m->scales, *b = &m->biases;
	char of_s[TN_SHAPE_TEXT], of_b[TN_SHAPE_TEXT];
	if (!b->data)
		return TN_OK;
	if (b->shape[b->rank - 1] != s->shape[s->rank - 1])
		return tn_fail(err, TN_E_ARG, "biases",
			       "[dequantize] Scales have shape %s and biases %s; they must be equal",
			       tn_shape_text(of_s, s->shape, s->rank), tn_shape_text(of_b, b->shape, b->rank));
	if (!tn_is_weight_dtype(s->dtype) || b->dtype != s->dtype)
		return tn_fail(err, TN_E_UNSUPPORTED, "biases",
			       "[dequantize] Scales are %s and biases %s; both must be float32, float16 or bfloat16",
			       tn_mlx_dtype_name(s->dtype), tn_mlx_dtype_name(b->dtype));
	return TN_OK;
}

static tn_status dequantize_format(const struct tn_quantized *m, const struct tn_quantization *q, tn_dtype dtype,
				   int like_mlx, struct tn_format *format, tn_dtype *result, struct tn_error *err)
{
	const struct tn_codec *codec = tn_codec_of_mode(q->mode, NULL);
	if (!codec)
		return tn_fail(err, TN_E_ARG, "mode", "[dequantize] Invalid quantization mode '%.40s'.", q->mode);
	struct tn_quantization resolved = *q;
	TN_TRY(tn_quantization_resolve(&resolved, err));
	TN_TRY(check_mode(m, codec, dtype, err));
	if (codec->byte_scales) /* MLX asks for the exact pair before it looks at shapes */
		TN_TRY(tn_format_make(&resolved, TN_BF16, TN_FLAVOUR_CPU, "dequantize", format, err));
	TN_TRY(check_triple(m, &resolved, codec, err));
	TN_TRY(check_global_scale(&m->global_scale, "dequantize", err));
	TN_TRY(check_biases(m, err));
	tn_dtype own = codec->byte_scales ? (m->global_scale.data ? TN_F32 : TN_BF16) : m->scales.dtype;
	*result = dtype == TN_DTYPE_COUNT || (like_mlx && m->global_scale.data) ? own : dtype;
	TN_TRY(tn_format_make(&resolved, codec->byte_scales ? *result : m->scales.dtype, TN_FLAVOUR_CPU, "dequantize",
			      format, err));
	format->like_mlx = like_mlx != 0;
	if (m->global_scale.data) {
		format->has_global_scale = 1;
		memcpy(&format->global_scale, m->global_scale.data, sizeof format->global_scale);
	}
	return TN_OK;
}

tn_status tn_dequantize(tn_context *ctx, const struct tn_quantized *matrix, const struct tn_quantization *q,
			tn_dtype dtype, int like_mlx, struct tn_array *out, struct tn_error *err)
{
	struct tn_format format, dense = { .codec = TN_CODEC_dense };
	struct tn_array made;
	struct tn_row_block from, to;
	uint64_t shape[TN_ARRAY_RANK];
	TN_TRY(dequantize_format(matrix, q, dtype, like_mlx, &format, &dense.dtype, err));
	const struct tn_array *s = &matrix->scales;
	memcpy(shape, s->shape, sizeof shape);
	shape[s->rank - 1] *= format.group;
	TN_TRY(tn_array_make(ctx, dense.dtype, s->rank, shape, "matrix", &made, err));
	tn_row_block_init(&from, &format, rows_of(s), (size_t)shape[s->rank - 1]);
	tn_row_block_init(&to, &dense, rows_of(s), (size_t)shape[s->rank - 1]);
	attach_parts(&from, matrix);
	to.part[TN_PART_WEIGHT] = made.data;
	tn_status status = tn_row_block_convert(ctx, &to, &from, err);
	if (status != TN_OK) {
		tn_array_release(ctx, &made);
		return status;
	}
	*out = made;
	return TN_OK;
}
