/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/fuse.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"
#include "transform/delta_cache.h"
#include "transform/output.h"

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

static tn_status copy_block(struct run *run, const struct tn_block *block, void *scratch, struct tn_error *err)
{
	const struct tn_tensor *t = run->fuse->steps[block->item].tensor;
	if (run->shards[t->shard].sparse &&
	    tn_tensor_is_hole(run->fuse->base->shards[t->shard], t, block->first, block->count))
		return TN_OK;
	TN_TRY(tn_checkpoint_read(run->fuse->base, t, block->first, scratch, (size_t)block->count, err));
	return tn_output_put(run->output, t->shard, run->outputs[block->item], block->first, scratch, (size_t)block->count,
			     err);
}

/* Rows are edited where they lie: the dtype stays. */
static void edit_rows(const struct tn_fuse *fuse, const struct tn_tensor *t, const struct tn_delta *delta, uint64_t first,
		      uint64_t count, unsigned char *rows, void *scratch)
{
	const struct tn_kernels *k = fuse->ctx->kernels;
	const struct tn_codec *codec = k->codec[TN_CODEC_dense];
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = t->dtype };
	size_t row_bytes = (size_t)(t->bytes / t->shape[0]);
	float *w = scratch;
	void *delta_scratch = (unsigned char *)scratch + tn_align_up(delta->in * sizeof *w, 64);
	for (uint64_t i = 0; i < count; i++) {
		unsigned char *bytes = rows + i * row_bytes;
		struct tn_row in = { { bytes } };
		struct tn_row_out out = { { bytes } };
		codec->decode(w, &in, &format, delta->in);
		if (t->dtype == TN_F32)
			tn_delta_edit_f64(k, delta, (size_t)(first + i), w, delta_scratch);
		else
			tn_delta_edit_f32(k, delta, (size_t)(first + i), w, delta_scratch);
		codec->encode(&out, w, &format, delta->in);
	}
}

static tn_status merge_block(struct run *run, const struct tn_block *block, size_t landing, unsigned char *scratch,
			     struct tn_error *err)
{
	const struct tn_tensor *t = run->fuse->steps[block->item].tensor;
	uint64_t row_bytes = t->bytes / t->shape[0], offset = block->first * row_bytes;
	size_t bytes = (size_t)(block->count * row_bytes);
	const struct tn_delta *delta;
	TN_TRY(tn_delta_cache_take(run->deltas, landing, &delta, err));
	tn_status status = tn_checkpoint_read(run->fuse->base, t, offset, scratch, bytes, err);
	if (status == TN_OK) {
		edit_rows(run->fuse, t, delta, block->first, block->count, scratch, scratch + tn_align_up(bytes, 64));
		status = tn_output_put(run->output, t->shard, run->outputs[block->item], offset, scratch, bytes, err);
	}
	tn_delta_cache_return(run->deltas, landing);
	return status;
}

static tn_status run_block(void *arg, const struct tn_block *block, void *scratch, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_fuse_step *step = &run->fuse->steps[block->item];
	if (step->landing == TN_NO_LANDING)
		TN_TRY(copy_block(run, block, scratch, err));
	else
		TN_TRY(merge_block(run, block, (size_t)step->landing, scratch, err));
	uint32_t shard = step->tensor->shard;
	if (atomic_fetch_sub(&run->shard_blocks_left[shard], 1) == 1)
		return tn_output_finish_shard(run->output, shard, err);
	return TN_OK;
}

/* ---- preparing ------------------------------------------------------------------------------------------- */

/* The output has the shards of the input, with the same tensors in each; where the input has holes, it has them too. */
static tn_status describe_shards(struct run *run, struct tn_error *err)
{
	const tn_checkpoint *base = run->fuse->base;
	size_t n = base->shard_count;
	TN_TRY(tn_arena_array(&run->arena, n, sizeof *run->shards, &run->shards, err));
	TN_TRY(tn_arena_array(&run->arena, run->fuse->count, sizeof(struct tn_tensor *), &run->outputs, err));
	for (size_t i = 0, step = 0; i < n; i++) {
		struct tn_output_shard *shard = &run->shards[i];
		const struct tn_st_header *header = &base->shards[i]->header;
		*shard = (struct tn_output_shard){ base->shard_names[i], NULL, header->count, header->metadata,
						   header->metadata_count,
						   tn_file_is_sparse(&base->shards[i]->file) };
		TN_TRY(tn_arena_array(&run->arena, shard->count, sizeof(struct tn_tensor *), &shard->tensors, err));
		for (size_t j = 0; j < shard->count; j++, step++) {
			struct tn_tensor *copy;
			TN_TRY(tn_arena_alloc(&run->arena, sizeof *copy, &copy, err));
			*copy = *run->fuse->steps[step].tensor;
			shard->tensors[j] = run->outputs[step] = copy;
		}
	}
	return TN_OK;
}

static tn_status count_blocks(struct run *run, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	uint64_t *landing_blocks;
	TN_TRY(tn_arena_array(&run->arena, fuse->base->shard_count, sizeof *run->shard_blocks_left, &run->shard_blocks_left,
			      err));
	TN_TRY(tn_arena_array(&run->arena, fuse->landing_count, sizeof *landing_blocks, &landing_blocks, err));
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_block_item *item = &run->blocks.items[i];
		uint64_t blocks = tn_ceil_div(item->units, item->units_per_block);
		run->shard_blocks_left[fuse->steps[i].tensor->shard] += blocks;
		if (fuse->steps[i].landing != TN_NO_LANDING)
			landing_blocks[fuse->steps[i].landing] = blocks;
	}
	return tn_delta_cache_create(fuse->adapter, fuse->landings, landing_blocks, fuse->landing_count, &run->deltas, err);
}

/* A shard whose tensors are all empty has no block that could finish it. */
static tn_status finish_empty_shards(struct run *run, struct tn_error *err)
{
	for (size_t i = 0; i < run->fuse->base->shard_count; i++)
		if (run->shard_blocks_left[i] == 0)
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
		n += fuse->steps[i].tensor->elements;
	return n;
}

/* ---- running --------------------------------------------------------------------------------------------- */

static tn_status write_output(struct run *run, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	struct tn_block_work work = { run_block, run, "fuse" };
	TN_TRY(tn_output_copy_sidecars(run->output, fuse->base->path, err));
	if (fuse->base->config)
		TN_TRY(tn_output_write(run->output, "config.json", fuse->base->config, strlen(fuse->base->config), err));
	TN_TRY(finish_empty_shards(run, err));
	TN_TRY(tn_blocks_run(fuse->ctx, &run->blocks, &work, err));
	return tn_output_commit(run->output, parameters_of(fuse), TN_INDEX_TRANSFORMERS, err);
}

static tn_status run_fuse(struct run *run, const char *save_path, int force, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	TN_TRY(check_save_path(fuse, save_path, err));
	TN_TRY(tn_fuse_cut(fuse, &run->arena, &run->blocks, err));
	TN_TRY(describe_shards(run, err));
	TN_TRY(count_blocks(run, err));
	TN_TRY(tn_output_begin(fuse->ctx, save_path, force, run->shards, fuse->base->shard_count, &run->output, err));
	tn_status status = write_output(run, err);
	if (status != TN_OK)
		tn_output_abort(run->output);
	return status;
}

tn_status tn_fuse_run(const tn_fuse *fuse, const char *save_path, int force, struct tn_error *err)
{
	struct run run = { .fuse = fuse };
	tn_arena_init(&run.arena, fuse->ctx);
	tn_status status = run_fuse(&run, save_path, force, err);
	tn_delta_cache_free(run.deltas);
	tn_arena_release(&run.arena);
	return status;
}
