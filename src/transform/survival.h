/* How much of a delta is left when W + D has been written on a grid. */
#ifndef TN_SURVIVAL_SUMS_H
#define TN_SURVIVAL_SUMS_H

#include "linear/delta.h"
#include "tenon/transform.h"

/* The lower triangle L of A A^T = L L^T for A [rank, cols], so that x A^T L^-T are the coordinates of a row x in an
 * orthonormal basis of the directions that A reads. Rows of A that depend on earlier ones get a zero pivot, and no
 * direction. */
void tn_basis_make(const struct tn_kernels *k, const float *a, size_t rank, size_t cols, double *basis);

/* Sums over rows. R is the change that was written, D the one that was wanted, E = R - D; U the basis above. */
struct tn_survival_sums {
	double step2, delta2, error2;        /* of the grid's step, D and E, squared */
	double kept, captured2, wanted2;     /* <RU, DU>, |RU|^2, |DU|^2 */
	uint64_t codes, moved, clamped;
	double dense2, drift2;               /* of the dense original, and of its distance to the quantized base */
	int not_finite;
};
void tn_survival_add(struct tn_survival_sums *sum, const struct tn_survival_sums *part);

/* Adds one row: before, after, wanted D and the step of the base's grid, all [cols]. `product` is 1 when D is scale * B A
 * itself. Scratch: 2 * rank doubles and a row of floats. */
struct tn_survival_row {
	const struct tn_kernels *kernels;
	const struct tn_delta *delta;
	const double *basis;                 /* NULL: no directions, the sums with U stay */
	size_t row;                          /* of the delta */
	int product;
	const float *before, *after, *wanted, *step;
	double *scratch;
};
void tn_survival_add_row(struct tn_survival_sums *sum, const struct tn_survival_row *row);

/* |scale * B A|^2 of one row. Scratch: rank doubles. */
double tn_survival_product2(const struct tn_delta *delta, const double *basis, size_t row, double *scratch);

/* Codes of `bits` bits that differ between two rows of codes. */
uint64_t tn_survival_count_codes(const unsigned char *a, const unsigned char *b, size_t codes, unsigned bits);

/* The numbers of a report. */
struct tn_survival tn_survival_of(const struct tn_survival_sums *sum, tn_rounding rounding);

#endif
