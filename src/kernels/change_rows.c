/* SPDX-License-Identifier: Apache-2.0 */
/* What became of rows that were changed on a grid: how far they are from what was wanted, and how far they went in given
 * directions. kernels.h says in which order everything is added. */
#include "kernels/change_runs.h"
#include "kernels/isa_build.h"

/* ---- sums that are written ------------------------------------------------------------------------------- */

void TN_ISA_NAME(tn_round_sums)(uint16_t *dst, const float *w, const float *d, tn_dtype product, tn_dtype dtype, size_t n);

TN_INLINE void round_sums(uint16_t *dst, const float *w, const float *d, tn_dtype product, tn_dtype dtype, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		float sum = w[i] + round_to(round_to(d[i], product), dtype);
		dst[i] = dtype == TN_BF16 ? tn_bf16_from_f32(sum) : tn_f16_from_f32(sum);
	}
}

void TN_ISA_NAME(tn_round_sums)(uint16_t *dst, const float *w, const float *d, tn_dtype product, tn_dtype dtype, size_t n)
{
	tn_dtype first = product == dtype ? TN_F32 : product; /* rounded twice to the same is rounded once */
	if (dtype == TN_F16 && first == TN_F32)
		round_sums(dst, w, d, TN_F32, TN_F16, n);
	else if (dtype == TN_F16)
		round_sums(dst, w, d, TN_BF16, TN_F16, n);
	else if (first == TN_F32)
		round_sums(dst, w, d, TN_F32, TN_BF16, n);
	else
		round_sums(dst, w, d, TN_F16, TN_BF16, n);
}

/* ---- sums that are measured ------------------------------------------------------------------------------ */

enum { LANES = TN_DIRECTION_COLS, SUMS = 3, HALF = TN_DIRECTION_COLS / 2 };

void TN_ISA_NAME(tn_change_sums)(struct tn_change_sums *sums, uint16_t *halves, const float *before, const float *after,
				 const float *wanted, size_t n);
void TN_ISA_NAME(tn_project_rows)(float *dst, const uint16_t *directions, size_t rank, size_t cols, const uint16_t *halves,
				  size_t stride, size_t rows);

TN_INLINE void add_block(float sum[SUMS][LANES], uint16_t *halves, const float *before, const float *after, const float *wanted)
{
	for (int l = 0; l < LANES; l++) {
		float change = after[l] - before[l], error = change - wanted[l];
		uint32_t u = tn_f32_bits(change), rounded = (u + 0x7FFFu + (u >> 16 & 1u)) >> 16;
		sum[0][l] += wanted[l] * wanted[l];
		sum[1][l] += error * error;
		sum[2][l] += error * wanted[l];
		halves[l] = (uint16_t)(u & 0x7F800000u ? rounded : u >> 16 & 0x8000u);
	}
}

static double tree(float sum[LANES])
{
	for (int width = LANES / 2; width; width /= 2)
		for (int l = 0; l < width; l++)
			sum[l] += sum[l + width];
	return (double)sum[0];
}

static void add_run(struct tn_change_sums *sums, const struct change_row *run, size_t n, const struct change_row *rest)
{
	float sum[SUMS][LANES] = { { 0 } };
	for (size_t i = 0; i < n; i += LANES)
		add_block(sum, run->halves + i, run->before + i, run->after + i, run->wanted + i);
	if (rest)
		add_block(sum, rest->halves, rest->before, rest->after, rest->wanted);
	sums->wanted2 += tree(sum[0]);
	sums->error2 += tree(sum[1]);
	sums->both += tree(sum[2]);
}

void TN_ISA_NAME(tn_change_sums)(struct tn_change_sums *sums, uint16_t *halves, const float *before, const float *after,
				 const float *wanted, size_t n)
{
	add_runs(sums, &(struct change_row){ halves, before, after, wanted }, n, add_run);
}

/* ---- directions ------------------------------------------------------------------------------------------ */

/* One row and one direction; a block of it is `block` elements behind the one before. */
static float project(const uint16_t *direction, size_t block, const uint16_t *halves, size_t blocks)
{
	float sum[HALF] = { 0 };
	for (size_t i = 0; i < blocks; i++) {
		uint32_t u[HALF], x[HALF]; /* an odd column over an even one */
		memcpy(u, direction + i * block, sizeof u);
		memcpy(x, halves + i * TN_DIRECTION_COLS, sizeof x);
		for (int l = 0; l < HALF; l++) {
			sum[l] += tn_f32_from_bits(u[l] & 0xFFFF0000u) * tn_f32_from_bits(x[l] & 0xFFFF0000u);
			sum[l] += tn_f32_from_bits(u[l] << 16) * tn_f32_from_bits(x[l] << 16);
		}
	}
	for (int width = HALF / 2; width; width /= 2)
		for (int l = 0; l < width; l++)
			sum[l] += sum[l + width];
	return sum[0];
}

void TN_ISA_NAME(tn_project_rows)(float *dst, const uint16_t *directions, size_t rank, size_t cols, const uint16_t *halves,
				  size_t stride, size_t rows)
{
	size_t blocks = (cols + TN_DIRECTION_COLS - 1) / TN_DIRECTION_COLS;
	for (size_t i = 0; i < rows; i++)
		for (size_t k = 0; k < rank; k++)
			dst[i * rank + k] = project(directions + k * TN_DIRECTION_COLS, rank * TN_DIRECTION_COLS,
						    halves + i * stride, blocks);
}
