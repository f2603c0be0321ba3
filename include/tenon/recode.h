/* tenon/recode.h - writing a checkpoint again in another form: quantize, dequantize, cast, convert.
 *
 * Sources: mlx-lm 0.32.2 (mlx_lm/convert.py, mlx_lm/utils.py) for what convert does; bytes as tenon/weights.h says.
 * The stream is that of a fuse: rows are decoded, rounded and encoded in blocks, memory stays under the budget of the
 * context, results are the same bits for any number of threads, and the output folder appears whole or not at all.
 */
#ifndef TENON_RECODE_H
#define TENON_RECODE_H

#include "tenon/checkpoint.h"
#include "tenon/transform.h"
#include "tenon/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_recode tn_recode;

/* What to do. Start from TN_RECODE_REQUEST_INIT. */
struct tn_recode_request {
	int quantize;                      /* as `quantization` says */
	struct tn_quant_request quantization;
	int dequantize;                    /* quantized matrices become dense; not together with quantize */
	int like_mlx;                      /* dequantize with MLX's own roundings; else exact and rounded once */
	tn_dtype dtype;                    /* of floating tensors: F32, F16 or BF16; TN_DTYPE_COUNT leaves each as it is.
	                                    * With quantize: of the values that are quantized, and so of affine's scales.
	                                    * With dequantize: of the dense result (like_mlx: cast before, as MLX does, so that
	                                    * mxfp and nvfp results are BF16 all the same) */
	tn_flavour flavour;                /* of encoding */
	uint64_t shard_bytes;              /* most bytes of tensors in one file; 0: 5 * 2^30, as mlx-lm has it */
	int to_mlx;                        /* modules of other libraries become MLX's triples of the same values: TN_E_UNSUPPORTED,
	                                    * naming it, for one that has no such triple, unless `requantize`. `dtype` is then
	                                    * that of scales and biases, which need not hold every bias exactly; without it
	                                    * they get one that does. Not together with dequantize */
	int requantize;                    /* such modules, and with quantize all modules of other libraries, are decoded and
	                                    * quantized as `quantization` says */
	int to_nf4;                        /* dequantize, and then every linear but heads and routers becomes nf4 in blocks of 64 in
	                                    * the layout of bitsandbytes, byte for byte as 0.50.2 encodes on a CPU.
	                                    * TN_E_UNSUPPORTED: the base has experts, or is a GPT-2 */
	int mlx_folder;                    /* what mlx_lm.convert writes around the weights: eos_token_id taken from
	                                    * generation_config.json, a README.md of front matter */
};
#define TN_RECODE_REQUEST_INIT \
	{ 0, TN_QUANT_REQUEST_INIT, 0, 0, (tn_dtype)TN_DTYPE_COUNT, TN_FLAVOUR_CPU, 0, 0, 0, 0, 0 }

typedef enum tn_recode_action {
	TN_RECODE_COPY,        /* byte for byte */
	TN_RECODE_CAST,        /* another floating dtype */
	TN_RECODE_QUANTIZE,
	TN_RECODE_DEQUANTIZE,
	TN_RECODE_REPACK,      /* another library's module as MLX's triple: the same codes */
	TN_RECODE_REQUANTIZE   /* another library's module, decoded and quantized */
} tn_recode_action;
/* "copied", "cast", "quantized", "dequantized", "repacked", "requantized" */
TN_API const char *tn_recode_action_name(tn_recode_action action);

/* What becomes of one tensor, or of one triple (named by its weight). Belongs to the plan. */
struct tn_recoded {
	const struct tn_tensor *tensor;    /* of the base */
	tn_recode_action action;
	const char *from, *to;             /* "BF16", "affine 4 bits, group 64": of the plan */
	uint64_t bytes_before, bytes_after;
	const char *why_not;               /* of a matrix that quantize leaves dense: the reason; else NULL. Static text */
};

/* Plans; the checkpoint must be a folder and outlive the plan. No weight is read but nvfp4's global scales.
 * Errors: TN_E_ARG: quantize or to_mlx and dequantize together, and what tn_quant_plan_create refuses; TN_E_UNSUPPORTED:
 * modules of another library, and neither dequantize nor to_mlx nor requantize says what becomes of them; TN_E_FORMAT and
 * TN_E_MISMATCH: the checkpoint's own quantization is damaged, named by layer and key. */
TN_API tn_status tn_recode_plan(tn_context *ctx, const tn_checkpoint *base, const struct tn_recode_request *request,
				tn_recode **out, struct tn_error *err);
TN_API void tn_recode_free(tn_recode *recode);

/* In the order of the output. */
TN_API size_t tn_recode_count(const tn_recode *recode);
TN_API const struct tn_recoded *tn_recode_at(const tn_recode *recode, size_t i);
TN_API size_t tn_recode_count_of(const tn_recode *recode, tn_recode_action action);
TN_API uint64_t tn_recode_bytes_after(const tn_recode *recode);
/* Of all tensors, over logical parameters; with mlx_folder those that mlx-lm counts: of modules without others in them. */
TN_API double tn_recode_bits_per_weight(const tn_recode *recode);
TN_API size_t tn_recode_shard_count(const tn_recode *recode);
TN_API tn_status tn_recode_plan_json(const tn_recode *recode, tn_write_fn write, void *user, struct tn_error *err);

/* Runs the plan and writes the folder, as tn_fuse_run does. */
TN_API tn_status tn_recode_run(const tn_recode *recode, const char *save_path, unsigned flags, struct tn_error *err);

/* The receipt of a plan that has run into `save_path`: the plan, and SHA-256 of the base, of every tensor that was written, of the
 * files beside the weights and of the headers of these, for tn_verify_receipt. Reads base and result once.
 * Errors: TN_E_MISMATCH: the folder does not hold what the plan wrote. */
TN_API tn_status tn_recode_receipt(const tn_recode *recode, const char *save_path, tn_write_fn write, void *user,
				   struct tn_error *err);

#ifdef __cplusplus
}
#endif
#endif
