/* SPDX-License-Identifier: Apache-2.0 */
/* PEFT 0.21: LoraConfig has 41 keys (tuners/lora/config.py). */
#include "adapter/config.h"

#include "base/error.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

/* ---- keys ------------------------------------------------------------------------------------------------ */

/* Read below, or without any effect on trained weights: what they say about how training began or is called. */
static const char *const known[] = {
	"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "use_dora", "lora_bias", "bias",
	"fan_in_fan_out", "use_qalora", "use_bdlora", "kasa_config", "init_lora_weights", "layer_replication",
	"trainable_token_indices", "modules_to_save", "target_modules", "exclude_modules", "layers_to_transform",
	"layers_pattern", "target_parameters", "lora_dropout", "peft_version", "task_type",
	"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "eva_config", "corda_config",
	"lora_ga_config", "loftq_config", "megatron_config", "megatron_core", "runtime_config", "qalora_group_size",
	"ensure_weight_tying", "velora_config", "monteclora_config",
};

/* AdaLoRA's training, and the masks by which its factors were cut before they were saved. */
static const char *const known_adalora[] = {
	"target_r", "init_r", "tinit", "tfinal", "deltaT", "beta1", "beta2", "orth_reg_weight", "total_step",
};

/* What no merged weight can express. */
static const struct {
	const char *key, *reason;
} refused[] = {
	{ "alora_invocation_tokens", "an aLoRA acts only behind its invocation tokens, so it cannot be merged (PEFT does not "
				     "either); serve it with PEFT or vLLM" },
	{ "arrow_config", "Arrow routes every token to other adapters, so it cannot be merged; fuse the adapter that you want" },
};

static tn_status check_keys(const struct tn_config_reader *r, int is_adalora, struct tn_error *err)
{
	const char *key;
	json_t *value;
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (tn_config_is_active(json_object_get(r->root, refused[i].key)))
			return tn_fail(err, TN_E_UNSUPPORTED, r->where, "'%s' is set in '%s': %s", refused[i].key, r->where,
				       refused[i].reason);
	json_object_foreach((json_t *)(uintptr_t)r->root, key, value) {
		int fine = !tn_config_is_active(value);
		for (size_t i = 0; i < sizeof known / sizeof *known && !fine; i++)
			fine = strcmp(key, known[i]) == 0;
		for (size_t i = 0; i < sizeof known_adalora / sizeof *known_adalora && !fine && is_adalora; i++)
			fine = strcmp(key, known_adalora[i]) == 0;
		if (!fine)
			return tn_fail(err, TN_E_UNSUPPORTED, r->where,
				       "'%s' is set in '%s', and tenon does not know it; leaving it out could give another model. "
				       "If it has no effect on the weights, remove it from the file", key, r->where);
	}
	return TN_OK;
}

/* ---- the initialisation ---------------------------------------------------------------------------------- */

static const struct {
	const char *name;
	int prefix;               /* any ending */
	tn_base_change change;
	const char *reason;       /* refused; NULL: applied */
} inits[] = {
	{ "gaussian", 0, TN_BASE_AS_IS, NULL },   { "eva", 0, TN_BASE_AS_IS, NULL },
	{ "orthogonal", 0, TN_BASE_AS_IS, NULL }, { "mica", 0, TN_BASE_AS_IS, NULL },
	{ "pissa", 0, TN_BASE_PISSA, NULL },      { "olora", 0, TN_BASE_OLORA, NULL },
	{ "pissa_niter_", 1, TN_BASE_AS_IS, "it took a randomised part out of the base, which nobody can compute again" },
	{ "corda", 0, TN_BASE_AS_IS, "it took a part out of the base that depends on calibration data" },
	{ "lora_ga", 0, TN_BASE_AS_IS, "it took a part out of the base that depends on gradients" },
	{ "loftq", 0, TN_BASE_AS_IS, "it belongs to a base that LoftQ quantized anew" },
};

static tn_status read_init(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *value = json_object_get(r->root, "init_lora_weights");
	const char *name = json_string_value(value);
	if (!value || json_is_null(value) || json_is_boolean(value))
		return TN_OK;
	for (size_t i = 0; name && i < sizeof inits / sizeof *inits; i++) {
		if (inits[i].prefix ? strncasecmp(name, inits[i].name, strlen(inits[i].name)) : strcasecmp(name, inits[i].name))
			continue;
		out->base_change = inits[i].change;
		if (!inits[i].reason)
			return TN_OK;
		return tn_fail(err, TN_E_UNSUPPORTED, r->where, "init_lora_weights is '%s': %s. Save the adapter again with PEFT's "
			       "save_pretrained(path_initial_model_for_weight_conversion=...), or set init_lora_weights to true "
			       "and give the base that was saved after the initialisation", name, inits[i].reason);
	}
	return tn_fail(err, TN_E_UNSUPPORTED, r->where, "init_lora_weights is '%s' in '%s', and tenon does not know whether it "
		       "altered the base", name ? name : "not a text", r->where);
}

/* ---- patterns -------------------------------------------------------------------------------------------- */

/* PEFT matches re.match("(.*\.)?(" key ")$", name). A key that is no pattern counts as a plain name. */
static tn_status read_pattern(const struct tn_config_reader *r, const char *which, const char *key, const json_t *value,
			      struct tn_pattern *out, struct tn_error *err)
{
	const char *pattern;
	if (!json_is_number(value))
		return tn_fail(err, TN_E_FORMAT, r->where, "'%s' of '%s' in '%s' is not a number", key, which, r->where);
	TN_TRY(tn_arena_text(r->arena, key, strlen(key), &out->key, err));
	TN_TRY(tn_arena_printf(r->arena, &pattern, err, "(.*\\.)?(%s)$", key));
	out->value = json_number_value(value);
	struct tn_error found;
	tn_status status = tn_config_regex(r, pattern, which, &out->regex, &found);
	return status == TN_OK || status == TN_E_FORMAT ? TN_OK : tn_fail_with(err, &found);
}

static tn_status read_patterns(const struct tn_config_reader *r, const char *which, struct tn_patterns *out,
			       struct tn_error *err)
{
	const json_t *object = json_object_get(r->root, which);
	const char *key;
	json_t *value;
	if (!object || json_is_null(object))
		return TN_OK;
	if (!json_is_object(object))
		return tn_fail(err, TN_E_FORMAT, r->where, "'%s' in '%s' is not an object", which, r->where);
	TN_TRY(tn_arena_array(r->arena, json_object_size(object), sizeof *out->items, &out->items, err));
	json_object_foreach((json_t *)(uintptr_t)object, key, value)
		TN_TRY(read_pattern(r, which, key, value, &out->items[out->count++], err));
	return TN_OK;
}

/* ---- selection ------------------------------------------------------------------------------------------- */

static tn_status read_rule(const struct tn_config_reader *r, const char *key, struct tn_name_rule *out,
			   struct tn_error *err)
{
	TN_TRY(tn_config_names(r, r->root, key, 1, out, err));
	if (out->kind != TN_RULE_REGEX)
		return TN_OK;
	if (strcmp(key, "target_modules") == 0 && strcasecmp(out->text, "all-linear") == 0) {
		out->kind = TN_RULE_ALL_LINEAR;
		return TN_OK;
	}
	return tn_config_regex(r, out->text, key, &out->regex, err);
}

/* PEFT matches re.match("(^|.*\.)" entry "($|\..*)", name). */
static tn_status read_saved(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	TN_TRY(tn_config_names(r, r->root, "modules_to_save", 0, &out->saved, err));
	TN_TRY(tn_arena_array(r->arena, out->saved.count, sizeof(struct tn_regex *), &out->saved_regexes, err));
	for (size_t i = 0; i < out->saved.count; i++) {
		const char *pattern;
		TN_TRY(tn_arena_printf(r->arena, &pattern, err, "(^|.*\\.)%s($|\\..*)", out->saved.names[i]));
		TN_TRY(tn_config_regex(r, pattern, "modules_to_save", &out->saved_regexes[i], err));
	}
	return TN_OK;
}

static tn_status read_layers(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *value = json_object_get(r->root, "layers_to_transform");
	if (!value || json_is_null(value) || (json_is_array(value) && json_array_size(value) == 0))
		return TN_OK;
	size_t n = json_is_array(value) ? json_array_size(value) : 1;
	TN_TRY(tn_arena_array(r->arena, n, sizeof *out->layers, &out->layers, err));
	for (size_t i = 0; i < n; i++) {
		const json_t *item = json_is_array(value) ? json_array_get(value, i) : value;
		if (!json_is_integer(item))
			return tn_fail(err, TN_E_FORMAT, r->where, "'layers_to_transform' in '%s' is not a list of whole numbers",
				       r->where);
		out->layers[i] = json_integer_value(item);
	}
	out->has_layers = 1;
	out->layer_count = n;
	return TN_OK;
}

/* PEFT matches re.match("(?:^|.*?\.)" pattern "\.(?P<idx>\d+)\.", name), and ".*?\.[^.]*\.(?P<idx>\d+)\." without a pattern: the
 * number is the last group, behind those that a pattern has of its own. */
static tn_status read_layer_patterns(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	struct tn_name_rule *names = &out->layers_pattern;
	TN_TRY(tn_config_names(r, r->root, "layers_pattern", 0, names, err));
	if (names->count == 1 && !*names->names[0])
		names->count = 0;
	size_t given = names->count, n = given ? given : out->has_layers ? 1 : 0;
	if (given && !out->has_layers)
		return tn_fail(err, TN_E_FORMAT, r->where, "'layers_pattern' is set in '%s' without 'layers_to_transform'",
			       r->where);
	if ((given || out->has_layers) && (out->target.kind == TN_RULE_REGEX))
		return tn_fail(err, TN_E_FORMAT, r->where, "'layers_to_transform' and 'layers_pattern' do not go with a pattern in "
			       "'target_modules' (in '%s')", r->where);
	TN_TRY(tn_arena_array(r->arena, n, sizeof(struct tn_regex *), &out->layer_patterns, err));
	for (out->layer_pattern_count = 0; out->layer_pattern_count < n; out->layer_pattern_count++) {
		const char *pattern, *name = given ? names->names[out->layer_pattern_count] : "[^.]*";
		TN_TRY(tn_arena_printf(r->arena, &pattern, err, "%s%s\\.(\\d+)\\.", given ? "(?:^|.*?\\.)" : ".*?\\.", name));
		TN_TRY(tn_config_regex(r, pattern, "layers_pattern", &out->layer_patterns[out->layer_pattern_count], err));
	}
	return TN_OK;
}

static tn_status read_selection(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	TN_TRY(read_rule(r, "target_modules", &out->target, err));
	TN_TRY(read_rule(r, "exclude_modules", &out->exclude, err));
	TN_TRY(read_saved(r, out, err));
	TN_TRY(read_layers(r, out, err));
	TN_TRY(read_layer_patterns(r, out, err));
	if (json_is_string(json_object_get(r->root, "target_parameters")))
		return tn_fail(err, TN_E_FORMAT, r->where, "'target_parameters' in '%s' is a text; a list was expected", r->where);
	return tn_config_names(r, r->root, "target_parameters", 0, &out->parameters, err);
}

/* ---- structure ------------------------------------------------------------------------------------------- */

static tn_status read_replication(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *value = json_object_get(r->root, "layer_replication");
	if (!tn_config_is_active(value))
		return TN_OK;
	size_t n = json_array_size(value);
	TN_TRY(tn_arena_array(r->arena, n, sizeof *out->replication, &out->replication, err));
	for (size_t i = 0; i < n; i++) {
		const json_t *pair = json_array_get(value, i), *a = json_array_get(pair, 0), *b = json_array_get(pair, 1);
		if (json_array_size(pair) != 2 || !json_is_integer(a) || !json_is_integer(b) || json_integer_value(a) < 0 ||
		    json_integer_value(b) < json_integer_value(a))
			return tn_fail(err, TN_E_FORMAT, r->where,
				       "'layer_replication' in '%s' is not a list of pairs [first, end]", r->where);
		out->replication[i] = (struct tn_layer_range){ (uint64_t)json_integer_value(a), (uint64_t)json_integer_value(b) };
	}
	out->replication_count = n;
	return json_is_array(value) ? TN_OK : tn_fail(err, TN_E_FORMAT, r->where, "'layer_replication' in '%s' is not a list",
						      r->where);
}

static tn_status read_token_rule(const struct tn_config_reader *r, const char *module, const json_t *list,
				 struct tn_token_rule *out, struct tn_error *err)
{
	if (module)
		TN_TRY(tn_arena_text(r->arena, module, strlen(module), &out->module, err));
	out->count = json_array_size(list);
	TN_TRY(tn_arena_array(r->arena, out->count, sizeof *out->indices, &out->indices, err));
	for (size_t i = 0; i < out->count; i++) {
		const json_t *item = json_array_get(list, i);
		if (!json_is_integer(item) || json_integer_value(item) < 0)
			return tn_fail(err, TN_E_FORMAT, r->where,
				       "'trainable_token_indices' in '%s' is not a list of token numbers", r->where);
		out->indices[i] = (uint64_t)json_integer_value(item);
	}
	return TN_OK;
}

static tn_status read_tokens(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *value = json_object_get(r->root, "trainable_token_indices");
	const char *key;
	json_t *list;
	if (!tn_config_is_active(value))
		return TN_OK;
	size_t n = json_is_object(value) ? json_object_size(value) : 1;
	TN_TRY(tn_arena_array(r->arena, n, sizeof *out->tokens, &out->tokens, err));
	if (!json_is_object(value))
		TN_TRY(read_token_rule(r, NULL, value, &out->tokens[out->token_count++], err));
	else
		json_object_foreach((json_t *)(uintptr_t)value, key, list)
			TN_TRY(read_token_rule(r, key, list, &out->tokens[out->token_count++], err));
	return TN_OK;
}

static tn_status read_variants(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *bd = json_object_get(r->root, "use_bdlora");
	int qalora;
	double group;
	TN_TRY(tn_config_flag(r, r->root, "use_qalora", &qalora, err));
	TN_TRY(tn_config_number(r, r->root, "qalora_group_size", 16, &group, err));
	if (qalora && !(group >= 1 && group <= 1e9))
		return tn_fail(err, TN_E_FORMAT, r->where, "'qalora_group_size' in '%s' is %g", r->where, group);
	out->qalora_group = qalora ? (uint64_t)group : 0;
	if (tn_config_is_active(json_object_get(r->root, "kasa_config")))
		out->base_change = TN_BASE_KASA;
	if (!tn_config_is_active(bd))
		return TN_OK;
	if (!json_is_object(bd))
		return tn_fail(err, TN_E_FORMAT, r->where, "'use_bdlora' in '%s' is not an object", r->where);
	double blocks;
	TN_TRY(tn_config_number(r, bd, "nblocks", 1, &blocks, err));
	if (!(blocks >= 1 && blocks <= 4096))
		return tn_fail(err, TN_E_FORMAT, r->where, "'nblocks' in '%s' is %g", r->where, blocks);
	out->bd_blocks = (uint64_t)blocks;
	out->bd_strict = !json_is_false(json_object_get(bd, "match_strict"));
	TN_TRY(tn_config_names(r, bd, "target_modules_bd_a", 0, &out->bd_a, err));
	return tn_config_names(r, bd, "target_modules_bd_b", 0, &out->bd_b, err);
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static tn_status read_bias(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const char *bias;
	TN_TRY(tn_config_text(r, "bias", &bias, err));
	out->bias = bias ? bias : "none";
	if (strcmp(out->bias, "none") && strcmp(out->bias, "all") && strcmp(out->bias, "lora_only"))
		return tn_fail(err, TN_E_UNSUPPORTED, r->where, "bias is '%s' in '%s'; none, all or lora_only was expected",
			       out->bias, r->where);
	TN_TRY(tn_config_flag(r, r->root, "lora_bias", &out->lora_bias, err));
	if (out->lora_bias && out->method == TN_METHOD_DORA)
		return tn_fail(err, TN_E_FORMAT, r->where, "'lora_bias' and 'use_dora' do not go together (in '%s')", r->where);
	return TN_OK;
}

/* PEFT's tuners/adalora/layer.py: B (E * A) * alpha / (init_r + 1e-5); alpha 0 or less counts as init_r. The rank of a module is
 * that of its factors. */
static tn_status read_adalora(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	double rank;
	TN_TRY(tn_config_number(r, r->root, "init_r", 12, &rank, err));
	if (!(rank >= 1 && rank <= 1e6) || out->method == TN_METHOD_DORA)
		return tn_fail(err, TN_E_FORMAT, r->where, "'%s' is of an AdaLoRA, and %s", r->where,
			       out->method == TN_METHOD_DORA ? "'use_dora' does not go with that" : "'init_r' is no rank");
	out->rank = out->adalora_rank = (uint64_t)rank;
	return TN_OK;
}

static tn_status read_numbers(const struct tn_config_reader *r, int is_adalora, struct tn_adapter_config *out, struct tn_error *err)
{
	int use_dora;
	TN_TRY(tn_config_rank(r, r->root, "r", &out->rank, err));
	TN_TRY(tn_config_number(r, r->root, "lora_alpha", 8, &out->alpha, err));
	TN_TRY(tn_config_number(r, r->root, "lora_dropout", 0, &out->dropout, err));
	TN_TRY(tn_config_flag(r, r->root, "use_rslora", &out->use_rslora, err));
	TN_TRY(tn_config_flag(r, r->root, "use_dora", &use_dora, err));
	TN_TRY(tn_config_flag(r, r->root, "fan_in_fan_out", &out->fan_in_fan_out, err));
	TN_TRY(tn_config_flag(r, r->root, "ensure_weight_tying", &out->tie_on_purpose, err));
	out->method = use_dora ? TN_METHOD_DORA : TN_METHOD_LORA;
	if (is_adalora)
		return read_adalora(r, out, err);
	TN_TRY(read_patterns(r, "rank_pattern", &out->ranks, err));
	return read_patterns(r, "alpha_pattern", &out->alphas, err);
}

/* What PEFT 0.21.2 can do with adapters of other types: supports_lora_conversion and merge of their layers. */
static const struct {
	const char *types, *advice;
} other_types[] = {
	{ " C3A DELORA FOURIERFT GRALORA LOHA LOKR MISS PSOFT RANDLORA TINYLORA UNILORA VBLORA VERA WAVEFT ",
	  "PEFT's save_as_lora makes a LoRA of it" },
	{ " ADAPTION_PROMPT CARTRIDGE CPT MULTITASK_PROMPT_TUNING P_TUNING PREFIX_TUNING PROMPT_TUNING ",
	  "it stands beside the text and changes no weight, so there is nothing to fuse; run it with PEFT" },
	{ " POLY XLORA ", "it mixes its adapters anew for each text, which no weight holds; run it with PEFT, or fuse one" },
};

static tn_status fail_type(const char *type, const char *where, struct tn_error *err)
{
	const char *advice = "merge it with PEFT (merge_and_unload) where that can; tenon extract makes a LoRA of what that "
			     "changed in matrices";
	char word[64] = "";
	if (strlen(type) < sizeof word - 2)
		snprintf(word, sizeof word, " %s ", type);
	for (char *c = word; *c; c++)
		*c = (char)(*c >= 'a' && *c <= 'z' ? *c - 32 : *c);
	for (size_t i = 0; i < sizeof other_types / sizeof *other_types && *word; i++)
		if (strstr(other_types[i].types, word))
			advice = other_types[i].advice;
	return tn_fail(err, TN_E_UNSUPPORTED, where, "peft_type is '%.60s' in '%s'; LORA or ADALORA was expected: %s", type, where,
		       advice);
}

tn_status tn_config_read_peft(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *type = json_object_get(r->root, "peft_type");
	const char *name = !type || json_is_null(type) ? "LORA" : json_is_string(type) ? json_string_value(type) : "not a text";
	int is_adalora = strcasecmp(name, "ADALORA") == 0;
	if (!is_adalora && strcasecmp(name, "LORA") != 0)
		return fail_type(name, r->where, err);
	out->dialect = TN_DIALECT_PEFT;
	out->num_layers = TN_ALL_LAYERS;
	TN_TRY(check_keys(r, is_adalora, err));
	TN_TRY(read_numbers(r, is_adalora, out, err));
	TN_TRY(read_bias(r, out, err));
	TN_TRY(read_init(r, out, err));
	TN_TRY(read_selection(r, out, err));
	TN_TRY(read_replication(r, out, err));
	TN_TRY(read_tokens(r, out, err));
	TN_TRY(read_variants(r, out, err));
	TN_TRY(tn_config_text(r, "task_type", &out->task_type, err));
	return tn_config_text(r, "peft_version", &out->version, err);
}
