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

/* Scratch of a merged block: the rows of the base, those of the merged file, then one row each of base and merged in
 * float32, one of the delta in double, and the delta's own scratch. */
struct rows {
	unsigned char *base, *merged;
	float *w, *m;
	double *d;
	void *delta_scratch;
};

static struct rows split_scratch(unsigned char *scratch, size_t bytes, size_t cols)
{
	struct rows r;
	r.base = scratch;
	r.merged = scratch + bytes;
	r.d = (double *)(void *)(scratch + tn_align_up(2 * bytes, 64));
	r.w = (float *)(void *)(r.d + cols);
	r.m = r.w + cols;
	r.delta_scratch = (unsigned char *)r.d + tn_align_up(cols * 16, 64);
	return r;
}

static void compare_element(struct finding *f, tn_dtype dtype, double w, double d, double m)
{
	double truth = w + d, error = fabs(m - truth);
	if (!isfinite(m) || !isfinite(truth)) {
		f->not_finite |= isfinite(truth) || (isnan(truth) != isnan(m)) || (isinf(truth) && m != truth);
		return;
	}
	double ulps = error / tn_ulp(dtype, truth);
	double largest = fmax(fmax(fabs(w), fabs(d)), fabs(truth));
	f->max_ulp = fmax(f->max_ulp, ulps);
	f->square_sum += ulps * ulps;
	f->worst = fmax(f->worst, error / tn_ulp(dtype, largest));
}

static void compare_rows(struct run *run, const struct tn_tensor *t, const struct tn_delta *delta,
			 const struct tn_block *block, const struct rows *r, struct finding *f)
{
	const struct tn_kernels *k = run->fuse->ctx->kernels;
	const struct tn_codec *codec = k->codec[TN_CODEC_dense];
	struct tn_format format = { .codec = TN_CODEC_dense, .dtype = t->dtype };
	size_t row_bytes = (size_t)(t->bytes / t->shape[0]);
	for (uint64_t i = 0; i < block->count; i++) {
		struct tn_row base = { { r->base + i * row_bytes } }, merged = { { r->merged + i * row_bytes } };
		codec->decode(r->w, &base, &format, delta->in);
		codec->decode(r->m, &merged, &format, delta->in);
		tn_delta_row_f64(k, delta, (size_t)(block->first + i), r->d, r->delta_scratch);
		for (size_t j = 0; j < delta->in; j++)
			compare_element(f, t->dtype, (double)r->w[j], r->d[j], (double)r->m[j]);
	}
}

static tn_status run_block(void *arg, const struct tn_block *block, void *scratch, struct tn_error *err)
{
	struct run *run = arg;
	const struct tn_fuse_step *step = &run->fuse->steps[run->compared[block->item]];
	const struct tn_tensor *t = step->tensor, *other = tn_checkpoint_find(run->merged, t->name);
	int is_merged = step->landing != TN_NO_LANDING;
	uint64_t unit = is_merged ? t->bytes / t->shape[0] : 1;
	size_t bytes = (size_t)(block->count * unit);
	struct finding *f = &run->findings[block->number];
	struct rows r = split_scratch(scratch, bytes, is_merged ? (size_t)t->shape[1] : 0);
	TN_TRY(tn_checkpoint_read(run->fuse->base, t, block->first * unit, r.base, bytes, err));
	TN_TRY(tn_checkpoint_read(run->merged, other, block->first * unit, r.merged, bytes, err));
	f->differs = memcmp(r.base, r.merged, bytes) != 0;
	if (!is_merged)
		return TN_OK;
	const struct tn_delta *delta;
	TN_TRY(tn_delta_cache_take(run->deltas, (size_t)step->landing, &delta, err));
	compare_rows(run, t, delta, block, &r, f);
	tn_delta_cache_return(run->deltas, (size_t)step->landing);
	return TN_OK;
}

/* ---- preparing ------------------------------------------------------------------------------------------- */

static int same_form(const struct tn_tensor *a, const struct tn_tensor *b)
{
	return a->dtype == b->dtype && a->rank == b->rank && memcmp(a->shape, b->shape, a->rank * sizeof *a->shape) == 0;
}

static struct tn_block_item compared_item(const struct tn_fuse *fuse, const struct tn_fuse_step *step)
{
	const struct tn_tensor *t = step->tensor;
	if (step->landing == TN_NO_LANDING)
		return (struct tn_block_item){ t->bytes, 2, 64, 0, 2 * t->bytes, 0, 0 };
	const struct tn_adapter_entry *entry = fuse->landings[step->landing].entry;
	struct tn_delta shape = { .rank = (size_t)entry->module.rank, .in = (size_t)entry->module.in_features };
	return (struct tn_block_item){
		.units = t->shape[0],
		.unit_bytes = t->shape[0] ? 2 * t->bytes / t->shape[0] : 0,
		.fixed_bytes = t->shape[1] * 16 + tn_delta_scratch_bytes(&shape) + 256,
		.shared_bytes = tn_delta_cache_bytes(entry),
		.work_bytes = 2 * t->bytes,
	};
}

/* Items for all tensors that both checkpoints have in the same form. */
static tn_status cut(struct run *run, struct tn_arena *arena, struct tn_error *err)
{
	const struct tn_fuse *fuse = run->fuse;
	uint64_t *landing_blocks;
	TN_TRY(tn_arena_array(arena, fuse->count, sizeof *run->blocks.items, &run->blocks.items, err));
	TN_TRY(tn_arena_array(arena, fuse->count, sizeof *run->compared, &run->compared, err));
	TN_TRY(tn_arena_array(arena, fuse->landing_count, sizeof *landing_blocks, &landing_blocks, err));
	for (size_t i = 0; i < fuse->count; i++) {
		const struct tn_tensor *other = tn_checkpoint_find(run->merged, fuse->steps[i].tensor->name);
		if (!other || !same_form(fuse->steps[i].tensor, other))
			continue;
		run->compared[run->blocks.item_count] = i;
		run->blocks.items[run->blocks.item_count++] = compared_item(fuse, &fuse->steps[i]);
	}
	TN_TRY(tn_blocks_cut(fuse->ctx, &run->blocks, "verify", err));
	for (size_t i = 0; i < run->blocks.item_count; i++) {
		const struct tn_block_item *item = &run->blocks.items[i];
		int64_t landing = fuse->steps[run->compared[i]].landing;
		if (landing != TN_NO_LANDING)
			landing_blocks[landing] = tn_ceil_div(item->units, item->units_per_block);
	}
	TN_TRY(tn_arena_array(arena, (size_t)run->blocks.block_count, sizeof *run->findings, &run->findings, err));
	return tn_delta_cache_create(fuse->adapter, fuse->landings, landing_blocks, fuse->landing_count, &run->deltas, err);
}

/* ---- the report ------------------------------------------------------------------------------------------ */

/* Blocks are added up in their order, so the sum does not depend on threads. */
static struct finding sum_findings(const struct run *run, const struct tn_block_item *item)
{
	struct finding sum = { 0 };
	uint64_t blocks = tn_ceil_div(item->units, item->units_per_block);
	for (uint64_t i = 0; i < blocks; i++) {
		const struct finding *f = &run->findings[item->first_block + i];
		sum.max_ulp = fmax(sum.max_ulp, f->max_ulp);
		sum.worst = fmax(sum.worst, f->worst);
		sum.square_sum += f->square_sum;
		sum.differs |= f->differs;
		sum.not_finite |= f->not_finite;
	}
	return sum;
}

static void judge(const struct run *run, size_t i, struct tn_verified_tensor *out)
{
	const struct tn_fuse_step *step = &run->fuse->steps[run->compared[i]];
	struct finding f = sum_findings(run, &run->blocks.items[i]);
	out->name = step->tensor->name;
	if (step->landing == TN_NO_LANDING) {
		out->verdict = f.differs ? TN_VERDICT_CHANGED : TN_VERDICT_IDENTICAL;
		return;
	}
	out->max_ulp = f.not_finite ? HUGE_VAL : f.max_ulp;
	out->rms_ulp = step->tensor->elements ? sqrt(f.square_sum / (double)step->tensor->elements) : 0;
	if (f.worst <= tolerance_ulp && !f.not_finite)
		out->verdict = TN_VERDICT_MERGED;
	else
		out->verdict = f.differs ? TN_VERDICT_WRONG : TN_VERDICT_NOT_MERGED;
}

static int compare_verified(const void *a, const void *b)
{
	return strcmp(((const struct tn_verified_tensor *)a)->name, ((const struct tn_verified_tensor *)b)->name);
}

static void add_unmatched(struct tn_verify *v, const struct run *run)
{
	const tn_checkpoint *base = run->fuse->base, *merged = run->merged;
	for (size_t i = 0; i < tn_checkpoint_count(base); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(base, i), *other = tn_checkpoint_find(merged, t->name);
		if (!other)
			v->tensors[v->count++] = (struct tn_verified_tensor){ t->name, TN_VERDICT_MISSING, 0, 0 };
		else if (!same_form(t, other))
			v->tensors[v->count++] = (struct tn_verified_tensor){ t->name, TN_VERDICT_RESHAPED, 0, 0 };
	}
	for (size_t i = 0; i < tn_checkpoint_count(merged); i++) {
		const struct tn_tensor *t = tn_checkpoint_at(merged, i);
		if (!tn_checkpoint_find(base, t->name))
			v->tensors[v->count++] = (struct tn_verified_tensor){ t->name, TN_VERDICT_EXTRA, 0, 0 };
	}
}

static tn_status write_report(const struct run *run, tn_verify *v, struct tn_error *err)
{
	size_t room = tn_checkpoint_count(run->fuse->base) + tn_checkpoint_count(run->merged);
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
