/* How a new adapter is made: the modules of a base, the chosen ones, their configuration, their numbers. */
#ifndef TN_ADAPTER_CREATE_H
#define TN_ADAPTER_CREATE_H

#include "adapter/adapter.h"
#include "adapter/selection.h"
#include "tenon/create.h"
#include "tenon/derive.h"
#include "tenon/weights.h"

/* A module that factors can be made for, as the dialect's program names it. */
struct tn_base_module {
	const char *path;       /* of a parameter of PEFT: of the parameter */
	tn_module_kind kind;    /* TN_MODULE_LORA, TN_MODULE_EMBEDDING or TN_MODULE_EXPERTS */
	int of_parameter;
	int is_conv1d;
	unsigned bits;          /* of the codes of a quantized matrix; 0: it is dense */
	uint64_t experts, in, out;
	/* where it stands in the base */
	const char *weight;     /* the tensor that is the whole module; NULL: rows of several, or a part of one */
	const char *block;      /* without a weight: the block of the experts as the base calls it, model.layers.0.mlp */
	int is_transposed;      /* the experts are stored [E, in, out] */
	int chosen;
};

struct tn_base_modules {
	struct tn_arena *arena;
	struct tn_base_module *items;
	size_t count, room;
	const char *model_type;     /* of config.json, or "" */
	int peft;
};

/* Modules of the base in the order of names: matrices that are no head are linear layers, tables of vectors by their name,
 * stacks of experts and what a dialect makes of experts that the base holds in another form. */
tn_status tn_base_modules_list(struct tn_arena *arena, const tn_checkpoint *base, int peft, struct tn_base_modules *out,
			       struct tn_error *err);
/* 1 where mlx-lm 0.32 computes another width for a DoRA than the weight has, and so makes and loads none: its codes do not fill
 * words evenly, or it is a quantized table. */
int tn_mlx_misjudges_dora(tn_module_kind kind, unsigned bits);
/* What the program of the dialect calls a tensor of the base: a text of the arena. */
tn_status tn_base_tensor_name(struct tn_base_modules *modules, const char *tensor, const char **out, struct tn_error *err);
/* 1 for the router of a block of experts, which transformers 5 holds as a parameter and no linear layer. */
int tn_base_module_is_router(const struct tn_base_modules *modules, const struct tn_base_module *item);
tn_status tn_base_modules_add(struct tn_base_modules *modules, const struct tn_base_module *item, struct tn_error *err);
/* The largest layer number of all, plus one. */
uint64_t tn_base_modules_layers(const struct tn_base_modules *modules);
/* That beside `path`; 0 outside layers. */
uint64_t tn_base_modules_layers_beside(const struct tn_base_modules *modules, const char *path, struct tn_layer_memo *memo);
/* The part of the path inside its layer, or the whole path. */
const char *tn_path_inside(const char *path);

/* A line of rank_pattern or alpha_pattern. */
struct tn_choice_value {
	const char *key;
	double value;
};

/* Rows of a table that are replaced. */
struct tn_choice_tokens {
	const char *module;
	const uint64_t *indices;
	uint64_t count;
};

/* What the configuration will say. */
struct tn_choice {
	const struct tn_create_options *options;
	double scale, alpha;
	int64_t num_layers;
	const char **names;          /* keys of mlx-lm; target_modules of PEFT, sorted */
	size_t name_count;
	const char **parameters;     /* target_parameters, sorted */
	size_t parameter_count;
	uint64_t *layers;            /* layers_to_transform */
	size_t layer_count;
	/* of PEFT, where modules differ */
	const struct tn_choice_value *ranks, *alphas;
	size_t rank_count, alpha_count;
	int lora_bias, bias;         /* `bias` is all, else none */
	const char **saved;          /* modules_to_save */
	size_t saved_count;
	const struct tn_choice_tokens *tokens;
	size_t token_count;
	int full;                    /* of mlx-lm: whole tensors, no factors */
};

/* Sets `chosen`, and the lists of *choice. */
tn_status tn_choose_modules(struct tn_base_modules *modules, struct tn_choice *choice, struct tn_error *err);

/* adapter_config.json: a text of the arena. */
tn_status tn_create_config(struct tn_arena *arena, const struct tn_choice *choice, const struct tn_base_modules *modules,
			   const char *base_path, const char **out, struct tn_error *err);

struct tn_numbers {
	tn_init init;
	uint64_t rank, seed;
	int inputs_first;       /* A of two dimensions is [in, rank] in the file */
};
/* Fills a parameter that is zero, if the initialisation puts numbers into it. */
void tn_init_parameter(const struct tn_parameter *parameter, const struct tn_base_module *module,
		       const struct tn_numbers *numbers);

/* Magnitudes of a DoRA, from the rows of the base: written at `image` + offset of their tensors. */
tn_status tn_create_magnitudes(const tn_adapter *adapter, const tn_checkpoint *base, unsigned char *image,
			       struct tn_error *err);

struct tn_draft {
	tn_context *ctx;
	struct tn_arena arena;             /* holds this struct too */
	tn_adapter_dialect dialect;
	const char *config;
	struct tn_tensor **tensors;        /* in the order of the file, with offsets of the image */
	struct tn_parameter *parameters;   /* of the same */
	size_t count;
	uint64_t tensor_bytes;             /* of all of them */
	const struct tn_derived_module *derived;
	size_t derived_count;
	const struct tn_extracted *extracted;
	struct tn_buffer image;            /* the weights as a file */
	tn_adapter *adapter;               /* over config and image */
	unsigned char base_sample[TN_HASH_BYTES];
	int has_base_sample;
};

/* An empty one, for tn_draft_destroy. */
tn_status tn_draft_begin(tn_context *ctx, tn_draft **out, struct tn_error *err);
/* Room for so many parameters, before the first is added. */
tn_status tn_draft_reserve(tn_draft *draft, size_t count, struct tn_error *err);
/* Adds a parameter with its tensor; elements are set. TN_E_LIMIT: the adapter would be larger than any is that is read. */
tn_status tn_draft_add(tn_draft *draft, const struct tn_parameter *parameter, struct tn_error *err);
/* Adds the factors of a module, and the magnitude of a DoRA: three parameters at most. Names depend on which are `chosen`. */
tn_status tn_draft_add_module(tn_draft *draft, const struct tn_base_modules *modules, const struct tn_base_module *item,
			      uint64_t rank, int dora, struct tn_error *err);
/* Lays out the tensors as a file in memory, of zeros, and lets the parameters point into it, in the same order. */
tn_status tn_draft_make_image(tn_draft *draft, struct tn_error *err);
/* 1 when each value is one of the dtype's: F32, F16 or BF16. */
int tn_dtype_holds(tn_dtype dtype, const float *values, uint64_t count);
/* dst [elements] gets the values as the file will have them; may be the parameter's own. TN_E_FORMAT: the dtype does not reach
 * one. */
tn_status tn_parameter_round(const struct tn_parameter *parameter, float *dst, struct tn_error *err);

#endif
