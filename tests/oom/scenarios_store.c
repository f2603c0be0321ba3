/* SPDX-License-Identifier: Apache-2.0 */
#include "oom.h"

#include "store/consume.h"
#include "store/json_doc.h"
#include "store/st_writer.h"
#include "store/staging.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void path_in(char path[512], const char *folder, const char *name)
{
	snprintf(path, 512, "%s/%s", folder, name);
}

static void no_files(const char *folder)
{
	(void)folder;
}

/* ---- context --------------------------------------------------------------------------------------------- */

static tn_status run_context(tn_context *none, const char *folder, struct tn_error *err)
{
	struct tn_options options = TN_OPTIONS_INIT;
	tn_context *ctx = NULL;
	(void)none;
	(void)folder;
	options.threads = 4;
	tn_status status = tn_context_create(&options, &ctx, err);
	oom_require((status == TN_OK) == (ctx != NULL), "a context on failure");
	tn_context_destroy(ctx);
	return status;
}

const struct oom_scenario oom_context = { "context", no_files, run_context, 1 };

/* ---- reading --------------------------------------------------------------------------------------------- */

static void write_file(const char *folder, const char *name, char first)
{
	char path[512], header[8000] = "{\"__metadata__\":{\"format\":\"pt\",\"k\\u0031\":\"\"}";
	size_t n = strlen(header);
	/* enough of them that every list has to grow */
	for (int i = 0; i < 40; i++)
		n += (size_t)snprintf(header + n, sizeof header - n,
				      ",\"%c\\u0061.%d\":{\"dtype\":\"U8\",\"x\":{\"y\":1},\"shape\":[1,2],\"data_offsets\":[%d,%d]}",
				      first, i, 2 * i, 2 * i + 2);
	snprintf(header + n, sizeof header - n, "}");
	path_in(path, folder, name);
	unsigned char data[80];
	memset(data, 9, sizeof data);
	tt_write_st(path, header, data, sizeof data);
}

static void one_file(const char *folder)
{
	write_file(folder, "model.safetensors", 'w');
}

static tn_status run_open_file(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char path[512];
	tn_safetensors *file = NULL;
	path_in(path, folder, "model.safetensors");
	tn_status status = tn_safetensors_open(ctx, path, &file, err);
	oom_require((status == TN_OK) == (file != NULL), "a file on failure");
	if (file)
		oom_require(tn_safetensors_count(file) == 40 && tn_safetensors_metadata_count(file) == 2, "another file");
	tn_safetensors_close(file);
	return status;
}

static void two_shards(const char *folder)
{
	char path[512], text[8000] = "{\"metadata\":{\"total_size\":160,\"x\":{\"a\":1,\"b\":2}},\"weight_map\":{";
	size_t n = strlen(text);
	write_file(folder, "one.safetensors", 'v');
	write_file(folder, "two.safetensors", 'w');
	for (int i = 0; i < 80; i++)
		n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%ca.%d\":\"%s.safetensors\"", i ? "," : "",
				      i % 2 ? 'v' : 'w', i / 2, i % 2 ? "one" : "two");
	snprintf(text + n, sizeof text - n, "}}");
	path_in(path, folder, "model.safetensors.index.json");
	tt_write_text(path, text);
	path_in(path, folder, "config.json");
	tt_write_text(path, "{\"model_type\":\"llama\",\"list\":[1,2.5,\"x\"],\"o\":{\"a\":null}}");
}

static tn_status run_open_folder(tn_context *ctx, const char *folder, struct tn_error *err)
{
	tn_checkpoint *c = NULL;
	json_t *config = NULL;
	tn_status status = tn_checkpoint_open(ctx, folder, &c, err);
	oom_require((status == TN_OK) == (c != NULL), "a checkpoint on failure");
	if (status != TN_OK)
		return status;
	oom_require(tn_checkpoint_count(c) == 80 && tn_checkpoint_shard_count(c) == 2, "another checkpoint");
	const char *text = tn_checkpoint_config(c);
	oom_require(text != NULL, "the configuration was lost");
	status = tn_json_parse(ctx, text, strlen(text), "config.json", &config, err);
	oom_require((status == TN_OK) == (config != NULL), "a document on failure");
	json_decref(config);
	tn_checkpoint_close(c);
	return status;
}

static tn_status run_load(tn_context *ctx, const char *folder, struct tn_error *err)
{
	tn_checkpoint *c = NULL;
	struct tn_buffer buffer = { NULL, 0 };
	const struct tn_tensor *tensor = NULL;
	tn_status status = tn_checkpoint_open(ctx, folder, &c, err);
	if (status != TN_OK)
		return status;
	status = tn_checkpoint_load(c, "wa.7", &buffer, &tensor, err);
	if (status == TN_OK)
		oom_require(tensor && buffer.bytes == 2 && *(char *)buffer.data == 9, "other bytes");
	else
		oom_require(!tensor && !buffer.data, "an output on failure");
	tn_buffer_release(ctx, &buffer);
	tn_checkpoint_close(c);
	return status;
}

const struct oom_scenario oom_open_file = { "open file", one_file, run_open_file, 0 };
const struct oom_scenario oom_open_folder = { "open folder", two_shards, run_open_folder, 0 };
const struct oom_scenario oom_load = { "load", two_shards, run_load, 0 };

/* ---- writing --------------------------------------------------------------------------------------------- */

static tn_status write_model(tn_context *ctx, const char *path, struct tn_error *err)
{
	static const uint64_t shape[] = { 3 };
	struct tn_tensor a = { .name = "a", .dtype = TN_U8, .rank = 1, .shape = shape, .elements = 3, .bytes = 3 }, b = a;
	struct tn_tensor *list[] = { &a, &b };
	const struct tn_st_metadata metadata = { "format", "pt" };
	struct tn_st_writer *writer = NULL;
	b.name = "b";
	tn_status status = tn_st_writer_create(ctx, path, list, 2, &metadata, 1, 0, &writer, err);
	if (status != TN_OK)
		return status;
	status = tn_st_writer_put(writer, &a, 0, "abc", 3, err);
	if (status == TN_OK)
		status = tn_st_writer_put(writer, &b, 0, "def", 3, err);
	if (status != TN_OK) {
		tn_st_writer_abort(writer);
		return status;
	}
	return tn_st_writer_finish(writer, err);
}

static tn_status write_folder(tn_context *ctx, const char *folder, int force, struct tn_error *err)
{
	char source[512], target[512], path[600];
	struct tn_staging *s = NULL;
	path_in(source, folder, "tokenizer.json");
	path_in(target, folder, "sub/out");
	tn_status status = tn_staging_begin(ctx, target, force, &s, err);
	if (status != TN_OK)
		return status;
	snprintf(path, sizeof path, "%s/model.safetensors", tn_staging_folder(s));
	status = write_model(ctx, path, err);
	if (status == TN_OK)
		status = tn_staging_write(s, "config.json", "{}", 2, err);
	if (status == TN_OK)
		status = tn_staging_copy(s, source, "additional_chat_templates/x.jinja", err);
	if (status == TN_OK)
		status = tn_staging_commit(s, err);
	if (status != TN_OK) {
		tn_staging_abort(s);
		return status;
	}
	snprintf(path, sizeof path, "%s/additional_chat_templates/x.jinja", target);
	oom_require(tt_exists(path), "a file was lost");
	return TN_OK;
}

static void a_source(const char *folder)
{
	char path[512];
	path_in(path, folder, "tokenizer.json");
	tt_write_text(path, "{}");
}

static tn_status run_write(tn_context *ctx, const char *folder, struct tn_error *err)
{
	return write_folder(ctx, folder, 0, err);
}

static void an_old_model(const char *folder)
{
	static const char *const names[] = { "sub", "sub/out", "sub/.out.tenon-part" };
	char path[512];
	a_source(folder);
	for (int i = 0; i < 3; i++) {
		path_in(path, folder, names[i]);
		oom_require(mkdir(path, 0700) == 0, "a folder could not be made");
	}
	path_in(path, folder, "sub/out/config.json");
	tt_write_text(path, "old");
}

/* An empty hidden folder of an interrupted run stands there too; clearing it away is no loss, so it is made again. */
static tn_status run_replace(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char path[512];
	tn_status status = write_folder(ctx, folder, 1, err);
	path_in(path, folder, "sub/.out.tenon-part");
	if (status != TN_OK && !tt_exists(path))
		oom_require(mkdir(path, 0700) == 0, "a folder could not be made");
	return status;
}

const struct oom_scenario oom_write = { "write", a_source, run_write, 0 };
const struct oom_scenario oom_replace = { "replace", an_old_model, run_replace, 0 };

/* ---- clearing what was used up ----------------------------------------------------------------------------- */

static void a_stub_and_a_whole_file(const char *folder)
{
	char path[512];
	write_file(folder, "a.safetensors", 'w');
	write_file(folder, "b.safetensors", 'v');
	path_in(path, folder, "b.safetensors");
	struct stat st;
	oom_require(stat(path, &st) == 0 && truncate(path, st.st_size - 80) == 0, "could not cut a file");
}

/* A file that still has its data stays, whatever fails. */
static tn_status run_clear(tn_context *ctx, const char *folder, struct tn_error *err)
{
	char whole[512], stub[512];
	path_in(whole, folder, "a.safetensors");
	path_in(stub, folder, "b.safetensors");
	tn_status status = tn_consumed_clear(ctx, folder, err);
	oom_require(access(whole, F_OK) == 0, "a whole file was removed");
	oom_require(status != TN_OK || access(stub, F_OK) != 0, "a stub was left behind");
	return status;
}

const struct oom_scenario oom_clear = { "clear", a_stub_and_a_whole_file, run_clear, 0 };
