/* SPDX-License-Identifier: Apache-2.0 */
/* Packed rows to 16-bit floats. Few codes of a group mean few numbers: they are computed and rounded once for the group, as the
 * plain decoder and the dense encoder do it, and looked up. Codes of 8 bits (with AVX2, of 5 and more) are computed one by one. */
#include "kernels/x86/tables.h"

#define BYTES(row, part_name) ((const unsigned char *)(row)->part[TN_PART_##part_name])

/* What is not finite, or too small: the plain way. */
static void decode_rest(unsigned char *dst, const struct tn_row *in, const struct tn_recoding *how, size_t n)
{
	float values[128];
	struct tn_row_out out = { { dst } };
	TN_ISA_NAME(tn_plain_codec)(how->from->codec)->decode(values, in, how->from, n);
	TN_ISA_NAME(tn_plain_codec)(TN_CODEC_dense)->encode(&out, values, how->to, n);
}

/* ---- affine ----------------------------------------------------------------------------------------------- */

/* Groups that are looked at at once. */
struct grids {
	float scale[FLOATS], bias[FLOATS];
	unsigned odd;              /* a bit for each group in which numbers may be infinite, NaN, or subnormal as BF16 */
	float raised[FLOATS];      /* bias - RAISED * scale */
	unsigned is_raised;        /* a bit for each group in which that is exact, and no bias is 0, which may have a sign */
};

/* What codes are that stand in the bits of a float32 from the ninth on: so many more. */
#define RAISED 0x1p15f

TN_INLINE floats load_floats(const unsigned char *src, size_t first, size_t count, tn_dtype dtype)
{
	const size_t size = dtype == TN_F32 ? 4 : 2;
	unsigned char some[FLOATS * sizeof(float)] = { 0 };
	src += first * size;
	if (count < FLOATS) {
		memcpy(some, src, count * size);
		src = some;
	}
	if (dtype == TN_F32)
		return V(loadu_ps)((const float *)(const void *)src);
#if defined(__AVX512BW__)
	__m256i h = _mm256_loadu_si256((const __m256i *)(const void *)src);
	return dtype == TN_F16 ? _mm512_cvtph_ps(h) : AS_FLOATS(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
#else
	__m128i h = _mm_loadu_si128((const __m128i *)(const void *)src);
	return dtype == TN_F16 ? _mm256_cvtph_ps(h) : AS_FLOATS(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
#endif
}

TN_INLINE struct grids grids_of(const struct tn_row *row, size_t first, size_t count, tn_dtype dtype)
{
	struct grids grids;
	floats scale = load_floats(row->part[TN_PART_SCALES], first, count, dtype);
	floats bias = load_floats(row->part[TN_PART_BIASES], first, count, dtype);
	V(storeu_ps)(grids.scale, scale);
	V(storeu_ps)(grids.bias, bias);
	grids.odd = lanes_of_other_sizes(scale) | lanes_of_other_sizes(bias);
	floats much = V(mul_ps)(scale, V(set1_ps)(RAISED)), raised = V(sub_ps)(bias, much), less = V(sub_ps)(raised, bias);
	/* what was rounded off */
	floats rest = V(sub_ps)(V(sub_ps)(bias, V(sub_ps)(raised, less)), V(add_ps)(much, less));
	V(storeu_ps)(grids.raised, raised);
	grids.is_raised = ~LANES_UNLESS(rest, _CMP_EQ_OQ, V(setzero_ps)()) & LANES_UNLESS(bias, _CMP_EQ_OQ, V(setzero_ps)());
	return grids;
}

/* How the values of a group are computed. */
struct meaning {
	floats scale, bias;        /* of raised codes, when they are */
	tn_dtype dtype;
	int like_mlx;
};

/* The product of 8 and 11 bits is exact, so that fusing it with the sum changes nothing; for F32 it is how values are defined. */
TN_INLINE floats value_of(floats codes, struct meaning m)
{
	if (m.like_mlx)
		return round_number(V(add_ps)(round_number(V(mul_ps)(codes, m.scale), m.dtype), m.bias), m.dtype);
	return V(fmadd_ps)(codes, m.scale, m.bias);
}

/* Every `step`th code from `first` on, again and again where there are fewer than lanes: what stands above a code is part of the
 * index. */
TN_INLINE floats codes_from(int first, const int step, const int bits)
{
	ints code = V(cvtps_epi32)(V(mul_ps)(ascending_floats(), V(set1_ps)((float)step)));
	return V(cvtepi32_ps)(VI(and)(V(add_epi32)(code, V(set1_epi32)(first)), V(set1_epi32)((1 << bits) - 1)));
}

TN_INLINE struct table affine_table(struct meaning m, const int bits, tn_dtype to)
{
#if defined(__AVX512BW__)
	struct table t;
	floats first = value_of(codes_from(0, 1, bits), m);
	t.a = t.b = narrow_in_order(first, bits < 5 ? first : value_of(codes_from(16, 1, bits), m), to);
	if (bits == 6)
		t.b = narrow_in_order(value_of(codes_from(32, 1, bits), m), value_of(codes_from(48, 1, bits), m), to);
	return t;
#else
	return split_table(narrow_pairs(value_of(codes_from(0, 2, bits), m), value_of(codes_from(1, 2, bits), m), to));
#endif
}

/* ... of codes that are too wide for a table: HALVES of them. */
#if defined(__AVX512BW__)
TN_INLINE ints next_values(const unsigned char *src, struct meaning m, const int bits, int is_raised, tn_dtype to)
{
	const __m128i *codes = (const __m128i *)(const void *)src;
	(void)bits;
	(void)is_raised;
	return narrow_in_order(value_of(V(cvtepi32_ps)(_mm512_cvtepu8_epi32(_mm_loadu_si128(codes))), m),
			  value_of(V(cvtepi32_ps)(_mm512_cvtepu8_epi32(_mm_loadu_si128(codes + 1))), m), to);
}
#else
TN_INLINE ints next_values(const unsigned char *src, struct meaning m, const int bits, int is_raised, tn_dtype to)
{
	ints bytes = _mm256_broadcastsi128_si256(load_exactly(src, 2 * bits)), even, odd;
	if (bits == 8) {
		const ints at = _mm256_setr_epi8(-1, 0, -1, -1, -1, 2, -1, -1, -1, 4, -1, -1, -1, 6, -1, -1, -1, 8, -1, -1, -1, 10,
						 -1, -1, -1, 12, -1, -1, -1, 14, -1, -1);
		even = _mm256_shuffle_epi8(bytes, at);
		odd = _mm256_shuffle_epi8(bytes, _mm256_add_epi32(at, _mm256_set1_epi32(0x100)));
	} else { /* pairs of codes, from the bytes on in which they begin */
#define AT(pair) -1, (char)((pair) * bits / 4), (char)((pair) * bits / 4 + 1), (char)((pair) * bits / 4 + 2)
		const ints at = _mm256_setr_epi8(AT(0), AT(1), AT(2), AT(3), AT(4), AT(5), AT(6), AT(7));
#undef AT
#define BEFORE(pair) (pair) * 2 * bits % 8
		const ints before = _mm256_setr_epi32(BEFORE(0), BEFORE(1), BEFORE(2), BEFORE(3), BEFORE(4), BEFORE(5), BEFORE(6),
						      BEFORE(7));
#undef BEFORE
		const ints mask = _mm256_set1_epi32(((1 << bits) - 1) << 8);
		ints pairs = _mm256_srlv_epi32(_mm256_shuffle_epi8(bytes, at), before);
		even = _mm256_and_si256(pairs, mask);
		odd = _mm256_and_si256(_mm256_srli_epi32(pairs, bits), mask);
	}
	const ints much = AS_INTS(_mm256_set1_ps(RAISED));
	if (is_raised)
		return narrow_pairs(value_of(AS_FLOATS(_mm256_or_si256(even, much)), m),
				    value_of(AS_FLOATS(_mm256_or_si256(odd, much)), m), to);
	return narrow_pairs(value_of(_mm256_cvtepi32_ps(_mm256_srli_epi32(even, 8)), m),
			    value_of(_mm256_cvtepi32_ps(_mm256_srli_epi32(odd, 8)), m), to);
}
#endif

/* Groups of 32 << `doubled` numbers. */
TN_INLINE void decode_wide_groups(unsigned char *dst, const unsigned char *src, const struct grids *grids, size_t count,
				  unsigned doubled, struct meaning m, const int bits, int is_raised, tn_dtype to, int far)
{
	for (size_t g = 0; g < count; g++) {
		m.scale = V(set1_ps)(grids->scale[g]);
		m.bias = V(set1_ps)(is_raised ? grids->raised[g] : grids->bias[g]);
		for (unsigned i = 0; i < 1u << doubled; i++, src += 4 * bits, dst += 64) {
			store_ints(dst, next_values(src, m, bits, is_raised, to), far);
#if !defined(__AVX512BW__)
			store_ints(dst + 32, next_values(src + 2 * bits, m, bits, is_raised, to), far);
#endif
		}
	}
}

/* The three ways in loops of their own. */
TN_INLINE void decode_wide(unsigned char *dst, const unsigned char *src, const struct grids *grids, size_t count, size_t group,
			   struct meaning m, const int bits, tn_dtype to, int far)
{
	const unsigned doubled = (unsigned)__builtin_ctz((unsigned)group) - 5, all = (1u << count) - 1;
	const struct meaning plain = { .dtype = m.dtype, .like_mlx = 0 }, like_mlx = { .dtype = m.dtype, .like_mlx = 1 };
	const int is_raised = HALVES == 16 && (grids->is_raised & all) == all;
	if (m.like_mlx)
		decode_wide_groups(dst, src, grids, count, doubled, like_mlx, bits, 0, to, far);
	else if (is_raised && doubled == 1)
		decode_wide_groups(dst, src, grids, count, 1, plain, bits, 1, to, far);
	else if (is_raised)
		decode_wide_groups(dst, src, grids, count, doubled, plain, bits, 1, to, far);
	else if (doubled == 1)
		decode_wide_groups(dst, src, grids, count, 1, plain, bits, 0, to, far);
	else
		decode_wide_groups(dst, src, grids, count, doubled, plain, bits, 0, to, far);
}

TN_INLINE void decode_group(unsigned char *dst, const unsigned char *src, struct meaning m, size_t group, const int bits,
			    tn_dtype to, int far)
{
	const struct table t = affine_table(m, bits, to);
	for (size_t i = 0; i < group; i += LOOKED_UP)
		look_up(dst + 2 * i, t, next_codes(src + i / 8 * (size_t)bits, bits), bits, far);
}

static void decode_odd_affine(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how)
{
	const struct tn_format *f = how->from;
	const size_t group = f->group, groups = how->cols / group, size = f->dtype == TN_F32 ? 4 : 2;
	for (size_t first = 0; first < groups; first += FLOATS) {
		unsigned odd = grids_of(row, first, groups - first < FLOATS ? groups - first : FLOATS, f->dtype).odd;
		for (size_t g = first; odd; g++, odd >>= 1)
			if (odd & 1)
				decode_rest(dst + 2 * g * group, &(struct tn_row){ { BYTES(row, WEIGHT) + g * group / 8 * f->bits,
					    BYTES(row, SCALES) + g * size, BYTES(row, BIASES) + g * size } }, how, group);
	}
}

/* All groups as if none were odd, for calls in a loop cost it its constants. Returns 1 when some are. */
TN_INLINE int decode_affine(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how, const int bits,
			    tn_dtype from, tn_dtype to, int far)
{
	const unsigned char *src = BYTES(row, WEIGHT);
	const size_t group = how->from->group, groups = how->cols / group, bytes = group / 8 * (size_t)bits;
	unsigned odd = 0;
	for (size_t first = 0; first < groups; first += FLOATS) {
		size_t count = groups - first < FLOATS ? groups - first : FLOATS;
		struct grids grids = grids_of(row, first, count, from);
		struct meaning m = { .dtype = from, .like_mlx = how->from->like_mlx };
		odd |= grids.odd;
		if (bits > (HALVES == 32 ? 6 : 4)) {
			decode_wide(dst, src, &grids, count, group, m, bits, to, far);
			dst += 2 * group * count;
			src += bytes * count;
			continue;
		}
		for (size_t g = 0; g < count; g++, dst += 2 * group, src += bytes) {
			m.scale = V(set1_ps)(grids.scale[g]);
			m.bias = V(set1_ps)(grids.bias[g]);
			decode_group(dst, src, m, group, bits, to, far);
		}
	}
	return odd != 0;
}

TN_INLINE void decode_affine_to(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how, const int bits,
				int far)
{
	tn_dtype from = how->from->dtype, to = how->to->dtype;
	int odd;
	if (from == TN_BF16 && to == TN_BF16 && far)
		odd = decode_affine(dst, row, how, bits, TN_BF16, TN_BF16, 1);
	else if (from == TN_BF16 && to == TN_BF16)
		odd = decode_affine(dst, row, how, bits, TN_BF16, TN_BF16, 0);
	else if (from == TN_F16 && to == TN_F16)
		odd = decode_affine(dst, row, how, bits, TN_F16, TN_F16, far);
	else
		odd = decode_affine(dst, row, how, bits, from, to, far);
	if (odd)
		decode_odd_affine(dst, row, how);
}

/* ---- E2M1 ------------------------------------------------------------------------------------------------- */

/* Every product with a scale that is a power of two, or E4M3, is a BF16 number. Those with two scales a and 3/2 a, by their bits,
 * in the order of codes; `as` says what of them. */
#define HALF_NUMBERS(as, sign, a, b) \
	as((sign) + (a) - 128), as((sign) + (a)), as((sign) + (b)), as((sign) + (a) + 128), as((sign) + (b) + 128), \
		as((sign) + (a) + 256), as((sign) + (b) + 256)
#define NUMBERS(as, a, b) as(0), HALF_NUMBERS(as, 0, a, b), as(0x8000), HALF_NUMBERS(as, 0x8000, a, b)
#define IN_WHOLE(number) (uint16_t)(number)
#define LOWER(number) (unsigned char)((number) & 0xFF)
#define UPPER(number) (unsigned char)((number) >> 8)

#if defined(__AVX512BW__)
typedef uint16_t numbers_of_scale[16];
#define BY_SCALE(a, b) { NUMBERS(IN_WHOLE, a, b) }
#define NO_NUMBERS { 0, 0, 0, 0, 0, 0, 0, 0, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000, 0x8000 }
#else
typedef unsigned char numbers_of_scale[32]; /* the lower bytes, and then the upper ones */
#define BY_SCALE(a, b) { NUMBERS(LOWER, a, b), NUMBERS(UPPER, a, b) }
#define NO_NUMBERS { [24] = 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80 }
#endif

/* Eight scales E4M3 of one exponent, which is 2^(power - 127); those of the exponent 0 are subnormal. */
#define EIGHT_SCALES(power) \
	BY_SCALE(128 * (power), 128 * (power) + 64), BY_SCALE(128 * (power) + 16, 128 * (power) + 88), \
		BY_SCALE(128 * (power) + 32, 128 * (power) + 112), BY_SCALE(128 * (power) + 48, 128 * (power) + 132), \
		BY_SCALE(128 * (power) + 64, 128 * (power) + 144), BY_SCALE(128 * (power) + 80, 128 * (power) + 156), \
		BY_SCALE(128 * (power) + 96, 128 * (power) + 168), BY_SCALE(128 * (power) + 112, 128 * (power) + 180)

static const numbers_of_scale numbers_of_e4m3[128] = {
	NO_NUMBERS,
	BY_SCALE(0x3B00, 0x3B40), BY_SCALE(0x3B80, 0x3BC0), BY_SCALE(0x3BC0, 0x3C10), BY_SCALE(0x3C00, 0x3C40),
	BY_SCALE(0x3C20, 0x3C70), BY_SCALE(0x3C40, 0x3C90), BY_SCALE(0x3C60, 0x3CA8),
	EIGHT_SCALES(121), EIGHT_SCALES(122), EIGHT_SCALES(123), EIGHT_SCALES(124), EIGHT_SCALES(125), EIGHT_SCALES(126),
	EIGHT_SCALES(127), EIGHT_SCALES(128), EIGHT_SCALES(129), EIGHT_SCALES(130), EIGHT_SCALES(131), EIGHT_SCALES(132),
	EIGHT_SCALES(133), EIGHT_SCALES(134), EIGHT_SCALES(135)
};

/* Scales E8M0 with an even and an odd exponent; half of the others' distance in exponents is added to the upper bytes. */
#define NEAR_ONE 126
static const numbers_of_scale numbers_of_e8m0[2] = { BY_SCALE(128 * 126, 128 * 126 + 64), BY_SCALE(128 * 127, 128 * 127 + 64) };

#if defined(__AVX512BW__)
TN_INLINE ints load_numbers(const numbers_of_scale *first, const numbers_of_scale *second)
{
	ints a = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(const void *)first));
	return _mm512_inserti64x4(a, _mm256_loadu_si256((const __m256i *)(const void *)second), 1);
}

/* 16 codes with each of two scales. */
TN_INLINE void decode_nvfp4_32(unsigned char *dst, const unsigned char *src, const unsigned char scale[2], int far)
{
	const ints upper = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi16(16), 1);
	/* (codes & 15) | upper */
	ints codes = _mm512_ternarylogic_epi32(next_codes(src, 4), _mm512_set1_epi16(15), upper, 0xEA);
	store_ints(dst, _mm512_permutexvar_epi16(codes, load_numbers(&numbers_of_e4m3[scale[0]], &numbers_of_e4m3[scale[1]])), far);
}

TN_INLINE void decode_mxfp4_32(unsigned char *dst, const unsigned char *src, unsigned char scale, int far)
{
	const numbers_of_scale *numbers = &numbers_of_e8m0[(scale - NEAR_ONE) & 1];
	ints t = load_numbers(numbers, numbers), power = _mm512_set1_epi16((short)(((scale - NEAR_ONE) >> 1) * 256));
	t = _mm512_mask_add_epi16(t, 0xFEFEFEFE, t, power);
	store_ints(dst, _mm512_permutexvar_epi16(next_codes(src, 4), t), far);
}
#else
TN_INLINE struct table load_numbers(const numbers_of_scale *numbers)
{
	const __m128i *at = (const __m128i *)(const void *)numbers;
	return (struct table){ _mm256_broadcastsi128_si256(_mm_loadu_si128(at)),
			       _mm256_broadcastsi128_si256(_mm_loadu_si128(at + 1)) };
}

TN_INLINE void decode_nvfp4_32(unsigned char *dst, const unsigned char *src, const unsigned char scale[2], int far)
{
	ints codes = next_codes(src, 4);
	struct table t = load_numbers(&numbers_of_e4m3[scale[0]]), u = load_numbers(&numbers_of_e4m3[scale[1]]);
	/* codes 0 to 15 are the lower quarters of the halves */
	store_ints(dst, _mm256_unpacklo_epi8(_mm256_shuffle_epi8(t.a, codes), _mm256_shuffle_epi8(t.b, codes)), far);
	store_ints(dst + 32, _mm256_unpackhi_epi8(_mm256_shuffle_epi8(u.a, codes), _mm256_shuffle_epi8(u.b, codes)), far);
}

TN_INLINE void decode_mxfp4_32(unsigned char *dst, const unsigned char *src, unsigned char scale, int far)
{
	const ints not_zero = _mm256_set1_epi64x((long long)0xFFFFFFFFFFFFFF00u);
	struct table t = load_numbers(&numbers_of_e8m0[(scale - NEAR_ONE) & 1]);
	ints power = _mm256_set1_epi8((char)((scale - NEAR_ONE) >> 1));
	t.b = _mm256_add_epi8(t.b, _mm256_and_si256(power, not_zero));
	look_up(dst, t, next_codes(src, 4), 4, far);
}
#endif

/* ---- E4M3 ------------------------------------------------------------------------------------------------- */

/* 1 when among 32 bytes there are subnormal numbers, zeros or NaN. */
TN_INLINE int has_odd_e4m3(const unsigned char *src)
{
	__m256i bytes = _mm256_loadu_si256((const __m256i *)(const void *)src), exponent = _mm256_set1_epi8(0x78);
	__m256i nan = _mm256_cmpeq_epi8(_mm256_or_si256(bytes, _mm256_set1_epi8((char)0x80)), _mm256_set1_epi8((char)0xFF));
	__m256i small = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, exponent), _mm256_setzero_si256());
	return _mm256_movemask_epi8(_mm256_or_si256(nan, small)) != 0;
}

/* Numbers of either sign, in lanes of 16 bits. */
TN_INLINE ints load_signed(const unsigned char *src)
{
#if defined(__AVX512BW__)
	return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)(const void *)src));
#else
	return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)src));
#endif
}

/* Zeros and subnormal numbers have a table, NaN a number of its own. */
TN_INLINE ints odd_e4m3(ints bytes, ints moved)
{
	ints m = VI(and)(bytes, V(set1_epi16)(0x7F)), sign = VI(and)(bytes, V(set1_epi16)((short)0x8000)), zero = VI(setzero)();
	ints number = where_greater(m, zero, V(add_epi16)(bf16_of_e4m3(m), moved), zero);
	return where_greater(m, V(set1_epi16)(0x7E), V(set1_epi16)(0x7FC0), VI(or)(number, sign));
}

/* The 32 numbers of one scale, which `moved` adds to their exponents; none is subnormal or infinite as BF16. */
TN_INLINE void decode_mxfp8_32(unsigned char *dst, const unsigned char *src, unsigned char scale, int far)
{
	const ints kept = V(set1_epi16)((short)0x87F0), normal = V(set1_epi16)(120 * 128);
	const ints moved = V(set1_epi16)((short)((scale - 127) * 128)), all = V(add_epi16)(moved, normal);
	if (has_odd_e4m3(src)) {
		for (int i = 0; i < 32; i += HALVES)
			store_ints(dst + 2 * i, odd_e4m3(load_signed(src + i), moved), far);
		return;
	}
	for (int i = 0; i < 32; i += HALVES)
		store_ints(dst + 2 * i, V(add_epi16)(VI(and)(V(slli_epi16)(load_signed(src + i), 4), kept), all), far);
}

/* ---- rows of floats --------------------------------------------------------------------------------------- */

/* Scales with which some numbers are not finite, or smaller than BF16 has them without loss of bits, and negative ones. */
TN_INLINE int is_odd_scale(unsigned char scale, const enum tn_codec_id codec)
{
	if (codec == TN_CODEC_nvfp4)
		return scale >= 0x7F;
	return codec == TN_CODEC_mxfp4 ? scale < 2 || scale >= 252 : scale < 16 || scale >= 240;
}

static void decode_odd_floats(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how)
{
	const enum tn_codec_id codec = how->from->codec;
	const size_t group = codec == TN_CODEC_nvfp4 ? 16 : 32, bytes = codec == TN_CODEC_mxfp8 ? group : group / 2;
	const size_t pairs = how->cols / 32 * 32;
	for (size_t g = 0; g < how->cols / group; g++)
		if (is_odd_scale(BYTES(row, SCALES)[g], codec) || g * group >= pairs)
			decode_rest(dst + 2 * g * group,
				    &(struct tn_row){ { BYTES(row, WEIGHT) + g * bytes, BYTES(row, SCALES) + g } }, how, group);
}

/* Whole 32 numbers. Returns 1 when some have an odd scale. */
TN_INLINE int decode_floats(unsigned char *dst, const struct tn_row *row, size_t cols, const enum tn_codec_id codec, int far)
{
	const unsigned char *src = BYTES(row, WEIGHT), *scale = BYTES(row, SCALES);
	int odd = 0;
	for (size_t i = 0; i < cols / 32; i++) {
		if (codec == TN_CODEC_nvfp4) {
			unsigned char both[2] = { scale[2 * i] & 0x7F, scale[2 * i + 1] & 0x7F };
			odd |= is_odd_scale(scale[2 * i], codec) | is_odd_scale(scale[2 * i + 1], codec);
			decode_nvfp4_32(dst + 64 * i, src + 16 * i, both, far);
			continue;
		}
		odd |= is_odd_scale(scale[i], codec);
		if (codec == TN_CODEC_mxfp4)
			decode_mxfp4_32(dst + 64 * i, src + 16 * i, scale[i], far);
		else
			decode_mxfp8_32(dst + 64 * i, src + 32 * i, scale[i], far);
	}
	return odd;
}

TN_INLINE void decode_floats_to(unsigned char *dst, const struct tn_row *row, const struct tn_recoding *how,
				const enum tn_codec_id codec, int far)
{
	int odd = far ? decode_floats(dst, row, how->cols, codec, 1) : decode_floats(dst, row, how->cols, codec, 0);
	if (odd || how->cols % 32)
		decode_odd_floats(dst, row, how);
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
			decode_floats_to(dst, row, how, TN_CODEC_mxfp8, far);
		else if (how->from->codec == TN_CODEC_mxfp4)
			decode_floats_to(dst, row, how, TN_CODEC_mxfp4, far);
		else
			decode_floats_to(dst, row, how, TN_CODEC_nvfp4, far);
	}
}
