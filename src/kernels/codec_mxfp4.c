/* SPDX-License-Identifier: Apache-2.0 */
/* MLX "mxfp4": 32 elements E2M1 share a power of two (E8M0); w = element * 2^(byte - 127).
 *
 * The encoder is MLX 0.32.4's on a CPU, in the arithmetic of the input's dtype T (mlx/ops.cpp, fp_quantize): the scale
 * is the smallest power of two >= T(amax / 6). A group of zeros has byte 0x7F. */
#include "kernels/dither.h"
#include "kernels/isa_build.h"

enum { GROUP = 32 };

/* ---- decoding -------------------------------------------------------------------------------------------- */

TN_INLINE void decode_row(float *dst, const struct tn_row *row, size_t cols, tn_dtype dtype)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++) {
		float scale = round_to(e8m0_decode(scales[g]), dtype);
		for (int i = 0; i < GROUP / 2; i++) {
			dst[2 * i] = round_to(e2m1_decode(src[i] & 15u) * scale, dtype);
			dst[2 * i + 1] = round_to(e2m1_decode(src[i] >> 4) * scale, dtype);
		}
		dst += GROUP;
		src += GROUP / 2;
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
	float x[GROUP], s = round_to(abs_max(w, GROUP) / 6.0f, dtype);
	if (!isfinite(s)) {
		/* every distance is infinite or NaN, so every code is the first; the byte is what x86-64 makes of the
		 * conversion, which C leaves open */
		memset(dst, 0, GROUP / 2);
		return dtype == TN_F32 ? 0x80 : 0;
	}
	int e = s == 0 ? 0 : ceil_log2(s);
	float scale = power_of_two(e);
	for (int i = 0; i < GROUP; i++)
		x[i] = round_to(w[i] / scale, dtype);
	e2m1_encode_cpu(dst, x, GROUP, dtype);
	return (uint8_t)(e + 127); /* below 2^-127 the byte wraps, as MLX's does */
}

TN_INLINE void encode_cpu(const struct tn_row_out *row, const float *src, size_t cols, tn_dtype dtype)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++)
		scales[g] = encode_group(dst + g * GROUP / 2, src + g * GROUP, dtype);
}

static void encode_gpu(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++, src += GROUP, dst += GROUP / 2) {
		scales[g] = e8m0_round_up(abs_max(src, GROUP) / 6.0f);
		float scale = e8m0_decode(scales[g]);
		e2m1_encode_gpu(dst, src, f->flavour == TN_ENCODE_METAL && scale == 0 ? 0 : 1.0f / scale, GROUP);
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

static float row_scale(uint8_t byte, const struct tn_format *f)
{
	(void)f;
	return e8m0_decode(byte);
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

extern const struct tn_codec TN_ISA_NAME(tn_codec_mxfp4);
const struct tn_codec TN_ISA_NAME(tn_codec_mxfp4) = {
	.name = "mxfp4",
	.decode = decode,
	.encode = encode,
	.dither = dither,
	.steps2 = steps2,
	.part_bytes = part_bytes,
	.bits = { 4 },
	.groups = { GROUP },
	.byte_scales = 1,
};
