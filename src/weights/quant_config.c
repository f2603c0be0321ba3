/* SPDX-License-Identifier: Apache-2.0 */
#include "weights/quant_config.h"

#include "base/error.h"
#include "base/text.h"
#include "weights/format.h"

#include <stdio.h>
#include <string.h>

/* ---- making ---------------------------------------------------------------------------------------------- */

tn_status tn_quant_config_make(tn_context *ctx, tn_quant_config **out, struct tn_error *err)
{
	tn_quant_config *config;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *config, "quantization configuration", &config, err));
	config->ctx = ctx;
	tn_arena_init(&config->arena, ctx);
	*out = config;
	return TN_OK;
}

void tn_quant_config_destroy(tn_quant_config *config)
{
	if (!config)
		return;
	tn_context *ctx = config->ctx;
	json_decref(config->block);
	tn_free_array(ctx, config->overrides, config->capacity, sizeof *config->overrides);
	tn_free_array(ctx, config->sorted, config->sorted_capacity, sizeof *config->sorted);
	tn_arena_release(&config->arena);
	tn_free(ctx, config, sizeof *config);
}

static tn_status set_json(json_t *object, const char *key, json_t *value, struct tn_error *err)
{
	return json_object_set_new(object, key, value) == 0 ? TN_OK : tn_fail_nomem(err, key, sizeof(void *));
}

static json_t *number_or_null(int32_t value)
{
	return value == TN_QUANT_DEFAULT ? json_null() : json_integer(value);
}

/* {"group_size", "bits", "mode"}, the order in which mlx-lm writes them. */
static tn_status parameters_json(json_t *object, const struct tn_quantization *q, struct tn_error *err)
{
	TN_TRY(set_json(object, "group_size", number_or_null(q->group_size), err));
	TN_TRY(set_json(object, "bits", number_or_null(q->bits), err));
	if (q->mode)
		TN_TRY(set_json(object, "mode", json_string(q->mode), err));
	return q->global_scale ? set_json(object, "global_scale", json_true(), err) : TN_OK;
}

tn_status tn_quant_config_create(tn_context *ctx, const struct tn_quantization *global, tn_quant_config **out,
				 struct tn_error *err)
{
	struct tn_quantization q = { 0 };
	if (global) {
		struct tn_quantization known = *global;
		TN_TRY(tn_quantization_resolve(&known, err));
		q = *global;
		q.mode = global->mode ? known.mode : NULL;
	}
	tn_quant_config *config;
	TN_TRY(tn_quant_config_make(ctx, &config, err));
	config->has_global = global != NULL;
	config->global = q;
	config->block = json_object();
	tn_status status = config->block ? TN_OK : tn_fail_nomem(err, "quantization configuration", sizeof(void *));
	if (status == TN_OK && global)
		status = parameters_json(config->block, &q, err);
	if (status != TN_OK) {
		tn_quant_config_destroy(config);
		return status;
	}
	*out = config;
	return TN_OK;
}

tn_status tn_quant_config_copy(const tn_quant_config *config, tn_quant_config **out, struct tn_error *err)
{
	tn_quant_config *copy;
	TN_TRY(tn_quant_config_make(config->ctx, &copy, err));
	copy->has_global = config->has_global;
	copy->global = config->global;
	copy->block = config->block ? json_deep_copy(config->block) : NULL;
	tn_status status = config->block && !copy->block ? tn_fail_nomem(err, "quantization configuration", 1) : TN_OK;
	for (size_t i = 0; i < config->count && status == TN_OK; i++) {
		const char *layer;
		const struct tn_quantization *q;
		tn_quant_config_at(config, i, &layer, &q);
		status = tn_quant_config_add(copy, layer, q, err);
	}
	if (status != TN_OK) {
		tn_quant_config_destroy(copy);
		return status;
	}
	*out = copy;
	return TN_OK;
}

/* Where a layer stands in `sorted`, or would. */
static size_t position(const tn_quant_config *config, const char *layer, int *found)
{
	size_t low = 0, high = config->count;
	*found = 0;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		int order = strcmp(config->overrides[config->sorted[middle]].layer, layer);
		if (order == 0) {
			*found = 1;
			return middle;
		}
		if (order < 0)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

tn_status tn_quant_config_add(tn_quant_config *config, const char *layer, const struct tn_quantization *q,
			      struct tn_error *err)
{
	int found;
	size_t at = position(config, layer, &found);
	if (!found) {
		const char *name;
		TN_TRY(tn_arena_text(&config->arena, layer, strlen(layer), &name, err));
		TN_TRY(tn_grow(config->ctx, &config->overrides, &config->capacity, config->count + 1,
			       sizeof *config->overrides, "quantization configuration", err));
		TN_TRY(tn_grow(config->ctx, &config->sorted, &config->sorted_capacity, config->count + 1,
			       sizeof *config->sorted, "quantization configuration", err));
		size_t *place = config->sorted + at;
		memmove(place + 1, place, (config->count - at) * sizeof *place);
		*place = config->count;
		config->overrides[config->count++].layer = name;
	}
	struct tn_quant_override *o = &config->overrides[config->sorted[at]];
	o->skip = q == NULL;
	o->q = q ? *q : (struct tn_quantization){ 0 };
	return TN_OK;
}

tn_status tn_quant_config_set(tn_quant_config *config, const char *layer, const struct tn_quantization *q,
			      struct tn_error *err)
{
	struct tn_quantization known = { 0 };
	if (q) {
		struct tn_quantization resolved = *q;
		TN_TRY(tn_quantization_resolve(&resolved, err));
		known = *q;
		known.mode = q->mode ? resolved.mode : NULL;
	}
	json_t *value = q ? json_object() : json_false();
	tn_status status = value ? TN_OK : tn_fail_nomem(err, layer, sizeof(void *));
	if (status == TN_OK && q)
		status = parameters_json(value, &known, err);
	if (status == TN_OK)
		status = tn_quant_config_add(config, layer, q ? &known : NULL, err);
	if (status != TN_OK) {
		json_decref(value);
		return status;
	}
	return set_json(config->block, layer, value, err);
}

/* ---- looking --------------------------------------------------------------------------------------------- */

const struct tn_quantization *tn_quant_config_global(const tn_quant_config *config)
{
	return config->has_global ? &config->global : NULL;
}

size_t tn_quant_config_count(const tn_quant_config *config)
{
	return config->count;
}

void tn_quant_config_at(const tn_quant_config *config, size_t i, const char **layer, const struct tn_quantization **q)
{
	const struct tn_quant_override *o = i < config->count ? &config->overrides[i] : NULL;
	*layer = o ? o->layer : NULL;
	*q = o && !o->skip ? &o->q : NULL;
}

static void give(const struct tn_quantization *q, struct tn_quantization *out)
{
	if (!out)
		return;
	*out = *q;
	tn_quantization_resolve(out, NULL); /* the mode was checked when it came in */
}

/* 1 when there is an override of that name. */
static int find_override(const tn_quant_config *config, const char *name, struct tn_quantization *out,
			 tn_quant_choice *choice)
{
	int found;
	size_t at = position(config, name, &found);
	if (!found)
		return 0;
	const struct tn_quant_override *o = &config->overrides[config->sorted[at]];
	*choice = o->skip ? TN_QUANT_SKIP : TN_QUANT_LAYER;
	if (!o->skip)
		give(&o->q, out);
	return 1;
}

static tn_quant_choice default_choice(const tn_quant_config *config, struct tn_quantization *out)
{
	if (!config->has_global)
		return TN_QUANT_NONE;
	give(&config->global, out);
	return TN_QUANT_GLOBAL;
}

tn_quant_choice tn_quant_config_for_layer(const tn_quant_config *config, const char *layer, struct tn_quantization *out)
{
	tn_quant_choice choice;
	if (!config)
		return TN_QUANT_NONE;
	return find_override(config, layer, out, &choice) ? choice : default_choice(config, out);
}

static size_t base_length(const char *name)
{
	static const char *const suffixes[] = { ".weight", ".scales", ".biases" };
	size_t n = strlen(name);
	for (int i = 0; i < 3; i++)
		if (tn_ends_with(name, suffixes[i]))
			return n - 7;
	return n;
}

enum { NAME_BYTES = 1024 };

/* prefix + name, and the same without the suffix; a name too long for any layer is no match. */
static int find_both(const tn_quant_config *config, const char *prefix, const char *name, struct tn_quantization *out,
		     tn_quant_choice *choice)
{
	char text[NAME_BYTES];
	int n = snprintf(text, sizeof text, "%s%s", prefix, name);
	if (n < 0 || (size_t)n >= sizeof text)
		return 0;
	if (find_override(config, text, out, choice))
		return 1;
	size_t base = base_length(text);
	if (base == (size_t)n)
		return 0;
	text[base] = '\0';
	return find_override(config, text, out, choice);
}

tn_quant_choice tn_quant_config_for_tensor(const tn_quant_config *config, const char *tensor,
					   struct tn_quantization *out)
{
	static const char prefix[] = "language_model.";
	tn_quant_choice choice;
	if (!config)
		return TN_QUANT_NONE;
	if (find_both(config, "", tensor, out, &choice))
		return choice;
	if (tn_starts_with(tensor, prefix)) {
		if (find_both(config, "", tensor + sizeof prefix - 1, out, &choice))
			return choice;
	} else if (find_both(config, prefix, tensor, out, &choice)) {
		return choice;
	}
	return default_choice(config, out);
}
