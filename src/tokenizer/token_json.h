/* Reading the settings of a tokenizer's components. */
#ifndef TN_TOKEN_JSON_H
#define TN_TOKEN_JSON_H

#include "base/arena.h"

#include <jansson.h>

/* A member that is true or false; anything else, and none, is `otherwise`. */
static inline int tn_token_flag(const json_t *json, const char *key, int otherwise)
{
	const json_t *value = json_object_get(json, key);
	return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

/* A text that must be there; `owner` names the component. */
tn_status tn_token_text(struct tn_arena *arena, const json_t *json, const char *key, const char *owner, const char *where,
			const char **out, size_t *bytes, struct tn_error *err);

/* The same for one that may be missing or null: then *out is NULL. */
tn_status tn_token_maybe_text(struct tn_arena *arena, const json_t *json, const char *key, const char *owner,
			      const char *where, const char **out, size_t *bytes, struct tn_error *err);

/* A whole number from 0 to 2^32 - 2 that must be there. */
tn_status tn_token_number(const json_t *json, const char *key, const char *owner, const char *where, uint32_t *out,
			  struct tn_error *err);

#endif
