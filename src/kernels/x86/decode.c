/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding: affine codes 16 at a time, E2M1 codes in e2m1_x86.c; the plain decoders do the rest. The same bits: product and sum
 * are fused for F32 alone, as there. */
#include "kernels/x86/codec_x86.h"

#define CODEC(name) extern const struct tn_codec TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC

const struct tn_codec *TN_ISA_NAME(tn_plain_codec)(enum tn_codec_id id)
{
	static const struct tn_codec *const plain[TN_CODEC_COUNT] = {
#define CODEC(name) [TN_CODEC_##name] = &TN_ISA_NAME(tn_codec_##name),
#include "kernels/codecs.def"
#undef CODEC
	};
	return plain[id];
}

/* 16 codes as bytes in order. */
TN_INLINE __m128i codes_of(const unsigned char *src, size_t left, const int bits)
{
	if (bits == 8)
		return _mm_loadu_si128((const __m128i *)(const void *)src);
	if (bits != 4)
		return _mm_unpacklo_epi64(unpack_8(src, left, bits), unpack_8(src + bits, left - (size_t)bits, bits));
	__m128i v = _mm_loadl_epi64((const __m128i *)(const void *)src), low = _mm_set1_epi8(15);
	return _mm_unpacklo_epi8(_mm_and_si128(v, low), _mm_and_si128(_mm_srli_epi16(v, 4), low));
}

TN_INLINE void decode_16(float *dst, __m128i codes, float scale, float bias, int fused)
{
#if defined(__AVX512F__)
	__m512 s = _mm512_set1_ps(scale), b = _mm512_set1_ps(bias), x = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
	_mm512_storeu_ps(dst, fused ? _mm512_fmadd_ps(x, s, b) : _mm512_add_ps(_mm512_mul_ps(x, s), b));
#else
	__m256 s = _mm256_set1_ps(scale), b = _mm256_set1_ps(bias);
	__m256 low = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes));
	__m256 high = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(codes, 8)));
	_mm256_storeu_ps(dst, fused ? _mm256_fmadd_ps(low, s, b) : _mm256_add_ps(_mm256_mul_ps(low, s), b));
	_mm256_storeu_ps(dst + 8, fused ? _mm256_fmadd_ps(high, s, b) : _mm256_add_ps(_mm256_mul_ps(high, s), b));
#endif
}

TN_INLINE void decode_affine_as(float *dst, const struct tn_row *row, size_t group, size_t cols, const int bits, tn_dtype dtype)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	size_t left = cols / 8 * (size_t)bits;
	for (size_t g = 0; g < cols / group; g++) {
		float scale = load_as(row->part[TN_PART_SCALES], g, dtype), bias = load_as(row->part[TN_PART_BIASES], g, dtype);
		for (size_t i = 0; i < group; i += 16, src += 2 * bits, dst += 16, left -= 2 * (size_t)bits)
			decode_16(dst, codes_of(src, left, bits), scale, bias, dtype == TN_F32);
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
	int bits = f->codec == TN_CODEC_affine && !f->like_mlx ? f->bits : 0;
	switch (bits) {
	case 1: decode_affine(dst, row, f, cols, 1); break;
	case 2: decode_affine(dst, row, f, cols, 2); break;
	case 3: decode_affine(dst, row, f, cols, 3); break;
	case 4: decode_affine(dst, row, f, cols, 4); break;
	case 5: decode_affine(dst, row, f, cols, 5); break;
	case 6: decode_affine(dst, row, f, cols, 6); break;
	case 8: decode_affine(dst, row, f, cols, 8); break;
	default:
		if (f->codec == TN_CODEC_mxfp4 || f->codec == TN_CODEC_nvfp4)
			TN_ISA_NAME(tn_x86_decode_e2m1)(dst, row, f, cols);
		else
			TN_ISA_NAME(tn_plain_codec)(f->codec)->decode(dst, row, f, cols);
	}
}
