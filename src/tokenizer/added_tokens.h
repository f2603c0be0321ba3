/* Tokens that are found in a text before anything else happens to it, special ones among them. */
#ifndef TN_ADDED_TOKENS_H
#define TN_ADDED_TOKENS_H

#include "base/arena.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/token_model.h"

struct tn_added_token {
	uint32_t id;
	const char *content;
	size_t bytes;
	const char *normal;       /* what the normalizer makes of it; `content` when it is not normalized */
	size_t normal_bytes;
	int single_word, lstrip, rstrip, normalized, special;
};

struct tn_added_tokens {
	tn_context *ctx;
	struct tn_arena *arena;
	struct tn_added_token *items;
	size_t count, capacity;
	size_t settled;                       /* the first ones, whose flags names do not change; the owner's */
	uint32_t *by_id;                      /* indexes, in the order of the ids; after _finish */
	uint32_t id_limit;                    /* one more than the largest id */
	struct tn_vocab by_content;           /* to the index */
	struct tn_trie plain, normalized;     /* to the index */
};

void tn_added_tokens_init(struct tn_added_tokens *added, struct tn_arena *arena, uint64_t seed);
void tn_added_tokens_release(struct tn_added_tokens *added);

/* Adds one, or gives the one of that content new flags. Its id is the one that the model has for it, or the next free one,
 * as the tokenizers library does it; `token->id` is not looked at. */
tn_status tn_added_tokens_put(struct tn_added_tokens *added, const struct tn_added_token *token,
			      const struct tn_token_model *model, const char *where, struct tn_error *err);

/* When all are there: normalizes them and makes the tries. */
tn_status tn_added_tokens_finish(struct tn_added_tokens *added, const struct tn_normalizer *normalizer, struct tn_work *work,
				 struct tn_error *err);

/* NULL: there is none. */
const struct tn_added_token *tn_added_tokens_at(const struct tn_added_tokens *added, uint32_t id);
const struct tn_added_token *tn_added_tokens_find(const struct tn_added_tokens *added, const char *content, size_t n);

/* Calls back for every part of the text in turn: added tokens (not NULL), and what is between them. */
typedef tn_status (*tn_added_part_fn)(void *user, const struct tn_added_token *token, size_t begin, size_t end,
				      struct tn_error *err);
tn_status tn_added_tokens_split(const struct tn_added_tokens *added, const struct tn_trie *trie, const char *text, size_t n,
				tn_added_part_fn part, void *user, struct tn_error *err);

#endif
