/* The hand-written entries of this folder, compiled for every AArch64 instruction set. */
#ifndef TN_OVERRIDE_ARM_H
#define TN_OVERRIDE_ARM_H

#include "kernels/isa_build.h"
#include "kernels/quant.h"

#include <arm_neon.h>

/* decode of any codec (decode_arm.c). */
void TN_ISA_NAME(tn_arm_decode)(float *dst, const struct tn_row *row, const struct tn_format *format, size_t cols);

/* 16-bit floats (dense_arm.c); decoding returns 0 for other dtypes. */
int TN_ISA_NAME(tn_arm_decode_dense)(float *dst, const void *src, size_t n, tn_dtype dtype);
void TN_ISA_NAME(tn_arm_encode_dense)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols);

/* Which of the products takes what (product_arm.c). */
size_t TN_ISA_NAME(tn_arm_product_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_arm_product_prepare)(void *prepared, const struct tn_product *p, const struct tn_vectors *v);
size_t TN_ISA_NAME(tn_arm_product_scratch)(const struct tn_product *p);
void TN_ISA_NAME(tn_arm_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				      const struct tn_rows *w, size_t rows, void *scratch);

/* Codes of 4 bits times activations in planes of 8 bits (planes_arm.c). */
int TN_ISA_NAME(tn_arm_planes_take)(const struct tn_product *p);
size_t TN_ISA_NAME(tn_arm_planes_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_arm_planes_prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v);
void TN_ISA_NAME(tn_arm_planes_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *planes,
				     const struct tn_rows *w, size_t rows);

void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k);

#endif
