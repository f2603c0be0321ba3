/* What any adapter does to one matrix, once its factors are in memory: the normal form of every dialect. */
#ifndef TN_DELTA_H
#define TN_DELTA_H

#include "kernels/kernels.h"

/* W [out, in] becomes W + scale * B A. */
struct tn_delta {
	const float *a;         /* [rank, in] */
	const float *b;         /* [out, rank] */
	size_t rank, in, out;
	double scale;
};

/* Scratch of the row functions, in bytes. */
size_t tn_delta_scratch_bytes(const struct tn_delta *delta);

/* Row `row` of W + delta. w [in] holds the row of W and gets the result.
 * edit_f32: sums in float32, and in double where W and the delta nearly cancel; for results that are rounded to 16 bits or
 * quantized. Before that rounding the error is below 0.02 units in the last place of BF16, 0.13 of F16.
 * edit_f64: sums in double and rounds to float32 once; for float32 results, where the float32 sum itself would be off by
 * several units in the last place whenever W and the delta nearly cancel. */
void tn_delta_edit_f32(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, float *w, void *scratch);
void tn_delta_edit_f64(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, float *w, void *scratch);

/* Row `row` of the delta alone, in double: dst [in]. */
void tn_delta_row_f64(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, double *dst, void *scratch);

#endif
