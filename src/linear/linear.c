/* SPDX-License-Identifier: Apache-2.0 */
#include "linear/linear.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "weights/array.h"
#include "weights/format.h"

#include <string.h>

/* ---- shapes ---------------------------------------------------------------------------------------------- */

/* [out, n], or [experts, out, n]. */
static tn_status check_shape(const struct tn_array *a, const char *what, struct tn_error *err)
{
	char text[TN_SHAPE_TEXT];
	size_t bytes = tn_dtype_bits(a->dtype) / 8, n = 1;
	for (uint32_t i = 0; i < a->rank && i < TN_ARRAY_RANK; i++)
		if (a->shape[i] > SIZE_MAX || tn_mul_size(n, (size_t)a->shape[i], &n))
			return tn_fail(err, TN_E_LIMIT, what, "%s does not fit in memory", what);
	if ((a->rank != 2 && a->rank != 3) || n == 0 || tn_mul_size(n, bytes, &n))
		return tn_fail(err, TN_E_ARG, what, "%s has the shape %s; [out, in] or [experts, out, in] was expected", what,
			       tn_shape_text(text, a->shape, a->rank));
	return TN_OK;
}

static int same_rows(const struct tn_array *a, const struct tn_array *b)
{
	return a->rank == b->rank && memcmp(a->shape, b->shape, (a->rank - 1) * sizeof *a->shape) == 0;
}

static void set_shape(struct tn_linear *l, const struct tn_array *a, size_t in)
{
	const struct tn_codec *codec = tn_codec_info(l->format.codec);
	l->experts = a->rank == 3 ? a->shape[0] : 0;
	l->out = (size_t)a->shape[a->rank - 2];
	l->in = in;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		l->row_bytes[p] = l->part[p] ? codec->part_bytes(&l->format, p, in) : 0;
}

static tn_status take_dense(struct tn_linear *l, const struct tn_array *w, struct tn_error *err)
{
	TN_TRY(check_shape(w, "weight", err));
	if (!tn_is_weight_dtype(w->dtype))
		return tn_fail(err, TN_E_ARG, "weight", "weight is %s; F32, F16 or BF16 was expected, or a quantized triple",
			       tn_dtype_name(w->dtype));
	l->format = (struct tn_format){ .codec = TN_CODEC_dense, .dtype = w->dtype };
	l->part[TN_PART_WEIGHT] = w->data;
	set_shape(l, w, (size_t)w->shape[w->rank - 1]);
	return TN_OK;
}

static tn_status check_parts(const struct tn_quantized *w, const struct tn_codec *codec, struct tn_error *err)
{
	const struct tn_array *s = &w->scales, *b = &w->biases, *g = &w->global_scale;
	if (w->weight.dtype != TN_U32 || !s->data || (codec->byte_scales ? s->dtype != TN_U8 : !tn_is_weight_dtype(s->dtype)))
		return tn_fail(err, TN_E_ARG, "scales", "%s takes a U32 weight and scales that are %s", codec->name,
			       codec->byte_scales ? "U8" : "F32, F16 or BF16");
	if (codec->has_biases != (b->data != NULL))
		return tn_fail(err, TN_E_ARG, "biases", "%s takes %s", codec->name, codec->has_biases ? "biases" : "no biases");
	if (!same_rows(&w->weight, s) || (b->data && (b->dtype != s->dtype || b->rank != s->rank ||
						      memcmp(b->shape, s->shape, s->rank * sizeof *s->shape) != 0)))
		return tn_fail(err, TN_E_ARG, "scales", "weight, scales and biases do not have the same rows");
	if (g->data && (!codec->takes_global_scale || g->dtype != TN_F32 ||
			(tn_array_elements(g) != 1 && (w->weight.rank != 3 || tn_array_elements(g) != w->weight.shape[0]))))
		return tn_fail(err, TN_E_ARG, "global_scale",
			       "a global scale is one F32, or one for each expert, and of nvfp4 alone");
	return TN_OK;
}

static tn_status take_quantized(struct tn_linear *l, const struct tn_linear_weight *w, struct tn_error *err)
{
	const struct tn_quantized *z = &w->quantized;
	struct tn_quantization q = w->q;
	uint64_t in, bits;
	const struct tn_codec *codec = tn_codec_of_mode(q.mode, NULL);
	TN_TRY(tn_quantization_resolve(&q, err));
	TN_TRY(check_shape(&z->weight, "weight", err));
	TN_TRY(check_parts(z, codec, err));
	TN_TRY(check_shape(&z->scales, "scales", err));
	TN_TRY(tn_format_make(&q, codec->byte_scales ? TN_BF16 : z->scales.dtype, TN_FLAVOUR_CPU, "linear", &l->format, err));
	if (tn_mul_u64(z->scales.shape[z->scales.rank - 1], (uint64_t)q.group_size, &in) || in > SIZE_MAX / 16 ||
	    tn_mul_u64(in, (uint64_t)q.bits, &bits) || bits % 32 != 0 || bits / 32 != z->weight.shape[z->weight.rank - 1])
		return tn_fail(err, TN_E_ARG, "scales", "the widths of weight and scales do not fit group size %d and %d bits",
			       q.group_size, q.bits);
	l->part[TN_PART_WEIGHT] = z->weight.data;
	l->part[TN_PART_SCALES] = z->scales.data;
	l->part[TN_PART_BIASES] = z->biases.data;
	l->global_scale = z->global_scale.data;
	l->global_count = z->global_scale.data ? tn_array_elements(&z->global_scale) : 0;
	set_shape(l, &z->weight, (size_t)in);
	return TN_OK;
}

static tn_status take_bias(struct tn_linear *l, const struct tn_array *bias, struct tn_error *err)
{
	size_t n = l->out * (l->experts ? (size_t)l->experts : 1);
	if (!tn_is_weight_dtype(bias->dtype) || tn_array_elements(bias) != n)
		return tn_fail(err, TN_E_ARG, "bias", "bias is %s of %llu values; F32, F16 or BF16 of %zu were expected",
			       tn_dtype_name(bias->dtype), (unsigned long long)tn_array_elements(bias), n);
	TN_TRY(tn_buffer_alloc(l->ctx, n * sizeof(float), "bias", &l->bias_memory, err));
	l->bias = l->bias_memory.data;
	return tn_array_floats(bias, 0, n, l->bias_memory.data, err);
}

tn_status tn_linear_create(tn_context *ctx, const struct tn_linear_weight *weight, tn_linear **out, struct tn_error *err)
{
	struct tn_linear *l;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *l, "linear", &l, err));
	l->ctx = ctx;
	tn_status status = weight->dense.data ? take_dense(l, &weight->dense, err) : take_quantized(l, weight, err);
	if (status == TN_OK && weight->bias.data)
		status = take_bias(l, &weight->bias, err);
	if (status != TN_OK) {
		tn_linear_destroy(l);
		return status;
	}
	*out = l;
	return TN_OK;
}

void tn_linear_destroy(tn_linear *linear)
{
	if (!linear)
		return;
	tn_buffer_release(linear->ctx, &linear->bias_memory);
	tn_free_array(linear->ctx, linear, 1, sizeof *linear);
}

uint64_t tn_linear_out_features(const tn_linear *linear)
{
	return linear->out;
}

uint64_t tn_linear_in_features(const tn_linear *linear)
{
	return linear->in;
}

uint64_t tn_linear_experts(const tn_linear *linear)
{
	return linear->experts;
}

int tn_linear_has_bias(const tn_linear *linear)
{
	return linear->bias != NULL;
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

struct tn_format tn_linear_format(const tn_linear *linear, uint64_t expert)
{
	struct tn_format format = linear->format;
	if (linear->global_scale) {
		size_t at = linear->global_count > 1 ? (size_t)expert : 0;
		format.has_global_scale = 1;
		memcpy(&format.global_scale, linear->global_scale + at * sizeof(float), sizeof(float));
	}
	return format;
}

struct tn_row tn_linear_row(const tn_linear *linear, uint64_t expert, size_t row)
{
	struct tn_row r = { { NULL } };
	size_t at = (size_t)expert * linear->out + row;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (linear->part[p])
			r.part[p] = linear->part[p] + at * linear->row_bytes[p];
	return r;
}

static float element(const void *values, size_t i, tn_dtype dtype)
{
	if (dtype == TN_F32)
		return ((const float *)values)[i];
	uint16_t h = ((const uint16_t *)values)[i];
	return dtype == TN_BF16 ? tn_f32_from_bf16(h) : tn_f32_from_f16(h);
}

enum { CHUNK = 256 };

/* y += f * row `row` of a factor [.., cols] */
static void add_factor_row(const struct tn_kernels *k, float *y, float f, const void *values, size_t row, size_t cols,
			   tn_dtype dtype)
{
	float copy[CHUNK];
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	size_t unit = dtype == TN_F32 ? 4 : 2;
	for (size_t i = 0; i < cols; i += CHUNK) {
		size_t n = cols - i < CHUNK ? cols - i : CHUNK;
		struct tn_row in = { { (const unsigned char *)values + (row * cols + i) * unit } };
		k->codec[TN_CODEC_dense]->decode(copy, &in, &format, n);
		k->axpy_f32(y + i, f, copy, n);
	}
}

static void edit_row(const tn_linear *linear, const struct tn_patch *patch, size_t row, float *y)
{
	const struct tn_kernels *k = linear->ctx->kernels;
	size_t at = row - patch->row, in = linear->in;
	if (patch->values)
		memcpy(y, patch->values + at * in, in * sizeof *y);
	for (int n = 0; n < 2; n++) {
		const struct tn_pair *pair = &patch->pair[n];
		for (size_t i = 0; i < pair->rank; i++)
			add_factor_row(k, y, pair->scale * element(pair->b, at * pair->rank + i, pair->b_dtype), pair->a, i, in,
				       pair->a_dtype);
	}
	for (size_t i = 0; i < in && patch->row_gain; i++)
		y[i] *= patch->row_gain[at];
	for (size_t i = 0; i < in && patch->column_gain; i++)
		y[i] *= patch->column_gain[i];
}

void tn_embed_row(const tn_linear *linear, uint64_t expert, size_t row, const struct tn_patch *patches, size_t count,
		  float *y)
{
	struct tn_format format = tn_linear_format(linear, expert);
	struct tn_row in = tn_linear_row(linear, expert, row);
	linear->ctx->kernels->codec[format.codec]->decode(y, &in, &format, linear->in);
	for (size_t i = 0; i < count; i++)
		if (row >= patches[i].row && row - patches[i].row < patches[i].rows)
			edit_row(linear, &patches[i], row, y);
}
