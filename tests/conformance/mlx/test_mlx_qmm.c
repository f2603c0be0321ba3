/* SPDX-License-Identifier: Apache-2.0 */
/* quantized_matmul and gather_qmm against float64 products and against MLX, which adds in the dtype of the result and
 * is therefore further from the truth. The distances are printed, in units of the last place of the result's dtype. */
#include "vectors.h"

#include "base/file.h"
#include "base/half.h"
#include "base/text.h"
#include "store/json_doc.h"
#include "tenon/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An array as the calls take it; of absent tensors, empty. */
static struct tn_array as_array(const struct vector *v)
{
	struct tn_array a = { 0 };
	if (!v->tensor)
		return a;
	a.dtype = v->tensor->dtype;
	a.rank = v->tensor->rank;
	if (a.rank)
		memcpy(a.shape, v->tensor->shape, a.rank * sizeof *a.shape);
	a.data = v->bytes.data;
	a.bytes = v->bytes.bytes;
	return a;
}

static struct tn_array load(const tn_safetensors *file, struct vector *keep, const char *fmt, const char *name)
{
	char full[128];
	snprintf(full, sizeof full, fmt, name);
	vector_load(file, full, keep);
	return as_array(keep);
}

static float *floats_of(const struct tn_array *a)
{
	uint64_t n = 1;
	for (uint32_t i = 0; i < a->rank; i++)
		n *= a->shape[i];
	struct tn_tensor t = { .dtype = a->dtype, .elements = n };
	struct vector v = { &t, { a->data, a->bytes } };
	return vector_floats(&v);
}

/* The last place of a dtype at x. */
static double ulp(double x, tn_dtype dtype)
{
	int digits = dtype == TN_F32 ? 24 : dtype == TN_F16 ? 11 : 8, e;
	frexp(x, &e);
	int least = dtype == TN_F16 ? -24 : -149;
	return ldexp(1, e - digits > least ? e - digits : least);
}

static struct {
	double ours, theirs;
} worst[TN_DTYPE_COUNT];

/* ---- one matrix ------------------------------------------------------------------------------------------ */

struct subject {
	const char *name;
	tn_safetensors *file;
	struct vector parts[3];
	struct tn_quantized w;
	struct tn_quantization q;
	struct tn_array dense; /* w in float32 */
};

static void subject_open(struct subject *s, const char *name)
{
	const char *kind;
	struct tn_error err;
	const char *plain = tn_starts_with(name, "gather_") ? name + 7 : name;
	struct tn_format f = vectors_format(plain, &kind);
	*s = (struct subject){ .name = name, .file = vectors_open("qmm", name) };
	s->w.weight = load(s->file, &s->parts[0], "%s", "w_q");
	s->w.scales = load(s->file, &s->parts[1], "%s", "scales");
	s->w.biases = load(s->file, &s->parts[2], "%s", "biases");
	s->q = (struct tn_quantization){ f.group, f.bits, tn_kernels_for(NULL)->codec[f.codec]->name, 0 };
	if (tn_dequantize(test_context(), &s->w, &s->q, TN_F32, 0, &s->dense, &err) != TN_OK)
		fail_msg("%s", err.msg);
}

static void subject_close(struct subject *s)
{
	for (int i = 0; i < 3; i++)
		vector_release(&s->parts[i]);
	tn_array_release(test_context(), &s->dense);
	tn_safetensors_close(s->file);
}

/* Result i of y [m, n] in double, and the sum of magnitudes that bounds the roundings. */
static double truth(const struct subject *s, const float *x, uint64_t i, int transpose, double *magnitude)
{
	const float *w = s->dense.data;
	uint64_t rows = s->dense.shape[0], cols = s->dense.shape[1];
	uint64_t n = transpose ? rows : cols, k = transpose ? cols : rows;
	double sum = 0;
	*magnitude = 0;
	for (uint64_t j = 0; j < k; j++) {
		double term = (double)x[i / n * k + j] * (double)(transpose ? w[i % n * k + j] : w[j * n + i % n]);
		sum += term;
		*magnitude += fabs(term);
	}
	return sum;
}

static void compare(const struct subject *s, const char *what, const float *x, const float *y, const float *theirs,
		    const double *f64, uint64_t n, tn_dtype dtype, int transpose)
{
	for (uint64_t i = 0; i < n; i++) {
		double magnitude, t = truth(s, x, i, transpose, &magnitude);
		double last = ulp(t, dtype), allowed = last / 2 + 130 * 0x1p-24 * magnitude;
		if (f64 && fabs(f64[i] - t) > 0x1p-22 * magnitude)
			fail_msg("%s %s [%zu]: the vectors say %g, decoding says %g", s->name, what, (size_t)i, f64[i],
				 t);
		if (!(fabs((double)y[i] - t) <= allowed))
			fail_msg("%s %s [%zu]: %g, exact is %g", s->name, what, (size_t)i, (double)y[i], t);
		/* where terms cancel, units of the result say nothing */
		if (fabs(t) > magnitude / 8) {
			worst[dtype].ours = fmax(worst[dtype].ours, fabs((double)y[i] - t) / last);
			worst[dtype].theirs = fmax(worst[dtype].theirs, fabs((double)theirs[i] - t) / last);
		}
	}
}

static void check_product(struct subject *s, const char *direction, int m)
{
	struct vector vx, vy, vf;
	struct tn_array y;
	struct tn_error err;
	char name[32];
	snprintf(name, sizeof name, "%s_m%d", direction, m);
	struct tn_array x = load(s->file, &vx, "x_%s", name);
	load(s->file, &vy, "y_%s", name);
	snprintf(name, sizeof name, "%s_f64_m%d", direction, m);
	load(s->file, &vf, "y_%s", name);
	int transpose = direction[0] == 't';
	if (tn_quantized_matmul(test_context(), &x, &s->w, transpose, &s->q, &y, &err) != TN_OK)
		fail_msg("%s: %s", s->name, err.msg);
	assert_int_equal(y.dtype, vy.tensor->dtype);
	assert_int_equal(y.rank, 2);
	assert_memory_equal(y.shape, vy.tensor->shape, 2 * sizeof *y.shape);
	float *xs = vector_floats(&vx), *ys = floats_of(&y), *theirs = vector_floats(&vy);
	compare(s, direction, xs, ys, theirs, vf.tensor ? vf.bytes.data : NULL, vy.tensor->elements, y.dtype,
		transpose);
	free(xs);
	free(ys);
	free(theirs);
	tn_array_release(test_context(), &y);
	vector_release(&vx);
	vector_release(&vy);
	vector_release(&vf);
}

/* ---- gathered, and of other shapes ----------------------------------------------------------------------- */

/* Against MLX's own result: wide enough for its sums in the dtype, and far too narrow for a wrong row. */
static void compare_loosely(const char *what, const struct tn_array *y, const struct vector *expected)
{
	static const double part_of_largest[] = { [TN_F32] = 1e-5, [TN_F16] = 0.02, [TN_BF16] = 0.1 };
	float *ours = floats_of(y), *theirs = vector_floats(expected);
	double largest = 0;
	assert_int_equal(y->dtype, expected->tensor->dtype);
	assert_int_equal(y->rank, expected->tensor->rank);
	for (uint32_t i = 0; i < y->rank; i++)
		assert_int_equal(y->shape[i], expected->tensor->shape[i]);
	for (uint64_t i = 0; i < expected->tensor->elements; i++)
		largest = fmax(largest, fabs((double)theirs[i]));
	for (uint64_t i = 0; i < expected->tensor->elements; i++)
		if (!(fabs((double)ours[i] - (double)theirs[i]) <= part_of_largest[y->dtype] * largest))
			fail_msg("%s [%zu]: %g, MLX has %g", what, (size_t)i, (double)ours[i], (double)theirs[i]);
	free(ours);
	free(theirs);
}

/* Against the float64 products that some cases have. */
static void compare_closely(const char *what, const struct tn_array *y, const struct vector *f64)
{
	float *ours = floats_of(y);
	const double *exact = f64->bytes.data;
	double largest = 0;
	for (uint64_t i = 0; i < f64->tensor->elements; i++)
		largest = fmax(largest, fabs(exact[i]));
	for (uint64_t i = 0; i < f64->tensor->elements; i++)
		if (!(fabs((double)ours[i] - exact[i]) <= ulp(exact[i], y->dtype) / 2 + 0x1p-17 * largest))
			fail_msg("%s [%zu]: %g, exact is %g", what, (size_t)i, (double)ours[i], exact[i]);
	free(ours);
}

static void check_gather(struct subject *s, const char *name)
{
	struct vector vx, vl, vr, vy, vf;
	struct tn_array y;
	struct tn_error err;
	char what[96], f64[32];
	snprintf(what, sizeof what, "%s %s", s->name, name);
	snprintf(f64, sizeof f64, "y_%s_f64", name);
	struct tn_array x = load(s->file, &vx, "x_%s", name), lhs = load(s->file, &vl, "lhs_%s", name);
	struct tn_array rhs = load(s->file, &vr, "rhs_%s", name);
	load(s->file, &vy, "y_%s", name);
	if (tn_gather_qmm(test_context(), &x, &s->w, lhs.data ? &lhs : NULL, rhs.data ? &rhs : NULL, name[0] != 'n',
			  &s->q, &y, &err) != TN_OK)
		fail_msg("%s: %s", what, err.msg);
	compare_loosely(what, &y, &vy);
	if (vector_load(s->file, f64, &vf))
		compare_closely(what, &y, &vf);
	tn_array_release(test_context(), &y);
	vector_release(&vx);
	vector_release(&vl);
	vector_release(&vr);
	vector_release(&vy);
	vector_release(&vf);
}

static void for_files(const char *prefix, void (*check)(struct subject *s))
{
	struct tn_names names;
	assert_int_equal(tn_folder_list(test_context(), TN_TEST_VECTORS "/qmm", &names, NULL), TN_OK);
	for (size_t i = 0; i < names.count; i++) {
		struct subject s;
		int gather = tn_starts_with(names.items[i], "gather_");
		if (tn_starts_with(names.items[i], "shapes") || gather != (prefix[0] != '\0'))
			continue;
		subject_open(&s, names.items[i]);
		check(&s);
		subject_close(&s);
	}
	tn_names_release(&names);
}

static void check_products(struct subject *s)
{
	static const int counts[] = { 1, 3, 17 };
	for (int i = 0; i < 3; i++) {
		check_product(s, "t", counts[i]);
		check_product(s, "n", counts[i]);
	}
}

static void check_gathers(struct subject *s)
{
	static const char *const names[] = { "tok", "sorted", "both", "lhs", "grid", "n" };
	for (int i = 0; i < 6; i++)
		check_gather(s, names[i]);
}

static void test_products(void **state)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	(void)state;
	for_files("", check_products);
	for (int i = 0; i < 3; i++)
		print_message("%s: at most %.2f ulp from the exact product, MLX on a CPU %.2f\n",
			      tn_dtype_name(dtypes[i]), worst[dtypes[i]].ours, worst[dtypes[i]].theirs);
}

static void test_gathers(void **state)
{
	(void)state;
	for_files("gather_", check_gathers);
}

static void test_shapes(void **state)
{
	static const char *const names[] = { "x1d",          "batch_x",      "batch_both",
					     "broadcast",    "first_only",   "x_f32_w_bf16",
					     "x_bf16_w_f32", "x_f16_w_bf16", "x_int32_w_f16" };
	const struct tn_quantization q = { 64, 4, "affine", 0 };
	tn_safetensors *file = vectors_open("qmm", "shapes.safetensors");
	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct vector v[5];
		struct tn_array y;
		struct tn_error err;
		struct tn_array x = load(file, &v[0], "x_%s", names[i]);
		struct tn_quantized w = { .weight = load(file, &v[1], "w_q_%s", names[i]) };
		w.scales = load(file, &v[2], "scales_%s", names[i]);
		w.biases = load(file, &v[3], "biases_%s", names[i]);
		load(file, &v[4], "y_%s", names[i]);
		tn_status status = tn_quantized_matmul(test_context(), &x, &w, 1, &q, &y, &err);
		if (strcmp(names[i], "first_only") == 0) { /* MLX takes w[0] alone; tenon refuses */
			assert_int_equal(status, TN_E_ARG);
		} else {
			assert_int_equal(status, TN_OK);
			compare_loosely(names[i], &y, &v[4]);
			tn_array_release(test_context(), &y);
		}
		for (int k = 0; k < 5; k++)
			vector_release(&v[k]);
	}
	tn_safetensors_close(file);
}

/* The same bits for any number of threads and with any kernels. */
static void test_same_bits_everywhere(void **state)
{
	struct subject s;
	struct vector vx;
	struct tn_array first = { 0 };
	(void)state;
	subject_open(&s, "affine_b4_g64_bf16.safetensors");
	struct tn_array x = load(s.file, &vx, "x_%s", "t_m17");
	for (unsigned threads = 1; threads <= 4; threads += 3)
		for (unsigned isa = 0; tn_kernels_isa_name(isa); isa++) {
			struct tn_options options = TN_OPTIONS_INIT;
			tn_context *ctx;
			struct tn_array y;
			options.threads = threads;
			options.isa = tn_kernels_isa_name(isa);
			if (tn_context_create(&options, &ctx, NULL) != TN_OK)
				continue;
			assert_int_equal(tn_quantized_matmul(ctx, &x, &s.w, 1, &s.q, &y, NULL), TN_OK);
			if (!first.data) {
				first = y;
				first.data = malloc(y.bytes);
				memcpy(first.data, y.data, y.bytes);
			}
			assert_memory_equal(first.data, y.data, y.bytes);
			tn_array_release(ctx, &y);
			tn_context_destroy(ctx);
		}
	free(first.data);
	vector_release(&vx);
	subject_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_products),
		cmocka_unit_test(test_gathers),
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_same_bits_everywhere),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
