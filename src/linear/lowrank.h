/* The best approximation of a matrix by factors of a low rank: its largest singular values and their vectors. Sums in double. */
#ifndef TN_LOWRANK_H
#define TN_LOWRANK_H

#include "base/context.h"
#include "tenon/derive.h"

/* W ~ B A. Both hold the root of the singular values: their numbers are of one size, which is kind to F16, whose range is small,
 * and to a trainer who goes on with them. (PEFT puts the values into B; the product is the same.) The largest number of each row of
 * A is positive, so that the signs do not depend on LAPACK. */
struct tn_lowrank_factors {
	float *a;               /* [rank, cols] */
	float *b;               /* [rows, rank] */
	double *s;              /* [rank], the singular values, descending */
	uint64_t rank;          /* at least 1; of W = 0 one of zeros */
	double total;           /* the sum of the squares of W */
	double kept;            /* 1 - |W - B A|^2 / total before the factors are rounded to float32; 1 for W = 0 */
	struct tn_buffer memory;
};
void tn_lowrank_release(tn_context *ctx, struct tn_lowrank_factors *factors);
/* Leaves `rank` of them, which is not more than there are. */
void tn_lowrank_cut(struct tn_lowrank_factors *factors, size_t rows, uint64_t rank);

/* The rule for squares s^2 [count], descending, whose sum with all that is not among them is `total`: at least 1. For matrices that
 * shall have one rank, as experts of a stack have, the squares of the same place added up. */
uint64_t tn_rank_for(const double *squares, size_t count, double total, const struct tn_rank_rule *rule);

/* B A of factors with a scale for each column of B, or NULL: the sum of any adapters, stacked. */
struct tn_factor_product {
	size_t rows, cols, rank;
	const float *a;         /* [rank, cols] */
	const float *b;         /* [rows, rank] */
	const double *scales;   /* [rank] or NULL */
};
/* Never forms [rows, cols]: orthonormal bases of both sides, and the SVD of the core between them. Memory: about
 * 2 * (rows + cols) * rank doubles. Runs on the calling thread. TN_E_FORMAT: NaN or infinity. */
tn_status tn_lowrank_of_product(tn_context *ctx, const struct tn_factor_product *product, const struct tn_rank_rule *rule,
				const char *name, struct tn_lowrank_factors *out, struct tn_error *err);

/* A matrix of which rows can be had, in any number of passes. `read` is called on the calling thread, for blocks of rows in
 * ascending order, of at most TN_ROWS_BYTES (and at least one row); it may use the workers. */
enum { TN_ROWS_BYTES = 8 << 20 };
struct tn_row_source {
	size_t rows, cols;
	const char *name;       /* for errors */
	tn_status (*read)(void *arg, size_t first, size_t count, float *dst, struct tn_error *err); /* dst [count, cols] */
	void *arg;
};

/* Randomized SVD (Halko, Martinsson, Tropp 2011) with power iterations: 2 to 6 passes, until one more finds less than 1/1000 more.
 * What is kept is measured, not estimated: the projection is on the true rows. Where singular values fall slowly it is up to 2 in
 * 100 less than the best of that rank would be, elsewhere the same; values below a millionth of the largest may be missed. Exact
 * where a side has at most 128 rows, or no more than the rank asks for. The same bits for any number of threads; the random numbers
 * are a function of seed and place. A rule without a bound costs as much as the whole SVD.
 * TN_E_FORMAT: NaN or infinity; errors of `read`. */
tn_status tn_lowrank_of_rows(tn_context *ctx, const struct tn_row_source *source, const struct tn_rank_rule *rule, uint64_t seed,
			     struct tn_lowrank_factors *out, struct tn_error *err);
/* The most bytes that takes: about (cols * 2 + rows * 2) * rank doubles and 8 MB. */
uint64_t tn_lowrank_rows_bytes(tn_context *ctx, uint64_t rows, uint64_t cols, const struct tn_rank_rule *rule);

#endif
