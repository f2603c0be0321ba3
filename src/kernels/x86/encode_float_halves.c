/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of BF16 to mxfp4, nvfp4 and mxfp8, in whole numbers: the bits of positive floats have their order, so codes E2M1 say how
 * many of seven limits the bits of an element reach, and E4M3 are what is left of them. codec_mxfp4.c, codec_nvfp4.c and
 * codec_mxfp8.c say what is computed. */
#include "kernels/x86/lanes.h"

/* ---- limits ----------------------------------------------------------------------------------------------- */

/* The least BF16 whose quotient by a scale, rounded to BF16, lies above 1/4, 3/4, 5/4 and 7/4: its bits less those of the power of
 * two in the scale, for the eight fractions of E4M3 scales; the first is for powers of two. 5/2 and 5 are a power of two from 5/4,
 * and 7/2 from 7/4. */
static const uint16_t above_1_4[8] = { 0xFF01, 0xFF11, 0xFF21, 0xFF31, 0xFF41, 0xFF51, 0xFF61, 0xFF71 };
static const uint16_t above_3_4[8] = { 0xFFC1, 0xFFD9, 0xFFF1, 5, 17, 29, 41, 53 };
static const uint16_t above_5_4[8] = { 33, 53, 73, 93, 113, 131, 141, 151 };
static const uint16_t above_7_4[8] = { 97, 125, 141, 155, 169, 183, 197, 211 };

/* Groups that are looked at at once. */
struct limits {
	uint16_t a[HALVES], b[HALVES], c[HALVES], d[HALVES]; /* for 1/4, 3/4, 5/4, 7/4: what is taken off before it counts.
	                                                      * mxfp8: 2^-7 and 2^-10 times the scale */
	uint16_t bytes[HALVES];                              /* the scales as they are stored */
	uint16_t top[HALVES];                                /* the largest magnitudes */
};

TN_INLINE void store_limits(struct limits *l, ints scale, ints none)
{
	const ints fraction = VI(and)(V(srli_epi16)(scale, 4), V(set1_epi16)(7));
	const ints power = VI(and)(scale, V(set1_epi16)(0x7F80)), one = V(set1_epi16)(1), step = V(set1_epi16)(128);
	const ints zero = VI(setzero)(), never = V(set1_epi16)(0x7FFF);
	ints a = V(sub_epi16)(V(add_epi16)(look_up_8(above_1_4, fraction), power), one);
	ints b = V(sub_epi16)(V(add_epi16)(look_up_8(above_3_4, fraction), power), one);
	ints c = V(sub_epi16)(V(add_epi16)(look_up_8(above_5_4, fraction), power), step);
	ints d = V(sub_epi16)(V(add_epi16)(look_up_8(above_7_4, fraction), power), step);
	store_ints(l->a, where_greater(none, zero, never, a), 0);
	store_ints(l->b, where_greater(none, zero, never, b), 0);
	store_ints(l->c, where_greater(none, zero, never, c), 0);
	store_ints(l->d, where_greater(none, zero, never, d), 0);
}

/* The largest magnitude of a group. */
TN_INLINE uint16_t top_of(const unsigned char *src, const size_t group)
{
	const __m128i size = _mm_set1_epi16(0x7FFF);
	const __m128i *p = (const __m128i *)(const void *)src;
	__m128i room = _mm_min_epu16(_mm_andnot_si128(_mm_loadu_si128(p), size), _mm_andnot_si128(_mm_loadu_si128(p + 1), size));
	if (group == 32) {
		room = _mm_min_epu16(room, _mm_andnot_si128(_mm_loadu_si128(p + 2), size));
		room = _mm_min_epu16(room, _mm_andnot_si128(_mm_loadu_si128(p + 3), size));
	}
	return (uint16_t)(0x7FFF - (_mm_cvtsi128_si32(_mm_minpos_epu16(room)) & 0xFFFF));
}

/* E4M3 of BF16 values from 0 to 448. */
TN_INLINE ints e4m3_of(floats x)
{
	ints u = AS_INTS(x), odd = VI(and)(V(srli_epi32)(u, 20), V(set1_epi32)(1));
	ints normal = V(srli_epi32)(V(add_epi32)(V(add_epi32)(u, odd), V(set1_epi32)(0x7FFFF - (120 << 23))), 20);
	ints small = V(sub_epi32)(AS_INTS(V(add_ps)(x, V(set1_ps)(0x1p14f))), V(set1_epi32)(0x46800000));
#if defined(__AVX512BW__)
	return _mm512_mask_blend_epi32(_mm512_cmp_ps_mask(x, _mm512_set1_ps(0x1p-6f), _CMP_LT_OQ), normal, small);
#else
	return _mm256_blendv_epi8(normal, small, AS_INTS(_mm256_cmp_ps(x, _mm256_set1_ps(0x1p-6f), _CMP_LT_OQ)));
#endif
}

/* Scales of nvfp4: the largest by 6, rounded to BF16, then to E4M3. */
TN_INLINE void nvfp4_limits(struct limits *l)
{
	const ints top = load_ints(l->top);
	const floats six = V(set1_ps)(6);
	ints low = e4m3_of(round_floats(V(div_ps)(even_floats(top, TN_BF16), six), TN_BF16));
	ints high = e4m3_of(round_floats(V(div_ps)(odd_floats(top, TN_BF16), six), TN_BF16));
	ints bytes = VI(or)(low, V(slli_epi32)(high, 16));
	store_ints(l->bytes, bytes, 0);
	store_limits(l, bf16_of_e4m3(bytes), V(sub_epi16)(V(set1_epi16)(1), bytes));
}

/* Scales of mxfp4: the power of two that is not below the largest by 6, rounded to BF16. */
TN_INLINE void mxfp4_limits(struct limits *l)
{
	const ints top = load_ints(l->top), zero = VI(setzero)();
	ints power = V(sub_epi16)(V(srli_epi16)(V(add_epi16)(top, V(set1_epi16)(0x3F)), 7), V(set1_epi16)(2));
	store_ints(l->bytes, where_greater(top, zero, power, V(set1_epi16)(0x7F)), 0);
	store_limits(l, V(slli_epi16)(power, 7), zero);
}

/* Scales of mxfp8: the power of two that is not below the largest by 448, rounded to BF16. */
TN_INLINE void mxfp8_limits(struct limits *l)
{
	const ints top = load_ints(l->top), zero = VI(setzero)();
	ints power = V(sub_epi16)(V(srli_epi16)(V(add_epi16)(top, V(set1_epi16)(0x1F)), 7), V(set1_epi16)(8));
	power = where_greater(top, zero, power, V(set1_epi16)(0x7F));
	store_ints(l->bytes, power, 0);
	store_ints(l->a, V(slli_epi16)(V(sub_epi16)(power, V(set1_epi16)(7)), 7), 0);
	store_ints(l->b, V(slli_epi16)(V(sub_epi16)(power, V(set1_epi16)(10)), 7), 0);
}

/* ---- codes ------------------------------------------------------------------------------------------------ */

/* One limit for each lane: of group g, or of g and g + 1 in the two halves of 32 lanes. */
TN_INLINE ints limit_of(const uint16_t *limits, size_t g, const size_t group)
{
#if defined(__AVX512BW__)
	if (group == 16)
		return _mm512_inserti64x4(_mm512_set1_epi16((short)limits[g]), _mm256_set1_epi16((short)limits[g + 1]), 1);
#endif
	(void)group;
	return V(set1_epi16)((short)limits[g]);
}

TN_INLINE void encode_lanes(unsigned char *dst, const unsigned char *src, const struct limits *l, size_t g, const size_t group)
{
	const ints one = V(set1_epi16)(1), zero = VI(setzero)();
	ints x = load_ints(src), m = VI(and)(x, V(set1_epi16)(0x7FFF)), sign = VI(and)(V(srli_epi16)(x, 12), V(set1_epi16)(8));
	ints a = V(min_epu16)(V(subs_epu16)(m, limit_of(l->a, g, group)), one);
	ints b = V(min_epu16)(V(subs_epu16)(m, limit_of(l->b, g, group)), one);
	ints c = V(min_epu16)(V(srli_epi16)(V(subs_epu16)(m, limit_of(l->c, g, group)), 7), V(set1_epi16)(3));
	ints d = V(min_epu16)(V(srli_epi16)(V(subs_epu16)(m, limit_of(l->d, g, group)), 7), V(set1_epi16)(2));
	ints code = V(add_epi16)(V(add_epi16)(a, b), V(add_epi16)(c, d));
	code = where_greater(code, zero, VI(or)(code, sign), zero);
	ints bytes = VI(or)(code, V(srli_epi32)(code, 12));
#if defined(__AVX512BW__)
	_mm_storeu_si128((__m128i *)(void *)dst, _mm512_cvtepi32_epi8(bytes));
#else
	bytes = _mm256_and_si256(bytes, _mm256_set1_epi32(0xFF));
	__m128i words = _mm_packus_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
	_mm_storel_epi64((__m128i *)(void *)dst, _mm_packus_epi16(words, words));
#endif
}

/* 1 when in some lane x > a and b < most. */
TN_INLINE int any_above_and_below(ints x, ints a, ints b, ints most)
{
#if defined(__AVX512BW__)
	return _mm512_mask_cmpgt_epi16_mask(_mm512_cmpgt_epi16_mask(x, a), most, b) != 0;
#else
	return _mm256_movemask_epi8(_mm256_and_si256(_mm256_cmpgt_epi16(x, a), _mm256_cmpgt_epi16(most, b))) != 0;
#endif
}

/* E4M3 in lanes of 16 bits: 4 bits are rounded off. What becomes subnormal, and is not 0, takes its way through float32.
 * What comes of odd groups (is_odd) does not matter. */
TN_INLINE ints e4m3_lanes(const unsigned char *src, const struct limits *l, size_t g)
{
	const ints x = load_ints(src), m = VI(and)(x, V(set1_epi16)(0x7FFF)), least = V(set1_epi16)(128);
	const ints rest = V(subs_epu16)(m, V(set1_epi16)((short)l->a[g]));
	ints odd = VI(and)(V(srli_epi16)(rest, 4), V(set1_epi16)(1));
	ints code = V(srli_epi16)(V(add_epi16)(V(add_epi16)(rest, odd), V(set1_epi16)(7)), 4);
	if (any_above_and_below(m, V(set1_epi16)((short)l->b[g]), rest, least)) {
		const floats factor = AS_FLOATS(V(set1_epi32)((int)((254u - l->bytes[g]) << 23)));
		ints low = e4m3_of(V(mul_ps)(even_floats(m, TN_BF16), factor));
		ints high = e4m3_of(V(mul_ps)(odd_floats(m, TN_BF16), factor));
		code = where_greater(least, rest, VI(or)(low, V(slli_epi32)(high, 16)), code);
	}
	code = V(min_epi16)(code, V(set1_epi16)(0x7E));
	return VI(or)(code, VI(and)(V(srli_epi16)(x, 8), V(set1_epi16)(0x80)));
}

TN_INLINE void encode_mxfp8_32(unsigned char *dst, const unsigned char *src, const struct limits *l, size_t g)
{
#if defined(__AVX512BW__)
	__m256i bytes = _mm512_cvtepi16_epi8(e4m3_lanes(src, l, g));
#else
	__m256i bytes = _mm256_packus_epi16(e4m3_lanes(src, l, g), e4m3_lanes(src + 32, l, g));
	bytes = _mm256_permute4x64_epi64(bytes, 0xD8);
#endif
	_mm256_storeu_si256((__m256i *)(void *)dst, bytes);
}

/* ---- rows ------------------------------------------------------------------------------------------------- */

/* Groups outside of the range in which all of this holds. */
TN_INLINE int is_odd(uint16_t top, const enum tn_codec_id codec)
{
	const int least = codec == TN_CODEC_mxfp8 ? 20 << 7 : 12 << 7;             /* 2^-107, 2^-115 */
	return codec == TN_CODEC_nvfp4 ? top > 0x4528 : top >= 0x7F80 || (top < least && top); /* 2688; infinity */
}

static void encode_odd_group(unsigned char *dst, unsigned char *scale, const unsigned char *src, const struct tn_format *f)
{
	float values[32];
	struct tn_row in = { { src } };
	struct tn_row_out out = { { dst, scale } };
	struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = TN_BF16 };
	TN_ISA_NAME(tn_plain_codec)(TN_CODEC_dense)->decode(values, &in, &dense, f->group);
	TN_ISA_NAME(tn_plain_codec)(f->codec)->encode(&out, values, f, f->group);
}

TN_INLINE void encode_row(const struct tn_row_out *row, const unsigned char *src, const struct tn_recoding *how,
			  const enum tn_codec_id codec)
{
	const size_t group = codec == TN_CODEC_nvfp4 ? 16 : 32, bytes = codec == TN_CODEC_mxfp8 ? 32 : group / 2;
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	const size_t groups = how->cols / group, step = group < HALVES ? HALVES / group : 1;
	struct limits l;
	for (size_t first = 0; first < groups; first += HALVES) {
		size_t count = groups - first < HALVES ? groups - first : HALVES, whole = count / step * step;
		int odd = 0;
		for (size_t g = 0; g < HALVES; g++) {
			l.top[g] = g < count ? top_of(src + 2 * g * group, group) : 0;
			odd |= is_odd(l.top[g], codec);
		}
		if (codec == TN_CODEC_nvfp4)
			nvfp4_limits(&l);
		else if (codec == TN_CODEC_mxfp4)
			mxfp4_limits(&l);
		else
			mxfp8_limits(&l);
		for (size_t g = 0; g < count && codec == TN_CODEC_mxfp8; g++)
			encode_mxfp8_32(dst + 32 * g, src + 64 * g, &l, g);
		for (size_t i = 0; i < whole * group && codec != TN_CODEC_mxfp8; i += HALVES)
			encode_lanes(dst + i / 2, src + 2 * i, &l, i / group, group);
		for (size_t g = 0; g < count; g++)
			scales[first + g] = (unsigned char)l.bytes[g];
		for (size_t g = odd ? 0 : whole; g < count; g++)
			if (g >= whole || is_odd(l.top[g], codec))
				encode_odd_group(dst + g * bytes, scales + first + g, src + 2 * g * group, how->to);
		src += 2 * count * group;
		dst += count * bytes;
	}
}

void TN_ISA_NAME(tn_x86_encode_float_halves)(const struct tn_row_out *row, const unsigned char *src, const struct tn_recoding *how)
{
	if (how->to->codec == TN_CODEC_mxfp4)
		encode_row(row, src, how, TN_CODEC_mxfp4);
	else if (how->to->codec == TN_CODEC_nvfp4)
		encode_row(row, src, how, TN_CODEC_nvfp4);
	else
		encode_row(row, src, how, TN_CODEC_mxfp8);
}
