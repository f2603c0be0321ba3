/* SPDX-License-Identifier: Apache-2.0 */
#include "result_file.h"
#include "speaker.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct {
	struct speaker_options speaker;
	const char *prompt, *begun, *input_ids, *logits;
	uint64_t most_tokens;
	int raw, ignore_end;
} args;

static const struct cli_option options[] = {
	SPEAKER_MODEL_OPTIONS(args.speaker),
	{ CLI_TEXT, "-p, --prompt", "TEXT", "what to say to it; - reads standard input", &args.prompt },
	SPEAKER_TEXT_OPTIONS(args.speaker, "a system message in front"),
	{ CLI_TEXT, "--prefill-response", "TEXT", "the beginning of the reply, which goes on from there", &args.begun },
	{ CLI_FLAG, "--raw, --ignore-chat-template", NULL, "the prompt as it is, without the chat template", &args.raw },
	{ CLI_WHOLE, "-n, -m, --max-tokens", "N", "at most so many new tokens (default 100)", &args.most_tokens },
	SPEAKER_SAMPLING_OPTIONS(args.speaker),
	{ CLI_SECTION, "", NULL, "For authors of engines:", NULL },
	{ CLI_TEXT, "--input-ids", "1,2,3", "token ids in place of a prompt", &args.input_ids },
	{ CLI_FLAG, "--ignore-eos", NULL, "go on behind the end of the text", &args.ignore_end },
	{ CLI_TEXT, "--logits", "FILE", "write the logits of the prompt as safetensors, float32", &args.logits },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "run",
	.usage = "--model DIR [--adapter-path ADAPTER[:WEIGHT]]... -p TEXT [options]",
	.about = "Lets a model speak, with adapters attached to it and nothing fused. The answer goes to standard output as it\n"
		 "comes, speeds to standard error. Sampling has the names and the order of mlx_lm.generate.",
	.options = options,
	.elsewhere = speaker_elsewhere,
	.positional_max = 0,
};

/* Options that go through the chat template. */
static const struct {
	const char *option, **value;
} for_template[] = {
	{ "--system", &args.speaker.system },
	{ "--chat-template-config", &args.speaker.template_config },
	{ "--prefill-response", &args.begun },
};
enum { FOR_TEMPLATE = sizeof for_template / sizeof *for_template };

/* What came out, for --json. */
struct answer {
	uint32_t *ids;
	size_t count, capacity;
	struct cli_content text;
	int failed;
	struct result_file logits; /* of the prompt */
};

static int keep(void *user, uint32_t id, const char *piece, size_t bytes)
{
	struct answer *a = user;
	if (id != TN_NO_TOKEN && a->count < a->capacity)
		a->ids[a->count++] = id;
	if (!piece)
		return 0;
	if (!cli.json) {
		cli_say(piece, bytes);
		return 0;
	}
	a->failed = !cli_content_add(&a->text, piece, bytes);
	return a->failed;
}

/* ---- the prompt ------------------------------------------------------------------------------------------ */

/* Messages of a chat template are texts that end at a NUL, and nothing of a prompt is to be lost. */
static tn_status take_text(struct speaker *s, const struct cli_content *prompt, struct tn_buffer *tokens, struct tn_error *err)
{
	struct tn_chat_message messages[3];
	size_t count = 0;
	if (args.speaker.system)
		messages[count++] = (struct tn_chat_message){ "system", args.speaker.system };
	messages[count++] = (struct tn_chat_message){ "user", prompt->text };
	if (args.begun)
		messages[count++] = (struct tn_chat_message){ "assistant", args.begun };
	if (args.raw)
		return tn_tokenizer_encode(s->tokenizer, prompt->text, prompt->bytes, TN_ADD_SPECIAL, tokens, err);
	if (strlen(prompt->text) != prompt->bytes)
		return cli_error(err, TN_E_ARG, "standard input", "byte %zu of the prompt is a NUL, which no message may hold; "
				 "take it out, or use --raw", strlen(prompt->text));
	return speaker_render(s, messages, count, args.begun != NULL, tokens, err);
}

static tn_status take_words(struct speaker *s, uint32_t **ids, size_t *count, struct tn_error *err)
{
	struct cli_content prompt = { .text = NULL };
	struct tn_buffer tokens;
	tn_status status = TN_OK;
	for (size_t i = 0; status == TN_OK && i < FOR_TEMPLATE; i++)
		status = speaker_check_template(s, for_template[i].option, *for_template[i].value, err);
	if (status == TN_OK && strcmp(args.prompt, "-") == 0)
		status = cli_read("-", CLI_MOST_PROMPT, &prompt, err);
	else if (status == TN_OK && !cli_content_add(&prompt, args.prompt, strlen(args.prompt)))
		status = cli_no_memory(err);
	if (status == TN_OK)
		status = take_text(s, &prompt, &tokens, err);
	free(prompt.text);
	if (status != TN_OK)
		return status;
	*count = tokens.bytes / sizeof **ids;
	*ids = malloc(tokens.bytes + 1);
	if (*ids)
		memcpy(*ids, tokens.data, tokens.bytes);
	tn_buffer_release(s->ctx, &tokens);
	return *ids ? TN_OK : cli_no_memory(err);
}

/* ---- output ---------------------------------------------------------------------------------------------- */

static tn_status write_logits(struct result_file *to, const float *logits, size_t rows, uint64_t vocabulary, struct tn_error *err)
{
	char header[160];
	uint64_t bytes = rows * vocabulary * sizeof *logits;
	int n = snprintf(header, sizeof header,
			 "{\"logits\":{\"dtype\":\"F32\",\"shape\":[%zu,%" PRIu64 "],\"data_offsets\":[0,%" PRIu64 "]}}", rows,
			 vocabulary, bytes);
	while (n % 8)
		header[n++] = ' ';
	uint64_t length = (uint64_t)n;
	int failed = result_file_write(to, (const char *)&length, sizeof length) || result_file_write(to, header, (size_t)n) ||
		     result_file_write(to, (const char *)logits, bytes);
	if (failed)
		return cli_error(err, TN_E_IO, to->path, "'%.200s' could not be written: %s", to->path, strerror(errno));
	return result_file_end(to, err) ? TN_OK : err->code;
}

static void print_ids(const char *key, const uint32_t *ids, size_t count)
{
	printf("  \"%s\": [", key);
	for (size_t i = 0; i < count; i++)
		printf("%s%" PRIu32, i ? ", " : "", ids[i]);
	printf("],\n");
}

static void print_json(const struct speaker *s, const struct answer *a, const struct speaker_reply *reply,
		       const uint32_t *prompt)
{
	printf("{\n  \"ok\": true,\n");
	print_ids("prompt_ids", prompt, s->prompt_tokens);
	print_ids("output_ids", a->ids, a->count);
	printf("  \"text\": ");
	if (s->tokenizer)
		cli_print_json_bytes(a->text.text ? a->text.text : "", a->text.bytes);
	else
		printf("null");
	printf(",\n  \"finish_reason\": \"%s\",\n  \"prompt_seconds\": %.6f,\n  \"reply_seconds\": %.6f\n}\n",
	       reply->interrupted ? "interrupt" : reply->ended ? "stop" : "length", s->prompt_seconds, s->reply_seconds);
}

static tn_status answer(struct speaker *s, const uint32_t *ids, size_t count, struct answer *a, struct speaker_reply *reply,
			struct tn_error *err)
{
	if (args.logits) {
		reply->all_logits = calloc(count ? count : 1, s->info.vocabulary * sizeof *reply->all_logits);
		if (!reply->all_logits)
			return cli_no_memory(err);
	}
	tn_status status = speaker_reply(s, ids, count, reply, err);
	if (status == TN_OK && args.logits)
		status = write_logits(&a->logits, reply->all_logits, count, s->info.vocabulary, err);
	if (status == TN_OK && a->failed)
		status = cli_no_memory(err);
	free(reply->all_logits);
	return status;
}

static int run(tn_context *ctx, uint32_t *ids, size_t count)
{
	struct speaker s;
	struct tn_error err;
	struct answer a = { .capacity = (size_t)args.most_tokens };
	struct speaker_reply reply = { .most_tokens = args.most_tokens, .ignore_end = args.ignore_end, .say = keep, .user = &a };
	if (!result_file_begin(&a.logits, RESULT_LOGITS, args.logits, NULL, 1, &err)) {
		free(ids);
		return cli_fail(command.verb, &err);
	}
	tn_status status = speaker_open(ctx, &args.speaker, ids ? 0 : SPEAKER_NEEDS_TEXT, &s, &err);
	a.ids = malloc((a.capacity + 1) * sizeof *a.ids);
	if (status == TN_OK && !a.ids)
		status = cli_no_memory(&err);
	if (status == TN_OK && !ids)
		status = take_words(&s, &ids, &count, &err);
	if (status == TN_OK)
		status = answer(&s, ids, count, &a, &reply, &err);
	if (status == TN_OK) {
		if (cli.json)
			print_json(&s, &a, &reply, ids);
		else if (s.tokenizer)
			printf("\n");
		else
			print_ids("output_ids", a.ids, a.count);
		speaker_print_full(&s, command.verb, &reply);
		speaker_print_speed(&s);
	}
	free(ids);
	free(a.ids);
	free(a.text.text);
	result_file_abort(&a.logits);
	speaker_close(&s);
	return status == TN_OK ? (reply.interrupted ? EXIT_INTERRUPTED : EXIT_DONE) : cli_fail(command.verb, &err);
}

int cmd_run(int argc, char **argv)
{
	struct tn_error err;
	int status;
	uint32_t *ids = NULL;
	size_t count = 0;
	memset(&args, 0, sizeof args);
	args.most_tokens = 100;
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if ((status = speaker_check(&command, &args.speaker)) >= 0)
		return status;
	if (!args.prompt == !args.input_ids)
		return cli_usage(&command, "one of --prompt and --input-ids is needed");
	for (size_t i = 0; i < FOR_TEMPLATE; i++)
		if (*for_template[i].value && (args.raw || args.input_ids))
			return cli_usage(&command, "%s goes through the chat template, which %s passes by",
					 for_template[i].option, args.raw ? "--raw" : "--input-ids");
	if (args.most_tokens > 1u << 26)
		return cli_usage(&command, "--max-tokens is too large");
	if (args.input_ids && cli_parse_ids(args.input_ids, strlen(args.input_ids), "--input-ids", &ids, &count, &err) != TN_OK)
		return cli_usage(&command, "%s", err.msg);
	tn_context *ctx = cli_context(command.verb);
	if (!ctx) {
		free(ids);
		return EXIT_FAILED;
	}
	status = run(ctx, ids, count);
	tn_context_destroy(ctx);
	return status;
}
