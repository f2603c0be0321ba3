/* SPDX-License-Identifier: Apache-2.0 */
/* What a fuse was made of and what came out, by content. The base is hashed before it is used up, and what was copied is
 * hashed once, in the result. */
#include "transform/fuse.h"

#include "base/error.h"
#include "base/file.h"
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

static tn_status hash_result(struct tn_fuse *fuse, const tn_checkpoint *result, struct tn_fuse_identity *id,
			     struct tn_error *err)
{
	int same = result->count == fuse->count;
	for (size_t i = 0; i < fuse->count && same; i++)
		same = strcmp(result->by_name[i]->name, fuse->planned[i].tensor->name) == 0;
	if (!same)
		return tn_fail(err, TN_E_MISMATCH, result->path,
			       "'%s' does not hold what the fuse wrote; something else has changed it", result->path);
	TN_TRY(tn_arena_array(&fuse->arena, fuse->count, sizeof *id->tensors, &id->tensors, err));
	TN_TRY(tn_content_tensors(fuse->ctx, result, result->by_name, result->count, id->tensors, err));
	tn_content_sum(result, id->tensors, &id->result);
	for (size_t i = 0; i < fuse->step_count; i++) {
		const struct tn_tensor *copied = copied_by(fuse, &fuse->steps[i]);
		if (copied)
			fuse->base_digests[number_of(fuse->base, copied->name)] = id->tensors[number_of(result, copied->name)];
	}
	tn_content_sum(fuse->base, fuse->base_digests, &id->base);
	return TN_OK;
}

static tn_status hash_headers(struct tn_fuse *fuse, const tn_checkpoint *result, struct tn_fuse_identity *id,
			      struct tn_error *err)
{
	id->header_count = result->shard_count;
	TN_TRY(tn_arena_array(&fuse->arena, id->header_count, sizeof *id->headers, &id->headers, err));
	for (size_t i = 0; i < id->header_count; i++) {
		struct tn_fuse_file *header = &id->headers[i];
		TN_TRY(tn_content_header(fuse->ctx, result, i, &header->digest, &header->bytes, err));
		TN_TRY(tn_arena_text(&fuse->arena, result->shard_names[i], strlen(result->shard_names[i]), &header->name, err));
	}
	return TN_OK;
}

/* The files of a folder that are no weights. */
static tn_status hash_files(struct tn_fuse *fuse, const char *folder, struct tn_fuse_identity *id, struct tn_error *err)
{
	const char **names;
	size_t count;
	TN_TRY(tn_content_files(folder, &fuse->arena, &names, &count, err));
	TN_TRY(tn_arena_array(&fuse->arena, count, sizeof *id->files, &id->files, err));
	for (size_t i = 0; i < count; i++) {
		struct tn_fuse_file *file = &id->files[id->file_count];
		char path[TN_PATH_BYTES];
		tn_path_kind kind;
		TN_TRY(tn_path_join(path, folder, names[i], err));
		TN_TRY(tn_path_kind_of(path, &kind, err));
		if (kind != TN_PATH_FILE)
			continue;
		TN_TRY(tn_content_file(fuse->ctx, path, &file->digest, &file->bytes, err));
		file->name = names[i];
		id->file_count++;
	}
	return TN_OK;
}

tn_status tn_fuse_receipt(tn_fuse *fuse, const char *save_path, tn_write_fn write, void *user, struct tn_error *err)
{
	struct tn_fuse_identity id = { .output = save_path };
	tn_checkpoint *result;
	if (!fuse->base_digests)
		TN_TRY(tn_fuse_identify(fuse, err));
	TN_TRY(tn_checkpoint_open(fuse->ctx, save_path, &result, err));
	tn_status status = hash_result(fuse, result, &id, err);
	if (status == TN_OK)
		status = hash_headers(fuse, result, &id, err);
	tn_checkpoint_close(result);
	if (status == TN_OK && fuse->options.dense_base)
		status = tn_content_checkpoint(fuse->ctx, fuse->options.dense_base, &id.dense, err);
	if (status == TN_OK)
		status = hash_files(fuse, save_path, &id, err);
	return status == TN_OK ? tn_fuse_write_json(fuse, &id, write, user, err) : status;
}
