/* SPDX-License-Identifier: Apache-2.0 */
/* What became of changed rows; change_rows.c and kernels.h say what is computed. */
#include "kernels/change_runs.h"
#include "kernels/x86/lanes.h"
#include "kernels/x86/vector_x86.h"

enum { SUMS = 3, BLOCK = TN_DIRECTION_COLS, VECTORS = BLOCK / LANES, WORDS = VECTORS / 2 };

#if defined(__AVX512F__)
#define SUB(a, b) _mm512_sub_ps(a, b)
#else
#define SUB(a, b) _mm256_sub_ps(a, b)
#endif

/* ---- sums that are written ------------------------------------------------------------------------------- */

/* of change_rows.c */
void TN_ISA_NAME(tn_round_sums)(uint16_t *dst, const float *w, const float *d, tn_dtype product, tn_dtype dtype, size_t n);

TN_INLINE int any_nan(floats a, floats b)
{
#if defined(__AVX512F__)
	return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0;
#else
	return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0;
#endif
}

/* Two vectors of numbers, one behind the other. */
TN_INLINE void store_rounded(uint16_t *dst, floats low, floats high, tn_dtype dtype)
{
#if defined(__AVX512F__)
	if (dtype == TN_F16) {
		_mm256_storeu_si256((__m256i *)(void *)dst, _mm512_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
		_mm256_storeu_si256((__m256i *)(void *)(dst + LANES), _mm512_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT));
		return;
	}
	const __m512i even = _mm512_slli_epi16(ascending_halves(), 1), odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
	__m512i lower = _mm512_permutex2var_epi16(AS_INTS(low), even, AS_INTS(high));
	_mm512_storeu_si512(dst, round_upper(_mm512_permutex2var_epi16(AS_INTS(low), odd, AS_INTS(high)), lower));
#else
	ints l = dtype == TN_F16 ? to_f16(low) : _mm256_srli_epi32(to_bf16(low), 16);
	ints h = dtype == TN_F16 ? to_f16(high) : _mm256_srli_epi32(to_bf16(high), 16);
	_mm256_storeu_si256((__m256i *)(void *)dst, _mm256_permute4x64_epi64(_mm256_packus_epi32(l, h), 0xD8));
#endif
}

/* d is rounded to `first` and then to the dtype. */
TN_INLINE void round_sums(uint16_t *dst, const float *w, const float *d, tn_dtype first, tn_dtype dtype, size_t n)
{
	size_t i = 0;
	for (; i + 2 * LANES <= n; i += 2 * LANES) {
		floats x[2], sum[2];
		TN_UNROLL(2)
		for (int v = 0; v < 2; v++) {
			x[v] = LOAD(d + i + (size_t)v * LANES);
			sum[v] = ADD(LOAD(w + i + (size_t)v * LANES), round_number(round_number(x[v], first), dtype));
		}
		if (any_nan(x[0], x[1]) || any_nan(sum[0], sum[1]))
			TN_ISA_NAME(tn_round_sums)(dst + i, w + i, d + i, first, dtype, 2 * LANES);
		else
			store_rounded(dst + i, sum[0], sum[1], dtype);
	}
	TN_ISA_NAME(tn_round_sums)(dst + i, w + i, d + i, first, dtype, n - i);
}

void TN_ISA_NAME(tn_x86_round_sums)(uint16_t *dst, const float *w, const float *d, tn_dtype product, tn_dtype dtype, size_t n)
{
	tn_dtype first = product == dtype ? TN_F32 : product;
	if (dtype == TN_F16 && first == TN_F32)
		round_sums(dst, w, d, TN_F32, TN_F16, n);
	else if (dtype == TN_F16)
		round_sums(dst, w, d, TN_BF16, TN_F16, n);
	else if (first == TN_F32)
		round_sums(dst, w, d, TN_F32, TN_BF16, n);
	else
		round_sums(dst, w, d, TN_F16, TN_BF16, n);
}

/* ---- sums that are measured ------------------------------------------------------------------------------ */

#if !defined(__AVX512BF16__) && defined(__AVX512F__)
TN_INLINE __m256i narrow(floats v)
{
	__m512i u = _mm512_castps_si512(v), odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
	__mmask16 usual = _mm512_test_epi32_mask(u, _mm512_set1_epi32(0x7F800000));
	__m512i rounded = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF)));
	rounded = _mm512_mask_mov_epi32(_mm512_and_si512(u, _mm512_set1_epi32((int)0x80000000u)), usual, rounded);
	return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
}
#elif !defined(__AVX512F__)
TN_INLINE __m256i narrow(floats v)
{
	__m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
	__m256i exponent = _mm256_and_si256(u, _mm256_set1_epi32(0x7F800000));
	__m256i rounded = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
	__m256i small = _mm256_cmpeq_epi32(exponent, _mm256_setzero_si256());
	__m256i sign = _mm256_and_si256(u, _mm256_set1_epi32((int)0x80000000u));
	return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, sign, small), 16);
}
#endif

/* Two vectors, one behind the other, in BF16. */
TN_INLINE void store_halves(uint16_t *dst, floats low, floats high)
{
#if defined(__AVX512BF16__)
	_mm512_storeu_si512(dst, (__m512i)_mm512_cvtne2ps_pbh(high, low));
#elif defined(__AVX512F__)
	_mm256_storeu_si256((__m256i *)(void *)dst, narrow(low));
	_mm256_storeu_si256((__m256i *)(void *)(dst + LANES), narrow(high));
#else
	_mm256_storeu_si256((__m256i *)(void *)dst, _mm256_permute4x64_epi64(_mm256_packus_epi32(narrow(low), narrow(high)), 0xD8));
#endif
}

/* A block whose changes are known. */
TN_INLINE void add_changes(floats sum[SUMS][VECTORS], uint16_t *halves, const floats change[VECTORS], const float *wanted)
{
	TN_UNROLL(4)
	for (int v = 0; v < VECTORS; v++) {
		floats d = LOAD(wanted + v * LANES), error = SUB(change[v], d);
		sum[0][v] = ADD(sum[0][v], MUL(d, d));
		sum[1][v] = ADD(sum[1][v], MUL(error, error));
		sum[2][v] = ADD(sum[2][v], MUL(error, d));
	}
	TN_UNROLL(2)
	for (int w = 0; w < WORDS; w++)
		store_halves(halves + w * 2 * LANES, change[2 * w], change[2 * w + 1]);
}

TN_INLINE void add_block(floats sum[SUMS][VECTORS], uint16_t *halves, const float *before, const float *after, const float *wanted)
{
	floats change[VECTORS];
	TN_UNROLL(4)
	for (int v = 0; v < VECTORS; v++)
		change[v] = SUB(LOAD(after + v * LANES), LOAD(before + v * LANES));
	add_changes(sum, halves, change, wanted);
}

TN_INLINE void clear(floats sum[SUMS][VECTORS])
{
	TN_UNROLL(3)
	for (int s = 0; s < SUMS; s++)
		TN_UNROLL(4)
		for (int v = 0; v < VECTORS; v++)
			sum[s][v] = ZERO();
}

/* Lanes half of all apart, then half of those. */
TN_INLINE float tree(const floats v[VECTORS])
{
#if defined(__AVX512F__)
	return sum_by_halves(ADD(v[0], v[1]));
#else
	return sum_by_halves(ADD(ADD(v[0], v[2]), ADD(v[1], v[3])));
#endif
}

TN_INLINE void add_tree(struct tn_change_sums *sums, floats sum[SUMS][VECTORS])
{
	sums->wanted2 += (double)tree(sum[0]);
	sums->error2 += (double)tree(sum[1]);
	sums->both += (double)tree(sum[2]);
}

TN_INLINE void add_run(struct tn_change_sums *sums, const struct change_row *run, size_t n, const struct change_row *rest)
{
	floats sum[SUMS][VECTORS];
	clear(sum);
	for (size_t i = 0; i < n; i += BLOCK)
		add_block(sum, run->halves + i, run->before + i, run->after + i, run->wanted + i);
	if (rest)
		add_block(sum, rest->halves, rest->before, rest->after, rest->wanted);
	add_tree(sums, sum);
}

void TN_ISA_NAME(tn_x86_change_sums)(struct tn_change_sums *sums, uint16_t *halves, const float *before, const float *after,
				     const float *wanted, size_t n)
{
	add_runs(sums, &(struct change_row){ halves, before, after, wanted }, n, add_run);
}
