/* SPDX-License-Identifier: Apache-2.0 */
/* Blocks of values to the nearest of sixteen levels. */
#include "kernels/isa_build.h"
#include "kernels/quant.h"

/* The largest magnitude of a block; NaN is passed over. As integers the bits of magnitudes have their order. */
TN_INLINE float largest_of(const float *values)
{
	int32_t top = 0;
	for (int i = 0; i < TN_LEVEL_BLOCK; i++) {
		int32_t bits = (int32_t)(tn_f32_bits(values[i]) & 0x7FFFFFFFu);
		bits = bits > 0x7F800000 ? 0 : bits;
		top = bits > top ? bits : top;
	}
	return tn_f32_from_bits((uint32_t)top);
}

void TN_ISA_NAME(tn_level_codes)(uint8_t *codes, float *largest, const float *values, size_t blocks, const float bounds[15]);
void TN_ISA_NAME(tn_level_codes)(uint8_t *codes, float *largest, const float *values, size_t blocks, const float bounds[15])
{
	const float least = 1e-38f;
	for (size_t b = 0; b < blocks; b++, values += TN_LEVEL_BLOCK, codes += TN_LEVEL_BLOCK / 2) {
		int32_t code[TN_LEVEL_BLOCK];
		float top = largest_of(values), factor = 1.0f / (top > least ? top : least);
		largest[b] = top;
		for (int i = 0; i < TN_LEVEL_BLOCK; i++) {
			float x = values[i] * factor;
			int32_t below = 0;
			TN_UNROLL(15)
			for (int k = 0; k < 15; k++)
				below += bounds[k] < x;
			code[i] = below;
		}
		for (int i = 0; i < TN_LEVEL_BLOCK / 2; i++)
			codes[i] = (uint8_t)(code[2 * i] << 4 | code[2 * i + 1]);
	}
}
