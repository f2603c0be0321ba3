/* SPDX-License-Identifier: Apache-2.0 */
/* What codes of other libraries mean, where there are at most sixteen, and codes for values: tables in registers. The same
 * operations as in unpack.c and level_codes.c. */
#include "kernels/x86/lanes.h"

void TN_ISA_NAME(tn_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid);

/* How the values of a run are computed: the table (AVX2: in two halves) and the numbers of its group. */
struct run {
	floats table[16 / FLOATS], scale, zero, factor;
	int add_zeros, has_factor;
};

TN_INLINE floats level_of(const uint8_t *codes, const struct run *r)
{
#if defined(__AVX512BW__)
	return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)codes)), r->table[0]);
#else
	__m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)codes));
	__m256 low = _mm256_permutevar8x32_ps(r->table[0], index), high = _mm256_permutevar8x32_ps(r->table[1], index);
	return _mm256_blendv_ps(low, high, AS_FLOATS(_mm256_slli_epi32(index, 28)));
#endif
}

TN_INLINE floats value_of(const uint8_t *codes, const struct run *r)
{
	floats x = level_of(codes, r);
	x = r->add_zeros ? V(add_ps)(V(mul_ps)(x, r->scale), r->zero) : V(mul_ps)(V(sub_ps)(x, r->zero), r->scale);
	return r->has_factor ? V(mul_ps)(x, r->factor) : x;
}

TN_INLINE void decode_run(float *dst, const uint8_t *codes, size_t n, const struct run *r)
{
	size_t i = 0;
	for (; i + FLOATS <= n; i += FLOATS)
		V(storeu_ps)(dst + i, value_of(codes + i, r));
	if (i < n) {
		uint8_t rest[FLOATS] = { 0 };
		float values[FLOATS];
		memcpy(rest, codes + i, n - i);
		V(storeu_ps)(values, value_of(rest, r));
		memcpy(dst + i, values, (n - i) * sizeof *values);
	}
}

void TN_ISA_NAME(tn_x86_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid)
{
	if (grid->code_count > 16 || grid->group_of) {
		TN_ISA_NAME(tn_grid_f32)(dst, codes, n, grid);
		return;
	}
	struct run r = { .factor = V(set1_ps)(grid->factor), .add_zeros = grid->add_zeros, .has_factor = grid->factor != 1.0f };
	for (int t = 0; t < 16 / FLOATS; t++)
		r.table[t] = V(loadu_ps)(grid->table + t * FLOATS);
	for (size_t i = 0, end; i < n; i = end) {
		size_t g = (grid->offset + i) / grid->group, next = (g + 1) * grid->group - grid->offset;
		end = next < n ? next : n;
		r.scale = V(set1_ps)(grid->scales[g]);
		r.zero = V(set1_ps)(grid->zeros ? grid->zeros[g] : 0);
		decode_run(dst + i, codes + i, end - i, &r);
	}
}

/* ---- codes ------------------------------------------------------------------------------------------------ */

/* Bounds for a search by halves: after n of its steps, n bits of the code, entry i stands for codes that begin with the bits i. */
struct search {
	floats bounds[4];
};

TN_INLINE struct search search_of(const float bounds[15])
{
	struct search s;
	for (int step = 0; step < 4; step++) {
		float entries[FLOATS] = { 0 };
		for (int i = 0; i < 1 << step; i++)
			entries[i] = bounds[(2 * i + 1) * (8 >> step) - 1];
		s.bounds[step] = V(loadu_ps)(entries);
	}
	return s;
}

TN_INLINE ints search_codes(floats x, const struct search *s)
{
	ints code = VI(setzero)();
	TN_UNROLL(4)
	for (int step = 0; step < 4; step++) {
		code = V(add_epi32)(code, code);
#if defined(__AVX512BW__)
		floats bound = _mm512_permutexvar_ps(_mm512_srli_epi32(code, 1), s->bounds[step]);
		code = _mm512_mask_add_epi32(code, _mm512_cmp_ps_mask(bound, x, _CMP_LT_OQ), code, _mm512_set1_epi32(1));
#else
		floats bound = _mm256_permutevar8x32_ps(s->bounds[step], _mm256_srli_epi32(code, 1));
		code = _mm256_sub_epi32(code, AS_INTS(_mm256_cmp_ps(bound, x, _CMP_LT_OQ)));
#endif
	}
	return code;
}

/* Two to a byte, the first in the upper half. */
TN_INLINE void store_high_first(uint8_t *dst, ints codes)
{
	ints pairs = VI(or)(V(slli_epi32)(codes, 4), V(srli_epi64)(codes, 32));
#if defined(__AVX512BW__)
	_mm_storel_epi64((__m128i *)(void *)dst, _mm512_cvtepi64_epi8(pairs));
#else
	const __m256i first = _mm256_setr_epi8(0, 8, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 8, -1,
					       -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
	__m256i bytes = _mm256_shuffle_epi8(pairs, first);
	int four = _mm_cvtsi128_si32(_mm_or_si128(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1)));
	memcpy(dst, &four, sizeof four);
#endif
}

/* The instruction takes its second operand when the first is NaN. */
TN_INLINE float largest_of(const float *values)
{
	floats top = V(setzero_ps)();
	for (int i = 0; i < TN_LEVEL_BLOCK; i += FLOATS)
		top = V(max_ps)(V(andnot_ps)(V(set1_ps)(-0.0f), V(loadu_ps)(values + i)), top);
#if defined(__AVX512BW__)
	return _mm512_reduce_max_ps(top);
#else
	__m128 four = _mm_max_ps(_mm256_castps256_ps128(top), _mm256_extractf128_ps(top, 1));
	four = _mm_max_ps(four, _mm_movehl_ps(four, four));
	return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
#endif
}

void TN_ISA_NAME(tn_x86_level_codes)(uint8_t *codes, float *largest, const float *values, size_t blocks, const float bounds[15])
{
	const struct search s = search_of(bounds);
	const float least = 1e-38f;
	for (size_t b = 0; b < blocks; b++, values += TN_LEVEL_BLOCK, codes += TN_LEVEL_BLOCK / 2) {
		float top = largest_of(values);
		const floats factor = V(set1_ps)(1.0f / (top > least ? top : least));
		largest[b] = top;
		for (int i = 0; i < TN_LEVEL_BLOCK; i += FLOATS)
			store_high_first(codes + i / 2, search_codes(V(mul_ps)(V(loadu_ps)(values + i), factor), &s));
	}
}
