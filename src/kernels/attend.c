/* SPDX-License-Identifier: Apache-2.0 */
/* What attention and activations need beside products. Sums have a fixed order: the same bits on every instruction set. */
#include "kernels/attend.h"

#include "kernels/kernels.h"

#include <string.h>

/* Floats of a register. */
#ifdef __AVX512F__
enum { VECTOR = 16 };
#elif defined __AVX__
enum { VECTOR = 8 };
#else
enum { VECTOR = 4 };
#endif
enum { LANES = TN_KEY_BLOCK, PARTS = LANES / VECTOR, WIDE = PARTS > 2 ? 2 : 4 };

/* Left to itself gcc 12 turns these loops inside out, and they take ten times as long; vectors longer than a register it keeps
 * in memory, and they take twenty times as long. */
typedef float vector __attribute__((vector_size(VECTOR * sizeof(float))));
typedef struct {
	vector part[PARTS];
} lanes;

/* sum += factor * p [LANES] */
static inline void add_product(lanes *sum, float factor, const float *p)
{
	for (size_t i = 0; i < PARTS; i++) {
		vector v;
		memcpy(&v, p + i * VECTOR, sizeof v);
		sum->part[i] += factor * v;
	}
}

static inline void scale_lanes(lanes *sum, float scale)
{
	for (size_t i = 0; i < PARTS; i++)
		sum->part[i] *= scale;
}

/* Two blocks of keys at once: two sums that do not wait for each other. */
static void two_blocks(float *scores, const float *q, const float *keys, size_t width, float scale)
{
	const float *second = keys + LANES * width;
	lanes a = { { { 0 } } }, b = a;
	for (size_t j = 0; j < width; j++) {
		add_product(&a, q[j], keys + j * LANES);
		add_product(&b, q[j], second + j * LANES);
	}
	scale_lanes(&a, scale);
	scale_lanes(&b, scale);
	memcpy(scores, &a, sizeof a);
	memcpy(scores + LANES, &b, sizeof b);
}

/* The first `count` of a block, whose other keys are read too. */
static void one_block(float *scores, const float *q, const float *keys, size_t width, float scale, size_t count)
{
	lanes a = { { { 0 } } };
	for (size_t j = 0; j < width; j++)
		add_product(&a, q[j], keys + j * LANES);
	scale_lanes(&a, scale);
	memcpy(scores, &a, count * sizeof *scores);
}

void TN_ISA_NAME(tn_scores_f32)(float *scores, const float *q, const float *keys, size_t count, size_t width, float scale)
{
	size_t i = 0;
	for (; i + 2 * LANES <= count; i += 2 * LANES)
		two_blocks(scores + i, q, keys + i * width, width, scale);
	for (; i < count; i += LANES)
		one_block(scores + i, q, keys + i * width, width, scale, count - i < LANES ? count - i : LANES);
}

void TN_ISA_NAME(tn_mix_f32)(float *y, const float *shares, const float *values, size_t count, size_t width)
{
	size_t j = 0;
	for (; j + WIDE * LANES <= width; j += WIDE * LANES) {
		lanes sum[WIDE] = { { { { 0 } } } };
		for (size_t i = 0; i < count; i++)
			for (size_t w = 0; w < WIDE; w++)
				add_product(&sum[w], shares[i], values + i * width + j + w * LANES);
		memcpy(y + j, sum, sizeof sum);
	}
	for (; j < width; j++) {
		float sum = 0;
		for (size_t i = 0; i < count; i++)
			sum += shares[i] * values[i * width + j];
		y[j] = sum;
	}
}

/* 2^k * exp(r) with |r| <= log(2) / 2: the polynomial of Cephes' expf (S. Moshier), to 2 units in the last place. */
static inline float exponential(float x)
{
	const float high = 88.7f, low = -87.3f;
	float clamped = x > high ? high : x < low ? low : x;
	float k = clamped * 1.44269504088896341f + 12582912.0f; /* 1.5 * 2^23: the sum's last bits are the rounded number */
	uint32_t bits;
	memcpy(&bits, &k, sizeof bits);
	k -= 12582912.0f;
	float r = clamped - k * 0.693359375f - k * -2.12194440e-4f;
	float p = 1.9875691500e-4f;
	p = p * r + 1.3981999507e-3f;
	p = p * r + 8.3334519073e-3f;
	p = p * r + 4.1665795894e-2f;
	p = p * r + 1.6666665459e-1f;
	p = p * r + 5.0000001201e-1f;
	p = p * (r * r) + r + 1;
	uint32_t power = (bits - 0x4B400000u + 127u) << 23;
	float scale;
	memcpy(&scale, &power, sizeof scale);
	float e = p * scale;
	return x < low ? 0 : x > high ? x * 3.4e38f : x != x ? x : e;
}

void TN_ISA_NAME(tn_exp_f32)(float *y, const float *x, size_t n)
{
	for (size_t i = 0; i < n; i++)
		y[i] = exponential(x[i]);
}
