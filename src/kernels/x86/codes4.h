/* What the products of 4-bit codes share: vectors, scales, and how activations lie in planes. Unused ones vanish. */
#ifndef TN_CODES4_H
#define TN_CODES4_H

#include "kernels/x86/product_x86.h"
#include "kernels/vector/codes4_kind.h"

/* ---- vectors --------------------------------------------------------------------------------------------- */

#if defined(__AVX512F__)
enum { LANES = 16, ROWS = 4 };
typedef __m512i ints;
typedef __m512 floats;
#define ZERO() _mm512_setzero_ps()
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#define MUL(a, b) _mm512_mul_ps(a, b)
#define ADD(a, b) _mm512_add_ps(a, b)
#define SPREAD(x) _mm512_set1_ps(x)
#define SPREAD_BYTE(x) _mm512_set1_epi8(x)
#define LOAD_FLOATS(p) _mm512_loadu_ps(p)
#define LOAD_INTS(p) _mm512_loadu_si512(p)
#define AND(a, b) _mm512_and_si512(a, b)
#define HIGH_NIBBLES(v) _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15))
#define LOOK_UP(table, v) _mm512_shuffle_epi8(table, v)
#define SPREAD_TABLE(p) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define TO_FLOATS(v) _mm512_cvtepi32_ps(v)
#define CHOOSE(v, order) _mm512_permutexvar_ps(order, v)
#define SUM(v) _mm512_reduce_add_ps(v)
#define ZERO_INTS() _mm512_setzero_si512()
#define SPREAD_INT(x) _mm512_set1_epi32(x)
#define TIMES_256(v) _mm512_slli_epi32(v, 8)
#define ADD_INTS(a, b) _mm512_add_epi32(a, b)
#define SUB_INTS(a, b) _mm512_sub_epi32(a, b)
#define ADD_WORDS(a, b) _mm512_add_epi16(a, b)
#define MUL_BYTES(a, b) _mm512_maddubs_epi16(a, b)
#define ADD_PAIRS(v, factor) _mm512_madd_epi16(v, _mm512_set1_epi16(factor))
#else
enum { LANES = 8, ROWS = 2 };
typedef __m256i ints;
typedef __m256 floats;
#define ZERO() _mm256_setzero_ps()
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#define MUL(a, b) _mm256_mul_ps(a, b)
#define ADD(a, b) _mm256_add_ps(a, b)
#define SPREAD(x) _mm256_set1_ps(x)
#define SPREAD_BYTE(x) _mm256_set1_epi8(x)
#define LOAD_FLOATS(p) _mm256_loadu_ps(p)
#define LOAD_INTS(p) _mm256_loadu_si256((const __m256i *)(const void *)(p))
#define AND(a, b) _mm256_and_si256(a, b)
#define HIGH_NIBBLES(v) _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15))
#define LOOK_UP(table, v) _mm256_shuffle_epi8(table, v)
#define SPREAD_TABLE(p) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)(p)))
#define TO_FLOATS(v) _mm256_cvtepi32_ps(v)
#define CHOOSE(v, order) _mm256_permutevar8x32_ps(v, order)
#define ZERO_INTS() _mm256_setzero_si256()
#define SPREAD_INT(x) _mm256_set1_epi32(x)
#define TIMES_256(v) _mm256_slli_epi32(v, 8)
#define ADD_INTS(a, b) _mm256_add_epi32(a, b)
#define SUB_INTS(a, b) _mm256_sub_epi32(a, b)
#define ADD_WORDS(a, b) _mm256_add_epi16(a, b)
#define MUL_BYTES(a, b) _mm256_maddubs_epi16(a, b)
#define ADD_PAIRS(v, factor) _mm256_madd_epi16(v, _mm256_set1_epi16(factor))

TN_INLINE float sum_of(floats v)
{
	__m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	a = _mm_add_ps(a, _mm_movehl_ps(a, a));
	return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}
#define SUM(v) sum_of(v)
#endif

/* sum + the sums of four products, unsigned bytes times signed ones: where TN_BYTE_DOTS. */
#if defined(__AVX512VNNI__)
#define DOT_BYTES(sum, codes, x) _mm512_dpbusd_epi32(sum, codes, x)
#else
#define DOT_BYTES(sum, codes, x) _mm256_dpbusd_avx_epi32(sum, codes, x)
#endif

/* A step is a vector of codes, two to a byte: a lane of 32 bits holds 8 of them. */
enum { STEP_BYTES = 4 * LANES, STEP_CODES = 8 * LANES };

/* ---- scales ---------------------------------------------------------------------------------------------- */

TN_INLINE size_t scale_bytes(enum scale_kind kind)
{
	return kind == SCALE_F32 ? 4 : kind == SCALE_F16 || kind == SCALE_BF16 ? 2 : 1;
}

/* Scales g to g + LANES of a row, zeros behind the last. */
TN_INLINE floats load_scales(const unsigned char *scales, size_t g, size_t groups, enum scale_kind kind)
{
	unsigned char padded[LANES * 4];
	const unsigned char *at = scales + g * scale_bytes(kind);
	if (g + LANES > groups) {
		memset(padded, 0, sizeof padded);
		at = memcpy(padded, at, (groups - g) * scale_bytes(kind));
	}
#if defined(__AVX512F__)
	__m512i wide;
	if (kind == SCALE_F32)
		return _mm512_loadu_ps(at);
	if (kind == SCALE_F16)
		return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
	if (kind == SCALE_BF16)
		return _mm512_castsi512_ps(
			_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)at)), 16));
	wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)at));
	if (kind == SCALE_E8M0) {
		__mmask16 zero = _mm512_testn_epi32_mask(wide, wide);
		return _mm512_castsi512_ps(_mm512_mask_mov_epi32(_mm512_slli_epi32(wide, 23), zero, _mm512_set1_epi32(0x00400000)));
	}
	__m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi32(0x7F)), sign = _mm512_xor_si512(wide, magnitude);
	__mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7F));
	floats value = _mm512_castsi512_ps(_mm512_add_epi32(_mm512_slli_epi32(magnitude, 20), _mm512_set1_epi32(120 << 23)));
	floats small = _mm512_mul_ps(_mm512_cvtepi32_ps(magnitude), _mm512_set1_ps(0x1p-9f)); /* subnormal there */
	value = _mm512_mask_mov_ps(value, _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(8)), small);
	value = _mm512_mask_mov_ps(value, nan, _mm512_castsi512_ps(_mm512_set1_epi32(0x7FC00000)));
	return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(value), _mm512_slli_epi32(sign, 24)));
#else
	__m256i wide;
	if (kind == SCALE_F32)
		return _mm256_loadu_ps((const float *)(const void *)at);
	if (kind == SCALE_F16)
		return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)at));
	if (kind == SCALE_BF16)
		return _mm256_castsi256_ps(
			_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)at)), 16));
	wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)at));
	if (kind == SCALE_E8M0) {
		__m256i zero = _mm256_cmpeq_epi32(wide, _mm256_setzero_si256());
		return _mm256_castsi256_ps(_mm256_blendv_epi8(_mm256_slli_epi32(wide, 23), _mm256_set1_epi32(0x00400000), zero));
	}
	__m256i magnitude = _mm256_and_si256(wide, _mm256_set1_epi32(0x7F)), sign = _mm256_xor_si256(wide, magnitude);
	__m256i nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7F));
	__m256i value = _mm256_add_epi32(_mm256_slli_epi32(magnitude, 20), _mm256_set1_epi32(120 << 23));
	__m256 small = _mm256_mul_ps(_mm256_cvtepi32_ps(magnitude), _mm256_set1_ps(0x1p-9f)); /* subnormal there */
	value = _mm256_blendv_epi8(value, _mm256_castps_si256(small), _mm256_cmpgt_epi32(_mm256_set1_epi32(8), magnitude));
	value = _mm256_blendv_epi8(value, _mm256_set1_epi32(0x7FC00000), nan);
	return _mm256_castsi256_ps(_mm256_or_si256(value, _mm256_slli_epi32(sign, 24)));
#endif
}

/* ---- activations in planes ------------------------------------------------------------------------------- */

TN_INLINE size_t steps_of(const struct tn_product *p)
{
	return (p->cols + STEP_CODES - 1) / STEP_CODES;
}

/* Scales for whole vectors of groups. */
TN_INLINE size_t group_room(const struct tn_product *p)
{
	return (p->cols / p->format->group + LANES - 1) / LANES * LANES;
}

/* One x: bytes [step][plane][even, odd][STEP_BYTES], scales [group_room], sums [group_room]. */
TN_INLINE size_t vector_bytes(const struct tn_product *p)
{
	return steps_of(p) * planes_of(p) * 2 * STEP_BYTES + (2 * group_room(p) * sizeof(float) + 63) / 64 * 64;
}

/* Whole numbers [16] become bytes, even ones before odd ones. */
TN_INLINE __m128i narrow_to_bytes(__m256i a, __m256i b)
{
	const __m256i mask = _mm256_set1_epi32(0xFF);
	const __m256i split = _mm256_setr_epi8(0, 4, 8, 12, 2, 6, 10, 14, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, 2, 6, 10, 14,
					       -1, -1, -1, -1, -1, -1, -1, -1);
	__m256i both = _mm256_packus_epi32(_mm256_and_si256(a, mask), _mm256_and_si256(b, mask));
	both = _mm256_shuffle_epi8(_mm256_permute4x64_epi64(both, 0xD8), split);
	return _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(both, _mm256_setr_epi32(0, 4, 1, 5, 2, 3, 6, 7)));
}

/* The lowest `bits` as a signed number; *v becomes what is above them. */
TN_INLINE __m256i cut_digit(__m256i *v, const int bits)
{
	__m256i digit = _mm256_srai_epi32(_mm256_slli_epi32(*v, 32 - bits), 32 - bits);
	*v = _mm256_srai_epi32(_mm256_sub_epi32(*v, digit), bits);
	return digit;
}

/* The largest whole number of so many planes. */
TN_INLINE float most_in(unsigned planes)
{
	return planes == 3 ? 127.0f * 65536 : planes == 2 ? 127.0f * 256 : 127.0f;
}

/* A group of n from element `first` on; returns the scale of its whole numbers, of which the largest is `most`. The lowest plane
 * holds low_bits of them where there are others, and each between it and the highest middle_bits. *sum is that of what they stand
 * for, so that a bias meets the same x as a code. */
TN_INLINE float cut_group(int8_t *bytes, const float *x, size_t first, size_t n, const unsigned planes, const int middle_bits,
			  const int low_bits, float most, float *sum)
{
	__m256i whole = _mm256_setzero_si256();
	float top = abs_max(x + first, (int)n), factor = top > 0x1p-100f ? most / top : 0;
	for (size_t i = first; i < first + n; i += 16) {
		int8_t *at = bytes + i / STEP_CODES * planes * 2 * STEP_BYTES + i % STEP_CODES / 2;
		__m256i a = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(factor)));
		__m256i b = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i + 8), _mm256_set1_ps(factor)));
		whole = _mm256_add_epi32(whole, _mm256_add_epi32(a, b));
		for (unsigned p = planes; p-- > 0;) {
			const int bits = p + 1 == planes ? low_bits : middle_bits;
			__m128i cut = p ? narrow_to_bytes(cut_digit(&a, bits), cut_digit(&b, bits)) : narrow_to_bytes(a, b);
			_mm_storel_epi64((__m128i *)(void *)(at + p * 2 * STEP_BYTES), cut);
			_mm_storel_epi64((__m128i *)(void *)(at + p * 2 * STEP_BYTES + STEP_BYTES), _mm_unpackhi_epi64(cut, cut));
		}
	}
	int32_t lanes[8], total = 0;
	_mm256_storeu_si256((__m256i *)(void *)lanes, whole);
	for (size_t l = 0; l < 8; l++)
		total = (int32_t)((uint32_t)total + (uint32_t)lanes[l]);
	float scale = top > 0x1p-100f || top != top ? top / most : 0;
	*sum = scale * (float)total;
	return scale;
}

/* E2M1 codes as integers that are not negative: 2 w + 12. */
TN_INLINE ints load_e2m1_table(void)
{
	static const unsigned char table[16] = { 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0 };
	return SPREAD_TABLE(table);
}

#endif
