/* Codecs by hand: vectors of 8 floats, for every x86-64 instruction set. All give the bits of the plain ones. */
#ifndef TN_CODEC_X86_H
#define TN_CODEC_X86_H

#include "kernels/dither.h"
#include "kernels/x86/override.h"

/* What the plain codecs do is asked of them. */
const struct tn_codec *TN_ISA_NAME(tn_plain_codec)(enum tn_codec_id id);
/* The codecs with what this folder replaces in them. */
const struct tn_codec *TN_ISA_NAME(tn_x86_codec)(enum tn_codec_id id);

void TN_ISA_NAME(tn_x86_encode_affine)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols);
void TN_ISA_NAME(tn_x86_dither_affine)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				       size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts);
/* Of codes of 4 and 8 bits. */
void TN_ISA_NAME(tn_x86_dither_pairs)(unsigned char *dst, const struct tn_row *row, const float *d, const struct tn_format *f,
				      size_t cols, uint32_t row_hash, struct tn_dither_counts *counts);
int TN_ISA_NAME(tn_x86_refit_affine)(struct tn_refit *refit, const struct tn_row_out *dst, const struct tn_row *src,
				     const struct tn_format *f, size_t cols);
int TN_ISA_NAME(tn_x86_change_sums_affine)(struct tn_change_sums *sums, uint16_t *halves, const struct tn_row *before,
					   const struct tn_row *after, const struct tn_format *f, const float *wanted, size_t cols);
void TN_ISA_NAME(tn_x86_encode_e2m1)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols);
void TN_ISA_NAME(tn_x86_dither_e2m1)(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f,
				     size_t cols, uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts);
void TN_ISA_NAME(tn_x86_decode_e2m1)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols);
void TN_ISA_NAME(tn_x86_decode_mxfp8)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols);
void TN_ISA_NAME(tn_x86_decode_table)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols);

/* A mask with `bits` low bits in each byte. */
TN_INLINE uint64_t byte_mask(int bits)
{
	return 0x0101010101010101u * ((1u << bits) - 1);
}

/* 8 codes of a bit stream as bytes. `left` bytes stand from src on: with 8 of them one load does. */
TN_INLINE __m128i unpack_8(const unsigned char *src, size_t left, int bits)
{
	uint64_t stream = 0;
	if (bits == 4)
		memcpy(&stream, src, 4);
	else if (left >= 8)
		memcpy(&stream, src, 8);
	else
		memcpy(&stream, src, (size_t)bits);
	return _mm_cvtsi64_si128((long long)_pdep_u64(stream, byte_mask(bits)));
}

/* 16 codes as bytes in order. */
TN_INLINE __m128i unpack_16(const unsigned char *src, size_t left, const int bits)
{
	if (bits == 8)
		return _mm_loadu_si128((const __m128i *)(const void *)src);
	if (bits != 4)
		return _mm_unpacklo_epi64(unpack_8(src, left, bits), unpack_8(src + bits, left - (size_t)bits, bits));
	__m128i v = _mm_loadl_epi64((const __m128i *)(const void *)src), low = _mm_set1_epi8(15);
	return _mm_unpacklo_epi8(_mm_and_si128(v, low), _mm_and_si128(_mm_srli_epi16(v, 4), low));
}

/* The same back; what is written beyond the codes is written again with the next ones. */
TN_INLINE void pack_8(unsigned char *dst, size_t left, __m256i codes, int bits)
{
	__m128i words = _mm_packus_epi32(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1));
	uint64_t bytes = (uint64_t)_mm_cvtsi128_si64(_mm_packus_epi16(words, words));
	bytes = _pext_u64(bytes, byte_mask(bits));
	if (bits != 4 && left >= 8)
		memcpy(dst, &bytes, 8);
	else
		memcpy(dst, &bytes, (size_t)bits);
}

/* What uniform() makes of row hashes and columns that are put together: mix32(), and its upper bits as a fraction. */
#define TN_DEFINE_MIX(name, ints, floats, width, bits)                                                                   \
	TN_INLINE floats name(ints x)                                                                                    \
	{                                                                                                                \
		x = width##_xor_si##bits(x, width##_srli_epi32(x, 16));                                                  \
		x = width##_mullo_epi32(x, width##_set1_epi32(0x7FEB352D));                                              \
		x = width##_xor_si##bits(x, width##_srli_epi32(x, 15));                                                  \
		x = width##_mullo_epi32(x, width##_set1_epi32((int)0x846CA68Bu));                                        \
		x = width##_xor_si##bits(x, width##_srli_epi32(x, 16));                                                  \
		return width##_mul_ps(width##_cvtepi32_ps(width##_srli_epi32(x, 8)), width##_set1_ps(0x1p-24f));         \
	}
TN_DEFINE_MIX(mix_8, __m256i, __m256, _mm256, 256)
#if defined(__AVX512F__)
TN_DEFINE_MIX(mix_16, __m512i, __m512, _mm512, 512)
#endif

/* uniform() of columns `first` to first + 8. */
TN_INLINE __m256 uniform_8(uint32_t row_hash, size_t first)
{
	__m256i x = _mm256_add_epi32(_mm256_set1_epi32((int)(uint32_t)first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
	x = _mm256_add_epi32(_mm256_mullo_epi32(x, _mm256_set1_epi32((int)TN_HASH_STEP)), _mm256_set1_epi32((int)row_hash));
	return mix_8(x);
}

#if defined(__AVX512F__)
/* 16 codes of 4 bits in the lowest bits of the lanes, whatever is above them; values that are looked up by such. */
TN_INLINE __m512i spread_nibbles(const unsigned char *src)
{
	const __m512i halves = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
	const __m512i shifts = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 0, 4, 8, 12, 16, 20, 24, 28);
	__m512i codes = _mm512_castsi128_si512(_mm_loadl_epi64((const __m128i *)(const void *)src));
	return _mm512_srlv_epi32(_mm512_permutexvar_epi32(halves, codes), shifts);
}

/* What the 16 codes of a group mean. */
TN_INLINE __m512 values_of_nibbles(float scale, float bias, tn_dtype dtype)
{
	const __m512 codes = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	__m512 s = _mm512_set1_ps(scale), b = _mm512_set1_ps(bias);
	return dtype == TN_F32 ? _mm512_fmadd_ps(codes, s, b) : _mm512_add_ps(_mm512_mul_ps(codes, s), b);
}
#endif

/* How many lanes of a mask are set. */
TN_INLINE uint32_t count_8(__m256 mask)
{
	return (uint32_t)__builtin_popcount((unsigned)_mm256_movemask_ps(mask));
}

TN_INLINE __m256i as_ints(__m256 v)
{
	return _mm256_castps_si256(v);
}

/* Rounded to the dtype; of NaN nothing is promised but that no comparison holds or that it is 0. */
TN_INLINE __m256 round_8(__m256 v, tn_dtype dtype)
{
	if (dtype == TN_F16)
		return _mm256_cvtph_ps(_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
	if (dtype == TN_F32)
		return v;
	__m256i u = as_ints(v), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
	u = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
	return _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32((int)0xFFFF0000u)));
}

#endif
