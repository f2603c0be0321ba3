/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of PEFT 0.21 and mlx-lm 0.32.2 (both run), and as their sources say in 2026: vLLM (vllm/config/lora.py: ranks;
 * vllm/lora/peft_helper.py: what is refused, the scale), llama.cpp (convert_lora_to_gguf.py; src/llama-adapter.cpp and .h: what
 * is loaded, alpha / rank of each pair), Ollama (convert/convert.go, convert/convert_llama_adapter.go). */
#include "transform/engines.h"

#include "adapter/create.h"
#include "adapter/selection.h"
#include "base/error.h"
#include "tenon/transform.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct check {
	const tn_adapter *adapter;
	const struct tn_joint *joint;   /* NULL: it does not land */
	tn_engine_report report;
	void *arg;
	int refused; /* an error was said: how to start the engine with it is no help then */
};

enum { E = TN_FINDING_ERROR, W = TN_FINDING_WARNING, N = TN_FINDING_NOTE };

static tn_status say(struct check *c, int level, const char *where, const char *message, struct tn_error *err)
{
	c->refused |= level == E;
	if (c->refused && level == N)
		return TN_OK;
	return c->report(c->arg, level, where, message, err);
}

/* One line of a rule: said when the condition holds. */
struct rule {
	int holds, level;
	const char *where, *message;
};

static tn_status say_all(struct check *c, const struct rule *rules, size_t count, struct tn_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (rules[i].holds)
			TN_TRY(say(c, rules[i].level, rules[i].where, rules[i].message, err));
	return TN_OK;
}
#define SAY(c, rules, err) say_all(c, rules, sizeof(rules) / sizeof *(rules), err)

static int has_kind(const tn_adapter *a, tn_module_kind kind)
{
	for (size_t i = 0; i < a->count; i++)
		if (a->entries[i].module.kind == kind)
			return 1;
	return 0;
}

/* Whole tensors: norms alone, or others too. */
static int has_saved(const tn_adapter *a, int norms)
{
	for (size_t i = 0; i < a->count; i++)
		if (a->entries[i].module.kind == TN_MODULE_SAVED && (strstr(a->entries[i].module.path, "norm") != NULL) == norms)
			return 1;
	return 0;
}

static int has_head(const tn_adapter *a)
{
	for (size_t i = 0; i < a->count; i++)
		if (tn_path_is_head(a->entries[i].module.path))
			return 1;
	return 0;
}

static int has_embedding(const tn_adapter *a)
{
	return has_kind(a, TN_MODULE_EMBEDDING) || has_kind(a, TN_MODULE_EMBEDDING_DORA);
}

static int has_list(const tn_adapter *a)
{
	for (size_t i = 0; i < a->count; i++)
		if (a->entries[i].list_place)
			return 1;
	return 0;
}

static uint64_t largest_rank(const tn_adapter *a)
{
	uint64_t rank = 0;
	for (size_t i = 0; i < a->count; i++)
		rank = a->entries[i].module.rank > rank ? a->entries[i].module.rank : rank;
	return rank;
}

static tn_status want_peft(struct check *c, const char *engine, struct tn_error *err)
{
	char text[256];
	snprintf(text, sizeof text, "%s reads PEFT folders only; make it one (tenon convert --adapter-path ADAPTER --to peft), or "
		 "fuse the adapter and give %s the merged model", engine, engine);
	return c->adapter->config.dialect == TN_DIALECT_PEFT ? TN_OK : say(c, E, "adapter_config.json", text, err);
}

/* ---- one program each ------------------------------------------------------------------------------------ */

static tn_status check_tenon_peft(struct check *c, struct tn_error *err)
{
	const struct tn_adapter_config *f = &c->adapter->config;
	int overlapping = 0;
	TN_TRY(want_peft(c, "peft", err));
	for (size_t i = 0; i < c->adapter->count && f->ranks.count; i++) {
		const struct tn_adapter_module *m = &c->adapter->entries[i].module;
		double rank;
		TN_TRY(tn_pattern_value(&f->ranks, m->path, (double)f->rank, &rank, err));
		overlapping |= m->rank && rank != (double)m->rank;
	}
	const struct rule rules[] = {
		{ overlapping, E, "rank_pattern", "keys overlap and lost their order when PEFT wrote them: PEFT cannot load its "
						  "own file (size mismatch); tenon takes the ranks from the tensors" },
		{ f->base_change != TN_BASE_AS_IS, N, "init_lora_weights", "PEFT computes the initialisation again on load: "
									   "give it the original base, unquantized" },
		{ f->replication_count != 0, W, "layer_replication", "PEFT's merge_and_unload adds the factors of all copies to "
								     "one shared weight; tenon writes a layer for each" },
		{ has_embedding(c->adapter), W, "", "on a base with tied embeddings PEFT's merge_and_unload changes the head "
						    "too; tenon unties them" },
	};
	return SAY(c, rules, err);
}

/* 1 when mlx-lm makes a DoRA of another width for one of the weights. */
static int has_misjudged_dora(const struct check *c)
{
	for (size_t i = 0; c->joint && i < c->joint->slot_count; i++) {
		const struct tn_slot *slot = &c->joint->slots[i];
		const struct tn_matrix *m = c->joint->targets[slot->target].matrix;
		unsigned bits = m && !m->foreign ? (unsigned)m->q.bits : 0;
		if (slot->entry->magnitude && tn_mlx_misjudges_dora(slot->entry->module.kind, bits))
			return 1;
	}
	return 0;
}

static tn_status check_mlx(struct check *c, struct tn_error *err)
{
	const struct tn_adapter_config *f = &c->adapter->config;
	if (f->dialect != TN_DIALECT_MLX_LM)
		return say(c, E, "adapter_config.json", "mlx-lm reads its own folders only (fine_tune_type, num_layers, "
			   "lora_parameters); make it one (tenon convert --adapter-path ADAPTER --to mlx), or fuse the adapter and "
			   "give mlx-lm the merged model", err);
	int suffix = 0;
	for (size_t i = 0; i < c->adapter->count && f->has_keys; i++) {
		const char *path = c->adapter->entries[i].module.path, *rest;
		uint64_t number;
		size_t bytes;
		int exact = 0;
		rest = tn_path_in_layer(path, &number, &bytes);
		for (size_t k = 0; k < f->keys.count; k++)
			exact |= !strcmp(path, f->keys.names[k]) || (rest && !strcmp(rest, f->keys.names[k]));
		suffix |= !exact;
	}
	const struct rule rules[] = {
		{ suffix, E, "keys", "mlx-lm wants names inside the layer in full, 'self_attn.q_proj' and not 'q_proj': it "
				     "would call these tensors incompatible" },
		{ has_list(c->adapter), E, "", "mlx-lm 0.32 writes lists of factors (lora_a.0, lora_a.1, ...: AFM's projections) "
					       "and refuses to load them; tenon applies them" },
		{ has_misjudged_dora(c), E, "", "mlx-lm takes the widths of weights of 3, 5 and 6 bits, and of quantized tables, "
						"for others when it makes a DoRA, and refuses this one; tenon applies it" },
		{ f->method == TN_METHOD_DORA, N, "", "mlx-lm fuses DoRA into float32 weights whatever the base has; tenon "
						      "keeps the base's dtype" },
	};
	return SAY(c, rules, err);
}

static tn_status check_vllm(struct check *c, struct tn_error *err)
{
	const struct tn_adapter_config *f = &c->adapter->config;
	char flags[160];
	static const unsigned sizes[] = { 8, 16, 32, 64, 128, 256, 320, 512 };
	uint64_t rank = largest_rank(c->adapter);
	size_t i = 0;
	while (i + 1 < sizeof sizes / sizeof *sizes && sizes[i] < rank)
		i++;
	snprintf(flags, sizeof flags, "start it with --enable-lora --max-lora-rank %u --lora-modules NAME=PATH", sizes[i]);
	TN_TRY(want_peft(c, "vllm", err));
	const struct rule rules[] = {
		{ f->method == TN_METHOD_DORA, E, "use_dora", "vLLM does not support DoRA; fuse the adapter" },
		{ f->saved.count != 0, E, "modules_to_save", "vLLM only takes adapters without modules_to_save; fuse the adapter" },
		{ strcmp(f->bias, "none") != 0 || f->lora_bias, E, "bias", "vLLM does not take adapter biases; fuse the adapter" },
		{ f->adalora_rank != 0, E, "peft_type", "vLLM takes LoRA alone, and this is AdaLoRA; fuse the adapter" },
		{ rank > 512, E, "r", "vLLM takes ranks up to 512; fuse the adapter" },
		{ f->base_change != TN_BASE_AS_IS, E, "init_lora_weights", "vLLM adds the factors to the original base, and these "
									   "belong to an altered one; fuse the adapter" },
		{ f->ranks.count || f->alphas.count, W, "rank_pattern", "vLLM scales every module by lora_alpha / r and knows no "
									"patterns: other modules come out wrong; fuse the "
									"adapter" },
		{ has_embedding(c->adapter), W, "", "vLLM leaves factors of embeddings out of most models; fuse the adapter" },
		{ f->token_count != 0, W, "trainable_token_indices", "vLLM leaves trained tokens out; fuse the adapter" },
		{ 1, N, "", flags },
	};
	return SAY(c, rules, err);
}

/* What llama.cpp makes of factors, however they came to it: it knows one alpha for all, and the rank of each pair. */
static tn_status check_ggml(struct check *c, struct tn_error *err)
{
	const struct tn_adapter_config *f = &c->adapter->config;
	const struct rule rules[] = {
		{ f->adalora_rank != 0, E, "peft_type",
		 "llama.cpp knows lora_a and lora_b alone, and this is AdaLoRA; fuse the adapter" },
		{ f->use_rslora, W, "use_rslora", "llama.cpp scales by lora_alpha / r and not by its square root; fuse the "
						  "adapter, or give --lora-scaled with the square root of r" },
		{ f->alphas.count != 0, W, "alpha_pattern", "llama.cpp knows one lora_alpha; fuse the adapter" },
		{ f->base_change != TN_BASE_AS_IS, W, "init_lora_weights", "llama.cpp adds the factors to the original base, "
									   "and these belong to an altered one; fuse the adapter" },
	};
	return SAY(c, rules, err);
}

static tn_status check_llama_cpp(struct check *c, struct tn_error *err)
{
	const struct tn_adapter_config *f = &c->adapter->config;
	if (f->dialect == TN_DIALECT_GGUF)
		return say(c, N, "", "it is in llama.cpp's own format: run with --lora FILE.gguf", err);
	TN_TRY(want_peft(c, "llama.cpp", err));
	const struct rule rules[] = {
		{ f->method == TN_METHOD_DORA, E, "use_dora",
		 "convert_lora_to_gguf.py takes lora_A and lora_B only; fuse the adapter" },
		{ has_saved(c->adapter, 0) || f->token_count, E, "modules_to_save",
		  "convert_lora_to_gguf.py refuses tensors that are not lora_A or lora_B; fuse the adapter" },
		{ has_saved(c->adapter, 1), W, "modules_to_save", "convert_lora_to_gguf.py takes norms along, and llama.cpp "
								  "passes over them when it loads the file; fuse the adapter" },
		{ f->lora_bias, E, "lora_bias", "convert_lora_to_gguf.py refuses tensors that are not weights; fuse the adapter" },
		{ has_head(c->adapter), W, "lm_head", "convert_lora_to_gguf.py refuses factors of lm_head where the base ties "
						      "it to the embedding; fuse the adapter there" },
	};
	TN_TRY(SAY(c, rules, err));
	TN_TRY(check_ggml(c, err));
	return say(c, N, "", "convert with convert_lora_to_gguf.py --base BASE ADAPTER, then run with --lora FILE.gguf", err);
}

static tn_status check_ollama(struct check *c, struct tn_error *err)
{
	const struct tn_adapter_config *f = &c->adapter->config;
	int gguf = f->dialect == TN_DIALECT_GGUF, mlx = f->dialect == TN_DIALECT_MLX_LM;
	int others = has_saved(c->adapter, 0) || has_saved(c->adapter, 1) || f->token_count || f->lora_bias;
	const struct rule rules[] = {
		{ f->dialect == TN_DIALECT_KOHYA, E, "",
		 "Ollama reads folders of PEFT and mlx-lm and GGUF files; fuse the adapter" },
		{ f->method == TN_METHOD_DORA, E, "use_dora", "Ollama takes lora_A and lora_B only; fuse the adapter" },
		{ !gguf && others, E, "modules_to_save", "Ollama hands every tensor on as a factor, and the file does not load; "
							 "fuse the adapter" },
		{ mlx, W, "lora_parameters", "Ollama reads lora_parameters.alpha, which mlx-lm does not write, and then adds "
					     "the factors with the scale 1 in place of lora_parameters.scale; fuse the adapter" },
		{ !gguf && !mlx && f->alpha != floor(f->alpha), E, "lora_alpha",
		 "Ollama reads a whole number here; fuse the adapter" }, };
	TN_TRY(SAY(c, rules, err));
	TN_TRY(check_ggml(c, err));
	return say(c, N, "", "in a Modelfile: FROM the same base, then ADAPTER and the folder or the GGUF file; folders on "
			     "bases of the architectures llama (Mistral too) and gemma2 only", err);
}

static const struct {
	const char *name;
	tn_status (*check)(struct check *c, struct tn_error *err);
} engines[] = {
	{ "peft", check_tenon_peft }, { "mlx", check_mlx },       { "vllm", check_vllm },
	{ "llama.cpp", check_llama_cpp }, { "ollama", check_ollama },
};

int tn_engine_exists(const char *engine)
{
	for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
		if (strcmp(engines[i].name, engine) == 0)
			return 1;
	return 0;
}

tn_status tn_engine_check(const char *engine, const tn_adapter *adapter, const struct tn_joint *joint, tn_engine_report report,
			  void *arg, struct tn_error *err)
{
	struct check c = { adapter, joint, report, arg, 0 };
	for (size_t i = 0; i < sizeof engines / sizeof *engines; i++)
		if (strcmp(engines[i].name, engine) == 0)
			return engines[i].check(&c, err);
	return tn_fail(err, TN_E_ARG, engine, "there is no engine '%.40s'; peft, mlx, vllm, llama.cpp or ollama was expected",
		       engine);
}
