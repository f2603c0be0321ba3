/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/fuse.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "store/checkpoint.h"
#include "store/consume.h"
#include "store/safetensors.h"
#include "store/staging.h"
#include "transform/delta_cache.h"
#include "transform/output.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

struct run {
	struct tn_fuse *fuse;
	struct tn_arena arena;
	struct tn_blocks blocks;
	struct tn_output_shard *shards;
	size_t *first_step;                   /* of each shard, and behind the last one */
	struct tn_survival_sums *sums;        /* of every step */
	uint64_t *shard_blocks_left;          /* that are not folded */
	_Atomic size_t complete;              /* shards before this one have all their blocks */
	_Atomic size_t finished;              /* shards before this one are durable, or somebody is at them */
	struct tn_delta_cache *deltas;
	struct tn_output *output;
	struct tn_buffer remarks;             /* of the run that is taken up again */
	struct tn_consumption *consumption;   /* NULL: the base stays */
	int base_lock;                        /* of a base that is used up; else -1 */
	int has_choices;                      /* from the remarks */
	char words[TN_PLAN_WORDS];            /* what is made, for people */
};

/* ---- one block ------------------------------------------------------------------------------------------- */

/* What is copied and was never written stays so. */
static int is_hole(const struct run *run, const struct tn_fuse_step *step, const struct tn_block *block)
{
	const struct tn_target *target = &run->fuse->joint->targets[step->target];
	const struct tn_tensor *t = target->base;
	if (!run->shards[step->shard].sparse || step->form.by_rows || target->replacement || !t)
		return 0;
	return tn_tensor_is_hole(run->fuse->base->shards[t->shard], t, block->first, block->count);
}

tn_status tn_fuse_check_finite(const struct tn_fuse *fuse, const struct tn_fuse_step *step,
			       const struct tn_survival_sums *sum, struct tn_error *err)
{
	const char *name = fuse->joint->targets[step->target].name;
	if (!sum->not_finite || fuse->options.allow_nonfinite)
		return TN_OK;
	return tn_fail(err, TN_E_MISMATCH, name, "'%.120s' would hold NaN or infinity: the base does already, or the sum with the "
		       "adapter is too large for %s; --allow-nonfinite writes it all the same", name,
		       tn_dtype_name(step->form.out.dtype));
}

/* What a block goes through the stages with. */
struct passage {
	struct tn_survival_sums sum;
	struct tn_edit_block block;
	int is_skipped;
};

static tn_status read_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_fuse_step *step = &run->fuse->steps[block->item];
	struct passage *p = result;
	p->is_skipped = tn_output_has_shard(run->output, step->shard) || is_hole(run, step, block);
	if (p->is_skipped)
		return TN_OK;
	tn_edit_place(&step->form, step->outputs, block->first, block->count, scratch, &p->block);
	return tn_edit_read(run->fuse->joint, &step->form, &p->block, err);
}

static tn_status run_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_fuse_step *step = &run->fuse->steps[block->item];
	const struct tn_joint *joint = run->fuse->joint;
	struct passage *p = result;
	(void)scratch;
	if (p->is_skipped)
		return TN_OK;
	TN_TRY(tn_edit_units(joint, &joint->targets[step->target], &step->form, run->deltas, &p->block, &p->sum, err));
	TN_TRY(tn_fuse_check_finite(run->fuse, step, &p->sum, err));
	return tn_fuse_check_dense(run->fuse, step, &p->sum, err);
}

static tn_status write_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_fuse_step *step = &run->fuse->steps[block->item];
	struct passage *p = result;
	(void)scratch;
	if (p->is_skipped)
		return TN_OK;
	return tn_edit_write(run->fuse->joint, &step->form, &p->block, run->output, step->shard, step->outputs, err);
}

/* In the order of blocks, whatever thread did them. */
static void fold(void *arg, const struct tn_block *block, const void *result)
{
	struct run *run = arg;
	const struct passage *p = result;
	uint32_t shard = run->fuse->steps[block->item].shard;
	tn_survival_add(&run->sums[block->item], &p->sum);
	if (!tn_output_has_shard(run->output, shard) && --run->shard_blocks_left[shard] == 0)
		atomic_store(&run->complete, shard + 1);
}

/* What was measured of the steps of a shard goes into the journal with it. */
static tn_status finish_shard(struct run *run, size_t shard, struct tn_error *err)
{
	for (size_t i = run->first_step[shard]; i < run->first_step[shard + 1]; i++)
		if (run->fuse->steps[i].form.is_measured && run->sums[i].codes)
			TN_TRY(tn_fuse_note_sums(run->output, i, &run->sums[i], err));
	return tn_output_finish_shard(run->output, shard, err);
}

/* Makes shards durable that have all their blocks. A shard whose tensors are all empty has none. */
static tn_status finish_shards(void *arg, struct tn_error *err)
{
	struct run *run = arg;
	size_t i = atomic_load(&run->finished);
	while (i < atomic_load(&run->complete)) {
		if (!atomic_compare_exchange_weak(&run->finished, &i, i + 1))
			continue;
		if (!tn_output_has_shard(run->output, i))
			TN_TRY(finish_shard(run, i, err));
		i = atomic_load(&run->finished);
	}
	return TN_OK;
}

/* ---- preparing ------------------------------------------------------------------------------------------- */

/* Their data is in PyTorch's layout once nothing is quantized in MLX's. */
static void describe_metadata(const struct run *run, struct tn_output_shard *shard, const struct tn_st_header *header)
{
	static const struct tn_st_metadata pt = { "format", "pt" };
	int was_quantized = 0;
	for (size_t i = 0; i < run->fuse->joint->target_count; i++)
		was_quantized |= run->fuse->joint->targets[i].matrix != NULL;
	int dense = was_quantized && run->fuse->options.dequantize;
	shard->metadata = dense ? &pt : header->metadata;
	shard->metadata_count = dense ? 1 : header->metadata_count;
}

/* The output has the shards of the input; new tensors stand beside what they are made from. Where the input has holes, it
 * has them too. */
static tn_status describe_shards(struct run *run, struct tn_error *err)
{
	const tn_checkpoint *base = run->fuse->base;
	size_t n = base->shard_count;
	TN_TRY(tn_arena_array(&run->arena, n, sizeof *run->shards, &run->shards, err));
	TN_TRY(tn_arena_array(&run->arena, n + 1, sizeof *run->first_step, &run->first_step, err));
	for (size_t i = 0, step = 0; i < n; i++) {
		struct tn_output_shard *shard = &run->shards[i];
		size_t first = step;
		while (step < run->fuse->step_count && run->fuse->steps[step].shard == i)
			step++;
		run->first_step[i + 1] = step;
		*shard = (struct tn_output_shard){ .name = base->shard_names[i],
						   .sparse = tn_file_is_sparse(&base->shards[i]->file) };
		describe_metadata(run, shard, &base->shards[i]->header);
		TN_TRY(tn_arena_array(&run->arena, (step - first) * TN_PART_COUNT, sizeof(struct tn_tensor *), &shard->tensors,
				      err));
		for (size_t k = first; k < step; k++)
			for (unsigned p = 0; p < TN_PART_COUNT; p++)
				if (run->fuse->steps[k].outputs[p])
					shard->tensors[shard->count++] = run->fuse->steps[k].outputs[p];
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
	TN_TRY(tn_arena_array(&run->arena, fuse->step_count, sizeof *run->sums, &run->sums, err));
	if (run->remarks.data)
		tn_fuse_recall_sums(fuse, run->remarks.data, run->sums);
	for (size_t i = 0; i < fuse->step_count; i++) /* what is done again is measured again */
		if (!tn_output_has_shard(run->output, fuse->steps[i].shard))
			run->sums[i] = (struct tn_survival_sums){ 0 };
	TN_TRY(tn_arena_array(&run->arena, fuse->joint->slot_count, sizeof *takes, &takes, err));
	for (size_t i = 0; i < fuse->step_count; i++) {
		const struct tn_block_item *item = &run->blocks.items[i];
		if (tn_output_has_shard(run->output, fuse->steps[i].shard))
			continue;
		run->shard_blocks_left[fuse->steps[i].shard] += tn_ceil_div(item->units, item->units_per_block);
		tn_edit_count_takes(fuse->joint, &fuse->joint->targets[fuse->steps[i].target], item->units_per_block, takes);
	}
	return tn_delta_cache_create(fuse->joint, takes, &run->deltas, err);
}

static tn_status check_inputs(const tn_fuse *fuse, const char *save_path, struct tn_error *err)
{
	if (!fuse->base->is_folder)
		return tn_fail(err, TN_E_ARG, fuse->base->path,
			       "'%s' is a file; a fuse writes a whole model folder and needs one as its base", fuse->base->path);
	TN_TRY(tn_output_check_base(save_path, fuse->base, err));
	if (fuse->options.dense_base)
		TN_TRY(tn_output_check_base(save_path, fuse->options.dense_base, err));
	for (size_t i = 0; i < fuse->adapter_count; i++)
		TN_TRY(tn_adapter_check_path(fuse->adapters[i].adapter, save_path, err));
	return TN_OK;
}

tn_status tn_fuse_check_path(const tn_fuse *fuse, const char *save_path, unsigned flags, struct tn_error *err)
{
	struct tn_consumption consumption;
	TN_TRY(check_inputs(fuse, save_path, err));
	return flags & TN_SAVE_CONSUME ? tn_consumption_open(fuse, save_path, flags, &consumption, err) : TN_OK;
}

/* Logical ones: of a packed weight its values, of what stands beside it none. */
static uint64_t parameters_of(const struct tn_fuse *fuse)
{
	uint64_t n = 0;
	for (size_t i = 0; i < fuse->step_count; i++) {
		const struct tn_fuse_step *step = &fuse->steps[i];
		const struct tn_target *t = &fuse->joint->targets[step->target];
		if (step->form.by_rows)
			n += step->form.units * step->form.cols;
		else if (t->matrix)
			n += t->matrix->rows * t->matrix->cols;
		else if (!t->base || !tn_is_triple_part(fuse->base, t->base))
			n += step->outputs[TN_PART_WEIGHT]->elements;
	}
	return n;
}

static tn_status report(struct run *run, struct tn_error *err)
{
	for (size_t i = 0; i < run->fuse->step_count; i++)
		if (run->fuse->steps[i].form.is_measured && run->sums[i].codes)
			TN_TRY(tn_fuse_report(run->fuse, &run->fuse->steps[i], &run->sums[i], err));
	return TN_OK;
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

static const struct tn_block_work fuse_work = { .read = read_block, .run = run_block, .write = write_block, .phase = "fuse",
						.result_bytes = sizeof(struct passage), .fold = fold, .follow = finish_shards };

static tn_status write_all_shards(struct run *run, struct tn_error *err)
{
	struct tn_block_work work = fuse_work;
	work.arg = run;
	TN_TRY(tn_blocks_run(run->fuse->ctx, &run->blocks, &work, err));
	atomic_store(&run->complete, run->fuse->base->shard_count);
	return finish_shards(run, err);
}

/* One after the other; behind each goes what it was made from. */
static tn_status write_and_consume(struct run *run, struct tn_error *err)
{
	struct tn_block_work work = fuse_work;
	uint64_t done = 0;
	work.arg = run;
	TN_TRY(tn_consumption_check(run->consumption, run->output, err));
	TN_TRY(tn_fuse_check_files(run->fuse, run->remarks.data, err));
	for (size_t i = 0; i < run->fuse->base->shard_count; i++) {
		if (!tn_output_has_shard(run->output, i)) {
			TN_TRY(tn_output_open_shard(run->output, i, err));
			TN_TRY(tn_blocks_run_items(run->fuse->ctx, &run->blocks, &work, run->first_step[i],
						   run->first_step[i + 1], &done, err));
		}
		atomic_store(&run->complete, i + 1);
		TN_TRY(finish_shards(run, err));
		if (i == 0)
			TN_TRY(tn_consumption_begin(run->consumption, run->output, err));
		TN_TRY(tn_consumption_advance(run->consumption, i, err));
	}
	return TN_OK;
}

static tn_status write_notes(struct run *run, unsigned flags, struct tn_error *err)
{
	tn_fuse *fuse = run->fuse;
	if (!run->has_choices)
		TN_TRY(tn_fuse_note_choices(fuse, run->output, err));
	if (!run->has_choices && run->consumption)
		TN_TRY(tn_fuse_note_files(fuse, run->words, run->output, err));
	if (!run->consumption || !(flags & TN_SAVE_IDENTIFY) || fuse->base_digests)
		return TN_OK;
	TN_TRY(tn_consumption_check_whole(fuse, "no receipt", err));
	TN_TRY(tn_fuse_identify(fuse, err));
	return tn_fuse_note_digests(fuse, run->output, err);
}

static tn_status write_output(struct run *run, unsigned flags, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	TN_TRY(write_notes(run, flags, err));
	TN_TRY(count_blocks(run, err));
	TN_TRY(tn_output_copy_sidecars(run->output, fuse->base->path, NULL, err));
	if (!fuse->options.dequantize && tn_foreign_set_count(fuse->joint->foreign))
		TN_TRY(tn_output_copy_quantization(run->output, fuse->base->path, err));
	TN_TRY(write_config(run, err));
	TN_TRY(run->consumption ? write_and_consume(run, err) : write_all_shards(run, err));
	TN_TRY(report(run, err));
	return tn_output_commit(run->output, parameters_of(fuse), TN_INDEX_TRANSFORMERS, err);
}

/* The choices of the run that is taken up again, or new ones. */
static tn_status choose(struct run *run, const struct tn_output_place *place, struct tn_error *err)
{
	if (place->flags & TN_SAVE_RESUME) {
		TN_TRY(tn_staging_remarks(run->fuse->ctx, place->path, place->plan_id, &run->remarks, err));
		TN_TRY(tn_fuse_recall(run->fuse, run->remarks.data, &run->has_choices, err));
	}
	if (run->has_choices)
		return TN_OK;
	if (run->consumption)
		TN_TRY(tn_consumption_check_begun(run->consumption, run->words, err));
	TN_TRY(tn_consumption_check_whole(run->fuse, "--consume-input", err));
	return tn_fuse_survey(run->fuse, err);
}

static void say_what_is_dropped(const struct tn_fuse *fuse)
{
	const struct tn_joint *j = fuse->joint;
	for (size_t i = 0; i < j->target_count; i++)
		if (j->targets[i].is_dropped)
			tn_logf(fuse->ctx, TN_LOG_WARNING, "'%s' is left out: config.json ties it to '%s', of which it was a "
				"copy, and the adapter changes that", j->targets[i].name, j->targets[j->embedding].name);
}

static tn_status run_fuse(struct run *run, const char *save_path, unsigned flags, struct tn_error *err)
{
	struct tn_fuse *fuse = run->fuse;
	struct tn_output_place place = { .path = save_path, .flags = flags };
	struct tn_consumption consumption;
	TN_TRY(check_inputs(fuse, save_path, err));
	say_what_is_dropped(fuse);
	if (flags & TN_SAVE_CONSUME) {
		TN_TRY(tn_consume_lock(fuse->base->path, &run->base_lock, err));
		TN_TRY(tn_consumption_open(fuse, save_path, flags, &consumption, err));
		run->consumption = &consumption;
	}
	TN_TRY(tn_fuse_name_plan(fuse, flags, place.plan_id, run->words, err));
	TN_TRY(choose(run, &place, err));
	if (run->consumption)
		TN_TRY(tn_consumption_plan(run->consumption, &run->arena, err));
	run->blocks.waits = 1;
	TN_TRY(tn_fuse_cut(fuse, NULL, "fuse", &run->arena, &run->blocks, err));
	TN_TRY(describe_shards(run, err));
	TN_TRY(tn_output_begin(fuse->ctx, &place, run->shards, fuse->base->shard_count, &run->output, err));
	tn_status status = write_output(run, flags, err);
	if (status != TN_OK) {
		tn_output_abort(run->output);
		return status;
	}
	struct tn_error late; /* the result stands in its place: what fails now is a warning */
	if (run->consumption && tn_consumption_end(run->consumption, &late) != TN_OK)
		tn_logf(fuse->ctx, TN_LOG_WARNING, "'%s' is complete; what is left of the base could not be removed: %s", save_path,
			late.msg);
	return TN_OK;
}

tn_status tn_fuse_run(tn_fuse *fuse, const char *save_path, unsigned flags, struct tn_error *err)
{
	struct run run = { .fuse = fuse, .base_lock = -1 };
	tn_arena_init(&run.arena, fuse->ctx);
	tn_status status = run_fuse(&run, save_path, flags, err);
	if (run.base_lock >= 0)
		close(run.base_lock);
	tn_delta_cache_free(run.deltas);
	tn_buffer_release(fuse->ctx, &run.remarks);
	tn_arena_release(&run.arena);
	return status;
}
