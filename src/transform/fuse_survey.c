/* SPDX-License-Identifier: Apache-2.0 */
/* What is looked at before a quantized base is written: step and delta for the choice of the rounding; and where a smallest
 * survival is asked for, the whole fuse without its output. */
#include "transform/fuse.h"

#include "base/checked.h"
#include "base/error.h"
#include "transform/delta_cache.h"
#include "weights/format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A pass over some of the steps. */
struct survey {
	const struct tn_fuse *fuse;
	struct tn_arena arena;
	struct tn_blocks blocks;             /* an item for each step; without units where there is nothing to do */
	struct tn_survival_sums *sums;       /* of every item */
	struct tn_delta_cache *deltas;
	int whole;                           /* rows are written and measured, not only compared in size */
};

/* ---- step and delta -------------------------------------------------------------------------------------- */

/* |D|^2 of a row: of what the codes have to express, so without the gain of a DoRA, which goes into the scales. */
static tn_status add_row(void *arg, const struct tn_edit_truth *row, int *closer, struct tn_error *err)
{
	struct tn_survival_sums *sum = arg;
	const struct tn_delta *delta = &row->loaded->delta;
	(void)closer;
	(void)err;
	if (row->loaded->rows)
		return TN_OK;
	for (size_t i = 0; i < delta->cols; i++) {
		double d = row->truth[i] - (double)row->source[i];
		sum->delta2 += d * d;
	}
	return TN_OK;
}

static tn_status add_products(const struct survey *s, const struct tn_target *t, const struct tn_edit_block *b,
			      struct tn_survival_sums *sum, struct tn_error *err)
{
	const struct tn_joint *j = s->fuse->joint;
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_landing *l = &j->landings[t->first_landing + i];
		uint64_t begin = tn_max_u64(l->target_row, b->first),
			 end = tn_min_u64(l->target_row + l->rows, b->first + b->count);
		const struct tn_loaded *loaded;
		if (begin >= end)
			continue;
		TN_TRY(tn_delta_cache_take(s->deltas, l->slot, &loaded, err));
		for (uint64_t row = begin; row < end && !loaded->rows; row++)
			sum->delta2 += tn_survival_product2(&loaded->delta, loaded->basis,
							    (size_t)(row - l->target_row + l->delta_row), b->scratch);
		tn_delta_cache_return(s->deltas, l->slot);
	}
	return TN_OK;
}

/* Products, with or without magnitudes of rows, are measured by their factors alone. */
static int by_factors(const struct tn_fuse *fuse, const struct tn_target *t)
{
	for (size_t i = 0; i < t->landing_count; i++) {
		const struct tn_slot *slot = &fuse->joint->slots[fuse->joint->landings[t->first_landing + i].slot];
		const struct tn_adapter_entry *e = slot->entry;
		int by_row = !e->magnitude || slot->shape.rows_are_inputs == e->magnitude_of_inputs;
		if (slot->kind != TN_SLOT_TOKENS && (slot->change != TN_BASE_AS_IS || !by_row))
			return 0;
	}
	return 1;
}

static void add_steps(const struct survey *s, const struct tn_edit_form *f, const struct tn_edit_block *b,
		      struct tn_survival_sums *sum)
{
	for (uint64_t i = 0; i < b->count; i++) {
		struct tn_row row = { { NULL } };
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			row.part[p] = b->in[p] + i * f->source_bytes[p];
		sum->step2 += s->fuse->ctx->kernels->codec[f->in.format.codec]->steps2(&row, &f->in.format, f->cols);
	}
}

static tn_status survey_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	struct survey *s = arg;
	const struct tn_fuse_step *step = &s->fuse->steps[block->item];
	const struct tn_target *t = &s->fuse->joint->targets[step->target];
	struct tn_survival_sums *sum = result;
	struct tn_edit_block b;
	tn_edit_place(&step->form, NULL, block->first, block->count, scratch, &b);
	TN_TRY(tn_edit_read(s->fuse->joint, &step->form, &b, err));
	if (s->whole) {
		TN_TRY(tn_edit_units(s->fuse->joint, t, &step->form, s->deltas, &b, sum, err));
		return tn_fuse_check_dense(s->fuse, step, sum, err);
	}
	add_steps(s, &step->form, &b, sum);
	if (by_factors(s->fuse, t))
		return add_products(s, t, &b, sum, err);
	return tn_edit_truths(s->fuse->joint, t, &step->form, s->deltas, &b, add_row, sum, err);
}

static void fold(void *arg, const struct tn_block *block, const void *result)
{
	struct survey *s = arg;
	tn_survival_add(&s->sums[block->item], result);
}

/* ---- a pass ---------------------------------------------------------------------------------------------- */

static int has_delta(const struct tn_fuse *fuse, const struct tn_target *t)
{
	for (size_t i = 0; i < t->landing_count; i++)
		if (fuse->joint->slots[fuse->joint->landings[t->first_landing + i].slot].kind == TN_SLOT_DELTA)
			return 1;
	return 0;
}

static int concerns(const struct survey *s, size_t i)
{
	const struct tn_fuse_step *step = &s->fuse->steps[i];
	const struct tn_target *t = &s->fuse->joint->targets[step->target];
	if (!step->form.is_measured || step->action != TN_ACTION_REQUANTIZE || !has_delta(s->fuse, t))
		return 0;
	return s->whole || step->form.rounding == TN_ROUNDING_AUTO; /* with a dense original it is not */
}

static tn_status prepare(struct survey *s, size_t *count, struct tn_error *err)
{
	const struct tn_fuse *fuse = s->fuse;
	uint64_t *takes;
	*count = 0;
	TN_TRY(tn_arena_array(&s->arena, fuse->joint->slot_count, sizeof *takes, &takes, err));
	TN_TRY(tn_fuse_cut(fuse, NULL, "fuse", &s->arena, &s->blocks, err));
	for (size_t i = 0; i < fuse->step_count; i++) {
		if (concerns(s, i))
			(*count)++;
		else
			s->blocks.items[i].units = s->blocks.items[i].work_bytes = 0;
	}
	TN_TRY(tn_blocks_cut(fuse->ctx, &s->blocks, "fuse", err));
	for (size_t i = 0; i < fuse->step_count; i++)
		if (s->blocks.items[i].units)
			tn_edit_count_takes(fuse->joint, &fuse->joint->targets[fuse->steps[i].target],
					    s->blocks.items[i].units_per_block, takes);
	TN_TRY(tn_arena_array(&s->arena, fuse->step_count, sizeof *s->sums, &s->sums, err));
	return tn_delta_cache_create(fuse->joint, takes, &s->deltas, err);
}

/* ---- decisions ------------------------------------------------------------------------------------------- */

/* Where the step is small beside the delta, a new fit loses less than a kept grid adds in noise (docs/numerics.md). */
static double threshold(const struct tn_edit_form *f)
{
	unsigned bits = f->in.format.bits;
	if (f->in.foreign && !tn_foreign_scales_by_row(f->in.foreign)) /* whose grid stays even then */
		return 1;
	return bits >= 4 ? 2 : bits == 3 ? 4 : 6;
}

/* *again is set where the choice changes which tensors are written. */
static void choose_rounding(struct tn_fuse *fuse, const struct survey *s, int *again)
{
	for (size_t i = 0; i < fuse->step_count; i++) {
		struct tn_fuse_step *step = &fuse->steps[i];
		if (!concerns(s, i))
			continue;
		struct tn_survival_sums sum = s->sums[i];
		double limit = threshold(&step->form);
		int nearest = sum.step2 < limit * limit * sum.delta2;
		step->form.rounding = nearest ? TN_ROUNDING_NEAREST : TN_ROUNDING_DITHER;
		fuse->choices[step->target].rounding = step->form.rounding;
		*again |= nearest && step->form.in.foreign;
	}
}

static tn_status judge(struct tn_fuse *fuse, const struct survey *s, size_t i, int *promoted, struct tn_error *err)
{
	struct tn_fuse_step *step = &fuse->steps[i];
	const struct tn_target *t = &fuse->joint->targets[step->target];
	struct tn_survival_sums sum = s->sums[i];
	struct tn_survival found = tn_survival_of(&sum, step->form.rounding);
	TN_TRY(tn_fuse_check_finite(fuse, step, &sum, err));
	if (found.cap >= fuse->options.min_survival)
		return TN_OK;
	if (fuse->options.promote_bits && tn_edit_can_promote(t, fuse->options.promote_bits)) {
		fuse->choices[step->target].promote_bits = fuse->options.promote_bits;
		*promoted = 1;
		return TN_OK;
	}
	return tn_fail(err, TN_E_MISMATCH, t->name, "'%.120s': %.3g of the adapter survives %s rounding in %s (the step is %.3g "
		       "times the delta), and at least %.3g was asked for; use %s%s%s--dequantize", t->name, found.cap,
		       tn_rounding_name(found.rounding), step->scheme, found.rho, fuse->options.min_survival,
		       t->matrix->foreign ? "" : "--promote-bits 8, ",
		       found.rounding == TN_ROUNDING_NEAREST ? "--rounding dither, " : "",
		       t->matrix->foreign && found.rounding != TN_ROUNDING_NEAREST ? "" : "or ");
}

static tn_status decide(struct tn_fuse *fuse, const struct survey *s, int *promoted, struct tn_error *err)
{
	if (!s->whole) {
		choose_rounding(fuse, s, promoted);
		return TN_OK;
	}
	for (size_t i = 0; i < fuse->step_count; i++)
		if (concerns(s, i))
			TN_TRY(judge(fuse, s, i, promoted, err));
	return TN_OK;
}

static tn_status run_pass(struct tn_fuse *fuse, int whole, int *promoted, struct tn_error *err)
{
	struct survey s = { .fuse = fuse, .whole = whole };
	struct tn_block_work work = { .run = survey_block, .arg = &s, .phase = "survey",
				      .result_bytes = sizeof(struct tn_survival_sums), .fold = fold };
	size_t count;
	tn_arena_init(&s.arena, fuse->ctx);
	tn_status status = prepare(&s, &count, err);
	if (status == TN_OK && count)
		status = tn_blocks_run(fuse->ctx, &s.blocks, &work, err);
	if (status == TN_OK)
		status = decide(fuse, &s, promoted, err);
	tn_delta_cache_free(s.deltas);
	tn_arena_release(&s.arena);
	return status;
}

tn_status tn_fuse_survey(struct tn_fuse *fuse, struct tn_error *err)
{
	int promoted = 0;
	if (fuse->options.dequantize)
		return TN_OK;
	if (fuse->options.rounding == TN_ROUNDING_AUTO)
		TN_TRY(run_pass(fuse, 0, &promoted, err));
	if (promoted)
		TN_TRY(tn_fuse_make_steps(fuse, err));
	promoted = 0;
	if (fuse->options.min_survival > 0)
		TN_TRY(run_pass(fuse, 1, &promoted, err));
	return promoted ? tn_fuse_make_steps(fuse, err) : TN_OK;
}
