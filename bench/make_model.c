/* SPDX-License-Identifier: Apache-2.0 */
/* make_model FOLDER MEGABYTES: a synthetic model to measure with.
 *
 *   FOLDER/base          Llama of TinyLlama's shape in BF16, as many layers as the size allows (2200 MB: TinyLlama's 22);
 *                        every byte is written
 *   FOLDER/adapter       PEFT, rank 16 on all seven linear modules of every layer, F32
 *   FOLDER/adapter-mlx   the same factors as mlx-lm keeps them (transposed)
 *
 * Numbers depend on the name of the tensor and the element alone: two models of one size are the same bytes. */
#include "base/arena.h"
#include "store/st_writer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { HIDDEN = 2048, INTERMEDIATE = 5632, KEYS = 256, VOCABULARY = 32000, RANK = 16, LINEARS = 7, MOST_LAYERS = 500 };

static const struct {
	const char *name;
	uint64_t rows, cols;
} linears[LINEARS] = {
	{ "self_attn.q_proj", HIDDEN, HIDDEN },    { "self_attn.k_proj", KEYS, HIDDEN },
	{ "self_attn.v_proj", KEYS, HIDDEN },      { "self_attn.o_proj", HIDDEN, HIDDEN },
	{ "mlp.gate_proj", INTERMEDIATE, HIDDEN }, { "mlp.up_proj", INTERMEDIATE, HIDDEN },
	{ "mlp.down_proj", HIDDEN, INTERMEDIATE },
};

static tn_context *ctx;
static struct tn_arena arena;
static const char *folder;
static int layers;

static void check(tn_status status, const struct tn_error *err)
{
	if (status == TN_OK)
		return;
	fprintf(stderr, "make_model: %s\n", err->msg);
	exit(1);
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
	x = (x ^ x >> 27) * 0x94D049BB133111EBu;
	return x ^ x >> 31;
}

static uint64_t seed_of(const char *module)
{
	uint64_t seed = 14695981039346656037u;
	for (; *module; module++)
		seed = (seed ^ (unsigned char)*module) * 1099511628211u;
	return seed;
}

/* Uniform in -1/32 .. 1/32: of the size that weights have. */
static float number(uint64_t seed, uint64_t i)
{
	return (float)(int16_t)mix(seed + i) * 0x1p-20f;
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

/* A tensor and what its numbers come from: element (i, j) is number i * stride + j * step. */
struct piece {
	struct tn_tensor tensor;
	uint64_t seed, shape[2], stride, step;
	float around;
};

static struct piece *describe(struct piece *p, tn_dtype dtype, const char *name, uint64_t rows, uint64_t cols)
{
	p->shape[0] = rows;
	p->shape[1] = cols;
	p->stride = cols ? cols : 1;
	p->step = 1;
	p->tensor.name = name;
	p->tensor.dtype = dtype;
	p->tensor.rank = cols ? 2 : 1;
	p->tensor.shape = p->shape;
	p->tensor.elements = rows * p->stride;
	p->tensor.bytes = p->tensor.elements * tn_dtype_bits(dtype) / 8;
	p->seed = seed_of(name);
	return p;
}

/* Weights of a norm: numbers around 1. */
static void describe_norm(struct piece *p, const char *name)
{
	describe(p, TN_BF16, name, HIDDEN, 0)->around = 1;
}

static const char *name_of(const char *fmt, int layer, const char *module)
{
	const char *name = NULL;
	struct tn_error err;
	check(tn_arena_printf(&arena, &name, &err, fmt, layer, module), &err);
	return name;
}

static void put_piece(struct tn_st_writer *writer, const struct piece *p)
{
	static float row[32768];
	struct tn_error err;
	const struct tn_tensor *t = &p->tensor;
	uint64_t cols = p->shape[1] ? p->shape[1] : 1, width = tn_dtype_bits(t->dtype) / 8;
	for (uint64_t i = 0; i < p->shape[0]; i++) {
		for (uint64_t j = 0; j < cols; j++) {
			float x = p->around + number(p->seed, i * p->stride + j * p->step);
			uint32_t bits;
			memcpy(&bits, &x, sizeof bits);
			if (t->dtype == TN_BF16)
				((uint16_t *)(void *)row)[j] = (uint16_t)(bits >> 16);
			else
				row[j] = x;
		}
		check(tn_st_writer_put(writer, t, i * cols * width, row, cols * width, &err), &err);
	}
}

static const char *path_of(const char *sub, const char *name)
{
	const char *path = NULL;
	struct tn_error err;
	check(tn_arena_printf(&arena, &path, &err, "%s/%s%s%s", folder, sub, *name ? "/" : "", name), &err);
	return path;
}

static void write_tensors(const char *sub, const char *name, struct piece *pieces, size_t count)
{
	static struct tn_tensor *tensors[MOST_LAYERS * LINEARS * 2];
	struct tn_error err;
	struct tn_st_writer *writer;
	struct tn_st_metadata pt = { "format", "pt" };
	for (size_t i = 0; i < count; i++)
		tensors[i] = &pieces[i].tensor;
	check(tn_st_writer_create(ctx, path_of(sub, name), tensors, count, &pt, 1, 0, &writer, &err), &err);
	for (size_t i = 0; i < count; i++)
		put_piece(writer, &pieces[i]);
	check(tn_st_writer_finish(writer, &err), &err);
}

static void make_folder(const char *sub)
{
	if (mkdir(path_of(sub, ""), 0777) != 0)
		perror(path_of(sub, ""));
}

static FILE *open_text(const char *sub, const char *name)
{
	FILE *f = fopen(path_of(sub, name), "w");
	if (!f) {
		perror(path_of(sub, name));
		exit(1);
	}
	return f;
}

/* ---- the model ------------------------------------------------------------------------------------------- */

static void make_base(struct piece *pieces)
{
	const char *weight = "model.layers.%d.%s.weight";
	size_t n = 0;
	make_folder("base");
	describe(&pieces[n++], TN_BF16, "model.embed_tokens.weight", VOCABULARY, HIDDEN);
	describe(&pieces[n++], TN_BF16, "lm_head.weight", VOCABULARY, HIDDEN);
	describe_norm(&pieces[n++], "model.norm.weight");
	for (int i = 0; i < layers; i++) {
		for (int m = 0; m < LINEARS; m++)
			describe(&pieces[n++], TN_BF16, name_of(weight, i, linears[m].name), linears[m].rows,
				 linears[m].cols);
		describe_norm(&pieces[n++], name_of(weight, i, "input_layernorm"));
		describe_norm(&pieces[n++], name_of(weight, i, "post_attention_layernorm"));
	}
	write_tensors("base", "model.safetensors", pieces, n);
	FILE *f = open_text("base", "config.json");
	fprintf(f,
		"{\"architectures\": [\"LlamaForCausalLM\"], \"model_type\": \"llama\", \"dtype\": \"bfloat16\",\n"
		" \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d, \"vocab_size\": %d,\n"
		" \"num_attention_heads\": 32, \"num_key_value_heads\": 4, \"head_dim\": 64,\n"
		" \"hidden_act\": \"silu\", \"max_position_embeddings\": 2048, \"rms_norm_eps\": 1e-05,\n"
		" \"rope_theta\": 10000.0, \"tie_word_embeddings\": false}\n",
		HIDDEN, INTERMEDIATE, layers, VOCABULARY);
	fclose(f);
}

static const char *const lora_a = "base_model.model.model.layers.%d.%s.lora_A.weight";
static const char *const lora_b = "base_model.model.model.layers.%d.%s.lora_B.weight";

static void make_adapter_peft(struct piece *pieces)
{
	size_t n = 0;
	make_folder("adapter");
	for (int i = 0; i < layers; i++)
		for (int m = 0; m < LINEARS; m++) {
			describe(&pieces[n++], TN_F32, name_of(lora_a, i, linears[m].name), RANK, linears[m].cols);
			describe(&pieces[n++], TN_F32, name_of(lora_b, i, linears[m].name), linears[m].rows, RANK);
		}
	write_tensors("adapter", "adapter_model.safetensors", pieces, n);
	FILE *f = open_text("adapter", "adapter_config.json");
	fprintf(f,
		"{\"peft_type\": \"LORA\", \"task_type\": \"CAUSAL_LM\", \"r\": %d, \"lora_alpha\": %d,\n"
		" \"bias\": \"none\", \"lora_dropout\": 0.0,\n"
		" \"target_modules\": [\"q_proj\", \"k_proj\", \"v_proj\", \"o_proj\", \"gate_proj\", "
		"\"up_proj\", \"down_proj\"]}\n",
		RANK, 2 * RANK);
	fclose(f);
}

/* The factors of `peft`, transposed: element (i, j) is number j * rows + i of the same seed. */
static struct piece *transpose(struct piece *p, const char *name, const char *peft, uint64_t rows, uint64_t cols)
{
	describe(p, TN_F32, name, rows, cols);
	p->seed = seed_of(peft);
	p->stride = 1;
	p->step = rows;
	return p;
}

static void make_adapter_mlx(struct piece *pieces)
{
	size_t n = 0;
	make_folder("adapter-mlx");
	for (int i = 0; i < layers; i++)
		for (int m = 0; m < LINEARS; m++) {
			transpose(&pieces[n++], name_of("model.layers.%d.%s.lora_a", i, linears[m].name),
				  name_of(lora_a, i, linears[m].name), linears[m].cols, RANK);
			transpose(&pieces[n++], name_of("model.layers.%d.%s.lora_b", i, linears[m].name),
				  name_of(lora_b, i, linears[m].name), RANK, linears[m].rows);
		}
	write_tensors("adapter-mlx", "adapters.safetensors", pieces, n);
	FILE *f = open_text("adapter-mlx", "adapter_config.json");
	fprintf(f, "{\"fine_tune_type\": \"lora\", \"num_layers\": %d,\n"
		   " \"lora_parameters\": {\"rank\": %d, \"scale\": 2.0, \"dropout\": 0.0}}\n", layers, RANK);
	fclose(f);
}

int main(int argc, char **argv)
{
	struct tn_error err;
	double of_layer = 0, bytes = argc == 3 ? atof(argv[2]) * 1e6 : 0;
	for (int m = 0; m < LINEARS; m++)
		of_layer += 2.0 * (double)(linears[m].rows * linears[m].cols);
	layers = (int)((bytes - 4.0 * VOCABULARY * HIDDEN) / of_layer + 0.5);
	if (layers < 1 || layers > MOST_LAYERS) {
		fprintf(stderr, "usage: make_model FOLDER MEGABYTES, 350 to 40000\n");
		return 2;
	}
	folder = argv[1];
	struct piece *pieces = calloc((size_t)layers * LINEARS * 2 + 3, sizeof *pieces);
	check(tn_context_create(NULL, &ctx, &err), &err);
	tn_arena_init(&arena, ctx);
	if (!pieces || mkdir(folder, 0777) != 0) {
		perror(folder);
		return 1;
	}
	make_base(pieces);
	make_adapter_peft(pieces);
	make_adapter_mlx(pieces);
	tn_arena_release(&arena);
	tn_context_destroy(ctx);
	free(pieces);
	return 0;
}
