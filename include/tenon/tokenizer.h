/* tenon/tokenizer.h - text to token ids and back, from the tokenizer.json or tokenizer.model of a model folder.
 *
 * Mirrors the tokenizers library 0.23 (ids, decoding, DecodeStream) and, where the folder's tokenizer_config.json asks for
 * it, the changes that transformers 5.23 makes on loading: special tokens that tokenizer.json lacks, and the pipelines that
 * the classes LlamaTokenizer, CodeLlamaTokenizer, GemmaTokenizer, GPT2Tokenizer, Qwen2Tokenizer, T5Tokenizer,
 * XLMRobertaTokenizer and BertTokenizer build in place of the file's own (docs/tokenizer.md).
 * tokenizer.model gives the ids of SentencePiece in the class's pipeline (docs/tokenizer.md says where transformers 5.23 differs).
 * Truncation and padding of tokenizer.json are for batches of equal length and are not done.
 *
 * Texts are UTF-8 of a given length; NUL is a character like any other. Regular expressions follow Unicode 17, as
 * the library's do; normalization Unicode 15.
 *
 * Thread rules: a tn_tokenizer is read only and serves any number of threads; a tn_token_stream belongs to one.
 */
#ifndef TENON_TOKENIZER_H
#define TENON_TOKENIZER_H

#include "tenon/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct tn_tokenizer tn_tokenizer;

/* What stands for "no such token" where an id is returned. */
#define TN_NO_TOKEN UINT32_MAX

/* Reads tokenizer.json, or where there is none SentencePiece's tokenizer.model (and added_tokens.json); and
 * tokenizer_config.json, special_tokens_map.json, generation_config.json and config.json where they exist. `path` is a model
 * folder; or a tokenizer.json, or a file *.model, which is then read alone, without the others.
 * TN_E_NOTFOUND: neither is there. TN_E_FORMAT: damaged; the message names the key, or the byte of tokenizer.model.
 * TN_E_UNSUPPORTED: it uses a component, or tokenizer.model goes with a class, that tenon does not have; the message names it.
 * TN_E_LIMIT: larger than any that is meant to be used. */
TN_API tn_status tn_tokenizer_open(tn_context *ctx, const char *path, tn_tokenizer **out, struct tn_error *err);
TN_API void tn_tokenizer_close(tn_tokenizer *tokenizer);    /* NULL allowed */

/* ---- text to ids ----------------------------------------------------------------------------------------- */

/* With the tokens that the model wants around a text (the post-processor of tokenizer.json). Special
 * tokens that stand in the text are recognized with or without this. */
#define TN_ADD_SPECIAL 1u

/* ids: uint32_t values, ids->bytes / 4 of them; the caller releases the buffer. TN_E_ARG: the text is not UTF-8.
 * TN_E_MISMATCH: a character that the vocabulary has no token for, not even an unknown one. TN_E_LIMIT: a regular
 * expression of tokenizer.json takes too many steps on this text. */
TN_API tn_status tn_tokenizer_encode(const tn_tokenizer *tokenizer, const char *text, size_t bytes, unsigned flags,
				     struct tn_buffer *ids, struct tn_error *err);

/* Two texts together, as models that compare texts want them. */
TN_API tn_status tn_tokenizer_encode_pair(const tn_tokenizer *tokenizer, const char *a, size_t a_bytes, const char *b,
					  size_t b_bytes, unsigned flags, struct tn_buffer *ids, struct tn_error *err);

/* ---- ids to text ----------------------------------------------------------------------------------------- */

#define TN_SKIP_SPECIAL 1u    /* leaves special tokens out */

/* text->bytes bytes of UTF-8, without a NUL behind them; the caller releases the buffer. Ids that are no tokens give nothing;
 * bytes that are no UTF-8 give U+FFFD. */
TN_API tn_status tn_tokenizer_decode(const tn_tokenizer *tokenizer, const uint32_t *ids, size_t count, unsigned flags,
				     struct tn_buffer *text, struct tn_error *err);

/* Decoding token by token. The stream uses `tokenizer`, which must outlive it. */
typedef struct tn_token_stream tn_token_stream;
TN_API tn_status tn_token_stream_create(const tn_tokenizer *tokenizer, unsigned flags, tn_token_stream **out,
					struct tn_error *err);
TN_API void tn_token_stream_destroy(tn_token_stream *stream);    /* NULL allowed */

/* Takes the next id. *piece gets the text that is new and certain, valid until the next call, with a NUL behind it; or NULL
 * while the text ends in the middle of a character (it is held back, with what follows, until a character is whole) or
 * the id adds no text. After a while of use no memory is allocated. */
TN_API tn_status tn_token_stream_push(tn_token_stream *stream, uint32_t id, const char **piece, size_t *bytes,
				      struct tn_error *err);

/* What is still held back, with U+FFFD for broken characters; NULL: nothing. The stream is then as new. */
TN_API tn_status tn_token_stream_finish(tn_token_stream *stream, const char **piece, size_t *bytes, struct tn_error *err);

/* ---- the vocabulary -------------------------------------------------------------------------------------- */

/* Number of tokens, added ones included. Ids may have gaps: tn_tokenizer_id_limit is one more than the largest id. */
TN_API size_t tn_tokenizer_vocab_size(const tn_tokenizer *tokenizer);
TN_API uint32_t tn_tokenizer_id_limit(const tn_tokenizer *tokenizer);

/* The token as tokenizer.json writes it (byte-level tokens in their alphabet), not NUL-terminated; NULL: no such id. It
 * lives as long as the tokenizer. */
TN_API const char *tn_tokenizer_token(const tn_tokenizer *tokenizer, uint32_t id, size_t *bytes);
/* The id of a token that is written so, or TN_NO_TOKEN. */
TN_API uint32_t tn_tokenizer_find(const tn_tokenizer *tokenizer, const char *token, size_t bytes);
TN_API int tn_tokenizer_is_special(const tn_tokenizer *tokenizer, uint32_t id);

/* The token that the folder names "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token" or
 * "mask_token", or NULL; *id (may be NULL) gets its id. It lives as long as the tokenizer. */
TN_API const char *tn_tokenizer_special(const tn_tokenizer *tokenizer, const char *name, uint32_t *id);

/* Ids that end a text: the eos_token_id of generation_config.json (a broken one is passed over), else of config.json, and the
 * eos_token. They live as long as the tokenizer. */
TN_API const uint32_t *tn_tokenizer_stop_ids(const tn_tokenizer *tokenizer, size_t *count);

#ifdef __cplusplus
}
#endif
#endif
