/* The plain products of product.c, by names of their own for each instruction set. */
#ifndef TN_PRODUCT_H
#define TN_PRODUCT_H

#include "kernels/isa_build.h"
#include "kernels/kernels.h"

void TN_ISA_NAME(tn_product_prepare)(void *prepared, const struct tn_vectors *v);
void TN_ISA_NAME(tn_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				  const struct tn_rows *w, size_t rows, float *scratch);
void TN_ISA_NAME(tn_lora_shrink)(float *t, size_t t_stride, const void *a, tn_dtype dtype, size_t rank, size_t cols,
				 const float *x, size_t x_stride, size_t m);
void TN_ISA_NAME(tn_lora_expand)(float *y, size_t y_stride, const void *b, tn_dtype dtype, size_t rank, size_t rows,
				 const float *t, size_t t_stride, size_t m, float scale);

int TN_ISA_NAME(tn_all_finite)(const void *values, tn_dtype dtype, size_t n);

/* Of activations that are only pointed at, and of one decoded row. */
enum { TN_PREPARED_BYTES = 64 };
static inline size_t tn_decoded_row_bytes(size_t cols)
{
	return (cols * sizeof(float) + 63) / 64 * 64;
}

#endif
