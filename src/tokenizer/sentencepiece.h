/* SentencePiece's tokenizer.model: the pieces and the settings that a tokenizer is built of. Mirrors ModelProto of
 * sentencepiece_model.proto (SentencePiece 0.2): a message of the protocol buffers' wire format. */
#ifndef TN_SENTENCEPIECE_H
#define TN_SENTENCEPIECE_H

#include "base/context.h"

#include <stddef.h>
#include <stdint.h>

/* What to do about a model that is not read. */
#define TN_WRITE_TOKENIZER_JSON \
	"write tokenizer.json with transformers (AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR))"

enum tn_piece_type {
	TN_PIECE_NORMAL = 1, TN_PIECE_UNKNOWN, TN_PIECE_CONTROL, TN_PIECE_USER_DEFINED, TN_PIECE_UNUSED, TN_PIECE_BYTE
};

/* Bytes of the file, without a NUL behind them. */
struct tn_piece_text {
	const char *text;
	size_t bytes;
};

struct tn_sentencepiece_piece {
	struct tn_piece_text text;    /* UTF-8, at least one byte; its id is its place */
	float score;
	enum tn_piece_type type;
};

enum tn_sentencepiece_kind { TN_SENTENCEPIECE_UNIGRAM = 1, TN_SENTENCEPIECE_BPE };

struct tn_sentencepiece {
	tn_context *ctx;
	struct tn_buffer file;                  /* all texts are parts of it */
	struct tn_sentencepiece_piece *pieces;
	size_t count, capacity;
	enum tn_sentencepiece_kind kind;
	int byte_fallback;
	int32_t unk_id, bos_id, eos_id;         /* below 0: none */
	struct tn_piece_text unk_piece, bos_piece, eos_piece;
	struct tn_piece_text charsmap;          /* the normalizer's precompiled map; empty: none */
	int add_dummy_prefix, remove_extra_whitespaces;
};

/* Reads and checks a file. TN_E_FORMAT: no such model, or a damaged one; the message names the byte. TN_E_UNSUPPORTED: a model
 * of words or characters, spaces behind words, spaces as they are, or a table of tiktoken. TN_E_LIMIT: larger than 64 MiB.
 * On success the caller releases *out. */
tn_status tn_sentencepiece_read(tn_context *ctx, const char *path, struct tn_sentencepiece *out, struct tn_error *err);
void tn_sentencepiece_release(struct tn_sentencepiece *model);

#endif
