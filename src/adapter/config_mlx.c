/* SPDX-License-Identifier: Apache-2.0 */
/* mlx-lm 0.32.2 (lora.py writes 30 keys, tuner/utils.py reads three of them), with the defaults of mlx-lm's trainer for
 * absent keys. */
#include "adapter/config.h"

#include "base/error.h"

#include <math.h>
#include <string.h>

static tn_status read_method(const struct tn_config_reader *r, tn_method *out, struct tn_error *err)
{
	static const char *const names[] = { "lora", "dora", "full" };
	const json_t *value = json_object_get(r->root, "fine_tune_type");
	const char *name = value && !json_is_null(value) ? json_string_value(value) : "lora";
	int use_dora;
	TN_TRY(tn_config_flag(r, r->root, "use_dora", &use_dora, err));
	for (int i = 0; name && i < 3; i++)
		if (strcmp(name, names[i]) == 0) {
			*out = i == TN_METHOD_LORA && use_dora ? TN_METHOD_DORA : (tn_method)i;
			return TN_OK;
		}
	return tn_fail(err, TN_E_UNSUPPORTED, r->where, "fine_tune_type is '%s' in '%s'; lora, dora or full was expected",
		       name ? name : "not a text", r->where);
}

/* alpha / rank wins over scale: files that have alpha come from tools that mean it so; mlx-lm itself writes scale only. */
static tn_status read_scale(const struct tn_config_reader *r, const json_t *p, struct tn_adapter_config *out,
			    struct tn_error *err)
{
	const json_t *value = json_object_get(p, "alpha");
	TN_TRY(tn_config_number(r, p, "scale", 20, &out->scale, err));
	TN_TRY(tn_config_number(r, p, "alpha", out->scale * (double)out->rank, &out->alpha, err));
	if (value && !json_is_null(value))
		out->scale = out->alpha / (double)out->rank;
	if (!isfinite(out->scale))
		return tn_fail(err, TN_E_FORMAT, r->where, "the scale in '%s' is not a finite number", r->where);
	return TN_OK;
}

static tn_status read_window(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *value = json_object_get(r->root, "num_layers");
	out->num_layers = 16;
	if (!value || json_is_null(value))
		return TN_OK;
	if (!json_is_integer(value))
		return tn_fail(err, TN_E_FORMAT, r->where, "'num_layers' in '%s' is not a whole number", r->where);
	out->num_layers = json_integer_value(value) > 0 ? json_integer_value(value) : TN_ALL_LAYERS;
	return TN_OK;
}

/* Settings of PEFT that change the result: no mlx-lm file has them. */
static tn_status refuse_foreign(const struct tn_config_reader *r, struct tn_error *err)
{
	static const char *const keys[] = { "use_qalora", "alora_invocation_tokens" };
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (tn_config_is_active(json_object_get(r->root, keys[i])))
			return tn_fail(err, TN_E_UNSUPPORTED, r->where,
				       "'%s' is set in '%s', and an mlx-lm adapter has no such thing", keys[i], r->where);
	return TN_OK;
}

tn_status tn_config_read_mlx(const struct tn_config_reader *r, struct tn_adapter_config *out, struct tn_error *err)
{
	const json_t *p = json_object_get(r->root, "lora_parameters");
	if (p && !json_is_object(p) && !json_is_null(p))
		return tn_fail(err, TN_E_FORMAT, r->where, "'lora_parameters' in '%s' is not an object", r->where);
	out->dialect = TN_DIALECT_MLX_LM;
	TN_TRY(read_method(r, &out->method, err));
	TN_TRY(refuse_foreign(r, err));
	TN_TRY(read_window(r, out, err));
	TN_TRY(tn_config_rank(r, p, "rank", &out->rank, err));
	TN_TRY(read_scale(r, p, out, err));
	TN_TRY(tn_config_number(r, p, "dropout", 0, &out->dropout, err));
	if (!(out->dropout >= 0 && out->dropout < 1))
		return tn_fail(err, TN_E_FORMAT, r->where, "'dropout' in '%s' is %g; 0 to below 1 was expected", r->where,
			       out->dropout);
	if (json_is_string(json_object_get(p, "keys")))
		return tn_fail(err, TN_E_FORMAT, r->where, "'keys' in '%s' is a text; a list of names was expected", r->where);
	TN_TRY(tn_config_names(r, p, "keys", 0, &out->keys, err));
	out->has_keys = out->keys.kind != TN_RULE_ABSENT;
	return TN_OK;
}
