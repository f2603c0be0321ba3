/* SPDX-License-Identifier: Apache-2.0 */
/* What the default set makes of modules, written into memory in the form of the base: the bytes that a fuse would write (of what
 * another library packed, fuse --dequantize). Taking it back is dropping that memory; the base's bytes are never touched. */
#include "live/live.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/transpose.h"
#include "transform/fuse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct merging {
	struct tn_live *live;
	struct tn_fuse *fuse;
	struct tn_merged **made;        /* [modules]; NULL: not asked for. Those of one target are the same */
	struct tn_merged **of_step;     /* [steps] */
	struct tn_arena arena;
	struct tn_blocks blocks;
	struct tn_delta_cache *deltas;
	struct tn_survival_sums *sums;  /* [steps] */
};

void tn_merged_release(tn_context *ctx, struct tn_merged *m)
{
	if (!m || atomic_fetch_sub_explicit(&m->references, 1, memory_order_acq_rel) != 1)
		return;
	tn_buffer_release(ctx, &m->memory);
	tn_free_array(ctx, m, 1, sizeof *m);
}

/* ---- the plan of a fuse ---------------------------------------------------------------------------------- */

/* `in_memory`: for a merge. Modules of other libraries are no longer packed as they were, and become dense. */
static tn_status plan(struct tn_live *live, int in_memory, struct tn_fuse **out, struct tn_error *err)
{
	const struct tn_snapshot *s = live->current;
	struct tn_fuse_options options = TN_FUSE_OPTIONS_INIT;
	struct tn_weighted_adapter *more;
	if (!s->enabled_count)
		return tn_fail(err, TN_E_ARG, "adapters", "no adapter is enabled, so there is nothing to merge");
	TN_TRY(tn_alloc_array(live->ctx, s->enabled_count, sizeof *more, "adapters", &more, err));
	for (size_t i = 1; i < s->enabled_count; i++)
		more[i - 1] = (struct tn_weighted_adapter){ s->enabled[i]->adapter, s->enabled[i]->weight };
	options.weight = s->enabled[0]->weight;
	options.dequantize = in_memory && tn_foreign_set_count(live->foreign) > 0;
	options.more = more;
	options.more_count = s->enabled_count - 1;
	tn_status status = tn_fuse_plan(live->ctx, live->base, s->enabled[0]->adapter, &options, out, err);
	tn_free_array(live->ctx, more, s->enabled_count, sizeof *more);
	return status;
}

/* An adapter may have given a tied head a target of its own. */
static size_t find_head(const struct tn_joint *j, const struct tn_live_module *m)
{
	size_t path = strlen(m->path);
	for (size_t i = 0; i < j->target_count; i++) {
		const struct tn_target *t = &j->targets[i];
		int own = t->is_new ? t->base == m->weight
				    : tn_layer_length(t->name) == path && memcmp(t->name, m->path, path) == 0;
		if (own && (t->landing_count || t->replacement))
			return i;
	}
	return TN_NO_TARGET;
}

static int compare_name(const void *name, const void *target)
{
	return strcmp(name, ((const struct tn_target *)target)->name);
}

/* The target of that name, if it is the module's weight. What another library packed holds its codes under a name of their own. */
static size_t find_named(const struct tn_joint *j, const char *name, const struct tn_live_module *m)
{
	const struct tn_target *t = bsearch(name, j->targets, j->target_count, sizeof *t, compare_name);
	if (!t)
		return TN_NO_TARGET;
	int is_packed = t->matrix && t->matrix->foreign;
	return (is_packed ? t->base == m->weight : strcmp(t->name, m->weight->name) == 0) ? (size_t)(t - j->targets) : TN_NO_TARGET;
}

/* The target that a module becomes; a tied head is the embedding's unless an adapter unties them. */
static size_t find_target(const struct merging *g, size_t module)
{
	const struct tn_live_module *m = &g->live->modules[module];
	const struct tn_joint *j = g->fuse->joint;
	char name[TN_NAME_BYTES];
	size_t found = module == g->live->head ? find_head(j, m) : TN_NO_TARGET;
	if (found == TN_NO_TARGET)
		found = find_named(j, m->weight->name, m);
	if (found == TN_NO_TARGET && (size_t)snprintf(name, sizeof name, "%s.weight", m->path) < sizeof name)
		found = find_named(j, name, m);
	return found != TN_NO_TARGET ? found : find_named(j, m->path, m);
}

/* ---- one module ------------------------------------------------------------------------------------------ */

static tn_status make_room(struct merging *g, const struct tn_fuse_step *step, size_t module, struct tn_merged **out,
			   struct tn_error *err)
{
	const struct tn_edit_form *f = &step->form;
	struct tn_merged *m;
	size_t at[TN_PART_COUNT], total = 0;
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		at[p] = total;
		total += tn_align_up((size_t)f->units * f->result[p].row_bytes, 64);
	}
	TN_TRY(tn_alloc_array(g->live->ctx, 1, sizeof *m, "merged module", &m, err));
	atomic_init(&m->references, 1);
	tn_status status = tn_buffer_alloc(g->live->ctx, total, "merged module", &m->memory, err);
	if (status != TN_OK) {
		tn_merged_release(g->live->ctx, m);
		return status;
	}
	m->linear = g->live->modules[module].linear;
	m->linear.format = f->out;
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		m->linear.part[p] = f->result[p].row_bytes ? (unsigned char *)m->memory.data + at[p] : NULL;
		m->linear.row_bytes[p] = f->result[p].row_bytes;
	}
	m->edits.replacement = &m->linear;
	*out = m;
	return TN_OK;
}

static tn_status refuse(const struct merging *g, size_t module, struct tn_error *err)
{
	const char *path = g->live->modules[module].path;
	return tn_fail(err, TN_E_UNSUPPORTED, path, "'%.100s' is replaced whole by an adapter, so it has no factors to merge "
		       "and costs nothing beside the base; leave it as it is, or write a new model with tn_live_fuse", path);
}

/* Takes a module up. One that needs no merge is passed over where all are asked for. */
static tn_status add_module(struct merging *g, size_t module, int alone, struct tn_error *err)
{
	size_t target = find_target(g, module);
	const struct tn_fuse_step *step = target == TN_NO_TARGET ? NULL : g->fuse->step_of[target];
	if (!step || !step->form.by_rows)
		return alone ? refuse(g, module, err) : TN_OK;
	size_t at = (size_t)(step - g->fuse->steps);
	if (!g->of_step[at])
		TN_TRY(make_room(g, step, module, &g->of_step[at], err));
	else
		atomic_fetch_add_explicit(&g->of_step[at]->references, 1, memory_order_relaxed);
	g->made[module] = g->of_step[at];
	return TN_OK;
}

/* ---- the work -------------------------------------------------------------------------------------------- */

static tn_status merge_block(void *arg, const struct tn_block *block, void *scratch, void *result, struct tn_error *err)
{
	const struct merging *g = arg;
	const struct tn_fuse_step *step = &g->fuse->steps[block->item];
	const struct tn_edit_form *f = &step->form;
	const struct tn_merged *m = g->of_step[block->item];
	struct tn_edit_block b;
	tn_edit_place(f, NULL, block->first, block->count, scratch, &b);
	TN_TRY(tn_edit_read(g->fuse->joint, f, &b, err));
	TN_TRY(tn_edit_units(g->fuse->joint, &g->fuse->joint->targets[step->target], f, g->deltas, &b, result, err));
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		size_t bytes = f->result[p].row_bytes;
		if (bytes)
			memcpy((unsigned char *)m->memory.data + (m->linear.part[p] - (const unsigned char *)m->memory.data) +
			       block->first * bytes, b.out[p], (size_t)block->count * bytes);
	}
	return TN_OK;
}

static void fold(void *arg, const struct tn_block *block, const void *result)
{
	struct merging *g = arg;
	tn_survival_add(&g->sums[block->item], result);
}

/* Matrices that live the other way round. A head and an embedding of one matrix need not live alike. */
static tn_status turn(struct merging *g, size_t module, struct tn_error *err)
{
	tn_context *ctx = g->live->ctx;
	struct tn_merged *m = g->made[module], *turned;
	const struct tn_linear *l = &g->live->modules[module].linear;
	if (!g->live->modules[module].is_transposed)
		return TN_OK;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *turned, "merged module", &turned, err));
	atomic_init(&turned->references, 1);
	tn_status status = tn_buffer_alloc(ctx, m->memory.bytes, "merged module", &turned->memory, err);
	if (status != TN_OK) {
		tn_merged_release(ctx, turned);
		return status;
	}
	tn_transpose(turned->memory.data, m->memory.data, l->in, l->out, l->row_bytes[TN_PART_WEIGHT] / l->in);
	turned->linear = m->linear;
	turned->linear.part[TN_PART_WEIGHT] = turned->memory.data;
	turned->linear.row_bytes[TN_PART_WEIGHT] = l->row_bytes[TN_PART_WEIGHT];
	turned->edits.replacement = &turned->linear;
	g->made[module] = turned;
	tn_merged_release(ctx, m);
	return TN_OK;
}

static tn_status cut(struct merging *g, struct tn_error *err)
{
	const struct tn_fuse *fuse = g->fuse;
	uint64_t *takes;
	TN_TRY(tn_arena_array(&g->arena, fuse->joint->slot_count, sizeof *takes, &takes, err));
	TN_TRY(tn_fuse_cut(fuse, NULL, "merge", &g->arena, &g->blocks, err));
	for (size_t i = 0; i < fuse->step_count; i++)
		if (!g->of_step[i])
			g->blocks.items[i].units = g->blocks.items[i].work_bytes = 0;
	TN_TRY(tn_blocks_cut(fuse->ctx, &g->blocks, "merge", err));
	for (size_t i = 0; i < fuse->step_count; i++)
		if (g->blocks.items[i].units)
			tn_edit_count_takes(fuse->joint, &fuse->joint->targets[fuse->steps[i].target],
					    g->blocks.items[i].units_per_block, takes);
	TN_TRY(tn_arena_array(&g->arena, fuse->step_count, sizeof *g->sums, &g->sums, err));
	return tn_delta_cache_create(fuse->joint, takes, &g->deltas, err);
}

static tn_status work(struct merging *g, struct tn_error *err)
{
	struct tn_block_work job = { .run = merge_block, .arg = g, .phase = "merge",
				     .result_bytes = sizeof(struct tn_survival_sums), .fold = fold };
	for (size_t i = 0; i < g->fuse->step_count; i++)
		if (!g->of_step[i]) /* only what is merged is looked at */
			g->fuse->steps[i].form.rounding = TN_ROUNDING_NEAREST;
	TN_TRY(tn_fuse_survey(g->fuse, err));
	TN_TRY(cut(g, err));
	TN_TRY(tn_blocks_run(g->live->ctx, &g->blocks, &job, err));
	for (size_t i = 0; i < g->fuse->step_count; i++)
		if (g->of_step[i])
			TN_TRY(tn_fuse_check_finite(g->fuse, &g->fuse->steps[i], &g->sums[i], err));
	for (size_t i = 0; i < g->live->module_count; i++)
		if (g->made[i])
			TN_TRY(turn(g, i, err));
	return TN_OK;
}

static tn_status collect(struct merging *g, size_t module, struct tn_error *err)
{
	const struct tn_live *live = g->live;
	const struct tn_snapshot *s = live->current;
	TN_TRY(tn_arena_array(&g->arena, live->module_count, sizeof *g->made, &g->made, err));
	TN_TRY(tn_arena_array(&g->arena, g->fuse->step_count, sizeof *g->of_step, &g->of_step, err));
	if (module != TN_LIVE_ALL)
		return add_module(g, module, 1, err);
	for (size_t i = 0; i < live->module_count; i++)
		if (s->edits[i] && !(s->merged && s->merged[i]))
			TN_TRY(add_module(g, i, 0, err));
	return TN_OK;
}

/* ---- the present snapshot with other merged modules ------------------------------------------------------ */

static tn_status publish(struct tn_live *live, struct tn_merged *const *merged, struct tn_error *err)
{
	const struct tn_snapshot *now = live->current;
	struct tn_snapshot *made;
	TN_TRY(tn_snapshot_make(live, now->entries, now->count, merged, &made, err));
	tn_live_publish(live, made);
	return TN_OK;
}

static tn_status merge(struct merging *g, size_t module, struct tn_error *err)
{
	const struct tn_snapshot *s = g->live->current;
	struct tn_merged **all;
	TN_TRY(collect(g, module, err));
	TN_TRY(work(g, err));
	TN_TRY(tn_arena_array(&g->arena, g->live->module_count, sizeof *all, &all, err));
	for (size_t i = 0; i < g->live->module_count; i++)
		all[i] = g->made[i] ? g->made[i] : s->merged ? s->merged[i] : NULL;
	return publish(g->live, all, err);
}

static tn_status check_module(const struct tn_live *live, size_t module, struct tn_error *err)
{
	if (module == TN_LIVE_ALL || module < live->module_count)
		return TN_OK;
	return tn_fail(err, TN_E_ARG, "modules", "there is no such module; tn_live_module() finds one by its path");
}

static tn_status check_merge(const struct tn_live *live, size_t module, struct tn_error *err)
{
	const struct tn_snapshot *s = live->current;
	TN_TRY(check_module(live, module, err));
	const char *path = module == TN_LIVE_ALL ? "modules" : live->modules[module].path;
	size_t open = 0;
	for (size_t i = 0; i < live->module_count; i++)
		open += (module == TN_LIVE_ALL || module == i) && s->edits[i] && !(s->merged && s->merged[i]);
	if (open)
		return TN_OK;
	if (s->merged && (module == TN_LIVE_ALL || s->merged[module]))
		return tn_fail(err, TN_E_EXISTS, path, "'%.100s': merged already; unmerge first", path);
	return tn_fail(err, TN_E_ARG, path, "'%.100s': no enabled adapter changes it, so there is nothing to merge", path);
}

tn_status tn_live_merge(tn_live *live, size_t module, struct tn_error *err)
{
	struct merging g = { .live = live };
	tn_arena_init(&g.arena, live->ctx);
	pthread_mutex_lock(&live->change);
	tn_status status = check_merge(live, module, err);
	if (status == TN_OK)
		status = plan(live, 1, &g.fuse, err);
	if (status == TN_OK)
		status = merge(&g, module, err);
	for (size_t i = 0; g.made && i < live->module_count; i++)
		tn_merged_release(live->ctx, g.made[i]);
	tn_delta_cache_free(g.deltas);
	tn_fuse_free(g.fuse);
	tn_arena_release(&g.arena);
	pthread_mutex_unlock(&live->change);
	tn_live_free_retired(live);
	return status;
}

static tn_status unmerge(struct tn_live *live, size_t module, struct tn_error *err)
{
	const struct tn_snapshot *s = live->current;
	TN_TRY(check_module(live, module, err));
	const char *path = module == TN_LIVE_ALL ? "modules" : live->modules[module].path;
	struct tn_merged **rest;
	if (!s->merged || (module != TN_LIVE_ALL && !s->merged[module]))
		return tn_fail(err, TN_E_NOTFOUND, path, "'%.100s': not merged, so there is nothing to take back", path);
	TN_TRY(tn_alloc_array(live->ctx, live->module_count, sizeof *rest, "modules", &rest, err));
	for (size_t i = 0; i < live->module_count && module != TN_LIVE_ALL; i++)
		rest[i] = i == module ? NULL : s->merged[i];
	tn_status status = publish(live, rest, err);
	tn_free_array(live->ctx, rest, live->module_count, sizeof *rest);
	return status;
}

tn_status tn_live_unmerge(tn_live *live, size_t module, struct tn_error *err)
{
	pthread_mutex_lock(&live->change);
	tn_status status = unmerge(live, module, err);
	pthread_mutex_unlock(&live->change);
	tn_live_free_retired(live);
	return status;
}

int tn_snapshot_is_merged(const tn_snapshot *snapshot, size_t module)
{
	return snapshot->merged && snapshot->merged[module];
}

/* ---- a new checkpoint ------------------------------------------------------------------------------------ */

tn_status tn_live_fuse(tn_live *live, const char *save_path, unsigned flags, struct tn_error *err)
{
	struct tn_fuse *fuse = NULL;
	pthread_mutex_lock(&live->change); /* adapters stay attached, and so open */
	tn_status status = plan(live, 0, &fuse, err);
	if (status == TN_OK)
		status = tn_fuse_run(fuse, save_path, flags, err);
	tn_fuse_free(fuse);
	pthread_mutex_unlock(&live->change);
	return status;
}
