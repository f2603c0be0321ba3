/* SPDX-License-Identifier: Apache-2.0 */
#include "adapter/selection.h"

#include "base/error.h"
#include "base/text.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- names ----------------------------------------------------------------------------------------------- */

static int has_ending(const char *path, size_t n, const char *name)
{
	size_t m = strlen(name);
	return n >= m && memcmp(path + n - m, name, m) == 0 && (n == m || path[n - m - 1] == '.');
}

int tn_path_has_ending(const char *path, const char *name)
{
	return has_ending(path, strlen(path), name);
}

const char *tn_path_last(const char *path)
{
	const char *dot = strrchr(path, '.');
	return dot ? dot + 1 : path;
}

static int is_one_of(const char *name, size_t n, const char *const *list)
{
	for (; *list; list++)
		if (strncmp(*list, name, n) == 0 && !(*list)[n])
			return 1;
	return 0;
}

const char *tn_path_in_layer(const char *path, uint64_t *number, size_t *prefix_bytes)
{
	static const char *const containers[] = { "layers", "layer", "h", "blocks", "block", NULL };
	for (const char *part = path; part; part = strchr(part, '.') ? strchr(part, '.') + 1 : NULL) {
		const char *dot = strchr(part, '.');
		if (!dot || !is_one_of(part, (size_t)(dot - part), containers))
			continue;
		size_t digits = strspn(dot + 1, "0123456789");
		if (!digits || digits > 9 || dot[1 + digits] != '.')
			continue;
		*number = strtoull(dot + 1, NULL, 10);
		*prefix_bytes = (size_t)(dot + 1 - path);
		return dot + 2 + digits;
	}
	return NULL;
}

int tn_layer_memo_holds(const struct tn_layer_memo *memo, const char *path, size_t prefix_bytes)
{
	return memo->path && memo->prefix_bytes == prefix_bytes && memcmp(memo->path, path, prefix_bytes) == 0;
}

int tn_path_is_embedding(const char *path)
{
	static const char *const names[] = { "embed_tokens", "wte", "wpe", "word_embeddings", "embed_in", "tok_embeddings",
					     "embed_positions", "position_embeddings", "token_type_embeddings", "embeddings",
					     "embedding", "shared", "embed_tokens_per_layer", "token_embd", "position_embedding",
					     "token_embedding", "relative_attention_bias", NULL };
	const char *last = tn_path_last(path);
	return is_one_of(last, strlen(last), names);
}

int tn_path_is_head(const char *path)
{
	static const char *const names[] = { "lm_head", "embed_out", "output", "output_layer", NULL };
	const char *last = tn_path_last(path);
	uint64_t number;
	size_t prefix;
	return is_one_of(last, strlen(last), names) && !tn_path_in_layer(path, &number, &prefix);
}

int tn_path_is_conv1d(const char *path)
{
	static const char *const names[] = { "c_attn", "c_proj", "c_fc", "q_attn", NULL };
	const char *last = tn_path_last(path);
	return is_one_of(last, strlen(last), names);
}

int tn_model_has_conv1d(const char *model_type)
{
	static const char *const types[] = { "gpt2", "openai-gpt", "imagegpt", "decision_transformer", NULL };
	return is_one_of(model_type, strlen(model_type), types);
}

/* ---- PEFT ------------------------------------------------------------------------------------------------ */

tn_status tn_rule_matches(const struct tn_name_rule *rule, const char *path, int *matched, struct tn_error *err)
{
	*matched = 0;
	if (rule->kind == TN_RULE_REGEX)
		return tn_regex_full(rule->regex, path, matched, err);
	size_t n = rule->count ? strlen(path) : 0;
	for (size_t i = 0; i < rule->count && !*matched; i++)
		*matched = has_ending(path, n, rule->names[i]);
	return TN_OK;
}

static tn_status layer_is_wanted(const struct tn_adapter_config *c, const char *path, int *wanted, struct tn_error *err)
{
	const char *digits = NULL;
	size_t n = 0;
	int matched = 0;
	for (size_t i = 0; i < c->layer_pattern_count && !matched; i++)
		TN_TRY(tn_regex_begin(c->layer_patterns[i], path, &matched, &digits, &n, err));
	*wanted = 0;
	if (!matched || !digits || n > 18)
		return TN_OK;
	int64_t layer = strtoll(digits, NULL, 10);
	for (size_t i = 0; i < c->layer_count; i++)
		*wanted |= c->layers[i] == layer;
	return TN_OK;
}

static tn_status is_left_out(const struct tn_adapter_config *c, const char *path, int *out, struct tn_error *err)
{
	TN_TRY(tn_rule_matches(&c->exclude, path, out, err));
	for (size_t i = 0; i < c->saved.count && !*out; i++)
		TN_TRY(tn_regex_begin(c->saved_regexes[i], path, out, NULL, NULL, err));
	return TN_OK;
}

tn_status tn_select_peft(const struct tn_adapter_config *c, const char *path, int is_head, int *selected,
			 struct tn_error *err)
{
	int left_out;
	*selected = 0;
	TN_TRY(is_left_out(c, path, &left_out, err));
	if (left_out)
		return TN_OK;
	switch (c->target.kind) {
	case TN_RULE_ABSENT:
		*selected = c->parameters.count == 0;
		return TN_OK;
	case TN_RULE_REGEX:
		return tn_regex_full(c->target.regex, path, selected, err);
	case TN_RULE_ALL_LINEAR:
		*selected = !is_head;
		return TN_OK;
	default:
		break;
	}
	for (size_t i = 0; i < c->target.count && c->has_layers && !*selected; i++)
		*selected = strcmp(path, c->target.names[i]) == 0; /* in full: whatever its layer */
	if (*selected)
		return TN_OK;
	TN_TRY(tn_rule_matches(&c->target, path, selected, err));
	if (*selected && c->has_layers)
		return layer_is_wanted(c, path, selected, err);
	return TN_OK;
}

tn_status tn_saved_covers(const struct tn_adapter_config *c, size_t i, const char *path, int *covers,
			  struct tn_error *err)
{
	TN_TRY(tn_regex_begin(c->saved_regexes[i], path, covers, NULL, NULL, err));
	*covers = *covers || tn_ends_with(path, c->saved.names[i]);
	return TN_OK;
}

/* Experts of transformers register the projections in this order (models/mixtral/modeling_mixtral.py and the classes that
 * follow it; dbrx has w1, v1, w2). */
static size_t registration_order(const char *name)
{
	static const char *const order[] = { "w1", "v1", "gate_proj", "gate_up_proj", "up_proj", "w2", "down_proj", "w3" };
	size_t i = 0;
	while (i < sizeof order / sizeof *order && strcmp(order[i], name))
		i++;
	return i;
}

size_t tn_select_parameters(const struct tn_adapter_config *c, const char *path, const char **out)
{
	size_t n = 0;
	for (size_t i = 0; i < c->parameters.count; i++) {
		const char *entry = c->parameters.names[i], *name = tn_path_last(entry);
		size_t module_bytes = name == entry ? 0 : (size_t)(name - entry) - 1, path_bytes = strlen(path);
		int belongs = module_bytes == 0 || (path_bytes >= module_bytes &&
			       memcmp(path + path_bytes - module_bytes, entry, module_bytes) == 0 &&
			       (path_bytes == module_bytes || path[path_bytes - module_bytes - 1] == '.'));
		for (size_t j = 0; j < n && belongs; j++)
			belongs = strcmp(out[j], name) != 0;
		if (!belongs)
			continue;
		size_t at = n++;
		for (; at > 0 && registration_order(out[at - 1]) > registration_order(name); at--)
			out[at] = out[at - 1];
		out[at] = name;
	}
	return n;
}

/* ---- mlx-lm ---------------------------------------------------------------------------------------------- */

const char *tn_select_mlx_key(const struct tn_adapter_config *c, const char *path)
{
	for (size_t i = 0; i < c->keys.count; i++)
		if (tn_path_has_ending(path, c->keys.names[i]))
			return c->keys.names[i];
	return NULL;
}

int tn_select_mlx(const struct tn_adapter_config *c, const char *path, uint64_t layer_count)
{
	uint64_t number;
	size_t prefix;
	int in_layer = tn_path_in_layer(path, &number, &prefix) != NULL;
	int in_window = in_layer && (c->num_layers == TN_ALL_LAYERS || (uint64_t)c->num_layers >= layer_count ||
				     number >= layer_count - (uint64_t)c->num_layers);
	if (!c->has_keys)
		return in_window;
	for (size_t i = 0; i < c->keys.count; i++)
		if (strcmp(path, c->keys.names[i]) == 0)
			return 1;
	return tn_select_mlx_key(c, path) && (in_window || !in_layer);
}

/* ---- rank and scale -------------------------------------------------------------------------------------- */

static tn_status pattern_matches(const struct tn_pattern *p, const char *path, int *matched, struct tn_error *err)
{
	*matched = strcmp(p->key, path) == 0;
	if (p->regex && !*matched)
		return tn_regex_begin(p->regex, path, matched, NULL, NULL, err);
	return TN_OK;
}

tn_status tn_pattern_value(const struct tn_patterns *patterns, const char *path, double fallback, double *out,
			   struct tn_error *err)
{
	int matched = 0;
	*out = fallback;
	for (size_t i = 0; i < patterns->count && !matched; i++) {
		TN_TRY(pattern_matches(&patterns->items[i], path, &matched, err));
		if (matched)
			*out = patterns->items[i].value;
	}
	return TN_OK;
}

tn_status tn_pattern_offers(const struct tn_patterns *patterns, const char *path, double fallback, double value,
			    int *offered, struct tn_error *err)
{
	int any = 0;
	*offered = 0;
	for (size_t i = 0; i < patterns->count && !*offered; i++) {
		int matched;
		TN_TRY(pattern_matches(&patterns->items[i], path, &matched, err));
		any |= matched;
		*offered = matched && patterns->items[i].value == value;
	}
	*offered |= !any && fallback == value;
	return TN_OK;
}

tn_status tn_effective_scale(const struct tn_adapter_config *c, const char *path, uint64_t rank, double *out,
			     struct tn_error *err)
{
	double alpha;
	if (c->dialect == TN_DIALECT_MLX_LM) {
		*out = c->scale;
		return TN_OK;
	}
	TN_TRY(tn_pattern_value(&c->alphas, path, c->alpha, &alpha, err));
	if (c->adalora_rank) {
		*out = (alpha > 0 ? alpha : (double)c->adalora_rank) / ((double)c->adalora_rank + 1e-5);
		return TN_OK;
	}
	*out = rank == 0 ? 0 : alpha / (c->use_rslora ? sqrt((double)rank) : (double)rank);
	return TN_OK;
}
