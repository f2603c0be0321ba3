/* SPDX-License-Identifier: Apache-2.0 */
/* A layer's weight with its adapter in it: a copy, so that the base stays what it is to the byte. */
#include "live/layer.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/pool.h"
#include "linear/delta.h"
#include "linear/linear.h"
#include "weights/array.h"
#include "weights/nf4.h"

#include <string.h>

enum { TASK_ROWS = 64 };

/* ---- the base -------------------------------------------------------------------------------------------- */

tn_dtype tn_layer_dtype(const tn_layer *l)
{
	const struct tn_linear_weight *w = &l->weight;
	if (l->is_packed)
		return TN_F32;
	if (w->dense.data)
		return w->dense.dtype;
	if (w->quantized.biases.data)
		return w->quantized.scales.dtype;
	return w->quantized.global_scale.data ? TN_F32 : TN_BF16;
}

void tn_layer_base_rows(const tn_layer *l, uint64_t first, uint64_t count, float *dst)
{
	if (l->is_packed) {
		tn_nf4_decode_some(&l->nf4, first * l->in, count * l->in, dst);
		return;
	}
	for (uint64_t i = first; i < first + count; i++, dst += l->in) {
		struct tn_format format = tn_linear_format(l->base, i / l->out);
		struct tn_row row = tn_linear_row(l->base, i / l->out, (size_t)(i % l->out));
		l->ctx->kernels->codec[format.codec]->decode(dst, &row, &format, (size_t)l->in);
	}
}

static uint32_t weight_shape(const tn_layer *l, uint64_t shape[3])
{
	uint32_t rank = 0;
	if (l->experts)
		shape[rank++] = l->experts;
	shape[rank++] = l->out;
	shape[rank++] = l->in;
	return rank;
}

tn_status tn_layer_dequantize(const tn_layer *l, struct tn_array *out, struct tn_error *err)
{
	uint64_t shape[3], rows = l->out * (l->experts ? l->experts : 1);
	uint32_t rank = weight_shape(l, shape);
	TN_TRY(tn_array_make(l->ctx, TN_F32, rank, shape, "dense weight", out, err));
	tn_layer_base_rows(l, 0, rows, out->data);
	return TN_OK;
}

/* ---- base plus adapter ----------------------------------------------------------------------------------- */

struct merge_job {
	const tn_layer *layer;
	struct tn_delta delta;
	struct tn_array *dst;
	uint64_t rows;
};

/* `values` is room for [cols]. */
static void store_row(const struct tn_kernels *k, const double *v, float *values, struct tn_array *dst, uint64_t row, size_t cols)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dst->dtype };
	struct tn_row_out to = { { (char *)dst->data + (size_t)row * cols * tn_dtype_bits(dst->dtype) / 8 } };
	for (size_t i = 0; i < cols; i++)
		values[i] = (float)v[i];
	k->codec[TN_CODEC_dense]->encode(&to, values, &format, cols);
}

static tn_status merge_rows(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	const struct merge_job *job = arg;
	const tn_layer *l = job->layer;
	size_t cols = (size_t)l->in;
	struct tn_buffer memory;
	(void)worker;
	TN_TRY(tn_buffer_alloc(l->ctx, cols * (sizeof(double) + sizeof(float)) + 64 + tn_delta_scratch_bytes((size_t)l->rank, cols),
			       "rows of a merge", &memory, err));
	double *v = memory.data;
	float *w = (float *)(v + cols);
	void *scratch = (char *)memory.data + tn_align_up(cols * (sizeof(double) + sizeof(float)), 64);
	uint64_t end = tn_min_u64(job->rows, (task + 1) * TASK_ROWS);
	for (uint64_t row = task * TASK_ROWS; row < end; row++) {
		tn_layer_base_rows(l, row, 1, w);
		tn_delta_row_f64(l->ctx->kernels, &job->delta, (size_t)row, w, v, TN_SIZES_NONE, NULL, scratch);
		store_row(l->ctx->kernels, v, w, job->dst, row, cols);
	}
	tn_buffer_release(l->ctx, &memory);
	return TN_OK;
}

/* Factors and magnitude as float32 in one piece of memory. */
static tn_status load_delta(const tn_layer *l, struct tn_delta *delta, struct tn_buffer *memory, struct tn_error *err)
{
	size_t a = (size_t)tn_array_elements(&l->a), b = (size_t)tn_array_elements(&l->b),
	       m = l->magnitude.data ? (size_t)l->out : 0;
	TN_TRY(tn_buffer_alloc(l->ctx, (a + b + m) * sizeof(float), "factors", memory, err));
	float *floats = memory->data;
	tn_status status = tn_array_floats(&l->a, 0, a, floats, err);
	if (status == TN_OK)
		status = tn_array_floats(&l->b, 0, b, floats + a, err);
	if (status == TN_OK && m)
		status = tn_array_floats(&l->magnitude, 0, m, floats + a + b, err);
	if (status != TN_OK) {
		tn_buffer_release(l->ctx, memory);
		return status;
	}
	*delta = (struct tn_delta){
		.a = floats, .b = floats + a, .rank = (size_t)l->rank, .cols = (size_t)l->in,
		.rows = (size_t)(l->out * (l->experts ? l->experts : 1)), .group_rows = (size_t)l->out, .scale = l->scale,
		.left = l->b.dtype, .product = l->a.dtype == l->b.dtype ? l->a.dtype : TN_F32,
		.row_magnitude = m ? floats + a + b : NULL,
	};
	return TN_OK;
}

static tn_status merge_dense(const tn_layer *l, struct tn_array *out, struct tn_error *err)
{
	struct merge_job job = { .layer = l, .dst = out };
	struct tn_buffer memory;
	uint64_t shape[3];
	uint32_t rank = weight_shape(l, shape);
	TN_TRY(load_delta(l, &job.delta, &memory, err));
	tn_status status = tn_array_make(l->ctx, tn_layer_dtype(l), rank, shape, "merged weight", out, err);
	if (status == TN_OK) {
		job.rows = job.delta.rows;
		struct tn_work work = { .task_count = tn_ceil_div(job.rows, TASK_ROWS), .run = merge_rows, .arg = &job };
		status = tn_pool_run(l->ctx, &work, err);
		if (status != TN_OK)
			tn_array_release(l->ctx, out);
	}
	tn_buffer_release(l->ctx, &memory);
	return status;
}

static tn_status quantize_again(const tn_layer *l, const struct tn_array *dense, struct tn_quantized *out, struct tn_error *err)
{
	const struct tn_quantized *q = &l->weight.quantized;
	if (q->global_scale.data && tn_array_elements(&q->global_scale) != 1)
		return tn_fail(err, TN_E_UNSUPPORTED, "global_scale", "the stack has a global scale for each expert; merge it with "
			       "dequantize");
	return tn_quantize(l->ctx, dense, &l->weight.q, q->global_scale.data ? &q->global_scale : NULL, TN_FLAVOUR_CPU, out, err);
}

static tn_status copy_bias(const tn_layer *l, struct tn_array *out, struct tn_error *err)
{
	const struct tn_array *bias = &l->weight.bias;
	if (!bias->data)
		return TN_OK;
	TN_TRY(tn_array_make(l->ctx, bias->dtype, bias->rank, bias->shape, "bias", out, err));
	memcpy(out->data, bias->data, bias->bytes);
	return TN_OK;
}

tn_status tn_layer_fused(const tn_layer *l, int dequantize, struct tn_linear_weight *out, struct tn_error *err)
{
	struct tn_linear_weight made = { .q = l->weight.q };
	int stays = !l->is_packed && !l->weight.dense.data && !dequantize;
	TN_TRY(merge_dense(l, &made.dense, err));
	tn_status status = stays ? quantize_again(l, &made.dense, &made.quantized, err) : TN_OK;
	if (stays)
		tn_array_release(l->ctx, &made.dense);
	if (status == TN_OK)
		status = copy_bias(l, &made.bias, err);
	if (status != TN_OK) {
		tn_linear_weight_release(l->ctx, &made);
		return status;
	}
	if (stays)
		made.dense = (struct tn_array){ 0 };
	*out = made;
	return TN_OK;
}

/* ---- merging in place ------------------------------------------------------------------------------------ */

tn_status tn_layer_merge(tn_layer *l, struct tn_error *err)
{
	struct tn_linear_weight merged;
	tn_linear *linear;
	if (l->merged)
		return tn_fail(err, TN_E_ARG, "merge", "LoRA weights are already merged");
	TN_TRY(tn_layer_fused(l, 0, &merged, err));
	tn_status status = tn_linear_create(l->ctx, &merged, &linear, err);
	if (status != TN_OK) {
		tn_linear_weight_release(l->ctx, &merged);
		return status;
	}
	l->merged_weight = merged;
	l->merged_linear = linear;
	l->merged = 1;
	return TN_OK;
}

tn_status tn_layer_unmerge(tn_layer *l, struct tn_error *err)
{
	if (!l->merged)
		return tn_fail(err, TN_E_ARG, "unmerge", "LoRA weights are not merged");
	tn_linear_destroy(l->merged_linear);
	tn_linear_weight_release(l->ctx, &l->merged_weight);
	l->merged_linear = NULL;
	l->merged_weight = (struct tn_linear_weight){ 0 };
	l->merged = 0;
	return TN_OK;
}
