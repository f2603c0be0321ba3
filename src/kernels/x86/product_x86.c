/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the products takes what: codes of 4 bits in integers, everything else in float32. */
#include "kernels/x86/product_x86.h"

#include "kernels/product.h"

/* Without an instruction for sums of four bytes, three planes cost more than to decode for this many x. */
enum { DECODE_FROM = 16 };

static int in_planes(const struct tn_product *p)
{
#if !defined(__AVX512VNNI__)
	if (p->precision == TN_PRECISION_EXACT && p->m >= DECODE_FROM)
		return 0;
#endif
	return TN_ISA_NAME(tn_planes_take)(p);
}

/* A row of `grid` cannot be cut. */
static int in_pieces(const struct tn_product *p)
{
	return p->format->codec != TN_CODEC_grid;
}

/* Of a copy: an odd number of cache lines, so that rows do not push each other out. */
static size_t copy_stride(size_t cols)
{
	return ((cols + 15) / 16 | 1) * 16;
}

/* Never less for more x, because scratch is asked for by the most there will be: planes of a few may take more than a copy of
 * DECODE_FROM. */
size_t TN_ISA_NAME(tn_x86_product_bytes)(const struct tn_product *p)
{
	struct tn_product few = *p;
	few.m = in_planes(p) || p->m < DECODE_FROM ? p->m : DECODE_FROM - 1;
	size_t planes = in_planes(&few) ? TN_ISA_NAME(tn_planes_bytes)(&few) : 0;
	size_t copy = !in_planes(p) && p->m > 1 && in_pieces(p) ? p->m * copy_stride(p->cols) * sizeof(float) : 0;
	return TN_PREPARED_HEAD + (planes > copy ? planes : copy);
}

void TN_ISA_NAME(tn_x86_product_prepare)(void *prepared, const struct tn_product *p, const float *x, size_t x_stride)
{
	unsigned char *rest = (unsigned char *)prepared + TN_PREPARED_HEAD;
	struct tn_prepared head = { x, x_stride };
	if (in_planes(p)) {
		TN_ISA_NAME(tn_planes_prepare)(rest, p, x, x_stride);
	} else if (p->m > 1 && in_pieces(p)) {
		float *copy = (float *)(void *)rest;
		head = (struct tn_prepared){ copy, copy_stride(p->cols) };
		for (size_t t = 0; t < p->m; t++)
			memcpy(copy + t * head.stride, x + t * x_stride, p->cols * sizeof *copy);
	}
	memcpy(prepared, &head, sizeof head);
}

size_t TN_ISA_NAME(tn_x86_product_scratch)(const struct tn_product *p)
{
	if (in_planes(p))
		return 64;
	return in_pieces(p) ? TN_ISA_NAME(tn_dots_scratch)(p) : tn_decoded_row_bytes(p->cols);
}

void TN_ISA_NAME(tn_x86_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				      const struct tn_rows *w, size_t rows, void *scratch)
{
	struct tn_prepared head;
	memcpy(&head, prepared, sizeof head);
	if (in_planes(p))
		TN_ISA_NAME(tn_planes_rows)(y, y_stride, p, (const unsigned char *)prepared + TN_PREPARED_HEAD, w, rows);
	else if (in_pieces(p))
		TN_ISA_NAME(tn_dots_rows)(y, y_stride, p, &head, w, rows, scratch);
	else
		TN_ISA_NAME(tn_product_rows)(y, y_stride, p, prepared, w, rows, scratch);
}
