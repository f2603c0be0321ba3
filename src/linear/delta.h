/* What any adapter does to one matrix, once its factors are in memory: the normal form of every dialect. */
#ifndef TN_DELTA_H
#define TN_DELTA_H

#include "kernels/kernels.h"

/* A product of double factors that is taken out of W before anything is added: what PiSSA, OLoRA and KaSA train beside. */
struct tn_removed {
	const double *a;        /* [rank, cols] */
	const double *b;        /* [rows, rank] */
	size_t rank;
};

/* W [rows, cols] becomes g * (W - removed + scale * B A). A stack of experts is one matrix of groups * group_rows rows; each
 * group has an A of its own. Where g is 1, row_magnitude and column_gain are NULL. */
struct tn_delta {
	const float *a;               /* [groups, rank, cols] */
	const float *b;               /* [rows, rank] */
	size_t rank, cols, rows;
	size_t group_rows;            /* rows / groups */
	double scale;
	tn_dtype left, product;       /* dtypes in which MLX holds scale * B, and the product with A */
	tn_dtype coarsest;            /* in which a program that computes in the factors' dtypes rounds anything: of a stack, of
	                               * all its parts */
	const float *row_magnitude;   /* [rows]: g is that over the norm of the edited row */
	const float *column_magnitude; /* [cols]: needs column_gain before rows can be edited */
	const double *column_gain;    /* [cols]: magnitude over the norm of the edited column */
	struct tn_removed removed;
	enum tn_factor_width width;   /* of a and b; TN_FACTORS_WIDE is always true */
};

/* 1 for W + scale * B A alone. */
int tn_delta_is_plain(const struct tn_delta *delta);

/* Scratch of the row functions, in bytes. */
size_t tn_delta_scratch_bytes(size_t rank, size_t cols);

/* Row `row` of W + delta, for a plain delta. w [cols] holds the row of W and gets the result. Sums in float32, and in
 * double where W and the delta nearly cancel; for results that are rounded to 16 bits or quantized. Before that rounding
 * the error is below 0.02 units in the last place of BF16, 0.13 of F16. */
void tn_delta_edit_f32(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, float *w, void *scratch);

/* The narrowest width that is true of the factors: a pass over them. */
enum tn_factor_width tn_delta_width(const struct tn_delta *delta);

/* Rows of BF16 or F16 beside a plain delta. */
struct tn_delta_rows {
	size_t first, count;          /* rows of the delta */
	tn_dtype dtype;
	void *dst;
	size_t dst_stride;            /* bytes */
	const void *src;              /* dst itself, or elsewhere */
	size_t src_stride;
};
/* Whether they can be edited many at once: a plain delta, or one with a magnitude for each row. */
int tn_delta_takes_rows(const struct tn_delta *delta);
/* dst = the edited rows of src, rounded once: within 0.52 units in the last place. Scratch: tn_add_product_scratch, with a row
 * magnitude tn_gain_product_scratch. Returns 1 when a result is not finite. */
int tn_delta_add_rows(const struct tn_kernels *k, const struct tn_delta *delta, const struct tn_delta_rows *rows, void *scratch);

/* Row `row` of scale * B A alone: d [cols], sums in float32. */
void tn_delta_product_f32(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, float *d, void *scratch);

/* One element of W + scale * B A, in double. */
double tn_delta_element(const struct tn_delta *delta, size_t row, size_t column, float w);

/* The factor of a finished row v = W - removed + scale * B A with a row magnitude. */
double tn_delta_row_gain(const struct tn_delta *delta, size_t row, const double *v);

/* How closely tn_delta_row_f64 looks at the terms of a sum: not at all; |W| and |the delta|; or also the sum of the sizes of
 * the products in the delta, which takes as long as the delta again. */
enum tn_delta_sizes { TN_SIZES_NONE, TN_SIZES_SUMS, TN_SIZES_PRODUCTS };

/* Row `row` of the result of any delta, in double: dst [cols]. size [cols] (unused for TN_SIZES_NONE) gets the size of the
 * largest term that each element is made of. A row without any length keeps that: 0 stays 0 whatever its magnitude is.
 * With TN_SIZES_PRODUCTS tn_delta_products(scratch, rank) [cols] then holds g times the sum of the products' sizes. */
void tn_delta_row_f64(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, const float *w, double *dst,
		      enum tn_delta_sizes sizes, double *size, void *scratch);
static inline const double *tn_delta_products(const void *scratch, size_t rank)
{
	return (const double *)scratch + rank;
}

/* The same before g: W - removed + scale * B A. For the norms that g needs. */
void tn_delta_sum_f64(const struct tn_kernels *k, const struct tn_delta *delta, size_t row, const float *w, double *dst,
		      enum tn_delta_sizes sizes, double *size, void *scratch);

#endif
