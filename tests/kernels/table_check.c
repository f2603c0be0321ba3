/* SPDX-License-Identifier: Apache-2.0 */
/* The codec `table` of every instruction set that this CPU can run: rows decode to the bits of the portable one, whatever codes and
 * scales are; products of any number of x are those of the decoded rows, and with one x no row's depends on the rows beside it;
 * inside guard pages.
 *
 *   table_check             check
 *   table_check ISA...      only these */
#include "testlib.h"

#include "base/half.h"
#include "kernels/kernels.h"
#include "weights/nf4.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 9, MOST_COLS = 2304, MOST_M = 13 };

static int failures;
static uint64_t seed = 5;

static void complain(const char *isa, const char *what, const struct tn_format *f, size_t cols, size_t m, double error)
{
	if (failures++ < 20)
		printf("FAIL %s: %s, %d bits (kind %d) by %d, dtype %d, %zu columns, %zu vectors: %g\n", isa, what, f->bits, f->code_kind,
		       f->group, (int)f->dtype, cols, m, error);
}

static float some_float(void)
{
	return (float)((double)(int64_t)tt_random(&seed) / 9.2e18);
}

/* Ordinary scales and numbers; or also NaN, infinite and tiny scales, and codes that are NaN. */
enum filling { ORDINARY, ANYTHING };

struct matrix {
	struct tt_guard codes, scales;
	struct tn_rows rows;
};

static float some_scale(enum filling filling, size_t i)
{
	static const uint32_t odd[] = { 0x7F800000u, 0xFFC12345u, 0x7FFFFFFFu, 1u, 0x007FFFFFu, 0x7F7FFFFFu, 0x7B800000u, 0u, 0x80000000u };
	if (filling == ANYTHING && i % 7 == 3)
		return tn_f32_from_bits(odd[i / 7 % (sizeof odd / sizeof *odd)]);
	if (filling == ANYTHING && i % 7 == 5)
		return tn_f32_from_bits((uint32_t)tt_random(&seed));
	return some_float() * (i % 2 ? 0.02f : 3.0f);
}

static void make_matrix(struct matrix *w, const struct tn_kernels *k, const struct tn_format *f, size_t cols, enum filling filling)
{
	const struct tn_codec *codec = k->codec[TN_CODEC_table];
	size_t bytes = codec->part_bytes(f, TN_PART_WEIGHT, cols), scales = codec->part_bytes(f, TN_PART_SCALES, cols);
	tt_guard_make(&w->codes, ROWS * bytes);
	tt_guard_make(&w->scales, ROWS * scales);
	w->rows = (struct tn_rows){ { { w->codes.at_end, w->scales.at_end } }, { bytes, scales } };
	for (size_t i = 0; i < ROWS * bytes; i++) {
		w->codes.at_end[i] = (unsigned char)(tt_random(&seed) >> 32);
		if (filling == ORDINARY && f->code_kind == TN_CODES_E4M3 && (w->codes.at_end[i] & 0x7F) == 0x7F)
			w->codes.at_end[i] = 0x7E;
	}
	for (size_t i = 0; i < ROWS * scales / sizeof(float); i++) {
		float scale = some_scale(filling, i);
		memcpy(w->scales.at_end + i * sizeof scale, &scale, sizeof scale);
	}
}

static struct tn_row row_at(const struct matrix *w, size_t i)
{
	return (struct tn_row){ { w->codes.at_end + i * w->rows.stride[0], w->scales.at_end + i * w->rows.stride[1] } };
}

/* What NaN times NaN says is that of either. */
static int same_float(float a, float b)
{
	return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

static void check_decode(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *f, size_t cols)
{
	struct matrix w;
	struct tt_guard got;
	static float want[MOST_COLS];
	make_matrix(&w, k, f, cols, ANYTHING);
	tt_guard_make(&got, cols * sizeof(float));
	for (size_t r = 0; r < ROWS; r++) {
		struct tn_row row = row_at(&w, r);
		const float *values = (const float *)(const void *)got.at_end;
		k->codec[TN_CODEC_table]->decode((float *)(void *)got.at_end, &row, f, cols);
		portable->codec[TN_CODEC_table]->decode(want, &row, f, cols);
		for (size_t i = 0; i < cols; i++)
			if (!same_float(values[i], want[i])) {
				complain(k->isa, "decodes to other bits than portable", f, cols, i, (double)values[i]);
				break;
			}
	}
	tt_guard_free(&got);
	tt_guard_free(&w.codes);
	tt_guard_free(&w.scales);
}

/* Of the row's sum in double; what is not finite must not be either way. */
static double error_of(const float *values, const float *x, size_t cols, float y)
{
	double sum = 0, terms = 0;
	for (size_t i = 0; i < cols; i++) {
		sum += (double)values[i] * (double)x[i];
		terms += fabs((double)values[i] * (double)x[i]);
	}
	if (!(terms < 1e37)) /* sums of float32 overflow, or not, by their order */
		return isfinite(terms) ? 0 : isfinite(y) ? HUGE_VAL : 0;
	return terms > 1e-30 ? fabs((double)y - sum) / terms : 0;
}

static void check_product(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *f, size_t cols,
			  size_t m, enum filling filling)
{
	struct matrix w;
	struct tt_guard xs, ys, prepared, scratch;
	static float values[MOST_COLS];
	const size_t x_stride = cols + 5, y_stride = ROWS + 2;
	const struct tn_product p = { f, cols, m, TN_PRECISION_EXACT, TN_F32 };
	make_matrix(&w, k, f, cols, filling);
	tt_guard_make(&xs, ((m - 1) * x_stride + cols) * sizeof(float));
	tt_guard_make(&ys, ((m - 1) * y_stride + ROWS) * sizeof(float));
	tt_guard_make(&prepared, (k->product_bytes(&p) + 63) / 64 * 64);
	tt_guard_make(&scratch, (k->product_scratch_bytes(&p) + 63) / 64 * 64);
	float *x = (float *)(void *)xs.at_end, *y = (float *)(void *)ys.at_end;
	for (size_t i = 0; i < (m - 1) * x_stride + cols; i++)
		x[i] = some_float();
	if (k->product_bytes(&p) % 64)
		complain(k->isa, "product_bytes is no multiple of 64", f, cols, m, 0);
	k->product_prepare(prepared.at_end, &p, &(struct tn_vectors){ x, x_stride, 0, m });
	k->product_rows(y, y_stride, &p, prepared.at_end, &w.rows, ROWS, scratch.at_end);
	for (size_t r = 0; r < ROWS; r++) {
		struct tn_row row = row_at(&w, r);
		portable->codec[TN_CODEC_table]->decode(values, &row, f, cols);
		for (size_t t = 0; t < m; t++) {
			double error = error_of(values, x + t * x_stride, cols, y[t * y_stride + r]);
			if (!(error <= 1e-6))
				complain(k->isa, "product_rows is off", f, cols, m, error);
		}
	}
	for (size_t r = 0; r < ROWS && m == 1; r++) {
		const struct tn_rows alone = { row_at(&w, r), { w.rows.stride[0], w.rows.stride[1] } };
		float one;
		k->product_rows(&one, 1, &p, prepared.at_end, &alone, 1, scratch.at_end);
		if (!same_float(one, y[r]))
			complain(k->isa, "a row's product depends on the rows beside it", f, cols, m, (double)one - (double)y[r]);
	}
	tt_guard_free(&prepared);
	tt_guard_free(&scratch);
	tt_guard_free(&xs);
	tt_guard_free(&ys);
	tt_guard_free(&w.codes);
	tt_guard_free(&w.scales);
}

static void check_format(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *f)
{
	static const size_t many[] = { 1, 2, 5, MOST_M };
	for (size_t groups = 1; groups <= 5 && groups * f->group <= MOST_COLS; groups += groups < 3 ? 1 : 2) {
		size_t cols = groups * f->group;
		check_decode(k, portable, f, cols);
		for (size_t i = 0; i < sizeof many / sizeof *many; i++) {
			check_product(k, portable, f, cols, many[i], ORDINARY);
			check_product(k, portable, f, cols, many[i], ANYTHING);
		}
	}
	if (MOST_COLS % f->group == 0) /* in several pieces */
		for (size_t i = 0; i < sizeof many / sizeof *many; i++)
			check_product(k, portable, f, MOST_COLS, many[i], ORDINARY);
}

/* nf4; its levels with a factor and one that is NaN; E4M3, int8 of bitsandbytes. */
static void check_tables(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	static const uint16_t groups[] = { 16, 32, 64, 128, 256, 1024 };
	static float nf4[256], odd[256], e4m3[256], whole[256];
	for (unsigned i = 0; i < 256; i++) {
		nf4[i] = odd[i] = i < 16 ? tn_nf4_levels[i] : 0;
		e4m3[i] = tn_f32_from_f8_e4m3((uint8_t)i);
		whole[i] = (float)(int8_t)(uint8_t)i;
	}
	odd[3] = NAN;
	const struct tn_grid grids[] = {
		{ .table = nf4, .code_count = 16, .factor = 1 },
		{ .table = odd, .code_count = 16, .factor = 0.3f },
		{ .table = e4m3, .code_count = 256, .factor = 1 },
		{ .table = whole, .code_count = 256, .factor = 0x1.020408p-7f },
	};
	for (size_t t = 0; t < sizeof grids / sizeof *grids; t++)
		for (size_t g = 0; g < sizeof groups / sizeof *groups; g++)
			for (size_t d = 0; d < 3; d++) {
				struct tn_format f = { .codec = TN_CODEC_table, .dtype = dtypes[d], .group = groups[g], .grid = &grids[t],
						       .bits = t < 2 ? 4 : 8,
						       .code_kind = t == 2 ? TN_CODES_E4M3 : t == 3 ? TN_CODES_I8 : TN_CODES_ANY };
				check_format(k, portable, &f);
			}
}

int main(int argc, char **argv)
{
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		if (!tt_is_chosen(argc, argv, tn_kernels_isa_name(i)))
			continue;
		if (k)
			check_tables(k, tn_kernels_for("portable"));
		printf("%s %s\n", k ? "checked" : "NOT RUN", tn_kernels_isa_name(i));
	}
	return failures != 0;
}
