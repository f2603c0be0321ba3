/* A head that config.json ties to the embedding, and that the file holds all the same. */
#ifndef TN_HEAD_COPY_H
#define TN_HEAD_COPY_H

#include "tenon/weights.h"

/* TN_OK where `head` or `embedding` (names of weights, "lm_head.weight") is missing, or where both stand for the same values, in
 * whatever dtype, scheme or library's layout each lies. Else TN_E_MISMATCH naming both: transformers computes with a head that
 * differs, mlx-lm with the embedding, so that only config.json can say what is meant. Reads both. */
tn_status tn_check_head_copy(const tn_checkpoint *base, const char *embedding, const char *head, struct tn_error *err);

#endif
