/* SPDX-License-Identifier: Apache-2.0 */
/* Codes that a table explains, to float32: of 4 bits the sixteen numbers of a group are computed and rounded once, and looked up;
 * E4M3 and whole numbers of 8 bits are converted. The bits of codec_table.c. */
#include "kernels/x86/table_numbers.h"

TN_INLINE void decode_nibbles(float *dst, const unsigned char *src, size_t group, struct sixteen numbers)
{
	for (size_t i = 0; i < group; i += FLOATS)
		V(storeu_ps)(dst + i, look_up_floats(numbers, src + i / 2));
}

TN_INLINE void decode_bytes(float *dst, const unsigned char *src, size_t group, struct scaling s, const enum tn_code_kind kind,
			    tn_dtype dtype)
{
	for (size_t i = 0; i < group; i += 16)
		for (int j = 0; j < 16; j += FLOATS)
			V(storeu_ps)(dst + i + j, round_floats(scaled(bytes_as_floats(src + i, j, kind), s), dtype));
}

/* A group for which conversions are not those of the table: NaN, and scales that 2^8 takes out of range. */
static void decode_group(float *dst, const unsigned char *src, const unsigned char *scale, const struct tn_format *f)
{
	struct tn_row one = { { src, scale } };
	TN_ISA_NAME(tn_plain_codec)(TN_CODEC_table)->decode(dst, &one, f, f->group);
}

TN_INLINE void decode_as(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols, tn_dtype dtype)
{
	const unsigned char *src = row->part[TN_PART_WEIGHT], *scales = row->part[TN_PART_SCALES];
	const size_t group = f->group;
	const struct sixteen levels = sixteen_of(f->grid->table);
	for (size_t g = 0; g < cols / group; g++, dst += group, src += group * f->bits / 8) {
		const float scale = load_as(scales, g, TN_F32);
		if (f->bits == 4)
			decode_nibbles(dst, src, group, numbers_of(levels, scaling_of(f, scale), dtype));
		else if (f->code_kind == TN_CODES_I8)
			decode_bytes(dst, src, group, scaling_of(f, scale), TN_CODES_I8, dtype);
		else if (is_usual_scale(scale) && !has_e4m3_nan(src, group))
			decode_bytes(dst, src, group, scaling_of(f, scale), TN_CODES_E4M3, dtype);
		else
			decode_group(dst, src, scales + g * sizeof scale, f);
	}
}

void TN_ISA_NAME(tn_x86_decode_table)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols)
{
	if (f->group % 16 != 0 || (f->bits == 8 && f->code_kind == TN_CODES_ANY))
		TN_ISA_NAME(tn_plain_codec)(TN_CODEC_table)->decode(dst, row, f, cols);
	else if (f->dtype == TN_F32)
		decode_as(dst, row, f, cols, TN_F32);
	else if (f->dtype == TN_F16)
		decode_as(dst, row, f, cols, TN_F16);
	else
		decode_as(dst, row, f, cols, TN_BF16);
}
