/* SPDX-License-Identifier: Apache-2.0 */
/* add_product of every instruction set that this CPU can run: the bits of `portable`, whose results are held against sums in
 * double; inside guard pages, misaligned, in place and elsewhere, with factors of every width, with a magnitude for each row and
 * without.
 *
 *   add_product_check           check
 *   add_product_check ISA...    only these
 */
#include "testlib.h"

#include "base/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COLS = 1100, MOST_ROWS = 512, MOST_RANK = 128, WIDE_COLS = 9003, WIDE_ROWS = 37 };

static int failures;
static uint64_t seed = 5;
static float factor_a[MOST_RANK * WIDE_COLS], factor_b[MOST_ROWS * MOST_RANK], magnitudes[MOST_ROWS];

static float uniform(void)
{
	return (float)((double)(int64_t)tt_random(&seed) / 9.2e18);
}

static float in_width(float x, enum tn_factor_width width)
{
	if (width == TN_FACTORS_BF16)
		return tn_f32_from_bf16(tn_bf16_from_f32(x));
	return width == TN_FACTORS_SHORT ? tn_f32_from_f16(tn_f16_from_f32(x)) : x;
}

enum style { USUAL, CANCELLED, TINY, ZERO_ROWS, HUGE_VALUES, NOT_NUMBERS, FAINT, VAST, LONG_A, OVERFLOWING, STYLES };

static void make_factors(const struct tn_add_product *p, enum style style)
{
	const int is_short = p->width == TN_FACTORS_SHORT;
	const int zeros = style == ZERO_ROWS || style == LONG_A;
	float a = style == TINY || style == FAINT ? 1e-20f : style == HUGE_VALUES ? 200.0f : 0.3f, b = a;
	if (style == LONG_A) {
		a = is_short ? 6e4f : 1e30f;
		b = is_short ? 1e-5f : 1e-30f;
	}
	if (style == OVERFLOWING)
		a = b = is_short ? 6e4f : 0x1p65f;
	for (size_t i = 0; i < p->rank * p->cols; i++)
		factor_a[i] = in_width(uniform() * a, p->width);
	for (size_t i = 0; i < p->rows * p->rank; i++)
		factor_b[i] = zeros && i / p->rank % 2 ? 0 : in_width(uniform() * b, p->width);
	if (style == NOT_NUMBERS && p->width == TN_FACTORS_WIDE)
		factor_a[p->cols / 2] = tn_f32_from_bits(0x7FFFFFFF);
}

/* Of the size of the rows, where that is usual; and what makes results overflow, vanish, or turn around. */
static void make_magnitudes(const struct tn_add_product *p, enum style style)
{
	for (size_t i = 0; i < p->rows; i++) {
		magnitudes[i] = (1 + uniform() / 2) * sqrtf((float)p->cols);
		if (style == HUGE_VALUES || style == VAST)
			magnitudes[i] *= i % 3 ? 1e4f : 1e36f;
		if (i % 11 == 5)
			magnitudes[i] = i % 2 ? 0 : -magnitudes[i];
	}
}

static double true_sum(const struct tn_add_product *p, size_t i, size_t j)
{
	double sum = 0;
	for (size_t k = 0; k < p->rank; k++)
		sum += (double)p->b[i * p->rank + k] * (double)p->a[k * p->cols + j];
	return p->scale * sum;
}

static uint16_t narrow(double x, tn_dtype dtype)
{
	return dtype == TN_BF16 ? tn_bf16_from_f32((float)x) : tn_f16_from_f32((float)x);
}

static void make_source(const struct tn_add_product *p, enum style style, uint16_t *w)
{
	for (size_t i = 0; i < p->rows; i++)
		for (size_t j = 0; j < p->cols; j++) {
			double x = (double)uniform();
			if (style == CANCELLED)
				x = -true_sum(p, i, j) * (j % 3 ? 1 : 1 + x / 100);
			if (style == HUGE_VALUES)
				x *= 6e4;
			if (style == FAINT || style == VAST)
				x *= p->dtype == TN_F16 ? 1 : style == FAINT ? 1e-25 : 1e32;
			if (style == ZERO_ROWS && i % 4 == 3)
				x = 0;
			w[i * p->cols + j] = j % 17 == 3 ? (uint16_t)(j % 2 << 15) : narrow(x, p->dtype); /* zeros of both signs */
			if (style == NOT_NUMBERS && j % 31 == 6)
				w[i * p->cols + j] = (uint16_t)(tt_random(&seed) | (p->dtype == TN_BF16 ? 0x7F80 : 0x7C00));
		}
}

static double value(uint16_t h, tn_dtype dtype)
{
	return (double)(dtype == TN_BF16 ? tn_f32_from_bf16(h) : tn_f32_from_f16(h));
}

/* Units in the last place between a result and the truth. */
static double error_of(uint16_t got, double truth, tn_dtype dtype)
{
	int bits = dtype == TN_BF16 ? 8 : 11, lowest = dtype == TN_BF16 ? -133 : -24;
	double size = fabs(truth) > 0 ? fabs(truth) : 1e-300;
	int exponent = (int)floor(log2(size)) - bits + 1;
	return fabs(value(got, dtype) - truth) / ldexp(1, exponent < lowest ? lowest : exponent);
}

/* A row of truths; a row without any length keeps that. */
static void make_truth(double *truth, const struct tn_add_product *p, size_t row, const uint16_t *w)
{
	double sum = 0, gain = 1;
	for (size_t j = 0; j < p->cols; j++) {
		truth[j] = value(w[row * p->cols + j], p->dtype) + true_sum(p, row, j);
		sum += truth[j] * truth[j];
	}
	if (p->row_magnitude && sum > 0)
		gain = (double)p->row_magnitude[row] / sqrt(sum);
	for (size_t j = 0; j < p->cols; j++)
		truth[j] *= gain;
}

static void check_definition(const struct tn_add_product *p, const uint16_t *w, const uint16_t *got, int bad)
{
	static double truth[WIDE_COLS];
	double most = 0.52, limit = p->dtype == TN_BF16 ? 0x1.FFp127 : 65520;
	int overflow = 0;
	for (size_t i = 0; i < p->rows; i++) {
		make_truth(truth, p, i, w);
		for (size_t j = 0; j < p->cols; j++) {
			size_t at = i * p->cols + j;
			overflow |= !(fabs(truth[j]) < limit);
			if (fabs(truth[j]) < limit && error_of(got[at], truth[j], p->dtype) > most && failures++ < 10)
				printf("FAIL portable: [%zu, %zu] of %zu x %zu rank %zu magnitudes %d: %g is %.3f units off %g\n", i, j,
				       p->rows, p->cols, p->rank, p->row_magnitude != NULL, value(got[at], p->dtype),
				       error_of(got[at], truth[j], p->dtype), truth[j]);
		}
	}
	if (overflow != bad && failures++ < 10)
		printf("FAIL portable: overflow %d, reported %d\n", overflow, bad);
}

/* Rows that are `stride` bytes apart, as dense ones. Returns 1 when something between them was written. */
static int close_rows(unsigned char *rows, size_t stride, const struct tn_add_product *p)
{
	int outside = 0;
	for (size_t i = 0; i < p->rows; i++) {
		for (size_t at = p->cols * 2; at < stride; at++)
			outside |= rows[i * stride + at] != 0x5A;
		memmove(rows + i * p->cols * 2, rows + i * stride, p->cols * 2);
	}
	return outside;
}

/* Rows at the end of guarded memory; `in_place` or into others, `shift` bytes off, or if not they begin at lines. */
static void check_isa(const struct tn_kernels *k, const struct tn_add_product *p, const uint16_t *w, const uint16_t *want,
		      int bad, int in_place, size_t shift)
{
	size_t bytes = p->rows * p->cols * 2, stride = in_place || shift ? p->cols * 2 : (p->cols * 2 + 63) / 64 * 64;
	size_t scratch_bytes = p->row_magnitude ? tn_gain_product_scratch(p->rank, p->cols) : tn_add_product_scratch(p->rank, p->cols);
	struct tt_guard from, to, scratch;
	tt_guard_make(&from, bytes + shift);
	tt_guard_make(&to, p->rows * stride + shift);
	tt_guard_make(&scratch, (scratch_bytes + 63) / 64 * 64);
	memcpy(from.at_end, w, bytes);
	unsigned char *dst = in_place ? from.at_end : to.at_end;
	memset(dst + bytes, 0x5A, shift);
	if (!in_place)
		memset(dst, 0x5A, p->rows * stride);
	int got = k->add_product(dst, stride, from.at_end, p->cols * 2, p, scratch.at_end);
	int outside = 0;
	for (size_t i = 0; i < shift; i++)
		outside |= dst[bytes + i] != 0x5A;
	outside |= close_rows(dst, stride, p);
	if ((memcmp(dst, want, bytes) != 0 || got != bad || outside) && failures++ < 10) {
		size_t at = 0;
		while (at < p->rows * p->cols && memcmp(dst + 2 * at, want + at, 2) == 0)
			at++;
		printf("FAIL %s: %zu x %zu rank %zu scale %g dtype %d width %d magnitudes %d, in place %d, off by %zu: other bits than "
		       "portable first at %zu, not finite %d and %d, outside %d\n", k->isa, p->rows, p->cols, p->rank, p->scale,
		       (int)p->dtype, (int)p->width, p->row_magnitude != NULL, in_place, shift, at, got, bad, outside);
	}
	tt_guard_free(&from);
	tt_guard_free(&to);
	tt_guard_free(&scratch);
}

static const struct tn_kernels *chosen[16];
static size_t chosen_count;

static void check_case(struct tn_add_product *p, enum style style, size_t number)
{
	static uint16_t w[MOST_ROWS * MOST_COLS], want[MOST_ROWS * MOST_COLS];
	static float scratch[1 << 22];
	const struct tn_kernels *portable = tn_kernels_for("portable");
	make_factors(p, style);
	make_source(p, style, w);
	make_magnitudes(p, style);
	for (int with = 0; with < 2; with++) {
		p->row_magnitude = with ? magnitudes : NULL;
		int bad = portable->add_product(want, p->cols * 2, w, p->cols * 2, p, scratch);
		check_definition(p, w, want, bad);
		for (size_t i = 0; i < chosen_count; i++)
			check_isa(chosen[i], p, w, want, bad, (int)(number % 2), number % 3 * 2);
	}
}

static void check_all(void)
{
	static const size_t cols[] = { 1, 7, 16, 64, 65, 130, 511, 512, 513, 1100 }, rows[] = { 1, 5, 6, 13, 61 };
	static const size_t ranks[] = { 1, 2, 3, 8, 16, 31, 70 };
	static const double scales[] = { 1, 2, 0.7, -1.3, -2, 0.5, 0x1p-10 };
	size_t number = 0;
	for (size_t c = 0; c < sizeof cols / sizeof *cols; c++)
		for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++)
			for (int form = 0; form < 6; form++, number++) {
				struct tn_add_product p = { .a = factor_a, .b = factor_b, .rank = ranks[r], .cols = cols[c],
							    .rows = rows[number % 5], .scale = scales[number / 5 % 7],
							    .dtype = form % 2 ? TN_F16 : TN_BF16,
							    .width = (enum tn_factor_width)(form / 2) };
				check_case(&p, (enum style)(number / 7 % STYLES), number);
			}
	/* so much that it is written past the caches, by whole lines and a tile that is half of one; ranks whose columns are packed
	 * in parts */
	for (int form = 0; form < 12; form++, number++) {
		struct tn_add_product p = { .a = factor_a, .b = factor_b, .rank = form / 6 ? 128 : 16, .cols = form / 3 % 2 ? 1083 : 1088,
					    .rows = 509, .scale = form % 3 ? 2 : 0.7, .dtype = form % 2 ? TN_F16 : TN_BF16,
					    .width = (enum tn_factor_width)(form % 3) };
		check_case(&p, form % 4 ? USUAL : CANCELLED, 0);
	}
	/* so wide that even rows with magnitudes are summed in parts */
	for (int form = 0; form < 3; form++, number++) {
		struct tn_add_product p = { .a = factor_a, .b = factor_b, .rank = 120, .cols = WIDE_COLS, .rows = WIDE_ROWS, .scale = 2,
					    .dtype = form % 2 ? TN_F16 : TN_BF16, .width = (enum tn_factor_width)form };
		check_case(&p, USUAL, number);
	}
}

int main(int argc, char **argv)
{
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const char *isa = tn_kernels_isa_name(i);
		int wanted = argc < 2;
		for (int a = 1; a < argc; a++)
			wanted |= strcmp(argv[a], isa) == 0;
		if (!wanted)
			continue;
		if (!tn_kernels_for(isa))
			printf("NOT RUN %s: this CPU cannot\n", isa);
		else
			chosen[chosen_count++] = tn_kernels_for(isa);
	}
	check_all();
	for (size_t i = 0; i < chosen_count; i++)
		printf("checked %s\n", chosen[i]->isa);
	return failures != 0;
}
