/* What the hand-written products share. Prepared activations begin with this, and go on as each form needs. */
#ifndef TN_PRODUCT_X86_H
#define TN_PRODUCT_X86_H

#include "kernels/x86/override.h"

struct tn_prepared {
	const float *x;              /* [m, cols]: the caller's, or a copy */
	size_t stride;
};
enum { TN_PREPARED_HEAD = 64 };

/* planes.c: codes of 4 bits times activations in planes of 8 bits. */
int TN_ISA_NAME(tn_planes_take)(const struct tn_product *p);
size_t TN_ISA_NAME(tn_planes_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_planes_prepare)(unsigned char *dst, const struct tn_product *p, const float *x, size_t x_stride);
void TN_ISA_NAME(tn_planes_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *planes,
				 const struct tn_rows *w, size_t rows);

/* dots.c: rows decoded to float32, or read as they are, times activations. Scratch: TN_DOTS_SCRATCH floats. */
enum { TN_DOTS_ROWS = 4, TN_DOTS_SCRATCH = TN_DOTS_ROWS * (1024 + 16) };
size_t TN_ISA_NAME(tn_dots_scratch)(const struct tn_product *p);
void TN_ISA_NAME(tn_dots_rows)(float *y, size_t y_stride, const struct tn_product *p, const struct tn_prepared *x,
			       const struct tn_rows *w, size_t rows, float *scratch);

/* The seam (product_x86.c). */
size_t TN_ISA_NAME(tn_x86_product_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_x86_product_prepare)(void *prepared, const struct tn_product *p, const float *x, size_t x_stride);
size_t TN_ISA_NAME(tn_x86_product_scratch)(const struct tn_product *p);
void TN_ISA_NAME(tn_x86_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				      const struct tn_rows *w, size_t rows, void *scratch);
void TN_ISA_NAME(tn_x86_lora_shrink)(float *t, size_t t_stride, const void *a, tn_dtype dtype, size_t rank, size_t cols,
				     const float *x, size_t x_stride, size_t m);
void TN_ISA_NAME(tn_x86_lora_expand)(float *y, size_t y_stride, const void *b, tn_dtype dtype, size_t rank, size_t rows,
				     const float *t, size_t t_stride, size_t m, float scale);

#endif
