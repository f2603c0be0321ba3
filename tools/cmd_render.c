/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

static const char *model, *messages, *tools, *documents, *variables, *name, *now;
static int add_generation_prompt, continue_final_message;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "MODEL", "folder whose chat template is taken", &model },
	{ CLI_TEXT, "--messages", "FILE", "JSON array of messages with role and content ('-': stdin)", &messages },
	{ CLI_TEXT, "--tools", "FILE", "JSON array of tools", &tools },
	{ CLI_TEXT, "--documents", "FILE", "JSON array of documents", &documents },
	{ CLI_TEXT, "--variables", "FILE", "JSON object with further names for the template", &variables },
	{ CLI_TEXT, "--template", "NAME", "of several templates (default: tool_use with tools, else default)", &name },
	{ CLI_FLAG, "--add-generation-prompt", NULL, "end with what opens the assistant's turn", &add_generation_prompt },
	{ CLI_FLAG, "--continue-final-message", NULL, "leave the last message open, to be continued", &continue_final_message },
	{ CLI_TEXT, "--now", "TIME", "local time that the template sees, 2026-11-21T18:30:00 (default: the clock)", &now },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "render",
	.usage = "--model MODEL --messages FILE [OPTIONS]",
	.about = "Prints the text that the model's chat template makes of a conversation, and nothing more: no newline is added.\n"
		 "With --json also the spans, in code points, that the template marks as the assistant's.",
	.options = options,
};

enum { MOST_BYTES = 64 << 20 };

/* Nothing for no path. */
static int read_file(const char *path, struct cli_content *out)
{
	struct tn_error err;
	if (!path || cli_read(path, MOST_BYTES, out, &err) == TN_OK)
		return 1;
	cli_fail(command.verb, &err);
	return 0;
}

static void print_json(const struct tn_chat_text *text)
{
	printf("{\"text\": ");
	cli_print_json_bytes(text->text.data, text->text.bytes);
	printf(", \"generation_spans\": [");
	for (size_t i = 0; i < text->span_count; i++)
		printf("%s[%zu, %zu]", i ? ", " : "", text->spans[i].begin, text->spans[i].end);
	printf("]}\n");
}

static int render(const tn_chat *chat, const struct tn_chat_request *request)
{
	struct tn_error err;
	struct tn_chat_text text;
	if (tn_chat_render(chat, request, &text, &err) != TN_OK)
		return err.code == TN_E_ARG ? cli_usage(&command, "%s", err.msg) : cli_fail(command.verb, &err);
	if (cli.json)
		print_json(&text);
	else
		fwrite(text.text.data, 1, text.text.bytes, stdout);
	tn_chat_text_release(chat, &text);
	return EXIT_DONE;
}

static int render_files(tn_context *ctx)
{
	struct tn_error err;
	struct cli_content m = { .text = NULL }, t = m, d = m, v = m;
	char clock[CLI_CLOCK_BYTES];
	tn_chat *chat = NULL;
	int status = EXIT_FAILED;
	if (!now)
		now = cli_clock(clock);
	if (!read_file(messages, &m) || !read_file(tools, &t) || !read_file(documents, &d) || !read_file(variables, &v))
		status = EXIT_FAILED;
	else if (tn_chat_open(ctx, model, &chat, &err) != TN_OK)
		status = cli_fail(command.verb, &err);
	else
		status = render(chat, &(struct tn_chat_request){
			.messages_json = m.text, .messages_bytes = m.bytes, .tools_json = t.text, .tools_bytes = t.bytes,
			.documents_json = d.text, .documents_bytes = d.bytes, .variables_json = v.text, .variables_bytes = v.bytes,
			.template_name = name, .now = now, .add_generation_prompt = add_generation_prompt,
			.continue_final_message = continue_final_message });
	tn_chat_close(chat);
	free(m.text);
	free(t.text);
	free(d.text);
	free(v.text);
	return status;
}

int cmd_render(int argc, char **argv)
{
	int status;
	model = messages = tools = documents = variables = name = now = NULL;
	add_generation_prompt = continue_final_message = 0;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if (!model || !messages)
		return cli_usage(&command, "--model and --messages are needed");
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = render_files(ctx);
	tn_context_destroy(ctx);
	return status;
}
