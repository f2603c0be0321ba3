/* What stands between adapters and a draft that is made of them: pairs of factors by modules of the base. */
#ifndef TN_ADAPTER_DERIVE_H
#define TN_ADAPTER_DERIVE_H

#include "adapter/create.h"
#include "adapter/land.h"
#include "tenon/derive.h"

/* ---- rows ------------------------------------------------------------------------------------------------ */

/* Where rows of a module stand in a base. Row `module_row` of a module counts outputs through its groups: group * out + output.
 * Of what is stored by inputs (tables of vectors, Conv1D, transposed stacks of experts) it is group * in + input, and one piece
 * is the whole tensor. */
struct tn_module_piece {
	size_t target;           /* of the joint */
	int rows_are_inputs;
	uint64_t target_row, module_row, rows;
};

/* The pieces that make up a module of tn_base_modules_list: an array of the joint's arena. `joint` is of the same base, or of one
 * with the same names of tensors, in whatever form that holds its experts; tn_joint_open_base makes one that will do.
 * TN_E_MISMATCH: a tensor is not there. TN_E_UNSUPPORTED: the module is no set of whole rows (half of a transposed stack). */
tn_status tn_module_pieces(const struct tn_joint *joint, const struct tn_base_module *module, struct tn_module_piece **out,
			   size_t *count, struct tn_error *err);

/* ---- pairs ----------------------------------------------------------------------------------------------- */

/* The factors of one module: of a linear layer [out, in] one group, of a stack of experts as many. Of an embedding `in` is the
 * vocabulary, so that A is the long one. What it points to belongs to an arena. */
struct tn_pair {
	const struct tn_base_module *module;
	uint64_t groups, rank, in, out;
	double scale;
	float *a;                   /* [groups, rank, in] */
	float *b;                   /* [groups, out, rank] */
	tn_dtype a_dtype, b_dtype;  /* what they are saved as when dtypes are kept; TN_F32 for computed ones */
	float *magnitude;           /* of a DoRA; NULL: none */
	int magnitude_of_inputs;    /* [in], as in mlx-lm's embeddings; else [out] */
	tn_dtype magnitude_dtype;
	float *bias;                /* [out], lora_bias: scale * bias is added; NULL: none */
	tn_dtype bias_dtype;
	uint64_t rank_before;       /* for tn_derived_module */
	double kept;
};

/* A tensor that replaces one of the base, or rows of it. In PEFT it is a module of modules_to_save, whose other tensors are taken
 * from the base, or a bias beside weights that stay; in mlx-lm whole tensors and factors exclude each other. */
struct tn_whole {
	const char *path;           /* of the tensor as the dialect names it (tn_base_tensor_name): model.norm.weight */
	int is_shared;              /* also for what is tied to it: PEFT's copies of embeddings, which are no modules_to_save */
	const uint64_t *tokens;     /* rows of a table, which `values` are; NULL: the whole tensor */
	uint64_t token_count;
	uint32_t rank;
	uint64_t shape[TN_PARAMETER_RANK];
	float *values;
	tn_dtype dtype;
};

struct tn_pairs {
	tn_adapter_dialect dialect;
	struct tn_base_modules modules;   /* of the base, as the dialect names them, in one order for all adapters of a base */
	struct tn_pair *items;            /* in the order of modules */
	size_t count;
	struct tn_whole *wholes;
	size_t whole_count;
	double dropout;                   /* of the training; for the configuration */
	const char *task_type, *base_name;   /* NULL: it does not say */
};

/* All that an adapter does to a base, in terms of the dialect's modules. Memory is the arena's. Errors: those of
 * tn_draft_convert. */
tn_status tn_pairs_load(struct tn_arena *arena, const tn_adapter *adapter, const tn_checkpoint *base, tn_adapter_dialect dialect,
			struct tn_pairs *out, struct tn_error *err);

/* The draft of these pairs, which it copies: one configuration for all of them, names and shapes of the dialect. The base gives
 * the sample that the file carries. TN_E_ARG: there is nothing in `pairs`. */
tn_status tn_draft_of_pairs(const tn_checkpoint *base, const struct tn_pairs *pairs, const struct tn_derive_options *options,
			    tn_draft **out, struct tn_error *err);

#endif
