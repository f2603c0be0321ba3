/* SPDX-License-Identifier: Apache-2.0 */
/* A tokenizer of tokenizer.model: the pieces as SentencePiece uses them, in the pipeline of the class that transformers would make.
 * Added tokens and names mirror transformers 5.23, TokenizersBackend._convert_from_sentencepiece of
 * tokenization_utils_tokenizers.py and SentencePieceExtractor of convert_slow_tokenizer.py. */
#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/tokenizer_class.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Looking for the two parts of every piece takes work that grows with the square of its length. */
#define MOST_BYTES_LOOKED_UP (UINT64_C(1) << 30)

/* ---- the vocabulary -------------------------------------------------------------------------------------- */

static tn_status put_pieces(struct tn_token_model *model, const struct tn_sentencepiece *source, const char *where,
			    struct tn_error *err)
{
	for (size_t i = 0; i < source->count; i++) {
		const struct tn_sentencepiece_piece *piece = &source->pieces[i];
		uint32_t known = tn_vocab_find(&model->vocab, piece->text.text, piece->text.bytes);
		if (known != TN_NO_TOKEN)
			return tn_fail(err, TN_E_FORMAT, where, "the pieces %u and %zu of '%s' have the same text; SentencePiece "
				       "takes no such model either: get the file again", (unsigned)known, i, where);
		if (model->kind == TN_MODEL_UNIGRAM)
			TN_TRY(tn_unigram_add(model, piece->text.text, piece->text.bytes, (double)piece->score, where, err));
		else
			TN_TRY(tn_vocab_put(&model->vocab, piece->text.text, piece->text.bytes, i, where, err));
	}
	return TN_OK;
}

struct scored {
	float score;
	uint32_t id;
};

/* The best first; what is no number last. */
static int compare_scores(const void *a, const void *b)
{
	const struct scored *x = a, *y = b;
	if (isnan(x->score) || isnan(y->score))
		return isnan(x->score) != isnan(y->score) ? isnan(x->score) ? 1 : -1 : 0;
	return x->score > y->score ? -1 : x->score < y->score;
}

/* The merges that make one piece, all of one rank; *looked_up grows by the bytes that this takes. One piece alone can be too long:
 * it may be as long as the file. */
static tn_status add_merges(struct tn_token_model *model, const struct tn_piece_text *piece, uint32_t id, uint32_t rank,
			    uint64_t *looked_up, const char *where, struct tn_error *err)
{
	const char *text = piece->text;
	size_t n = piece->bytes;
	for (size_t at = tn_char_bytes(text); at < n; at += tn_char_bytes(text + at)) {
		*looked_up += n;
		if (*looked_up > MOST_BYTES_LOOKED_UP)
			return tn_fail(err, TN_E_LIMIT, where, "the pieces of '%s' are so long that their merges take more "
				       "than a second to find; a model that is meant to be used has short ones", where);
		uint32_t left = tn_vocab_find(&model->vocab, text, at);
		uint32_t right = left == TN_NO_TOKEN ? left : tn_vocab_find(&model->vocab, text + at, n - at);
		if (right != TN_NO_TOKEN)
			TN_TRY(tn_bpe_add_merge(model, left, right, rank, id, err));
	}
	return TN_OK;
}

/* Every way to make a piece of two others is a merge, and the piece's score its rank: of equal ones the leftmost is done first, as
 * SentencePiece does it. (Ids are no measure: Llama's and Mistral's runs of spaces have early ids and the worst of scores.) */
static tn_status derive_merges(struct tn_token_model *model, const struct tn_sentencepiece *source, const char *where,
			       struct tn_error *err)
{
	struct scored *order;
	uint64_t looked_up = 0;
	uint32_t rank = 0;
	tn_status status = TN_OK;
	TN_TRY(tn_alloc_array(model->ctx, source->count, sizeof *order, "pieces", &order, err));
	for (size_t i = 0; i < source->count; i++)
		order[i] = (struct scored){ source->pieces[i].score, (uint32_t)i };
	qsort(order, source->count, sizeof *order, compare_scores);
	for (size_t i = 0; status == TN_OK && i < source->count; i++) {
		rank += i > 0 && compare_scores(&order[i - 1], &order[i]) != 0;
		status = add_merges(model, &source->pieces[order[i].id].text, order[i].id, rank, &looked_up, where, err);
	}
	tn_free_array(model->ctx, order, source->count, sizeof *order);
	return status;
}

/* ---- other names for pieces ------------------------------------------------------------------------------ */

/* Folders give pieces that were kept free other names: those become the texts of their ids, unless they are pieces already. */
struct renaming {
	const struct tn_sentencepiece *source;
	const char *where;
	struct tn_token_model *model;
	struct tn_vocab names;          /* what pieces are called now, of those that have another name: to their ids */
	struct tn_piece_text *texts;    /* by id */
};

/* 1 when a piece is called so now. */
static int is_taken(const struct renaming *r, const char *text, size_t n)
{
	uint32_t id = tn_vocab_find(&r->model->vocab, text, n), other = tn_vocab_find(&r->names, text, n);
	if (id != TN_NO_TOKEN && r->texts[id].text == r->source->pieces[id].text.text)
		return 1;
	return other != TN_NO_TOKEN && r->texts[other].bytes == n && memcmp(r->texts[other].text, text, n) == 0;
}

static tn_status rename_piece(struct renaming *r, unsigned long long id, const char *text, size_t n, struct tn_error *err)
{
	if (id >= r->source->count || !n || is_taken(r, text, n))
		return TN_OK;
	r->texts[id] = (struct tn_piece_text){ text, n };
	return tn_vocab_put(&r->names, text, n, id, r->where, err);
}

static tn_status rename_all(struct renaming *r, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	json_t *decoder = json_object_get(files->tokenizer_config, "added_tokens_decoder"), *value;
	const char *key;
	if (!json_is_object(decoder)) {
		json_object_foreach(files->added_tokens, key, value)
			if (json_is_integer(value))
				TN_TRY(rename_piece(r, (unsigned long long)json_integer_value(value), key, strlen(key), err));
		return TN_OK;
	}
	json_object_foreach(decoder, key, value) {
		const json_t *content = json_object_get(value, "content");
		if (json_is_string(content))
			TN_TRY(rename_piece(r, strtoull(key, NULL, 10), json_string_value(content), json_string_length(content),
					    err));
	}
	return TN_OK;
}

/* Makes the vocabulary anew under the names of now; merges know ids only. */
static tn_status take_names(struct renaming *r, struct tn_error *err)
{
	struct tn_vocab *vocab = &r->model->vocab;
	tn_context *ctx = vocab->ctx;
	uint64_t seed = vocab->seed;
	if (!r->names.count)
		return TN_OK;
	tn_vocab_release(vocab);
	tn_vocab_init(vocab, ctx, seed);
	for (size_t i = 0; i < r->source->count; i++)
		TN_TRY(tn_vocab_put(vocab, r->texts[i].text, r->texts[i].bytes, i, r->where, err));
	return TN_OK;
}

static tn_status rename_pieces(struct tn_token_model *model, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	struct renaming r = { .source = files->pieces, .where = files->where, .model = model };
	TN_TRY(tn_alloc_array(model->ctx, r.source->count, sizeof *r.texts, "pieces", &r.texts, err));
	for (size_t i = 0; i < r.source->count; i++)
		r.texts[i] = r.source->pieces[i].text;
	tn_vocab_init(&r.names, model->ctx, model->vocab.seed);
	tn_status status = rename_all(&r, files, err);
	if (status == TN_OK)
		status = take_names(&r, err);
	tn_vocab_release(&r.names);
	tn_free_array(model->ctx, r.texts, r.source->count, sizeof *r.texts);
	return status;
}

/* ---- everything ------------------------------------------------------------------------------------------ */

static tn_status build_bpe(struct tn_tokenizer *t, const struct tn_tokenizer_class *c, const struct tn_tokenizer_files *files,
			   struct tn_error *err)
{
	TN_TRY(put_pieces(&t->model, files->pieces, files->where, err));
	TN_TRY(derive_merges(&t->model, files->pieces, files->where, err));
	if (!c)
		TN_TRY(rename_pieces(&t->model, files, err));
	tn_token_model_finish(&t->model);
	return TN_OK;
}

static tn_status build_unigram(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	const struct tn_sentencepiece *source = files->pieces;
	TN_TRY(put_pieces(&t->model, source, files->where, err));
	tn_token_model_finish(&t->model);
	if (source->unk_id < 0 || (size_t)source->unk_id >= source->count)
		return tn_fail(err, TN_E_FORMAT, files->where, "the unk_id of '%s' is %d, which is none of its %zu pieces",
			       files->where, (int)source->unk_id, source->count);
	t->model.unk_id = (uint32_t)source->unk_id;
	return TN_OK;
}

static tn_status build(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	const struct tn_tokenizer_class *c;
	t->model.kind = files->pieces->kind == TN_SENTENCEPIECE_BPE ? TN_MODEL_BPE : TN_MODEL_UNIGRAM;
	TN_TRY(tn_tokenizer_class_of_pieces(files, t->model.kind, &c, err));
	if (c)
		TN_TRY(tn_tokenizer_class_build(c, t, files, err));
	else
		TN_TRY(tn_tokenizer_build_plain(t, files->pieces, files->where, err));
	TN_TRY(t->model.kind == TN_MODEL_BPE ? build_bpe(t, c, files, err) : build_unigram(t, files, err));
	return tn_tokenizer_complete(t, c, files, err);
}

tn_status tn_tokenizer_read_pieces(struct tn_tokenizer *t, const char *path, const char *folder, struct tn_error *err)
{
	struct tn_sentencepiece model;
	struct tn_tokenizer_files files = { .pieces = &model, .where = path };
	TN_TRY(tn_sentencepiece_read(t->ctx, path, &model, err));
	uint64_t seed = tn_token_hash(0x9E3779B97F4A7C15u, model.file.data, model.file.bytes);
	tn_token_model_init(&t->model, t->ctx, seed);
	tn_added_tokens_init(&t->added, &t->arena, seed);
	tn_status status = tn_tokenizer_files_load(t->ctx, folder, &files, err);
	if (status == TN_OK)
		status = build(t, &files, err);
	tn_tokenizer_files_release(&files);
	tn_sentencepiece_release(&model);
	return status;
}
