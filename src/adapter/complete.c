/* SPDX-License-Identifier: Apache-2.0 */
/* Factors and configuration have to speak of the same modules. */
#include "adapter/land.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "base/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NAME = 1024 };

/* ---- every module with factors is meant ------------------------------------------------------------------ */

static tn_status check_peft(const struct tn_joint *j, const struct tn_adapter_entry *e, struct tn_error *err)
{
	const struct tn_adapter_config *c = j->config;
	int selected;
	if (e->of_parameter || e->is_attention_output || c->target.kind == TN_RULE_ABSENT || c->target.kind == TN_RULE_ALL_LINEAR)
		return TN_OK;
	TN_TRY(tn_select_peft(c, e->module.path, 0, &selected, err));
	/* ensure_weight_tying adapts the partner of a tied module as well */
	if (selected || (c->tie_on_purpose && (tn_path_is_head(e->module.path) || tn_path_is_embedding(e->module.path))))
		return TN_OK;
	if (j->adapter->config.target.kind == TN_RULE_ABSENT)
		return tn_fail(err, TN_E_MISMATCH, e->module.path, "the file has factors for '%.100s', and adapter_config.json has "
			       "no target_modules: for a base of model_type '%.40s' PEFT takes '%.80s' then, and would leave these "
			       "out. Write target_modules that name all modules of the file, or remove the tensors",
			       e->module.path, j->model_type, c->target.text);
	return tn_fail(err, TN_E_MISMATCH, e->module.path, "the file has factors for '%.100s', and target_modules, exclude_modules "
		       "and layers_to_transform of adapter_config.json do not select it: PEFT would leave them out. Correct the "
		       "configuration, or remove the tensors", e->module.path);
}

static tn_status check_mlx(const struct tn_joint *j, const struct tn_adapter_entry *e, size_t target, struct tn_layer_memo *memo,
			   struct tn_error *err)
{
	const struct tn_adapter_config *c = j->config;
	uint64_t layers = c->num_layers == TN_ALL_LAYERS ? 0 : tn_joint_layer_count(j, j->targets[target].name, memo);
	if (tn_select_mlx(c, e->module.path, layers))
		return TN_OK;
	if (c->has_keys && !tn_select_mlx_key(c, e->module.path))
		return tn_fail(err, TN_E_MISMATCH, e->module.path, "the file has factors for '%.100s', and 'keys' of "
			       "adapter_config.json does not name it; add it, or remove the tensors", e->module.path);
	return tn_fail(err, TN_E_MISMATCH, e->module.path, "the file has factors for '%.100s', which is not among the last %lld of "
		       "the base's %llu layers (num_layers in adapter_config.json)", e->module.path, (long long)c->num_layers,
		       (unsigned long long)layers);
}

tn_status tn_joint_check_selection(const struct tn_joint *j, struct tn_error *err)
{
	const tn_adapter *a = j->adapter;
	struct tn_layer_memo memo = { 0 };
	for (size_t i = 0; i < a->count; i++) {
		const struct tn_adapter_entry *e = &a->entries[i];
		if (e->module.kind == TN_MODULE_SAVED || e->module.kind == TN_MODULE_TOKENS)
			continue;
		if (a->config.dialect == TN_DIALECT_PEFT)
			TN_TRY(check_peft(j, e, err));
		else if (a->config.dialect == TN_DIALECT_MLX_LM)
			TN_TRY(check_mlx(j, e, j->entry_target[i], &memo, err));
	}
	return TN_OK;
}

/* ---- every module that is named has factors -------------------------------------------------------------- */

/* How the adapter's names begin where the base's begin otherwise, from the first module inside a layer. */
struct fronts {
	const char *adapter, *base;
	size_t adapter_bytes, base_bytes;
	int known;
};

static struct fronts find_fronts(const struct tn_joint *j)
{
	struct fronts f = { 0 };
	uint64_t number;
	for (size_t i = 0; i < j->adapter->count && !f.known; i++) {
		f.adapter = j->adapter->entries[i].module.path;
		f.base = j->targets[j->entry_target[i]].name;
		f.known = tn_path_in_layer(f.adapter, &number, &f.adapter_bytes) &&
			  tn_path_in_layer(f.base, &number, &f.base_bytes);
	}
	while (f.known && f.adapter_bytes && f.base_bytes && f.adapter[f.adapter_bytes - 1] == f.base[f.base_bytes - 1]) {
		f.adapter_bytes--;
		f.base_bytes--;
	}
	return f;
}

/* The module's name as the adapter would have it; 0 when the two do not begin alike. */
static int rename_module(const struct fronts *f, const char *name, char out[LONGEST_NAME])
{
	size_t n = strlen(name) - strlen(".weight"), bytes;
	uint64_t number;
	if (!f->known || n >= LONGEST_NAME)
		return 0;
	if (n >= f->base_bytes && memcmp(name, f->base, f->base_bytes) == 0)
		return tn_join(out, LONGEST_NAME, f->adapter, f->adapter_bytes, name + f->base_bytes, n - f->base_bytes);
	tn_join(out, LONGEST_NAME, name, n, "", 0);
	/* a base that begins otherwise may hold more than the model that was trained: a vision tower, for example */
	return !f->base_bytes || !tn_path_in_layer(out, &number, &bytes);
}

static tn_status is_wanted(const struct tn_joint *j, const struct tn_target *t, const char *path, struct tn_layer_memo *memo,
			   int *wanted, struct tn_error *err)
{
	const struct tn_adapter_config *c = j->config;
	*wanted = 0;
	if (c->dialect == TN_DIALECT_MLX_LM) {
		*wanted = c->has_keys && tn_select_mlx(c, path, c->num_layers == TN_ALL_LAYERS ? 0
							       : tn_joint_layer_count(j, t->name, memo));
		return TN_OK;
	}
	if (c->target.kind == TN_RULE_ABSENT || (c->target.kind == TN_RULE_ALL_LINEAR && tn_path_is_embedding(path)))
		return TN_OK;
	return tn_select_peft(c, path, c->target.kind == TN_RULE_ALL_LINEAR && tn_path_is_head(path), wanted, err);
}

static tn_status fail_without_factors(const struct tn_joint *j, const char *path, struct tn_error *err)
{
	if (j->config->dialect == TN_DIALECT_PEFT && j->adapter->config.target.kind == TN_RULE_ABSENT)
		return tn_fail(err, TN_E_MISMATCH, path,
			       "adapter_config.json has no target_modules, which for a base of model_type '%.40s' means '%.80s' to "
			       "PEFT, and the file has no factors for '%.100s': write target_modules that name the modules of the "
			       "file, or get the whole file",
			       j->model_type, j->config->target.text, path);
	return tn_fail(err, TN_E_MISMATCH, path, "adapter_config.json names '%.100s', and the file has no factors for it: the "
		       "file is incomplete, or of another adapter", path);
}

/* Of the factors that are there, does one belong to `key`? */
static int key_has_factors(const struct tn_joint *j, const char *key)
{
	for (size_t i = 0; i < j->adapter->count; i++)
		if (tn_path_has_ending(j->adapter->entries[i].module.path, key))
			return 1;
	return 0;
}

/* A module that cannot have factors: a norm, or one that only holds others. */
static int names_no_matrix(const struct tn_joint *j, const char *key)
{
	size_t n = strlen(key);
	for (size_t i = 0; i < j->target_count; i++) {
		const char *name = j->targets[i].name;
		for (const char *at = strstr(name, key); at; at = strstr(at + 1, key))
			if ((at == name || at[-1] == '.') && at[n] == '.')
				return 1;
	}
	return 0;
}

static tn_status check_keys(const struct tn_joint *j, struct tn_error *err)
{
	const struct tn_adapter_config *c = j->config;
	for (size_t i = 0; i < c->keys.count; i++) {
		if (key_has_factors(j, c->keys.names[i]))
			continue;
		if (names_no_matrix(j, c->keys.names[i]))
			return tn_fail(err, TN_E_MISMATCH, c->keys.names[i],
				       "'keys' of adapter_config.json names '%.100s', "
				       "which the base has and which takes no factors (a norm, or a module that holds others)",
				       c->keys.names[i]);
		tn_logf(j->adapter->ctx, TN_LOG_WARNING, "'keys' names '%s', and the base has no such module", c->keys.names[i]);
	}
	return TN_OK;
}

/* Whether the module that holds the tensor `name` is one of entry `i` of modules_to_save. */
static tn_status holds_saved(const struct tn_joint *j, size_t i, const char *name, int *holds, struct tn_error *err)
{
	char module[LONGEST_NAME];
	const char *dot = strrchr(name, '.');
	*holds = 0;
	if (!dot || snprintf(module, sizeof module, "%.*s", (int)(dot - name), name) >= (int)sizeof module)
		return TN_OK;
	return tn_saved_covers(j->config, i, module, holds, err);
}

/* PEFT wraps what modules_to_save names, and ends with a KeyError when the file has nothing for it. What the base does
 * not have it never wraps: "classifier" and "score", which every classifier names, for example. */
static tn_status check_saved_are_there(const struct tn_joint *j, struct tn_error *err)
{
	const struct tn_adapter_config *c = j->config;
	for (size_t i = 0; i < c->saved.count; i++) {
		const char *name = c->saved.names[i];
		int in_file = 0, in_base = j->tied && j->head == TN_NO_TARGET && !c->tie_on_purpose && tn_path_is_head(name);
		for (size_t k = 0; k < j->adapter->count && !in_file; k++)
			if (j->adapter->entries[k].module.kind == TN_MODULE_SAVED)
				TN_TRY(holds_saved(j, i, j->adapter->entries[k].module.path, &in_file, err));
		for (size_t k = 0; k < j->target_count && !in_file && !in_base; k++)
			TN_TRY(holds_saved(j, i, j->targets[k].name, &in_base, err));
		if (in_base && !in_file)
			return tn_fail(err, TN_E_MISMATCH, name, "modules_to_save names '%.100s', which the base has, and the "
				       "file holds no tensor of it, so PEFT cannot load it: get the whole file, or take the "
				       "name out of modules_to_save", name);
		if (!in_file)
			tn_logf(j->adapter->ctx, TN_LOG_INFO, "modules_to_save names '%s', which neither the file nor the base has",
				name);
	}
	return TN_OK;
}

tn_status tn_joint_check_complete(const struct tn_joint *j, struct tn_error *err)
{
	struct fronts fronts = find_fronts(j);
	const struct tn_adapter_config *c = j->config;
	unsigned char *has_factors;
	struct tn_layer_memo memo = { 0 };
	size_t missing = 0;
	char first[LONGEST_NAME] = "";
	TN_TRY(tn_arena_array(j->arena, j->target_count, 1, &has_factors, err));
	for (size_t i = j->own_landings; i < j->landing_count; i++)
		has_factors[j->landings[i].target] = 1;
	for (size_t i = 0; i < j->target_count; i++) {
		const struct tn_target *t = &j->targets[i];
		char path[LONGEST_NAME];
		int wanted;
		if (has_factors[i] || !t->is_layer || !rename_module(&fronts, t->name, path))
			continue;
		TN_TRY(is_wanted(j, t, path, &memo, &wanted, err));
		if (!wanted)
			continue;
		if (c->dialect == TN_DIALECT_PEFT || !key_has_factors(j, tn_select_mlx_key(c, path)))
			return fail_without_factors(j, path, err);
		if (missing++ == 0)
			memcpy(first, path, strlen(path) + 1);
	}
	if (missing)
		tn_logf(j->adapter->ctx, TN_LOG_WARNING, "'keys' names %zu modules without factors in the file, the first is "
			"'%s': they stay as they are, as with mlx-lm", missing, first);
	TN_TRY(check_saved_are_there(j, err));
	return check_keys(j, err);
}
