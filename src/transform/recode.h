/* The plan of a recode from inside. */
#ifndef TN_TRANSFORM_RECODE_H
#define TN_TRANSFORM_RECODE_H

#include "tenon/recode.h"
#include "transform/blocks.h"
#include "transform/output.h"
#include "transform/parts.h"
#include "weights/foreign.h"
#include "weights/matrix.h"

#include <jansson.h>

/* One tensor or triple. */
struct tn_recode_step {
	struct tn_recoded info;
	struct tn_matrix in;               /* unless it is copied */
	struct tn_format out;
	struct tn_part_plan out_parts[TN_PART_COUNT];
	tn_dtype round_to;                 /* quantize: values are rounded to this dtype first */
	tn_dtype scales_as;                /* dequantize like MLX: scales and biases are cast to this dtype first */
	struct tn_tensor *outputs[TN_PART_COUNT];
	struct tn_tensor *state;           /* nf4: outputs are codes, absmax and quant_map, and this the quant_state; else NULL */
	const char *state_text;
	size_t shard;
};

struct tn_recode {
	tn_context *ctx;
	struct tn_arena arena;             /* holds this struct too */
	const tn_checkpoint *base;
	struct tn_recode_request request;
	tn_dtype asked;                    /* the dtype of the request, before config.json gave one */
	tn_quant_config *config;           /* of the base; NULL when it has none */
	struct tn_foreign_set *foreign;    /* of the base */
	tn_quant_config *made;             /* of what foreign modules became; NULL when that is dense */
	const char *model_type;            /* for an mlx folder, or NULL */
	tn_quant_plan *quant_plan;         /* with quantize */
	struct tn_recode_step *steps;
	size_t count;
	struct tn_output_shard *shards;
	size_t shard_count;
	uint64_t bytes_after, parameters;
};

/* The text of the output's config.json in *out, which the caller releases; *out stays empty when the base has none. */
tn_status tn_recode_config(const struct tn_recode *recode, struct tn_buffer *out, struct tn_error *err);

/* Removes what says that a model is quantized, also inside text_config. */
void tn_config_forget_quantization(json_t *config);

/* Lays the outputs of the steps into shards. */
tn_status tn_recode_shards(struct tn_recode *recode, struct tn_error *err);

/* What becomes of another library's module: fills action, in, out and round_to. */
tn_status tn_recode_foreign(struct tn_recode *recode, struct tn_recode_step *step, struct tn_foreign *module,
			    struct tn_error *err);
/* With to_nf4: what cannot be done to this base; a planned step of a linear becomes one of nf4; the quantization_config of the
 * result (0: memory ran out). */
tn_status tn_recode_check_nf4(const struct tn_recode *recode, struct tn_error *err);
tn_status tn_recode_as_nf4(struct tn_recode *recode, struct tn_recode_step *step, struct tn_error *err);
int tn_nf4_config(json_t *config);
/* Rows of an nf4 step: values [count, cols] in the dtype to be kept, from a row that is a multiple of the alignment. Scratch:
 * tn_nf4_row_bytes for each row and 256 bytes. */
uint64_t tn_nf4_alignment(uint64_t cols);
uint64_t tn_nf4_row_bytes(uint64_t cols);
tn_status tn_nf4_write(const struct tn_kernels *k, struct tn_output *output, const struct tn_recode_step *step, uint64_t first,
		       uint64_t count, const float *values, unsigned char *scratch, struct tn_error *err);

/* TN_E_UNSUPPORTED when the base has such modules and the request says nothing of them. */
tn_status tn_recode_check_foreign(const struct tn_recode *recode, struct tn_error *err);

#endif
