/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/fuse.h"

#include "base/error.h"
#include "store/json_out.h"
#include "transform/delta_cache.h"

#include <stdlib.h>
#include <string.h>

const char *tn_action_name(tn_action action)
{
	static const char *const names[] = {
		[TN_ACTION_COPY] = "copied",   [TN_ACTION_MERGE] = "merged", [TN_ACTION_REPLACE] = "replaced",
		[TN_ACTION_UNTIE] = "untied", [TN_ACTION_ADD] = "added",
	};
	return (size_t)action < sizeof names / sizeof *names ? names[action] : "unknown";
}

/* The first landing that says more than the others. */
static const struct tn_slot *leading_slot(const struct tn_joint *j, const struct tn_target *t)
{
	const struct tn_slot *lead = NULL;
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_slot *slot = &j->slots[j->landings[t->first_landing + i].slot];
		if (!lead || (lead->kind == TN_SLOT_TOKENS && slot->kind != TN_SLOT_TOKENS))
			lead = slot;
	}
	return lead;
}

static const struct tn_adapter_module *saved_module(const struct tn_joint *j, const struct tn_tensor *values)
{
	for (size_t i = 0; i < j->adapter->count; i++)
		if (j->adapter->entries[i].values == values)
			return &j->adapter->entries[i].module;
	return NULL;
}

static struct tn_planned_tensor plan_target(const struct tn_fuse *fuse, size_t i, const struct tn_tensor *result)
{
	const struct tn_joint *j = fuse->joint;
	const struct tn_target *t = &j->targets[i];
	const struct tn_slot *slot = leading_slot(j, t);
	struct tn_planned_tensor p = { result, TN_ACTION_COPY, slot ? &slot->entry->module : NULL };
	if (slot && slot->kind != TN_SLOT_TOKENS)
		p.action = TN_ACTION_MERGE;
	else if (!t->base)
		p.action = TN_ACTION_ADD;
	else if (slot || t->replacement)
		p.action = TN_ACTION_REPLACE;
	else if (t->is_new && !fuse->adapter->config.replication_count)
		p.action = TN_ACTION_UNTIE;
	if (!slot && t->replacement)
		p.module = saved_module(j, t->replacement);
	return p;
}

/* Name, dtype and shape of a target's result; shard and offset of what it is read from. */
static tn_status describe_result(struct tn_fuse *fuse, const struct tn_target *t, struct tn_tensor **out,
				 struct tn_error *err)
{
	const struct tn_tensor *source = tn_target_source(t);
	struct tn_tensor *result;
	TN_TRY(tn_arena_alloc(&fuse->arena, sizeof *result, &result, err));
	*result = *source;
	result->name = t->name;
	result->dtype = tn_target_dtype(t);
	result->bytes = result->elements * tn_dtype_bits(result->dtype) / 8;
	result->shard = t->base ? t->base->shard : 0;
	result->offset = t->base ? t->base->offset : 0;
	*out = result;
	return TN_OK;
}

static tn_status plan_tensors(struct tn_fuse *fuse, struct tn_error *err)
{
	fuse->count = fuse->joint->target_count;
	TN_TRY(tn_arena_array(&fuse->arena, fuse->count, sizeof *fuse->planned, &fuse->planned, err));
	TN_TRY(tn_arena_array(&fuse->arena, fuse->count, sizeof *fuse->steps, &fuse->steps, err));
	for (size_t i = 0; i < fuse->count; i++) {
		struct tn_tensor *result;
		const struct tn_target *t = &fuse->joint->targets[i];
		TN_TRY(describe_result(fuse, t, &result, err));
		fuse->planned[i] = plan_target(fuse, i, result);
		fuse->steps[i] = (struct tn_fuse_step){ i, result, tn_edit_form_of(fuse->joint, t) };
		fuse->changed_count += fuse->planned[i].action != TN_ACTION_COPY;
	}
	return TN_OK;
}

static int compare_steps(const void *a, const void *b)
{
	const struct tn_tensor *x = ((const struct tn_fuse_step *)a)->result, *y = ((const struct tn_fuse_step *)b)->result;
	if (x->shard != y->shard)
		return x->shard < y->shard ? -1 : 1;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return strcmp(x->name, y->name);
}

tn_status tn_fuse_plan(tn_context *ctx, const tn_checkpoint *base, const tn_adapter *adapter, tn_fuse **out,
		       struct tn_error *err)
{
	struct tn_arena arena;
	tn_fuse *fuse;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *fuse, &fuse, err));
	fuse->ctx = ctx;
	fuse->arena = arena;
	fuse->base = base;
	fuse->adapter = adapter;
	tn_status status = tn_joint_make(adapter, base, &fuse->arena, &fuse->joint, err);
	if (status == TN_OK)
		status = plan_tensors(fuse, err);
	if (status != TN_OK) {
		tn_fuse_free(fuse);
		return status;
	}
	if (fuse->count > 1)
		qsort(fuse->steps, fuse->count, sizeof *fuse->steps, compare_steps);
	*out = fuse;
	return TN_OK;
}

void tn_fuse_free(tn_fuse *fuse)
{
	if (!fuse)
		return;
	struct tn_arena arena = fuse->arena;
	tn_arena_release(&arena);
}

size_t tn_fuse_count(const tn_fuse *fuse)
{
	return fuse->count;
}

const struct tn_planned_tensor *tn_fuse_at(const tn_fuse *fuse, size_t i)
{
	return i < fuse->count ? &fuse->planned[i] : NULL;
}

size_t tn_fuse_merged_count(const tn_fuse *fuse)
{
	return fuse->changed_count;
}

uint64_t tn_fuse_work_bytes(const tn_fuse *fuse)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < fuse->count; i++)
		bytes += tn_target_source(&fuse->joint->targets[i])->bytes + fuse->planned[i].tensor->bytes;
	return bytes;
}

/* Slots stay in memory from the first item that takes them to the last: what lives beside each item. */
static tn_status add_slots(const struct tn_fuse *fuse, struct tn_arena *arena, struct tn_block_item *items,
			   struct tn_error *err)
{
	const struct tn_joint *j = fuse->joint;
	size_t *first, *last;
	TN_TRY(tn_arena_array(arena, j->slot_count, sizeof *first, &first, err));
	TN_TRY(tn_arena_array(arena, j->slot_count, sizeof *last, &last, err));
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_target *t = &j->targets[fuse->steps[i].target];
		for (size_t l = 0; l < t->landing_count; l++) {
			size_t slot = j->landings[t->first_landing + l].slot;
			first[slot] = last[slot] ? first[slot] : i;
			last[slot] = i + 1;
		}
	}
	for (size_t s = 0; s < j->slot_count; s++) {
		uint64_t bytes = last[s] ? tn_delta_cache_bytes(j, &j->slots[s]) : 0;
		for (size_t i = first[s]; i < last[s]; i++)
			items[i].shared_bytes += bytes;
	}
	return TN_OK;
}

tn_status tn_fuse_cut(const struct tn_fuse *fuse, int compare, struct tn_arena *arena, struct tn_blocks *blocks,
		      struct tn_error *err)
{
	blocks->item_count = fuse->count;
	TN_TRY(tn_arena_array(arena, fuse->count, sizeof *blocks->items, &blocks->items, err));
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_edit_form *f = &fuse->steps[i].form;
		blocks->items[i] = (struct tn_block_item){
			.units = f->units,
			.unit_bytes = f->source_bytes + (f->converts || compare ? f->result_bytes : 0) * (compare ? 2 : 1),
			.fixed_bytes = f->row_bytes + 320 + (compare ? 2 * f->result_bytes : 0),
			.work_bytes = f->units * (f->source_bytes + f->result_bytes),
		};
	}
	TN_TRY(add_slots(fuse, arena, blocks->items, err));
	return tn_blocks_cut(fuse->ctx, blocks, compare ? "verify" : "fuse", err);
}

tn_status tn_fuse_memory(const tn_fuse *fuse, uint64_t *bytes, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_blocks blocks;
	tn_arena_init(&arena, fuse->ctx);
	tn_status status = tn_fuse_cut(fuse, 0, &arena, &blocks, err);
	if (status == TN_OK)
		*bytes = blocks.memory_bytes;
	tn_arena_release(&arena);
	return status;
}

static void planned_json(struct tn_json_out *out, const struct tn_fuse *fuse, const struct tn_planned_tensor *p)
{
	tn_json_out_begin_line(out, '{');
	tn_json_out_key(out, "name");
	tn_json_out_string(out, p->tensor->name);
	tn_json_out_key(out, "action");
	tn_json_out_string(out, tn_action_name(p->action));
	tn_json_out_key(out, "dtype");
	tn_json_out_string(out, tn_dtype_name(p->tensor->dtype));
	tn_json_out_key(out, "shape");
	tn_json_out_begin(out, '[');
	for (uint32_t i = 0; i < p->tensor->rank; i++)
		tn_json_out_u64(out, p->tensor->shape[i]);
	tn_json_out_end(out, ']');
	tn_json_out_key(out, "bytes");
	tn_json_out_u64(out, p->tensor->bytes);
	tn_json_out_key(out, "shard");
	tn_json_out_string(out, tn_checkpoint_shard_name(fuse->base, p->tensor->shard));
	if (p->module) {
		tn_json_out_key(out, "module");
		tn_json_out_string(out, p->module->path);
		tn_json_out_key(out, "kind");
		tn_json_out_string(out, tn_module_kind_name(p->module->kind));
		tn_json_out_key(out, "rank");
		tn_json_out_u64(out, p->module->rank);
		tn_json_out_key(out, "scale");
		tn_json_out_double(out, p->module->scale);
	}
	tn_json_out_end(out, '}');
}

tn_status tn_fuse_plan_json(const tn_fuse *fuse, tn_write_fn write, void *user, struct tn_error *err)
{
	uint64_t memory;
	TN_TRY(tn_fuse_memory(fuse, &memory, err));
	struct tn_json_out out;
	tn_json_out_init(&out, fuse->ctx, write, user);
	tn_json_out_begin(&out, '{');
	tn_json_out_key(&out, "base");
	tn_json_out_string(&out, tn_checkpoint_path(fuse->base));
	tn_json_out_key(&out, "adapter");
	tn_json_out_string(&out, tn_adapter_path(fuse->adapter));
	tn_json_out_key(&out, "dialect");
	tn_json_out_string(&out, tn_adapter_dialect_name(tn_adapter_dialect_of(fuse->adapter)));
	tn_json_out_key(&out, "bytes");
	tn_json_out_u64(&out, tn_checkpoint_tensor_bytes(fuse->base));
	tn_json_out_key(&out, "shards");
	tn_json_out_u64(&out, tn_checkpoint_shard_count(fuse->base));
	tn_json_out_key(&out, "memory_bytes");
	tn_json_out_u64(&out, memory);
	tn_json_out_key(&out, "merged");
	tn_json_out_u64(&out, fuse->changed_count);
	tn_json_out_key(&out, "copied");
	tn_json_out_u64(&out, fuse->count - fuse->changed_count);
	tn_json_out_key(&out, "config");
	tn_json_out_begin(&out, '{');
	for (size_t i = 0; i < fuse->joint->edit_count; i++) {
		const struct tn_config_edit *edit = &fuse->joint->edits[i];
		tn_json_out_key(&out, edit->key);
		if (edit->is_flag)
			tn_json_out_bool(&out, edit->value != 0);
		else
			tn_json_out_u64(&out, edit->value);
	}
	tn_json_out_end(&out, '}');
	tn_json_out_key(&out, "tensors");
	tn_json_out_begin(&out, '[');
	for (size_t i = 0; i < fuse->count; i++)
		planned_json(&out, fuse, &fuse->planned[i]);
	tn_json_out_end(&out, ']');
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}
