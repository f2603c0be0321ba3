/* SPDX-License-Identifier: Apache-2.0 */
/* mxfp8 to float32. The bits of E4M3 are those of an F16 that is 2^8 times smaller, subnormal ones too, and there is an
 * instruction for that. */
#include "kernels/x86/lanes.h"

enum { GROUP = 32 };

TN_INLINE void decode_group(float *dst, const unsigned char *src, float scale)
{
	for (int i = 0; i < GROUP; i += 16) {
		__m256i h = halves_of_e4m3(src + i);
#if defined(__AVX512F__)
		_mm512_storeu_ps(dst + i, _mm512_mul_ps(_mm512_cvtph_ps(h), _mm512_set1_ps(scale)));
#else
		const __m256 s = _mm256_set1_ps(scale);
		_mm256_storeu_ps(dst + i, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_castsi256_si128(h)), s));
		_mm256_storeu_ps(dst + i + 8, _mm256_mul_ps(_mm256_cvtph_ps(_mm256_extracti128_si256(h, 1)), s));
#endif
	}
}

/* Products are float32, and BF16 numbers too unless they are tiny. NaN, scales that would overflow by 2^8, and whatever is rounded,
 * the plain way. */
void TN_ISA_NAME(tn_x86_decode_mxfp8)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	const struct tn_codec *plain = TN_ISA_NAME(tn_plain_codec)(TN_CODEC_mxfp8);
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	const unsigned least = f->like_mlx && f->dtype == TN_BF16 ? 16 : 0;
	unsigned odd = 0;
	if (f->like_mlx && f->dtype == TN_F16) {
		plain->decode(dst, row, f, cols);
		return;
	}
	for (size_t g = 0; g < cols / GROUP; g++) {
		decode_group(dst + g * GROUP, src + g * GROUP, e8m0_decode(scales[g]) * 256.0f);
		odd |= (unsigned)has_e4m3_nan(src + g * GROUP, GROUP) | (unsigned)(scales[g] < least) | (unsigned)(scales[g] > 240);
	}
	for (size_t g = 0; odd && g < cols / GROUP; g++) {
		struct tn_row one = { { src + g * GROUP, scales + g } };
		if (has_e4m3_nan(src + g * GROUP, GROUP) || scales[g] < least || scales[g] > 240)
			plain->decode(dst + g * GROUP, &one, f, GROUP);
	}
}
