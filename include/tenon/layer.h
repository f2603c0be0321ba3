/* tenon/layer.h - one weight with one adapter on it: a layer of a program's own, on its way through training.
 *
 * What kizzasi's LoraLinear, LoraAdapter and QLoraLinear, and mlxrs's LoRALinear, DoRALinear and DoRAEmbedding do, on a weight
 * in any codec, with one kind of layer for all. Whole models with adapters from files: tenon/live.h.
 *
 *   linear:     y = g * (W x + s * B (A x)) + bias      W [out, in], A [rank, in], B [out, rank]
 *   embedding:  the same on a table W [vocabulary, width]: A [rank, width], B [vocabulary, rank]; rows are looked up, or it is
 *               used as a head
 *   experts:    a stack W [experts, out, in], A [experts, rank, in], B [experts, out, rank]; each row of x names its expert
 *
 * g is 1, or for DoRA magnitude / norm of the rows of W + s B A.
 *
 * Sources. kizzasi-model, src/lora.rs; mlxrs 0.1.0, src/lm/lora.rs; mlx-lm 0.32.2, tuner/lora.py and dora.py;
 * mlx-swift-lm, LoRALayer (fused, reverted).
 *
 * Memory. The weight's bytes are the caller's, must outlive the layer, and are never written: merging makes a merged copy,
 * un-merging drops it, and the bytes of the base are back, exactly. Factors are copied.
 * Numerics. Those of tenon/linear.h: everything in float32, one rounding to the dtype of the result. Result dtypes are those of
 * mlx-lm, in every combination: a half x on a weight of the same dtype stays so whatever the factors are; half with float32, and
 * F16 with BF16, give F32; DoRA on a table counts table, factors and magnitude; the modes mxfp4, mxfp8 and nvfp4 count as BF16 in
 * DoRA and on tables, and as x elsewhere.
 * Threads. Computing with a layer, by any number of threads; changing it, by one, while none computes.
 */
#ifndef TENON_LAYER_H
#define TENON_LAYER_H

#include "tenon/create.h"
#include "tenon/foreign.h"
#include "tenon/linear.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_layer tn_layer;

typedef enum tn_layer_kind { TN_LAYER_LINEAR, TN_LAYER_EMBEDDING, TN_LAYER_EXPERTS } tn_layer_kind;

/* ---- making ---------------------------------------------------------------------------------------------- */

/* Start from TN_LAYER_OPTIONS_INIT. */
struct tn_layer_options {
	tn_layer_kind kind;
	uint64_t rank;
	double alpha;           /* scale = alpha / rank */
	int dora;               /* magnitude = norms of the rows of W; not for experts */
	tn_init init;           /* TN_INIT_DEFAULT: xorshift, as kizzasi */
	uint64_t seed;          /* 0: kizzasi's, 42, of a packed layer 137 */
};
#define TN_LAYER_OPTIONS_INIT { TN_LAYER_LINEAR, 8, 16, 0, TN_INIT_DEFAULT, 0 }

/* New factors in F32: A random, B zero. `options` may be NULL.
 * Errors, TN_E_ARG, in the seed's words: rank, alpha, a weight without elements, a rank above the smaller side of the weight;
 * those of tn_linear_create; a weight of another rank than the kind has. TN_E_UNSUPPORTED: DoRA of experts. */
TN_API tn_status tn_layer_create(tn_context *ctx, const struct tn_linear_weight *weight,
				 const struct tn_layer_options *options, tn_layer **out, struct tn_error *err);

/* Factors that are there: F32, F16 or BF16. */
struct tn_layer_factors {
	struct tn_array lora_a, lora_b;
	struct tn_array magnitude;      /* [out]; data NULL: no DoRA */
	double scale;
	int inputs_first;               /* as mlx-lm has them: of a linear layer lora_a [in, rank] and lora_b [rank, out]; of an
	                                 * embedding lora_a [vocabulary, rank] and lora_b [rank, width]; of experts as above */
};
/* Errors, TN_E_ARG: a factor of another rank, ranks that differ, sizes that are not those of the weight (the message has the
 * expected and the found one), another magnitude than one for each output. */
TN_API tn_status tn_layer_create_with(tn_context *ctx, const struct tn_linear_weight *weight, tn_layer_kind kind,
				      const struct tn_layer_factors *factors, tn_layer **out, struct tn_error *err);

/* QLoraLinear: packs W [out, in], F32, as NF4 (tenon/foreign.h) and keeps no other copy of it. `options` may be NULL.
 * Errors, TN_E_ARG, in the seed's words and order: rank, alpha, group_size, a weight without elements, a rank above its smaller
 * side; a weight of another rank or dtype, another kind than linear. TN_E_UNSUPPORTED: DoRA. */
TN_API tn_status tn_layer_create_nf4(tn_context *ctx, const struct tn_array *weight, uint64_t group_size,
				     const struct tn_layer_options *options, tn_layer **out, struct tn_error *err);
TN_API void tn_layer_destroy(tn_layer *layer);

/* ---- computing ------------------------------------------------------------------------------------------- */

/* x [..., in] -> y [..., out], released with tn_array_release; one row or a batch. Of an embedding the table as a head:
 * x [..., width] -> [..., vocabulary]. TN_E_ARG: another last dimension (the message has both), or no float dtype; experts need
 * tn_layer_forward_experts. */
TN_API tn_status tn_layer_forward(const tn_layer *layer, const struct tn_array *x, struct tn_array *y, struct tn_error *err);
/* ids [...] of any integer dtype -> y [..., width]: rows of the adapted table. TN_E_ARG: an id that is no row. */
TN_API tn_status tn_layer_lookup(const tn_layer *layer, const struct tn_array *ids, struct tn_array *y, struct tn_error *err);
/* x [m, in], experts [m] -> y [m, out]: row i with expert experts[i]. */
TN_API tn_status tn_layer_forward_experts(const tn_layer *layer, const struct tn_array *x, const uint32_t *experts,
					  struct tn_array *y, struct tn_error *err);

/* ---- factors --------------------------------------------------------------------------------------------- */

/* In the shapes above, whatever order they came in. Views that end with the next change. */
TN_API const struct tn_array *tn_layer_lora_a(const tn_layer *layer);
TN_API const struct tn_array *tn_layer_lora_b(const tn_layer *layer);
TN_API const struct tn_array *tn_layer_magnitude(const tn_layer *layer);   /* [out]; NULL: no DoRA */

/* Copied in, in the shapes above; the dtype may be another. TN_E_ARG: "set_lora_a rank: expected 8, got 4". A merged layer
 * keeps what was merged until it is un-merged. */
TN_API tn_status tn_layer_set_lora_a(tn_layer *layer, const struct tn_array *a, struct tn_error *err);
TN_API tn_status tn_layer_set_lora_b(tn_layer *layer, const struct tn_array *b, struct tn_error *err);
TN_API tn_status tn_layer_set_magnitude(tn_layer *layer, const struct tn_array *magnitude, struct tn_error *err);

/* ---- merging --------------------------------------------------------------------------------------------- */

/* From now on a merged weight computes: W + s B A, times g, rounded once to the dtype of W; a quantized W stays so, rounded to
 * nearest. TN_E_ARG: "LoRA weights are already merged", "LoRA weights are not merged". */
TN_API tn_status tn_layer_merge(tn_layer *layer, struct tn_error *err);
TN_API tn_status tn_layer_unmerge(tn_layer *layer, struct tn_error *err);
TN_API int tn_layer_is_merged(const tn_layer *layer);

/* The merged weight as one of its own, with the bias; released with tn_linear_weight_release. A quantized base is dense then
 * with `dequantize`, else quantized with the same parameters. Of a packed layer (NF4) it is dense F32. */
TN_API tn_status tn_layer_fused(const tn_layer *layer, int dequantize, struct tn_linear_weight *out, struct tn_error *err);
TN_API void tn_linear_weight_release(tn_context *ctx, struct tn_linear_weight *weight);

/* The base: what mlx-swift-lm's reverted() gives back. Of a packed layer it is empty. */
TN_API const struct tn_linear_weight *tn_layer_base(const tn_layer *layer);
/* The base as F32 [out, in]; released with tn_array_release. */
TN_API tn_status tn_layer_dequantize(const tn_layer *layer, struct tn_array *out, struct tn_error *err);

/* A layer that is disabled computes with its base alone, unless it is merged. */
TN_API void tn_layer_enable(tn_layer *layer, int enabled);
TN_API int tn_layer_is_enabled(const tn_layer *layer);

/* ---- what it is ------------------------------------------------------------------------------------------ */

TN_API tn_layer_kind tn_layer_kind_of(const tn_layer *layer);
TN_API uint64_t tn_layer_out_features(const tn_layer *layer);
TN_API uint64_t tn_layer_in_features(const tn_layer *layer);
TN_API uint64_t tn_layer_rank(const tn_layer *layer);
TN_API double tn_layer_alpha(const tn_layer *layer);       /* scale * rank */
TN_API double tn_layer_scaling(const tn_layer *layer);
TN_API uint64_t tn_layer_trainable_params(const tn_layer *layer);  /* elements of the factors and the magnitude */
TN_API uint64_t tn_layer_total_params(const tn_layer *layer);      /* those and the elements of W */
TN_API double tn_layer_compression_ratio(const tn_layer *layer);   /* trainable / total */
/* Bytes of W as float32 less those that it takes, of NF4 with kizzasi's zero points; never below 0. */
TN_API uint64_t tn_layer_memory_saved_bytes(const tn_layer *layer);
/* Codes, scales and group size of a packed layer (zero points are always 0); NULL for any other. */
TN_API const struct tn_nf4 *tn_layer_nf4(const tn_layer *layer);

/* ---- several --------------------------------------------------------------------------------------------- */

/* Named layers with one configuration: kizzasi's LoraAdapter. */
typedef struct tn_layer_set tn_layer_set;

struct tn_layer_summary {
	size_t num_layers;
	uint64_t total_trainable, total_original;  /* original: elements of the weights */
	double compression_ratio;                  /* trainable / (original + trainable); 0 for no layers */
	uint64_t rank;
	double alpha;
};

/* `options` may be NULL. The configuration is judged when a layer is added. */
TN_API tn_status tn_layer_set_create(tn_context *ctx, const struct tn_layer_options *options, tn_layer_set **out,
				     struct tn_error *err);
TN_API void tn_layer_set_destroy(tn_layer_set *set);
/* TN_E_EXISTS: "LoRA layer 'q_proj' already exists"; else those of tn_layer_create. */
TN_API tn_status tn_layer_set_add(tn_layer_set *set, const char *name, const struct tn_linear_weight *weight,
				  struct tn_error *err);
TN_API size_t tn_layer_set_count(const tn_layer_set *set);
TN_API const char *tn_layer_set_name(const tn_layer_set *set, size_t i);   /* in the order in which they were added */
/* NULL: no such layer. */
TN_API tn_layer *tn_layer_set_get(const tn_layer_set *set, const char *name);
/* TN_E_NOTFOUND: "LoRA layer 'q_proj' not found". */
TN_API tn_status tn_layer_set_forward(const tn_layer_set *set, const char *name, const struct tn_array *x,
				      struct tn_array *y, struct tn_error *err);
/* Those that are not merged, and those that are. When one fails, all are as before. */
TN_API tn_status tn_layer_set_merge_all(tn_layer_set *set, struct tn_error *err);
TN_API tn_status tn_layer_set_unmerge_all(tn_layer_set *set, struct tn_error *err);
TN_API void tn_layer_set_summary(const tn_layer_set *set, struct tn_layer_summary *out);
TN_API const struct tn_layer_options *tn_layer_set_config(const tn_layer_set *set);

#ifdef __cplusplus
}
#endif
#endif
