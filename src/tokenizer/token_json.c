/* SPDX-License-Identifier: Apache-2.0 */
#include "tokenizer/token_json.h"

#include "base/error.h"

tn_status tn_token_maybe_text(struct tn_arena *arena, const json_t *json, const char *key, const char *owner,
			      const char *where, const char **out, size_t *bytes, struct tn_error *err)
{
	const json_t *value = json_object_get(json, key);
	*out = NULL;
	*bytes = 0;
	if (!value || json_is_null(value))
		return TN_OK;
	if (!json_is_string(value))
		return tn_fail(err, TN_E_FORMAT, where, "'%s' of %s in '%s' is not a text", key, owner, where);
	*bytes = json_string_length(value);
	return tn_arena_text(arena, json_string_value(value), *bytes, out, err);
}

tn_status tn_token_text(struct tn_arena *arena, const json_t *json, const char *key, const char *owner, const char *where,
			const char **out, size_t *bytes, struct tn_error *err)
{
	TN_TRY(tn_token_maybe_text(arena, json, key, owner, where, out, bytes, err));
	if (!*out)
		return tn_fail(err, TN_E_FORMAT, where, "%s in '%s' has no '%s'", owner, where, key);
	return TN_OK;
}

tn_status tn_token_number(const json_t *json, const char *key, const char *owner, const char *where, uint32_t *out,
			  struct tn_error *err)
{
	const json_t *value = json_object_get(json, key);
	json_int_t number = json_is_integer(value) ? json_integer_value(value) : -1;
	if (number < 0 || number >= (json_int_t)UINT32_MAX)
		return tn_fail(err, TN_E_FORMAT, where, "'%s' of %s in '%s' is not a whole number from 0 on", key, owner, where);
	*out = (uint32_t)number;
	return TN_OK;
}
