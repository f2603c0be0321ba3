/* SPDX-License-Identifier: Apache-2.0 */
#include "kernels/add_product.h"
#include "kernels/vector/lowrank_tiles.h"
#include "kernels/x86/codec_x86.h"
#include "kernels/x86/product_x86.h"

/* Written once, with the table that points at it. */
static struct tn_codec dense, affine, mxfp4, mxfp8, nvfp4, table;

const struct tn_codec *TN_ISA_NAME(tn_x86_codec)(enum tn_codec_id id)
{
	switch (id) {
	case TN_CODEC_dense: return &dense;
	case TN_CODEC_affine: return &affine;
	case TN_CODEC_mxfp4: return &mxfp4;
	case TN_CODEC_mxfp8: return &mxfp8;
	case TN_CODEC_nvfp4: return &nvfp4;
	case TN_CODEC_table: return &table;
	default: return TN_ISA_NAME(tn_plain_codec)(id);
	}
}

static void override_codecs(struct tn_kernels *k)
{
	dense = *k->codec[TN_CODEC_dense];
	dense.decode = TN_ISA_NAME(tn_x86_decode_dense);
	dense.encode = TN_ISA_NAME(tn_x86_encode_dense);
	affine = *k->codec[TN_CODEC_affine];
	affine.decode = TN_ISA_NAME(tn_x86_decode);
	affine.encode = TN_ISA_NAME(tn_x86_encode_affine);
	affine.dither = TN_ISA_NAME(tn_x86_dither_affine);
	affine.change_sums = TN_ISA_NAME(tn_x86_change_sums_affine);
	affine.refit = TN_ISA_NAME(tn_x86_refit_affine);
	mxfp4 = *k->codec[TN_CODEC_mxfp4];
	mxfp8 = *k->codec[TN_CODEC_mxfp8];
	nvfp4 = *k->codec[TN_CODEC_nvfp4];
	table = *k->codec[TN_CODEC_table];
	table.decode = TN_ISA_NAME(tn_x86_decode_table);
	mxfp4.decode = nvfp4.decode = TN_ISA_NAME(tn_x86_decode);
	mxfp8.decode = TN_ISA_NAME(tn_x86_decode_mxfp8);
	mxfp4.encode = nvfp4.encode = TN_ISA_NAME(tn_x86_encode_e2m1);
	mxfp4.dither = nvfp4.dither = TN_ISA_NAME(tn_x86_dither_e2m1);
	k->codec[TN_CODEC_dense] = &dense;
	k->codec[TN_CODEC_affine] = &affine;
	k->codec[TN_CODEC_mxfp4] = &mxfp4;
	k->codec[TN_CODEC_mxfp8] = &mxfp8;
	k->codec[TN_CODEC_nvfp4] = &nvfp4;
	k->codec[TN_CODEC_table] = &table;
}

void TN_ISA_NAME(tn_kernels_override)(struct tn_kernels *k)
{
	override_codecs(k);
	k->recode_rows = TN_ISA_NAME(tn_x86_recode_rows);
	k->lowrank_bytes = TN_ISA_NAME(tn_vector_lowrank_bytes);
	k->lowrank_pack = TN_ISA_NAME(tn_vector_lowrank_pack);
	k->lowrank_rows = TN_ISA_NAME(tn_vector_lowrank_rows);
	k->round_sums = TN_ISA_NAME(tn_x86_round_sums);
	k->change_sums = TN_ISA_NAME(tn_x86_change_sums);
	k->project_rows = TN_ISA_NAME(tn_vector_project_rows);
	k->grid_f32 = TN_ISA_NAME(tn_x86_grid_f32);
	k->nibble_values = TN_ISA_NAME(tn_x86_nibble_values);
	k->level_codes = TN_ISA_NAME(tn_x86_level_codes);
	k->add_product = TN_ISA_NAME(tn_vector_add_product);
	k->product_bytes = TN_ISA_NAME(tn_x86_product_bytes);
	k->product_prepare = TN_ISA_NAME(tn_x86_product_prepare);
	k->product_scratch_bytes = TN_ISA_NAME(tn_x86_product_scratch);
	k->product_rows = TN_ISA_NAME(tn_x86_product_rows);
	k->lora_shrink = TN_ISA_NAME(tn_vector_lora_shrink);
	k->lora_expand = TN_ISA_NAME(tn_vector_lora_expand);
}
