/* SPDX-License-Identifier: Apache-2.0 */
/* Rows of 16-bit floats to affine codes; codec_affine.c says what is computed. */
#include "kernels/x86/affine_halves.h"

TN_INLINE void encode_group(unsigned char *dst, size_t left, const unsigned char *src, size_t group, const struct grids *grids,
			    size_t g, const int bits, tn_dtype dtype)
{
	const floats scale = V(set1_ps)(grids->scale[g]), bias = V(set1_ps)(grids->bias[g]);
	const floats inverse = V(set1_ps)(grids->inverse[g]);
	for (size_t i = 0; i < group; i += HALVES) {
		ints h = load_ints(src + 2 * i);
		size_t at = i / 8 * (size_t)bits;
		store_codes(dst + at, left - at, codes_of(even_floats(h, dtype), scale, bias, inverse, bits),
			    codes_of(odd_floats(h, dtype), scale, bias, inverse, bits), bits);
	}
}

/* By the plain codec. */
static void encode_odd_group(const struct tn_row_out *row, size_t g, const unsigned char *src, const struct tn_format *f)
{
	float values[128];
	size_t n = f->group;
	struct tn_row in = { { src } };
	struct tn_row_out out = { { (unsigned char *)row->part[TN_PART_WEIGHT] + g * n / 8 * f->bits,
				    (unsigned char *)row->part[TN_PART_SCALES] + 2 * g,
				    (unsigned char *)row->part[TN_PART_BIASES] + 2 * g } };
	struct tn_format dense = { .codec = TN_CODEC_dense, .dtype = f->dtype };
	TN_ISA_NAME(tn_plain_codec)(TN_CODEC_dense)->decode(values, &in, &dense, n);
	TN_ISA_NAME(tn_plain_codec)(TN_CODEC_affine)->encode(&out, values, f, n);
}

TN_INLINE void encode_row(const struct tn_row_out *row, const unsigned char *src, const struct tn_recoding *how, const int bits,
			  tn_dtype dtype)
{
	const size_t group = how->to->group, groups = how->cols / group, bytes = group / 8 * (size_t)bits;
	unsigned char *dst = row->part[TN_PART_WEIGHT];
	size_t left = groups * bytes;
	for (size_t first = 0; first < groups; first += FLOATS) {
		size_t count = groups - first < FLOATS ? groups - first : FLOATS;
		struct grids grids = grids_of(src, group, count, bits, dtype);
		for (size_t g = 0; g < count; g++, src += 2 * group, dst += bytes, left -= bytes) {
			encode_group(dst, left, src, group, &grids, g, bits, dtype);
			store_as(row->part[TN_PART_SCALES], first + g, grids.scale[g], dtype);
			store_as(row->part[TN_PART_BIASES], first + g, grids.bias[g], dtype);
		}
		for (size_t g = 0; grids.odd && g < count; g++)
			if (grids.odd >> g & 1)
				encode_odd_group(row, first + g, src - 2 * group * (count - g), how->to);
	}
}

TN_INLINE void encode_row_as(const struct tn_row_out *row, const unsigned char *src, const struct tn_recoding *how, const int bits)
{
	if (how->to->dtype == TN_BF16)
		encode_row(row, src, how, bits, TN_BF16);
	else
		encode_row(row, src, how, bits, TN_F16);
}

int TN_ISA_NAME(tn_x86_encodes_halves)(const struct tn_format *from, const struct tn_format *to)
{
	if (from->codec != TN_CODEC_dense || from->dtype != to->dtype || to->flavour != TN_ENCODE_CPU)
		return 0;
	if (to->codec == TN_CODEC_affine)
		return to->bits > 1 && (to->dtype == TN_BF16 || to->dtype == TN_F16);
	int is_float = to->codec == TN_CODEC_mxfp4 || to->codec == TN_CODEC_nvfp4 || to->codec == TN_CODEC_mxfp8;
	return is_float && to->dtype == TN_BF16 && !to->has_global_scale;
}

void TN_ISA_NAME(tn_x86_encode_halves)(const struct tn_row_out *row, const unsigned char *src, const struct tn_recoding *how)
{
	int bits = how->to->codec == TN_CODEC_affine ? how->to->bits : 0;
	switch (bits) {
	case 2: encode_row_as(row, src, how, 2); break;
	case 3: encode_row_as(row, src, how, 3); break;
	case 4: encode_row_as(row, src, how, 4); break;
	case 5: encode_row_as(row, src, how, 5); break;
	case 6: encode_row_as(row, src, how, 6); break;
	case 8: encode_row_as(row, src, how, 8); break;
	default: TN_ISA_NAME(tn_x86_encode_float_halves)(row, src, how);
	}
}
