/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/add_product.h"

#include "kernels/isa_build.h"

enum { LANES = 64 };

int TN_ISA_NAME(tn_add_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
				const struct tn_add_product *p, void *scratch);

/* sum[n] = sum over k of b[k] a[k][n], in the order of the definition. */
TN_INLINE void sum_products(float *sum, const float *a, const float *b, size_t rank, size_t cols, size_t n)
{
	for (size_t l = 0; l < n; l++)
		sum[l] = 0;
	for (size_t k = 0; k < rank; k++) {
		size_t at = swapped(k, rank);
		const float *row = a + at * cols;
		for (size_t l = 0; l < n; l++)
			sum[l] += b[at] * row[l];
	}
}

/* W + scale * B A in n <= LANES columns from j on. */
TN_INLINE void sum_lanes(float *sum, const struct tn_add_product *p, const float *b, const uint16_t *w, size_t j, size_t n)
{
	float scale = (float)p->scale;
	if (n == LANES)
		sum_products(sum, p->a + j, b, p->rank, p->cols, LANES);
	else
		sum_products(sum, p->a + j, b, p->rank, p->cols, n);
	for (size_t l = 0; l < n; l++)
		sum[l] = widen(w[l], p->dtype) + scale * sum[l];
}

/* n <= LANES columns of a panel from j on, rounded and looked at. */
TN_INLINE int round_lanes(unsigned char *dst, const struct settled_row *row, const uint16_t *w, const float *sum, size_t j,
			  size_t n)
{
	const struct tn_add_product *p = row->panel->p;
	const float *a = p->a + row->panel->first + j;
	uint16_t out[LANES];
	for (size_t l = 0; l < n; l++)
		out[l] = narrow(sum[l], p->dtype);
	uint64_t which = unsettled(row, out, n);
	const struct columns columns = { a, p->cols, ROWS_AS_THEY_ARE, 0 };
	int bad = which ? settle(row, &columns, which, w, sum, out) : 0;
	memcpy(dst, out, n * sizeof *out);
	return bad;
}

TN_INLINE size_t lanes_at(size_t j, size_t cols)
{
	return cols - j < LANES ? cols - j : LANES;
}

static int add_row(unsigned char *dst, const unsigned char *src, const struct settled_row *row)
{
	const struct panel *panel = row->panel;
	int bad = 0;
	for (size_t j = 0, n; j < panel->cols; j += n) {
		float sum[LANES];
		uint16_t w[LANES];
		n = lanes_at(j, panel->cols);
		memcpy(w, src + 2 * j, n * sizeof *w);
		sum_lanes(sum, panel->p, row->b, w, panel->first + j, n);
		bad |= round_lanes(dst + 2 * j, row, w, sum, j, n);
	}
	return bad;
}

/* ---- rows with a magnitude --------------------------------------------------------------------------------- */

/* Keeps the sums of a row, and adds their squares. */
static void keep_row(float *sums, double *squares, const struct tn_add_product *p, const float *b, const unsigned char *src)
{
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS) {
		size_t end = first + panel_cols(p, first);
		float lanes[SQUARE_LANES] = { 0 };
		for (size_t j = first, n; j < end; j += n) {
			uint16_t w[LANES];
			n = lanes_at(j, end);
			memcpy(w, src + 2 * j, n * sizeof *w);
			sum_lanes(sums + j, p, b, w, j, n);
			for (size_t l = 0; l < n; l++)
				lanes[l % SQUARE_LANES] += sums[j + l] * sums[j + l];
		}
		add_squares(squares, lanes);
	}
}

static void finish_panel(unsigned char *dst, const unsigned char *src, const struct settled_row *row, const float *sums)
{
	const struct panel *panel = row->panel;
	for (size_t j = 0, n; j < panel->cols; j += n) {
		const struct columns columns = { panel->p->a + panel->first + j, panel->p->cols, ROWS_AS_THEY_ARE, 0 };
		uint16_t w[LANES], out[LANES];
		n = lanes_at(j, panel->cols);
		memcpy(w, src + 2 * j, n * sizeof *w);
		round_gained(out, row, &columns, sums + j, w, n, panel->p->dtype);
		memcpy(dst + 2 * j, out, n * sizeof *out);
	}
}

static int gain_row(unsigned char *dst, const unsigned char *src, const struct tn_add_product *p, size_t row, const float *longest,
		    float *sums)
{
	const float *b = p->b + row * p->rank;
	const float length = row_length(p, b);
	double squares[SQUARE_LANES] = { 0 };
	keep_row(sums, squares, p, b, src);
	double gain = row_gain(p, row, squares, (double)length * whole_length(p, longest));
	if (gain == 0)
		return row_in_double(p, row, dst, src);
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS) {
		const struct panel panel = { p, first, panel_cols(p, first), longest[first / TN_PANEL_COLS] };
		const struct settled_row gained = gained_row(&panel, b, length, gain);
		finish_panel(dst + 2 * first, src + 2 * first, &gained, sums + first);
	}
	return 0;
}

static int gain_rows(unsigned char *dst, size_t dst_stride, const unsigned char *src, size_t src_stride,
		     const struct tn_add_product *p, float *longest)
{
	int bad = 0;
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS)
		longest[first / TN_PANEL_COLS] = panel_longest(p, first);
	for (size_t i = 0; i < p->rows; i++)
		bad |= gain_row(dst + i * dst_stride, src + i * src_stride, p, i, longest, longest + p->cols / TN_PANEL_COLS + 1);
	return bad;
}

int TN_ISA_NAME(tn_add_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
				const struct tn_add_product *p, void *scratch)
{
	int bad = 0;
	if (p->row_magnitude)
		return gain_rows(dst, dst_stride, src, src_stride, p, scratch);
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS) {
		const struct panel panel = { p, first, panel_cols(p, first), panel_longest(p, first) };
		for (size_t i = 0; i < p->rows; i++) {
			const float *b = p->b + i * p->rank;
			const struct settled_row row = settle_row(&panel, b, row_length(p, b));
			bad |= add_row((unsigned char *)dst + i * dst_stride + 2 * first,
				       (const unsigned char *)src + i * src_stride + 2 * first, &row);
		}
	}
	return bad;
}
