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
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#define ADD(a, b) vaddq_f32(a, b)
#define SPREAD(x) vdupq_n_f32(x)
#define SUM(v) vaddvq_f32(v)

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

/* The sums over the lanes of eight vectors. */
TN_INLINE void store_sums(float *dst, const floats v[8])
{
	vst1q_f32(dst, vpaddq_f32(vpaddq_f32(v[0], v[1]), vpaddq_f32(v[2], v[3])));
	vst1q_f32(dst + 4, vpaddq_f32(vpaddq_f32(v[4], v[5]), vpaddq_f32(v[6], v[7])));
}

#endif
