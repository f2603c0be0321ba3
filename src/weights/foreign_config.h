/* What a checkpoint's configuration says of a quantization that is not MLX's. */
#ifndef TN_FOREIGN_CONFIG_H
#define TN_FOREIGN_CONFIG_H

#include "base/arena.h"
#include "tenon/checkpoint.h"

enum tn_foreign_method {
	TN_METHOD_NONE,       /* the configuration says nothing, or is MLX's */
	TN_METHOD_AWQ,
	TN_METHOD_GPTQ,
	TN_METHOD_BNB,
	TN_METHOD_CT,
	TN_METHOD_FP8,
	TN_METHOD_MODELOPT,
	TN_METHOD_MXFP4       /* gpt-oss */
};

enum tn_awq_version { TN_AWQ_GEMM, TN_AWQ_GEMV, TN_AWQ_GEMV_FAST, TN_AWQ_MARLIN };
enum tn_gptq_format { TN_GPTQ_V1, TN_GPTQ_V2, TN_GPTQ_P, TN_GPTQ_MARLIN };
enum tn_ct_strategy { TN_CT_TENSOR, TN_CT_CHANNEL, TN_CT_GROUP, TN_CT_BLOCK };

/* The weights of one config_group of compressed-tensors. */
struct tn_ct_group {
	const char *format;           /* static text */
	int64_t bits, group_size;     /* group_size 0: none */
	uint64_t block[2];
	enum tn_ct_strategy strategy;
	int is_float, symmetric;
};

struct tn_foreign_config {
	enum tn_foreign_method method;
	const char *file;             /* where it stands: "config.json", "quantize_config.json", ... */
	int64_t bits, group_size;     /* 0: not said. group_size -1: the whole row */
	int zero_point;               /* AWQ */
	enum tn_awq_version version;
	enum tn_gptq_format format;
	int sym;                      /* GPTQ; -1: not said */
	int dynamic;                  /* GPTQ: modules may differ from bits and group_size */
	int any_width;                /* GPTQ: 5, 6 and 7 bits too */
	uint64_t block[2];            /* FP8: weight_block_size; 0: none */
	const struct tn_ct_group *groups;
	size_t group_count;
	int words_padded;             /* compressed-tensors before 0.18: floor(32 / bits) codes a word; -1: no version said */
};

const char *tn_foreign_method_name(enum tn_foreign_method method);

/* From config.json, or where that has none from quantize_config.json, quant_config.json or hf_quant_config.json. Errors:
 * TN_E_UNSUPPORTED: a method, version, format or algorithm that is not known; TN_E_FORMAT: a value that cannot be. */
tn_status tn_foreign_config_load(struct tn_arena *arena, const tn_checkpoint *checkpoint, struct tn_foreign_config *out,
				 struct tn_error *err);

#endif
