/* What codes of the codec `table` stand for, in vectors of float32. Unused ones vanish. */
#ifndef TN_TABLE_NUMBERS_H
#define TN_TABLE_NUMBERS_H

#include "kernels/x86/tables.h"

/* ---- scales ---------------------------------------------------------------------------------------------- */

/* E4M3 comes as F16 that is 2^8 times smaller, which the scale makes good. */
struct scaling {
	floats scale, factor;
	int has_factor;
};

TN_INLINE struct scaling scaling_of(const struct tn_format *f, float scale)
{
	const int is_e4m3 = f->bits == 8 && f->code_kind == TN_CODES_E4M3;
	return (struct scaling){ V(set1_ps)(is_e4m3 ? scale * 0x1p8f : scale), V(set1_ps)(f->grid->factor),
				 f->grid->factor != 1.0f };
}

TN_INLINE floats scaled(floats x, struct scaling s)
{
	x = V(mul_ps)(x, s.scale);
	return s.has_factor ? V(mul_ps)(x, s.factor) : x;
}

/* ---- 4 bits ---------------------------------------------------------------------------------------------- */

/* Sixteen floats, of AVX2 in two halves. */
struct sixteen {
	floats of[16 / FLOATS];
};

TN_INLINE struct sixteen sixteen_of(const float *table)
{
	struct sixteen s;
	TN_UNROLL(2)
	for (int i = 0; i < 16 / FLOATS; i++)
		s.of[i] = V(loadu_ps)(table + i * FLOATS);
	return s;
}

TN_INLINE struct sixteen numbers_of(struct sixteen levels, struct scaling s, tn_dtype dtype)
{
	struct sixteen n;
	TN_UNROLL(2)
	for (int i = 0; i < 16 / FLOATS; i++)
		n.of[i] = round_floats(scaled(levels.of[i], s), dtype);
	return n;
}

/* The numbers of the next FLOATS codes. */
TN_INLINE floats look_up_floats(struct sixteen n, const unsigned char *src)
{
#if defined(__AVX512BW__)
	return _mm512_permutexvar_ps(spread_nibbles(src), n.of[0]);
#else
	int32_t eight;
	memcpy(&eight, src, sizeof eight);
	__m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(eight), _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
	__m256 low = _mm256_permutevar8x32_ps(n.of[0], codes), high = _mm256_permutevar8x32_ps(n.of[1], codes);
	return _mm256_blendv_ps(low, high, AS_FLOATS(_mm256_slli_epi32(codes, 28)));
#endif
}

/* ---- 8 bits ---------------------------------------------------------------------------------------------- */

/* FLOATS of the 16 codes at src, from the j-th on. */
TN_INLINE floats bytes_as_floats(const unsigned char *src, int j, const enum tn_code_kind kind)
{
#if defined(__AVX512BW__)
	(void)j;
	if (kind == TN_CODES_E4M3)
		return _mm512_cvtph_ps(halves_of_e4m3(src));
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)src)));
#else
	if (kind == TN_CODES_E4M3) {
		__m256i h = halves_of_e4m3(src);
		return _mm256_cvtph_ps(j ? _mm256_extracti128_si256(h, 1) : _mm256_castsi256_si128(h));
	}
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(src + j))));
#endif
}

#endif
