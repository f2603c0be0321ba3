/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/outcome.h"

#include "base/error.h"
#include "base/file.h"
#include "store/checkpoint.h"

#include <string.h>

/* ---- reading --------------------------------------------------------------------------------------------- */

static tn_status hash_headers(tn_context *ctx, struct tn_arena *arena, const tn_checkpoint *result, struct tn_outcome *out,
			      struct tn_error *err)
{
	out->header_count = result->shard_count;
	TN_TRY(tn_arena_array(arena, out->header_count, sizeof *out->headers, &out->headers, err));
	for (size_t i = 0; i < out->header_count; i++) {
		struct tn_outcome_file *header = &out->headers[i];
		TN_TRY(tn_content_header(ctx, result, i, &header->digest, &header->bytes, err));
		TN_TRY(tn_arena_text(arena, result->shard_names[i], strlen(result->shard_names[i]), &header->name, err));
	}
	return TN_OK;
}

/* The files of a folder that are no weights. */
static tn_status hash_files(tn_context *ctx, struct tn_arena *arena, struct tn_outcome *out, struct tn_error *err)
{
	const char **names;
	size_t count;
	TN_TRY(tn_content_files(out->output, arena, &names, &count, err));
	TN_TRY(tn_arena_array(arena, count, sizeof *out->files, &out->files, err));
	for (size_t i = 0; i < count; i++) {
		struct tn_outcome_file *file = &out->files[out->file_count];
		char path[TN_PATH_BYTES];
		tn_path_kind kind;
		TN_TRY(tn_path_join(path, out->output, names[i], err));
		TN_TRY(tn_path_kind_of(path, &kind, err));
		if (kind != TN_PATH_FILE)
			continue;
		TN_TRY(tn_content_file(ctx, path, &file->digest, &file->bytes, err));
		file->name = names[i];
		out->file_count++;
	}
	return TN_OK;
}

tn_status tn_outcome_read(tn_context *ctx, struct tn_arena *arena, const tn_checkpoint *result, const char *output,
			  struct tn_outcome *out, struct tn_error *err)
{
	*out = (struct tn_outcome){ .output = output };
	TN_TRY(tn_arena_array(arena, result->count, sizeof *out->tensors, &out->tensors, err));
	TN_TRY(tn_content_tensors(ctx, result, result->by_name, result->count, out->tensors, err));
	tn_content_sum(result, out->tensors, &out->result);
	TN_TRY(hash_headers(ctx, arena, result, out, err));
	return hash_files(ctx, arena, out, err);
}

/* ---- writing --------------------------------------------------------------------------------------------- */

void tn_digest_json(struct tn_json_out *out, const char *key, const struct tn_digest *digest)
{
	char text[TN_DIGEST_TEXT];
	tn_digest_text(digest, text);
	tn_json_out_key(out, key);
	tn_json_out_string(out, text);
}

static void files_json(struct tn_json_out *out, const char *key, const struct tn_outcome_file *files, size_t count)
{
	tn_json_out_key(out, key);
	tn_json_out_begin(out, '[');
	for (size_t i = 0; i < count; i++) {
		tn_json_out_begin_line(out, '{');
		tn_json_out_key(out, "name");
		tn_json_out_string(out, files[i].name);
		tn_json_out_key(out, "bytes");
		tn_json_out_u64(out, files[i].bytes);
		tn_digest_json(out, "sha256", &files[i].digest);
		tn_json_out_end(out, '}');
	}
	tn_json_out_end(out, ']');
}

void tn_outcome_json(struct tn_json_out *out, const struct tn_outcome *outcome)
{
	tn_json_out_key(out, "output");
	tn_json_out_string(out, outcome->output);
	tn_digest_json(out, "base_sha256", &outcome->base);
	if (outcome->has_dense)
		tn_digest_json(out, "dense_base_sha256", &outcome->dense);
	tn_digest_json(out, "output_sha256", &outcome->result);
	files_json(out, "files", outcome->files, outcome->file_count);
	files_json(out, "headers", outcome->headers, outcome->header_count);
}
