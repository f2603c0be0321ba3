/* SPDX-License-Identifier: Apache-2.0 */
/* Layers of a program's own: the tests of kizzasi-model (src/lora.rs) by their names, with their numbers. */
#include "layerlib.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static struct tn_linear_weight make_weight(struct lay *t, uint64_t out, uint64_t in)
{
	struct tn_linear_weight w = { .dense = ly_make(t, TN_F32, out, in, 0) };
	for (uint64_t i = 0; i < out * in; i++)
		ly_store(&w.dense, i, (double)((float)i * 0.01f));
	return w;
}

/* b[i][j] = (i + j) * step */
static void set_b(struct lay *t, tn_layer *l, double step)
{
	struct tn_array b = ly_make(t, TN_F32, tn_layer_out_features(l), tn_layer_rank(l), 0);
	for (uint64_t i = 0; i < ly_elements(&b); i++)
		ly_store(&b, i, (double)(i / b.shape[1] + i % b.shape[1]) * step);
	OK(tn_layer_set_lora_b(l, &b, &t->err));
}

static struct tn_array ones(struct lay *t, uint64_t n, double value)
{
	struct tn_array x = ly_make(t, TN_F32, n, 0, 0);
	for (uint64_t i = 0; i < n; i++)
		ly_store(&x, i, value);
	return x;
}

static void plain(const struct tn_linear_weight *w, const struct tn_array *x, double *y)
{
	uint64_t in = w->dense.shape[1];
	for (uint64_t i = 0; i < w->dense.shape[0]; i++) {
		y[i] = 0;
		for (uint64_t j = 0; j < in; j++)
			y[i] += ly_load(&w->dense, i * in + j) * ly_load(x, j);
	}
}

static void test_lora_linear_creation(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 64, 32);
	tn_layer *l = ly_layer_on(t, &w, 8, 16);
	struct tn_array x = ones(t, 32, 1), y;
	double expected[64];
	plain(&w, &x, expected);
	OK(tn_layer_forward(l, &x, &y, &t->err));
	assert_int_equal(y.rank, 1);
	assert_int_equal(y.dtype, TN_F32);
	ly_expect_values(t, &y, expected, 1e-3);
	float a[8 * 32];
	tn_init_xorshift(a, 8, 32, 64, 42);
	assert_memory_equal(tn_layer_lora_a(l)->data, a, sizeof a);
	tn_layer_destroy(l);
}

static void test_lora_linear_forward_with_nonzero_b(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 16, 8);
	tn_layer *l = ly_layer_on(t, &w, 4, 8);
	struct tn_array x = ones(t, 8, 1), y;
	double base[16], largest = 0;
	set_b(t, l, 0.1);
	plain(&w, &x, base);
	OK(tn_layer_forward(l, &x, &y, &t->err));
	for (uint64_t i = 0; i < 16; i++)
		largest = fmax(largest, fabs(ly_load(&y, i) - base[i]));
	assert_true(largest > 1e-6);
	tn_array_release(t->ctx, &y);
	tn_layer_destroy(l);
}

static void test_lora_linear_merge_unmerge(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 16, 8);
	struct tn_array original = ly_make(t, TN_F32, 16, 8, 0), x = ones(t, 8, 0.5), before, after, again;
	memcpy(original.data, w.dense.data, original.bytes);
	tn_layer *l = ly_layer_on(t, &w, 4, 8);
	set_b(t, l, 0.01);
	OK(tn_layer_forward(l, &x, &before, &t->err));
	FAILS(tn_layer_unmerge(l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA weights are not merged");
	OK(tn_layer_merge(l, &t->err));
	assert_true(tn_layer_is_merged(l));
	FAILS(tn_layer_merge(l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA weights are already merged");
	OK(tn_layer_forward(l, &x, &after, &t->err));
	for (uint64_t i = 0; i < 16; i++)
		assert_true(fabs(ly_load(&before, i) - ly_load(&after, i)) < 1e-4);
	OK(tn_layer_unmerge(l, &t->err));
	assert_false(tn_layer_is_merged(l));
	/* the base has its bytes, and the layer its bits */
	assert_memory_equal(w.dense.data, original.data, original.bytes);
	assert_ptr_equal(tn_layer_base(l)->dense.data, w.dense.data);
	OK(tn_layer_forward(l, &x, &again, &t->err));
	assert_memory_equal(again.data, before.data, before.bytes);
	tn_array_release(t->ctx, &before);
	tn_array_release(t->ctx, &after);
	tn_array_release(t->ctx, &again);
	tn_layer_destroy(l);
}

static void test_lora_linear_trainable_params(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 64, 32);
	tn_layer *l = ly_layer_on(t, &w, 8, 16);
	assert_int_equal(tn_layer_trainable_params(l), 768);
	assert_int_equal(tn_layer_total_params(l), 2816);
	assert_int_equal(tn_layer_rank(l), 8);
	assert_true(tn_layer_alpha(l) == 16 && tn_layer_scaling(l) == 2);
	tn_layer_destroy(l);
}

static void test_lora_linear_compression_ratio(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 256, 128);
	tn_layer *l = ly_layer_on(t, &w, 8, 16);
	assert_true(fabs(tn_layer_compression_ratio(l) - 3072.0 / 35840.0) < 1e-12);
	tn_layer_destroy(l);
}

static void test_lora_adapter_multi_layer(void **state)
{
	struct lay *t = *state;
	static const char *const names[] = { "q_proj", "k_proj", "v_proj" };
	struct tn_layer_options o = ly_with(4, 8);
	struct tn_linear_weight w = make_weight(t, 32, 16);
	struct tn_array x = ones(t, 16, 1), y;
	tn_layer_set *set;
	OK(tn_layer_set_create(t->ctx, &o, &set, &t->err));
	for (int i = 0; i < 3; i++)
		OK(tn_layer_set_add(set, names[i], &w, &t->err));
	FAILS(tn_layer_set_add(set, "k_proj", &w, &t->err), TN_E_EXISTS);
	assert_string_equal(t->err.msg, "LoRA layer 'k_proj' already exists");
	assert_int_equal(tn_layer_set_count(set), 3);
	for (size_t i = 0; i < 3; i++) {
		assert_string_equal(tn_layer_set_name(set, i), names[i]);
		OK(tn_layer_set_forward(set, names[i], &x, &y, &t->err));
		assert_int_equal(y.shape[0], 32);
		tn_array_release(t->ctx, &y);
	}
	assert_null(tn_layer_set_name(set, 3));
	FAILS(tn_layer_set_forward(set, "nonexistent", &x, &y, &t->err), TN_E_NOTFOUND);
	assert_string_equal(t->err.msg, "LoRA layer 'nonexistent' not found");
	assert_null(tn_layer_set_get(set, "nonexistent"));
	assert_int_equal(tn_layer_set_config(set)->rank, 4);
	tn_layer_set_destroy(set);
}

static void test_lora_adapter_merge_all(void **state)
{
	struct lay *t = *state;
	static const char *const names[] = { "layer_0", "layer_1" };
	struct tn_layer_options o = ly_with(4, 8);
	struct tn_linear_weight w = make_weight(t, 16, 8);
	struct tn_array x = ones(t, 8, 0.5), before[2], after;
	tn_layer_set *set;
	OK(tn_layer_set_create(t->ctx, &o, &set, &t->err));
	for (int i = 0; i < 2; i++)
		OK(tn_layer_set_add(set, names[i], &w, &t->err));
	set_b(t, tn_layer_set_get(set, "layer_0"), 0.01);
	for (int i = 0; i < 2; i++)
		OK(tn_layer_set_forward(set, names[i], &x, &before[i], &t->err));
	OK(tn_layer_merge(tn_layer_set_get(set, "layer_1"), &t->err));
	OK(tn_layer_set_merge_all(set, &t->err));
	for (int i = 0; i < 2; i++) {
		OK(tn_layer_set_forward(set, names[i], &x, &after, &t->err));
		for (uint64_t k = 0; k < 16; k++)
			assert_true(fabs(ly_load(&before[i], k) - ly_load(&after, k)) < 1e-4);
		tn_array_release(t->ctx, &after);
		assert_true(tn_layer_is_merged(tn_layer_set_get(set, names[i])));
	}
	OK(tn_layer_unmerge(tn_layer_set_get(set, "layer_0"), &t->err));
	OK(tn_layer_set_unmerge_all(set, &t->err));
	for (int i = 0; i < 2; i++) {
		assert_false(tn_layer_is_merged(tn_layer_set_get(set, names[i])));
		tn_array_release(t->ctx, &before[i]);
	}
	tn_layer_set_destroy(set);
}

static void test_lora_adapter_summary(void **state)
{
	struct lay *t = *state;
	struct tn_layer_options o = ly_with(8, 16);
	struct tn_linear_weight w = make_weight(t, 64, 32);
	struct tn_layer_summary s;
	tn_layer_set *set;
	OK(tn_layer_set_create(t->ctx, &o, &set, &t->err));
	tn_layer_set_summary(set, &s);
	assert_true(s.num_layers == 0 && s.compression_ratio == 0);
	OK(tn_layer_set_add(set, "proj_q", &w, &t->err));
	OK(tn_layer_set_add(set, "proj_v", &w, &t->err));
	tn_layer_set_summary(set, &s);
	assert_int_equal(s.num_layers, 2);
	assert_int_equal(s.rank, 8);
	assert_true(s.alpha == 16);
	assert_int_equal(s.total_trainable, 1536);
	assert_int_equal(s.total_original, 4096);
	assert_true(fabs(s.compression_ratio - 1536.0 / 5632.0) < 1e-12);
	tn_layer_set_destroy(set);
}

static void test_lora_disable_enable(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 16, 8);
	tn_layer *l = ly_layer_on(t, &w, 4, 8);
	struct tn_array x = ones(t, 8, 1), on, off, again;
	double base[16];
	set_b(t, l, 0.1);
	plain(&w, &x, base);
	assert_true(tn_layer_is_enabled(l));
	OK(tn_layer_forward(l, &x, &on, &t->err));
	tn_layer_enable(l, 0);
	assert_false(tn_layer_is_enabled(l));
	OK(tn_layer_forward(l, &x, &off, &t->err));
	assert_memory_not_equal(on.data, off.data, on.bytes);
	ly_expect_values(t, &off, base, 1e-5);
	tn_layer_enable(l, 1);
	OK(tn_layer_forward(l, &x, &again, &t->err));
	assert_memory_equal(on.data, again.data, on.bytes);
	tn_array_release(t->ctx, &on);
	tn_array_release(t->ctx, &again);
	tn_layer_destroy(l);
}

static tn_layer *packed_on(struct lay *t, const struct tn_array *w, uint64_t rank, double alpha, uint64_t group)
{
	struct tn_layer_options o = ly_with(rank, alpha);
	tn_layer *l;
	OK(tn_layer_create_nf4(t->ctx, w, group, &o, &l, &t->err));
	return l;
}

static void test_qlora_creation(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 32, 16);
	tn_layer *l = packed_on(t, &w.dense, 4, 8, 64);
	assert_int_equal(tn_layer_out_features(l), 32);
	assert_int_equal(tn_layer_in_features(l), 16);
	assert_int_equal(tn_layer_rank(l), 4);
	assert_int_equal(tn_layer_nf4(l)->group_size, 64);
	assert_int_equal(tn_layer_nf4(l)->scales.bytes, 8 * sizeof(float));
	assert_int_equal(tn_layer_trainable_params(l), 4 * (16 + 32));
	float a[4 * 16];
	tn_init_xorshift(a, 4, 16, 32, 137);
	assert_memory_equal(tn_layer_lora_a(l)->data, a, sizeof a);
	tn_layer_destroy(l);
	struct tn_layer_options o = ly_with(0, 8);
	FAILS(tn_layer_create_nf4(t->ctx, &w.dense, 64, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "QLoRA rank must be > 0");
	o = ly_with(4, 0);
	FAILS(tn_layer_create_nf4(t->ctx, &w.dense, 64, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "QLoRA alpha must be > 0.0");
	o = ly_with(4, 8);
	FAILS(tn_layer_create_nf4(t->ctx, &w.dense, 0, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "QLoRA group_size must be > 0");
	o = ly_with(17, 8);
	FAILS(tn_layer_create_nf4(t->ctx, &w.dense, 0, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "QLoRA group_size must be > 0");
	FAILS(tn_layer_create_nf4(t->ctx, &w.dense, 64, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "QLoRA rank (17) must not exceed min(out, in) = 16");
	struct tn_array none = ly_make(t, TN_F32, 0, 16, 0);
	FAILS(tn_layer_create_nf4(t->ctx, &none, 64, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "Weight matrix dimensions must be > 0");
	o = ly_with(4, 8);
	o.dora = 1;
	FAILS(tn_layer_create_nf4(t->ctx, &w.dense, 64, &o, &l, &t->err), TN_E_UNSUPPORTED);
	FAILS(tn_layer_create_nf4(t->ctx, &(struct tn_array){ .dtype = TN_F16, .rank = 2, .shape = { 2, 2 } }, 64, NULL, &l, &t->err),
	      TN_E_ARG);
}

/* Against the decoded weight and the factors, in double; with rows beyond what is decoded at a time. */
static void test_qlora_forward(void **state)
{
	struct lay *t = *state;
	struct tn_array w = ly_noise(t, TN_F32, 600, 37, 0, 3), x = ly_noise(t, TN_F32, 3, 37, 0, 4), dense, y, merged;
	tn_layer *l = packed_on(t, &w, 4, 8, 32);
	set_b(t, l, 0.001);
	OK(tn_layer_dequantize(l, &dense, &t->err));
	OK(tn_layer_forward(l, &x, &y, &t->err));
	assert_int_equal(y.rank, 2);
	const struct tn_array *a = tn_layer_lora_a(l), *b = tn_layer_lora_b(l);
	for (uint64_t m = 0; m < 3; m++)
		for (uint64_t i = 0; i < 600; i++) {
			double sum = 0;
			for (uint64_t j = 0; j < 37; j++) {
				double v = ly_load(&dense, i * 37 + j);
				for (uint64_t r = 0; r < 4; r++)
					v += 2 * ly_load(b, i * 4 + r) * ly_load(a, r * 37 + j);
				sum += v * ly_load(&x, m * 37 + j);
			}
			assert_true(isfinite(ly_load(&y, m * 600 + i)) && fabs(ly_load(&y, m * 600 + i) - sum) < 1e-4);
		}
	OK(tn_layer_merge(l, &t->err));
	OK(tn_layer_forward(l, &x, &merged, &t->err));
	for (uint64_t i = 0; i < 1800; i++)
		assert_true(fabs(ly_load(&merged, i) - ly_load(&y, i)) < 1e-4);
	tn_array_release(t->ctx, &dense);
	tn_array_release(t->ctx, &merged);
	tn_array_release(t->ctx, &y);
	tn_layer_destroy(l);
}

static void test_qlora_memory_savings(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 256, 128);
	tn_layer *l = packed_on(t, &w.dense, 8, 16, 64);
	assert_int_equal(tn_layer_memory_saved_bytes(l), 256 * 128 * 4 - (256 * 128 / 2 + 512 * 8));
	tn_layer_destroy(l);
	l = ly_layer_on(t, &w, 8, 16);
	assert_int_equal(tn_layer_memory_saved_bytes(l), 0);
	assert_null(tn_layer_nf4(l));
	tn_layer_destroy(l);
}

static void test_lora_config_validation(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 16, 8);
	struct tn_layer_options o = ly_with(0, 8);
	tn_layer *l = NULL;
	FAILS(tn_layer_create(t->ctx, &w, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA rank must be > 0");
	o = ly_with(4, -1);
	FAILS(tn_layer_create(t->ctx, &w, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA alpha must be > 0.0");
	o = ly_with(9, 8);
	FAILS(tn_layer_create(t->ctx, &w, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA rank (9) must not exceed min(out_features, in_features) = 8");
	struct tn_linear_weight none = { .dense = ly_make(t, TN_F32, 16, 0, 0) };
	none.dense.rank = 2;
	FAILS(tn_layer_create(t->ctx, &none, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "Weight matrix dimensions must be > 0");
	o.rank = 0;
	FAILS(tn_layer_create(t->ctx, &none, &o, &l, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "LoRA rank must be > 0");
	o = ly_with(4, 8);
	o.init = TN_INIT_GAUSSIAN;
	FAILS(tn_layer_create(t->ctx, &w, &o, &l, &t->err), TN_E_UNSUPPORTED);
	assert_null(l);
}

static void test_lora_batch_forward(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 16, 8);
	tn_layer *l = ly_layer_on(t, &w, 4, 8);
	struct tn_array batch = ly_make(t, TN_F32, 3, 8, 0), out, one;
	for (uint64_t i = 0; i < 24; i++)
		ly_store(&batch, i, (double)i * 0.1);
	set_b(t, l, 0.01);
	OK(tn_layer_forward(l, &batch, &out, &t->err));
	assert_true(out.rank == 2 && out.shape[0] == 3 && out.shape[1] == 16);
	for (uint64_t b = 0; b < 3; b++) {
		struct tn_array x = ones(t, 8, 0);
		for (uint64_t i = 0; i < 8; i++)
			ly_store(&x, i, ly_load(&batch, b * 8 + i));
		OK(tn_layer_forward(l, &x, &one, &t->err));
		for (uint64_t i = 0; i < 16; i++)
			assert_true(fabs(ly_load(&out, b * 16 + i) - ly_load(&one, i)) < 1e-4);
		tn_array_release(t->ctx, &one);
	}
	tn_array_release(t->ctx, &out);
	struct tn_array wrong = ones(t, 9, 1);
	FAILS(tn_layer_forward(l, &wrong, &out, &t->err), TN_E_ARG);
	assert_non_null(strstr(t->err.msg, "expected 8, got 9"));
	tn_layer_destroy(l);
}

static void test_qlora_dequantize_roundtrip(void **state)
{
	struct lay *t = *state;
	struct tn_array w = ly_make(t, TN_F32, 8, 4, 0), dense;
	for (uint64_t i = 0; i < 32; i++)
		ly_store(&w, i, fmax(-0.9, fmin(0.9, ((double)(i / 4) - 4) * 0.2 + ((double)(i % 4) - 2) * 0.1)));
	tn_layer *l = packed_on(t, &w, 2, 4, 16);
	OK(tn_layer_dequantize(l, &dense, &t->err));
	assert_true(dense.rank == 2 && dense.shape[0] == 8 && dense.shape[1] == 4);
	for (uint64_t i = 0; i < 32; i++)
		assert_true(fabs(ly_load(&dense, i) - ly_load(&w, i)) < 0.5);
	tn_array_release(t->ctx, &dense);
	tn_layer_destroy(l);
}

static void factors_are_set_with_their_shape_alone(void **state)
{
	struct lay *t = *state;
	struct tn_linear_weight w = make_weight(t, 16, 8);
	tn_layer *l = ly_layer_on(t, &w, 4, 8);
	struct tn_array a = ly_noise(t, TN_BF16, 4, 8, 0, 1), b = ly_noise(t, TN_F16, 16, 4, 0, 2);
	OK(tn_layer_set_lora_a(l, &a, &t->err));
	OK(tn_layer_set_lora_b(l, &b, &t->err));
	assert_memory_equal(tn_layer_lora_a(l)->data, a.data, a.bytes);
	assert_int_equal(tn_layer_lora_b(l)->dtype, TN_F16);
	struct tn_array a_rank = ly_make(t, TN_F32, 3, 8, 0), a_in = ly_make(t, TN_F32, 4, 9, 0), a_flat = ly_make(t, TN_F32, 32, 0, 0);
	struct tn_array b_out = ly_make(t, TN_F32, 15, 4, 0), b_rank = ly_make(t, TN_F32, 16, 5, 0);
	FAILS(tn_layer_set_lora_a(l, &a_rank, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "set_lora_a rank: expected 4, got 3");
	FAILS(tn_layer_set_lora_a(l, &a_in, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "set_lora_a in_features: expected 8, got 9");
	FAILS(tn_layer_set_lora_a(l, &a_flat, &t->err), TN_E_ARG);
	FAILS(tn_layer_set_lora_b(l, &b_out, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "set_lora_b out_features: expected 16, got 15");
	FAILS(tn_layer_set_lora_b(l, &b_rank, &t->err), TN_E_ARG);
	assert_string_equal(t->err.msg, "set_lora_b rank: expected 4, got 5");
	assert_memory_equal(tn_layer_lora_a(l)->data, a.data, a.bytes);
	assert_null(tn_layer_magnitude(l));
	tn_layer_destroy(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		LY_TEST(test_lora_linear_creation),
		LY_TEST(test_lora_linear_forward_with_nonzero_b),
		LY_TEST(test_lora_linear_merge_unmerge),
		LY_TEST(test_lora_linear_trainable_params),
		LY_TEST(test_lora_linear_compression_ratio),
		LY_TEST(test_lora_adapter_multi_layer),
		LY_TEST(test_lora_adapter_merge_all),
		LY_TEST(test_lora_adapter_summary),
		LY_TEST(test_lora_disable_enable),
		LY_TEST(test_qlora_creation),
		LY_TEST(test_qlora_forward),
		LY_TEST(test_qlora_memory_savings),
		LY_TEST(test_lora_config_validation),
		LY_TEST(test_lora_batch_forward),
		LY_TEST(test_qlora_dequantize_roundtrip),
		LY_TEST(factors_are_set_with_their_shape_alone),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
