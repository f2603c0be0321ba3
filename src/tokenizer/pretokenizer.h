/* The pre-tokenizers of tokenizer.json, as one list of steps: a Sequence is its members. */
#ifndef TN_PRETOKENIZER_H
#define TN_PRETOKENIZER_H

#include "tokenizer/token_pattern.h"

enum tn_pre_kind {
	TN_PRE_SPLIT, TN_PRE_BYTE_LEVEL, TN_PRE_METASPACE, TN_PRE_WHITESPACE, TN_PRE_CHARACTERS, TN_PRE_FIXED_LENGTH
};

enum tn_prepend { TN_PREPEND_NEVER, TN_PREPEND_FIRST, TN_PREPEND_ALWAYS };

struct tn_pre_step {
	enum tn_pre_kind kind;
	struct tn_pattern pattern;          /* Split; ByteLevel's regex, where use_regex is set */
	enum tn_cut cut;                    /* Split, CHARACTERS */
	int invert;                         /* Split */
	int (*is_delimiter)(int32_t c);     /* CHARACTERS; NULL: `delimiter` */
	int32_t delimiter;
	int add_prefix_space, use_regex;    /* ByteLevel */
	enum tn_prepend prepend;            /* Metaspace */
	const char *replacement;            /* Metaspace: one character */
	size_t replacement_bytes;
	int split;                          /* Metaspace */
	uint32_t length;                    /* FixedLength, in characters */
};

struct tn_pretokenizer {
	tn_context *ctx;
	struct tn_arena *arena;
	struct tn_pre_step *steps;
	size_t count, capacity;
};

/* `arena` outlives it. */
void tn_pretokenizer_init(struct tn_pretokenizer *pre, struct tn_arena *arena);
void tn_pretokenizer_release(struct tn_pretokenizer *pre);

/* Appends what `json` (NULL or null: nothing) asks for. */
tn_status tn_pretokenizer_read(struct tn_pretokenizer *pre, const json_t *json, const char *where, struct tn_error *err);
tn_status tn_pretokenizer_add(struct tn_pretokenizer *pre, const struct tn_pre_step *step, struct tn_error *err);
/* ByteLevel; with its own regular expression when use_regex. */
tn_status tn_pretokenizer_add_byte_level(struct tn_pretokenizer *pre, int add_prefix_space, int use_regex, const char *where,
					 struct tn_error *err);
/* Metaspace with U+2581. */
tn_status tn_pretokenizer_add_metaspace(struct tn_pretokenizer *pre, enum tn_prepend prepend, int split,
					struct tn_error *err);

tn_status tn_pretokenizer_add_whitespace_split(struct tn_pretokenizer *pre, struct tn_error *err);
/* BertPreTokenizer. */
tn_status tn_pretokenizer_add_bert(struct tn_pretokenizer *pre, struct tn_error *err);

/* Cuts the pieces of work->pieces[0]; *out is one of work->pieces. */
tn_status tn_pretokenize(const struct tn_pretokenizer *pre, struct tn_work *work, struct tn_pieces **out,
			 struct tn_error *err);

#endif
