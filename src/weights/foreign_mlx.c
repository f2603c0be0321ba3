/* SPDX-License-Identifier: Apache-2.0 */
/* Which foreign matrices are one of MLX's without loss, and their rows in its layout. */
#include "weights/foreign_rows.h"

#include "base/error.h"
#include "base/half.h"

#include <string.h>

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

/* Scales and biases of one row; 0 when a bias or scale is not exact in that dtype. */
static int store_affine(const struct tn_foreign *f, const struct tn_format *format, const float *scales, const float *zeros,
			void *scale_dst, void *bias_dst)
{
	float centre = f->element == TN_ELEMENT_I8 ? 128 : -f->table[0];
	int exact = 1;
	for (size_t j = 0; j < f->cols / format->group; j++) {
		size_t g = j * format->group / (size_t)f->group;
		float zero = zeros ? zeros[g] : 0, bias = f->zeros == TN_ZEROS_COLUMN_FLOAT ? zero : -(zero + centre) * scales[g];
		tn_foreign_put_value(scale_dst, j, format->dtype, scales[g]);
		tn_foreign_put_value(bias_dst, j, format->dtype, bias);
		exact &= tn_foreign_value(bias_dst, j, format->dtype) == bias &&
			 tn_foreign_value(scale_dst, j, format->dtype) == scales[g];
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
	struct tn_grid_rows s;
	size_t cols = (size_t)f->cols, groups = (size_t)f->groups;
	TN_TRY(tn_foreign_load_rows(kernels, source, f, first, count, scratch, &s, err));
	for (size_t r = 0; r < count; r++) {
		uint8_t *codes = s.codes + r * cols;
		const float *scales = s.scales + r * groups, *zeros = f->zeros != TN_ZEROS_NONE ? s.zeros + r * groups : NULL;
		for (size_t i = 0; f->element == TN_ELEMENT_I8 && i < cols; i++)
			codes[i] ^= 0x80;
		kernels->pack_codes(rows[r].part[TN_PART_WEIGHT], codes, cols, f->bits);
		if (!rows[r].part[TN_PART_BIASES])
			store_powers(scales, groups, rows[r].part[TN_PART_SCALES]);
		else if (!store_affine(f, format, scales, zeros, rows[r].part[TN_PART_SCALES], rows[r].part[TN_PART_BIASES]) &&
			 exact)
			return tn_fail(err, TN_E_UNSUPPORTED, f->weight.name, "'%.120s' has a scale whose bias %s does not hold "
				       "exactly; ask for --dtype float32", f->weight.name, tn_dtype_name(format->dtype));
	}
	return TN_OK;
}
