/* The functions of attend.c, by names of their own for each instruction set. */
#ifndef TN_ATTEND_H
#define TN_ATTEND_H

#include "kernels/isa_build.h"

#include <stddef.h>
#include <stdint.h>

void TN_ISA_NAME(tn_scores_f32)(float *scores, const float *q, const float *keys, size_t count, size_t width, float scale);
void TN_ISA_NAME(tn_mix_f32)(float *y, const float *shares, const float *values, size_t count, size_t width);
void TN_ISA_NAME(tn_exp_f32)(float *y, const float *x, size_t n);

#endif
