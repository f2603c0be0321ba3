/* SPDX-License-Identifier: Apache-2.0 */
/* Matrices that other libraries packed, in memory: codes of 4 or 8 bits as a dense stream, first code lowest, and a float32 scale
 * for each group, a power of two from 16 to 1024. w = table[code] * scale * factor, each operation rounded to float32, and then to
 * the format's dtype, to which the library decodes; format->grid has table and factor. weights/foreign_table.c makes such rows,
 * and nothing encodes them. */
#include "kernels/isa_build.h"
#include "kernels/quant.h"

TN_INLINE float value_of(const struct tn_grid *grid, unsigned code, float scale, tn_dtype dtype)
{
	float x = grid->table[code] * scale;
	return round_to(grid->factor != 1.0f ? x * grid->factor : x, dtype);
}

TN_INLINE void decode_nibbles(float *dst, const unsigned char *src, size_t group, const struct tn_grid *grid, float scale,
			      tn_dtype dtype)
{
	float values[16];
	for (unsigned code = 0; code < 16; code++)
		values[code] = value_of(grid, code, scale, dtype);
	for (size_t i = 0; i < group / 2; i++) {
		dst[2 * i] = values[src[i] & 15u];
		dst[2 * i + 1] = values[src[i] >> 4];
	}
}

TN_INLINE void decode_as(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols, tn_dtype dtype)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT];
	for (size_t g = 0; g < cols / f->group; g++, dst += f->group) {
		float scale = load_as(row->part[TN_PART_SCALES], g, TN_F32);
		if (f->bits == 4)
			decode_nibbles(dst, src + g * f->group / 2, f->group, f->grid, scale, dtype);
		else
			for (size_t i = 0; i < f->group; i++)
				dst[i] = value_of(f->grid, src[g * f->group + i], scale, dtype);
	}
}

static void decode(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	if (f->dtype == TN_F32)
		decode_as(dst, row, f, cols, TN_F32);
	else if (f->dtype == TN_F16)
		decode_as(dst, row, f, cols, TN_F16);
	else
		decode_as(dst, row, f, cols, TN_BF16);
}

static size_t part_bytes(const struct tn_format *f, unsigned part, size_t cols)
{
	if (part == TN_PART_WEIGHT)
		return cols * f->bits / 8;
	return part == TN_PART_SCALES ? cols / f->group * sizeof(float) : 0;
}

extern const struct tn_codec TN_ISA_NAME(tn_codec_table);
const struct tn_codec TN_ISA_NAME(tn_codec_table) = {
	.name = "table",
	.decode = decode,
	.part_bytes = part_bytes,
};
