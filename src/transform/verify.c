/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"
#include "transform/delta_cache.h"
#include "transform/fuse.h"
#include "transform/ulp.h"
#include "transform/verify.h"
#include "weights/foreign.h"
#include "weights/format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double tolerance_ulp = 2;

/* Below this share of a delta the adapter counts as lost; where the step is not even twice the delta, no rounding loses so
 * much, and something else was merged. */
static const double least_cap = 0.5, least_rho = 2;

/* What one block found. */
struct finding {
	double max_ulp, square_sum; /* against W + delta, at the true value */
	double worst;               /* the largest error in units at the largest term, for the verdict */
	int differs;                /* from the base, in any byte */
	int not_as_fused;           /* from what a fuse writes, in any byte */
	int strays;                 /* from the base, in rows that should not change */
	int not_finite;             /* a value is NaN or infinite where the true one is not */
	int far_off;                /* a quantized row is further from the truth than any rounding takes it */
	struct tn_survival_sums sums;
};

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
	struct finding *findings;   /* of block item i */
	struct tn_delta_cache *deltas;
};

/* ---- one block ------------------------------------------------------------------------------------------- */

static void compare_element(struct finding *f, tn_dtype dtype, double truth, double size, double m)
{
	double error = fabs(m - truth);
	if (!isfinite(m) || !isfinite(truth)) {
		f->not_finite |= isfinite(truth) || (isnan(truth) != isnan(m)) || (isinf(truth) && m != truth);
		return;
	}
	double ulps = error / tn_ulp(dtype, truth);
	f->max_ulp = fmax(f->max_ulp, ulps);
	f->square_sum += ulps * ulps;
	f->worst = fmax(f->worst, error / tn_ulp(dtype, fmax(size, fabs(truth))));
}

/* The block whose rows are being compared. */
struct comparison {
	struct run *run;
	struct finding *finding;
	const struct tn_kernels *kernels;
	const struct tn_edit_form *form;
	const struct tn_matrix *other;
	const struct tn_edit_block *block;
	unsigned char *merged[TN_PART_COUNT];
	unsigned char *const *wanted;   /* the base's bytes, or a fuse's, laid out as `merged`; NULL: not comparable */
	uint64_t next;                  /* the row behind the last one that was compared */
	float *row, *wanted_delta;      /* wanted_delta: or the base's row */
	uint16_t *halves;               /* of two rows */
	float *coordinates;
};

/* Rows that nothing lands on, from the last one that was compared up to `end`. */
static void compare_between(struct comparison *c, uint64_t end)
{
	for (unsigned p = 0; p < TN_PART_COUNT && c->wanted && end > c->next; p++) {
		size_t bytes = c->other->row_bytes[p], at = (size_t)(c->next - c->block->first) * bytes;
		c->finding->strays |= bytes && memcmp(c->wanted[p] + at, c->merged[p] + at, (size_t)(end - c->next) * bytes) != 0;
	}
	c->next = end;
}

static tn_status point_at(const struct comparison *c, uint64_t unit, struct tn_row *row, struct tn_format *format,
			  struct tn_error *err)
{
	struct tn_tensor_source source = tn_checkpoint_source(c->run->merged);
	uint64_t end;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		row->part[p] = c->merged[p] + (size_t)(unit - c->block->first) * c->other->row_bytes[p];
	*format = c->other->format;
	return c->other->global_scale ? tn_matrix_format_at(&source, c->other, unit, format, &end, err) : TN_OK;
}

static double largest(const float *row, size_t n)
{
	float top = 0;
	for (size_t i = 0; i < n; i++)
		top = fmaxf(top, fabsf(row[i]));
	return (double)top;
}

/* A dense row. What comes from a grid was rounded at the size of its group's ends by other tools. */
static void compare_dense(struct comparison *c, struct finding *f, const float *source, const double *truth,
			  const double *size)
{
	double floor = c->form->in.format.codec == TN_CODEC_dense ? 0 : largest(source, c->form->cols);
	for (size_t i = 0; i < c->form->cols; i++)
		compare_element(f, c->other->format.dtype, truth[i], fmax(size ? size[i] : 0, floor), (double)c->row[i]);
}

static void add_finding(struct finding *sum, const struct finding *f)
{
	sum->max_ulp = fmax(sum->max_ulp, f->max_ulp);
	sum->worst = fmax(sum->worst, f->worst);
	sum->square_sum += f->square_sum;
	sum->differs |= f->differs;
	sum->not_finite |= f->not_finite;
	sum->not_as_fused |= f->not_as_fused;
	sum->strays |= f->strays;
	sum->far_off |= f->far_off;
	tn_survival_add(&sum->sums, &f->sums);
}

/* A quantized row: what of the delta is in it, and whether the rest is explained by the two grids. */
static void measure_row(struct comparison *c, const struct tn_edit_truth *t, const struct tn_row *row,
			const struct tn_format *format)
{
	struct tn_survival_sums sums = { 0 };
	struct tn_row base = { { NULL } };
	const struct tn_edit_form *f = c->form;
	const struct tn_delta *delta = &t->loaded->delta;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		base.part[p] = c->block->in[p] + (size_t)(t->unit - c->block->first) * f->source_bytes[p];
	for (size_t i = 0; i < f->cols; i++)
		c->wanted_delta[i] = (float)(t->truth[i] - (double)t->source[i]);
	struct tn_change_sums change;
	double steps2 = c->kernels->codec[f->in.format.codec]->steps2(&base, &f->in.format, f->cols);
	int is_product = tn_delta_is_plain(delta);
	struct tn_survival_rows rows = { c->kernels, NULL, delta->rank, f->cols, c->halves, c->coordinates };
	if (t->loaded->directions)
		rows.directions = t->loaded->directions +
				  t->delta_row / delta->group_rows * t->loaded->directions_bytes / sizeof(uint16_t);
	tn_survival_sum_row(&change, &rows, 0, t->source, c->row, c->wanted_delta);
	tn_survival_add_row(&sums, &rows, &change, steps2, is_product);
	if (rows.directions && is_product)
		tn_survival_add_directions(&sums, &rows, 1);
	else if (rows.directions)
		tn_survival_add_both(&sums, &rows, c->wanted_delta, 1);
	c->finding->far_off |= !(sums.error2 <= sums.step2 + c->kernels->codec[format->codec]->steps2(row, format, f->cols) +
						4 * sums.delta2);
	tn_survival_add(&c->finding->sums, &sums);
}

/* What tools lose by summing the products in float32 is found with a closer look. */
static tn_status compare_row(void *arg, const struct tn_edit_truth *t, int *closer, struct tn_error *err)
{
	struct comparison *c = arg;
	struct tn_row row;
	struct tn_format format;
	compare_between(c, t->unit);
	c->next = t->unit + 1;
	TN_TRY(point_at(c, t->unit, &row, &format, err));
	c->kernels->codec[format.codec]->decode(c->row, &row, &format, c->form->cols);
	if (format.codec != TN_CODEC_dense) {
		if (!t->loaded->rows)
			measure_row(c, t, &row, &format);
		return TN_OK;
	}
	struct finding f = { 0 };
	compare_dense(c, &f, t->source, t->truth, t->size);
	*closer = !t->closely && f.worst > tolerance_ulp;
	if (!*closer)
		add_finding(c->finding, &f);
	return TN_OK;
}

/* Untouched rows of a quantized base in a dense result. */
static tn_status compare_decoded(struct comparison *c, double *truth, struct tn_error *err)
{
	const struct tn_edit_form *f = c->form;
	struct tn_tensor_source source = tn_checkpoint_source(c->run->fuse->base);
	for (uint64_t i = 0; i < c->block->count; i++) {
		struct tn_row row = { { NULL } }, base = { { NULL } };
		struct tn_format format, in;
		uint64_t end;
		for (unsigned p = 0; p < TN_PART_COUNT; p++)
			base.part[p] = c->block->in[p] + i * f->source_bytes[p];
		TN_TRY(tn_matrix_format_at(&source, &f->in, c->block->first + i, &in, &end, err));
		c->kernels->codec[in.codec]->decode(c->wanted_delta, &base, &in, f->cols);
		TN_TRY(point_at(c, c->block->first + i, &row, &format, err));
		c->kernels->codec[format.codec]->decode(c->row, &row, &format, f->cols);
		for (size_t k = 0; k < f->cols; k++)
			truth[k] = (double)c->wanted_delta[k];
		compare_dense(c, c->finding, c->wanted_delta, truth, NULL);
	}
	return TN_OK;
}

static int same_bytes(const struct tn_matrix *other, uint64_t rows, unsigned char *const *a, unsigned char *const *b)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (memcmp(a[p], b[p], (size_t)rows * other->row_bytes[p]) != 0)
			return 0;
	return 1;
}

static int same_layout(const struct tn_matrix *m, const struct tn_edit_form *f)
{
	const struct tn_format *a = &m->format, *b = &f->in.format;
	return a->codec == b->codec && a->bits == b->bits && a->group == b->group && a->dtype == b->dtype;
}

static int same_row_bytes(const struct tn_matrix *m, const struct tn_edit_form *f)
{
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		if (m->row_bytes[p] != f->result[p].row_bytes)
			return 0;
	return 1;
}

/* Memory of a block beside the form's: the merged rows, and six rows of values. */
static struct tn_fuse_extra extra_of(const struct tn_edit_form *f, const struct tn_matrix *other)
{
	struct tn_fuse_extra extra = { tn_matrix_raw_row_bytes(other), TN_PARTS_PADDING + 7 * 64 +
				       f->cols * (4 * sizeof(float) + sizeof(double)) + tn_matrix_raw_fixed_bytes(other) };
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		extra.unit_bytes += other->row_bytes[p];
	return extra;
}

static void place_rows(struct comparison *c, unsigned char *at)
{
	size_t bytes = tn_align_up(c->form->cols * sizeof(float), 64);
	c->row = (float *)(void *)at;
	c->wanted_delta = (float *)(void *)(at + bytes);
	c->halves = (uint16_t *)(void *)(at + 2 * bytes);
}

/* Outside the rows that are summed, the bytes have to be the fuse's. */
static tn_status compare_block(struct comparison *c, const struct tn_fuse_step *step, struct tn_edit_block *b,
			       struct tn_error *err)
{
	const struct tn_joint *j = c->run->fuse->joint;
	const struct tn_target *target = &j->targets[step->target];
	const struct tn_edit_form *f = c->form;
	int packed = f->in.format.codec != TN_CODEC_dense && c->other->format.codec != TN_CODEC_dense;
	if (packed && f->is_measured) {
		c->wanted = same_layout(c->other, f) ? b->in : NULL;
		c->finding->differs = !c->wanted || !same_bytes(c->other, b->count, b->in, c->merged);
	} else {
		c->finding->differs = f->apart || !same_bytes(c->other, b->count, b->in, c->merged);
		if (f->apart) /* else it would write over the source, and what nothing lands on stays as it is */
			TN_TRY(tn_edit_units(j, target, f, c->run->deltas, b, &c->finding->sums, err));
		c->wanted = same_row_bytes(c->other, f) ? b->out : NULL;
		if (step->action == TN_ACTION_DEQUANTIZE)
			return compare_decoded(c, b->scratch, err);
		c->finding->not_as_fused = !c->wanted || !same_bytes(c->other, b->count, b->out, c->merged);
		if (!c->finding->not_as_fused && !target->landing_count)
			return TN_OK;
	}
	c->coordinates = tn_edit_row_scratch(b->scratch, f).delta;
	TN_TRY(tn_edit_truths(j, target, f, c->run->deltas, b, compare_row, c, err));
	compare_between(c, target->landing_count ? b->first + b->count : b->first);
	return TN_OK;
}

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
	struct run *run = arg;
	const struct compared *compared = &run->compared[block->item];
	const struct tn_fuse_step *step = &run->fuse->steps[compared->step];
	struct comparison c = { .run = run, .finding = result, .kernels = run->fuse->ctx->kernels,
				.form = &step->form, .other = &compared->other, .next = block->first };
	struct tn_stored stored[TN_PART_COUNT];
	struct tn_tensor_source source = tn_checkpoint_source(run->merged);
	struct tn_foreign_block pieces;
	struct tn_edit_block b;
	if (both_are_holes(run, step, &compared->other, block))
		return TN_OK;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		stored[p] = (struct tn_stored){ compared->other.part[p], NULL };
	unsigned char *at = tn_parts_place(scratch, NULL, 0, block->count, compared->other.row_bytes, c.merged);
	place_rows(&c, at);
	at += 4 * tn_align_up(step->form.cols * sizeof(float), 64);
	uint64_t raw = tn_matrix_raw_row_bytes(&compared->other) * block->count + tn_matrix_raw_fixed_bytes(&compared->other);
	tn_edit_place(&step->form, NULL, block->first, block->count, at + tn_align_up((size_t)raw, 64), &b);
	c.block = &b;
	TN_TRY(tn_edit_read(run->fuse->joint, &step->form, &b, err));
	if (compared->other.foreign)
		TN_TRY(tn_matrix_read(c.kernels, &source, &compared->other, block->first, block->count, c.merged, at, &pieces,
				      err));
	else
		TN_TRY(tn_parts_read(run->merged, stored, compared->other.row_bytes, block->first, block->count, c.merged, err));
	return compare_block(&c, step, &b, err);
}

/* Blocks are added up in their order, so the sum does not depend on threads. */
static void fold(void *arg, const struct tn_block *block, const void *result)
{
	struct run *run = arg;
	add_finding(&run->findings[block->item], result);
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
			 (f->is_measured || same_row_bytes(out, f));
		return TN_OK;
	}
	*found = f->by_rows && target->matrix ? same_shape(wanted, other) && tn_is_weight_dtype(other->dtype)
					      : same_form(wanted, other);
	if (*found)
		*out = tn_parts_dense(other, f->by_rows ? f->cols : tn_max_u64(other->elements, 1));
	if (*found && !f->by_rows)
		out->row_bytes[TN_PART_WEIGHT] = 1;
	return TN_OK;
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
		extra[i] = extra_of(&fuse->steps[i].form, &c->other);
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
	return tn_delta_cache_create(fuse->joint, takes, &run->deltas, err);
}

/* ---- the report ------------------------------------------------------------------------------------------ */

/* A weight that is quantized in both. */
static void judge_quantized(const struct finding *f, struct tn_verified_tensor *out)
{
	struct tn_survival found = tn_survival_of(&f->sums, TN_ROUNDING_AUTO);
	out->rho = found.rho;
	out->cap = found.cap;
	out->cosine = found.cosine;
	out->noise = found.noise;
	if (f->strays || f->far_off)
		out->verdict = TN_VERDICT_WRONG;
	else if (!f->differs)
		out->verdict = f->sums.delta2 > 0 ? TN_VERDICT_NOT_MERGED : TN_VERDICT_MERGED;
	else
		out->verdict = found.cap >= least_cap ? TN_VERDICT_REQUANTIZED
						      : found.rho < least_rho ? TN_VERDICT_WRONG : TN_VERDICT_LOST;
}

static void judge(const struct run *run, size_t i, struct tn_verified_tensor *out)
{
	const struct tn_fuse_step *step = &run->fuse->steps[run->compared[i].step];
	const struct tn_target *target = &run->fuse->joint->targets[step->target];
	const struct tn_tensor *result = step->outputs[TN_PART_WEIGHT];
	struct finding f = run->findings[i];
	int close = f.worst <= tolerance_ulp && !f.not_finite && !f.strays;
	*out = (struct tn_verified_tensor){ .name = result->name, .max_ulp = f.not_finite ? HUGE_VAL : f.max_ulp };
	out->rms_ulp = result->elements ? sqrt(f.square_sum / (double)result->elements) : 0;
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
			.name = t->name,
			.verdict = tn_checkpoint_find(run->merged, t->name) ? TN_VERDICT_RESHAPED : TN_VERDICT_MISSING,
		};
	}
	for (size_t i = 0; i < tn_checkpoint_count(run->merged); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(run->merged, i);
		if (!is_planned(fuse, t->name) && !tn_is_triple_part(run->merged, t))
			v->tensors[v->count++] = (struct tn_verified_tensor){ .name = t->name, .verdict = TN_VERDICT_EXTRA };
	}
}

static tn_status write_report(const struct run *run, tn_verify *v, struct tn_error *err)
{
	size_t room = run->fuse->step_count + tn_checkpoint_count(run->merged);
	TN_TRY(tn_arena_array(&v->arena, room, sizeof *v->tensors, &v->tensors, err));
	for (size_t i = 0; i < run->blocks.item_count; i++)
		judge(run, i, &v->tensors[v->count++]);
	add_unmatched(v, run);
	return tn_verify_settle(v, err);
}

static tn_status compare(struct run *run, struct tn_arena *arena, tn_verify *v, struct tn_error *err)
{
	struct tn_block_work work = { .run = run_block, .arg = run, .phase = "verify", .result_bytes = sizeof(struct finding),
				      .fold = fold };
	if (run->merged->config)
		TN_TRY(tn_quant_config_parse(run->fuse->ctx, run->merged->config, &run->config, err));
	TN_TRY(tn_foreign_set_create_in(arena, run->fuse->ctx, run->merged, &run->foreign, err));
	run->arena = arena;
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
