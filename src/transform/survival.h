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

/* U in BF16 for project_rows: [cols / TN_DIRECTION_COLS, rounded up][rank][TN_DIRECTION_COLS]. work: rank *
 * TN_DIRECTION_COLS floats. */
size_t tn_directions_bytes(size_t rank, size_t cols);
void tn_directions_make(const float *a, size_t rank, size_t cols, const double *basis, float *work, uint16_t *directions);

/* Elements from one row of halves to the next. */
static inline size_t tn_survival_stride(size_t cols)
{
	return (cols + TN_DIRECTION_COLS - 1) / TN_DIRECTION_COLS * TN_DIRECTION_COLS;
}

/* Up to TN_ROWS_AT_ONCE rows whose coordinates are summed together. */
struct tn_survival_rows {
	const struct tn_kernels *kernels;
	const uint16_t *directions;          /* NULL: none, the sums with U stay */
	size_t rank, cols;
	uint16_t *halves;                    /* a row for each, at tn_survival_stride; where D is no product, two */
	float *coordinates;                  /* [TN_ROWS_AT_ONCE * rank] */
};

/* The sums of row i, whose change is kept in halves: between two rows of values. What they vanish or overflow in is summed in
 * double; where a codec made them from codes, they have to be usual. */
void tn_survival_sum_row(struct tn_change_sums *sums, const struct tn_survival_rows *rows, size_t i, const float *before,
			 const float *after, const float *wanted);
int tn_survival_is_usual(const struct tn_change_sums *sums);
/* Adds a row, and the squares of the steps of the grid that it was on. is_product: D is scale * B A itself, so that D U U^T is
 * D. */
void tn_survival_add_row(struct tn_survival_sums *sum, const struct tn_survival_rows *rows, const struct tn_change_sums *row,
			 double steps2, int is_product);
/* Adds the coordinates of `count` rows that are there, of products. */
void tn_survival_add_directions(struct tn_survival_sums *sum, const struct tn_survival_rows *rows, size_t count);
/* Adds the coordinates of `count` rows, at most TN_ROWS_AT_ONCE / 2, where D [count, cols] is anything; of halves the rows behind
 * them are used too. */
void tn_survival_add_both(struct tn_survival_sums *sum, const struct tn_survival_rows *rows, const float *wanted, size_t count);

/* |scale * B A|^2 of one row. Scratch: rank doubles. */
double tn_survival_product2(const struct tn_delta *delta, const double *basis, size_t row, double *scratch);

/* Codes of `bits` bits that differ between two rows of codes. */
uint64_t tn_survival_count_codes(const unsigned char *a, const unsigned char *b, size_t codes, unsigned bits);

/* The numbers of a report. */
struct tn_survival tn_survival_of(const struct tn_survival_sums *sum, tn_rounding rounding);

#endif
