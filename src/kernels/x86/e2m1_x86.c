/* SPDX-License-Identifier: Apache-2.0 */
/* mxfp4 and nvfp4: codes E2M1 in groups of 32 and 16. codec_mxfp4.c, codec_nvfp4.c and dither.h say what is computed. */
#include "kernels/x86/codec_x86.h"

/* Twice the value of a code plus 12: in the order of codes, and of values. */
static const unsigned char of_code[16] = { 12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0 };
static const unsigned char of_order[16] = { 0, 4, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, 20, 24, 24 };
static const unsigned char code_of_order[16] = { 15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7, 7 };

TN_INLINE __m256i table(const unsigned char entries[16])
{
	return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)entries));
}

/* Entries for indices below 16 in the lanes; what the other bytes of the lanes look up is masked away. */
TN_INLINE __m256i look_up(const unsigned char entries[16], __m256i index)
{
	return _mm256_and_si256(_mm256_shuffle_epi8(table(entries), index), _mm256_set1_epi32(0xFF));
}

/* From 2 v + 12 to v. */
TN_INLINE __m256 value_of(__m256i entry)
{
	return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_sub_epi32(entry, _mm256_set1_epi32(12))), _mm256_set1_ps(0.5f));
}

TN_INLINE int group_of(const struct tn_format *f)
{
	return f->codec == TN_CODEC_mxfp4 ? 32 : 16;
}

/* ---- decoding -------------------------------------------------------------------------------------------- */

/* With its sign before it is scaled: -0 stays -0, and NaN has the sign that the plain codec gives it. */
TN_INLINE void decode_8(float *dst, __m256i codes, __m256 scale)
{
	__m256 magnitude = value_of(look_up(of_code, _mm256_and_si256(codes, _mm256_set1_epi32(7))));
	__m256i sign = _mm256_slli_epi32(_mm256_and_si256(codes, _mm256_set1_epi32(8)), 28);
	_mm256_storeu_ps(dst, _mm256_mul_ps(_mm256_xor_ps(magnitude, _mm256_castsi256_ps(sign)), scale));
}

TN_INLINE void decode_groups(float *dst, const unsigned char *src, const unsigned char *scales, size_t cols, const size_t group)
{
	for (size_t g = 0; g < cols / group; g++) {
		__m256 scale = _mm256_set1_ps(group == 32 ? e8m0_decode(scales[g]) : tn_f32_from_f8_e4m3(scales[g]));
		for (size_t i = 0; i < group; i += 8, src += 4, dst += 8)
			decode_8(dst, _mm256_cvtepu8_epi32(unpack_8(src, 4, 4)), scale);
	}
}

/* Where the dtype holds every product of a code and a scale, MLX's rounding to it changes nothing but NaN. */
static int rounds(const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	const unsigned char *scales = row->part[TN_PART_SCALES];
	const size_t group = (size_t)group_of(f);
	const unsigned kept = group == 32 ? 0xFF : 0x7F; /* infinity times 0, and NaN of either sign */
	int any_nan = 0;
	for (size_t g = 0; g < cols / group; g++)
		any_nan |= (scales[g] & kept) == kept;
	return any_nan || (group == 32 && f->dtype == TN_F16);
}

void TN_ISA_NAME(tn_x86_decode_e2m1)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	if (f->has_global_scale || (f->like_mlx && rounds(row, f, cols)))
		TN_ISA_NAME(tn_plain_codec)(f->codec)->decode(dst, row, f, cols);
	else if (f->codec == TN_CODEC_mxfp4)
		decode_groups(dst, row->part[TN_PART_WEIGHT], row->part[TN_PART_SCALES], cols, 32);
	else
		decode_groups(dst, row->part[TN_PART_WEIGHT], row->part[TN_PART_SCALES], cols, 16);
}

/* ---- encoding -------------------------------------------------------------------------------------------- */

/* Codes of 8 values up to 64: how many midpoints lie below the magnitude, and the sign where there are any. */
TN_INLINE __m256i nearest_8(__m256 x)
{
	static const float midpoints[7] = { 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f };
	__m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
	__m256i code = _mm256_setzero_si256(), sign;
	TN_UNROLL(7)
	for (int i = 0; i < 7; i++)
		code = _mm256_sub_epi32(code, as_ints(_mm256_cmp_ps(magnitude, _mm256_set1_ps(midpoints[i]), _CMP_GT_OQ)));
	sign = _mm256_and_si256(_mm256_srli_epi32(as_ints(x), 28), _mm256_set1_epi32(8));
	return _mm256_or_si256(code, _mm256_andnot_si256(_mm256_cmpeq_epi32(code, _mm256_setzero_si256()), sign));
}

/* A group, unless it holds what only the plain codec knows: then 0. */
TN_INLINE int encode_group(unsigned char *dst, const float *w, int n, float scale, float factor, tn_dtype dtype)
{
	__m256 beyond = _mm256_setzero_ps();
	for (int i = 0; i < n; i += 8) {
		__m256 x = round_8(_mm256_div_ps(_mm256_loadu_ps(w + i), _mm256_set1_ps(scale)), dtype);
		x = _mm256_mul_ps(x, _mm256_set1_ps(factor));
		__m256 magnitude = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
		beyond = _mm256_or_ps(beyond, _mm256_cmp_ps(magnitude, _mm256_set1_ps(64), _CMP_GT_OQ));
		pack_8(dst + i / 2, 4, nearest_8(x), 4);
	}
	return _mm256_movemask_ps(beyond) == 0;
}

TN_INLINE float top_of(const float *w, int n)
{
	__m256i top = _mm256_setzero_si256();
	for (int i = 0; i < n; i += 8)
		top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(const void *)(w + i)),
							      _mm256_set1_epi32(0x7FFFFFFF)));
	__m128i a = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
	a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0x4E));
	a = _mm_max_epi32(a, _mm_shuffle_epi32(a, 0xB1));
	return tn_f32_from_bits((uint32_t)_mm_cvtsi128_si32(a));
}

TN_INLINE void encode_row(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols, int group,
			  tn_dtype dtype)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	const float factor = f->has_global_scale ? 2688.0f / f->global_scale : 1.0f;
	for (size_t g = 0; g < cols / (size_t)group; g++, src += group, dst += group / 2) {
		float scale;
		int known = e2m1_fit(scales + g, &scale, top_of(src, group), (size_t)group, factor, dtype);
		if (known && encode_group(dst, src, group, scale, group == 32 ? 1.0f : factor, dtype))
			continue;
		struct tn_row_out one = { { dst, scales + g } };
		TN_ISA_NAME(tn_plain_codec)(f->codec)->encode(&one, src, f, (size_t)group);
	}
}

void TN_ISA_NAME(tn_x86_encode_e2m1)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	int group = group_of(f);
	if (f->flavour != TN_ENCODE_CPU)
		TN_ISA_NAME(tn_plain_codec)(f->codec)->encode(row, src, f, cols);
	else if (group == 32)
		encode_row(row, src, f, cols, 32, f->dtype == TN_F32 || f->dtype == TN_F16 ? f->dtype : TN_BF16);
	else
		encode_row(row, src, f, cols, 16, f->dtype == TN_F32 || f->dtype == TN_F16 ? f->dtype : TN_BF16);
}

/* ---- moving codes ---------------------------------------------------------------------------------------- */

/* The place of the last value that is not above x; -6 for all below. */
TN_INLINE __m256i order_of(__m256 x)
{
	__m256i order = _mm256_setzero_si256();
	TN_UNROLL(14)
	for (int i = 1; i < 15; i++) {
		__m256 value = _mm256_set1_ps((float)(of_order[i] - 12) * 0.5f);
		order = _mm256_sub_epi32(order, as_ints(_mm256_cmp_ps(value, x, _CMP_LE_OQ)));
	}
	return order;
}

TN_INLINE __m256i dither_8(__m256i code, __m256 delta, __m256 u, uint32_t *moved, uint32_t *clamped)
{
	const __m256 some = _mm256_cmp_ps(delta, _mm256_setzero_ps(), _CMP_NEQ_OQ);
	__m256 old = value_of(look_up(of_code, code)), x = _mm256_add_ps(old, delta);
	__m256i order = order_of(x), last = _mm256_cmpeq_epi32(order, _mm256_set1_epi32(14));
	__m256 low = value_of(look_up(of_order, order));
	__m256 high = value_of(look_up(of_order, _mm256_add_epi32(order, _mm256_set1_epi32(1))));
	__m256 share = _mm256_div_ps(_mm256_sub_ps(x, low), _mm256_sub_ps(high, low));
	__m256i up = _mm256_andnot_si256(last, as_ints(_mm256_cmp_ps(u, share, _CMP_LT_OQ)));
	__m256i chosen = look_up(code_of_order, _mm256_sub_epi32(order, up));
	__m256 moves = _mm256_and_ps(some, _mm256_cmp_ps(value_of(look_up(of_code, chosen)), old, _CMP_NEQ_OQ));
	__m256 size = _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
	*clamped += count_8(_mm256_and_ps(some, _mm256_cmp_ps(size, _mm256_set1_ps(6), _CMP_GT_OQ)));
	*moved += count_8(moves);
	return _mm256_blendv_epi8(code, chosen, as_ints(moves));
}

static float scale_of(uint8_t byte, const struct tn_format *f)
{
	if (f->codec == TN_CODEC_mxfp4)
		return e8m0_decode(byte);
	float scale = tn_f32_from_f8_e4m3(byte);
	return f->has_global_scale ? (float)((double)scale * (double)f->global_scale / 2688.0) : scale;
}

void TN_ISA_NAME(tn_x86_dither_e2m1)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				     size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	unsigned char *dst = codes;
	const size_t group = (size_t)group_of(f);
	uint32_t hash = row_seed(seed, row_number), moved = 0, clamped = 0;
	for (size_t g = 0; g < cols / group; g++) {
		float s = scale_of(scales[g], f);
		for (size_t i = g * group; i < (g + 1) * group; i += 8, src += 4, dst += 4) {
			__m256 delta = _mm256_div_ps(_mm256_loadu_ps(d + i), _mm256_set1_ps(s));
			delta = s != 0 ? delta : _mm256_setzero_ps();
			__m256i code = _mm256_cvtepu8_epi32(unpack_8(src, 4, 4));
			pack_8(dst, 4, dither_8(code, delta, uniform_8(hash, i), &moved, &clamped), 4);
		}
	}
	counts->moved += moved;
	counts->clamped += clamped;
}
