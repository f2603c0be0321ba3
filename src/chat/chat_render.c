/* SPDX-License-Identifier: Apache-2.0 */
#include "chat/chat.h"

#include "base/text.h"
#include "chat/jinja_call.h"
#include "chat/jinja_clock.h"
#include "chat/jinja_unicode.h"

#include <string.h>

/* The template of apply_chat_template. */
static tn_status choose(const tn_chat *chat, const char *name, int tools, const struct tn_chat_template **out, struct tn_error *err)
{
	const struct tn_chat_template *chosen = NULL;
	for (size_t i = 0; i < chat->count; i++) {
		const struct tn_chat_template *t = &chat->templates[i];
		if (name ? strcmp(t->name, name) == 0 : tools && strcmp(t->name, "tool_use") == 0)
			chosen = t;
		else if (!name && !chosen && strcmp(t->name, "default") == 0)
			chosen = t;
	}
	if (!chat->count)
		return tn_fail(err, TN_E_NOTFOUND, chat->folder, "the model has no chat template: '%.120s' lacks "
			       "chat_template.jinja, and tokenizer_config.json lacks chat_template", chat->folder);
	if (!chosen)
		return tn_fail(err, TN_E_NOTFOUND, chat->folder, "the model has no chat template named '%.60s'; it has '%.60s'%s",
			       name ? name : "default", chat->templates[0].name, chat->count > 1 ? " and others" : "");
	if (!chosen->program)
		return tn_fail_with(err, &chosen->broken);
	*out = chosen;
	return TN_OK;
}

/* ---- messages --------------------------------------------------------------------------------------------- */

static tn_status check_objects(struct tn_j *j, const char *what, struct tn_jv list)
{
	if (list.kind != TN_J_LIST)
		return tn_fail(j->err, TN_E_FORMAT, what, "%s must be a JSON array of objects, not %s", what, tn_j_type_name(list));
	for (size_t i = 0; i < list.as.list->count; i++)
		if (list.as.list->items[i].kind != TN_J_DICT)
			return tn_fail(j->err, TN_E_FORMAT, what, "item %zu of %s is %s; an object was expected", i, what,
				       tn_j_type_name(list.as.list->items[i]));
	return TN_OK;
}

static tn_status one_message(struct tn_j *j, const struct tn_chat_message *message, struct tn_jv *out)
{
	struct tn_jdict *dict;
	struct tn_jv v;
	const char *texts[2] = { message->role, message->content };
	static const char *const keys[2] = { "role", "content" };
	TN_TRY(tn_jd_new(j, &dict));
	for (int i = 0; i < 2; i++) {
		size_t n = strlen(texts[i]);
		if (tn_utf8_valid_prefix(texts[i], n) != n)
			return tn_fail(j->err, TN_E_ARG, "messages", "the %s of a message is not UTF-8", keys[i]);
		TN_TRY(tn_j_string_kept(j, texts[i], n, &v));
		TN_TRY(tn_jd_set_text(j, dict, keys[i], v));
	}
	*out = tn_jv_dict(dict);
	return TN_OK;
}

/* Reasoning goes by three names: the first that is there fills reasoning_content, and thinking where that is missing. */
static tn_status alias_reasoning(struct tn_j *j, struct tn_jv *message)
{
	static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };
	const struct tn_jdict *old = message->as.dict;
	struct tn_jv reasoning = tn_jv_none();
	struct tn_jdict *made;
	for (int i = 0; i < 3 && reasoning.kind == TN_J_NONE; i++) {
		TN_TRY(tn_jd_get_text(j, old, names[i], &reasoning));
		if (!tn_jv_is_given(reasoning))
			reasoning = tn_jv_none();
	}
	if (reasoning.kind == TN_J_NONE)
		return TN_OK;
	TN_TRY(tn_jd_new(j, &made));
	TN_TRY(tn_jd_set_text(j, made, "thinking", reasoning));
	for (size_t i = 0; i < old->count; i++)
		TN_TRY(tn_jd_set(j, made, old->entries[i].key, old->entries[i].value));
	TN_TRY(tn_jd_set_text(j, made, "reasoning_content", reasoning));
	*message = tn_jv_dict(made);
	return TN_OK;
}

static tn_status read_messages(struct tn_j *j, const struct tn_chat_request *request, struct tn_jlist **out)
{
	struct tn_jv v;
	if (request->messages_json) {
		TN_TRY(tn_jinja_json(j, request->messages_json, request->messages_bytes, "messages", &v));
		TN_TRY(check_objects(j, "messages", v));
		*out = v.as.list;
	} else {
		TN_TRY(tn_j_list(j, request->message_count, out));
		for (size_t i = 0; i < request->message_count; i++)
			TN_TRY(one_message(j, &request->messages[i], &(*out)->items[i]));
	}
	for (size_t i = 0; i < (*out)->count; i++)
		TN_TRY(alias_reasoning(j, &(*out)->items[i]));
	return TN_OK;
}

/* ---- variables -------------------------------------------------------------------------------------------- */

static tn_status set_json(struct tn_j *j, struct tn_jdict *variables, const char *name, const char *json, size_t bytes)
{
	struct tn_jv v = tn_jv_none();
	if (json) {
		TN_TRY(tn_jinja_json(j, json, bytes, name, &v));
		if (v.kind != TN_J_NONE)
			TN_TRY(check_objects(j, name, v));
	}
	return tn_jd_set_text(j, variables, name, v);
}

static tn_status add_variables(struct tn_j *j, struct tn_jdict *variables, const char *json, size_t bytes)
{
	struct tn_jv v;
	if (!json)
		return TN_OK;
	TN_TRY(tn_jinja_json(j, json, bytes, "variables", &v));
	if (v.kind != TN_J_DICT)
		return tn_fail(j->err, TN_E_FORMAT, "variables", "the variables must be a JSON object, not %s", tn_j_type_name(v));
	for (size_t i = 0; i < v.as.dict->count; i++)
		TN_TRY(tn_jd_set(j, variables, v.as.dict->entries[i].key, v.as.dict->entries[i].value));
	return TN_OK;
}

static tn_status make_variables(struct tn_j *j, const tn_chat *chat, const struct tn_chat_request *r, struct tn_jlist *messages,
				struct tn_jdict **out)
{
	TN_TRY(tn_jd_copy(j, chat->tokens, out));
	TN_TRY(add_variables(j, *out, r->variables_json, r->variables_bytes));
	TN_TRY(tn_jd_set_text(j, *out, "messages", tn_jv_list(messages)));
	TN_TRY(set_json(j, *out, "tools", r->tools_json, r->tools_bytes));
	TN_TRY(set_json(j, *out, "documents", r->documents_json, r->documents_bytes));
	return tn_jd_set_text(j, *out, "add_generation_prompt", tn_jv_bool(r->add_generation_prompt));
}

/* ---- leaving the last message open ------------------------------------------------------------------------- */

static const struct tn_jstr tag = { .text = "CONTINUE_FINAL_MESSAGE_TAG ", .bytes = 27, .chars = 27 };

static tn_status cannot_continue(struct tn_j *j, const char *why)
{
	return tn_fail(j->err, TN_E_MISMATCH, "continue_final_message", "the last message cannot be continued: %s", why);
}

/* The text to continue: the content, or its last part that has a text. */
static tn_status find_text(struct tn_j *j, struct tn_jdict *message, struct tn_jdict **holder, const char **key, struct tn_jv *out)
{
	struct tn_jv content;
	*holder = message;
	*key = "content";
	TN_TRY(tn_jd_get_text(j, message, "content", &content));
	*out = content;
	if (content.kind == TN_J_LIST) {
		*out = tn_jv_absent();
		for (size_t i = content.as.list->count; i-- && !tn_jv_is_given(*out);) {
			if (content.as.list->items[i].kind != TN_J_DICT)
				continue;
			*holder = content.as.list->items[i].as.dict;
			TN_TRY(tn_jd_get_text(j, *holder, "text", out));
		}
		*key = "text";
	}
	return tn_jv_is_string(*out) ? TN_OK : cannot_continue(j, "it has no text");
}

/* Puts a mark behind the text, and remembers the text. */
static tn_status mark_end(struct tn_j *j, const struct tn_chat_template *t, struct tn_jlist *messages, struct tn_jv *text)
{
	struct tn_jdict *holder;
	struct tn_jv marked;
	const char *key;
	if (!messages->count)
		return cannot_continue(j, "there is none");
	TN_TRY(find_text(j, messages->items[messages->count - 1].as.dict, &holder, &key, text));
	if (!memmem(t->source, t->source_bytes, "content", 7))
		return cannot_continue(j, "the chat template does not read 'content'");
	TN_TRY(tn_j_concat(j, text->as.str, &tag, &marked));
	return tn_jd_set_text(j, holder, key, marked);
}

/* Cuts the mark and what stands behind it. A template that trimmed the blank of the mark trimmed the text too. */
static tn_status cut_at_mark(struct tn_j *j, const struct tn_jstr *text, const struct tn_jstr *page, size_t *bytes)
{
	struct tn_jv stripped;
	const char *found = NULL, *next = page->text;
	TN_TRY(tn_js_strip(j, text, NULL, 1, 1, &stripped));
	for (size_t left;
	     left = page->bytes - (size_t)(next - page->text), (next = memmem(next, left, tag.text, tag.bytes - 1)); next++)
		found = next;
	if (!found || !memmem(page->text, page->bytes, stripped.as.str->text, stripped.as.str->bytes))
		return cannot_continue(j, "it does not appear in the chat as it is; the template changes or drops it");
	size_t at = (size_t)(found - page->text);
	int whole = page->bytes - at >= tag.bytes && memcmp(found, tag.text, tag.bytes) == 0;
	*bytes = whole ? at : tn_u_rstrip(page->text, at);
	return TN_OK;
}

/* ---- the whole -------------------------------------------------------------------------------------------- */

static tn_status copy_out(struct tn_j *j, const tn_chat *chat, const char *text, size_t bytes, struct tn_chat_text *out)
{
	struct tn_chat_text made = { { NULL, 0 }, NULL, j->span_count };
	TN_TRY(tn_buffer_alloc(chat->ctx, bytes + 1, "rendered chat", &made.text, j->err));
	tn_status status = tn_alloc_array(chat->ctx, made.span_count, sizeof *made.spans, "spans of a chat", &made.spans, j->err);
	if (status != TN_OK) {
		tn_buffer_release(chat->ctx, &made.text);
		return status;
	}
	memcpy(made.text.data, text, bytes);
	((char *)made.text.data)[bytes] = '\0';
	if (made.span_count)
		memcpy(made.spans, j->spans, made.span_count * sizeof *made.spans);
	made.text.bytes = bytes;
	*out = made;
	return TN_OK;
}

static tn_status render(struct tn_j *j, const tn_chat *chat, const struct tn_chat_template *t, const struct tn_chat_request *r,
			struct tn_chat_text *out)
{
	struct tn_jlist *messages;
	struct tn_jdict *variables;
	struct tn_jv page, last = tn_jv_absent();
	TN_TRY(read_messages(j, r, &messages));
	if (r->continue_final_message)
		TN_TRY(mark_end(j, t, messages, &last));
	TN_TRY(make_variables(j, chat, r, messages, &variables));
	j->now = r->now;
	TN_TRY(tn_jinja_run(j, variables, &page));
	size_t bytes = page.as.str->bytes;
	if (r->continue_final_message)
		TN_TRY(cut_at_mark(j, last.as.str, page.as.str, &bytes));
	return copy_out(j, chat, page.as.str->text, bytes, out);
}

/* Whether there are tools: JSON's null is none. */
static int has_tools(const struct tn_chat_request *request)
{
	const char *p = request->tools_json, *end = p ? p + request->tools_bytes : NULL;
	while (p < end && strchr(" \t\r\n", *p) && *p)
		p++;
	return p && !(end - p >= 4 && memcmp(p, "null", 4) == 0);
}

tn_status tn_chat_render(const tn_chat *chat, const struct tn_chat_request *request, struct tn_chat_text *out,
			 struct tn_error *err)
{
	const struct tn_chat_template *t = NULL;
	struct tn_j j;
	if (request->add_generation_prompt && request->continue_final_message)
		return tn_fail(err, TN_E_ARG, "continue_final_message", "a message is continued, or a new one begun: not both");
	if (request->now)
		TN_TRY(tn_jinja_check_now(request->now, err));
	TN_TRY(choose(chat, request->template_name, has_tools(request), &t, err));
	tn_jinja_begin(&j, chat->ctx, t->program, err);
	tn_status status = render(&j, chat, t, request, out);
	tn_jinja_end(&j);
	return status;
}

void tn_chat_text_release(const tn_chat *chat, struct tn_chat_text *text)
{
	if (!text->text.data)
		return;
	text->text.bytes++; /* the NUL */
	tn_free_array(chat->ctx, text->spans, text->span_count, sizeof *text->spans);
	tn_buffer_release(chat->ctx, &text->text);
	*text = (struct tn_chat_text){ { NULL, 0 }, NULL, 0 };
}
