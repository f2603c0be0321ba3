/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/add_product.h"
#include "kernels/arm/codec_arm.h"
#include "kernels/vector/dots.h"
#include "kernels/vector/lowrank_tiles.h"

/* Written once, with the table that points at them. */
static struct tn_codec dense, affine, mxfp4, mxfp8, nvfp4;

static void override_codecs(struct tn_kernels *k)
{
	dense = *k->codec[TN_CODEC_dense];
	affine = *k->codec[TN_CODEC_affine];
	mxfp4 = *k->codec[TN_CODEC_mxfp4];
	mxfp8 = *k->codec[TN_CODEC_mxfp8];
	nvfp4 = *k->codec[TN_CODEC_nvfp4];
	dense.decode = affine.decode = mxfp4.decode = mxfp8.decode = nvfp4.decode = TN_ISA_NAME(tn_arm_decode);
	dense.encode = TN_ISA_NAME(tn_arm_encode_dense);
	affine.encode = TN_ISA_NAME(tn_arm_encode_affine);
	affine.dither = TN_ISA_NAME(tn_arm_dither_affine);
	mxfp4.encode = nvfp4.encode = TN_ISA_NAME(tn_arm_encode_e2m1);
	mxfp4.dither = nvfp4.dither = TN_ISA_NAME(tn_arm_dither_e2m1);
	mxfp8.encode = TN_ISA_NAME(tn_arm_encode_e4m3);
	mxfp8.dither = TN_ISA_NAME(tn_arm_dither_e4m3);
	k->codec[TN_CODEC_dense] = &dense;
	k->codec[TN_CODEC_affine] = &affine;
	k->codec[TN_CODEC_mxfp4] = &mxfp4;
	k->codec[TN_CODEC_mxfp8] = &mxfp8;
	k->codec[TN_CODEC_nvfp4] = &nvfp4;
}

void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k)
{
	override_codecs(k);
	k->lowrank_bytes = TN_ISA_NAME(tn_vector_lowrank_bytes);
	k->lowrank_pack = TN_ISA_NAME(tn_vector_lowrank_pack);
	k->lowrank_rows = TN_ISA_NAME(tn_vector_lowrank_rows);
	k->project_rows = TN_ISA_NAME(tn_vector_project_rows);
	k->add_product = TN_ISA_NAME(tn_vector_add_product);
	k->product_bytes = TN_ISA_NAME(tn_arm_product_bytes);
	k->product_prepare = TN_ISA_NAME(tn_arm_product_prepare);
	k->product_scratch_bytes = TN_ISA_NAME(tn_arm_product_scratch);
	k->product_rows = TN_ISA_NAME(tn_arm_product_rows);
	k->lora_shrink = TN_ISA_NAME(tn_vector_lora_shrink);
	k->lora_expand = TN_ISA_NAME(tn_vector_lora_expand);
}
