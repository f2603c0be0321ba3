/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/x86/product_x86.h"

void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k)
{
	k->add_product = TN_ISA_NAME(tn_x86_add_product);
	k->product_bytes = TN_ISA_NAME(tn_x86_product_bytes);
	k->product_prepare = TN_ISA_NAME(tn_x86_product_prepare);
	k->product_scratch_bytes = TN_ISA_NAME(tn_x86_product_scratch);
	k->product_rows = TN_ISA_NAME(tn_x86_product_rows);
	k->lora_shrink = TN_ISA_NAME(tn_x86_lora_shrink);
	k->lora_expand = TN_ISA_NAME(tn_x86_lora_expand);
}
