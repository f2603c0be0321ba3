/* Tiles of a product B A: TILE_ROWS rows of B by TILE_COLS columns of A, which are packed once for many rows. Every load of A
 * serves all rows of a tile. With few sums at a time a CPU begins with the next tile while it rounds and stores the last one; with
 * 24 of them it did one after the other. */
#ifndef TN_TILES_H
#define TN_TILES_H

#include "kernels/add_product.h"

#if defined(__x86_64__)
#include "kernels/x86/tiles_x86.h"
#else
#include "kernels/arm/tiles_arm.h"
#endif

/* Whether the first vector of a tile has its even columns and the second one the odd ones, as halves are widened and rounded in
 * fewer operations; else the columns are in order, and put_apart() is not called. */
#if !defined(APART)
#define APART(dtype) 0
#define put_apart(v) ((void)(v))
/* The numbers of a tile, rounded. Where that is easier they may be off by one where a sum is halfway between two; such sums are
 * `tied`. */
TN_INLINE pair round_pair(pair *ties, const vec v[VECTORS], tn_dtype dtype)
{
	(void)ties;
	return narrow_pair(v[0], v[1], dtype);
}
#define TIED(ties, dtype) 0
#endif

/* Sums beside which what they were rounded to is kept too. */
#if !defined(LOWER_HALVES)
TN_INLINE void keep_sums(float kept[2 * LANES], const vec v[VECTORS], tn_dtype dtype)
{
	(void)dtype;
	STORE(kept, v[0]);
	STORE(kept + LANES, v[1]);
}

TN_INLINE void kept_sums(vec v[VECTORS], const float kept[2 * LANES], pair out, tn_dtype dtype)
{
	(void)out;
	(void)dtype;
	v[0] = LOAD(kept);
	v[1] = LOAD(kept + LANES);
}
#endif

enum {
	TILE_COLS = LANES * VECTORS,
	LINE_BYTES = 2 * TILE_COLS * TILES_OF_LINE,
	AHEAD = TILE_ROWS,     /* rows of the source that are asked for into the second cache */
	STREAM_FROM = 1 << 20  /* bytes that are written past the caches */
};

/* How products are summed: with two roundings, one, or as pairs of BF16. */
enum how { ROUND_BOTH, FUSED, PAIRS };

static inline enum how how_for(const struct tn_add_product *p)
{
#if defined(TN_FAST_PAIRS)
	if (p->width == TN_FACTORS_BF16)
		return PAIRS;
#endif
	return p->width == TN_FACTORS_WIDE ? ROUND_BOTH : FUSED;
}

/* ---- packing --------------------------------------------------------------------------------------------- */

/* A step of a tile: columns of a row of A; with PAIRS those of the next row too, in the high halves. */
TN_INLINE void pack_step(float *dst, const float *row, const float *next, enum how how, int apart)
{
	vec v[VECTORS] = { LOAD(row), LOAD(row + LANES) };
#if defined(TN_FAST_PAIRS)
	if (how == PAIRS) {
		v[0] = paired(v[0], LOAD(next));
		v[1] = paired(v[1], LOAD(next + LANES));
	}
#endif
	(void)next;
	(void)how;
	if (apart)
		put_apart(v);
	STORE(dst, v[0]);
	STORE(dst + LANES, v[1]);
}

/* The columns of A from `first` on as a tile, rows in the order of the sum, and the squares of their lengths. */
TN_INLINE float *pack_tile(float *dst, float *squares, const struct tn_add_product *p, size_t first, enum how how, int apart)
{
	static const float none[TILE_COLS];
	vec length[VECTORS] = { ZERO(), ZERO() };
	for (size_t k = 0; k < p->rank; k++) {
		const float *row = p->a + k * p->cols + first;
		TN_UNROLL(2)
		for (int v = 0; v < VECTORS; v++)
			length[v] = ADD(length[v], MUL(LOAD(row + v * LANES), LOAD(row + v * LANES)));
		if (how != PAIRS)
			pack_step(dst + swapped(k, p->rank) * TILE_COLS, row, NULL, how, apart);
		else if (k % 2 == 0)
			pack_step(dst + k / 2 * TILE_COLS, row, k + 1 < p->rank ? row + p->cols : none, how, apart);
	}
	STORE(squares, length[0]);
	STORE(squares + LANES, length[1]);
	return dst + (how == PAIRS ? (p->rank + 1) / 2 : p->rank) * TILE_COLS;
}

/* The last n columns, zeros behind them. */
static inline void pack_last_tile(float *dst, float *squares, const struct tn_add_product *p, size_t first, size_t n, enum how how,
				  int apart)
{
	static const float none[TILE_COLS];
	float row[2][TILE_COLS] = { { 0 } };
	for (size_t l = 0; l < TILE_COLS; l++)
		squares[l] = 0;
	for (size_t k = 0; k < p->rank; k++) {
		memcpy(row[k % 2], p->a + k * p->cols + first, n * sizeof **row);
		for (size_t l = 0; l < n; l++)
			squares[l] += row[k % 2][l] * row[k % 2][l];
		if (how != PAIRS)
			pack_step(dst + swapped(k, p->rank) * TILE_COLS, row[k % 2], NULL, how, apart);
		else if (k % 2 || k + 1 == p->rank)
			pack_step(dst + k / 2 * TILE_COLS, row[0], k % 2 ? row[1] : none, how, apart);
	}
}

/* A panel of A as tiles [TILE_COLS] under each other, and the length of its longest column. */
TN_INLINE float pack_panel_as(float *dst, const struct tn_add_product *p, size_t first, enum how how)
{
	const int apart = APART(p->dtype);
	float squares[TN_PANEL_COLS];
	size_t j = 0, cols = panel_cols(p, first);
	for (; j + TILE_COLS <= cols; j += TILE_COLS)
		dst = pack_tile(dst, squares + j, p, first + j, how, apart);
	if (j < cols)
		pack_last_tile(dst, squares + j, p, first + j, cols - j, how, apart);
	return longest_of(p, first, squares);
}

static inline float pack_panel(float *dst, const struct tn_add_product *p, size_t first, enum how how)
{
#if defined(TN_FAST_PAIRS)
	if (how == PAIRS)
		return pack_panel_as(dst, p, first, PAIRS);
#endif
	return pack_panel_as(dst, p, first, how == ROUND_BOTH ? ROUND_BOTH : FUSED);
}

/* `rows` rows of B beside each other, as the tiles multiply by them; pairs: of BF16. */
TN_INLINE void pack_rows(float *dst, const float *b, size_t rows, size_t rank, float scale, int pairs)
{
	for (size_t i = 0; i < rows; i++, b += rank, dst++) {
		size_t k = 0;
		for (float *to = dst; k + 1 < rank; k += 2) {
			float low = scale * b[k], high = scale * b[k + 1];
			to[0] = pairs ? tn_f32_from_bits(tn_f32_bits(low) >> 16 | (tn_f32_bits(high) & 0xFFFF0000u)) : high;
			if (!pairs)
				to[rows] = low;
			to += pairs ? rows : 2 * rows;
		}
		if (rank % 2) {
			float last = scale * b[k];
			dst[(pairs ? k / 2 : k) * rows] = pairs ? tn_f32_from_bits(tn_f32_bits(last) >> 16) : last;
		}
	}
}

/* ---- sums ------------------------------------------------------------------------------------------------ */

/* sum + a * *b in every lane; PAIRS: both products of each, the odd one first. */
TN_INLINE vec multiply_add(vec a, const float *b, vec sum, enum how how)
{
#if defined(TN_FAST_PAIRS)
	if (how == PAIRS)
		return add_pairs(sum, a, b);
#endif
	vec spread = SPREAD(*b);
	return how == ROUND_BOTH ? ADD(sum, MUL(spread, a)) : FMA(spread, a, sum);
}

/* The sums of `count` rows of B by a tile of A, packed, `steps` long; stride: rows of B that were packed together. Returns the end
 * of A. */
TN_INLINE const float *sum_tile(vec sum[][VECTORS], const float *b, size_t stride, const float *a, size_t steps, const int count,
				enum how how)
{
	TN_UNROLL(8)
	for (int r = 0; r < count; r++)
		TN_UNROLL(2)
		for (int v = 0; v < VECTORS; v++)
			sum[r][v] = ZERO();
	for (; steps; steps--, a += TILE_COLS, b += stride) {
		vec x[VECTORS];
		TN_UNROLL(2)
		for (int v = 0; v < VECTORS; v++)
			x[v] = LOAD(a + v * LANES);
		TN_UNROLL(8)
		for (int r = 0; r < count; r++)
			TN_UNROLL(2)
			for (int v = 0; v < VECTORS; v++)
				sum[r][v] = multiply_add(x[v], b + r, sum[r][v], how);
	}
	return a;
}

/* v = w + scale * v. */
TN_INLINE void add_source(vec v[VECTORS], pair w, vec scale, tn_dtype dtype, int scaled)
{
	vec wide[VECTORS];
	widen_pair(wide, w, dtype);
	TN_UNROLL(2)
	for (int i = 0; i < VECTORS; i++)
		v[i] = ADD(wide[i], scaled ? MUL(scale, v[i]) : v[i]);
}

#endif
