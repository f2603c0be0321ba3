/* Vectors of float32 for what is written once for all architectures: 16 lanes with AVX-512, else 8. */
#ifndef TN_VECTOR_X86_H
#define TN_VECTOR_X86_H

#include "kernels/x86/override.h"

/* Asks for memory that is read in a while, into the second cache. */
#define PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
/* decode of any codec. */
#define DECODE TN_ISA_NAME(tn_x86_decode)

#if defined(__AVX512F__)
enum { LANES = 16, TILE_X = 6 };
typedef __m512 floats;
#define ZERO() _mm512_setzero_ps()
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define ADD(a, b) _mm512_add_ps(a, b)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define SPREAD(x) _mm512_set1_ps(x)
#define SUM(v) _mm512_reduce_add_ps(v)
#define UNPACK_LOW(a, b) _mm512_unpacklo_ps(a, b)
#define UNPACK_HIGH(a, b) _mm512_unpackhi_ps(a, b)
#define SHUFFLE(a, b, how) _mm512_shuffle_ps(a, b, how)

TN_INLINE floats load_bytes(const unsigned char *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

TN_INLINE floats load_floats(const unsigned char *p, size_t i, tn_dtype dtype)
{
	if (dtype == TN_F32)
		return _mm512_loadu_ps(p + 4 * i);
	__m256i h = _mm256_loadu_si256((const __m256i *)(const void *)(p + 2 * i));
	return dtype == TN_F16 ? _mm512_cvtph_ps(h) : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

/* Even and odd elements of 2 * LANES numbers of BF16. */
TN_INLINE void split_pairs(floats v[2], floats pairs)
{
	__m512i w = _mm512_castps_si512(pairs);
	v[0] = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
	v[1] = _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xFFFF0000)));
}

TN_INLINE void load_pairs(floats v[2], const unsigned char *p)
{
	split_pairs(v, _mm512_loadu_ps(p));
}

TN_INLINE floats reorder(floats v, const int32_t order[16])
{
	return _mm512_permutexvar_ps(_mm512_loadu_si512(order), v);
}
#else
enum { LANES = 8, TILE_X = 3 };
typedef __m256 floats;
#define ZERO() _mm256_setzero_ps()
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define ADD(a, b) _mm256_add_ps(a, b)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define SPREAD(x) _mm256_set1_ps(x)
#define SUM(v) sum_by_halves(v)
#define UNPACK_LOW(a, b) _mm256_unpacklo_ps(a, b)
#define UNPACK_HIGH(a, b) _mm256_unpackhi_ps(a, b)
#define SHUFFLE(a, b, how) _mm256_shuffle_ps(a, b, how)

TN_INLINE floats load_bytes(const unsigned char *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

TN_INLINE floats load_floats(const unsigned char *p, size_t i, tn_dtype dtype)
{
	if (dtype == TN_F32)
		return _mm256_loadu_ps((const float *)(const void *)(p + 4 * i));
	__m128i h = _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * i));
	return dtype == TN_F16 ? _mm256_cvtph_ps(h) : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
}

TN_INLINE void split_pairs(floats v[2], floats pairs)
{
	__m256i w = _mm256_castps_si256(pairs);
	v[0] = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
	v[1] = _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xFFFF0000)));
}

TN_INLINE void load_pairs(floats v[2], const unsigned char *p)
{
	split_pairs(v, _mm256_loadu_ps((const float *)(const void *)p));
}

TN_INLINE floats reorder(floats v, const int32_t order[8])
{
	return _mm256_permutevar8x32_ps(v, _mm256_loadu_si256((const __m256i *)(const void *)order));
}
#endif

/* Lanes half of all apart, then half of those. */
TN_INLINE float sum_by_halves(floats v)
{
#if defined(__AVX512F__)
	__m256 half = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
#else
	__m256 half = v;
#endif
	__m128 a = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
	a = _mm_add_ps(a, _mm_movehl_ps(a, a));
	return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

/* In each 128 bits of four vectors: four rows of four elements made columns. */
TN_INLINE void turn_fours(floats v[4])
{
	floats a = UNPACK_LOW(v[0], v[1]), b = UNPACK_HIGH(v[0], v[1]), c = UNPACK_LOW(v[2], v[3]), d = UNPACK_HIGH(v[2], v[3]);
	v[0] = SHUFFLE(a, c, 0x44);
	v[1] = SHUFFLE(a, c, 0xEE);
	v[2] = SHUFFLE(b, d, 0x44);
	v[3] = SHUFFLE(b, d, 0xEE);
}

/* Sixteen columns of BF16, of LANES rows that are `stride` bytes apart. */
TN_INLINE void load_columns(floats v[16], const unsigned char *p, size_t stride)
{
	floats pair[8];
	TN_UNROLL(8)
	for (size_t i = 0; i < 8; i++) {
#if defined(__AVX512F__)
		const unsigned char *row = p + (i % 4 + i / 4 * 8) * stride;
		__m512i w = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)row));
		pair[i] = _mm512_castsi512_ps(
			_mm512_inserti64x4(w, _mm256_loadu_si256((const __m256i *)(const void *)(row + 4 * stride)), 1));
#else
		pair[i] = _mm256_loadu_ps((const float *)(const void *)(p + i * stride));
#endif
	}
	turn_fours(pair);
	turn_fours(pair + 4);
	TN_UNROLL(4)
	for (int i = 0; i < 4; i++) {
#if defined(__AVX512F__)
		floats low = _mm512_shuffle_f32x4(pair[i], pair[4 + i], 0x88),
		       high = _mm512_shuffle_f32x4(pair[i], pair[4 + i], 0xDD);
#else
		floats low = _mm256_permute2f128_ps(pair[i], pair[4 + i], 0x20),
		       high = _mm256_permute2f128_ps(pair[i], pair[4 + i], 0x31);
#endif
		split_pairs(v + 2 * i, low);
		split_pairs(v + 8 + 2 * i, high);
	}
}

/* In each 128 bits: the sums of the four elements there, of four vectors. */
TN_INLINE floats add_fours(const floats v[4])
{
	floats a = ADD(UNPACK_LOW(v[0], v[1]), UNPACK_HIGH(v[0], v[1]));
	floats b = ADD(UNPACK_LOW(v[2], v[3]), UNPACK_HIGH(v[2], v[3]));
	return ADD(SHUFFLE(a, b, 0x44), SHUFFLE(a, b, 0xEE));
}

/* `width` vectors hold LANES rows of `width` elements, one behind the other: the sum of each row. */
TN_INLINE floats add_rows(const floats *v, const int width)
{
#if defined(__AVX512F__)
	static const int32_t by_twos[16] = { 0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15 };
	static const int32_t by_fours[16] = { 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15 };
	static const int32_t by_eights[16] = { 0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15 };
	if (width == 2)
		return reorder(ADD(SHUFFLE(v[0], v[1], 0x88), SHUFFLE(v[0], v[1], 0xDD)), by_twos);
	if (width == 4)
		return reorder(add_fours(v), by_fours);
	floats a = add_fours(v), b = add_fours(v + 4);
	if (width == 8)
		return reorder(ADD(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xDD)), by_eights);
	floats c = add_fours(v + 8), d = add_fours(v + 12);
	a = ADD(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
	c = ADD(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
	return ADD(_mm512_shuffle_f32x4(a, c, 0x88), _mm512_shuffle_f32x4(a, c, 0xDD));
#else
	static const int32_t by_twos[8] = { 0, 1, 4, 5, 2, 3, 6, 7 };
	static const int32_t by_fours[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };
	if (width == 2)
		return reorder(ADD(SHUFFLE(v[0], v[1], 0x88), SHUFFLE(v[0], v[1], 0xDD)), by_twos);
	if (width == 4)
		return reorder(add_fours(v), by_fours);
	floats a = add_fours(v), b = add_fours(v + 4);
	return ADD(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
#endif
}

#endif
