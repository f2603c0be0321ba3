/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of a program's own in every codec and dtype, against sums in double; stacks of experts; and without memory. */
#include "layerlib.h"

#include "testlib.h"

#include <math.h>
#include <string.h>

struct scheme {
	const char *mode;
	int32_t bits, group;
};

/* The layer's result beside sums in double over what tn_layer_dequantize gives. */
static void check_sums(struct lay *t, tn_layer *l, const struct tn_array *x, const struct tn_array *y, double tolerance)
{
	uint64_t in = tn_layer_in_features(l), out = tn_layer_out_features(l), rank = tn_layer_rank(l);
	const struct tn_array *a = tn_layer_lora_a(l), *b = tn_layer_lora_b(l), *m = tn_layer_magnitude(l);
	struct tn_array w;
	OK(tn_layer_dequantize(l, &w, &t->err));
	for (uint64_t row = 0; row < ly_elements(x) / in; row++)
		for (uint64_t i = 0; i < out; i++) {
			double sum = 0, norm = 0, size = 0;
			for (uint64_t j = 0; j < in; j++) {
				double v = ly_load(&w, i * in + j);
				for (uint64_t r = 0; r < rank; r++)
					v += tn_layer_scaling(l) * ly_load(b, i * rank + r) * ly_load(a, r * in + j);
				norm += v * v;
				sum += v * ly_load(x, row * in + j);
				size += fabs(v * ly_load(x, row * in + j));
			}
			double g = m ? ly_load(m, i) / sqrt(norm) : 1;
			if (fabs(ly_load(y, row * out + i) - g * sum) > tolerance * g * size)
				fail_msg("element [%llu, %llu] is %g, %g was expected", (unsigned long long)row, (unsigned long long)i,
					 ly_load(y, row * out + i), g * sum);
		}
	tn_array_release(t->ctx, &w);
}

static void every_codec_computes_merges_and_comes_back(void **state)
{
	struct lay *t = *state;
	static const struct scheme schemes[] = { { NULL, 0, 0 }, { "affine", 2, 32 }, { "affine", 3, 64 }, { "affine", 4, 64 },
						 { "affine", 5, 32 }, { "affine", 6, 64 }, { "affine", 8, 32 }, { "mxfp4", 4, 32 },
						 { "mxfp8", 8, 32 }, { "nvfp4", 4, 16 } };
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	for (size_t s = 0; s < sizeof schemes / sizeof *schemes; s++)
		for (int d = 0; d < 3; d++)
			for (int dora = 0; dora < 2; dora++) {
				struct tn_array dense = ly_noise(t, dtypes[d], 48, 128, 0, 7), x = ly_noise(t, dtypes[d], 5, 128, 0, 8), y, z, w;
				struct tn_linear_weight weight = { .q = { schemes[s].group, schemes[s].bits, schemes[s].mode, 0 } };
				struct tn_layer_options o = ly_with(4, 2);
				struct tn_array b = ly_noise(t, TN_F32, 48, 4, 0, 9);
				struct tn_linear_weight fused;
				tn_layer *l;
				if (schemes[s].mode)
					OK(tn_quantize(t->ctx, &dense, &weight.q, NULL, TN_FLAVOUR_CPU, &weight.quantized, &t->err));
				else
					weight.dense = dense;
				o.dora = dora;
				OK(tn_layer_create(t->ctx, &weight, &o, &l, &t->err));
				OK(tn_layer_set_lora_b(l, &b, &t->err));
				OK(tn_layer_forward(l, &x, &y, &t->err));
				int byte_scales = schemes[s].mode && strcmp(schemes[s].mode, "affine") != 0;
				assert_int_equal(y.dtype, byte_scales && dora && dtypes[d] != TN_BF16 ? TN_F32 : dtypes[d]);
				check_sums(t, l, &x, &y, dtypes[d] == TN_F32 ? 1e-5 : dtypes[d] == TN_F16 ? 1e-3 : 8e-3);
				OK(tn_layer_fused(l, 1, &fused, &t->err));
				assert_int_equal(fused.dense.dtype, byte_scales ? TN_BF16 : dtypes[d]);
				tn_linear_weight_release(t->ctx, &fused);
				OK(tn_layer_fused(l, 0, &fused, &t->err));
				assert_true((fused.dense.data == NULL) == (schemes[s].mode != NULL));
				tn_linear_weight_release(t->ctx, &fused);
				OK(tn_layer_merge(l, &t->err));
				OK(tn_layer_forward(l, &x, &z, &t->err));
				assert_int_equal(z.dtype, y.dtype);
				double error = 0, size = 0;
				for (uint64_t i = 0; i < ly_elements(&y); i++) {
					error += (ly_load(&y, i) - ly_load(&z, i)) * (ly_load(&y, i) - ly_load(&z, i));
					size += ly_load(&y, i) * ly_load(&y, i);
				}
				assert_true(sqrt(error / size) < (schemes[s].mode ? 0.4 : 0.01));
				OK(tn_layer_unmerge(l, &t->err));
				OK(tn_layer_forward(l, &x, &w, &t->err));
				assert_memory_equal(w.data, y.data, y.bytes);
				tn_array_release(t->ctx, &y);
				tn_array_release(t->ctx, &z);
				tn_array_release(t->ctx, &w);
				tn_layer_destroy(l);
				tn_quantized_release(t->ctx, &weight.quantized);
				ly_forget(t);
			}
}

/* A half x on a float32 weight, F16 with BF16, and a bias of another dtype. */
static void results_are_promoted_as_mlx_promotes(void **state)
{
	struct lay *t = *state;
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	for (int w = 0; w < 3; w++)
		for (int d = 0; d < 3; d++)
			for (int bias = 0; bias < 3; bias++) {
				struct tn_linear_weight weight = { .dense = ly_noise(t, dtypes[w], 4, 8, 0, 1),
								   .bias = ly_noise(t, dtypes[bias], 4, 0, 0, 2) };
				struct tn_array x = ly_noise(t, dtypes[d], 2, 8, 0, 3), y;
				tn_layer *l = ly_layer_on(t, &weight, 2, 2);
				OK(tn_layer_forward(l, &x, &y, &t->err));
				assert_int_equal(y.dtype, w == d && d == bias ? dtypes[w] : TN_F32);
				tn_array_release(t->ctx, &y);
				tn_layer_destroy(l);
				ly_forget(t);
			}
}

/* LoRASwitchLinear: a row goes through its expert alone. */
static void experts_have_factors_of_their_own(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = { .dense = ly_noise(t, TN_F32, 3, 6, 10, 1), .bias = ly_noise(t, TN_F32, 3, 6, 0, 2) };
	struct tn_layer_factors f = { .lora_a = ly_noise(t, TN_F32, 3, 2, 10, 3), .lora_b = ly_noise(t, TN_BF16, 3, 6, 2, 4), .scale = 0.5 };
	struct tn_array x = ly_noise(t, TN_F32, 5, 10, 0, 5), y, z;
	static const uint32_t experts[] = { 2, 0, 0, 1, 2 }, wrong[] = { 0, 0, 3, 0, 0 };
	tn_layer *l;
	OK(tn_layer_create_with(t->ctx, &w, TN_LAYER_EXPERTS, &f, &l, &t->err));
	assert_int_equal(tn_layer_total_params(l), 3 * 60 + 3 * 20 + 3 * 12);
	OK(tn_layer_forward_experts(l, &x, experts, &y, &t->err));
	for (uint64_t row = 0; row < 5; row++)
		for (uint64_t i = 0; i < 6; i++) {
			uint64_t e = experts[row];
			double sum = ly_load(&w.bias, e * 6 + i);
			for (uint64_t j = 0; j < 10; j++) {
				double v = ly_load(&w.dense, e * 60 + i * 10 + j);
				for (uint64_t r = 0; r < 2; r++)
					v += 0.5 * ly_load(&f.lora_b, e * 12 + i * 2 + r) * ly_load(&f.lora_a, e * 20 + r * 10 + j);
				sum += v * ly_load(&x, row * 10 + j);
			}
			assert_true(fabs(ly_load(&y, row * 6 + i) - sum) < 1e-5);
		}
	OK(tn_layer_merge(l, &t->err));
	OK(tn_layer_forward_experts(l, &x, experts, &z, &t->err));
	for (uint64_t i = 0; i < 30; i++)
		assert_true(fabs(ly_load(&y, i) - ly_load(&z, i)) < 1e-5);
	tn_array_release(t->ctx, &y);
	tn_array_release(t->ctx, &z);
	FAILS(tn_layer_forward_experts(l, &x, wrong, &y, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "row 2 names expert 3 of 3");
	FAILS(tn_layer_forward(l, &x, &y, &t->err), TN_E_ARG);
	struct tn_array m = ly_make(t, TN_F32, 6, 0, 0);
	FAILS(tn_layer_set_magnitude(l, &m, &t->err), TN_E_UNSUPPORTED);
	tn_layer_destroy(l);
}

/* A DoRA that is new changes nothing, and its norms follow the factors. */
static void a_new_dora_is_the_base_and_follows_its_factors(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = { .dense = ly_noise(t, TN_F32, 12, 20, 0, 1) };
	struct tn_array x = ly_noise(t, TN_F32, 3, 20, 0, 2), y, b = ly_noise(t, TN_F32, 12, 4, 0, 3);
	struct tn_layer_options o = ly_with(4, 4);
	tn_layer *l;
	o.dora = 1;
	OK(tn_layer_create(t->ctx, &w, &o, &l, &t->err));
	assert_int_equal(tn_layer_trainable_params(l), 4 * 32 + 12);
	OK(tn_layer_forward(l, &x, &y, &t->err));
	tn_layer_enable(l, 0);
	struct tn_array base;
	OK(tn_layer_forward(l, &x, &base, &t->err));
	for (uint64_t i = 0; i < 36; i++)
		assert_true(fabs(ly_load(&y, i) - ly_load(&base, i)) < 1e-5);
	tn_array_release(t->ctx, &y);
	tn_array_release(t->ctx, &base);
	tn_layer_enable(l, 1);
	OK(tn_layer_set_lora_b(l, &b, &t->err));
	OK(tn_layer_forward(l, &x, &y, &t->err));
	check_sums(t, l, &x, &y, 1e-5);
	tn_array_release(t->ctx, &y);
	tn_layer_destroy(l);
}

/* ---- memory ----------------------------------------------------------------------------------------------- */

struct life {
	const struct tn_linear_weight *w;
	const struct tn_array *x;
	int packed;
};

static tn_status whole_life(tn_context *ctx, void *arg, struct tn_error *err)
{
	const struct life *life = arg;
	const struct tn_linear_weight *w = life->w;
	const struct tn_array *x = life->x;
	int packed = life->packed;
	struct tn_layer_options o = ly_with(2, 2);
	struct tn_array y = { 0 }, z = { 0 };
	tn_layer *l = NULL;
	tn_layer_set *set = NULL;
	o.dora = !packed;
	tn_status status = packed ? tn_layer_create_nf4(ctx, &w->dense, 16, &o, &l, err) : tn_layer_create(ctx, w, &o, &l, err);
	if (status == TN_OK)
		status = tn_layer_forward(l, x, &y, err);
	if (status == TN_OK)
		status = tn_layer_merge(l, err);
	if (status == TN_OK)
		status = tn_layer_forward(l, x, &z, err);
	if (status == TN_OK)
		status = tn_layer_unmerge(l, err);
	if (status == TN_OK)
		status = tn_layer_set_create(ctx, &o, &set, err);
	if (status == TN_OK)
		status = tn_layer_set_add(set, "a", w, err);
	if (status == TN_OK)
		status = tn_layer_set_add(set, "b", w, err);
	if (status == TN_OK) {
		status = tn_layer_set_merge_all(set, err);
		assert_int_equal(tn_layer_is_merged(tn_layer_set_get(set, "a")), status == TN_OK);
	}
	tn_layer_set_destroy(set);
	tn_array_release(ctx, &y);
	tn_array_release(ctx, &z);
	tn_layer_destroy(l);
	return status;
}

static void every_allocation_may_fail(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = { .dense = ly_noise(t, TN_F32, 8, 32, 0, 1), .bias = ly_noise(t, TN_F32, 8, 0, 0, 2) };
	struct tn_array x = ly_noise(t, TN_F32, 2, 32, 0, 3);
	for (int packed = 0; packed < 2; packed++) {
		struct life life = { &w, &x, packed };
		tt_fail_each_allocation(packed ? "packed" : "dense", SIZE_MAX, whole_life, &life);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LY_TEST(every_codec_computes_merges_and_comes_back),
		LY_TEST(results_are_promoted_as_mlx_promotes),
		LY_TEST(experts_have_factors_of_their_own),
		LY_TEST(a_new_dora_is_the_base_and_follows_its_factors),
		LY_TEST(every_allocation_may_fail),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
