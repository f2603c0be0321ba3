/* SPDX-License-Identifier: Apache-2.0 */
/* Which modules of a base a new adapter is for, and how its configuration names them: by the rules by which adapters are
 * read (selection.c), so that the programs that load it choose the same. */
#include "adapter/create.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "base/text.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MLX_LAYERS = 16 };   /* mlx_lm.lora --num-layers */

/* ---- keys ------------------------------------------------------------------------------------------------ */

static int is_exact(const struct tn_base_module *m, const char *key)
{
	return strcmp(m->path, key) == 0;
}

static size_t shared_letters(const char *a, const char *b)
{
	size_t n = strlen(a), m = strlen(b), head = 0, tail = 0, least = n < m ? n : m;
	while (head < least && a[head] == b[head])
		head++;
	while (tail < least - head && a[n - 1 - tail] == b[m - 1 - tail])
		tail++;
	return head + tail;
}

/* The module whose name, as far as the key goes, has most letters in common with it. */
static const char *nearest(const struct tn_base_modules *m, const char *key)
{
	const char *best = NULL;
	double most = -1;
	size_t parts = 1;
	for (const char *c = key; *c; c++)
		parts += *c == '.';
	for (size_t i = 0; i < m->count; i++) {
		const char *tail = m->items[i].path + strlen(m->items[i].path);
		for (size_t left = parts; tail > m->items[i].path && left;)
			if (*--tail == '.' && --left == 0)
				tail++;
		size_t n = strlen(tail), k = strlen(key);
		double share = (double)shared_letters(tail, key) / (double)(n > k ? n : k);
		if (share > most) {
			most = share;
			best = tail;
		}
	}
	return best;
}

static tn_status check_key(const struct tn_base_modules *m, const char *key, struct tn_error *err)
{
	for (size_t i = 0; i < m->count; i++)
		if (tn_path_has_ending(m->items[i].path, key))
			return TN_OK;
	const char *near = nearest(m, key);
	if (!near)
		return tn_fail(err, TN_E_MISMATCH, key, "the base has no module that factors can be made for");
	return tn_fail(err, TN_E_MISMATCH, key, "no module of the base is called '%.100s' or ends with it; the nearest is '%.100s'",
		       key, near);
}

static int compare_texts(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int has_name(const char **names, size_t count, const char *name)
{
	for (size_t i = 0; i < count; i++)
		if (strcmp(names[i], name) == 0)
			return 1;
	return 0;
}

/* Adds a name once; the list has room. */
static void add_name(const char **names, size_t *count, const char *name)
{
	if (!has_name(names, *count, name))
		names[(*count)++] = name;
}

static void sort_names(const char **names, size_t count)
{
	if (count > 1)
		qsort(names, count, sizeof *names, compare_texts);
}

/* ---- mlx-lm ---------------------------------------------------------------------------------------------- */

static int is_of_another_tower(const char *path)
{
	return strstr(path, "vision") || strstr(path, "visual") || strstr(path, "audio");
}

static tn_status choose_mlx(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	const struct tn_create_options *o = c->options;
	struct tn_adapter_config rule = { .dialect = TN_DIALECT_MLX_LM, .num_layers = c->num_layers, .has_keys = o->key_count > 0 };
	struct tn_layer_memo memo = { 0 };
	TN_TRY(tn_arena_array(m->arena, o->key_count, sizeof *rule.keys.names, &rule.keys.names, err));
	for (rule.keys.count = 0; rule.keys.count < o->key_count; rule.keys.count++)
		rule.keys.names[rule.keys.count] = o->keys[rule.keys.count];
	TN_TRY(tn_arena_array(m->arena, m->count, sizeof *c->names, &c->names, err));
	for (size_t i = 0; i < m->count; i++) {
		struct tn_base_module *item = &m->items[i];
		int whole = 0, experts = item->kind == TN_MODULE_EXPERTS;
		item->chosen = tn_select_mlx(&rule, item->path, tn_base_modules_layers_beside(m, item->path, &memo));
		if (!o->key_count && ((o->dora && experts) || is_of_another_tower(item->path)))
			item->chosen = 0;
		if (!item->chosen)
			continue;
		if (o->dora && experts)
			return tn_fail(err, TN_E_UNSUPPORTED, item->path, "'%.100s' is a stack of experts, and there is no DoRA "
				       "for these; make a LoRA, or leave it out", item->path);
		for (size_t k = 0; k < o->key_count; k++)
			whole |= is_exact(item, o->keys[k]);
		add_name(c->names, &c->name_count, whole ? item->path : tn_path_inside(item->path));
	}
	return TN_OK;
}

/* ---- PEFT ------------------------------------------------------------------------------------------------ */

int tn_base_module_is_router(const struct tn_base_modules *m, const struct tn_base_module *item)
{
	const char *last = tn_path_last(item->path);
	size_t front = (size_t)(last - item->path);
	if ((strcmp(last, "gate") != 0 && strcmp(last, "router") != 0) || !front)
		return 0;
	for (size_t i = 0; i < m->count; i++)
		if (m->items[i].of_parameter && strncmp(m->items[i].path, item->path, front) == 0)
			return 1;
	return 0;
}

static int is_all_linear(const struct tn_create_options *o)
{
	return o->key_count == 1 && strcasecmp(o->keys[0], "all-linear") == 0;
}

/* What PEFT makes of "all-linear". */
static int is_plain_linear(const struct tn_base_modules *m, const struct tn_base_module *item)
{
	return item->kind == TN_MODULE_LORA && !tn_path_is_head(item->path) && !tn_base_module_is_router(m, item);
}

/* In the last so many of all layers that the options ask for. */
static int in_window(uint64_t all, const struct tn_choice *c, const char *path)
{
	uint64_t number;
	size_t prefix;
	return c->num_layers < 0 || (uint64_t)c->num_layers >= all ||
	       (tn_path_in_layer(path, &number, &prefix) && number >= all - (uint64_t)c->num_layers);
}

/* Last parts of names, where these say enough, else whole paths. */
static tn_status name_all_linear(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	TN_TRY(tn_arena_array(m->arena, m->count, sizeof *c->names, &c->names, err));
	for (size_t i = 0; i < m->count; i++) {
		const char *last = tn_path_last(m->items[i].path);
		int clear = 1;
		if (has_name(c->names, c->name_count, last) || !is_plain_linear(m, &m->items[i]))
			continue;
		for (size_t k = 0; k < m->count && clear; k++)
			clear = m->items[k].of_parameter || !tn_path_has_ending(m->items[k].path, last) ||
				is_plain_linear(m, &m->items[k]);
		add_name(c->names, &c->name_count, clear ? last : m->items[i].path);
	}
	return TN_OK;
}

/* PEFT's default for the base: names as they stand in its table, or whole paths where that has a pattern. */
static tn_status name_defaults(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	const char *targets = tn_default_targets(m->model_type, 0);
	struct tn_name_rule rule;
	int matched;
	if (!targets)
		return tn_fail(err, TN_E_ARG, "keys", "PEFT has no default modules for a base of model_type '%.60s': name some by "
			       "keys (q_proj,v_proj), or give the key 'all-linear' for every linear layer but the head",
			       m->model_type);
	TN_TRY(tn_rule_of_targets(m->arena, targets, &rule, err));
	c->names = rule.names;
	c->name_count = rule.count;
	if (rule.kind == TN_RULE_LIST)
		return TN_OK;
	const uint64_t all = tn_base_modules_layers(m);
	tn_status status = tn_arena_array(m->arena, m->count, sizeof *c->names, &c->names, err);
	for (size_t i = 0; i < m->count && status == TN_OK; i++) {
		status = tn_regex_full(rule.regex, m->items[i].path, &matched, err);
		if (status == TN_OK && matched && in_window(all, c, m->items[i].path))
			add_name(c->names, &c->name_count, m->items[i].path);
	}
	tn_regex_free(rule.regex);
	return status;
}

static int names_parameter(const struct tn_base_modules *m, const char *key)
{
	for (size_t i = 0; i < m->count; i++)
		if (m->items[i].of_parameter && tn_path_has_ending(m->items[i].path, key))
			return 1;
	return 0;
}

static tn_status name_keys(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	const struct tn_create_options *o = c->options;
	TN_TRY(tn_arena_array(m->arena, o->key_count, sizeof *c->names, &c->names, err));
	TN_TRY(tn_arena_array(m->arena, o->key_count, sizeof *c->parameters, &c->parameters, err));
	for (size_t i = 0; i < o->key_count; i++) {
		if (names_parameter(m, o->keys[i]))
			add_name(c->parameters, &c->parameter_count, o->keys[i]);
		else
			add_name(c->names, &c->name_count, o->keys[i]);
	}
	if (c->parameter_count && o->dora)
		return tn_fail(err, TN_E_UNSUPPORTED, c->parameters[0], "'%.100s' names a stack of experts, and there is no "
			       "DoRA for these; make a LoRA, or leave it out", c->parameters[0]);
	return TN_OK;
}

/* The window as layers_to_transform; PEFT does not apply it to parameters. */
static tn_status name_layers(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	uint64_t all = tn_base_modules_layers(m);
	if (c->num_layers < 0 || (uint64_t)c->num_layers >= all)
		return TN_OK;
	if (c->parameter_count)
		return tn_fail(err, TN_E_UNSUPPORTED, c->parameters[0], "PEFT has no window of layers for parameters such as "
			       "'%.100s'; name those of single layers by their whole paths", c->parameters[0]);
	TN_TRY(tn_arena_array(m->arena, (size_t)c->num_layers, sizeof *c->layers, &c->layers, err));
	for (c->layer_count = 0; c->layer_count < (size_t)c->num_layers; c->layer_count++)
		c->layers[c->layer_count] = all - (uint64_t)c->num_layers + c->layer_count;
	return TN_OK;
}

static int in_layers(const struct tn_choice *c, const char *path)
{
	uint64_t number;
	size_t prefix;
	if (!c->layer_count)
		return 1;
	return tn_path_in_layer(path, &number, &prefix) && number >= c->layers[0];
}

static tn_status choose_peft(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	const struct tn_create_options *o = c->options;
	if (!o->key_count)
		TN_TRY(name_defaults(m, c, err));
	else
		TN_TRY(is_all_linear(o) ? name_all_linear(m, c, err) : name_keys(m, c, err));
	TN_TRY(name_layers(m, c, err));
	for (size_t i = 0; i < m->count; i++) {
		struct tn_base_module *item = &m->items[i];
		const char **names = item->of_parameter ? c->parameters : c->names;
		size_t count = item->of_parameter ? c->parameter_count : c->name_count;
		for (size_t k = 0; k < count && !item->chosen; k++)
			item->chosen = is_exact(item, names[k]) ||
				       (tn_path_has_ending(item->path, names[k]) && in_layers(c, item->path));
	}
	return TN_OK;
}

/* ---- both ------------------------------------------------------------------------------------------------ */

/* train_model of mlx_lm/lora.py refuses it too; its default of 16 may be more than a small model has. */
static tn_status check_window(const struct tn_base_modules *m, const struct tn_create_options *o, struct tn_error *err)
{
	const uint64_t all = tn_base_modules_layers(m);
	if (o->num_layers == TN_DIALECTS_LAYERS || o->num_layers < 0 || (uint64_t)o->num_layers <= all)
		return TN_OK;
	return tn_fail(err, TN_E_ARG, "num_layers",
		       "num_layers is %lld, and the model has %llu layers; mlx-lm trains no such adapter",
		       (long long)o->num_layers, (unsigned long long)all);
}

tn_status tn_choose_modules(struct tn_base_modules *m, struct tn_choice *c, struct tn_error *err)
{
	const struct tn_create_options *o = c->options;
	size_t chosen = 0;
	int all_linear = m->peft && is_all_linear(o);
	c->num_layers = o->num_layers != TN_DIALECTS_LAYERS ? o->num_layers : m->peft ? -1 : MLX_LAYERS;
	if (c->num_layers < 0)
		c->num_layers = TN_ALL_LAYERS;
	if (!m->peft)
		TN_TRY(check_window(m, o, err));
	for (size_t i = 0; i < o->key_count && !all_linear; i++)
		TN_TRY(check_key(m, o->keys[i], err));
	TN_TRY(m->peft ? choose_peft(m, c, err) : choose_mlx(m, c, err));
	for (size_t i = 0; i < m->count; i++)
		chosen += m->items[i].chosen != 0;
	if (chosen == 0)
		return tn_fail(err, TN_E_MISMATCH, "keys", "no module of the base is chosen: %s", o->key_count
			       ? "what the keys name lies outside the last layers; raise num_layers"
			       : m->peft ? "it has none of those that PEFT takes by default; name modules by keys"
					 : "it has no linear layers inside numbered layers; name modules by keys");
	sort_names(c->names, c->name_count);
	sort_names(c->parameters, c->parameter_count);
	return TN_OK;
}
