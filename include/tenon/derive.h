/* tenon/derive.h - adapters made of what is there: every function here makes a draft (tenon/create.h), which is saved, fused,
 * attached or verified like any other.
 *
 * An adapter that is read goes the way that it goes before a fuse: every part of it lands on rows of the base, in whatever dialect,
 * form of experts and order of storage, or the error names it. What is written then is what the chosen dialect calls the
 * modules of these rows. Nothing is dropped in silence: what a dialect cannot hold is refused by name.
 *
 * Sources. Names, shapes and configuration: as tenon/create.h has them. What the programs load: PEFT 0.21 (tuners/lora, tuners/
 * tuners_utils.py, utils/save_and_load.py) and mlx-lm 0.32.2 (tuner/utils.py). docs/adapters.md says what becomes of what.
 */
#ifndef TENON_DERIVE_H
#define TENON_DERIVE_H

#include "tenon/create.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How many singular values s of a matrix are kept: the smallest k with sum of s_i^2 for i <= k of at least energy * that of all, at
 * most `rank`. PEFT 0.21's conversion.py has the same rule. */
struct tn_rank_rule {
	uint64_t rank;   /* 0: no bound */
	double energy;   /* in (0, 1]; 1: all that are not noise of rounding, unless `rank` bounds them */
};

/* Start from TN_DERIVE_OPTIONS_INIT. */
struct tn_derive_options {
	tn_adapter_dialect dialect;  /* TN_DIALECT_MLX_LM or TN_DIALECT_PEFT */
	int keep_dtype;              /* each tensor is saved in the dtype of its source where that holds its numbers, else as F32 */
	tn_dtype dtype;              /* without keep_dtype: TN_F32, TN_BF16 or TN_F16 for all tensors, rounded to the nearest, ties
	                              * to even; the draft has the rounded numbers */
	const char *base_name;       /* what adapter_config.json calls the base; NULL: path of the checkpoint */
	const char *task_type;       /* PEFT; NULL: that of the source, none where it says none */
};
#define TN_DERIVE_OPTIONS_INIT { TN_DIALECT_PEFT, 1, TN_F32, NULL, NULL }

/* What was done to one module. Belongs to the draft. */
struct tn_derived_module {
	const char *path;        /* as the dialect names it */
	tn_module_kind kind;
	uint64_t rank_before;    /* of all that landed on it; 0: it was made of matrices, not of factors */
	uint64_t rank;
	double kept;             /* 1 - |D - D'|^2 / |D|^2 over all elements of the delta D and what became of it; 1 where nothing
	                          * was left out */
};
/* Modules with factors in the order of paths; 0 for drafts that were not made here. */
TN_API size_t tn_draft_derived_count(const tn_draft *draft);
TN_API const struct tn_derived_module *tn_draft_derived_at(const tn_draft *draft, size_t i);

/* The adapter in another dialect (or its own: then in the form that tenon writes). Numbers stay as they are, bit for bit, but
 *   - scales: mlx-lm has one for all modules. The one that most modules have is written; the others go into B, exactly where they
 *     differ by a power of two, else rounded once to float32.
 *   - ranks: mlx-lm has one for all modules. Smaller ones are filled up with zeros. Columns of zeros in both factors are left out
 *     where a dialect does without them, so that the way back gives the first file again.
 *   - PiSSA, OLoRA, KaSA: what they took out of the base becomes factors too, of twice the rank, rounded to float32.
 *   - gate and up projections of experts, which are one parameter in PEFT and two modules in mlx-lm: of pairs with different A one
 *     of the sum of their ranks is made, whose other blocks are zero.
 * Memory: the adapter in float32 twice. Used by one thread; the result depends on adapter, base and options alone.
 * Errors: those of landing (TN_E_MISMATCH: the adapter is of another base). TN_E_UNSUPPORTED: the dialect cannot hold a part, in
 * the message with what to do instead. TN_E_ARG: options without a meaning. */
TN_API tn_status tn_draft_convert(const tn_adapter *adapter, const tn_checkpoint *base, const struct tn_derive_options *options,
				  tn_draft **out, struct tn_error *err);

#ifdef __cplusplus
}
#endif
#endif
