/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/chat.h"

#include "base/file.h"
#include "base/text.h"
#include "chat/jinja_call.h"

#include <string.h>

/* tokenizer_config.json lists every added token: Gemma 3's has 1.2 MB. */
enum { CONFIG_CAP = 32 << 20, TEMPLATE_CAP = 4 << 20 };

/* ---- files ------------------------------------------------------------------------------------------------ */

static tn_status read_file(tn_chat *chat, const char *path, size_t cap, struct tn_jv *out, struct tn_error *err)
{
	struct tn_buffer text;
	TN_TRY(tn_file_read_text(chat->ctx, path, cap, &text, err));
	tn_status status = tn_j_string(&chat->j, text.data, text.bytes - 1, out);
	tn_buffer_release(chat->ctx, &text);
	return status;
}

/* The path in the chat's memory, because errors name templates by it. NULL: no such file. */
static tn_status find_file(tn_chat *chat, const char *folder, const char *name, const char **out, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	tn_path_kind kind;
	struct tn_jv kept;
	TN_TRY(tn_path_join(path, folder, name, err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	*out = NULL;
	if (kind == TN_PATH_MISSING)
		return TN_OK;
	TN_TRY(tn_j_text(&chat->j, path, &kept));
	*out = kept.as.str->text;
	return TN_OK;
}

/* The object in a JSON file of the folder; absent when there is no such file. */
static tn_status read_object(tn_chat *chat, const char *name, struct tn_jv *out, struct tn_error *err)
{
	const char *path;
	struct tn_jv text;
	*out = tn_jv_absent();
	TN_TRY(find_file(chat, chat->folder, name, &path, err));
	if (!path)
		return TN_OK;
	TN_TRY(read_file(chat, path, CONFIG_CAP, &text, err));
	TN_TRY(tn_jinja_json(&chat->j, text.as.str->text, text.as.str->bytes, path, out));
	if (out->kind != TN_J_DICT)
		return tn_fail(err, TN_E_FORMAT, path, "'%.200s' holds no JSON object", path);
	return TN_OK;
}

/* ---- templates -------------------------------------------------------------------------------------------- */

/* One that is no Jinja is kept with its error: another one of the folder may be wanted. */
static tn_status add_template(tn_chat *chat, const char *name, const struct tn_jstr *source, const char *where)
{
	TN_TRY(tn_j_grow(&chat->j, &chat->templates, &chat->capacity, chat->count, chat->count + 1, sizeof *chat->templates));
	struct tn_chat_template *t = &chat->templates[chat->count];
	*t = (struct tn_chat_template){ .name = name, .source = source->text, .source_bytes = source->bytes };
	tn_status status = tn_jinja_compile(chat->ctx, t->source, t->source_bytes, where, &t->program, &t->broken);
	if (status == TN_E_NOMEM)
		return tn_fail_nomem(chat->j.err, "chat template", t->source_bytes);
	chat->count++;
	return TN_OK;
}

static tn_status add_file(tn_chat *chat, const char *folder, const char *file, const char *name, struct tn_error *err)
{
	const char *path;
	struct tn_jv source;
	TN_TRY(find_file(chat, folder, file, &path, err));
	if (!path)
		return TN_OK;
	TN_TRY(read_file(chat, path, TEMPLATE_CAP, &source, err));
	return add_template(chat, name, source.as.str, path);
}

static tn_status add_listed(tn_chat *chat, const struct tn_names *names, const char *folder, struct tn_error *err)
{
	for (size_t i = 0; i < names->count; i++) {
		struct tn_jv name;
		if (!tn_ends_with(names->items[i], ".jinja"))
			continue;
		TN_TRY(tn_j_string(&chat->j, names->items[i], strlen(names->items[i]) - 6, &name));
		TN_TRY(add_file(chat, folder, names->items[i], name.as.str->text, err));
	}
	return TN_OK;
}

/* chat_template.jinja, and additional_chat_templates/NAME.jinja. */
static tn_status add_template_files(tn_chat *chat, struct tn_error *err)
{
	const char *folder;
	struct tn_names names = { 0 };
	tn_path_kind kind;
	TN_TRY(add_file(chat, chat->folder, "chat_template.jinja", "default", err));
	TN_TRY(find_file(chat, chat->folder, "additional_chat_templates", &folder, err));
	if (!folder)
		return TN_OK;
	TN_TRY(tn_path_kind_of(folder, &kind, err));
	if (kind != TN_PATH_FOLDER)
		return TN_OK;
	TN_TRY(tn_folder_list(chat->ctx, folder, &names, err));
	tn_status status = add_listed(chat, &names, folder, err);
	tn_names_release(&names);
	return status;
}

static tn_status bad_template(tn_chat *chat, const char *where)
{
	return tn_fail(chat->j.err, TN_E_FORMAT, where,
		       "'chat_template' is neither a text nor a list of objects with name and template");
}

/* The key chat_template of a configuration: a text, or a list of { name, template }. */
static tn_status add_configured(tn_chat *chat, const struct tn_jdict *config, const char *where)
{
	struct tn_jv v, name, text;
	TN_TRY(tn_jd_get_text(&chat->j, config, "chat_template", &v));
	if (!tn_jv_is_given(v) || v.kind == TN_J_NONE)
		return TN_OK;
	if (tn_jv_is_string(v))
		return add_template(chat, "default", v.as.str, where);
	if (v.kind != TN_J_LIST)
		return bad_template(chat, where);
	for (size_t i = 0; i < v.as.list->count; i++) {
		if (v.as.list->items[i].kind != TN_J_DICT)
			return bad_template(chat, where);
		TN_TRY(tn_jd_get_text(&chat->j, v.as.list->items[i].as.dict, "name", &name));
		TN_TRY(tn_jd_get_text(&chat->j, v.as.list->items[i].as.dict, "template", &text));
		if (!tn_jv_is_string(name) || !tn_jv_is_string(text))
			return bad_template(chat, where);
		TN_TRY(tn_j_string(&chat->j, name.as.str->text, name.as.str->bytes, &name)); /* with a NUL behind it */
		TN_TRY(add_template(chat, name.as.str->text, text.as.str, where));
	}
	return TN_OK;
}

/* ---- tokens ----------------------------------------------------------------------------------------------- */

/* A token is a text, or an object with its `content`. */
static tn_status add_token(tn_chat *chat, struct tn_jv name, struct tn_jv v)
{
	if (v.kind == TN_J_DICT)
		TN_TRY(tn_jd_get_text(&chat->j, v.as.dict, "content", &v));
	if (!tn_jv_is_string(v))
		return TN_OK;
	TN_TRY(tn_j_string(&chat->j, v.as.str->text, v.as.str->bytes, &v)); /* with a NUL behind it */
	return tn_jd_set(&chat->j, chat->tokens, name, v);
}

static tn_status add_all(tn_chat *chat, const struct tn_jdict *from)
{
	for (size_t i = 0; i < from->count; i++)
		TN_TRY(add_token(chat, from->entries[i].key, from->entries[i].value));
	return TN_OK;
}

/* Names that end in _token, and the model's own ones. */
static tn_status add_tokens(tn_chat *chat, const struct tn_jdict *config)
{
	for (size_t i = 0; i < config->count; i++) {
		const struct tn_jstr *key = config->entries[i].key.as.str;
		struct tn_jv v = config->entries[i].value;
		if (key->bytes > 6 && memcmp(key->text + key->bytes - 6, "_token", 6) == 0)
			TN_TRY(add_token(chat, config->entries[i].key, v));
		else if (v.kind == TN_J_DICT &&
			 (tn_js_is(key, "extra_special_tokens") || tn_js_is(key, "model_specific_special_tokens")))
			TN_TRY(add_all(chat, v.as.dict));
	}
	return TN_OK;
}

/* ---- opening ---------------------------------------------------------------------------------------------- */

/* special_tokens_map.json counts where tokenizer_config.json is of the time before added_tokens_decoder. */
static tn_status read_folder(tn_chat *chat, struct tn_error *err)
{
	struct tn_jv config, map, listed = tn_jv_absent();
	TN_TRY(add_template_files(chat, err));
	TN_TRY(read_object(chat, "tokenizer_config.json", &config, err));
	if (tn_jv_is_given(config)) {
		TN_TRY(add_tokens(chat, config.as.dict));
		TN_TRY(tn_jd_get_text(&chat->j, config.as.dict, "added_tokens_decoder", &listed));
		if (!chat->count)
			TN_TRY(add_configured(chat, config.as.dict, "tokenizer_config.json"));
	}
	if (!tn_jv_is_given(listed)) {
		TN_TRY(read_object(chat, "special_tokens_map.json", &map, err));
		if (tn_jv_is_given(map))
			TN_TRY(add_tokens(chat, map.as.dict));
	}
	if (chat->count)
		return TN_OK;
	TN_TRY(read_object(chat, "chat_template.json", &map, err));
	return tn_jv_is_given(map) ? add_configured(chat, map.as.dict, "chat_template.json") : TN_OK;
}

static tn_status new_chat(tn_context *ctx, const char *folder, tn_chat **out, struct tn_error *err)
{
	tn_chat *chat;
	struct tn_jv kept;
	TN_TRY(tn_alloc_array(ctx, 1, sizeof *chat, "chat templates", &chat, err));
	chat->ctx = ctx;
	tn_jinja_start(&chat->j, ctx, folder, err);
	tn_status status = tn_j_text(&chat->j, folder, &kept);
	if (status == TN_OK)
		status = tn_jd_new(&chat->j, &chat->tokens);
	if (status != TN_OK) {
		tn_chat_close(chat);
		return status;
	}
	chat->folder = kept.as.str->text;
	chat->j.where = chat->folder;
	*out = chat;
	return TN_OK;
}

static tn_status finish(tn_chat *chat, tn_status status, tn_chat **out)
{
	chat->j.err = NULL;
	if (status == TN_OK)
		*out = chat;
	else
		tn_chat_close(chat);
	return status;
}

tn_status tn_chat_open(tn_context *ctx, const char *folder, tn_chat **out, struct tn_error *err)
{
	tn_chat *chat;
	tn_path_kind kind;
	TN_TRY(tn_path_kind_of(folder, &kind, err));
	if (kind != TN_PATH_FOLDER)
		return tn_fail(err, kind == TN_PATH_MISSING ? TN_E_NOTFOUND : TN_E_FORMAT, folder,
			       "'%.200s' is no folder; a model folder was expected", folder);
	TN_TRY(new_chat(ctx, folder, &chat, err));
	return finish(chat, read_folder(chat, err), out);
}

tn_status tn_chat_from_text(tn_context *ctx, const char *text, size_t bytes, const char *where, tn_chat **out,
			    struct tn_error *err)
{
	tn_chat *chat;
	struct tn_jv source;
	TN_TRY(new_chat(ctx, where, &chat, err));
	tn_status status = tn_j_string(&chat->j, text, bytes, &source);
	if (status == TN_OK)
		status = add_template(chat, "default", source.as.str, chat->folder);
	if (status == TN_OK && !chat->templates[0].program)
		status = tn_fail_with(err, &chat->templates[0].broken);
	return finish(chat, status, out);
}

void tn_chat_close(tn_chat *chat)
{
	if (!chat)
		return;
	for (size_t i = 0; i < chat->count; i++)
		tn_jinja_free(chat->templates[i].program);
	tn_arena_release(&chat->j.arena);
	tn_free(chat->ctx, chat, sizeof *chat);
}

size_t tn_chat_count(const tn_chat *chat)
{
	return chat->count;
}

const char *tn_chat_name(const tn_chat *chat, size_t i)
{
	return i < chat->count ? chat->templates[i].name : NULL;
}

const char *tn_chat_token(const tn_chat *chat, const char *name)
{
	for (size_t i = 0; i < chat->tokens->count; i++)
		if (tn_js_is(chat->tokens->entries[i].key.as.str, name))
			return chat->tokens->entries[i].value.as.str->text;
	return NULL;
}
