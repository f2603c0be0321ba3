/* SPDX-License-Identifier: Apache-2.0 */
/* The form in which rows of other libraries' matrices are worked on: one code in each byte, scales and zeros as float32.
 * Parts: codes [cols], scales [groups], zeros [groups]; format->grid says what they mean. Scales and zeros are not fitted
 * here: `encode` takes those that stand in the row. */
#include "kernels/dither.h"
#include "kernels/isa_build.h"

#include <string.h>

void TN_ISA_NAME(tn_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid);

static struct tn_grid grid_of_row(const struct tn_format *f, const void *scales, const void *zeros)
{
	struct tn_grid grid = *f->grid;
	grid.scales = scales;
	grid.zeros = grid.has_zeros ? zeros : NULL;
	return grid;
}

TN_INLINE float scale_of(const struct tn_grid *grid, size_t i)
{
	size_t g = grid->group_of ? grid->group_of[i] : i / grid->group;
	return grid->scales[g] * grid->factor;
}

static void decode(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	struct tn_grid grid = grid_of_row(f, row->part[TN_PART_SCALES], row->part[TN_PART_BIASES]);
	TN_ISA_NAME(tn_grid_f32)(dst, row->part[TN_PART_WEIGHT], cols, &grid);
}

/* The level below x or at it, from level `at` on; the lowest when x is below all. */
TN_INLINE unsigned level_below(const struct tn_levels *l, unsigned at, float x)
{
	while (at + 1 < l->count && l->value[at + 1] <= x)
		at++;
	while (at > 0 && l->value[at] > x)
		at--;
	return at;
}

/* The code for x: the upper of the two around it where u falls below the share of the way to it. */
TN_INLINE unsigned code_at(const struct tn_levels *l, unsigned from, float x, float u)
{
	unsigned at = level_below(l, from, x);
	float low = l->value[at];
	if (at + 1 == l->count || x <= low)
		return l->code[at];
	return l->code[at + (u < (x - low) / (l->value[at + 1] - low))];
}

/* A code whose value changes by d, in units of the scale. d = 0 and what is no number move nothing. */
TN_INLINE unsigned move(const struct tn_grid *grid, unsigned code, float d, float u, struct tn_dither_counts *counts)
{
	const struct tn_levels *l = grid->levels;
	float x = grid->table[code] + d;
	if (d == 0 || x != x || l->gap[code] == 0)
		return code;
	counts->clamped += x > l->value[l->count - 1] || x < l->value[0];
	unsigned moved = code_at(l, l->rank[code], x, u);
	if (moved == l->code[l->rank[code]])
		return code; /* the same value, as -0 and 0 are */
	counts->moved++;
	return moved;
}

enum { CHUNK = 256 };

/* Codes of a chunk on a grid of steps of one: what move does, without a table. Scales are not 0. */
TN_INLINE void move_evenly(uint8_t *dst, const uint8_t *src, const float *d, size_t n, const float *scale, float most,
			   uint32_t hash, size_t column, int by_chance, struct tn_dither_counts *counts)
{
	uint32_t moved = 0, clamped = 0;
	for (size_t i = 0; i < n; i++) {
		float code = (float)src[i], x = code + d[i] / scale[i], low = floorf(x);
		float u = by_chance ? uniform(hash, column + i) : 0.5f;
		float y = low + (u < x - low ? 1.0f : 0.0f);
		clamped += x > most || x < 0;
		y = y > most ? most : y;
		y = y > 0 ? y : 0;
		y = x == x ? y : code;
		dst[i] = (uint8_t)(int)y;
		moved += dst[i] != src[i];
	}
	counts->moved += moved;
	counts->clamped += clamped;
}

/* Scales of columns [first, first + n); one of 0 becomes `for_zero`: infinity, by which nothing moves. */
TN_INLINE void spread_scales(float *dst, const struct tn_grid *grid, size_t first, size_t n, float for_zero)
{
	for (size_t i = 0; i < n;) {
		size_t g = grid->group_of ? grid->group_of[first + i] : (first + i) / grid->group;
		size_t end = grid->group_of ? i + 1 : (g + 1) * grid->group - first;
		float scale = grid->scales[g] * grid->factor;
		scale = scale == 0 ? for_zero : scale;
		for (; i < end && i < n; i++)
			dst[i] = scale;
	}
}

TN_INLINE void move_row(uint8_t *dst, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
			uint32_t hash, int by_chance, struct tn_dither_counts *counts)
{
	struct tn_grid grid = grid_of_row(f, row->part[TN_PART_SCALES], row->part[TN_PART_BIASES]);
	const uint8_t *src = row->part[TN_PART_WEIGHT];
	float scale[CHUNK];
	for (size_t i = 0; i < cols; i += CHUNK) {
		size_t n = cols - i < CHUNK ? cols - i : CHUNK;
		spread_scales(scale, &grid, i, n, INFINITY);
		if (grid.is_even)
			move_evenly(dst + i, src + i, d + i, n, scale, (float)(grid.levels->count - 1), hash, i, by_chance, counts);
		for (size_t k = 0; k < n && !grid.is_even; k++)
			dst[i + k] = (uint8_t)move(&grid, src[i + k], d[i + k] / scale[k], by_chance ? uniform(hash, i + k) : 0.5f,
						   counts);
	}
}

static void dither(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
		   uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	move_row(codes, row, d, f, cols, row_seed(seed, row_number), 1, counts);
}

static void nearest(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
		    struct tn_dither_counts *counts)
{
	move_row(codes, row, d, f, cols, 0, 0, counts);
}

static void encode(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols)
{
	struct tn_grid grid = grid_of_row(f, row->part[TN_PART_SCALES], row->part[TN_PART_BIASES]);
	uint8_t *dst = row->part[TN_PART_WEIGHT];
	for (size_t i = 0; i < cols; i++) {
		size_t g = grid.group_of ? grid.group_of[i] : i / grid.group;
		float zero = grid.zeros ? grid.zeros[g] : 0, scale = scale_of(&grid, i);
		float w = grid.add_zeros ? src[i] - zero * grid.factor : src[i];
		float x = scale != 0 ? w / scale : 0;
		x += grid.add_zeros ? 0 : zero;
		dst[i] = (uint8_t)code_at(grid.levels, grid.levels->count / 2, x == x ? x : 0, 0.5f);
	}
}

static double steps2(const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	struct tn_grid grid = grid_of_row(f, row->part[TN_PART_SCALES], row->part[TN_PART_BIASES]);
	const uint8_t *src = row->part[TN_PART_WEIGHT];
	float scale[CHUNK];
	double sum = 0;
	for (size_t i = 0; i < cols; i += CHUNK) {
		size_t n = cols - i < CHUNK ? cols - i : CHUNK;
		spread_scales(scale, &grid, i, n, 0);
		for (size_t k = 0; k < n; k++) {
			double step = (double)(scale[k] * (grid.is_even ? 1 : grid.levels->gap[src[i + k]]));
			sum += step * step;
		}
	}
	return sum;
}

static size_t part_bytes(const struct tn_format *f, unsigned part, size_t cols)
{
	(void)f;
	return part == TN_PART_WEIGHT ? cols : 0;
}

extern const struct tn_codec TN_ISA_NAME(tn_codec_grid);
const struct tn_codec TN_ISA_NAME(tn_codec_grid) = {
	.name = "grid",
	.decode = decode,
	.encode = encode,
	.dither = dither,
	.nearest = nearest,
	.steps2 = steps2,
	.part_bytes = part_bytes,
};
