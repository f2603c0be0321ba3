/* SPDX-License-Identifier: Apache-2.0 */
/* Rows between formats: direct where there is a way (lanes.h), else by way of float32. */
#include "kernels/by_values.h"
#include "kernels/x86/lanes.h"

/* Results that go past the caches do so in whole lines. */
static int is_far(const struct tn_rows_out *dst, const struct tn_recoding *how)
{
	return how->is_far && (uintptr_t)dst->first.part[TN_PART_WEIGHT] % 64 == 0 && dst->stride[TN_PART_WEIGHT] % 64 == 0;
}

void TN_ISA_NAME(tn_x86_recode_rows)(const struct tn_rows_out *dst, const struct tn_rows *src, const struct tn_recoding *how)
{
	int decodes = TN_ISA_NAME(tn_x86_decodes_halves)(how->from, how->to);
	if (!decodes && !TN_ISA_NAME(tn_x86_encodes_halves)(how->from, how->to)) {
		recode_by_values(dst, src, how, TN_ISA_NAME(tn_x86_codec)(how->from->codec),
				 TN_ISA_NAME(tn_x86_codec)(how->to->codec));
		return;
	}
	int far = is_far(dst, how);
	for (size_t i = 0; i < how->rows; i++) {
		struct tn_row in = row_of(src, i);
		struct tn_row_out out = row_out_of(dst, i);
		if (decodes)
			TN_ISA_NAME(tn_x86_decode_halves)(out.part[TN_PART_WEIGHT], &in, how, far);
		else
			TN_ISA_NAME(tn_x86_encode_halves)(&out, in.part[TN_PART_WEIGHT], how);
	}
	if (decodes && far)
		_mm_sfence(); /* what went past the caches is seen by other threads before what this one says next */
}
