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

/* n <= LANES columns from j on of a panel. */
TN_INLINE int add_lanes(unsigned char *dst, const unsigned char *src, const struct settled_row *row, size_t j, size_t n)
{
	const struct tn_add_product *p = row->panel->p;
	float sum[LANES], scale = (float)p->scale;
	uint16_t w[LANES], out[LANES];
	const float *a = p->a + row->panel->first + j;
	if (n == LANES)
		sum_products(sum, a, row->b, p->rank, p->cols, LANES);
	else
		sum_products(sum, a, row->b, p->rank, p->cols, n);
	memcpy(w, src, n * sizeof *w);
	for (size_t l = 0; l < n; l++)
		sum[l] = widen(w[l], p->dtype) + scale * sum[l];
	for (size_t l = 0; l < n; l++)
		out[l] = narrow(sum[l], p->dtype);
	uint64_t which = unsettled(row, out, n);
	const struct columns columns = { a, p->cols, ROWS_AS_THEY_ARE };
	int bad = which ? settle(row, &columns, which, w, sum, out) : 0;
	memcpy(dst, out, n * sizeof *out);
	return bad;
}

int TN_ISA_NAME(tn_add_product)(void *dst, size_t dst_stride, const void *src, size_t src_stride,
				const struct tn_add_product *p, void *scratch)
{
	int bad = 0;
	(void)scratch;
	for (size_t first = 0; first < p->cols; first += TN_PANEL_COLS) {
		const struct panel panel = { p, first, panel_cols(p, first), panel_longest(p, first) };
		for (size_t i = 0; i < p->rows; i++) {
			const float *b = p->b + i * p->rank;
			const struct settled_row row = settle_row(&panel, b, row_length(p, b));
			unsigned char *to = (unsigned char *)dst + i * dst_stride + 2 * first;
			const unsigned char *from = (const unsigned char *)src + i * src_stride + 2 * first;
			for (size_t j = 0; j < panel.cols; j += LANES)
				bad |= add_lanes(to + 2 * j, from + 2 * j, &row, j, panel.cols - j < LANES ? panel.cols - j : LANES);
		}
	}
	return bad;
}
