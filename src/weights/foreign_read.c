/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of a foreign matrix: read what they need of each part, unpack the codes, spread scales and zero points, multiply.
 *
 * A part that is packed along the columns of W is read as one piece of every stored row, the piece that the block of rows
 * needs; when that is the whole stored row, in one read. So no part is read twice, and memory is that of the block. */
#include "weights/foreign.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"

#include <math.h>
#include <string.h>

/* ---- parts ----------------------------------------------------------------------------------------------- */

struct piece {
	const unsigned char *bytes;
	uint64_t first_cell;
	size_t stride;            /* between cells, or between stored rows */
};

static uint64_t cell_of(const struct tn_foreign *f, const struct tn_slab *s, uint64_t row)
{
	if (s->flat)
		return row * f->cols / s->cell_rows;
	return row / s->matrix_rows * s->matrix_cells + row % s->matrix_rows / s->cell_rows;
}

static uint64_t last_cell_of(const struct tn_foreign *f, const struct tn_slab *s, uint64_t row)
{
	return s->flat ? ((row + 1) * f->cols - 1) / s->cell_rows : cell_of(f, s, row);
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
			    uint64_t first, uint64_t count, unsigned char **scratch, struct piece *out, struct tn_error *err)
{
	const struct tn_tensor *t = s->tensor;
	uint64_t c0 = cell_of(f, s, first), c1 = last_cell_of(f, s, first + count - 1) + 1;
	size_t width = (size_t)((c1 - c0) * s->cell_bytes);
	*out = (struct piece){ *scratch, c0, s->stored ? width : (size_t)s->cell_bytes };
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

uint64_t tn_foreign_row_bytes(const struct tn_foreign *f)
{
	uint64_t bytes = f->cols + 2 * sizeof(float) * (f->groups + 1);
	for (unsigned p = 0; p < TN_FOREIGN_PARTS; p++)
		if (f->part[p].tensor)
			bytes += piece_row_bytes(f, &f->part[p]);
	return bytes;
}

uint64_t tn_foreign_fixed_bytes(const struct tn_foreign *f)
{
	uint64_t bytes = 64 * (TN_FOREIGN_PARTS + 4) + 64 * sizeof(float);
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

static float scale_at(const unsigned char *src, size_t i, tn_dtype dtype)
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
static size_t marlin_column(size_t n, int one_group)
{
	if (one_group)
		return n / 32 * 32 + 8 * (n % 8 / 2) + 2 * (n % 32 / 8) + n % 2;
	return n / 64 * 64 + 8 * (n % 8) + n % 64 / 8;
}

static void spread_columns(const struct tn_foreign *f, unsigned part, const struct piece *p, uint64_t first, size_t count,
			   float *out)
{
	size_t groups = (size_t)f->groups, skip = (size_t)(first - p->first_cell * f->part[part].cell_rows);
	tn_dtype dtype = f->part[part].tensor->dtype;
	int marlin = part == TN_FOREIGN_SCALES && f->scales == TN_SCALES_MARLIN;
	for (size_t g = 0; g < groups; g++)
		for (size_t r = 0; r < count; r++) {
			size_t n = skip + r;
			out[r * groups + g] = scale_at(p->bytes + g * p->stride, marlin ? marlin_column(n, groups == 1) : n, dtype);
		}
}

/* bitsandbytes: A[j] = map[byte] * nested[j / size] + offset, two roundings; or the floats themselves. */
static size_t spread_flat(const struct tn_foreign *f, const struct piece *p, const struct piece *nested, uint64_t first,
			  size_t count, float *out)
{
	const struct tn_slab *s = &f->part[TN_FOREIGN_SCALES], *outer = &f->part[TN_FOREIGN_NESTED];
	size_t n = (size_t)(last_cell_of(f, s, first + count - 1) + 1 - p->first_cell);
	for (size_t j = 0; j < n; j++) {
		if (!f->nested_map) {
			out[j] = scale_at(p->bytes, j, TN_F32);
			continue;
		}
		uint64_t at = (p->first_cell + j) / (outer->cell_rows / s->cell_rows) - nested->first_cell;
		float product = f->nested_map[p->bytes[j]] * scale_at(nested->bytes, (size_t)at, TN_F32);
		out[j] = product + f->nested_offset;
	}
	return n;
}

/* Returns how many floats it wrote. */
static size_t spread_scales(const struct tn_foreign *f, const struct piece *p, const struct piece *nested, uint64_t first,
			    size_t count, float *out)
{
	const struct tn_slab *s = &f->part[TN_FOREIGN_SCALES];
	size_t groups = (size_t)f->groups, n = count * groups;
	if (f->scales == TN_SCALES_FLAT)
		return spread_flat(f, p, nested, first, count, out);
	if (f->scales == TN_SCALES_ROW)
		for (size_t r = 0; r < count; r++) {
			const unsigned char *cell = p->bytes + (cell_of(f, s, first + r) - p->first_cell) * p->stride;
			for (size_t g = 0; g < groups; g++)
				out[r * groups + g] = scale_at(cell, g, s->tensor->dtype);
		}
	else
		spread_columns(f, TN_FOREIGN_SCALES, p, first, count, out);
	for (size_t i = 0; i < n && f->global != TN_GLOBAL_NONE; i++)
		out[i] = f->global == TN_GLOBAL_OVER ? out[i] / f->global_scale : out[i] * f->global_scale;
	return n;
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

static float zero_at(const struct tn_foreign *f, const struct piece *p, uint64_t row, size_t g)
{
	static const unsigned char awq_nibble[8] = { 0, 4, 1, 5, 2, 6, 3, 7 };
	const struct tn_slab *s = &f->part[TN_FOREIGN_ZEROS];
	unsigned bits = f->bits;
	const unsigned char *cell = p->bytes + (s->stored ? 0 : (cell_of(f, s, row) - p->first_cell) * p->stride);
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
	default: return scale_at(stored, i, s->tensor->dtype);
	}
}

static void spread_zeros(const struct tn_foreign *f, const struct piece *p, uint64_t first, size_t count, float *out)
{
	size_t groups = (size_t)f->groups;
	for (size_t r = 0; r < count; r++)
		for (size_t g = 0; g < groups; g++)
			out[r * groups + g] = zero_at(f, p, first + r, g);
}

/* ---- rows ------------------------------------------------------------------------------------------------ */

static void decode(const struct tn_kernels *k, const struct tn_foreign *f, uint64_t first, size_t count,
		   const uint8_t *codes, const float *scales, const float *zeros, float *dst)
{
	size_t cols = (size_t)f->cols, groups = (size_t)f->groups;
	struct tn_grid grid = { .table = f->table, .scales = scales, .zeros = zeros, .group_of = f->group_of,
				.group = (size_t)f->group, .add_zeros = f->zeros == TN_ZEROS_COLUMN_FLOAT, .factor = f->factor };
	if (f->scales == TN_SCALES_FLAT) {
		grid.offset = (size_t)(first * f->cols % f->group);
		k->grid_f32(dst, codes, count * cols, &grid);
		return;
	}
	for (size_t r = 0; r < count; r++) {
		k->grid_f32(dst + r * cols, codes + r * cols, cols, &grid);
		grid.scales += groups;
		grid.zeros += zeros ? groups : 0;
	}
}

/* Codes, scales and zero points of a block of rows, spread. */
struct spread {
	uint8_t *codes;
	const float *scales, *zeros; /* zeros NULL: none */
};

static tn_status read_spread(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			     const struct tn_foreign *f, uint64_t first, uint64_t count, void *scratch, struct spread *out,
			     struct tn_error *err)
{
	struct piece piece[TN_FOREIGN_PARTS] = { { 0 } };
	unsigned char *next = scratch;
	size_t n = (size_t)count;
	for (unsigned p = 0; p < TN_FOREIGN_PARTS; p++)
		if (f->part[p].tensor)
			TN_TRY(read_piece(source, f, &f->part[p], first, count, &next, &piece[p], err));
	const struct tn_slab *s = &f->part[TN_FOREIGN_CODES];
	const struct piece *from = &piece[TN_FOREIGN_CODES];
	struct tn_packed packed = { f->packing, f->bits, from->bytes, from->stride };
	size_t skip = (size_t)((s->flat ? first * f->cols : first) - from->first_cell * s->cell_rows);
	out->codes = next;
	kernels->unpack_codes(out->codes, &packed, skip, n, (size_t)f->cols);
	float *scales = (float *)(void *)(next + tn_align_up(n * (size_t)f->cols, 64));
	float *zeros = scales + spread_scales(f, &piece[TN_FOREIGN_SCALES], &piece[TN_FOREIGN_NESTED], first, n, scales);
	out->scales = scales;
	out->zeros = f->zeros != TN_ZEROS_NONE ? zeros : NULL;
	if (f->zeros != TN_ZEROS_NONE)
		spread_zeros(f, &piece[TN_FOREIGN_ZEROS], first, n, zeros);
	return TN_OK;
}

tn_status tn_foreign_read(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			  const struct tn_foreign *f, uint64_t first, uint64_t count, void *scratch, float *dst,
			  struct tn_error *err)
{
	struct spread s;
	TN_TRY(read_spread(kernels, source, f, first, count, scratch, &s, err));
	decode(kernels, f, first, (size_t)count, s.codes, s.scales, s.zeros, dst);
	return TN_OK;
}

/* ---- as MLX has them ------------------------------------------------------------------------------------- */

/* The largest group of MLX that does not straddle one of the module. */
static int32_t group_of_mlx(const struct tn_foreign *f)
{
	uint64_t whole = f->group >= f->cols ? f->cols : f->group;
	for (int32_t g = 128; g >= 32; g /= 2)
		if (whole % (uint64_t)g == 0 && f->cols % (uint64_t)g == 0)
			return g;
	return 0;
}

int tn_foreign_as_mlx(const struct tn_foreign *f, struct tn_quantization *q, tn_dtype *dtype)
{
	tn_dtype scales = f->part[TN_FOREIGN_SCALES].tensor->dtype;
	int power = scales == TN_U8 || scales == TN_F8_E8M0, integer = f->element == TN_ELEMENT_UNSIGNED ||
		f->element == TN_ELEMENT_I8 || f->element >= TN_ELEMENT_CENTRED;
	*q = (struct tn_quantization){ 32, f->bits, NULL, 0 };
	*dtype = TN_BF16;
	if (f->group_of || f->scales == TN_SCALES_FLAT || f->global != TN_GLOBAL_NONE || f->factor != 1.0f || f->cols % 32 != 0)
		return 0;
	if (power && f->group == 32 && (f->element == TN_ELEMENT_E2M1 || f->element == TN_ELEMENT_E4M3)) {
		q->mode = f->element == TN_ELEMENT_E2M1 ? "mxfp4" : "mxfp8";
		return 1;
	}
	q->mode = "affine";
	q->group_size = group_of_mlx(f);
	/* -zero * scale is exact in the dtype of the scale when the zero point is a power of two */
	int exact = f->zeros == TN_ZEROS_NONE || f->zeros_centred ||
		    (f->zeros == TN_ZEROS_COLUMN_FLOAT && f->part[TN_FOREIGN_ZEROS].tensor->dtype == scales);
	*dtype = exact ? scales : TN_F32;
	if (!exact && scales == TN_F32)
		return 0;
	return integer && !power && scales != TN_F8_E4M3 && q->group_size && f->bits != 7;
}

static void store_value(void *dst, size_t i, tn_dtype dtype, float x)
{
	uint16_t h = dtype == TN_BF16 ? tn_bf16_from_f32(x) : tn_f16_from_f32(x);
	if (dtype == TN_F32)
		memcpy((unsigned char *)dst + i * sizeof x, &x, sizeof x);
	else
		memcpy((unsigned char *)dst + i * sizeof h, &h, sizeof h);
}

/* Scales and biases of one row; 0 when a bias or scale is not exact in that dtype. */
static int store_affine(const struct tn_foreign *f, const struct tn_format *format, const float *scales, const float *zeros,
			void *scale_dst, void *bias_dst)
{
	float centre = f->element == TN_ELEMENT_I8 ? 128 : -f->table[0];
	int exact = 1;
	for (size_t j = 0; j < f->cols / format->group; j++) {
		size_t g = j * format->group / (size_t)f->group;
		float zero = zeros ? zeros[g] : 0, bias = f->zeros == TN_ZEROS_COLUMN_FLOAT ? zero : -(zero + centre) * scales[g];
		store_value(scale_dst, j, format->dtype, scales[g]);
		store_value(bias_dst, j, format->dtype, bias);
		exact &= scale_at(bias_dst, j, format->dtype) == bias && scale_at(scale_dst, j, format->dtype) == scales[g];
	}
	return exact;
}

/* Scale bytes are the exponents. */
static void store_powers(const float *scales, size_t n, unsigned char *dst)
{
	for (size_t g = 0; g < n; g++)
		dst[g] = (unsigned char)(tn_f32_bits(scales[g]) >> 23);
}

tn_status tn_foreign_read_mlx(const struct tn_kernels *kernels, const struct tn_tensor_source *source,
			      const struct tn_foreign *f, const struct tn_format *format, int exact, uint64_t first,
			      uint64_t count, void *scratch, const struct tn_row_out *rows, struct tn_error *err)
{
	struct spread s;
	size_t cols = (size_t)f->cols, groups = (size_t)f->groups;
	TN_TRY(read_spread(kernels, source, f, first, count, scratch, &s, err));
	for (size_t r = 0; r < count; r++) {
		uint8_t *codes = s.codes + r * cols;
		const float *scales = s.scales + r * groups, *zeros = s.zeros ? s.zeros + r * groups : NULL;
		for (size_t i = 0; f->element == TN_ELEMENT_I8 && i < cols; i++)
			codes[i] ^= 0x80;
		kernels->pack_codes(rows[r].part[TN_PART_WEIGHT], codes, cols, f->bits);
		if (!rows[r].part[TN_PART_BIASES])
			store_powers(scales, groups, rows[r].part[TN_PART_SCALES]);
		else if (!store_affine(f, format, scales, zeros, rows[r].part[TN_PART_SCALES], rows[r].part[TN_PART_BIASES]) && exact)
			return tn_fail(err, TN_E_UNSUPPORTED, f->weight.name, "'%.120s' has a scale whose bias %s does not hold exactly; "
				       "ask for --dtype float32", f->weight.name, tn_dtype_name(format->dtype));
	}
	return TN_OK;
}
