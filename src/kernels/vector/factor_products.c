/* SPDX-License-Identifier: Apache-2.0 */
/* Both factors of adapters, by vectors. */
#include "kernels/vector/dots.h"
#include "kernels/vector/vector.h"

void TN_ISA_NAME(tn_vector_lora_shrink)(float *t, size_t t_stride, const void *a, tn_dtype dtype, size_t rank, size_t cols,
					const float *x, size_t x_stride, size_t m)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct tn_rows rows = { { { a } }, { cols * (dtype == TN_F32 ? 4 : 2) } };
	struct tn_prepared head = { x, x_stride };
	struct tn_product p = { &format, cols, m, TN_PRECISION_EXACT };
	float scratch[TN_DOTS_SCRATCH];
	TN_ISA_NAME(tn_dots_rows)(t, t_stride, &p, &head, &rows, rank, scratch);
}

/* y[r] += scale * (row r of B, t), for `n` rows of `rank`. */
TN_INLINE void expand_rows(float *y, const unsigned char *b, size_t rank, const int n, const float *t, float scale,
			   tn_dtype dtype)
{
	size_t j = 0, size = dtype == TN_F32 ? 4 : 2;
	floats sum[8];
	TN_UNROLL(8)
	for (int r = 0; r < n; r++)
		sum[r] = ZERO();
	for (; j + LANES <= rank; j += LANES) {
		floats x = LOAD(t + j);
		TN_UNROLL(8)
		for (int r = 0; r < n; r++)
			sum[r] = FMA(load_floats(b + (size_t)r * rank * size, j, dtype), x, sum[r]);
	}
	float rest[8] = { 0 };
	for (; j < rank; j++)
		for (int r = 0; r < n; r++)
			rest[r] += load_as(b + (size_t)r * rank * size, j, dtype) * t[j];
	float all[8];
	if (n == 8) {
		store_sums(all, sum);
	} else {
		TN_UNROLL(8)
		for (int r = 0; r < n; r++)
			all[r] = SUM(sum[r]);
	}
	for (int r = 0; r < n; r++)
		y[r] += scale * (all[r] + rest[r]);
}

TN_INLINE void expand_as(float *y, size_t y_stride, const unsigned char *b, size_t rank, size_t rows, const float *t,
			 size_t t_stride, size_t m, float scale, tn_dtype dtype)
{
	size_t i = 0, stride = rank * (dtype == TN_F32 ? 4 : 2);
	for (; i + 8 <= rows; i += 8)
		for (size_t k = 0; k < m; k++)
			expand_rows(y + k * y_stride + i, b + i * stride, rank, 8, t + k * t_stride, scale, dtype);
	for (; i < rows; i++)
		for (size_t k = 0; k < m; k++)
			expand_rows(y + k * y_stride + i, b + i * stride, rank, 1, t + k * t_stride, scale, dtype);
}

void TN_ISA_NAME(tn_vector_lora_expand)(float *y, size_t y_stride, const void *b, tn_dtype dtype, size_t rank, size_t rows,
					const float *t, size_t t_stride, size_t m, float scale)
{
	if (dtype == TN_F32)
		expand_as(y, y_stride, b, rank, rows, t, t_stride, m, scale, TN_F32);
	else if (dtype == TN_F16)
		expand_as(y, y_stride, b, rank, rows, t, t_stride, m, scale, TN_F16);
	else
		expand_as(y, y_stride, b, rank, rows, t, t_stride, m, scale, TN_BF16);
}
