/* SPDX-License-Identifier: Apache-2.0 */
#include "model/decoder_config.h"

#include <string.h>

#define LLAMA_ATTENTION                                                                           \
	.layers = "layers.", .embedding = "embed_tokens", .final_norm = "norm", .q = "self_attn.q_proj", \
	.k = "self_attn.k_proj", .v = "self_attn.v_proj", .qkv = "self_attn.qkv_proj", .o = "self_attn.o_proj", \
	.q_norm = "self_attn.q_norm", .k_norm = "self_attn.k_norm"
#define LLAMA_MLP \
	.gate = "mlp.gate_proj", .up = "mlp.up_proj", .down = "mlp.down_proj", .gate_up = "mlp.gate_up_proj"

static const struct tn_part_names llama = {
	LLAMA_ATTENTION, LLAMA_MLP, .norm = { "input_layernorm", NULL, "post_attention_layernorm", NULL },
};
static const struct tn_part_names gemma = {
	LLAMA_ATTENTION, LLAMA_MLP,
	.norm = { "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm" },
};
static const struct tn_part_names olmo2 = {
	LLAMA_ATTENTION, LLAMA_MLP, .norm = { NULL, "post_attention_layernorm", NULL, "post_feedforward_layernorm" },
};
static const struct tn_part_names mixtral = {
	LLAMA_ATTENTION, .norm = { "input_layernorm", NULL, "post_attention_layernorm", NULL },
	.router = "block_sparse_moe.gate", .experts = "block_sparse_moe.",
	.expert_gate = "w1", .expert_up = "w3", .expert_down = "w2",
};
static const struct tn_part_names qwen_moe = {
	LLAMA_ATTENTION, LLAMA_MLP, .norm = { "input_layernorm", NULL, "post_attention_layernorm", NULL },
	.router = "mlp.gate", .experts = "mlp.",
	.expert_gate = "gate_proj", .expert_up = "up_proj", .expert_down = "down_proj",
	.shared = "mlp.shared_expert.", .shared_gate = "mlp.shared_expert_gate",
};
static const struct tn_part_names starcoder2 = {
	LLAMA_ATTENTION, .norm = { "input_layernorm", NULL, "post_attention_layernorm", NULL },
	.up = "mlp.c_fc", .down = "mlp.c_proj",
};
static const struct tn_part_names gpt2 = {
	.layers = "h.", .embedding = "wte", .positions = "wpe", .final_norm = "ln_f", .norm = { "ln_1", NULL, "ln_2", NULL },
	.qkv = "attn.c_attn", .o = "attn.c_proj", .up = "mlp.c_fc", .down = "mlp.c_proj",
};

static const struct tn_architecture architectures[] = {
#define ARCHITECTURE(type, traits, windows, names, defaults) { #type, traits, TN_WINDOW_##windows, &names, defaults },
#include "model/architectures.def"
#undef ARCHITECTURE
};

const struct tn_architecture *tn_architecture_at(size_t i)
{
	return i < sizeof architectures / sizeof *architectures ? &architectures[i] : NULL;
}

const struct tn_architecture *tn_architecture_find(const char *model_type)
{
	for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
		if (strcmp(architectures[i].model_type, model_type) == 0)
			return &architectures[i];
	return NULL;
}
