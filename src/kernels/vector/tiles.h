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

enum {
	TILE_COLS = LANES * VECTORS,
	AHEAD = TILE_ROWS,     /* rows of the source that are asked for into the second cache */
	STREAM_FROM = 1 << 20  /* bytes that are written past the caches */
};

/* How products are summed: with two roundings, one, or as pairs of BF16. */
enum how { ROUND_BOTH, FUSED, PAIRS };

/* A power of two of usual size can multiply B in place of the sum: the same bits, but for the subnormal ones. */
static inline int moves_into_b(double scale)
{
	int exponent;
	return fabs(frexp(scale, &exponent)) == 0.5 && exponent > -16 && exponent <= 16;
}

static inline enum how how_for(const struct tn_add_product *p)
{
#if defined(TN_FAST_PAIRS)
	if (p->width == TN_FACTORS_BF16)
		return PAIRS;
#endif
	return p->width == TN_FACTORS_WIDE ? ROUND_BOTH : FUSED;
}

/* ---- packing --------------------------------------------------------------------------------------------- */

/* Columns of A as tiles [TILE_COLS] under each other, zeros behind its last column. */
static inline void pack_floats(float *dst, const struct tn_add_product *p, size_t first, size_t cols)
{
	for (size_t j = 0; j < cols; j += TILE_COLS) {
		size_t n = cols - j < TILE_COLS ? cols - j : TILE_COLS;
		for (size_t k = 0; k < p->rank; k++, dst += TILE_COLS) {
			memcpy(dst, p->a + swapped(k, p->rank) * p->cols + first + j, n * sizeof *dst);
			for (size_t l = n; l < TILE_COLS; l++)
				dst[l] = 0;
		}
	}
}

#if defined(TN_FAST_PAIRS)
/* The same as pairs of BF16: k in the low half, k + 1 in the high one. */
static inline void pack_pairs(float *dst, const struct tn_add_product *p, size_t first, size_t cols)
{
	for (size_t j = 0; j < cols; j += TILE_COLS) {
		size_t n = cols - j < TILE_COLS ? cols - j : TILE_COLS;
		for (size_t k = 0; k < p->rank; k += 2, dst += TILE_COLS) {
			const float *low = p->a + k * p->cols + first + j, *high = k + 1 < p->rank ? low + p->cols : NULL;
			for (size_t l = 0; l < n && high; l++)
				dst[l] = tn_f32_from_bits(tn_f32_bits(low[l]) >> 16 | (tn_f32_bits(high[l]) & 0xFFFF0000u));
			for (size_t l = 0; l < n && !high; l++)
				dst[l] = tn_f32_from_bits(tn_f32_bits(low[l]) >> 16);
			for (size_t l = n; l < TILE_COLS; l++)
				dst[l] = 0;
		}
	}
}
#endif

static inline void pack_tiles(float *dst, const struct tn_add_product *p, size_t first, size_t cols, enum how how)
{
#if defined(TN_FAST_PAIRS)
	if (how == PAIRS) {
		pack_pairs(dst, p, first, cols);
		return;
	}
#endif
	(void)how;
	pack_floats(dst, p, first, cols);
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
TN_INLINE void add_source(vec v[VECTORS], const void *w, vec scale, tn_dtype dtype, int scaled)
{
	vec wide[VECTORS];
	widen_pair(wide, w, dtype);
	TN_UNROLL(2)
	for (int i = 0; i < VECTORS; i++)
		v[i] = ADD(wide[i], scaled ? MUL(scale, v[i]) : v[i]);
}

#endif
