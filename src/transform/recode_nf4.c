/* SPDX-License-Identifier: Apache-2.0 */
/* Linears as NF4 in the layout of bitsandbytes: which ones, their tensors, and a block of one. Levels, bounds and roundings are
 * those of bitsandbytes 0.50.2 on a CPU (backends/default/ops.py, quantize_4bit), so the bytes are too. */
#include "transform/recode.h"

#include "adapter/selection.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "weights/format.h"
#include "weights/nf4.h"

#include <math.h>
#include <string.h>

enum { BLOCK = TN_LEVEL_BLOCK };

/* ---- which ----------------------------------------------------------------------------------------------- */

/* Tables of vectors, heads, routers and norms of each head are no nn.Linear to transformers, or are left dense by it. */
static int is_linear(const struct tn_tensor *t)
{
	static const char *const others[] = { "embed_tokens", "wte", "wpe", "word_embeddings", "embed_in", "tok_embeddings",
					      "embed_positions", "position_embeddings", "shared", "gate", "router", "embed_out" };
	char path[TN_NAME_BYTES];
	if (t->rank != 2 || !t->elements || !tn_ends_with(t->name, ".weight") || !tn_sibling_name(path, t->name, ""))
		return 0;
	for (size_t i = 0; i < sizeof others / sizeof *others; i++)
		if (strcmp(tn_path_last(path), others[i]) == 0)
			return 0;
	return !tn_path_is_head(path) && !strstr(tn_path_last(path), "norm");
}

tn_status tn_recode_check_nf4(const struct tn_recode *r, struct tn_error *err)
{
	if (r->request.quantize || r->request.to_mlx)
		return tn_fail(err, TN_E_ARG, "request", "Choose one target: MLX's quantization, or nf4 of bitsandbytes.");
	for (size_t i = 0; i < tn_checkpoint_count(r->base); i++) {
		const char *name = tn_checkpoint_at(r->base, i)->name;
		if (strstr(name, ".experts.") || strstr(name, ".switch_mlp.") || strstr(name, ".c_attn."))
			return tn_fail(err, TN_E_UNSUPPORTED, name, "'%.120s': transformers holds experts in stacks and Conv1D "
				       "transposed, neither of which bitsandbytes reads as nf4; quantize such a model with "
				       "tenon quantize", name);
	}
	return TN_OK;
}

/* ---- the tensors ----------------------------------------------------------------------------------------- */

static tn_status describe(struct tn_recode *r, const char *name, const char *suffix, tn_dtype dtype, uint64_t rows, uint64_t cols,
			  struct tn_tensor **out, struct tn_error *err)
{
	struct tn_tensor *t;
	uint64_t *shape;
	TN_TRY(tn_arena_alloc(&r->arena, sizeof *t, &t, err));
	TN_TRY(tn_arena_array(&r->arena, 2, sizeof *shape, &shape, err));
	TN_TRY(tn_arena_printf(&r->arena, &t->name, err, "%s%s", name, suffix));
	shape[0] = rows;
	shape[1] = cols;
	t->dtype = dtype;
	t->rank = cols ? 2 : 1;
	t->shape = shape;
	t->elements = rows * (cols ? cols : 1);
	t->bytes = t->elements * tn_dtype_bits(dtype) / 8;
	*out = t;
	return TN_OK;
}

static const char *dtype_name(tn_dtype dtype)
{
	return dtype == TN_F32 ? "float32" : dtype == TN_F16 ? "float16" : "bfloat16";
}

static tn_status describe_all(struct tn_recode *r, struct tn_recode_step *step, const char *name, struct tn_error *err)
{
	uint64_t rows = step->in.rows, cols = step->in.cols, n = rows * cols;
	TN_TRY(tn_arena_printf(&r->arena, &step->state_text, err, "{\"quant_type\": \"nf4\", \"blocksize\": %d, \"dtype\": \"%s\", "
			       "\"shape\": [%llu, %llu]}", BLOCK, dtype_name(step->round_to), (unsigned long long)rows,
			       (unsigned long long)cols));
	memset(step->outputs, 0, sizeof step->outputs);
	memset(step->out_parts, 0, sizeof step->out_parts);
	TN_TRY(describe(r, name, "", TN_U8, tn_ceil_div(n, 2), 1, &step->outputs[0], err));
	TN_TRY(describe(r, name, ".absmax", TN_F32, tn_ceil_div(n, BLOCK), 0, &step->outputs[1], err));
	TN_TRY(describe(r, name, ".quant_map", TN_F32, 16, 0, &step->outputs[2], err));
	TN_TRY(describe(r, name, ".quant_state.bitsandbytes__nf4", TN_U8, strlen(step->state_text), 0, &step->state, err));
	step->info.bytes_after = step->state->bytes;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		step->info.bytes_after += step->outputs[p]->bytes;
	return TN_OK;
}

tn_status tn_recode_as_nf4(struct tn_recode *r, struct tn_recode_step *step, struct tn_error *err)
{
	const struct tn_tensor *t = step->info.tensor;
	tn_dtype dtype = step->info.action == TN_RECODE_COPY ? t->dtype : step->out.dtype;
	if (!is_linear(t) || !tn_is_weight_dtype(dtype))
		return TN_OK;
	if (step->info.action == TN_RECODE_COPY)
		step->in = tn_parts_dense(t, t->shape[1]);
	step->info.action = step->info.action == TN_RECODE_DEQUANTIZE ? TN_RECODE_REQUANTIZE : TN_RECODE_QUANTIZE;
	step->round_to = dtype;
	step->info.to = "nf4, 4 bits, group 64";
	return describe_all(r, step, t->name, err);
}

/* ---- a block --------------------------------------------------------------------------------------------- */

uint64_t tn_nf4_alignment(uint64_t cols)
{
	uint64_t rows = 1;
	while (rows < BLOCK && rows * cols % BLOCK != 0)
		rows *= 2;
	return rows;
}

uint64_t tn_nf4_row_bytes(uint64_t cols)
{
	return cols / 2 + 1 + (cols / BLOCK + 1) * sizeof(float);
}

/* How many of the bounds between the levels lie below x. */
static unsigned code_of(float x, const float bounds[15])
{
	unsigned code = 0;
	for (int i = 0; i < 15; i++)
		code += bounds[i] < x;
	return code;
}

/* bitsandbytes multiplies by the reciprocal in whole blocks, and divides in a last one that is short. */
static void encode(const struct tn_kernels *k, const float *values, size_t n, unsigned char *codes, float *absmax)
{
	float bounds[15], divisor = 1e-38f;
	size_t whole = n / BLOCK;
	for (int i = 0; i < 15; i++)
		bounds[i] = (tn_nf4_levels[i] + tn_nf4_levels[i + 1]) / 2;
	k->level_codes(codes, absmax, values, whole, bounds);
	memset(codes + whole * BLOCK / 2, 0, (n + 1) / 2 - whole * BLOCK / 2);
	for (size_t i = whole * BLOCK; i < n; i++)
		divisor = fabsf(values[i]) > divisor ? fabsf(values[i]) : divisor;
	if (n % BLOCK)
		absmax[whole] = divisor;
	for (size_t i = whole * BLOCK; i < n; i++)
		codes[i / 2] = (unsigned char)(codes[i / 2] | code_of(values[i] / divisor, bounds) << (i % 2 ? 0 : 4));
	if (n % 2) /* what bitsandbytes pads with is a 0 */
		codes[n / 2] = (unsigned char)(codes[n / 2] | code_of(0, bounds));
}

tn_status tn_nf4_write(const struct tn_kernels *k, struct tn_output *output, const struct tn_recode_step *step, uint64_t first,
		       uint64_t count, const float *values, unsigned char *scratch, struct tn_error *err)
{
	uint64_t cols = step->in.cols, begin = first * cols, n = count * cols;
	float *absmax = (float *)(void *)scratch;
	unsigned char *codes = scratch + tn_align_up((size_t)tn_ceil_div(n, BLOCK) * sizeof *absmax, 64);
	encode(k, values, (size_t)n, codes, absmax);
	TN_TRY(tn_output_put(output, step->shard, step->outputs[0], begin / 2, codes, (size_t)tn_ceil_div(n, 2), err));
	TN_TRY(tn_output_put(output, step->shard, step->outputs[1], begin / BLOCK * sizeof *absmax, absmax,
			     (size_t)tn_ceil_div(n, BLOCK) * sizeof *absmax, err));
	if (first)
		return TN_OK;
	TN_TRY(tn_output_put(output, step->shard, step->outputs[2], 0, tn_nf4_levels, sizeof tn_nf4_levels, err));
	return tn_output_put(output, step->shard, step->state, 0, step->state_text, strlen(step->state_text), err);
}

/* ---- config.json ----------------------------------------------------------------------------------------- */

int tn_nf4_config(json_t *config)
{
	static const char text[] =
		"{\"_load_in_4bit\": true, \"_load_in_8bit\": false, \"bnb_4bit_compute_dtype\": \"bfloat16\", "
		"\"bnb_4bit_quant_storage\": \"uint8\", \"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_use_double_quant\": false, "
		"\"llm_int8_enable_fp32_cpu_offload\": false, \"llm_int8_has_fp16_weight\": false, "
		"\"llm_int8_skip_modules\": [\"lm_head\", \"embed_out\"], \"llm_int8_threshold\": 6.0, \"load_in_4bit\": true, "
		"\"load_in_8bit\": false, \"quant_method\": \"bitsandbytes\"}";
	json_t *block = json_loads(text, 0, NULL);
	return block && json_object_set_new(config, "quantization_config", block) == 0;
}
