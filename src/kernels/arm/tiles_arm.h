/* Vectors of 4 lanes for the tiles of add_product; a `pair` is the 16-bit form of two of them. */
#ifndef TN_TILES_ARM_H
#define TN_TILES_ARM_H

#include "kernels/arm/override_arm.h"

enum { LANES = 4, VECTORS = 2, TILE_ROWS = 4, TILES_OF_LINE = 1 };
typedef float32x4_t vec;
typedef uint16x8_t pair;
/* Rows are read in order, which the hardware sees; whether more asking pays was not measured, nor writing past the caches. */
#define PREFETCH(p) ((void)(p))
#define OR_DIFFERENT(bits, a, b) vorrq_u16(bits, veorq_u16(a, b))
#define ANY_BIT(p) (vmaxvq_u16(p) != 0)
#define STREAM_PAIR(p, v) STORE_PAIR(p, v)
#define END_STREAM() ((void)0)
#define ZERO() vdupq_n_f32(0)
#define SPREAD(x) vdupq_n_f32(x)
#define LOAD(p) vld1q_f32(p)
#define STORE(p, v) vst1q_f32(p, v)
#define ADD(a, b) vaddq_f32(a, b)
#define SUB(a, b) vsubq_f32(a, b)
#define MUL(a, b) vmulq_f32(a, b)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define LOAD_PAIR(p) vreinterpretq_u16_u8(vld1q_u8((const uint8_t *)(const void *)(p)))
#define STORE_PAIR(p, v) vst1q_u8((uint8_t *)(void *)(p), vreinterpretq_u8_u16(v))
#define SPREAD_HALF(x) vdupq_n_u16((uint16_t)(x))
#define SMALLER_HALVES(a, b) vreinterpretq_u16_s16(vminq_s16(vreinterpretq_s16_u16(a), vreinterpretq_s16_u16(b)))
#define MARKS_BELOW(h, least) vmaxvq_u16(vcltq_s16(vreinterpretq_s16_u16(h), vreinterpretq_s16_u16(least)))

TN_INLINE void widen_pair(vec v[VECTORS], pair h, tn_dtype dtype)
{
	for (int i = 0; i < VECTORS; i++) {
		uint16x4_t half = i ? vget_high_u16(h) : vget_low_u16(h);
		v[i] = dtype == TN_F16 ? vcvt_f32_f16(vreinterpret_f16_u16(half)) : vreinterpretq_f32_u32(vshll_n_u16(half, 16));
	}
}

/* NaN comes out as something that is not finite, or by overflow as zero: settle() looks at either. */
TN_INLINE uint16x4_t narrow_bf16(vec v)
{
	uint32x4_t u = vreinterpretq_u32_f32(v), odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
	return vshrn_n_u32(vaddq_u32(u, vaddq_u32(odd, vdupq_n_u32(0x7FFF))), 16);
}

TN_INLINE pair narrow_pair(vec low, vec high, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return vreinterpretq_u16_f16(vcombine_f16(vcvt_f16_f32(low), vcvt_f16_f32(high)));
	return vcombine_u16(narrow_bf16(low), narrow_bf16(high));
}

TN_INLINE pair doubled(pair h)
{
	return vaddq_u16(h, h);
}

TN_INLINE pair doubled_less(pair h, pair less)
{
	return vsubq_u16(vaddq_u16(h, h), less);
}

/* A bit for each number of h, doubled and less `less`, that is at least `least`, but for those where low and high are the same
 * and h is neither zero nor, with half of `infinite` and more, not finite. */
TN_INLINE uint64_t undecided(pair h, pair less, pair least, pair low, pair high, unsigned infinite)
{
	static const uint8_t bits[8] = { 1, 2, 4, 8, 16, 32, 64, 128 };
	pair beyond = vcgeq_u16(doubled_less(h, less), least);
	pair usual = vcltq_u16(doubled_less(h, SPREAD_HALF(1)), SPREAD_HALF(infinite - 1));
	pair equal = vandq_u16(usual, vceqq_u16(low, high));
	return vaddv_u8(vand_u8(vmovn_u16(vbicq_u16(beyond, equal)), vld1_u8(bits)));
}

#endif
