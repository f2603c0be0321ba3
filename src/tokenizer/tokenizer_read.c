/* SPDX-License-Identifier: Apache-2.0 */
/* tokenizer.json. Its vocabulary and merges, which can be a hundred thousand entries each, are read by the scanner, straight
 * into their tables; what is left of the text without them is a small document. */
#include "base/error.h"
#include "base/file.h"
#include "base/numeral.h"
#include "store/json_doc.h"
#include "store/json_scan.h"
#include "tokenizer/token_json.h"
#include "tokenizer/tokenizer_parts.h"

#include <stdlib.h>
#include <string.h>

enum { LARGEST_TOKENIZER = 256 << 20 };

/* A part of the text; begin == end: there is none. */
struct extent {
	size_t begin, end;
};

struct source {
	struct tn_json_scan scan;
	struct extent vocab, merges;
};

/* ---- finding the large parts ----------------------------------------------------------------------------- */

static tn_status skip_into(struct tn_json_scan *scan, struct extent *extent, struct tn_error *err)
{
	tn_json_skip_space(scan);
	extent->begin = scan->pos;
	TN_TRY(tn_json_skip_value(scan, err));
	extent->end = scan->pos;
	return TN_OK;
}

/* The members of one object; `on_member` takes the value. */
typedef tn_status (*member_fn)(struct source *source, const struct tn_json_string *key, struct tn_error *err);

static tn_status each_member(struct source *source, member_fn on_member, struct tn_error *err)
{
	struct tn_json_scan *scan = &source->scan;
	int more = 1;
	TN_TRY(tn_json_take(scan, '{', "'{'", err));
	if (tn_json_peek(scan) == '}')
		return tn_json_take(scan, '}', "'}'", err);
	while (more) {
		struct tn_json_string key;
		TN_TRY(tn_json_take_string(scan, &key, err));
		TN_TRY(tn_json_take(scan, ':', "':'", err));
		TN_TRY(on_member(source, &key, err));
		TN_TRY(tn_json_next(scan, '}', &more, err));
	}
	return TN_OK;
}

static tn_status on_model_member(struct source *source, const struct tn_json_string *key, struct tn_error *err)
{
	struct extent other;
	if (source->vocab.begin == source->vocab.end && tn_json_equals(&source->scan, key, "vocab"))
		return skip_into(&source->scan, &source->vocab, err);
	if (source->merges.begin == source->merges.end && tn_json_equals(&source->scan, key, "merges"))
		return skip_into(&source->scan, &source->merges, err);
	return skip_into(&source->scan, &other, err);
}

static tn_status on_top_member(struct source *source, const struct tn_json_string *key, struct tn_error *err)
{
	if (tn_json_equals(&source->scan, key, "model") && tn_json_peek(&source->scan) == '{')
		return each_member(source, on_model_member, err);
	return tn_json_skip_value(&source->scan, err);
}

static tn_status add_without(struct tn_text *text, const struct source *source, size_t *at, const struct extent *extent,
			     struct tn_error *err)
{
	TN_TRY(tn_text_add(text, source->scan.text + *at, extent->begin - *at, err));
	*at = extent->end;
	return extent->begin == extent->end ? TN_OK : tn_text_puts(text, "null", err);
}

/* The document, with null in the places of the vocabulary and the merges. */
static tn_status read_rest(struct source *source, tn_context *ctx, json_t **out, struct tn_error *err)
{
	struct tn_text text;
	size_t at = 0;
	const struct extent *first = &source->vocab, *second = &source->merges, end = { source->scan.length, source->scan.length };
	if (second->begin < first->begin) {
		first = &source->merges;
		second = &source->vocab;
	}
	tn_text_init(&text, ctx);
	tn_status status = add_without(&text, source, &at, first, err);
	if (status == TN_OK)
		status = add_without(&text, source, &at, second, err);
	if (status == TN_OK)
		status = add_without(&text, source, &at, &end, err);
	if (status == TN_OK)
		status = tn_json_parse(ctx, text.data, text.length, source->scan.where, out, err);
	tn_text_release(&text);
	return status;
}

/* ---- the vocabulary -------------------------------------------------------------------------------------- */

/* A string as it is meant; `arena` takes those with escapes. */
static tn_status take_text(struct tn_json_scan *scan, struct tn_arena *arena, const char **text, size_t *n,
			   struct tn_error *err)
{
	struct tn_json_string string;
	TN_TRY(tn_json_take_string(scan, &string, err));
	if (string.escaped)
		return tn_json_decode_any(scan, &string, arena, text, n, err);
	*text = scan->text + string.begin;
	*n = string.length;
	return TN_OK;
}

/* {"token": 0, ...} */
static tn_status read_vocab(struct tn_token_model *model, struct tn_json_scan *scan, struct tn_arena *arena,
			    struct tn_error *err)
{
	int more = 1;
	TN_TRY(tn_json_take(scan, '{', "the vocabulary as an object", err));
	if (tn_json_peek(scan) == '}')
		return TN_OK;
	while (more) {
		const char *text;
		size_t n;
		uint64_t id;
		TN_TRY(take_text(scan, arena, &text, &n, err));
		TN_TRY(tn_json_take(scan, ':', "':'", err));
		TN_TRY(tn_json_take_u64(scan, &id, err));
		TN_TRY(tn_vocab_put(&model->vocab, text, n, id, scan->where, err));
		TN_TRY(tn_json_next(scan, '}', &more, err));
		if (model->kind == TN_MODEL_WORDPIECE)
			TN_TRY(tn_trie_put(&model->trie, text, n, (uint32_t)id, err));
	}
	return TN_OK;
}

static tn_status take_number(struct tn_json_scan *scan, double *out, struct tn_error *err)
{
	tn_json_skip_space(scan);
	size_t begin = scan->pos;
	char c = tn_json_peek(scan);
	if (c != '-' && (c < '0' || c > '9'))
		return tn_json_fail(scan, begin, err, "a score was expected");
	TN_TRY(tn_json_skip_value(scan, err));
	*out = tn_strtod(scan->text + begin, NULL);
	return TN_OK;
}

/* [["token", -1.5], ...] */
static tn_status read_pieces(struct tn_token_model *model, struct tn_json_scan *scan, struct tn_arena *arena,
			     struct tn_error *err)
{
	int more = 1;
	TN_TRY(tn_json_take(scan, '[', "the vocabulary as a list", err));
	if (tn_json_peek(scan) == ']')
		return TN_OK;
	while (more) {
		const char *text;
		size_t n;
		double score = 0;
		TN_TRY(tn_json_take(scan, '[', "a list of a token and its score", err));
		TN_TRY(take_text(scan, arena, &text, &n, err));
		TN_TRY(tn_json_take(scan, ',', "','", err));
		TN_TRY(take_number(scan, &score, err));
		TN_TRY(tn_json_take(scan, ']', "']'", err));
		TN_TRY(tn_unigram_add(model, text, n, score, scan->where, err));
		TN_TRY(tn_json_next(scan, ']', &more, err));
	}
	return TN_OK;
}

/* ---- merges ---------------------------------------------------------------------------------------------- */

struct merge_texts {
	const char *left, *right;
	size_t left_bytes, right_bytes;
};

static tn_status missing_token(const struct tn_json_scan *scan, size_t at, const char *text, size_t n, struct tn_error *err)
{
	return tn_json_fail(scan, at, err, "a merge needs the token '%.*s', which the vocabulary does not have",
			    n < 80 ? (int)n : 80, text);
}

static tn_status add_merge(struct tn_token_model *model, const struct tn_json_scan *scan, size_t at,
			   const struct merge_texts *texts, uint32_t rank, struct tn_text *both, struct tn_error *err)
{
	uint32_t left = tn_vocab_find(&model->vocab, texts->left, texts->left_bytes);
	uint32_t right = tn_vocab_find(&model->vocab, texts->right, texts->right_bytes);
	if (left == TN_NO_TOKEN)
		return missing_token(scan, at, texts->left, texts->left_bytes, err);
	if (right == TN_NO_TOKEN || texts->right_bytes < model->prefix_bytes)
		return missing_token(scan, at, texts->right, texts->right_bytes, err);
	both->length = 0;
	TN_TRY(tn_text_add(both, texts->left, texts->left_bytes, err));
	TN_TRY(tn_text_add(both, texts->right + model->prefix_bytes, texts->right_bytes - model->prefix_bytes, err));
	uint32_t id = tn_vocab_find(&model->vocab, both->data, both->length);
	if (id == TN_NO_TOKEN)
		return missing_token(scan, at, both->data, both->length, err);
	return tn_bpe_add_merge(model, left, right, rank, id, err);
}

/* ["a", "b"], or in older files "a b". *version: a line that only names the version of the file. */
static tn_status take_merge(struct tn_json_scan *scan, struct tn_arena *arena, struct merge_texts *out, int *version,
			    struct tn_error *err)
{
	size_t at = scan->pos, n;
	const char *text;
	*version = 0;
	if (tn_json_peek(scan) == '[') {
		TN_TRY(tn_json_take(scan, '[', "'['", err));
		TN_TRY(take_text(scan, arena, &out->left, &out->left_bytes, err));
		TN_TRY(tn_json_take(scan, ',', "','", err));
		TN_TRY(take_text(scan, arena, &out->right, &out->right_bytes, err));
		return tn_json_take(scan, ']', "']'", err);
	}
	TN_TRY(take_text(scan, arena, &text, &n, err));
	*version = n >= 8 && memcmp(text, "#version", 8) == 0;
	const char *space = memchr(text, ' ', n);
	if (*version)
		return TN_OK;
	if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - text)))
		return tn_json_fail(scan, at, err, "a merge is not two tokens with a space between them");
	*out = (struct merge_texts){ text, space + 1, (size_t)(space - text), n - (size_t)(space + 1 - text) };
	return TN_OK;
}

static tn_status read_merges(struct tn_token_model *model, struct tn_json_scan *scan, struct tn_arena *arena,
			     struct tn_text *both, struct tn_error *err)
{
	struct merge_texts texts;
	int more = 1, version;
	TN_TRY(tn_json_take(scan, '[', "the merges as a list", err));
	if (tn_json_peek(scan) == ']')
		return TN_OK;
	for (uint32_t rank = 0; more; rank += !version) {
		size_t at = scan->pos;
		TN_TRY(take_merge(scan, arena, &texts, &version, err));
		if (!version)
			TN_TRY(add_merge(model, scan, at, &texts, rank, both, err));
		TN_TRY(tn_json_next(scan, ']', &more, err));
	}
	return TN_OK;
}

/* ---- the model ------------------------------------------------------------------------------------------- */

/* Older files do not name the type. */
static const char *type_of(const json_t *model, const struct source *source)
{
	const char *type = json_string_value(json_object_get(model, "type"));
	if (type)
		return type;
	if (source->merges.begin != source->merges.end)
		return "BPE";
	if (source->vocab.begin != source->vocab.end && source->scan.text[source->vocab.begin] == '[')
		return "Unigram";
	return json_object_get(model, "max_input_chars_per_word") ? "WordPiece" : "WordLevel";
}

static tn_status read_kind(struct tn_token_model *model, const char *type, const char *where, struct tn_error *err)
{
	static const char *const names[] = { [TN_MODEL_BPE] = "BPE", [TN_MODEL_UNIGRAM] = "Unigram",
					     [TN_MODEL_WORDPIECE] = "WordPiece", [TN_MODEL_WORDLEVEL] = "WordLevel" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (strcmp(type, names[i]) == 0) {
			model->kind = (enum tn_model_kind)i;
			return TN_OK;
		}
	}
	return tn_fail(err, TN_E_UNSUPPORTED, where, "'%s' uses the model '%.60s', which tenon does not have", where, type);
}

static tn_status read_settings(struct tn_tokenizer *t, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_token_model *model = &t->model;
	if (json_number_value(json_object_get(json, "dropout")) != 0.0)
		return tn_fail(err, TN_E_UNSUPPORTED, where, "'%s' sets 'dropout' of BPE: merges left out by chance, which "
			       "tenon does not do; set it to null", where);
	TN_TRY(tn_token_maybe_text(&t->arena, json, "unk_token", "the model", where, &model->unk, &model->unk_bytes, err));
	TN_TRY(tn_token_maybe_text(&t->arena, json, "continuing_subword_prefix", "the model", where, &model->prefix,
				   &model->prefix_bytes, err));
	TN_TRY(tn_token_maybe_text(&t->arena, json, "end_of_word_suffix", "the model", where, &model->suffix,
				   &model->suffix_bytes, err));
	if (model->kind == TN_MODEL_WORDPIECE && !model->prefix) {
		model->prefix = "##";
		model->prefix_bytes = 2;
	}
	if (json_object_get(json, "max_input_chars_per_word"))
		TN_TRY(tn_token_number(json, "max_input_chars_per_word", "the model", where, &model->longest_word, err));
	model->fuse_unk = tn_token_flag(json, "fuse_unk", 0);
	model->byte_fallback = tn_token_flag(json, "byte_fallback", 0);
	model->ignore_merges = tn_token_flag(json, "ignore_merges", 0);
	return TN_OK;
}

static tn_status read_tables(struct tn_token_model *model, struct source *source, struct tn_arena *arena,
			     struct tn_text *both, struct tn_error *err)
{
	struct tn_json_scan *scan = &source->scan;
	if (source->vocab.begin == source->vocab.end)
		return tn_fail(err, TN_E_FORMAT, scan->where, "the model of '%s' has no 'vocab'", scan->where);
	scan->pos = source->vocab.begin;
	if (model->kind == TN_MODEL_UNIGRAM)
		return read_pieces(model, scan, arena, err);
	TN_TRY(read_vocab(model, scan, arena, err));
	if (model->kind != TN_MODEL_BPE)
		return TN_OK;
	if (source->merges.begin == source->merges.end)
		return tn_fail(err, TN_E_FORMAT, scan->where, "the model of '%s' has no 'merges'", scan->where);
	scan->pos = source->merges.begin;
	return read_merges(model, scan, arena, both, err);
}

/* For Unigram the unknown token is an id, which a class may have set already. */
static tn_status finish_model(struct tn_token_model *model, const json_t *json, const char *where, struct tn_error *err)
{
	const json_t *unk_id = json_object_get(json, "unk_id");
	tn_token_model_finish(model);
	if (model->kind != TN_MODEL_UNIGRAM)
		return TN_OK;
	if (model->unk_id == TN_NO_TOKEN && unk_id && !json_is_null(unk_id))
		TN_TRY(tn_token_number(json, "unk_id", "the model", where, &model->unk_id, err));
	if (model->unk_id != TN_NO_TOKEN && model->unk_id >= model->score_count)
		return tn_fail(err, TN_E_FORMAT, where, "the unk_id %u of '%s' is beyond its %zu tokens", (unsigned)model->unk_id,
			       where, model->score_count);
	return TN_OK;
}

static tn_status read_model(struct tn_tokenizer *t, struct source *source, const struct tn_tokenizer_files *files,
			    const struct tn_tokenizer_class **class_out, struct tn_error *err)
{
	const json_t *json = json_object_get(files->tokenizer, "model");
	struct tn_arena escaped;
	struct tn_text both;
	TN_TRY(read_kind(&t->model, type_of(json, source), files->where, err));
	TN_TRY(read_settings(t, json, files->where, err));
	const struct tn_tokenizer_class *c = tn_tokenizer_class_of(files, t->model.kind);
	if (c)
		TN_TRY(tn_tokenizer_class_build(c, t, files, err));
	*class_out = c;
	tn_arena_init(&escaped, t->ctx);
	tn_text_init(&both, t->ctx);
	tn_status status = read_tables(&t->model, source, &escaped, &both, err);
	tn_arena_release(&escaped);
	tn_text_release(&both);
	return status == TN_OK ? finish_model(&t->model, json, files->where, err) : status;
}

/* ---- everything ------------------------------------------------------------------------------------------ */

static tn_status read_parts(struct tn_tokenizer *t, struct source *source, const struct tn_tokenizer_files *files,
			    struct tn_error *err)
{
	const json_t *json = files->tokenizer;
	const struct tn_tokenizer_class *c = NULL;
	TN_TRY(read_model(t, source, files, &c, err));
	if (!c) {
		TN_TRY(tn_normalizer_read(&t->normalizer, json_object_get(json, "normalizer"), files->where, err));
		TN_TRY(tn_pretokenizer_read(&t->pre, json_object_get(json, "pre_tokenizer"), files->where, err));
		TN_TRY(tn_detokenizer_read(&t->decoder, json_object_get(json, "decoder"), files->where, err));
	}
	return tn_tokenizer_complete(t, c, files, err);
}

static tn_status read_text(struct tn_tokenizer *t, const struct tn_buffer *text, const char *path, const char *folder,
			   struct tn_error *err)
{
	struct source source = { .scan = { .text = text->data, .length = text->bytes - 1, .where = path } };
	struct tn_tokenizer_files files = { .where = path };
	uint64_t seed = tn_token_hash(0x9E3779B97F4A7C15u, text->data, text->bytes);
	tn_token_model_init(&t->model, t->ctx, seed);
	tn_added_tokens_init(&t->added, &t->arena, seed);
	TN_TRY(each_member(&source, on_top_member, err));
	TN_TRY(tn_json_finish(&source.scan, err));
	tn_status status = read_rest(&source, t->ctx, &files.tokenizer, err);
	if (status == TN_OK)
		status = tn_tokenizer_files_load(t->ctx, folder, &files, err);
	if (status == TN_OK)
		status = read_parts(t, &source, &files, err);
	tn_tokenizer_files_release(&files);
	return status;
}

tn_status tn_tokenizer_read(struct tn_tokenizer *t, const char *path, const char *folder, struct tn_error *err)
{
	struct tn_buffer text;
	TN_TRY(tn_file_read_text(t->ctx, path, LARGEST_TOKENIZER, &text, err));
	tn_status status = read_text(t, &text, path, folder, err);
	tn_buffer_release(t->ctx, &text);
	return status;
}
