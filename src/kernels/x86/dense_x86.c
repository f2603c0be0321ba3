/* SPDX-License-Identifier: Apache-2.0 */
/* F16 to and from float32, 8 at a time, with the bits of base/half.h: the instructions differ from it in NaN alone. Other dtypes
 * are left to the plain loops, of which compilers make vectors. */
#include "kernels/x86/codec_x86.h"

enum { HALVES = 8 };

/* The instruction makes signalling NaN quiet; half.h keeps it. */
TN_INLINE int has_nan(__m128i h)
{
	__m128i magnitude = _mm_and_si128(h, _mm_set1_epi16(0x7FFF));
	return _mm_movemask_epi8(_mm_cmpgt_epi16(magnitude, _mm_set1_epi16(0x7C00))) != 0;
}

static void decode_f16(float *dst, const unsigned char *src, size_t n)
{
	size_t i = 0;
	for (; i + HALVES <= n; i += HALVES) {
		__m128i h = _mm_loadu_si128((const __m128i *)(const void *)(src + 2 * i));
		if (!has_nan(h))
			_mm256_storeu_ps(dst + i, _mm256_cvtph_ps(h));
		else
			for (size_t l = i; l < i + HALVES; l++)
				dst[l] = load_as(src, l, TN_F16);
	}
	for (; i < n; i++)
		dst[i] = load_as(src, i, TN_F16);
}

/* NaN loses what it says: the sign and 0x7E00. */
static void encode_f16(unsigned char *dst, const float *src, size_t n)
{
	size_t i = 0;
	for (; i + HALVES <= n; i += HALVES) {
		__m256 v = _mm256_loadu_ps(src + i);
		if (_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) == 0)
			_mm_storeu_si128((__m128i *)(void *)(dst + 2 * i), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
		else
			for (size_t l = i; l < i + HALVES; l++)
				store_as(dst, l, src[l], TN_F16);
	}
	for (; i < n; i++)
		store_as(dst, i, src[i], TN_F16);
}

void TN_ISA_NAME(tn_x86_decode_dense)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	if (f->dtype == TN_F16)
		decode_f16(dst, row->part[TN_PART_WEIGHT], cols);
	else
		TN_ISA_NAME(tn_plain_codec)(TN_CODEC_dense)->decode(dst, row, f, cols);
}

void TN_ISA_NAME(tn_x86_encode_dense)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	if (f->dtype == TN_F16)
		encode_f16(row->part[TN_PART_WEIGHT], src, cols);
	else
		TN_ISA_NAME(tn_plain_codec)(TN_CODEC_dense)->encode(row, src, f, cols);
}
