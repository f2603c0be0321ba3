/* SPDX-License-Identifier: Apache-2.0 */
/* Chat templates against transformers: the dialogues of the archive, and small templates for one thing each. */
#include "testlib.h"

#include "tenon/chat.h"

#include <dirent.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- cases ------------------------------------------------------------------------------------------------ */

static json_t *load(const char *path)
{
	json_error_t error;
	json_t *root = json_load_file(path, JSON_ALLOW_NUL, &error);
	if (!root)
		fail_msg("%s: %s", path, error.text);
	return root;
}

static char *dump(const json_t *value, size_t *bytes)
{
	char *text = value && !json_is_null(value) ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
	*bytes = text ? strlen(text) : 0;
	return text;
}

struct texts {
	char *messages, *tools, *documents, *variables;
};

static void make_request(const json_t *c, const json_t *variables, const char *now, struct tn_chat_request *request,
			 struct texts *texts)
{
	*request = (struct tn_chat_request){ .now = now };
	texts->messages = dump(json_object_get(c, "messages"), &request->messages_bytes);
	texts->tools = dump(json_object_get(c, "tools"), &request->tools_bytes);
	texts->documents = dump(json_object_get(c, "documents"), &request->documents_bytes);
	texts->variables = dump(variables, &request->variables_bytes);
	request->messages_json = texts->messages;
	request->tools_json = texts->tools;
	request->documents_json = texts->documents;
	request->variables_json = texts->variables;
	request->add_generation_prompt = json_is_true(json_object_get(c, "add_generation_prompt"));
	request->continue_final_message = json_is_true(json_object_get(c, "continue_final_message"));
}

static void free_texts(struct texts *texts)
{
	free(texts->messages);
	free(texts->tools);
	free(texts->documents);
	free(texts->variables);
}

static int same_spans(const struct tn_chat_text *text, const json_t *spans)
{
	int same = !spans || json_array_size(spans) == text->span_count;
	for (size_t i = 0; spans && same && i < text->span_count; i++) {
		json_t *span = json_array_get(spans, i);
		same = (json_int_t)text->spans[i].begin == json_integer_value(json_array_get(span, 0)) &&
		       (json_int_t)text->spans[i].end == json_integer_value(json_array_get(span, 1));
	}
	return same;
}

/* 1 when the case holds. What transformers refused has to be refused, what raise_exception said word for word. */
static int check(const tn_chat *chat, const struct tn_chat_request *request, const json_t *c, const char *name)
{
	struct tn_error err;
	struct tn_chat_text text;
	json_t *expect = json_object_get(c, "expect"), *error = json_object_get(c, "error");
	tn_status status = tn_chat_render(chat, request, &text, &err);
	if (status != TN_OK) {
		const char *said = json_string_value(json_object_get(error, "message"));
		const char *by = json_string_value(json_object_get(error, "by"));
		int good = error && (!by || strcmp(by, "raise_exception") != 0 || (strcmp(err.msg, said) == 0 && status == TN_E_MISMATCH));
		if (!good)
			print_message("%s: %s\n", name, err.msg);
		return good;
	}
	int good = expect && json_string_length(expect) == text.text.bytes &&
		   memcmp(json_string_value(expect), text.text.data, text.text.bytes) == 0 &&
		   same_spans(&text, json_object_get(c, "generation_spans"));
	if (!good)
		print_message("%s:\n  got      %s\n  expected %s\n", name, (char *)text.text.data,
			      expect ? json_string_value(expect) : json_string_value(json_object_get(error, "message")));
	tn_chat_text_release(chat, &text);
	return good;
}

/* ---- the archive ------------------------------------------------------------------------------------------ */

static size_t check_folder(struct tt *t, const char *folder, const char *name)
{
	char path[4096];
	tn_chat *chat;
	size_t bad = 0, n, i;
	snprintf(path, sizeof path, "%s/%s/golden.json", folder, name);
	json_t *golden = load(path), *cases = json_object_get(golden, "cases"), *c;
	snprintf(path, sizeof path, "%s/%s/chat_template.jinja", folder, name);
	unsigned char *source = tt_read_file(path, &n);
	tt_ok(t, tn_chat_from_text(t->ctx, (char *)source, n, name, &chat, &t->err));
	json_array_foreach(cases, i, c) {
		struct tn_chat_request request;
		struct texts texts;
		char label[256];
		json_t *variables = json_copy(json_object_get(golden, "tokens"));
		json_object_update(variables, json_object_get(c, "variables"));
		make_request(c, variables, json_string_value(json_object_get(golden, "now")), &request, &texts);
		snprintf(label, sizeof label, "%s %s", name, json_string_value(json_object_get(c, "name")));
		bad += !check(chat, &request, c, label);
		free_texts(&texts);
		json_decref(variables);
	}
	tn_chat_close(chat);
	free(source);
	json_decref(golden);
	return bad;
}

static void dialogues_are_rendered(void **state)
{
	struct tt *t = *state;
	size_t bad = 0, folders = 0;
	DIR *dir = opendir(TN_TEST_CASES "/chat");
	assert_non_null(dir);
	for (struct dirent *entry; (entry = readdir(dir));)
		if (entry->d_name[0] != '.') {
			bad += check_folder(t, TN_TEST_CASES "/chat", entry->d_name);
			folders++;
		}
	closedir(dir);
	assert_int_equal(folders, 14);
	assert_int_equal(bad, 0);
}

/* ---- small templates -------------------------------------------------------------------------------------- */

static void small_templates_are_rendered(void **state)
{
	struct tt *t = *state;
	json_t *root = load(TEST_DATA "/jinja_vectors.json"), *cases = json_object_get(root, "cases"), *c;
	size_t bad = 0, i, variables_bytes;
	unsigned char *variables = tt_read_file(TEST_DATA "/jinja_variables.json", &variables_bytes);
	json_array_foreach(cases, i, c) {
		json_t *text = json_object_get(c, "template");
		struct tn_chat_request request;
		struct texts texts;
		tn_chat *chat;
		tn_status status = tn_chat_from_text(t->ctx, json_string_value(text), json_string_length(text), "small", &chat, &t->err);
		if (status != TN_OK) {
			if (!json_object_get(c, "error")) {
				print_message("%s: %s\n", json_string_value(text), t->err.msg);
				bad++;
			}
			continue;
		}
		make_request(root, NULL, json_string_value(json_object_get(root, "now")), &request, &texts);
		request.variables_json = (char *)variables;
		request.variables_bytes = variables_bytes;
		bad += !check(chat, &request, c, json_string_value(text));
		free_texts(&texts);
		tn_chat_close(chat);
	}
	free(variables);
	assert_true(i > 1000);
	assert_int_equal(bad, 0);
	json_decref(root);
}

/* ---- folders ---------------------------------------------------------------------------------------------- */

static const struct tn_chat_message hello = { "user", "Hi" };

static char *rendered(struct tt *t, const tn_chat *chat, const char *name, int tools)
{
	struct tn_chat_text text;
	struct tn_chat_request request = { .messages = &hello, .message_count = 1, .template_name = name };
	if (tools) {
		request.tools_json = "[{}]";
		request.tools_bytes = 4;
	}
	tt_ok(t, tn_chat_render(chat, &request, &text, &t->err));
	char *copy = strdup(text.text.data);
	tn_chat_text_release(chat, &text);
	return copy;
}

static void expect_text(struct tt *t, const tn_chat *chat, const char *name, int tools, const char *expected)
{
	char *text = rendered(t, chat, name, tools);
	assert_string_equal(text, expected);
	free(text);
}

static void templates_are_found(void **state)
{
	struct tt *t = *state;
	tn_chat *chat;
	struct tn_chat_text text;
	struct tn_chat_request request = { .messages = &hello, .message_count = 1 };
	tt_expect(t, tn_chat_open(t->ctx, tt_path(t, "nowhere"), &chat, &t->err), TN_E_NOTFOUND);
	tt_ok(t, tn_chat_open(t->ctx, t->folder, &chat, &t->err));
	assert_int_equal(tn_chat_count(chat), 0);
	tt_expect(t, tn_chat_render(chat, &request, &text, &t->err), TN_E_NOTFOUND);
	tn_chat_close(chat);

	tt_write_text(tt_path(t, "chat_template.json"), "{\"chat_template\": \"old\"}");
	tt_ok(t, tn_chat_open(t->ctx, t->folder, &chat, &t->err));
	expect_text(t, chat, NULL, 0, "old");
	tn_chat_close(chat);

	tt_write_text(tt_path(t, "tokenizer_config.json"),
		      "{\"bos_token\": {\"__type\": \"AddedToken\", \"content\": \"<s>\"}, \"eos_token\": null, \"image_token\": \"<i>\","
		      " \"chat_template\": [{\"name\": \"default\", \"template\": \"d{{ bos_token }}{{ eos_token }}{{ pad_token }}\"},"
		      " {\"name\": \"tool_use\", \"template\": \"t{{ tools | length }}{{ image_token }}\"}, {\"name\": \"bad\", \"template\": \"{% if %}\"}]}");
	tt_write_text(tt_path(t, "special_tokens_map.json"), "{\"pad_token\": \"<pad>\"}");
	tt_ok(t, tn_chat_open(t->ctx, t->folder, &chat, &t->err));
	assert_int_equal(tn_chat_count(chat), 3);
	assert_string_equal(tn_chat_token(chat, "bos_token"), "<s>");
	assert_null(tn_chat_token(chat, "eos_token"));
	expect_text(t, chat, NULL, 0, "d<s><pad>");
	expect_text(t, chat, NULL, 1, "t1<i>");
	expect_text(t, chat, "default", 1, "d<s><pad>");
	request.template_name = "rag";
	tt_expect(t, tn_chat_render(chat, &request, &text, &t->err), TN_E_NOTFOUND);
	request.template_name = "bad";
	tt_expect(t, tn_chat_render(chat, &request, &text, &t->err), TN_E_FORMAT);
	tt_expect_msg(t, "line 1");
	tn_chat_close(chat);

	tt_write_text(tt_path(t, "chat_template.jinja"), "file {{ messages[0].content }}\n");
	tt_ok(t, tn_chat_open(t->ctx, t->folder, &chat, &t->err));
	assert_int_equal(tn_chat_count(chat), 1);
	expect_text(t, chat, NULL, 1, "file Hi");
	tn_chat_close(chat);
}

/* ---- limits ----------------------------------------------------------------------------------------------- */

static tn_status render_source(struct tt *t, const char *source)
{
	tn_chat *chat;
	struct tn_chat_text text;
	struct tn_chat_request request = { .messages = &hello, .message_count = 1 };
	tn_status status = tn_chat_from_text(t->ctx, source, strlen(source), "test", &chat, &t->err);
	if (status == TN_OK) {
		status = tn_chat_render(chat, &request, &text, &t->err);
		tn_chat_close(chat);
	}
	return status;
}

static void expect_refused(struct tt *t, const char *source, tn_status expected, const char *message)
{
	tt_expect(t, render_source(t, source), expected);
	tt_expect_msg(t, message);
}

static char *repeated(const char *begin, const char *piece, size_t times, const char *end)
{
	size_t n = strlen(piece);
	char *text = malloc(strlen(begin) + n * times + strlen(end) + 1), *p = text + sprintf(text, "%s", begin);
	for (size_t i = 0; i < times; i++, p += n)
		memcpy(p, piece, n);
	strcpy(p, end);
	return text;
}

static void templates_are_bounded(void **state)
{
	struct tt *t = *state;
	expect_refused(t, "{% for a in range(9999) %}{{ -1 in range(99999) }}{% endfor %}", TN_E_LIMIT, "steps");
	expect_refused(t, "{% set n = namespace(s='x') %}{% for a in range(99) %}{% set n.s = n.s ~ n.s %}{% endfor %}", TN_E_LIMIT, "MiB");
	expect_refused(t, "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", TN_E_LIMIT, "MiB");
	expect_refused(t, "{{ 'x' * 999999999999 }}", TN_E_LIMIT, "MiB");
	expect_refused(t, "{{ [0] * 99999999999 }}", TN_E_LIMIT, "MiB");
	expect_refused(t, "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", TN_E_LIMIT, "levels");
	expect_refused(t, "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", TN_E_LIMIT, "levels");
	expect_refused(t, "{% set n = namespace(l=[]) %}{% for a in range(9999) %}{% set n.l = [n.l] %}{% endfor %}{{ n.l }}", TN_E_LIMIT, "levels");
	expect_refused(t, "{{ '%999999999d' % 1 }}", TN_E_LIMIT, "field");
	expect_refused(t, "{{ '{:>{}}'.format(1, 999999999) }}", TN_E_LIMIT, "field");
	expect_refused(t, "{{ strftime_now('%Y') }}", TN_E_MISMATCH, "no time was given");
	static const char *const deep[][3] = { { "{{ ", "(", "" }, { "{{ ", "not ", "x }}" }, { "{{ ", "-", "1 }}" },
					       { "{{ 1", " + 1", " }}" }, { "", "{% if x %}", "" }, { "{{ x", "[0", "" },
					       { "{{ x", "|first", " }}" }, { "{{ ", "[", "" }, { "{{ x", ".y", " }}" } };
	for (size_t i = 0; i < sizeof deep / sizeof *deep; i++) {
		char *text = repeated(deep[i][0], deep[i][1], 50000, deep[i][2]);
		expect_refused(t, text, TN_E_LIMIT, "");
		free(text);
	}
	assert_true(t->heap.largest_live_bytes < (size_t)600 << 20);
}

/* Each allocation fails once: the error says so, and nothing is held. */
static void memory_may_run_out(void **state)
{
	struct tt *t = *state;
	static const char source[] = "{% for m in messages %}{{ m.content * 400 ~ 1.5 ~ m|tojson }}{% generation %}x{% endgeneration %}{% endfor %}";
	struct tn_chat_request request = { .messages = &hello, .message_count = 1 };
	struct tn_chat_text text;
	tn_status status = TN_E_NOMEM;
	tt_write_text(tt_path(t, "chat_template.jinja"), source);
	tt_write_text(tt_path(t, "tokenizer_config.json"), "{\"bos_token\": \"<s>\"}");
	size_t held = t->heap.live_blocks;
	for (size_t n = 1; status != TN_OK; n++) {
		tn_chat *chat = NULL;
		t->heap.fail_at = t->heap.calls + n;
		status = tn_chat_open(t->ctx, t->folder, &chat, &t->err);
		if (status == TN_OK)
			status = tn_chat_render(chat, &request, &text, &t->err);
		if (status == TN_OK)
			tn_chat_text_release(chat, &text);
		else
			assert_int_equal(status, TN_E_NOMEM);
		tn_chat_close(chat);
		assert_int_equal(t->heap.live_blocks, held);
		assert_true(n < 1000);
	}
	t->heap.fail_at = 0;
}

/* ---- threads ---------------------------------------------------------------------------------------------- */

struct renderer {
	const tn_chat *chat;
	int different;
};

static void *render_often(void *user)
{
	struct renderer *r = user;
	struct tn_chat_request request = { .messages = &hello, .message_count = 1, .now = "2026-11-21T18:30:00" };
	for (int i = 0; i < 200; i++) {
		struct tn_chat_text text;
		if (tn_chat_render(r->chat, &request, &text, NULL) != TN_OK) {
			r->different++;
			continue;
		}
		r->different += strcmp(text.text.data, "2026: <s>HiHi|ab") != 0;
		tn_chat_text_release(r->chat, &text);
	}
	return NULL;
}

static void threads_share_a_template(void **state)
{
	struct tt *t = *state;
	pthread_t threads[4];
	struct renderer renderers[4];
	tn_context *ctx; /* the test's own heap counts without locks */
	tn_chat *chat;
	tt_write_text(tt_path(t, "chat_template.jinja"), "{{ strftime_now('%Y') }}: {% set ns = namespace(x=bos_token) %}{% for m in messages * 2 %}"
		      "{% set ns.x = ns.x ~ m.content %}{% endfor %}{{ ns.x ~ '|' }}{{ 'a' 'b' }}");
	tt_write_text(tt_path(t, "tokenizer_config.json"), "{\"bos_token\": \"<s>\"}");
	tt_ok(t, tn_context_create(NULL, &ctx, &t->err));
	tt_ok(t, tn_chat_open(ctx, t->folder, &chat, &t->err));
	for (int i = 0; i < 4; i++) {
		renderers[i] = (struct renderer){ chat, 0 };
		assert_int_equal(pthread_create(&threads[i], NULL, render_often, &renderers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		assert_int_equal(renderers[i].different, 0);
	}
	tn_chat_close(chat);
	tn_context_destroy(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TT_TEST(dialogues_are_rendered), TT_TEST(small_templates_are_rendered), TT_TEST(templates_are_found),
		TT_TEST(templates_are_bounded), TT_TEST(memory_may_run_out), TT_TEST(threads_share_a_template),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
