/* SPDX-License-Identifier: Apache-2.0 */
#include "store/checkpoint.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/text.h"
#include "store/consume.h"
#include "store/json_doc.h"
#include "store/safetensors.h"
#include "store/st_index.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- which shards ---------------------------------------------------------------------------------------- */

/* The name of the index: model.safetensors.index.json, or the only other one (diffusers calls it
 * diffusion_pytorch_model.safetensors.index.json). */
static tn_status choose_index(const char *path, const struct tn_names *files, const char **out, struct tn_error *err)
{
	const char *found = NULL;
	for (size_t i = 0; i < files->count; i++) {
		const char *name = files->items[i];
		if (name[0] == '.' || !tn_ends_with(name, ".safetensors.index.json"))
			continue;
		if (strcmp(name, TN_INDEX_NAME) == 0) {
			*out = name;
			return TN_OK;
		}
		if (found)
			return tn_fail(err, TN_E_FORMAT, path, "'%s' has two indexes, '%s' and '%s': which is meant?", path,
				       found, name);
		found = name;
	}
	*out = found;
	return TN_OK;
}

/* `name` says itself that it is one of several: model-00002-of-00005.safetensors. Gives its number, how many there are, and
 * the length of what stands in front. */
static int read_numbering(const char *name, unsigned *number, unsigned *count, size_t *front)
{
	const char *of = strstr(name, "-of-");
	int end = 0;
	if (!of || of - name < 6 || sscanf(of - 6, "-%5u-of-%5u.safetensors%n", number, count, &end) != 2 || !end || of[end - 6])
		return 0;
	*front = (size_t)(of - 6 - name);
	return 1;
}

/* Names are sorted, so the shards of one numbering follow each other. */
static tn_status check_numbering(const tn_checkpoint *c, struct tn_error *err)
{
	unsigned expected = 1;
	for (size_t i = 0; i < c->shard_count; i++) {
		unsigned number, count, next, next_count;
		size_t front, next_front;
		if (!read_numbering(c->shard_names[i], &number, &count, &front))
			continue;
		int is_last = i + 1 == c->shard_count || !read_numbering(c->shard_names[i + 1], &next, &next_count, &next_front) ||
			      next_count != count || next_front != front ||
			      strncmp(c->shard_names[i], c->shard_names[i + 1], front) != 0;
		if (number != expected || (is_last && number != count))
			return tn_fail(err, TN_E_NOTFOUND, c->path,
				       "'%s' holds '%s' and not '%.*s-%05u-of-%05u.safetensors': the model is not whole; get the "
				       "missing file",
				       c->path, c->shard_names[i], (int)front, c->shard_names[i],
				       number != expected ? expected : number + 1, count);
		expected = is_last ? 1 : number + 1;
	}
	return TN_OK;
}

static int holds_weights(const char *name)
{
	return tn_ends_with(name, ".safetensors") && tn_file_role_of(name) == TN_ROLE_WEIGHTS;
}

/* mlx-lm's words, and what stands there in place of a model. */
static tn_status fail_without_weights(const tn_checkpoint *c, const struct tn_names *files, struct tn_error *err)
{
	const char *hint = "a model's folder holds config.json and model.safetensors, or its shards";
	for (size_t i = 0; i < files->count; i++) {
		const char *name = files->items[i];
		if (strcmp(name, "adapter_config.json") == 0)
			hint = "it is an adapter, and a model was expected: are the two exchanged?";
		else if (tn_ends_with(name, ".bin") || tn_ends_with(name, ".pth") || tn_ends_with(name, ".pt"))
			hint = "its weights are Python pickles: load them with transformers and save them again, as safetensors";
		else if (tn_ends_with(name, ".gguf"))
			hint = "models in GGUF are not read: get the model that it was made from";
	}
	return tn_fail(err, TN_E_NOTFOUND, c->path, "No .safetensors files found in '%.200s': %s", c->path, hint);
}

/* Without an index: where there is a model.safetensors the files model*.safetensors, as mlx-lm has it; else every safetensors
 * file that is not an adapter's. */
static tn_status list_unindexed(tn_checkpoint *c, const struct tn_names *files, struct tn_error *err)
{
	int named = 0;
	for (size_t i = 0; i < files->count; i++)
		named |= strcmp(files->items[i], "model.safetensors") == 0;
	TN_TRY(tn_arena_array(&c->arena, files->count, sizeof *c->shard_names, &c->shard_names, err));
	for (size_t i = 0; i < files->count; i++) {
		const char *name = files->items[i];
		if (!holds_weights(name) || (named && !tn_starts_with(name, "model")))
			continue;
		TN_TRY(tn_arena_text(&c->arena, name, strlen(name), &c->shard_names[c->shard_count++], err));
	}
	TN_TRY(check_numbering(c, err));
	return c->shard_count ? TN_OK : fail_without_weights(c, files, err);
}

/* ---- opening --------------------------------------------------------------------------------------------- */

/* Of models with more shards than this none stays open. A job has up to three models at a time, and systems let a process have
 * 256 files, or 1024. */
enum { MOST_OPEN_SHARDS = 16 };

static tn_status open_shards(tn_checkpoint *c, const char *index_name, struct tn_error *err)
{
	TN_TRY(tn_arena_array(&c->arena, c->shard_count, sizeof *c->shards, &c->shards, err));
	if (c->shard_count > MOST_OPEN_SHARDS) {
		c->folder = open(c->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (c->folder < 0)
			return tn_fail_sys(err, errno, c->path, "could not open the folder '%s'", c->path);
	}
	for (size_t i = 0; i < c->shard_count; i++) {
		char path[TN_PATH_BYTES];
		TN_TRY(tn_path_join(path, c->path, c->shard_names[i], err));
		tn_status status = c->is_consumed ? tn_safetensors_open_cut(c->ctx, path, &c->shards[i], err)
						  : tn_safetensors_open(c->ctx, path, &c->shards[i], err);
		if (status == TN_E_NOTFOUND && index_name)
			return tn_fail(err, TN_E_NOTFOUND, c->shard_names[i],
				       "'%s' lists the shard '%s', which '%s' does not hold; get the missing file",
				       index_name, c->shard_names[i], c->path);
		if (status != TN_OK)
			return status;
		if (c->folder >= 0)
			tn_file_rest(&c->shards[i]->file, c->folder, c->shard_names[i]);
	}
	return TN_OK;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp((*(const struct tn_tensor *const *)a)->name, (*(const struct tn_tensor *const *)b)->name);
}

static tn_status merge_shards(tn_checkpoint *c, struct tn_error *err)
{
	for (size_t i = 0; i < c->shard_count; i++)
		c->count += c->shards[i]->header.count;
	TN_TRY(tn_arena_array(&c->arena, c->count, sizeof *c->by_name, &c->by_name, err));
	size_t n = 0;
	for (size_t i = 0; i < c->shard_count; i++) {
		struct tn_st_header *header = &c->shards[i]->header;
		for (size_t j = 0; j < header->count; j++) {
			header->tensors[j].shard = (uint32_t)i;
			c->by_name[n++] = &header->tensors[j];
			if (tn_add_u64(c->tensor_bytes, header->tensors[j].bytes, &c->tensor_bytes))
				return tn_fail(err, TN_E_LIMIT, c->path, "the tensors of '%s' exceed 2^64 bytes", c->path);
		}
	}
	if (n > 1)
		qsort(c->by_name, n, sizeof *c->by_name, compare_names);
	for (size_t i = 1; i < n; i++)
		if (strcmp(c->by_name[i - 1]->name, c->by_name[i]->name) == 0)
			return tn_fail(err, TN_E_FORMAT, c->by_name[i]->name,
				       "'%.100s' stands in two shards, '%.80s' and '%.80s'; remove the one that does not belong",
				       c->by_name[i]->name, c->shard_names[c->by_name[i - 1]->shard],
				       c->shard_names[c->by_name[i]->shard]);
	return TN_OK;
}

/* Both lists are sorted by name: walk them together. */
static tn_status check_index(const tn_checkpoint *c, const struct tn_index *index, const char *index_name,
			     struct tn_error *err)
{
	size_t i = 0, j = 0;
	while (i < index->count || j < c->count) {
		const struct tn_index_entry *entry = i < index->count ? &index->entries[i] : NULL;
		const struct tn_tensor *tensor = j < c->count ? c->by_name[j] : NULL;
		int order = !entry ? 1 : !tensor ? -1 : strcmp(entry->tensor, tensor->name);
		if (order < 0)
			return tn_fail(err, TN_E_FORMAT, entry->tensor,
				       "'%s' says that '%.80s' stands in '%.60s', and it does not; get both files again",
				       index_name, entry->tensor, c->shard_names[entry->shard]);
		if (order > 0)
			return tn_fail(err, TN_E_FORMAT, tensor->name,
				       "'%.80s' stands in '%.60s', and '%s' does not list it; remove the index to use every "
				       "file as it is",
				       tensor->name, c->shard_names[tensor->shard], index_name);
		if (entry->shard != tensor->shard)
			return tn_fail(err, TN_E_FORMAT, tensor->name,
				       "'%s' says that '%.80s' stands in '%.60s', and it stands in '%.60s'", index_name,
				       tensor->name, c->shard_names[entry->shard], c->shard_names[tensor->shard]);
		i++;
		j++;
	}
	return TN_OK;
}

static tn_status open_indexed(tn_checkpoint *c, const char *index_name, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	struct tn_index index;
	TN_TRY(tn_path_join(path, c->path, index_name, err));
	TN_TRY(tn_index_load(&c->arena, path, &index, err));
	if (index.shard_count == 0)
		return tn_fail(err, TN_E_FORMAT, path, "'%s' lists no tensor", path);
	c->has_index = 1;
	c->shard_names = index.shards;
	c->shard_count = index.shard_count;
	TN_TRY(open_shards(c, index_name, err));
	TN_TRY(merge_shards(c, err));
	return check_index(c, &index, index_name, err);
}

static tn_status read_config(tn_checkpoint *c, const struct tn_names *files, struct tn_error *err)
{
	for (size_t i = 0; i < files->count; i++) {
		if (strcmp(files->items[i], "config.json") != 0)
			continue;
		char path[TN_PATH_BYTES];
		struct tn_buffer text;
		TN_TRY(tn_path_join(path, c->path, "config.json", err));
		TN_TRY(tn_file_read_text(c->ctx, path, TN_CONFIG_CAP, &text, err));
		tn_status status = tn_arena_text(&c->arena, text.data, text.bytes - 1, &c->config, err);
		tn_buffer_release(c->ctx, &text);
		return status;
	}
	return TN_OK;
}

/* Files of weights that the index does not speak of are no part of the model, and that may be a mistake. */
static void tell_unlisted(const tn_checkpoint *c, const struct tn_names *files, const char *index_name)
{
	for (size_t i = 0; i < files->count; i++) {
		const char *name = files->items[i];
		size_t k = 0;
		if (!tn_ends_with(name, ".safetensors") || tn_file_role_of(name) != TN_ROLE_WEIGHTS)
			continue;
		while (k < c->shard_count && strcmp(c->shard_names[k], name) != 0)
			k++;
		if (k == c->shard_count)
			tn_logf(c->ctx, TN_LOG_WARNING, "'%s/%s' is not in '%s', and counts for nothing", c->path, name,
				index_name);
	}
}

static tn_status open_folder(tn_checkpoint *c, const struct tn_names *files, struct tn_error *err)
{
	const char *index_name = NULL;
	TN_TRY(choose_index(c->path, files, &index_name, err));
	if (index_name) {
		TN_TRY(open_indexed(c, index_name, err));
		tell_unlisted(c, files, index_name);
	} else {
		TN_TRY(list_unindexed(c, files, err));
		TN_TRY(open_shards(c, NULL, err));
		TN_TRY(merge_shards(c, err));
	}
	return read_config(c, files, err);
}

static tn_status open_single(tn_checkpoint *c, struct tn_error *err)
{
	TN_TRY(tn_arena_array(&c->arena, 1, sizeof *c->shards, &c->shards, err));
	TN_TRY(tn_arena_array(&c->arena, 1, sizeof *c->shard_names, &c->shard_names, err));
	const char *slash = strrchr(c->path, '/');
	c->shard_names[0] = slash ? slash + 1 : c->path;
	c->shard_count = 1;
	TN_TRY(tn_safetensors_open(c->ctx, c->path, &c->shards[0], err));
	return merge_shards(c, err);
}

static tn_status check_consumed(tn_checkpoint *c, int may_be_consumed, struct tn_error *err)
{
	struct tn_consumed consumed;
	TN_TRY(tn_consumed_read(c->ctx, c->path, &consumed, err));
	c->is_consumed = consumed.is_marked;
	if (!consumed.is_marked || (may_be_consumed && !consumed.is_complete))
		return TN_OK;
	if (consumed.is_complete)
		return tn_fail(err, TN_E_NOTFOUND, c->path,
			       "'%.200s' was used up by tenon fuse --consume-input; the model is '%.200s'",
			       c->path, consumed.output);
	return tn_fail(err, TN_E_FORMAT, c->path, "'%.200s' is being used up by tenon fuse --consume-input, which was interrupted; "
		       "finish that with the same command and --resume: it writes '%.200s'", c->path, consumed.output);
}

const char *tn_hub_hint(const char *path)
{
	static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
	char owner[128];
	tn_path_kind kind;
	size_t n = strspn(path, allowed);
	const char *name = path + n + 1; /* behind the slash, when there is one */
	if (!n || n >= sizeof owner || *path == '.' || path[n] != '/' || !*name || name[strspn(name, allowed)])
		return "";
	memcpy(owner, path, n);
	owner[n] = '\0';
	return tn_path_kind_of(owner, &kind, NULL) == TN_OK && kind == TN_PATH_MISSING
		       ? "; tenon downloads nothing: 'hf download' gets what has that name on the Hub" : "";
}

static tn_status fill(tn_checkpoint *c, const char *path, int may_be_consumed, struct tn_error *err)
{
	tn_path_kind kind;
	TN_TRY(tn_arena_text(&c->arena, path, strlen(path), &c->path, err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	if (kind == TN_PATH_MISSING)
		return tn_fail(err, TN_E_NOTFOUND, path, "'%s' does not exist; a folder with .safetensors files was expected%s",
			       path, tn_hub_hint(path));
	if (kind != TN_PATH_FOLDER)
		return open_single(c, err);
	c->is_folder = 1;
	struct tn_names files;
	TN_TRY(check_consumed(c, may_be_consumed, err));
	TN_TRY(tn_folder_list(c->ctx, path, &files, err));
	tn_status status = open_folder(c, &files, err);
	tn_names_release(&files);
	return status;
}

static tn_status open_checkpoint(tn_context *ctx, const char *path, int may_be_consumed, tn_checkpoint **out,
				 struct tn_error *err)
{
	struct tn_arena arena;
	tn_checkpoint *c;
	tn_arena_init(&arena, ctx);
	tn_status status = tn_arena_alloc(&arena, sizeof *c, &c, err);
	if (status != TN_OK)
		return status;
	c->ctx = ctx;
	c->arena = arena;
	c->folder = -1;
	status = fill(c, path, may_be_consumed, err);
	if (status != TN_OK) {
		tn_checkpoint_close(c);
		return status;
	}
	*out = c;
	return TN_OK;
}

tn_status tn_checkpoint_open(tn_context *ctx, const char *path, tn_checkpoint **out, struct tn_error *err)
{
	return open_checkpoint(ctx, path, 0, out, err);
}

tn_status tn_checkpoint_open_consumed(tn_context *ctx, const char *path, tn_checkpoint **out, struct tn_error *err)
{
	return open_checkpoint(ctx, path, 1, out, err);
}

void tn_checkpoint_close(tn_checkpoint *c)
{
	if (!c)
		return;
	for (size_t i = 0; i < c->shard_count && c->shards; i++)
		tn_safetensors_close(c->shards[i]);
	if (c->folder >= 0)
		close(c->folder);
	struct tn_arena arena = c->arena;
	tn_arena_release(&arena);
}

/* ---- looking --------------------------------------------------------------------------------------------- */

const char *tn_checkpoint_path(const tn_checkpoint *c)
{
	return c->path;
}

int tn_checkpoint_is_folder(const tn_checkpoint *c)
{
	return c->is_folder;
}

int tn_checkpoint_has_index(const tn_checkpoint *c)
{
	return c->has_index;
}

size_t tn_checkpoint_shard_count(const tn_checkpoint *c)
{
	return c->shard_count;
}

const tn_safetensors *tn_checkpoint_shard(const tn_checkpoint *c, size_t i)
{
	return i < c->shard_count ? c->shards[i] : NULL;
}

const char *tn_checkpoint_shard_name(const tn_checkpoint *c, size_t i)
{
	return i < c->shard_count ? c->shard_names[i] : NULL;
}

size_t tn_checkpoint_count(const tn_checkpoint *c)
{
	return c->count;
}

const struct tn_tensor *tn_checkpoint_at(const tn_checkpoint *c, size_t i)
{
	return i < c->count ? c->by_name[i] : NULL;
}

const struct tn_tensor *tn_checkpoint_find(const tn_checkpoint *c, const char *name)
{
	return tn_tensor_find(c->by_name, c->count, name);
}

uint64_t tn_checkpoint_tensor_bytes(const tn_checkpoint *c)
{
	return c->tensor_bytes;
}

tn_status tn_checkpoint_read(const tn_checkpoint *c, const struct tn_tensor *tensor, uint64_t offset, void *dst,
			     size_t n, struct tn_error *err)
{
	return tn_safetensors_read(c->shards[tensor->shard], tensor, offset, dst, n, err);
}

tn_status tn_checkpoint_load(const tn_checkpoint *c, const char *name, struct tn_buffer *out,
			     const struct tn_tensor **tensor, struct tn_error *err)
{
	const struct tn_tensor *found = tn_checkpoint_find(c, name);
	if (!found)
		return tn_fail(err, TN_E_NOTFOUND, name, "'%s' has no tensor '%.100s'", c->path, name);
	TN_TRY(tn_tensor_load(c->shards[found->shard], found, out, err));
	if (tensor)
		*tensor = found;
	return TN_OK;
}

tn_status tn_checkpoint_parse_config(const tn_checkpoint *c, json_t **out, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	if (!c->config)
		return tn_fail(err, TN_E_NOTFOUND, c->path, "'%.200s' has no config.json; a model is a folder with one", c->path);
	TN_TRY(tn_path_join(path, c->path, "config.json", err));
	return tn_json_parse(c->ctx, c->config, strlen(c->config), path, out, err);
}

int tn_config_ties(const json_t *config)
{
	const json_t *own = json_object_get(json_object_get(config, "text_config"), "tie_word_embeddings");
	return json_is_true(own ? own : json_object_get(config, "tie_word_embeddings"));
}

const char *tn_checkpoint_config(const tn_checkpoint *c)
{
	return c->config;
}
