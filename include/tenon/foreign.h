/* tenon/foreign.h - what other libraries made of weights, in memory: AutoAWQ on load, NF4 of QLoRA.
 *
 * Sources. AutoAWQ: mlx-lm 0.32.2 (mlx_lm/utils.py, _transform_awq_weights) as mlxrs 0.1.0 has it (src/lm/quant.rs). NF4:
 * kizzasi (src/lora.rs, QLoraLinear); the levels are those of bitsandbytes. Whole checkpoints of AutoAWQ, GPTQ, bitsandbytes,
 * FP8, compressed-tensors, ModelOpt and gpt-oss are read by tn_recode_plan and tn_weight_list_create: docs/foreign.md.
 */
#ifndef TENON_FOREIGN_H
#define TENON_FOREIGN_H

#include "tenon/base.h"
#include "tenon/weights.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- AutoAWQ --------------------------------------------------------------------------------------------- */

/* The `quantization_config` of AutoAWQ. */
struct tn_awq_config {
	int64_t bits, group_size;
	int zero_point;        /* 0: symmetric, zero points are 8 */
	char version[16];      /* "" and "gemm" are converted */
};
#define TN_AWQ_CONFIG_INIT { 4, 128, 1, "" }

/* From JSON; missing keys are those of TN_AWQ_CONFIG_INIT, others are passed over. TN_E_FORMAT: no JSON object, or a value
 * of another kind. */
TN_API tn_status tn_awq_config_parse(tn_context *ctx, const char *json, struct tn_awq_config *out, struct tn_error *err);

/* [rows, n] U32 or I32, bit for bit the same -> U32 [rows, 8 * n], one code in each: nibbles in the order 0 4 1 5 2 6 3 7.
 * TN_E_FORMAT: another rank or dtype. */
TN_API tn_status tn_unpack_awq_weights(tn_context *ctx, const struct tn_array *qweight, struct tn_array *out,
				       struct tn_error *err);

/* How precise a dtype of scales is: F64 4, F32 3, BF16 2, F16 1, every other 0. */
TN_API int tn_awq_precision_rank(tn_dtype dtype);
/* The dtype that all scales and biases get: the most precise of the scales, F32 for F16 beside BF16, because neither holds
 * the other. TN_DTYPE_COUNT when there is no `.qweight`. TN_E_NOTFOUND: one has no `.scales`. */
TN_API tn_status tn_awq_model_dtype(const tn_weight_map *map, tn_dtype *out, struct tn_error *err);

/* Every `<layer>.qweight` [in, out / 8], `.scales` [groups, out] and `.qzeros` [groups, out / 8] of the map becomes MLX's
 * affine triple: `.weight` U32 [out, in / 8], `.scales` and `.biases` [out, groups], bias = -zero * scale rounded to the
 * dtype of the scales and then cast like them to tn_awq_model_dtype. Without qzeros, or with zero_point 0, zeros are 8.
 * Everything else stays, also scales and qzeros without a qweight. *q gets the group size, 4 bits, "affine". On failure the
 * map is unchanged.
 * Errors: TN_E_UNSUPPORTED: another version; TN_E_ARG: bits other than 4, a group size below 1 or beyond 32 bits;
 * TN_E_FORMAT, naming the key: a `.g_idx`; a dtype, rank or shape that cannot be; a `.weight` or `.biases` that the result
 * would overwrite; TN_E_NOTFOUND: no `.scales`. */
TN_API tn_status tn_transform_awq_weights(tn_weight_map *map, const struct tn_awq_config *config, struct tn_quantization *q,
					  struct tn_error *err);

/* ---- NF4 ------------------------------------------------------------------------------------------------- */

/* Level of a code below 16. */
TN_API float tn_nf4_level(unsigned code);

/* Codes and scales over a flat tensor, as kizzasi's QLoRA has them: two codes in a byte, the first in the LOW half, one F32
 * for each group of `group_size` values (the last may be short). bitsandbytes has the first in the high half. */
struct tn_nf4 {
	struct tn_buffer codes;     /* (n + 1) / 2 bytes */
	struct tn_buffer scales;    /* floats: the absolute maximum of the group, at least 1e-10 */
	uint64_t n, group_size;
};

/* Each value over its scale, clamped to [-1, 1], becomes the nearest level, the lower at a tie; NaN becomes code 0, -1.
 * TN_E_ARG: n or group_size is 0. */
TN_API tn_status tn_nf4_encode(tn_context *ctx, const float *values, uint64_t n, uint64_t group_size, struct tn_nf4 *out,
			       struct tn_error *err);
/* level * scale, rounded once; dst has out->n values. */
TN_API void tn_nf4_decode(const struct tn_nf4 *nf4, float *dst);
/* Bytes of the values as float32, less those of codes, scales and kizzasi's zero points (one float for each group, always
 * 0); never below 0. */
TN_API uint64_t tn_nf4_saved_bytes(const struct tn_nf4 *nf4);
TN_API void tn_nf4_release(tn_context *ctx, struct tn_nf4 *nf4);

#ifdef __cplusplus
}
#endif
#endif
