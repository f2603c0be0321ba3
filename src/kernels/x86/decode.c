/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding of affine codes of 4 and 8 bits, a group of 16 at a time; the plain decoders do the rest. The same bits: where scale and
 * bias have 16 bits the product is exact, and for F32 the plain decoder fuses it too. */
#include "kernels/x86/override.h"

#define CODEC(name) extern const struct tn_codec TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC

/* 16 codes from the bytes that hold them, as bytes in order. */
TN_INLINE __m128i codes_of(const unsigned char *src, const int bits)
{
	if (bits == 8)
		return _mm_loadu_si128((const __m128i *)(const void *)src);
	__m128i v = _mm_loadl_epi64((const __m128i *)(const void *)src), low = _mm_set1_epi8(15);
	return _mm_unpacklo_epi8(_mm_and_si128(v, low), _mm_and_si128(_mm_srli_epi16(v, 4), low));
}

TN_INLINE void decode_16(float *dst, __m128i codes, float scale, float bias)
{
#if defined(__AVX512F__)
	_mm512_storeu_ps(dst, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes)), _mm512_set1_ps(scale),
					      _mm512_set1_ps(bias)));
#else
	__m256 s = _mm256_set1_ps(scale), b = _mm256_set1_ps(bias);
	_mm256_storeu_ps(dst, _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes)), s, b));
	_mm256_storeu_ps(dst + 8, _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8))), s, b));
#endif
}

TN_INLINE void decode_affine_as(float *dst, const struct tn_row *row, size_t group, size_t cols, const int bits, tn_dtype dtype)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	for (size_t g = 0; g < cols / group; g++) {
		float scale = load_as(row->part[TN_PART_SCALES], g, dtype), bias = load_as(row->part[TN_PART_BIASES], g, dtype);
		for (size_t i = 0; i < group; i += 16, src += 2 * bits, dst += 16)
			decode_16(dst, codes_of(src, bits), scale, bias);
	}
}

TN_INLINE void decode_affine(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols, const int bits)
{
	if (f->dtype == TN_F32)
		decode_affine_as(dst, row, f->group, cols, bits, TN_F32);
	else if (f->dtype == TN_F16)
		decode_affine_as(dst, row, f->group, cols, bits, TN_F16);
	else
		decode_affine_as(dst, row, f->group, cols, bits, TN_BF16);
}

void TN_ISA_NAME(tn_x86_decode)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	static const struct tn_codec *const plain[TN_CODEC_COUNT] = {
#define CODEC(name) [TN_CODEC_##name] = &TN_ISA_NAME(tn_codec_##name),
#include "kernels/codecs.def"
#undef CODEC
	};
	if (f->codec != TN_CODEC_affine || f->like_mlx || (f->bits != 4 && f->bits != 8))
		plain[f->codec]->decode(dst, row, f, cols);
	else if (f->bits == 4)
		decode_affine(dst, row, f, cols, 4);
	else
		decode_affine(dst, row, f, cols, 8);
}
