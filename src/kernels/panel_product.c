/* SPDX-License-Identifier: Apache-2.0 */
/* Products of matrices of doubles in panels of TN_PANEL columns, for the factorisations of linear/lowrank.h. Written over the
 * vectors of the compiler, so that every instruction set has them; each element is one sum in one order. */
#include "kernels/isa_build.h"
#include "kernels/quant.h"

#if defined(__AVX512F__)
enum { VECTOR = 8, ROWS = 8, VECTORS = 2 };
#elif defined(__AVX__)
enum { VECTOR = 4, ROWS = 6, VECTORS = 2 };
#elif defined(__aarch64__)
enum { VECTOR = 2, ROWS = 6, VECTORS = 4 };
#else
enum { VECTOR = 2, ROWS = 3, VECTORS = 4 };
#endif

/* At any place in an array of doubles. */
typedef double doubles __attribute__((vector_size(VECTOR * sizeof(double)), aligned(sizeof(double)), may_alias));

void TN_ISA_NAME(tn_panel_product)(double *dst, const double *w, size_t row_step, size_t step, const double *panel, size_t count,
				   size_t rows);

/* `rows` is a constant of the caller, so that the sums stay in registers. */
TN_INLINE void add_tile(double *dst, const double *w, size_t row_step, size_t step, const double *panel, size_t count,
			const size_t rows)
{
	doubles sum[ROWS][VECTORS];
	TN_UNROLL(8)
	for (size_t r = 0; r < rows; r++)
		TN_UNROLL(4)
		for (size_t v = 0; v < VECTORS; v++)
			sum[r][v] = *(const doubles *)(dst + r * TN_PANEL + v * VECTOR);
	for (size_t k = 0; k < count; k++, panel += TN_PANEL, w += step) {
		doubles x[VECTORS];
		TN_UNROLL(4)
		for (size_t v = 0; v < VECTORS; v++)
			x[v] = *(const doubles *)(panel + v * VECTOR);
		TN_UNROLL(8)
		for (size_t r = 0; r < rows; r++)
			TN_UNROLL(4)
			for (size_t v = 0; v < VECTORS; v++)
				sum[r][v] += w[r * row_step] * x[v];
	}
	TN_UNROLL(8)
	for (size_t r = 0; r < rows; r++)
		TN_UNROLL(4)
		for (size_t v = 0; v < VECTORS; v++)
			*(doubles *)(dst + r * TN_PANEL + v * VECTOR) = sum[r][v];
}

void TN_ISA_NAME(tn_panel_product)(double *dst, const double *w, size_t row_step, size_t step, const double *panel, size_t count,
				   size_t rows)
{
	for (size_t column = 0; column < TN_PANEL; column += VECTOR * VECTORS) {
		size_t r = 0;
		for (; r + ROWS <= rows; r += ROWS)
			add_tile(dst + r * TN_PANEL + column, w + r * row_step, row_step, step, panel + column, count, ROWS);
		for (; r < rows; r++)
			add_tile(dst + r * TN_PANEL + column, w + r * row_step, row_step, step, panel + column, count, 1);
	}
}
