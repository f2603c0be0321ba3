/* SPDX-License-Identifier: Apache-2.0 */
/* Factors in memory: read, checked, and brought into the order of the rows that they change. */
#include "adapter/adapter.h"

#include "base/error.h"
#include "base/sort.h"
#include "base/transpose.h"
#include "kernels/kernels.h"
#include "store/safetensors.h"

#include <math.h>
#include <string.h>
#include <time.h>

static tn_status check_finite(const struct tn_tensor *t, const float *values, struct tn_error *err)
{
	for (uint64_t i = 0; i < t->elements; i++)
		if (!isfinite(values[i]))
			return tn_fail_at(err, TN_E_FORMAT, t->name, t->offset + i * tn_dtype_bits(t->dtype) / 8,
					  "'%.100s' holds %s at element %llu: the training run diverged, or the file is damaged",
					  t->name, isnan(values[i]) ? "NaN" : "infinity", (unsigned long long)i);
	return TN_OK;
}

tn_status tn_adapter_load_f32(const tn_adapter *adapter, const struct tn_tensor *t, float *dst, struct tn_error *err)
{
	struct tn_buffer raw;
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = t->dtype };
	TN_TRY(tn_safetensors_load(adapter->file, t->name, &raw, NULL, err));
	struct tn_row row = { { raw.data } };
	adapter->ctx->kernels->codec[TN_CODEC_dense]->decode(dst, &row, &format, (size_t)t->elements);
	tn_buffer_release(adapter->ctx, &raw);
	return check_finite(t, dst, err);
}

/* ---- gathering ------------------------------------------------------------------------------------------- */

/* A factor [groups, rank, features] as it is to be read. */
struct source {
	const float *values;
	const struct tn_factor *factor;
	uint64_t rank, features, groups;
	uint64_t blocks;      /* diagonal blocks packed under each other; 1: none */
	uint64_t repeat;      /* features that share one stored column (QA-LoRA), with gain */
	float gain;
	int blocks_on_rank;   /* the packed axis is the rank (B), else the features (A) */
	uint64_t heads;       /* features are stored interleaved within so many heads; 0: they are not */
};

static float element(const struct source *s, uint64_t g, uint64_t k, uint64_t i)
{
	const struct tn_factor *f = s->factor;
	if (s->blocks > 1) {
		uint64_t width = s->features / s->blocks, height = s->rank / s->blocks;
		if (i / width != k / height)
			return 0;
		if (s->blocks_on_rank)
			k %= height;
		else
			i %= width;
	}
	if (s->heads) {
		uint64_t d = s->features / s->heads, r = i % d;
		i = i - r + 2 * (r % (d / 2)) + r / (d / 2);
	}
	return s->values[g * f->group_stride + k * f->rank_stride + i / s->repeat * f->feature_stride] * s->gain;
}

/* To [groups, rank, features], the left factor's order. */
static void gather_by_rank(float *dst, const struct source *s)
{
	for (uint64_t g = 0; g < s->groups; g++)
		for (uint64_t k = 0; k < s->rank; k++)
			for (uint64_t i = 0; i < s->features; i++)
				*dst++ = element(s, g, k, i);
}

/* To [groups, features, rank], the rows' order. */
static void gather_by_feature(float *dst, const struct source *s)
{
	for (uint64_t g = 0; g < s->groups; g++)
		for (uint64_t i = 0; i < s->features; i++)
			for (uint64_t k = 0; k < s->rank; k++)
				*dst++ = element(s, g, k, i);
}

/* Whether the file has the factor by rank, by feature, or in some way of its own. */
enum order { BY_RANK, BY_FEATURE, BY_STRIDES };

static enum order order_of(const struct tn_factor *f, uint64_t groups, uint64_t rank, uint64_t features)
{
	int whole = f->tensor->elements == groups * rank * features && (groups == 1 || f->group_stride == rank * features);
	if (whole && f->feature_stride == 1 && f->rank_stride == features)
		return BY_RANK;
	return whole && f->rank_stride == 1 && f->feature_stride == rank ? BY_FEATURE : BY_STRIDES;
}

static enum order order_of_source(const struct source *s)
{
	return s->blocks > 1 || s->repeat > 1 || s->heads ? BY_STRIDES : order_of(s->factor, s->groups, s->rank, s->features);
}

/* Each group from one order to the other. */
static void turn(void *dst, const void *src, enum order from, uint64_t groups, uint64_t rank, uint64_t features, size_t unit)
{
	size_t bytes = (size_t)(rank * features) * unit;
	for (uint64_t g = 0; g < groups; g++)
		tn_transpose((unsigned char *)dst + g * bytes, (const unsigned char *)src + g * bytes,
			     (size_t)(from == BY_RANK ? rank : features), (size_t)(from == BY_RANK ? features : rank), unit);
}

static tn_status gather(const tn_adapter *adapter, struct source *s, int by_feature, float *dst, struct tn_error *err)
{
	struct tn_buffer values;
	const struct tn_tensor *t = s->factor->tensor;
	enum order order = order_of_source(s), wanted = by_feature ? BY_FEATURE : BY_RANK;
	if (order == wanted)
		return tn_adapter_load_f32(adapter, t, dst, err);
	TN_TRY(tn_buffer_alloc(adapter->ctx, (size_t)t->elements * sizeof(float), t->name, &values, err));
	s->values = values.data;
	tn_status status = tn_adapter_load_f32(adapter, t, values.data, err);
	if (status == TN_OK && order != BY_STRIDES)
		turn(dst, values.data, order, s->groups, s->rank, s->features, sizeof *dst);
	else if (status == TN_OK && by_feature)
		gather_by_feature(dst, s);
	else if (status == TN_OK)
		gather_by_rank(dst, s);
	tn_buffer_release(adapter->ctx, &values);
	return status;
}

static tn_status explain_nonfinite(const tn_adapter *adapter, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_buffer values;
	TN_TRY(tn_buffer_alloc(adapter->ctx, (size_t)t->elements * sizeof(float), t->name, &values, err));
	tn_status status = tn_adapter_load_f32(adapter, t, values.data, err);
	tn_buffer_release(adapter->ctx, &values);
	return status;
}

int tn_adapter_factor_is_plain(const struct tn_adapter_entry *e, const struct tn_delta_shape *shape, int is_b)
{
	const struct tn_factor *f = is_b ? &e->b : &e->a;
	uint64_t features = is_b ? e->module.out_features : e->module.in_features, blocks = is_b ? e->b_blocks : e->a_blocks;
	tn_dtype dtype = f->tensor->dtype;
	return (dtype == TN_F32 || dtype == TN_F16 || dtype == TN_BF16) && blocks == 1 && shape->qalora_group == 1 &&
	       !e->diagonal && !(is_b && shape->heads) && order_of(f, e->groups, e->module.rank, features) != BY_STRIDES;
}

/* ---- as they stand ----------------------------------------------------------------------------------------- */

static const struct tn_tensor *tensor_of(const struct tn_factor_read *r)
{
	return (r->is_b ? &r->entry->b : &r->entry->a)->tensor;
}

static uint64_t features_of(const struct tn_factor_read *r)
{
	return r->is_b ? r->entry->module.out_features : r->entry->module.in_features;
}

/* Whether the file has it in the other order. */
static int is_turned(const struct tn_factor_read *r)
{
	const struct tn_adapter_entry *e = r->entry;
	return order_of(r->is_b ? &e->b : &e->a, e->groups, e->module.rank, features_of(r)) !=
	       (r->by_feature ? BY_FEATURE : BY_RANK);
}

static int compare_reads(const void *a, const void *b)
{
	const struct tn_tensor *x = tensor_of(a), *y = tensor_of(b);
	return (x->offset > y->offset) - (x->offset < y->offset);
}

uint64_t tn_adapter_place_factors(struct tn_factor_read *reads, size_t count)
{
	uint64_t at = 0;
	tn_sort(reads, count, sizeof *reads, compare_reads);
	for (size_t i = 0; i < count; i++) {
		reads[i].at = (size_t)at;
		at = (at + tensor_of(&reads[i])->bytes + 63) / 64 * 64;
	}
	return at;
}

static tn_status read_turned(const tn_adapter *adapter, const struct tn_factor_read *r, void *dst, struct tn_error *err)
{
	const struct tn_adapter_entry *e = r->entry;
	const struct tn_tensor *t = tensor_of(r);
	struct tn_buffer raw;
	TN_TRY(tn_tensor_load(adapter->file, t, &raw, err));
	turn(dst, raw.data, r->by_feature ? BY_RANK : BY_FEATURE, e->groups, e->module.rank, features_of(r),
	     tn_dtype_bits(t->dtype) / 8);
	tn_buffer_release(adapter->ctx, &raw);
	return adapter->ctx->kernels->all_finite(dst, t->dtype, (size_t)t->elements) ? TN_OK : explain_nonfinite(adapter, t, err);
}

/* How many of the reads are one: of one dtype, one behind the other in the file as in memory. */
static size_t run_length(const struct tn_factor_read *reads, size_t count)
{
	size_t n = 1;
	for (; n < count && !is_turned(&reads[n]); n++) {
		const struct tn_tensor *last = tensor_of(&reads[n - 1]), *next = tensor_of(&reads[n]);
		if (next->offset != last->offset + last->bytes || reads[n].at != reads[n - 1].at + last->bytes ||
		    next->dtype != last->dtype)
			break;
	}
	return n;
}

enum { PIECE = 1 << 18 };

/* How many bytes were read since the last pause, and how long a pause is. */
struct pace {
	size_t bytes;
	unsigned pause_us;
};

static void pause_after(struct pace *pace, size_t bytes)
{
	const struct timespec time = { pace->pause_us / 1000000, (long)(pace->pause_us % 1000000) * 1000 };
	pace->bytes += bytes;
	if (!pace->pause_us || pace->bytes < PIECE)
		return;
	pace->bytes = 0;
	nanosleep(&time, NULL);
}

/* In pieces that are still in the second cache when they are looked at. */
static tn_status read_run(const tn_adapter *adapter, const struct tn_factor_read *reads, size_t count, struct pace *pace,
			  unsigned char *dst, struct tn_error *err)
{
	const struct tn_tensor *first = tensor_of(reads), *last = tensor_of(&reads[count - 1]);
	size_t bytes = (size_t)(last->offset + last->bytes - first->offset), unit = tn_dtype_bits(first->dtype) / 8;
	int finite = 1;
	for (size_t done = 0, n; done < bytes; done += n) {
		n = bytes - done < PIECE ? bytes - done : PIECE;
		TN_TRY(tn_safetensors_read_on(adapter->file, first, done, dst + done, n, err));
		finite &= adapter->ctx->kernels->all_finite(dst + done, first->dtype, n / unit);
		pause_after(pace, n);
	}
	for (size_t i = 0; i < count && !finite; i++)
		TN_TRY(explain_nonfinite(adapter, tensor_of(&reads[i]), err));
	return TN_OK;
}

tn_status tn_adapter_read_factors(const tn_adapter *adapter, const struct tn_factor_read *reads, size_t count, unsigned pause_us,
				  void *memory, struct tn_error *err)
{
	unsigned char *dst = memory;
	struct pace pace = { 0, pause_us };
	for (size_t i = 0, n = 1; i < count; i += n) {
		n = 1;
		if (is_turned(&reads[i])) {
			TN_TRY(read_turned(adapter, &reads[i], dst + reads[i].at, err));
			pause_after(&pace, (size_t)tensor_of(&reads[i])->bytes);
			continue;
		}
		n = run_length(reads + i, count - i);
		TN_TRY(read_run(adapter, reads + i, n, &pace, dst + reads[i].at, err));
	}
	pause_after(&pace, PIECE);
	for (size_t i = 0; i < count; i++)
		*reads[i].out = dst + reads[i].at;
	return TN_OK;
}

/* ---- one delta ------------------------------------------------------------------------------------------- */

static uint64_t inputs(const struct tn_adapter_entry *e, const struct tn_delta_shape *shape)
{
	return e->module.in_features * shape->qalora_group;
}

uint64_t tn_adapter_delta_bytes(const struct tn_adapter_entry *e, const struct tn_delta_shape *shape)
{
	uint64_t n = e->groups * e->module.rank * (inputs(e, shape) + e->module.out_features);
	return (n + (e->magnitude ? e->magnitude->elements : 0)) * sizeof(float);
}

uint64_t tn_adapter_delta_extra_bytes(const struct tn_adapter_entry *e)
{
	uint64_t n = e->a.tensor->elements > e->b.tensor->elements ? e->a.tensor->elements : e->b.tensor->elements;
	return n * (sizeof(float) + sizeof(double));
}

/* KaSA: the columns of B times the diagonal. `b` is [rows, rank], or [rank, rows] when it stands on the left. */
static tn_status apply_diagonal(const tn_adapter *adapter, const struct tn_adapter_entry *e, int rank_last, float *b,
				struct tn_error *err)
{
	struct tn_buffer values;
	size_t rank = (size_t)e->module.rank, n = (size_t)e->module.out_features;
	TN_TRY(tn_buffer_alloc(adapter->ctx, rank * sizeof(float), e->module.path, &values, err));
	const float *d = values.data;
	tn_status status = tn_adapter_load_f32(adapter, e->diagonal, values.data, err);
	for (size_t i = 0; i < n * rank && status == TN_OK; i++)
		b[i] *= d[rank_last ? i % rank : i / n];
	tn_buffer_release(adapter->ctx, &values);
	return status;
}

static tn_status fill(const tn_adapter *adapter, const struct tn_adapter_entry *e, const struct tn_delta_shape *shape,
		      float *a, float *b, struct tn_error *err)
{
	float group = (float)shape->qalora_group;
	struct source in = { NULL, &e->a, e->module.rank, inputs(e, shape), e->groups, e->a_blocks, shape->qalora_group,
			     group > 1 ? (float)inputs(e, shape) / (group * group) : 1, 0, 0 };
	struct source out = { NULL, &e->b, e->module.rank, e->module.out_features, e->groups, e->b_blocks, 1, 1, 1, shape->heads };
	int swap = shape->rows_are_inputs;
	TN_TRY(gather(adapter, &in, swap, swap ? b : a, err));
	TN_TRY(gather(adapter, &out, !swap, swap ? a : b, err));
	if (e->diagonal)
		TN_TRY(apply_diagonal(adapter, e, !swap, swap ? a : b, err));
	return TN_OK;
}

tn_status tn_adapter_load_delta(const tn_adapter *adapter, const struct tn_adapter_entry *e,
				const struct tn_delta_shape *shape, struct tn_delta *delta, struct tn_buffer *memory,
				struct tn_error *err)
{
	struct tn_buffer buffer;
	uint64_t rows = shape->rows_are_inputs ? inputs(e, shape) : e->module.out_features;
	uint64_t cols = shape->rows_are_inputs ? e->module.out_features : inputs(e, shape);
	TN_TRY(tn_buffer_alloc(adapter->ctx, (size_t)tn_adapter_delta_bytes(e, shape), e->module.path, &buffer, err));
	float *a = buffer.data, *b = a + e->groups * e->module.rank * cols, *m = b + e->groups * rows * e->module.rank;
	tn_status status = fill(adapter, e, shape, a, b, err);
	if (status == TN_OK && e->magnitude)
		status = tn_adapter_load_f32(adapter, e->magnitude, m, err);
	if (status != TN_OK) {
		tn_buffer_release(adapter->ctx, &buffer);
		return status;
	}
	tn_dtype left = (shape->rows_are_inputs ? e->a : e->b).tensor->dtype;
	tn_dtype right = (shape->rows_are_inputs ? e->b : e->a).tensor->dtype;
	int by_row = e->magnitude && shape->rows_are_inputs == e->magnitude_of_inputs;
	*memory = buffer;
	*delta = (struct tn_delta){
		.a = a,
		.b = b,
		.rank = (size_t)e->module.rank,
		.cols = (size_t)cols,
		.rows = (size_t)(rows * e->groups),
		.group_rows = (size_t)rows,
		.scale = e->module.scale,
		.left = left,
		.product = left == right ? left : TN_F32,
		.coarsest = left,
		.row_magnitude = by_row ? m : NULL,
		.column_magnitude = e->magnitude && !by_row ? m : NULL,
	};
	return TN_OK;
}

tn_status tn_adapter_load_bias(const tn_adapter *adapter, const struct tn_adapter_entry *e, struct tn_delta *delta,
			       struct tn_buffer *memory, struct tn_error *err)
{
	struct tn_buffer buffer;
	size_t n = (size_t)e->bias->elements;
	TN_TRY(tn_buffer_alloc(adapter->ctx, (n + 1) * sizeof(float), e->module.path, &buffer, err));
	float *values = buffer.data;
	values[n] = 1;
	tn_status status = tn_adapter_load_f32(adapter, e->bias, values, err);
	if (status != TN_OK) {
		tn_buffer_release(adapter->ctx, &buffer);
		return status;
	}
	*memory = buffer;
	*delta = (struct tn_delta){ .a = values, .b = values + n, .rank = 1, .cols = n, .rows = 1, .group_rows = 1,
				    .scale = e->module.scale, .left = TN_F32, .product = TN_F32,
				    .coarsest = e->bias->dtype };
	return TN_OK;
}
