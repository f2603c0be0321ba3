/* SPDX-License-Identifier: Apache-2.0 */
/* manifest.json: the calls that MLX refuses, with its words, and the odd ones that it accepts. */
#include "vectors.h"

#include "base/text.h"
#include "store/json_doc.h"
#include "tenon/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static json_t *manifest;

/* ["F32", [4, 128]] -> zeros of that shape; absent for null. */
static struct tn_array zeros(const json_t *spec)
{
	struct tn_array a = { 0 };
	size_t elements = 1;
	if (!json_is_array(spec))
		return a;
	const json_t *shape = json_array_get(spec, 1);
	assert_int_equal(tn_dtype_from_name(json_string_value(json_array_get(spec, 0)), &a.dtype, NULL), TN_OK);
	a.rank = (uint32_t)json_array_size(shape);
	for (uint32_t i = 0; i < a.rank; i++) {
		a.shape[i] = (uint64_t)json_integer_value(json_array_get(shape, i));
		elements *= (size_t)a.shape[i];
	}
	a.bytes = elements * tn_dtype_bits(a.dtype) / 8;
	a.data = calloc(1, a.bytes + 1);
	return a;
}

struct call {
	const char *op;
	struct tn_array x, lhs, rhs;
	struct tn_quantized w;
	struct tn_quantization q;
	tn_dtype dtype;
	int transpose;
};

static int32_t number(const json_t *c, const char *key)
{
	const json_t *value = json_object_get(c, key);
	return json_is_integer(value) ? (int32_t)json_integer_value(value) : TN_QUANT_DEFAULT;
}

static struct call parse(const json_t *c)
{
	struct call call = {
		.op = json_string_value(json_object_get(c, "op")),
		.x = zeros(json_object_get(c, "x")),
		.lhs = zeros(json_object_get(c, "lhs_indices")),
		.rhs = zeros(json_object_get(c, "rhs_indices")),
		.w = { zeros(json_object_get(c, "w")), zeros(json_object_get(c, "scales")),
		       zeros(json_object_get(c, "biases")), zeros(json_object_get(c, "global_scale")) },
		.q = { number(c, "group_size"), number(c, "bits"), json_string_value(json_object_get(c, "mode")), 0 },
		.dtype = (tn_dtype)TN_DTYPE_COUNT,
		.transpose = !json_is_false(json_object_get(c, "transpose")),
	};
	const char *dtype = json_string_value(json_object_get(c, "dtype"));
	if (dtype)
		assert_int_equal(tn_dtype_from_name(dtype, &call.dtype, NULL), TN_OK);
	return call;
}

static void call_release(struct call *c)
{
	free(c->x.data);
	free(c->lhs.data);
	free(c->rhs.data);
	free(c->w.weight.data);
	free(c->w.scales.data);
	free(c->w.biases.data);
	free(c->w.global_scale.data);
}

/* Results in order: one array, or the triple. */
static tn_status run(const struct call *c, struct tn_quantized *out, struct tn_error *err)
{
	tn_context *ctx = test_context();
	*out = (struct tn_quantized){ 0 };
	if (strcmp(c->op, "quantize") == 0)
		return tn_quantize(ctx, &c->w.weight, &c->q, &c->w.global_scale, TN_FLAVOUR_CPU, out, err);
	if (strcmp(c->op, "dequantize") == 0)
		return tn_dequantize(ctx, &c->w, &c->q, c->dtype, 1, &out->weight, err);
	if (strcmp(c->op, "quantized_matmul") == 0)
		return tn_quantized_matmul(ctx, &c->x, &c->w, c->transpose, &c->q, &out->weight, err);
	/* MLX fills in the other index array where one is null; with none, gather_qmm is quantized_matmul in both */
	if (!c->lhs.data && !c->rhs.data) {
		uint32_t counts[64];
		struct tn_array all = { TN_U32, c->w.weight.rank - 2, { 0 }, counts, sizeof counts };
		for (uint32_t i = 0; i < 64; i++)
			counts[i] = i;
		memcpy(all.shape, c->w.weight.shape, sizeof all.shape);
		return tn_gather_qmm(ctx, &c->x, &c->w, NULL, &all, c->transpose, &c->q, &out->weight, err);
	}
	return tn_gather_qmm(ctx, &c->x, &c->w, c->lhs.data ? &c->lhs : NULL, c->rhs.data ? &c->rhs : NULL,
			     c->transpose, &c->q, &out->weight, err);
}

/* Where tenon refuses with other words: MLX's come from deep inside, or it ends the process, or
 * tenon finds something earlier. */
static int differs(const char *message, const struct tn_error *err)
{
	static const struct {
		const char *mlx, *tenon;
	} others[] = {
		{ "", "[quantize] The last dimension of the matrix needs to be divisible by the quantization group "
		      "size 0" },
		{ "[fast::Quantize::eval_cpu] Only supports floating point inputs",
		  "[quantize] Only supports floating point" },
		{ "[broadcast_shapes] Shapes (4,2,64) and (4,3,1) cannot be broadcast.",
		  "[dequantize] Scales have shape" },
		{ "[quantized_matmul] only floating types are supported", "[quantized_matmul] only floating types" },
		{ "SmallVector out of range.", "[quantized_matmul] x is a scalar" },
		{ "Quantization group size must be 32, 64 or 128.",
		  "[quantized_matmul] The requested group size 16 is not supported. The supported group sizes are 32, "
		  "64, and 128." },
	};
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (strcmp(message, others[i].mlx) == 0 && tn_starts_with(err->msg, others[i].tenon))
			return 1;
	return 0;
}

/* Not a mistake in tenon: MLX cannot reshape an odd number of nvfp4 groups. */
static int is_accepted(const struct call *c)
{
	return strcmp(c->op, "quantize") == 0 && c->q.mode && strcmp(c->q.mode, "nvfp4") == 0 &&
	       c->w.weight.shape[1] == 16;
}

static void test_refused(void **state)
{
	size_t i, same = 0;
	json_t *e, *errors = json_object_get(manifest, "errors");
	(void)state;
	json_array_foreach(errors, i, e) {
		struct call c = parse(json_object_get(e, "call"));
		const char *message = json_string_value(json_object_get(e, "message"));
		struct tn_quantized out;
		struct tn_error err = { 0 };
		tn_status status = run(&c, &out, &err);
		if (status == TN_OK && !is_accepted(&c))
			fail_msg("error %zu: accepted, MLX says: %s", i, message);
		tn_quantized_release(test_context(), &out);
		if (status != TN_OK && strcmp(err.msg, message) != 0 && !differs(message, &err))
			fail_msg("error %zu:\n%s\nMLX says\n%s", i, err.msg, message);
		same += strcmp(err.msg, message) == 0;
		call_release(&c);
	}
	print_message("%zu of %zu messages are MLX's, letter for letter\n", same, json_array_size(errors));
}

static void check_result(size_t i, size_t k, const struct tn_array *got, const json_t *expected)
{
	struct tn_array want = zeros(json_array_get(expected, k));
	if (got->dtype != want.dtype || got->rank != want.rank ||
	    memcmp(got->shape, want.shape, got->rank * sizeof *got->shape) != 0)
		fail_msg("accepted %zu: result %zu has another shape or dtype than MLX's", i, k);
	free(want.data);
}

/* tenon accepts them too, but for scales and biases of different dtypes and group sizes that MLX cannot write. */
static void test_accepted(void **state)
{
	size_t i;
	json_t *e;
	(void)state;
	json_array_foreach(json_object_get(manifest, "accepted"), i, e) {
		struct call c = parse(json_object_get(e, "call"));
		const json_t *expected = json_object_get(e, "result");
		struct tn_quantized out;
		struct tn_error err = { 0 };
		tn_status status = run(&c, &out, &err);
		int mixed = c.w.biases.data && c.w.biases.dtype != c.w.scales.dtype;
		if (mixed || c.q.group_size == 16) {
			assert_int_equal(status, mixed ? TN_E_UNSUPPORTED : TN_E_ARG);
		} else {
			if (status != TN_OK)
				fail_msg("accepted %zu: %s", i, err.msg);
			check_result(i, 0, &out.weight, expected);
			if (json_array_size(expected) > 1) {
				check_result(i, 1, &out.scales, expected);
				check_result(i, 2, &out.biases, expected);
			}
		}
		tn_quantized_release(test_context(), &out);
		call_release(&c);
	}
}

/* What MLX does not check: it reads past the end. */
static void test_checks_mlx_forgets(void **state)
{
	static float x[2 * 128], scales[5 * 2];
	static uint32_t w[4 * 16], index[1] = { 7 };
	const struct tn_quantization q = { 64, 4, NULL, 0 };
	struct tn_array ax = { TN_F32, 2, { 2, 128 }, x, sizeof x }, at = { TN_U32, 1, { 1 }, index, sizeof index };
	struct tn_array as = { TN_F32, 2, { 3, 2 }, scales, sizeof scales }, y;
	struct tn_quantized m = { { TN_U32, 2, { 4, 16 }, w, sizeof w }, as, as, { 0 } };
	struct tn_error err;
	(void)state;
	assert_int_equal(tn_quantized_matmul(test_context(), &ax, &m, 1, &q, &y, &err), TN_E_ARG);
	assert_non_null(strstr(err.msg, "same number of rows"));
	m.scales.shape[0] = m.biases.shape[0] = 4;
	assert_int_equal(tn_gather_qmm(test_context(), &ax, &m, NULL, &at, 1, &q, &y, &err), TN_E_ARG);
	assert_non_null(strstr(err.msg, "index 7 of rhs_indices is out of range"));
}

int main(void)
{
	struct tn_error err;
	if (tn_json_load(test_context(), TN_TEST_VECTORS "/manifest.json", &manifest, &err) != TN_OK) {
		fprintf(stderr, "%s\n", err.msg);
		return 1;
	}
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_accepted),
		cmocka_unit_test(test_checks_mlx_forgets),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);
	json_decref(manifest);
	return failed;
}
