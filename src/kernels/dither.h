/* Moving codes so that a row changes by d, on average over a hash: each code goes to one of the two values of its grid
 * around w + d, with the probabilities that make the mean exact. d = 0 moves nothing. Rounding to nearest instead would
 * leave every code in its place wherever |d| is below half a step, and the edit would be lost. */
#ifndef TN_DITHER_H
#define TN_DITHER_H

#include "kernels/quant.h"

/* A mixer of 32 bits in which every input bit moves every output bit (two multiplications and shifts; constants by
 * C. Wellons, "lowbias32"). */
TN_INLINE uint32_t mix32(uint32_t x)
{
	x ^= x >> 16;
	x *= 0x7FEB352Du;
	x ^= x >> 15;
	x *= 0x846CA68Bu;
	x ^= x >> 16;
	return x;
}

/* A seed for one row. */
TN_INLINE uint32_t row_seed(uint64_t seed, uint64_t row)
{
	uint32_t h = mix32((uint32_t)seed ^ 0x9E3779B9u);
	h = mix32(h ^ (uint32_t)(seed >> 32));
	h = mix32(h ^ (uint32_t)row);
	return mix32(h ^ (uint32_t)(row >> 32));
}

/* Between columns, in what is hashed. */
#define TN_HASH_STEP 0x9E3779B9u

/* Uniform in [0, 1): 24 bits, so that it never rounds up to 1. */
TN_INLINE float uniform(uint32_t row_hash, size_t column)
{
	return (float)(mix32(row_hash + (uint32_t)column * TN_HASH_STEP) >> 8) * 0x1p-24f;
}

/* E2M1 codes in the order of their values, -6 to 6, without -0; `order` is where a code stands. */
TN_INLINE unsigned e2m1_at(int order)
{
	return order < 7 ? 15u - (unsigned)order : (unsigned)order - 7u;
}

TN_INLINE int e2m1_order(unsigned code)
{
	return code & 8u ? 7 - (int)(code & 7u) : 7 + (int)code;
}

/* The code for x = element + d / scale: below 1 when u falls under the share of the way to the upper neighbour. *clamped
 * is set when x lies beyond the grid. */
TN_INLINE unsigned e2m1_dither(unsigned code, float delta, float u, int *clamped)
{
	float x = e2m1_decode(code) + delta;
	int order = 0;
	if (delta == 0 || delta != delta)
		return code;
	*clamped = x > 6.0f || x < -6.0f;
	for (int i = 1; i < 15; i++) /* the last value that is not above x */
		order += e2m1_decode(e2m1_at(i)) <= x;
	if (order == 14)
		return e2m1_at(14);
	float low = e2m1_decode(e2m1_at(order)), high = e2m1_decode(e2m1_at(order + 1));
	unsigned chosen = e2m1_at(order + (u < (x - low) / (high - low)));
	return e2m1_decode(chosen) == e2m1_decode(code) ? code : chosen; /* -0 stays -0 */
}

/* The wider of the two distances to the neighbours of a code, in units of half the scale, squared, and summed over 16 codes: each
 * is 1, with 3 more from magnitude 4 on and 12 more from 6 on. Four bits hold that, so all are looked at together. */
TN_INLINE unsigned e2m1_steps2_of_16(const unsigned char *codes)
{
	const uint64_t ones = 0x1111111111111111u, halves = 0x0F0F0F0F0F0F0F0Fu;
	uint64_t word;
	memcpy(&word, codes, sizeof word);
	uint64_t from_4 = word >> 2 & ones, from_6 = from_4 & word >> 1, more = from_4 * 3 + from_6 * 12;
	return 16 + (unsigned)(((more & halves) + (more >> 4 & halves)) * 0x0101010101010101u >> 56);
}

/* E4M3 bytes in the order of their values, -448 to 448, without -0 and NaN. */
TN_INLINE int e4m3_order(unsigned byte)
{
	return byte & 0x80u ? 0x7E - (int)(byte & 0x7Fu) : 0x7E + (int)byte;
}

TN_INLINE unsigned e4m3_at(int order)
{
	return order < 0x7E ? 0x80u | (0x7Eu - (unsigned)order) : (unsigned)order - 0x7Eu;
}

TN_INLINE unsigned e4m3_dither(unsigned byte, float delta, float u, int *clamped)
{
	float x = tn_f32_from_f8_e4m3((uint8_t)byte) + delta;
	if (delta == 0 || x != x)
		return byte;
	*clamped = x > 448.0f || x < -448.0f;
	int order = e4m3_order(e4m3_encode(x)); /* the nearest: the value itself, or one of the two around it */
	if (tn_f32_from_f8_e4m3((uint8_t)e4m3_at(order)) > x)
		order--;
	if (order < 0)
		return e4m3_at(0);
	if (order >= 0xFC)
		return e4m3_at(0xFC);
	float low = tn_f32_from_f8_e4m3((uint8_t)e4m3_at(order)), high = tn_f32_from_f8_e4m3((uint8_t)e4m3_at(order + 1));
	unsigned chosen = e4m3_at(order + (u < (x - low) / (high - low)));
	return chosen == 0 && byte == 0x80u ? byte : chosen; /* -0 stays -0 */
}

/* The distance from a value to the next larger magnitude; of the largest, to the next smaller. */
TN_INLINE float e4m3_step(unsigned byte)
{
	const int exponent = (int)(byte & 0x7Fu) >> 3;
	return power_of_two((exponent ? exponent : 1) - 10);
}

/* What the elements of a group are multiplied by, from its scale byte. */
typedef float (*tn_scale_of)(uint8_t byte, const struct tn_format *format);

/* One row of E2M1 codes, two to a byte. */
TN_INLINE void e2m1_dither_row(unsigned char *dst, const struct tn_row *row, const float *d, const struct tn_format *f,
			       size_t cols, int group, tn_scale_of scale_of, uint32_t row_hash,
			       struct tn_dither_counts *counts)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	for (size_t i = 0; i < cols; i += 2) {
		unsigned byte = src[i / 2], out[2];
		float scale = scale_of(scales[i / (size_t)group], f);
		for (size_t k = 0; k < 2; k++) {
			unsigned code = byte >> (4 * k) & 15u;
			float delta = scale != 0 ? d[i + k] / scale : 0;
			int clamped = 0;
			out[k] = e2m1_dither(code, delta, uniform(row_hash, i + k), &clamped);
			counts->moved += out[k] != code;
			counts->clamped += (uint64_t)clamped;
		}
		dst[i / 2] = (unsigned char)(out[0] | out[1] << 4);
	}
}

TN_INLINE double e2m1_steps2(const struct tn_row *row, const struct tn_format *f, size_t cols, int group, tn_scale_of scale_of)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	double sum = 0;
	for (size_t g = 0; g < cols / (size_t)group; g++, src += group / 2) {
		double scale = (double)scale_of(scales[g], f);
		unsigned squares = 0;
		for (int i = 0; i < group / 2; i += 8)
			squares += e2m1_steps2_of_16(src + i);
		sum += scale * scale * squares / 4;
	}
	return sum;
}

#endif
