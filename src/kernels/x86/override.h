/* The hand-written entries of this folder, compiled for every x86-64 instruction set from AVX2 on. */
#ifndef TN_X86_OVERRIDE_H
#define TN_X86_OVERRIDE_H

#include "kernels/isa_build.h"
#include "kernels/quant.h"

#include <immintrin.h>

/* decode of any codec (decode.c). */
void TN_ISA_NAME(tn_x86_decode)(float *dst, const struct tn_row *row, const struct tn_format *format, size_t cols);

void TN_ISA_NAME(tn_x86_recode_rows)(const struct tn_rows_out *dst, const struct tn_rows *src, const struct tn_recoding *how);

void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k);

#endif
