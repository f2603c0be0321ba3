/* The functions of attend.c, by names of their own for each instruction set. */
#ifndef TN_ATTEND_H
#define TN_ATTEND_H

#include "kernels/isa_build.h"

#include <stddef.h>
#include <stdint.h>

struct tn_key_span;

void TN_ISA_NAME(tn_scores_f32)(float *scores, const float *q, size_t queries, const float *keys, size_t blocks, size_t width,
				float scale);
void TN_ISA_NAME(tn_weigh_f32)(float *scores, float *sums, const struct tn_key_span *spans, size_t queries, size_t blocks);
void TN_ISA_NAME(tn_mix_f32)(float *y, const float *shares, const struct tn_key_span *spans, size_t queries, const float *values,
			     const struct tn_key_span *keys, size_t width);
void TN_ISA_NAME(tn_exp_f32)(float *y, const float *x, size_t n);

#endif
