/* Tall matrices of doubles, in panels of TN_PANEL columns that lie one behind the other: [panel][row][column of it]. Columns that
 * fill up the last panel are 0. */
#ifndef TN_PANELS_H
#define TN_PANELS_H

#include "kernels/kernels.h"

struct tn_panels {
	double *data;
	size_t rows, cols;
};

static inline size_t tn_panels_count(const struct tn_panels *m)
{
	return (m->cols + TN_PANEL - 1) / TN_PANEL;
}

static inline double *tn_panels_at(const struct tn_panels *m, size_t panel)
{
	return m->data + panel * m->rows * TN_PANEL;
}

static inline double *tn_panels_element(const struct tn_panels *m, size_t row, size_t column)
{
	return tn_panels_at(m, column / TN_PANEL) + row * TN_PANEL + column % TN_PANEL;
}

/* Doubles that a matrix takes. 1 when that overflows. */
int tn_panels_size(uint64_t rows, uint64_t cols, uint64_t *doubles);
void tn_panels_clear(const struct tn_panels *m);
/* Columns 0 .. cols of the unit matrix. */
void tn_panels_set_unit(const struct tn_panels *m);
/* The sum of all squares. */
double tn_panels_squares(const struct tn_panels *m);

/* dst [a.cols, b.cols] = A^T B. */
void tn_panels_gram(const struct tn_kernels *k, const struct tn_panels *dst, const struct tn_panels *a, const struct tn_panels *b);
/* dst [a.rows, b.cols] = A B. */
void tn_panels_multiply(const struct tn_kernels *k, const struct tn_panels *dst, const struct tn_panels *a,
			const struct tn_panels *b);

/* Makes the columns orthonormal in their order: Gram-Schmidt, twice: each column before the next one needs it, and each panel.
 * A column that the ones before it express to 1e-13 becomes 0.
 * Scratch: (cols + TN_PANEL + 1) * TN_PANEL doubles. */
void tn_panels_orthonormalise(const struct tn_kernels *k, const struct tn_panels *m, double *scratch);

#endif
