/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/fuse.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"
#include "transform/delta_cache.h"
#include "transform/output.h"
#include "transform/plan_id.h"

#include <stdatomic.h>
#include <string.h>

struct run {
	const struct tn_fuse *fuse;
	struct tn_arena arena;
	struct tn_blocks blocks;
	struct tn_output_shard *shards;
	struct tn_tensor **outputs;           /* of step i */
	_Atomic uint64_t *shard_blocks_left;
	struct tn_delta_cache *deltas;
	struct tn_output *output;
};

/* ---- one block ------------------------------------------------------------------------------------------- */

/* What is copied and was never written stays so. */
static int is_hole(const struct run *run, const struct tn_fuse_step *step, const struct tn_block *block)
{
	const struct tn_target *target = &run->fuse->joint->targets[step->target];
	const struct tn_tensor *t = target->base;
	if (!run->shards[step->result->shard].sparse || target->landing_count || target->replacement || !t)
		return 0;
	return tn_tensor_is_hole(run->fuse->base->shards[t->shard], t, block->first * step->form.source_bytes,
				 block->count * step->form.source_bytes);
}

static tn_status run_block(void *arg, const struct tn_block *block, void *scratch, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_fuse_step *step = &run->fuse->steps[block->item];
	const struct tn_joint *joint = run->fuse->joint;
	const struct tn_target *target = &joint->targets[step->target];
	const struct tn_edit_form *f = &step->form;
	uint32_t shard = step->result->shard;
	size_t source_bytes = tn_align_up((size_t)(block->count * f->source_bytes), 64);
	size_t result_bytes = (size_t)(block->count * f->result_bytes);
	unsigned char *source = scratch, *result = f->converts ? source + source_bytes : source;
	unsigned char *rest = source + source_bytes + (f->converts ? tn_align_up(result_bytes, 64) : 0);
	if (tn_output_has_shard(run->output, shard))
		return TN_OK;
	if (!is_hole(run, step, block)) {
		TN_TRY(tn_edit_read(joint, target, f, block->first, block->count, source, err));
		if (target->landing_count || f->converts)
			TN_TRY(tn_edit_units(joint, target, f, run->deltas, block->first, block->count, source, result, rest, err));
		TN_TRY(tn_output_put(run->output, shard, run->outputs[block->item], block->first * f->result_bytes, result,
				     result_bytes, err));
	}
	if (atomic_fetch_sub(&run->shard_blocks_left[shard], 1) == 1)
		return tn_output_finish_shard(run->output, shard, err);
	return TN_OK;
}

/* ---- preparing ------------------------------------------------------------------------------------------- */

/* The output has the shards of the input; new tensors stand beside what they are made from. Where the input has holes, it
 * has them too. */
static tn_status describe_shards(struct run *run, struct tn_error *err)
{
	const tn_checkpoint *base = run->fuse->base;
	size_t n = base->shard_count;
	TN_TRY(tn_arena_array(&run->arena, n, sizeof *run->shards, &run->shards, err));
	TN_TRY(tn_arena_array(&run->arena, run->fuse->count, sizeof(struct tn_tensor *), &run->outputs, err));
	for (size_t i = 0, step = 0; i < n; i++) {
		struct tn_output_shard *shard = &run->shards[i];
		const struct tn_st_header *header = &base->shards[i]->header;
		size_t first = step;
		while (step < run->fuse->count && run->fuse->steps[step].result->shard == i)
			step++;
		*shard = (struct tn_output_shard){ base->shard_names[i], NULL, step - first, header->metadata,
						   header->metadata_count, tn_file_is_sparse(&base->shards[i]->file) };
		TN_TRY(tn_arena_array(&run->arena, shard->count, sizeof(struct tn_tensor *), &shard->tensors, err));
		for (size_t k = 0; k < shard->count; k++) {
			struct tn_tensor *copy;
			TN_TRY(tn_arena_alloc(&run->arena, sizeof *copy, &copy, err));
			*copy = *run->fuse->steps[first + k].result;
			shard->tensors[k] = run->outputs[first + k] = copy;
		}
	}
	return TN_OK;
}

/* Of the shards that are still to do. */
static tn_status count_blocks(struct run *run, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	uint64_t *takes;
	TN_TRY(tn_arena_array(&run->arena, fuse->base->shard_count, sizeof *run->shard_blocks_left, &run->shard_blocks_left,
			      err));
	TN_TRY(tn_arena_array(&run->arena, fuse->joint->slot_count, sizeof *takes, &takes, err));
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_block_item *item = &run->blocks.items[i];
		if (tn_output_has_shard(run->output, fuse->steps[i].result->shard))
			continue;
		run->shard_blocks_left[fuse->steps[i].result->shard] += tn_ceil_div(item->units, item->units_per_block);
		tn_edit_count_takes(fuse->joint, &fuse->joint->targets[fuse->steps[i].target], item->units_per_block, takes);
	}
	return tn_delta_cache_create(fuse->joint, takes, &run->deltas, err);
}

/* A shard whose tensors are all empty has no block that could finish it. */
static tn_status finish_empty_shards(struct run *run, struct tn_error *err)
{
	for (size_t i = 0; i < run->fuse->base->shard_count; i++)
		if (run->shard_blocks_left[i] == 0 && !tn_output_has_shard(run->output, i))
			TN_TRY(tn_output_finish_shard(run->output, i, err));
	return TN_OK;
}

static tn_status check_save_path(const struct tn_fuse *fuse, const char *save_path, struct tn_error *err)
{
	if (!fuse->base->is_folder)
		return tn_fail(err, TN_E_ARG, fuse->base->path,
			       "'%s' is a file; a fuse writes a whole model folder and needs one as its base", fuse->base->path);
	TN_TRY(tn_output_check_path(save_path, fuse->base->path, err));
	return tn_output_check_path(save_path, fuse->adapter->path, err);
}

static uint64_t parameters_of(const struct tn_fuse *fuse)
{
	uint64_t n = 0;
	for (size_t i = 0; i < fuse->count; i++)
		n += fuse->steps[i].result->elements;
	return n;
}

/* ---- running --------------------------------------------------------------------------------------------- */

static tn_status write_config(struct run *run, struct tn_error *err)
{
	struct tn_text text;
	tn_text_init(&text, run->fuse->ctx);
	tn_status status = tn_fuse_config(run->fuse, &text, err);
	if (status == TN_OK && text.length)
		status = tn_output_write(run->output, "config.json", text.data, text.length, err);
	tn_text_release(&text);
	return status;
}

static tn_status write_output(struct run *run, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	struct tn_block_work work = { run_block, run, "fuse" };
	TN_TRY(count_blocks(run, err));
	TN_TRY(tn_output_copy_sidecars(run->output, fuse->base->path, NULL, err));
	TN_TRY(write_config(run, err));
	TN_TRY(finish_empty_shards(run, err));
	TN_TRY(tn_blocks_run(fuse->ctx, &run->blocks, &work, err));
	return tn_output_commit(run->output, parameters_of(fuse), TN_INDEX_TRANSFORMERS, err);
}

static struct tn_output_place place_of(const struct tn_fuse *fuse, const char *save_path, unsigned flags)
{
	struct tn_output_place place = { .path = save_path, .flags = flags };
	struct tn_sha256 id;
	tn_plan_id_begin(&id, "fuse");
	tn_plan_id_add_checkpoint(&id, fuse->base);
	tn_plan_id_add_adapter(&id, fuse->adapter);
	tn_sha256_finish(&id, place.plan_id);
	return place;
}

static tn_status run_fuse(struct run *run, const char *save_path, unsigned flags, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	struct tn_output_place place = place_of(fuse, save_path, flags);
	TN_TRY(check_save_path(fuse, save_path, err));
	TN_TRY(tn_fuse_cut(fuse, 0, &run->arena, &run->blocks, err));
	TN_TRY(describe_shards(run, err));
	TN_TRY(tn_output_begin(fuse->ctx, &place, run->shards, fuse->base->shard_count, &run->output, err));
	tn_status status = write_output(run, err);
	if (status != TN_OK)
		tn_output_abort(run->output);
	return status;
}

tn_status tn_fuse_run(const tn_fuse *fuse, const char *save_path, unsigned flags, struct tn_error *err)
{
	struct run run = { .fuse = fuse };
	tn_arena_init(&run.arena, fuse->ctx);
	tn_status status = run_fuse(&run, save_path, flags, err);
	tn_delta_cache_free(run.deltas);
	tn_arena_release(&run.arena);
	return status;
}
