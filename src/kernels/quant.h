/* What the quantizing codecs share. Everything is inlined, and takes the dtype as a constant, so that each codec has
 * one loop per dtype without a branch in it. */
#ifndef TN_QUANT_H
#define TN_QUANT_H

#include "base/half.h"
#include "kernels/kernels.h"

#include <math.h>

#define TN_INLINE static inline __attribute__((always_inline))

/* Small loops over registers must vanish, or the registers become memory. */
#define TN_PRAGMA_(text) _Pragma(#text)
#ifdef __clang__
#define TN_UNROLL(n) TN_PRAGMA_(unroll n)
#else
#define TN_UNROLL(n) TN_PRAGMA_(GCC unroll n)
#endif

/* x rounded to the dtype, as float32: the value that MLX's T(x) has. */
TN_INLINE float round_to(float x, tn_dtype dtype)
{
	if (dtype == TN_BF16)
		return tn_f32_from_bf16(tn_bf16_from_f32(x));
	if (dtype == TN_F16)
		return tn_f32_from_f16(tn_f16_from_f32(x));
	return x;
}

TN_INLINE float load_as(const unsigned char *src, size_t i, tn_dtype dtype)
{
	float x;
	uint16_t h;
	if (dtype == TN_F32) {
		memcpy(&x, src + i * sizeof x, sizeof x);
		return x;
	}
	memcpy(&h, src + i * sizeof h, sizeof h);
	return dtype == TN_BF16 ? tn_f32_from_bf16(h) : tn_f32_from_f16(h);
}

TN_INLINE void store_as(unsigned char *dst, size_t i, float x, tn_dtype dtype)
{
	if (dtype == TN_F32) {
		memcpy(dst + i * sizeof x, &x, sizeof x);
		return;
	}
	uint16_t h = dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
	memcpy(dst + i * sizeof h, &h, sizeof h);
}

/* The largest magnitude of the n values; infinity or NaN when one of them is. As integers the bits of magnitudes have
 * the order of the magnitudes, with NaN above all. */
TN_INLINE float abs_max(const float *w, int n)
{
	int32_t top = 0;
	for (int i = 0; i < n; i++) {
		int32_t bits = (int32_t)(tn_f32_bits(w[i]) & 0x7FFFFFFFu);
		top = bits > top ? bits : top;
	}
	return tn_f32_from_bits((uint32_t)top);
}

/* ---- E8M0: scale bytes that are powers of two ------------------------------------------------------------ */

/* 2^(byte - 127); 255 is infinity, as MLX's CPU and Metal backends read it. */
TN_INLINE float e8m0_decode(uint8_t byte)
{
	return tn_f32_from_bits(byte ? (uint32_t)byte << 23 : 0x00400000u);
}

/* The exponent of the smallest power of two >= s, for finite s > 0. */
TN_INLINE int ceil_log2(float s)
{
	uint32_t bits = tn_f32_bits(s), fraction = bits & 0x7FFFFFu;
	if (bits >> 23 == 0) /* subnormal: fraction * 2^-149 */
		return 31 - __builtin_clz(fraction) - 149 + ((fraction & (fraction - 1)) != 0);
	return (int)(bits >> 23) - 127 + (fraction != 0);
}

/* 2^e for -149 <= e <= 127. */
TN_INLINE float power_of_two(int e)
{
	return tn_f32_from_bits(e >= -126 ? (uint32_t)(e + 127) << 23 : 1u << (e + 149));
}

/* The scale byte of MLX 0.32.4's GPU backends: round up, no higher than 0xFE for finite s (CUTLASS 4.4, float8.h). */
TN_INLINE uint8_t e8m0_round_up(float s)
{
	uint32_t bits = tn_f32_bits(s), exponent = bits >> 23 & 0xFFu, fraction = bits & 0x7FFFFFu;
	if (exponent == 0xFFu)
		return 0xFF;
	int up = fraction != 0 && exponent != 0xFEu && !(exponent == 0 && fraction <= 0x400000u);
	return (uint8_t)(exponent + (uint32_t)up);
}

/* ---- E4M3: eight bits, largest 448 ----------------------------------------------------------------------- */

/* Nearest, ties to even, subnormals kept, 448 and above saturate. NaN becomes 0x7E with its sign, as in MLX. */
TN_INLINE uint8_t e4m3_encode(float x)
{
	uint32_t bits = tn_f32_bits(x), sign = bits >> 24 & 0x80u, magnitude = bits & 0x7FFFFFFFu;
	/* below 2^-6: adding 2^14 leaves the last bit at 2^-9, the subnormal step */
	uint32_t small = tn_f32_bits(tn_f32_from_bits(magnitude) + 16384.0f) - 0x46800000u;
	uint32_t normal = (magnitude + 0x7FFFFu + (magnitude >> 20 & 1u) - (120u << 23)) >> 20;
	uint32_t code = magnitude < 0x3C800000u ? small : normal;
	return (uint8_t)(sign | (magnitude >= 0x43E00000u ? 0x7Eu : code));
}

/* ---- E2M1: four bits: 0 .5 1 1.5 2 3 4 6 and the negatives ------------------------------------------------ */

TN_INLINE float e2m1_decode(unsigned code)
{
	/* two exponent bits and one of fraction; 2^126 moves the exponent bias from 1 to 127 */
	return tn_f32_from_bits((code & 8u) << 28 | tn_f32_bits(tn_f32_from_bits((code & 7u) << 22) * 0x1p126f));
}

/* The scale of a group (32: mxfp4, 16: nvfp4) whose magnitudes reach `top`, as MLX takes it on a CPU, and its byte. 0 when only the
 * plain codec knows what becomes of the group. */
TN_INLINE int e2m1_fit(uint8_t *byte, float *scale, float top, size_t group, float factor, tn_dtype dtype)
{
	const float s = round_to(top / 6.0f, dtype);
	const int known = isfinite(s), e = known && s != 0 ? ceil_log2(s) : 0;
	*byte = group == 32 ? (uint8_t)(e + 127) : e4m3_encode(s * factor);
	*scale = group == 32 ? power_of_two(e) : tn_f32_from_f8_e4m3(*byte);
	return known;
}

/* How many of the midpoints lie below |x|: ties go to zero. NaN gives 0. */
TN_INLINE unsigned e2m1_ties_down(float magnitude)
{
	return (unsigned)((magnitude > 0.25f) + (magnitude > 0.75f) + (magnitude > 1.25f) + (magnitude > 1.75f) +
			  (magnitude > 2.5f) + (magnitude > 3.5f) + (magnitude > 5.0f));
}

/* MLX on a CPU takes the first of the sixteen values at the smallest distance, the distance rounded to T. Up to 64 that
 * is the nearest value, ties to zero, without negative zero: distances beyond 6 are then rounded by less than the 2 that
 * lie between the candidates. For larger x the roundings decide: a huge or infinite x is as far from 0 as from 6, and
 * becomes 0. */
TN_INLINE unsigned e2m1_first_nearest(float x, tn_dtype dtype)
{
	unsigned best = 0;
	float least = fabsf(round_to(x, dtype));
	for (unsigned code = 1; code < 16; code++) {
		float distance = fabsf(round_to(x - e2m1_decode(code), dtype));
		if (distance < least) {
			least = distance;
			best = code;
		}
	}
	return best;
}

/* Packs n codes from x [n]: code 2k in the low half of byte k. */
TN_INLINE void e2m1_encode_cpu(unsigned char *dst, const float *x, int n, tn_dtype dtype)
{
	int beyond = 0;
	unsigned char code[32];
	for (int i = 0; i < n; i++) {
		float magnitude = fabsf(x[i]);
		unsigned c = e2m1_ties_down(magnitude), sign = tn_f32_bits(x[i]) >> 28 & 8u;
		code[i] = (unsigned char)(c ? c | sign : 0u);
		beyond |= magnitude > 64.0f;
	}
	if (beyond)
		for (int i = 0; i < n; i++)
			code[i] = (unsigned char)e2m1_first_nearest(x[i], dtype);
	for (int i = 0; i < n / 2; i++)
		dst[i] = (unsigned char)(code[2 * i] | code[2 * i + 1] << 4);
}

/* MLX on a GPU: nearest, ties to even, sign kept also of zero, NaN is 7 (metal/kernels/fp4.h). */
TN_INLINE unsigned e2m1_ties_even(float x)
{
	float m = fabsf(x);
	unsigned c = (unsigned)((m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) + (m >= 3.5f) +
				(m > 5.0f));
	return m != m ? 7u : c | (tn_f32_bits(x) >> 28 & 8u);
}

TN_INLINE void e2m1_encode_gpu(unsigned char *dst, const float *w, float factor, int n)
{
	for (int i = 0; i < n / 2; i++)
		dst[i] = (unsigned char)(e2m1_ties_even(w[2 * i] * factor) | e2m1_ties_even(w[2 * i + 1] * factor)
										     << 4);
}

#endif
