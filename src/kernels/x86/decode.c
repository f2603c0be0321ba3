/* SPDX-License-Identifier: Apache-2.0 */
/* Decoding: affine codes 16 at a time, E2M1 codes in e2m1_x86.c; the plain decoders do the rest. The same bits: product and sum
 * are fused for F32 alone, as there. */
#include "kernels/x86/lanes.h"

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

/* As MLX does it: product and sum rounded to the dtype, one after the other. */
TN_INLINE floats like_mlx_floats(floats codes, float scale, float bias, tn_dtype dtype)
{
	floats product = round_floats(V(mul_ps)(codes, V(set1_ps)(scale)), dtype);
	return round_floats(V(add_ps)(product, V(set1_ps)(bias)), dtype);
}

TN_INLINE void decode_16_like_mlx(float *dst, __m128i codes, float scale, float bias, tn_dtype dtype)
{
	TN_UNROLL(2)
	for (int i = 0; i < 16; i += FLOATS, codes = _mm_srli_si128(codes, 8)) {
#if defined(__AVX512BW__)
		floats x = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(codes));
#else
		floats x = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(codes));
#endif
		V(storeu_ps)(dst + i, like_mlx_floats(x, scale, bias, dtype));
	}
}

#if defined(__AVX512BW__)
TN_INLINE void decode_group_4(float *dst, const unsigned char *src, size_t group, float scale, float bias, tn_dtype dtype,
			      int like_mlx)
{
	floats table = like_mlx ? like_mlx_floats(ascending_floats(), scale, bias, dtype) : values_of_nibbles(scale, bias, dtype);
	for (size_t i = 0; i < group; i += 16, src += 8)
		_mm512_storeu_ps(dst + i, _mm512_permutexvar_ps(spread_nibbles(src), table));
}
#endif

TN_INLINE void decode_affine_as(float *dst, const struct tn_row *row, size_t group, size_t cols, const int bits, tn_dtype dtype,
				int like_mlx)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	size_t left = cols / 8 * (size_t)bits;
	for (size_t g = 0; g < cols / group; g++) {
		float scale = load_as(row->part[TN_PART_SCALES], g, dtype), bias = load_as(row->part[TN_PART_BIASES], g, dtype);
#if defined(__AVX512BW__)
		if (bits == 4) {
			decode_group_4(dst, src, group, scale, bias, dtype, like_mlx);
			src += group / 2;
			dst += group;
			continue;
		}
#endif
		for (size_t i = 0; i < group; i += 16, src += 2 * bits, dst += 16, left -= 2 * (size_t)bits) {
			if (like_mlx)
				decode_16_like_mlx(dst, unpack_16(src, left, bits), scale, bias, dtype);
			else
				decode_16(dst, unpack_16(src, left, bits), scale, bias, dtype == TN_F32);
		}
	}
}

TN_INLINE void decode_affine(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols, const int bits)
{
	if (f->dtype == TN_F32)
		decode_affine_as(dst, row, f->group, cols, bits, TN_F32, 0);
	else if (f->dtype == TN_F16)
		decode_affine_as(dst, row, f->group, cols, bits, TN_F16, 0);
	else
		decode_affine_as(dst, row, f->group, cols, bits, TN_BF16, 0);
}

TN_INLINE void decode_like_mlx(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols, const int bits)
{
	if (f->dtype == TN_F32)
		decode_affine_as(dst, row, f->group, cols, bits, TN_F32, 1);
	else if (f->dtype == TN_F16)
		decode_affine_as(dst, row, f->group, cols, bits, TN_F16, 1);
	else
		decode_affine_as(dst, row, f->group, cols, bits, TN_BF16, 1);
}

void TN_ISA_NAME(tn_x86_decode)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	int bits = f->codec == TN_CODEC_affine ? f->bits : 0;
	if (bits && f->like_mlx) {
		if (bits == 4)
			decode_like_mlx(dst, row, f, cols, 4);
		else
			decode_like_mlx(dst, row, f, cols, bits);
		return;
	}
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
		else if (f->codec == TN_CODEC_table)
			TN_ISA_NAME(tn_x86_decode_table)(dst, row, f, cols);
		else
			TN_ISA_NAME(tn_plain_codec)(f->codec)->decode(dst, row, f, cols);
	}
}
