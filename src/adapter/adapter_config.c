/* SPDX-License-Identifier: Apache-2.0 */
#include "adapter/config.h"

#include "base/error.h"
#include "base/file.h"
#include "store/json_doc.h"

#include <string.h>

/* ---- values ---------------------------------------------------------------------------------------------- */

int tn_config_is_active(const json_t *value)
{
	if (!value)
		return 0;
	switch (json_typeof(value)) {
	case JSON_NULL: case JSON_FALSE: return 0;
	case JSON_OBJECT: return json_object_size(value) > 0;
	case JSON_ARRAY: return json_array_size(value) > 0;
	case JSON_STRING: return json_string_length(value) > 0;
	default: return 1;
	}
}

static tn_status wrong_type(const struct tn_config_reader *r, const char *key, const char *expected, struct tn_error *err)
{
	return tn_fail(err, TN_E_FORMAT, r->where, "'%s' in '%s' is not %s", key, r->where, expected);
}

/* Numbers are read leniently: a float may stand as an integer. */
tn_status tn_config_number(const struct tn_config_reader *r, const json_t *object, const char *key, double fallback,
			   double *out, struct tn_error *err)
{
	const json_t *value = json_object_get(object, key);
	if (value && !json_is_null(value) && !json_is_number(value))
		return wrong_type(r, key, "a number", err);
	*out = value && json_is_number(value) ? json_number_value(value) : fallback;
	return TN_OK;
}

tn_status tn_config_flag(const struct tn_config_reader *r, const json_t *object, const char *key, int *out,
			 struct tn_error *err)
{
	const json_t *value = json_object_get(object, key);
	if (value && !json_is_null(value) && !json_is_boolean(value))
		return wrong_type(r, key, "true or false", err);
	*out = json_is_true(value);
	return TN_OK;
}

tn_status tn_config_rank(const struct tn_config_reader *r, const json_t *object, const char *key, uint64_t *out,
			 struct tn_error *err)
{
	double rank = 0;
	TN_TRY(tn_config_number(r, object, key, 8, &rank, err));
	if (!(rank >= 1 && rank <= 1e9) || rank != (double)(uint64_t)rank)
		return tn_fail(err, TN_E_FORMAT, r->where, "'%s' in '%s' is %g; a rank is a whole number from 1", key, r->where,
			       rank);
	*out = (uint64_t)rank;
	return TN_OK;
}

tn_status tn_config_text(const struct tn_config_reader *r, const char *key, const char **out, struct tn_error *err)
{
	const json_t *value = json_object_get(r->root, key);
	*out = NULL;
	if (!value || json_is_null(value))
		return TN_OK;
	if (!json_is_string(value) || strlen(json_string_value(value)) != json_string_length(value))
		return wrong_type(r, key, "a text", err);
	return tn_arena_text(r->arena, json_string_value(value), json_string_length(value), out, err);
}

tn_status tn_config_regex(const struct tn_config_reader *r, const char *pattern, const char *key, struct tn_regex **out,
			  struct tn_error *err)
{
	return tn_regex_compile(r->arena->ctx, pattern, r->where, key, out, err);
}

tn_status tn_config_names(const struct tn_config_reader *r, const json_t *object, const char *key, int regex_allowed,
			  struct tn_name_rule *out, struct tn_error *err)
{
	const json_t *value = json_object_get(object, key);
	*out = (struct tn_name_rule){ .kind = TN_RULE_ABSENT };
	if (!value || json_is_null(value))
		return TN_OK;
	int is_text = json_is_string(value);
	if (!is_text && !json_is_array(value))
		return wrong_type(r, key, regex_allowed ? "a list of names or a pattern" : "a list of names", err);
	out->kind = is_text && regex_allowed ? TN_RULE_REGEX : TN_RULE_LIST;
	out->count = is_text ? 1 : json_array_size(value);
	TN_TRY(tn_arena_array(r->arena, out->count, sizeof *out->names, &out->names, err));
	for (size_t i = 0; i < out->count; i++) {
		const json_t *item = is_text ? value : json_array_get(value, i);
		if (!json_is_string(item) || strlen(json_string_value(item)) != json_string_length(item))
			return wrong_type(r, key, "a list of names", err);
		TN_TRY(tn_arena_text(r->arena, json_string_value(item), json_string_length(item), &out->names[i], err));
	}
	out->text = out->kind == TN_RULE_REGEX ? out->names[0] : NULL;
	return TN_OK;
}

/* ---- the file -------------------------------------------------------------------------------------------- */

static int has(const json_t *root, const char *key)
{
	const json_t *value = json_object_get(root, key);
	return value && !json_is_null(value);
}

/* lora_parameters or fine_tune_type make it mlx-lm's, whatever else it has; so does the lack of any key of PEFT. null is as good
 * as no key. */
static int is_peft(const json_t *root)
{
	if (has(root, "lora_parameters") || has(root, "fine_tune_type"))
		return 0;
	return has(root, "peft_type") || has(root, "r") || has(root, "lora_alpha") || has(root, "target_modules");
}

/* A name for people, so whatever else stands there is none. */
static tn_status read_base_name(const struct tn_config_reader *r, const char *key, const char **out, struct tn_error *err)
{
	const char *name = json_string_value(json_object_get(r->root, key));
	return name && *name ? tn_arena_text(r->arena, name, strlen(name), out, err) : TN_OK;
}

static tn_status read_root(struct tn_arena *arena, const json_t *root, const char *where, struct tn_adapter_config *out,
			   struct tn_error *err)
{
	struct tn_config_reader r = { arena, root, where };
	*out = (struct tn_adapter_config){ .bias = "none" };
	TN_TRY(is_peft(root) ? tn_config_read_peft(&r, out, err) : tn_config_read_mlx(&r, out, err));
	return read_base_name(&r, is_peft(root) ? "base_model_name_or_path" : "model", &out->base_name, err);
}

tn_status tn_adapter_config_parse(struct tn_arena *arena, const char *text, size_t bytes, const char *where,
				  struct tn_adapter_config *out, struct tn_error *err)
{
	json_t *root;
	*out = (struct tn_adapter_config){ 0 };
	TN_TRY(tn_json_parse(arena->ctx, text, bytes, where, &root, err));
	tn_status status = read_root(arena, root, where, out, err);
	json_decref(root);
	return status;
}

tn_status tn_adapter_config_load(struct tn_arena *arena, const char *path, struct tn_adapter_config *out,
				 struct tn_error *err)
{
	char file[TN_PATH_BYTES];
	json_t *root;
	*out = (struct tn_adapter_config){ 0 };
	TN_TRY(tn_path_join(file, path, "adapter_config.json", err));
	TN_TRY(tn_json_load(arena->ctx, file, &root, err));
	tn_status status = read_root(arena, root, file, out, err);
	json_decref(root);
	return status;
}

static void release_patterns(struct tn_patterns *patterns)
{
	for (size_t i = 0; i < patterns->count && patterns->items; i++)
		tn_regex_free(patterns->items[i].regex);
}

void tn_adapter_config_release(struct tn_adapter_config *c)
{
	release_patterns(&c->ranks);
	release_patterns(&c->alphas);
	tn_regex_free(c->target.regex);
	tn_regex_free(c->exclude.regex);
	for (size_t i = 0; i < c->saved.count && c->saved_regexes; i++)
		tn_regex_free(c->saved_regexes[i]);
	for (size_t i = 0; i < c->layer_pattern_count && c->layer_patterns; i++)
		tn_regex_free(c->layer_patterns[i]);
}
