/* SPDX-License-Identifier: Apache-2.0 */
/* The kernels of a fuse on a grid: rows of a product, what became of changed rows, and how far they went in some directions. Every
 * usable instruction set against portable, bit by bit, and portable against what the comments say. */
#include "testlib.h"

#include "base/half.h"
#include "kernels/kernels.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RANK = 17, COLS = 2100, ROWS = TN_ROWS_AT_ONCE, STRIDE = COLS + 44, CANARY = 0x5A };

static int failures;
static uint64_t state = 11;

static void complain(const char *isa, const char *kernel, size_t n, size_t more, const char *what)
{
	failures++;
	printf("%s %s (%zu, %zu): %s\n", isa, kernel, n, more, what);
}

/* With so many bits below the first one, now and then 0; of two powers of two. */
static float some_float(unsigned drop, float size)
{
	uint64_t r = tt_random(&state);
	float x = (float)(int64_t)r * 0x1p-63f * (r & 0x400 ? size : 1);
	return r % 37 == 0 ? 0 : tn_f32_from_bits(tn_f32_bits(x) & ~((1u << drop) - 1));
}

static void *memory(size_t bytes)
{
	void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
	assert_non_null(p);
	return p;
}

/* ---- rows of a product ----------------------------------------------------------------------------------- */

/* How many low bits of the factors are 0, and the other size that they have: with some of them products are subnormal, or
 * overflow. */
static const struct {
	enum tn_factor_width width;
	unsigned a, b;
	float size;
} factors[] = {
	{ TN_FACTORS_WIDE, 0, 0, 1 },	{ TN_FACTORS_SHORT, 12, 12, 1 }, { TN_FACTORS_SHORT, 12, 12, 0x1p-70f },
	{ TN_FACTORS_SHORT, 12, 0, 1 }, { TN_FACTORS_BF16, 16, 16, 1 },	 { TN_FACTORS_BF16, 16, 16, 0x1p-66f },
	{ TN_FACTORS_BF16, 16, 12, 1 }, { TN_FACTORS_BF16, 16, 0, 1 },	 { TN_FACTORS_WIDE, 16, 16, 0x1p-80f },
	{ TN_FACTORS_SHORT, 12, 12, 0x1p65f }, { TN_FACTORS_BF16, 16, 16, 0x1p65f },
};

static void check_rows(const struct tn_kernels *k, const struct tn_kernels *portable, size_t f, size_t rank, size_t cols)
{
	static float a[RANK * COLS], b[ROWS * RANK], got[ROWS * STRIDE], want[COLS];
	float scratch[ROWS * RANK];
	for (size_t i = 0; i < rank * cols; i++)
		a[i] = some_float(factors[f].a, factors[f].size);
	for (size_t i = 0; i < ROWS * rank; i++)
		b[i] = some_float(factors[f].b, factors[f].size);
	struct tn_lowrank p = { a, memory(k->lowrank_bytes(factors[f].width, rank, cols)), 0, rank, cols, factors[f].width };
	p.least = k->lowrank_pack((void *)(uintptr_t)p.packed, a, p.width, rank, cols);
	for (size_t rows = 1; rows <= ROWS; rows++) {
		memset(got, CANARY, sizeof got);
		k->lowrank_rows(got, STRIDE, &p, b, rows, scratch);
		for (size_t i = 0; i < rows; i++) {
			const unsigned char *behind = (const unsigned char *)(got + i * STRIDE + cols);
			portable->lowrank_f32(want, a, b + i * rank, rank, cols);
			if (memcmp(got + i * STRIDE, want, cols * sizeof *want) != 0)
				complain(k->isa, "lowrank_rows", rank, cols, "other bits than portable's lowrank_f32");
			if (behind[0] != CANARY || behind[3] != CANARY)
				complain(k->isa, "lowrank_rows", rank, cols, "writes behind its columns");
		}
	}
	free((void *)(uintptr_t)p.packed);
}

static void check_products(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	static const size_t ranks[] = { 1, 2, 3, 8, RANK }, widths[] = { 1, 15, 16, 17, 32, 33, 64, 100, 575 };
	for (size_t f = 0; f < sizeof factors / sizeof *factors; f++)
		for (size_t r = 0; r < sizeof ranks / sizeof *ranks; r++)
			for (size_t c = 0; c < sizeof widths / sizeof *widths; c++)
				check_rows(k, portable, f, ranks[r], widths[c]);
}

/* ---- changes --------------------------------------------------------------------------------------------- */

static int is_near(double x, double y)
{
	return fabs(x - y) <= 1e-5 * fabs(y) + 1e-30;
}

/* `size` makes some changes subnormal, which count as 0. */
static void check_sums(const struct tn_kernels *k, const struct tn_kernels *portable, size_t n, float size)
{
	static float before[COLS], after[COLS], wanted[COLS];
	static uint16_t halves[2][STRIDE];
	struct tn_change_sums sums[2] = { { 1, 2, 3 }, { 1, 2, 3 } }, exact = { 1, 2, 3 };
	size_t padded = (n + TN_DIRECTION_COLS - 1) / TN_DIRECTION_COLS * TN_DIRECTION_COLS;
	for (size_t i = 0; i < n; i++) {
		before[i] = size == 1 ? some_float(0, 1) : 0;
		after[i] = some_float(0, size) * 1.25f;
		wanted[i] = some_float(0, 1);
		double d = (double)wanted[i], e = (double)(after[i] - before[i]) - d;
		exact.wanted2 += d * d;
		exact.error2 += e * e;
		exact.both += fabs(e * d);
	}
	memset(halves, CANARY, sizeof halves);
	k->change_sums(&sums[0], halves[0], before, after, wanted, n);
	portable->change_sums(&sums[1], halves[1], before, after, wanted, n);
	if (memcmp(&sums[0], &sums[1], sizeof *sums) != 0 || memcmp(halves[0], halves[1], sizeof *halves) != 0)
		complain(k->isa, "change_sums", n, 0, "other bits than portable");
	if (!is_near(sums[0].wanted2, exact.wanted2) || !is_near(sums[0].error2, exact.error2) || fabs(sums[0].both) > exact.both + 6)
		complain(k->isa, "change_sums", n, 0, "not the sums that its comment defines");
	for (size_t i = 0; i < padded + 1; i++) {
		float change = i < n ? after[i] - before[i] : 0;
		uint16_t want = fabsf(change) < 0x1p-126f ? (uint16_t)(tn_f32_bits(change) >> 16 & 0x8000u) : tn_bf16_from_f32(change);
		if (halves[0][i] != (i < padded ? want : CANARY * 0x101))
			complain(k->isa, "change_sums", n, i, "not the change in BF16");
	}
}

/* Two rows of codes, their scales and biases, against their values. */
static void check_codes(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *f, size_t cols)
{
	static unsigned char part[2][TN_PART_COUNT][COLS * 4];
	static float values[2][COLS], wanted[COLS];
	static uint16_t halves[2][STRIDE];
	const struct tn_codec *codec = k->codec[f->codec], *plain = portable->codec[f->codec];
	struct tn_change_sums got = { 1, 2, 3 }, want = { 1, 2, 3 };
	struct tn_row rows[2];
	for (int r = 0; r < 2; r++) {
		for (size_t i = 0; i < cols; i++)
			values[r][i] = some_float(0, 1);
		struct tn_row_out out = { { part[r][0], part[r][1], part[r][2] } };
		rows[r] = (struct tn_row){ { part[r][0], part[r][1], part[r][2] } };
		plain->encode(&out, values[r], f, cols);
		plain->decode(values[r], &rows[r], f, cols);
	}
	for (size_t i = 0; i < cols; i++)
		wanted[i] = some_float(0, 1);
	memset(halves, CANARY, sizeof halves);
	if (!codec->change_sums || !codec->change_sums(&got, halves[0], &rows[0], &rows[1], f, wanted, cols))
		return;
	portable->change_sums(&want, halves[1], values[0], values[1], wanted, cols);
	if (memcmp(&got, &want, sizeof got) != 0 || memcmp(halves[0], halves[1], sizeof *halves) != 0)
		complain(k->isa, "change_sums of codes", cols, f->group, "other bits than of their values");
}

static void check_formats(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	for (uint16_t group = 32; group <= 128; group *= 2)
		for (int d = 0; d < 3; d++)
			for (uint8_t bits = 3; bits <= 8; bits += bits == 5 ? 3 : 1)
				for (size_t n = 1; n <= COLS / group; n += n < 4 ? 1 : 5) {
					struct tn_format f = { .codec = TN_CODEC_affine, .dtype = dtypes[d], .bits = bits, .group = group };
					check_codes(k, portable, &f, n * group);
				}
}

/* ---- rows that are written again ------------------------------------------------------------------------- */

/* Rows of a format by the kernels that `refit` stands for. */
static void refit_apart(const struct tn_kernels *k, struct tn_refit *r, const struct tn_row_out *dst, const struct tn_row *src,
			const struct tn_format *f, size_t cols)
{
	static float w[COLS], before[COLS], after[COLS];
	static uint16_t sums[COLS];
	struct tn_format as_mlx = *f;
	const struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = f->dtype };
	const struct tn_row rows = { { sums } }, result = { { dst->part[0], dst->part[1], dst->part[2] } };
	as_mlx.like_mlx = 1;
	k->codec[f->codec]->decode(w, src, &as_mlx, cols);
	k->round_sums(sums, w, r->product, r->product_dtype, f->dtype, cols);
	k->codec[TN_CODEC_dense]->decode(w, &rows, &dense, cols);
	k->codec[f->codec]->encode(dst, w, f, cols);
	k->codec[f->codec]->decode(before, src, f, cols);
	k->codec[f->codec]->decode(after, &result, f, cols);
	k->change_sums(&r->sums, r->halves, before, after, r->wanted, cols);
	for (size_t i = 0; i < cols * f->bits / 8; i++) {
		unsigned x = ((const unsigned char *)src->part[0])[i] ^ ((const unsigned char *)dst->part[0])[i];
		r->moved += f->bits == 8 ? x != 0 : (uint64_t)((x & 15) != 0) + (x >> 4 != 0);
	}
}

/* A row and what is added to it; by `kind` with products of 0, with subnormal ones, with infinity, with NaN, with tiny scales. */
static void make_row(const struct tn_kernels *portable, unsigned char part[TN_PART_COUNT][COLS * 4], float *product, float *wanted,
		     const struct tn_format *f, size_t cols, int kind)
{
	static float values[COLS];
	for (size_t i = 0; i < cols; i++) {
		values[i] = some_float(0, 1) * 0.01f + (i / f->group % 5 == 1 ? 0.02f : 0);
		product[i] = kind == 1 && i % 90 < 45 ? 0 : some_float(0, 1) * (kind == 2 ? 0x1p-127f : 0.001f);
		wanted[i] = some_float(0, 1) * 0.001f;
	}
	if (kind == 3)
		product[cols / 2] = INFINITY;
	if (kind == 4)
		product[cols / 3] = tn_f32_from_bits(0xFFFFFFFFu);
	for (size_t i = 0; kind == 5 && i < f->group; i++)
		values[i] *= 0x1p-118f;
	struct tn_row_out out = { { part[0], part[1], part[2] } };
	portable->codec[f->codec]->encode(&out, values, f, cols);
	for (size_t g = 0; kind == 5 && g < cols / f->group; g++)
		((uint16_t *)(void *)part[TN_PART_SCALES])[g] = f->dtype == TN_BF16 ? 0x0120 : 1;
}

static uint64_t refit_count;

static void check_refit(const struct tn_kernels *k, const struct tn_kernels *portable, const struct tn_format *f, size_t cols,
			tn_dtype product_dtype, int kind)
{
	static _Alignas(4) unsigned char part[TN_PART_COUNT][COLS * 4], got[TN_PART_COUNT][COLS * 4], want[TN_PART_COUNT][COLS * 4];
	static float product[COLS], wanted[COLS];
	static uint16_t halves[2][STRIDE];
	const struct tn_row row = { { part[0], part[1], part[2] } };
	const struct tn_row_out out[] = { { { got[0], got[1], got[2] } }, { { want[0], want[1], want[2] } } };
	struct tn_refit r[] = { { product, product_dtype, wanted, halves[0], { 1, 2, 3 }, 4 },
				{ product, product_dtype, wanted, halves[1], { 1, 2, 3 }, 4 } };
	make_row(portable, part, product, wanted, f, cols, kind);
	memset(got, CANARY, sizeof got);
	memset(want, CANARY, sizeof want);
	memset(halves, CANARY, sizeof halves);
	if (!k->codec[f->codec]->refit || !k->codec[f->codec]->refit(&r[0], &out[0], &row, f, cols))
		return;
	refit_count += kind < 2;
	refit_apart(portable, &r[1], &out[1], &row, f, cols);
	if (memcmp(got, want, sizeof got) != 0)
		complain(k->isa, "refit", cols, f->group, "other bytes than the kernels one after the other");
	if (memcmp(&r[0].sums, &r[1].sums, sizeof r[0].sums) != 0 || memcmp(halves[0], halves[1], sizeof *halves) != 0)
		complain(k->isa, "refit", cols, f->group, "other changes than the kernels one after the other");
	if (r[0].moved != r[1].moved)
		complain(k->isa, "refit", cols, f->group, "counts other codes");
}

static void check_refits(const struct tn_kernels *k, const struct tn_kernels *portable)
{
	static const struct tn_format formats[] = {
		{ .codec = TN_CODEC_affine, .bits = 4 },
		{ .codec = TN_CODEC_affine, .bits = 8 },
		{ .codec = TN_CODEC_affine, .bits = 3 },
	};
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	const uint64_t before = refit_count;
	for (size_t i = 0; i < sizeof formats / sizeof *formats; i++)
		for (uint16_t group = 32; group <= 128; group *= 2)
			for (int d = 1; d < 3; d++)
				for (size_t n = 1; n <= COLS / group; n += n < 4 ? 1 : 5)
					for (int kind = 0; kind < 18; kind++) {
						struct tn_format f = formats[i];
						f.dtype = dtypes[d];
						f.group = group;
						check_refit(k, portable, &f, n * group, dtypes[kind % 3], kind / 3);
					}
	if (k->codec[TN_CODEC_affine]->refit && refit_count == before)
		complain(k->isa, "refit", 0, 0, "never does it");
}

/* ---- sums that are written ------------------------------------------------------------------------------- */

static void check_rounded(const struct tn_kernels *k, const struct tn_kernels *portable, size_t n)
{
	static const tn_dtype dtypes[] = { TN_F32, TN_F16, TN_BF16 };
	static const float odd[] = { 0, -0.0f, 0x1p-130f, 65519.0f, 65520.0f, 0x1.FEp127f, 0x1.FFp127f, INFINITY, -INFINITY };
	static float w[COLS], d[COLS];
	static uint16_t got[COLS + 1], want[COLS + 1];
	for (size_t i = 0; i < n; i++) {
		w[i] = i % 41 == 7 ? odd[i % 9] : some_float(0, 0x1p-20f);
		d[i] = i % 43 == 9 ? odd[i % 9] : some_float(0, 0x1p-20f);
		d[i] = n > 1000 && i % 400 == 3 ? tn_f32_from_bits(0xFFFFFFFFu) : d[i];
	}
	for (int p = 0; p < 3; p++)
		for (int t = 1; t < 3; t++) {
			memset(got, CANARY, sizeof got);
			memset(want, CANARY, sizeof want);
			k->round_sums(got, w, d, dtypes[p], dtypes[t], n);
			portable->round_sums(want, w, d, dtypes[p], dtypes[t], n);
			if (memcmp(got, want, sizeof got) != 0)
				complain(k->isa, "round_sums", n, (size_t)(3 * p + t), "other bits than portable");
			for (size_t i = 0; i < n; i++) {
				float x = p == 1 ? tn_f32_from_f16(tn_f16_from_f32(d[i])) : p ? tn_f32_from_bf16(tn_bf16_from_f32(d[i])) : d[i];
				float y = w[i] + (t == 1 ? tn_f32_from_f16(tn_f16_from_f32(x)) : tn_f32_from_bf16(tn_bf16_from_f32(x)));
				if (got[i] != (t == 1 ? tn_f16_from_f32(y) : tn_bf16_from_f32(y)))
					complain(k->isa, "round_sums", n, i, "not the sum that its comment defines");
			}
		}
}

/* ---- directions ------------------------------------------------------------------------------------------ */

static void check_directions(const struct tn_kernels *k, const struct tn_kernels *portable, size_t rank, size_t cols)
{
	size_t padded = (cols + TN_DIRECTION_COLS - 1) / TN_DIRECTION_COLS * TN_DIRECTION_COLS;
	static uint16_t directions[RANK * STRIDE], halves[ROWS * STRIDE];
	float got[ROWS * RANK + 1], want[ROWS * RANK + 1];
	for (size_t i = 0; i < rank * padded; i++)
		directions[i] = tn_bf16_from_f32(some_float(0, 1));
	for (size_t i = 0; i < ROWS * STRIDE; i++)
		halves[i] = i % STRIDE < cols ? tn_bf16_from_f32(some_float(0, 1)) : 0;
	for (size_t rows = 1; rows <= ROWS; rows++) {
		memset(got, CANARY, sizeof got);
		memset(want, CANARY, sizeof want);
		k->project_rows(got, directions, rank, cols, halves, STRIDE, rows);
		portable->project_rows(want, directions, rank, cols, halves, STRIDE, rows);
		if (memcmp(got, want, sizeof got) != 0)
			complain(k->isa, "project_rows", rank, cols, "other bits than portable");
		for (size_t i = 0; i < rows * rank; i++) {
			double sum = 0, size = 0;
			for (size_t j = 0; j < cols; j++) {
				const uint16_t *block = directions + j / TN_DIRECTION_COLS * rank * TN_DIRECTION_COLS;
				double term = (double)tn_f32_from_bf16(block[i % rank * TN_DIRECTION_COLS + j % TN_DIRECTION_COLS]) *
					      (double)tn_f32_from_bf16(halves[i / rank * STRIDE + j]);
				sum += term;
				size += fabs(term);
			}
			if (fabs(sum - (double)got[i]) > 1e-6 * size)
				complain(k->isa, "project_rows", rank, cols, "not the sum that its comment defines");
		}
	}
}

int main(void)
{
	static const size_t widths[] = { 1, 16, 31, 32, 33, 96, 1000, TN_CHANGE_RUN, TN_CHANGE_RUN + 1, COLS };
	const struct tn_kernels *portable = tn_kernels_for("portable");
	for (unsigned i = 0; tn_kernels_isa_name(i); i++) {
		const struct tn_kernels *k = tn_kernels_for(tn_kernels_isa_name(i));
		if (!k) {
			printf("NOT RUN: %s\n", tn_kernels_isa_name(i));
			continue;
		}
		check_products(k, portable);
		check_formats(k, portable);
		check_refits(k, portable);
		for (size_t c = 0; c < sizeof widths / sizeof *widths; c++) {
			check_rounded(k, portable, widths[c]);
			check_sums(k, portable, widths[c], 1);
			check_sums(k, portable, widths[c], 0x1p-70f * 0x1p-60f);
			for (size_t rank = 1; rank <= RANK; rank += rank < 5 ? 1 : 6)
				check_directions(k, portable, rank, widths[c]);
		}
	}
	return failures != 0;
}
