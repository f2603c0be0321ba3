/* SPDX-License-Identifier: Apache-2.0 */
/* A layer's products: float32 inside, the dtype of the result that mlx-lm gives. */
#include "live/layer.h"

#include "base/error.h"
#include "linear/linear.h"
#include "weights/array.h"
#include "weights/format.h"
#include "weights/nf4.h"

#include <string.h>

enum { PACKED_ROWS = 256 };   /* of a packed base, decoded at a time */

/* ---- dtypes ---------------------------------------------------------------------------------------------- */

/* MLX's promotion of floats. */
static tn_dtype promote(tn_dtype a, tn_dtype b)
{
	return a == b ? a : TN_F32;
}

/* Of x W^T + bias: the modes with byte scales take the dtype of x, where mlx-lm does not multiply with the decoded weight as its
 * DoRA does. */
static tn_dtype product_dtype(const tn_layer *l, tn_dtype x)
{
	const struct tn_linear_weight *w = &l->weight;
	int byte_scales = !l->is_packed && !w->dense.data && !w->quantized.biases.data;
	tn_dtype y = byte_scales && !l->magnitude.data ? x : promote(x, tn_layer_dtype(l));
	return w->bias.data ? promote(y, w->bias.dtype) : y;
}

/* What mlx-lm's DoRA of a table multiplies with, and never casts back. */
static tn_dtype table_dora_dtype(const tn_layer *l, tn_dtype y)
{
	if (l->kind != TN_LAYER_EMBEDDING || !l->magnitude.data)
		return y;
	tn_dtype adapted = promote(tn_layer_dtype(l), promote(l->a.dtype, l->b.dtype));
	return promote(y, promote(l->magnitude.dtype, adapted));
}

/* ---- calls ----------------------------------------------------------------------------------------------- */

/* Whether A and B act beside the weight that computes. */
static int acts(const tn_layer *l)
{
	return l->enabled && !l->merged;
}

static struct tn_array part_of(const struct tn_array *stack, uint64_t expert, uint64_t rows, uint64_t cols)
{
	uint64_t shape[2] = { rows, cols };
	size_t unit = tn_dtype_bits(stack->dtype) / 8;
	return tn_array_view(stack->dtype, 2, shape, (const char *)stack->data + expert * rows * cols * unit);
}

/* Fills in everything but x, y and m. */
static struct tn_linear_call begin_call(const tn_layer *l, uint64_t expert, struct tn_lora *lora)
{
	struct tn_linear_call call = { .expert = expert };
	if (!acts(l))
		return call;
	*lora = (struct tn_lora){ part_of(&l->a, expert, l->rank, l->in), part_of(&l->b, expert, l->out, l->rank), l->scale };
	call.loras = lora;
	call.lora_count = 1;
	call.row_scale = l->row_scale.data;
	return call;
}

static tn_status run(const tn_layer *l, const tn_linear *linear, const struct tn_linear_call *call, const uint32_t *ids,
		     struct tn_error *err)
{
	struct tn_buffer scratch;
	TN_TRY(tn_buffer_alloc(l->ctx, tn_linear_scratch_bytes(linear, call), "scratch of a layer", &scratch, err));
	tn_status status = ids ? tn_linear_embed(linear, call, ids, scratch.data, err)
			       : tn_linear_forward(linear, call, scratch.data, err);
	tn_buffer_release(l->ctx, &scratch);
	return status;
}

/* x [..., in] becomes [..., out]. */
static tn_status make_result(const tn_layer *l, const struct tn_array *like, uint64_t last, int append, tn_dtype dtype,
			     struct tn_array *y, struct tn_error *err)
{
	uint64_t shape[TN_ARRAY_RANK];
	uint32_t rank = like->rank + (append != 0);
	memcpy(shape, like->shape, sizeof shape);
	if (rank > TN_ARRAY_RANK)
		return tn_fail(err, TN_E_LIMIT, "x", "the array has too many dimensions (%u)", like->rank);
	shape[rank - 1] = last;
	return tn_array_make(l->ctx, dtype, rank, shape, "result of a layer", y, err);
}

static tn_status check_input(const tn_layer *l, const struct tn_array *x, struct tn_error *err)
{
	if (!tn_is_weight_dtype(x->dtype))
		return tn_fail(err, TN_E_ARG, "x", "x has the dtype %s; F32, F16 or BF16 was expected", tn_dtype_name(x->dtype));
	if (x->rank == 0 || x->shape[x->rank - 1] != l->in)
		return tn_fail(err, TN_E_ARG, "x", "LoraLinear forward input: expected %llu, got %llu", (unsigned long long)l->in,
			       (unsigned long long)(x->rank ? x->shape[x->rank - 1] : 0));
	return TN_OK;
}

/* ---- packed bases ---------------------------------------------------------------------------------------- */

/* Some rows of W as a linear of their own, and the rows of B beside them. */
static tn_status forward_rows(const tn_layer *l, struct tn_linear_call call, uint64_t first, uint64_t rows, float *memory,
			      struct tn_error *err)
{
	uint64_t shape[2] = { rows, l->in };
	struct tn_linear_weight weight = { .dense = tn_array_view(TN_F32, 2, shape, memory) };
	size_t unit = tn_dtype_bits(call.y_dtype) / 8, b_unit = tn_dtype_bits(l->b.dtype) / 8;
	struct tn_lora lora;
	tn_linear *linear;
	tn_nf4_decode_some(&l->nf4, first * l->in, rows * l->in, memory);
	if (call.lora_count) {
		uint64_t b_shape[2] = { rows, l->rank };
		lora = call.loras[0];
		lora.b = tn_array_view(l->b.dtype, 2, b_shape, (const char *)l->b.data + first * l->rank * b_unit);
		call.loras = &lora;
	}
	call.y = (char *)call.y + first * unit;
	TN_TRY(tn_linear_create(l->ctx, &weight, &linear, err));
	tn_status status = run(l, linear, &call, NULL, err);
	tn_linear_destroy(linear);
	return status;
}

static tn_status forward_packed(const tn_layer *l, const struct tn_linear_call *call, struct tn_error *err)
{
	struct tn_buffer memory;
	uint64_t most = l->out < PACKED_ROWS ? l->out : PACKED_ROWS;
	TN_TRY(tn_buffer_alloc(l->ctx, (size_t)(most * l->in) * sizeof(float), "rows of a packed weight", &memory, err));
	tn_status status = TN_OK;
	for (uint64_t first = 0; first < l->out && status == TN_OK; first += most) {
		uint64_t rows = l->out - first < most ? l->out - first : most;
		status = forward_rows(l, *call, first, rows, memory.data, err);
	}
	tn_buffer_release(l->ctx, &memory);
	return status;
}

/* ---- the calls of the header ----------------------------------------------------------------------------- */

tn_status tn_layer_forward(const tn_layer *l, const struct tn_array *x, struct tn_array *y, struct tn_error *err)
{
	struct tn_array made;
	struct tn_lora lora;
	if (l->kind == TN_LAYER_EXPERTS)
		return tn_fail(err, TN_E_ARG, "x", "the layer is a stack of experts; tn_layer_forward_experts says which of them");
	TN_TRY(check_input(l, x, err));
	TN_TRY(make_result(l, x, l->out, 0, table_dora_dtype(l, product_dtype(l, x->dtype)), &made, err));
	struct tn_linear_call call = begin_call(l, 0, &lora);
	call.m = (size_t)(tn_array_elements(x) / l->in);
	call.x_dtype = x->dtype;
	call.y_dtype = made.dtype;
	call.x = x->data;
	call.x_stride = (size_t)l->in;
	call.y = made.data;
	call.y_stride = (size_t)l->out;
	tn_status status = l->is_packed && !l->merged ? forward_packed(l, &call, err)
						      : run(l, l->merged ? l->merged_linear : l->base, &call, NULL, err);
	if (status != TN_OK)
		tn_array_release(l->ctx, &made);
	else
		*y = made;
	return status;
}

static tn_status read_ids(const tn_layer *l, const struct tn_array *ids, struct tn_buffer *out, struct tn_error *err)
{
	uint64_t n = tn_array_elements(ids);
	size_t unit = tn_dtype_bits(ids->dtype) / 8;
	int is_signed = ids->dtype == TN_I8 || ids->dtype == TN_I16 || ids->dtype == TN_I32 || ids->dtype == TN_I64;
	if (!is_signed && ids->dtype != TN_U8 && ids->dtype != TN_U16 && ids->dtype != TN_U32 && ids->dtype != TN_U64)
		return tn_fail(err, TN_E_ARG, "ids", "ids have the dtype %s; whole numbers were expected",
			       tn_dtype_name(ids->dtype));
	TN_TRY(tn_buffer_alloc(l->ctx, (size_t)n * sizeof(uint32_t), "ids", out, err));
	uint32_t *dst = out->data;
	for (uint64_t i = 0; i < n; i++) {
		uint64_t id = 0;
		memcpy(&id, (const char *)ids->data + i * unit, unit);   /* little endian, as every file here */
		int negative = is_signed && (id >> (8 * unit - 1) & 1);
		if (negative || id >= l->out) {
			uint64_t below = (0 - id) << (64 - 8 * unit) >> (64 - 8 * unit);
			tn_buffer_release(l->ctx, out);
			return tn_fail(err, TN_E_ARG, "ids", "id %llu is %s%llu; the table has %llu rows",
				       (unsigned long long)i, negative ? "-" : "", (unsigned long long)(negative ? below : id),
				       (unsigned long long)l->out);
		}
		dst[i] = (uint32_t)id;
	}
	return TN_OK;
}

tn_status tn_layer_lookup(const tn_layer *l, const struct tn_array *ids, struct tn_array *y, struct tn_error *err)
{
	struct tn_array made;
	struct tn_buffer rows;
	struct tn_lora lora;
	if (l->kind != TN_LAYER_EMBEDDING)
		return tn_fail(err, TN_E_ARG, "ids", "the layer is no embedding");
	TN_TRY(read_ids(l, ids, &rows, err));
	tn_status status = make_result(l, ids, l->in, 1, table_dora_dtype(l, tn_layer_dtype(l)), &made, err);
	if (status == TN_OK) {
		struct tn_linear_call call = begin_call(l, 0, &lora);
		call.m = (size_t)tn_array_elements(ids);
		call.x_dtype = TN_F32;
		call.y_dtype = made.dtype;
		call.y = made.data;
		call.y_stride = (size_t)l->in;
		status = run(l, l->merged ? l->merged_linear : l->base, &call, rows.data, err);
		if (status != TN_OK)
			tn_array_release(l->ctx, &made);
		else
			*y = made;
	}
	tn_buffer_release(l->ctx, &rows);
	return status;
}

static tn_status forward_run(const tn_layer *l, const struct tn_array *x, uint64_t expert, size_t first, size_t m,
			     struct tn_array *y, struct tn_error *err)
{
	struct tn_lora lora;
	struct tn_linear_call call = begin_call(l, expert, &lora);
	size_t x_unit = tn_dtype_bits(x->dtype) / 8, y_unit = tn_dtype_bits(y->dtype) / 8;
	call.m = m;
	call.x_dtype = x->dtype;
	call.y_dtype = y->dtype;
	call.x = (const char *)x->data + first * (size_t)l->in * x_unit;
	call.x_stride = (size_t)l->in;
	call.y = (char *)y->data + first * (size_t)l->out * y_unit;
	call.y_stride = (size_t)l->out;
	return run(l, l->merged ? l->merged_linear : l->base, &call, NULL, err);
}

/* Rows that follow each other with the same expert are one product. */
tn_status tn_layer_forward_experts(const tn_layer *l, const struct tn_array *x, const uint32_t *experts, struct tn_array *y,
				   struct tn_error *err)
{
	struct tn_array made;
	if (l->kind != TN_LAYER_EXPERTS || x->rank != 2)
		return tn_fail(err, TN_E_ARG, "x", l->kind != TN_LAYER_EXPERTS ? "the layer is no stack of experts"
									    : "x must be [m, in]");
	TN_TRY(check_input(l, x, err));
	for (uint64_t i = 0; i < x->shape[0]; i++)
		if (experts[i] >= l->experts)
			return tn_fail(err, TN_E_ARG, "experts", "row %llu names expert %u of %llu", (unsigned long long)i,
				       experts[i], (unsigned long long)l->experts);
	TN_TRY(make_result(l, x, l->out, 0, product_dtype(l, x->dtype), &made, err));
	tn_status status = TN_OK;
	for (size_t i = 0, end; i < x->shape[0] && status == TN_OK; i = end) {
		for (end = i + 1; end < x->shape[0] && experts[end] == experts[i];)
			end++;
		status = forward_run(l, x, experts[i], i, end - i, &made, err);
	}
	if (status != TN_OK)
		tn_array_release(l->ctx, &made);
	else
		*y = made;
	return status;
}
