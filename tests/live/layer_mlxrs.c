/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of a program's own: the tests of mlxrs (lm/lora/tests.rs) that compute, by their names, with their numbers. */
#include "layerlib.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The seed's fixture: W = [[1, 0, 0], [0, 1, 0]], A = [[1, 0], [0, 1], [0, 0]] and B = I in mlx-lm's order, scale 2. */
static const double fixture_w[] = { 1, 0, 0, 0, 1, 0 }, fixture_a[] = { 1, 0, 0, 1, 0, 0 }, eye_2[] = { 1, 0, 0, 1 };
static const double eye_3[] = { 1, 0, 0, 0, 1, 0, 0, 0, 1 }, one_two_three[] = { 1, 2, 3 };

static struct tn_layer_factors fixture_factors(struct lay *t, tn_dtype dtype, double scale)
{
	return (struct tn_layer_factors){ .lora_a = ly_filled(t, dtype, 3, 2, fixture_a), .lora_b = ly_filled(t, dtype, 2, 2, eye_2),
					  .scale = scale, .inputs_first = 1 };
}

static tn_layer *fixture(struct lay *t, tn_dtype dtype, double scale, const double *magnitude, const double *bias)
{
	struct tn_linear_weight w = { .dense = ly_filled(t, dtype, 2, 3, fixture_w) };
	struct tn_layer_factors f = fixture_factors(t, dtype, scale);
	tn_layer *l;
	if (magnitude)
		f.magnitude = ly_filled(t, dtype, 2, 0, magnitude);
	if (bias)
		w.bias = ly_filled(t, dtype, 2, 0, bias);
	OK(tn_layer_create_with(t->ctx, &w, TN_LAYER_LINEAR, &f, &l, &t->err));
	return l;
}

static void expect_forward(struct lay *t, tn_layer *l, tn_dtype dtype, double y0, double y1)
{
	struct tn_array x = ly_filled(t, dtype, 3, 0, one_two_three), y;
	OK(tn_layer_forward(l, &x, &y, &t->err));
	assert_int_equal(y.dtype, dtype);
	ly_expect_values(t, &y, (double[]){ y0, y1 }, 0);
}

static void lora_linear_forward_hand_traced(void **state)
{
	struct lay *t = *state;
	tn_layer *l = fixture(t, TN_F32, 2, NULL, NULL);
	expect_forward(t, l, TN_F32, 3, 6);
	tn_layer_destroy(l);
}

static void lora_linear_forward_with_bias(void **state)
{
	struct lay *t = *state;
	static const double bias[] = { 10, 20 };
	tn_layer *l = fixture(t, TN_F32, 2, NULL, bias);
	expect_forward(t, l, TN_F32, 13, 26);
	tn_layer_destroy(l);
}

static void lora_linear_zero_b_is_identity(void **state)
{
	struct lay *t = *state;
	tn_layer *l = fixture(t, TN_F32, 20, NULL, NULL);
	struct tn_array zero = ly_make(t, TN_F32, 2, 2, 0);
	OK(tn_layer_set_lora_b(l, &zero, &t->err));
	expect_forward(t, l, TN_F32, 1, 2);
	tn_layer_destroy(l);
}

/* dora_linear_forward_matches_python_reference, lora_layer_forward_dispatches_per_variant: there is one forward for all kinds */
static void dora_linear_forward_hand_traced(void **state)
{
	struct lay *t = *state;
	static const double m[] = { 3, 3 };
	tn_layer *l = fixture(t, TN_F32, 2, m, NULL);
	expect_forward(t, l, TN_F32, 3, 6);
	assert_int_equal(tn_layer_magnitude(l)->shape[0], 2);
	tn_layer_destroy(l);
}

static void dora_linear_forward_renorm_halves(void **state)
{
	struct lay *t = *state;
	static const double m[] = { 1.5, 1.5 }, bias[] = { 10, 20 };
	tn_layer *l = fixture(t, TN_F32, 2, m, NULL);
	expect_forward(t, l, TN_F32, 1.5, 3);
	tn_layer_destroy(l);
	l = fixture(t, TN_F32, 2, m, bias);   /* the bias is not scaled */
	expect_forward(t, l, TN_F32, 11.5, 23);
	tn_layer_destroy(l);
}

static void dora_linear_forward_uniform_f16_adapter_returns_f16(void **state)
{
	struct lay *t = *state;
	static const double m[] = { 3, 3 };
	for (int i = 0; i < 2; i++) {
		tn_layer *l = fixture(t, i ? TN_BF16 : TN_F16, 2, m, NULL);
		expect_forward(t, l, i ? TN_BF16 : TN_F16, 3, 6);
		tn_layer_destroy(l);
	}
}

/* fuse, and then a plain linear, is the layer. */
static void fuse_matches_forward(void **state)
{
	struct lay *t = *state;
	static const double m[] = { 1.5, 2.5 }, bias[] = { 10, 20 };
	for (int i = 0; i < 4; i++) {
		tn_layer *l = fixture(t, TN_F32, 2, i & 1 ? m : NULL, i & 2 ? bias : NULL);
		struct tn_array x = ly_filled(t, TN_F32, 3, 0, one_two_three), y, z = ly_make(t, TN_F32, 2, 0, 0);
		struct tn_linear_weight fused;
		tn_linear *linear;
		OK(tn_layer_forward(l, &x, &y, &t->err));
		OK(tn_layer_fused(l, 0, &fused, &t->err));
		OK(tn_linear_create(t->ctx, &fused, &linear, &t->err));
		struct tn_linear_call call = { .m = 1, .x_dtype = TN_F32, .y_dtype = TN_F32, .x = x.data, .x_stride = 3, .y = z.data,
					       .y_stride = 2 };
		void *scratch = malloc(tn_linear_scratch_bytes(linear, &call) + 1);
		OK(tn_linear_forward(linear, &call, scratch, &t->err));
		ly_expect_values(t, &y, (double[]){ ly_load(&z, 0), ly_load(&z, 1) }, 1e-5);
		free(scratch);
		tn_linear_destroy(linear);
		tn_linear_weight_release(t->ctx, &fused);
		tn_layer_destroy(l);
	}
}

static void dora_requires_a_magnitude_of_the_outputs(void **state)
{
	struct lay *t = *state;
	static const double three[] = { 1, 1, 1 };
	struct tn_linear_weight w = { .dense = ly_filled(t, TN_F32, 2, 3, fixture_w) };
	struct tn_layer_factors f = fixture_factors(t, TN_F32, 2);
	tn_layer *l = NULL;
	f.magnitude = ly_filled(t, TN_F32, 3, 0, three);
	FAILS(tn_layer_create_with(t->ctx, &w, TN_LAYER_LINEAR, &f, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "magnitude: expected 2, got 3");
	assert_null(l);
}

/* linear_layer_accessors_expose_base_and_scale, dora_embedding_accessors_expose_base_scale_magnitude,
 * lora_layer_base_and_base_embedding_accessors, lora_layer_base_on_dora_variant_returns_some */
static void accessors_expose_base_scale_and_magnitude(void **state)
{
	struct lay *t = *state;
	static const double m[] = { 3, 3 }, bias[] = { 10, 20 };
	tn_layer *l = fixture(t, TN_F32, 2, m, bias);
	assert_true(tn_layer_scaling(l) == 2 && tn_layer_alpha(l) == 4);
	assert_int_equal(tn_layer_kind_of(l), TN_LAYER_LINEAR);
	assert_int_equal(tn_layer_base(l)->dense.shape[1], 3);
	assert_true(ly_load(&tn_layer_base(l)->bias, 1) == 20);
	assert_true(ly_load(tn_layer_magnitude(l), 1) == 3);
	/* A comes back as [rank, in] */
	assert_int_equal(tn_layer_lora_a(l)->shape[0], 2);
	assert_int_equal(tn_layer_lora_a(l)->shape[1], 3);
	assert_true(ly_load(tn_layer_lora_a(l), 0) == 1 && ly_load(tn_layer_lora_a(l), 4) == 1);
	tn_layer_destroy(l);
}

static void lora_rejects_factors_of_other_shapes(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = { .dense = ly_filled(t, TN_F32, 2, 3, fixture_w) };
	struct tn_layer_factors f = fixture_factors(t, TN_F32, 2);
	tn_layer *l = NULL;
	f.lora_b = ly_make(t, TN_F32, 2, 3, 0);
	FAILS(tn_layer_create_with(t->ctx, &w, TN_LAYER_LINEAR, &f, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "lora_b out_features: expected 2, got 3");
	f.lora_b = ly_make(t, TN_F32, 3, 2, 0);
	FAILS(tn_layer_create_with(t->ctx, &w, TN_LAYER_LINEAR, &f, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "lora_b rank: expected 2, got 3");
	f = fixture_factors(t, TN_F32, 2);
	f.lora_a = ly_make(t, TN_F32, 4, 2, 0);
	FAILS(tn_layer_create_with(t->ctx, &w, TN_LAYER_LINEAR, &f, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "lora_a in_features: expected 3, got 4");
	f.lora_a = ly_make(t, TN_F32, 6, 0, 0);
	FAILS(tn_layer_create_with(t->ctx, &w, TN_LAYER_LINEAR, &f, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "lora_a must be 2-D, got rank 1");
	assert_null(l);
}

/* base_linear_dense_rejects_non_rank2_weight, base_linear_dense_rejects_mismatched_bias_shape,
 * base_embedding_dense_rejects_non_rank2_and_exposes_weight */
/* Dtype and shape say how many values there are. */
static void bytes_of_factors_do_not_count(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight weight = { .dense = ly_filled(t, TN_F32, 2, 2, (const double[]){ 1, 0, 0, 1 }) };
	struct tn_layer_factors f = { .lora_a = ly_filled(t, TN_F32, 1, 2, (const double[]){ 1, 2 }),
				      .lora_b = ly_filled(t, TN_F32, 2, 1, (const double[]){ 3, 4 }), .scale = 1 };
	struct tn_array x = ly_filled(t, TN_F32, 2, 0, (const double[]){ 1, 1 }), y, none = { .dtype = TN_F32, .rank = 1, .shape = { 2 } };
	for (int i = 0; i < 2; i++) {
		tn_layer *l;
		f.lora_a.bytes = i ? 1 << 20 : 0;
		f.lora_b.bytes = f.lora_a.bytes;
		OK(tn_layer_create_with(t->ctx, &weight, TN_LAYER_LINEAR, &f, &l, &t->err));
		OK(tn_layer_set_lora_a(l, &f.lora_a, &t->err));
		OK(tn_layer_forward(l, &x, &y, &t->err));
		ly_expect_values(t, &y, (const double[]){ 10, 13 }, 0);
		FAILS(tn_layer_set_magnitude(l, &none, &t->err), TN_E_ARG);
		tn_layer_destroy(l);
	}
	f.lora_b.data = NULL;
	tn_layer *l = NULL;
	FAILS(tn_layer_create_with(t->ctx, &weight, TN_LAYER_LINEAR, &f, &l, &t->err), TN_E_ARG);
	assert_non_null(strstr(t->err.msg, "lora_b"));
	assert_null(l);
}

static void bases_of_other_shapes_are_refused(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight flat = { .dense = ly_make(t, TN_F32, 6, 0, 0) }, stack = { .dense = ly_make(t, TN_F32, 2, 3, 4) };
	struct tn_linear_weight biased = { .dense = ly_filled(t, TN_F32, 2, 3, fixture_w), .bias = ly_make(t, TN_F32, 3, 0, 0) };
	struct tn_layer_options o = ly_with(1, 1);
	tn_layer *l = NULL;
	FAILS(tn_layer_create(t->ctx, &flat, &o, &l, &t->err), TN_E_ARG);
	assert_non_null(strstr(t->err.msg, "1 dimensions; [out, in]"));
	FAILS(tn_layer_create(t->ctx, &stack, &o, &l, &t->err), TN_E_ARG);
	FAILS(tn_layer_create(t->ctx, &biased, &o, &l, &t->err), TN_E_ARG);
	o.kind = TN_LAYER_EMBEDDING;
	FAILS(tn_layer_create(t->ctx, &flat, &o, &l, &t->err), TN_E_ARG);
	assert_non_null(strstr(t->err.msg, "[vocabulary, width]"));
	o.kind = TN_LAYER_EXPERTS;
	FAILS(tn_layer_create(t->ctx, &biased, &o, &l, &t->err), TN_E_ARG);
	o.dora = 1;
	FAILS(tn_layer_create(t->ctx, &stack, &o, &l, &t->err), TN_E_UNSUPPORTED);
	assert_null(l);
}

/* ---- embeddings ------------------------------------------------------------------------------------------- */

static tn_layer *table(struct lay *t, tn_dtype base, tn_dtype factors, const double *w, const double *a, const double *b,
		       const double *magnitude)
{
	struct tn_linear_weight weight = { .dense = ly_filled(t, base, 3, 3, w) };
	struct tn_layer_factors f = { .lora_a = ly_filled(t, factors, 3, 1, a), .lora_b = ly_filled(t, factors, 1, 3, b), .scale = 2,
				      .inputs_first = 1 };
	tn_layer *l;
	if (magnitude)
		f.magnitude = ly_filled(t, factors, 3, 0, magnitude);
	OK(tn_layer_create_with(t->ctx, &weight, TN_LAYER_EMBEDDING, &f, &l, &t->err));
	return l;
}

static const double zeros_3[3], units_3[] = { 1, 1, 1 }, halves_3[] = { 0.5, 0.5, 0.5 };

static void dora_embedding_forward_matches_python_reference(void **state)
{
	struct lay *t = *state;
	tn_layer *l = table(t, TN_F32, TN_F32, eye_3, zeros_3, zeros_3, units_3);
	int64_t id[] = { 0, 2 };
	struct tn_array ids = { .dtype = TN_I64, .rank = 1, .shape = { 2 }, .data = id, .bytes = sizeof id }, y;
	OK(tn_layer_lookup(l, &ids, &y, &t->err));
	assert_true(y.rank == 2 && y.shape[0] == 2 && y.shape[1] == 3);
	ly_expect_values(t, &y, (double[]){ 1, 0, 0, 0, 0, 1 }, 0);
	id[1] = -2;
	assert_int_equal(tn_layer_lookup(l, &ids, &y, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "id 1 is -2; the table has 3 rows");
	tn_layer_destroy(l);
}

static void dora_embedding_forward_per_token_renorm_halves(void **state)
{
	struct lay *t = *state;
	tn_layer *l = table(t, TN_F32, TN_F32, eye_3, zeros_3, zeros_3, halves_3);
	uint8_t id[] = { 1 };
	struct tn_array ids = { .dtype = TN_U8, .rank = 1, .shape = { 1 }, .data = id, .bytes = sizeof id }, y;
	OK(tn_layer_lookup(l, &ids, &y, &t->err));
	ly_expect_values(t, &y, (double[]){ 0, 0.5, 0 }, 0);
	tn_layer_destroy(l);
}

static void dora_embedding_as_linear_one_hot_identity(void **state)
{
	struct lay *t = *state;
	tn_layer *l = table(t, TN_F32, TN_F32, eye_3, zeros_3, zeros_3, units_3);
	struct tn_array x = ly_filled(t, TN_F32, 3, 0, one_two_three), y;
	OK(tn_layer_forward(l, &x, &y, &t->err));
	ly_expect_values(t, &y, one_two_three, 0);
	tn_layer_destroy(l);
}

/* dora_embedding_fuse_round_trip for any table: what is fused is a table of its own. */
static void lora_layer_fuse_embedding_round_trips_via_as_linear(void **state)
{
	struct lay *t = *state;
	static const double a[] = { 1, -2, 0.5 }, b[] = { 0.25, 1, -1 };
	tn_layer *l = table(t, TN_F32, TN_F32, eye_3, a, b, halves_3), *plain;
	struct tn_layer_factors none = { .lora_a = ly_make(t, TN_F32, 3, 1, 0), .lora_b = ly_make(t, TN_F32, 1, 3, 0), .inputs_first = 1 };
	struct tn_array x = ly_filled(t, TN_F32, 3, 0, one_two_three), y, z;
	struct tn_linear_weight fused;
	OK(tn_layer_fused(l, 0, &fused, &t->err));
	OK(tn_layer_create_with(t->ctx, &fused, TN_LAYER_EMBEDDING, &none, &plain, &t->err));
	OK(tn_layer_forward(l, &x, &y, &t->err));
	OK(tn_layer_forward(plain, &x, &z, &t->err));
	ly_expect_values(t, &y, (double[]){ ly_load(&z, 0), ly_load(&z, 1), ly_load(&z, 2) }, 1e-6);
	tn_array_release(t->ctx, &z);
	tn_layer_destroy(plain);
	tn_layer_destroy(l);
	tn_linear_weight_release(t->ctx, &fused);
}

static void base_embedding_as_linear_tied_head_hand_traced(void **state)
{
	struct lay *t = *state;
	static const double w[] = { 1, 2, 3, 4, 5, 6 }, x0[] = { 1, 0, 1 };
	struct tn_linear_weight weight = { .dense = ly_filled(t, TN_F32, 2, 3, w) };
	struct tn_layer_options o = ly_with(1, 1);
	struct tn_array x = ly_filled(t, TN_F32, 3, 0, x0), y;
	tn_layer *l;
	o.kind = TN_LAYER_EMBEDDING;
	OK(tn_layer_create(t->ctx, &weight, &o, &l, &t->err));
	OK(tn_layer_forward(l, &x, &y, &t->err));
	ly_expect_values(t, &y, (double[]){ 4, 10 }, 0);
	tn_layer_destroy(l);
}

/* dora_embedding_forward_preserves_base_dtype_for_uniform_precision, scaled_helper_coerces_scalar_to_array_dtype,
 * dora_embedding_forward_uniform_f16_adapter_returns_f16, dora_embedding_forward_uniform_bf16_adapter_returns_bf16,
 * dora_embedding_as_linear_uniform_f16_adapter_returns_f16, dora_embedding_as_linear_uniform_bf16_adapter_returns_bf16 */
static void dora_embedding_uniform_halves_stay_halves(void **state)
{
	struct lay *t = *state;
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	uint32_t id[] = { 0, 1 };
	struct tn_array ids = { .dtype = TN_U32, .rank = 1, .shape = { 2 }, .data = id, .bytes = sizeof id }, y;
	for (int i = 0; i < 3; i++) {
		tn_layer *l = table(t, dtypes[i], dtypes[i], eye_3, zeros_3, zeros_3, units_3);
		struct tn_array x = ly_filled(t, dtypes[i], 3, 0, units_3);
		OK(tn_layer_lookup(l, &ids, &y, &t->err));
		assert_int_equal(y.dtype, dtypes[i]);
		ly_expect_values(t, &y, (double[]){ 1, 0, 0, 0, 1, 0 }, 0);
		OK(tn_layer_forward(l, &x, &y, &t->err));
		assert_int_equal(y.dtype, dtypes[i]);
		ly_expect_values(t, &y, units_3, 0);
		tn_layer_destroy(l);
	}
}

/* A half table with float32 factors gives float32, and the delta counts in full: rounding it to the table's dtype before the norm
 * would show. dora_embedding_forward_mixed_precision_matches_reference_f16_base_f32_adapter and
 * dora_embedding_forward_mixed_precision_matches_reference_bf16_base_f32_adapter,
 * dora_embedding_as_linear_mixed_precision_matches_reference_f16_base_f32_adapter and
 * dora_embedding_as_linear_mixed_precision_matches_reference_bf16_base_f32_adapter,
 * dora_embedding_forward_loses_precision_with_upfront_cast_regression_oracle,
 * dora_embedding_forward_returns_promoted_dtype_for_mixed_precision */
static void dora_embedding_mixed_precision_counts_the_delta_in_full(void **state)
{
	struct lay *t = *state;
	static const double w[] = { 0.5, -0.25, 1, 2, 0.125, -1, 1, 1, 0.5 }, a[] = { 0.11, -0.73, 0.39 }, b[] = { 0.313, 0.777, -0.451 };
	for (int i = 0; i < 2; i++) {
		tn_dtype half = i ? TN_BF16 : TN_F16;
		tn_layer *l = table(t, half, TN_F32, w, a, b, units_3);
		uint16_t id[] = { 2, 0, 1 };
		struct tn_array ids = { .dtype = TN_U16, .rank = 1, .shape = { 3 }, .data = id, .bytes = sizeof id }, y, z;
		struct tn_array x = ly_filled(t, half, 3, 0, one_two_three);
		double row[9], head[3], rounded = 0, ours = 0;
		OK(tn_layer_lookup(l, &ids, &y, &t->err));
		OK(tn_layer_forward(l, &x, &z, &t->err));
		assert_true(y.dtype == TN_F32 && z.dtype == TN_F32);
		for (int k = 0; k < 3; k++) {
			double norm = 0, short_norm = 0;
			head[id[k]] = 0;
			for (int c = 0; c < 3; c++) {
				double delta = 2 * (double)(float)a[id[k]] * (double)(float)b[c];
				float cast = i ? tn_f32_from_bf16(tn_bf16_from_f32((float)delta)) : tn_f32_from_f16(tn_f16_from_f32((float)delta));
				row[3 * k + c] = w[3 * id[k] + c] + delta;
				norm += row[3 * k + c] * row[3 * k + c];
				short_norm += (w[3 * id[k] + c] + (double)cast) * (w[3 * id[k] + c] + (double)cast);
				head[id[k]] += row[3 * k + c] * one_two_three[c];
			}
			rounded = fmax(rounded, fabs(sqrt(norm / short_norm) - 1));
			head[id[k]] /= sqrt(norm);
			for (int c = 0; c < 3; c++) {
				ours = fmax(ours, fabs(ly_load(&y, 3 * (uint64_t)k + (uint64_t)c) - row[3 * k + c] / sqrt(norm)));
			}
		}
		assert_true(ours < 1e-6 && rounded > 20 * ours);
		tn_array_release(t->ctx, &y);
		ly_expect_values(t, &z, head, 1e-6);
		tn_layer_destroy(l);
	}
}

static void lora_embedding_keeps_the_dtype_of_the_table(void **state)
{
	struct lay *t = *state;
	static const double a[] = { 1, 2, 3 }, b[] = { 0.5, 0, 1 };
	tn_layer *l = table(t, TN_F16, TN_F32, eye_3, a, b, NULL);
	int32_t id[] = { 1, -1 };
	struct tn_array ids = { .dtype = TN_I32, .rank = 1, .shape = { 1 }, .data = id, .bytes = 4 }, y;
	struct tn_array x = ly_filled(t, TN_F16, 3, 0, one_two_three);
	OK(tn_layer_lookup(l, &ids, &y, &t->err));
	assert_int_equal(y.dtype, TN_F16);
	ly_expect_values(t, &y, (double[]){ 2, 1, 4 }, 0);
	OK(tn_layer_forward(l, &x, &y, &t->err));
	assert_int_equal(y.dtype, TN_F16);
	ly_expect_values(t, &y, (double[]){ 1 + 2 * 3.5, 2 + 4 * 3.5, 3 + 6 * 3.5 }, 0);
	ids.shape[0] = 2;
	ids.bytes = 8;
	FAILS(tn_layer_lookup(l, &ids, &y, &t->err), TN_E_ARG);
	id[1] = 3;
	FAILS(tn_layer_lookup(l, &ids, &y, &t->err), TN_E_ARG);
	assert_non_null(strstr(t->err.msg, "3 rows"));
	FAILS(tn_layer_lookup(l, &x, &y, &t->err), TN_E_ARG);
	tn_layer_destroy(l);
}

static void dora_embedding_rejects_wrong_shapes(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight weight = { .dense = ly_filled(t, TN_F32, 3, 3, eye_3) };
	struct tn_layer_factors f = { .lora_a = ly_make(t, TN_F32, 2, 1, 0), .lora_b = ly_make(t, TN_F32, 1, 3, 0), .scale = 1,
				      .inputs_first = 1 };
	tn_layer *l = NULL;
	FAILS(tn_layer_create_with(t->ctx, &weight, TN_LAYER_EMBEDDING, &f, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "lora_a vocabulary: expected 3, got 2");
	f.lora_a = ly_make(t, TN_F32, 3, 2, 0);
	FAILS(tn_layer_create_with(t->ctx, &weight, TN_LAYER_EMBEDDING, &f, &l, &t->err), TN_E_ARG);
	f.lora_a = ly_make(t, TN_F32, 3, 1, 0);
	f.lora_b = ly_make(t, TN_F32, 1, 4, 0);
	FAILS(tn_layer_create_with(t->ctx, &weight, TN_LAYER_EMBEDDING, &f, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "lora_b width: expected 3, got 4");
	f.lora_b = ly_make(t, TN_F32, 1, 3, 0);
	f.magnitude = ly_make(t, TN_F32, 4, 0, 0);
	FAILS(tn_layer_create_with(t->ctx, &weight, TN_LAYER_EMBEDDING, &f, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "magnitude: expected 3, got 4");
	assert_null(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LY_TEST(lora_linear_forward_hand_traced),
		LY_TEST(lora_linear_forward_with_bias),
		LY_TEST(lora_linear_zero_b_is_identity),
		LY_TEST(dora_linear_forward_hand_traced),
		LY_TEST(dora_linear_forward_renorm_halves),
		LY_TEST(dora_linear_forward_uniform_f16_adapter_returns_f16),
		LY_TEST(fuse_matches_forward),
		LY_TEST(dora_requires_a_magnitude_of_the_outputs),
		LY_TEST(accessors_expose_base_scale_and_magnitude),
		LY_TEST(lora_rejects_factors_of_other_shapes),
		LY_TEST(bytes_of_factors_do_not_count),
		LY_TEST(bases_of_other_shapes_are_refused),
		LY_TEST(dora_embedding_forward_matches_python_reference),
		LY_TEST(dora_embedding_forward_per_token_renorm_halves),
		LY_TEST(dora_embedding_as_linear_one_hot_identity),
		LY_TEST(lora_layer_fuse_embedding_round_trips_via_as_linear),
		LY_TEST(base_embedding_as_linear_tied_head_hand_traced),
		LY_TEST(dora_embedding_uniform_halves_stay_halves),
		LY_TEST(dora_embedding_mixed_precision_counts_the_delta_in_full),
		LY_TEST(lora_embedding_keeps_the_dtype_of_the_table),
		LY_TEST(dora_embedding_rejects_wrong_shapes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
