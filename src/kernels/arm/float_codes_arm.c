/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers to codes of mxfp4, nvfp4 (E2M1) and mxfp8 (E4M3). codec_mxfp4.c, codec_nvfp4.c and codec_mxfp8.c say what is computed. */
#include "kernels/arm/codec_arm.h"

/* Rounded to the dtype; of NaN nothing is promised but that no comparison holds or that it is 0. */
TN_INLINE float32x4_t round_4(float32x4_t x, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return vcvt_f32_f16(vcvt_f16_f32(x));
	if (dtype == TN_F32)
		return x;
	uint32x4_t u = bits_of(x), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
	u = vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
	return from_bits(vandq_u32(u, vdupq_n_u32(0xFFFF0000u)));
}

/* As integers the bits of magnitudes have their order, with NaN above all. */
TN_INLINE float top_of(const float *w, size_t n)
{
	uint32x4_t top = vdupq_n_u32(0);
	for (size_t i = 0; i < n; i += 4)
		top = vmaxq_u32(top, bits_of(vabsq_f32(vld1q_f32(w + i))));
	return tn_f32_from_bits(vmaxvq_u32(top));
}

/* A group of one byte of scale, by the plain codec. */
TN_INLINE void encode_plainly(unsigned char *codes, unsigned char *scale, const float *w, const struct tn_format *f, size_t group)
{
	struct tn_row_out one = { { codes, scale } };
	TN_ISA_NAME(tn_plain_codec)(f->codec)->encode(&one, w, f, group);
}

/* ---- E2M1 ------------------------------------------------------------------------------------------------ */

/* How many midpoints lie below a magnitude up to 64. From 1 on the upper bits of a float are the code, less 252, and whatever is
 * less than half of the last one falls away with them; below 1 there are two midpoints. */
TN_INLINE uint32x4_t nearest_4(float32x4_t magnitude)
{
	int32x4_t code = vreinterpretq_s32_u32(vshrq_n_u32(vaddq_u32(bits_of(magnitude), vdupq_n_u32(0x1FFFFF)), 22));
	uint32x4_t below = vaddq_u32(vcgtq_f32(magnitude, vdupq_n_f32(0.25f)), vcgtq_f32(magnitude, vdupq_n_f32(0.75f)));
	code = vmaxq_s32(vsubq_s32(code, vdupq_n_s32(252)), vnegq_s32(vreinterpretq_s32_u32(below)));
	return vminq_u32(vreinterpretq_u32_s32(code), vdupq_n_u32(7));
}

/* 16 codes, unless they hold what only the plain codec knows: then 0. */
TN_INLINE int encode_16(unsigned char *dst, const float *w, float scale, float factor, tn_dtype dtype)
{
	uint32x4_t codes[4], negative[4], beyond = vdupq_n_u32(0);
	TN_UNROLL(4)
	for (int v = 0; v < 4; v++) {
		float32x4_t x = vmulq_n_f32(round_4(vdivq_f32(vld1q_f32(w + 4 * v), vdupq_n_f32(scale)), dtype), factor);
		float32x4_t magnitude = vabsq_f32(x);
		/* NaN, whose code is 0 */
		magnitude = from_bits(vandq_u32(bits_of(magnitude), vceqq_f32(x, x)));
		beyond = vorrq_u32(beyond, vcgtq_f32(magnitude, vdupq_n_f32(64)));
		codes[v] = nearest_4(magnitude);
		negative[v] = vshrq_n_u32(bits_of(x), 31);
	}
	uint8x16_t code = narrow_16(codes), sign = vshlq_n_u8(narrow_16(negative), 3);
	pack_16(dst, 8, vorrq_u8(code, vandq_u8(sign, vtstq_u8(code, code))), 4);
	return vmaxvq_u32(beyond) == 0;
}

TN_INLINE void encode_row(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols,
			  const size_t group, tn_dtype dtype)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	const float factor = f->has_global_scale ? 2688.0f / f->global_scale : 1.0f;
	for (size_t g = 0; g < cols / group; g++, src += group, dst += group / 2) {
		float scale;
		int known = e2m1_fit(scales + g, &scale, top_of(src, group), group, factor, dtype);
		for (size_t i = 0; i < group; i += 16)
			known = known && encode_16(dst + i / 2, src + i, scale, group == 32 ? 1.0f : factor, dtype);
		if (!known)
			encode_plainly(dst, scales + g, src, f, group);
	}
}

TN_INLINE void encode_as(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols, tn_dtype dtype)
{
	if (f->codec == TN_CODEC_mxfp4)
		encode_row(row, src, f, cols, 32, dtype);
	else
		encode_row(row, src, f, cols, 16, dtype);
}

void TN_ISA_NAME(tn_arm_encode_e2m1)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	if (f->flavour != TN_ENCODE_CPU)
		TN_ISA_NAME(tn_plain_codec)(f->codec)->encode(row, src, f, cols);
	else if (f->dtype == TN_F32)
		encode_as(row, src, f, cols, TN_F32);
	else if (f->dtype == TN_F16)
		encode_as(row, src, f, cols, TN_F16);
	else
		encode_as(row, src, f, cols, TN_BF16);
}

/* ---- E4M3 ------------------------------------------------------------------------------------------------ */

/* e4m3_encode() of numbers, without their signs. */
TN_INLINE uint32x4_t e4m3_4(float32x4_t magnitude)
{
	uint32x4_t m = bits_of(magnitude), odd = vandq_u32(vshrq_n_u32(m, 20), vdupq_n_u32(1));
	uint32x4_t small = vsubq_u32(bits_of(vaddq_f32(magnitude, vdupq_n_f32(16384))), vdupq_n_u32(0x46800000));
	uint32x4_t normal = vshrq_n_u32(vaddq_u32(vaddq_u32(m, odd), vdupq_n_u32(0x7FFFFu - (120u << 23))), 20);
	return vminq_u32(vbslq_u32(vcltq_u32(m, vdupq_n_u32(0x3C800000)), small, normal), vdupq_n_u32(0x7E));
}

TN_INLINE void encode_e4m3_as(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols,
			      tn_dtype dtype)
{
	enum { GROUP = 32 };
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < cols / GROUP; g++, src += GROUP, dst += GROUP) {
		float s = round_to(top_of(src, GROUP) / 448.0f, dtype);
		if (!isfinite(s)) {
			encode_plainly(dst, scales + g, src, f, GROUP);
			continue;
		}
		int e = s == 0 ? 0 : ceil_log2(s);
		const float32x4_t scale = vdupq_n_f32(power_of_two(e));
		scales[g] = (uint8_t)(e + 127);
		for (size_t i = 0; i < GROUP; i += 16) {
			uint32x4_t codes[4];
			TN_UNROLL(4)
			for (int v = 0; v < 4; v++) {
				float32x4_t x = round_4(vdivq_f32(vld1q_f32(src + i + 4 * (size_t)v), scale), dtype);
				codes[v] = vsliq_n_u32(e4m3_4(vabsq_f32(x)), vshrq_n_u32(bits_of(x), 31), 7);
			}
			vst1q_u8(dst + i, narrow_16(codes));
		}
	}
}

void TN_ISA_NAME(tn_arm_encode_e4m3)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	if (f->flavour != TN_ENCODE_CPU)
		TN_ISA_NAME(tn_plain_codec)(f->codec)->encode(row, src, f, cols);
	else if (f->dtype == TN_F32)
		encode_e4m3_as(row, src, f, cols, TN_F32);
	else if (f->dtype == TN_F16)
		encode_e4m3_as(row, src, f, cols, TN_F16);
	else
		encode_e4m3_as(row, src, f, cols, TN_BF16);
}
