/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the products takes what: codes of 4 bits in integers, everything else in float32. */
#include "kernels/arm/override_arm.h"

#include "kernels/product.h"
#include "kernels/vector/dots.h"

/* Prepared activations begin with struct tn_prepared, and go on as each form needs. */
enum { HEAD = 64 };

/* Without an instruction for sums of four bytes, planes take two instructions for each of float32's, but for decoding. */
enum { DECODE_FROM = 8 };

static int in_planes(const struct tn_product *p)
{
#if !defined(__ARM_FEATURE_DOTPROD)
	if (p->precision == TN_PRECISION_EXACT && p->m >= DECODE_FROM)
		return 0;
#endif
	return TN_ISA_NAME(tn_arm_planes_take)(p);
}

/* A row of `grid` cannot be cut. */
static int in_pieces(const struct tn_product *p)
{
	return p->format->codec != TN_CODEC_grid;
}

/* Never less for more x, because scratch is asked for by the most there will be. */
size_t TN_ISA_NAME(tn_arm_product_bytes)(const struct tn_product *p)
{
	struct tn_product few = *p;
	few.m = in_planes(p) || p->m < DECODE_FROM ? p->m : DECODE_FROM - 1;
	return HEAD + (in_planes(&few) ? TN_ISA_NAME(tn_arm_planes_bytes)(&few) : 0);
}

void TN_ISA_NAME(tn_arm_product_prepare)(void *prepared, const struct tn_product *p, const struct tn_vectors *v)
{
	struct tn_prepared head = { v->x, v->stride };
	if (v->first == 0)
		memcpy(prepared, &head, sizeof head);
	if (in_planes(p))
		TN_ISA_NAME(tn_arm_planes_prepare)((unsigned char *)prepared + HEAD, p, v);
}

/* For the most x that there may be, whichever form they take. */
size_t TN_ISA_NAME(tn_arm_product_scratch)(const struct tn_product *p)
{
	return in_pieces(p) ? TN_ISA_NAME(tn_dots_scratch)(p) : tn_decoded_row_bytes(p->cols);
}

void TN_ISA_NAME(tn_arm_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				      const struct tn_rows *w, size_t rows, void *scratch)
{
	struct tn_prepared head;
	memcpy(&head, prepared, sizeof head);
	if (in_planes(p))
		TN_ISA_NAME(tn_arm_planes_rows)(y, y_stride, p, (const unsigned char *)prepared + HEAD, w, rows);
	else if (in_pieces(p))
		TN_ISA_NAME(tn_dots_rows)(y, y_stride, p, &head, w, rows, scratch);
	else
		TN_ISA_NAME(tn_product_rows)(y, y_stride, p, prepared, w, rows, scratch);
}
