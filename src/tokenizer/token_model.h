/* What makes ids of a piece of text: BPE, Unigram, WordPiece or WordLevel. */
#ifndef TN_TOKEN_MODEL_H
#define TN_TOKEN_MODEL_H

#include "tokenizer/token_vocab.h"
#include "tokenizer/token_work.h"

enum tn_model_kind { TN_MODEL_BPE, TN_MODEL_UNIGRAM, TN_MODEL_WORDPIECE, TN_MODEL_WORDLEVEL };

struct tn_merge_slot {
	uint64_t pair;    /* left id << 32 | right id; UINT64_MAX: free */
	uint32_t rank, id;
};

struct tn_token_model {
	tn_context *ctx;
	enum tn_model_kind kind;
	struct tn_vocab vocab;
	const char *unk;                     /* NULL: none; in the arena of the tokenizer */
	size_t unk_bytes;
	uint32_t unk_id;                     /* TN_NO_TOKEN: none, or not in the vocabulary */
	int byte_fallback;
	uint32_t byte_ids[256];              /* of <0x00> to <0xFF> */
	/* BPE; the prefix is WordPiece's too */
	const char *prefix, *suffix;         /* NULL or empty: none */
	size_t prefix_bytes, suffix_bytes;
	int fuse_unk, ignore_merges;
	struct tn_merge_slot *merges;
	size_t merge_slots, merge_count;
	/* Unigram */
	double *scores;                      /* by id */
	size_t score_count, score_capacity;
	double least_score;
	struct tn_trie trie;
	/* WordPiece */
	uint32_t longest_word;               /* in characters */
};

void tn_token_model_init(struct tn_token_model *model, tn_context *ctx, uint64_t seed);
void tn_token_model_release(struct tn_token_model *model);

/* After the vocabulary is complete: finds unk and the byte tokens. */
void tn_token_model_finish(struct tn_token_model *model);

/* One more merge; the same pair again takes the new rank. */
tn_status tn_bpe_add_merge(struct tn_token_model *model, uint32_t left, uint32_t right, uint32_t rank, uint32_t id,
			   struct tn_error *err);
/* One more piece: its id is its number. */
tn_status tn_unigram_add(struct tn_token_model *model, const char *text, size_t n, double score, const char *where,
			 struct tn_error *err);

/* Appends the ids of n bytes to work->ids. */
tn_status tn_token_model_encode(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
				struct tn_error *err);

tn_status tn_bpe_encode(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			struct tn_error *err);
tn_status tn_unigram_encode(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			    struct tn_error *err);
tn_status tn_wordpiece_encode(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n,
			      struct tn_error *err);

/* Appends the byte tokens of n bytes; 0 in *done, and nothing appended, when one is missing. */
tn_status tn_token_bytes(const struct tn_token_model *model, struct tn_work *work, const char *text, size_t n, int *done,
			 struct tn_error *err);
/* The error for text without a token. */
tn_status tn_token_unknown(const struct tn_token_model *model, const char *text, size_t n, struct tn_error *err);

#endif
