/* The classes of transformers that build a pipeline of their own and take only vocabulary, merges and added tokens from
 * tokenizer.json. Mirrors transformers 5.23, models/<family>/tokenization_<family>.py. */
#ifndef TN_TOKENIZER_CLASS_H
#define TN_TOKENIZER_CLASS_H

#include "tokenizer/tokenizer_parts.h"

struct tn_tokenizer_class {
	const char *name;
	enum tn_model_kind kind;                  /* that it is made for: others are read as they are */
	const char *special[TN_SPECIAL_COUNT];    /* the defaults */
	int has_frame;                            /* brings a post-processor too */
	int takes_pieces;                         /* is built of tokenizer.model too */
	const char *const *extra;                 /* further special tokens up to a NULL; NULL: none */
	unsigned sentinels;                       /* <extra_id_0> and so on, where the folder names no tokens of its own */
	tn_status (*build)(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err);
};

/* SentencePiece's own pipeline, of the settings in the file, for models without a class of their own. */
tn_status tn_tokenizer_build_plain(struct tn_tokenizer *t, const struct tn_sentencepiece *pieces, const char *where,
				   struct tn_error *err);

extern const struct tn_tokenizer_class tn_tokenizer_classes[];
extern const size_t tn_tokenizer_class_count;

#endif
