/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/x86/override.h"

void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k)
{
	k->add_product = TN_ISA_NAME(tn_x86_add_product);
}
