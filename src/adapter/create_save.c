/* SPDX-License-Identifier: Apache-2.0 */
/* A draft as a folder that appears whole or not at all. */
#include "adapter/create.h"

#include "adapter/identity.h"
#include "base/error.h"
#include "base/file.h"
#include "store/st_writer.h"
#include "store/staging.h"

#include <string.h>

static tn_status write_weights(const tn_draft *d, const char *path, struct tn_tensor **tensors,
			       const struct tn_st_metadata *metadata, size_t metadata_count, struct tn_error *err)
{
	struct tn_st_writer *writer;
	TN_TRY(tn_st_writer_create(d->ctx, path, tensors, d->count, metadata, metadata_count, 0, &writer, err));
	tn_status status = TN_OK;
	for (size_t i = 0; i < d->count && status == TN_OK; i++)
		status = tn_st_writer_put(writer, tensors[i], 0, d->parameters[i].data, (size_t)tensors[i]->bytes, err);
	if (status == TN_OK)
		return tn_st_writer_finish(writer, err);
	tn_st_writer_abort(writer);
	return status;
}

/* The tensors of the file stand behind another header than those of the image. */
static tn_status copy_tensors(const tn_draft *d, struct tn_arena *arena, struct tn_tensor ***out, struct tn_error *err)
{
	struct tn_tensor *copies;
	TN_TRY(tn_arena_array(arena, d->count, sizeof *copies, &copies, err));
	TN_TRY(tn_arena_array(arena, d->count, sizeof(struct tn_tensor *), out, err));
	for (size_t i = 0; i < d->count; i++) {
		copies[i] = *d->tensors[i];
		(*out)[i] = &copies[i];
	}
	return TN_OK;
}

static tn_status write_files(const tn_draft *d, struct tn_staging *staging, struct tn_tensor **tensors, struct tn_error *err)
{
	int peft = d->dialect == TN_DIALECT_PEFT;
	unsigned char hash[TN_HASH_BYTES];
	char adapter_text[TN_HASH_TEXT], base_text[TN_HASH_TEXT], path[TN_PATH_BYTES];
	TN_TRY(tn_adapter_hash(d->adapter, hash, err));
	tn_hash_text(adapter_text, hash);
	tn_hash_text(base_text, d->base_sample);
	const struct tn_st_metadata metadata[] = {
		{ "format", "pt" }, { TN_METADATA_ADAPTER, adapter_text }, { TN_METADATA_BASE, base_text },
	};
	size_t count = d->has_base_sample ? 3 : 2, first = peft ? 0 : 1;   /* mlx-lm's files have no format */
	TN_TRY(tn_path_join(path, tn_staging_folder(staging), peft ? "adapter_model.safetensors" : "adapters.safetensors", err));
	TN_TRY(write_weights(d, path, tensors, metadata + first, count - first, err));
	return tn_staging_write(staging, "adapter_config.json", d->config, strlen(d->config), err);
}

tn_status tn_draft_save(const tn_draft *d, const char *path, int replace, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_tensor **tensors;
	struct tn_staging *staging = NULL;
	tn_arena_init(&arena, d->ctx);
	tn_status status = copy_tensors(d, &arena, &tensors, err);
	if (status == TN_OK)
		status = tn_staging_begin(d->ctx, path, replace ? TN_REPLACE_ADAPTER : TN_REPLACE_NOTHING, &staging, err);
	if (status == TN_OK)
		status = write_files(d, staging, tensors, err);
	if (status == TN_OK)
		status = tn_staging_commit(staging, err);
	if (status != TN_OK)
		tn_staging_abort(staging);
	tn_arena_release(&arena);
	return status;
}
