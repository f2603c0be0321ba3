/* SPDX-License-Identifier: Apache-2.0 */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static struct {
	const char *model;
	int no_special, decode;
} args;

static const struct cli_option options[] = {
	{ CLI_TEXT, "--model", "DIR", "folder of the model, or its tokenizer.json or tokenizer.model", &args.model },
	{ CLI_FLAG, "--no-special", NULL, "without the special tokens that the model wants around a text", &args.no_special },
	{ CLI_FLAG, "--decode", NULL, "from ids to text; with --no-special, special tokens are left out", &args.decode },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "tokenize",
	.usage = "--model DIR [--no-special] [--decode] [--json]",
	.about = "Reads a text from standard input, every byte of it, and prints the ids of its tokens on one line. With\n"
		 "--decode it reads ids (a JSON list, or numbers with spaces or commas between them) and prints the text as it\n"
		 "is, without a newline of its own.",
	.options = options,
};

/* ---- text to ids ----------------------------------------------------------------------------------------- */

static void print_ids(const tn_tokenizer *t, const uint32_t *ids, size_t count)
{
	if (cli.json)
		printf("{\n\"ids\": [");
	for (size_t i = 0; i < count; i++)
		printf("%s%" PRIu32, i == 0 ? "" : cli.json ? ", " : " ", ids[i]);
	if (!cli.json) {
		printf("\n");
		return;
	}
	printf("],\n\"tokens\": [");
	for (size_t i = 0; i < count; i++) {
		size_t n = 0;
		const char *token = tn_tokenizer_token(t, ids[i], &n);
		printf("%s", i ? ", " : "");
		cli_print_json_bytes(token ? token : "", n);
	}
	printf("]\n}\n");
}

static int encode(const tn_tokenizer *t, tn_context *ctx, const struct cli_content *in)
{
	struct tn_error err;
	struct tn_buffer ids;
	if (tn_tokenizer_encode(t, in->text, in->bytes, args.no_special ? 0 : TN_ADD_SPECIAL, &ids, &err) != TN_OK)
		return cli_fail(command.verb, &err);
	print_ids(t, ids.data, ids.bytes / sizeof(uint32_t));
	tn_buffer_release(ctx, &ids);
	return EXIT_DONE;
}

/* ---- ids to text ----------------------------------------------------------------------------------------- */

static int print_text(const tn_tokenizer *t, tn_context *ctx, const uint32_t *ids, size_t count)
{
	struct tn_error err;
	struct tn_buffer text;
	if (tn_tokenizer_decode(t, ids, count, args.no_special ? TN_SKIP_SPECIAL : 0, &text, &err) != TN_OK)
		return cli_fail(command.verb, &err);
	if (cli.json) {
		printf("{\n\"text\": ");
		cli_print_json_bytes(text.data, text.bytes);
		printf("\n}\n");
	} else {
		fwrite(text.data, 1, text.bytes, stdout);
	}
	tn_buffer_release(ctx, &text);
	return EXIT_DONE;
}

static int decode(const tn_tokenizer *t, tn_context *ctx, const struct cli_content *in)
{
	struct tn_error err;
	uint32_t *ids;
	size_t count;
	if (cli_parse_ids(in->text, in->bytes, "standard input", &ids, &count, &err) != TN_OK)
		return cli_fail(command.verb, &err);
	int status = print_text(t, ctx, ids, count);
	free(ids);
	return status;
}

static int run(tn_context *ctx)
{
	struct tn_error err;
	struct cli_content in;
	tn_tokenizer *t;
	int status;
	if (tn_tokenizer_open(ctx, args.model, &t, &err) != TN_OK)
		return cli_fail(command.verb, &err);
	if (cli_read("-", CLI_MOST_TEXT, &in, &err) != TN_OK) {
		status = cli_fail(command.verb, &err);
	} else {
		status = args.decode ? decode(t, ctx, &in) : encode(t, ctx, &in);
		free(in.text);
	}
	tn_tokenizer_close(t);
	return status;
}

int cmd_tokenize(int argc, char **argv)
{
	int status;
	memset(&args, 0, sizeof args);
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if (!args.model)
		return cli_usage(&command, "--model is needed");
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	status = run(ctx);
	tn_context_destroy(ctx);
	return status;
}
