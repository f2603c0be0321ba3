/* SPDX-License-Identifier: Apache-2.0 */
/* The public products of one linear: factors as patches, activations of any dtype. */
#include "linear/linear.h"

#include "base/checked.h"
#include "base/error.h"
#include "weights/format.h"

#include <math.h>
#include <string.h>

/* ---- checks ---------------------------------------------------------------------------------------------- */

static tn_status check_factor(const struct tn_array *f, uint64_t rows, uint64_t cols, const char *what, struct tn_error *err)
{
	char text[TN_SHAPE_TEXT];
	if (!tn_is_weight_dtype(f->dtype))
		return tn_fail(err, TN_E_ARG, what, "%s is %s; F32, F16 or BF16 was expected", what, tn_dtype_name(f->dtype));
	if (!f->data || f->rank != 2 || f->shape[0] != rows || f->shape[1] != cols)
		return tn_fail(err, TN_E_ARG, what, "%s has the shape %s; [%llu, %llu] was expected", what,
			       tn_shape_text(text, f->shape, f->rank), (unsigned long long)rows, (unsigned long long)cols);
	if ((uintptr_t)f->data % (tn_dtype_bits(f->dtype) / 8))
		return tn_fail(err, TN_E_ARG, what, "%s is not aligned to its dtype", what);
	return TN_OK;
}

static tn_status check_loras(const tn_linear *l, uint64_t expert, const struct tn_lora *loras, size_t count,
			     struct tn_error *err)
{
	if (expert && expert >= l->experts)
		return tn_fail(err, TN_E_ARG, "expert", "there is no expert %llu of %llu", (unsigned long long)expert,
			       (unsigned long long)l->experts);
	if (count > TN_MOST_LORAS)
		return tn_fail(err, TN_E_ARG, "loras", "%zu pairs of factors were given; at most %d are added in one call", count,
			       (int)TN_MOST_LORAS);
	for (size_t i = 0; i < count; i++) {
		uint64_t rank = loras[i].a.rank ? loras[i].a.shape[0] : 0;
		TN_TRY(check_factor(&loras[i].a, rank, l->in, "lora_a", err));
		TN_TRY(check_factor(&loras[i].b, l->out, rank, "lora_b", err));
	}
	return TN_OK;
}

static tn_status check_call(const tn_linear *l, const struct tn_linear_call *c, int embeds, struct tn_error *err)
{
	TN_TRY(check_loras(l, c->expert, c->loras, c->lora_count, err));
	int fits = embeds || tn_is_weight_dtype(c->x_dtype);
	if (fits && tn_is_weight_dtype(c->y_dtype))
		return TN_OK;
	return tn_fail(err, TN_E_ARG, fits ? "y" : "x", "%s is %s; F32, F16 or BF16 was expected", fits ? "y" : "x",
		       tn_dtype_name(fits ? c->y_dtype : c->x_dtype));
}

/* ---- patches --------------------------------------------------------------------------------------------- */

/* Pairs two by two, so that the gain comes behind the last. */
static size_t make_patches(const tn_linear *l, const struct tn_lora *loras, size_t count, const float *row_scale,
			   struct tn_patch patches[TN_MOST_LORAS / 2 + 1])
{
	size_t n = (count + 1) / 2 + (count == 0 && row_scale);
	for (size_t i = 0; i < n; i++) {
		patches[i] = (struct tn_patch){ .rows = l->out };
		for (size_t p = 0; p < 2 && 2 * i + p < count; p++) {
			const struct tn_lora *lora = &loras[2 * i + p];
			patches[i].pair[p] = (struct tn_pair){ lora->a.data, lora->b.data, lora->a.dtype, lora->b.dtype,
							       (size_t)lora->a.shape[0], (float)lora->scale };
		}
	}
	if (n)
		patches[n - 1].row_gain = row_scale;
	return n;
}

static size_t rank_of(const struct tn_linear_call *c)
{
	size_t rank = 0;
	for (size_t i = 0; i < c->lora_count; i++)
		rank += (size_t)c->loras[i].a.shape[0];
	return rank;
}

static void *align(void *scratch)
{
	return (void *)tn_align_up((uintptr_t)scratch, 64);
}

static size_t floats_bytes(size_t m, size_t n)
{
	return tn_align_up(m * n * sizeof(float), 64);
}

size_t tn_linear_scratch_bytes(const tn_linear *l, const struct tn_linear_call *c)
{
	struct tn_forward f = { .linear = l, .precision = (enum tn_precision)c->activations, .m = c->m, .rank = rank_of(c) };
	return 64 + tn_forward_scratch_bytes(&f, 1, 0) +
	       floats_bytes(c->m, l->in) + floats_bytes(c->m, l->out);
}

static void convert(const struct tn_kernels *k, tn_dtype dtype, float *dst, const void *src, size_t n)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct tn_row in = { { src } };
	k->codec[TN_CODEC_dense]->decode(dst, &in, &format, n);
}

static void store(const struct tn_kernels *k, tn_dtype dtype, void *dst, const float *src, size_t n)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct tn_row_out out = { { dst } };
	k->codec[TN_CODEC_dense]->encode(&out, src, &format, n);
}

tn_status tn_linear_forward(const tn_linear *l, const struct tn_linear_call *c, void *scratch, struct tn_error *err)
{
	const struct tn_kernels *k = l->ctx->kernels;
	struct tn_patch patches[TN_MOST_LORAS / 2 + 1];
	TN_TRY(check_call(l, c, 0, err));
	float *x = align(scratch), *y = (float *)(void *)((unsigned char *)x + floats_bytes(c->m, l->in));
	size_t unit = tn_dtype_bits(c->x_dtype) / 8, y_unit = tn_dtype_bits(c->y_dtype) / 8;
	size_t patch_count = make_patches(l, c->loras, c->lora_count, c->row_scale, patches);
	struct tn_patched_rows group = { c->m, patches, patch_count, l->bias ? l->bias + (size_t)c->expert * l->out : NULL };
	int wide_x = c->x_dtype == TN_F32, wide_y = c->y_dtype == TN_F32;
	struct tn_forward f = {
		.linear = l, .expert = c->expert, .precision = (enum tn_precision)c->activations, .m = c->m, .rank = rank_of(c),
		.x = wide_x ? c->x : x, .x_stride = wide_x ? c->x_stride : l->in, .x_dtype = c->x_dtype,
		.y = wide_y ? c->y : y, .y_stride = wide_y ? c->y_stride : l->out,
		.groups = &group, .group_count = 1,
	};
	for (size_t t = 0; t < c->m && !wide_x; t++)
		convert(k, c->x_dtype, x + t * l->in, (const unsigned char *)c->x + t * c->x_stride * unit, l->in);
	tn_forward_run(&f, 1, (unsigned char *)y + floats_bytes(c->m, l->out));
	for (size_t t = 0; t < c->m && !wide_y; t++)
		store(k, c->y_dtype, (unsigned char *)c->y + t * c->y_stride * y_unit, y + t * l->out, l->out);
	return TN_OK;
}

tn_status tn_linear_embed(const tn_linear *l, const struct tn_linear_call *c, const uint32_t *ids, void *scratch,
			  struct tn_error *err)
{
	struct tn_patch patches[TN_MOST_LORAS / 2 + 1];
	float *row = align(scratch);
	size_t y_unit = tn_dtype_bits(c->y_dtype) / 8;
	TN_TRY(check_call(l, c, 1, err));
	for (size_t t = 0; t < c->m; t++)
		if (ids[t] >= l->out)
			return tn_fail(err, TN_E_ARG, "ids", "there is no row %u of %zu", ids[t], l->out);
	size_t count = make_patches(l, c->loras, c->lora_count, c->row_scale, patches);
	for (size_t t = 0; t < c->m; t++) {
		tn_embed_row(l, c->expert, ids[t], patches, count, row);
		store(l->ctx->kernels, c->y_dtype, (unsigned char *)c->y + t * c->y_stride * y_unit, row, l->in);
	}
	return TN_OK;
}

/* ---- DoRA ------------------------------------------------------------------------------------------------ */

/* Row `row` of W + scale * B A, squared and summed: in double, one row in memory. `row_w` and `factor` are [in]. */
static double square_of_row(const tn_linear *l, uint64_t expert, size_t row, const struct tn_lora *loras, size_t count,
			    float *row_w, float *factor, double *sum)
{
	const struct tn_kernels *k = l->ctx->kernels;
	double square = 0;
	tn_embed_row(l, expert, row, NULL, 0, row_w);
	for (size_t j = 0; j < l->in; j++)
		sum[j] = (double)row_w[j];
	for (size_t i = 0; i < count; i++) {
		size_t rank = (size_t)loras[i].a.shape[0], a_unit = tn_dtype_bits(loras[i].a.dtype) / 8;
		size_t b_unit = tn_dtype_bits(loras[i].b.dtype) / 8;
		for (size_t r = 0; r < rank; r++) {
			float b;
			convert(k, loras[i].b.dtype, &b, (const unsigned char *)loras[i].b.data + (row * rank + r) * b_unit, 1);
			convert(k, loras[i].a.dtype, factor, (const unsigned char *)loras[i].a.data + r * l->in * a_unit, l->in);
			for (size_t j = 0; j < l->in; j++)
				sum[j] += loras[i].scale * (double)b * (double)factor[j];
		}
	}
	for (size_t j = 0; j < l->in; j++)
		square += sum[j] * sum[j];
	return square;
}

tn_status tn_linear_dora_scale(const tn_linear *l, uint64_t expert, const struct tn_lora *loras, size_t count,
			       const float *magnitude, float *row_scale, struct tn_error *err)
{
	struct tn_buffer memory;
	TN_TRY(check_loras(l, expert, loras, count, err));
	TN_TRY(tn_buffer_alloc(l->ctx, l->in * (sizeof(double) + 2 * sizeof(float)), "norms of rows", &memory, err));
	double *sum = memory.data;
	float *w = (float *)(sum + l->in);
	for (size_t i = 0; i < l->out; i++) {
		double square = square_of_row(l, expert, i, loras, count, w, w + l->in, sum);
		row_scale[i] = square > 0 ? (float)((double)magnitude[i] / sqrt(square)) : 1;
	}
	tn_buffer_release(l->ctx, &memory);
	return TN_OK;
}
