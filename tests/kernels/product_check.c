/* SPDX-License-Identifier: Apache-2.0 */
/* Products of every instruction set that this CPU can run, against sums in double of the decoded rows: every codec in every
 * form, every precision that is offered, inside guard pages, on memory no better aligned than the kernels ask for.
 *
 *   product_check           check
 *   product_check ISA...    only these
 */
#include "testlib.h"

#include "base/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 9, MANY_ROWS = 135, MANY_M = 67, MANY_COLS = 384, MOST_M = 5, MOST_COLS = 640, MOST_RANK = 80, WIDE_COLS = 2176, WIDE_M = 19 };

static int failures;
static uint64_t seed = 11;

static const struct {
	enum tn_precision precision;
	double limit;
} precisions[] = {
	{ TN_PRECISION_EXACT, 1e-5 },
	/* aims, and what single unlucky sums of short rows may add to them */
	{ TN_PRECISION_16, 5e-4 },
	{ TN_PRECISION_INT8, 4e-2 },
};

static void complain(const char *isa, const char *what, const struct tn_format *f, size_t cols, size_t m, double error)
{
	if (failures++ < 20)
		printf("FAIL %s %s, codec %d of %d bits by %d (dtype %d), %zu columns, %zu vectors: off by %g\n", isa, what,
		       f ? (int)f->codec : -1, f ? f->bits : 0, f ? f->group : 0, f ? (int)f->dtype : 0, cols, m, error);
}

/* x as a value of that dtype. */
static float round_to(float x, tn_dtype dtype)
{
	return dtype == TN_BF16 ? tn_f32_from_bf16(tn_bf16_from_f32(x)) : dtype == TN_F16 ? tn_f32_from_f16(tn_f16_from_f32(x)) : x;
}

static float some_float(void)
{
	return (float)((double)(int64_t)tt_random(&seed) / 9.2e18);
}

/* Encoded rows at the end of guarded memory, and what they decode to. */
struct matrix {
	struct tt_guard guard[TN_PART_COUNT];
	struct tn_rows rows;
	double values[MANY_ROWS][WIDE_COLS];
};

/* RANDOM numbers; or the LARGEST codes, so that with equal x the sums of a group are as large as they can be. */
enum filling { RANDOM, LARGEST };

static void make_matrix(struct matrix *w, const struct tn_kernels *portable, const struct tn_format *f, size_t rows,
			size_t cols, enum filling filling)
{
	const struct tn_codec *codec = portable->codec[f->codec];
	static float row[WIDE_COLS];
	memset(&w->rows, 0, sizeof w->rows);
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		size_t bytes = p == TN_PART_BIASES && !codec->has_biases ? 0 : codec->part_bytes(f, p, cols);
		tt_guard_make(&w->guard[p], rows * bytes);
		w->rows.stride[p] = bytes;
		w->rows.first.part[p] = bytes ? w->guard[p].at_end : NULL;
	}
	for (size_t i = 0; i < rows; i++) {
		struct tn_row_out out = { { NULL } };
		struct tn_row in = { { NULL } };
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			if (w->rows.stride[p])
				in.part[p] = out.part[p] = w->guard[p].at_end + i * w->rows.stride[p];
		for (size_t j = 0; j < cols; j++)
			row[j] = some_float();
		codec->encode(&out, row, f, cols);
		if (filling == LARGEST)
			memset(out.part[TN_PART_WEIGHT], f->codec == TN_CODEC_affine ? 0xFF : 0x77, w->rows.stride[TN_PART_WEIGHT]);
		codec->decode(row, &in, f, cols);
		for (size_t j = 0; j < cols; j++)
			w->values[i][j] = (double)row[j];
	}
}

static void free_matrix(struct matrix *w)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		tt_guard_free(&w->guard[p]);
}

/* The largest error of y against the sums in double, in units of the largest sum; where all nearly cancel, of a tenth of what
 * they are made of. */
static double error_of(const struct matrix *w, const float *x, size_t x_stride, const float *y, size_t y_stride, size_t rows,
		       size_t cols, size_t m)
{
	double top = 0, error = 0;
	for (size_t t = 0; t < m; t++)
		for (size_t i = 0; i < rows; i++) {
			double sum = 0, terms = 0;
			for (size_t j = 0; j < cols; j++) {
				sum += w->values[i][j] * (double)x[t * x_stride + j];
				terms += fabs(w->values[i][j] * (double)x[t * x_stride + j]);
			}
			top = fmax(top, fmax(fabs(sum), terms / 10));
			error = fmax(error, isfinite(y[t * y_stride + i]) ? fabs(sum - (double)y[t * y_stride + i]) : HUGE_VAL);
		}
	return top > 0 ? error / top : error;
}

static void check_product(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *f, size_t rows,
			  size_t cols, size_t m, tn_dtype x_dtype, enum filling filling)
{
	static struct matrix w;
	struct tt_guard xs, ys, prepared, scratch;
	size_t x_stride = cols + 3, y_stride = rows + 2;
	make_matrix(&w, portable, f, rows, cols, filling);
	tt_guard_make(&xs, ((m - 1) * x_stride + cols) * sizeof(float));
	tt_guard_make(&ys, ((m - 1) * y_stride + rows) * sizeof(float));
	float *x = (float *)(void *)xs.at_end, *y = (float *)(void *)ys.at_end;
	for (size_t i = 0; i < (m - 1) * x_stride + cols; i++)
		x[i] = filling == LARGEST ? 1 : round_to(some_float(), x_dtype);
	for (size_t i = 0; i < sizeof precisions / sizeof *precisions; i++) {
		struct tn_product p = { f, cols, m, precisions[i].precision, x_dtype };
		tt_guard_make(&prepared, (k->product_bytes(&p) + 63) / 64 * 64);
		tt_guard_make(&scratch, (k->product_scratch_bytes(&p) + 63) / 64 * 64);
		for (size_t j = 0; j < (m - 1) * y_stride + rows; j++)
			y[j] = -7;
		if (k->product_bytes(&p) % 64)
			complain(k->isa, "product_bytes is no multiple of 64", f, cols, m, 0);
		/* as workers may: each piece by itself, in whatever order */
		for (size_t first = (m - 1) / TN_PREPARED_TOGETHER * TN_PREPARED_TOGETHER, end = m;; end = first,
		     first -= TN_PREPARED_TOGETHER) {
			k->product_prepare(prepared.at_end, &p, &(struct tn_vectors){ x, x_stride, first, end - first });
			if (first == 0)
				break;
		}
		k->product_rows(y, y_stride, &p, prepared.at_end, &w.rows, rows, scratch.at_end);
		double error = error_of(&w, x, x_stride, y, y_stride, rows, cols, m);
		if (!(error <= precisions[i].limit))
			complain(k->isa, "product_rows", f, cols, m, error);
		for (size_t t = 0; t + 1 < m; t++)
			for (size_t j = rows; j < y_stride; j++)
				if (!(y[t * y_stride + j] == -7))
					complain(k->isa, "product_rows writes beside the result", f, cols, m, 0);
		tt_guard_free(&prepared);
		tt_guard_free(&scratch);
	}
	free_matrix(&w);
	tt_guard_free(&xs);
	tt_guard_free(&ys);
}

static void check_format(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *f)
{
	static const tn_dtype x_dtypes[] = { TN_F32, TN_BF16, TN_F16 };
	size_t unit = f->group ? f->group : 1;
	static const size_t dense[] = { 1, 7, 16, 33, 64, 100, 257, 512 };
	for (size_t i = 0; i < sizeof dense / sizeof *dense; i++) {
		size_t cols = f->group ? (i + 1) * unit : dense[i];
		if (cols > MOST_COLS)
			break;
		check_product(k, portable, f, 1 + i % MOST_ROWS, cols, 1 + i % MOST_M, x_dtypes[i % 3], RANDOM);
		check_product(k, portable, f, MOST_ROWS, cols, 1, TN_F32, RANDOM);
	}
	if (f->bits == 4)
		check_product(k, portable, f, MOST_ROWS, MANY_COLS, WIDE_M, TN_F32, LARGEST);
	for (size_t i = 0; i < 3; i++) {
		check_product(k, portable, f, MOST_ROWS, WIDE_COLS, WIDE_M + i * 4, x_dtypes[i], RANDOM); /* in several pieces */
		if (f->group && f->bits <= 4) /* in several blocks */
			check_product(k, portable, f, MANY_ROWS, MANY_COLS, MANY_M, x_dtypes[i], RANDOM);
	}
}

static void check_products(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	for (int c = 0; c < TN_CODEC_grid; c++) /* which needs more than a format */
		for (int form = 0; form < 3 * 2; form++) {
			const struct tn_codec *codec = k->codec[c];
			struct tn_format f = { .codec = (enum tn_codec_id)c, .dtype = dtypes[form % 3],
					       .has_global_scale = (uint8_t)(form / 3), .global_scale = 3.5f };
			if (f.has_global_scale && !codec->takes_global_scale)
				continue;
			if (!codec->bits[0])
				check_format(k, portable, &f);
			for (int b = 0; b < 8 && codec->bits[b]; b++)
				for (int g = 0; g < 4 && codec->groups[g]; g++) {
					f.bits = codec->bits[b];
					f.group = codec->groups[g];
					check_format(k, portable, &f);
				}
		}
}

/* ---- factors --------------------------------------------------------------------------------------------- */

static void make_factor(struct tt_guard *g, tn_dtype dtype, size_t n, double *values)
{
	tt_guard_make(g, n * tn_dtype_bits(dtype) / 8);
	for (size_t i = 0; i < n; i++) {
		float x = some_float();
		uint16_t h = dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
		if (dtype == TN_F32)
			memcpy(g->at_end + i * sizeof x, &x, sizeof x);
		else
			memcpy(g->at_end + i * sizeof h, &h, sizeof h);
		values[i] = dtype == TN_F32 ? (double)x : (double)(dtype == TN_BF16 ? tn_f32_from_bf16(h) : tn_f32_from_f16(h));
	}
}

/* x [m, n] times F [rows, n]^T, by lora_shrink, or by lora_expand on top of ones. */
static void check_factor(const struct tn_kernels *k, tn_dtype dtype, size_t rows, size_t n, size_t m, int expands)
{
	static double values[MOST_RANK * MOST_COLS];
	struct tt_guard factor, xs, ys;
	size_t x_stride = n + 1, y_stride = rows + 2;
	double top = 1e-3, error = 0, scale = expands ? 0.75 : 1, base = expands ? 1 : 0;
	make_factor(&factor, dtype, rows * n, values);
	tt_guard_make(&xs, ((m - 1) * x_stride + n) * sizeof(float));
	tt_guard_make(&ys, ((m - 1) * y_stride + rows) * sizeof(float));
	float *x = (float *)(void *)xs.at_end, *y = (float *)(void *)ys.at_end;
	for (size_t i = 0; i < (m - 1) * x_stride + n; i++)
		x[i] = some_float();
	for (size_t i = 0; i < (m - 1) * y_stride + rows; i++)
		y[i] = 1;
	if (expands)
		k->lora_expand(y, y_stride, factor.at_end, dtype, n, rows, x, x_stride, m, (float)scale);
	else
		k->lora_shrink(y, y_stride, factor.at_end, dtype, rows, n, x, x_stride, m);
	for (size_t t = 0; t < m; t++)
		for (size_t i = 0; i < y_stride && t * y_stride + i < (m - 1) * y_stride + rows; i++) {
			double sum = 0, squares = 0;
			for (size_t j = 0; j < n && i < rows; j++) {
				double product = values[i * n + j] * (double)x[t * x_stride + j];
				sum += product;
				squares += product * product;
			}
			double wanted = i < rows ? base + scale * sum : 1;
			top = fmax(top, fmax(fabs(wanted), fabs(scale) * sqrt(squares))); /* a single sum may be next to nothing */
			error = fmax(error, isfinite(y[t * y_stride + i]) ? fabs(wanted - (double)y[t * y_stride + i]) : HUGE_VAL);
		}
	if (!(error <= 1e-5 * top))
		complain(k->isa, expands ? "lora_expand" : "lora_shrink", NULL, n, m, error);
	tt_guard_free(&factor);
	tt_guard_free(&xs);
	tt_guard_free(&ys);
}

/* Ranks that fill vectors, blocks of rows and what is left of them, more rows of x than are spread at once. */
static void check_expand(const struct tn_kernels *k, tn_dtype dtype)
{
	static const size_t ranks[] = { 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160 }, rows[] = { 7, 8, 15, 16, 17, 40 };
	static const size_t many[] = { 1, 2, 4, 6, 16, 17, 35 };
	for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++)
		for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
			for (size_t m = 0; m < sizeof many / sizeof *many; m++)
				check_factor(k, dtype, rows[i], ranks[r], many[m], 1);
}

static void check_factors(const struct tn_kernels *k)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	static const size_t sizes[] = { 1, 3, 8, 16, 31, 64, 80, 260, 640 };
	for (size_t d = 0; d < 3; d++) {
		check_expand(k, dtypes[d]);
		for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
			for (size_t rank = 1; rank <= MOST_RANK; rank = rank < 9 ? rank + 1 : 2 * rank)
				for (size_t m = 1; m <= MOST_M; m += 2) {
					check_factor(k, dtypes[d], rank, sizes[i], m, 0);
					if (sizes[i] <= MOST_RANK)
						check_factor(k, dtypes[d], sizes[i], rank, m, 1);
				}
	}
}

/* One value that is not finite, anywhere. */
static void check_finite(const struct tn_kernels *k)
{
	static const struct {
		tn_dtype dtype;
		uint32_t largest, odd[3];
	} forms[] = { { TN_F32, 0x7F7FFFFFu, { 0x7F800000u, 0xFF800000u, 0x7FC00001u } },
		      { TN_F16, 0x7BFFu, { 0x7C00u, 0xFC00u, 0x7E01u } },
		      { TN_BF16, 0xFF7Fu, { 0x7F80u, 0xFF80u, 0x7FC1u } } };
	for (size_t d = 0; d < 3; d++)
		for (size_t n = 0; n < 150; n++) {
			struct tt_guard g;
			size_t unit = tn_dtype_bits(forms[d].dtype) / 8;
			tt_guard_make(&g, n * unit);
			for (size_t i = 0; i < n; i++)
				memcpy(g.at_end + i * unit, &forms[d].largest, unit);
			if (!k->all_finite(g.at_end, forms[d].dtype, n))
				complain(k->isa, "all_finite finds what is not there", NULL, n, 0, 0);
			for (size_t i = 0; i < n; i++) {
				memcpy(g.at_end + i * unit, &forms[d].odd[i % 3], unit);
				if (k->all_finite(g.at_end, forms[d].dtype, n))
					complain(k->isa, "all_finite misses", NULL, n, i, 0);
				memcpy(g.at_end + i * unit, &forms[d].largest, unit);
			}
			tt_guard_free(&g);
		}
}

int main(int argc, char **argv)
{
	const struct tn_kernels *portable = tn_kernels_for("portable");
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		if (!tt_is_chosen(argc, argv, tn_kernels_isa_name(i)))
			continue;
		if (!k) {
			printf("NOT RUN %s: this CPU cannot\n", tn_kernels_isa_name(i));
			continue;
		}
		check_products(k, portable);
		check_factors(k);
		check_finite(k);
		printf("checked %s\n", k->isa);
	}
	return failures != 0;
}
