/* Rows of a product that stays apart from what it is added to, and the way of rows in given directions (project_tiles.c). */
#ifndef TN_LOWRANK_TILES_H
#define TN_LOWRANK_TILES_H

#include "kernels/isa_build.h"
#include "kernels/kernels.h"

size_t TN_ISA_NAME(tn_vector_lowrank_bytes)(enum tn_factor_width width, size_t rank, size_t cols);
float TN_ISA_NAME(tn_vector_lowrank_pack)(void *packed, const float *a, enum tn_factor_width width, size_t rank, size_t cols);
void TN_ISA_NAME(tn_vector_lowrank_rows)(float *dst, size_t dst_stride, const struct tn_lowrank *p, const float *b, size_t rows,
					 void *scratch);
void TN_ISA_NAME(tn_vector_project_rows)(float *dst, const uint16_t *directions, size_t rank, size_t cols, const uint16_t *halves,
					 size_t stride, size_t rows);

#endif
