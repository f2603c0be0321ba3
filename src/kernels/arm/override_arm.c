/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/arm/override_arm.h"
#include "kernels/vector/dots.h"

/* Written once, with the table that points at it. */
static struct tn_codec affine;

void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k)
{
	affine = *k->codec[TN_CODEC_affine];
	affine.decode = TN_ISA_NAME(tn_arm_decode);
	k->codec[TN_CODEC_affine] = &affine;
	k->product_bytes = TN_ISA_NAME(tn_arm_product_bytes);
	k->product_prepare = TN_ISA_NAME(tn_arm_product_prepare);
	k->product_scratch_bytes = TN_ISA_NAME(tn_arm_product_scratch);
	k->product_rows = TN_ISA_NAME(tn_arm_product_rows);
	k->lora_shrink = TN_ISA_NAME(tn_vector_lora_shrink);
	k->lora_expand = TN_ISA_NAME(tn_vector_lora_expand);
}
