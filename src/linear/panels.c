/* SPDX-License-Identifier: Apache-2.0 */
#include "linear/panels.h"

#include "base/checked.h"

#include <math.h>
#include <string.h>

int tn_panels_size(uint64_t rows, uint64_t cols, uint64_t *doubles)
{
	uint64_t width;
	return tn_mul_u64(tn_ceil_div(cols, TN_PANEL), TN_PANEL, &width) || tn_mul_u64(rows, width, doubles) ||
	       *doubles > SIZE_MAX / sizeof(double) / 8;
}

static size_t doubles_of(const struct tn_panels *m)
{
	return tn_panels_count(m) * TN_PANEL * m->rows;
}

void tn_panels_clear(const struct tn_panels *m)
{
	memset(m->data, 0, doubles_of(m) * sizeof *m->data);
}

void tn_panels_set_unit(const struct tn_panels *m)
{
	tn_panels_clear(m);
	for (size_t i = 0; i < m->cols && i < m->rows; i++)
		*tn_panels_element(m, i, i) = 1;
}

double tn_panels_squares(const struct tn_panels *m)
{
	double sum[TN_PANEL] = { 0 }, all = 0;
	for (size_t i = 0; i < doubles_of(m); i += TN_PANEL)
		for (size_t j = 0; j < TN_PANEL; j++)
			sum[j] += m->data[i + j] * m->data[i + j];
	for (size_t j = 0; j < TN_PANEL; j++)
		all += sum[j];
	return all;
}

/* Columns of panel `i`. */
static size_t width_of(const struct tn_panels *m, size_t i)
{
	return tn_min_u64(TN_PANEL, m->cols - i * TN_PANEL);
}

/* dst [a.cols, TN_PANEL] = A^T of the first `panels` panels, times one panel. */
static void gram_panel(const struct tn_kernels *k, double *dst, const struct tn_panels *a, size_t panels, const double *panel)
{
	memset(dst, 0, tn_min_u64(panels * TN_PANEL, a->cols) * TN_PANEL * sizeof *dst);
	for (size_t i = 0; i < panels; i++)
		k->panel_product(dst + i * TN_PANEL * TN_PANEL, tn_panels_at(a, i), 1, TN_PANEL, panel, a->rows, width_of(a, i));
}

void tn_panels_gram(const struct tn_kernels *k, const struct tn_panels *dst, const struct tn_panels *a, const struct tn_panels *b)
{
	for (size_t i = 0; i < tn_panels_count(b); i++)
		gram_panel(k, tn_panels_at(dst, i), a, tn_panels_count(a), tn_panels_at(b, i));
}

/* dst [a.rows, TN_PANEL] += the first `panels` panels of A times `by` [their columns, TN_PANEL]. Rows in pieces that stay in the
 * cache while the panels pass. */
static void add_product_panel(const struct tn_kernels *k, double *dst, const struct tn_panels *a, size_t panels, const double *by)
{
	enum { PIECE = 256 };
	for (size_t row = 0; row < a->rows; row += PIECE)
		for (size_t i = 0; i < panels; i++)
			k->panel_product(dst + row * TN_PANEL, tn_panels_at(a, i) + row * TN_PANEL, TN_PANEL, 1,
					 by + i * TN_PANEL * TN_PANEL, width_of(a, i), tn_min_u64(PIECE, a->rows - row));
}

void tn_panels_multiply(const struct tn_kernels *k, const struct tn_panels *dst, const struct tn_panels *a,
			const struct tn_panels *b)
{
	tn_panels_clear(dst);
	for (size_t i = 0; i < tn_panels_count(b); i++)
		add_product_panel(k, tn_panels_at(dst, i), a, tn_panels_count(a), tn_panels_at(b, i));
}

/* ---- Gram-Schmidt ---------------------------------------------------------------------------------------- */

/* Takes out of the panel what the panels before it express. */
static void leave_others(const struct tn_kernels *k, const struct tn_panels *m, size_t panel, double *scratch)
{
	double *p = tn_panels_at(m, panel);
	gram_panel(k, scratch, m, panel, p);
	for (size_t i = 0; i < panel * TN_PANEL * TN_PANEL; i++)
		scratch[i] = -scratch[i];
	add_product_panel(k, p, m, panel, scratch);
}

/* Takes out of column `t` of the panel what its columns before it express, and makes its length 1: or 0, where less than `least` of
 * its square is left. The other columns get zeros added. */
static void settle_column(const struct tn_kernels *k, double *p, size_t rows, size_t t, double least, double *scratch)
{
	double *dots = scratch, *by = scratch + TN_PANEL, left = 0;
	memset(scratch, 0, (TN_PANEL + 1) * TN_PANEL * sizeof *scratch);
	k->panel_product(dots, p + t, 1, TN_PANEL, p, rows, 1);
	for (size_t s = 0; s < t; s++)
		by[s * TN_PANEL + t] = -dots[s];
	k->panel_product(p, p, TN_PANEL, 1, by, t, rows);
	memset(dots, 0, TN_PANEL * sizeof *dots);
	k->panel_product(dots, p + t, 1, TN_PANEL, p, rows, 1);
	left = dots[t];
	double factor = left > least ? 1 / sqrt(left) : 0;
	for (size_t i = 0; i < rows; i++)
		p[i * TN_PANEL + t] *= factor;
}

void tn_panels_orthonormalise(const struct tn_kernels *k, const struct tn_panels *m, double *scratch)
{
	/* A column of length 1 from which the others are taken out again stays as it is, unless it was rounding noise. Where
	 * nothing but the noise of noise is left of that, it is at right angles to nothing, and no column. */
	const double expressed = 1e-13, noise = 1e-8;
	for (size_t panel = 0; panel < tn_panels_count(m); panel++) {
		double *p = tn_panels_at(m, panel), square[TN_PANEL] = { 0 };
		for (size_t i = 0; i < m->rows * TN_PANEL; i++)
			square[i % TN_PANEL] += p[i] * p[i];
		for (int again = 0; again < 2; again++) {
			leave_others(k, m, panel, scratch);
			for (size_t t = 0; t < width_of(m, panel); t++) {
				settle_column(k, p, m->rows, t, again ? noise : square[t] * expressed * expressed, scratch);
				settle_column(k, p, m->rows, t, noise, scratch);
			}
		}
	}
}
