/* The widest vectors that the flags allow, seen as numbers of 16 bits (HALVES of them) or of 32 (FLOATS), and 16-bit floats in
 * them. Two neighbours of 16 bits are the low and the high half of a lane of 32. */
#ifndef TN_LANES_H
#define TN_LANES_H

#include "kernels/x86/codec_x86.h"

#if defined(__AVX512BW__)
typedef __m512i ints;
typedef __m512 floats;
enum { HALVES = 32, FLOATS = 16 };
#define V(name) _mm512_##name
#define VI(name) _mm512_##name##_si512
#define AS_INTS(v) _mm512_castps_si512(v)
#define AS_FLOATS(v) _mm512_castsi512_ps(v)
#else
typedef __m256i ints;
typedef __m256 floats;
enum { HALVES = 16, FLOATS = 8 };
#define V(name) _mm256_##name
#define VI(name) _mm256_##name##_si256
#define AS_INTS(v) _mm256_castps_si256(v)
#define AS_FLOATS(v) _mm256_castsi256_ps(v)
#endif

/* x where not NaN, else y. */
TN_INLINE floats unless_nan(floats x, floats y)
{
#if defined(__AVX512BW__)
	return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), x, y);
#else
	return _mm256_blendv_ps(x, y, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
#endif
}

/* NaN as narrow() makes it: of F16 with its sign. */
TN_INLINE floats plain_nan(floats x, tn_dtype dtype)
{
	ints nan = V(set1_epi32)(0x7FC00000);
	if (dtype == TN_F16)
		nan = VI(or)(nan, VI(and)(AS_INTS(x), V(set1_epi32)((int)0x80000000u)));
	return unless_nan(x, AS_FLOATS(nan));
}

/* The upper halves of the lanes are BF16. NaN has become plain_nan() before. */
TN_INLINE ints to_bf16(floats x)
{
	ints u = AS_INTS(x), odd = VI(and)(V(srli_epi32)(u, 16), V(set1_epi32)(1));
	return V(add_epi32)(u, V(add_epi32)(odd, V(set1_epi32)(0x7FFF)));
}

/* F16 in the low halves of the lanes. */
TN_INLINE ints to_f16(floats x)
{
#if defined(__AVX512BW__)
	return _mm512_cvtepu16_epi32(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
	return _mm256_cvtepu16_epi32(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#endif
}

/* The upper halves of floats rounded to BF16: one more where the lower half is above its middle, or at it beside an odd one. None
 * is NaN. */
TN_INLINE ints round_upper(ints upper, ints lower)
{
	ints is_even = VI(andnot)(upper, V(set1_epi16)(1));
	return V(add_epi16)(upper, V(srli_epi16)(V(subs_epu16)(lower, is_even), 15));
}

/* Even elements in `low`, odd ones in `high`. */
TN_INLINE ints bf16_pairs(floats low, floats high)
{
	ints a = AS_INTS(low), b = AS_INTS(high);
#if defined(__AVX512BW__)
	ints upper = _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(a, 16), b);
	ints lower = _mm512_mask_blend_epi16(0xAAAAAAAA, a, _mm512_slli_epi32(b, 16));
#else
	ints upper = _mm256_blend_epi16(_mm256_srli_epi32(a, 16), b, 0xAA);
	ints lower = _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xAA);
#endif
	return round_upper(upper, lower);
}

/* Rounded to the dtype: even elements in `low`, odd ones in `high`, none of them NaN. */
TN_INLINE ints narrow_pairs(floats low, floats high, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return VI(or)(to_f16(low), V(slli_epi32)(to_f16(high), 16));
	return bf16_pairs(low, high);
}

/* Rounded to the dtype and back, where nothing is NaN, or has become plain_nan() before. */
TN_INLINE floats round_number(floats x, tn_dtype dtype)
{
	if (dtype == TN_F32)
		return x;
	if (dtype == TN_BF16)
		return AS_FLOATS(VI(and)(to_bf16(x), V(set1_epi32)((int)0xFFFF0000u)));
#if defined(__AVX512BW__)
	return _mm512_cvtph_ps(_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#else
	return _mm256_cvtph_ps(_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
#endif
}

/* The same of anything. */
TN_INLINE floats round_floats(floats x, tn_dtype dtype)
{
	return round_number(dtype == TN_F32 ? x : plain_nan(x, dtype), dtype);
}

/* Finite F16 in the low halves of the lanes, whose upper halves are 0, as float32. */
TN_INLINE floats from_f16(ints h)
{
	ints magnitude = VI(and)(h, V(set1_epi32)(0x7FFF)), sign = V(slli_epi32)(VI(xor)(h, magnitude), 16);
	floats size = V(mul_ps)(AS_FLOATS(V(slli_epi32)(magnitude, 13)), V(set1_ps)(0x1p112f));
	return AS_FLOATS(VI(or)(AS_INTS(size), sign));
}

/* Even and odd elements of finite 16-bit floats. */
TN_INLINE floats even_floats(ints h, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return from_f16(VI(and)(h, V(set1_epi32)(0xFFFF)));
	return AS_FLOATS(V(slli_epi32)(h, 16));
}

TN_INLINE floats odd_floats(ints h, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return from_f16(V(srli_epi32)(h, 16));
	return AS_FLOATS(VI(and)(h, V(set1_epi32)((int)0xFFFF0000u)));
}

TN_INLINE ints load_ints(const void *p)
{
	return VI(loadu)((const ints *)p);
}

/* A bit for each lane where a predicate b does not hold. */
#if defined(__AVX512BW__)
#define LANES_UNLESS(a, predicate, b) ((unsigned)(uint16_t)~_mm512_cmp_ps_mask(a, b, predicate))
#else
#define LANES_UNLESS(a, predicate, b) ((unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, predicate)) ^ 0xFFu)
#endif

/* Past the caches where that is asked for, which needs alignment to the vector. */
TN_INLINE void store_ints(void *p, ints v, int far)
{
	if (far)
		VI(stream)((ints *)p, v);
	else
		VI(storeu)((ints *)p, v);
}

/* 0, 1, 2 ... */
TN_INLINE ints ascending_halves(void)
{
	static const uint16_t numbers[32] = { 0,  1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11, 12, 13, 14, 15,
					      16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31 };
	return load_ints(numbers);
}

#if defined(__AVX512BW__)
/* 32 numbers in order, none of them NaN; as BF16 none is subnormal either, which the instruction takes for 0. */
TN_INLINE ints narrow_in_order(floats first, floats second, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(first, _MM_FROUND_TO_NEAREST_INT)),
					  _mm512_cvtps_ph(second, _MM_FROUND_TO_NEAREST_INT), 1);
#if defined(__AVX512BF16__)
	return (ints)_mm512_cvtne2ps_pbh(second, first);
#else
	const ints even = _mm512_slli_epi16(ascending_halves(), 1), one = _mm512_set1_epi16(1);
	ints upper = _mm512_permutex2var_epi16(AS_INTS(first), _mm512_add_epi16(even, one), AS_INTS(second));
	return round_upper(upper, _mm512_permutex2var_epi16(AS_INTS(first), even, AS_INTS(second)));
#endif
}
#endif

TN_INLINE floats ascending_floats(void)
{
	static const float numbers[16] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15 };
	return V(loadu_ps)(numbers);
}

#if defined(__AVX512BW__)
/* Sixteen even and sixteen odd halves in their order. */
TN_INLINE ints interleave_halves(ints v)
{
	static const uint16_t order[32] = { 0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
					    8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31 };
	return _mm512_permutexvar_epi16(load_ints(order), v);
}
#endif

/* ---- numbers of 16 bits ------------------------------------------------------------------------------------ */

/* Entries of a table for indices below 8; anything for others. */
TN_INLINE ints look_up_8(const uint16_t table[8], ints index)
{
	__m128i numbers = _mm_loadu_si128((const __m128i *)(const void *)table);
#if defined(__AVX512BW__)
	return _mm512_permutexvar_epi16(index, _mm512_broadcast_i32x4(numbers));
#else
	/* bytes 2 i and 2 i + 1 */
	ints at = _mm256_add_epi16(_mm256_mullo_epi16(index, _mm256_set1_epi16(0x202)), _mm256_set1_epi16(0x100));
	return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(numbers), at);
#endif
}

/* a where x > y, else b. */
TN_INLINE ints where_greater(ints x, ints y, ints a, ints b)
{
#if defined(__AVX512BW__)
	return _mm512_mask_blend_epi16(_mm512_cmpgt_epi16_mask(x, y), b, a);
#else
	return _mm256_blendv_epi8(b, a, _mm256_cmpgt_epi16(x, y));
#endif
}

/* E4M3 magnitudes as BF16, but for 0 and NaN. */
TN_INLINE ints bf16_of_e4m3(ints magnitude)
{
	static const uint16_t subnormal[8] = { 0, 0x3B00, 0x3B80, 0x3BC0, 0x3C00, 0x3C20, 0x3C40, 0x3C60 };
	ints normal = V(add_epi16)(V(slli_epi16)(magnitude, 4), V(set1_epi16)(120 * 128));
	return where_greater(magnitude, V(set1_epi16)(7), normal, look_up_8(subnormal, magnitude));
}

/* 16 of them as F16 that are 2^8 times smaller: the sign stays, the rest moves by one bit less. NaN becomes 1.875. */
TN_INLINE __m256i halves_of_e4m3(const unsigned char *src)
{
	__m256i bytes = _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)src));
	return _mm256_and_si256(_mm256_slli_epi16(bytes, 7), _mm256_set1_epi16((short)0xBF80));
}

/* 1 when among n codes, in sixteens, there is a NaN of E4M3. */
TN_INLINE int has_e4m3_nan(const unsigned char *src, size_t n)
{
	const __m128i all = _mm_set1_epi8((char)0xFF), sign = _mm_set1_epi8((char)0x80);
	__m128i found = _mm_setzero_si128();
	for (size_t i = 0; i < n; i += 16) {
		__m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(src + i));
		found = _mm_or_si128(found, _mm_cmpeq_epi8(_mm_or_si128(bytes, sign), all));
	}
	return _mm_movemask_epi8(found) != 0;
}

/* ---- rows between 16-bit floats and packed formats --------------------------------------------------------- */

/* 1 when the direct decoders know the pair. */
int TN_ISA_NAME(tn_x86_decodes_halves)(const struct tn_format *from, const struct tn_format *to);
void TN_ISA_NAME(tn_x86_decode_halves)(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how, int far);
int TN_ISA_NAME(tn_x86_encodes_halves)(const struct tn_format *from, const struct tn_format *to);
void TN_ISA_NAME(tn_x86_encode_halves)(const struct tn_row_out *row, const unsigned char *src, const struct tn_recoding *how);
/* Of BF16 to mxfp4, nvfp4 and mxfp8. */
void TN_ISA_NAME(tn_x86_encode_float_halves)(const struct tn_row_out *row, const unsigned char *src, const struct tn_recoding *how);

#endif
