/* SPDX-License-Identifier: Apache-2.0 */
/* Layers on quantized bases: the tests of mlxrs (lm/lora/tests.rs) by their names. Results are held against the layer over the
 * dense weight, within what the quantization loses. */
#include "layerlib.h"

#include <math.h>
#include <string.h>

enum { OUT = 8, IN = 64, RANK = 2 };

/* A dense weight, the same quantized, and factors in mlx-lm's order. */
struct pair {
	struct tn_linear_weight dense, quantized;
	struct tn_layer_factors factors;
	struct tn_array x;
};

static struct pair pair_of(struct lay *t, int32_t bits, int dora, int biased)
{
	struct pair p = { .dense = { .dense = ly_noise(t, TN_F32, OUT, IN, 0, 1) }, .x = ly_noise(t, TN_F32, 3, IN, 0, 2) };
	p.quantized.q = (struct tn_quantization){ 32, bits, "affine", 0 };
	OK(tn_quantize(t->ctx, &p.dense.dense, &p.quantized.q, NULL, TN_FLAVOUR_CPU, &p.quantized.quantized, &t->err));
	p.factors = (struct tn_layer_factors){ .lora_a = ly_noise(t, TN_F32, IN, RANK, 0, 3), .lora_b = ly_noise(t, TN_F32, RANK, OUT, 0, 4),
					       .scale = 2, .inputs_first = 1 };
	if (dora) {
		p.factors.magnitude = ly_make(t, TN_F32, OUT, 0, 0);
		for (uint64_t i = 0; i < OUT; i++)
			ly_store(&p.factors.magnitude, i, 1 + (double)i / 4);
	}
	if (biased)
		p.dense.bias = p.quantized.bias = ly_noise(t, TN_F32, OUT, 0, 0, 5);
	return p;
}

static tn_layer *on(struct lay *t, const struct tn_linear_weight *w, const struct tn_layer_factors *f)
{
	tn_layer *l;
	OK(tn_layer_create_with(t->ctx, w, TN_LAYER_LINEAR, f, &l, &t->err));
	return l;
}

static double largest_difference(const struct tn_array *a, const struct tn_array *b)
{
	double most = 0, size = 0;
	for (uint64_t i = 0; i < ly_elements(a); i++) {
		most = fmax(most, fabs(ly_load(a, i) - ly_load(b, i)));
		size = fmax(size, fabs(ly_load(a, i)));
	}
	return most / size;
}

static void compare_with_dense(struct lay *t, int32_t bits, int dora, int biased, double tolerance)
{
	struct pair p = pair_of(t, bits, dora, biased);
	tn_layer *dense = on(t, &p.dense, &p.factors), *packed = on(t, &p.quantized, &p.factors);
	struct tn_array y, z;
	OK(tn_layer_forward(dense, &p.x, &y, &t->err));
	OK(tn_layer_forward(packed, &p.x, &z, &t->err));
	assert_true(largest_difference(&y, &z) < tolerance);
	tn_array_release(t->ctx, &y);
	tn_array_release(t->ctx, &z);
	tn_layer_destroy(dense);
	tn_layer_destroy(packed);
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

static void qlora_forward_matches_dense_within_quant_error(void **state)
{
	compare_with_dense(*state, 8, 0, 0, 1e-2);
}

static void qdora_forward_matches_dense_within_quant_error(void **state)
{
	compare_with_dense(*state, 8, 1, 1, 2e-2);
}

static void qdora_linear_forward_matches_python_reference(void **state)
{
	compare_with_dense(*state, 6, 1, 0, 5e-2);
}

/* The fused weight as a layer without anything on it, beside the layer itself. */
static void compare_with_fused(struct lay *t, int dora, int dequantize, double tolerance)
{
	struct pair p = pair_of(t, 8, dora, 1);
	tn_layer *l = on(t, &p.quantized, &p.factors);
	struct tn_linear_weight fused;
	struct tn_layer_factors none = { .lora_a = ly_make(t, TN_F32, 1, IN, 0), .lora_b = ly_make(t, TN_F32, OUT, 1, 0) };
	struct tn_array y, z;
	OK(tn_layer_fused(l, dequantize, &fused, &t->err));
	assert_true((fused.dense.data != NULL) == dequantize);
	assert_true((fused.quantized.weight.data != NULL) != dequantize);
	assert_memory_equal(fused.bias.data, p.quantized.bias.data, p.quantized.bias.bytes);
	if (!dequantize)
		assert_true(fused.q.bits == 8 && fused.q.group_size == 32 && strcmp(fused.q.mode, "affine") == 0);
	tn_layer *plain = on(t, &fused, &none);
	OK(tn_layer_forward(l, &p.x, &y, &t->err));
	OK(tn_layer_forward(plain, &p.x, &z, &t->err));
	assert_true(largest_difference(&y, &z) < tolerance);
	tn_array_release(t->ctx, &y);
	tn_array_release(t->ctx, &z);
	tn_layer_destroy(plain);
	tn_layer_destroy(l);
	tn_linear_weight_release(t->ctx, &fused);
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

static void qlora_fuse_dequantize_matches_forward(void **state)
{
	compare_with_fused(*state, 0, 1, 1e-5);
}

/* qdora_linear_fuse_round_trip is the same */
static void qdora_forward_matches_fuse(void **state)
{
	compare_with_fused(*state, 1, 1, 1e-5);
}

static void lora_fuse_requantize_quantized_base_stays_quantized(void **state)
{
	compare_with_fused(*state, 0, 0, 2e-2);
}

static void dora_fuse_requantize_quantized_base_stays_quantized(void **state)
{
	compare_with_fused(*state, 1, 0, 2e-2);
}

static void requantize_fused_on_dense_base_returns_dense_unchanged(void **state)
{
	struct lay *t = *state;
	struct pair p = pair_of(t, 8, 0, 0);
	struct tn_linear_weight fused;
	p.factors.scale = 0;
	tn_layer *l = on(t, &p.dense, &p.factors);
	for (int dequantize = 0; dequantize < 2; dequantize++) {
		OK(tn_layer_fused(l, dequantize, &fused, &t->err));
		assert_memory_equal(fused.dense.data, p.dense.dense.data, p.dense.dense.bytes);
		tn_linear_weight_release(t->ctx, &fused);
	}
	tn_layer_destroy(l);
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

static void lora_rejects_wrong_lora_a_input_dim_quantized(void **state)
{
	struct lay *t = *state;
	struct pair p = pair_of(t, 8, 0, 0);
	tn_layer *l = NULL;
	p.factors.lora_a = ly_make(t, TN_F32, 32, RANK, 0);
	FAILS(tn_layer_create_with(t->ctx, &p.quantized, TN_LAYER_LINEAR, &p.factors, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "lora_a in_features: expected 64, got 32");
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

/* lora_a_correct_input_dim_quantized_ok: every width of codes has the logical width, which the packed one alone does not tell */
static void base_input_dims_recovers_logical_width_for_quantized_base(void **state)
{
	struct lay *t = *state;
	static const int32_t bits[] = { 2, 3, 4, 5, 6, 8 };
	for (int i = 0; i < 6; i++) {
		struct pair p = pair_of(t, bits[i], 0, 0);
		tn_layer *l = on(t, &p.quantized, &p.factors);
		assert_int_equal(tn_layer_in_features(l), IN);
		assert_int_equal(tn_layer_out_features(l), OUT);
		tn_layer_destroy(l);
		tn_quantized_release(t->ctx, &p.quantized.quantized);
		ly_forget(t);
	}
}

/* build_base_linear_quantized_success_builds_quantized_base: what the triple stands for, multiplied by hand */
static void build_base_linear_quantized_success_builds_quantized_base(void **state)
{
	struct lay *t = *state;
	struct pair p = pair_of(t, 8, 0, 1);
	struct tn_layer_options o = ly_with(1, 1);
	struct tn_array w, y;
	tn_layer *l;
	OK(tn_layer_create(t->ctx, &p.quantized, &o, &l, &t->err));
	OK(tn_dequantize(t->ctx, &p.quantized.quantized, &p.quantized.q, TN_F32, 0, &w, &t->err));
	OK(tn_layer_forward(l, &p.x, &y, &t->err));
	for (uint64_t row = 0; row < 3; row++)
		for (uint64_t i = 0; i < OUT; i++) {
			double sum = ly_load(&p.quantized.bias, i);
			for (uint64_t k = 0; k < IN; k++)
				sum += ly_load(&w, i * IN + k) * ly_load(&p.x, row * IN + k);
			assert_true(fabs(ly_load(&y, row * OUT + i) - sum) < 1e-4);
		}
	tn_array_release(t->ctx, &w);
	tn_array_release(t->ctx, &y);
	tn_layer_destroy(l);
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

static void refused(struct lay *t, struct tn_linear_weight w)
{
	struct tn_layer_options o = ly_with(1, 1);
	tn_layer *l = NULL;
	FAILS(tn_layer_create(t->ctx, &w, &o, &l, &t->err), TN_E_ARG);
	assert_null(l);
	assert_true(strlen(t->err.msg) > 10);
}

static void base_linear_quantized_affine_requires_quant_biases(void **state)
{
	struct lay *t = *state;
	struct pair p = pair_of(t, 8, 0, 0);
	struct tn_linear_weight w = p.quantized;
	memset(&w.quantized.biases, 0, sizeof w.quantized.biases);
	refused(t, w);
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

static void base_linear_quantized_float_modes_forbid_quant_biases(void **state)
{
	struct lay *t = *state;
	static const char *const modes[] = { "mxfp4", "mxfp8", "nvfp4" };
	struct pair p = pair_of(t, 8, 0, 0);
	for (int i = 0; i < 3; i++) {
		struct tn_linear_weight w = { .q = { TN_QUANT_DEFAULT, TN_QUANT_DEFAULT, modes[i], 0 } };
		OK(tn_quantize(t->ctx, &p.dense.dense, &w.q, NULL, TN_FLAVOUR_CPU, &w.quantized, &t->err));
		struct tn_linear_weight biased = w;
		biased.quantized.biases = w.quantized.scales;
		refused(t, biased);
		tn_quantized_release(t->ctx, &w.quantized);
	}
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

/* base_linear_quantized_unknown_mode_is_err, base_linear_quantized_rejects_nonpositive_bits_and_group_size */
static void base_linear_quantized_rejects_other_parameters(void **state)
{
	struct lay *t = *state;
	static const struct tn_quantization wrong[] = { { 32, 8, "int3", 0 }, { 32, 0, "affine", 0 }, { 32, -8, "affine", 0 },
							{ 0, 8, "affine", 0 }, { -32, 8, "affine", 0 }, { 64, 8, "affine", 0 } };
	struct pair p = pair_of(t, 8, 0, 0);
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct tn_linear_weight w = p.quantized;
		w.q = wrong[i];
		refused(t, w);
	}
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

/* base_input_dims_quantized_non_rank2_weight_is_rank_mismatch, base_output_dims_rank0_quantized_weight_is_rank_mismatch */
static void quantized_bases_of_another_rank_are_refused(void **state)
{
	struct lay *t = *state;
	struct pair p = pair_of(t, 8, 0, 0);
	for (uint32_t rank = 0; rank < 2; rank++) {
		struct tn_linear_weight w = p.quantized;
		w.quantized.weight.rank = rank;
		refused(t, w);
	}
	tn_quantized_release(t->ctx, &p.quantized.quantized);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LY_TEST(qlora_forward_matches_dense_within_quant_error),
		LY_TEST(qdora_forward_matches_dense_within_quant_error),
		LY_TEST(qdora_linear_forward_matches_python_reference),
		LY_TEST(qlora_fuse_dequantize_matches_forward),
		LY_TEST(qdora_forward_matches_fuse),
		LY_TEST(lora_fuse_requantize_quantized_base_stays_quantized),
		LY_TEST(dora_fuse_requantize_quantized_base_stays_quantized),
		LY_TEST(requantize_fused_on_dense_base_returns_dense_unchanged),
		LY_TEST(lora_rejects_wrong_lora_a_input_dim_quantized),
		LY_TEST(base_input_dims_recovers_logical_width_for_quantized_base),
		LY_TEST(build_base_linear_quantized_success_builds_quantized_base),
		LY_TEST(base_linear_quantized_affine_requires_quant_biases),
		LY_TEST(base_linear_quantized_float_modes_forbid_quant_biases),
		LY_TEST(base_linear_quantized_rejects_other_parameters),
		LY_TEST(quantized_bases_of_another_rank_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
