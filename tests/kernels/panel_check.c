/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels of factorisations: every usable instruction set against what their comments say, bit by bit. */
#include "testlib.h"

#include "kernels/kernels.h"

#include <stdio.h>
#include <string.h>

static int failures;
static uint64_t state = 11;

static void complain(const char *isa, const char *kernel, size_t n, size_t more, const char *what)
{
	failures++;
	printf("%s %s (%zu, %zu): %s\n", isa, kernel, n, more, what);
}

static double some_number(void)
{
	return (double)(int64_t)tt_random(&state) * 0x1p-62;
}

enum { MOST_ROWS = 27, MOST_COUNT = 19, STEP = 31 };

static void define_product(double *dst, const double *w, size_t row_step, size_t step, const double *panel, size_t count, size_t rows)
{
	for (size_t i = 0; i < rows; i++)
		for (size_t j = 0; j < TN_PANEL; j++)
			for (size_t k = 0; k < count; k++) {
				volatile double product = w[i * row_step + k * step] * panel[k * TN_PANEL + j];
				dst[i * TN_PANEL + j] += product;
			}
}

/* W by rows and by columns; the panel no better aligned than a double. */
static void check_product(const struct tn_kernels *k, size_t rows, size_t count, int by_columns)
{
	static double want[MOST_ROWS * TN_PANEL];
	size_t row_step = by_columns ? 1 : STEP, step = by_columns ? STEP : 1;
	size_t most = rows && count ? (rows - 1) * row_step + (count - 1) * step + 1 : 1;
	struct tt_guard dst, w, panel;
	tt_guard_make(&dst, rows * TN_PANEL * sizeof(double));
	tt_guard_make(&w, most * sizeof(double));
	tt_guard_make(&panel, count * TN_PANEL * sizeof(double) + 8);
	double *to = (double *)(void *)dst.at_end, *from = (double *)(void *)w.at_end, *p = (double *)(void *)panel.at_end;
	for (size_t i = 0; i < rows * TN_PANEL; i++)
		to[i] = want[i] = some_number();
	for (size_t i = 0; i < most; i++)
		from[i] = some_number();
	for (size_t i = 0; i < count * TN_PANEL; i++)
		p[i] = some_number();
	k->panel_product(to, from, row_step, step, p, count, rows);
	define_product(want, from, row_step, step, p, count, rows);
	if (memcmp(to, want, rows * TN_PANEL * sizeof *to) != 0)
		complain(k->isa, "panel_product", rows, count, "not the sum that its comment defines");
	tt_guard_free(&dst);
	tt_guard_free(&w);
	tt_guard_free(&panel);
}

static void check_widen(const struct tn_kernels *k, size_t n)
{
	struct tt_guard src, dst;
	tt_guard_make(&src, n * sizeof(float));
	tt_guard_make(&dst, n * sizeof(double));
	float *from = (float *)(void *)src.at_end;
	double *to = (double *)(void *)dst.at_end;
	volatile double sum[8] = { 0 };
	for (size_t i = 0; i < n; i++) {
		from[i] = (float)some_number();
		volatile double square = (double)from[i] * (double)from[i];
		size_t lane = i < n / 8 * 8 ? i % 8 : 0;
		sum[lane] = sum[lane] + square;
	}
	for (size_t width = 4; width; width /= 2)
		for (size_t l = 0; l < width; l++)
			sum[l] = sum[l] + sum[l + width];
	double got = k->widen_f64(to, from, n);
	int wrong = got != sum[0];
	for (size_t i = 0; i < n; i++)
		wrong |= to[i] != (double)from[i];
	if (wrong)
		complain(k->isa, "widen_f64", n, 0, "not what its comment defines");
	tt_guard_free(&src);
	tt_guard_free(&dst);
}

int main(void)
{
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		if (!k) {
			printf("NOT RUN: %s\n", tn_kernels_isa_name(i));
			continue;
		}
		for (size_t rows = 0; rows <= MOST_ROWS; rows++)
			for (size_t count = 0; count <= MOST_COUNT; count++)
				for (int by_columns = 0; by_columns < 2; by_columns++)
					check_product(k, rows, count, by_columns);
		for (size_t n = 0; n < 100; n++)
			check_widen(k, n);
	}
	return failures != 0;
}
