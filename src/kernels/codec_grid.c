/* SPDX-License-Identifier: Apache-2.0 */
/* The form in which rows of other libraries' matrices are worked on: one code in each byte, scales and zeros as float32.
 * Parts: codes [cols], scales [groups], zeros [groups]; format->grid says what they mean. Scales and zeros are not fitted
 * here: `encode` takes those that stand in the row. */
#include "kernels/dither.h"
#include "kernels/isa_build.h"

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
TN_INLINE unsigned level_below(const struct tn_grid *grid, unsigned at, float x)
{
	const struct tn_levels *l = grid->levels;
	while (at + 1 < l->count && grid->table[l->code[at + 1]] <= x)
		at++;
	while (at > 0 && grid->table[l->code[at]] > x)
		at--;
	return at;
}

/* The code for x: the upper of the two around it where u falls below the share of the way to it. */
TN_INLINE unsigned code_at(const struct tn_grid *grid, unsigned from, float x, float u)
{
	const struct tn_levels *l = grid->levels;
	unsigned at = level_below(grid, from, x);
	float low = grid->table[l->code[at]];
	if (at + 1 == l->count || x <= low)
		return l->code[at];
	float high = grid->table[l->code[at + 1]];
	return l->code[at + (u < (x - low) / (high - low))];
}

/* A code whose value changes by d, in units of the scale. d = 0 and what is no number move nothing. */
TN_INLINE unsigned move(const struct tn_grid *grid, unsigned code, float d, float u, struct tn_dither_counts *counts)
{
	const struct tn_levels *l = grid->levels;
	float x = grid->table[code] + d;
	if (d == 0 || x != x || l->gap[code] == 0)
		return code;
	counts->clamped += x > grid->table[l->code[l->count - 1]] || x < grid->table[l->code[0]];
	unsigned moved = code_at(grid, l->rank[code], x, u);
	if (moved == l->code[l->rank[code]])
		return code; /* the same value, as -0 and 0 are */
	counts->moved++;
	return moved;
}

static void dither(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
		   uint64_t seed, uint64_t row_number, struct tn_dither_counts *counts)
{
	struct tn_grid grid = grid_of_row(f, row->part[TN_PART_SCALES], row->part[TN_PART_BIASES]);
	const uint8_t *src = row->part[TN_PART_WEIGHT];
	uint8_t *dst = codes;
	uint32_t hash = row_seed(seed, row_number);
	for (size_t i = 0; i < cols; i++) {
		float scale = scale_of(&grid, i);
		dst[i] = (uint8_t)move(&grid, src[i], scale != 0 ? d[i] / scale : 0, uniform(hash, i), counts);
	}
}

static void nearest(void *codes, const struct tn_row *row, const float *d, const struct tn_format *f, size_t cols,
		    struct tn_dither_counts *counts)
{
	struct tn_grid grid = grid_of_row(f, row->part[TN_PART_SCALES], row->part[TN_PART_BIASES]);
	const uint8_t *src = row->part[TN_PART_WEIGHT];
	uint8_t *dst = codes;
	for (size_t i = 0; i < cols; i++) {
		float scale = scale_of(&grid, i);
		dst[i] = (uint8_t)move(&grid, src[i], scale != 0 ? d[i] / scale : 0, 0.5f, counts);
	}
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
		dst[i] = (uint8_t)code_at(&grid, grid.levels->count / 2, x == x ? x : 0, 0.5f);
	}
}

static void step(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	struct tn_grid grid = grid_of_row(f, row->part[TN_PART_SCALES], row->part[TN_PART_BIASES]);
	const uint8_t *src = row->part[TN_PART_WEIGHT];
	for (size_t i = 0; i < cols; i++)
		dst[i] = grid.levels->gap[src[i]] * fabsf(scale_of(&grid, i));
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
	.step = step,
	.part_bytes = part_bytes,
};
