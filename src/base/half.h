/* 16-bit and 8-bit floats to and from float32 in plain C: the same bits on every machine.
 * To a narrower type: round to nearest, ties to even, subnormals kept, overflow to infinity, NaN to a quiet NaN. */
#ifndef TN_HALF_H
#define TN_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t tn_f32_bits(float x)
{
	uint32_t u;
	memcpy(&u, &x, sizeof u);
	return u;
}

static inline float tn_f32_from_bits(uint32_t u)
{
	float x;
	memcpy(&x, &u, sizeof x);
	return x;
}

static inline float tn_f32_from_bf16(uint16_t h)
{
	return tn_f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t tn_bf16_from_f32(float x)
{
	uint32_t u = tn_f32_bits(x);
	uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
	/* NaN: adding could carry into the exponent and out; MLX and torch give 0x7FC0 */
	return (u & 0x7FFFFFFFu) > 0x7F800000u ? (uint16_t)0x7FC0 : (uint16_t)rounded;
}

static inline float tn_f32_from_f16(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000u) << 16, magnitude = h & 0x7FFFu;
	if (magnitude >= 0x7C00u) /* infinity and NaN: the exponent becomes all ones */
		return tn_f32_from_bits(sign | 0x7F800000u | (magnitude & 0x3FFu) << 13);
	/* 2^112 moves the exponent bias from 15 to 127, and makes subnormals normal: exact for all */
	return tn_f32_from_bits(sign | tn_f32_bits(tn_f32_from_bits(magnitude << 13) * 0x1p112f));
}

static inline uint16_t tn_f16_from_f32(float x)
{
	uint32_t u = tn_f32_bits(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7FFFFFFFu;
	if (magnitude > 0x7F800000u)
		return (uint16_t)(sign | 0x7E00u);
	if (magnitude >= 0x477FF000u) /* 65520 and above round to infinity */
		return (uint16_t)(sign | 0x7C00u);
	if (magnitude < 0x38800000u) {
		/* below 2^-14: adding 0.5 leaves the last bit at 2^-24, the float16 subnormal step, and rounds once */
		float shifted = tn_f32_from_bits(magnitude) + 0.5f;
		return (uint16_t)(sign | (tn_f32_bits(shifted) - 0x3F000000u));
	}
	uint32_t rounded = magnitude + 0xFFFu + ((magnitude >> 13) & 1u) - (112u << 23);
	return (uint16_t)(sign | rounded >> 13);
}

/* F8_E4M3 (e4m3fn): bias 7, no infinity, 0x7F and 0xFF are NaN, largest 448. */
static inline float tn_f32_from_f8_e4m3(uint8_t b)
{
	uint32_t magnitude = b & 0x7Fu, sign = (uint32_t)(b & 0x80u) << 24;
	uint32_t normal = (magnitude << 20) + (120u << 23), small = tn_f32_bits((float)(int32_t)magnitude * 0x1p-9f);
	uint32_t value = magnitude < 8 ? small : normal;
	return tn_f32_from_bits(sign | (magnitude == 0x7F ? 0x7FC00000u : value));
}

/* F8_E5M2: the upper byte of a float16. */
static inline float tn_f32_from_f8_e5m2(uint8_t b)
{
	return tn_f32_from_f16((uint16_t)(b << 8));
}

/* F8_E4M3FNUZ: bias 8, 0x80 is NaN, no negative zero. F8_E5M2FNUZ: bias 16, the same. */
static inline float tn_f32_from_f8_e4m3fnuz(uint8_t b)
{
	if (b == 0x80u)
		return tn_f32_from_bits(0x7FC00000u);
	return tn_f32_from_bits((uint32_t)(b & 0x80u) << 24 |
				tn_f32_bits(tn_f32_from_bits((uint32_t)(b & 0x7Fu) << 20) * 0x1p119f));
}

static inline float tn_f32_from_f8_e5m2fnuz(uint8_t b)
{
	if (b == 0x80u)
		return tn_f32_from_bits(0x7FC00000u);
	return tn_f32_from_bits((uint32_t)(b & 0x80u) << 24 |
				tn_f32_bits(tn_f32_from_bits((uint32_t)(b & 0x7Fu) << 21) * 0x1p111f));
}

#endif
