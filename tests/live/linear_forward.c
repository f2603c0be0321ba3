/* SPDX-License-Identifier: Apache-2.0 */
/* tn_linear against sums in double: every codec, stacks, biases, factors and activations of every dtype, DoRA, tables. */
#include "livelib.h"

#include "base/half.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OUT = 40, IN = 128, EXPERTS = 3, M = 5, RANK = 6 };

static const struct tn_quantization schemes[] = {
	{ 64, 2, "affine", 0 }, { 32, 3, "affine", 0 }, { 64, 4, "affine", 0 }, { 128, 5, "affine", 0 }, { 32, 6, "affine", 0 },
	{ 64, 8, "affine", 0 }, { 32, 4, "mxfp4", 0 },  { 32, 8, "mxfp8", 0 },  { 16, 4, "nvfp4", 0 },
};
static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };

/* Numbers of a dtype, and the same as doubles. */
struct values {
	struct tn_array array;
	double *exact;
	unsigned char *bytes;
};

static struct values make_values(tn_dtype dtype, uint32_t rank, const uint64_t *shape, uint64_t seed)
{
	struct values v = { .array = { .dtype = dtype, .rank = rank } };
	size_t n = 1, unit = tn_dtype_bits(dtype) / 8;
	for (uint32_t i = 0; i < rank; i++) {
		v.array.shape[i] = shape[i];
		n *= (size_t)shape[i];
	}
	v.bytes = malloc(n * unit);
	v.exact = malloc(n * sizeof *v.exact);
	v.array.data = v.bytes;
	v.array.bytes = n * unit;
	for (size_t i = 0; i < n; i++) {
		float x = (float)((double)(int64_t)tt_random(&seed) / 9.3e18);
		uint16_t h = dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
		memcpy(v.bytes + i * unit, dtype == TN_F32 ? (void *)&x : (void *)&h, unit);
		v.exact[i] = (double)(dtype == TN_F32 ? x : dtype == TN_BF16 ? tn_f32_from_bf16(h) : tn_f32_from_f16(h));
	}
	return v;
}

static void free_values(struct values *v)
{
	free(v->bytes);
	free(v->exact);
}

static double value_at(const void *y, size_t i, tn_dtype dtype)
{
	float x;
	uint16_t h;
	memcpy(dtype == TN_F32 ? (void *)&x : (void *)&h, (const unsigned char *)y + i * (tn_dtype_bits(dtype) / 8),
	       tn_dtype_bits(dtype) / 8);
	return (double)(dtype == TN_F32 ? x : dtype == TN_BF16 ? tn_f32_from_bf16(h) : tn_f32_from_f16(h));
}

/* What a result of that dtype may lose: float32 sums, and one rounding. */
static double limit(tn_dtype dtype)
{
	return dtype == TN_F32 ? 2e-6 : dtype == TN_F16 ? 0x1p-11 + 2e-6 : 0x1p-8 + 2e-6;
}

/* One weight with all that goes with it; `w` has its exact values [experts, out, in]. */
struct trial {
	struct tn_linear_weight weight;
	const double *w, *bias;
	size_t experts;
	struct values a[2], b[2];
	struct tn_lora loras[2];
	float gain[OUT];
};

static void fill_trial(struct trial *s, size_t form)
{
	uint64_t a_shape[] = { RANK, IN }, b_shape[] = { OUT, RANK };
	for (size_t i = 0; i < 2; i++) {
		s->a[i] = make_values(dtypes[(form + i) % 3], 2, a_shape, 40 + i);
		s->b[i] = make_values(dtypes[(form + 2 * i) % 3], 2, b_shape, 50 + i);
		s->loras[i] = (struct tn_lora){ s->a[i].array, s->b[i].array, i ? -0.5 : 2 };
	}
	for (size_t i = 0; i < OUT; i++)
		s->gain[i] = 0.5f + (float)i / OUT;
}

static void free_trial(struct trial *s)
{
	for (size_t i = 0; i < 2; i++) {
		free_values(&s->a[i]);
		free_values(&s->b[i]);
	}
}

/* Element [r, k] of W with its factors. */
static double edited(const struct trial *s, size_t expert, size_t r, size_t k, size_t loras)
{
	double w = s->w[(expert * OUT + r) * IN + k];
	for (size_t i = 0; i < loras; i++)
		for (size_t c = 0; c < RANK; c++)
			w += s->loras[i].scale * s->b[i].exact[r * RANK + c] * s->a[i].exact[c * IN + k];
	return w;
}

static void check_product(const struct trial *s, const void *y, const double *x, const struct tn_linear_call *c)
{
	for (size_t t = 0; t < c->m; t++) {
		double top = 0, error = 0;
		for (size_t r = 0; r < OUT; r++) {
			double sum = 0;
			for (size_t k = 0; k < IN; k++)
				sum += edited(s, (size_t)c->expert, r, k, c->lora_count) * x[t * IN + k];
			sum = sum * (c->row_scale ? (double)c->row_scale[r] : 1) + (s->bias ? s->bias[c->expert * OUT + r] : 0);
			top = fmax(top, fabs(sum));
			error = fmax(error, fabs(sum - value_at(y, t * OUT + r, c->y_dtype)));
		}
		if (!(error <= limit(c->y_dtype) * top))
			fail_msg("off by %g of %g", error, top);
	}
}

static void check_rows(const struct trial *s, const void *y, const uint32_t *ids, const struct tn_linear_call *c)
{
	for (size_t t = 0; t < c->m; t++)
		for (size_t k = 0; k < IN; k++) {
			double w = edited(s, (size_t)c->expert, ids[t], k, c->lora_count);
			w *= c->row_scale ? (double)c->row_scale[ids[t]] : 1;
			if (!(fabs(w - value_at(y, t * IN + k, c->y_dtype)) <= limit(c->y_dtype) * fmax(1, fabs(w))))
				fail_msg("row %u is off", ids[t]);
		}
}

/* Every dtype of x and y, with and without factors and gains. */
static void run_trial(struct tt *t, struct trial *s)
{
	static unsigned char y[M * IN * sizeof(float)];
	tn_linear *linear;
	tt_ok(t, tn_linear_create(t->ctx, &s->weight, &linear, &t->err));
	assert_int_equal(tn_linear_out_features(linear), OUT);
	assert_int_equal(tn_linear_in_features(linear), IN);
	assert_int_equal(tn_linear_experts(linear), s->experts > 1 ? s->experts : 0);
	assert_int_equal(tn_linear_has_bias(linear), s->bias != NULL);
	for (size_t form = 0; form < 18; form++) {
		uint64_t x_shape[] = { M, IN };
		fill_trial(s, form);
		struct values x = make_values(dtypes[form % 3], 2, x_shape, 60 + form);
		uint32_t ids[M] = { 0, OUT - 1, 7, 7, (uint32_t)form };
		struct tn_linear_call call = {
			.expert = form % s->experts, .m = form % 2 ? M : 1, .x_dtype = dtypes[form % 3], .y_dtype = dtypes[form / 3 % 3],
			.x = x.bytes, .x_stride = IN, .y = y, .y_stride = OUT, .loras = s->loras, .lora_count = form % 3,
			.row_scale = form % 4 == 3 ? s->gain : NULL,
		};
		void *scratch = malloc(tn_linear_scratch_bytes(linear, &call));
		memset(y, 0xFF, sizeof y);
		tt_ok(t, tn_linear_forward(linear, &call, scratch, &t->err));
		check_product(s, y, x.exact, &call);
		call.y_stride = IN;
		tt_ok(t, tn_linear_embed(linear, &call, ids, scratch, &t->err));
		check_rows(s, y, ids, &call);
		free(scratch);
		free_values(&x);
		free_trial(s);
	}
	tn_linear_destroy(linear);
}

static void test_dense(void **state)
{
	uint64_t shape[] = { EXPERTS, OUT, IN }, bias_shape[] = { EXPERTS, OUT };
	for (size_t form = 0; form < 12; form++) {
		int stack = form % 2 != 0;
		struct trial s = { .experts = stack ? EXPERTS : 1 };
		struct values w = make_values(dtypes[form % 3], stack ? 3 : 2, shape + !stack, 1);
		struct values bias = make_values(dtypes[form / 3 % 3], stack ? 2 : 1, bias_shape + !stack, 2);
		s.weight.dense = w.array;
		s.w = w.exact;
		if (form / 6) {
			s.weight.bias = bias.array;
			s.bias = bias.exact;
		}
		run_trial(*state, &s);
		free_values(&w);
		free_values(&bias);
	}
}

static void test_quantized(void **state)
{
	struct tt *t = *state;
	uint64_t shape[] = { EXPERTS, OUT, IN };
	for (size_t form = 0; form < 2 * sizeof schemes / sizeof *schemes; form++) {
		int stack = form % 2 != 0;
		struct trial s = { .experts = stack ? EXPERTS : 1 };
		struct values w = make_values(dtypes[form % 3], stack ? 3 : 2, shape + !stack, 3);
		struct tn_array exact;
		size_t n = s.experts * OUT * IN;
		s.weight.q = schemes[form / 2];
		tt_ok(t, tn_quantize(t->ctx, &w.array, &s.weight.q, NULL, TN_FLAVOUR_CPU, &s.weight.quantized, &t->err));
		tt_ok(t, tn_dequantize(t->ctx, &s.weight.quantized, &s.weight.q, TN_F32, 0, &exact, &t->err));
		for (size_t i = 0; i < n; i++)
			w.exact[i] = (double)((const float *)exact.data)[i];
		s.w = w.exact;
		run_trial(t, &s);
		tn_array_release(t->ctx, &exact);
		tn_quantized_release(t->ctx, &s.weight.quantized);
		free_values(&w);
	}
}

/* Magnitudes over norms, on a base that is packed. */
static void test_dora_scale(void **state)
{
	struct tt *t = *state;
	uint64_t shape[] = { OUT, IN };
	struct trial s = { .experts = 1 };
	struct values w = make_values(TN_F32, 2, shape, 3);
	struct tn_array exact;
	float scale[OUT], magnitude[OUT];
	tn_linear *linear;
	s.weight.q = schemes[2];
	memset(w.bytes, 0, 2 * IN * sizeof(float)); /* rows without any length: with a delta, and below without */
	tt_ok(t, tn_quantize(t->ctx, &w.array, &s.weight.q, NULL, TN_FLAVOUR_CPU, &s.weight.quantized, &t->err));
	tt_ok(t, tn_dequantize(t->ctx, &s.weight.quantized, &s.weight.q, TN_F32, 0, &exact, &t->err));
	for (size_t i = 0; i < OUT * IN; i++)
		w.exact[i] = (double)((const float *)exact.data)[i];
	s.w = w.exact;
	fill_trial(&s, 1);
	tt_ok(t, tn_linear_create(t->ctx, &s.weight, &linear, &t->err));
	for (size_t r = 0; r < OUT; r++)
		magnitude[r] = 1 + (float)r;
	for (size_t loras = 0; loras <= 2; loras++) {
		tt_ok(t, tn_linear_dora_scale(linear, 0, s.loras, loras, magnitude, scale, &t->err));
		for (size_t r = 0; r < OUT; r++) {
			double sum = 0;
			for (size_t k = 0; k < IN; k++)
				sum += edited(&s, 0, r, k, loras) * edited(&s, 0, r, k, loras);
			double wanted = sum > 0 ? (double)magnitude[r] / sqrt(sum) : 1;
			assert_true(fabs((double)scale[r] - wanted) <= 1e-7 * wanted);
		}
	}
	tn_linear_destroy(linear);
	tn_array_release(t->ctx, &exact);
	tn_quantized_release(t->ctx, &s.weight.quantized);
	free_trial(&s);
	free_values(&w);
}

static void test_errors(void **state)
{
	struct tt *t = *state;
	uint64_t shape[] = { OUT, IN }, odd[] = { OUT, RANK + 1 };
	struct trial s = { .experts = 1 };
	struct values w = make_values(TN_F32, 2, shape, 3), wrong = make_values(TN_F32, 2, odd, 4);
	static float x[IN], y[IN];
	uint32_t id = OUT;
	tn_linear *linear;
	s.weight.dense = w.array;
	s.weight.dense.rank = 1;
	tt_expect(t, tn_linear_create(t->ctx, &s.weight, &linear, &t->err), TN_E_ARG);
	s.weight.dense = w.array;
	s.weight.dense.dtype = TN_I32;
	tt_expect(t, tn_linear_create(t->ctx, &s.weight, &linear, &t->err), TN_E_ARG);
	s.weight.dense = w.array;
	s.weight.bias = wrong.array;
	tt_expect(t, tn_linear_create(t->ctx, &s.weight, &linear, &t->err), TN_E_ARG);
	s.weight.bias.data = NULL;
	tt_ok(t, tn_linear_create(t->ctx, &s.weight, &linear, &t->err));
	fill_trial(&s, 0);
	struct tn_linear_call call = { .m = 1, .x_dtype = TN_F32, .y_dtype = TN_F32, .x = x, .x_stride = IN, .y = y,
				       .y_stride = OUT, .loras = s.loras, .lora_count = 1 };
	void *scratch = malloc(tn_linear_scratch_bytes(linear, &call));
	call.expert = 1;
	tt_expect(t, tn_linear_forward(linear, &call, scratch, &t->err), TN_E_ARG);
	call.expert = 0;
	call.x_dtype = TN_F64;
	tt_expect(t, tn_linear_forward(linear, &call, scratch, &t->err), TN_E_ARG);
	tt_expect_msg(t, "x is F64");
	call.x_dtype = TN_F32;
	call.y_dtype = TN_I8;
	tt_expect(t, tn_linear_forward(linear, &call, scratch, &t->err), TN_E_ARG);
	tt_expect_msg(t, "y is I8");
	call.y_dtype = TN_F32;
	tt_expect(t, tn_linear_embed(linear, &call, &id, scratch, &t->err), TN_E_ARG);
	s.loras[0].b = wrong.array;
	tt_expect(t, tn_linear_forward(linear, &call, scratch, &t->err), TN_E_ARG);
	tt_expect_msg(t, "[40, 6] was expected");
	call.lora_count = TN_MOST_LORAS + 1;
	tt_expect(t, tn_linear_forward(linear, &call, scratch, &t->err), TN_E_ARG);
	free(scratch);
	tn_linear_destroy(linear);
	free_trial(&s);
	free_values(&w);
	free_values(&wrong);
}

int main(void)
{
	const struct CMUnitTest tests[] = { TT_TEST(test_dense), TT_TEST(test_quantized), TT_TEST(test_dora_scale),
					    TT_TEST(test_errors) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
