/* SPDX-License-Identifier: Apache-2.0 */
/* How much an adapter adds to a base. */
#include "adapter/land.h"

#include "adapter/selection.h"
#include "base/error.h"
#include "tenon/weights.h"

#include <stdlib.h>
#include <string.h>

static int64_t layer_of(const struct tn_adapter_module *m)
{
	uint64_t number;
	size_t prefix;
	/* the path of a saved tensor, or of a module: "...layers.3." stands in front in both */
	return tn_path_in_layer(m->path, &number, &prefix) ? (int64_t)number : TN_OUTSIDE_LAYERS;
}

/* The account of a layer; the list has room. */
static struct tn_account *account_of(struct tn_accounts *a, int64_t layer)
{
	for (size_t i = 0; i < a->layer_count; i++)
		if (a->layers[i].layer == layer)
			return &a->layers[i];
	a->layers[a->layer_count] = (struct tn_account){ .layer = layer };
	return &a->layers[a->layer_count++];
}

static void add(struct tn_account *account, const struct tn_adapter_module *m, uint64_t adapted)
{
	account->modules++;
	account->trainable += m->parameters;
	account->bytes += m->parameters * sizeof(float);
	account->adapted += adapted;
}

/* A tensor that stands whole in the adapter, and the place of its entry. */
struct whole {
	const struct tn_tensor *values;
	size_t entry;
};

static int compare_wholes(const void *a, const void *b)
{
	uintptr_t x = (uintptr_t)((const struct whole *)a)->values, y = (uintptr_t)((const struct whole *)b)->values;
	return (x > y) - (x < y);
}

/* Elements of the base that the whole tensors of the adapter replace, added to those of their entries. */
static tn_status count_wholes(const tn_adapter *adapter, const struct tn_joint *j, struct tn_arena *arena, uint64_t *adapted,
			      struct tn_error *err)
{
	struct whole *wholes;
	size_t n = 0;
	TN_TRY(tn_arena_array(arena, adapter->count, sizeof *wholes, &wholes, err));
	for (size_t i = 0; i < adapter->count; i++)
		if (adapter->entries[i].module.kind == TN_MODULE_SAVED)
			wholes[n++] = (struct whole){ adapter->entries[i].values, i };
	if (n > 1)
		qsort(wholes, n, sizeof *wholes, compare_wholes);
	for (size_t i = 0; i < j->target_count && n; i++) {
		const struct tn_target *t = &j->targets[i];
		const struct whole key = { .values = t->replacement }, *found = NULL;
		if (t->replacement && t->base)
			found = bsearch(&key, wholes, n, sizeof *wholes, compare_wholes);
		if (found)
			adapted[found->entry] += tn_target_source(t)->elements;
	}
	return TN_OK;
}

/* adapted [adapter->count]: elements of the base that each entry changes. */
static tn_status count_adapted(const tn_adapter *adapter, const struct tn_joint *j, struct tn_arena *arena, uint64_t *adapted,
			       struct tn_error *err)
{
	for (size_t i = 0; i < j->landing_count; i++) {
		const struct tn_slot *slot = &j->slots[j->landings[i].slot];
		if (slot->kind != TN_SLOT_BIAS)
			adapted[slot->entry - adapter->entries] += j->landings[i].rows * slot->cols;
	}
	return count_wholes(adapter, j, arena, adapted, err);
}

/* `joint`: on the base; NULL: there is none. */
static tn_status add_up(const tn_adapter *adapter, const struct tn_joint *joint, struct tn_arena *arena, struct tn_accounts *a,
			struct tn_error *err)
{
	uint64_t *adapted;
	TN_TRY(tn_arena_array(arena, adapter->count, sizeof *adapted, &adapted, err));
	if (joint)
		TN_TRY(count_adapted(adapter, joint, arena, adapted, err));
	for (size_t i = 0; i < adapter->count; i++) {
		const struct tn_adapter_entry *e = &adapter->entries[i];
		add(&a->all, &e->module, adapted[i]);
		add(account_of(a, layer_of(&e->module)), &e->module, adapted[i]);
	}
	for (size_t i = 0; i < tn_safetensors_count(adapter->file); i++)
		a->file_bytes += tn_safetensors_at(adapter->file, i)->bytes;
	return TN_OK;
}

static void set_ratio(struct tn_account *a)
{
	a->ratio = a->adapted ? (double)a->trainable / (double)(a->adapted + a->trainable) : 0;
}

static int compare_layers(const void *a, const void *b)
{
	int64_t x = ((const struct tn_account *)a)->layer, y = ((const struct tn_account *)b)->layer;
	return (x > y) - (x < y);
}

static tn_status count_base(tn_context *ctx, const tn_checkpoint *base, uint64_t *out, struct tn_error *err)
{
	tn_weight_list *list;
	TN_TRY(tn_weight_list_create(ctx, base, &list, err));
	*out = tn_weight_list_parameters(list);
	tn_weight_list_destroy(list);
	return TN_OK;
}

tn_status tn_adapter_account(tn_context *ctx, const tn_adapter *adapter, const tn_checkpoint *base, struct tn_accounts *out,
			     struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_joint *joint = NULL;
	struct tn_accounts a = { .layer_room = adapter->count, .all.layer = TN_OUTSIDE_LAYERS };
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_alloc_array(ctx, a.layer_room, sizeof *a.layers, "accounts", &a.layers, err));
	tn_status status = base ? tn_joint_make(adapter, base, &arena, &joint, err) : TN_OK;
	if (status == TN_OK && base)
		status = count_base(ctx, base, &a.base_parameters, err);
	if (status == TN_OK)
		status = add_up(adapter, joint, &arena, &a, err);
	if (status == TN_OK) {
		if (a.layer_count > 1)
			qsort(a.layers, a.layer_count, sizeof *a.layers, compare_layers);
		set_ratio(&a.all);
		for (size_t i = 0; i < a.layer_count; i++)
			set_ratio(&a.layers[i]);
		*out = a;
	} else {
		tn_accounts_release(ctx, &a);
	}
	tn_arena_release(&arena);
	return status;
}

void tn_accounts_release(tn_context *ctx, struct tn_accounts *a)
{
	tn_free_array(ctx, a->layers, a->layer_room, sizeof *a->layers);
	*a = (struct tn_accounts){ 0 };
}
