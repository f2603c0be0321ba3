/* SPDX-License-Identifier: Apache-2.0 */
/* Products in float32. A single x meets rows of floats where they lie; everything else is decoded a piece at a time, into the
 * nearest cache, and multiplied in tiles of some rows and some x, so that every load serves several multiplications. Written
 * once for the vectors of every architecture (vector.h). */
#include "kernels/vector/dots.h"

#include "kernels/vector/vector.h"

/* Rows are read in blocks; this many blocks ahead their bytes are asked for, into the second cache. Nearer is too late. */
enum { AHEAD = 2 };

/* A piece of a row: what tiles work on at a time. */
enum { PIECE = 1024, PIECE_STRIDE = PIECE + 16 }; /* rows a power of two apart would push each other out of the cache */

size_t TN_ISA_NAME(tn_dots_scratch)(const struct tn_product *p)
{
	(void)p;
	return TN_DOTS_SCRATCH * sizeof(float);
}

/* ---- one x ----------------------------------------------------------------------------------------------- */

TN_INLINE void dot_dense(float *y, const unsigned char *row, size_t stride, const int n, const float *x, size_t cols,
			 tn_dtype dtype)
{
	floats sum[TN_DOTS_ROWS][2];
	size_t j = 0, size = dtype == TN_F32 ? 4 : 2;
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		sum[r][0] = sum[r][1] = ZERO();
	for (; j + 2 * LANES <= cols; j += 2 * LANES) {
		floats a = LOAD(x + j), b = LOAD(x + j + LANES);
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			const unsigned char *at = row + (size_t)r * stride;
			PREFETCH(at + j * size + AHEAD * (size_t)n * stride);
			if (dtype == TN_F32 && LANES == 16)
				PREFETCH(at + j * size + AHEAD * (size_t)n * stride + 64);
			sum[r][0] = FMA(load_floats(at, j, dtype), a, sum[r][0]);
			sum[r][1] = FMA(load_floats(at, j + LANES, dtype), b, sum[r][1]);
		}
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++) {
		float rest = 0;
		for (size_t i = j; i < cols; i++)
			rest += load_as(row + (size_t)r * stride, i, dtype) * x[i];
		y[r] = SUM(ADD(sum[r][0], sum[r][1])) + rest;
	}
}

TN_INLINE void dense_rows_as(float *y, const unsigned char *row, size_t stride, size_t rows, const float *x, size_t cols,
			     tn_dtype dtype)
{
	size_t i = 0;
	for (; i + TN_DOTS_ROWS <= rows; i += TN_DOTS_ROWS)
		dot_dense(y + i, row + i * stride, stride, TN_DOTS_ROWS, x, cols, dtype);
	for (; i < rows; i++)
		dot_dense(y + i, row + i * stride, stride, 1, x, cols, dtype);
}

static void dense_rows(float *y, const struct tn_rows *w, size_t rows, const float *x, size_t cols, tn_dtype dtype)
{
	const unsigned char *row = w->first.part[TN_PART_WEIGHT];
	size_t stride = w->stride[TN_PART_WEIGHT];
	if (dtype == TN_F32)
		dense_rows_as(y, row, stride, rows, x, cols, TN_F32);
	else if (dtype == TN_F16)
		dense_rows_as(y, row, stride, rows, x, cols, TN_F16);
	else
		dense_rows_as(y, row, stride, rows, x, cols, TN_BF16);
}

/* Affine codes of 8 bits: scale * (codes, x) + bias * (sum of x), group by group and lane by lane. */
TN_INLINE void dot_bytes(float *y, const struct tn_rows *w, size_t i, const int n, const float *x, size_t cols, size_t group,
			 tn_dtype dtype)
{
	const unsigned char *part[TN_DOTS_ROWS][TN_PART_COUNT];
	floats sum[TN_DOTS_ROWS];
	size_t ahead = AHEAD * (size_t)n * w->stride[TN_PART_WEIGHT];
	TN_UNROLL(4)
	for (int r = 0; r < n; r++) {
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			part[r][p] = (const unsigned char *)w->first.part[p] + (i + (size_t)r) * w->stride[p];
		sum[r] = ZERO();
	}
	for (size_t g = 0; g < cols / group; g++) {
		floats dot[TN_DOTS_ROWS], total = ZERO();
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			dot[r] = ZERO();
			PREFETCH(part[r][TN_PART_WEIGHT] + g * group + ahead);
		}
		for (size_t j = g * group; j < (g + 1) * group; j += LANES) {
			floats a = LOAD(x + j);
			total = ADD(total, a);
			TN_UNROLL(4)
			for (int r = 0; r < n; r++)
				dot[r] = FMA(load_bytes(part[r][TN_PART_WEIGHT] + j), a, dot[r]);
		}
		TN_UNROLL(4)
		for (int r = 0; r < n; r++) {
			floats bias = SPREAD(load_as(part[r][TN_PART_BIASES], g, dtype));
			sum[r] = FMA(dot[r], SPREAD(load_as(part[r][TN_PART_SCALES], g, dtype)), FMA(total, bias, sum[r]));
		}
	}
	TN_UNROLL(4)
	for (int r = 0; r < n; r++)
		y[r] = SUM(sum[r]);
}

TN_INLINE void byte_rows_as(float *y, const struct tn_rows *w, size_t rows, const float *x, size_t cols, size_t group,
			    tn_dtype dtype)
{
	size_t i = 0;
	for (; i + TN_DOTS_ROWS <= rows; i += TN_DOTS_ROWS)
		dot_bytes(y + i, w, i, TN_DOTS_ROWS, x, cols, group, dtype);
	for (; i < rows; i++)
		dot_bytes(y + i, w, i, 1, x, cols, group, dtype);
}

static void byte_rows(float *y, const struct tn_rows *w, size_t rows, const float *x, size_t cols, const struct tn_format *f)
{
	if (f->dtype == TN_F32)
		byte_rows_as(y, w, rows, x, cols, f->group, TN_F32);
	else if (f->dtype == TN_F16)
		byte_rows_as(y, w, rows, x, cols, f->group, TN_F16);
	else
		byte_rows_as(y, w, rows, x, cols, f->group, TN_BF16);
}

/* 1 when it was a product that needs no decoding: one x, and rows of floats or bytes. */
static int multiply_in_place(float *y, const struct tn_product *p, const float *x, const struct tn_rows *w, size_t rows)
{
	const struct tn_format *f = p->format;
	if (p->m != 1)
		return 0;
	if (f->codec == TN_CODEC_dense && (f->dtype == TN_F32 || f->dtype == TN_F16 || f->dtype == TN_BF16)) {
		dense_rows(y, w, rows, x, p->cols, f->dtype);
		return 1;
	}
	if (f->codec != TN_CODEC_affine || f->bits != 8 || f->like_mlx)
		return 0;
	byte_rows(y, w, rows, x, p->cols, f);
	return 1;
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

/* Sums of a tile, in whole vectors. */
enum { SUMS = (TN_DOTS_ROWS * TILE_X + LANES - 1) / LANES * LANES };

/* A piece of some rows, decoded: [TN_DOTS_ROWS][PIECE_STRIDE], n columns of it. */
TN_INLINE void tile(float *y, size_t y_stride, const float *w, const float *x, size_t x_stride, size_t n, const int rows,
		    const int many, int add)
{
	floats sum[SUMS];
	float all[SUMS]; /* a sum that a loop of unknown length reads would live in memory */
	size_t j = 0;
	TN_UNROLL(32)
	for (int i = 0; i < SUMS; i++)
		sum[i] = ZERO();
	for (; j + LANES <= n; j += LANES) {
		floats a[TN_DOTS_ROWS];
		TN_UNROLL(4)
		for (int r = 0; r < rows; r++)
			a[r] = LOAD(w + (size_t)r * PIECE_STRIDE + j);
		TN_UNROLL(6)
		for (int t = 0; t < many; t++) {
			floats b = LOAD(x + (size_t)t * x_stride + j);
			TN_UNROLL(4)
			for (int r = 0; r < rows; r++)
				sum[t * rows + r] = FMA(a[r], b, sum[t * rows + r]);
		}
	}
	TN_UNROLL(6)
	for (int i = 0; i < many * rows; i += LANES)
		STORE(all + i, add_rows(sum + i, LANES));
	for (int t = 0; t < many; t++)
		for (int r = 0; r < rows; r++) {
			float rest = 0, *to = y + (size_t)t * y_stride + r;
			for (size_t i = j; i < n; i++)
				rest += w[(size_t)r * PIECE_STRIDE + i] * x[(size_t)t * x_stride + i];
			*to = (add ? *to : 0) + (all[t * rows + r] + rest);
		}
}

/* Decoded rows times all x, in tiles of nearly the same width: a narrow one loads as many rows for fewer products. */
TN_INLINE void tiles(float *y, size_t y_stride, const float *w, const struct tn_prepared *x, size_t first, size_t n, size_t m,
		     const int rows, int add)
{
	size_t left = (m + TILE_X - 1) / TILE_X, many;
	for (size_t t = 0; t < m; t += many, left--) {
		float *to = y + t * y_stride;
		const float *from = x->x + t * x->stride + first;
		many = (m - t + left - 1) / left;
		if (many == TILE_X)
			tile(to, y_stride, w, from, x->stride, n, rows, TILE_X, add);
		else if (TILE_X > 5 && many == 5)
			tile(to, y_stride, w, from, x->stride, n, rows, 5, add);
		else if (TILE_X > 4 && many == 4)
			tile(to, y_stride, w, from, x->stride, n, rows, 4, add);
		else if (TILE_X > 3 && many == 3)
			tile(to, y_stride, w, from, x->stride, n, rows, 3, add);
		else if (many == 2)
			tile(to, y_stride, w, from, x->stride, n, rows, 2, add);
		else
			tile(to, y_stride, w, from, x->stride, n, rows, 1, add);
	}
}

#define CODEC(name) extern const struct tn_codec TN_ISA_NAME(tn_codec_##name);
#include "kernels/codecs.def"
#undef CODEC

static const struct tn_codec *const codecs[TN_CODEC_COUNT] = {
#define CODEC(name) [TN_CODEC_##name] = &TN_ISA_NAME(tn_codec_##name),
#include "kernels/codecs.def"
#undef CODEC
};

/* Columns first to first + n of row i. */
static void decode_piece(float *dst, const struct tn_product *p, const struct tn_rows *w, size_t i, size_t first, size_t n)
{
	const struct tn_codec *codec = codecs[p->format->codec];
	struct tn_row row = { { NULL } };
	for (unsigned part = 0; part < TN_PART_COUNT; part++)
		if (w->first.part[part])
			row.part[part] = (const unsigned char *)w->first.part[part] + i * w->stride[part] +
					 codec->part_bytes(p->format, part, first);
	DECODE(dst, &row, p->format, n);
}

/* Asks for the same piece of the rows behind, or for the next piece of the first ones, while tiles multiply. */
static void ask_ahead(const struct tn_product *p, const struct tn_rows *w, size_t rows, size_t next, size_t first, size_t n)
{
	const struct tn_codec *codec = codecs[p->format->codec];
	if (next >= rows) {
		next = 0;
		first += n;
		n = p->cols - first < n ? p->cols - first : n;
	}
	size_t begin = codec->part_bytes(p->format, TN_PART_WEIGHT, first);
	size_t end = codec->part_bytes(p->format, TN_PART_WEIGHT, first + n);
	for (size_t r = next; r < rows && r < next + TN_DOTS_ROWS; r++) {
		const unsigned char *row = (const unsigned char *)w->first.part[TN_PART_WEIGHT] + r * w->stride[TN_PART_WEIGHT];
		for (size_t at = begin; at < end; at += 64)
			PREFETCH(row + at);
	}
}

/* Pieces outside, so that those of x stay in a near cache while the rows go by. */
void TN_ISA_NAME(tn_dots_rows)(float *y, size_t y_stride, const struct tn_product *p, const struct tn_prepared *x,
			       const struct tn_rows *w, size_t rows, float *scratch)
{
	if (multiply_in_place(y, p, x->x, w, rows))
		return;
	for (size_t first = 0; first < p->cols; first += PIECE) {
		size_t n = p->cols - first < PIECE ? p->cols - first : PIECE;
		for (size_t i = 0, count; i < rows; i += count) {
			count = rows - i >= TN_DOTS_ROWS ? TN_DOTS_ROWS : 1;
			for (size_t r = 0; r < count; r++)
				decode_piece(scratch + r * PIECE_STRIDE, p, w, i + r, first, n);
			ask_ahead(p, w, rows, i + count, first, n);
			if (count == TN_DOTS_ROWS)
				tiles(y + i, y_stride, scratch, x, first, n, p->m, TN_DOTS_ROWS, first > 0);
			else
				tiles(y + i, y_stride, scratch, x, first, n, p->m, 1, first > 0);
		}
	}
	for (size_t t = 0; t < p->m && p->cols == 0; t++)
		memset(y + t * y_stride, 0, rows * sizeof *y);
}
