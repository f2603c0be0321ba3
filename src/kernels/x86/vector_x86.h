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
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SPREAD(x) _mm512_set1_ps(x)
#define SUM(v) _mm512_reduce_add_ps(v)

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
#else
enum { LANES = 8, TILE_X = 3 };
typedef __m256 floats;
#define ZERO() _mm256_setzero_ps()
#define LOAD(p) _mm256_loadu_ps(p)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define ADD(a, b) _mm256_add_ps(a, b)

TN_INLINE float sum_of(floats v)
{
	__m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	a = _mm_add_ps(a, _mm_movehl_ps(a, a));
	return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
#define SPREAD(x) _mm256_set1_ps(x)
#define SUM(v) sum_of(v)

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
#endif

/* The sums over the lanes of eight vectors. */
TN_INLINE void store_sums(float *dst, const floats v[8])
{
	__m256 half[8];
	TN_UNROLL(8)
	for (int i = 0; i < 8; i++) {
#if defined(__AVX512F__)
		half[i] = _mm256_add_ps(_mm512_castps512_ps256(v[i]), _mm512_extractf32x8_ps(v[i], 1));
#else
		half[i] = v[i];
#endif
	}
	__m256 a = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
	__m256 b = _mm256_hadd_ps(_mm256_hadd_ps(half[4], half[5]), _mm256_hadd_ps(half[6], half[7]));
	_mm256_storeu_ps(dst, _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31)));
}

#endif
