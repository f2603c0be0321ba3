/* What the hand-written products share. Prepared activations begin with struct tn_prepared, and go on as each form needs. */
#ifndef TN_PRODUCT_X86_H
#define TN_PRODUCT_X86_H

#include "kernels/vector/dots.h"
#include "kernels/x86/override.h"

enum { TN_PREPARED_HEAD = 64 };

/* planes.c: codes of 4 bits times activations in planes of 8 bits. */
int TN_ISA_NAME(tn_planes_take)(const struct tn_product *p);
size_t TN_ISA_NAME(tn_planes_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_planes_prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v);
void TN_ISA_NAME(tn_planes_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *planes,
				 const struct tn_rows *w, size_t rows);

/* strips.c: the same formats, for many activations, from so many on; in pairs of BF16 or in planes, crossed or not. `strips` are
 * prepared activations. */
size_t TN_ISA_NAME(tn_strips_fewest)(const struct tn_product *p);
size_t TN_ISA_NAME(tn_strips_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_strips_prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v);
size_t TN_ISA_NAME(tn_strips_scratch)(const struct tn_product *p);
void TN_ISA_NAME(tn_strips_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *strips,
				 const struct tn_rows *w, size_t rows, void *scratch);

/* tiles_amx.c: the same by AMX, `tiles` prepared. */
size_t TN_ISA_NAME(tn_tiles_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_tiles_prepare)(unsigned char *dst, const struct tn_product *p, const struct tn_vectors *v);
size_t TN_ISA_NAME(tn_tiles_scratch)(void);
void TN_ISA_NAME(tn_tiles_rows)(float *y, size_t y_stride, const struct tn_product *p, const unsigned char *tiles,
				const struct tn_rows *w, size_t rows, void *scratch);

/* table_products.c: codes of 4 and 8 bits that a table explains, times one x, in float32; `ordered` is prepared. */
int TN_ISA_NAME(tn_table_takes)(const struct tn_product *p);
size_t TN_ISA_NAME(tn_table_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_table_prepare)(unsigned char *dst, const struct tn_product *p, const float *x);
void TN_ISA_NAME(tn_table_rows)(float *y, const struct tn_product *p, const unsigned char *ordered, const struct tn_rows *w,
				size_t rows);

/* The seam (product_x86.c). */
size_t TN_ISA_NAME(tn_x86_product_bytes)(const struct tn_product *p);
void TN_ISA_NAME(tn_x86_product_prepare)(void *prepared, const struct tn_product *p, const struct tn_vectors *v);
size_t TN_ISA_NAME(tn_x86_product_scratch)(const struct tn_product *p);
void TN_ISA_NAME(tn_x86_product_rows)(float *y, size_t y_stride, const struct tn_product *p, const void *prepared,
				      const struct tn_rows *w, size_t rows, void *scratch);

#endif
