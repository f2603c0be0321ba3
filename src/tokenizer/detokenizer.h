/* The decoders of tokenizer.json, as one list of steps: a Sequence is its members. */
#ifndef TN_DETOKENIZER_H
#define TN_DETOKENIZER_H

#include "tokenizer/token_pattern.h"

enum tn_decode_kind {
	TN_DECODE_BYTE_LEVEL, TN_DECODE_METASPACE, TN_DECODE_BYTE_FALLBACK, TN_DECODE_FUSE, TN_DECODE_REPLACE, TN_DECODE_STRIP,
	TN_DECODE_WORDPIECE, TN_DECODE_SUFFIX
};

struct tn_decode_step {
	enum tn_decode_kind kind;
	const char *text;             /* Metaspace's and Strip's character, Replace's content, a prefix, a suffix */
	size_t bytes;
	int drop_first;               /* Metaspace: not in the first token */
	int cleanup;                  /* WordPiece */
	uint32_t start, stop;         /* Strip */
	struct tn_pattern pattern;    /* Replace */
};

struct tn_detokenizer {
	tn_context *ctx;
	struct tn_arena *arena;
	struct tn_decode_step *steps;
	size_t count, capacity;
	int present;                  /* without a decoder tokens are joined by spaces */
};

/* `arena` outlives it. */
void tn_detokenizer_init(struct tn_detokenizer *decoder, struct tn_arena *arena);
void tn_detokenizer_release(struct tn_detokenizer *decoder);
/* Appends what `json` (NULL or null: nothing) asks for. */
tn_status tn_detokenizer_read(struct tn_detokenizer *decoder, const json_t *json, const char *where, struct tn_error *err);
tn_status tn_detokenizer_add(struct tn_detokenizer *decoder, const struct tn_decode_step *step, struct tn_error *err);

/* Texts behind one another. */
struct tn_text_list {
	struct tn_text text;
	size_t *ends;
	size_t count, capacity;
};
void tn_text_list_init(struct tn_text_list *list, tn_context *ctx);
void tn_text_list_release(struct tn_text_list *list);
tn_status tn_text_list_add(struct tn_text_list *list, const char *text, size_t n, struct tn_error *err);

/* What decoding works with. */
struct tn_decode_work {
	struct tn_text_list lists[2];
	struct tn_ranges matches;
	struct tn_text scratch[2];
};
void tn_decode_work_init(struct tn_decode_work *work, tn_context *ctx);
void tn_decode_work_release(struct tn_decode_work *work);

/* Decodes the tokens of work->lists[0]; *out is one of work->lists, whose text is the result. */
tn_status tn_detokenize(const struct tn_detokenizer *decoder, struct tn_decode_work *work, const struct tn_text_list **out,
			struct tn_error *err);

/* The habits of written English: " ." becomes "." and so on; `contract` also makes " don't" of " do not". The result goes to
 * work->scratch[0]. */
tn_status tn_clean_up_spaces(struct tn_decode_work *work, const char *text, size_t n, int contract, struct tn_error *err);

#endif
