/* SPDX-License-Identifier: Apache-2.0 */
/* Which of the products takes what: codes of 4 bits in integers while there are few activations, everything else in float32. */
#include "kernels/x86/product_x86.h"

/* From so many rows of x on it pays to decode the matrix. */
enum { DECODE_FROM = 12 };

static int in_planes(const struct tn_product *p)
{
	return p->m < DECODE_FROM && TN_ISA_NAME(tn_planes_take)(p);
}

size_t TN_ISA_NAME(tn_x86_product_bytes)(const struct tn_product *p)
{
	return TN_PREPARED_HEAD + (in_planes(p) ? TN_ISA_NAME(tn_planes_bytes)(p) : 0);
}

void TN_ISA_NAME(tn_x86_product_prepare)(void *prepared, const struct tn_product *p, const float *x, size_t x_stride)
{
	struct tn_prepared head = { x, x_stride };
	memcpy(prepared, &head, sizeof head);
	if (in_planes(p))
		TN_ISA_NAME(tn_planes_prepare)((unsigned char *)prepared + TN_PREPARED_HEAD, p, x, x_stride);
}

size_t TN_ISA_NAME(tn_x86_product_scratch)(const struct tn_product *p)
{
	return in_planes(p) ? 64 : TN_ISA_NAME(tn_dots_scratch)(p);
}

void TN_ISA_NAME(tn_x86_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				      const struct tn_rows *w, size_t rows, void *scratch)
{
	struct tn_prepared head;
	memcpy(&head, prepared, sizeof head);
	if (in_planes(p))
		TN_ISA_NAME(tn_planes_rows)(y, y_stride, p, (const unsigned char *)prepared + TN_PREPARED_HEAD, w, rows);
	else
		TN_ISA_NAME(tn_dots_rows)(y, y_stride, p, &head, w, rows, scratch);
}

void TN_ISA_NAME(tn_x86_lora_shrink)(float *t, size_t t_stride, const void *a, tn_dtype dtype, size_t rank, size_t cols,
				     const float *x, size_t x_stride, size_t m)
{
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = dtype };
	struct tn_rows rows = { { { a } }, { cols * (dtype == TN_F32 ? 4 : 2) } };
	struct tn_prepared head = { x, x_stride };
	struct tn_product p = { &format, cols, m, TN_PRECISION_EXACT };
	float scratch[TN_DOTS_SCRATCH];
	TN_ISA_NAME(tn_dots_rows)(t, t_stride, &p, &head, &rows, rank, scratch);
}
