/* SPDX-License-Identifier: Apache-2.0 */
#include "base/checked.h"
#include "base/error.h"
#include "store/checkpoint.h"
#include "store/json_out.h"
#include "transform/delta_cache.h"
#include "transform/fuse.h"
#include "transform/ulp.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double tolerance_ulp = 2;

struct tn_verify {
	tn_context *ctx;
	struct tn_arena arena;   /* holds this struct too */
	struct tn_verified_tensor *tensors;   /* in the order of names */
	size_t count;
	int ok;
};

/* What one block found. */
struct finding {
	double max_ulp, square_sum; /* against W + delta, at the true value */
	double worst;               /* the largest error in units at the largest term, for the verdict */
	int differs;                /* from the base, in any byte */
	int not_as_fused;           /* from what a fuse writes, in any byte */
	int strays;                 /* from the base, in rows that should not change */
	int not_finite;             /* a value is NaN or infinite where the true one is not */
};

struct run {
	tn_fuse *fuse;              /* base plus adapter, as a plan */
	const tn_checkpoint *merged;
	struct tn_blocks blocks;
	size_t *compared;           /* step of block item i */
	struct finding *findings;   /* of every block */
	struct tn_delta_cache *deltas;
};

const char *tn_verdict_name(tn_verdict verdict)
{
	static const char *const names[] = {
		[TN_VERDICT_IDENTICAL] = "identical", [TN_VERDICT_MERGED] = "merged",
		[TN_VERDICT_CHANGED] = "changed",     [TN_VERDICT_NOT_MERGED] = "not-merged",
		[TN_VERDICT_WRONG] = "wrong",         [TN_VERDICT_MISSING] = "missing",
		[TN_VERDICT_EXTRA] = "extra",         [TN_VERDICT_RESHAPED] = "reshaped",
	};
	return (size_t)verdict < sizeof names / sizeof *names ? names[verdict] : "unknown";
}

int tn_verdict_is_good(tn_verdict verdict)
{
	return verdict == TN_VERDICT_IDENTICAL || verdict == TN_VERDICT_MERGED;
}

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
	struct finding *finding;
	const struct tn_kernels *kernels;
	const unsigned char *merged;
	const struct tn_edit_form *form;
	tn_dtype dtype;
	size_t cols;
	uint64_t first, next;       /* next: the row behind the last one that was compared */
	const unsigned char *wanted;
	float *row;
};

/* Rows that nothing lands on, from the last one that was compared up to `end`. */
static void compare_between(struct comparison *c, uint64_t end)
{
	size_t at = (size_t)((c->next - c->first) * c->form->result_bytes), n = (size_t)((end - c->next) * c->form->result_bytes);
	c->finding->strays |= end > c->next && memcmp(c->wanted + at, c->merged + at, n) != 0;
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
}

/* What tools lose by summing the products in float32 is found with a closer look. */
static int compare_row(void *arg, uint64_t unit, int closely, const double *truth, const double *size)
{
	struct comparison *c = arg;
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = c->dtype };
	struct tn_row row = { { c->merged + (unit - c->first) * c->form->result_bytes } };
	compare_between(c, unit);
	c->next = unit + 1;
	c->kernels->codec[TN_CODEC_dense]->decode(c->row, &row, &format, c->cols);
	struct finding f = { 0 };
	for (size_t i = 0; i < c->cols; i++)
		compare_element(&f, c->dtype, truth[i], size[i], (double)c->row[i]);
	if (!closely && f.worst > tolerance_ulp)
		return 1;
	add_finding(c->finding, &f);
	return 0;
}

/* Scratch: the units of the source, those that a fuse would write, those of the merged file, and a row's. Outside the rows
 * that are summed, the bytes have to be the fuse's. */
static tn_status run_block(void *arg, const struct tn_block *block, void *scratch, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_fuse_step *step = &run->fuse->steps[run->compared[block->item]];
	const struct tn_joint *joint = run->fuse->joint;
	const struct tn_target *target = &joint->targets[step->target];
	const struct tn_edit_form *f = &step->form;
	const struct tn_tensor *other = tn_checkpoint_find(run->merged, step->result->name);
	size_t bytes = (size_t)(block->count * f->result_bytes);
	unsigned char *source = scratch, *wanted = source + tn_align_up((size_t)(block->count * f->source_bytes), 64);
	unsigned char *merged = wanted + tn_align_up(bytes, 64), *rest = merged + tn_align_up(bytes, 64);
	struct finding *finding = &run->findings[block->number];
	TN_TRY(tn_edit_read(joint, target, f, block->first, block->count, source, err));
	TN_TRY(tn_checkpoint_read(run->merged, other, block->first * f->result_bytes, merged, bytes, err));
	finding->differs = f->converts || memcmp(source, merged, bytes) != 0;
	if (!f->converts)
		memcpy(wanted, source, bytes);
	if (target->landing_count || f->converts)
		TN_TRY(tn_edit_units(joint, target, f, run->deltas, block->first, block->count, source, wanted, rest, err));
	if (memcmp(wanted, merged, bytes) == 0 && !target->landing_count)
		return TN_OK;
	finding->not_as_fused = 1;
	struct comparison c = { finding, run->fuse->ctx->kernels, merged, f, tn_target_dtype(target), (size_t)target->cols,
				block->first, block->first, wanted, (float *)(void *)rest };
	rest += tn_align_up((size_t)target->cols * sizeof(float), 64);
	TN_TRY(tn_edit_truths(joint, target, f, run->deltas, block->first, block->count, source, rest, compare_row, &c, err));
	compare_between(&c, target->landing_count ? block->first + block->count : block->first);
	return TN_OK;
}

/* ---- preparing ------------------------------------------------------------------------------------------- */

static int same_form(const struct tn_tensor *a, const struct tn_tensor *b)
{
	return a->dtype == b->dtype && a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

/* Items for all tensors that both checkpoints have in the same form. */
static tn_status cut(struct run *run, struct tn_arena *arena, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	uint64_t *takes;
	struct tn_blocks all = { 0 };
	TN_TRY(tn_fuse_cut(fuse, 1, arena, &all, err));
	TN_TRY(tn_arena_array(arena, fuse->count, sizeof *run->blocks.items, &run->blocks.items, err));
	TN_TRY(tn_arena_array(arena, fuse->count, sizeof *run->compared, &run->compared, err));
	TN_TRY(tn_arena_array(arena, fuse->joint->slot_count, sizeof *takes, &takes, err));
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_tensor *other = tn_checkpoint_find(run->merged, fuse->steps[i].result->name);
		if (!other || !same_form(fuse->steps[i].result, other))
			continue;
		run->compared[run->blocks.item_count] = i;
		run->blocks.items[run->blocks.item_count++] = all.items[i];
	}
	TN_TRY(tn_blocks_cut(fuse->ctx, &run->blocks, "verify", err));
	for (size_t i = 0; i < run->blocks.item_count; i++)
		for (int pass = 0; pass < 2; pass++) /* the fuse's rows, and the exact ones */
			tn_edit_count_takes(fuse->joint, &fuse->joint->targets[fuse->steps[run->compared[i]].target],
					    run->blocks.items[i].units_per_block, takes);
	TN_TRY(tn_arena_array(arena, (size_t)run->blocks.block_count, sizeof *run->findings, &run->findings, err));
	return tn_delta_cache_create(fuse->joint, takes, &run->deltas, err);
}

/* ---- the report ------------------------------------------------------------------------------------------ */

/* Blocks are added up in their order, so the sum does not depend on threads. */
static struct finding sum_findings(const struct run *run, const struct tn_block_item *item)
{
	struct finding sum = { 0 };
	uint64_t blocks = tn_ceil_div(item->units, item->units_per_block);
	for (uint64_t i = 0; i < blocks; i++)
		add_finding(&sum, &run->findings[item->first_block + i]);
	return sum;
}

static void judge(const struct run *run, size_t i, struct tn_verified_tensor *out)
{
	const struct tn_fuse_step *step = &run->fuse->steps[run->compared[i]];
	const struct tn_target *target = &run->fuse->joint->targets[step->target];
	struct finding f = sum_findings(run, &run->blocks.items[i]);
	out->name = step->result->name;
	out->max_ulp = f.not_finite ? HUGE_VAL : f.max_ulp;
	out->rms_ulp = step->result->elements ? sqrt(f.square_sum / (double)step->result->elements) : 0;
	if (!target->landing_count)
		out->verdict = !f.not_as_fused ? (target->replacement ? TN_VERDICT_MERGED : TN_VERDICT_IDENTICAL)
					       : target->replacement ? TN_VERDICT_WRONG : TN_VERDICT_CHANGED;
	else if (f.worst <= tolerance_ulp && !f.not_finite && !f.strays)
		out->verdict = TN_VERDICT_MERGED;
	else
		out->verdict = f.differs ? TN_VERDICT_WRONG : TN_VERDICT_NOT_MERGED;
}

static int compare_verified(const void *a, const void *b)
{
	return strcmp(((const struct tn_verified_tensor *)a)->name, ((const struct tn_verified_tensor *)b)->name);
}

static int compare_planned(const void *name, const void *planned)
{
	return strcmp(name, ((const struct tn_planned_tensor *)planned)->tensor->name);
}

static void add_unmatched(struct tn_verify *v, const struct run *run)
{
	const struct tn_fuse *fuse = run->fuse;
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_tensor *t = fuse->planned[i].tensor, *other = tn_checkpoint_find(run->merged, t->name);
		if (!other)
			v->tensors[v->count++] = (struct tn_verified_tensor){ t->name, TN_VERDICT_MISSING, 0, 0 };
		else if (!same_form(t, other))
			v->tensors[v->count++] = (struct tn_verified_tensor){ t->name, TN_VERDICT_RESHAPED, 0, 0 };
	}
	for (size_t i = 0; i < tn_checkpoint_count(run->merged); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(run->merged, i);
		if (!bsearch(t->name, fuse->planned, fuse->count, sizeof *fuse->planned, compare_planned))
			v->tensors[v->count++] = (struct tn_verified_tensor){ t->name, TN_VERDICT_EXTRA, 0, 0 };
	}
}

static tn_status write_report(const struct run *run, tn_verify *v, struct tn_error *err)
{
	size_t room = run->fuse->count + tn_checkpoint_count(run->merged);
	TN_TRY(tn_arena_array(&v->arena, room, sizeof *v->tensors, &v->tensors, err));
	for (size_t i = 0; i < run->blocks.item_count; i++)
		judge(run, i, &v->tensors[v->count++]);
	add_unmatched(v, run);
	qsort(v->tensors, v->count, sizeof *v->tensors, compare_verified);
	v->ok = 1;
	for (size_t i = 0; i < v->count; i++) {
		v->ok &= tn_verdict_is_good(v->tensors[i].verdict);
		TN_TRY(tn_arena_text(&v->arena, v->tensors[i].name, strlen(v->tensors[i].name), &v->tensors[i].name, err));
	}
	return TN_OK;
}

static tn_status compare(struct run *run, struct tn_arena *arena, tn_verify *v, struct tn_error *err)
{
	struct tn_block_work work = { run_block, run, "verify" };
	TN_TRY(cut(run, arena, err));
	if (run->blocks.block_count)
		TN_TRY(tn_blocks_run(run->fuse->ctx, &run->blocks, &work, err));
	return write_report(run, v, err);
}

tn_status tn_verify_run(tn_context *ctx, const tn_checkpoint *base, const tn_adapter *adapter, const tn_checkpoint *merged,
			tn_verify **out, struct tn_error *err)
{
	struct tn_arena arena, scratch;
	tn_verify *v;
	struct run run = { .merged = merged };
	tn_arena_init(&arena, ctx);
	tn_arena_init(&scratch, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *v, &v, err));
	v->ctx = ctx;
	v->arena = arena;
	tn_status status = tn_fuse_plan(ctx, base, adapter, &run.fuse, err);
	if (status == TN_OK)
		status = compare(&run, &scratch, v, err);
	tn_delta_cache_free(run.deltas);
	tn_fuse_free(run.fuse);
	tn_arena_release(&scratch);
	if (status != TN_OK) {
		tn_verify_free(v);
		return status;
	}
	*out = v;
	return TN_OK;
}

void tn_verify_free(tn_verify *v)
{
	if (!v)
		return;
	struct tn_arena arena = v->arena;
	tn_arena_release(&arena);
}

int tn_verify_ok(const tn_verify *v)
{
	return v->ok;
}

size_t tn_verify_count(const tn_verify *v)
{
	return v->count;
}

const struct tn_verified_tensor *tn_verify_at(const tn_verify *v, size_t i)
{
	return i < v->count ? &v->tensors[i] : NULL;
}

tn_status tn_verify_json(const tn_verify *v, tn_write_fn write, void *user, struct tn_error *err)
{
	struct tn_json_out out;
	tn_json_out_init(&out, v->ctx, write, user);
	tn_json_out_begin(&out, '{');
	tn_json_out_key(&out, "ok");
	tn_json_out_bool(&out, v->ok);
	tn_json_out_key(&out, "tensors");
	tn_json_out_begin(&out, '[');
	for (size_t i = 0; i < v->count; i++) {
		const struct tn_verified_tensor *t = &v->tensors[i];
		tn_json_out_begin_line(&out, '{');
		tn_json_out_key(&out, "name");
		tn_json_out_string(&out, t->name);
		tn_json_out_key(&out, "status");
		tn_json_out_string(&out, tn_verdict_name(t->verdict));
		tn_json_out_key(&out, "max_ulp");
		tn_json_out_double(&out, t->max_ulp);
		tn_json_out_key(&out, "rms_ulp");
		tn_json_out_double(&out, t->rms_ulp);
		tn_json_out_end(&out, '}');
	}
	tn_json_out_end(&out, ']');
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}
