/* SPDX-License-Identifier: Apache-2.0 */
/* Writes a small model folder as every verb does: staging, a shard, small files, a copy, commit. Run by crash_sweep.sh
 * under faultfs. crash_stage OUT [--force] */
#include "store/st_writer.h"
#include "store/staging.h"

#include <stdio.h>
#include <string.h>

static tn_status write_shard(tn_context *ctx, const struct tn_staging *s, struct tn_error *err)
{
	static const uint64_t shape[] = { 1000 };
	static unsigned char bytes[1000];
	struct tn_tensor a = { .name = "a", .dtype = TN_U8, .rank = 1, .shape = shape, .elements = 1000, .bytes = 1000 };
	struct tn_tensor b = a, *list[] = { &a, &b };
	struct tn_st_writer *writer;
	char path[TN_PATH_BYTES];
	b.name = "b";
	memset(bytes, 7, sizeof bytes);
	tn_status status = tn_path_join(path, tn_staging_folder(s), "model.safetensors", err);
	if (status == TN_OK)
		status = tn_st_writer_create(ctx, path, list, 2, NULL, 0, 0, &writer, err);
	if (status != TN_OK)
		return status;
	for (int i = 0; i < 2 && status == TN_OK; i++)
		for (uint64_t at = 0; at < 1000 && status == TN_OK; at += 500)
			status = tn_st_writer_put(writer, list[i], at, bytes, 500, err);
	if (status == TN_OK)
		return tn_st_writer_finish(writer, err);
	tn_st_writer_abort(writer);
	return status;
}

static tn_status fill(tn_context *ctx, struct tn_staging *s, struct tn_error *err)
{
	tn_status status = write_shard(ctx, s, err);
	if (status == TN_OK)
		status = tn_staging_write(s, "config.json", "{\"new\": true}\n", 14, err);
	if (status == TN_OK)
		status = tn_staging_copy(s, "/proc/version", "additional_chat_templates/a.jinja", err);
	if (status == TN_OK)
		status = tn_staging_commit(s, err);
	return status;
}

int main(int argc, char **argv)
{
	struct tn_error error;
	struct tn_staging *s;
	tn_context *ctx;
	if (argc < 2 || tn_context_create(NULL, &ctx, &error) != TN_OK)
		return 2;
	int force = argc > 2 && strcmp(argv[2], "--force") == 0;
	tn_status status = tn_staging_begin(ctx, argv[1], force, &s, &error);
	if (status == TN_OK) {
		status = fill(ctx, s, &error);
		if (status != TN_OK)
			tn_staging_abort(s);
	}
	tn_context_destroy(ctx);
	if (status == TN_OK)
		return 0;
	fprintf(stderr, "%s: %s\n", tn_status_name(status), error.msg);
	return error.msg[0] ? 1 : 3;
}
