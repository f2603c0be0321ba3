/* SPDX-License-Identifier: Apache-2.0 */
/* Layers beside mlx-lm's own (data/layers.json, made by make_layer_vectors.py): every combination of dtypes, dense and quantized.
 * The dtype is mlx-lm's; the values are within what mlx-lm's own roundings lose, and closer to the sums in double. */
#include "layerlib.h"

#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static float word(const char *hex)
{
	char digits[9] = { 0 };
	float x;
	memcpy(digits, hex, 8);
	uint32_t u = (uint32_t)strtoul(digits, NULL, 16);
	memcpy(&x, &u, sizeof x);
	return x;
}

static tn_dtype dtype_of(const json_t *c, const char *key)
{
	const char *name = json_string_value(json_object_get(c, key));
	return strcmp(name, "F32") == 0 ? TN_F32 : strcmp(name, "F16") == 0 ? TN_F16 : TN_BF16;
}

static struct tn_array input(struct lay *t, const json_t *inputs, const char *name, tn_dtype dtype)
{
	const json_t *in = json_object_get(inputs, name), *shape = json_object_get(in, "shape");
	const char *values = json_string_value(json_object_get(in, "values"));
	uint64_t d[3] = { 0 };
	for (size_t i = 0; i < json_array_size(shape); i++)
		d[i] = (uint64_t)json_integer_value(json_array_get(shape, i));
	struct tn_array a = ly_make(t, dtype, d[0], d[1], d[2]);
	for (uint64_t i = 0; i < ly_elements(&a); i++)
		ly_store(&a, i, (double)word(values + 8 * i));
	return a;
}

struct names {
	const char *w, *bias, *a, *b, *x;
	tn_layer_kind kind;
};

static struct names names_of(const char *kind)
{
	if (strstr(kind, "embedding"))
		return (struct names){ "w", NULL, "table_a", "table_b", "table_x", TN_LAYER_EMBEDDING };
	if (strcmp(kind, "experts") == 0)
		return (struct names){ "stack_w", "stack_bias", "stack_a", "stack_b", "x", TN_LAYER_EXPERTS };
	return (struct names){ "w", "bias", "a", "b", "x", TN_LAYER_LINEAR };
}

static tn_layer *layer_of(struct lay *t, const json_t *root, const json_t *c, struct tn_linear_weight *w)
{
	const json_t *inputs = json_object_get(root, "inputs");
	const char *kind = json_string_value(json_object_get(c, "kind")), *mode = json_string_value(json_object_get(c, "mode"));
	struct names n = names_of(kind);
	tn_dtype base = dtype_of(c, "base"), factors = dtype_of(c, "factors");
	struct tn_layer_factors f = { .lora_a = input(t, inputs, n.a, factors), .lora_b = input(t, inputs, n.b, factors),
				      .scale = json_number_value(json_object_get(root, "scale")), .inputs_first = 1 };
	tn_layer *l;
	*w = (struct tn_linear_weight){ .dense = input(t, inputs, n.w, base) };
	if (n.bias && (n.kind == TN_LAYER_EXPERTS || json_is_true(json_object_get(c, "bias"))))
		w->bias = input(t, inputs, n.bias, base);
	if (strstr(kind, "dora"))
		f.magnitude = input(t, inputs, "m", factors);
	if (strcmp(mode, "dense") != 0) {
		w->q = (struct tn_quantization){ 32, 4, mode, 0 };
		OK(tn_quantize(t->ctx, &w->dense, &w->q, NULL, TN_FLAVOUR_CPU, &w->quantized, &t->err));
		w->dense.data = NULL;
	}
	OK(tn_layer_create_with(t->ctx, w, n.kind, &f, &l, &t->err));
	return l;
}

static struct tn_array compute(struct lay *t, const json_t *root, const json_t *c, const tn_layer *l)
{
	const char *kind = json_string_value(json_object_get(c, "kind"));
	struct tn_array x = input(t, json_object_get(root, "inputs"), names_of(kind).x, dtype_of(c, "x")), y;
	uint32_t picks[2];
	for (size_t i = 0; i < 2; i++)
		picks[i] = (uint32_t)json_integer_value(json_array_get(json_object_get(root, strcmp(kind, "experts") ? "ids" : "choice"), i));
	struct tn_array ids = { .dtype = TN_U32, .rank = 1, .shape = { 2 }, .data = picks, .bytes = sizeof picks };
	if (strcmp(kind, "experts") == 0)
		OK(tn_layer_forward_experts(l, &x, picks, &y, &t->err));
	else if (strstr(kind, "rows"))
		OK(tn_layer_lookup(l, &ids, &y, &t->err));
	else
		OK(tn_layer_forward(l, &x, &y, &t->err));
	return y;
}

/* What mlx-lm may lose: a few units of the narrowest dtype that takes part, of the largest value. Its norms of half weights are
 * summed in half. */
static double tolerance_of(const json_t *c)
{
	static const char *const keys[] = { "base", "factors", "x", "dtype" };
	int bf16 = strcmp(json_string_value(json_object_get(c, "mode")), "mxfp4") == 0, f16 = 0;
	for (size_t i = 0; i < 4; i++) {
		bf16 |= dtype_of(c, keys[i]) == TN_BF16;
		f16 |= dtype_of(c, keys[i]) == TN_F16;
	}
	return bf16 ? 0.02 : f16 ? 0.003 : 1e-5;
}

static void every_combination_of_mlx_lm(void **state)
{
	struct lay *t = *state;
	json_t *root = json_load_file(TEST_SOURCE "/data/layers.json", 0, NULL), *c;
	size_t i;
	assert_non_null(root);
	json_array_foreach(json_object_get(root, "cases"), i, c) {
		const char *expected = json_string_value(json_object_get(c, "y")), *kind = json_string_value(json_object_get(c, "kind"));
		struct tn_linear_weight w;
		tn_layer *l = layer_of(t, root, c, &w);
		struct tn_array y = compute(t, root, c, l);
		double largest = 0, most = 0;
		if (y.dtype != dtype_of(c, "dtype"))
			fail_msg("case %zu, %s: %s, and mlx-lm gives %s", i, kind, tn_dtype_name(y.dtype),
				 json_string_value(json_object_get(c, "dtype")));
		assert_int_equal(strlen(expected), 8 * ly_elements(&y));
		for (uint64_t k = 0; k < ly_elements(&y); k++) {
			largest = fmax(largest, fabs((double)word(expected + 8 * k)));
			most = fmax(most, fabs(ly_load(&y, k) - (double)word(expected + 8 * k)));
		}
		if (most > tolerance_of(c) * largest)
			fail_msg("case %zu, %s: off by %g of %g", i, kind, most, largest);
		tn_array_release(t->ctx, &y);
		tn_layer_destroy(l);
		tn_quantized_release(t->ctx, &w.quantized);
		ly_forget(t);
	}
	assert_int_equal(i, 469);
	json_decref(root);
}

int main(void)
{
	const struct CMUnitTest tests[] = { LY_TEST(every_combination_of_mlx_lm) };
	return cmocka_run_group_tests(tests, NULL, NULL);
}
