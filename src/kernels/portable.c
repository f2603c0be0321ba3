/* SPDX-License-Identifier: Apache-2.0 */
/* Plain C, compiled once for each instruction set; every sum has a fixed order, so the compiler may vectorise across
 * columns and the bits stay the same. */
#include "kernels/isa_build.h"
#include "kernels/kernels.h"

#include <string.h>

enum { LANES = 64 };

static void lowrank_f32(float *dst, const float *a, const float *b, size_t rank, size_t cols)
{
	size_t j = 0;
	for (; j + LANES <= cols; j += LANES) {
		float sum[LANES] = { 0 };
		for (size_t k = 0; k < rank; k++) {
			const float *row = a + k * cols + j;
			for (int l = 0; l < LANES; l++)
				sum[l] += b[k] * row[l];
		}
		memcpy(dst + j, sum, sizeof sum);
	}
	for (; j < cols; j++) {
		float sum = 0;
		for (size_t k = 0; k < rank; k++)
			sum += b[k] * a[k * cols + j];
		dst[j] = sum;
	}
}

static void lowrank_f64(double *dst, const float *a, const double *b, size_t rank, size_t cols)
{
	size_t j = 0;
	for (; j + LANES / 2 <= cols; j += LANES / 2) {
		double sum[LANES / 2] = { 0 };
		for (size_t k = 0; k < rank; k++) {
			const float *row = a + k * cols + j;
			for (int l = 0; l < LANES / 2; l++)
				sum[l] += b[k] * (double)row[l];
		}
		memcpy(dst + j, sum, sizeof sum);
	}
	for (; j < cols; j++) {
		double sum = 0;
		for (size_t k = 0; k < rank; k++)
			sum += b[k] * (double)a[k * cols + j];
		dst[j] = sum;
	}
}

#define CODEC(name) extern const struct tn_codec TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC
#if TN_HAS_OVERRIDES
void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k);
#endif
void TN_ISA_NAME(tn_kernels_fill)(struct tn_kernels *k);

void TN_ISA_NAME(tn_kernels_fill)(struct tn_kernels *k)
{
#define KERNEL(ret, name, args) k->name = name;
#include "kernels/kernels.def"
#undef KERNEL
#define CODEC(name) k->codec[TN_CODEC_##name] = &TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC
#if TN_HAS_OVERRIDES
	TN_ISA_NAME(tn_kernels_override)(k);
#endif
}
