/* SPDX-License-Identifier: Apache-2.0 */
#include "speaker.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

const struct cli_elsewhere speaker_elsewhere[] = {
	{ "--max-kv-size", "caches forget nothing; --cache-memory is their limit" },
	{ "--kv-bits, --kv-group-size, --quantized-kv-start", "keys and values are float32; --cache-memory is their limit" },
	{ "--prompt-cache-file", "a run computes its prompt; tenon chat keeps that of a dialogue" },
	{ "--prefill-step-size", "prompts are computed 128 tokens at a time" },
	{ "--quantize-activations, -qa", "how activations are multiplied follows from the weights and the kernels (--isa)" },
	{ "--draft-model, --num-draft-tokens", "a model speaks without a draft" },
	{ "--xtc-probability, --xtc-threshold, --min-tokens-to-keep",
	  "sampling has --temp, --top-p, --min-p, --top-k and --repetition-penalty" },
	{ "--use-default-chat-template", "the template is that of the model's folder, which --chat-template-config tells more" },
	{ "--image", "models read text alone" },
	{ "--pipeline", "one machine computes" },
	{ NULL, NULL },
};

int speaker_check(const struct cli_command *command, const struct speaker_options *o)
{
	if (!o->model)
		return cli_usage(command, "--model is missing");
	if (o->sampler && strcmp(o->sampler, "mlx") != 0 && strcmp(o->sampler, "transformers") != 0)
		return cli_usage(command, "'%s' is not a sampler; mlx and transformers are known", o->sampler);
	if (o->top_k > UINT32_MAX)
		return cli_usage(command, "--top-k is too large");
	return -1;
}

/* ---- opening --------------------------------------------------------------------------------------------- */

char *speaker_adapter_name(char out[SPEAKER_NAME_BYTES], const char *path)
{
	size_t end = strlen(path);
	while (end > 1 && path[end - 1] == '/')
		end--;
	size_t begin = end;
	while (begin > 0 && path[begin - 1] != '/')
		begin--;
	snprintf(out, SPEAKER_NAME_BYTES, "%.*s", (int)(end - begin), path + begin);
	return out;
}

char *speaker_free_name(struct speaker *s, char out[SPEAKER_NAME_BYTES], const char *path)
{
	tn_snapshot *now = tn_live_snapshot(s->live);
	speaker_adapter_name(out, path);
	const size_t length = strlen(out);
	for (int i = 2; tn_snapshot_adapter(now, out) != TN_LIVE_NONE; i++) {
		char number[16];
		const size_t bytes = (size_t)snprintf(number, sizeof number, "-%d", i) + 1, most = SPEAKER_NAME_BYTES - bytes;
		memcpy(out + (length < most ? length : most), number, bytes);
	}
	tn_snapshot_release(now);
	return out;
}

static tn_status attach_all(struct speaker *s, const struct speaker_options *o, int voices, struct tn_error *err)
{
	struct tn_fuse_options weights = TN_FUSE_OPTIONS_INIT;
	char name[SPEAKER_NAME_BYTES];
	tn_status status = o->adapters.count ? joining_open(s->ctx, &o->adapters, &s->joining, &weights, err) : TN_OK;
	for (int i = 0; status == TN_OK && i < s->joining.count; i++) {
		const tn_adapter *adapter = s->joining.adapters[i];
		double weight = i == 0 ? weights.weight : s->joining.more[i - 1].weight;
		speaker_free_name(s, name, tn_adapter_path(adapter));
		status = (voices ? tn_live_attach_disabled : tn_live_attach)(s->live, name, adapter, weight, err);
	}
	return status;
}

/* As mlx-lm reads them: a number is an id, and everything else a token as the vocabulary writes it. */
static tn_status take_ends(struct speaker *s, const struct cli_list *ends, struct tn_error *err)
{
	for (int i = 0; i < ends->count; i++) {
		const char *token = ends->values[i];
		uint64_t id;
		if (!cli_whole(token, &id))
			id = s->tokenizer ? tn_tokenizer_find(s->tokenizer, token, strlen(token)) : TN_NO_TOKEN;
		if (id >= s->info.vocabulary)
			return cli_error(err, TN_E_ARG, "--extra-eos-token", "'%.100s' is no token of the model, and no id below "
					 "its %" PRIu64 "; tenon tokenize shows tokens and ids", token, s->info.vocabulary);
		s->ends[s->end_count++] = (uint32_t)id;
	}
	return TN_OK;
}

static tn_status open_text(struct speaker *s, const char *folder, int needed, struct tn_error *err)
{
	tn_status status = tn_tokenizer_open(s->ctx, folder, &s->tokenizer, err);
	if (status == TN_E_NOTFOUND && !needed)
		return TN_OK;
	return status != TN_OK || !tn_checkpoint_is_folder(s->base) ? status : tn_chat_open(s->ctx, folder, &s->chat, err);
}

static tn_status make_sampler(struct speaker *s, const struct speaker_options *o, struct tn_error *err)
{
	struct tn_sampling sampling = {
		.chain = o->sampler && strcmp(o->sampler, "transformers") == 0 ? TN_CHAIN_TRANSFORMERS : TN_CHAIN_MLX,
		.temperature = o->temperature, .top_p = o->top_p, .min_p = o->min_p,
		.repetition_penalty = o->repetition_penalty, .top_k = (uint32_t)o->top_k, .seed = o->seed,
	};
	return tn_sampler_create(s->ctx, &sampling, s->info.vocabulary, &s->sampler, err);
}

tn_status speaker_open(tn_context *ctx, const struct speaker_options *o, int flags, struct speaker *s,
		       struct tn_error *err)
{
	struct tn_decoder_options options = TN_DECODER_OPTIONS_INIT;
	tn_status status;
	*s = (struct speaker){ .ctx = ctx, .template_config = o->template_config };
	options.cache_bytes = o->cache_bytes;
	if ((status = tn_checkpoint_open(ctx, o->model, &s->base, err)) != TN_OK ||
	    (status = tn_live_open(s->base, NULL, &s->live, err)) != TN_OK ||
	    (status = tn_decoder_create(s->live, s->base, &options, &s->decoder, err)) != TN_OK ||
	    (status = attach_all(s, o, flags & SPEAKER_VOICES, err)) != TN_OK ||
	    (status = open_text(s, o->model, flags & SPEAKER_NEEDS_TEXT, err)) != TN_OK)
		return status;
	tn_decoder_describe(s->decoder, &s->info);
	if ((status = take_ends(s, &o->ends, err)) != TN_OK)
		return status;
	s->logits = malloc(s->info.vocabulary * sizeof *s->logits);
	if (!s->logits)
		return cli_no_memory(err);
	return make_sampler(s, o, err);
}

void speaker_close(struct speaker *s)
{
	tn_sequence_destroy(s->text);
	tn_sampler_destroy(s->sampler);
	tn_decoder_destroy(s->decoder);
	tn_live_close(s->live);
	joining_close(&s->joining);
	tn_chat_close(s->chat);
	tn_tokenizer_close(s->tokenizer);
	tn_checkpoint_close(s->base);
	free(s->logits);
	*s = (struct speaker){ 0 };
}

/* ---- from words to tokens -------------------------------------------------------------------------------- */

int speaker_has_template(const struct speaker *s)
{
	return s->chat && tn_chat_count(s->chat) > 0;
}

tn_status speaker_check_template(const struct speaker *s, const char *option, const char *value, struct tn_error *err)
{
	if (!value || speaker_has_template(s))
		return TN_OK;
	return cli_error(err, TN_E_ARG, option, "the model has no chat template, so there is no place for %s; leave it out, or "
			 "choose a model that has one", option);
}

tn_status speaker_render(struct speaker *s, const struct tn_chat_message *messages, size_t count, int open,
			 struct tn_buffer *ids, struct tn_error *err)
{
	if (!speaker_has_template(s)) {
		const char *text = messages[count - 1].content;
		return tn_tokenizer_encode(s->tokenizer, text, strlen(text), TN_ADD_SPECIAL, ids, err);
	}
	char clock[CLI_CLOCK_BYTES];
	struct tn_chat_request request = {
		.messages = messages, .message_count = count, .add_generation_prompt = !open, .continue_final_message = open,
		.variables_json = s->template_config, .variables_bytes = s->template_config ? strlen(s->template_config) : 0,
		.now = cli_clock(clock),
	};
	struct tn_chat_text text;
	tn_status status = tn_chat_render(s->chat, &request, &text, err);
	if (status == TN_E_FORMAT && strcmp(err->where, "variables") == 0) { /* the library's name for it */
		const struct tn_error found = *err;
		return cli_error(err, TN_E_ARG, "--chat-template-config", "--chat-template-config: %s", found.msg);
	}
	if (status != TN_OK)
		return status;
	status = tn_tokenizer_encode(s->tokenizer, text.text.data, text.text.bytes, 0, ids, err);
	tn_chat_text_release(s->chat, &text);
	return status;
}

int speaker_is_end(const struct speaker *s, uint32_t id)
{
	size_t count = 0;
	const uint32_t *ends = s->tokenizer ? tn_tokenizer_stop_ids(s->tokenizer, &count) : NULL;
	for (size_t i = 0; i < count; i++)
		if (ends[i] == id)
			return 1;
	for (size_t i = 0; i < s->info.end_count; i++)
		if (s->info.end_ids[i] == id)
			return 1;
	for (int i = 0; i < s->end_count; i++)
		if (s->ends[i] == id)
			return 1;
	return 0;
}

/* ---- speaking -------------------------------------------------------------------------------------------- */

/* How many of the tokens the text begins with already. The last one is computed in any case: its logits are wanted. */
static size_t common_begin(struct speaker *s, const uint32_t *ids, size_t count)
{
	size_t length, n = 0;
	const uint32_t *had = tn_sequence_ids(s->text, &length);
	while (n < length && n + 1 < count && had[n] == ids[n])
		n++;
	return n;
}

static tn_status read_prompt(struct speaker *s, const uint32_t *ids, size_t count, const struct speaker_reply *r,
			     struct tn_error *err)
{
	double began = cli_seconds();
	size_t had = r->all_logits ? 0 : common_begin(s, ids, count);
	struct tn_step step = { .sequence = s->text, .ids = ids + had, .count = count - had, .logits = s->logits };
	if (r->all_logits) {
		step.logits = r->all_logits;
		step.all_logits = 1;
	}
	tn_sequence_rewind(s->text, had);
	tn_status status = tn_decoder_step(s->decoder, &step, 1, err);
	if (status == TN_OK && r->all_logits)
		memcpy(s->logits, r->all_logits + (count - 1) * s->info.vocabulary, s->info.vocabulary * sizeof *s->logits);
	s->prompt_tokens = count;
	s->cached_tokens = had;
	s->prompt_seconds = cli_seconds() - began;
	return status;
}

/* One token: chosen, said, and, unless it is the last, computed. *more: whether to go on. */
static tn_status next_token(struct speaker *s, tn_token_stream *stream, struct speaker_reply *r, int *more,
			    struct tn_error *err)
{
	size_t length, bytes = 0;
	const char *piece = NULL;
	const uint32_t *ids = tn_sequence_ids(s->text, &length);
	uint32_t id = tn_sampler_next(s->sampler, s->logits, ids, length);
	s->new_tokens++;
	r->ended = !r->ignore_end && speaker_is_end(s, id);
	tn_status status = stream && !r->ended ? tn_token_stream_push(stream, id, &piece, &bytes, err) : TN_OK;
	if (status != TN_OK)
		return status;
	*more = !r->say(r->user, id, piece, bytes) && !r->ended && s->new_tokens < r->most_tokens && !cli_interrupted();
	r->interrupted = cli_interrupted();
	struct tn_step step = { .sequence = s->text, .ids = &id, .count = 1, .logits = s->logits };
	if (*more)
		status = tn_decoder_step(s->decoder, &step, 1, err);
	if (status != TN_E_LIMIT)
		return status;
	r->full = *err; /* what was said so far stands */
	*more = 0;
	return TN_OK;
}

static tn_status speak(struct speaker *s, struct speaker_reply *r, struct tn_error *err)
{
	tn_token_stream *stream = NULL;
	const char *rest = NULL;
	size_t bytes = 0;
	int more = r->most_tokens > 0;
	double began = cli_seconds();
	tn_status status = s->tokenizer ? tn_token_stream_create(s->tokenizer, TN_SKIP_SPECIAL, &stream, err) : TN_OK;
	while (status == TN_OK && more)
		status = next_token(s, stream, r, &more, err);
	if (status == TN_OK && stream)
		status = tn_token_stream_finish(stream, &rest, &bytes, err);
	if (status == TN_OK && rest)
		r->say(r->user, TN_NO_TOKEN, rest, bytes);
	tn_token_stream_destroy(stream);
	s->reply_seconds = cli_seconds() - began;
	return status;
}

tn_status speaker_reply(struct speaker *s, const uint32_t *ids, size_t count, struct speaker_reply *r, struct tn_error *err)
{
	s->new_tokens = 0;
	r->ended = r->interrupted = 0;
	r->full = (struct tn_error){ .code = TN_OK };
	if (count == 0)
		return cli_error(err, TN_E_ARG, "prompt", "the prompt has no tokens");
	if (!s->text) {
		size_t reserve = count + (r->most_tokens < 4096 ? (size_t)r->most_tokens : 4096);
		tn_status status = tn_sequence_create(s->decoder, reserve, &s->text, err);
		if (status != TN_OK)
			return status;
	}
	tn_status status = read_prompt(s, ids, count, r, err);
	return status == TN_OK ? speak(s, r, err) : status;
}

void speaker_print_full(const struct speaker *s, const char *verb, const struct speaker_reply *r)
{
	if (r->full.code == TN_OK)
		return;
	fflush(stdout);
	fprintf(stderr, "tenon %s: warning: the reply ends after %zu tokens: %s%s\n", verb, s->new_tokens, cli_safe(r->full.msg),
		strcmp(r->full.where, "KV cache") == 0 ? " (--cache-memory)" : "");
}

static double rate(size_t n, double seconds)
{
	return seconds > 0 ? (double)n / seconds : 0;
}

void speaker_print_speed(const struct speaker *s)
{
	size_t computed = s->prompt_tokens - s->cached_tokens;
	fflush(stdout);
	if (cli.quiet)
		return;
	fprintf(stderr, "prompt: %zu tokens", s->prompt_tokens);
	if (s->cached_tokens)
		fprintf(stderr, " (%zu of them cached)", s->cached_tokens);
	fprintf(stderr, ", %.1f tokens/s; reply: %zu tokens, %.1f tokens/s\n", rate(computed, s->prompt_seconds), s->new_tokens,
		rate(s->new_tokens, s->reply_seconds));
}
