/* SPDX-License-Identifier: Apache-2.0 */
/* Makes synthetic checkpoints and adapters of any size for tests and benchmarks.
 *
 *   make_checkpoint base OUT LAYERS HIDDEN INTERMEDIATE VOCAB SHARDS DTYPE holes|random
 *   make_checkpoint adapter OUT LAYER HIDDEN INTERMEDIATE RANK
 *   make_checkpoint many OUT MODULES
 *
 * base: a Llama-shaped folder; with `holes` the data are never written, so a terabyte takes no room.
 * adapter: a PEFT LoRA with random factors on q_proj and down_proj of layer LAYER.
 * many: OUT/base and OUT/adapter of rank 1 with so many small modules, 256 experts to a layer. */
#include "base/file.h"
#include "store/st_header.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static tn_context *ctx;
static struct tn_arena arena;
static uint64_t random_state = 88172645463325252u;

static void die(const char *what, const struct tn_error *err)
{
	fprintf(stderr, "make_checkpoint: %s: %s\n", what, err ? err->msg : "failed");
	exit(1);
}

static uint64_t next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

/* Uniform in -1/32 .. 1/32, as bits of the dtype. */
static void fill(unsigned char *dst, size_t n, tn_dtype dtype)
{
	size_t width = tn_dtype_bits(dtype) / 8;
	for (size_t i = 0; i + width <= n; i += width) {
		float x = ((float)(next_random() >> 40) * 0x1p-24f - 0.5f) * 0x1p-4f;
		uint32_t bits;
		memcpy(&bits, &x, 4);
		if (dtype == TN_BF16)
			memcpy(dst + i, (unsigned char *)&bits + 2, 2);
		else
			memcpy(dst + i, &bits, 4);
	}
}

static struct tn_tensor *tensor(tn_dtype dtype, uint64_t rows, uint64_t cols, const char *fmt, int layer)
{
	struct tn_tensor *t = NULL;
	uint64_t *shape = NULL;
	struct tn_error err;
	if (tn_arena_alloc(&arena, sizeof *t, &t, &err) || tn_arena_alloc(&arena, 16, &shape, &err) ||
	    tn_arena_printf(&arena, &t->name, &err, fmt, layer))
		die("memory", &err);
	shape[0] = rows;
	shape[1] = cols;
	t->dtype = dtype;
	t->rank = cols ? 2 : 1;
	t->shape = shape;
	t->elements = rows * (cols ? cols : 1);
	t->bytes = t->elements * tn_dtype_bits(dtype) / 8;
	return t;
}

static void write_shard(const char *dir, const char *name, struct tn_tensor **tensors, size_t count, int random)
{
	static unsigned char block[1 << 20];
	char path[TN_PATH_BYTES];
	struct tn_text header;
	struct tn_error err;
	struct tn_st_metadata pt = { "format", "pt" };
	tn_text_init(&header, ctx);
	if (tn_st_header_layout(tensors, count, &pt, 1, &header, &err) || tn_path_join(path, dir, name, &err))
		die(name, &err);
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);
	uint64_t end = count ? tensors[count - 1]->offset + tensors[count - 1]->bytes : header.length;
	if (fd < 0 || ftruncate(fd, (off_t)end) != 0 || tn_fd_write(fd, header.data, header.length, 0, path, &err))
		die(path, NULL);
	for (size_t i = 0; random && i < count; i++)
		for (uint64_t at = 0; at < tensors[i]->bytes; at += sizeof block) {
			size_t n = tensors[i]->bytes - at < sizeof block ? (size_t)(tensors[i]->bytes - at) : sizeof block;
			fill(block, n, tensors[i]->dtype);
			if (tn_fd_write(fd, block, n, tensors[i]->offset + at, path, &err))
				die(path, &err);
		}
	close(fd);
	tn_text_release(&header);
}

static void write_text(const char *dir, const char *name, const char *text)
{
	char path[TN_PATH_BYTES];
	if (tn_path_join(path, dir, name, NULL))
		die(name, NULL);
	FILE *f = fopen(path, "w");
	if (!f || fputs(text, f) < 0 || fclose(f) != 0)
		die(path, NULL);
}

static int make_base(char **v)
{
	int layers = atoi(v[1]), shards = atoi(v[5]);
	uint64_t h = strtoull(v[2], NULL, 10), m = strtoull(v[3], NULL, 10), vocab = strtoull(v[4], NULL, 10);
	tn_dtype dtype;
	if (tn_dtype_from_name(v[6], &dtype, NULL))
		die(v[6], NULL);
	mkdir(v[0], 0777);
	size_t room = (size_t)layers * 9 + 3, n = 0;
	struct tn_tensor **all = calloc(room, sizeof(struct tn_tensor *));
	if (!all)
		die("memory", NULL);
	all[n++] = tensor(dtype, vocab, h, "model.embed_tokens.weight", 0);
	for (int i = 0; i < layers; i++) {
		all[n++] = tensor(dtype, h, h, "model.layers.%d.self_attn.q_proj.weight", i);
		all[n++] = tensor(dtype, h, h, "model.layers.%d.self_attn.k_proj.weight", i);
		all[n++] = tensor(dtype, h, h, "model.layers.%d.self_attn.v_proj.weight", i);
		all[n++] = tensor(dtype, h, h, "model.layers.%d.self_attn.o_proj.weight", i);
		all[n++] = tensor(dtype, m, h, "model.layers.%d.mlp.gate_proj.weight", i);
		all[n++] = tensor(dtype, m, h, "model.layers.%d.mlp.up_proj.weight", i);
		all[n++] = tensor(dtype, h, m, "model.layers.%d.mlp.down_proj.weight", i);
		all[n++] = tensor(dtype, h, 0, "model.layers.%d.input_layernorm.weight", i);
		all[n++] = tensor(dtype, h, 0, "model.layers.%d.post_attention_layernorm.weight", i);
	}
	all[n++] = tensor(dtype, h, 0, "model.norm.weight", 0);
	all[n++] = tensor(dtype, vocab, h, "lm_head.weight", 0);
	for (int i = 0; i < shards; i++) {
		size_t from = n * (size_t)i / (size_t)shards, to = n * ((size_t)i + 1) / (size_t)shards;
		char name[64];
		snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", i + 1, shards);
		write_shard(v[0], shards == 1 ? "model.safetensors" : name, all + from, to - from, strcmp(v[7], "random") == 0);
	}
	write_text(v[0], "config.json", "{\n  \"model_type\": \"llama\"\n}\n");
	free(all);
	return 0;
}

static int make_adapter(char **v)
{
	int layer = atoi(v[1]);
	uint64_t h = strtoull(v[2], NULL, 10), m = strtoull(v[3], NULL, 10), r = strtoull(v[4], NULL, 10);
	struct tn_tensor *t[4];
	char config[256];
	mkdir(v[0], 0777);
	t[0] = tensor(TN_F32, r, h, "base_model.model.model.layers.%d.self_attn.q_proj.lora_A.weight", layer);
	t[1] = tensor(TN_F32, h, r, "base_model.model.model.layers.%d.self_attn.q_proj.lora_B.weight", layer);
	t[2] = tensor(TN_F32, r, m, "base_model.model.model.layers.%d.mlp.down_proj.lora_A.weight", layer);
	t[3] = tensor(TN_F32, h, r, "base_model.model.model.layers.%d.mlp.down_proj.lora_B.weight", layer);
	write_shard(v[0], "adapter_model.safetensors", t, 4, 1);
	snprintf(config, sizeof config,
		 "{\"peft_type\": \"LORA\", \"r\": %llu, \"lora_alpha\": %llu, \"target_modules\": [\"q_proj\", \"down_proj\"], "
		 "\"layers_to_transform\": [%d]}",
		 (unsigned long long)r, (unsigned long long)(2 * r), layer);
	write_text(v[0], "adapter_config.json", config);
	return 0;
}

/* The same modules on both sides. */
static int make_many(char **v)
{
	enum { WIDTH = 8, EXPERTS = 256 };
	char dir[TN_PATH_BYTES], name[128];
	size_t n = strtoull(v[1], NULL, 10);
	struct tn_tensor **base = calloc(n, sizeof *base), **factors = calloc(2 * n, sizeof *factors);
	if (!base || !factors || mkdir(v[0], 0777) != 0)
		die(v[0], NULL);
	for (size_t i = 0; i < n; i++) {
		static const char *const projections[] = { "gate", "up", "down" };
		const int expert = (int)(i / 3 % EXPERTS);
		size_t layer = i / 3 / EXPERTS;
		const char *projection = projections[i % 3];
		snprintf(name, sizeof name, "model.layers.%zu.mlp.experts.%%d.%s_proj.weight", layer, projection);
		base[i] = tensor(TN_BF16, WIDTH, WIDTH, name, expert);
		for (size_t k = 0; k < 2; k++) {
			snprintf(name, sizeof name, "base_model.model.model.layers.%zu.mlp.experts.%%d.%s_proj.lora_%c.weight", layer,
				 projection, k ? 'B' : 'A');
			factors[2 * i + k] = tensor(TN_F32, k ? WIDTH : 1, k ? 1 : WIDTH, name, expert);
		}
	}
	if (tn_path_join(dir, v[0], "base", NULL) || mkdir(dir, 0777) != 0)
		die(dir, NULL);
	write_shard(dir, "model.safetensors", base, n, 1);
	write_text(dir, "config.json", "{\n  \"model_type\": \"qwen3_moe\"\n}\n");
	if (tn_path_join(dir, v[0], "adapter", NULL) || mkdir(dir, 0777) != 0)
		die(dir, NULL);
	write_shard(dir, "adapter_model.safetensors", factors, 2 * n, 1);
	write_text(dir, "adapter_config.json",
		   "{\"peft_type\": \"LORA\", \"r\": 1, \"lora_alpha\": 1, \"target_modules\": [\"gate_proj\", \"up_proj\", \"down_proj\"]}");
	free(base);
	free(factors);
	return 0;
}

int main(int argc, char **argv)
{
	struct tn_error err;
	if (tn_context_create(NULL, &ctx, &err))
		die("context", &err);
	tn_arena_init(&arena, ctx);
	int status = 2;
	if (argc == 10 && strcmp(argv[1], "base") == 0)
		status = make_base(argv + 2);
	else if (argc == 7 && strcmp(argv[1], "adapter") == 0)
		status = make_adapter(argv + 2);
	else if (argc == 4 && strcmp(argv[1], "many") == 0)
		status = make_many(argv + 2);
	else
		fprintf(stderr, "usage: see the head of make_checkpoint.c\n");
	tn_arena_release(&arena);
	tn_context_destroy(ctx);
	return status;
}
