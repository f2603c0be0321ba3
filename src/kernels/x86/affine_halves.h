/* Rows of 16-bit floats to affine codes, group by group: how a grid is fitted, and numbers become codes on it. codec_affine.c says
 * what is computed. HALVES columns at a time, even ones in one vector and odd ones in the other. */
#ifndef TN_AFFINE_HALVES_H
#define TN_AFFINE_HALVES_H

#include "kernels/x86/lanes.h"

/* Groups whose grids are made at once: a vector of each number. */
struct grids {
	float scale[FLOATS], bias[FLOATS], inverse[FLOATS];
	unsigned odd;              /* a bit for each group that only the plain codec does right */
};

/* ---- columns ---------------------------------------------------------------------------------------------- */

/* Values of HALVES columns. */
struct two {
	floats even, odd;
};

/* Numbers of HALVES columns. */
TN_INLINE struct two load_two(const float *p)
{
#if defined(__AVX512BW__)
	static const int32_t even[16] = { 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30 };
	static const int32_t odd[16] = { 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31 };
	floats a = _mm512_loadu_ps(p), b = _mm512_loadu_ps(p + 16);
	return (struct two){ _mm512_permutex2var_ps(a, load_ints(even), b), _mm512_permutex2var_ps(a, load_ints(odd), b) };
#else
	floats a = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 8), 1);
	floats b = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 4)), _mm_loadu_ps(p + 12), 1);
	return (struct two){ _mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xDD) };
#endif
}

/* Rounded to the dtype, in order; with the instruction that there is for BF16, which makes subnormal numbers 0. */
TN_INLINE ints narrow_two(struct two x, tn_dtype dtype)
{
#if defined(__AVX512BF16__)
	if (dtype == TN_BF16)
		return interleave_halves((ints)_mm512_cvtne2ps_pbh(x.odd, x.even));
#endif
	return narrow_pairs(x.even, x.odd, dtype);
}

/* A code and, `bits` above it, the next one in each lane. */
TN_INLINE ints load_codes(const unsigned char *p, const int bits)
{
#if defined(__AVX512BW__)
	if (bits == 4)
		return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
	return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
#else
	if (bits == 4)
		return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p));
	return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
#endif
}

TN_INLINE struct two codes_as_floats(ints codes, const int bits)
{
	ints even = VI(and)(codes, V(set1_epi32)((1 << bits) - 1));
	return (struct two){ V(cvtepi32_ps)(even), V(cvtepi32_ps)(V(srli_epi32)(codes, bits)) };
}

/* ---- grids ------------------------------------------------------------------------------------------------ */

/* As signed numbers of 16 bits the floats have their order then; the same again gives them back. */
TN_INLINE ints in_order(ints h)
{
	ints negative = V(srai_epi16)(h, 15);
	return VI(xor)(h, VI(and)(negative, V(set1_epi16)(0x7FFF)));
}

/* Least of 8 unsigned numbers. */
TN_INLINE unsigned least_of_8(__m128i v)
{
	return (unsigned)_mm_cvtsi128_si32(_mm_minpos_epu16(v)) & 0xFFFFu;
}

TN_INLINE __m256i lower_half(ints v)
{
#if defined(__AVX512BW__)
	return _mm512_castsi512_si256(v);
#else
	return v;
#endif
}

/* Of numbers in order: the least, and the greatest, as 16 bits of a float. */
TN_INLINE uint16_t least_half(ints v)
{
	__m256i y = lower_half(v);
#if defined(__AVX512BW__)
	y = _mm256_min_epi16(y, _mm512_extracti64x4_epi64(v, 1));
#endif
	__m128i x = _mm_min_epi16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
	return (uint16_t)(least_of_8(_mm_xor_si128(x, _mm_set1_epi16((short)0x8000))) ^ 0x8000u);
}

TN_INLINE uint16_t greatest_half(ints v)
{
	__m256i y = lower_half(v);
#if defined(__AVX512BW__)
	y = _mm256_max_epi16(y, _mm512_extracti64x4_epi64(v, 1));
#endif
	__m128i x = _mm_max_epi16(_mm256_castsi256_si128(y), _mm256_extracti128_si256(y, 1));
	return (uint16_t)(least_of_8(_mm_xor_si128(x, _mm_set1_epi16(0x7FFF))) ^ 0x7FFFu);
}

TN_INLINE void range_of(const unsigned char *src, size_t group, uint16_t *lo, uint16_t *hi)
{
	ints least = in_order(load_ints(src)), most = least;
	for (size_t i = HALVES; i < group; i += HALVES) {
		ints h = in_order(load_ints(src + 2 * i));
		least = V(min_epi16)(least, h);
		most = V(max_epi16)(most, h);
	}
	*lo = least_half(least);
	*hi = greatest_half(most);
}

/* yes in the lanes where a predicate b holds, else no. */
#if defined(__AVX512BW__)
#define CHOOSE(no, yes, a, b, predicate) _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, predicate), no, yes)
#define ROUND_EVEN(x) _mm512_roundscale_ps(x, _MM_FROUND_CUR_DIRECTION)
#define SPREAD_LONG(x) _mm512_set1_epi64(x)
#define WIDEN(p) _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#else
#define CHOOSE(no, yes, a, b, predicate) _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, predicate))
#define ROUND_EVEN(x) _mm256_round_ps(x, _MM_FROUND_CUR_DIRECTION)
#define SPREAD_LONG(x) _mm256_set1_epi64x(x)
#define WIDEN(p) _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#endif

/* Ordered numbers as floats. */
TN_INLINE floats ordered_floats(const uint16_t *numbers, tn_dtype dtype)
{
	ints h = in_order(WIDEN(numbers));
	return even_floats(h, dtype);
}

TN_INLINE struct grids grids_of(const unsigned char *src, size_t group, size_t count, const int bits, tn_dtype dtype)
{
	struct grids grids;
	uint16_t least[FLOATS] = { 0 }, most[FLOATS] = { 0 };
	const floats sign = V(set1_ps)(-0.0f), smallest = V(set1_ps)(1e-7f), one = V(set1_ps)(1), zero = V(setzero_ps)();
	/* below it nothing overflows on the way; infinity and NaN are above, whatever even_floats() makes of them */
	const floats limit = V(set1_ps)(dtype == TN_F16 ? 65520.0f : 0x1p100f);
	for (size_t g = 0; g < count; g++)
		range_of(src + 2 * g * group, group, &least[g], &most[g]);
	floats lo = ordered_floats(least, dtype), hi = ordered_floats(most, dtype);
	floats low_size = V(andnot_ps)(sign, lo), high_size = V(andnot_ps)(sign, hi);
	floats step = V(div_ps)(V(sub_ps)(hi, lo), V(set1_ps)((float)((1 << bits) - 1)));
	step = CHOOSE(step, smallest, step, smallest, _CMP_LT_OQ);
	floats scale = CHOOSE(V(xor_ps)(step, sign), step, low_size, high_size, _CMP_GT_OQ);
	floats edge = CHOOSE(hi, lo, low_size, high_size, _CMP_GT_OQ);
	floats zero_code = ROUND_EVEN(V(div_ps)(edge, scale));
	floats fitted = CHOOSE(V(div_ps)(edge, zero_code), scale, zero_code, zero, _CMP_EQ_OQ);
	V(storeu_ps)(grids.scale, fitted);
	V(storeu_ps)(grids.bias, CHOOSE(edge, zero, zero_code, zero, _CMP_EQ_OQ));
	V(storeu_ps)(grids.inverse, V(div_ps)(one, fitted));
	grids.odd = LANES_UNLESS(low_size, _CMP_LT_OQ, limit) | LANES_UNLESS(high_size, _CMP_LT_OQ, limit);
	return grids;
}

/* ---- codes ------------------------------------------------------------------------------------------------ */

/* (x - bias) / scale, rounded. A quotient made of the rounded inverse and corrected by its remainder falls on the same side of
 * every k + 1/2, and on it, as the rounded quotient does: tried for all 2^23 fractions of a scale, all k below 256 and all x within
 * 12 floats around. It is never below -1/2: the bias is the end of the group where the codes begin, or 0 where all are 0. */
TN_INLINE ints codes_of(floats x, floats scale, floats bias, floats inverse, const int bits)
{
	floats a = V(sub_ps)(x, bias), q = V(mul_ps)(a, inverse);
	q = V(fmadd_ps)(V(fnmadd_ps)(q, scale, a), inverse, q);
	return V(cvtps_epi32)(V(min_ps)(q, V(set1_ps)((float)((1 << bits) - 1))));
}

/* The lower half of each 128 bits, `bits` bytes of it; what is written beyond them is written again. */
TN_INLINE void store_stream(unsigned char *dst, size_t left, ints v, const int bits)
{
	enum { PARTS = HALVES / 8 };
	uint64_t part[PARTS * 2];
	const size_t step = (size_t)bits;
	if (left >= (PARTS - 1) * step + 8) {
		_mm_storel_epi64((__m128i *)(void *)dst, _mm256_castsi256_si128(lower_half(v)));
		_mm_storel_epi64((__m128i *)(void *)(dst + step), _mm256_extracti128_si256(lower_half(v), 1));
#if defined(__AVX512BW__)
		_mm_storel_epi64((__m128i *)(void *)(dst + 2 * step), _mm512_extracti32x4_epi32(v, 2));
		_mm_storel_epi64((__m128i *)(void *)(dst + 3 * step), _mm512_extracti32x4_epi32(v, 3));
#endif
		return;
	}
	store_ints(part, v, 0);
	for (int i = 0; i < PARTS; i++)
		memcpy(dst + (size_t)i * step, &part[2 * i], step);
}

/* HALVES codes, even ones in `low`, odd ones in `high`: two, four and then eight of them side by side. */
TN_INLINE void store_codes(unsigned char *dst, size_t left, ints low, ints high, const int bits)
{
	ints pairs = VI(or)(low, V(slli_epi32)(high, bits));
#if defined(__AVX512BW__)
	if (bits == 4)
		_mm_storeu_si128((__m128i *)(void *)dst, _mm512_cvtepi32_epi8(pairs));
	if (bits == 8)
		_mm256_storeu_si256((__m256i *)(void *)dst, _mm512_cvtepi32_epi16(pairs));
#else
	__m128i words = _mm_packus_epi32(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
	if (bits == 4)
		_mm_storel_epi64((__m128i *)(void *)dst, _mm_packus_epi16(words, words));
	if (bits == 8)
		_mm_storeu_si128((__m128i *)(void *)dst, words);
#endif
	if (bits == 4 || bits == 8)
		return;
	ints four = VI(or)(pairs, V(srli_epi64)(pairs, 32 - 2 * bits));
#if defined(__AVX512BW__)
	if (bits == 2) {
		_mm_storel_epi64((__m128i *)(void *)dst, _mm512_cvtepi64_epi8(four));
		return;
	}
#endif
	four = VI(and)(four, SPREAD_LONG((1 << 4 * bits) - 1));
	store_stream(dst, left, VI(or)(four, V(slli_epi64)(V(bsrli_epi128)(four, 8), 4 * bits)), bits);
}

#endif
