/* tenon/model.h - running a decoder: forward passes over a live base, texts with their KV caches, sampling.
 *
 * Sources. Families, configurations and arithmetic: transformers 5.23 (models/<family>/, modeling_rope_utils.py), in float32
 * with eager attention; where mlx-lm 0.32.2 computes something else, transformers is followed (docs/running.md). Sampling:
 * mlx-lm 0.32.2 (sample_utils.py) and transformers 5.23 (generation/logits_process.py).
 *
 * All matrices are computed through a tn_live (tenon/live.h), so adapters may be attached, detached and swapped between any
 * two steps, from any thread; a step computes with the adapters that were attached when it began.
 */
#ifndef TENON_MODEL_H
#define TENON_MODEL_H

#include "tenon/base.h"
#include "tenon/checkpoint.h"
#include "tenon/live.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- the decoder ----------------------------------------------------------------------------------------- */

typedef struct tn_decoder tn_decoder;

/* Start from TN_DECODER_OPTIONS_INIT; NULL in a call stands for it, and zero fields mean the defaults. */
struct tn_decoder_options {
	size_t struct_bytes;       /* sizeof(struct tn_decoder_options) */
	uint64_t cache_bytes;      /* for the keys and values of all texts together. 0: 1 GiB. Beside it each thread
	                            * has the scores of attention: up to half a megabyte, or 64 bytes a token of the
	                            * longest text where that is more */
	uint32_t rows;             /* tokens computed at once; longer prompts are cut. 0: 128 */
};
#define TN_DECODER_OPTIONS_INIT { sizeof(struct tn_decoder_options), 0, 0 }

struct tn_decoder_info {
	const char *model_type;    /* static text */
	uint64_t layers, hidden, heads, kv_heads, head_dim, vocabulary;
	uint64_t context;          /* max_position_embeddings */
	uint64_t experts;          /* 0: none */
	uint64_t cache_bytes_per_token;
	const uint32_t *end_ids;   /* eos_token_id of generation_config.json, else of config.json; the decoder's */
	size_t end_count;
};

/* Reads config.json of `base` and finds its modules in `live`, which was opened on it; both must outlive the decoder. Memory
 * for steps is allocated here, once.
 * Errors: TN_E_UNSUPPORTED: a family, field or value of the config that does not run here; the message names it. TN_E_FORMAT:
 * a wrong config. TN_E_MISMATCH: a tensor that the config asks for is missing, or has another shape, or the file has a head that
 * the config ties and that differs from the embedding. TN_E_LIMIT: sizes that no model has. */
TN_API tn_status tn_decoder_create(tn_live *live, const tn_checkpoint *base, const struct tn_decoder_options *options,
				   tn_decoder **out, struct tn_error *err);
/* NULL allowed; after its texts. */
TN_API void tn_decoder_destroy(tn_decoder *decoder);
TN_API void tn_decoder_describe(const tn_decoder *decoder, struct tn_decoder_info *out);

/* ---- texts ----------------------------------------------------------------------------------------------- */

/* The tokens of one text and what is cached of them. Keys and values belong to the base and the adapters that they were
 * computed with (tn_snapshot_identity): after a swap the text is computed again, and what the earlier adapter left waits
 * until it comes back, or until the budget needs its room. A decoder and its texts are used by one thread at a time. */
typedef struct tn_sequence tn_sequence;

/* An empty text. `reserve`: room for so many tokens is made at once, and texts within it make no further allocation. */
TN_API tn_status tn_sequence_create(tn_decoder *decoder, size_t reserve, tn_sequence **out, struct tn_error *err);
TN_API void tn_sequence_destroy(tn_sequence *sequence);

/* What it computes with from the next step on: NULL the enabled adapters (the default), "" the base alone, else the adapter
 * attached under that name. */
TN_API tn_status tn_sequence_use(tn_sequence *sequence, const char *adapter, struct tn_error *err);

/* The tokens so far; valid until the next step. */
TN_API const uint32_t *tn_sequence_ids(const tn_sequence *sequence, size_t *count);
/* Forgets what stands behind the first `length` tokens. */
TN_API void tn_sequence_rewind(tn_sequence *sequence, size_t length);

/* Further tokens of one text. */
struct tn_step {
	tn_sequence *sequence;
	const uint32_t *ids;     /* [count], at least one */
	size_t count;
	float *logits;           /* [vocabulary] of the last token, or [count, vocabulary]; NULL: none */
	int all_logits;
};

/* Computes further tokens of `count` different texts at once, each with its own adapters. Nothing is allocated while the
 * texts stay within their reserve and adapters ask for no more scratch than before.
 * Errors: TN_E_ARG: an id beyond the vocabulary, a text twice, no ids. TN_E_NOTFOUND: the adapter of a text is not attached.
 * TN_E_LIMIT: the caches do not fit the budget, or the text is longer than a family with learned positions can be.
 * TN_E_CANCELLED: the context's progress callback, which is asked between batches of rows (phase "tokens", in bytes of keys
 * and values), said so; logits may be written in part. On error the texts are as they were. */
TN_API tn_status tn_decoder_step(tn_decoder *decoder, const struct tn_step *steps, size_t count, struct tn_error *err);

/* Bytes of all caches now. */
TN_API uint64_t tn_decoder_cache_bytes(const tn_decoder *decoder);

/* ---- sampling -------------------------------------------------------------------------------------------- */

/* In which order logits are treated. With temperature 1 both leave the same tokens. */
typedef enum tn_sampler_chain {
	TN_CHAIN_MLX,           /* penalty over the last 20 tokens, top_p, min_p, top_k, temperature */
	TN_CHAIN_TRANSFORMERS   /* penalty over all tokens, temperature, top_k, top_p, min_p */
} tn_sampler_chain;

/* Zero fields switch off; temperature 0 takes the most likely token. */
struct tn_sampling {
	tn_sampler_chain chain;
	double temperature;
	double top_p;                /* 0 < p < 1 */
	double min_p;                /* 0 < p <= 1 */
	double repetition_penalty;   /* > 0; 1 changes nothing */
	uint32_t top_k;
	uint64_t seed;
};

typedef struct tn_sampler tn_sampler;

/* Memory for `vocabulary` logits is allocated here. TN_E_ARG: a value outside its range. */
TN_API tn_status tn_sampler_create(tn_context *ctx, const struct tn_sampling *sampling, uint64_t vocabulary,
				   tn_sampler **out, struct tn_error *err);
TN_API void tn_sampler_destroy(tn_sampler *sampler);

/* The next token: logits [vocabulary], and the tokens so far for the penalty. The same seed and logits give the same
 * tokens. */
TN_API uint32_t tn_sampler_next(tn_sampler *sampler, const float *logits, const uint32_t *tokens, size_t count);

/* What is left to choose from: up to `vocabulary` ids, ascending, with their probabilities; the number of them is returned.
 * With temperature 0 that is one. */
TN_API size_t tn_sampler_candidates(tn_sampler *sampler, const float *logits, const uint32_t *tokens, size_t count,
				    uint32_t *ids, float *probabilities);

/* ---- measuring ------------------------------------------------------------------------------------------- */

/* Minus the logarithm of the probability of token `id`: logits [vocabulary]. */
TN_API double tn_token_loss(const float *logits, uint64_t vocabulary, uint32_t id);

#ifdef __cplusplus
}
#endif
#endif
