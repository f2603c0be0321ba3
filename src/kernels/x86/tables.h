/* Numbers of 16 bits that are looked up: a table of what a few codes stand for, made once for each group. */
#ifndef TN_TABLES_H
#define TN_TABLES_H

#include "kernels/x86/lanes.h"

/* AVX-512: numbers 0 to 31, and 32 to 63 where codes have 6 bits. AVX2: low and high bytes of 16 numbers, in both halves. */
struct table {
	ints a, b;
};

/* Codes that one look-up takes. */
enum { LOOKED_UP = 32 };

#if defined(__AVX512BW__)
TN_INLINE void look_up(unsigned char *dst, struct table t, ints codes, const int bits, int far)
{
	store_ints(dst, bits == 6 ? _mm512_permutex2var_epi16(t.a, codes, t.b) : _mm512_permutexvar_epi16(codes, t.a), far);
}

/* The next 32 codes of 4 bits in lanes of 16 bits, the first in the lower or in the upper half of its byte; above a code stands
 * whatever it is. */
TN_INLINE ints next_nibbles(const unsigned char *src, const int high_first)
{
	ints pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)src));
	if (high_first)
		return _mm512_or_si512(_mm512_srli_epi32(pairs, 4), _mm512_slli_epi32(pairs, 16));
	return _mm512_or_si512(pairs, _mm512_slli_epi32(pairs, 12));
}

/* The next 32 codes of a stream in lanes of 16 bits; above a code stands what comes behind it. */
TN_INLINE ints next_codes(const unsigned char *src, const int bits)
{
	if (bits == 4)
		return next_nibbles(src, 0);
	const ints at = _mm512_mullo_epi16(ascending_halves(), _mm512_set1_epi16((short)bits));
	const ints word = _mm512_srli_epi16(at, 4), shift = _mm512_and_si512(at, _mm512_set1_epi16(15));
	ints stream = _mm512_castsi256_si512(_mm256_maskz_loadu_epi8((__mmask32)((1u << (4 * bits)) - 1), src));
	ints low = _mm512_srlv_epi16(_mm512_permutexvar_epi16(word, stream), shift);
	if (16 % bits == 0)
		return low;
	ints next = _mm512_permutexvar_epi16(_mm512_add_epi16(word, _mm512_set1_epi16(1)), stream);
	return _mm512_or_si512(low, _mm512_sllv_epi16(next, _mm512_sub_epi16(_mm512_set1_epi16(16), shift)));
}
#else
TN_INLINE struct table split_table(ints numbers)
{
	const ints apart = _mm256_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15, 0, 2, 4, 6, 8, 10, 12, 14, 1,
					    3, 5, 7, 9, 11, 13, 15);
	ints both = _mm256_shuffle_epi8(numbers, apart);
	return (struct table){ _mm256_permute4x64_epi64(both, 0x88), _mm256_permute4x64_epi64(both, 0xDD) };
}

/* `codes` as bytes: 0 to 7 and 16 to 23 in the lower half, the others in the upper. */
TN_INLINE void look_up(unsigned char *dst, struct table t, ints codes, const int bits, int far)
{
	ints low = _mm256_shuffle_epi8(t.a, codes), high = _mm256_shuffle_epi8(t.b, codes);
	(void)bits;
	store_ints(dst, _mm256_unpacklo_epi8(low, high), far);
	store_ints(dst + 32, _mm256_unpackhi_epi8(low, high), far);
}

/* That many bytes: 4, 8, 10, 12 or 16. */
TN_INLINE __m128i load_exactly(const unsigned char *src, const int bytes)
{
	int32_t word;
	int16_t half;
	if (bytes == 16)
		return _mm_loadu_si128((const __m128i *)(const void *)src);
	if (bytes == 4) {
		memcpy(&word, src, sizeof word);
		return _mm_cvtsi32_si128(word);
	}
	__m128i eight = _mm_loadl_epi64((const __m128i *)(const void *)src);
	if (bytes == 8)
		return eight;
	if (bytes == 10) {
		memcpy(&half, src + 8, sizeof half);
		return _mm_insert_epi16(eight, half, 4);
	}
	memcpy(&word, src + 8, sizeof word);
	return _mm_insert_epi32(eight, word, 2);
}

TN_INLINE ints next_nibbles(const unsigned char *src, const int high_first)
{
	const ints spread = _mm256_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11, 4, 4, 5, 5, 6, 6, 7, 7, 12, 12,
					     13, 13, 14, 14, 15, 15);
	const ints low = _mm256_set1_epi16(15), high = _mm256_set1_epi16(0xF00);
	ints bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)src));
	bytes = _mm256_shuffle_epi8(bytes, spread);
	ints moved = _mm256_srli_epi16(bytes, 4);
	return _mm256_or_si256(_mm256_and_si256(high_first ? moved : bytes, low),
			       _mm256_and_si256(high_first ? bytes : moved, high));
}

TN_INLINE ints next_codes(const unsigned char *src, const int bits)
{
	if (bits == 4)
		return next_nibbles(src, 0);
	/* Pairs of codes in lanes: each from the byte on in which it begins, and moved to where the one that begins highest is. */
	const int highest = bits == 2 ? 4 : 6;
#define AT(block, pair) (char)((block) * bits + (pair) * bits / 4), (char)((block) * bits + (pair) * bits / 4 + 1)
#define BLOCK_AT(block) AT(block, 0), AT(block, 1), AT(block, 2), AT(block, 3)
	const ints bytes = _mm256_setr_epi8(BLOCK_AT(0), BLOCK_AT(2), BLOCK_AT(1), BLOCK_AT(3));
#undef BLOCK_AT
#undef AT
#define MOVED(pair) (short)(1 << (highest - (pair) * 2 * bits % 8))
	const ints moved = _mm256_setr_epi16(MOVED(0), MOVED(1), MOVED(2), MOVED(3), MOVED(0), MOVED(1), MOVED(2), MOVED(3),
					     MOVED(0), MOVED(1), MOVED(2), MOVED(3), MOVED(0), MOVED(1), MOVED(2), MOVED(3));
#undef MOVED
	const ints mask = _mm256_set1_epi16((short)((1 << bits) - 1));
	ints pairs = _mm256_broadcastsi128_si256(load_exactly(src, 4 * bits));
	pairs = _mm256_mullo_epi16(_mm256_shuffle_epi8(pairs, bytes), moved);
	const int down = highest + bits - 8; /* of the second code, to the upper byte */
	ints second = down > 0 ? _mm256_srli_epi16(pairs, down) : _mm256_slli_epi16(pairs, -down);
	return _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(pairs, highest), mask),
			       _mm256_and_si256(second, _mm256_slli_epi16(mask, 8)));
}
#endif

TN_INLINE int is_between(float x, float least, float most)
{
	float size = fabsf(x);
	return x == 0 || (size >= least && size <= most);
}

/* Levels and scales of these sizes have products that are 0 or normal numbers, as float32 and as BF16. */
TN_INLINE int has_usual_levels(const float *table)
{
	int usual = 1;
	for (int i = 0; i < 16; i++)
		usual &= is_between(table[i], 0x1p-20f, 0x1p20f);
	return usual;
}

TN_INLINE int is_usual_scale(float scale)
{
	return is_between(scale, 0x1p-100f, 0x1p100f);
}

/* All that is made of numbers of these sizes is 0 or a multiple of 2^-123, and far from overflowing. */
TN_INLINE unsigned lanes_of_other_sizes(floats x)
{
	floats size = V(andnot_ps)(V(set1_ps)(-0.0f), x);
	unsigned beyond = LANES_UNLESS(size, _CMP_GE_OQ, V(set1_ps)(0x1p-100f)) |
			  LANES_UNLESS(size, _CMP_LE_OQ, V(set1_ps)(0x1p100f));
	return beyond & LANES_UNLESS(size, _CMP_EQ_OQ, V(setzero_ps)());
}

#endif
