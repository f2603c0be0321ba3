/* SPDX-License-Identifier: Apache-2.0 */
/* MLX "mxfp8": 32 elements E4M3 share a power of two (E8M0); w = element * 2^(byte - 127).
 *
 * The encoder is MLX 0.32.4's on a CPU, in the arithmetic of the input's dtype T (mlx/ops.cpp, fp_quantize): the scale
 * is the smallest power of two >= T(amax / 448). A group of zeros has byte 0x7F, and keeps the signs of its zeros. */
#include "kernels/dither.h"
#include "kernels/isa_build.h"

enum { GROUP = 32 };

/* ---- decoding -------------------------------------------------------------------------------------------- */

TN_INLINE void decode_row(float *dst, const struct tn_row *row, size_t cols, tn_dtype dtype)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++) {
		float scale = round_to(e8m0_decode(scales[g]), dtype);
		for (int i = 0; i < GROUP; i++)
			dst[i] = round_to(tn_f32_from_f8_e4m3(src[i]) * scale, dtype);
		dst += GROUP;
		src += GROUP;
	}
}

/* Every product is a float32, so rounding to F32 is no rounding. */
static void decode(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	if (!f->like_mlx || f->dtype == TN_F32)
		decode_row(dst, row, cols, TN_F32);
	else if (f->dtype == TN_F16)
		decode_row(dst, row, cols, TN_F16);
	else
		decode_row(dst, row, cols, TN_BF16);
}

/* ---- encoding -------------------------------------------------------------------------------------------- */

TN_INLINE uint8_t encode_group(unsigned char *dst, const float *w, tn_dtype dtype)
{
	float s = round_to(abs_max(w, GROUP) / 448.0f, dtype);
	int finite = isfinite(s), e = s == 0 || !finite ? 0 : ceil_log2(s);
	float scale = finite ? power_of_two(e) : 0; /* x / 0 saturates, with the sign of x */
	for (int i = 0; i < GROUP; i++)
		dst[i] = e4m3_encode(round_to(w[i] / scale, dtype));
	if (!finite) /* what x86-64 makes of a conversion that C leaves open */
		return dtype == TN_F32 ? 0x80 : 0;
	return (uint8_t)(e + 127); /* below 2^-127 the byte wraps, as MLX's does */
}

TN_INLINE void encode_cpu(const struct tn_row_out *row, const float *src, size_t cols, tn_dtype dtype)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++)
		scales[g] = encode_group(dst + g * GROUP, src + g * GROUP, dtype);
}

static void encode_gpu(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++, src += GROUP, dst += GROUP) {
		scales[g] = e8m0_round_up(abs_max(src, GROUP) / 448.0f);
		float factor = 1.0f / e8m0_decode(scales[g]);
		for (int i = 0; i < GROUP; i++) {
			float x = src[i] * factor;
			dst[i] = x != x && f->flavour == TN_ENCODE_CUDA ? 0x7F : e4m3_encode(x);
		}
	}
}

static void encode(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	if (f->flavour != TN_ENCODE_CPU)
		encode_gpu(row, src, f, cols);
	else if (f->dtype == TN_F32)
		encode_cpu(row, src, cols, TN_F32);
	else if (f->dtype == TN_F16)
		encode_cpu(row, src, cols, TN_F16);
	else
		encode_cpu(row, src, cols, TN_BF16);
}

/* ---- moving codes ---------------------------------------------------------------------------------------- */

static void dither(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
		   uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	unsigned char *dst = codes;
	uint32_t hash = row_seed(seed, row_number);
	(void)f;
	for (size_t i = 0; i < cols; i++) {
		int clamped = 0;
		unsigned byte = src[i];
		dst[i] = (unsigned char)e4m3_dither(byte, d[i] / e8m0_decode(scales[i / GROUP]), uniform(hash, i), &clamped);
		counts->moved += dst[i] != byte;
		counts->clamped += (uint64_t)clamped;
	}
}

static double steps2(const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	double sum = 0;
	(void)f;
	for (size_t i = 0; i < cols; i++) {
		double step = (double)(e4m3_step(src[i]) * e8m0_decode(scales[i / GROUP]));
		sum += step * step;
	}
	return sum;
}

static size_t part_bytes(const struct tn_format *f, unsigned part, size_t cols)
{
	(void)f;
	return part == TN_PART_WEIGHT ? cols : part == TN_PART_SCALES ? cols / GROUP : 0;
}

extern const struct tn_codec TN_ISA_NAME(tn_codec_mxfp8);
const struct tn_codec TN_ISA_NAME(tn_codec_mxfp8) = {
	.name = "mxfp8",
	.decode = decode,
	.encode = encode,
	.dither = dither,
	.steps2 = steps2,
	.part_bytes = part_bytes,
	.bits = { 8 },
	.groups = { GROUP },
	.byte_scales = 1,
};
