/* SPDX-License-Identifier: Apache-2.0 */
/* What a tokenizer needs beside its model, wherever that was read from: the small files of the folder, added tokens, the ids
 * at which texts end. */
#include "base/error.h"
#include "base/file.h"
#include "store/json_doc.h"
#include "tokenizer/token_json.h"
#include "tokenizer/tokenizer_parts.h"

#include <string.h>

enum { LARGEST_CONFIG = 16 << 20 };

/* ---- the small files ------------------------------------------------------------------------------------- */

/* NULL where there is no such file. */
static tn_status load_config(tn_context *ctx, const char *folder, const char *name, json_t **out, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	struct tn_buffer text;
	tn_path_kind kind;
	if (!folder)
		return TN_OK;
	TN_TRY(tn_path_join(path, folder, name, err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	if (kind == TN_PATH_MISSING)
		return TN_OK;
	TN_TRY(tn_file_read_text(ctx, path, LARGEST_CONFIG, &text, err));
	tn_status status = tn_json_parse(ctx, text.data, text.bytes - 1, path, out, err);
	tn_buffer_release(ctx, &text);
	return status;
}

tn_status tn_tokenizer_files_load(tn_context *ctx, const char *folder, struct tn_tokenizer_files *files, struct tn_error *err)
{
	TN_TRY(load_config(ctx, folder, "tokenizer_config.json", &files->tokenizer_config, err));
	TN_TRY(load_config(ctx, folder, "special_tokens_map.json", &files->special_tokens_map, err));
	if (files->pieces)
		TN_TRY(load_config(ctx, folder, "added_tokens.json", &files->added_tokens, err));
	TN_TRY(load_config(ctx, folder, "config.json", &files->config, err));
	/* as mlx-lm does it, a broken one is passed over */
	struct tn_error broken;
	tn_status status = load_config(ctx, folder, "generation_config.json", &files->generation_config, &broken);
	return status == TN_OK || status == TN_E_FORMAT ? TN_OK : tn_fail_with(err, &broken);
}

void tn_tokenizer_files_release(struct tn_tokenizer_files *files)
{
	json_decref(files->tokenizer);
	json_decref(files->tokenizer_config);
	json_decref(files->special_tokens_map);
	json_decref(files->added_tokens);
	json_decref(files->config);
	json_decref(files->generation_config);
}

/* ---- added tokens ---------------------------------------------------------------------------------------- */

tn_status tn_tokenizer_add_token(struct tn_tokenizer *t, const json_t *json, const char *where, struct tn_error *err)
{
	const json_t *content = json_is_string(json) ? json : json_object_get(json, "content");
	if (!json_is_string(content))
		return tn_fail(err, TN_E_FORMAT, where, "an added token of '%s' has no 'content'", where);
	int special = tn_token_flag(json, "special", json_is_string(json));
	struct tn_added_token token = {
		.content = json_string_value(content),
		.bytes = json_string_length(content),
		.special = special,
		.single_word = tn_token_flag(json, "single_word", 0),
		.lstrip = tn_token_flag(json, "lstrip", 0),
		.rstrip = tn_token_flag(json, "rstrip", 0),
		.normalized = tn_token_flag(json, "normalized", !special),
	};
	return tn_added_tokens_put(&t->added, &token, &t->model, where, err);
}

/* A class takes those of tokenizer_config.json in their place. */
static tn_status read_added(struct tn_tokenizer *t, const struct tn_tokenizer_class *c, const struct tn_tokenizer_files *files,
			    struct tn_error *err)
{
	const json_t *list = json_object_get(files->tokenizer, "added_tokens");
	if (c && json_is_object(json_object_get(files->tokenizer_config, "added_tokens_decoder")))
		return TN_OK;
	for (size_t i = 0; i < json_array_size(list); i++)
		TN_TRY(tn_tokenizer_add_token(t, json_array_get(list, i), files->where, err));
	return TN_OK;
}

static tn_status finish_added(struct tn_tokenizer *t, struct tn_error *err)
{
	struct tn_work work;
	tn_work_init(&work, t->ctx);
	tn_status status = tn_added_tokens_finish(&t->added, &t->normalizer, &work, err);
	tn_work_release(&work);
	return status;
}

static void count_tokens(struct tn_tokenizer *t)
{
	t->vocab_size = t->model.kind == TN_MODEL_UNIGRAM ? t->model.score_count : t->model.vocab.count;
	t->id_limit = t->model.vocab.id_limit > t->added.id_limit ? t->model.vocab.id_limit : t->added.id_limit;
	for (size_t i = 0; i < t->added.count; i++)
		t->vocab_size += tn_vocab_find(&t->model.vocab, t->added.items[i].content, t->added.items[i].bytes) == TN_NO_TOKEN;
}

/* ---- where texts end ------------------------------------------------------------------------------------- */

static tn_status add_stop_id(struct tn_tokenizer *t, uint32_t id, struct tn_error *err)
{
	for (size_t i = 0; i < t->stop_ids.count; i++)
		if (t->stop_ids.items[i] == id)
			return TN_OK;
	return id == TN_NO_TOKEN ? TN_OK : tn_id_list_add(&t->stop_ids, id, err);
}

/* A number or a list of them; what is neither is passed over. */
static tn_status add_stop_value(struct tn_tokenizer *t, const json_t *value, struct tn_error *err)
{
	for (size_t i = 0; i < json_array_size(value); i++)
		TN_TRY(add_stop_value(t, json_array_get(value, i), err));
	json_int_t id = json_is_integer(value) ? json_integer_value(value) : -1;
	return id >= 0 && id < (json_int_t)TN_NO_TOKEN ? add_stop_id(t, (uint32_t)id, err) : TN_OK;
}

static tn_status read_stop_ids(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	const char *eos = t->special[TN_EOS];
	TN_TRY(add_stop_value(t, json_object_get(files->generation_config, "eos_token_id"), err));
	if (!t->stop_ids.count)
		TN_TRY(add_stop_value(t, json_object_get(files->config, "eos_token_id"), err));
	return eos ? add_stop_id(t, tn_tokenizer_id_of(t, eos, strlen(eos)), err) : TN_OK;
}

tn_status tn_tokenizer_complete(struct tn_tokenizer *t, const struct tn_tokenizer_class *c,
				const struct tn_tokenizer_files *files, struct tn_error *err)
{
	TN_TRY(read_added(t, c, files, err));
	TN_TRY(tn_tokenizer_add_special(t, c, files, err));
	TN_TRY(finish_added(t, err));
	TN_TRY(tn_tokenizer_read_frame(t, c, files, err));
	count_tokens(t);
	return read_stop_ids(t, files, err);
}
