/* Vectors of float32 for what is written once for all architectures: 4 lanes. */
#ifndef TN_VECTOR_ARM_H
#define TN_VECTOR_ARM_H

#include "kernels/arm/override_arm.h"

/* Rows are read in order, which the hardware sees; whether more asking pays was not measured. */
#define PREFETCH(p) ((void)(p))
/* decode of any codec. */
#define DECODE TN_ISA_NAME(tn_arm_decode)

enum { LANES = 4, TILE_X = 5 };
typedef float32x4_t floats;
#define ZERO() vdupq_n_f32(0)
#define LOAD(p) vld1q_f32(p)
#define STORE(p, v) vst1q_f32(p, v)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define ADD(a, b) vaddq_f32(a, b)
#define MUL(a, b) vmulq_f32(a, b)
#define SPREAD(x) vdupq_n_f32(x)
#define SUM(v) vaddvq_f32(v)

/* Lanes half of all apart, then half of those. */
TN_INLINE float sum_by_halves(floats v)
{
	float32x2_t half = vadd_f32(vget_low_f32(v), vget_high_f32(v));
	return vget_lane_f32(half, 0) + vget_lane_f32(half, 1);
}

TN_INLINE floats load_bytes(const unsigned char *p)
{
	uint32_t four;
	memcpy(&four, p, sizeof four);
	uint16x8_t wide = vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four)));
	return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
}

TN_INLINE floats load_floats(const unsigned char *p, size_t i, tn_dtype dtype)
{
	if (dtype == TN_F32)
		return vreinterpretq_f32_u8(vld1q_u8(p + 4 * i));
	uint8x8_t h = vld1_u8(p + 2 * i);
	if (dtype == TN_F16)
		return vcvt_f32_f16(vreinterpret_f16_u8(h));
	return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(h), 16));
}

/* Even and odd elements of 2 * LANES numbers of BF16. */
TN_INLINE void split_pairs(floats v[2], floats pairs)
{
	uint32x4_t w = vreinterpretq_u32_f32(pairs);
	v[0] = vreinterpretq_f32_u32(vshlq_n_u32(w, 16));
	v[1] = vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xFFFF0000u)));
}

TN_INLINE void load_pairs(floats v[2], const unsigned char *p)
{
	split_pairs(v, vreinterpretq_f32_u8(vld1q_u8(p)));
}

/* Four rows of four elements made columns. */
TN_INLINE void turn_fours(floats v[4])
{
	floats a = vzip1q_f32(v[0], v[1]), b = vzip2q_f32(v[0], v[1]), c = vzip1q_f32(v[2], v[3]), d = vzip2q_f32(v[2], v[3]);
	v[0] = vcombine_f32(vget_low_f32(a), vget_low_f32(c));
	v[1] = vcombine_f32(vget_high_f32(a), vget_high_f32(c));
	v[2] = vcombine_f32(vget_low_f32(b), vget_low_f32(d));
	v[3] = vcombine_f32(vget_high_f32(b), vget_high_f32(d));
}

/* Sixteen columns of BF16, of LANES rows that are `stride` bytes apart. */
TN_INLINE void load_columns(floats v[16], const unsigned char *p, size_t stride)
{
	floats pair[8];
	TN_UNROLL(8)
	for (size_t i = 0; i < 8; i++)
		pair[i] = vreinterpretq_f32_u8(vld1q_u8(p + i % 4 * stride + i / 4 * 16));
	turn_fours(pair);
	turn_fours(pair + 4);
	TN_UNROLL(8)
	for (int i = 0; i < 8; i++)
		split_pairs(v + 2 * i, pair[i]);
}

/* `width` vectors, 2 or 4, hold LANES rows of `width` elements, one behind the other: the sum of each row. */
TN_INLINE floats add_rows(const floats *v, const int width)
{
	if (width == 2)
		return vpaddq_f32(v[0], v[1]);
	return vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3]));
}

#endif
