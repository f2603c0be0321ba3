/* Vectors for the tiles of add_product: 16 lanes with AVX-512, else 8; a `pair` is the 16-bit form of two of them. */
#ifndef TN_TILES_X86_H
#define TN_TILES_X86_H

#include "kernels/x86/lanes.h"

/* Asks for memory that is read in a while, into the second cache. */
#define PREFETCH(p) _mm_prefetch((const char *)(p), _MM_HINT_T1)
/* Makes what was written past the caches seen before what is written later. */
#define END_STREAM() _mm_sfence()

#if defined(__AVX512F__)
enum { LANES = 16, VECTORS = 2, TILE_ROWS = 4, TILES_OF_LINE = 1 };
typedef __m512 vec;
typedef __m512i pair;
#define ZERO() _mm512_setzero_ps()
#define SPREAD(x) _mm512_set1_ps(x)
#define LOAD(p) _mm512_loadu_ps(p)
#define STORE(p, v) _mm512_storeu_ps(p, v)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SUB(a, b) _mm512_sub_ps(a, b)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define UPPER_HALVES(n) 0, n, 0, n + 1, 0, n + 2, 0, n + 3, 0, n + 4, 0, n + 5, 0, n + 6, 0, n + 7
#define STORE_PAIR(p, v) _mm512_storeu_si512(p, v)
#define SPREAD_HALF(x) _mm512_set1_epi16((short)(x))

/* BF16: a permutation into the upper halves, zeros in the lower ones, is one operation where to widen and to shift are two. */
TN_INLINE void widen_pair(vec v[VECTORS], pair h, tn_dtype dtype)
{
	static const uint16_t order[64] = { UPPER_HALVES(0), UPPER_HALVES(8), UPPER_HALVES(16), UPPER_HALVES(24) };
	for (int i = 0; i < VECTORS; i++)
		if (dtype == TN_F16)
			v[i] = _mm512_cvtph_ps(i ? _mm512_extracti64x4_epi64(h, 1) : _mm512_castsi512_si256(h));
		else
			v[i] = _mm512_castsi512_ps(
				_mm512_maskz_permutexvar_epi16(0xAAAAAAAAu, _mm512_loadu_si512(order + 32 * i), h));
}

#if defined(TN_FAST_PAIRS)
/* Lower halves of BF16, and upper ones. */
TN_INLINE vec paired(vec low, vec high)
{
	__m512i upper = _mm512_set1_epi32((int)0xFFFF0000u);
	return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(_mm512_srli_epi32(_mm512_castps_si512(low), 16),
							     _mm512_castps_si512(high), upper, 0xF8)); /* or (and) */
}

/* sum + a * *b for pairs. Written out, because compilers would load and spread *b first, which is one more operation for all that
 * a CPU holds at a time. */
TN_INLINE vec add_pairs(vec sum, vec a, const float *b)
{
	__asm__("vdpbf16ps %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(a), "m"(*b));
	return sum;
}
#endif

/* NaN comes out as something that is not finite, or by overflow as zero: settle() looks at either. */
TN_INLINE pair narrow_pair(vec low, vec high, tn_dtype dtype)
{
	return narrow_in_order(low, high, dtype);
}

/* Of BF16 the lower halves are enough: what was rounded up has a lower half that is negative. Where that is not so, because a sum
 * is subnormal or not finite, or is halfway between two, nothing is decided by it. */
#define LOWER_HALVES 1
#define EVEN_WORDS(n) n, n + 2, n + 4, n + 6, n + 8, n + 10, n + 12, n + 14

TN_INLINE void keep_sums(float kept[2 * LANES], const vec v[VECTORS], tn_dtype dtype)
{
	static const uint16_t order[32] = { EVEN_WORDS(0), EVEN_WORDS(16), EVEN_WORDS(32), EVEN_WORDS(48) };
	if (dtype == TN_F16) {
		STORE(kept, v[0]);
		STORE(kept + LANES, v[1]);
	} else {
		STORE_PAIR(kept, _mm512_permutex2var_epi16(_mm512_castps_si512(v[0]), _mm512_loadu_si512(order),
							   _mm512_castps_si512(v[1])));
	}
}

TN_INLINE void kept_sums(vec v[VECTORS], const float kept[2 * LANES], pair out, tn_dtype dtype)
{
	if (dtype == TN_F16) {
		v[0] = LOAD(kept);
		v[1] = LOAD(kept + LANES);
		return;
	}
	for (int i = 0; i < VECTORS; i++) {
		__m512i lower = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)kept + i));
		__m256i half = i ? _mm512_extracti64x4_epi64(out, 1) : _mm512_castsi512_si256(out);
		v[i] = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16), lower));
	}
}

TN_INLINE pair doubled(pair h)
{
	return _mm512_add_epi16(h, h);
}

TN_INLINE pair doubled_less(pair h, pair less)
{
	return _mm512_sub_epi16(_mm512_add_epi16(h, h), less);
}

/* A bit for each number of h, doubled and less `less`, that is at least `least`, but for those where low and high are the same
 * and h is neither zero nor, with half of `infinite` and more, not finite. */
TN_INLINE uint64_t undecided(pair h, pair less, pair least, pair low, pair high, unsigned infinite)
{
	__mmask32 from = _mm512_cmpge_epu16_mask(doubled_less(h, less), least);
	__mmask32 usual = _mm512_cmplt_epu16_mask(doubled_less(h, SPREAD_HALF(1)), SPREAD_HALF(infinite - 1));
	return from & ~_mm512_mask_cmpeq_epi16_mask(usual, low, high);
}

#define LOAD_PAIR(p) _mm512_loadu_si512(p)
#define LARGER_HALVES(a, b) _mm512_max_epu16(a, b)
#define ANY_FROM(h, least) (_mm512_cmpge_epu16_mask(h, least) != 0)
#define SMALLER_HALVES(a, b) _mm512_min_epi16(a, b)
#define MARKS_BELOW(h, least) _mm512_cmplt_epi16_mask(h, least)
#define OR_DIFFERENT(bits, a, b) _mm512_ternarylogic_epi32(bits, a, b, 0xF6) /* bits | (a ^ b) */
#define ANY_BIT(p) (_mm512_test_epi32_mask(p, p) != 0)
#define STREAM_PAIR(p, v) _mm512_stream_si512((void *)(p), v)
#else
enum { LANES = 8, VECTORS = 2, TILE_ROWS = 6, TILES_OF_LINE = 2 };
typedef __m256 vec;
typedef __m256i pair;
#define ZERO() _mm256_setzero_ps()
#define SPREAD(x) _mm256_set1_ps(x)
#define LOAD(p) _mm256_loadu_ps(p)
#define STORE(p, v) _mm256_storeu_ps(p, v)
#define ADD(a, b) _mm256_add_ps(a, b)
#define SUB(a, b) _mm256_sub_ps(a, b)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define STORE_PAIR(p, v) _mm256_storeu_si256((__m256i *)(void *)(p), v)
#define SPREAD_HALF(x) _mm256_set1_epi16((short)(x))

/* BF16: as the halves of 32 bits lie, even columns and odd ones. */
#define APART(dtype) ((dtype) == TN_BF16)

TN_INLINE void put_apart(vec v[VECTORS])
{
	vec even = _mm256_shuffle_ps(v[0], v[1], 0x88), odd = _mm256_shuffle_ps(v[0], v[1], 0xDD);
	v[0] = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xD8));
	v[1] = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xD8));
}

TN_INLINE void widen_pair(vec v[VECTORS], pair h, tn_dtype dtype)
{
	if (dtype == TN_F16) {
		v[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(h));
		v[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(h, 1));
	} else {
		v[0] = _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
		v[1] = _mm256_castsi256_ps(_mm256_and_si256(h, _mm256_set1_epi32((int)0xFFFF0000u)));
	}
}

TN_INLINE pair narrow_f16(vec low, vec high)
{
	return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT)),
				       _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT), 1);
}

/* In the upper halves. NaN comes out as something that is not finite, or by overflow as zero: settle() looks at either. */
TN_INLINE __m256i narrow_bf16(vec v)
{
	__m256i u = _mm256_castps_si256(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
	return _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
}

TN_INLINE pair upper_halves(__m256i even, __m256i odd)
{
	return _mm256_blend_epi16(_mm256_srli_epi32(even, 16), odd, 0xAA);
}

TN_INLINE pair narrow_pair(vec low, vec high, tn_dtype dtype)
{
	return dtype == TN_F16 ? narrow_f16(low, high) : upper_halves(narrow_bf16(low), narrow_bf16(high));
}

/* Half of the last place is added, so halfway between two numbers all of a lower half becomes zero. */
TN_INLINE pair round_pair(pair *ties, const vec v[VECTORS], tn_dtype dtype)
{
	const __m256i half = _mm256_set1_epi32(0x8000);
	if (dtype == TN_F16)
		return narrow_f16(v[0], v[1]);
	__m256i even = _mm256_add_epi32(_mm256_castps_si256(v[0]), half), odd = _mm256_add_epi32(_mm256_castps_si256(v[1]), half);
	*ties = _mm256_min_epu16(*ties, _mm256_min_epu16(even, odd));
	return upper_halves(even, odd);
}

TN_INLINE uint32_t tied(pair ties)
{
	return (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi16(ties, _mm256_setzero_si256())) & 0x33333333u;
}
#define TIED(ties, dtype) ((dtype) == TN_F16 ? 0 : tied(ties))

TN_INLINE pair doubled(pair h)
{
	return _mm256_add_epi16(h, h);
}

TN_INLINE pair doubled_less(pair h, pair less)
{
	return _mm256_sub_epi16(_mm256_add_epi16(h, h), less);
}

TN_INLINE pair from(pair h, pair least)
{
	return _mm256_cmpeq_epi16(_mm256_max_epu16(h, least), h);
}

/* A bit for each number of h, doubled and less `less`, that is at least `least`, but for those where low and high are the same
 * and h is neither zero nor, with half of `infinite` and more, not finite. */
TN_INLINE uint64_t undecided(pair h, pair less, pair least, pair low, pair high, unsigned infinite)
{
	pair beyond = from(doubled_less(h, less), least),
	     unusual = from(doubled_less(h, SPREAD_HALF(1)), SPREAD_HALF(infinite - 1));
	pair equal = _mm256_andnot_si256(unusual, _mm256_cmpeq_epi16(low, high));
	return _pext_u32((uint32_t)_mm256_movemask_epi8(_mm256_andnot_si256(equal, beyond)), 0x55555555u);
}

#define LOAD_PAIR(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define SMALLER_HALVES(a, b) _mm256_min_epi16(a, b)
#define MARKS_BELOW(h, least) (unsigned)_mm256_movemask_epi8(_mm256_cmpgt_epi16(least, h))
#define OR_DIFFERENT(bits, a, b) _mm256_or_si256(bits, _mm256_xor_si256(a, b))
#define ANY_BIT(p) (!_mm256_testz_si256(p, p))
/* Half a line: the other half follows at once, or it would be slower than through the caches. */
#define STREAM_PAIR(p, v) _mm256_stream_si256((__m256i *)(void *)(p), v)
#endif

#endif
