/* SPDX-License-Identifier: Apache-2.0 */
/* MLX "nvfp4": 16 elements E2M1 share a scale E4M3; w = element * scale, and with a global scale, the absolute maximum
 * of the tensor, w = element * scale * global_scale / 2688 (2688 = 6 * 448).
 *
 * The encoder is MLX 0.32.4's on a CPU (mlx/ops.cpp, fp_quantize): the division is rounded to the input's dtype T, what
 * follows to float32. */
#include "kernels/dither.h"
#include "kernels/isa_build.h"

enum { GROUP = 16 };

/* ---- decoding -------------------------------------------------------------------------------------------- */

TN_INLINE void decode_row(float *dst, const struct tn_row *row, size_t cols, tn_dtype dtype)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++) {
		float scale = tn_f32_from_f8_e4m3(scales[g]);
		for (int i = 0; i < GROUP / 2; i++) {
			dst[2 * i] = round_to(e2m1_decode(src[i] & 15u) * scale, dtype);
			dst[2 * i + 1] = round_to(e2m1_decode(src[i] >> 4) * scale, dtype);
		}
		dst += GROUP;
		src += GROUP / 2;
	}
}

/* The value in double: element, scale and global scale have 30 bits together, and the quotient by 2688 cannot come
 * close enough to the middle of two floats for the second rounding to matter. */
static void decode_global(float *dst, const struct tn_row *row, size_t cols, float global_scale)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t i = 0; i < cols; i++) {
		unsigned code = src[i / 2] >> (i % 2 * 4) & 15u;
		double product = (double)(e2m1_decode(code) * tn_f32_from_f8_e4m3(scales[i / GROUP]));
		dst[i] = (float)(product * (double)global_scale / 2688.0);
	}
}

/* MLX: float32 whatever dtype was asked for, rounded three times. */
static void decode_global_like_mlx(float *dst, const struct tn_row *row, size_t cols, float global_scale)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	const float factor = global_scale / 2688.0f;
	for (size_t i = 0; i < cols; i++) {
		float scale = tn_f32_from_f8_e4m3(scales[i / GROUP]) * factor;
		dst[i] = e2m1_decode(src[i / 2] >> (i % 2 * 4) & 15u) * scale;
	}
}

/* Without a global scale every product is a float32, so rounding to F32 is no rounding. */
static void decode(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	if (f->has_global_scale && f->like_mlx)
		decode_global_like_mlx(dst, row, cols, f->global_scale);
	else if (f->has_global_scale)
		decode_global(dst, row, cols, f->global_scale);
	else if (!f->like_mlx || f->dtype == TN_F32)
		decode_row(dst, row, cols, TN_F32);
	else if (f->dtype == TN_F16)
		decode_row(dst, row, cols, TN_F16);
	else
		decode_row(dst, row, cols, TN_BF16);
}

/* ---- encoding -------------------------------------------------------------------------------------------- */

TN_INLINE uint8_t encode_group(unsigned char *dst, const float *w, float factor, tn_dtype dtype)
{
	float x[GROUP], s = round_to(abs_max(w, GROUP) / 6.0f, dtype);
	uint8_t byte = e4m3_encode(s * factor);
	float scale = tn_f32_from_f8_e4m3(byte); /* 0 for tiny groups: x is then NaN or infinite, and its code 0 */
	for (int i = 0; i < GROUP; i++)
		x[i] = round_to(w[i] / scale, dtype) * factor;
	e2m1_encode_cpu(dst, x, GROUP, TN_F32);
	return byte;
}

TN_INLINE void encode_cpu(const struct tn_row_out *row, const float *src, size_t cols, float factor, tn_dtype dtype)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++)
		scales[g] = encode_group(dst + g * GROUP / 2, src + g * GROUP, factor, dtype);
}

static void encode_gpu(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols,
		       float factor)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++, src += GROUP, dst += GROUP / 2) {
		scales[g] = e4m3_encode(abs_max(src, GROUP) / 6.0f * factor);
		float scale = tn_f32_from_f8_e4m3(scales[g]);
		/* CUDA does not look for zero: 0 * inf = NaN, code 7 */
		e2m1_encode_gpu(dst, src, f->flavour == TN_ENCODE_METAL && scale == 0 ? 0 : factor / scale, GROUP);
	}
}

static void encode(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	float factor = f->has_global_scale ? 2688.0f / f->global_scale : 1.0f;
	if (f->flavour != TN_ENCODE_CPU)
		encode_gpu(row, src, f, cols, factor);
	else if (f->dtype == TN_F32)
		encode_cpu(row, src, cols, factor, TN_F32);
	else if (f->dtype == TN_F16)
		encode_cpu(row, src, cols, factor, TN_F16);
	else
		encode_cpu(row, src, cols, factor, TN_BF16);
}

/* ---- moving codes ---------------------------------------------------------------------------------------- */

/* What an element is multiplied by. */
static float row_scale(uint8_t byte, const struct tn_format *f)
{
	float scale = tn_f32_from_f8_e4m3(byte);
	return f->has_global_scale ? (float)((double)scale * (double)f->global_scale / 2688.0) : scale;
}

static void dither(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
		   uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	e2m1_dither_row(codes, row, d, f, cols, GROUP, row_scale, row_seed(seed, row_number), counts);
}

static double steps2(const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	return e2m1_steps2(row, f, cols, GROUP, row_scale);
}

static size_t part_bytes(const struct tn_format *f, unsigned part, size_t cols)
{
	(void)f;
	return part == TN_PART_WEIGHT ? cols / 2 : part == TN_PART_SCALES ? cols / GROUP : 0;
}

extern const struct tn_codec TN_ISA_NAME(tn_codec_nvfp4);
const struct tn_codec TN_ISA_NAME(tn_codec_nvfp4) = {
	.name = "nvfp4",
	.decode = decode,
	.encode = encode,
	.dither = dither,
	.steps2 = steps2,
	.part_bytes = part_bytes,
	.bits = { 4 },
	.groups = { GROUP },
	.byte_scales = 1,
	.takes_global_scale = 1,
};
