/* SPDX-License-Identifier: Apache-2.0 */
/* A folder against the receipt of the run that wrote it. The receipt is a file like any other, and may say anything. */
#include "transform/verify.h"

#include "adapter/adapter.h"
#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/json_doc.h"
#include "transform/content.h"

#include <stdlib.h>
#include <string.h>

enum { RECEIPT_CAP = 128 << 20 };

struct check {
	tn_context *ctx;
	const json_t *root;
	const char *path;            /* of the receipt */
	const char *folder;
	struct tn_names names;       /* of all that is in the folder */
	const char **files;          /* of those that count, and are no weights */
	size_t file_count;
	tn_checkpoint *result;
	tn_verify *report;
};

static tn_status fail_form(const struct check *c, const char *what, struct tn_error *err)
{
	return tn_fail(err, TN_E_FORMAT, c->path, "'%s' is no receipt that can be checked: %s; --receipt writes one behind a "
		       "run", c->path, what);
}

static void add(const struct check *c, const char *name, tn_verdict verdict)
{
	c->report->tensors[c->report->count++] = (struct tn_verified_tensor){ .name = name, .verdict = verdict,
									     .row = TN_VERIFY_NO_ROW };
}

/* ---- tensors --------------------------------------------------------------------------------------------- */

static int same_form(const json_t *entry, const struct tn_tensor *t)
{
	const json_t *dtype = json_object_get(entry, "dtype"), *shape = json_object_get(entry, "shape");
	int same = json_is_string(dtype) && strcmp(json_string_value(dtype), tn_dtype_name(t->dtype)) == 0 &&
		   json_is_array(shape) && json_array_size(shape) == t->rank;
	for (size_t i = 0; same && i < t->rank; i++) {
		const json_t *size = json_array_get(shape, i);
		same = json_is_integer(size) && json_integer_value(size) >= 0 && (uint64_t)json_integer_value(size) == t->shape[i];
	}
	return same;
}

/* A tensor of the receipt, and what the folder has under that name. */
struct pair {
	const json_t *entry;
	const char *name;
	const struct tn_tensor *found;   /* in the form of the receipt; else NULL */
	struct tn_digest said;
};

static tn_status read_pair(const struct check *c, const json_t *entry, struct pair *pair, struct tn_error *err)
{
	const json_t *name = json_object_get(entry, "name"), *digest = json_object_get(entry, "sha256");
	if (!json_is_string(name) || !json_is_string(digest) || !tn_digest_parse(json_string_value(digest), &pair->said))
		return fail_form(c, "a tensor has no name or no sha256 of 64 digits", err);
	pair->entry = entry;
	pair->name = json_string_value(name);
	return TN_OK;
}

static int compare_pairs(const void *a, const void *b)
{
	return strcmp(((const struct pair *)a)->name, ((const struct pair *)b)->name);
}

/* Both are in the order of names. */
static tn_status compare_lists(const struct check *c, struct pair *pairs, size_t count, struct tn_error *err)
{
	size_t k = 0;
	for (size_t i = 0; i < count; i++) {
		if (i && strcmp(pairs[i].name, pairs[i - 1].name) == 0)
			return fail_form(c, "a tensor stands in it twice", err);
		for (; k < c->result->count && strcmp(c->result->by_name[k]->name, pairs[i].name) < 0; k++)
			add(c, c->result->by_name[k]->name, TN_VERDICT_EXTRA);
		const struct tn_tensor *t = k < c->result->count ? c->result->by_name[k] : NULL;
		if (!t || strcmp(t->name, pairs[i].name) != 0) {
			add(c, pairs[i].name, TN_VERDICT_MISSING);
			continue;
		}
		k++;
		if (same_form(pairs[i].entry, t))
			pairs[i].found = t;
		else
			add(c, t->name, TN_VERDICT_RESHAPED);
	}
	for (; k < c->result->count; k++)
		add(c, c->result->by_name[k]->name, TN_VERDICT_EXTRA);
	return TN_OK;
}

/* What quantize and its kin wrote they list apart from what became of each weight. */
static const json_t *tensors_of(const struct check *c)
{
	const json_t *written = json_object_get(c->root, "written");
	return written ? written : json_object_get(c->root, "tensors");
}

static tn_status check_tensors(const struct check *c, struct tn_arena *arena, struct tn_error *err)
{
	const json_t *list = tensors_of(c);
	size_t count = json_array_size(list);
	struct pair *pairs;
	const struct tn_tensor **tensors;
	struct tn_digest *digests;
	TN_TRY(tn_arena_array(arena, count, sizeof *pairs, &pairs, err));
	TN_TRY(tn_arena_array(arena, count, sizeof *tensors, &tensors, err));
	TN_TRY(tn_arena_array(arena, count, sizeof *digests, &digests, err));
	for (size_t i = 0; i < count; i++)
		TN_TRY(read_pair(c, json_array_get(list, i), &pairs[i], err));
	if (count > 1)
		qsort(pairs, count, sizeof *pairs, compare_pairs);
	TN_TRY(compare_lists(c, pairs, count, err));
	for (size_t i = 0; i < count; i++)
		tensors[i] = pairs[i].found;
	TN_TRY(tn_content_tensors(c->ctx, c->result, tensors, count, digests, err));
	for (size_t i = 0; i < count; i++)
		if (tensors[i])
			add(c, pairs[i].name, memcmp(&digests[i], &pairs[i].said, sizeof *digests) ? TN_VERDICT_CHANGED
												 : TN_VERDICT_IDENTICAL);
	return TN_OK;
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static tn_status read_file_entry(const struct check *c, const json_t *entry, const char **name, struct tn_digest *said,
				 struct tn_error *err)
{
	const json_t *text = json_object_get(entry, "name"), *digest = json_object_get(entry, "sha256");
	if (!json_is_string(text) || !tn_content_is_name(json_string_value(text)) || !json_is_string(digest) ||
	    !tn_digest_parse(json_string_value(digest), said))
		return fail_form(c, "a file has no name of its own or no sha256 of 64 digits", err);
	*name = json_string_value(text);
	return TN_OK;
}

static tn_status check_file(const struct check *c, const json_t *entry, struct tn_error *err)
{
	const char *name;
	struct tn_digest said, found;
	char path[TN_PATH_BYTES];
	tn_path_kind kind;
	uint64_t bytes;
	TN_TRY(read_file_entry(c, entry, &name, &said, err));
	TN_TRY(tn_path_join(path, c->folder, name, err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	if (kind != TN_PATH_FILE) {
		add(c, name, TN_VERDICT_MISSING);
		return TN_OK;
	}
	TN_TRY(tn_content_file(c->ctx, path, &found, &bytes, err));
	add(c, name, memcmp(&said, &found, sizeof said) ? TN_VERDICT_CHANGED : TN_VERDICT_IDENTICAL);
	return TN_OK;
}

static size_t shard_of(const tn_checkpoint *checkpoint, const char *name)
{
	size_t k = 0;
	while (k < checkpoint->shard_count && strcmp(checkpoint->shard_names[k], name) != 0)
		k++;
	return k;
}

/* Metadata changes how programs read tensors that are all the same. */
static tn_status check_header(const struct check *c, const json_t *entry, struct tn_error *err)
{
	const char *name;
	struct tn_digest said, found;
	uint64_t bytes;
	TN_TRY(read_file_entry(c, entry, &name, &said, err));
	size_t shard = shard_of(c->result, name);
	if (shard == c->result->shard_count) {
		add(c, name, TN_VERDICT_MISSING);
		return TN_OK;
	}
	TN_TRY(tn_content_header(c->ctx, c->result, shard, &found, &bytes, err));
	add(c, name, memcmp(&said, &found, sizeof said) ? TN_VERDICT_CHANGED : TN_VERDICT_IDENTICAL);
	return TN_OK;
}

static int is_listed(const json_t *files, const char *name)
{
	for (size_t i = 0; i < json_array_size(files); i++)
		if (strcmp(json_string_value(json_object_get(json_array_get(files, i), "name")), name) == 0)
			return 1;
	return 0;
}

/* Weights that no index lists are read all the same by programs that take every model*.safetensors. */
static int is_stray(const struct check *c, const char *name)
{
	return tn_file_role_of(name) == TN_ROLE_WEIGHTS && tn_ends_with(name, ".safetensors") &&
	       shard_of(c->result, name) == c->result->shard_count;
}

/* A file more may change how a program reads the model. */
static tn_status check_files(const struct check *c, struct tn_error *err)
{
	const json_t *files = json_object_get(c->root, "files"), *headers = json_object_get(c->root, "headers");
	for (size_t i = 0; i < json_array_size(files); i++)
		TN_TRY(check_file(c, json_array_get(files, i), err));
	for (size_t i = 0; i < json_array_size(headers); i++)
		TN_TRY(check_header(c, json_array_get(headers, i), err));
	for (size_t i = 0; i < c->file_count; i++)
		if (!is_listed(files, c->files[i]))
			add(c, c->files[i], TN_VERDICT_EXTRA);
	for (size_t i = 0; i < c->names.count; i++) {
		const char *name;
		if (!is_stray(c, c->names.items[i]))
			continue;
		TN_TRY(tn_arena_text(&c->report->arena, c->names.items[i], strlen(c->names.items[i]), &name, err));
		add(c, name, TN_VERDICT_EXTRA);
	}
	return TN_OK;
}

/* ---- base and adapters ----------------------------------------------------------------------------------- */

/* What the receipt alone speaks of may be gone; what the caller names must be there. */
static tn_status check_base(const struct check *c, const json_t *path, const json_t *digest, const char *given,
			    struct tn_error *err)
{
	struct tn_digest said, found;
	struct tn_error why;
	tn_checkpoint *base;
	if (!json_is_string(path) || !json_is_string(digest) || !tn_digest_parse(json_string_value(digest), &said))
		return fail_form(c, "it does not say what the base was", err);
	const char *name = given ? given : json_string_value(path);
	tn_status status = tn_checkpoint_open(c->ctx, name, &base, &why);
	if (status != TN_OK && (given || status == TN_E_NOMEM))
		return tn_fail_with(err, &why);
	if (status != TN_OK) {
		add(c, name, TN_VERDICT_UNCHECKED);
		return TN_OK;
	}
	status = tn_content_checkpoint(c->ctx, base, &found, err);
	tn_checkpoint_close(base);
	if (status == TN_OK)
		add(c, name, memcmp(&said, &found, sizeof said) ? TN_VERDICT_OTHER_BASE : TN_VERDICT_IDENTICAL);
	return status;
}

static tn_status check_bases(const struct check *c, const struct tn_receipt_inputs *given, struct tn_error *err)
{
	const json_t *dense = json_object_get(c->root, "dense_base");
	TN_TRY(check_base(c, json_object_get(c->root, "base"), json_object_get(c->root, "base_sha256"), given->base, err));
	if (dense)
		return check_base(c, dense, json_object_get(c->root, "dense_base_sha256"), given->dense_base, err);
	if (given->dense_base)
		return tn_fail(err, TN_E_ARG, given->dense_base, "'%.200s' speaks of no dense base, and '%.200s' was given as one; "
			       "leave it out", c->path, given->dense_base);
	return TN_OK;
}

static tn_status check_adapter(const struct check *c, const json_t *entry, const char *given, struct tn_error *err)
{
	const json_t *path = json_object_get(entry, "path"), *digest = json_object_get(entry, "hash");
	struct tn_digest said, found;
	struct tn_error why;
	tn_adapter *adapter;
	int known = json_is_string(digest) && tn_digest_parse(json_string_value(digest), &said);
	if (!given && !json_is_string(path))
		return fail_form(c, "an adapter has no path", err);
	const char *name = given ? given : json_string_value(path);
	tn_status status = tn_adapter_open(c->ctx, name, &adapter, &why);
	if (status != TN_OK && (given || status == TN_E_NOMEM))
		return tn_fail_with(err, &why);
	if (status != TN_OK || !known) {
		if (status == TN_OK)
			tn_adapter_close(adapter);
		add(c, name, TN_VERDICT_UNCHECKED);
		return TN_OK;
	}
	status = tn_adapter_hash(adapter, found.bytes, &why);
	tn_adapter_close(adapter);
	if (status == TN_E_NOMEM || status == TN_E_IO)
		return tn_fail_with(err, &why);
	int same = status == TN_OK && memcmp(&said, &found, sizeof said) == 0;
	add(c, name, same ? TN_VERDICT_IDENTICAL : TN_VERDICT_OTHER_ADAPTER);
	return TN_OK;
}

static tn_status check_adapters(const struct check *c, const struct tn_receipt_inputs *given, struct tn_error *err)
{
	const json_t *list = json_object_get(c->root, "adapters");
	size_t count = json_array_size(list);
	if (given->adapter_count && given->adapter_count != count)
		return tn_fail(err, TN_E_ARG, c->path, "'%s' speaks of %zu adapters, and %zu were given", c->path, count,
			       given->adapter_count);
	for (size_t i = 0; i < count; i++)
		TN_TRY(check_adapter(c, json_array_get(list, i), given->adapter_count ? given->adapters[i] : NULL, err));
	return TN_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------- */

static tn_status check_all(struct check *c, const struct tn_receipt_inputs *given, struct tn_arena *arena,
			   struct tn_error *err)
{
	const json_t *output = json_object_get(c->root, "output"), *tensors = tensors_of(c);
	const json_t *files = json_object_get(c->root, "files"), *headers = json_object_get(c->root, "headers");
	if (!json_is_string(output) || !json_is_array(tensors) || !json_is_array(files) || !json_is_array(headers))
		return fail_form(c, "it does not say what was written", err);
	c->folder = given->folder ? given->folder : json_string_value(output);
	TN_TRY(tn_checkpoint_open(c->ctx, c->folder, &c->result, err));
	TN_TRY(tn_folder_list(c->ctx, c->folder, &c->names, err));
	TN_TRY(tn_content_files(c->folder, &c->report->arena, &c->files, &c->file_count, err));
	size_t room = json_array_size(tensors) + c->result->count + json_array_size(files) + json_array_size(headers) +
		      c->names.count + c->file_count + json_array_size(json_object_get(c->root, "adapters")) + 2;
	TN_TRY(tn_arena_array(&c->report->arena, room, sizeof *c->report->tensors, &c->report->tensors, err));
	TN_TRY(check_tensors(c, arena, err));
	TN_TRY(check_files(c, err));
	TN_TRY(check_bases(c, given, err));
	return check_adapters(c, given, err);
}

static tn_status load_receipt(struct check *c, json_t **root, struct tn_error *err)
{
	struct tn_buffer text;
	TN_TRY(tn_file_read_text(c->ctx, c->path, RECEIPT_CAP, &text, err));
	tn_status status = tn_json_parse(c->ctx, text.data, text.bytes - 1, c->path, root, err);
	tn_buffer_release(c->ctx, &text);
	c->root = status == TN_OK ? *root : NULL;
	return status;
}

tn_status tn_verify_receipt(tn_context *ctx, const char *receipt, const struct tn_receipt_inputs *inputs, tn_verify **out,
			    struct tn_error *err)
{
	static const struct tn_receipt_inputs none = { 0 };
	struct tn_arena scratch;
	json_t *root = NULL;
	tn_verify *v;
	TN_TRY(tn_verify_create(ctx, &v, err));
	struct check c = { .ctx = ctx, .path = receipt, .report = v };
	tn_arena_init(&scratch, ctx);
	tn_status status = load_receipt(&c, &root, err);
	if (status == TN_OK)
		status = check_all(&c, inputs ? inputs : &none, &scratch, err);
	if (status == TN_OK)
		status = tn_verify_settle(v, err);
	tn_names_release(&c.names);
	tn_checkpoint_close(c.result);
	tn_arena_release(&scratch);
	json_decref(root);
	if (status != TN_OK) {
		tn_verify_free(v);
		return status;
	}
	*out = v;
	return TN_OK;
}
