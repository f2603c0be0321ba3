/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding: affine, E2M1 and E4M3 codes 16 at a time, 16-bit floats in dense_arm.c; the plain decoders do the rest.
 * The same bits: product and sum are fused for F32 alone, as there. */
#include "kernels/arm/codec_arm.h"

#define CODEC(name) extern const struct tn_codec TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC

static const struct tn_codec *const plain[TN_CODEC_COUNT] = {
#define CODEC(name) [TN_CODEC_##name] = &TN_ISA_NAME(tn_codec_##name),
#include "kernels/codecs.def"
#undef CODEC
};

const struct tn_codec *TN_ISA_NAME(tn_plain_codec)(enum tn_codec_id id)
{
	return plain[id];
}

TN_INLINE void decode_4(float *dst, uint32x4_t codes, float32x4_t scale, float32x4_t bias, int fused)
{
	float32x4_t x = vcvtq_f32_u32(codes);
	vst1q_f32(dst, fused ? vfmaq_f32(bias, x, scale) : vaddq_f32(vmulq_f32(x, scale), bias));
}

TN_INLINE void decode_affine_as(float *dst, const struct tn_row *row, size_t group, size_t cols, const int bits, tn_dtype dtype)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	size_t left = cols / 8 * (size_t)bits;
	for (size_t g = 0; g < cols / group; g++) {
		float32x4_t scale = vdupq_n_f32(load_as(row->part[TN_PART_SCALES], g, dtype));
		float32x4_t bias = vdupq_n_f32(load_as(row->part[TN_PART_BIASES], g, dtype));
		for (size_t i = 0; i < group; i += 16, src += 2 * bits, left -= 2 * (size_t)bits, dst += 16) {
			uint32x4_t codes[4];
			widen_16(codes, unpack_16(src, left, bits));
			TN_UNROLL(4)
			for (int v = 0; v < 4; v++)
				decode_4(dst + 4 * v, codes[v], scale, bias, dtype == TN_F32);
		}
	}
}

TN_INLINE void decode_bits(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols, const int bits)
{
	if (f->dtype == TN_F32)
		decode_affine_as(dst, row, f->group, cols, bits, TN_F32);
	else if (f->dtype == TN_F16)
		decode_affine_as(dst, row, f->group, cols, bits, TN_F16);
	else
		decode_affine_as(dst, row, f->group, cols, bits, TN_BF16);
}

static void decode_affine(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	switch (f->bits) {
	case 1: decode_bits(dst, row, f, cols, 1); break;
	case 2: decode_bits(dst, row, f, cols, 2); break;
	case 3: decode_bits(dst, row, f, cols, 3); break;
	case 4: decode_bits(dst, row, f, cols, 4); break;
	case 5: decode_bits(dst, row, f, cols, 5); break;
	case 6: decode_bits(dst, row, f, cols, 6); break;
	default: decode_bits(dst, row, f, cols, 8); break;
	}
}

TN_INLINE void scale_16(float *dst, const float32x4_t values[4], float scale)
{
	TN_UNROLL(4)
	for (int v = 0; v < 4; v++)
		vst1q_f32(dst + 4 * v, vmulq_n_f32(values[v], scale));
}

TN_INLINE void decode_e2m1(float *dst, const struct tn_row *row, size_t cols, const size_t group)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / group; g++) {
		float scale = group == 32 ? e8m0_decode(scales[g]) : tn_f32_from_f8_e4m3(scales[g]);
		for (size_t i = 0; i < group; i += 16, src += 8, dst += 16) {
			float32x4_t values[4];
			e2m1_values(values, unpack_16(src, 8, 4));
			scale_16(dst, values, scale);
		}
	}
}

TN_INLINE void decode_e4m3(float *dst, const struct tn_row *row, size_t cols)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t i = 0; i < cols; i += 16) {
		float32x4_t values[4];
		e4m3_values(values, vld1q_u8(src + i));
		scale_16(dst + i, values, e8m0_decode(scales[i / 32]));
	}
}

void TN_ISA_NAME(tn_arm_decode)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	int exact = !f->like_mlx && !f->has_global_scale;
	if (f->codec == TN_CODEC_dense && TN_ISA_NAME(tn_arm_decode_dense)(dst, row->part[TN_PART_WEIGHT], cols, f->dtype))
		return;
	if (f->codec == TN_CODEC_affine && exact)
		decode_affine(dst, row, f, cols);
	else if (f->codec == TN_CODEC_mxfp4 && exact)
		decode_e2m1(dst, row, cols, 32);
	else if (f->codec == TN_CODEC_nvfp4 && exact)
		decode_e2m1(dst, row, cols, 16);
	else if (f->codec == TN_CODEC_mxfp8 && exact)
		decode_e4m3(dst, row, cols);
	else
		plain[f->codec]->decode(dst, row, f, cols);
}
