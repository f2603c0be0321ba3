/* SPDX-License-Identifier: Apache-2.0 */
/* How far changed rows went in given directions; change_rows.c and kernels.h say what is computed. BF16 in pairs: the odd column in
 * the upper half of a lane, which vdpbf16ps adds first. */
#include "kernels/vector/lowrank_tiles.h"
#include "kernels/vector/vector.h"

/* Directions at a time: as many as leave room for their sums. */
enum { ROWS = TN_ROWS_AT_ONCE, BLOCK = TN_DIRECTION_COLS, WIDTH = LANES == 8 ? 2 : 4, PARTS = 16 / LANES };

#if defined(TN_FAST_PAIRS)
typedef __m512i pairs;
TN_INLINE pairs load_words(const uint16_t *p)
{
	return _mm512_loadu_si512(p);
}

TN_INLINE floats add_products(floats sum, pairs u, pairs x)
{
	return _mm512_dpbf16_ps(sum, (__m512bh)u, (__m512bh)x);
}
#else
typedef struct {
	floats odd, even;
} pairs;

TN_INLINE pairs load_words(const uint16_t *p)
{
	floats v[2];
	load_pairs(v, (const unsigned char *)p);
	return (pairs){ v[1], v[0] };
}

/* Products of BF16 are exact. */
TN_INLINE floats add_products(floats sum, pairs u, pairs x)
{
	return FMA(u.even, x.even, FMA(u.odd, x.odd, sum));
}
#endif

/* Sums of LANES of the 16 lanes, those of the words from the first on. */
TN_INLINE void project_part(floats sum[ROWS][WIDTH], const uint16_t *directions, size_t rank, size_t blocks, const uint16_t *halves,
			    size_t stride, const int rows, const int width)
{
	TN_UNROLL(4)
	for (int r = 0; r < rows; r++)
		TN_UNROLL(4)
		for (int k = 0; k < width; k++)
			sum[r][k] = ZERO();
	for (size_t i = 0; i < blocks; i++, directions += rank * BLOCK, halves += BLOCK) {
		pairs u[WIDTH];
		TN_UNROLL(4)
		for (int k = 0; k < width; k++)
			u[k] = load_words(directions + k * BLOCK);
		TN_UNROLL(4)
		for (int r = 0; r < rows; r++) {
			pairs x = load_words(halves + (size_t)r * stride);
			TN_UNROLL(4)
			for (int k = 0; k < width; k++)
				sum[r][k] = add_products(sum[r][k], u[k], x);
		}
	}
}

/* Lanes half of all 16 apart, then half of those. */
TN_INLINE float sum_lanes(floats v[PARTS])
{
	for (int apart = PARTS / 2; apart; apart /= 2)
		for (int p = 0; p < apart; p++)
			v[p] = ADD(v[p], v[p + apart]);
	return sum_by_halves(v[0]);
}

TN_INLINE void project_tile(float *dst, const uint16_t *directions, size_t rank, size_t blocks, const uint16_t *halves,
			    size_t stride, const int rows, const int width)
{
	floats sum[PARTS][ROWS][WIDTH];
	TN_UNROLL(4)
	for (int p = 0; p < PARTS; p++)
		project_part(sum[p], directions + p * 2 * LANES, rank, blocks, halves + p * 2 * LANES, stride, rows, width);
	for (int r = 0; r < rows; r++)
		for (int k = 0; k < width; k++) {
			floats lanes[PARTS];
			TN_UNROLL(4)
			for (int p = 0; p < PARTS; p++)
				lanes[p] = sum[p][r][k];
			dst[(size_t)r * rank + (size_t)k] = sum_lanes(lanes);
		}
}

TN_INLINE void project(float *dst, const uint16_t *directions, size_t rank, size_t blocks, const uint16_t *halves, size_t stride,
		       const int rows)
{
	size_t k = 0;
	for (; k + WIDTH <= rank; k += WIDTH)
		project_tile(dst + k, directions + k * BLOCK, rank, blocks, halves, stride, rows, WIDTH);
	for (; k < rank; k++)
		project_tile(dst + k, directions + k * BLOCK, rank, blocks, halves, stride, rows, 1);
}

void TN_ISA_NAME(tn_vector_project_rows)(float *dst, const uint16_t *directions, size_t rank, size_t cols, const uint16_t *halves,
					 size_t stride, size_t rows)
{
	size_t blocks = (cols + BLOCK - 1) / BLOCK, i = 0;
	for (; i + ROWS <= rows; i += ROWS)
		project(dst + i * rank, directions, rank, blocks, halves + i * stride, stride, ROWS);
	for (; i < rows; i++)
		project(dst + i * rank, directions, rank, blocks, halves + i * stride, stride, 1);
}
