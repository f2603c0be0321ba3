/* SPDX-License-Identifier: Apache-2.0 */
#include "live/layer.h"

#include "base/checked.h"
#include "base/error.h"
#include "weights/array.h"
#include "weights/format.h"
#include "weights/nf4.h"

#include <math.h>
#include <string.h>

/* ---- the weight ------------------------------------------------------------------------------------------ */

static tn_status check_kind(const tn_layer *l, struct tn_error *err)
{
	const struct tn_array *w = l->weight.dense.data ? &l->weight.dense : &l->weight.quantized.weight;
	uint32_t wanted = l->kind == TN_LAYER_EXPERTS ? 3 : 2;
	if (w->rank != wanted)
		return tn_fail(err, TN_E_ARG, "weight", "the weight has %u dimensions; %s was expected", w->rank,
			       wanted == 3 ? "[experts, out, in]" : l->kind == TN_LAYER_EMBEDDING ? "[vocabulary, width]"
												  : "[out, in]");
	return tn_array_elements(w) ? TN_OK : tn_fail(err, TN_E_ARG, "weight", "Weight matrix dimensions must be > 0");
}

static tn_status begin(tn_context *ctx, const struct tn_linear_weight *weight, tn_layer_kind kind, tn_layer **out,
		       struct tn_error *err)
{
	tn_layer *l;
	TN_TRY(tn_alloc(ctx, sizeof *l, "layer", &l, err));
	*l = (tn_layer){ .ctx = ctx, .kind = kind, .weight = *weight, .enabled = 1 };
	tn_status status = check_kind(l, err);
	if (status == TN_OK)
		status = tn_linear_create(ctx, weight, &l->base, err);
	if (status != TN_OK) {
		tn_layer_destroy(l);
		return status;
	}
	l->experts = tn_linear_experts(l->base);
	l->out = tn_linear_out_features(l->base);
	l->in = tn_linear_in_features(l->base);
	*out = l;
	return TN_OK;
}

void tn_linear_weight_release(tn_context *ctx, struct tn_linear_weight *w)
{
	if (!w)
		return;
	tn_array_release(ctx, &w->dense);
	tn_quantized_release(ctx, &w->quantized);
	tn_array_release(ctx, &w->bias);
}

void tn_layer_destroy(tn_layer *l)
{
	if (!l)
		return;
	tn_linear_destroy(l->merged_linear);
	tn_linear_weight_release(l->ctx, &l->merged_weight);
	tn_linear_destroy(l->base);
	tn_nf4_release(l->ctx, &l->nf4);
	tn_array_release(l->ctx, &l->a);
	tn_array_release(l->ctx, &l->b);
	tn_array_release(l->ctx, &l->magnitude);
	tn_buffer_release(l->ctx, &l->row_scale);
	tn_free(l->ctx, l, sizeof *l);
}

/* ---- factors --------------------------------------------------------------------------------------------- */

/* Shapes as the layer keeps them. */
static uint32_t shape_of(const tn_layer *l, uint64_t rows, uint64_t cols, uint64_t shape[3])
{
	uint32_t n = 0;
	if (l->kind == TN_LAYER_EXPERTS)
		shape[n++] = l->experts;
	shape[n++] = rows;
	shape[n++] = cols;
	return n;
}

/* What DoRA multiplies the rows with, for a magnitude and factors that are not yet the layer's. */
static tn_status measure(const tn_layer *l, const struct tn_array *a, const struct tn_array *b, const struct tn_array *magnitude,
			 struct tn_buffer *row_scale, struct tn_error *err)
{
	struct tn_buffer made, floats = { 0 };
	struct tn_lora lora = { *a, *b, l->scale };
	*row_scale = (struct tn_buffer){ 0 };
	if (!magnitude->data)
		return TN_OK;
	TN_TRY(tn_buffer_alloc(l->ctx, (size_t)l->out * sizeof(float), "norms", &made, err));
	tn_status status = tn_buffer_alloc(l->ctx, (size_t)l->out * sizeof(float), "magnitude", &floats, err);
	if (status == TN_OK)
		status = tn_array_floats(magnitude, 0, (size_t)l->out, floats.data, err);
	if (status == TN_OK)
		status = tn_linear_dora_scale(l->base, 0, &lora, 1, floats.data, made.data, err);
	tn_buffer_release(l->ctx, &floats);
	if (status != TN_OK)
		tn_buffer_release(l->ctx, &made);
	else
		*row_scale = made;
	return status;
}

static tn_status copy_array(tn_context *ctx, const struct tn_array *src, const char *what, struct tn_array *out,
			    struct tn_error *err)
{
	TN_TRY(tn_array_make(ctx, src->dtype, src->rank, src->shape, what, out, err));
	if (out->bytes)
		memcpy(out->data, src->data, out->bytes);
	return TN_OK;
}

/* Puts a copy of `value` in the place of one of a, b and magnitude, with the norms that follow from it. */
static tn_status replace(tn_layer *l, struct tn_array *place, const struct tn_array *value, const char *what,
			 struct tn_error *err)
{
	struct tn_array copy;
	struct tn_buffer row_scale;
	TN_TRY(copy_array(l->ctx, value, what, &copy, err));
	tn_status status = measure(l, place == &l->a ? &copy : &l->a, place == &l->b ? &copy : &l->b,
				   place == &l->magnitude ? &copy : &l->magnitude, &row_scale, err);
	if (status != TN_OK) {
		tn_array_release(l->ctx, &copy);
		return status;
	}
	tn_array_release(l->ctx, place);
	tn_buffer_release(l->ctx, &l->row_scale);
	*place = copy;
	l->row_scale = row_scale;
	return TN_OK;
}

static tn_status fail_size(const char *what, uint64_t expected, uint64_t found, struct tn_error *err)
{
	return tn_fail(err, TN_E_ARG, what, "%s: expected %llu, got %llu", what, (unsigned long long)expected,
		       (unsigned long long)found);
}

/* Dimensions and dtype of a factor [experts,] [rows, cols]; `what` is "set_lora_a", the names those of the sizes. */
static tn_status check_factor(const tn_layer *l, const struct tn_array *value, const char *const names[3], uint64_t rows,
			      uint64_t cols, struct tn_error *err)
{
	uint32_t skip = l->kind == TN_LAYER_EXPERTS;
	if (!value->data)
		return tn_fail(err, TN_E_ARG, names[0], "%s: there are no values, data is NULL", names[0]);
	if (!tn_is_weight_dtype(value->dtype))
		return tn_fail(err, TN_E_ARG, names[0], "%s: the dtype is %s; F32, F16 or BF16 was expected", names[0],
			       tn_dtype_name(value->dtype));
	if (value->rank != 2 + skip)
		return tn_fail(err, TN_E_ARG, names[0], "%s: must be %u-D, got rank %u", names[0], 2 + skip, value->rank);
	if (skip && value->shape[0] != l->experts)
		return fail_size("experts", l->experts, value->shape[0], err);
	if (value->shape[skip] != rows)
		return fail_size(names[1], rows, value->shape[skip], err);
	if (value->shape[skip + 1] != cols)
		return fail_size(names[2], cols, value->shape[skip + 1], err);
	return TN_OK;
}

tn_status tn_layer_set_lora_a(tn_layer *l, const struct tn_array *a, struct tn_error *err)
{
	static const char *const names[] = { "set_lora_a", "set_lora_a rank", "set_lora_a in_features" };
	TN_TRY(check_factor(l, a, names, l->rank, l->in, err));
	return replace(l, &l->a, a, names[0], err);
}

tn_status tn_layer_set_lora_b(tn_layer *l, const struct tn_array *b, struct tn_error *err)
{
	static const char *const names[] = { "set_lora_b", "set_lora_b out_features", "set_lora_b rank" };
	TN_TRY(check_factor(l, b, names, l->out, l->rank, err));
	return replace(l, &l->b, b, names[0], err);
}

static tn_status check_magnitude(const tn_layer *l, const struct tn_array *m, struct tn_error *err)
{
	if (l->kind == TN_LAYER_EXPERTS || l->is_packed)
		return tn_fail(err, TN_E_UNSUPPORTED, "magnitude", "there is no DoRA for %s", l->is_packed ? "packed weights"
											     : "stacks of experts");
	if (!m->data)
		return tn_fail(err, TN_E_ARG, "magnitude", "magnitude: there are no values, data is NULL");
	if (!tn_is_weight_dtype(m->dtype) || m->rank != 1)
		return tn_fail(err, TN_E_ARG, "magnitude", "magnitude: must be 1-D of F32, F16 or BF16, got rank %u of %s", m->rank,
			       tn_dtype_name(m->dtype));
	return m->shape[0] == l->out ? TN_OK : fail_size("magnitude", l->out, m->shape[0], err);
}

tn_status tn_layer_set_magnitude(tn_layer *l, const struct tn_array *magnitude, struct tn_error *err)
{
	TN_TRY(check_magnitude(l, magnitude, err));
	return replace(l, &l->magnitude, magnitude, "magnitude", err);
}

/* ---- making: factors that are there ---------------------------------------------------------------------- */

/* [rows, cols] -> [cols, rows]. */
static tn_status transpose(tn_context *ctx, const struct tn_array *src, const char *what, struct tn_array *out,
			   struct tn_error *err)
{
	uint64_t rows = src->shape[0], cols = src->shape[1], shape[2] = { cols, rows };
	size_t unit = tn_dtype_bits(src->dtype) / 8;
	TN_TRY(tn_array_make(ctx, src->dtype, 2, shape, what, out, err));
	for (uint64_t i = 0; i < rows; i++)
		for (uint64_t j = 0; j < cols; j++)
			memcpy((char *)out->data + (j * rows + i) * unit, (const char *)src->data + (i * cols + j) * unit, unit);
	return TN_OK;
}

/* The two factors in the order of the layer; `a` and `b` are owned. */
static tn_status order_factors(tn_layer *l, const struct tn_layer_factors *f, struct tn_array *a, struct tn_array *b,
			       struct tn_error *err)
{
	uint32_t wanted = l->kind == TN_LAYER_EXPERTS ? 3 : 2;
	if (!f->lora_a.data || !f->lora_b.data)
		return tn_fail(err, TN_E_ARG, "factors", "%s: there are no values, data is NULL",
			       f->lora_a.data ? "lora_b" : "lora_a");
	if (f->lora_a.rank != wanted || f->lora_b.rank != wanted)
		return tn_fail(err, TN_E_ARG, f->lora_a.rank != wanted ? "lora_a" : "lora_b", "%s must be %u-D, got rank %u",
			       f->lora_a.rank != wanted ? "lora_a" : "lora_b", wanted,
			       f->lora_a.rank != wanted ? f->lora_a.rank : f->lora_b.rank);
	/* of mlx-lm's embedding lora_a belongs to the rows of the table, so it is our B, as it stands */
	int table = l->kind == TN_LAYER_EMBEDDING && f->inputs_first, turned = f->inputs_first && wanted == 2;
	const struct tn_array *first = table ? &f->lora_b : &f->lora_a, *second = table ? &f->lora_a : &f->lora_b;
	if (!turned || table) {
		TN_TRY(copy_array(l->ctx, first, "lora_a", a, err));
		return copy_array(l->ctx, second, "lora_b", b, err);
	}
	TN_TRY(transpose(l->ctx, first, "lora_a", a, err));
	return transpose(l->ctx, second, "lora_b", b, err);
}

/* Sizes are called as the caller gave them: of mlx-lm's embedding lora_a is our B. */
static tn_status check_factors(const tn_layer *l, int is_mlx_table, struct tn_error *err)
{
	static const char *const names_a[] = { "lora_a", "lora_a rank", "lora_a in_features" };
	static const char *const names_b[] = { "lora_b", "lora_b out_features", "lora_b rank" };
	static const char *const table_a[] = { "lora_b", "lora_b rank", "lora_b width" };
	static const char *const table_b[] = { "lora_a", "lora_a vocabulary", "lora_a rank" };
	TN_TRY(check_factor(l, &l->a, is_mlx_table ? table_a : names_a, l->rank, l->in, err));
	return check_factor(l, &l->b, is_mlx_table ? table_b : names_b, l->out, l->rank, err);
}

static tn_status take_factors(tn_layer *l, const struct tn_layer_factors *f, struct tn_error *err)
{
	l->scale = f->scale;
	TN_TRY(order_factors(l, f, &l->a, &l->b, err));
	l->rank = l->a.shape[l->a.rank - 2];
	if (l->rank == 0)
		return tn_fail(err, TN_E_ARG, "rank", "LoRA rank must be > 0");
	TN_TRY(check_factors(l, l->kind == TN_LAYER_EMBEDDING && f->inputs_first, err));
	if (!f->magnitude.data)
		return TN_OK;
	return tn_layer_set_magnitude(l, &f->magnitude, err);
}

tn_status tn_layer_create_with(tn_context *ctx, const struct tn_linear_weight *weight, tn_layer_kind kind,
			       const struct tn_layer_factors *factors, tn_layer **out, struct tn_error *err)
{
	tn_layer *l;
	TN_TRY(begin(ctx, weight, kind, &l, err));
	tn_status status = take_factors(l, factors, err);
	if (status != TN_OK) {
		tn_layer_destroy(l);
		return status;
	}
	*out = l;
	return TN_OK;
}

/* ---- making: new ones ------------------------------------------------------------------------------------ */

/* kizzasi's checks in its words; of QLoraLinear some are others. */
static tn_status check_settings(const struct tn_layer_options *o, const char *who, struct tn_error *err)
{
	if (o->rank == 0)
		return tn_fail(err, TN_E_ARG, "rank", "%s rank must be > 0", who);
	if (!(o->alpha > 0) || !isfinite(o->alpha))
		return tn_fail(err, TN_E_ARG, "alpha", "%s alpha must be > 0.0", who);
	return TN_OK;
}

static tn_status check_fit(const tn_layer *l, const struct tn_layer_options *o, struct tn_error *err)
{
	uint64_t least = tn_min_u64(l->out, l->in);
	if (o->rank > least)
		return tn_fail(err, TN_E_ARG, "rank", "%sLoRA rank (%llu) must not exceed min(%s) = %llu", l->is_packed ? "Q" : "",
			       (unsigned long long)o->rank, l->is_packed ? "out, in" : "out_features, in_features",
			       (unsigned long long)least);
	if (o->dora && (l->kind == TN_LAYER_EXPERTS || l->is_packed))
		return tn_fail(err, TN_E_UNSUPPORTED, "dora", "there is no DoRA for %s", l->is_packed ? "packed weights"
											     : "stacks of experts");
	return TN_OK;
}

/* A stack's experts have a stream each, of seeds that follow each other. */
static tn_status fill_a(tn_layer *l, const struct tn_layer_options *o, struct tn_error *err)
{
	enum { SEED_OF_LORA_LINEAR = 42, SEED_OF_QLORA_LINEAR = 137 };
	uint64_t one = l->rank * l->in, seed = o->seed ? o->seed : l->is_packed ? SEED_OF_QLORA_LINEAR : SEED_OF_LORA_LINEAR;
	float *a = l->a.data;
	if (o->init != TN_INIT_DEFAULT && o->init != TN_INIT_XORSHIFT)
		return tn_fail(err, TN_E_UNSUPPORTED, "init", "a layer has no path that its numbers could be drawn from; use "
			       "xorshift, or set the factors");
	for (uint64_t e = 0; e < (l->experts ? l->experts : 1); e++)
		tn_init_xorshift(a + e * one, l->rank, l->in, l->out, seed + e);
	return TN_OK;
}

static tn_status fill_magnitude(tn_layer *l, struct tn_error *err)
{
	struct tn_buffer row;
	float *m;
	TN_TRY(tn_array_make(l->ctx, TN_F32, 1, &l->out, "magnitude", &l->magnitude, err));
	TN_TRY(tn_buffer_alloc(l->ctx, (size_t)l->in * sizeof(float), "row", &row, err));
	m = l->magnitude.data;
	for (uint64_t i = 0; i < l->out; i++) {
		const float *w = row.data;
		double sum = 0;
		tn_layer_base_rows(l, i, 1, row.data);
		for (uint64_t c = 0; c < l->in; c++)
			sum += (double)w[c] * (double)w[c];
		m[i] = (float)sqrt(sum);
	}
	tn_buffer_release(l->ctx, &row);
	return measure(l, &l->a, &l->b, &l->magnitude, &l->row_scale, err);
}

static tn_status make_factors(tn_layer *l, const struct tn_layer_options *o, struct tn_error *err)
{
	uint64_t shape[3];
	l->rank = o->rank;
	l->scale = o->alpha / (double)o->rank;
	uint32_t n = shape_of(l, l->rank, l->in, shape);
	TN_TRY(tn_array_make(l->ctx, TN_F32, n, shape, "lora_a", &l->a, err));
	shape_of(l, l->out, l->rank, shape);
	TN_TRY(tn_array_make(l->ctx, TN_F32, n, shape, "lora_b", &l->b, err));
	memset(l->b.data, 0, l->b.bytes);
	TN_TRY(fill_a(l, o, err));
	return o->dora ? fill_magnitude(l, err) : TN_OK;
}

tn_status tn_layer_create(tn_context *ctx, const struct tn_linear_weight *weight, const struct tn_layer_options *options,
			  tn_layer **out, struct tn_error *err)
{
	static const struct tn_layer_options defaults = TN_LAYER_OPTIONS_INIT;
	const struct tn_layer_options *o = options ? options : &defaults;
	tn_layer *l;
	TN_TRY(check_settings(o, "LoRA", err));
	TN_TRY(begin(ctx, weight, o->kind, &l, err));
	tn_status status = check_fit(l, o, err);
	if (status == TN_OK)
		status = make_factors(l, o, err);
	if (status != TN_OK) {
		tn_layer_destroy(l);
		return status;
	}
	*out = l;
	return TN_OK;
}

static tn_status pack(tn_layer *l, const struct tn_array *w, uint64_t group_size, const struct tn_layer_options *o,
		      struct tn_error *err)
{
	l->out = w->shape[0];
	l->in = w->shape[1];
	TN_TRY(check_settings(o, "QLoRA", err));
	if (group_size == 0)
		return tn_fail(err, TN_E_ARG, "group_size", "QLoRA group_size must be > 0");
	if (l->out == 0 || l->in == 0)
		return tn_fail(err, TN_E_ARG, "weight", "Weight matrix dimensions must be > 0");
	TN_TRY(check_fit(l, o, err));
	TN_TRY(tn_nf4_encode(l->ctx, w->data, l->out * l->in, group_size, &l->nf4, err));
	return make_factors(l, o, err);
}

tn_status tn_layer_create_nf4(tn_context *ctx, const struct tn_array *weight, uint64_t group_size,
			      const struct tn_layer_options *options, tn_layer **out, struct tn_error *err)
{
	static const struct tn_layer_options defaults = TN_LAYER_OPTIONS_INIT;
	const struct tn_layer_options *o = options ? options : &defaults;
	tn_layer *l;
	if (weight->rank != 2 || weight->dtype != TN_F32 || o->kind != TN_LAYER_LINEAR)
		return tn_fail(err, TN_E_ARG, "weight", "the weight is %u-D of %s; a linear layer's [out, in] of F32 was expected",
			       weight->rank, tn_dtype_name(weight->dtype));
	TN_TRY(tn_alloc(ctx, sizeof *l, "layer", &l, err));
	*l = (tn_layer){ .ctx = ctx, .kind = TN_LAYER_LINEAR, .is_packed = 1, .enabled = 1 };
	tn_status status = pack(l, weight, group_size, o, err);
	if (status != TN_OK) {
		tn_layer_destroy(l);
		return status;
	}
	*out = l;
	return TN_OK;
}

/* ---- what it is ------------------------------------------------------------------------------------------ */

const struct tn_array *tn_layer_lora_a(const tn_layer *l)
{
	return &l->a;
}

const struct tn_array *tn_layer_lora_b(const tn_layer *l)
{
	return &l->b;
}

const struct tn_array *tn_layer_magnitude(const tn_layer *l)
{
	return l->magnitude.data ? &l->magnitude : NULL;
}

const struct tn_linear_weight *tn_layer_base(const tn_layer *l)
{
	return &l->weight;
}

void tn_layer_enable(tn_layer *l, int enabled)
{
	l->enabled = enabled != 0;
}

int tn_layer_is_enabled(const tn_layer *l)
{
	return l->enabled;
}

int tn_layer_is_merged(const tn_layer *l)
{
	return l->merged;
}

tn_layer_kind tn_layer_kind_of(const tn_layer *l)
{
	return l->kind;
}

uint64_t tn_layer_out_features(const tn_layer *l)
{
	return l->out;
}

uint64_t tn_layer_in_features(const tn_layer *l)
{
	return l->in;
}

uint64_t tn_layer_rank(const tn_layer *l)
{
	return l->rank;
}

double tn_layer_alpha(const tn_layer *l)
{
	return l->scale * (double)l->rank;
}

double tn_layer_scaling(const tn_layer *l)
{
	return l->scale;
}

static uint64_t weight_elements(const tn_layer *l)
{
	return l->out * l->in * (l->experts ? l->experts : 1);
}

uint64_t tn_layer_trainable_params(const tn_layer *l)
{
	return tn_array_elements(&l->a) + tn_array_elements(&l->b) + (l->magnitude.data ? l->out : 0);
}

uint64_t tn_layer_total_params(const tn_layer *l)
{
	return weight_elements(l) + tn_layer_trainable_params(l);
}

double tn_layer_compression_ratio(const tn_layer *l)
{
	return (double)tn_layer_trainable_params(l) / (double)tn_layer_total_params(l);
}

uint64_t tn_layer_memory_saved_bytes(const tn_layer *l)
{
	const struct tn_linear_weight *w = &l->weight;
	uint64_t dense = weight_elements(l) * sizeof(float);
	if (l->is_packed)
		return tn_nf4_saved_bytes(&l->nf4);
	uint64_t stored = w->dense.data ? w->dense.bytes : w->quantized.weight.bytes + w->quantized.scales.bytes +
			  (w->quantized.biases.data ? w->quantized.biases.bytes : 0) +
			  (w->quantized.global_scale.data ? w->quantized.global_scale.bytes : 0);
	return dense > stored ? dense - stored : 0;
}

const struct tn_nf4 *tn_layer_nf4(const tn_layer *l)
{
	return l->is_packed ? &l->nf4 : NULL;
}
