/* What run, chat and perplexity share: a model that speaks, with its adapters, tokenizer and sampler. */
#ifndef TENON_SPEAKER_H
#define TENON_SPEAKER_H

#include "joining.h"

struct speaker_options {
	const char *model;
	struct cli_list adapters;
	uint64_t cache_bytes;
	/* sampling */
	double temperature, top_p, min_p, repetition_penalty;
	uint64_t top_k, seed;
	const char *sampler;
	/* words */
	const char *system, *template_config;
	struct cli_list ends;
	int trust;
};

/* The options of a verb that speaks; `o` is a struct speaker_options. */
#define SPEAKER_MODEL_OPTIONS(o)                                                                                        \
	{ CLI_TEXT, "--model", "DIR", "the model folder (Hugging Face or MLX)", &(o).model },                            \
	{ CLI_LIST, "--adapter-path", "ADAPTER", "adapter folder, or ADAPTER:WEIGHT; may be repeated", &(o).adapters },   \
	{ CLI_BYTES, "--cache-memory", "SIZE", "for keys and values of all texts (default 1G)", &(o).cache_bytes }
#define SPEAKER_SAMPLING_OPTIONS(o)                                                                                     \
	{ CLI_NUMBER, "--temp", "T", "temperature; 0 (the default) takes the most likely token", &(o).temperature },     \
	{ CLI_SHARE, "--top-p", "P", "only the most likely tokens that reach this probability", &(o).top_p },            \
	{ CLI_WHOLE, "--top-k", "K", "only the K most likely tokens", &(o).top_k },                                      \
	{ CLI_SHARE, "--min-p", "P", "only tokens at least P times as likely as the first", &(o).min_p },                \
	{ CLI_NUMBER, "--repetition-penalty", "X", "divides logits of earlier tokens", &(o).repetition_penalty },        \
	{ CLI_WHOLE, "--seed", "N", "of the random numbers (default 0)", &(o).seed },                                    \
	{ CLI_TEXT, "--sampler", "NAME", "the order of these: mlx (the default) or transformers", &(o).sampler }

/* `system_help` is what --system is in the verb. */
#define SPEAKER_TEXT_OPTIONS(o, system_help)                                                                            \
	{ CLI_TEXT, "--system, --system-prompt", "TEXT", system_help, &(o).system },                                     \
	{ CLI_TEXT, "--chat-template-config", "JSON", "object with further names for the chat template",                 \
	  &(o).template_config },                                                                                        \
	{ CLI_LIST, "--extra-eos-token", "TOKEN", "a token, or its id, that ends a reply too; may be repeated", &(o).ends }, \
	{ CLI_FLAG, "--trust-remote-code", NULL, "accepted; tenon runs no code of models", &(o).trust }
/* What mlx_lm.generate and mlx_lm.chat have and tenon has not. */
extern const struct cli_elsewhere speaker_elsewhere[];

struct speaker {
	tn_context *ctx;
	struct joining joining;
	tn_checkpoint *base;
	tn_live *live;
	tn_decoder *decoder;
	struct tn_decoder_info info;
	tn_tokenizer *tokenizer;     /* NULL when the folder has none and none is needed */
	tn_chat *chat;               /* NULL likewise */
	tn_sampler *sampler;
	tn_sequence *text;
	float *logits;               /* [vocabulary] */
	const char *template_config; /* JSON, or NULL */
	uint32_t ends[CLI_MOST_VALUES];    /* --extra-eos-token */
	int end_count;
	/* of the last reply */
	size_t prompt_tokens, cached_tokens, new_tokens;
	double prompt_seconds, reply_seconds;
};

/* Checks the values that cli_parse cannot; -1: all is well, else the exit status. */
int speaker_check(const struct cli_command *command, const struct speaker_options *options);

/* Opens the model and attaches its adapters, named as speaker_adapter_name says: all are enabled and add up, or, with
 * SPEAKER_VOICES, none is, and texts choose one. SPEAKER_NEEDS_TEXT: a folder without tokenizer is an error. Close in any
 * case. */
enum { SPEAKER_NEEDS_TEXT = 1, SPEAKER_VOICES = 2 };
tn_status speaker_open(tn_context *ctx, const struct speaker_options *options, int flags, struct speaker *s,
		       struct tn_error *err);
void speaker_close(struct speaker *s);

/* The last part of a path, without its weight: into a buffer of the caller, which is returned. */
enum { SPEAKER_NAME_BYTES = 256 };
char *speaker_adapter_name(char out[SPEAKER_NAME_BYTES], const char *path);
/* The same, followed by -2, -3 and so on where an attached adapter has that name already: mlx-lm calls every folder
 * "adapters". */
char *speaker_free_name(struct speaker *s, char out[SPEAKER_NAME_BYTES], const char *path);

/* Whether the model has a template, and so a place for a system message and for earlier turns. */
int speaker_has_template(const struct speaker *s);
/* TN_E_ARG when the value (NULL: none) is given of an option that goes through the template, and there is none. */
tn_status speaker_check_template(const struct speaker *s, const char *option, const char *value, struct tn_error *err);

/* The tokens of a dialogue as the model's template has it, or, without a template, of the last message alone. `open`: the last
 * message is the beginning of the reply. */
tn_status speaker_render(struct speaker *s, const struct tn_chat_message *messages, size_t count, int open,
			 struct tn_buffer *ids, struct tn_error *err);

/* Ends a text: eos_token_id of the folder's files and the tokenizer's, and --extra-eos-token. */
int speaker_is_end(const struct speaker *s, uint32_t id);

struct speaker_reply {
	uint64_t most_tokens;
	int ignore_end;
	float *all_logits;           /* [prompt, vocabulary], or NULL */
	/* Called for each token and each piece of text; nonzero stops. `piece` may be NULL. */
	int (*say)(void *user, uint32_t id, const char *piece, size_t bytes);
	void *user;
	int ended, interrupted;      /* why it stopped, when not by the number of tokens */
	struct tn_error full;        /* likewise, TN_E_LIMIT: a further token did not fit the cache or the model; else TN_OK */
};

/* Makes the text hold `ids` (what is cached of their beginning is used), then speaks. TN_E_CANCELLED: interrupted before the
 * first token. */
tn_status speaker_reply(struct speaker *s, const uint32_t *ids, size_t count, struct speaker_reply *reply,
			struct tn_error *err);
/* Says on stderr what cut a reply short, if anything did. */
void speaker_print_full(const struct speaker *s, const char *verb, const struct speaker_reply *reply);

/* "12 tokens in 0.01 s (...), ...": to stderr, unless --quiet. */
void speaker_print_speed(const struct speaker *s);

#endif
