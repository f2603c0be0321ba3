/* tenon/chat.h - chat templates: messages to the text that the model was trained to see.
 *
 * Sources. The language is Jinja2 3.1.6 in the environment of transformers 5.23 (src/transformers/utils/
 * chat_template_utils.py): trim_blocks, lstrip_blocks, loop controls, an immutable sandbox, its own tojson, raise_exception,
 * strftime_now and {% generation %}. Which files hold templates and which one is taken: tokenization_utils_base.py of the same.
 * What a template may ask for and does not get here is an error that names it; docs/chat.md has the list.
 *
 * Templates come from strangers: each rendering has a limit of steps, of nesting and of memory (TN_E_LIMIT), and a template
 * reaches nothing outside of what it is given.
 */
#ifndef TENON_CHAT_H
#define TENON_CHAT_H

#include "tenon/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_chat tn_chat;

/* Reads the chat templates and the special tokens of a model folder: chat_template.jinja and additional_chat_templates/, else
 * chat_template of tokenizer_config.json (one text, or several with names), else chat_template.json; tokens of
 * tokenizer_config.json and special_tokens_map.json. A folder without templates opens too, and so does one with a template
 * that is no Jinja: rendering says so when it is asked for.
 * Errors: TN_E_NOTFOUND: no folder. TN_E_FORMAT: a damaged file. TN_E_LIMIT: a file larger than any of its kind is. */
TN_API tn_status tn_chat_open(tn_context *ctx, const char *folder, tn_chat **out, struct tn_error *err);

/* One template from its text (UTF-8), with the name "default" and no tokens. `where` names it in errors.
 * TN_E_FORMAT: it is no Jinja (with the line). TN_E_LIMIT: it is nested too deeply, or too large. */
TN_API tn_status tn_chat_from_text(tn_context *ctx, const char *text, size_t bytes, const char *where, tn_chat **out,
				   struct tn_error *err);
TN_API void tn_chat_close(tn_chat *chat);

TN_API size_t tn_chat_count(const tn_chat *chat);
/* "default", "tool_use", ... in no particular order. */
TN_API const char *tn_chat_name(const tn_chat *chat, size_t i);
/* The text of a special token ("bos_token", "eos_token", ...); NULL when the files name none. */
TN_API const char *tn_chat_token(const tn_chat *chat, const char *name);

struct tn_chat_message {
	const char *role, *content;   /* UTF-8 */
};

/* What is rendered. Start from zeros; what is NULL or 0 is absent. Texts are JSON as a file would hold it, in UTF-8, with its
 * length; numbers keep their kind and objects the order of their keys. */
struct tn_chat_request {
	const char *messages_json;    /* an array of objects; NULL: `messages` */
	size_t messages_bytes;
	const struct tn_chat_message *messages;
	size_t message_count;
	const char *tools_json;       /* an array */
	size_t tools_bytes;
	const char *documents_json;   /* an array of objects */
	size_t documents_bytes;
	const char *variables_json;   /* an object: further names for the template; they win over special tokens */
	size_t variables_bytes;
	const char *template_name;    /* NULL: "tool_use" where there is one and tools are given, else "default" */
	const char *now;              /* local time for strftime_now, "2026-11-21T18:30:00[.123456]"; NULL: the template may not
	                               * ask */
	int add_generation_prompt;
	int continue_final_message;   /* leave the last message open: what its template would put behind it is cut off */
};

/* Code points [begin, end) of the text that a {% generation %} block printed: what the assistant says. */
struct tn_chat_span {
	size_t begin, end;
};

struct tn_chat_text {
	struct tn_buffer text;        /* with a NUL behind it, not counted in text.bytes */
	struct tn_chat_span *spans;
	size_t span_count;
};

/* Renders. May be called by many threads at once on one tn_chat.
 * Errors: TN_E_MISMATCH: the template refused the messages (raise_exception: err->msg is its text, err->where
 * "raise_exception"), or does not fit them (with the line, and what Python would have said). TN_E_NOTFOUND: no template, none
 * of that name. TN_E_FORMAT: JSON that is not. TN_E_UNSUPPORTED: a part of Jinja that is not here. TN_E_LIMIT. */
TN_API tn_status tn_chat_render(const tn_chat *chat, const struct tn_chat_request *request, struct tn_chat_text *out,
				struct tn_error *err);
TN_API void tn_chat_text_release(const tn_chat *chat, struct tn_chat_text *text);

#ifdef __cplusplus
}
#endif
#endif
