/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a product in tiles: every load of A serves four rows. The sums begin with the first k, as those of lowrank_f32, and are
 * rounded as often: multiplications and additions are fused only where no product is rounded, and vdpbf16ps, which adds the
 * product of the upper halves before the other, takes subnormal numbers for zero, so it is left to factors that make none. */
#include "kernels/vector/lowrank_tiles.h"
#include "kernels/vector/vector.h"

/* As many sums as leave registers for what is multiplied. */
enum { ROWS = TN_ROWS_AT_ONCE, VECTORS = LANES == 4 ? 4 : 2, COLS = VECTORS * LANES };

/* How A was packed and is multiplied: `paired` are two rows of BF16 in one, the first in the upper halves. */
enum how { ROUND_BOTH, FUSED, PAIRED_ROUND_BOTH, PAIRED_AT_ONCE };

TN_INLINE int packs_pairs(enum tn_factor_width width)
{
#if defined(TN_FAST_PAIRS)
	return width == TN_FACTORS_BF16;
#else
	(void)width;
	return 0;
#endif
}

/* ---- packing --------------------------------------------------------------------------------------------- */

TN_INLINE size_t steps_of(enum tn_factor_width width, size_t rank)
{
	return packs_pairs(width) ? (rank + 1) / 2 : rank;
}

size_t TN_ISA_NAME(tn_vector_lowrank_bytes)(enum tn_factor_width width, size_t rank, size_t cols)
{
	return (steps_of(width, rank) * ((cols + COLS - 1) / COLS) * COLS * sizeof(float) + 63) / 64 * 64;
}

/* The smallest magnitude that is not 0; or 0 where one is so large that a product of two such could overflow. */
static float least_of(const float *values, size_t n)
{
	const uint32_t most = (127u + 60u) << 23;
	uint32_t least = 0x7F800000u, large = 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t u = tn_f32_bits(values[i]) & 0x7FFFFFFFu;
		large |= u > most;
		u = u ? u : 0x7F800000u;
		least = u < least ? u : least;
	}
	return large ? 0 : tn_f32_from_bits(least);
}

/* Tiles of COLS columns, [steps][COLS] each, zeros behind the last column. */
float TN_ISA_NAME(tn_vector_lowrank_pack)(void *packed, const float *a, enum tn_factor_width width, size_t rank, size_t cols)
{
	uint32_t *dst = packed;
	int pairs = packs_pairs(width);
	for (size_t j = 0; j < cols; j += COLS)
		for (size_t k = 0; k < rank; k += pairs ? 2 : 1, dst += COLS) {
			const float *first = a + k * cols + j, *second = pairs && k + 1 < rank ? first + cols : NULL;
			size_t n = cols - j < COLS ? cols - j : COLS;
			memset(dst, 0, COLS * sizeof *dst);
			memcpy(dst, first, n * sizeof *dst);
			for (size_t l = 0; second && l < n; l++)
				dst[l] |= tn_f32_bits(second[l]) >> 16;
		}
	return least_of(a, rank * cols);
}

/* ---- tiles ----------------------------------------------------------------------------------------------- */

TN_INLINE floats multiply_add(floats a, floats b, floats sum, enum how how)
{
#if defined(TN_FAST_PAIRS)
	if (how == PAIRED_AT_ONCE)
		return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_castps_si512(b), (__m512bh)_mm512_castps_si512(a));
#endif
	return how == FUSED ? FMA(b, a, sum) : ADD(sum, MUL(b, a));
}

/* b [count][steps], or where pairs are taken apart [count][rank]. */
TN_INLINE void sum_tile(floats sum[ROWS][VECTORS], const float *a, const float *b, size_t rank, size_t steps, const int count,
			enum how how)
{
	const size_t stride = how == PAIRED_AT_ONCE ? steps : rank;
	TN_UNROLL(4)
	for (int r = 0; r < count; r++)
		TN_UNROLL(4)
		for (int v = 0; v < VECTORS; v++)
			sum[r][v] = ZERO();
	for (size_t k = 0; k < steps; k++, a += COLS) {
		floats x[VECTORS];
		TN_UNROLL(4)
		for (int v = 0; v < VECTORS; v++)
			x[v] = LOAD(a + v * LANES);
		TN_UNROLL(4)
		for (int r = 0; r < count; r++) {
			const float *at = b + (size_t)r * stride;
			TN_UNROLL(4)
			for (int v = 0; v < VECTORS; v++) {
				if (how != PAIRED_ROUND_BOTH) {
					sum[r][v] = multiply_add(x[v], SPREAD(at[k]), sum[r][v], how);
					continue;
				}
				floats apart[2];
				split_pairs(apart, x[v]);
				sum[r][v] = multiply_add(apart[1], SPREAD(at[2 * k]), sum[r][v], ROUND_BOTH);
				if (2 * k + 1 < rank)
					sum[r][v] = multiply_add(apart[0], SPREAD(at[2 * k + 1]), sum[r][v], ROUND_BOTH);
			}
		}
	}
}

TN_INLINE void sum_rows(float *dst, size_t stride, const struct tn_lowrank *p, const float *b, const int count, enum how how)
{
	const float *a = p->packed;
	const size_t steps = steps_of(p->width, p->rank);
	for (size_t j = 0; j < p->cols; j += COLS, a += steps * COLS) {
		floats sum[ROWS][VECTORS];
		size_t n = p->cols - j;
		sum_tile(sum, a, b, p->rank, steps, count, how);
		for (int r = 0; r < count; r++) {
			float copy[COLS], *at = dst + (size_t)r * stride + j, *to = n < COLS ? copy : at;
			TN_UNROLL(4)
			for (int v = 0; v < VECTORS; v++)
				STORE(to + v * LANES, sum[r][v]);
			if (n < COLS)
				memcpy(at, copy, n * sizeof *copy);
		}
	}
}

TN_INLINE void sum_rows_of(float *dst, size_t stride, const struct tn_lowrank *p, const float *b, size_t rows, enum how how)
{
	const size_t width = how == PAIRED_AT_ONCE ? (p->rank + 1) / 2 : p->rank;
	if (rows == ROWS) {
		sum_rows(dst, stride, p, b, ROWS, how);
		return;
	}
	for (size_t i = 0; i < rows; i++)
		sum_rows(dst + i * stride, stride, p, b + i * width, 1, how);
}

/* ---- the way --------------------------------------------------------------------------------------------- */

/* Where neither factor has a magnitude that is smaller, all products are multiples of a number that is not subnormal, and so are
 * their sums; and where none is too large, no product overflows that a fused sum would take as it is. */
static enum how how_for(const struct tn_lowrank *p, const float *b, size_t n)
{
	uint32_t used = 0;
	for (size_t i = 0; i < n; i++)
		used |= tn_f32_bits(b[i]);
	int plain = p->least * least_of(b, n) >= 0x1p-96f;
	if (packs_pairs(p->width))
		return plain && !(used & 0xFFFFu) ? PAIRED_AT_ONCE : PAIRED_ROUND_BOTH;
	return plain && p->width != TN_FACTORS_WIDE && !(used & 0xFFFu) ? FUSED : ROUND_BOTH;
}

#if defined(TN_FAST_PAIRS)
static void pair_rows(uint32_t *dst, const float *b, size_t rows, size_t rank)
{
	for (size_t i = 0; i < rows; i++, b += rank)
		for (size_t k = 0; k < rank; k += 2)
			*dst++ = tn_f32_bits(b[k]) | (k + 1 < rank ? tn_f32_bits(b[k + 1]) >> 16 : 0);
}
#endif

void TN_ISA_NAME(tn_vector_lowrank_rows)(float *dst, size_t dst_stride, const struct tn_lowrank *p, const float *b, size_t rows,
				      void *scratch)
{
	switch (how_for(p, b, rows * p->rank)) {
#if defined(TN_FAST_PAIRS)
	case PAIRED_AT_ONCE:
		pair_rows(scratch, b, rows, p->rank);
		sum_rows_of(dst, dst_stride, p, scratch, rows, PAIRED_AT_ONCE);
		break;
	case PAIRED_ROUND_BOTH: sum_rows_of(dst, dst_stride, p, b, rows, PAIRED_ROUND_BOTH); break;
#endif
	case FUSED: sum_rows_of(dst, dst_stride, p, b, rows, FUSED); break;
	default:
		(void)scratch;
		sum_rows_of(dst, dst_stride, p, b, rows, ROUND_BOTH);
		break;
	}
}
