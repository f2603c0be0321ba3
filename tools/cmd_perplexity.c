/* SPDX-License-Identifier: Apache-2.0 */
#include "speaker.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_WINDOW = 1 << 26 };

static struct {
	struct speaker_options speaker;
	const char *window;   /* NULL: not given */
} args;

static const struct cli_option options[] = {
	SPEAKER_MODEL_OPTIONS(args.speaker),
	{ CLI_TEXT, "--sequence-length", "N", "tokens that see one another (default 512, or the model's context)", &args.window },
	{ CLI_FLAG, NULL, NULL, NULL, NULL },
};

static const struct cli_command command = {
	.verb = "perplexity",
	.usage = "--model DIR [--adapter-path ADAPTER[:WEIGHT]]... FILE [options]",
	.about = "How well a model foretells the text of FILE: the exponential of the mean loss of a token. The text is cut into\n"
		 "sequences that do not overlap; the first token of each is given. To see what a fuse, a quantization or an "
		 "adapter\ndid, compare two models on one text.",
	.options = options,
	.positional_min = 1,
	.positional_max = 1,
};

/* Sums over tokens. */
struct measured {
	double loss, square, seconds;
	size_t tokens, sequences;
};

/* One sequence; its logits are computed a piece at a time. */
static tn_status measure(struct speaker *s, const uint32_t *ids, size_t count, float *logits, size_t piece, struct measured *m,
			 struct tn_error *err)
{
	const uint64_t vocabulary = s->info.vocabulary;
	tn_sequence_rewind(s->text, 0);
	m->sequences++;
	for (size_t at = 0; at + 1 < count; at += piece) {
		size_t n = count - 1 - at < piece ? count - 1 - at : piece;
		struct tn_step step = { .sequence = s->text, .ids = ids + at, .count = n, .logits = logits, .all_logits = 1 };
		tn_status status = tn_decoder_step(s->decoder, &step, 1, err);
		if (status != TN_OK)
			return status;
		for (size_t i = 0; i < n; i++) {
			double loss = tn_token_loss(logits + i * vocabulary, vocabulary, ids[at + i + 1]);
			m->loss += loss;
			m->square += loss * loss;
		}
		m->tokens += n;
		if (cli_interrupted())
			return cli_error(err, TN_E_CANCELLED, cli.positional[0], "interrupted");
	}
	return TN_OK;
}

/* Losses are looked up by token, the last one of a sequence too, which is never computed with. */
static tn_status check_ids(const struct speaker *s, const uint32_t *ids, size_t count, struct tn_error *err)
{
	for (size_t i = 0; i < count; i++)
		if (ids[i] >= s->info.vocabulary)
			return cli_error(err, TN_E_MISMATCH, cli.positional[0],
					 "the tokenizer gives token %" PRIu32 ", and the model has "
					 "%" PRIu64 "; they do not belong together",
					 ids[i], s->info.vocabulary);
	return TN_OK;
}

/* `window`: 0 is the default. */
static tn_status measure_all(struct speaker *s, const uint32_t *ids, size_t count, size_t window, struct measured *m,
			     struct tn_error *err)
{
	enum { PIECE = 64 };
	if (!window)
		window = s->info.context < 512 ? (size_t)s->info.context : 512;
	float *logits = calloc(PIECE, s->info.vocabulary * sizeof *logits);
	double began = cli_seconds();
	if (!logits)
		return cli_no_memory(err);
	tn_status status = tn_sequence_create(s->decoder, window, &s->text, err);
	for (size_t at = 0; status == TN_OK && at + 1 < count; at += window)
		status = measure(s, ids + at, count - at < window ? count - at : window, logits, PIECE, m, err);
	free(logits);
	m->seconds = cli_seconds() - began;
	if (status == TN_OK && m->tokens == 0)
		return cli_error(err, TN_E_ARG, cli.positional[0], "'%.200s' has fewer than two tokens", cli.positional[0]);
	return status;
}

static void print(const struct measured *m)
{
	double mean = m->loss / (double)m->tokens, variance = m->square / (double)m->tokens - mean * mean;
	double off = sqrt((variance > 0 ? variance : 0) / (double)m->tokens);
	if (cli.json) {
		printf("{\n  \"ok\": true,\n  \"perplexity\": ");
		cli_print_json_number(exp(mean), 9);
		printf(",\n  \"perplexity_error\": ");
		cli_print_json_number(exp(mean) * off, 4);
		printf(",\n  \"loss\": ");
		cli_print_json_number(mean, 9);
		printf(",\n  \"tokens\": %zu,\n  \"sequences\": %zu\n}\n", m->tokens, m->sequences);
	} else {
		printf("perplexity %.4f +- %.4f over %zu tokens in %zu sequence%s\n", exp(mean), exp(mean) * off, m->tokens,
		       m->sequences, m->sequences == 1 ? "" : "s");
	}
	if (!cli.quiet)
		fprintf(stderr, "%.1f tokens/s\n", m->seconds > 0 ? (double)m->tokens / m->seconds : 0);
}

static tn_status run(tn_context *ctx, struct speaker *s, size_t window, struct measured *m, struct tn_error *err)
{
	struct cli_content file;
	struct tn_buffer ids;
	tn_status status = cli_read(cli.positional[0], CLI_MOST_PROMPT, &file, err);
	if (status != TN_OK)
		return status;
	status = tn_tokenizer_encode(s->tokenizer, file.text, file.bytes, TN_ADD_SPECIAL, &ids, err);
	free(file.text);
	if (status != TN_OK)
		return status;
	status = check_ids(s, ids.data, ids.bytes / sizeof(uint32_t), err);
	if (status == TN_OK)
		status = measure_all(s, ids.data, ids.bytes / sizeof(uint32_t), window, m, err);
	tn_buffer_release(ctx, &ids);
	return status;
}

int cmd_perplexity(int argc, char **argv)
{
	struct speaker s;
	struct tn_error err;
	struct measured m = { 0 };
	uint64_t window = 0;
	int status;
	memset(&args, 0, sizeof args);
	if (!cli_parse(&command, argc, argv, &status))
		return status;
	if ((status = speaker_check(&command, &args.speaker)) >= 0)
		return status;
	if (args.window && (!cli_whole(args.window, &window) || window < 2 || window > LONGEST_WINDOW))
		return cli_usage(&command, "--sequence-length is a number from 2 to %d", (int)LONGEST_WINDOW);
	tn_context *ctx = cli_context(command.verb);
	if (!ctx)
		return EXIT_FAILED;
	tn_status opened = speaker_open(ctx, &args.speaker, SPEAKER_NEEDS_TEXT, &s, &err);
	if (opened == TN_OK)
		opened = run(ctx, &s, (size_t)window, &m, &err);
	if (opened == TN_OK)
		print(&m);
	speaker_close(&s);
	tn_context_destroy(ctx);
	return opened == TN_OK ? EXIT_DONE : cli_fail(command.verb, &err);
}
