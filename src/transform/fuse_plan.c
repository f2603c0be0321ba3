/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/fuse.h"

#include "base/error.h"
#include "transform/delta_cache.h"
#include "weights/foreign.h"
#include "weights/format.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *tn_action_name(tn_action action)
{
	static const char *const names[] = {
		[TN_ACTION_COPY] = "copied",           [TN_ACTION_MERGE] = "merged",
		[TN_ACTION_REQUANTIZE] = "requantized", [TN_ACTION_PROMOTE] = "promoted",
		[TN_ACTION_DEQUANTIZE] = "dequantized", [TN_ACTION_REPLACE] = "replaced",
		[TN_ACTION_UNTIE] = "untied",          [TN_ACTION_EXPAND] = "expanded",
		[TN_ACTION_ADD] = "added",
	};
	return (size_t)action < sizeof names / sizeof *names ? names[action] : "unknown";
}

const char *tn_rounding_name(tn_rounding rounding)
{
	static const char *const names[] = { "auto", "dither", "nearest" };
	return (size_t)rounding < sizeof names / sizeof *names ? names[rounding] : "unknown";
}

/* ---- one step -------------------------------------------------------------------------------------------- */

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

static const struct tn_adapter_module *saved_module(const struct tn_target *t)
{
	for (size_t i = 0; i < t->replacer->count; i++)
		if (t->replacer->entries[i].values == t->replacement)
			return &t->replacer->entries[i].module;
	return NULL;
}

static tn_action action_of(const struct tn_fuse *fuse, const struct tn_target *t, const struct tn_edit_form *f)
{
	const struct tn_slot *slot = leading_slot(fuse->joint, t);
	int packed_out = f->out.codec != TN_CODEC_dense;
	if (slot && slot->kind != TN_SLOT_TOKENS) {
		if (!packed_out)
			return TN_ACTION_MERGE;
		return f->out.bits == t->matrix->format.bits && f->out.codec == t->matrix->format.codec ? TN_ACTION_REQUANTIZE
													 : TN_ACTION_PROMOTE;
	}
	if (!t->base)
		return TN_ACTION_ADD;
	if (slot || t->replacement)
		return TN_ACTION_REPLACE;
	if (f->by_rows)
		return TN_ACTION_DEQUANTIZE;
	if (t->is_new)
		return fuse->adapter->config.replication_count ? TN_ACTION_EXPAND : TN_ACTION_UNTIE;
	return TN_ACTION_COPY;
}

static tn_status make_step(struct tn_fuse *fuse, size_t target, struct tn_fuse_step *step, struct tn_error *err)
{
	const struct tn_target *t = &fuse->joint->targets[target];
	*step = (struct tn_fuse_step){ .target = target };
	TN_TRY(tn_edit_form_make(fuse->joint, t, &fuse->choices[target], &fuse->arena, &step->form, step->outputs, err));
	step->action = action_of(fuse, t, &step->form);
	step->shard = t->base ? t->base->shard : 0;
	step->offset = t->base ? t->base->offset : 0;
	if (step->form.by_rows && step->form.out.codec == TN_CODEC_grid)
		return tn_foreign_text(&fuse->arena, t->matrix->foreign, &step->scheme, err);
	if (step->form.by_rows && t->matrix)
		TN_TRY(tn_parts_text(&fuse->arena, &step->form.out, &step->scheme, err));
	return TN_OK;
}

/* ---- all steps ------------------------------------------------------------------------------------------- */

static int compare_names(const void *name, const void *target)
{
	return strcmp(name, ((const struct tn_target *)target)->name);
}

/* Scales, biases and global scales of weights that are worked on, or left out: marked in `taken` [targets]. The global scale stays
 * beside a result that needs it. */
static void take_parts(const struct tn_fuse *fuse, const struct tn_fuse_step *step, unsigned char *taken)
{
	static const char *const suffixes[] = { ".scales", ".biases", ".global_scale" };
	const struct tn_joint *j = fuse->joint;
	const struct tn_target *t = &j->targets[step->target];
	int keeps_global = t->matrix && step->form.out.codec == t->matrix->format.codec && !t->is_dropped;
	taken[step->target] |= (unsigned char)t->is_dropped;
	for (size_t i = 0; i < 3 && t->matrix && !t->matrix->foreign && (step->form.by_rows || t->is_dropped); i++) {
		char name[TN_NAME_BYTES];
		if ((i == 2 && keeps_global) || !tn_sibling_name(name, t->name, suffixes[i]))
			continue;
		const struct tn_target *part = bsearch(name, j->targets, j->target_count, sizeof *part, compare_names);
		if (part)
			taken[(size_t)(part - j->targets)] = 1;
	}
}

/* Of another library's module: what is written with its codes, and where it becomes dense all that belongs to it. Before the
 * steps are sorted. */
static void take_foreign(const struct tn_fuse *fuse, unsigned char *taken)
{
	const struct tn_joint *j = fuse->joint;
	for (size_t i = 0; i < j->target_count && tn_foreign_set_count(j->foreign); i++) {
		const struct tn_target *t = &j->targets[i], *own;
		int codes = 0;
		const struct tn_foreign *f = t->base ? tn_foreign_set_owner(j->foreign, t->base, &codes) : NULL;
		if (!f || codes)
			continue;
		own = bsearch(f->weight.name, j->targets, j->target_count, sizeof *own, compare_names);
		const struct tn_fuse_step *step = own ? &fuse->steps[own - j->targets] : NULL;
		taken[i] |= own && own->is_dropped;
		if (!step || !step->form.by_rows)
			continue;
		taken[i] = step->form.out.codec != TN_CODEC_grid;
		for (unsigned p = TN_PART_SCALES; p < TN_PART_COUNT; p++)
			taken[i] |= step->outputs[p] && strcmp(step->outputs[p]->name, t->base->name) == 0;
	}
}

static int compare_steps(const void *a, const void *b)
{
	const struct tn_fuse_step *x = a, *y = b;
	if (x->shard != y->shard)
		return x->shard < y->shard ? -1 : 1;
	if (x->offset != y->offset)
		return x->offset < y->offset ? -1 : 1;
	return strcmp(x->outputs[TN_PART_WEIGHT]->name, y->outputs[TN_PART_WEIGHT]->name);
}

static int compare_planned(const void *a, const void *b)
{
	return strcmp(((const struct tn_planned_tensor *)a)->tensor->name, ((const struct tn_planned_tensor *)b)->tensor->name);
}

static int is_change(tn_action action)
{
	return action != TN_ACTION_COPY && action != TN_ACTION_EXPAND && action != TN_ACTION_DEQUANTIZE;
}

/* Steps and their tensors by name. */
static void list_planned(struct tn_fuse *fuse)
{
	fuse->count = fuse->changed_count = 0;
	for (size_t i = 0; i < fuse->step_count; i++) {
		const struct tn_fuse_step *step = &fuse->steps[i];
		const struct tn_target *t = &fuse->joint->targets[step->target];
		const struct tn_slot *slot = leading_slot(fuse->joint, t);
		const struct tn_adapter_module *module = slot ? &slot->entry->module : t->replacement ? saved_module(t) : NULL;
		for (unsigned p = 0; p < TN_PART_COUNT; p++) {
			if (!step->outputs[p])
				continue;
			step->outputs[p]->shard = step->shard;
			fuse->planned[fuse->count++] = (struct tn_planned_tensor){
				step->outputs[p], step->action, module, step->scheme, p == TN_PART_WEIGHT ? step->survival : NULL,
				step->form.dense.tensor != NULL,
			};
		}
		fuse->changed_count += (size_t)is_change(step->action);
	}
	if (fuse->count > 1)
		qsort(fuse->planned, fuse->count, sizeof *fuse->planned, compare_planned);
}

/* Room for all steps there may be, once for all times that they are made. */
static tn_status make_room(struct tn_fuse *fuse, struct tn_error *err)
{
	const size_t n = fuse->joint->target_count;
	if (fuse->steps)
		return TN_OK;
	TN_TRY(tn_arena_array(&fuse->arena, n * TN_PART_COUNT, sizeof *fuse->planned, &fuse->planned, err));
	TN_TRY(tn_arena_array(&fuse->arena, n, sizeof *fuse->step_of, &fuse->step_of, err));
	TN_TRY(tn_arena_array(&fuse->arena, n, 1, &fuse->taken, err));
	return tn_arena_array(&fuse->arena, n, sizeof *fuse->steps, &fuse->steps, err);
}

tn_status tn_fuse_make_steps(struct tn_fuse *fuse, struct tn_error *err)
{
	const struct tn_joint *j = fuse->joint;
	size_t n = 0;
	TN_TRY(make_room(fuse, err));
	memset(fuse->taken, 0, j->target_count);
	for (size_t i = 0; i < j->target_count; i++) {
		TN_TRY(make_step(fuse, i, &fuse->steps[i], err));
		take_parts(fuse, &fuse->steps[i], fuse->taken);
	}
	take_foreign(fuse, fuse->taken);
	for (size_t i = 0; i < j->target_count; i++)
		if (!fuse->taken[i])
			fuse->steps[n++] = fuse->steps[i];
	fuse->step_count = n;
	if (n > 1)
		qsort(fuse->steps, n, sizeof *fuse->steps, compare_steps);
	memset(fuse->step_of, 0, j->target_count * sizeof *fuse->step_of);
	for (size_t i = 0; i < n; i++)
		fuse->step_of[fuse->steps[i].target] = &fuse->steps[i];
	list_planned(fuse);
	return TN_OK;
}

/* ---- planning -------------------------------------------------------------------------------------------- */

static tn_status check_options(const struct tn_fuse_options *o, struct tn_error *err)
{
	if ((unsigned)o->rounding > TN_ROUNDING_NEAREST)
		return tn_fail(err, TN_E_ARG, "rounding", "rounding is %d, and one of tn_rounding was expected", (int)o->rounding);
	if (o->promote_bits != 0 && o->promote_bits != 6 && o->promote_bits != 8)
		return tn_fail(err, TN_E_ARG, "promote_bits",
			       "touched weights can be promoted to 6 or 8 bits, and %d was asked for", o->promote_bits);
	if (o->dequantize && o->promote_bits)
		return tn_fail(err, TN_E_ARG, "dequantize",
			       "a model can be left dense, or its touched weights be promoted, not both");
	if (o->dense_base && (o->dequantize || o->rounding == TN_ROUNDING_DITHER))
		return tn_fail(err, TN_E_ARG, "dense_base", "%s", o->dequantize ? "with the dense original at hand, fuse into "
			       "that to have a dense model" : "the sum with a dense original is rounded to nearest; dither is "
							      "for values on the grid");
	if (!(o->min_survival >= 0 && o->min_survival <= 1))
		return tn_fail(err, TN_E_ARG, "min_survival", "a share between 0 and 1 was expected, and %g was given",
			       o->min_survival);
	return TN_OK;
}

static tn_status list_adapters(struct tn_fuse *fuse, struct tn_error *err)
{
	struct tn_weighted_adapter *all;
	size_t count = 1 + fuse->options.more_count;
	TN_TRY(tn_arena_array(&fuse->arena, count, sizeof *all, &all, err));
	all[0] = (struct tn_weighted_adapter){ fuse->adapter, fuse->options.weight };
	for (size_t i = 1; i < count; i++)
		all[i] = fuse->options.more[i - 1];
	for (size_t i = 0; i < count; i++) {
		for (size_t k = 0; k < i; k++)
			if (all[i].adapter == all[k].adapter)
				return tn_fail(err, TN_E_ARG, all[i].adapter->path, "'%.200s' is there twice; add the weights up",
					       all[i].adapter->path);
		if (!isfinite(all[i].weight))
			return tn_fail(err, TN_E_ARG, all[i].adapter->path, "the weight of '%.200s' is not a number",
				       all[i].adapter->path);
	}
	fuse->adapters = all;
	fuse->adapter_count = count;
	return TN_OK;
}

/* Layouts of other libraries have one width. */
static tn_status check_promotion(const struct tn_fuse *fuse, struct tn_error *err)
{
	const struct tn_joint *j = fuse->joint;
	for (size_t i = 0; i < j->target_count && fuse->options.promote_bits; i++)
		if (j->targets[i].landing_count && j->targets[i].matrix && j->targets[i].matrix->foreign)
			return tn_fail(err, TN_E_UNSUPPORTED, j->targets[i].name, "'%.100s' is packed as %s, whose tools know "
				       "one width for all layers; run tenon convert --to mlx on the base before --promote-bits, "
				       "or use --dequantize", j->targets[i].name, j->targets[i].matrix->foreign->scheme);
	return TN_OK;
}

static tn_status plan(struct tn_fuse *fuse, struct tn_error *err)
{
	const struct tn_fuse_options *o = &fuse->options;
	TN_TRY(check_options(o, err));
	TN_TRY(list_adapters(fuse, err));
	TN_TRY(tn_joint_make_all(fuse->adapters, fuse->adapter_count, fuse->base, &fuse->arena, &fuse->joint, err));
	TN_TRY(tn_fuse_find_dense(fuse, err));
	TN_TRY(check_promotion(fuse, err));
	TN_TRY(tn_arena_array(&fuse->arena, fuse->joint->target_count, sizeof *fuse->choices, &fuse->choices, err));
	for (size_t i = 0; i < fuse->joint->target_count; i++)
		fuse->choices[i] = (struct tn_edit_choice){ o->dequantize, o->min_survival > 0 ? 0 : o->promote_bits, o->rounding };
	return tn_fuse_make_steps(fuse, err);
}

tn_status tn_fuse_plan(tn_context *ctx, const tn_checkpoint *base, const tn_adapter *adapter,
		       const struct tn_fuse_options *options, tn_fuse **out, struct tn_error *err)
{
	static const struct tn_fuse_options defaults = TN_FUSE_OPTIONS_INIT;
	struct tn_arena arena;
	tn_fuse *fuse;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *fuse, &fuse, err));
	fuse->ctx = ctx;
	fuse->arena = arena;
	fuse->base = base;
	fuse->adapter = adapter;
	fuse->options = options ? *options : defaults;
	tn_status status = plan(fuse, err);
	if (status != TN_OK) {
		tn_fuse_free(fuse);
		return status;
	}
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

size_t tn_fuse_copied_count(const tn_fuse *fuse)
{
	return fuse->step_count - fuse->changed_count;
}

tn_status tn_fuse_report(struct tn_fuse *fuse, struct tn_fuse_step *step, const struct tn_survival_sums *sum,
			 struct tn_error *err)
{
	struct tn_planned_tensor key = { .tensor = step->outputs[TN_PART_WEIGHT] };
	struct tn_planned_tensor *p = bsearch(&key, fuse->planned, fuse->count, sizeof *p, compare_planned);
	TN_TRY(tn_arena_alloc(&fuse->arena, sizeof *step->survival, &step->survival, err));
	*step->survival = tn_survival_of(sum, step->action == TN_ACTION_PROMOTE ? TN_ROUNDING_NEAREST : step->form.rounding);
	p->survival = step->survival;
	return TN_OK;
}

static uint64_t step_bytes(const struct tn_edit_form *f)
{
	uint64_t unit = 0;
	for (unsigned p = 0; p < TN_PART_COUNT; p++)
		unit += f->source_bytes[p] + f->result[p].row_bytes;
	return unit * f->units;
}

uint64_t tn_fuse_work_bytes(const tn_fuse *fuse)
{
	uint64_t bytes = 0;
	for (size_t i = 0; i < fuse->step_count; i++)
		bytes += step_bytes(&fuse->steps[i].form);
	return bytes;
}

/* ---- blocks ---------------------------------------------------------------------------------------------- */

/* Slots stay in memory from the first item that takes them to the last: what lives beside each item. */
static tn_status add_slots(const struct tn_fuse *fuse, struct tn_arena *arena, struct tn_block_item *items,
			   struct tn_error *err)
{
	const struct tn_joint *j = fuse->joint;
	size_t *first, *last;
	TN_TRY(tn_arena_array(arena, j->slot_count, sizeof *first, &first, err));
	TN_TRY(tn_arena_array(arena, j->slot_count, sizeof *last, &last, err));
	for (size_t i = 0; i < fuse->step_count; i++) {
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

tn_status tn_fuse_cut(const struct tn_fuse *fuse, const struct tn_fuse_extra *extra, const char *what,
		      struct tn_arena *arena, struct tn_blocks *blocks, struct tn_error *err)
{
	blocks->item_count = fuse->step_count;
	TN_TRY(tn_arena_array(arena, fuse->step_count, sizeof *blocks->items, &blocks->items, err));
	for (size_t i = 0; i < fuse->step_count; i++) {
		const struct tn_edit_form *f = &fuse->steps[i].form;
		blocks->items[i] = (struct tn_block_item){
			.units = f->units,
			.unit_bytes = tn_edit_unit_bytes(f) + (extra ? extra[i].unit_bytes : 0),
			.fixed_bytes = f->scratch_bytes + (extra ? extra[i].fixed_bytes : 0),
			.work_bytes = step_bytes(f),
			.alignment = f->alignment,
		};
	}
	TN_TRY(add_slots(fuse, arena, blocks->items, err));
	return tn_blocks_cut(fuse->ctx, blocks, what, err);
}

tn_status tn_fuse_memory(const tn_fuse *fuse, uint64_t *bytes, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_blocks blocks = { .waits = 1 };
	tn_arena_init(&arena, fuse->ctx);
	tn_status status = tn_fuse_cut(fuse, NULL, "fuse", &arena, &blocks, err);
	if (status == TN_OK)
		*bytes = blocks.memory_bytes;
	tn_arena_release(&arena);
	return status;
}
