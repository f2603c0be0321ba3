/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/json_doc.h"
#include "store/safetensors.h"
#include "transform/delta_cache.h"
#include "transform/fuse.h"
#include "transform/verify.h"
#include "transform/verify_block.h"
#include "weights/foreign.h"
#include "weights/format.h"
#include "weights/head_copy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Below this share of a delta the adapter counts as lost; where the step is not even twice the delta, no rounding loses so
 * much, and something else was merged. */
static const double least_cap = 0.5, least_rho = 2;

/* A step, and what the merged checkpoint has in its place. */
struct compared {
	size_t step;
	struct tn_matrix other;
};

struct run {
	tn_fuse *fuse;              /* base plus adapter, as a plan */
	const tn_checkpoint *merged;
	tn_quant_config *config;    /* of merged */
	struct tn_foreign_set *foreign;
	struct tn_arena *arena;
	struct tn_blocks blocks;
	struct compared *compared;  /* of block item i */
	struct tn_verify_finding *findings;   /* of block item i */
	struct tn_delta_cache *deltas;
};

/* What neither file ever wrote is the same. */
static int both_are_holes(const struct run *run, const struct tn_fuse_step *step, const struct tn_matrix *other,
			  const struct tn_block *block)
{
	const struct tn_target *t = &run->fuse->joint->targets[step->target];
	const struct tn_tensor *merged = other->part[TN_PART_WEIGHT];
	return !step->form.by_rows && t->base && !t->replacement &&
	       tn_tensor_is_hole(run->fuse->base->shards[t->base->shard], t->base, block->first, block->count) &&
	       tn_tensor_is_hole(run->merged->shards[merged->shard], merged, block->first, block->count);
}

static tn_status run_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	const struct run *run = arg;
	const struct compared *compared = &run->compared[block->item];
	const struct tn_verify_block of = { run->fuse, &run->fuse->steps[compared->step], run->merged, &compared->other,
					    run->deltas, block->first, block->count };
	struct tn_verify_finding *finding = result;
	finding->first_row = finding->odd_row = TN_VERIFY_NO_ROW;
	return both_are_holes(run, of.step, of.other, block) ? TN_OK : tn_verify_compare(&of, scratch, finding, err);
}

/* Blocks are added up in their order, so the sum does not depend on threads. */
static void fold(void *arg, const struct tn_block *block, const void *result)
{
	struct run *run = arg;
	tn_verify_add(&run->findings[block->item], result);
}

/* ---- preparing ------------------------------------------------------------------------------------------- */

static int same_shape(const struct tn_tensor *a, const struct tn_tensor *b)
{
	return a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

static int same_form(const struct tn_tensor *a, const struct tn_tensor *b)
{
	return a->dtype == b->dtype && same_shape(a, b);
}

/* The quotient of a DoRA is F32 in mlx-lm, and so is what it writes. */
static int has_magnitude(const struct tn_joint *j, const struct tn_target *t)
{
	for (size_t i = 0; i < t->landing_count; i++)
		if (j->slots[j->landings[t->first_landing + i].slot].entry->magnitude)
			return 1;
	return 0;
}

/* What stands for a step in the merged checkpoint, whatever its scheme where the base has one; 0 when nothing fits. */
static tn_status find_other(const struct run *run, const struct tn_fuse_step *step, struct tn_matrix *out, int *found,
			    struct tn_error *err)
{
	const struct tn_target *target = &run->fuse->joint->targets[step->target];
	const struct tn_edit_form *f = &step->form;
	const struct tn_tensor *wanted = step->outputs[TN_PART_WEIGHT];
	const struct tn_tensor *other = tn_checkpoint_find(run->merged, f->by_rows ? target->name : wanted->name);
	struct tn_tensor_source source = tn_checkpoint_source(run->merged);
	struct tn_foreign *foreign = f->by_rows && target->matrix ? tn_foreign_set_find(run->foreign, target->name) : NULL;
	*found = 0;
	if (foreign) {
		TN_TRY(tn_matrix_of_foreign(run->foreign, foreign, run->arena, out, err));
		*found = out->rows == f->units && out->cols == f->cols && f->is_measured;
		return TN_OK;
	}
	if (!other)
		return TN_OK;
	if (f->by_rows && target->matrix && tn_is_triple(run->merged, other)) {
		TN_TRY(tn_matrix_find(&source, run->config, other, out, err));
		*found = out->rows == f->units && out->cols == f->cols && f->out.codec != TN_CODEC_dense &&
			 (f->is_measured || tn_verify_same_row_bytes(out, f));
		return TN_OK;
	}
	*found = f->by_rows && (target->matrix || (other->dtype == TN_F32 && has_magnitude(run->fuse->joint, target)))
			 ? same_shape(wanted, other) && tn_is_weight_dtype(other->dtype) : same_form(wanted, other);
	if (*found)
		*out = tn_parts_dense(other, f->by_rows ? f->cols : tn_max_u64(other->elements, 1));
	if (*found && !f->by_rows)
		out->row_bytes[TN_PART_WEIGHT] = 1;
	return TN_OK;
}

/* transformers saves no head that config.json ties: a copy that is the embedding once more may be left out. */
static tn_status allow_for_tied_head(const struct run *run, struct tn_error *err)
{
	const struct tn_joint *j = run->fuse->joint;
	struct tn_target *head = j->head == TN_NO_TARGET ? NULL : &j->targets[j->head];
	json_t *config;
	struct tn_error why;
	if (!j->tied || !head || head->is_new || head->landing_count || head->replacement || !run->merged->config ||
	    tn_joint_is_untied(j) || tn_checkpoint_find(run->merged, head->name) || tn_foreign_set_find(run->foreign, head->name))
		return TN_OK;
	TN_TRY(tn_checkpoint_parse_config(run->merged, &config, err));
	int ties = tn_config_ties(config);
	json_decref(config);
	if (!ties)
		return TN_OK;
	tn_status status = tn_check_head_copy(run->fuse->base, j->targets[j->embedding].name, head->name, &why);
	head->is_dropped = status == TN_OK;
	return status == TN_OK || status == TN_E_MISMATCH ? TN_OK : tn_fail_with(err, &why);
}

/* Where the merged checkpoint is dense, base plus adapter is made dense too. */
static tn_status follow_merged(struct run *run, struct tn_error *err)
{
	struct tn_fuse *fuse = run->fuse;
	for (size_t i = 0; i < fuse->joint->target_count; i++) {
		const struct tn_target *t = &fuse->joint->targets[i];
		const struct tn_tensor *other = tn_checkpoint_find(run->merged, t->name);
		if (t->matrix && t->matrix->foreign) /* scales may have been fitted anew */
			fuse->choices[i].rounding = TN_ROUNDING_NEAREST;
		fuse->choices[i].dequantize = t->matrix && other && tn_is_weight_dtype(other->dtype) &&
					      !tn_foreign_set_find(run->foreign, t->name); /* whose codes may pass for floats */
	}
	return tn_fuse_make_steps(fuse, err);
}

/* Items for all steps that both checkpoints have. */
static tn_status cut(struct run *run, struct tn_arena *arena, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	uint64_t *takes;
	struct tn_fuse_extra *extra;
	struct tn_blocks all = { 0 };
	TN_TRY(tn_arena_array(arena, fuse->step_count, sizeof *run->blocks.items, &run->blocks.items, err));
	TN_TRY(tn_arena_array(arena, fuse->step_count, sizeof *run->compared, &run->compared, err));
	TN_TRY(tn_arena_array(arena, fuse->step_count, sizeof *extra, &extra, err));
	TN_TRY(tn_arena_array(arena, fuse->joint->slot_count, sizeof *takes, &takes, err));
	for (size_t i = 0; i < fuse->step_count; i++) {
		struct compared *c = &run->compared[run->blocks.item_count];
		int found;
		TN_TRY(find_other(run, &fuse->steps[i], &c->other, &found, err));
		if (!found)
			continue;
		c->step = i;
		extra[i] = tn_verify_extra(&fuse->steps[i].form, &c->other);
		run->blocks.item_count++;
	}
	TN_TRY(tn_fuse_cut(fuse, extra, "verify", arena, &all, err));
	for (size_t i = 0; i < run->blocks.item_count; i++)
		run->blocks.items[i] = all.items[run->compared[i].step];
	TN_TRY(tn_blocks_cut(fuse->ctx, &run->blocks, "verify", err));
	for (size_t i = 0; i < run->blocks.item_count; i++)
		for (int pass = 0; pass < 2; pass++) /* the fuse's rows, and the exact ones */
			tn_edit_count_takes(fuse->joint, &fuse->joint->targets[fuse->steps[run->compared[i].step].target],
					    run->blocks.items[i].units_per_block, takes);
	TN_TRY(tn_arena_array(arena, run->blocks.item_count, sizeof *run->findings, &run->findings, err));
	for (size_t i = 0; i < run->blocks.item_count; i++)
		run->findings[i].first_row = run->findings[i].odd_row = TN_VERIFY_NO_ROW;
	return tn_delta_cache_create(fuse->joint, takes, &run->deltas, err);
}

/* ---- the report ------------------------------------------------------------------------------------------ */

/* Scales that the values of their groups do not ask for are damage where they are few: many are those of another source that
 * nobody named, as a fuse with --dense-base has. */
static int has_odd_scales(const struct tn_verify_finding *f)
{
	return f->odd_scales && (f->odd_scales * 4 <= f->new_scales || f->new_scales * 16 <= f->scales);
}

/* Of a delta that was merged once; the rounding of all codes makes it more or less than 1 by chance. */
static double most_cap(const struct tn_survival *s)
{
	return 1 / least_cap - 0.5 + 3 * s->rho / sqrt((double)s->codes);
}

/* A weight that is quantized in both. */
static void judge_quantized(const struct tn_verify_finding *f, struct tn_verified_tensor *out)
{
	struct tn_survival found = tn_survival_of(&f->sums, TN_ROUNDING_AUTO);
	out->rho = found.rho;
	out->cap = found.cap;
	out->cosine = found.cosine;
	out->noise = found.noise;
	if (!f->differs)
		out->verdict = f->sums.delta2 > 0 ? TN_VERDICT_NOT_MERGED : TN_VERDICT_MERGED;
	else if (f->strays || f->far_off || has_odd_scales(f) || found.cap > most_cap(&found))
		out->verdict = TN_VERDICT_WRONG;
	else
		out->verdict = found.cap >= least_cap ? TN_VERDICT_REQUANTIZED
						      : found.rho < least_rho ? TN_VERDICT_WRONG : TN_VERDICT_LOST;
}

static void judge(const struct run *run, size_t i, struct tn_verified_tensor *out)
{
	const struct tn_fuse_step *step = &run->fuse->steps[run->compared[i].step];
	const struct tn_target *target = &run->fuse->joint->targets[step->target];
	const struct tn_tensor *result = step->outputs[TN_PART_WEIGHT];
	struct tn_verify_finding f = run->findings[i];
	int close = f.worst <= TN_VERIFY_ULPS && !f.not_finite && !f.strays;
	*out = (struct tn_verified_tensor){ .name = result->name, .max_ulp = f.not_finite ? HUGE_VAL : f.max_ulp };
	out->rms_ulp = result->elements ? sqrt(f.square_sum / (double)result->elements) : 0;
	out->row = TN_VERIFY_NO_ROW;
	if (step->form.is_measured)
		judge_quantized(&f, out);
	else if (step->action == TN_ACTION_DEQUANTIZE)
		out->verdict = close ? TN_VERDICT_DEQUANTIZED : TN_VERDICT_CHANGED;
	else if (!target->landing_count)
		out->verdict = !f.not_as_fused ? (target->replacement ? TN_VERDICT_MERGED : TN_VERDICT_IDENTICAL)
					       : target->replacement ? TN_VERDICT_WRONG : TN_VERDICT_CHANGED;
	else if (close)
		out->verdict = TN_VERDICT_MERGED;
	else
		out->verdict = f.differs ? TN_VERDICT_WRONG : TN_VERDICT_NOT_MERGED;
	if (out->verdict == TN_VERDICT_WRONG)
		out->row = f.first_row != TN_VERIFY_NO_ROW || !has_odd_scales(&f) ? f.first_row : f.odd_row;
}

static int compare_planned(const void *name, const void *planned)
{
	return strcmp(name, ((const struct tn_planned_tensor *)planned)->tensor->name);
}

static int is_planned(const struct tn_fuse *fuse, const char *name)
{
	return bsearch(name, fuse->planned, fuse->count, sizeof *fuse->planned, compare_planned) != NULL;
}

static void add_unmatched(struct tn_verify *v, const struct run *run)
{
	const struct tn_fuse *fuse = run->fuse;
	for (size_t i = 0, k = 0; i < fuse->step_count; i++) {
		const struct tn_tensor *t = fuse->steps[i].outputs[TN_PART_WEIGHT];
		if (k < run->blocks.item_count && run->compared[k].step == i) {
			k++;
			continue;
		}
		/* another scheme does without; a weight that is missing too is named itself */
		if (tn_ends_with(t->name, ".global_scale") && !tn_checkpoint_find(run->merged, t->name))
			continue;
		v->tensors[v->count++] = (struct tn_verified_tensor){
			.name = t->name, .row = TN_VERIFY_NO_ROW,
			.verdict = tn_checkpoint_find(run->merged, t->name) ? TN_VERDICT_RESHAPED : TN_VERDICT_MISSING,
		};
	}
	for (size_t i = 0; i < tn_checkpoint_count(run->merged); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(run->merged, i);
		if (!is_planned(fuse, t->name) && !tn_is_triple_part(run->merged, t))
			v->tensors[v->count++] = (struct tn_verified_tensor){ .name = t->name, .verdict = TN_VERDICT_EXTRA,
										     .row = TN_VERIFY_NO_ROW };
	}
}

static tn_status write_report(const struct run *run, tn_verify *v, struct tn_error *err)
{
	size_t room = run->fuse->step_count + tn_checkpoint_count(run->merged) + tn_verify_config_room();
	TN_TRY(tn_arena_array(&v->arena, room, sizeof *v->tensors, &v->tensors, err));
	for (size_t i = 0; i < run->blocks.item_count; i++)
		judge(run, i, &v->tensors[v->count++]);
	add_unmatched(v, run);
	TN_TRY(tn_verify_config(run->fuse, run->merged, v, err));
	return tn_verify_settle(v, err);
}

static tn_status compare(struct run *run, struct tn_arena *arena, tn_verify *v, struct tn_error *err)
{
	struct tn_block_work work = { .run = run_block, .arg = run, .phase = "verify",
				      .result_bytes = sizeof(struct tn_verify_finding), .fold = fold };
	if (run->merged->config)
		TN_TRY(tn_quant_config_parse(run->fuse->ctx, run->merged->config, &run->config, err));
	TN_TRY(tn_foreign_set_create_in(arena, run->fuse->ctx, run->merged, &run->foreign, err));
	run->arena = arena;
	TN_TRY(allow_for_tied_head(run, err));
	TN_TRY(follow_merged(run, err));
	TN_TRY(cut(run, arena, err));
	if (run->blocks.block_count)
		TN_TRY(tn_blocks_run(run->fuse->ctx, &run->blocks, &work, err));
	return write_report(run, v, err);
}

tn_status tn_verify_run(tn_context *ctx, const tn_checkpoint *base, const tn_adapter *adapter,
			const struct tn_fuse_options *options, const tn_checkpoint *merged, tn_verify **out,
			struct tn_error *err)
{
	struct tn_arena scratch;
	tn_verify *v;
	struct run run = { .merged = merged };
	TN_TRY(tn_verify_create(ctx, &v, err));
	tn_arena_init(&scratch, ctx);
	tn_status status = tn_fuse_plan(ctx, base, adapter, options, &run.fuse, err);
	if (status == TN_OK)
		status = compare(&run, &scratch, v, err);
	tn_delta_cache_free(run.deltas);
	tn_quant_config_destroy(run.config);
	tn_fuse_free(run.fuse);
	tn_arena_release(&scratch);
	if (status != TN_OK) {
		tn_verify_free(v);
		return status;
	}
	*out = v;
	return TN_OK;
}
