/* The sixteen levels of NF4, and some of a tensor's values. */
#ifndef TN_NF4_H
#define TN_NF4_H

#include "tenon/foreign.h"

extern const float tn_nf4_levels[16];

/* Values [first, first + n). */
void tn_nf4_decode_some(const struct tn_nf4 *nf4, uint64_t first, uint64_t n, float *dst);

#endif
