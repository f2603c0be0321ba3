/* tenon/weights.h - quantized weights: configurations, arrays, maps of weights, products.
 *
 * Sources. Bytes and arithmetic: MLX 0.32.4 (mlx/ops.cpp, mlx/backend/cpu/quantized.cpp), as run on a CPU; see
 * docs/quantization.md. Configurations, selection of layers, recipes, bits per weight: mlx-lm 0.32.2 (mlx_lm/utils.py,
 * mlx_lm/convert.py). Weight maps and their errors: mlxrs 0.1.0 (src/lm/quant.rs). QuantizedWeight and
 * quantization_config.json: mlx-native 0.6.6 (src/weight.rs).
 *
 * A quantized matrix is a triple: `<layer>.weight` U32 [..., cols * bits / 32], `<layer>.scales` [..., cols /
 * group_size] and, for affine, `<layer>.biases` like the scales; nvfp4 may have a `<layer>.global_scale` F32. Logical
 * shapes are [..., rows, cols], written [out, in]; groups run along cols.
 */
#ifndef TENON_WEIGHTS_H
#define TENON_WEIGHTS_H

#include "tenon/base.h"
#include "tenon/checkpoint.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- parameters ------------------------------------------------------------------------------------------ */

/* Which MLX backend an encoder agrees with, byte for byte. CPU is held against a running MLX; METAL and CUDA follow the
 * sources of those backends and were not run. Decoding does not depend on it. */
typedef enum tn_flavour { TN_FLAVOUR_CPU, TN_FLAVOUR_METAL, TN_FLAVOUR_CUDA } tn_flavour;

/* "The mode's own": what a null or missing group_size or bits means. */
#define TN_QUANT_DEFAULT (-2147483647 - 1)

struct tn_quantization {
	int32_t group_size;    /* elements that share a scale */
	int32_t bits;          /* of one code */
	const char *mode;      /* "affine", "mxfp4", "mxfp8", "nvfp4"; NULL: affine, and not written. From the library:
				* static text */
	int global_scale;      /* nvfp4: there is a `.global_scale` (mlx-lm 0.32.2 writes it for switch layers) */
};
#define TN_QUANTIZATION_INIT { TN_QUANT_DEFAULT, TN_QUANT_DEFAULT, 0, 0 }

/* The i-th mode, NULL behind the last. Static text. */
TN_API const char *tn_quant_mode_name(size_t i);

/* Fills what is TN_QUANT_DEFAULT with the mode's defaults (affine 64/4, mxfp4 32/4, mxfp8 32/8, nvfp4 16/4), and `mode`
 * with its static text. TN_E_ARG: no such mode. Other values are not checked here. */
TN_API tn_status tn_quantization_resolve(struct tn_quantization *q, struct tn_error *err);

/* ---- configurations -------------------------------------------------------------------------------------- */

/* The parameters of a checkpoint: a global default, and overrides by layer path. Built by one thread, read by many. */
typedef struct tn_quant_config tn_quant_config;

typedef enum tn_quant_choice {
	TN_QUANT_NONE,      /* no global default, and no override for this layer */
	TN_QUANT_SKIP,      /* the layer is marked `false`: not quantized */
	TN_QUANT_GLOBAL,    /* the global default holds */
	TN_QUANT_LAYER      /* an override holds */
} tn_quant_choice;

/* `global` may be NULL: only layers that are set are quantized. */
TN_API tn_status tn_quant_config_create(tn_context *ctx, const struct tn_quantization *global, tn_quant_config **out,
					struct tn_error *err);
/* An override for one layer, replacing an earlier one; q NULL marks it as skipped. */
TN_API tn_status tn_quant_config_set(tn_quant_config *config, const char *layer, const struct tn_quantization *q,
				     struct tn_error *err);
TN_API void tn_quant_config_destroy(tn_quant_config *config);

/* From the text of a config.json: its `quantization` block, or else its `quantization_config` (also that of
 * `text_config`) when MLX itself reads that one: a block of MLX, or quant_method mxfp4 or mxfp8. *out is NULL when
 * there is none. In the block stand group_size, bits and mode beside layer paths: an object overrides, `false` skips,
 * `true` is ignored; quant_method, linear_class and quantization_mode are not layers. null is TN_QUANT_DEFAULT; a
 * missing mode is affine.
 * Errors, TN_E_FORMAT: not JSON; the block is no object, lacks group_size or bits, or holds another value at a layer
 * path (named in `where`). */
TN_API tn_status tn_quant_config_parse(tn_context *ctx, const char *config_json, tn_quant_config **out,
				       struct tn_error *err);

/* The forms of mlx-native. `parse_native`: a quantization_config.json with `bits` (4), `group_size` (64) and
 * `per_tensor`. `parse_native_model`: the same out of a config.json's `quantization`, where each object with `bits` is
 * an override and everything else is passed over. `load_native` reads quantization_config.json of a folder, or where it has
 * none, `quantization` of its config.json. Errors: TN_E_FORMAT; of the file TN_E_NOTFOUND, TN_E_IO. */
TN_API tn_status tn_quant_config_parse_native(tn_context *ctx, const char *json, tn_quant_config **out,
					      struct tn_error *err);
TN_API tn_status tn_quant_config_parse_native_model(tn_context *ctx, const char *config_json, tn_quant_config **out,
						    struct tn_error *err);
TN_API tn_status tn_quant_config_load_native(tn_context *ctx, const char *folder, tn_quant_config **out,
					     struct tn_error *err);

/* The global default as it was given, or NULL. */
TN_API const struct tn_quantization *tn_quant_config_global(const tn_quant_config *config);
TN_API size_t tn_quant_config_count(const tn_quant_config *config);
/* The i-th override in the order in which they were set; *q is NULL for a skipped layer. */
TN_API void tn_quant_config_at(const tn_quant_config *config, size_t i, const char **layer,
			       const struct tn_quantization **q);

/* What holds for a layer path, respectively a tensor name; *out (may be NULL) gets resolved parameters when something
 * does. A tensor name is looked up as it is, without `.weight`, `.scales` or `.biases`, both without the prefix
 * `language_model.`, both with it; then the default holds. config NULL: TN_QUANT_NONE. */
TN_API tn_quant_choice tn_quant_config_for_layer(const tn_quant_config *config, const char *layer,
						 struct tn_quantization *out);
TN_API tn_quant_choice tn_quant_config_for_tensor(const tn_quant_config *config, const char *tensor,
						  struct tn_quantization *out);

/* The text of a config.json as mlx-lm saves it: both `quantization` and `quantization_config` set to the configuration
 * (config NULL: removed), `_name_or_path` and `vision_config` dropped, keys of the outermost object sorted, four
 * spaces, no newline at the end. out->bytes counts the NUL behind the text. */
TN_API tn_status tn_quant_config_write(tn_context *ctx, const char *config_json, const tn_quant_config *config,
				       struct tn_buffer *out, struct tn_error *err);

/* ---- arrays ---------------------------------------------------------------------------------------------- */

enum { TN_ARRAY_RANK = 8 };

/* Row-major values in memory. As an argument `data` is the caller's and is only read, at any alignment, as many values as
 * the shape has, whatever `bytes` says; `data` NULL means "no such array". As a result
 * `data` is owned: release with tn_array_release. */
struct tn_array {
	tn_dtype dtype;
	uint32_t rank;
	uint64_t shape[TN_ARRAY_RANK];
	void *data;
	size_t bytes;
};
TN_API void tn_array_release(tn_context *ctx, struct tn_array *array);

/* A quantized matrix, or a stack of them; biases and global_scale may be absent. */
struct tn_quantized {
	struct tn_array weight;        /* U32 [..., rows, cols * bits / 32] */
	struct tn_array scales;        /* [..., rows, cols / group_size]: dtype of w for affine, else U8 */
	struct tn_array biases;        /* affine: like scales */
	struct tn_array global_scale;  /* nvfp4: F32, a scalar; tn_gather_qmm: [experts] */
};
TN_API void tn_quantized_release(tn_context *ctx, struct tn_quantized *matrix);

/* w [..., rows, cols] F32, F16 or BF16 -> the triple of mx.quantize. `global_scale`, nvfp4 only: an F32 scalar, the
 * absolute maximum that 448 * 6 stands for; NULL for none. Errors, TN_E_ARG, in the order and with the words of MLX:
 * mode, dtype, rank, divisible last dimension, global scale, group size and bits. Empty arrays are allowed. */
TN_API tn_status tn_quantize(tn_context *ctx, const struct tn_array *w, const struct tn_quantization *q,
			     const struct tn_array *global_scale, tn_flavour flavour, struct tn_quantized *out,
			     struct tn_error *err);

/* The triple -> [..., rows, cols]. `dtype` F32, F16 or BF16, or TN_DTYPE_COUNT for MLX's choice: the scales' dtype for
 * affine, BF16 for the others, F32 with a global scale. Each value is exact and rounded once (16 bits of F32 scales: twice); with
 * like_mlx it is rounded as MLX rounds, to the dtype MLX gives (with a global scale always F32), and then cast.
 * Errors, TN_E_ARG, with the words of MLX; TN_E_UNSUPPORTED: scales and biases of different dtypes. */
TN_API tn_status tn_dequantize(tn_context *ctx, const struct tn_quantized *matrix, const struct tn_quantization *q,
			       tn_dtype dtype, int like_mlx, struct tn_array *out, struct tn_error *err);

/* ---- products -------------------------------------------------------------------------------------------- */

/* transpose 1: y = x W^T     x [..., M, in],  W [..., out, in] -> y [..., M, out]
 * transpose 0: y = x W       x [..., M, out], W [..., out, in] -> y [..., M, in]
 * x may be 1-D. Leading dimensions broadcast; a 2-D W is shared. x is F32, F16 or BF16, for affine also an integer.
 * Result dtype as in MLX: promotion of x and the scales for affine (F16 with BF16 gives F32), that of x for the others.
 * Numerics: weights decoded to float32, sums in float32 of a fixed order, one rounding at the end: the same bits for
 * any number of threads and any instruction set, and closer to the exact product than MLX, which rounds each sum to the
 * dtype.
 * Errors, TN_E_ARG: those of MLX, and what MLX does not check: another number of rows in the scales, a 3-D W with a 2-D
 * x. */
TN_API tn_status tn_quantized_matmul(tn_context *ctx, const struct tn_array *x, const struct tn_quantized *w,
				     int transpose, const struct tn_quantization *q, struct tn_array *out,
				     struct tn_error *err);

/* The same for pairs of matrices picked by index, as experts are: for each index pair (l, r), y = x[l] W[r]^T (or
 * W[r]). x [..., M, in], W [..., out, in]; an index addresses the flattened leading dimensions. lhs and rhs are integer
 * arrays that broadcast together; an absent one counts 0, 1, ... in the shape of the leading dimensions. Result: shape
 * of the indices + [M, out]. Both absent: tn_quantized_matmul. nvfp4 takes a global_scale of one F32 for each expert
 * (in MLX on the GPU only). Errors, TN_E_ARG: those of MLX, and an index out of range, which MLX reads past the end
 * for. */
TN_API tn_status tn_gather_qmm(tn_context *ctx, const struct tn_array *x, const struct tn_quantized *w,
			       const struct tn_array *lhs, const struct tn_array *rhs, int transpose,
			       const struct tn_quantization *q, struct tn_array *out, struct tn_error *err);

/* ---- maps of weights ------------------------------------------------------------------------------------- */

/* Named tensors in memory. Owns names and bytes. Used by one thread. */
typedef struct tn_weight_map tn_weight_map;

TN_API tn_status tn_weight_map_create(tn_context *ctx, tn_weight_map **out, struct tn_error *err);
/* All tensors of a checkpoint. */
TN_API tn_status tn_weight_map_load(tn_context *ctx, const tn_checkpoint *checkpoint, tn_weight_map **out,
				    struct tn_error *err);
TN_API void tn_weight_map_destroy(tn_weight_map *map);

/* Copies a tensor in, replacing one of that name. Pointers to the replaced one end. */
TN_API tn_status tn_weight_map_set(tn_weight_map *map, const char *name, tn_dtype dtype, uint32_t rank,
				   const uint64_t *shape, const void *data, struct tn_error *err);
TN_API size_t tn_weight_map_count(const tn_weight_map *map);
/* In the order of names. *data (may be NULL) gets the bytes. Descriptions live until the map changes. */
TN_API const struct tn_tensor *tn_weight_map_at(const tn_weight_map *map, size_t i, const void **data);
TN_API const struct tn_tensor *tn_weight_map_find(const tn_weight_map *map, const char *name, const void **data);

/* 1: the layer at this path may be quantized. mlx-lm asks whether its module has `to_quantized`. */
typedef int (*tn_eligible_fn)(void *user, const char *layer, const struct tn_tensor *weight);

struct tn_quantize_options {
	tn_eligible_fn eligible;  /* NULL: every `.weight` */
	void *user;
	tn_flavour flavour;
};

/* Quantizes, in the map, each `<layer>.weight` that is eligible, that the configuration wants quantized, of rank 2 or
 * more, and whose last dimension the layer's group size divides. Everything else stays as it is: also complete triples,
 * and layers with group size 0. `options` may be NULL. On failure the map is unchanged.
 * Before anything else every `.weight` with siblings `.scales` or `.biases` is judged; `where` is the layer, the
 * message names the key:
 *   TN_E_NOTFOUND  `.biases` without `.scales`; affine without `.biases`
 *   TN_E_FORMAT    `.scales` at a layer marked as skipped; `.biases` at a mode without; a `.weight` that is not U32, or
 * of
 *                  rank below 2; `.scales` of another rank, or with other leading dimensions
 *   TN_E_MISMATCH  no parameters for the layer
 *   TN_E_ARG       a negative group size; what tn_quantize refuses */
TN_API tn_status tn_quantize_weights(tn_weight_map *map, const tn_quant_config *config,
				     const struct tn_quantize_options *options, struct tn_error *err);

struct tn_dequantize_options {
	tn_dtype dtype;           /* TN_DTYPE_COUNT: as tn_dequantize */
	int like_mlx;
};

/* The inverse: each `<layer>.weight` with `.scales` becomes dense, and its siblings go. Everything else stays:
 * `.scales` or `.biases` without a weight, dense layers with `.biases`. `options` may be NULL. On failure the map is
 * unchanged.
 * Errors as above: `.biases` beside a U32 weight of rank 2 or more without `.scales`; affine without biases; biases at
 * another mode; no parameters; what tn_dequantize refuses. */
TN_API tn_status tn_dequantize_weights(tn_weight_map *map, const tn_quant_config *config,
				       const struct tn_dequantize_options *options, struct tn_error *err);

/* ---- one quantized weight (mlx-native) ------------------------------------------------------------------- */

/* Packed data, scales and biases of one tensor with its parameters. Owns its bytes; read by any number of threads. */
typedef struct tn_quantized_weight tn_quantized_weight;

/* Takes the parts as they are, without judging them; the bytes are copied. `shape` is that of the logical tensor, or of
 * the packed one, as the caller means it. biases may be absent (data NULL). */
TN_API tn_status tn_quantized_weight_create(tn_context *ctx, const char *name, uint32_t rank, const uint64_t *shape,
					    tn_dtype dtype, uint32_t bits, uint64_t group_size,
					    const struct tn_array *packed, const struct tn_array *scales,
					    const struct tn_array *biases, tn_quantized_weight **out,
					    struct tn_error *err);
TN_API void tn_quantized_weight_destroy(tn_quantized_weight *weight);

TN_API const char *tn_quantized_weight_name(const tn_quantized_weight *weight);
TN_API const uint64_t *tn_quantized_weight_shape(const tn_quantized_weight *weight, uint32_t *rank);
TN_API tn_dtype tn_quantized_weight_dtype(const tn_quantized_weight *weight);
TN_API uint32_t tn_quantized_weight_bits(const tn_quantized_weight *weight);
TN_API uint64_t tn_quantized_weight_group_size(const tn_quantized_weight *weight);
TN_API const struct tn_array *tn_quantized_weight_packed(const tn_quantized_weight *weight);
TN_API const struct tn_array *tn_quantized_weight_scales(const tn_quantized_weight *weight);
/* NULL when there are none. */
TN_API const struct tn_array *tn_quantized_weight_biases(const tn_quantized_weight *weight);
/* Product of the shape. */
TN_API uint64_t tn_quantized_weight_elements(const tn_quantized_weight *weight);
/* ceil(last dimension / group size); 0 for group size 0. */
TN_API uint64_t tn_quantized_weight_groups(const tn_quantized_weight *weight);
/* "tensor_name: ..., shape: [...], dtype: ..., bits: ..., ..." as snprintf: the length it has or would have had. */
TN_API size_t tn_quantized_weight_describe(const tn_quantized_weight *weight, char *dst, size_t bytes);

/* Every quantized weight of a folder, with the parameters of tn_quant_config_load_native: `<base>.weight`, or `<base>`, wherever
 * there is a `<base>.scales`, in the order of names, with the packed shape and dtype. Scales without a weight are passed
 * over. Release with tn_quantized_weights_free.
 * Errors: TN_E_NOTFOUND naming quantization_config, or "No .safetensors files"; TN_E_FORMAT: config.json has no quantization; those
 * of opening a checkpoint. */
TN_API tn_status tn_load_quantized_weights(tn_context *ctx, const char *folder, tn_quantized_weight ***out,
					   size_t *count, struct tn_error *err);
TN_API void tn_quantized_weights_free(tn_context *ctx, tn_quantized_weight **weights, size_t count);

/* ---- what a checkpoint's tensors mean --------------------------------------------------------------------- */

/* The logical weights of a checkpoint: a triple is one, a module that another library packed is one, every other tensor is
 * one. */
typedef struct tn_weight_list tn_weight_list;

struct tn_weight {
	const struct tn_tensor *tensor;  /* of a triple: its `.weight`. Of a module of another library: its name and shape when
	                                  * dense; belongs to the list */
	struct tn_quantization q;        /* of these; mode is NULL when it is dense, and no mode of MLX but "gptq", "awq gemm",
	                                  * "nf4", "fp8" and so on when another library packed it (docs/foreign.md) */
	uint64_t last;                   /* last size of the logical shape; the others are those of the tensor */
	uint64_t parameters;             /* logical elements */
	uint64_t bytes;                  /* of all its tensors */
};

/* Lists them in the order of names, with the parameters of config.json. The checkpoint must outlive the list. A triple that
 * does not fit its configuration counts as plain tensors and is said in the log, and so do all tensors when a module of
 * another library is damaged: looking must work on damaged models too. */
TN_API tn_status tn_weight_list_create(tn_context *ctx, const tn_checkpoint *checkpoint, tn_weight_list **out,
				       struct tn_error *err);
TN_API void tn_weight_list_destroy(tn_weight_list *list);
TN_API size_t tn_weight_list_count(const tn_weight_list *list);
TN_API const struct tn_weight *tn_weight_list_at(const tn_weight_list *list, size_t i);
TN_API uint64_t tn_weight_list_parameters(const tn_weight_list *list);

/* ---- what mlx_lm.convert -q does with a checkpoint ------------------------------------------------------- */

/* Which layers are quantized, how, and what config.json then says. */
typedef struct tn_quant_plan tn_quant_plan;

struct tn_quant_request {
	struct tn_quantization q;   /* --q-group-size, --q-bits, --q-mode; 0 and TN_QUANT_DEFAULT are the mode's own */
	const char *recipe;         /* --quant-predicate: mixed_2_6, mixed_3_4, mixed_3_6, mixed_4_6; or NULL */
	tn_dtype dtype;             /* of the values that are quantized, and of scales; TN_DTYPE_COUNT: each tensor's */
};
#define TN_QUANT_REQUEST_INIT { TN_QUANTIZATION_INIT, 0, (tn_dtype)TN_DTYPE_COUNT }

struct tn_quant_layer {
	const char *layer;               /* path, without `.weight` */
	const struct tn_tensor *weight;
	struct tn_quantization q;        /* resolved */
	int skipped;                     /* 1: stays as it is, because the group size does not divide its width;
					  * 2: because mlx-lm's model file keeps it dense */
};

/* A layer is eligible when its `.weight` is F32, F16 or BF16, of rank 2 or 3, has no `.scales`, and is no convolution
 * (a component of the path that contains "conv"). Of those, the ones whose last dimension the *global* group size
 * divides are quantized; without a recipe, what mlx-lm's file for the `model_type` says of single layers holds (8 bits
 * for routers and the like: src/weights/model_rules.def). Matrices that are no layers there stay dense with a recipe too.
 * Layers stand in the order of an mlx-lm model: embeddings, then layers by number, attention
 * before MLP. `config` is that of the checkpoint, NULL when it is dense; when there is one, new layers become overrides
 * in it.
 * Errors, TN_E_ARG, in mlx-lm's words: a recipe with another mode than affine; a recipe where no path contains
 * down_proj; bits or a group size that the mode does not have. */
TN_API tn_status tn_quant_plan_create(tn_context *ctx, const tn_checkpoint *checkpoint, const tn_quant_config *config,
				      const struct tn_quant_request *request, tn_quant_plan **out,
				      struct tn_error *err);
TN_API void tn_quant_plan_destroy(tn_quant_plan *plan);

TN_API size_t tn_quant_plan_count(const tn_quant_plan *plan);
TN_API const struct tn_quant_layer *tn_quant_plan_at(const tn_quant_plan *plan, size_t i);
/* NULL when the plan does not speak of that layer. */
TN_API const struct tn_quant_layer *tn_quant_plan_find(const tn_quant_plan *plan, const char *layer);
/* For tn_quant_config_write. Lives as long as the plan. */
TN_API const tn_quant_config *tn_quant_plan_config(const tn_quant_plan *plan);
/* 8 * bytes of all tensors / logical elements, after the conversion. */
TN_API double tn_quant_plan_bits_per_weight(const tn_quant_plan *plan);

/* 1 when mlx-lm's file for that model type (of config.json; may be NULL) keeps a tensor out of --dtype. */
TN_API int tn_model_keeps_dtype(const char *model_type, const char *tensor);

/* Bits that a recipe gives to a path, of a model with that many layers; `layer_component` is where in a path (its parts
 * between dots) the layer number stands. 0: no such recipe. */
TN_API int32_t tn_recipe_bits(const char *recipe, const char *path, uint32_t layer_component, uint32_t layer_count);

#ifdef __cplusplus
}
#endif
#endif
