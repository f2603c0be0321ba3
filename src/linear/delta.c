/* SPDX-License-Identifier: Apache-2.0 */
#include "linear/delta.h"

#include <math.h>
#include <string.h>

enum { LANES = 64 };

/* Where W and the delta cancel to less than this share of the delta, the error of the float32 sum would be seen in the
 * last place of a 16-bit result. */
static const float cancelled = 0x1p-6f;

/* Scratch: rank doubles for the scaled row of B, then one row of the delta as doubles. */
size_t tn_delta_scratch_bytes(const struct tn_delta *delta)
{
	return (delta->rank + delta->in) * sizeof(double);
}

/* One element in double. */
static float edit_element(const struct tn_delta *delta, size_t row, size_t j, float w)
{
	const float *b = delta->b + row * delta->rank;
	double sum = 0;
	for (size_t i = 0; i < delta->rank; i++)
		sum += (double)b[i] * (double)delta->a[i * delta->in + j];
	return (float)((double)w + delta->scale * sum);
}

/* n <= LANES elements from column j. One in hundreds is computed again, so they are looked for a block at a time. */
static void add_block(const struct tn_delta *delta, size_t row, size_t j, size_t n, float *w, const float *d)
{
	float sum[LANES];
	int again = 0;
	for (size_t l = 0; l < n; l++) {
		sum[l] = w[j + l] + d[j + l];
		again |= fabsf(sum[l]) < fabsf(d[j + l]) * cancelled;
	}
	for (size_t l = 0; again && l < n; l++)
		if (fabsf(sum[l]) < fabsf(d[j + l]) * cancelled)
			sum[l] = edit_element(delta, row, j + l, w[j + l]);
	memcpy(w + j, sum, n * sizeof *sum);
}

void tn_delta_edit_f32(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, float *w, void *scratch)
{
	float *b = scratch, *d = b + delta->rank;
	for (size_t i = 0; i < delta->rank; i++)
		b[i] = (float)(delta->scale * (double)delta->b[row * delta->rank + i]);
	k->lowrank_f32(d, delta->a, b, delta->rank, delta->in);
	for (size_t j = 0; j < delta->in; j += LANES)
		add_block(delta, row, j, delta->in - j < LANES ? delta->in - j : LANES, w, d);
}

void tn_delta_row_f64(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, double *dst, void *scratch)
{
	double *b = scratch;
	for (size_t i = 0; i < delta->rank; i++)
		b[i] = delta->scale * (double)delta->b[row * delta->rank + i];
	k->lowrank_f64(dst, delta->a, b, delta->rank, delta->in);
}

void tn_delta_edit_f64(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, float *w, void *scratch)
{
	double *d = (double *)scratch + delta->rank;
	tn_delta_row_f64(k, delta, row, d, scratch);
	for (size_t j = 0; j < delta->in; j++)
		w[j] = (float)((double)w[j] + d[j]);
}
