/* SPDX-License-Identifier: Apache-2.0 */
/* What a fuse was made of and what came out, by content. The base is hashed before it is used up, and what was copied is
 * hashed once, in the result. */
#include "transform/fuse.h"

#include "base/error.h"
#include "store/checkpoint.h"

#include <string.h>

/* The number of a name among the tensors of a checkpoint, which has it. */
static size_t number_of(const tn_checkpoint *c, const char *name)
{
	size_t low = 0, high = c->count;
	while (low + 1 < high) {
		size_t middle = low + (high - low) / 2;
		if (strcmp(name, c->by_name[middle]->name) < 0)
			high = middle;
		else
			low = middle;
	}
	return low;
}

/* The tensor of the base that stands in the result under its own name, byte for byte; NULL: there is none. */
static const struct tn_tensor *copied_by(const struct tn_fuse *fuse, const struct tn_fuse_step *step)
{
	return step->action == TN_ACTION_COPY ? fuse->joint->targets[step->target].base : NULL;
}

tn_status tn_fuse_identify(tn_fuse *fuse, struct tn_error *err)
{
	const tn_checkpoint *base = fuse->base;
	const struct tn_tensor **wanted;
	struct tn_digest *digests;
	TN_TRY(tn_arena_array(&fuse->arena, base->count, sizeof *wanted, &wanted, err));
	TN_TRY(tn_arena_array(&fuse->arena, base->count, sizeof *digests, &digests, err));
	for (size_t i = 0; i < base->count; i++)
		wanted[i] = base->by_name[i];
	for (size_t i = 0; i < fuse->step_count; i++) {
		const struct tn_tensor *copied = copied_by(fuse, &fuse->steps[i]);
		if (copied)
			wanted[number_of(base, copied->name)] = NULL;
	}
	TN_TRY(tn_content_tensors(fuse->ctx, base, wanted, base->count, digests, err));
	fuse->base_digests = digests;
	return TN_OK;
}

static tn_status check_result(const struct tn_fuse *fuse, const tn_checkpoint *result, struct tn_error *err)
{
	int same = result->count == fuse->count;
	for (size_t i = 0; i < fuse->count && same; i++)
		same = strcmp(result->by_name[i]->name, fuse->planned[i].tensor->name) == 0;
	return same ? TN_OK : tn_fail(err, TN_E_MISMATCH, result->path, "'%s' does not hold what the fuse wrote; something else "
				      "has changed it", result->path);
}

static tn_status read_outcome(struct tn_fuse *fuse, const tn_checkpoint *result, const char *save_path,
			      struct tn_outcome *outcome, struct tn_error *err)
{
	TN_TRY(check_result(fuse, result, err));
	TN_TRY(tn_outcome_read(fuse->ctx, &fuse->arena, result, save_path, outcome, err));
	for (size_t i = 0; i < fuse->step_count; i++) {
		const struct tn_tensor *copied = copied_by(fuse, &fuse->steps[i]);
		if (copied)
			fuse->base_digests[number_of(fuse->base, copied->name)] =
				outcome->tensors[number_of(result, copied->name)];
	}
	tn_content_sum(fuse->base, fuse->base_digests, &outcome->base);
	outcome->has_dense = fuse->options.dense_base != NULL;
	return outcome->has_dense ? tn_content_checkpoint(fuse->ctx, fuse->options.dense_base, &outcome->dense, err) : TN_OK;
}

tn_status tn_fuse_receipt(tn_fuse *fuse, const char *save_path, tn_write_fn write, void *user, struct tn_error *err)
{
	struct tn_outcome outcome;
	tn_checkpoint *result;
	if (!fuse->base_digests)
		TN_TRY(tn_fuse_identify(fuse, err));
	TN_TRY(tn_checkpoint_open(fuse->ctx, save_path, &result, err));
	tn_status status = read_outcome(fuse, result, save_path, &outcome, err);
	tn_checkpoint_close(result);
	return status == TN_OK ? tn_fuse_write_json(fuse, &outcome, write, user, err) : status;
}
