/* SPDX-License-Identifier: Apache-2.0 */
/* adapter_config.json for programs: adapter/config.h with the words of tenon/lora_config.h. */
#include "tenon/lora_config.h"

#include "adapter/config.h"
#include "adapter/selection.h"
#include "base/error.h"

struct tn_lora_config {
	struct tn_arena arena;   /* holds this struct too */
	struct tn_adapter_config config;
	struct tn_lora_parameters parameters;
};

const char *tn_fine_tune_name(tn_fine_tune fine_tune)
{
	static const char *const names[] = {
		[TN_FINE_TUNE_LORA] = "lora", [TN_FINE_TUNE_DORA] = "dora", [TN_FINE_TUNE_FULL] = "full",
	};
	return (size_t)fine_tune < sizeof names / sizeof *names ? names[fine_tune] : "unknown";
}

/* ---- making ---------------------------------------------------------------------------------------------- */

static tn_status create(tn_context *ctx, tn_lora_config **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_arena_init(&arena, ctx);
	tn_status status = tn_arena_alloc(&arena, sizeof **out, out, err);
	if (status == TN_OK)
		(*out)->arena = arena;
	else
		tn_arena_release(&arena);
	return status;
}

void tn_lora_config_destroy(tn_lora_config *config)
{
	if (!config)
		return;
	tn_adapter_config_release(&config->config);
	struct tn_arena arena = config->arena;
	tn_arena_release(&arena);
}

static tn_status copy_patterns(struct tn_arena *arena, const struct tn_patterns *patterns, const struct tn_lora_pattern **out,
			       size_t *count, struct tn_error *err)
{
	struct tn_lora_pattern *copy;
	TN_TRY(tn_arena_array(arena, patterns->count, sizeof *copy, &copy, err));
	for (size_t i = 0; i < patterns->count; i++)
		copy[i] = (struct tn_lora_pattern){ patterns->items[i].key, patterns->items[i].value };
	*out = copy;
	*count = patterns->count;
	return TN_OK;
}

static tn_status fill(tn_lora_config *config, struct tn_error *err)
{
	const struct tn_adapter_config *c = &config->config;
	struct tn_lora_parameters *p = &config->parameters;
	static const struct tn_patterns none;
	struct tn_adapter_config plain = *c;
	plain.alphas = none;
	p->dialect = c->dialect;
	p->fine_tune = c->method == TN_METHOD_FULL ? TN_FINE_TUNE_FULL
		     : c->method == TN_METHOD_DORA ? TN_FINE_TUNE_DORA : TN_FINE_TUNE_LORA;
	p->rank = c->rank;
	p->alpha = c->alpha;
	p->dropout = c->dropout;
	p->num_layers = c->num_layers == TN_ALL_LAYERS ? TN_LORA_ALL_LAYERS : c->num_layers;
	p->use_rslora = c->use_rslora;
	p->fan_in_fan_out = c->fan_in_fan_out;
	p->layers_to_transform = c->layers;
	p->layers_to_transform_count = c->layer_count;
	p->layers_pattern = c->layers_pattern.names;
	p->layers_pattern_count = c->layers_pattern.count;
	TN_TRY(copy_patterns(&config->arena, &c->ranks, &p->rank_pattern, &p->rank_pattern_count, err));
	TN_TRY(copy_patterns(&config->arena, &c->alphas, &p->alpha_pattern, &p->alpha_pattern_count, err));
	return tn_effective_scale(&plain, "", c->rank, &p->scale, err);
}

static tn_status finish(tn_lora_config *config, tn_status status, tn_lora_config **out, struct tn_error *err)
{
	if (status == TN_OK)
		status = fill(config, err);
	if (status == TN_OK)
		*out = config;
	else
		tn_lora_config_destroy(config);
	return status;
}

tn_status tn_lora_config_read(tn_context *ctx, const char *folder, tn_lora_config **out, struct tn_error *err)
{
	tn_lora_config *config;
	TN_TRY(create(ctx, &config, err));
	return finish(config, tn_adapter_config_load(&config->arena, folder, &config->config, err), out, err);
}

tn_status tn_lora_config_parse(tn_context *ctx, const char *json, size_t bytes, tn_lora_config **out, struct tn_error *err)
{
	tn_lora_config *config;
	TN_TRY(create(ctx, &config, err));
	tn_status status = tn_adapter_config_parse(&config->arena, json, bytes, "adapter_config.json", &config->config, err);
	return finish(config, status, out, err);
}

/* ---- what it says ---------------------------------------------------------------------------------------- */

const struct tn_lora_parameters *tn_lora_config_parameters(const tn_lora_config *config)
{
	return &config->parameters;
}

static const struct tn_name_rule *rule_of(const tn_lora_config *config, tn_lora_rule rule)
{
	static const struct tn_name_rule none = { .kind = TN_RULE_ABSENT };
	switch (rule) {
	case TN_LORA_KEYS: return &config->config.keys;
	case TN_LORA_TARGET_MODULES: return &config->config.target;
	case TN_LORA_EXCLUDE_MODULES: return &config->config.exclude;
	default: return &none;
	}
}

void tn_lora_config_matcher(const tn_lora_config *config, tn_lora_rule rule, struct tn_module_matcher *out)
{
	const struct tn_name_rule *r = rule_of(config, rule);
	*out = (struct tn_module_matcher){ .kind = TN_MATCHER_NONE };
	switch (r->kind) {
	case TN_RULE_LIST:
		*out = (struct tn_module_matcher){ TN_MATCHER_LIST, r->names, r->count, NULL };
		break;
	case TN_RULE_REGEX:
		*out = (struct tn_module_matcher){ TN_MATCHER_REGEX, NULL, 0, r->text };
		break;
	case TN_RULE_ALL_LINEAR:
		out->kind = TN_MATCHER_ALL_LINEAR;
		break;
	default:
		break;
	}
}

tn_status tn_lora_config_matches(const tn_lora_config *config, tn_lora_rule rule, const char *path, int *matches,
				 struct tn_error *err)
{
	const struct tn_name_rule *r = rule_of(config, rule);
	int matched = r->kind == TN_RULE_ALL_LINEAR && !tn_path_is_head(path);
	if (r->kind == TN_RULE_LIST || r->kind == TN_RULE_REGEX)
		TN_TRY(tn_rule_matches(r, path, &matched, err));
	*matches = matched;
	return TN_OK;
}

/* ---- what holds for a module ----------------------------------------------------------------------------- */

tn_status tn_lora_config_module(const tn_lora_config *config, const char *path, uint64_t *rank, double *alpha, double *scale,
				struct tn_error *err)
{
	const struct tn_adapter_config *c = &config->config;
	double found_rank, found_alpha, found_scale;
	TN_TRY(tn_pattern_value(&c->ranks, path, (double)c->rank, &found_rank, err));
	TN_TRY(tn_pattern_value(&c->alphas, path, c->alpha, &found_alpha, err));
	uint64_t whole = found_rank >= 1 && found_rank <= 1e9 ? (uint64_t)found_rank : 0;
	TN_TRY(tn_effective_scale(c, path, whole, &found_scale, err));
	if (rank)
		*rank = whole;
	if (alpha)
		*alpha = found_alpha;
	if (scale)
		*scale = found_scale;
	return TN_OK;
}

tn_status tn_lora_config_selects(const tn_lora_config *config, const char *path, uint64_t layer_count, int *selects,
				 struct tn_error *err)
{
	const struct tn_adapter_config *c = &config->config;
	int selected;
	if (c->dialect == TN_DIALECT_MLX_LM)
		selected = tn_select_mlx(c, path, layer_count);
	else
		TN_TRY(tn_select_peft(c, path, tn_path_is_head(path), &selected, err));
	*selects = selected;
	return TN_OK;
}
