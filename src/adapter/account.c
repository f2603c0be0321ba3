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

/* Elements of the base that an entry changes. */
static uint64_t adapted_by(const struct tn_joint *j, const struct tn_adapter_entry *e)
{
	uint64_t n = 0;
	for (size_t i = 0; i < j->landing_count; i++) {
		const struct tn_slot *slot = &j->slots[j->landings[i].slot];
		if (slot->entry == e && slot->kind != TN_SLOT_BIAS)
			n += j->landings[i].rows * slot->cols;
	}
	for (size_t i = 0; i < j->target_count && e->module.kind == TN_MODULE_SAVED; i++)
		if (j->targets[i].replacement == e->values && j->targets[i].base)
			n += tn_target_source(&j->targets[i])->elements;
	return n;
}

static void add_up(const tn_adapter *adapter, const struct tn_joint *joint, struct tn_accounts *a)
{
	for (size_t i = 0; i < adapter->count; i++) {
		const struct tn_adapter_entry *e = &adapter->entries[i];
		uint64_t adapted = joint ? adapted_by(joint, e) : 0;
		add(&a->all, &e->module, adapted);
		add(account_of(a, layer_of(&e->module)), &e->module, adapted);
	}
	for (size_t i = 0; i < tn_safetensors_count(adapter->file); i++)
		a->file_bytes += tn_safetensors_at(adapter->file, i)->bytes;
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
	if (status == TN_OK) {
		add_up(adapter, joint, &a);
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
