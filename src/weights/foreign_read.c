/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a foreign matrix: read what they need of each part, unpack the codes, spread scales and zero points, multiply.
 *
 * A part that is packed along the columns of W is read as one piece of every stored row, the piece that the block of rows
 * needs; when that is the whole stored row, in one read. So no part is read twice, and memory is that of the block. */
#include "weights/foreign_rows.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

/* ---- parts ----------------------------------------------------------------------------------------------- */

uint64_t tn_foreign_cell(const struct tn_foreign *f, const struct tn_slab *s, uint64_t row)
{
	if (s->flat)
		return row * f->cols / s->cell_rows;
	return row / s->matrix_rows * s->matrix_cells + row % s->matrix_rows / s->cell_rows;
}

size_t tn_foreign_skip(const struct tn_foreign *f, const struct tn_foreign_block *b, unsigned part)
{
	const struct tn_slab *s = &f->part[part];
	return (size_t)((s->flat ? b->first * f->cols : b->first) - b->piece[part].first_cell * s->cell_rows);
}

static uint64_t last_cell_of(const struct tn_foreign *f, const struct tn_slab *s, uint64_t row)
{
	return s->flat ? ((row + 1) * f->cols - 1) / s->cell_rows : tn_foreign_cell(f, s, row);
}

/* Reads n bytes at `offset` of a run that ends at `end`; what the last cell lacks is zero. */
static tn_status read_run(const struct tn_tensor_source *source, const struct tn_tensor *t, uint64_t offset, uint64_t end,
			  unsigned char *dst, size_t n, struct tn_error *err)
{
	size_t there = (size_t)tn_min_u64(n, end - offset);
	memset(dst + there, 0, n - there);
	return source->read(source->self, t, offset, dst, there, err);
}

static tn_status read_piece(const struct tn_tensor_source *source, const struct tn_foreign *f, const struct tn_slab *s,
			    uint64_t first, uint64_t count, unsigned char **scratch, struct tn_foreign_piece *out,
			    struct tn_error *err)
{
	const struct tn_tensor *t = s->tensor;
	uint64_t c0 = tn_foreign_cell(f, s, first), c1 = last_cell_of(f, s, first + count - 1) + 1;
	size_t width = (size_t)((c1 - c0) * s->cell_bytes);
	*out = (struct tn_foreign_piece){ *scratch, c0, s->stored ? width : (size_t)s->cell_bytes, width };
	uint64_t runs = s->stored ? s->stored : 1, run_bytes = t->bytes / runs, offset = c0 * s->cell_bytes;
	if (width == run_bytes)
		TN_TRY(read_run(source, t, 0, t->bytes, *scratch, (size_t)t->bytes, err));
	else
		for (uint64_t i = 0; i < runs; i++)
			TN_TRY(read_run(source, t, i * run_bytes + offset, (i + 1) * run_bytes, *scratch + i * width, width, err));
	*scratch += tn_align_up(width * (size_t)runs, 64);
	return TN_OK;
}

/* At most this many bytes for `rows` rows: row_bytes * rows + 4 cells. */
static uint64_t piece_row_bytes(const struct tn_foreign *f, const struct tn_slab *s)
{
	uint64_t runs = s->stored ? s->stored : 1;
	if (s->flat)
		return tn_ceil_div(f->cols * s->cell_bytes, s->cell_rows);
	return tn_ceil_div(runs * s->cell_bytes * s->matrix_cells, s->matrix_rows);
}

uint64_t tn_foreign_raw_row_bytes(const struct tn_foreign *f)
{
	uint64_t bytes = f->scales == TN_SCALES_FLAT ? tn_ceil_div(f->cols, f->group) * sizeof(float) : 0;
	for (unsigned p = 0; p < TN_FOREIGN_PARTS; p++)
		if (f->part[p].tensor)
			bytes += piece_row_bytes(f, &f->part[p]);
	return bytes;
}

uint64_t tn_foreign_raw_fixed_bytes(const struct tn_foreign *f)
{
	uint64_t bytes = 64 * (TN_FOREIGN_PARTS + 2);
	for (unsigned p = 0; p < TN_FOREIGN_PARTS; p++) {
		const struct tn_slab *s = &f->part[p];
		if (s->tensor)
			bytes += 4 * s->cell_bytes * (s->stored ? s->stored : 1);
	}
	return bytes;
}

/* ---- scales ---------------------------------------------------------------------------------------------- */

/* A scale byte 255 is NaN, as the format has it. */
static float e8m0(uint8_t byte)
{
	return byte == 0xFF ? NAN : tn_f32_from_bits(byte ? (uint32_t)byte << 23 : 0x00400000u);
}

float tn_foreign_value(const unsigned char *src, size_t i, tn_dtype dtype)
{
	float x;
	uint16_t h;
	switch (dtype) {
	case TN_F32: memcpy(&x, src + i * sizeof x, sizeof x); return x;
	case TN_F16: memcpy(&h, src + i * sizeof h, sizeof h); return tn_f32_from_f16(h);
	case TN_BF16: memcpy(&h, src + i * sizeof h, sizeof h); return tn_f32_from_bf16(h);
	case TN_F8_E4M3: return tn_f32_from_f8_e4m3(src[i]);
	default: return e8m0(src[i]); /* F8_E8M0 and U8: the finders admit no other */
	}
}

/* Where marlin keeps the scale of column n among 64. */
size_t tn_foreign_marlin_column(size_t n, int one_group)
{
	if (one_group)
		return n / 32 * 32 + 8 * (n % 8 / 2) + 2 * (n % 32 / 8) + n % 2;
	return n / 64 * 64 + 8 * (n % 8) + n % 64 / 8;
}

static void spread_columns(const struct tn_foreign *f, unsigned part, const struct tn_foreign_piece *p, uint64_t first,
			   size_t count, float *out)
{
	size_t groups = (size_t)f->groups, skip = (size_t)(first - p->first_cell * f->part[part].cell_rows);
	tn_dtype dtype = f->part[part].tensor->dtype;
	int marlin = part == TN_FOREIGN_SCALES && f->scales == TN_SCALES_MARLIN;
	for (size_t g = 0; g < groups; g++)
		for (size_t r = 0; r < count; r++) {
			size_t n = skip + r;
			out[r * groups + g] = tn_foreign_value(p->bytes + g * p->stride,
							       marlin ? tn_foreign_marlin_column(n, groups == 1) : n, dtype);
		}
}

/* bitsandbytes: A[j] = map[byte] * nested[j / size] + offset, two roundings; or the floats themselves. Of all blocks that the rows
 * touch. */
static void block_scales(const struct tn_foreign *f, const struct tn_foreign_block *b, float *blocks)
{
	const struct tn_slab *s = &f->part[TN_FOREIGN_SCALES], *outer = &f->part[TN_FOREIGN_NESTED];
	const struct tn_foreign_piece *p = &b->piece[TN_FOREIGN_SCALES], *nested = &b->piece[TN_FOREIGN_NESTED];
	size_t n = (size_t)(last_cell_of(f, s, b->first + b->count - 1) + 1 - p->first_cell);
	for (size_t j = 0; j < n; j++) {
		if (!f->nested_map) {
			blocks[j] = tn_foreign_value(p->bytes, j, TN_F32);
			continue;
		}
		uint64_t at = (p->first_cell + j) / (outer->cell_rows / s->cell_rows) - nested->first_cell;
		float product = f->nested_map[p->bytes[j]] * tn_foreign_value(nested->bytes, (size_t)at, TN_F32);
		blocks[j] = product + f->nested_offset;
	}
}

/* To `blocks`, and from there to the groups of each row. */
static void spread_flat(const struct tn_foreign *f, const struct tn_foreign_block *b, float *blocks, float *out)
{
	uint64_t groups = tn_foreign_row_groups(f), size = f->cols / groups;
	block_scales(f, b, blocks);
	for (uint64_t i = 0; i < b->count * groups; i++)
		out[i] = blocks[(b->first * f->cols + i * size) / f->group - b->piece[TN_FOREIGN_SCALES].first_cell];
}

static void spread_scales(const struct tn_foreign *f, const struct tn_foreign_block *b, float *blocks, float *out)
{
	const struct tn_slab *s = &f->part[TN_FOREIGN_SCALES];
	const struct tn_foreign_piece *p = &b->piece[TN_FOREIGN_SCALES];
	size_t groups = (size_t)f->groups, count = (size_t)b->count;
	if (f->scales == TN_SCALES_FLAT) {
		spread_flat(f, b, blocks, out);
		return;
	}
	if (f->scales == TN_SCALES_ROW)
		for (size_t r = 0; r < count; r++) {
			const unsigned char *cell = p->bytes + (tn_foreign_cell(f, s, b->first + r) - p->first_cell) * p->stride;
			for (size_t g = 0; g < groups; g++)
				out[r * groups + g] = tn_foreign_value(cell, g, s->tensor->dtype);
		}
	else
		spread_columns(f, TN_FOREIGN_SCALES, p, b->first, count, out);
	for (size_t i = 0; i < count * groups && f->global != TN_GLOBAL_NONE; i++)
		out[i] = f->global == TN_GLOBAL_OVER ? out[i] / f->global_scale : out[i] * f->global_scale;
}

/* ---- zero points ----------------------------------------------------------------------------------------- */

static uint32_t word_at(const unsigned char *src, size_t i)
{
	uint32_t word;
	memcpy(&word, src + i * sizeof word, sizeof word);
	return word;
}

/* Code i of a stream whose word j stands `step` words behind word j - 1, each with `add` added. */
static uint32_t stream_at(const unsigned char *src, size_t i, unsigned bits, size_t step, uint32_t add)
{
	size_t at = i * bits / 32, shift = i * bits % 32;
	uint64_t pair = word_at(src, at * step) + add;
	if (shift + bits > 32)
		pair = (uint32_t)pair | (uint64_t)(uint32_t)(word_at(src, (at + 1) * step) + add) << 32;
	else
		pair = (uint32_t)pair;
	return (uint32_t)(pair >> shift) & ((1u << bits) - 1);
}

static uint32_t plane_at(const unsigned char *src, size_t i, unsigned bits)
{
	const unsigned char *block = src + i / 32 * bits * 4;
	uint32_t code = 0;
	unsigned t = (unsigned)(i % 32), done = 0;
	for (unsigned width = 4; width; width /= 2)
		if (bits & width) {
			code |= (word_at(block, done + t * width / 32) >> t * width % 32 & ((1u << width) - 1)) << done;
			done += width;
		}
	return code;
}

static float zero_at(const struct tn_foreign *f, const struct tn_foreign_piece *p, uint64_t row, size_t g)
{
	static const unsigned char awq_nibble[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };
	const struct tn_slab *s = &f->part[TN_FOREIGN_ZEROS];
	unsigned bits = f->bits;
	const unsigned char *cell = p->bytes + (s->stored ? 0 : (tn_foreign_cell(f, s, row) - p->first_cell) * p->stride);
	const unsigned char *stored = p->bytes + g * p->stride;
	size_t i = (size_t)(row - p->first_cell * s->cell_rows), groups = (size_t)f->groups;
	switch (f->zeros) {
	case TN_ZEROS_ROW: return (float)(int8_t)cell[g];
	case TN_ZEROS_ROW_STREAM: return (float)stream_at(cell, g, bits, 1, 0);
	case TN_ZEROS_DOWN_STREAM:
		i = (size_t)(row % s->cell_rows);
		if (f->words_padded)
			return (float)(word_at(cell, g) >> i * bits & ((1u << bits) - 1));
		return (float)stream_at(cell + g * 4, i, bits, groups, 0);
	case TN_ZEROS_COLUMN_STREAM:
		return (float)((stream_at(stored, i, bits, 1, f->zero_word) + f->zero_plus) & ((1u << bits) - 1));
	case TN_ZEROS_COLUMN_PLANES: return (float)plane_at(stored, i, bits);
	case TN_ZEROS_COLUMN_AWQ: return (float)(word_at(stored, i / 8) >> 4 * awq_nibble[i % 8] & 15u);
	default: return tn_foreign_value(stored, i, s->tensor->dtype);
	}
}

static void spread_zeros(const struct tn_foreign *f, const struct tn_foreign_piece *p, uint64_t first, size_t count, float *out)
{
	size_t groups = (size_t)f->groups;
	for (size_t r = 0; r < count; r++)
		for (size_t g = 0; g < groups; g++)
			out[r * groups + g] = zero_at(f, p, first + r, g);
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
	while (b) {
		uint64_t rest = a % b;
		a = b;
		b = rest;
	}
	return a;
}

uint64_t tn_foreign_row_groups(const struct tn_foreign *f)
{
	return f->scales == TN_SCALES_FLAT ? f->cols / common_divisor(f->cols, f->group) : f->groups;
}

/* What the rows need of each part; *rest is the memory behind. */
static tn_status read_pieces(const struct tn_tensor_source *source, const struct tn_foreign *f, uint64_t first, uint64_t count,
			     void *raw, struct tn_foreign_block *block, unsigned char **rest, struct tn_error *err)
{
	*rest = raw;
	*block = (struct tn_foreign_block){ .first = first, .count = count };
	for (unsigned p = 0; p < TN_FOREIGN_PARTS; p++)
		if (f->part[p].tensor)
			TN_TRY(read_piece(source, f, &f->part[p], first, count, rest, &block->piece[p], err));
	return TN_OK;
}

tn_status tn_foreign_load(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			  const struct tn_foreign *f, uint64_t first, uint64_t count, void *raw,
			  struct tn_foreign_block *block, const struct tn_grid_rows *rows, struct tn_error *err)
{
	unsigned char *next;
	TN_TRY(read_pieces(source, f, first, count, raw, block, &next, err));
	const struct tn_foreign_piece *from = &block->piece[TN_FOREIGN_CODES];
	struct tn_packed packed = { f->packing, f->bits, from->bytes, from->stride };
	kernels->unpack_codes(rows->codes, &packed, tn_foreign_skip(f, block, TN_FOREIGN_CODES), (size_t)count, (size_t)f->cols);
	spread_scales(f, block, (float *)(void *)next, rows->scales);
	if (f->zeros != TN_ZEROS_NONE)
		spread_zeros(f, &block->piece[TN_FOREIGN_ZEROS], first, (size_t)count, rows->zeros);
	return TN_OK;
}

/* Rows that are only read: values of one row and the grid form stand in front of the raw bytes. */
uint64_t tn_foreign_row_bytes(const struct tn_foreign *f)
{
	return f->cols + 2 * sizeof(float) * tn_foreign_row_groups(f) + tn_foreign_raw_row_bytes(f);
}

uint64_t tn_foreign_fixed_bytes(const struct tn_foreign *f)
{
	return f->cols * sizeof(float) + 4 * 64 + tn_foreign_raw_fixed_bytes(f);
}

tn_status tn_foreign_load_rows(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			       const struct tn_foreign *f, uint64_t first, uint64_t count, void *scratch,
			       struct tn_grid_rows *rows, struct tn_error *err)
{
	struct tn_foreign_block block;
	unsigned char *next = scratch;
	size_t scales = tn_align_up((size_t)(count * tn_foreign_row_groups(f)) * sizeof(float), 64);
	rows->codes = next;
	next += tn_align_up((size_t)(count * f->cols), 64);
	rows->scales = (float *)(void *)next;
	rows->zeros = (float *)(void *)(next + scales);
	return tn_foreign_load(kernels, source, f, first, count, next + 2 * scales, &block, rows, err);
}

/* bitsandbytes' 4 bits: the flat matrix as it lies. */
static tn_status read_nibbles(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			      const struct tn_foreign *f, uint64_t first, uint64_t count, void *scratch, tn_dtype dtype, void *dst,
			      struct tn_error *err)
{
	struct tn_foreign_block block;
	struct tn_grid grid;
	unsigned char *next;
	TN_TRY(tn_foreign_grid(f, NULL, &grid, err));
	TN_TRY(read_pieces(source, f, first, count, scratch, &block, &next, err));
	float *blocks = (float *)(void *)next;
	block_scales(f, &block, blocks);
	grid.scales = blocks;
	grid.group = (size_t)f->group;
	grid.offset = (size_t)(first * f->cols - block.piece[TN_FOREIGN_SCALES].first_cell * f->group);
	kernels->nibble_values(dst, dtype, block.piece[TN_FOREIGN_CODES].bytes, tn_foreign_skip(f, &block, TN_FOREIGN_CODES),
			       (size_t)(count * f->cols), &grid, 0);
	return TN_OK;
}

tn_status tn_foreign_read(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			  const struct tn_foreign *f, uint64_t first, uint64_t count, void *scratch, tn_dtype dtype, void *dst,
			  struct tn_error *err)
{
	const struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct tn_grid_rows rows;
	struct tn_grid grid;
	size_t cols = (size_t)f->cols, groups = (size_t)tn_foreign_row_groups(f), row_bytes = cols * tn_dtype_bits(dtype) / 8;
	float *values = scratch;
	if (f->packing == TN_PACK_HIGH_FIRST && f->scales == TN_SCALES_FLAT && f->zeros == TN_ZEROS_NONE)
		return read_nibbles(kernels, source, f, first, count, scratch, dtype, dst, err);
	TN_TRY(tn_foreign_grid(f, NULL, &grid, err));
	TN_TRY(tn_foreign_load_rows(kernels, source, f, first, count, values + tn_align_up(cols, 16), &rows, err));
	for (size_t r = 0; r < count; r++) {
		struct tn_row_out out = { { (unsigned char *)dst + r * row_bytes } };
		float *to = dtype == TN_F32 ? out.part[0] : values;
		grid.scales = rows.scales + r * groups;
		grid.zeros = grid.has_zeros ? rows.zeros + r * groups : NULL;
		kernels->grid_f32(to, rows.codes + r * cols, cols, &grid);
		if (to == values)
			kernels->codec[TN_CODEC_dense]->encode(&out, values, &format, cols);
	}
	return TN_OK;
}
