/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/normalizer.h"

#include "base/error.h"
#include "tokenizer/token_json.h"

#include <string.h>

void tn_normalizer_init(struct tn_normalizer *normalizer, struct tn_arena *arena)
{
	*normalizer = (struct tn_normalizer){ .ctx = arena->ctx, .arena = arena };
}

void tn_normalizer_release(struct tn_normalizer *normalizer)
{
	for (size_t i = 0; i < normalizer->count; i++) {
		tn_pattern_release(&normalizer->steps[i].pattern);
		tn_charsmap_release(&normalizer->steps[i].map);
	}
	tn_free_array(normalizer->ctx, normalizer->steps, normalizer->capacity, sizeof *normalizer->steps);
	*normalizer = (struct tn_normalizer){ .ctx = normalizer->ctx, .arena = normalizer->arena };
}

tn_status tn_normalizer_add(struct tn_normalizer *normalizer, const struct tn_normal_step *step, struct tn_error *err)
{
	TN_TRY(tn_grow(normalizer->ctx, &normalizer->steps, &normalizer->capacity, normalizer->count + 1,
		       sizeof *normalizer->steps, "normalizers", err));
	normalizer->steps[normalizer->count++] = *step;
	return TN_OK;
}

tn_status tn_normalizer_add_replace(struct tn_normalizer *normalizer, const char *from, const char *to, struct tn_error *err)
{
	struct tn_normal_step step = { .kind = TN_NORMAL_REPLACE, .content = to, .content_bytes = strlen(to),
				       .pattern = { .literal = from, .bytes = strlen(from) } };
	return tn_normalizer_add(normalizer, &step, err);
}

static const struct {
	const char *type;
	enum tn_normal_kind kind;
} plain_steps[] = {
	{ "NFC", TN_NORMAL_NFC }, { "NFD", TN_NORMAL_NFD }, { "NFKC", TN_NORMAL_NFKC }, { "NFKD", TN_NORMAL_NFKD },
	{ "Lowercase", TN_NORMAL_LOWERCASE }, { "StripAccents", TN_NORMAL_STRIP_ACCENTS }, { "Nmt", TN_NORMAL_NMT },
	{ "ByteLevel", TN_NORMAL_BYTE_LEVEL },
};

static tn_status add_plain(struct tn_normalizer *normalizer, enum tn_normal_kind kind, struct tn_error *err)
{
	return tn_normalizer_add(normalizer, &(struct tn_normal_step){ .kind = kind }, err);
}

tn_status tn_normalizer_add_bert(struct tn_normalizer *normalizer, int clean, int chinese, int strip_accents, int lower,
				 struct tn_error *err)
{
	if (clean)
		TN_TRY(add_plain(normalizer, TN_NORMAL_CLEAN, err));
	if (chinese)
		TN_TRY(add_plain(normalizer, TN_NORMAL_CHINESE, err));
	if (strip_accents) {
		TN_TRY(add_plain(normalizer, TN_NORMAL_NFD, err));
		TN_TRY(add_plain(normalizer, TN_NORMAL_STRIP_NONSPACING, err));
	}
	return lower ? add_plain(normalizer, TN_NORMAL_LOWERCASE, err) : TN_OK;
}

static tn_status read_bert(struct tn_normalizer *normalizer, const json_t *json, struct tn_error *err)
{
	int lower = tn_token_flag(json, "lowercase", 1);
	return tn_normalizer_add_bert(normalizer, tn_token_flag(json, "clean_text", 1),
				      tn_token_flag(json, "handle_chinese_chars", 1),
				      tn_token_flag(json, "strip_accents", lower), lower, err);
}

static tn_status read_replace(struct tn_normalizer *normalizer, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_normal_step step = { .kind = TN_NORMAL_REPLACE };
	TN_TRY(tn_token_text(normalizer->arena, json, "content", "Replace", where, &step.content, &step.content_bytes, err));
	TN_TRY(tn_pattern_read(normalizer->arena, json_object_get(json, "pattern"), "Replace", where, &step.pattern, err));
	tn_status status = tn_normalizer_add(normalizer, &step, err);
	if (status != TN_OK)
		tn_pattern_release(&step.pattern);
	return status;
}

static tn_status read_precompiled(struct tn_normalizer *normalizer, const json_t *json, const char *where,
				  struct tn_error *err)
{
	struct tn_normal_step step = { .kind = TN_NORMAL_PRECOMPILED };
	const json_t *map = json_object_get(json, "precompiled_charsmap");
	if (json_is_null(map) || (json_is_string(map) && json_string_length(map) == 0))
		return TN_OK;
	if (!json_is_string(map))
		return tn_fail(err, TN_E_FORMAT, where, "the normalizer Precompiled of '%s' has no precompiled_charsmap", where);
	TN_TRY(tn_charsmap_read(normalizer->ctx, json_string_value(map), json_string_length(map), where, &step.map, err));
	tn_status status = tn_normalizer_add(normalizer, &step, err);
	if (status != TN_OK)
		tn_charsmap_release(&step.map);
	return status;
}

static tn_status read_members(struct tn_normalizer *normalizer, const json_t *json, const char *where, struct tn_error *err)
{
	const json_t *members = json_object_get(json, "normalizers");
	if (!json_is_array(members))
		return tn_fail(err, TN_E_FORMAT, where, "the normalizer Sequence of '%s' has no list 'normalizers'", where);
	for (size_t i = 0; i < json_array_size(members); i++)
		TN_TRY(tn_normalizer_read(normalizer, json_array_get(members, i), where, err));
	return TN_OK;
}

tn_status tn_normalizer_read(struct tn_normalizer *normalizer, const json_t *json, const char *where, struct tn_error *err)
{
	if (!json || json_is_null(json))
		return TN_OK;
	const char *type = json_string_value(json_object_get(json, "type"));
	if (!type)
		return tn_fail(err, TN_E_FORMAT, where, "a normalizer of '%s' has no 'type'", where);
	for (size_t i = 0; i < sizeof plain_steps / sizeof *plain_steps; i++)
		if (strcmp(type, plain_steps[i].type) == 0)
			return add_plain(normalizer, plain_steps[i].kind, err);
	if (strcmp(type, "Sequence") == 0)
		return read_members(normalizer, json, where, err);
	if (strcmp(type, "Replace") == 0)
		return read_replace(normalizer, json, where, err);
	if (strcmp(type, "Precompiled") == 0)
		return read_precompiled(normalizer, json, where, err);
	if (strcmp(type, "BertNormalizer") == 0)
		return read_bert(normalizer, json, err);
	struct tn_normal_step step = { .kind = TN_NORMAL_STRIP };
	if (strcmp(type, "Strip") == 0) {
		step.left = tn_token_flag(json, "strip_left", 1);
		step.right = tn_token_flag(json, "strip_right", 1);
		return tn_normalizer_add(normalizer, &step, err);
	}
	if (strcmp(type, "Prepend") == 0) {
		step.kind = TN_NORMAL_PREPEND;
		TN_TRY(tn_token_text(normalizer->arena, json, "prepend", "Prepend", where, &step.content, &step.content_bytes,
				     err));
		return tn_normalizer_add(normalizer, &step, err);
	}
	return tn_fail(err, TN_E_UNSUPPORTED, where, "'%s' uses the normalizer '%.60s', which tenon does not have", where, type);
}
