/* SPDX-License-Identifier: Apache-2.0 */
/* Every quant/ vector, byte for byte, with the kernels of every instruction set that this CPU has. */
#include "vectors.h"

#include "base/file.h"
#include "base/half.h"
#include "base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* One file with one set of kernels. */
struct subject {
	const char *name;
	const tn_safetensors *file;
	const struct tn_codec *codec;
	const char *isa;
	struct tn_format format;
	struct vector part[TN_PART_COUNT];
	uint64_t rows, cols;
};

static const char *const part_names[TN_PART_COUNT] = { "w_q", "scales", "biases" };

static size_t row_bytes(const struct subject *s, unsigned part)
{
	return s->codec->part_bytes(&s->format, part, (size_t)s->cols);
}

/* ---- encoding -------------------------------------------------------------------------------------------- */

static int both_nan(const struct subject *s, unsigned part, const void *a, const void *b, size_t i)
{
	uint16_t x, y;
	float u, v;
	if (part == TN_PART_WEIGHT || s->codec->byte_scales)
		return 0;
	if (s->format.dtype == TN_F32) {
		memcpy(&u, (const char *)a + i / 4 * 4, 4);
		memcpy(&v, (const char *)b + i / 4 * 4, 4);
	} else {
		memcpy(&x, (const char *)a + i / 2 * 2, 2);
		memcpy(&y, (const char *)b + i / 2 * 2, 2);
		u = s->format.dtype == TN_F16 ? tn_f32_from_f16(x) : tn_f32_from_bf16(x);
		v = s->format.dtype == TN_F16 ? tn_f32_from_f16(y) : tn_f32_from_bf16(y);
	}
	return u != u && v != v;
}

static void compare_part(const struct subject *s, unsigned part, const unsigned char *got)
{
	const unsigned char *expected = s->part[part].bytes.data;
	size_t bytes = row_bytes(s, part);
	for (size_t i = 0; i < bytes * s->rows; i++)
		if (got[i] != expected[i] && !both_nan(s, part, got, expected, i))
			fail_msg("%s (%s): %s row %zu byte %zu is %02x, MLX has %02x", s->name, s->isa,
				 part_names[part], i / bytes, i % bytes, got[i], expected[i]);
}

static void check_encode(const struct subject *s, const float *w)
{
	unsigned char *out[TN_PART_COUNT];
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		out[p] = malloc(row_bytes(s, p) * s->rows + 1);
	for (uint64_t r = 0; r < s->rows; r++) {
		struct tn_row_out row;
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			row.part[p] = out[p] + r * row_bytes(s, p);
		s->codec->encode(&row, w + r * s->cols, &s->format, (size_t)s->cols);
	}
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		compare_part(s, p, out[p]);
		free(out[p]);
	}
}

/* ---- decoding -------------------------------------------------------------------------------------------- */

static void decode_row(const struct subject *s, uint64_t r, int like_mlx, tn_dtype dtype, float *dst)
{
	struct tn_row row;
	struct tn_format f = s->format;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		row.part[p] = row_bytes(s, p) ? (const char *)s->part[p].bytes.data + r * row_bytes(s, p) : NULL;
	f.like_mlx = (uint8_t)like_mlx;
	if (s->codec->byte_scales)
		f.dtype = dtype;
	s->codec->decode(dst, &row, &f, (size_t)s->cols);
}

/* Decoding as MLX rounds. */
static void check_like_mlx(const struct subject *s, const char *tensor)
{
	struct vector expected;
	if (!vector_load(s->file, tensor, &expected))
		return;
	float *want = vector_floats(&expected), *got = malloc(s->cols * sizeof *got + 1);
	for (uint64_t r = 0; r < s->rows; r++) {
		decode_row(s, r, 1, expected.tensor->dtype, got);
		for (uint64_t i = 0; i < s->cols; i++)
			if (!same_float(got[i], want[r * s->cols + i]))
				fail_msg("%s (%s): %s row %zu column %zu is %a, MLX has %a", s->name, s->isa, tensor,
					 (size_t)r, (size_t)i, (double)got[i], (double)want[r * s->cols + i]);
	}
	free(got);
	free(want);
	vector_release(&expected);
}

/* The value of one element in double, straight from the definition in spec/quantization.md. */
static double truth(const struct subject *s, uint64_t r, uint64_t i)
{
	const unsigned char *codes = (const unsigned char *)s->part[0].bytes.data + r * row_bytes(s, 0);
	size_t group = (size_t)(r * (s->cols / s->format.group) + i / s->format.group);
	unsigned code = 0;
	for (unsigned b = 0; b < s->format.bits; b++) {
		size_t bit = (size_t)i * s->format.bits + b;
		code |= (codes[bit / 8] >> bit % 8 & 1u) << b;
	}
	if (!s->codec->byte_scales) {
		float *scales = vector_floats(&s->part[1]), *biases = vector_floats(&s->part[2]);
		double y = (double)scales[group] * code + (double)biases[group];
		free(scales);
		free(biases);
		return y;
	}
	static const double e2m1[8] = { 0, .5, 1, 1.5, 2, 3, 4, 6 };
	unsigned char byte = ((const unsigned char *)s->part[1].bytes.data)[group];
	double element = s->format.bits == 4 ? (code & 8 ? -e2m1[code & 7] : e2m1[code])
					     : (double)tn_f32_from_f8_e4m3((uint8_t)code);
	if (s->format.group == 32)
		return byte == 255 ? element * INFINITY : ldexp(element, byte - 127);
	double scaled = element * (double)tn_f32_from_f8_e4m3(byte);
	return s->format.has_global_scale ? scaled * (double)s->format.global_scale / 2688 : scaled;
}

/* Decoding exactly: for F32 affine the sum in double may itself be rounded, so the nearest float is asked for only up
 * to the last bit of that double. */
static void check_exact(const struct subject *s)
{
	float *got = malloc(s->cols * sizeof *got + 1);
	uint64_t step = s->cols * s->rows > 4096 ? 37 : 1; /* the slow reference sees a sample of the columns */
	for (uint64_t r = 0; r < s->rows; r++) {
		decode_row(s, r, 0, s->format.dtype, got);
		for (uint64_t i = r % step; i < s->cols; i += step) {
			double y = truth(s, r, i);
			float low = (float)(y - fabs(y) * 0x1p-52), high = (float)(y + fabs(y) * 0x1p-52);
			if (!same_float(got[i], (float)y) && got[i] != low && got[i] != high)
				fail_msg("%s (%s): row %zu column %zu is %a, exact is %a", s->name, s->isa, (size_t)r,
					 (size_t)i, (double)got[i], y);
		}
	}
	free(got);
}

/* ---- one file -------------------------------------------------------------------------------------------- */

static void check_file(const char *name, const struct tn_kernels *kernels)
{
	const char *kind;
	struct subject s = { .name = name, .file = vectors_open("quant", name), .isa = kernels->isa };
	s.format = strncmp(name, "decode_mxfp8", 12) == 0   ? vectors_format("mxfp8_b8_g32_f32", &kind)
		   : strncmp(name, "decode_mxfp4", 12) == 0 ? vectors_format("mxfp4_b4_g32_f32", &kind)
		   : strncmp(name, "decode_nvfp4", 12) == 0 ? vectors_format("nvfp4_b4_g16_f32", &kind)
							    : vectors_format(name, &kind);
	s.codec = kernels->codec[s.format.codec];
	struct vector global;
	if (vector_load(s.file, "global_scale", &global)) {
		s.format.has_global_scale = 1;
		memcpy(&s.format.global_scale, global.bytes.data, sizeof s.format.global_scale);
		vector_release(&global);
	}
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		vector_load(s.file, part_names[p], &s.part[p]);
	const struct tn_tensor *packed = s.part[0].tensor;
	s.cols = packed->shape[packed->rank - 1] * 32 / s.format.bits;
	s.rows = packed->elements / packed->shape[packed->rank - 1];
	struct vector w;
	if (vector_load(s.file, "w", &w)) {
		float *values = vector_floats(&w);
		check_encode(&s, values);
		free(values);
		vector_release(&w);
	}
	check_like_mlx(&s, "deq");
	check_like_mlx(&s, "deq_f32");
	check_like_mlx(&s, "deq_f16");
	check_like_mlx(&s, "deq_bf16");
	if (!strstr(name, "nonfinite"))
		check_exact(&s);
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		vector_release(&s.part[p]);
	tn_safetensors_close((tn_safetensors *)(uintptr_t)s.file);
}

static void check_files(const char *prefix)
{
	struct tn_names names;
	size_t seen = 0;
	assert_int_equal(tn_folder_list(test_context(), TN_TEST_VECTORS "/quant", &names, NULL), TN_OK);
	for (unsigned isa = 0; tn_kernels_isa_name(isa); isa++) {
		const struct tn_kernels *kernels = tn_kernels_for(tn_kernels_isa_name(isa));
		for (size_t i = 0; kernels && i < names.count; i++)
			if (tn_starts_with(names.items[i], prefix)) {
				check_file(names.items[i], kernels);
				seen++;
			}
	}
	tn_names_release(&names);
	print_message("%zu files of %s compared\n", seen, prefix);
	assert_true(seen > 0);
}

static void test_affine(void **state)
{
	(void)state;
	check_files("affine_");
}
static void test_mxfp4(void **state)
{
	(void)state;
	check_files("mxfp4_");
}
static void test_mxfp8(void **state)
{
	(void)state;
	check_files("mxfp8_");
}
static void test_nvfp4(void **state)
{
	(void)state;
	check_files("nvfp4_");
}
static void test_decode_mxfp4(void **state)
{
	(void)state;
	check_files("decode_mxfp4");
}
static void test_decode_mxfp8(void **state)
{
	(void)state;
	check_files("decode_mxfp8");
}
static void test_decode_nvfp4(void **state)
{
	(void)state;
	check_files("decode_nvfp4");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_affine),       cmocka_unit_test(test_mxfp4),
		cmocka_unit_test(test_mxfp8),        cmocka_unit_test(test_nvfp4),
		cmocka_unit_test(test_decode_mxfp4), cmocka_unit_test(test_decode_mxfp8),
		cmocka_unit_test(test_decode_nvfp4),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
