/* A Llama in plain float32, for one thing: to say what a model folder of the sample's shape answers, independently of the
 * library's own arithmetic. */
#ifndef TN_MINI_LLAMA_H
#define TN_MINI_LLAMA_H

#include "tenon/checkpoint.h"

enum { MINI_HIDDEN = 192, MINI_LAYERS = 6, MINI_HEADS = 6, MINI_KV_HEADS = 2, MINI_HEAD = 32, MINI_MLP = 512,
       MINI_VOCAB = 1152 };

/* logits [count, MINI_VOCAB] of the tokens ids [count]; 0 when a tensor is missing. */
int mini_llama_logits(tn_context *ctx, const tn_checkpoint *model, const int *ids, int count, float *logits);

#endif
