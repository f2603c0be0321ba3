/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/output.h"

#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/replaceable.h"
#include "store/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tn_output {
	struct tn_arena arena;  /* holds this struct too */
	struct tn_staging *staging;
	const struct tn_output_shard *shards;
	struct tn_st_writer **writers;
	unsigned char *done;    /* of each shard: an earlier run has finished it */
	size_t count;
};

tn_status tn_output_open_shard(struct tn_output *o, size_t i, struct tn_error *err)
{
	const struct tn_output_shard *shard = &o->shards[i];
	char path[TN_PATH_BYTES];
	TN_TRY(tn_path_join(path, tn_staging_folder(o->staging), shard->name, err));
	return tn_st_writer_create(o->arena.ctx, path, shard->tensors, shard->count, shard->metadata, shard->metadata_count,
				   shard->sparse, &o->writers[i], err);
}

/* What an earlier run has finished must be what this one would write. */
static tn_status open_shards(struct tn_output *o, int all, struct tn_error *err)
{
	TN_TRY(tn_arena_array(&o->arena, o->count, sizeof(struct tn_st_writer *), &o->writers, err));
	TN_TRY(tn_arena_array(&o->arena, o->count, 1, &o->done, err));
	for (size_t i = 0; i < o->count; i++) {
		const struct tn_output_shard *shard = &o->shards[i];
		char path[TN_PATH_BYTES];
		if (!tn_staging_has(o->staging, shard->name)) {
			if (all)
				TN_TRY(tn_output_open_shard(o, i, err));
			continue;
		}
		TN_TRY(tn_path_join(path, tn_staging_folder(o->staging), shard->name, err));
		TN_TRY(tn_st_file_matches(o->arena.ctx, path, shard->tensors, shard->count, shard->metadata,
					  shard->metadata_count, err));
		o->done[i] = 1;
	}
	return TN_OK;
}

tn_status tn_output_protect(struct tn_output *o, struct tn_error *err)
{
	return tn_staging_protect(o->staging, err);
}

tn_status tn_output_remark(struct tn_output *o, const char *text, struct tn_error *err)
{
	return tn_staging_remark(o->staging, text, err);
}

tn_status tn_output_begin(tn_context *ctx, const struct tn_output_place *place, const struct tn_output_shard *shards,
			  size_t count, struct tn_output **out, struct tn_error *err)
{
	struct tn_arena arena;
	struct tn_output *o;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *o, &o, err));
	o->arena = arena;
	o->shards = shards;
	o->count = count;
	tn_status status = tn_staging_begin_plan(ctx, place->path, (place->flags & TN_SAVE_FORCE) != 0, place->plan_id,
						 (place->flags & TN_SAVE_RESUME) != 0, &o->staging, err);
	if (status == TN_OK)
		status = open_shards(o, !(place->flags & TN_SAVE_CONSUME), err);
	if (status != TN_OK) {
		tn_output_abort(o);
		return status;
	}
	*out = o;
	return TN_OK;
}

tn_status tn_output_put(struct tn_output *o, size_t shard, const struct tn_tensor *tensor, uint64_t offset,
			const void *src, size_t n, struct tn_error *err)
{
	return tn_st_writer_put(o->writers[shard], tensor, offset, src, n, err);
}

tn_status tn_output_finish_shard(struct tn_output *o, size_t shard, struct tn_error *err)
{
	struct tn_st_writer *writer = o->writers[shard];
	o->writers[shard] = NULL;
	TN_TRY(tn_st_writer_finish(writer, err));
	return tn_staging_note(o->staging, o->shards[shard].name, err);
}

int tn_output_has_shard(const struct tn_output *o, size_t shard)
{
	return o->done[shard];
}

static tn_status copy_templates(struct tn_output *o, const char *folder, struct tn_error *err)
{
	struct tn_names names;
	TN_TRY(tn_folder_list(o->arena.ctx, folder, &names, err));
	tn_status status = TN_OK;
	for (size_t i = 0; i < names.count && status == TN_OK; i++) {
		char from[TN_PATH_BYTES], name[512];
		if (!tn_ends_with(names.items[i], ".jinja"))
			continue;
		status = tn_path_join(from, folder, names.items[i], err);
		snprintf(name, sizeof name, "%s/%s", TN_TEMPLATES_FOLDER, names.items[i]);
		if (status == TN_OK)
			status = tn_staging_copy(o->staging, from, name, err);
	}
	tn_names_release(&names);
	return status;
}

static tn_status copy_entry(struct tn_output *o, const char *folder, const char *name, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	tn_path_kind kind;
	TN_TRY(tn_path_join(path, folder, name, err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	if (kind == TN_PATH_FOLDER && strcmp(name, TN_TEMPLATES_FOLDER) == 0)
		return copy_templates(o, path, err);
	tn_file_role role = tn_file_role_of(name);
	if (role == TN_ROLE_SIDECAR && kind == TN_PATH_MISSING)
		return tn_fail(err, TN_E_NOTFOUND, path, "'%s' is a link to a file that is not there; get it, or remove the link",
			       path);
	if (role == TN_ROLE_SIDECAR && kind != TN_PATH_FOLDER)
		return tn_staging_copy(o->staging, path, name, err);
	if (role != TN_ROLE_WEIGHTS && role != TN_ROLE_CONFIG && name[0] != '.')
		tn_logf(o->arena.ctx, role == TN_ROLE_UNKNOWN ? TN_LOG_WARNING : TN_LOG_INFO,
			"'%s' stays behind: it is not known to belong to a model", path);
	return TN_OK;
}

tn_status tn_output_copy_sidecars(struct tn_output *o, const char *from, const char *except, struct tn_error *err)
{
	struct tn_names names;
	int has_config = 0;
	TN_TRY(tn_folder_list(o->arena.ctx, from, &names, err));
	tn_status status = TN_OK;
	for (size_t i = 0; i < names.count && status == TN_OK; i++) {
		has_config |= strcmp(names.items[i], "config.json") == 0;
		if (!except || strcmp(names.items[i], except) != 0)
			status = copy_entry(o, from, names.items[i], err);
	}
	tn_names_release(&names);
	if (!has_config)
		tn_logf(o->arena.ctx, TN_LOG_WARNING, "'%s' has no config.json, and so the new model has none", from);
	return status;
}

tn_status tn_output_copy_quantization(struct tn_output *o, const char *from, struct tn_error *err)
{
	static const char *const names[] = { "quantize_config.json", "quant_config.json", "hf_quant_config.json" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char path[TN_PATH_BYTES];
		tn_path_kind kind;
		TN_TRY(tn_path_join(path, from, names[i], err));
		TN_TRY(tn_path_kind_of(path, &kind, err));
		if (kind == TN_PATH_FILE)
			TN_TRY(tn_staging_copy(o->staging, path, names[i], err));
	}
	return TN_OK;
}

tn_status tn_output_write(struct tn_output *o, const char *name, const void *bytes, size_t n, struct tn_error *err)
{
	return tn_staging_write(o->staging, name, bytes, n, err);
}

static int compare_names(const void *a, const void *b)
{
	return strcmp((*(const struct tn_tensor *const *)a)->name, (*(const struct tn_tensor *const *)b)->name);
}

static tn_status write_index(struct tn_output *o, uint64_t parameters, tn_index_style style, struct tn_error *err)
{
	size_t count = 0, n = 0;
	uint64_t bytes = 0;
	for (size_t i = 0; i < o->count; i++)
		count += o->shards[i].count;
	const struct tn_tensor **by_name;
	const char **names;
	TN_TRY(tn_arena_array(&o->arena, count, sizeof *by_name, &by_name, err));
	TN_TRY(tn_arena_array(&o->arena, o->count, sizeof *names, &names, err));
	for (size_t i = 0; i < o->count; i++) {
		names[i] = o->shards[i].name;
		for (size_t j = 0; j < o->shards[i].count; j++) {
			struct tn_tensor *t = o->shards[i].tensors[j];
			t->shard = (uint32_t)i;
			by_name[n++] = t;
			bytes += t->bytes;
		}
	}
	if (n > 1)
		qsort(by_name, n, sizeof *by_name, compare_names);
	struct tn_text text;
	tn_text_init(&text, o->arena.ctx);
	tn_status status = tn_index_write(by_name, n, names, bytes, parameters, style, &text, err);
	if (status == TN_OK)
		status = tn_staging_write(o->staging, TN_INDEX_NAME, text.data, text.length, err);
	tn_text_release(&text);
	return status;
}

tn_status tn_output_commit(struct tn_output *o, uint64_t parameters, tn_index_style style, struct tn_error *err)
{
	TN_TRY(write_index(o, parameters, style, err));
	TN_TRY(tn_staging_commit(o->staging, err));
	o->staging = NULL;
	tn_output_abort(o);
	return TN_OK;
}

void tn_output_abort(struct tn_output *o)
{
	if (!o)
		return;
	for (size_t i = 0; i < o->count && o->writers; i++)
		tn_st_writer_abort(o->writers[i]);
	tn_staging_abort(o->staging);
	struct tn_arena arena = o->arena;
	tn_arena_release(&arena);
}

tn_status tn_output_check_base(const char *save_path, const tn_checkpoint *base, struct tn_error *err)
{
	TN_TRY(tn_replaceable_check_input(save_path, base->path, err));
	for (size_t i = 0; i < base->shard_count; i++)
		TN_TRY(tn_replaceable_check_input(save_path, tn_safetensors_path(base->shards[i]), err));
	return TN_OK;
}
