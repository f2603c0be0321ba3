/* SPDX-License-Identifier: Apache-2.0 */
/* Affine codes: fitting and moving them. codec_affine.c says what is computed. */
#include "kernels/x86/codec_x86.h"

enum { LARGEST_GROUP = 128 };

/* ---- encoding -------------------------------------------------------------------------------------------- */

/* Groups whose grids are made at once: a vector of each number. */
enum { GRIDS = 8 };
struct grids {
	float scale[GRIDS], bias[GRIDS];
};

TN_INLINE float lowest(__m256 v)
{
	__m128 a = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	a = _mm_min_ps(a, _mm_movehl_ps(a, a));
	return _mm_cvtss_f32(_mm_min_ss(a, _mm_movehdup_ps(a)));
}

TN_INLINE float highest(__m256 v)
{
	__m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	a = _mm_max_ps(a, _mm_movehl_ps(a, a));
	return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* The minimum and maximum instructions take their second operand when the first is NaN: it is passed over. */
TN_INLINE void range_of(const float *w, int group, float *lo, float *hi)
{
	__m256 least = _mm256_set1_ps(INFINITY), most = _mm256_set1_ps(-INFINITY);
	for (int i = 0; i < group; i += 8) {
		least = _mm256_min_ps(_mm256_loadu_ps(w + i), least);
		most = _mm256_max_ps(_mm256_loadu_ps(w + i), most);
	}
	*lo = lowest(least);
	*hi = highest(most);
}

TN_INLINE struct grids grids_of(const float *w, int group, size_t count, float top)
{
	struct grids grids;
	float lows[GRIDS] = { 0 }, highs[GRIDS] = { 0 };
	const __m256 sign = _mm256_set1_ps(-0.0f), smallest = _mm256_set1_ps(1e-7f);
	for (size_t g = 0; g < count; g++)
		range_of(w + g * (size_t)group, group, &lows[g], &highs[g]);
	__m256 lo = _mm256_loadu_ps(lows), hi = _mm256_loadu_ps(highs);
	__m256 step = _mm256_div_ps(_mm256_sub_ps(hi, lo), _mm256_set1_ps(top));
	step = _mm256_blendv_ps(step, smallest, _mm256_cmp_ps(step, smallest, _CMP_LT_OQ));
	__m256 low_end = _mm256_cmp_ps(_mm256_andnot_ps(sign, lo), _mm256_andnot_ps(sign, hi), _CMP_GT_OQ);
	__m256 scale = _mm256_blendv_ps(_mm256_xor_ps(step, sign), step, low_end), edge = _mm256_blendv_ps(hi, lo, low_end);
	__m256 zero_code = _mm256_round_ps(_mm256_div_ps(edge, scale), _MM_FROUND_CUR_DIRECTION);
	__m256 none = _mm256_cmp_ps(zero_code, _mm256_setzero_ps(), _CMP_EQ_OQ);
	_mm256_storeu_ps(grids.scale, _mm256_blendv_ps(_mm256_div_ps(edge, zero_code), scale, none));
	_mm256_storeu_ps(grids.bias, _mm256_andnot_ps(none, edge));
	return grids;
}

TN_INLINE void encode_groups(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols, int bits,
			     tn_dtype dtype)
{
	unsigned char *dst = row->part[TN_PART_WEIGHT];
	const float top = (float)((1 << bits) - 1);
	size_t groups = cols / f->group, left = cols / 8 * (size_t)bits;
	for (size_t first = 0; first < groups; first += GRIDS) {
		size_t count = groups - first < GRIDS ? groups - first : GRIDS;
		struct grids grids = grids_of(src, f->group, count, top);
		for (size_t g = 0; g < count; g++) {
			__m256 scale = _mm256_set1_ps(grids.scale[g]), bias = _mm256_set1_ps(grids.bias[g]);
			for (int i = 0; i < f->group; i += 8, src += 8, dst += bits, left -= (size_t)bits) {
				__m256 x = _mm256_div_ps(_mm256_sub_ps(_mm256_loadu_ps(src), bias), scale);
				x = _mm256_min_ps(_mm256_max_ps(x, _mm256_setzero_ps()), _mm256_set1_ps(top));
				pack_8(dst, left, _mm256_cvtps_epi32(x), bits);
			}
			store_as(row->part[TN_PART_SCALES], first + g, grids.scale[g], dtype);
			store_as(row->part[TN_PART_BIASES], first + g, grids.bias[g], dtype);
		}
	}
}

TN_INLINE void encode_bits(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols, int bits)
{
	if (f->dtype == TN_F32)
		encode_groups(row, src, f, cols, bits, TN_F32);
	else if (f->dtype == TN_F16)
		encode_groups(row, src, f, cols, bits, TN_F16);
	else
		encode_groups(row, src, f, cols, bits, TN_BF16);
}

void TN_ISA_NAME(tn_x86_encode_affine)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	int bits = f->flavour == TN_ENCODE_CPU ? f->bits : 0;
	switch (bits) {
	case 2: encode_bits(row, src, f, cols, 2); break;
	case 3: encode_bits(row, src, f, cols, 3); break;
	case 4: encode_bits(row, src, f, cols, 4); break;
	case 5: encode_bits(row, src, f, cols, 5); break;
	case 6: encode_bits(row, src, f, cols, 6); break;
	case 8: encode_bits(row, src, f, cols, 8); break;
	default: TN_ISA_NAME(tn_plain_codec)(TN_CODEC_affine)->encode(row, src, f, cols); break;
	}
}

/* ---- moving codes ---------------------------------------------------------------------------------------- */

TN_INLINE void dither_groups(unsigned char *dst, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
			     int bits, uint32_t row_hash, struct tn_dither_counts *counts)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	const __m256 top = _mm256_set1_ps((float)((1 << bits) - 1)), zero = _mm256_setzero_ps();
	uint64_t moved = 0, clamped = 0;
	for (size_t i = 0, left = cols / 8 * (size_t)bits; i < cols; i += 8, src += bits, dst += bits, left -= (size_t)bits) {
		float s = load_as(row->part[TN_PART_SCALES], i / f->group, f->dtype);
		__m256 old = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(unpack_8(src, left, bits)));
		__m256 x = _mm256_div_ps(_mm256_loadu_ps(d + i), _mm256_set1_ps(s));
		x = _mm256_floor_ps(_mm256_add_ps(x, uniform_8(row_hash, i)));
		/* no number, or no scale: nothing moves */
		x = s != 0 ? _mm256_and_ps(x, _mm256_cmp_ps(x, x, _CMP_ORD_Q)) : zero;
		x = _mm256_add_ps(old, x);
		__m256 kept = _mm256_min_ps(_mm256_max_ps(x, zero), top);
		moved += count_8(_mm256_cmp_ps(kept, old, _CMP_NEQ_UQ));
		clamped += count_8(_mm256_cmp_ps(kept, x, _CMP_NEQ_UQ));
		pack_8(dst, left, _mm256_cvtps_epi32(kept), bits);
	}
	counts->moved += moved;
	counts->clamped += clamped;
}

void TN_ISA_NAME(tn_x86_dither_affine)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				       size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	uint32_t hash = row_seed(seed, row_number);
	switch (f->bits) {
	case 1: dither_groups(codes, row, d, f, cols, 1, hash, counts); break;
	case 2: dither_groups(codes, row, d, f, cols, 2, hash, counts); break;
	case 3: dither_groups(codes, row, d, f, cols, 3, hash, counts); break;
	case 4:
	case 8: TN_ISA_NAME(tn_x86_dither_pairs)(codes, row, d, f, cols, hash, counts); break;
	case 5: dither_groups(codes, row, d, f, cols, 5, hash, counts); break;
	default: dither_groups(codes, row, d, f, cols, 6, hash, counts); break;
	}
}
