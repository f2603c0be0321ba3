/* A tokenizer from inside. */
#ifndef TN_TOKENIZER_PARTS_H
#define TN_TOKENIZER_PARTS_H

#include "tenon/tokenizer.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/detokenizer.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/postprocess.h"
#include "tokenizer/pretokenizer.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/token_model.h"

/* The special tokens that folders name. */
enum tn_special { TN_BOS, TN_EOS, TN_UNK, TN_SEP, TN_PAD, TN_CLS, TN_MASK, TN_SPECIAL_COUNT };
extern const char *const tn_special_names[TN_SPECIAL_COUNT];

struct tn_tokenizer {
	tn_context *ctx;
	struct tn_arena arena;
	struct tn_token_model model;
	struct tn_added_tokens added;
	struct tn_normalizer normalizer;
	struct tn_pretokenizer pre;
	struct tn_postprocess post;
	struct tn_detokenizer decoder;
	const char *special[TN_SPECIAL_COUNT];    /* NULL: none */
	int clean_up;                             /* the texts that come out */
	struct tn_id_list stop_ids;
	uint32_t id_limit;
	size_t vocab_size;
};

/* The files of a folder, NULL where there is none. Of `tokenizer` and `pieces` one is there. */
struct tn_tokenizer_files {
	json_t *tokenizer;                         /* tokenizer.json without the vocabulary and the merges */
	const struct tn_sentencepiece *pieces;     /* tokenizer.model; the caller's */
	json_t *tokenizer_config, *special_tokens_map, *config, *generation_config;
	json_t *added_tokens;                      /* beside pieces only */
	const char *where;                         /* the path of the first or the second */
};

/* Loads those behind `pieces` of a folder (NULL: none of them); on failure too what is there is released by _release, which
 * leaves `pieces` alone. */
tn_status tn_tokenizer_files_load(tn_context *ctx, const char *folder, struct tn_tokenizer_files *files, struct tn_error *err);
void tn_tokenizer_files_release(struct tn_tokenizer_files *files);

/* Reads tokenizer.json, or tokenizer.model, into an initialized tokenizer; `folder` (NULL: none) says where the other files
 * are. */
tn_status tn_tokenizer_read(struct tn_tokenizer *t, const char *path, const char *folder, struct tn_error *err);
tn_status tn_tokenizer_read_pieces(struct tn_tokenizer *t, const char *path, const char *folder, struct tn_error *err);

/* When the model and the pipeline are there: added tokens, the frame, counts and the ids that end texts. */
struct tn_tokenizer_class;
tn_status tn_tokenizer_complete(struct tn_tokenizer *t, const struct tn_tokenizer_class *c,
				const struct tn_tokenizer_files *files, struct tn_error *err);

/* ---- what the other files ask for ------------------------------------------------------------------------ */

/* The class that transformers would make for a model of this kind, or NULL: tokenizer.json counts as it is. It brings its own
 * pipeline, and settings of the model. */
const struct tn_tokenizer_class *tn_tokenizer_class_of(const struct tn_tokenizer_files *files, enum tn_model_kind kind);
/* The same for tokenizer.model, where NULL is the plain reading, for models without a class of their own.
 * TN_E_UNSUPPORTED: a class that tokenizer.model is not read for, or not with this kind of model. */
tn_status tn_tokenizer_class_of_pieces(const struct tn_tokenizer_files *files, enum tn_model_kind kind,
				       const struct tn_tokenizer_class **out, struct tn_error *err);
tn_status tn_tokenizer_class_build(const struct tn_tokenizer_class *c, struct tn_tokenizer *t,
				   const struct tn_tokenizer_files *files, struct tn_error *err);
/* A special token as these files name it: a text, or {"content": ...}. NULL: none is named; null is a name too. */
const json_t *tn_tokenizer_named_special(const struct tn_tokenizer_files *files, const char *name);
/* Names and adds the special tokens; needs the vocabulary and the added tokens of tokenizer.json. */
tn_status tn_tokenizer_add_special(struct tn_tokenizer *t, const struct tn_tokenizer_class *c,
				   const struct tn_tokenizer_files *files, struct tn_error *err);
/* The post-processor; needs all ids. */
tn_status tn_tokenizer_read_frame(struct tn_tokenizer *t, const struct tn_tokenizer_class *c,
				  const struct tn_tokenizer_files *files, struct tn_error *err);

/* The id of a token, added or of the model. */
uint32_t tn_tokenizer_id_of(const struct tn_tokenizer *t, const char *token, size_t n);

/* Takes an added token as files describe it: {"content": ..., "lstrip": ..., ...}. */
tn_status tn_tokenizer_add_token(struct tn_tokenizer *t, const json_t *json, const char *where, struct tn_error *err);

/* ---- encoding and decoding ------------------------------------------------------------------------------- */

/* Appends the ids of a text to `out`, without special tokens around it. */
tn_status tn_tokenizer_ids(const struct tn_tokenizer *t, struct tn_work *work, const char *text, size_t n,
			   struct tn_id_list *out, struct tn_error *err);

/* Decodes into work->lists; *out is one of them, without the cleaning up. */
tn_status tn_tokenizer_text(const struct tn_tokenizer *t, struct tn_decode_work *work, const uint32_t *ids, size_t count,
			    unsigned flags, const struct tn_text_list **out, struct tn_error *err);

#endif
