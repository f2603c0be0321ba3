/* SPDX-License-Identifier: Apache-2.0 */
/* Quantization configurations from JSON, and back. */
#include "weights/quant_config.h"

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "store/json_doc.h"
#include "store/json_text.h"
#include "weights/format.h"

#include <string.h>

/* ---- values ---------------------------------------------------------------------------------------------- */

static const char *kind_of(const json_t *value)
{
	if (tn_json_number_token(value))
		return "a number";
	switch (json_typeof(value)) {
	case JSON_OBJECT: return "an object";
	case JSON_ARRAY: return "an array";
	case JSON_STRING: return "a string";
	case JSON_INTEGER:
	case JSON_REAL: return "a number";
	case JSON_TRUE: return "true";
	case JSON_FALSE: return "false";
	default: return "null";
	}
}

/* A number, or TN_QUANT_DEFAULT for null and for a missing key. */
static tn_status read_number(const json_t *object, const char *key, const char *where, int32_t *out,
			     struct tn_error *err)
{
	const json_t *value = json_object_get(object, key);
	*out = TN_QUANT_DEFAULT;
	if (!value || json_is_null(value))
		return TN_OK;
	json_int_t n = json_integer_value(value);
	if (!json_is_integer(value) || n < -INT32_MAX || n > INT32_MAX)
		return tn_fail(err, TN_E_FORMAT, where, "`%s` of '%.100s' must be a whole number or null", key, where);
	*out = (int32_t)n;
	return TN_OK;
}

static tn_status read_mode(const json_t *object, const char *where, const char **out, struct tn_error *err)
{
	const json_t *value = json_object_get(object, "mode");
	const char *mode = value && !json_is_null(value) ? json_string_value(value) : "affine";
	if (!mode || tn_json_number_token(value))
		return tn_fail(err, TN_E_FORMAT, where, "`mode` of '%.100s' is %s; a string such as \"affine\" was expected",
			       where, kind_of(value));
	const struct tn_codec *codec = tn_codec_of_mode(mode, NULL);
	if (!codec)
		return tn_fail(
			err, TN_E_FORMAT, where,
			"`mode` of '%.100s' is '%.40s'; \"affine\", \"mxfp4\", \"mxfp8\" or \"nvfp4\" was expected",
			where, mode);
	*out = codec->name;
	return TN_OK;
}

static tn_status read_parameters(const json_t *object, const char *where, struct tn_quantization *out,
				 struct tn_error *err)
{
	*out = (struct tn_quantization){ 0 };
	TN_TRY(read_number(object, "group_size", where, &out->group_size, err));
	TN_TRY(read_number(object, "bits", where, &out->bits, err));
	out->global_scale = json_is_true(json_object_get(object, "global_scale"));
	return read_mode(object, where, &out->mode, err);
}

/* ---- the block of MLX ------------------------------------------------------------------------------------ */

static int is_reserved(const char *key)
{
	/* mlx-swift's list (BaseConfiguration.swift): what stands in the block and is no layer */
	static const char *const keys[] = { "group_size",   "bits",         "mode",
					    "quant_method", "linear_class", "quantization_mode" };
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
		if (strcmp(keys[i], key) == 0)
			return 1;
	return 0;
}

static tn_status add_layer(tn_quant_config *config, const char *layer, const json_t *value, struct tn_error *err)
{
	struct tn_quantization q;
	if (json_is_false(value))
		return tn_quant_config_add(config, layer, NULL, err);
	if (json_is_true(value))
		return TN_OK;
	if (!json_is_object(value))
		return tn_fail(
			err, TN_E_FORMAT, layer,
			"per-layer quantization value at \"%.150s\" must be `false` or a quantization object, got %s",
			layer, kind_of(value));
	TN_TRY(read_parameters(value, layer, &q, err));
	return tn_quant_config_add(config, layer, &q, err);
}

static tn_status read_block(tn_quant_config *config, json_t *block, const char *name, struct tn_error *err)
{
	static const char *const required[] = { "group_size", "bits" };
	if (!json_is_object(block))
		return tn_fail(err, TN_E_FORMAT, name, "`%s` block must be a JSON object, got %s", name,
			       kind_of(block));
	for (int i = 0; i < 2; i++)
		if (!json_object_get(block, required[i]))
			return tn_fail(err, TN_E_FORMAT, name, "`%s` block is missing required key `%s`", name,
				       required[i]);
	TN_TRY(read_parameters(block, name, &config->global, err));
	config->has_global = 1;
	const char *key;
	json_t *value;
	json_object_foreach(block, key, value)
		if (!is_reserved(key))
			TN_TRY(add_layer(config, key, value, err));
	config->block = json_incref(block);
	return TN_OK;
}

/* `quantization_config` of a checkpoint that MLX did not write: what mlx_lm.load makes of its quant_method. */
static tn_status read_foreign(tn_quant_config *config, const char *mode, struct tn_error *err)
{
	config->has_global = 1;
	config->global = (struct tn_quantization){ TN_QUANT_DEFAULT, TN_QUANT_DEFAULT, mode, 0 };
	tn_quantization_resolve(&config->global, NULL);
	config->block = json_pack("{s:i,s:i,s:s}", "group_size", config->global.group_size, "bits", config->global.bits,
				  "mode", config->global.mode);
	return config->block ? TN_OK : tn_fail_nomem(err, "quantization configuration", 1);
}

/* The block that holds for a config.json. *mode is set when it is only named by a quant_method. */
static json_t *choose_block(json_t *root, const char **name, const char **mode)
{
	*mode = NULL;
	*name = "quantization";
	json_t *block = json_object_get(root, "quantization");
	if (block)
		return json_is_null(block) ? NULL : block;
	*name = "quantization_config";
	block = json_object_get(root, "quantization_config");
	if (!block)
		block = json_object_get(json_object_get(root, "text_config"), "quantization_config");
	const char *method = json_string_value(json_object_get(block, "quant_method"));
	if (!method)
		return json_object_get(block, "group_size") && json_object_get(block, "bits") ? block : NULL;
	if (strcmp(method, "mxfp4") != 0 && strcmp(method, "mxfp8") != 0)
		return NULL;
	*mode = strcmp(method, "mxfp4") == 0 ? "mxfp4" : "mxfp8";
	return block;
}

/* Runs one of the readers below over a parsed text. */
static tn_status parse_with(tn_context *ctx, const char *text, const char *where, tn_quant_config **out,
			    tn_status (*read)(tn_quant_config *config, json_t *root, int *absent, struct tn_error *err),
			    struct tn_error *err)
{
	json_t *root;
	tn_quant_config *config;
	int absent = 0;
	TN_TRY(tn_json_parse(ctx, text, strlen(text), where, &root, err));
	tn_status status = tn_quant_config_make(ctx, &config, err);
	if (status == TN_OK) {
		status = read(config, root, &absent, err);
		if (status != TN_OK || absent) {
			tn_quant_config_destroy(config);
			config = NULL;
		}
	}
	json_decref(root);
	if (status == TN_OK)
		*out = config;
	return status;
}

static tn_status read_mlx(tn_quant_config *config, json_t *root, int *absent, struct tn_error *err)
{
	const char *name, *mode;
	json_t *block = choose_block(root, &name, &mode);
	*absent = block == NULL;
	if (!block)
		return TN_OK;
	return mode ? read_foreign(config, mode, err) : read_block(config, block, name, err);
}

tn_status tn_quant_config_parse(tn_context *ctx, const char *config_json, tn_quant_config **out, struct tn_error *err)
{
	return parse_with(ctx, config_json, "config.json", out, read_mlx, err);
}

/* ---- mlx-native ------------------------------------------------------------------------------------------ */

static const struct tn_quantization native_default = { 64, 4, "affine", 0 };

/* The parameters of one object; what is missing comes from `base`, and `bits` must stand there when it is required. */
static tn_status read_native(const json_t *object, const char *where, const struct tn_quantization *base,
			     int require_both, struct tn_quantization *out, struct tn_error *err)
{
	struct tn_quantization q = *base;
	if (require_both && !(json_object_get(object, "bits") && json_object_get(object, "group_size")))
		return tn_fail(err, TN_E_FORMAT, where,
			       "Failed to parse quantization config JSON: '%.100s' needs `bits` and `group_size`",
			       where);
	TN_TRY(read_number(object, "bits", where, &q.bits, err));
	TN_TRY(read_number(object, "group_size", where, &q.group_size, err));
	if (q.bits != TN_QUANT_DEFAULT && (q.bits < 0 || q.bits > UINT8_MAX))
		return tn_fail(err, TN_E_FORMAT, where, "`bits` of '%.100s' is %d; 0 to 255 was expected", where, q.bits);
	if (q.group_size != TN_QUANT_DEFAULT && q.group_size < 0)
		return tn_fail(err, TN_E_FORMAT, where, "`group_size` of '%.100s' is %d, which must not be negative", where,
			       q.group_size);
	if (q.bits == TN_QUANT_DEFAULT)
		q.bits = base->bits;
	if (q.group_size == TN_QUANT_DEFAULT)
		q.group_size = base->group_size;
	TN_TRY(read_mode(object, where, &q.mode, err));
	*out = q;
	return TN_OK;
}

static tn_status read_native_file(tn_quant_config *config, json_t *root, int *absent, struct tn_error *err)
{
	const char *key;
	json_t *value, *per_tensor = json_object_get(root, "per_tensor");
	(void)absent;
	TN_TRY(read_native(root, "quantization_config", &native_default, 0, &config->global, err));
	config->has_global = 1;
	if (per_tensor && !json_is_object(per_tensor))
		return tn_fail(err, TN_E_FORMAT, "per_tensor",
			       "Failed to parse quantization config JSON: `per_tensor` must be an object, got %s",
			       kind_of(per_tensor));
	json_object_foreach(per_tensor, key, value) {
		struct tn_quantization q;
		TN_TRY(read_native(value, key, &native_default, 1, &q, err));
		TN_TRY(tn_quant_config_add(config, key, &q, err));
	}
	config->block = json_incref(root);
	return TN_OK;
}

tn_status tn_quant_config_parse_native(tn_context *ctx, const char *json, tn_quant_config **out, struct tn_error *err)
{
	return parse_with(ctx, json, "quantization_config.json", out, read_native_file, err);
}

static tn_status read_native_model(tn_quant_config *config, json_t *root, int *absent, struct tn_error *err)
{
	const char *key;
	json_t *value, *block = json_object_get(root, "quantization");
	(void)absent;
	if (!block)
		return tn_fail(err, TN_E_FORMAT, "quantization", "No \"quantization\" key in config.json");
	if (!json_is_object(block))
		return tn_fail(err, TN_E_FORMAT, "quantization", "\"quantization\" is not an object");
	TN_TRY(read_native(block, "quantization", &native_default, 0, &config->global, err));
	config->has_global = 1;
	json_object_foreach(block, key, value) {
		struct tn_quantization q;
		if (is_reserved(key) || !json_is_integer(json_object_get(value, "bits")))
			continue;
		TN_TRY(read_native(value, key, &config->global, 0, &q, err));
		TN_TRY(tn_quant_config_add(config, key, &q, err));
	}
	config->block = json_incref(block);
	return TN_OK;
}

tn_status tn_quant_config_parse_native_model(tn_context *ctx, const char *config_json, tn_quant_config **out,
					     struct tn_error *err)
{
	return parse_with(ctx, config_json, "config.json", out, read_native_model, err);
}

typedef tn_status parse_fn(tn_context *ctx, const char *json, tn_quant_config **out, struct tn_error *err);

static tn_status load_with(tn_context *ctx, const char *folder, const char *name, parse_fn *parse, tn_quant_config **out,
			   struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	struct tn_buffer text;
	TN_TRY(tn_path_join(path, folder, name, err));
	TN_TRY(tn_file_read_text(ctx, path, TN_CONFIG_CAP, &text, err));
	tn_status status = parse(ctx, text.data, out, err);
	tn_buffer_release(ctx, &text);
	return status;
}

/* Where both files are missing, it is the first that is missed. */
tn_status tn_quant_config_load_native(tn_context *ctx, const char *folder, tn_quant_config **out, struct tn_error *err)
{
	struct tn_error first;
	tn_status status = load_with(ctx, folder, "quantization_config.json", tn_quant_config_parse_native, out, &first);
	if (status == TN_E_NOTFOUND)
		status = load_with(ctx, folder, "config.json", tn_quant_config_parse_native_model, out, err);
	else if (status != TN_OK)
		return tn_fail_with(err, &first);
	return status == TN_E_NOTFOUND ? tn_fail_with(err, &first) : status;
}

/* ---- writing --------------------------------------------------------------------------------------------- */

static tn_status edit(json_t *root, const tn_quant_config *config, struct tn_error *err)
{
	static const char *const dropped[] = { "_name_or_path", "vision_config" };
	static const char *const blocks[] = { "quantization", "quantization_config" };
	for (int i = 0; i < 2; i++) {
		json_object_del(root, dropped[i]);
		json_object_del(root, blocks[i]);
		if (config && json_object_set(root, blocks[i], config->block) != 0)
			return tn_fail_nomem(err, "config.json", sizeof(void *));
	}
	return TN_OK;
}

tn_status tn_quant_config_write(tn_context *ctx, const char *config_json, const tn_quant_config *config,
				struct tn_buffer *out, struct tn_error *err)
{
	static const struct tn_json_style style = { .indent = 4, .ascii = 1, .sort_keys = 1 };
	json_t *root;
	struct tn_text text;
	struct tn_buffer buffer = { 0 };
	tn_text_init(&text, ctx);
	TN_TRY(tn_json_parse(ctx, config_json, strlen(config_json), "config.json", &root, err));
	tn_status status = edit(root, config, err);
	if (status == TN_OK)
		status = tn_json_add_value(&text, root, &style, err);
	if (status == TN_OK)
		status = tn_buffer_alloc(ctx, text.length + 1, "config.json", &buffer, err);
	if (status == TN_OK) {
		memcpy(buffer.data, text.data, text.length + 1);
		*out = buffer;
	}
	tn_text_release(&text);
	json_decref(root);
	return status;
}
