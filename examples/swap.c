/* SPDX-License-Identifier: Apache-2.0 */
/* One prompt, several voices: the base answers, then every adapter, swapped in while the program runs.
 *   swap examples/base "Tell me a story about Lily the cat." examples/adapters/pirate examples/adapters/robot */
#include <tenon/tenon.h>

#include <stdio.h>
#include <stdlib.h>

enum { MOST = 60 };
static struct tn_error err;
static tn_context *ctx;
static tn_decoder *decoder;
static tn_tokenizer *tokenizer;

static void must(tn_status status)
{
	if (status != TN_OK) {
		fprintf(stderr, "swap: %s\n", err.msg);
		exit(1);
	}
}

/* Answers with whatever is attached now. */
static void answer(const char *voice, const struct tn_buffer *prompt)
{
	struct tn_decoder_info info;
	tn_decoder_describe(decoder, &info);
	float *logits = malloc(info.vocabulary * sizeof *logits);
	uint32_t said[MOST] = { 0 };
	tn_sequence *text;
	must(tn_sequence_create(decoder, 0, &text, &err));
	struct tn_step step = { text, prompt->data, prompt->bytes / 4, logits, 0 };
	size_t n = 0;
	for (; n < MOST; n++) {
		must(tn_decoder_step(decoder, &step, 1, &err));
		for (uint32_t i = 1; i < info.vocabulary; i++)
			said[n] = logits[i] > logits[said[n]] ? i : said[n];
		if (info.end_count && said[n] == info.end_ids[0])
			break;
		step.ids = &said[n];
		step.count = 1;
	}
	struct tn_buffer words;
	must(tn_tokenizer_decode(tokenizer, said, n, TN_SKIP_SPECIAL, &words, &err));
	printf("%s: %.*s\n", voice, (int)words.bytes, (const char *)words.data);
	tn_buffer_release(ctx, &words);
	tn_sequence_destroy(text);
	free(logits);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return fprintf(stderr, "usage: swap BASE PROMPT [ADAPTER...]\n"), 2;
	tn_checkpoint *base;
	tn_live *live;
	tn_chat *chat;
	struct tn_chat_message message = { "user", argv[2] };
	struct tn_chat_request request = { .messages = &message, .message_count = 1, .add_generation_prompt = 1 };
	struct tn_chat_text text;
	struct tn_buffer ids;
	must(tn_context_create(NULL, &ctx, &err));
	must(tn_checkpoint_open(ctx, argv[1], &base, &err));
	must(tn_live_open(base, NULL, &live, &err));
	must(tn_decoder_create(live, base, NULL, &decoder, &err));
	must(tn_tokenizer_open(ctx, argv[1], &tokenizer, &err));
	must(tn_chat_open(ctx, argv[1], &chat, &err));
	must(tn_chat_render(chat, &request, &text, &err));
	must(tn_tokenizer_encode(tokenizer, text.text.data, text.text.bytes, 0, &ids, &err));
	answer("base", &ids);
	for (int i = 3; i < argc; i++) {
		tn_adapter *adapter; /* stays open while it is attached, here to the end */
		must(tn_adapter_open(ctx, argv[i], &adapter, &err));
		must(i > 3 ? tn_live_swap(live, argv[i - 1], argv[i], adapter, 1, &err)
			   : tn_live_attach(live, argv[i], adapter, 1, &err));
		answer(argv[i], &ids);
	}
	return 0; /* the system takes everything back */
}
