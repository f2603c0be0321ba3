/* SPDX-License-Identifier: Apache-2.0 */
/* Packed rows to 16-bit floats. Few codes of a group mean few numbers: they are computed and rounded once for the group, as the
 * plain decoder and the dense encoder do it, and looked up. Codes of 8 bits (with AVX2, of 5 and more) are computed one by one. */
#include "kernels/x86/lanes.h"

/* ---- tables of 16-bit numbers ----------------------------------------------------------------------------- */

/* AVX-512: numbers 0 to 31, and 32 to 63 where codes have 6 bits. AVX2: low and high bytes of 16 numbers, in both halves. */
struct table {
	ints a, b;
};

/* Codes that one look-up takes. */
enum { LOOKED_UP = 32 };

#if defined(__AVX512BW__)
/* The upper halves of 32 lanes, or F16. */
TN_INLINE ints narrow_two(floats first, floats second, tn_dtype dtype)
{
	const ints odd = _mm512_add_epi16(_mm512_slli_epi16(ascending_halves(), 1), _mm512_set1_epi16(1));
	first = plain_nan(first, dtype);
	second = plain_nan(second, dtype);
	if (dtype == TN_F16)
		return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtps_ph(first, _MM_FROUND_TO_NEAREST_INT)),
					  _mm512_cvtps_ph(second, _MM_FROUND_TO_NEAREST_INT), 1);
	return _mm512_permutex2var_epi16(to_bf16(first), odd, to_bf16(second));
}

TN_INLINE void look_up(unsigned char *dst, struct table t, ints codes, const int bits, int far)
{
	store_ints(dst, bits == 6 ? _mm512_permutex2var_epi16(t.a, codes, t.b) : _mm512_permutexvar_epi16(codes, t.a), far);
}

/* The next 32 codes of a stream in lanes of 16 bits; above a code stands what comes behind it. */
TN_INLINE ints next_codes(const unsigned char *src, size_t left, const int bits)
{
	(void)left;
	if (bits == 4) {
		ints pairs = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)src));
		return _mm512_or_si512(pairs, _mm512_slli_epi32(pairs, 12));
	}
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
/* 16 numbers in order. */
TN_INLINE ints narrow_two(floats first, floats second, tn_dtype dtype)
{
	first = plain_nan(first, dtype);
	second = plain_nan(second, dtype);
	ints a = dtype == TN_F16 ? to_f16(first) : _mm256_srli_epi32(to_bf16(first), 16);
	ints b = dtype == TN_F16 ? to_f16(second) : _mm256_srli_epi32(to_bf16(second), 16);
	return _mm256_permute4x64_epi64(_mm256_packus_epi32(a, b), 0xD8);
}

TN_INLINE struct table split_table(ints numbers)
{
	ints low = _mm256_and_si256(numbers, _mm256_set1_epi16(0xFF)), high = _mm256_srli_epi16(numbers, 8);
	ints both = _mm256_packus_epi16(low, high);
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

TN_INLINE ints next_codes(const unsigned char *src, size_t left, const int bits)
{
	if (bits == 4) {
		const ints spread = _mm256_setr_epi8(0, 0, 1, 1, 2, 2, 3, 3, 8, 8, 9, 9, 10, 10, 11, 11, 4, 4, 5, 5, 6, 6, 7, 7,
						     12, 12, 13, 13, 14, 14, 15, 15);
		ints bytes = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)src));
		bytes = _mm256_shuffle_epi8(bytes, spread);
		return _mm256_or_si256(_mm256_and_si256(bytes, _mm256_set1_epi16(15)),
				       _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi16(0xF00)));
	}
	size_t step = (size_t)bits;
	__m128i a = unpack_8(src, left, bits), b = unpack_8(src + step, left - step, bits);
	__m128i c = unpack_8(src + 2 * step, left - 2 * step, bits), d = unpack_8(src + 3 * step, left - 3 * step, bits);
	return _mm256_set_m128i(_mm_unpacklo_epi64(b, d), _mm_unpacklo_epi64(a, c));
}
#endif

/* ---- affine ----------------------------------------------------------------------------------------------- */

/* How the values of a group are computed. */
struct meaning {
	floats scale, bias;
	tn_dtype dtype;
	int like_mlx;
};

TN_INLINE floats value_of(floats codes, struct meaning m)
{
	if (m.like_mlx)
		return round_floats(V(add_ps)(round_floats(V(mul_ps)(codes, m.scale), m.dtype), m.bias), m.dtype);
	if (m.dtype == TN_F32)
		return V(fmadd_ps)(codes, m.scale, m.bias);
	return V(add_ps)(V(mul_ps)(codes, m.scale), m.bias);
}

/* Codes from `first` on, again and again where there are fewer than lanes: what stands above a code is part of the index. */
TN_INLINE floats codes_from(int first, const int bits)
{
	ints code = V(cvtps_epi32)(ascending_floats());
	return V(cvtepi32_ps)(VI(and)(V(add_epi32)(code, V(set1_epi32)(first)), V(set1_epi32)((1 << bits) - 1)));
}

TN_INLINE struct table affine_table(struct meaning m, const int bits, tn_dtype to)
{
	floats first = value_of(codes_from(0, bits), m);
#if defined(__AVX512BW__)
	struct table t;
	t.a = t.b = narrow_two(first, bits < 5 ? first : value_of(codes_from(16, bits), m), to);
	if (bits == 6)
		t.b = narrow_two(value_of(codes_from(32, bits), m), value_of(codes_from(48, bits), m), to);
	return t;
#else
	return split_table(narrow_two(first, value_of(codes_from(8, bits), m), to));
#endif
}

/* Pairs of codes in lanes of 32 bits: 8 bits of each. */
TN_INLINE ints next_pairs(const unsigned char *src, size_t left, const int bits)
{
#if defined(__AVX512BW__)
	(void)left;
	(void)bits;
	return _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)src));
#else
	if (bits == 8)
		return _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)src));
	size_t step = (size_t)bits;
	return _mm256_cvtepu16_epi32(_mm_unpacklo_epi64(unpack_8(src, left, bits), unpack_8(src + step, left - step, bits)));
#endif
}

TN_INLINE void decode_group(unsigned char *dst, const unsigned char *src, size_t left, struct meaning m, size_t group, const int bits,
			    tn_dtype to, int far)
{
	const int is_wide = bits > (HALVES == 32 ? 6 : 4);
	if (is_wide) {
		for (size_t i = 0; i < group; i += HALVES) {
			size_t at = i / 8 * (size_t)bits;
			ints pairs = next_pairs(src + at, left - at, bits);
			floats low = V(cvtepi32_ps)(VI(and)(pairs, V(set1_epi32)(0xFF)));
			floats high = V(cvtepi32_ps)(V(srli_epi32)(pairs, 8));
			store_ints(dst + 2 * i, narrow_pairs(value_of(low, m), value_of(high, m), to), far);
		}
		return;
	}
	const struct table t = affine_table(m, bits, to);
	for (size_t i = 0; i < group; i += LOOKED_UP) {
		size_t at = i / 8 * (size_t)bits;
		look_up(dst + 2 * i, t, next_codes(src + at, left - at, bits), bits, far);
	}
}

TN_INLINE void decode_affine(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how, const int bits, tn_dtype from,
			     tn_dtype to, int far)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	const size_t group = how->from->group, bytes = group / 8 * (size_t)bits;
	size_t left = how->cols / 8 * (size_t)bits;
	for (size_t g = 0; g < how->cols / group; g++, dst += 2 * group, src += bytes, left -= bytes) {
		float scale = load_as(row->part[TN_PART_SCALES], g, from), bias = load_as(row->part[TN_PART_BIASES], g, from);
		decode_group(dst, src, left, (struct meaning){ V(set1_ps)(scale), V(set1_ps)(bias), from, how->from->like_mlx },
			     group, bits, to, far);
	}
}

TN_INLINE void decode_affine_to(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how, const int bits, int far)
{
	tn_dtype from = how->from->dtype, to = how->to->dtype;
	if (from == TN_BF16 && to == TN_BF16 && far)
		decode_affine(dst, row, how, bits, TN_BF16, TN_BF16, 1);
	else if (from == TN_BF16 && to == TN_BF16)
		decode_affine(dst, row, how, bits, TN_BF16, TN_BF16, 0);
	else if (from == TN_F16 && to == TN_F16)
		decode_affine(dst, row, how, bits, TN_F16, TN_F16, far);
	else
		decode_affine(dst, row, how, bits, from, to, far);
}

/* ---- E2M1 ------------------------------------------------------------------------------------------------- */

/* Every product with a scale that is a power of two, or E4M3, is a BF16 number, so its bits are the upper half of the float32. */
static const float e2m1_values[16] = { 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6 };

#if defined(__AVX512BW__)
/* The 32 codes of one scale, or 16 of each of two. */
TN_INLINE void decode_e2m1_32(unsigned char *dst, const unsigned char *src, float first, float second, const int scales, int far)
{
	const floats values = V(loadu_ps)(e2m1_values);
	const ints odd = _mm512_add_epi16(_mm512_slli_epi16(ascending_halves(), 1), _mm512_set1_epi16(1));
	const ints upper = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
	floats a = V(mul_ps)(values, V(set1_ps)(first)), b = scales == 1 ? a : V(mul_ps)(values, V(set1_ps)(second));
	ints codes = next_codes(src, 16, 4);
	if (scales == 2) /* (codes & 15) | upper */
		codes = _mm512_ternarylogic_epi32(codes, _mm512_set1_epi16(15), upper, 0xEA);
	store_ints(dst, _mm512_permutexvar_epi16(codes, _mm512_permutex2var_epi16(AS_INTS(a), odd, AS_INTS(b))), far);
}
#else
TN_INLINE struct table e2m1_table(float scale)
{
	ints a = AS_INTS(V(mul_ps)(V(loadu_ps)(e2m1_values), V(set1_ps)(scale)));
	ints b = VI(xor)(a, V(set1_epi32)((int)0x80000000u));
	ints numbers = _mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
	return split_table(_mm256_permute4x64_epi64(numbers, 0xD8));
}

TN_INLINE void decode_e2m1_32(unsigned char *dst, const unsigned char *src, float first, float second, const int scales, int far)
{
	ints codes = next_codes(src, 16, 4);
	struct table t = e2m1_table(first);
	if (scales == 1) {
		look_up(dst, t, codes, 4, far);
		return;
	}
	struct table u = e2m1_table(second);
	/* codes 0 to 15 are the lower quarters of the halves */
	store_ints(dst, _mm256_unpacklo_epi8(_mm256_shuffle_epi8(t.a, codes), _mm256_shuffle_epi8(t.b, codes)), far);
	store_ints(dst + 32, _mm256_unpackhi_epi8(_mm256_shuffle_epi8(u.a, codes), _mm256_shuffle_epi8(u.b, codes)), far);
}
#endif

TN_INLINE float element_scale(unsigned char byte, const int scales)
{
	return scales == 1 ? e8m0_decode(byte) : e4m3_value(byte);
}

/* What is not finite, and half a pair of groups: the plain way. */
static void decode_rest(unsigned char *dst, const unsigned char *src, const unsigned char *scale, const struct tn_recoding *how, size_t n)
{
	float values[32];
	struct tn_row in = { { src, scale } };
	struct tn_row_out out = { { dst } };
	TN_ISA_NAME(tn_plain_codec)(how->from->codec)->decode(values, &in, how->from, n);
	TN_ISA_NAME(tn_plain_codec)(TN_CODEC_dense)->encode(&out, values, how->to, n);
}

TN_INLINE void decode_e2m1(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how, const int scales, int far)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scale = row->part[TN_PART_SCALES];
	size_t n = how->cols / 32;
	for (size_t i = 0; i < n; i++, dst += 64, src += 16, scale += scales) {
		if (scales == 1 ? *scale == 0xFF : (scale[0] & 0x7F) == 0x7F || (scale[1] & 0x7F) == 0x7F)
			decode_rest(dst, src, scale, how, 32);
		else
			decode_e2m1_32(dst, src, element_scale(scale[0], scales), scales == 2 ? element_scale(scale[1], 2) : 0, scales,
				       far);
	}
	if (how->cols % 32)
		decode_rest(dst, src, scale, how, 16);
}

/* ---- E4M3 ------------------------------------------------------------------------------------------------- */

TN_INLINE ints bytes_as_halves(const unsigned char *src)
{
#if defined(__AVX512BW__)
	return _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)src));
#else
	return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)src));
#endif
}

/* A group whose numbers are neither subnormal nor infinite as BF16: `exponent` is that of the scale. */
TN_INLINE void decode_e4m3_group(unsigned char *dst, const unsigned char *src, int exponent, int far)
{
	const ints moved = V(set1_epi16)((short)(exponent * 128)), zero = VI(setzero)();
	for (int i = 0; i < 32; i += HALVES) {
		ints bytes = bytes_as_halves(src + i), m = VI(and)(bytes, V(set1_epi16)(0x7F));
		ints sign = V(slli_epi16)(VI(xor)(bytes, m), 8);
		ints number = where_greater(m, zero, V(add_epi16)(bf16_of_e4m3(m), moved), zero);
		number = VI(or)(number, sign);
		number = where_greater(m, V(set1_epi16)(0x7E), V(set1_epi16)(0x7FC0), number);
		store_ints(dst + 2 * i, number, far);
	}
}

TN_INLINE void decode_e4m3(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how, int far)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scale = row->part[TN_PART_SCALES];
	for (size_t g = 0; g < how->cols / 32; g++, dst += 64, src += 32)
		if (scale[g] >= 16 && scale[g] < 240)
			decode_e4m3_group(dst, src, scale[g] - 127, far);
		else
			decode_rest(dst, src, scale + g, how, 32);
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

int TN_ISA_NAME(tn_x86_decodes_halves)(const struct tn_format *from, const struct tn_format *to)
{
	if (to->codec != TN_CODEC_dense || (to->dtype != TN_BF16 && to->dtype != TN_F16))
		return 0;
	if (from->codec == TN_CODEC_affine)
		return 1;
	/* the products are BF16 numbers whether MLX rounds them or not */
	int is_float = from->codec == TN_CODEC_mxfp4 || from->codec == TN_CODEC_nvfp4 || from->codec == TN_CODEC_mxfp8;
	return is_float && to->dtype == TN_BF16 && !from->has_global_scale && (!from->like_mlx || from->dtype != TN_F16);
}

void TN_ISA_NAME(tn_x86_decode_halves)(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how, int far)
{
	int bits = how->from->codec == TN_CODEC_affine ? how->from->bits : 0;
	switch (bits) {
	case 1: decode_affine_to(dst, row, how, 1, far); break;
	case 2: decode_affine_to(dst, row, how, 2, far); break;
	case 3: decode_affine_to(dst, row, how, 3, far); break;
	case 4: decode_affine_to(dst, row, how, 4, far); break;
	case 5: decode_affine_to(dst, row, how, 5, far); break;
	case 6: decode_affine_to(dst, row, how, 6, far); break;
	case 8: decode_affine_to(dst, row, how, 8, far); break;
	default:
		if (how->from->codec == TN_CODEC_mxfp8)
			decode_e4m3(dst, row, how, far);
		else if (how->from->codec == TN_CODEC_mxfp4)
			decode_e2m1(dst, row, how, 1, far);
		else
			decode_e2m1(dst, row, how, 2, far);
	}
}
