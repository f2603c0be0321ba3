/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/detokenizer.h"

#include "base/error.h"
#include "tokenizer/chars.h"
#include "tokenizer/token_json.h"

#include <string.h>

void tn_detokenizer_init(struct tn_detokenizer *decoder, struct tn_arena *arena)
{
	*decoder = (struct tn_detokenizer){ .ctx = arena->ctx, .arena = arena };
}

void tn_detokenizer_release(struct tn_detokenizer *decoder)
{
	for (size_t i = 0; i < decoder->count; i++)
		tn_pattern_release(&decoder->steps[i].pattern);
	tn_free_array(decoder->ctx, decoder->steps, decoder->capacity, sizeof *decoder->steps);
	*decoder = (struct tn_detokenizer){ .ctx = decoder->ctx, .arena = decoder->arena };
}

tn_status tn_detokenizer_add(struct tn_detokenizer *decoder, const struct tn_decode_step *step, struct tn_error *err)
{
	TN_TRY(tn_grow(decoder->ctx, &decoder->steps, &decoder->capacity, decoder->count + 1, sizeof *decoder->steps, "decoders",
		       err));
	decoder->steps[decoder->count++] = *step;
	decoder->present = 1;
	return TN_OK;
}

/* A step whose `key` is its text. */
static tn_status read_text_step(struct tn_detokenizer *decoder, struct tn_decode_step *step, const json_t *json,
				const char *key, const char *type, const char *where, struct tn_error *err)
{
	TN_TRY(tn_token_text(decoder->arena, json, key, type, where, &step->text, &step->bytes, err));
	return tn_detokenizer_add(decoder, step, err);
}

/* The same for a text that is one character. */
static tn_status read_character_step(struct tn_detokenizer *decoder, struct tn_decode_step *step, const json_t *json,
				     const char *key, const char *type, const char *where, struct tn_error *err)
{
	TN_TRY(tn_token_text(decoder->arena, json, key, type, where, &step->text, &step->bytes, err));
	if (step->bytes == 0 || tn_char_bytes(step->text) != step->bytes)
		return tn_fail(err, TN_E_FORMAT, where, "'%s' of the decoder %s in '%s' is not one character", key, type, where);
	return tn_detokenizer_add(decoder, step, err);
}

static tn_status read_metaspace(struct tn_detokenizer *decoder, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_decode_step step = { .kind = TN_DECODE_METASPACE };
	const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
	step.drop_first = scheme ? strcmp(scheme, "never") != 0 : tn_token_flag(json, "add_prefix_space", 1);
	return read_character_step(decoder, &step, json, "replacement", "Metaspace", where, err);
}

static tn_status read_replace(struct tn_detokenizer *decoder, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_decode_step step = { .kind = TN_DECODE_REPLACE };
	TN_TRY(tn_pattern_read(decoder->arena, json_object_get(json, "pattern"), "Replace", where, &step.pattern, err));
	tn_status status = read_text_step(decoder, &step, json, "content", "Replace", where, err);
	if (status != TN_OK)
		tn_pattern_release(&step.pattern);
	return status;
}

static tn_status read_strip(struct tn_detokenizer *decoder, const json_t *json, const char *where, struct tn_error *err)
{
	struct tn_decode_step step = { .kind = TN_DECODE_STRIP };
	TN_TRY(tn_token_number(json, "start", "Strip", where, &step.start, err));
	TN_TRY(tn_token_number(json, "stop", "Strip", where, &step.stop, err));
	return read_character_step(decoder, &step, json, "content", "Strip", where, err);
}

static tn_status read_members(struct tn_detokenizer *decoder, const json_t *json, const char *where, struct tn_error *err)
{
	const json_t *members = json_object_get(json, "decoders");
	if (!json_is_array(members))
		return tn_fail(err, TN_E_FORMAT, where, "the decoder Sequence of '%s' has no list 'decoders'", where);
	decoder->present = 1;
	for (size_t i = 0; i < json_array_size(members); i++)
		TN_TRY(tn_detokenizer_read(decoder, json_array_get(members, i), where, err));
	return TN_OK;
}

tn_status tn_detokenizer_read(struct tn_detokenizer *decoder, const json_t *json, const char *where, struct tn_error *err)
{
	if (!json || json_is_null(json))
		return TN_OK;
	const char *type = json_string_value(json_object_get(json, "type"));
	if (!type)
		return tn_fail(err, TN_E_FORMAT, where, "a decoder of '%s' has no 'type'", where);
	struct tn_decode_step step = { .kind = TN_DECODE_BYTE_LEVEL };
	if (strcmp(type, "Sequence") == 0)
		return read_members(decoder, json, where, err);
	if (strcmp(type, "ByteLevel") == 0)
		return tn_detokenizer_add(decoder, &step, err);
	if (strcmp(type, "Metaspace") == 0)
		return read_metaspace(decoder, json, where, err);
	if (strcmp(type, "Replace") == 0)
		return read_replace(decoder, json, where, err);
	if (strcmp(type, "Strip") == 0)
		return read_strip(decoder, json, where, err);
	if (strcmp(type, "ByteFallback") == 0 || strcmp(type, "Fuse") == 0) {
		step.kind = *type == 'F' ? TN_DECODE_FUSE : TN_DECODE_BYTE_FALLBACK;
		return tn_detokenizer_add(decoder, &step, err);
	}
	if (strcmp(type, "WordPiece") == 0) {
		step.kind = TN_DECODE_WORDPIECE;
		step.cleanup = tn_token_flag(json, "cleanup", 1);
		return read_text_step(decoder, &step, json, "prefix", "WordPiece", where, err);
	}
	if (strcmp(type, "BPEDecoder") == 0) {
		step.kind = TN_DECODE_SUFFIX;
		return read_text_step(decoder, &step, json, "suffix", "BPEDecoder", where, err);
	}
	return tn_fail(err, TN_E_UNSUPPORTED, where, "'%s' uses the decoder '%.60s', which tenon does not have", where, type);
}
