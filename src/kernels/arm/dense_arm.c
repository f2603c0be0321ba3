/* SPDX-License-Identifier: Apache-2.0 */
/* 16-bit floats to and from float32, 8 at a time, with the bits of base/half.h: the instructions differ from it in NaN alone. */
#include "kernels/arm/override_arm.h"

enum { LANES = 8 };

TN_INLINE void decode_8(float *dst, const unsigned char *src, tn_dtype dtype)
{
	uint16x8_t h = vreinterpretq_u16_u8(vld1q_u8(src));
	uint32x4_t low = vshll_n_u16(vget_low_u16(h), 16), high = vshll_high_n_u16(h, 16);
	if (dtype == TN_F16) {
		float16x8_t f = vreinterpretq_f16_u16(h);
		low = vreinterpretq_u32_f32(vcvt_f32_f16(vget_low_f16(f)));
		high = vreinterpretq_u32_f32(vcvt_high_f32_f16(f));
	}
	vst1q_f32(dst, vreinterpretq_f32_u32(low));
	vst1q_f32(dst + 4, vreinterpretq_f32_u32(high));
}

/* The instruction makes signalling NaN quiet; half.h keeps it. */
TN_INLINE int has_nan(const unsigned char *src)
{
	uint16x8_t magnitude = vandq_u16(vreinterpretq_u16_u8(vld1q_u8(src)), vdupq_n_u16(0x7FFF));
	return vmaxvq_u16(magnitude) > 0x7C00;
}

TN_INLINE void decode_as(float *dst, const unsigned char *src, size_t n, tn_dtype dtype)
{
	size_t i = 0;
	for (; i + LANES <= n; i += LANES)
		if (dtype == TN_F16 && has_nan(src + 2 * i))
			for (size_t l = i; l < i + LANES; l++)
				dst[l] = load_as(src, l, TN_F16);
		else
			decode_8(dst + i, src + 2 * i, dtype);
	for (; i < n; i++)
		dst[i] = load_as(src, i, dtype);
}

int TN_ISA_NAME(tn_arm_decode_dense)(float *dst, const void *src, size_t n, tn_dtype dtype)
{
	if (dtype == TN_BF16)
		decode_as(dst, src, n, TN_BF16);
	else if (dtype == TN_F16)
		decode_as(dst, src, n, TN_F16);
	else
		return 0;
	return 1;
}

/* NaN loses what it says: 0x7FC0 for BF16, the sign and 0x7E00 for F16. */
TN_INLINE uint16x4_t narrow_4(float32x4_t v, tn_dtype dtype)
{
	uint16x4_t is_number = vmovn_u32(vceqq_f32(v, v));
	uint32x4_t u = vreinterpretq_u32_f32(v);
	if (dtype == TN_BF16) {
		uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
		uint16x4_t rounded = vshrn_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7FFF))), 16);
		return vbsl_u16(is_number, rounded, vdup_n_u16(0x7FC0));
	}
	uint16x4_t nan = vorr_u16(vand_u16(vshrn_n_u32(u, 16), vdup_n_u16(0x8000)), vdup_n_u16(0x7E00));
	return vbsl_u16(is_number, vreinterpret_u16_f16(vcvt_f16_f32(v)), nan);
}

TN_INLINE void encode_as(unsigned char *dst, const float *src, size_t n, tn_dtype dtype)
{
	size_t i = 0;
	for (; i + LANES <= n; i += LANES) {
		uint16x8_t h = vcombine_u16(narrow_4(vld1q_f32(src + i), dtype), narrow_4(vld1q_f32(src + i + 4), dtype));
		vst1q_u8(dst + 2 * i, vreinterpretq_u8_u16(h));
	}
	for (; i < n; i++)
		store_as(dst, i, src[i], dtype);
}

void TN_ISA_NAME(tn_arm_encode_dense)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	if (f->dtype == TN_BF16)
		encode_as(row->part[TN_PART_WEIGHT], src, cols, TN_BF16);
	else if (f->dtype == TN_F16)
		encode_as(row->part[TN_PART_WEIGHT], src, cols, TN_F16);
	else
		memcpy(row->part[TN_PART_WEIGHT], src, cols * sizeof *src);
}
