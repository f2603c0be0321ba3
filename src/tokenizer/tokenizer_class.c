/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/tokenizer_class.h"

#include "base/error.h"
#include "tokenizer/token_json.h"

#include <string.h>

#define MARK "\xE2\x96\x81" /* U+2581, a space made visible */

/* A flag of tokenizer_config.json; null and nothing are `otherwise`. */
static int flag(const struct tn_tokenizer_files *files, const char *key, int otherwise)
{
	return tn_token_flag(files->tokenizer_config, key, otherwise);
}

static tn_status add_decode(struct tn_tokenizer *t, enum tn_decode_kind kind, struct tn_error *err)
{
	return tn_detokenizer_add(&t->decoder, &(struct tn_decode_step){ .kind = kind }, err);
}

/* U+2581 to spaces, bytes to characters, everything one text. */
static tn_status add_sentencepiece_decoder(struct tn_tokenizer *t, int bytes, int strip, struct tn_error *err)
{
	struct tn_decode_step replace = { .kind = TN_DECODE_REPLACE, .text = " ", .bytes = 1,
					  .pattern = { .literal = MARK, .bytes = 3 } };
	struct tn_decode_step strip_first = { .kind = TN_DECODE_STRIP, .text = " ", .bytes = 1, .start = 1 };
	TN_TRY(tn_detokenizer_add(&t->decoder, &replace, err));
	if (bytes)
		TN_TRY(add_decode(t, TN_DECODE_BYTE_FALLBACK, err));
	TN_TRY(add_decode(t, TN_DECODE_FUSE, err));
	return strip ? tn_detokenizer_add(&t->decoder, &strip_first, err) : TN_OK;
}

static tn_status add_metaspace_decoder(struct tn_tokenizer *t, int drop_first, struct tn_error *err)
{
	struct tn_decode_step step = { .kind = TN_DECODE_METASPACE, .text = MARK, .bytes = 3, .drop_first = drop_first };
	return tn_detokenizer_add(&t->decoder, &step, err);
}

static tn_status add_character_map(struct tn_tokenizer *t, const struct tn_piece_text *map, const char *where,
				   struct tn_error *err)
{
	struct tn_normal_step step = { .kind = TN_NORMAL_PRECOMPILED };
	TN_TRY(tn_charsmap_copy(t->ctx, map->text, map->bytes, where, &step.map, err));
	tn_status status = tn_normalizer_add(&t->normalizer, &step, err);
	if (status != TN_OK)
		tn_charsmap_release(&step.map);
	return status;
}

tn_status tn_tokenizer_build_plain(struct tn_tokenizer *t, const struct tn_sentencepiece *pieces, const char *where,
				   struct tn_error *err)
{
	struct tn_normal_step squeeze = { .kind = TN_NORMAL_SQUEEZE };
	struct tn_normal_step prepend = { .kind = TN_NORMAL_PREPEND, .content = MARK, .content_bytes = 3 };
	t->model.unk_bytes = pieces->unk_piece.bytes;
	t->model.fuse_unk = 1;
	t->model.byte_fallback = pieces->byte_fallback;
	TN_TRY(tn_arena_text(&t->arena, pieces->unk_piece.text, pieces->unk_piece.bytes, &t->model.unk, err));
	if (pieces->charsmap.bytes)
		TN_TRY(add_character_map(t, &pieces->charsmap, where, err));
	if (pieces->remove_extra_whitespaces)
		TN_TRY(tn_normalizer_add(&t->normalizer, &squeeze, err));
	if (pieces->add_dummy_prefix)
		TN_TRY(tn_normalizer_add(&t->normalizer, &prepend, err));
	TN_TRY(tn_normalizer_add_replace(&t->normalizer, " ", MARK, err));
	return add_sentencepiece_decoder(t, pieces->byte_fallback, pieces->add_dummy_prefix || pieces->remove_extra_whitespaces,
					 err);
}

/* The unknown token is the one that the folder names, or the class's. */
static tn_status set_unknown(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, const char *otherwise,
			     struct tn_error *err)
{
	const json_t *named = tn_tokenizer_named_special(files, "unk_token");
	const json_t *content = json_is_object(named) ? json_object_get(named, "content") : named;
	t->model.unk = otherwise;
	t->model.unk_bytes = strlen(otherwise);
	if (!json_is_string(content))
		return TN_OK;
	t->model.unk_bytes = json_string_length(content);
	return tn_arena_text(&t->arena, json_string_value(content), t->model.unk_bytes, &t->model.unk, err);
}

static void set_bpe(struct tn_tokenizer *t, int fuse_unk, int byte_fallback)
{
	t->model.unk = t->model.prefix = t->model.suffix = NULL;
	t->model.unk_bytes = t->model.prefix_bytes = t->model.suffix_bytes = 0;
	t->model.fuse_unk = fuse_unk;
	t->model.byte_fallback = byte_fallback;
	t->model.ignore_merges = 0;
}

static tn_status build_llama(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	int prefix = flag(files, "add_prefix_space", 1);
	enum tn_prepend prepend = flag(files, "legacy", 0) ? TN_PREPEND_ALWAYS : TN_PREPEND_FIRST;
	set_bpe(t, 1, 1);
	TN_TRY(tn_pretokenizer_add_metaspace(&t->pre, prefix ? prepend : TN_PREPEND_NEVER, 0, err));
	return add_sentencepiece_decoder(t, 1, prefix, err);
}

static tn_status build_code_llama(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	int prefix = flag(files, "add_prefix_space", 1);
	set_bpe(t, 1, 1);
	TN_TRY(set_unknown(t, files, "<unk>", err));
	TN_TRY(tn_pretokenizer_add_metaspace(&t->pre, prefix ? TN_PREPEND_FIRST : TN_PREPEND_NEVER, 0, err));
	return add_sentencepiece_decoder(t, 1, 1, err);
}

static tn_status build_gemma(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	struct tn_pre_step split = { .kind = TN_PRE_SPLIT, .cut = TN_CUT_MERGED_WITH_PREVIOUS,
				     .pattern = { .literal = " ", .bytes = 1 } };
	set_bpe(t, 1, 1);
	TN_TRY(set_unknown(t, files, "<unk>", err));
	TN_TRY(tn_normalizer_add_replace(&t->normalizer, " ", MARK, err));
	TN_TRY(tn_pretokenizer_add(&t->pre, &split, err));
	return add_sentencepiece_decoder(t, 1, 0, err);
}

static tn_status build_gpt2(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	set_bpe(t, 0, 0);
	TN_TRY(tn_pretokenizer_add_byte_level(&t->pre, flag(files, "add_prefix_space", 0), 1, files->where, err));
	return add_decode(t, TN_DECODE_BYTE_LEVEL, err);
}

static tn_status build_qwen2(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	static const char words[] = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
				    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
	struct tn_pre_step split = { .kind = TN_PRE_SPLIT, .cut = TN_CUT_ISOLATED };
	set_bpe(t, 0, 0);
	TN_TRY(tn_normalizer_add(&t->normalizer, &(struct tn_normal_step){ .kind = TN_NORMAL_NFC }, err));
	TN_TRY(tn_pattern_compile(t->ctx, words, sizeof words - 1, "Split", files->where, &split.pattern, err));
	tn_status status = tn_pretokenizer_add(&t->pre, &split, err);
	if (status != TN_OK) {
		tn_pattern_release(&split.pattern);
		return status;
	}
	TN_TRY(tn_pretokenizer_add_byte_level(&t->pre, flag(files, "add_prefix_space", 0), 0, files->where, err));
	return add_decode(t, TN_DECODE_BYTE_LEVEL, err);
}

/* Of the normalizer only its character map: the first, at the top or in a Sequence. */
static tn_status keep_character_map(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	const json_t *json = json_object_get(files->tokenizer, "normalizer");
	const json_t *members = json_object_get(json, "normalizers");
	size_t count = json_is_array(members) ? json_array_size(members) : 1;
	for (size_t i = 0; i < count; i++) {
		const json_t *step = json_is_array(members) ? json_array_get(members, i) : json;
		const char *type = json_string_value(json_object_get(step, "type"));
		if (type && strcmp(type, "Precompiled") == 0)
			return tn_normalizer_read(&t->normalizer, step, files->where, err);
	}
	return TN_OK;
}

static tn_status build_unigram(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, uint32_t unk_id, int prefix,
			       struct tn_error *err)
{
	TN_TRY(keep_character_map(t, files, err));
	t->model.unk = NULL;
	t->model.unk_bytes = 0;
	t->model.byte_fallback = 0;
	t->model.unk_id = unk_id;
	TN_TRY(tn_pretokenizer_add_whitespace_split(&t->pre, err));
	TN_TRY(tn_pretokenizer_add_metaspace(&t->pre, prefix ? TN_PREPEND_ALWAYS : TN_PREPEND_NEVER, 1, err));
	return add_metaspace_decoder(t, prefix, err);
}

static tn_status build_t5(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	return build_unigram(t, files, 2, 1, err);
}

static tn_status build_xlm_roberta(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	return build_unigram(t, files, 3, flag(files, "add_prefix_space", 1), err);
}

static tn_status build_bert(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	int lower = flag(files, "do_lower_case", 1), chinese = flag(files, "tokenize_chinese_chars", 1);
	struct tn_decode_step decode = { .kind = TN_DECODE_WORDPIECE, .text = "##", .bytes = 2, .cleanup = 1 };
	TN_TRY(set_unknown(t, files, "[UNK]", err));
	t->model.prefix = "##";
	t->model.prefix_bytes = 2;
	t->model.longest_word = 100;
	TN_TRY(tn_normalizer_add_bert(&t->normalizer, 1, chinese, flag(files, "strip_accents", lower), lower, err));
	TN_TRY(tn_pretokenizer_add_bert(&t->pre, err));
	return tn_detokenizer_add(&t->decoder, &decode, err);
}

static const char *const code_llama_tokens[] = { MARK "<PRE>", MARK "<MID>", MARK "<SUF>", MARK "<EOT>", "<FILL_ME>", NULL };

const struct tn_tokenizer_class tn_tokenizer_classes[] = {
	{ .name = "LlamaTokenizer", .kind = TN_MODEL_BPE, .build = build_llama, .takes_pieces = 1,
	  .special = { [TN_UNK] = "<unk>", [TN_BOS] = "<s>", [TN_EOS] = "</s>" } },
	{ .name = "CodeLlamaTokenizer", .kind = TN_MODEL_BPE, .build = build_code_llama, .has_frame = 1, .takes_pieces = 1,
	  .extra = code_llama_tokens,
	  .special = { [TN_UNK] = "<unk>", [TN_BOS] = "<s>", [TN_EOS] = "</s>" } },
	{ .name = "GemmaTokenizer", .kind = TN_MODEL_BPE, .build = build_gemma, .takes_pieces = 1,
	  .special = { [TN_UNK] = "<unk>", [TN_BOS] = "<bos>", [TN_EOS] = "<eos>", [TN_PAD] = "<pad>", [TN_MASK] = "<mask>" } },
	{ .name = "GPT2Tokenizer", .kind = TN_MODEL_BPE, .build = build_gpt2,
	  .special = { [TN_UNK] = "<|endoftext|>", [TN_BOS] = "<|endoftext|>", [TN_EOS] = "<|endoftext|>" } },
	{ .name = "Qwen2Tokenizer", .kind = TN_MODEL_BPE, .build = build_qwen2,
	  .special = { [TN_UNK] = "<|endoftext|>", [TN_EOS] = "<|endoftext|>", [TN_PAD] = "<|endoftext|>" } },
	{ .name = "T5Tokenizer", .kind = TN_MODEL_UNIGRAM, .build = build_t5, .has_frame = 1, .sentinels = 100,
	  .special = { [TN_UNK] = "<unk>", [TN_EOS] = "</s>", [TN_PAD] = "<pad>" } },
	{ .name = "XLMRobertaTokenizer", .kind = TN_MODEL_UNIGRAM, .build = build_xlm_roberta, .has_frame = 1,
	  .special = { [TN_UNK] = "<unk>", [TN_BOS] = "<s>", [TN_EOS] = "</s>", [TN_SEP] = "</s>", [TN_CLS] = "<s>",
		       [TN_PAD] = "<pad>", [TN_MASK] = "<mask>" } },
	{ .name = "BertTokenizer", .kind = TN_MODEL_WORDPIECE, .build = build_bert, .has_frame = 1,
	  .special = { [TN_UNK] = "[UNK]", [TN_SEP] = "[SEP]", [TN_CLS] = "[CLS]", [TN_PAD] = "[PAD]", [TN_MASK] = "[MASK]" } },
};
const size_t tn_tokenizer_class_count = sizeof tn_tokenizer_classes / sizeof *tn_tokenizer_classes;
