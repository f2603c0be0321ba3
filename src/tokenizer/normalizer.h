/* The normalizers of tokenizer.json, as one list of steps: a Sequence is its members. */
#ifndef TN_NORMALIZER_H
#define TN_NORMALIZER_H

#include "tokenizer/charsmap.h"
#include "tokenizer/token_pattern.h"

enum tn_normal_kind {
	TN_NORMAL_NFC, TN_NORMAL_NFD, TN_NORMAL_NFKC, TN_NORMAL_NFKD, TN_NORMAL_LOWERCASE, TN_NORMAL_STRIP,
	TN_NORMAL_STRIP_ACCENTS, TN_NORMAL_REPLACE, TN_NORMAL_PREPEND, TN_NORMAL_PRECOMPILED, TN_NORMAL_NMT,
	TN_NORMAL_BYTE_LEVEL, TN_NORMAL_SQUEEZE, TN_NORMAL_CLEAN, TN_NORMAL_CHINESE, TN_NORMAL_STRIP_NONSPACING
};

struct tn_normal_step {
	enum tn_normal_kind kind;
	int left, right;              /* Strip */
	const char *content;          /* Replace, Prepend */
	size_t content_bytes;
	struct tn_pattern pattern;    /* Replace */
	struct tn_charsmap map;       /* Precompiled */
};

struct tn_normalizer {
	tn_context *ctx;
	struct tn_arena *arena;
	struct tn_normal_step *steps;
	size_t count, capacity;
};

/* `arena` outlives it. */
void tn_normalizer_init(struct tn_normalizer *normalizer, struct tn_arena *arena);
void tn_normalizer_release(struct tn_normalizer *normalizer);

/* Appends what `json` (NULL or null: nothing) asks for. */
tn_status tn_normalizer_read(struct tn_normalizer *normalizer, const json_t *json, const char *where, struct tn_error *err);
/* A literal Replace, BertNormalizer, or any step. */
tn_status tn_normalizer_add_replace(struct tn_normalizer *normalizer, const char *from, const char *to, struct tn_error *err);
tn_status tn_normalizer_add_bert(struct tn_normalizer *normalizer, int clean, int chinese, int strip_accents, int lower,
				 struct tn_error *err);
tn_status tn_normalizer_add(struct tn_normalizer *normalizer, const struct tn_normal_step *step, struct tn_error *err);

/* Normalizes n bytes of which the first `leading` come from the first character of the user's text; *out is one of
 * work->normal. */
tn_status tn_normalize(const struct tn_normalizer *normalizer, struct tn_work *work, const char *text, size_t n,
		       size_t leading, const struct tn_leading_text **out, struct tn_error *err);

#endif
