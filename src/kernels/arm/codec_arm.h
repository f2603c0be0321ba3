/* Codes of a bit stream, 16 at a time, and the numbers that move them by chance. */
#ifndef TN_CODEC_ARM_H
#define TN_CODEC_ARM_H

#include "kernels/arm/override_arm.h"
#include "kernels/dither.h"

/* The plain codecs, which do what is not written here. */
const struct tn_codec *TN_ISA_NAME(tn_plain_codec)(enum tn_codec_id id);

void TN_ISA_NAME(tn_arm_encode_affine)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols);
void TN_ISA_NAME(tn_arm_dither_affine)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				       size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts);
void TN_ISA_NAME(tn_arm_encode_e2m1)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols);
void TN_ISA_NAME(tn_arm_dither_e2m1)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				     size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts);
void TN_ISA_NAME(tn_arm_encode_e4m3)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols);
void TN_ISA_NAME(tn_arm_dither_e4m3)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				     size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts);

/* ---- streams --------------------------------------------------------------------------------------------- */

/* Of `low` the lowest n bits of each lane, of `high` the others. */
#define CHOOSE_16(n, low, high) vbslq_u16(vdupq_n_u16((uint16_t)((1u << (n)) - 1)), low, high)
#define CHOOSE_32(n, low, high) vbslq_u32(vdupq_n_u32((1u << (n)) - 1), low, high)
#define CHOOSE_64(n, low, high) vbslq_u64(vdupq_n_u64((UINT64_C(1) << (n)) - 1), low, high)

/* 8 codes in the lowest bits of a word. `left` bytes stand from src on: with 8 of them one load does. */
TN_INLINE uint64_t load_stream(const unsigned char *src, size_t left, const int bits)
{
	uint64_t stream = 0;
	if (left >= 8)
		memcpy(&stream, src, 8);
	else
		memcpy(&stream, src, (size_t)bits);
	return stream;
}

/* 16 codes as bytes in order: each word apart into halves, these again, and again; what is above a code goes at the end. */
TN_INLINE uint8x16_t unpack_16(const unsigned char *src, size_t left, const int bits)
{
	if (bits == 8)
		return vld1q_u8(src);
	if (bits == 4) {
		uint8x8_t v = vld1_u8(src), even = vand_u8(v, vdup_n_u8(15)), odd = vshr_n_u8(v, 4);
		return vcombine_u8(vzip1_u8(even, odd), vzip2_u8(even, odd));
	}
	uint64x2_t w = vcombine_u64(vcreate_u64(load_stream(src, left, bits)),
				    vcreate_u64(load_stream(src + bits, left - (size_t)bits, bits)));
	uint32x4_t v = vreinterpretq_u32_u64(CHOOSE_64(32, w, vshlq_u64(w, vdupq_n_s64(32 - 4 * bits))));
	uint16x8_t h = vreinterpretq_u16_u32(CHOOSE_32(16, v, vshlq_u32(v, vdupq_n_s32(16 - 2 * bits))));
	uint8x16_t b = vreinterpretq_u8_u16(CHOOSE_16(8, h, vshlq_u16(h, vdupq_n_s16((int16_t)(8 - bits)))));
	return vandq_u8(b, vdupq_n_u8((uint8_t)((1u << bits) - 1)));
}

/* The same back: two, four and then eight codes side by side. What is written beyond them is written again with the next. */
TN_INLINE void pack_16(unsigned char *dst, size_t left, uint8x16_t codes, const int bits)
{
	if (bits == 8) {
		vst1q_u8(dst, codes);
		return;
	}
	uint16x8_t h = vreinterpretq_u16_u8(codes);
	h = CHOOSE_16(bits, h, vshlq_u16(h, vdupq_n_s16((int16_t)(bits - 8))));
	if (bits == 4) {
		vst1_u8(dst, vmovn_u16(h));
		return;
	}
	uint32x4_t v = vreinterpretq_u32_u16(h);
	v = CHOOSE_32(2 * bits, v, vshlq_u32(v, vdupq_n_s32(2 * bits - 16)));
	uint64x2_t w = vreinterpretq_u64_u32(v);
	w = CHOOSE_64(4 * bits, w, vshlq_u64(w, vdupq_n_s64(4 * bits - 32)));
	for (int i = 0; i < 2; i++, dst += bits, left -= (size_t)bits) {
		uint64_t word = i ? vgetq_lane_u64(w, 1) : vgetq_lane_u64(w, 0);
		if (left >= 8)
			memcpy(dst, &word, 8);
		else
			memcpy(dst, &word, (size_t)bits);
	}
}

TN_INLINE uint8x16_t narrow_16(const uint32x4_t v[4])
{
	uint16x8_t low = vqmovn_high_u32(vqmovn_u32(v[0]), v[1]), high = vqmovn_high_u32(vqmovn_u32(v[2]), v[3]);
	return vqmovn_high_u16(vqmovn_u16(low), high);
}

TN_INLINE void widen_16(uint32x4_t v[4], uint8x16_t bytes)
{
	uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
	v[0] = vmovl_u16(vget_low_u16(low));
	v[1] = vmovl_high_u16(low);
	v[2] = vmovl_u16(vget_low_u16(high));
	v[3] = vmovl_high_u16(high);
}

/* ---- values ---------------------------------------------------------------------------------------------- */

TN_INLINE uint32x4_t bits_of(float32x4_t x)
{
	return vreinterpretq_u32_f32(x);
}

TN_INLINE float32x4_t from_bits(uint32x4_t x)
{
	return vreinterpretq_f32_u32(x);
}

/* Of 16 codes E2M1: the upper halves of the floats, put together of two bytes that are looked up. */
TN_INLINE void e2m1_values(float32x4_t v[4], uint8x16_t codes)
{
	static const uint8_t upper[16] = { 0x00, 0x3F, 0x3F, 0x3F, 0x40, 0x40, 0x40, 0x40,
					   0x80, 0xBF, 0xBF, 0xBF, 0xC0, 0xC0, 0xC0, 0xC0 };
	static const uint8_t lower[16] = { 0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0,
					   0x00, 0x00, 0x80, 0xC0, 0x00, 0x40, 0x80, 0xC0 };
	uint8x16_t h = vqtbl1q_u8(vld1q_u8(upper), codes), l = vqtbl1q_u8(vld1q_u8(lower), codes);
	uint16x8_t first = vreinterpretq_u16_u8(vzip1q_u8(l, h)), second = vreinterpretq_u16_u8(vzip2q_u8(l, h));
	v[0] = from_bits(vshll_n_u16(vget_low_u16(first), 16));
	v[1] = from_bits(vshll_high_n_u16(first, 16));
	v[2] = from_bits(vshll_n_u16(vget_low_u16(second), 16));
	v[3] = from_bits(vshll_high_n_u16(second, 16));
}

/* Of 8 codes E4M3 in the upper bytes: F16 has room for them, with exponents 8 lower; what is NaN becomes one. */
TN_INLINE void e4m3_halves(float32x4_t v[2], uint16x8_t codes)
{
	uint16x8_t magnitude = vshrq_n_u16(vshlq_n_u16(codes, 1), 2), sign = vandq_u16(codes, vdupq_n_u16(0x8000));
	uint16x8_t nan = vandq_u16(vceqq_u16(magnitude, vdupq_n_u16(0x3F80)), vdupq_n_u16(0x7E00));
	float16x8_t h = vreinterpretq_f16_u16(vorrq_u16(vorrq_u16(magnitude, sign), nan));
	v[0] = vmulq_n_f32(vcvt_f32_f16(vget_low_f16(h)), 256);
	v[1] = vmulq_n_f32(vcvt_high_f32_f16(h), 256);
}

TN_INLINE void e4m3_values(float32x4_t v[4], uint8x16_t codes)
{
	const uint8x16_t zero = vdupq_n_u8(0);
	e4m3_halves(v, vreinterpretq_u16_u8(vzip1q_u8(zero, codes)));
	e4m3_halves(v + 2, vreinterpretq_u16_u8(vzip2q_u8(zero, codes)));
}

/* ---- chance ---------------------------------------------------------------------------------------------- */

/* What uniform() puts together of four columns from `first` on; the next four are 4 * TN_HASH_STEP further. */
TN_INLINE uint32x4_t columns_4(uint32_t row_hash, size_t first)
{
	static const uint32_t steps[4] = { 0, TN_HASH_STEP, 2 * TN_HASH_STEP, 3 * TN_HASH_STEP };
	return vaddq_u32(vdupq_n_u32(row_hash + (uint32_t)first * TN_HASH_STEP), vld1q_u32(steps));
}

/* uniform() of what columns_4 made. */
TN_INLINE float32x4_t uniform_4(uint32x4_t x)
{
	x = veorq_u32(x, vshrq_n_u32(x, 16));
	x = vmulq_n_u32(x, 0x7FEB352Du);
	x = veorq_u32(x, vshrq_n_u32(x, 15));
	x = vmulq_n_u32(x, 0x846CA68Bu);
	x = veorq_u32(x, vshrq_n_u32(x, 16));
	return vcvtq_n_f32_u32(vshrq_n_u32(x, 8), 24);
}

#endif
