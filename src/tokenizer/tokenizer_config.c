/* SPDX-License-Identifier: Apache-2.0 */
/* What tokenizer_config.json and its neighbours change, as transformers' AutoTokenizer does it. */
#include "base/error.h"
#include "store/json_doc.h"
#include "tokenizer/token_json.h"
#include "tokenizer/tokenizer_class.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the class ------------------------------------------------------------------------------------------- */

/* Models for which transformers follows tokenizer.json whatever class is named. */
static const char *const plain_models[] = {
	"arctic", "ernie4_5", "ernie4_5_moe", "flex_olmo", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt_bigcode", "granite",
	"granitemoe", "granitemoehybrid", "granitemoeshared", "hyperclovax", "internlm2", "internlm3", "jamba", "minicpm3",
	"minimax_m2", "ministral", "ministral3", "mistral", "mistral3", "mixtral", "nemotron", "olmo2", "olmo3", "olmo_hybrid",
	"persimmon", "phi3", "phimoe", "stablelm",
};

/* The class where none is named. */
static const struct {
	const char *model, *name;
} classes_by_model[] = {
	{ "bert", "BertTokenizer" }, { "gemma", "GemmaTokenizer" },
	{ "gemma2", "GemmaTokenizer" }, { "gemma3", "GemmaTokenizer" }, { "gemma3_text", "GemmaTokenizer" },
	{ "gpt2", "GPT2Tokenizer" }, { "gpt_neo", "GPT2Tokenizer" }, { "gptj", "GPT2Tokenizer" }, { "opt", "GPT2Tokenizer" },
	{ "phi", "GPT2Tokenizer" }, { "qwen2", "Qwen2Tokenizer" }, { "qwen2_moe", "Qwen2Tokenizer" },
	{ "qwen3", "Qwen2Tokenizer" }, { "qwen3_moe", "Qwen2Tokenizer" }, { "qwen3_next", "Qwen2Tokenizer" },
	{ "starcoder2", "GPT2Tokenizer" }, { "t5", "T5Tokenizer" }, { "mt5", "T5Tokenizer" },
	{ "xlm-roberta", "XLMRobertaTokenizer" },
};

static const char *class_of_model(const char *model)
{
	for (size_t i = 0; model && i < sizeof classes_by_model / sizeof *classes_by_model; i++)
		if (strcmp(classes_by_model[i].model, model) == 0)
			return classes_by_model[i].name;
	return NULL;
}

static int is_plain_model(const char *model)
{
	for (size_t i = 0; model && i < sizeof plain_models / sizeof *plain_models; i++)
		if (strcmp(plain_models[i], model) == 0)
			return 1;
	return 0;
}

/* 1 when the component, or a member of it, is ByteLevel. */
static int has_byte_level(const json_t *json, const char *members)
{
	const char *type = json_string_value(json_object_get(json, "type"));
	const json_t *list = json_object_get(json, members);
	for (size_t i = 0; i < json_array_size(list); i++)
		if (has_byte_level(json_array_get(list, i), members))
			return 1;
	return type && strcmp(type, "ByteLevel") == 0;
}

static int is_byte_level(const json_t *tokenizer)
{
	return has_byte_level(json_object_get(tokenizer, "pre_tokenizer"), "pretokenizers") ||
	       has_byte_level(json_object_get(tokenizer, "decoder"), "decoders");
}

/* "Fast" is what older versions called the classes that are left. */
static int names_class(const char *name, const char *class_name)
{
	size_t n = strlen(class_name);
	return strncmp(name, class_name, n) == 0 && (!name[n] || strcmp(name + n, "Fast") == 0);
}

static const char *model_of(const struct tn_tokenizer_files *files)
{
	return json_string_value(json_object_get(files->config, "model_type"));
}

static const char *named_class(const struct tn_tokenizer_files *files)
{
	const char *model = model_of(files);
	const char *named = json_string_value(json_object_get(files->tokenizer_config, "tokenizer_class"));
	if (model && strcmp(model, "qwen2") == 0)
		return "Qwen2Tokenizer"; /* whatever is named: published folders name others by mistake */
	return named ? named : json_string_value(json_object_get(files->config, "tokenizer_class"));
}

static const char *class_name_of(const struct tn_tokenizer_files *files)
{
	const char *model = model_of(files), *named = named_class(files);
	if (!named)
		return files->tokenizer_config ? class_of_model(model) : NULL;
	if (is_plain_model(model) || (names_class(named, "LlamaTokenizer") && is_byte_level(files->tokenizer)))
		return NULL;
	return named;
}

const struct tn_tokenizer_class *tn_tokenizer_class_of(const struct tn_tokenizer_files *files, enum tn_model_kind kind)
{
	const char *name = class_name_of(files);
	for (size_t i = 0; name && i < tn_tokenizer_class_count; i++)
		if (names_class(name, tn_tokenizer_classes[i].name) && tn_tokenizer_classes[i].kind == kind)
			return &tn_tokenizer_classes[i];
	return NULL;
}

/* Names that stand for no class of their own, or for one that published folders bring as a program, which asks SentencePiece. */
static int is_plain_class(const char *name)
{
	static const char *const names[] = { "PreTrainedTokenizer", "TokenizersBackend", "LLaMATokenizer", "YiTokenizer",
					     "BaichuanTokenizer", "InternLM2Tokenizer" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (names_class(name, names[i]))
			return 1;
	return 0;
}

static tn_status no_class_of_pieces(const struct tn_tokenizer_files *files, const char *name, const char *why, struct tn_error *err)
{
	return tn_fail(err, TN_E_UNSUPPORTED, files->where, "'%s' goes with the class '%.60s', %s; " TN_WRITE_TOKENIZER_JSON
		       ", or name LlamaTokenizer in tokenizer_config.json if it is a tokenizer of Llama's kind", files->where,
		       name, why);
}

tn_status tn_tokenizer_class_of_pieces(const struct tn_tokenizer_files *files, enum tn_model_kind kind,
				       const struct tn_tokenizer_class **out, struct tn_error *err)
{
	const char *model = model_of(files), *name = named_class(files);
	if (!name)
		name = class_of_model(model);
	*out = NULL;
	if (!name || is_plain_model(model) || is_plain_class(name))
		return TN_OK;
	for (size_t i = 0; i < tn_tokenizer_class_count; i++)
		if (names_class(name, tn_tokenizer_classes[i].name) && tn_tokenizer_classes[i].takes_pieces)
			*out = &tn_tokenizer_classes[i];
	if (!*out)
		return no_class_of_pieces(files, name, "for which tenon reads tokenizer.json only", err);
	return (*out)->kind == kind ? TN_OK : no_class_of_pieces(files, name, "which is made for BPE, and is a Unigram model", err);
}

tn_status tn_tokenizer_class_build(const struct tn_tokenizer_class *c, struct tn_tokenizer *t,
				   const struct tn_tokenizer_files *files, struct tn_error *err)
{
	return c->build(t, files, err);
}

/* ---- special tokens -------------------------------------------------------------------------------------- */

/* special_tokens_map.json counts in folders that older versions wrote. */
static json_t *older_map(const struct tn_tokenizer_files *files)
{
	return json_object_get(files->tokenizer_config, "added_tokens_decoder") ? NULL : files->special_tokens_map;
}

const json_t *tn_tokenizer_named_special(const struct tn_tokenizer_files *files, const char *name)
{
	const json_t *in_map = json_object_get(older_map(files), name);
	return in_map ? in_map : json_object_get(files->tokenizer_config, name);
}

/* Special, with the flags that `token` (NULL: none) gives. */
static struct tn_added_token describe(const json_t *token, const char *text, size_t n)
{
	return (struct tn_added_token){
		.content = text, .bytes = n, .special = 1, .single_word = tn_token_flag(token, "single_word", 0),
		.lstrip = tn_token_flag(token, "lstrip", 0), .rstrip = tn_token_flag(token, "rstrip", 0),
		.normalized = tn_token_flag(token, "normalized", 0),
	};
}

/* 1 for a token that was there before any was named: it keeps its flags. */
static int is_settled(const struct tn_tokenizer *t, const struct tn_added_token *known)
{
	return known && (size_t)(known - t->added.items) < t->added.settled;
}

/* A named token becomes special; of names for the same text the flags of the last count. */
static tn_status ensure_token(struct tn_tokenizer *t, const json_t *token, const char *text, size_t n, const char *where,
			      struct tn_error *err)
{
	const struct tn_added_token *known = tn_added_tokens_find(&t->added, text, n);
	struct tn_added_token added = is_settled(t, known) ? *known : describe(token, text, n);
	added.special = 1;
	added.content = text;
	return tn_added_tokens_put(&t->added, &added, &t->model, where, err);
}

/* The name of a special token where none is given: the class's, or that of a model that is read plainly. */
static struct tn_piece_text default_name(const struct tn_tokenizer_class *c, const struct tn_sentencepiece *pieces,
					 enum tn_special which)
{
	if (c && c->special[which])
		return (struct tn_piece_text){ c->special[which], strlen(c->special[which]) };
	if (!c && pieces && which == TN_BOS && pieces->bos_id >= 0)
		return pieces->bos_piece;
	if (!c && pieces && which == TN_EOS && pieces->eos_id >= 0)
		return pieces->eos_piece;
	if (!c && pieces && which == TN_UNK && pieces->unk_id >= 0)
		return pieces->unk_piece;
	return (struct tn_piece_text){ NULL, 0 };
}

static tn_status add_named(struct tn_tokenizer *t, const struct tn_tokenizer_class *c, enum tn_special which,
			   const struct tn_tokenizer_files *files, struct tn_error *err)
{
	const json_t *named = tn_tokenizer_named_special(files, tn_special_names[which]);
	const json_t *content = json_is_object(named) ? json_object_get(named, "content") : named;
	struct tn_piece_text otherwise = default_name(c, files->pieces, which);
	const char *text = named ? NULL : otherwise.text;
	size_t n = text ? otherwise.bytes : 0;
	if (json_is_string(content) && !tn_json_number_token(content)) {
		text = json_string_value(content);
		n = strlen(text); /* a name ends where C takes it to end */
	}
	if (!text || !n)
		return TN_OK;
	TN_TRY(tn_arena_text(&t->arena, text, n, &t->special[which], err));
	return ensure_token(t, json_is_object(named) ? named : NULL, text, n, files->where, err);
}

/* Names of one folder's own: "image_token": "<image>". */
static tn_status add_own_names(struct tn_tokenizer *t, json_t *config, const char *where, struct tn_error *err)
{
	const char *key;
	json_t *value;
	json_object_foreach(config, key, value) {
		int known = !tn_ends_with(key, "_token") || !json_is_string(value) || tn_json_number_token(value);
		for (int i = 0; !known && i < TN_SPECIAL_COUNT; i++)
			known = strcmp(key, tn_special_names[i]) == 0;
		if (!known)
			TN_TRY(ensure_token(t, NULL, json_string_value(value), json_string_length(value), where, err));
	}
	return TN_OK;
}

/* The further tokens of a folder: lists, the second of the older map, whose tokens are special all; and objects of names. */
struct further {
	json_t *lists[2], *names[2];
	int has_list;    /* even an empty one */
};

static int is_filled(const json_t *json)
{
	return json_array_size(json) || json_object_size(json);
}

/* As transformers does it in this order (_from_pretrained, then __init__ of tokenization_utils_base.py): additional_special_tokens
 * is an older name of extra_special_tokens, which counts where the other is empty; names are no list; the map adds to a list, and
 * its names replace one; where there is no list then, an older name that is left counts. Not beside tokenizer.model, whose given
 * pieces take its place. */
static struct further find_further(const struct tn_tokenizer_files *files)
{
	static const char name[] = "extra_special_tokens", older_name[] = "additional_special_tokens";
	json_t *extra = json_object_get(files->tokenizer_config, name), *in_map = json_object_get(older_map(files), name);
	json_t *older = json_object_get(files->tokenizer_config, older_name);
	json_t *older_in_map = json_object_get(older_map(files), older_name);
	struct further f = { .has_list = 0 };
	if (older && !is_filled(extra)) {
		extra = older;
		older = NULL;
	}
	if (json_is_object(extra))
		f.names[0] = extra;
	else if (!json_is_object(in_map))
		f.lists[0] = extra;
	*(json_is_object(in_map) ? &f.names[1] : &f.lists[1]) = in_map;
	f.has_list = f.lists[0] || f.lists[1];
	if (!f.has_list && !files->pieces)
		f.lists[0] = older_in_map ? older_in_map : older;
	return f;
}

/* A further token that is no name: special where it is said, or where it has a name too. */
static tn_status add_further(struct tn_tokenizer *t, const struct tn_added_token *token, const char *where, struct tn_error *err)
{
	if (is_settled(t, tn_added_tokens_find(&t->added, token->content, token->bytes)))
		return TN_OK;
	return tn_added_tokens_put(&t->added, token, &t->model, where, err);
}

static tn_status add_names(struct tn_tokenizer *t, json_t *names, const char *where, struct tn_error *err)
{
	const char *key;
	json_t *value;
	json_object_foreach(names, key, value)
		if (json_is_string(value))
			TN_TRY(ensure_token(t, NULL, json_string_value(value), json_string_length(value), where, err));
	return TN_OK;
}

static tn_status add_list(struct tn_tokenizer *t, const json_t *list, int all_special, const char *where, struct tn_error *err)
{
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *token = json_array_get(list, i);
		const json_t *content = json_is_object(token) ? json_object_get(token, "content") : token;
		if (!json_is_string(content))
			continue;
		struct tn_added_token added = describe(json_is_object(token) ? token : NULL, json_string_value(content),
						       json_string_length(content));
		if (json_is_object(token))
			added.special = all_special || tn_token_flag(token, "special", 0);
		TN_TRY(add_further(t, &added, where, err));
	}
	return TN_OK;
}

/* What the class brings beside the named ones. */
static tn_status add_class_tokens(struct tn_tokenizer *t, const struct tn_tokenizer_class *c, int has_own, const char *where,
				  struct tn_error *err)
{
	for (size_t i = 0; c->extra && c->extra[i]; i++)
		TN_TRY(ensure_token(t, NULL, c->extra[i], strlen(c->extra[i]), where, err));
	for (unsigned i = 0; !has_own && i < c->sentinels; i++) {
		char text[32];
		int n = snprintf(text, sizeof text, "<extra_id_%u>", i);
		TN_TRY(ensure_token(t, NULL, text, (size_t)n, where, err));
	}
	return TN_OK;
}

struct numbered {
	unsigned long long id;
	const json_t *token;
	const char *name;    /* in its place */
};

static int compare_numbers(const void *a, const void *b)
{
	const struct numbered *x = a, *y = b;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* "added_tokens_decoder": {"32000": {"content": ...}, ...}: its flags win over those of tokenizer.json. */
static tn_status add_numbered(struct tn_tokenizer *t, json_t *decoder, const char *where, struct tn_error *err)
{
	struct numbered *list;
	const char *key;
	json_t *value;
	size_t capacity = json_object_size(decoder), count = 0;
	tn_status status = TN_OK;
	TN_TRY(tn_alloc_array(t->ctx, capacity, sizeof *list, "added tokens", &list, err));
	json_object_foreach(decoder, key, value)
		list[count++] = (struct numbered){ strtoull(key, NULL, 10), value, NULL };
	if (count)
		qsort(list, count, sizeof *list, compare_numbers);
	for (size_t i = 0; status == TN_OK && i < count; i++)
		status = tn_tokenizer_add_token(t, list[i].token, where, err);
	tn_free_array(t->ctx, list, capacity, sizeof *list);
	return status;
}

/* ---- tokens beside tokenizer.model ----------------------------------------------------------------------- */

static int is_text(const json_t *token, const char *text)
{
	const json_t *content = json_is_object(token) ? json_object_get(token, "content") : token;
	return json_is_string(content) && strcmp(json_string_value(content), text) == 0;
}

/* 1 when these files name the text as a special token: where transformers reads added_tokens.json, the objects of
 * tokenizer_config.json are not tokens yet. */
static int is_named(const struct tn_tokenizer_files *files, const struct further *f, const char *text)
{
	int named = 0;
	for (int i = 0; !named && i < TN_SPECIAL_COUNT; i++) {
		const json_t *token = tn_tokenizer_named_special(files, tn_special_names[i]);
		int is_token = json_is_string(token) || token == json_object_get(files->special_tokens_map, tn_special_names[i]);
		named = is_token && is_text(token, text);
	}
	for (int k = 0; k < 2; k++)
		for (size_t i = 0; !named && i < json_array_size(f->lists[k]); i++)
			named = json_is_string(json_array_get(f->lists[k], i)) && is_text(json_array_get(f->lists[k], i), text);
	return named;
}

/* added_tokens.json, which older versions wrote in place of added_tokens_decoder: {"<|im_end|>": 32000, ...}. */
static tn_status add_legacy(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, const struct further *f,
			    struct tn_error *err)
{
	struct numbered *list;
	const char *key;
	json_t *value;
	size_t capacity = json_object_size(files->added_tokens), count = 0;
	tn_status status = TN_OK;
	TN_TRY(tn_alloc_array(t->ctx, capacity, sizeof *list, "added tokens", &list, err));
	json_object_foreach(files->added_tokens, key, value)
		if (json_is_integer(value))
			list[count++] = (struct numbered){ (unsigned long long)json_integer_value(value), NULL, key };
	if (count)
		qsort(list, count, sizeof *list, compare_numbers);
	for (size_t i = 0; status == TN_OK && i < count; i++) {
		struct tn_added_token added = { .content = list[i].name, .bytes = strlen(list[i].name),
						.special = is_named(files, f, list[i].name) };
		added.normalized = !added.special;
		status = tn_added_tokens_put(&t->added, &added, &t->model, files->where, err);
	}
	tn_free_array(t->ctx, list, capacity, sizeof *list);
	return status;
}

/* Pieces that training was given are found whole, unless the folder has a list of such tokens. */
static tn_status add_given_pieces(struct tn_tokenizer *t, const struct tn_tokenizer_files *files, struct tn_error *err)
{
	const struct tn_sentencepiece *model = files->pieces;
	for (size_t i = 0; i < model->count; i++) {
		const struct tn_sentencepiece_piece *piece = &model->pieces[i];
		if (piece->type != TN_PIECE_CONTROL && piece->type != TN_PIECE_USER_DEFINED)
			continue;
		struct tn_added_token added = { .content = piece->text.text, .bytes = piece->text.bytes,
						.special = piece->type == TN_PIECE_CONTROL };
		TN_TRY(add_further(t, &added, files->where, err));
	}
	return TN_OK;
}

/* ---- everything ------------------------------------------------------------------------------------------ */

/* transformers cleans up the texts of BPE only when it is told that this spoils them. */
static void read_clean_up(struct tn_tokenizer *t, const json_t *config)
{
	const char *forced = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output";
	t->clean_up = tn_token_flag(config, "clean_up_tokenization_spaces", 0) &&
		      (t->model.kind != TN_MODEL_BPE || tn_token_flag(config, forced, 0));
}

tn_status tn_tokenizer_add_special(struct tn_tokenizer *t, const struct tn_tokenizer_class *c,
				   const struct tn_tokenizer_files *files, struct tn_error *err)
{
	json_t *config = files->tokenizer_config, *decoder = json_object_get(config, "added_tokens_decoder");
	const struct further f = find_further(files);
	if (json_is_object(decoder))
		TN_TRY(add_numbered(t, decoder, files->where, err));
	else if (files->added_tokens)
		TN_TRY(add_legacy(t, files, &f, err));
	t->added.settled = t->added.count;
	for (int i = 0; i < TN_SPECIAL_COUNT; i++)
		TN_TRY(add_named(t, c, (enum tn_special)i, files, err));
	TN_TRY(add_own_names(t, config, files->where, err));
	TN_TRY(add_own_names(t, older_map(files), files->where, err));
	if (c)
		TN_TRY(add_class_tokens(t, c, json_array_size(f.lists[0]) || json_array_size(f.lists[1]), files->where, err));
	for (int i = 0; i < 2; i++)
		TN_TRY(add_names(t, f.names[i], files->where, err));
	for (int i = 0; i < 2; i++)
		TN_TRY(add_list(t, f.lists[i], i == 1, files->where, err));
	if (files->pieces && !f.has_list)
		TN_TRY(add_given_pieces(t, files, err));
	read_clean_up(t, config);
	return TN_OK;
}

/* ---- the post-processor ---------------------------------------------------------------------------------- */

static uint32_t special_id(const struct tn_tokenizer *t, enum tn_special which)
{
	return t->special[which] ? tn_tokenizer_id_of(t, t->special[which], strlen(t->special[which])) : TN_NO_TOKEN;
}

/* What tokenizer_config.json asks for; a class that brings a frame puts bos in front where nothing is said. */
static tn_status frame_pieces(struct tn_tokenizer *t, const struct tn_tokenizer_class *c, const json_t *config,
			      struct tn_error *err)
{
	const json_t *add_bos = json_object_get(config, "add_bos_token"), *add_eos = json_object_get(config, "add_eos_token");
	int with_bos = add_bos ? json_is_true(add_bos) : c && c->has_frame;
	uint32_t bos = with_bos ? special_id(t, TN_BOS) : TN_NO_TOKEN;
	uint32_t eos = json_is_true(add_eos) ? special_id(t, TN_EOS) : TN_NO_TOKEN;
	return tn_postprocess_around(&t->arena, bos, eos, bos, eos, &t->post, err);
}

tn_status tn_tokenizer_read_frame(struct tn_tokenizer *t, const struct tn_tokenizer_class *c,
				  const struct tn_tokenizer_files *files, struct tn_error *err)
{
	uint32_t bos = special_id(t, TN_BOS), eos = special_id(t, TN_EOS), sep = special_id(t, TN_SEP);
	const char *name = c && c->has_frame ? c->name : "";
	if (files->pieces)
		return frame_pieces(t, c, files->tokenizer_config, err);
	if (strcmp(name, "BertTokenizer") == 0)
		return tn_postprocess_around(&t->arena, special_id(t, TN_CLS), sep, TN_NO_TOKEN, sep, &t->post, err);
	if (strcmp(name, "T5Tokenizer") == 0)
		return tn_postprocess_around(&t->arena, TN_NO_TOKEN, eos, TN_NO_TOKEN, eos, &t->post, err);
	if (strcmp(name, "XLMRobertaTokenizer") == 0)
		return tn_postprocess_around(&t->arena, bos, eos, eos, eos, &t->post, err);
	if (strcmp(name, "CodeLlamaTokenizer") == 0)
		return tn_postprocess_around(&t->arena, bos, TN_NO_TOKEN, bos, TN_NO_TOKEN, &t->post, err);
	return tn_postprocess_read(&t->arena, json_object_get(files->tokenizer, "post_processor"), files->where, &t->post, err);
}
