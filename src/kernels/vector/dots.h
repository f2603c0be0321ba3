/* Products in float32 by vectors: rows decoded, or read as they are, times activations. */
#ifndef TN_DOTS_H
#define TN_DOTS_H

#include "kernels/isa_build.h"
#include "kernels/kernels.h"

struct tn_prepared {
	const float *x;              /* [m, cols]: the caller's, or a copy */
	size_t stride;
};

/* Scratch: TN_DOTS_SCRATCH floats. */
enum { TN_DOTS_ROWS = 4, TN_DOTS_SCRATCH = TN_DOTS_ROWS * (1024 + 16) };
size_t TN_ISA_NAME(tn_dots_scratch)(const struct tn_product *p);
void TN_ISA_NAME(tn_dots_rows)(float *y, size_t y_stride, const struct tn_product *p, const struct tn_prepared *x,
			       const struct tn_rows *w, size_t rows, float *scratch);

/* factor_products.c */
void TN_ISA_NAME(tn_vector_lora_shrink)(float *t, size_t t_stride, const void *a, tn_dtype dtype, size_t rank, size_t cols,
					const float *x, size_t x_stride, size_t m);
void TN_ISA_NAME(tn_vector_lora_expand)(float *y, size_t y_stride, const void *b, tn_dtype dtype, size_t rank, size_t rows,
					const float *t, size_t t_stride, size_t m, float scale);

#endif
