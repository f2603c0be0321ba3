/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/content.h"

#include "adapter/identity.h"
#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "base/pool.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/safetensors.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { PIECE_BYTES = 1 << 20 };

void tn_digest_text(const struct tn_digest *digest, char text[TN_DIGEST_TEXT])
{
	tn_hash_text(text, digest->bytes);
}

int tn_digest_parse(const char *text, struct tn_digest *digest)
{
	static const char digits[] = "0123456789abcdef";
	if (strlen(text) != TN_DIGEST_TEXT - 1 || strspn(text, digits) != TN_DIGEST_TEXT - 1)
		return 0;
	for (size_t i = 0; i < TN_DIGEST_BYTES; i++) {
		size_t high = (size_t)(strchr(digits, text[2 * i]) - digits);
		size_t low = (size_t)(strchr(digits, text[2 * i + 1]) - digits);
		digest->bytes[i] = (unsigned char)(high << 4 | low);
	}
	return 1;
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

struct job {
	tn_context *ctx;
	const tn_checkpoint *checkpoint;
	const struct tn_tensor *const *tensors;
	struct tn_digest *digests;
	struct tn_buffer *pieces;      /* one for each worker */
	uint64_t total;
	_Atomic uint64_t done;
};

static tn_status digest_tensor(void *arg, uint64_t task, unsigned worker, struct tn_error *err)
{
	struct job *job = arg;
	const struct tn_tensor *t = job->tensors[task];
	struct tn_sha256 h;
	if (!t)
		return TN_OK;
	tn_sha256_init(&h);
	for (uint64_t at = 0; at < t->bytes; at += PIECE_BYTES) {
		size_t n = (size_t)tn_min_u64(t->bytes - at, PIECE_BYTES);
		TN_TRY(tn_checkpoint_read(job->checkpoint, t, at, job->pieces[worker].data, n, err));
		tn_sha256_add(&h, job->pieces[worker].data, n);
		atomic_fetch_add(&job->done, n);
	}
	tn_sha256_finish(&h, job->digests[task].bytes);
	return TN_OK;
}

static tn_status tick(void *arg, struct tn_error *err)
{
	struct job *job = arg;
	struct tn_progress progress = { atomic_load(&job->done), job->total, "hash" };
	if (job->ctx->progress && job->ctx->progress(job->ctx->progress_user, &progress) != 0)
		return tn_fail(err, TN_E_CANCELLED, "hash", "the hashing was stopped");
	return TN_OK;
}

tn_status tn_content_tensors(tn_context *ctx, const tn_checkpoint *checkpoint, const struct tn_tensor *const *tensors,
			     size_t count, struct tn_digest *digests, struct tn_error *err)
{
	struct job job = { .ctx = ctx, .checkpoint = checkpoint, .tensors = tensors, .digests = digests };
	unsigned workers = tn_pool_workers(ctx);
	for (size_t i = 0; i < count; i++)
		job.total += tensors[i] ? tensors[i]->bytes : 0;
	if (workers > ctx->memory_budget_bytes / PIECE_BYTES)
		workers = (unsigned)tn_max_u64(1, ctx->memory_budget_bytes / PIECE_BYTES);
	TN_TRY(tn_alloc_array(ctx, workers, sizeof *job.pieces, "hash", &job.pieces, err));
	tn_status status = TN_OK;
	for (unsigned i = 0; i < workers && status == TN_OK; i++)
		status = tn_buffer_alloc(ctx, PIECE_BYTES, "hash", &job.pieces[i], err);
	if (status == TN_OK) {
		struct tn_work work = { .task_count = count, .workers = workers, .run = digest_tensor, .tick = tick, .arg = &job };
		status = tn_pool_run(ctx, &work, err);
	}
	if (status == TN_OK)
		status = tick(&job, err);
	for (unsigned i = 0; i < workers; i++)
		tn_buffer_release(ctx, &job.pieces[i]);
	tn_free_array(ctx, job.pieces, workers, sizeof *job.pieces);
	return status;
}

void tn_content_sum(const tn_checkpoint *checkpoint, const struct tn_digest *digests, struct tn_digest *sum)
{
	struct tn_sha256 h;
	tn_sha256_init(&h);
	tn_sha256_add_text(&h, "tenon checkpoint 1");
	for (size_t i = 0; i < checkpoint->count; i++) {
		const struct tn_tensor *t = checkpoint->by_name[i];
		tn_sha256_add_text(&h, t->name);
		tn_sha256_add_text(&h, tn_dtype_name(t->dtype));
		tn_sha256_add_u64(&h, t->rank);
		for (uint32_t k = 0; k < t->rank; k++)
			tn_sha256_add_u64(&h, t->shape[k]);
		tn_sha256_add(&h, digests[i].bytes, TN_DIGEST_BYTES);
	}
	tn_sha256_finish(&h, sum->bytes);
}

tn_status tn_content_checkpoint(tn_context *ctx, const tn_checkpoint *checkpoint, struct tn_digest *sum,
				struct tn_error *err)
{
	struct tn_digest *digests;
	TN_TRY(tn_alloc_array(ctx, checkpoint->count, sizeof *digests, "hash", &digests, err));
	tn_status status = tn_content_tensors(ctx, checkpoint, checkpoint->by_name, checkpoint->count, digests, err);
	if (status == TN_OK)
		tn_content_sum(checkpoint, digests, sum);
	tn_free_array(ctx, digests, checkpoint->count, sizeof *digests);
	return status;
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static const char templates[] = TN_TEMPLATES_FOLDER "/";

static int counts(const char *name)
{
	tn_file_role role = tn_file_role_of(name);
	return role == TN_ROLE_CONFIG || role == TN_ROLE_SIDECAR || strcmp(name, TN_INDEX_NAME) == 0;
}

int tn_content_is_name(const char *name)
{
	return !strchr(tn_starts_with(name, templates) ? name + strlen(templates) : name, '/');
}

/* The entries of `folder` that count, each behind `front`. */
static tn_status add_files(const char *folder, const char *front, struct tn_arena *arena, const char ***names, size_t *count,
			   struct tn_error *err)
{
	struct tn_names found;
	const char **all = NULL;
	TN_TRY(tn_folder_list(arena->ctx, folder, &found, err));
	tn_status status = tn_arena_array(arena, *count + found.count, sizeof *all, &all, err);
	if (status == TN_OK && *count)
		memcpy(all, *names, *count * sizeof *all);
	for (size_t i = 0; i < found.count && status == TN_OK; i++)
		if (counts(found.items[i]))
			status = tn_arena_printf(arena, &all[(*count)++], err, "%s%s", front, found.items[i]);
	tn_names_release(&found);
	*names = all;
	return status;
}

tn_status tn_content_files(const char *folder, struct tn_arena *arena, const char ***names, size_t *count, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	tn_path_kind kind;
	*count = 0;
	TN_TRY(add_files(folder, "", arena, names, count, err));
	TN_TRY(tn_path_join(path, folder, TN_TEMPLATES_FOLDER, err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	return kind == TN_PATH_FOLDER ? add_files(path, templates, arena, names, count, err) : TN_OK;
}

/* Of the first `bytes` of a file. */
static tn_status digest_file(tn_context *ctx, const struct tn_file *file, uint64_t bytes, const char *path,
			     struct tn_digest *digest, struct tn_error *err)
{
	struct tn_buffer piece;
	struct tn_sha256 h;
	TN_TRY(tn_buffer_alloc(ctx, PIECE_BYTES, "hash", &piece, err));
	tn_status status = TN_OK;
	tn_sha256_init(&h);
	for (uint64_t at = 0; at < bytes && status == TN_OK; at += PIECE_BYTES) {
		size_t n = (size_t)tn_min_u64(bytes - at, PIECE_BYTES);
		status = tn_file_read(file, piece.data, n, at, path, err);
		if (status == TN_OK)
			tn_sha256_add(&h, piece.data, n);
	}
	tn_sha256_finish(&h, digest->bytes);
	tn_buffer_release(ctx, &piece);
	return status;
}

tn_status tn_content_file(tn_context *ctx, const char *path, struct tn_digest *digest, uint64_t *bytes,
			  struct tn_error *err)
{
	struct tn_file file;
	TN_TRY(tn_file_open(path, &file, err));
	tn_status status = digest_file(ctx, &file, file.bytes, path, digest, err);
	*bytes = file.bytes;
	tn_file_close(&file);
	return status;
}

tn_status tn_content_header(tn_context *ctx, const tn_checkpoint *checkpoint, size_t shard, struct tn_digest *digest,
			    uint64_t *bytes, struct tn_error *err)
{
	const tn_safetensors *file = checkpoint->shards[shard];
	TN_TRY(tn_safetensors_header_bytes(file, bytes, err));
	return digest_file(ctx, &file->file, *bytes, file->path, digest, err);
}
