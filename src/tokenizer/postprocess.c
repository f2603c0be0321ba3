/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/postprocess.h"

#include "base/error.h"
#include "tenon/tokenizer.h"
#include "tokenizer/token_json.h"

#include <string.h>

/* Parts of a template, and ids of one of its tokens; real ones have three or four. Each text gets them all. */
enum { MOST_PARTS = 1024, MOST_IDS = 64 };

static tn_status put_id(struct tn_arena *arena, uint32_t id, struct tn_frame_part *parts, size_t *count, struct tn_error *err)
{
	uint32_t *ids;
	if (id == TN_NO_TOKEN)
		return TN_OK;
	TN_TRY(tn_arena_array(arena, 1, sizeof *ids, &ids, err));
	*ids = id;
	parts[(*count)++] = (struct tn_frame_part){ 0, ids, 1 };
	return TN_OK;
}

tn_status tn_postprocess_around(struct tn_arena *arena, uint32_t first, uint32_t behind, uint32_t between, uint32_t last,
				struct tn_postprocess *out, struct tn_error *err)
{
	struct tn_frame_part *single, *pair;
	size_t singles = 0, pairs = 0;
	TN_TRY(tn_arena_array(arena, 3, sizeof *single, &single, err));
	TN_TRY(tn_arena_array(arena, 6, sizeof *pair, &pair, err));
	TN_TRY(put_id(arena, first, single, &singles, err));
	single[singles++].text = 1;
	TN_TRY(put_id(arena, behind, single, &singles, err));
	memcpy(pair, single, singles * sizeof *pair);
	pairs = singles;
	TN_TRY(put_id(arena, between, pair, &pairs, err));
	pair[pairs++].text = 2;
	TN_TRY(put_id(arena, last, pair, &pairs, err));
	*out = (struct tn_postprocess){ { single, singles }, { pair, pairs } };
	return TN_OK;
}

tn_status tn_postprocess_plain(struct tn_arena *arena, struct tn_postprocess *out, struct tn_error *err)
{
	return tn_postprocess_around(arena, TN_NO_TOKEN, TN_NO_TOKEN, TN_NO_TOKEN, TN_NO_TOKEN, out, err);
}

/* ---- TemplateProcessing ---------------------------------------------------------------------------------- */

static tn_status bad_template(const char *where, struct tn_error *err)
{
	return tn_fail(err, TN_E_FORMAT, where,
		       "the TemplateProcessing of '%s' is damaged: 'single' and 'pair' must be lists of "
		       "{\"Sequence\": {\"id\": \"A\" or \"B\"}} and {\"SpecialToken\": {\"id\": a key of 'special_tokens'}}",
		       where);
}

static tn_status too_many(const char *where, const char *what, size_t count, int most, struct tn_error *err)
{
	return tn_fail(err, TN_E_LIMIT, where, "the TemplateProcessing of '%s' has %zu %s; at most %d are taken", where, count,
		       what, most);
}

static tn_status read_ids(struct tn_arena *arena, const json_t *list, struct tn_frame_part *part, const char *where,
			  struct tn_error *err)
{
	uint32_t *ids;
	part->count = json_array_size(list);
	if (!json_is_array(list))
		return bad_template(where, err);
	if (part->count > MOST_IDS)
		return too_many(where, "ids in one special token", part->count, MOST_IDS, err);
	TN_TRY(tn_arena_array(arena, part->count, sizeof *ids, &ids, err));
	for (size_t i = 0; i < part->count; i++) {
		json_int_t id = json_integer_value(json_array_get(list, i));
		if (!json_is_integer(json_array_get(list, i)) || id < 0 || id >= (json_int_t)TN_NO_TOKEN)
			return bad_template(where, err);
		ids[i] = (uint32_t)id;
	}
	part->ids = ids;
	return TN_OK;
}

static tn_status read_part(struct tn_arena *arena, const json_t *json, const json_t *special, const char *where,
			   struct tn_frame_part *part, struct tn_error *err)
{
	const char *text = json_string_value(json_object_get(json_object_get(json, "Sequence"), "id"));
	const char *token = json_string_value(json_object_get(json_object_get(json, "SpecialToken"), "id"));
	if (text && (strcmp(text, "A") == 0 || strcmp(text, "B") == 0)) {
		part->text = *text == 'A' ? 1 : 2;
		return TN_OK;
	}
	if (!token)
		return bad_template(where, err);
	return read_ids(arena, json_object_get(json_object_get(special, token), "ids"), part, where, err);
}

static tn_status read_frame(struct tn_arena *arena, const json_t *list, const json_t *special, const char *where,
			    struct tn_frame *out, struct tn_error *err)
{
	struct tn_frame_part *parts;
	size_t count = json_array_size(list);
	if (!json_is_array(list))
		return bad_template(where, err);
	if (count > MOST_PARTS)
		return too_many(where, "parts in 'single' or 'pair'", count, MOST_PARTS, err);
	TN_TRY(tn_arena_array(arena, count, sizeof *parts, &parts, err));
	for (size_t i = 0; i < count; i++)
		TN_TRY(read_part(arena, json_array_get(list, i), special, where, &parts[i], err));
	*out = (struct tn_frame){ parts, count };
	return TN_OK;
}

static tn_status read_template(struct tn_arena *arena, const json_t *json, const char *where, struct tn_postprocess *out,
			       struct tn_error *err)
{
	const json_t *special = json_object_get(json, "special_tokens");
	TN_TRY(read_frame(arena, json_object_get(json, "single"), special, where, &out->single, err));
	return read_frame(arena, json_object_get(json, "pair"), special, where, &out->pair, err);
}

/* ---- the others ------------------------------------------------------------------------------------------ */

/* "sep": ["</s>", 2] */
static tn_status read_named_id(const json_t *json, const char *key, const char *type, const char *where, uint32_t *out,
			       struct tn_error *err)
{
	const json_t *id = json_array_get(json_object_get(json, key), 1);
	json_int_t value = json_is_integer(id) ? json_integer_value(id) : -1;
	if (value < 0 || value >= (json_int_t)TN_NO_TOKEN)
		return tn_fail(err, TN_E_FORMAT, where, "%s of '%s' has no '%s' with a token and its id", type, where, key);
	*out = (uint32_t)value;
	return TN_OK;
}

static tn_status read_bert(struct tn_arena *arena, const json_t *json, const char *type, const char *where,
			   struct tn_postprocess *out, struct tn_error *err)
{
	uint32_t cls, sep, between = TN_NO_TOKEN;
	TN_TRY(read_named_id(json, "cls", type, where, &cls, err));
	TN_TRY(read_named_id(json, "sep", type, where, &sep, err));
	if (strcmp(type, "RobertaProcessing") == 0)
		between = sep;
	return tn_postprocess_around(arena, cls, sep, between, sep, out, err);
}

/* Members that move offsets only are passed over; two that add tokens are not done. */
static tn_status read_members(struct tn_arena *arena, const json_t *json, const char *where, struct tn_postprocess *out,
			      struct tn_error *err)
{
	const json_t *members = json_object_get(json, "processors"), *adding = NULL;
	if (!json_is_array(members))
		return tn_fail(err, TN_E_FORMAT, where, "the post-processor Sequence of '%s' has no list 'processors'", where);
	for (size_t i = 0; i < json_array_size(members); i++) {
		const json_t *member = json_array_get(members, i);
		const char *type = json_string_value(json_object_get(member, "type"));
		if (type && strcmp(type, "ByteLevel") == 0)
			continue;
		if (adding)
			return tn_fail(err, TN_E_UNSUPPORTED, where, "the post-processor Sequence of '%s' has two members that "
				       "add tokens, which tenon does not do", where);
		adding = member;
	}
	return adding ? tn_postprocess_read(arena, adding, where, out, err) : tn_postprocess_plain(arena, out, err);
}

tn_status tn_postprocess_read(struct tn_arena *arena, const json_t *json, const char *where, struct tn_postprocess *out,
			      struct tn_error *err)
{
	if (!json || json_is_null(json))
		return tn_postprocess_plain(arena, out, err);
	const char *type = json_string_value(json_object_get(json, "type"));
	if (!type)
		return tn_fail(err, TN_E_FORMAT, where, "the post-processor of '%s' has no 'type'", where);
	if (strcmp(type, "ByteLevel") == 0)
		return tn_postprocess_plain(arena, out, err);
	if (strcmp(type, "TemplateProcessing") == 0)
		return read_template(arena, json, where, out, err);
	if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)
		return read_bert(arena, json, type, where, out, err);
	if (strcmp(type, "Sequence") == 0)
		return read_members(arena, json, where, out, err);
	return tn_fail(err, TN_E_UNSUPPORTED, where, "'%s' uses the post-processor '%.60s', which tenon does not have", where,
		       type);
}

tn_status tn_frame_apply(const struct tn_frame *frame, const struct tn_id_list *a, const struct tn_id_list *b, int special,
			 struct tn_id_list *out, struct tn_error *err)
{
	for (size_t i = 0; i < frame->count; i++) {
		const struct tn_frame_part *part = &frame->parts[i];
		const struct tn_id_list *text = part->text == 1 ? a : b;
		size_t count = part->text ? text ? text->count : 0 : special ? part->count : 0;
		const uint32_t *ids = part->text ? text ? text->items : NULL : part->ids;
		for (size_t k = 0; k < count; k++)
			TN_TRY(tn_id_list_add(out, ids[k], err));
	}
	return TN_OK;
}
