/* The hand-written entries of this folder, compiled for every x86-64 instruction set from AVX2 on. */
#ifndef TN_X86_OVERRIDE_H
#define TN_X86_OVERRIDE_H

#include "kernels/isa_build.h"
#include "kernels/quant.h"

#include <immintrin.h>

void TN_ISA_NAME(tn_x86_change_sums)(struct tn_change_sums *sums, uint16_t *halves, const float *before, const float *after,
				     const float *wanted, size_t n);
void TN_ISA_NAME(tn_x86_round_sums)(uint16_t *dst, const float *w, const float *d, tn_dtype product, tn_dtype dtype, size_t n);

/* decode of any codec (decode.c). */
void TN_ISA_NAME(tn_x86_decode)(float *dst, const struct tn_row *row, const struct tn_format *format, size_t cols);

void TN_ISA_NAME(tn_x86_decode_dense)(float *dst, const struct tn_row *row, const struct tn_format *f, size_t cols);
void TN_ISA_NAME(tn_x86_encode_dense)(const struct tn_row_out *row, const float *src, const struct tn_format *f, size_t cols);

void TN_ISA_NAME(tn_x86_recode_rows)(const struct tn_rows_out *dst, const struct tn_rows *src, const struct tn_recoding *how);

void TN_ISA_NAME(tn_x86_grid_f32)(float *dst, const uint8_t *codes, size_t n, const struct tn_grid *grid);

void TN_ISA_NAME(tn_x86_nibble_values)(void *dst, tn_dtype dtype, const unsigned char *nibbles, size_t skip, size_t n,
				       const struct tn_grid *grid, int is_far);

void TN_ISA_NAME(tn_x86_level_codes)(uint8_t *codes, float *largest, const float *values, size_t blocks, const float bounds[15]);

void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k);

#endif
