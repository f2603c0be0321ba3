/* SPDX-License-Identifier: Apache-2.0 */
/* Named layers with one configuration. */
#include "base/arena.h"
#include "base/error.h"
#include "tenon/layer.h"

#include <string.h>

struct entry {
	const char *name;
	tn_layer *layer;
};

struct tn_layer_set {
	tn_context *ctx;
	struct tn_arena names;
	struct tn_layer_options options;
	struct entry *entries;
	size_t count, capacity;
};

tn_status tn_layer_set_create(tn_context *ctx, const struct tn_layer_options *options, tn_layer_set **out,
			      struct tn_error *err)
{
	static const struct tn_layer_options defaults = TN_LAYER_OPTIONS_INIT;
	tn_layer_set *set;
	TN_TRY(tn_alloc(ctx, sizeof *set, "layers", &set, err));
	*set = (tn_layer_set){ .ctx = ctx, .options = options ? *options : defaults };
	tn_arena_init(&set->names, ctx);
	*out = set;
	return TN_OK;
}

void tn_layer_set_destroy(tn_layer_set *set)
{
	if (!set)
		return;
	for (size_t i = 0; i < set->count; i++)
		tn_layer_destroy(set->entries[i].layer);
	tn_free_array(set->ctx, set->entries, set->capacity, sizeof *set->entries);
	tn_arena_release(&set->names);
	tn_free(set->ctx, set, sizeof *set);
}

tn_layer *tn_layer_set_get(const tn_layer_set *set, const char *name)
{
	for (size_t i = 0; i < set->count; i++)
		if (strcmp(set->entries[i].name, name) == 0)
			return set->entries[i].layer;
	return NULL;
}

tn_status tn_layer_set_add(tn_layer_set *set, const char *name, const struct tn_linear_weight *weight, struct tn_error *err)
{
	struct entry entry;
	if (tn_layer_set_get(set, name))
		return tn_fail(err, TN_E_EXISTS, name, "LoRA layer '%.200s' already exists", name);
	TN_TRY(tn_grow(set->ctx, &set->entries, &set->capacity, set->count + 1, sizeof *set->entries, "layers", err));
	TN_TRY(tn_arena_text(&set->names, name, strlen(name), &entry.name, err));
	TN_TRY(tn_layer_create(set->ctx, weight, &set->options, &entry.layer, err));
	set->entries[set->count++] = entry;
	return TN_OK;
}

size_t tn_layer_set_count(const tn_layer_set *set)
{
	return set->count;
}

const char *tn_layer_set_name(const tn_layer_set *set, size_t i)
{
	return i < set->count ? set->entries[i].name : NULL;
}

tn_status tn_layer_set_forward(const tn_layer_set *set, const char *name, const struct tn_array *x, struct tn_array *y,
			       struct tn_error *err)
{
	const tn_layer *layer = tn_layer_set_get(set, name);
	if (!layer)
		return tn_fail(err, TN_E_NOTFOUND, name, "LoRA layer '%.200s' not found", name);
	return tn_layer_forward(layer, x, y, err);
}

/* Layers [0, end) that this call has changed go back: `changed` has a mark for each. */
static void undo(tn_layer_set *set, const unsigned char *changed, size_t end)
{
	for (size_t i = 0; i < end; i++)
		if (changed[i])
			tn_layer_unmerge(set->entries[i].layer, NULL);
}

tn_status tn_layer_set_merge_all(tn_layer_set *set, struct tn_error *err)
{
	unsigned char *changed;
	tn_status status = TN_OK;
	TN_TRY(tn_alloc_array(set->ctx, set->count, 1, "layers", &changed, err));
	for (size_t i = 0; i < set->count && status == TN_OK; i++) {
		if (tn_layer_is_merged(set->entries[i].layer))
			continue;
		status = tn_layer_merge(set->entries[i].layer, err);
		changed[i] = status == TN_OK;
	}
	if (status != TN_OK)
		undo(set, changed, set->count);
	tn_free_array(set->ctx, changed, set->count, 1);
	return status;
}

tn_status tn_layer_set_unmerge_all(tn_layer_set *set, struct tn_error *err)
{
	for (size_t i = 0; i < set->count; i++)
		if (tn_layer_is_merged(set->entries[i].layer))
			TN_TRY(tn_layer_unmerge(set->entries[i].layer, err));
	return TN_OK;
}

void tn_layer_set_summary(const tn_layer_set *set, struct tn_layer_summary *out)
{
	struct tn_layer_summary s = { .num_layers = set->count, .rank = set->options.rank, .alpha = set->options.alpha };
	for (size_t i = 0; i < set->count; i++) {
		uint64_t trainable = tn_layer_trainable_params(set->entries[i].layer);
		s.total_trainable += trainable;
		s.total_original += tn_layer_total_params(set->entries[i].layer) - trainable;
	}
	uint64_t all = s.total_original + s.total_trainable;
	s.compression_ratio = all ? (double)s.total_trainable / (double)all : 0;
	*out = s;
}

const struct tn_layer_options *tn_layer_set_config(const tn_layer_set *set)
{
	return &set->options;
}
