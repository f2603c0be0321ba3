/* SPDX-License-Identifier: Apache-2.0 */
/* Fields and defaults of transformers 5.23 (models/<family>/configuration_<family>.py). */
#include "model/decoder_config.h"

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/json_doc.h"

#include <math.h>
#include <string.h>

enum { MOST_LAYERS = 4096, MOST_WIDTH = 1 << 22, MOST_TOKENS = 1 << 26, MOST_EXPERTS = 1 << 16, MOST_END_IDS = 256 };

/* Settings that change what is computed, for which nothing here stands, where they are neither absent, null, false, 0 nor
 * empty. */
static const char *const unsupported[] = {
	"use_bidirectional_attention", "add_cross_attention", "is_encoder_decoder", "clip_qkv", "alibi", "use_alibi",
	"use_parallel_residual", "parallel_attn", "rope_interleaved", "rope_traditional", "attention_chunk_size",
	"kv_lora_rank", "num_kv_shared_layers", "laurel_rank", "attention_sinks", "short_mscale", "long_mscale", "zero_centered",
};

static int is_true(const json_t *value)
{
	return value && !json_is_null(value) && !json_is_false(value) &&
	       !(json_is_number(value) && json_number_value(value) == 0) &&
	       !(json_is_array(value) && json_array_size(value) == 0);
}

/* ---- the document: defaults and older names filled in ---------------------------------------------------- */

/* The defaults of a family stand in C with ' for ". */
static tn_status parse_defaults(tn_context *ctx, const struct tn_architecture *family, json_t **out, struct tn_error *err)
{
	char text[1024];
	size_t n = strlen(family->defaults);
	if (n >= sizeof text)
		return tn_fail(err, TN_E_ARG, family->model_type, "defaults of %zu bytes", n);
	for (size_t i = 0; i <= n; i++)
		text[i] = family->defaults[i] == '\'' ? '"' : family->defaults[i];
	return tn_json_parse(ctx, text, n, family->model_type, out, err);
}

static int add_names_of_gpt2(json_t *config)
{
	static const char *const names[][2] = {
		{ "n_embd", "hidden_size" }, { "n_layer", "num_hidden_layers" }, { "n_head", "num_attention_heads" },
		{ "n_positions", "max_position_embeddings" }, { "n_inner", "intermediate_size" },
		{ "layer_norm_epsilon", "rms_norm_eps" }, { "activation_function", "hidden_act" },
	};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		json_t *value = json_object_get(config, names[i][0]);
		if (value && json_object_set(config, names[i][1], value) != 0)
			return 0;
	}
	return 1;
}

/* Gives every setting its one name here. 0: out of memory. */
static int unify(json_t *config, const struct tn_architecture *family)
{
	static const struct {
		const char *from, *to;
		unsigned trait;      /* of the families whose name it is; others do not read it */
	} names[] = {
		{ "hidden_activation", "hidden_act", TN_QUERY_SCALAR }, { "norm_epsilon", "rms_norm_eps", TN_PLAIN_MLP },
		{ "use_bias", "attention_bias", TN_PLAIN_MLP }, { "num_experts", "num_local_experts", TN_EXPERTS },
	};
	if (family->traits & TN_CONV1D)
		return add_names_of_gpt2(config);
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		json_t *value = json_object_get(config, names[i].from);
		int wins = (family->traits & names[i].trait) &&
			   !(names[i].trait == TN_EXPERTS && json_object_get(config, names[i].to));
		if (value && !json_is_null(value) && wins && json_object_set(config, names[i].to, value) != 0)
			return 0;
	}
	return 1;
}

/* jansson's own json_object_update_missing does not say when memory ran out. */
static int add_missing(json_t *config, json_t *defaults)
{
	const char *key;
	json_t *value;
	json_object_foreach(defaults, key, value)
		if (!json_object_get(config, key) && json_object_set(config, key, value) != 0)
			return 0;
	return 1;
}

static tn_status complete(tn_context *ctx, json_t *config, const struct tn_architecture *family, const char *where,
			  struct tn_error *err)
{
	json_t *defaults;
	TN_TRY(parse_defaults(ctx, family, &defaults, err));
	int failed = !add_missing(config, defaults) || !unify(config, family);
	json_decref(defaults);
	return failed ? tn_fail_nomem(err, where, 0) : TN_OK;
}

static tn_status find_family(const struct tn_fields *f, const struct tn_architecture **out, struct tn_error *err)
{
	const char *type;
	TN_TRY(tn_field_text(f, "model_type", &type, err));
	if (!type)
		return tn_fail(err, TN_E_FORMAT, f->where, "there is no 'model_type'");
	*out = tn_architecture_find(type);
	if (*out)
		return TN_OK;
	char known[256] = "";
	size_t n = 0;
	const struct tn_architecture *a;
	for (size_t i = 0; (a = tn_architecture_at(i)) != NULL && n + strlen(a->model_type) + 3 < sizeof known; i++) {
		memcpy(known + n, i ? ", " : "", i ? 2 : 0);
		n += i ? 2 : 0;
		memcpy(known + n, a->model_type, strlen(a->model_type) + 1);
		n += strlen(a->model_type);
	}
	return tn_fail(err, TN_E_UNSUPPORTED, f->where, "'model_type' is '%s'; these run: %s", type, known);
}

/* ---- sizes ----------------------------------------------------------------------------------------------- */

static tn_status need(const struct tn_fields *f, const char *key, uint64_t most, uint64_t *out, struct tn_error *err)
{
	TN_TRY(tn_field_count(f, key, 0, most, out, err));
	return *out ? TN_OK : tn_fail(err, TN_E_FORMAT, f->where, "'%s' is missing or 0", key);
}

static tn_status read_sizes(const struct tn_fields *f, struct tn_decoder_config *c, struct tn_error *err)
{
	TN_TRY(need(f, "vocab_size", MOST_TOKENS, &c->vocabulary, err));
	TN_TRY(need(f, "hidden_size", MOST_WIDTH, &c->hidden, err));
	TN_TRY(need(f, "num_hidden_layers", MOST_LAYERS, &c->layers, err));
	TN_TRY(need(f, "num_attention_heads", MOST_WIDTH, &c->heads, err));
	TN_TRY(tn_field_count(f, "num_key_value_heads", c->heads, MOST_WIDTH, &c->kv_heads, err));
	TN_TRY(tn_field_count(f, "head_dim", c->hidden / c->heads, MOST_WIDTH, &c->head_dim, err));
	TN_TRY(tn_field_count(f, "intermediate_size", 4 * c->hidden, MOST_WIDTH, &c->intermediate, err));
	TN_TRY(need(f, "max_position_embeddings", MOST_TOKENS, &c->context, err));
	if (c->kv_heads == 0 || c->heads % c->kv_heads != 0)
		return tn_fail(err, TN_E_FORMAT, f->where,
			       "'num_attention_heads' is %llu, which is no multiple of 'num_key_value_heads', %llu",
			       (unsigned long long)c->heads, (unsigned long long)c->kv_heads);
	if (c->head_dim == 0 || c->heads * c->head_dim > MOST_WIDTH)
		return tn_fail(err, TN_E_FORMAT, f->where, "'num_attention_heads' is %llu and 'head_dim' %llu, which no model has",
			       (unsigned long long)c->heads, (unsigned long long)c->head_dim);
	return TN_OK;
}

static tn_status read_experts(const struct tn_fields *f, struct tn_decoder_config *c, struct tn_error *err)
{
	const unsigned traits = c->architecture->traits;
	if (!(traits & TN_EXPERTS))
		return TN_OK;
	TN_TRY(need(f, "num_local_experts", MOST_EXPERTS, &c->experts, err));
	TN_TRY(need(f, "num_experts_per_tok", MOST_EXPERTS, &c->experts_per_token, err));
	TN_TRY(tn_field_count(f, "moe_intermediate_size", c->intermediate, MOST_WIDTH, &c->expert_intermediate, err));
	TN_TRY(tn_field_bool(f, "norm_topk_prob", 0, &c->normalize_topk, err));
	c->normalize_topk |= (traits & TN_TOPK_ALWAYS_NORMAL) != 0;
	if (traits & TN_SHARED_EXPERT)
		TN_TRY(need(f, "shared_expert_intermediate_size", MOST_WIDTH, &c->shared_intermediate, err));
	if (c->experts_per_token > c->experts)
		return tn_fail(err, TN_E_FORMAT, f->where, "'num_experts_per_tok' is %llu of %llu experts",
			       (unsigned long long)c->experts_per_token, (unsigned long long)c->experts);
	return TN_OK;
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

static tn_status read_activation(const struct tn_fields *f, struct tn_decoder_config *c, struct tn_error *err)
{
	static const struct {
		const char *name;
		enum tn_activation activation;
	} known[] = {
		{ "silu", TN_SILU }, { "swish", TN_SILU }, { "gelu", TN_GELU }, { "gelu_python", TN_GELU },
		{ "gelu_new", TN_GELU_TANH }, { "gelu_pytorch_tanh", TN_GELU_TANH }, { "gelu_python_tanh", TN_GELU_TANH },
		{ "gelu_fast", TN_GELU_TANH }, { "gelu_accurate", TN_GELU_TANH }, { "quick_gelu", TN_GELU_QUICK },
		{ "relu", TN_RELU }, { "relu2", TN_RELU_SQUARED },
	};
	const char *name;
	TN_TRY(tn_field_text(f, "hidden_act", &name, err));
	name = name ? name : "none";
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strcmp(known[i].name, name) == 0) {
			c->activation = known[i].activation;
			if (strcmp(name, "gelu") == 0 && (c->architecture->traits & TN_GELU_IS_TANH))
				c->activation = TN_GELU_TANH;
			return TN_OK;
		}
	return tn_fail(err, TN_E_UNSUPPORTED, f->where, "the activation '%s' ('hidden_act') is not one that runs here", name);
}

static tn_status read_float(const struct tn_fields *f, const char *key, double fallback, float *out, struct tn_error *err)
{
	double x;
	TN_TRY(tn_field_number(f, key, fallback, &x, err));
	if (!isfinite((float)x))
		return tn_fail(err, TN_E_FORMAT, f->where, "'%s' is %g, more than a float32 holds", key, x);
	*out = (float)x;
	return TN_OK;
}

static tn_status read_scales(const struct tn_fields *f, struct tn_decoder_config *c, struct tn_error *err)
{
	const unsigned traits = c->architecture->traits;
	c->embedding_scale = c->residual_scale = c->logit_divisor = 1;
	TN_TRY(read_float(f, "rms_norm_eps", 1e-6, &c->epsilon, err));
	if (c->epsilon < 0)
		return tn_fail(err, TN_E_FORMAT, f->where,
			       "'%s' is %g, which takes roots of negative numbers; 0 or more was expected",
			       traits & TN_CONV1D ? "layer_norm_epsilon" : "rms_norm_eps", (double)c->epsilon);
	if (traits & TN_EMBEDDING_SCALED)
		c->embedding_scale = (float)sqrt((double)c->hidden);
	if (traits & TN_MULTIPLIERS) {
		TN_TRY(read_float(f, "embedding_multiplier", 1, &c->embedding_scale, err));
		TN_TRY(read_float(f, "residual_multiplier", 1, &c->residual_scale, err));
		TN_TRY(read_float(f, "logits_scaling", 1, &c->logit_divisor, err));
		if (c->logit_divisor == 0)
			return tn_fail(err, TN_E_FORMAT, f->where, "'logits_scaling' is 0, and logits are divided by it");
	}
	if (traits & TN_ATTENTION_CAP)
		TN_TRY(read_float(f, "attn_logit_softcapping", 0, &c->attention_cap, err));
	if (traits & TN_FINAL_CAP)
		TN_TRY(read_float(f, "final_logit_softcapping", 0, &c->final_cap, err));
	return TN_OK;
}

static tn_status read_biases(const struct tn_fields *f, struct tn_decoder_config *c, struct tn_error *err)
{
	const unsigned traits = c->architecture->traits;
	int bias;
	TN_TRY(tn_field_bool(f, "attention_bias", 0, &bias, err));
	c->qkv_bias = c->o_bias = bias;
	TN_TRY(tn_field_bool(f, "mlp_bias", traits & TN_PLAIN_MLP ? bias : 0, &c->mlp_bias, err));
	if (traits & TN_CONV1D)
		c->qkv_bias = c->o_bias = c->mlp_bias = 1;
	if (traits & TN_QKV_BIAS) {
		c->qkv_bias = 1;
		c->o_bias = 0;
	}
	if (traits & TN_SHARED_EXPERT) {
		TN_TRY(tn_field_bool(f, "qkv_bias", 1, &c->qkv_bias, err));
		c->o_bias = 0;
	}
	return tn_field_bool(f, "tie_word_embeddings", 0, &c->tied, err);
}

/* ---- layers ---------------------------------------------------------------------------------------------- */

struct layer_rules {
	uint64_t window, from, pattern, sparse_step, interval;
	const json_t *types, *dense, *no_rope;
	double scalar, multiplier;
	int scale_scores, scale_by_layer;
};

static tn_status read_layer_rules(const struct tn_fields *f, const struct tn_decoder_config *c, struct layer_rules *r,
				  struct tn_error *err)
{
	const struct tn_architecture *family = c->architecture;
	int flag;
	TN_TRY(tn_field_count(f, "sliding_window", 0, UINT32_MAX, &r->window, err));
	TN_TRY(tn_field_bool(f, "use_sliding_window", !(family->traits & TN_WINDOW_FLAG), &flag, err));
	if (family->traits & TN_WINDOW_FLAG)
		r->window = flag ? r->window : 0;
	if (family->windows == TN_WINDOW_NO_ROPE && !flag && !json_object_get(f->json, "layer_types"))
		r->window = 0;
	TN_TRY(tn_field_count(f, "max_window_layers", 0, UINT32_MAX, &r->from, err));
	TN_TRY(tn_field_count(f, "sliding_window_pattern", 6, UINT32_MAX, &r->pattern, err));
	TN_TRY(tn_field_count(f, "decoder_sparse_step", 1, UINT32_MAX, &r->sparse_step, err));
	TN_TRY(tn_field_count(f, "no_rope_layer_interval", 4, UINT32_MAX, &r->interval, err));
	TN_TRY(tn_field_number(f, "query_pre_attn_scalar", 256, &r->scalar, err));
	TN_TRY(tn_field_number(f, "attention_multiplier", 1, &r->multiplier, err));
	TN_TRY(tn_field_bool(f, "scale_attn_weights", 1, &r->scale_scores, err));
	TN_TRY(tn_field_bool(f, "scale_attn_by_inverse_layer_idx", 0, &r->scale_by_layer, err));
	if (!isfinite((float)r->multiplier))
		return tn_fail(err, TN_E_FORMAT, f->where, "'attention_multiplier' is %g, more than a float32 holds",
			       r->multiplier);
	if (r->pattern == 0 || r->sparse_step == 0 || r->interval == 0 || !(r->scalar > 0))
		return tn_fail(err, TN_E_FORMAT, f->where, "a pattern of layers, or 'query_pre_attn_scalar', is 0");
	/* families that treat all layers alike do not read it */
	r->types = family->windows == TN_WINDOW_NONE || family->windows == TN_WINDOW_ALL
		? NULL : json_object_get(f->json, "layer_types");
	r->dense = json_object_get(f->json, "mlp_only_layers");
	r->no_rope = json_object_get(f->json, "no_rope_layers");
	if (json_is_array(r->types) && json_array_size(r->types) < c->layers)
		return tn_fail(err, TN_E_FORMAT, f->where, "'layer_types' names %zu of %llu layers", json_array_size(r->types),
			       (unsigned long long)c->layers);
	if (json_is_array(r->no_rope) && json_array_size(r->no_rope) < c->layers)
		return tn_fail(err, TN_E_FORMAT, f->where, "'no_rope_layers' names %zu of %llu layers",
			       json_array_size(r->no_rope), (unsigned long long)c->layers);
	return TN_OK;
}

static int has_rope(const struct tn_decoder_config *c, const struct layer_rules *r, uint64_t i)
{
	const unsigned traits = c->architecture->traits;
	if (!(traits & TN_NO_ROPE_LAYERS))
		return !(traits & TN_LEARNED_POSITIONS);
	return json_is_array(r->no_rope) ? is_true(json_array_get(r->no_rope, i)) : (i + 1) % r->interval != 0;
}

static int slides(const struct tn_decoder_config *c, const struct layer_rules *r, uint64_t i)
{
	switch (c->architecture->windows) {
	case TN_WINDOW_ALL: return 1;
	case TN_WINDOW_FROM: return i >= r->from;
	case TN_WINDOW_UNTO_EVEN: return i % 2 == 0 && i < r->from;
	case TN_WINDOW_EVEN: return i % 2 == 0;
	case TN_WINDOW_PATTERN: return (i + 1) % r->pattern != 0;
	case TN_WINDOW_NO_ROPE: return !has_rope(c, r, i);
	default: return 0;
	}
}

static int is_dense(const struct layer_rules *r, uint64_t i)
{
	size_t at;
	json_t *layer;
	json_array_foreach(r->dense, at, layer)
		if (json_is_integer(layer) && (uint64_t)json_integer_value(layer) == i)
			return 1;
	return (i + 1) % r->sparse_step != 0;
}

static float attention_scale(const struct tn_decoder_config *c, const struct layer_rules *r, uint64_t i)
{
	const unsigned traits = c->architecture->traits;
	double scale = 1 / sqrt((double)c->head_dim);
	if (traits & TN_QUERY_SCALAR)
		scale = 1 / sqrt(r->scalar);
	if (traits & TN_MULTIPLIERS)
		scale = r->multiplier;
	if ((traits & TN_CONV1D) && !r->scale_scores)
		scale = 1;
	if ((traits & TN_CONV1D) && r->scale_by_layer)
		scale /= (double)(i + 1);
	return (float)scale;
}

static tn_status read_layer(const struct tn_fields *f, const struct tn_decoder_config *c, const struct layer_rules *r,
			    uint64_t i, struct tn_layer_config *out, struct tn_error *err)
{
	int sliding = slides(c, r, i) && r->window;
	if (json_is_array(r->types)) {
		const char *type = json_string_value(json_array_get(r->types, i));
		sliding = type && strcmp(type, "sliding_attention") == 0;
		if (!sliding && !(type && strcmp(type, "full_attention") == 0))
			return tn_fail(err, TN_E_UNSUPPORTED, f->where,
				       "'layer_types'[%llu] is '%s'; full_attention and sliding_attention are known",
				       (unsigned long long)i, type ? type : "no text");
		if (sliding && !r->window)
			return tn_fail(err, TN_E_FORMAT, f->where, "layer %llu slides, and there is no 'sliding_window' in use",
				       (unsigned long long)i);
	}
	out->window = sliding ? (uint32_t)r->window : 0;
	out->rope = !has_rope(c, r, i) ? TN_NO_ROPE : c->ropes == 2 && sliding ? 1 : 0;
	out->has_experts = c->experts > 0 && !is_dense(r, i);
	out->attention_scale = attention_scale(c, r, i);
	return TN_OK;
}

static tn_status read_layers(const struct tn_fields *f, struct tn_arena *arena, struct tn_decoder_config *c,
			     struct tn_error *err)
{
	struct layer_rules rules;
	struct tn_layer_config *layers;
	TN_TRY(read_layer_rules(f, c, &rules, err));
	TN_TRY(tn_arena_array(arena, c->layers, sizeof *layers, &layers, err));
	for (uint64_t i = 0; i < c->layers; i++)
		TN_TRY(read_layer(f, c, &rules, i, &layers[i], err));
	c->layer = layers;
	return TN_OK;
}

/* ---- ends of text ---------------------------------------------------------------------------------------- */

static tn_status read_end_ids(const json_t *eos, struct tn_arena *arena, struct tn_decoder_config *c, struct tn_error *err)
{
	size_t n = json_is_array(eos) ? json_array_size(eos) : 1;
	uint32_t *ids;
	n = n > MOST_END_IDS ? MOST_END_IDS : n;
	TN_TRY(tn_arena_array(arena, n ? n : 1, sizeof *ids, &ids, err));
	c->end_ids = ids;
	c->end_count = 0;
	for (size_t i = 0; i < n; i++) {
		const json_t *id = json_is_array(eos) ? json_array_get(eos, i) : eos;
		if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < MOST_TOKENS)
			ids[c->end_count++] = (uint32_t)json_integer_value(id);
	}
	return TN_OK;
}

/* generation_config.json says where a text ends when it says anything; a damaged one is passed over, as mlx-lm does. */
static tn_status read_ends(const tn_checkpoint *base, const struct tn_fields *f, struct tn_arena *arena,
			   struct tn_decoder_config *c, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	json_t *generation = NULL;
	struct tn_error found;
	if (tn_checkpoint_is_folder(base) &&
	    tn_path_join(path, tn_checkpoint_path(base), "generation_config.json", NULL) == TN_OK &&
	    tn_json_load(base->ctx, path, &generation, &found) == TN_E_NOMEM)
		return tn_fail_with(err, &found);
	const json_t *eos = json_object_get(generation, "eos_token_id");
	if (!eos || json_is_null(eos))
		eos = json_object_get(f->json, "eos_token_id");
	tn_status status = read_end_ids(eos, arena, c, err);
	json_decref(generation);
	return status;
}

/* ---- all ------------------------------------------------------------------------------------------------- */

static tn_status read_all(const tn_checkpoint *base, const struct tn_fields *f, struct tn_arena *arena,
			  struct tn_decoder_config *c, struct tn_error *err)
{
	for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++)
		if (is_true(json_object_get(f->json, unsupported[i])))
			return tn_fail(err, TN_E_UNSUPPORTED, f->where, "'%s' is set, and tenon does not run that",
				       unsupported[i]);
	if (json_is_false(json_object_get(f->json, "is_causal")))
		return tn_fail(err, TN_E_UNSUPPORTED, f->where, "'is_causal' is false, true was expected: tenon runs decoders, "
			       "whose tokens see what stands before them; use a library of encoders for this model");
	TN_TRY(read_sizes(f, c, err));
	TN_TRY(read_experts(f, c, err));
	TN_TRY(read_activation(f, c, err));
	TN_TRY(read_scales(f, c, err));
	TN_TRY(read_biases(f, c, err));
	TN_TRY(tn_rope_read(f, arena, c, err));
	TN_TRY(read_layers(f, arena, c, err));
	return read_ends(base, f, arena, c, err);
}

static tn_status read_document(const tn_checkpoint *base, json_t *document, const char *where, struct tn_arena *arena,
			       struct tn_decoder_config *out, struct tn_error *err)
{
	struct tn_decoder_config c = { 0 };
	json_t *text = json_object_get(document, "text_config"), *eos = json_object_get(document, "eos_token_id");
	c.nested = json_is_object(text);
	if (c.nested && eos && !json_object_get(text, "eos_token_id") && json_object_set(text, "eos_token_id", eos) != 0)
		return tn_fail_nomem(err, where, 0);
	struct tn_fields f = { c.nested ? text : document, where };
	TN_TRY(find_family(&f, &c.architecture, err));
	TN_TRY(complete(base->ctx, c.nested ? text : document, c.architecture, where, err));
	TN_TRY(read_all(base, &f, arena, &c, err));
	*out = c;
	return TN_OK;
}

tn_status tn_decoder_config_read(const tn_checkpoint *base, struct tn_arena *arena, struct tn_decoder_config *out,
				 struct tn_error *err)
{
	const char *where;
	json_t *document;
	TN_TRY(tn_arena_printf(arena, &where, err, "%s/config.json", tn_checkpoint_path(base)));
	TN_TRY(tn_checkpoint_parse_config(base, &document, err));
	tn_status status = read_document(base, document, where, arena, out, err);
	json_decref(document);
	return status;
}
