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

/* Start from TN_DERIVE_OPTIONS_INIT; NULL in a call stands for it, as for all options here. */
struct tn_derive_options {
	tn_adapter_dialect dialect;  /* TN_DIALECT_MLX_LM or TN_DIALECT_PEFT */
	int keep_dtype;              /* each tensor is saved in the dtype of its source where that holds its numbers, else as F32 */
	tn_dtype dtype;              /* without keep_dtype: TN_F32, TN_BF16 or TN_F16 for all tensors, rounded to the nearest, ties
	                              * to even; the draft has the rounded numbers */
	const char *base_name;       /* what adapter_config.json calls the base; NULL: what the source does, else its path */
	const char *task_type;       /* PEFT; NULL: that of the source, none where it says none */
};
#define TN_DERIVE_OPTIONS_INIT { TN_DIALECT_PEFT, 1, TN_F32, NULL, NULL }

/* What was done to one module. Belongs to the draft. */
struct tn_derived_module {
	const char *path;        /* as the dialect names it */
	tn_module_kind kind;
	uint64_t rank_before;    /* of all that landed on it; 0: it was made of matrices, not of factors */
	uint64_t rank;           /* mlx-lm has one for all modules: in the file smaller ones are filled up with zeros */
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

/* ---- from two checkpoints -------------------------------------------------------------------------------- */

/* What becomes of tensors that changed and are no part of the adapter: norms, biases, vocabularies that were resized, modules that
 * were not chosen. */
typedef enum tn_extract_others {
	TN_OTHERS_REFUSED,     /* an error names them */
	TN_OTHERS_SAVED,       /* PEFT: they go along whole, by modules_to_save, and biases by `bias`. mlx-lm has no such thing
	                        * beside factors: TN_E_UNSUPPORTED */
	TN_OTHERS_IGNORED      /* base and adapter are not the tuned model then; the log says so */
} tn_extract_others;

/* Start from TN_EXTRACT_OPTIONS_INIT. */
struct tn_extract_options {
	struct tn_rank_rule rule;     /* of each module, and of each expert of a stack */
	const char *const *keys;      /* modules, as in tn_create_options. None: every linear layer but the head, and experts; of
	                               * mlx-lm those inside the layers */
	size_t key_count;
	tn_extract_others others;
};
#define TN_EXTRACT_OPTIONS_INIT { { 16, 1 }, NULL, 0, TN_OTHERS_REFUSED }

/* What was found. Belongs to the draft. */
struct tn_extracted {
	size_t modules;               /* that the dialect can name */
	size_t unchanged;             /* of these: the same values, or those of the base in another dtype */
	double kept;                  /* of the change of all modules of the adapter, as in tn_derived_module */
	double rounding;              /* the share of that change that the rounding of the tuned weights to their dtype, or grid,
	                               * makes up: no adapter of low rank can hold it. At most 1 */
	const double *noise;                /* the same of tn_draft_derived_at(i) */
	const char *const *rest;      /* what else changed: tensors, and modules by their paths */
	size_t rest_count;
	int rest_is_saved;
};
/* NULL for drafts that were not made by tn_draft_extract. */
TN_API const struct tn_extracted *tn_draft_extracted(const tn_draft *draft);

/* The difference of a checkpoint and the base that it was fine-tuned from, as a LoRA: of every module that changed, the best
 * approximation of W_tuned - W_base by factors of the rank that the rule gives, with the scale 1. The two may be of different
 * dtypes, quantized in any way, of other shards, of other names in front, and hold experts in another form. W are the values that
 * they decode to, differences are float32, the rest as in linear/lowrank.h: the same bits for any number of threads.
 * What is kept is measured module by module. A warning in the log names modules that lose more than a tenth which no rounding
 * explains: their change is of no low rank.
 * Reads both checkpoints once to see what changed, and then what changed as often as the factors need (once where the budget has
 * room for a module in float32). Memory: the budget, the adapter in float32 twice, and its headers. Progress: "compare", "extract".
 * Errors: TN_E_MISMATCH: a tensor is not in both, or has another shape; something else changed, named with what to do; nothing
 * changed. TN_E_UNSUPPORTED: a module that the dialect cannot change alone (an embedding that is the head too, as PEFT has it).
 * TN_E_LIMIT: the adapter would be too large; TN_E_NOMEM: the budget is too small; TN_E_FORMAT: NaN or infinity. */
TN_API tn_status tn_draft_extract(const tn_checkpoint *base, const tn_checkpoint *tuned, const struct tn_derive_options *options,
				  const struct tn_extract_options *extract, tn_draft **out, struct tn_error *err);

/* ---- other ranks ----------------------------------------------------------------------------------------- */

/* The adapter with lower ranks: of each module's B A the nearest matrix of the rank that the rule gives (SVD, sums in double), as
 * factors that hold the root of the singular values each and are saved as F32. Modules whose rank the rule does not lower keep
 * their numbers, bit for bit. Scales, biases, tensors that replace others, and the magnitudes of a DoRA stay: these are the lengths
 * of the rows of the result, so that only directions are approximated. All experts of a stack get one rank, from their squares
 * together. An adapter that changes nothing yet keeps the first rows of A.
 * Errors: those of tn_draft_convert. TN_E_ARG: a rule that bounds nothing, or an energy outside (0, 1]. */
TN_API tn_status tn_draft_resize(const tn_adapter *adapter, const tn_checkpoint *base, const struct tn_derive_options *options,
				 const struct tn_rank_rule *rule, tn_draft **out, struct tn_error *err);

/* ---- several in one -------------------------------------------------------------------------------------- */

/* PEFT's combination_type (tuners/lora/model.py, add_weighted_adapter), by its names ("cat", "ties_svd", ...). s_i is the scale of
 * an adapter at a module, w_i its weight. Modules that an adapter does not have are as if it were not there. */
typedef enum tn_combination {
	TN_COMBINE_CAT,             /* the factors side by side: the sum of w_i s_i B_i A_i and nothing else; ranks add up */
	TN_COMBINE_SVD,             /* the same, compressed to the largest rank of any adapter unless the rule has one */
	/* On the factors, which need one rank: A = sum of sgn(w_i s_i) sqrt|w_i s_i| A_i, B = sum of sqrt|w_i s_i| B_i, so that
	 * each adapter's B meets the others' A too. */
	TN_COMBINE_LINEAR,
	TN_COMBINE_TIES,            /* the int(density * elements) largest of each factor; then the sign of the sum (or of most) at
	                             * each place, and the mean of those that have it */
	TN_COMBINE_DARE_LINEAR,     /* each number with the probability `density`, divided by it; then the sum */
	TN_COMBINE_DARE_TIES,       /* so thinned, and then elected */
	TN_COMBINE_MAGNITUDE_PRUNE, /* the largest, and their sum */
	/* The same on the products s_i B_i A_i, whose mixture is compressed as with TN_COMBINE_SVD. */
	TN_COMBINE_TIES_SVD,
	TN_COMBINE_DARE_LINEAR_SVD,
	TN_COMBINE_DARE_TIES_SVD,
	TN_COMBINE_MAGNITUDE_PRUNE_SVD
} tn_combination;
TN_API const char *tn_combination_name(tn_combination type);
/* TN_E_NOTFOUND: no such type; the message has them all. */
TN_API tn_status tn_combination_from_name(const char *name, tn_combination *out, struct tn_error *err);
/* 1 when the type leaves numbers out, and so needs a density. */
TN_API int tn_combination_has_density(tn_combination type);

/* Start from TN_COMBINE_OPTIONS_INIT. */
struct tn_combine_options {
	tn_combination type;
	struct tn_rank_rule rule;   /* what the result is compressed to */
	double density;             /* in (0, 1]; 0 for types that leave nothing out */
	int by_frequency;           /* PEFT's majority_sign_method "frequency": most signs; else "total": the sign of the sum */
	uint64_t seed;              /* of what DARE leaves out: a function of it, the module and the place, not torch's numbers */
};
#define TN_COMBINE_OPTIONS_INIT { TN_COMBINE_CAT, { 0, 1 }, 0, 0, 0 }

/* One adapter of several, each in whatever dialect. The scale of the new one is 1 but for TN_COMBINE_CAT, whose factors keep their
 * bits where all have one w_i s_i. Biases of factors (lora_bias) add up with cat and svd. What replaces tensors or rows of tables,
 * and DoRA modules, are taken over when one adapter alone changes that module, with the weight 1, and refused by name otherwise
 * (DoRA with cat and without compression only).
 * Memory: the adapters in float32, and while products are mixed 8 MB for each and the budget. The same bits for any number of
 * threads and any budget.
 * Errors: those of tn_draft_convert. TN_E_ARG: no adapter, a weight or an option without a meaning. TN_E_MISMATCH: types on
 * factors, and ranks differ. TN_E_UNSUPPORTED: as above. */
TN_API tn_status tn_draft_combine(const struct tn_weighted_adapter *adapters, size_t count, const tn_checkpoint *base,
				  const struct tn_derive_options *options, const struct tn_combine_options *combine, tn_draft **out,
				  struct tn_error *err);

#ifdef __cplusplus
}
#endif
#endif
