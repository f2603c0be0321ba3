/* What products of 4-bit codes with activations in planes share on all architectures. */
#ifndef TN_CODES4_KIND_H
#define TN_CODES4_KIND_H

#include "kernels/quant.h"

enum scale_kind { SCALE_F32, SCALE_F16, SCALE_BF16, SCALE_E8M0, SCALE_E4M3 };

TN_INLINE enum scale_kind kind_of(const struct tn_format *f)
{
	if (f->codec == TN_CODEC_affine)
		return f->dtype == TN_F32 ? SCALE_F32 : f->dtype == TN_F16 ? SCALE_F16 : SCALE_BF16;
	return f->codec == TN_CODEC_mxfp4 ? SCALE_E8M0 : SCALE_E4M3;
}

/* Of all scales of a matrix. */
TN_INLINE float scale_factor(const struct tn_format *f)
{
	return f->has_global_scale ? f->global_scale / 2688.0f : 1.0f;
}

/* Of 8 bits, which one activation takes. */
TN_INLINE unsigned planes_of(const struct tn_product *p)
{
	return p->precision == TN_PRECISION_EXACT ? 3 : p->precision == TN_PRECISION_16 ? 2 : 1;
}

/* Defines multiply_rows(): multiply() for ROWS rows or for one, made for each number of planes and kind of scales. */
#define TN_DEFINE_MULTIPLY_ROWS                                                                                          \
	TN_INLINE void multiply_as(float *y, const struct rows *rows, const struct vector *x, int n, unsigned planes,    \
				   const enum scale_kind kind)                                                           \
	{                                                                                                                \
		if (planes == 3 && n == ROWS)                                                                            \
			multiply(y, rows, x, ROWS, 3, kind);                                                             \
		else if (planes == 3)                                                                                    \
			multiply(y, rows, x, 1, 3, kind);                                                                \
		else if (planes == 2 && n == ROWS)                                                                       \
			multiply(y, rows, x, ROWS, 2, kind);                                                             \
		else if (planes == 2)                                                                                    \
			multiply(y, rows, x, 1, 2, kind);                                                                \
		else if (n == ROWS)                                                                                      \
			multiply(y, rows, x, ROWS, 1, kind);                                                             \
		else                                                                                                     \
			multiply(y, rows, x, 1, 1, kind);                                                                \
	}                                                                                                                \
                                                                                                                         \
	static void multiply_rows(float *y, const struct rows *rows, const struct vector *x, int n, unsigned planes,     \
				  enum scale_kind kind)                                                                  \
	{                                                                                                                \
		switch (kind) {                                                                                          \
		case SCALE_F32: multiply_as(y, rows, x, n, planes, SCALE_F32); break;                                    \
		case SCALE_F16: multiply_as(y, rows, x, n, planes, SCALE_F16); break;                                    \
		case SCALE_BF16: multiply_as(y, rows, x, n, planes, SCALE_BF16); break;                                  \
		case SCALE_E8M0: multiply_as(y, rows, x, n, planes, SCALE_E8M0); break;                                  \
		default: multiply_as(y, rows, x, n, planes, SCALE_E4M3); break;                                          \
		}                                                                                                        \
	}

#endif
