/* SPDX-License-Identifier: Apache-2.0 */
/* A fuse that uses its base up: which shard of the base can go when. docs/architecture.md, "Using the base up". */
#include "transform/fuse.h"

#include "base/error.h"
#include "store/checkpoint.h"
#include "store/consume.h"
#include "store/safetensors.h"
#include "store/staging.h"
#include "weights/foreign.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

/* ---- what is read when ----------------------------------------------------------------------------------- */

static void use(const struct tn_consumption *c, const struct tn_tensor *t, uint32_t shard)
{
	if (t && c->last_use[t->shard] < shard)
		c->last_use[t->shard] = shard;
}

static void use_target(const struct tn_consumption *c, const struct tn_target *t, uint32_t shard)
{
	use(c, t->base, shard);
	for (unsigned p = 0; t->matrix && p < TN_PART_COUNT; p++)
		use(c, t->matrix->part[p], shard);
	if (t->matrix)
		use(c, t->matrix->global_scale, shard);
}

/* All that a step reads of the base: its own tensors, and those by which its factors are prepared. */
static void add_reads(const struct tn_consumption *c, const struct tn_fuse_step *step)
{
	const struct tn_joint *j = c->fuse->joint;
	const struct tn_target *t = &j->targets[step->target];
	use_target(c, t, step->shard);
	for (size_t i = 0; i < t->landing_count; i++)
		use_target(c, &j->targets[j->slots[j->landings[t->first_landing + i].slot].target], step->shard);
}

/* ---- may it be? ------------------------------------------------------------------------------------------ */

static tn_status check_mark(struct tn_consumption *c, unsigned flags, struct tn_error *err)
{
	struct tn_consumed found;
	const char *base = c->fuse->base->path;
	TN_TRY(tn_consumed_read(c->fuse->ctx, base, &found, err));
	c->is_marked = found.is_marked;
	if (!found.is_marked)
		return TN_OK;
	if (strcmp(found.output, c->output) != 0)
		return tn_fail(err, TN_E_EXISTS, base,
			       "'%.100s' is being used up for '%.90s', and '%.90s' was asked for; finish the first, or, if it was "
			       "only moved, write its new path into " TN_CONSUMED_NAME,
			       base, found.output, c->output);
	if (!(flags & TN_SAVE_RESUME))
		return tn_fail(err, TN_E_EXISTS, base, "'%.200s' is being used up by an interrupted run; go on with --resume",
			       base);
	return TN_OK;
}

/* An interrupted run is planned again from headers alone. */
static tn_status check_base(const struct tn_fuse *fuse, struct tn_error *err)
{
	const struct tn_joint *j = fuse->joint;
	if (tn_foreign_set_count(j->foreign) > 0)
		return tn_fail(err, TN_E_UNSUPPORTED, fuse->base->path, "'%.200s' is packed by another library, and how cannot "
			       "be told from the headers alone, so it cannot be used up; convert it first, or fuse without "
			       "--consume-input",
			       fuse->base->path);
	for (size_t i = 0; i < j->target_count; i++)
		if (j->targets[i].matrix && j->targets[i].matrix->global_scale)
			return tn_fail(err, TN_E_UNSUPPORTED, j->targets[i].name, "'%.120s' has a global scale, which the plan "
				       "reads, so the base cannot be used up; fuse without --consume-input", j->targets[i].name);
	return tn_consume_check(fuse->base, err);
}

tn_status tn_consumption_open(const struct tn_fuse *fuse, const char *save_path, unsigned flags, struct tn_consumption *c,
			      struct tn_error *err)
{
	*c = (struct tn_consumption){ .fuse = fuse };
	if (flags & TN_SAVE_FORCE)
		return tn_fail(err, TN_E_ARG, save_path, "a fuse that uses its base up replaces nothing; choose another folder "
			       "than '%s', or remove it", save_path);
	TN_TRY(tn_consume_absolute(c->output, save_path, err));
	TN_TRY(check_mark(c, flags, err));
	TN_TRY(check_base(fuse, err));
	if (fuse->base->shard_count == 1)
		tn_logf(fuse->ctx, TN_LOG_WARNING, "'%s' is one file: there must be room for two of them all the same",
			fuse->base->path);
	return TN_OK;
}

tn_status tn_consumption_plan(struct tn_consumption *c, struct tn_arena *arena, struct tn_error *err)
{
	const struct tn_fuse *fuse = c->fuse;
	TN_TRY(tn_arena_array(arena, fuse->base->shard_count, sizeof *c->last_use, &c->last_use, err));
	for (size_t i = 0; i < fuse->base->shard_count; i++)
		c->last_use[i] = (uint32_t)i; /* what nothing reads is safe when as much of the result is */
	for (size_t i = 0; i < fuse->step_count; i++)
		add_reads(c, &fuse->steps[i]);
	return TN_OK;
}

tn_status tn_consumption_check_whole(const struct tn_fuse *fuse, const char *with, struct tn_error *err)
{
	if (!tn_consume_has_begun(fuse->base))
		return TN_OK;
	return tn_fail(err, TN_E_EXISTS, fuse->base->path,
		       "'%.200s' has been used up in part by a fuse with %s; go on as it was begun", fuse->base->path, with);
}

tn_status tn_consumption_check_begun(const struct tn_consumption *c, const char *words, struct tn_error *err)
{
	const struct tn_fuse *fuse = c->fuse;
	struct tn_buffer remarks;
	size_t n = 0;
	if (!tn_consume_has_begun(fuse->base))
		return TN_OK;
	TN_TRY(tn_staging_remarks(fuse->ctx, c->output, NULL, &remarks, err));
	const char *begun = tn_fuse_recall_words(remarks.data, &n);
	tn_status status =
		begun ? tn_fail(err, TN_E_EXISTS, fuse->base->path,
				"'%.60s' has been used up in part for something else: [%.*s]; this is [%s]. Go on with the "
				"adapter, the options and, where only that differs, the version of the first",
				fuse->base->path, (int)n, begun, words)
		      : tn_fail(err, TN_E_NOTFOUND, fuse->base->path,
				"'%.100s' has been used up in part, and the journal that says for what does not lie beside "
				"'%.100s': put it (its name ends with .tenon-journal) and the hidden folder back",
				fuse->base->path, c->output);
	tn_buffer_release(fuse->ctx, &remarks);
	return status;
}

tn_status tn_consumption_check(const struct tn_consumption *c, const struct tn_output *output, struct tn_error *err)
{
	const tn_checkpoint *base = c->fuse->base;
	for (size_t i = 0; i < base->shard_count; i++)
		for (uint32_t k = 0; tn_consume_is_cut(base, i) && k <= c->last_use[i]; k++)
			if (!tn_output_has_shard(output, k))
				return tn_fail(err, TN_E_NOTFOUND, base->shard_names[i], "'%.160s' of '%.160s' was used up, and "
					       "'%.160s', which was made from it, is not in the hidden folder beside '%.200s'; "
					       "put that folder back",
					       base->shard_names[i], base->path, base->shard_names[k], c->output);
	return TN_OK;
}

/* ---- doing it -------------------------------------------------------------------------------------------- */

/* First the word in the base, then the hold on the folder that will have the only copy; only then is something cut. */
tn_status tn_consumption_begin(struct tn_consumption *c, struct tn_output *output, struct tn_error *err)
{
	const char *base = c->fuse->base->path;
	struct tn_error late;
	tn_status status = c->is_marked ? TN_OK : tn_consumed_mark(base, c->output, 0, err);
	if (status == TN_OK)
		status = tn_output_protect(output, err);
	if (status != TN_OK && !c->is_marked && tn_consumed_unmark(base, &late) != TN_OK)
		tn_logf(c->fuse->ctx, TN_LOG_WARNING, "nothing was cut off '%s', but: %s", base, late.msg);
	return status;
}

tn_status tn_consumption_advance(const struct tn_consumption *c, size_t shard, struct tn_error *err)
{
	for (size_t i = 0; i < c->fuse->base->shard_count; i++)
		if (c->last_use[i] == shard)
			TN_TRY(tn_consume_shard(c->fuse->base, i, err));
	return TN_OK;
}

tn_status tn_consumption_end(const struct tn_consumption *c, struct tn_error *err)
{
	TN_TRY(tn_consumed_mark(c->fuse->base->path, c->output, 1, err));
	return tn_consumed_clear(c->fuse->ctx, c->fuse->base->path, err);
}

tn_status tn_fuse_settle_consumed(tn_context *ctx, const char *base_path, const char *save_path, int *is_complete,
				  struct tn_error *err)
{
	struct tn_consumed found;
	char output[TN_PATH_BYTES];
	tn_checkpoint *result;
	*is_complete = 0;
	TN_TRY(tn_consumed_read(ctx, base_path, &found, err));
	if (!found.is_marked || tn_consume_absolute(output, save_path, NULL) != TN_OK || strcmp(found.output, output) != 0)
		return TN_OK;
	if (tn_checkpoint_open(ctx, save_path, &result, NULL) != TN_OK)
		return TN_OK;
	tn_checkpoint_close(result);
	if (!tn_staging_settle(ctx, save_path))
		return TN_OK;
	if (!found.is_complete)
		TN_TRY(tn_consumed_mark(base_path, output, 1, err));
	TN_TRY(tn_consumed_clear(ctx, base_path, err));
	*is_complete = 1;
	return TN_OK;
}
