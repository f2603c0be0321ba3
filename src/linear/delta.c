/* SPDX-License-Identifier: Apache-2.0 */
#include "linear/delta.h"

#include "base/half.h"

#include <math.h>
#include <string.h>

enum { LANES = 64 };

/* Where W and the delta cancel to less than this share of the delta, the error of the float32 sum would be seen in the
 * last place of a 16-bit result. */
static const float cancelled = 0x1p-6f;

/* The same where the products of the delta cancel among themselves, and W is next to nothing: in units of the largest delta
 * of the row. On a grid W is 0 often. */
static const float vanished = 0x1p-8f;

int tn_delta_is_plain(const struct tn_delta *delta)
{
	return !delta->row_magnitude && !delta->column_magnitude && !delta->removed.rank;
}

int tn_delta_takes_rows(const struct tn_delta *delta)
{
	return !delta->column_magnitude && !delta->removed.rank;
}

/* Scratch: rank doubles for the scaled row of B, then one row of the delta as doubles. */
size_t tn_delta_scratch_bytes(size_t rank, size_t cols)
{
	return (rank + cols) * sizeof(double);
}

static const float *factor_a(const struct tn_delta *delta, size_t row)
{
	return delta->a + row / delta->group_rows * delta->rank * delta->cols;
}

double tn_delta_element(const struct tn_delta *delta, size_t row, size_t column, float w)
{
	const float *a = factor_a(delta, row), *b = delta->b + row * delta->rank;
	double sum = 0;
	for (size_t i = 0; i < delta->rank; i++)
		sum += (double)b[i] * (double)a[i * delta->cols + column];
	return (double)w + delta->scale * sum;
}

/* n <= LANES elements from column j. One in hundreds is computed again, so they are looked for a block at a time. */
static void add_block(const struct tn_delta *delta, size_t row, size_t j, size_t n, float *w, const float *d, float least)
{
	float sum[LANES];
	int again = 0;
	for (size_t l = 0; l < n; l++) {
		sum[l] = w[j + l] + d[j + l];
		again |= (fabsf(sum[l]) < fabsf(d[j + l]) * cancelled) | (fabsf(sum[l]) < least);
	}
	for (size_t l = 0; again && l < n; l++)
		if (fabsf(sum[l]) < fabsf(d[j + l]) * cancelled || fabsf(sum[l]) < least)
			sum[l] = (float)tn_delta_element(delta, row, j + l, w[j + l]);
	memcpy(w + j, sum, n * sizeof *sum);
}

/* Bits that are set somewhere, and whether all values are BF16 without being subnormal. */
static void look_at_bits(const float *values, size_t n, uint32_t *used, int *bf16)
{
	uint32_t all = 0, subnormal = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t u = tn_f32_bits(values[i]);
		all |= u;
		subnormal |= (u & 0x7FFFFFFFu) != 0 && (u & 0x7F800000u) == 0;
	}
	*used |= all;
	*bf16 &= (all & 0xFFFFu) == 0 && !subnormal;
}

enum tn_factor_width tn_delta_width(const struct tn_delta *d)
{
	uint32_t used = 0;
	int bf16 = 1;
	look_at_bits(d->a, d->rows / d->group_rows * d->rank * d->cols, &used, &bf16);
	look_at_bits(d->b, d->rows * d->rank, &used, &bf16);
	return bf16 ? TN_FACTORS_BF16 : used & 0xFFFu ? TN_FACTORS_WIDE : TN_FACTORS_SHORT;
}

int tn_delta_add_rows(const struct tn_kernels *k, const struct tn_delta *d, const struct tn_delta_rows *r, void *scratch)
{
	int bad = 0;
	for (size_t done = 0, n; done < r->count; done += n) {
		size_t row = r->first + done, left = d->group_rows - row % d->group_rows;
		n = r->count - done < left ? r->count - done : left;
		struct tn_add_product p = { .a = factor_a(d, row), .b = d->b + row * d->rank, .rank = d->rank, .cols = d->cols,
					    .rows = n, .scale = d->scale, .dtype = r->dtype, .width = d->width,
					    .row_magnitude = d->row_magnitude ? d->row_magnitude + row : NULL };
		bad |= k->add_product((unsigned char *)r->dst + done * r->dst_stride, r->dst_stride,
				      (const unsigned char *)r->src + done * r->src_stride, r->src_stride, &p, scratch);
	}
	return bad;
}

void tn_delta_product_f32(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, float *d, void *scratch)
{
	float *b = scratch;
	for (size_t i = 0; i < delta->rank; i++)
		b[i] = (float)(delta->scale * (double)delta->b[row * delta->rank + i]);
	k->lowrank_f32(d, factor_a(delta, row), b, delta->rank, delta->cols);
}

void tn_delta_edit_f32(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, float *w, void *scratch)
{
	float *d = (float *)scratch + delta->rank, top = 0;
	tn_delta_product_f32(k, delta, row, d, scratch);
	for (size_t j = 0; j < delta->cols; j++)
		top = fabsf(d[j]) > top ? fabsf(d[j]) : top;
	for (size_t j = 0; j < delta->cols; j += LANES)
		add_block(delta, row, j, delta->cols - j < LANES ? delta->cols - j : LANES, w, d, top * vanished);
}

static void remove_part(const struct tn_delta *delta, size_t row, double *dst)
{
	const double *b = delta->removed.b + row * delta->removed.rank;
	for (size_t k = 0; k < delta->removed.rank; k++) {
		const double *a = delta->removed.a + k * delta->cols;
		for (size_t j = 0; j < delta->cols; j++)
			dst[j] -= b[k] * a[j];
	}
}

/* size[j] at least the sum of |scale B A| over the products. */
static void add_products(const struct tn_delta *delta, size_t row, const double *b, double *size, double *sum)
{
	const float *a = factor_a(delta, row);
	memset(sum, 0, delta->cols * sizeof *sum);
	for (size_t k = 0; k < delta->rank; k++)
		for (size_t j = 0; j < delta->cols; j++)
			sum[j] += fabs(b[k] * (double)a[k * delta->cols + j]);
	for (size_t j = 0; j < delta->cols; j++)
		size[j] = fmax(size[j], sum[j]);
}

void tn_delta_sum_f64(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, const float *w, double *dst,
		      enum tn_delta_sizes sizes, double *size, void *scratch)
{
	double *b = scratch, *d = b + delta->rank;
	for (size_t i = 0; i < delta->rank; i++)
		b[i] = delta->scale * (double)delta->b[row * delta->rank + i];
	k->lowrank_f64(d, factor_a(delta, row), b, delta->rank, delta->cols);
	for (size_t j = 0; j < delta->cols; j++)
		dst[j] = (double)w[j];
	if (delta->removed.rank)
		remove_part(delta, row, dst);
	for (size_t j = 0; j < delta->cols; j++) {
		if (sizes != TN_SIZES_NONE)
			size[j] = fmax(fabs((double)w[j]), fabs(d[j]));
		dst[j] += d[j];
	}
	if (sizes == TN_SIZES_PRODUCTS)
		add_products(delta, row, b, size, d);
}

double tn_delta_row_gain(const struct tn_delta *delta, size_t row, const double *v)
{
	double sum = 0;
	for (size_t j = 0; j < delta->cols; j++)
		sum += v[j] * v[j];
	return sum > 0 ? (double)delta->row_magnitude[row] / sqrt(sum) : 1;
}

void tn_delta_row_f64(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, const float *w, double *dst,
		      enum tn_delta_sizes sizes, double *size, void *scratch)
{
	tn_delta_sum_f64(k, delta, row, w, dst, sizes, size, scratch);
	if (!delta->row_magnitude && !delta->column_gain)
		return;
	double gain = delta->row_magnitude ? tn_delta_row_gain(delta, row, dst) : 1, *products = (double *)scratch + delta->rank;
	for (size_t j = 0; j < delta->cols; j++) {
		double g = delta->column_gain ? delta->column_gain[j] : gain;
		dst[j] *= g;
		if (sizes != TN_SIZES_NONE)
			size[j] *= fabs(g);
		if (sizes == TN_SIZES_PRODUCTS)
			products[j] *= fabs(g);
	}
}
