/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/fuse.h"

#include "base/error.h"
#include "store/json_out.h"
#include "transform/delta_cache.h"

#include <stdlib.h>
#include <string.h>

const char *tn_action_name(tn_action action)
{
	return action == TN_ACTION_MERGE ? "merged" : "copied";
}

/* Landings are sorted by the name of their tensor, as the planned tensors are: walk them together. */
static tn_status plan_tensors(struct tn_fuse *fuse, struct tn_error *err)
{
	fuse->count = tn_checkpoint_count(fuse->base);
	TN_TRY(tn_arena_array(&fuse->arena, fuse->count, sizeof *fuse->planned, &fuse->planned, err));
	TN_TRY(tn_arena_array(&fuse->arena, fuse->count, sizeof *fuse->steps, &fuse->steps, err));
	size_t next = 0;
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_tensor *t = tn_checkpoint_at(fuse->base, i);
		int merged = next < fuse->landing_count && fuse->landings[next].weight == t;
		fuse->planned[i] = (struct tn_planned_tensor){
			t, merged ? TN_ACTION_MERGE : TN_ACTION_COPY, merged ? &fuse->landings[next].entry->module : NULL,
		};
		fuse->steps[i] = (struct tn_fuse_step){ t, merged ? (int64_t)next : TN_NO_LANDING };
		next += (size_t)merged;
	}
	return TN_OK;
}

static int compare_steps(const void *a, const void *b)
{
	const struct tn_tensor *x = ((const struct tn_fuse_step *)a)->tensor, *y = ((const struct tn_fuse_step *)b)->tensor;
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
	fuse->landing_count = tn_adapter_count(adapter);
	tn_status status = tn_adapter_land(adapter, base, &fuse->arena, &fuse->landings, err);
	if (status == TN_OK)
		status = plan_tensors(fuse, err);
	if (status != TN_OK) {
		tn_fuse_free(fuse);
		return status;
	}
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
	return fuse->landing_count;
}

uint64_t tn_fuse_work_bytes(const tn_fuse *fuse)
{
	return 2 * tn_checkpoint_tensor_bytes(fuse->base);
}

/* A merged row: its bytes in the block buffer; beside it one row of float32 and the scratch of the delta. */
static struct tn_block_item merge_item(const struct tn_tensor *t, const struct tn_adapter_entry *entry)
{
	struct tn_delta shape = { .rank = (size_t)entry->module.rank, .in = (size_t)entry->module.in_features };
	return (struct tn_block_item){
		.units = t->shape[0],
		.unit_bytes = t->shape[0] ? t->bytes / t->shape[0] : 0,
		.fixed_bytes = tn_delta_scratch_bytes(&shape) + t->shape[1] * sizeof(float) + 128,
		.shared_bytes = tn_delta_cache_bytes(entry),
		.work_bytes = 2 * t->bytes,
	};
}

tn_status tn_fuse_cut(const struct tn_fuse *fuse, struct tn_arena *arena, struct tn_blocks *blocks, struct tn_error *err)
{
	blocks->item_count = fuse->count;
	TN_TRY(tn_arena_array(arena, fuse->count, sizeof *blocks->items, &blocks->items, err));
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_fuse_step *step = &fuse->steps[i];
		const struct tn_tensor *t = step->tensor;
		if (step->landing != TN_NO_LANDING)
			blocks->items[i] = merge_item(t, fuse->landings[step->landing].entry);
		else
			blocks->items[i] = (struct tn_block_item){ t->bytes, 1, 0, 0, 2 * t->bytes, 0, 0 };
	}
	return tn_blocks_cut(fuse->ctx, blocks, "fuse", err);
}

tn_status tn_fuse_memory(const tn_fuse *fuse, uint64_t *bytes, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_blocks blocks;
	tn_arena_init(&arena, fuse->ctx);
	tn_status status = tn_fuse_cut(fuse, &arena, &blocks, err);
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
	tn_json_out_u64(&out, fuse->landing_count);
	tn_json_out_key(&out, "copied");
	tn_json_out_u64(&out, fuse->count - fuse->landing_count);
	tn_json_out_key(&out, "tensors");
	tn_json_out_begin(&out, '[');
	for (size_t i = 0; i < fuse->count; i++)
		planned_json(&out, fuse, &fuse->planned[i]);
	tn_json_out_end(&out, ']');
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}
