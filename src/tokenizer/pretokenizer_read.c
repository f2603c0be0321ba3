/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/pretokenizer.h"

#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/token_json.h"

#include <string.h>

void tn_pretokenizer_init(struct tn_pretokenizer *pre, struct tn_arena *arena)
{
	*pre = (struct tn_pretokenizer){ .ctx = arena->ctx, .arena = arena };
}

void tn_pretokenizer_release(struct tn_pretokenizer *pre)
{
	for (size_t i = 0; i < pre->count; i++)
		tn_pattern_release(&pre->steps[i].pattern);
	tn_free_array(pre->ctx, pre->steps, pre->capacity, sizeof *pre->steps);
	*pre = (struct tn_pretokenizer){ .ctx = pre->ctx, .arena = pre->arena };
}

tn_status tn_pretokenizer_add(struct tn_pretokenizer *pre, const struct tn_pre_step *step, struct tn_error *err)
{
	TN_TRY(tn_grow(pre->ctx, &pre->steps, &pre->capacity, pre->count + 1, sizeof *pre->steps, "pre-tokenizers", err));
	pre->steps[pre->count++] = *step;
	return TN_OK;
}

/* Takes over the step's pattern. */
static tn_status add_with_pattern(struct tn_pretokenizer *pre, struct tn_pre_step *step, struct tn_error *err)
{
	tn_status status = tn_pretokenizer_add(pre, step, err);
	if (status != TN_OK)
		tn_pattern_release(&step->pattern);
	return status;
}

tn_status tn_pretokenizer_add_byte_level(struct tn_pretokenizer *pre, int add_prefix_space, int use_regex, const char *where,
					 struct tn_error *err)
{
	/* the pattern of GPT-2 */
	static const char words[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
	struct tn_pre_step step = { .kind = TN_PRE_BYTE_LEVEL, .add_prefix_space = add_prefix_space, .use_regex = use_regex };
	if (use_regex)
		TN_TRY(tn_pattern_compile(pre->ctx, words, sizeof words - 1, "ByteLevel", where, &step.pattern, err));
	return add_with_pattern(pre, &step, err);
}

tn_status tn_pretokenizer_add_metaspace(struct tn_pretokenizer *pre, enum tn_prepend prepend, int split,
					struct tn_error *err)
{
	static const char mark[] = "\xE2\x96\x81";
	struct tn_pre_step step = { .kind = TN_PRE_METASPACE, .prepend = prepend, .split = split, .replacement = mark,
				    .replacement_bytes = sizeof mark - 1 };
	return tn_pretokenizer_add(pre, &step, err);
}

static tn_status read_cut(const json_t *json, const char *type, enum tn_cut otherwise, const char *where, enum tn_cut *out,
			  struct tn_error *err)
{
	static const char *const names[] = { [TN_CUT_REMOVED] = "Removed", [TN_CUT_ISOLATED] = "Isolated",
					     [TN_CUT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
					     [TN_CUT_MERGED_WITH_NEXT] = "MergedWithNext",
					     [TN_CUT_CONTIGUOUS] = "Contiguous" };
	const char *name = json_string_value(json_object_get(json, "behavior"));
	*out = otherwise;
	if (!name)
		return TN_OK;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		if (strcmp(name, names[i]) == 0) {
			*out = (enum tn_cut)i;
			return TN_OK;
		}
	}
	return tn_fail(err, TN_E_UNSUPPORTED, where, "the pre-tokenizer %s of '%s' has the behavior '%.60s', which tenon does not "
		       "have", type, where, name);
}

static tn_status read_split(struct tn_pretokenizer *pre, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_pre_step step = { .kind = TN_PRE_SPLIT, .invert = tn_token_flag(json, "invert", 0) };
	TN_TRY(read_cut(json, "Split", TN_CUT_ISOLATED, where, &step.cut, err));
	TN_TRY(tn_pattern_read(pre->arena, json_object_get(json, "pattern"), "Split", where, &step.pattern, err));
	return add_with_pattern(pre, &step, err);
}

/* Older files say add_prefix_space in place of prepend_scheme. */
static tn_status read_prepend(const json_t *json, const char *where, enum tn_prepend *out, struct tn_error *err)
{
	static const char *const names[] = { [TN_PREPEND_NEVER] = "never", [TN_PREPEND_FIRST] = "first",
					     [TN_PREPEND_ALWAYS] = "always" };
	const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
	*out = tn_token_flag(json, "add_prefix_space", 1) ? TN_PREPEND_ALWAYS : TN_PREPEND_NEVER;
	for (size_t i = 0; scheme && i < sizeof names / sizeof *names; i++) {
		if (strcmp(scheme, names[i]) == 0) {
			*out = (enum tn_prepend)i;
			return TN_OK;
		}
	}
	return scheme ? tn_fail(err, TN_E_UNSUPPORTED, where, "the Metaspace of '%s' has the prepend_scheme '%.60s', which tenon "
				"does not have", where, scheme) : TN_OK;
}

static tn_status read_metaspace(struct tn_pretokenizer *pre, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_pre_step step = { .kind = TN_PRE_METASPACE, .split = tn_token_flag(json, "split", 1) };
	TN_TRY(tn_token_text(pre->arena, json, "replacement", "Metaspace", where, &step.replacement, &step.replacement_bytes,
			     err));
	TN_TRY(read_prepend(json, where, &step.prepend, err));
	if (!step.replacement_bytes || tn_char_bytes(step.replacement) != step.replacement_bytes)
		return tn_fail(err, TN_E_FORMAT, where, "the replacement of Metaspace in '%s' is not one character", where);
	return tn_pretokenizer_add(pre, &step, err);
}

static tn_status add_characters(struct tn_pretokenizer *pre, int (*is_delimiter)(int32_t), enum tn_cut cut,
				struct tn_error *err)
{
	struct tn_pre_step step = { .kind = TN_PRE_CHARACTERS, .is_delimiter = is_delimiter, .cut = cut };
	return tn_pretokenizer_add(pre, &step, err);
}

static tn_status read_delimiter(struct tn_pretokenizer *pre, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_pre_step step = { .kind = TN_PRE_CHARACTERS, .cut = TN_CUT_REMOVED };
	const char *text;
	size_t bytes, length;
	TN_TRY(tn_token_text(pre->arena, json, "delimiter", "CharDelimiterSplit", where, &text, &bytes, err));
	step.delimiter = tn_char_at(text, &length);
	if (bytes == 0 || length != bytes)
		return tn_fail(err, TN_E_FORMAT, where, "the delimiter of CharDelimiterSplit in '%s' is not one character", where);
	return tn_pretokenizer_add(pre, &step, err);
}

static tn_status read_members(struct tn_pretokenizer *pre, const json_t *json, const char *where, struct tn_error *err)
{
	const json_t *members = json_object_get(json, "pretokenizers");
	if (!json_is_array(members))
		return tn_fail(err, TN_E_FORMAT, where, "the pre-tokenizer Sequence of '%s' has no list 'pretokenizers'", where);
	for (size_t i = 0; i < json_array_size(members); i++)
		TN_TRY(tn_pretokenizer_read(pre, json_array_get(members, i), where, err));
	return TN_OK;
}

static tn_status read_fixed_length(struct tn_pretokenizer *pre, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_pre_step step = { .kind = TN_PRE_FIXED_LENGTH, .length = 5 };
	if (json_object_get(json, "length"))
		TN_TRY(tn_token_number(json, "length", "FixedLength", where, &step.length, err));
	if (step.length == 0)
		return tn_fail(err, TN_E_FORMAT, where, "the length of FixedLength in '%s' is 0", where);
	return tn_pretokenizer_add(pre, &step, err);
}

tn_status tn_pretokenizer_add_whitespace_split(struct tn_pretokenizer *pre, struct tn_error *err)
{
	return add_characters(pre, tn_char_is_space, TN_CUT_REMOVED, err);
}

tn_status tn_pretokenizer_add_bert(struct tn_pretokenizer *pre, struct tn_error *err)
{
	TN_TRY(tn_pretokenizer_add_whitespace_split(pre, err));
	return add_characters(pre, tn_char_is_punctuation, TN_CUT_ISOLATED, err);
}

static tn_status read_punctuation(struct tn_pretokenizer *pre, const json_t *json, const char *where, struct tn_error *err)
{
	enum tn_cut cut;
	TN_TRY(read_cut(json, "Punctuation", TN_CUT_ISOLATED, where, &cut, err));
	return add_characters(pre, tn_char_is_punctuation, cut, err);
}

tn_status tn_pretokenizer_read(struct tn_pretokenizer *pre, const json_t *json, const char *where, struct tn_error *err)
{
	if (!json || json_is_null(json))
		return TN_OK;
	const char *type = json_string_value(json_object_get(json, "type"));
	if (!type)
		return tn_fail(err, TN_E_FORMAT, where, "a pre-tokenizer of '%s' has no 'type'", where);
	if (strcmp(type, "Sequence") == 0)
		return read_members(pre, json, where, err);
	if (strcmp(type, "ByteLevel") == 0)
		return tn_pretokenizer_add_byte_level(pre, tn_token_flag(json, "add_prefix_space", 1),
						      tn_token_flag(json, "use_regex", 1), where, err);
	if (strcmp(type, "Split") == 0)
		return read_split(pre, json, where, err);
	if (strcmp(type, "Metaspace") == 0)
		return read_metaspace(pre, json, where, err);
	if (strcmp(type, "Whitespace") == 0)
		return tn_pretokenizer_add(pre, &(struct tn_pre_step){ .kind = TN_PRE_WHITESPACE }, err);
	if (strcmp(type, "WhitespaceSplit") == 0)
		return tn_pretokenizer_add_whitespace_split(pre, err);
	if (strcmp(type, "Digits") == 0)
		return add_characters(pre, tn_char_is_numeric,
				      tn_token_flag(json, "individual_digits", 0) ? TN_CUT_ISOLATED : TN_CUT_CONTIGUOUS, err);
	if (strcmp(type, "Punctuation") == 0)
		return read_punctuation(pre, json, where, err);
	if (strcmp(type, "BertPreTokenizer") == 0)
		return tn_pretokenizer_add_bert(pre, err);
	if (strcmp(type, "CharDelimiterSplit") == 0)
		return read_delimiter(pre, json, where, err);
	if (strcmp(type, "FixedLength") == 0)
		return read_fixed_length(pre, json, where, err);
	return tn_fail(err, TN_E_UNSUPPORTED, where, "'%s' uses the pre-tokenizer '%.60s', which tenon does not have", where,
		       type);
}
