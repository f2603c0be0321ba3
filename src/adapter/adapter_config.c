/* SPDX-License-Identifier: Apache-2.0 */
/* Settings: PEFT 0.21 (tuners/lora/config.py, 41 keys) and mlx-lm 0.32.2 (lora.py, 30 keys). */
#include "adapter/adapter.h"

#include "base/error.h"
#include "base/file.h"
#include "store/json_doc.h"

#include <string.h>
#include <strings.h>

struct reader {
	const json_t *root;
	const char *where;
};

/* ---- values ---------------------------------------------------------------------------------------------- */

/* null, false, "", [] and {} switch nothing on. */
static int is_active(const json_t *value)
{
	switch (json_typeof(value)) {
	case JSON_NULL: case JSON_FALSE: return 0;
	case JSON_OBJECT: return json_object_size(value) > 0;
	case JSON_ARRAY: return json_array_size(value) > 0;
	case JSON_STRING: return json_string_length(value) > 0;
	default: return 1;
	}
}

static tn_status wrong_type(const struct reader *r, const char *key, const char *expected, struct tn_error *err)
{
	return tn_fail(err, TN_E_FORMAT, r->where, "'%s' in '%s' is not %s", key, r->where, expected);
}

/* Numbers are read leniently: a float may stand as an integer. */
static tn_status get_number(const struct reader *r, const json_t *object, const char *key, double fallback, double *out,
			    struct tn_error *err)
{
	const json_t *value = json_object_get(object, key);
	if (value && !json_is_null(value) && !json_is_number(value))
		return wrong_type(r, key, "a number", err);
	*out = value && json_is_number(value) ? json_number_value(value) : fallback;
	return TN_OK;
}

static tn_status get_rank(const struct reader *r, const json_t *object, const char *key, uint64_t *out,
			  struct tn_error *err)
{
	double rank = 0;
	TN_TRY(get_number(r, object, key, 8, &rank, err));
	if (!(rank >= 1 && rank <= 1e9) || rank != (double)(uint64_t)rank)
		return tn_fail(err, TN_E_FORMAT, r->where, "'%s' in '%s' is %g; a rank is a whole number from 1", key, r->where,
			       rank);
	*out = (uint64_t)rank;
	return TN_OK;
}

/* ---- PEFT ------------------------------------------------------------------------------------------------ */

/* Keys that the reader uses, and keys that change nothing about the weights that are there. */
static const char *const peft_harmless[] = {
	"peft_type", "r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules", "layers_to_transform",
	"layers_pattern", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
	"inference_mode", "lora_dropout", "init_lora_weights", "eva_config", "corda_config", "lora_ga_config", "loftq_config",
	"velora_config", "monteclora_config", "megatron_config", "megatron_core", "runtime_config", "qalora_group_size",
	"ensure_weight_tying", "bias", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "lora_bias",
	"modules_to_save",
};

/* Initialisations whose adapter belongs to an altered base. */
static const char *const peft_base_changing[] = { "pissa", "olora", "corda", "loftq", "lora_ga" };

static tn_status check_init(const struct reader *r, struct tn_error *err)
{
	const char *init = json_string_value(json_object_get(r->root, "init_lora_weights"));
	for (size_t i = 0; init && i < sizeof peft_base_changing / sizeof *peft_base_changing; i++)
		if (strncasecmp(init, peft_base_changing[i], strlen(peft_base_changing[i])) == 0)
			return tn_fail(err, TN_E_UNSUPPORTED, r->where,
				       "init_lora_weights is '%s': the adapter belongs to a base that PEFT altered when training "
				       "began; convert it with PEFT's path_initial_model_for_weight_conversion",
				       init);
	return TN_OK;
}

static tn_status check_peft_keys(const struct reader *r, struct tn_error *err)
{
	const char *key;
	json_t *value;
	json_object_foreach((json_t *)(uintptr_t)r->root, key, value) {
		int harmless = !is_active(value);
		for (size_t i = 0; i < sizeof peft_harmless / sizeof *peft_harmless && !harmless; i++)
			harmless = strcmp(key, peft_harmless[i]) == 0;
		if (!harmless)
			return tn_fail(err, TN_E_UNSUPPORTED, r->where,
				       "'%s' is set in '%s', and tenon does not apply it; leaving it out would give another model",
				       key, r->where);
	}
	static const char *const refused[] = { "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern", "lora_bias",
					       "modules_to_save" };
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
		value = json_object_get(r->root, refused[i]);
		if (value && is_active(value))
			return tn_fail(err, TN_E_UNSUPPORTED, r->where, "'%s' is set in '%s', and tenon does not apply it yet",
				       refused[i], r->where);
	}
	const char *bias = json_string_value(json_object_get(r->root, "bias"));
	if (bias && strcmp(bias, "none") != 0)
		return tn_fail(err, TN_E_UNSUPPORTED, r->where, "bias is '%s' in '%s', and tenon does not apply it yet", bias,
			       r->where);
	return check_init(r, err);
}

static tn_status read_peft(const struct reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *type = json_object_get(r->root, "peft_type");
	if (type && (!json_is_string(type) || strcasecmp(json_string_value(type), "LORA") != 0))
		return tn_fail(err, TN_E_UNSUPPORTED, r->where, "peft_type is '%s' in '%s'; LORA was expected",
			       json_is_string(type) ? json_string_value(type) : "not a string", r->where);
	out->dialect = TN_DIALECT_PEFT;
	TN_TRY(get_rank(r, r->root, "r", &out->rank, err));
	TN_TRY(get_number(r, r->root, "lora_alpha", 8, &out->alpha, err));
	out->use_rslora = json_is_true(json_object_get(r->root, "use_rslora"));
	return check_peft_keys(r, err);
}

/* ---- mlx-lm ---------------------------------------------------------------------------------------------- */

static tn_status read_mlx(const struct reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *type = json_object_get(r->root, "fine_tune_type");
	const char *name = type ? json_string_value(type) : "lora";
	if (!name || strcmp(name, "lora") != 0)
		return tn_fail(err, TN_E_UNSUPPORTED, r->where,
			       "fine_tune_type is '%s' in '%s', and tenon applies 'lora' only as yet", name ? name : "not a string",
			       r->where);
	const json_t *parameters = json_object_get(r->root, "lora_parameters");
	if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
		return wrong_type(r, "lora_parameters", "an object", err);
	if (json_is_true(json_object_get(r->root, "use_dora")))
		return tn_fail(err, TN_E_UNSUPPORTED, r->where, "use_dora is set in '%s', and tenon does not apply it yet",
			       r->where);
	out->dialect = TN_DIALECT_MLX_LM;
	TN_TRY(get_rank(r, parameters, "rank", &out->rank, err));
	return get_number(r, parameters, "scale", 20, &out->scale, err);
}

/* A config with lora_parameters or fine_tune_type is mlx-lm's, whatever else it has. */
static int is_mlx(const json_t *root)
{
	return json_object_get(root, "lora_parameters") || json_object_get(root, "fine_tune_type");
}

static int is_peft(const json_t *root)
{
	return json_object_get(root, "peft_type") || json_object_get(root, "r") || json_object_get(root, "lora_alpha") ||
	       json_object_get(root, "target_modules");
}

tn_status tn_adapter_config_load(tn_context *ctx, const char *path, struct tn_adapter_config *out, struct tn_error *err)
{
	char file[TN_PATH_BYTES];
	json_t *root;
	TN_TRY(tn_path_join(file, path, "adapter_config.json", err));
	TN_TRY(tn_json_load(ctx, file, &root, err));
	struct reader r = { root, file };
	struct tn_adapter_config config = { 0 };
	tn_status status;
	if (is_mlx(root))
		status = read_mlx(&r, &config, err);
	else if (is_peft(root))
		status = read_peft(&r, &config, err);
	else
		status = tn_fail(err, TN_E_FORMAT, file,
				 "'%s' has neither peft_type, r and target_modules (PEFT) nor lora_parameters (mlx-lm)", file);
	json_decref(root);
	if (status == TN_OK)
		*out = config;
	return status;
}
