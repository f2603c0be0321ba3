/* SPDX-License-Identifier: Apache-2.0 */
/* Keys: AutoAWQ 0.2.9 (models/_config.py), AutoGPTQ 0.7.1 and GPTQModel 7.7 (quantization/config.py), transformers 5.23
 * (utils/quantization_config.py), compressed-tensors 0.20 (quantization/quant_config.py), ModelOpt's hf_quant_config.json. */
#include "weights/foreign_config.h"

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "store/json_doc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const struct {
	const char *name;
	enum tn_foreign_method method;
} methods[] = {
	{ "awq", TN_METHOD_AWQ },         { "gptq", TN_METHOD_GPTQ },
	{ "marlin", TN_METHOD_GPTQ },     { "bitsandbytes", TN_METHOD_BNB },
	{ "compressed-tensors", TN_METHOD_CT }, { "fp8", TN_METHOD_FP8 },
	{ "fbgemm_fp8", TN_METHOD_FP8 },  { "modelopt", TN_METHOD_MODELOPT },
	{ "mxfp4", TN_METHOD_MXFP4 },     { "auto-round", TN_METHOD_GPTQ },
	{ "intel/auto-round", TN_METHOD_GPTQ },
};

const char *tn_foreign_method_name(enum tn_foreign_method method)
{
	for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
		if (methods[i].method == method)
			return methods[i].name;
	return "none";
}

/* ---- values ---------------------------------------------------------------------------------------------- */

/* The first of two keys that is there and is not null. */
static json_t *either(const json_t *object, const char *key, const char *other)
{
	json_t *value = json_object_get(object, key);
	if (!value || json_is_null(value))
		value = json_object_get(object, other);
	return json_is_null(value) ? NULL : value;
}

static tn_status number(const json_t *object, const char *key, const char *other, int64_t *out, struct tn_error *err)
{
	const json_t *value = either(object, key, other);
	if (!value)
		return TN_OK;
	json_int_t n = json_integer_value(value);
	if (!json_is_integer(value) || n < -1 || n > (1 << 30))
		return tn_fail(err, TN_E_FORMAT, key, "`%s` of the quantization configuration must be a whole number, -1 or more",
			       key);
	*out = n;
	return TN_OK;
}

/* NULL when neither key is there. What is no text is no word that could be passed over: it would be another layout. */
static tn_status text(const json_t *object, const char *key, const char *other, const char **out, struct tn_error *err)
{
	const json_t *value = either(object, key, other);
	if (value && !json_is_string(value))
		return tn_fail(err, TN_E_FORMAT, key, "`%s` of the quantization configuration is %s; a text was expected, as the "
			       "library writes it, or nothing", key, json_is_number(value) ? "a number" :
			       json_is_boolean(value) ? "true or false" : "a list or an object");
	*out = json_string_value(value);
	return TN_OK;
}

/* 1, 0, or `missing`. */
static int flag(const json_t *object, const char *key, int missing)
{
	const json_t *value = json_object_get(object, key);
	return json_is_boolean(value) ? json_is_true(value) : missing;
}

/* [rows, cols] of a block, or "128x128"; both at least 1. */
static tn_status block_sizes(const json_t *value, const char *key, uint64_t out[2], struct tn_error *err)
{
	const char *text = json_string_value(value);
	long long sizes[2] = { 0, 0 };
	if (text) {
		char *end;
		sizes[0] = strtoll(text, &end, 10);
		sizes[1] = *end == 'x' ? strtoll(end + 1, NULL, 10) : 0;
	} else if (json_array_size(value) == 2) {
		for (size_t i = 0; i < 2; i++)
			sizes[i] = json_integer_value(json_array_get(value, i));
	}
	if (sizes[0] < 1 || sizes[1] < 1 || sizes[0] > 1 << 30 || sizes[1] > 1 << 30)
		return tn_fail(err, TN_E_FORMAT, key, "`%s` must be two sizes of at least 1, rows and columns of a block", key);
	out[0] = (uint64_t)sizes[0];
	out[1] = (uint64_t)sizes[1];
	return TN_OK;
}

/* The index of a text in a list, letters of any case; -1 when it is not there. */
static int listed(const char *text, const char *const *list, int n)
{
	for (int i = 0; i < n; i++)
		if (strcasecmp(text, list[i]) == 0)
			return i;
	return -1;
}

/* ---- one method ------------------------------------------------------------------------------------------ */

static tn_status read_awq(const json_t *q, struct tn_foreign_config *c, struct tn_error *err)
{
	static const char *const versions[] = { "gemm", "gemv", "gemv_fast", "marlin", "exllama", "ipex" };
	const char *version;
	c->bits = 4;
	c->group_size = 128;
	TN_TRY(text(q, "version", "version", &version, err));
	TN_TRY(number(q, "bits", "w_bit", &c->bits, err));
	TN_TRY(number(q, "group_size", "q_group_size", &c->group_size, err));
	c->zero_point = flag(q, "zero_point", 1);
	if (c->bits != 4)
		return tn_fail(err, TN_E_UNSUPPORTED, "bits", "`bits` is %lld; AWQ checkpoints have 4", (long long)c->bits);
	if (c->group_size == 0)
		return tn_fail(err, TN_E_FORMAT, "group_size", "`group_size` is 0; -1 (whole rows) or a size was expected");
	int at = version && *version ? listed(version, versions, 6) : 0;
	if (at < 0)
		return tn_fail(err, TN_E_UNSUPPORTED, "version", "`version` is '%.40s'; the layouts of AWQ are gemm, gemv, "
			       "gemv_fast and marlin", version);
	c->version = at > 3 ? TN_AWQ_GEMM : (enum tn_awq_version)at;
	return TN_OK;
}

static tn_status read_gptq(const json_t *q, struct tn_foreign_config *c, struct tn_error *err)
{
	static const char *const formats[] = { "gptq", "gptq_v2", "gptq_p", "marlin" };
	const char *method = json_string_value(json_object_get(q, "quant_method"));
	const char *format, *pack;
	TN_TRY(text(q, "checkpoint_format", "format", &format, err));
	TN_TRY(text(q, "pack_dtype", "pack_dtype", &pack, err));
	if (!format)
		format = flag(q, "is_marlin_format", 0) || (method && strcmp(method, "marlin") == 0) ? "marlin" : "gptq";
	TN_TRY(number(q, "bits", "w_bit", &c->bits, err));
	TN_TRY(number(q, "group_size", "q_group_size", &c->group_size, err));
	c->sym = flag(q, "sym", -1);
	c->dynamic = json_object_size(json_object_get(q, "dynamic")) > 0;
	int at = listed(format, formats, 4);
	if (at < 0)
		return tn_fail(err, TN_E_UNSUPPORTED, "checkpoint_format", "`checkpoint_format` is '%.40s'; gptq, gptq_v2, "
			       "gptq_p and marlin are read", format);
	if (pack && strcmp(pack, "int32") != 0)
		return tn_fail(err, TN_E_UNSUPPORTED, "pack_dtype", "`pack_dtype` is '%.40s'; int32 is read", pack);
	if (c->bits < 0 || c->bits > 8 || (c->bits && at != TN_GPTQ_P && (c->bits == 1 || (c->bits > 4 && c->bits < 8))))
		return tn_fail(err, TN_E_UNSUPPORTED, "bits", "`bits` is %lld; GPTQ of format %s has 2, 3, 4 or 8",
			       (long long)c->bits, formats[at]);
	c->format = (enum tn_gptq_format)at;
	return TN_OK;
}

/* AutoRound 0.16 (inference/backend.py, export_to_autoround): the layouts of GPTQ v1, v2 and AWQ gemm under names of its own.
 * Layers may differ (`extra_config`). */
static tn_status read_auto_round(const json_t *q, struct tn_foreign_config *c, struct tn_error *err)
{
	static const char *const packings[] = { "auto_round:auto_gptq", "auto_round:gptq", "auto_round", "auto_round:gptqmodel",
						"auto_round:auto_awq", "auto_round:awq" };
	const char *packing, *type;
	int64_t act_bits = 16;
	TN_TRY(text(q, "packing_format", "backend", &packing, err));
	TN_TRY(text(q, "data_type", "data_type", &type, err));
	int at = packing ? listed(packing, packings, 6) : 0;
	if (at < 0)
		return tn_fail(err, TN_E_UNSUPPORTED, "packing_format", "`packing_format` is '%.60s'; of AutoRound "
			       "auto_round:auto_gptq, auto_round:gptqmodel, auto_round and auto_round:auto_awq are read", packing);
	if (type && strcmp(type, "int") != 0)
		return tn_fail(err, TN_E_UNSUPPORTED, "data_type", "`data_type` is '%.40s'; of AutoRound int is read", type);
	TN_TRY(number(q, "act_bits", "act_bits", &act_bits, err));
	if (act_bits > 0 && act_bits < 16)
		return tn_fail(err, TN_E_UNSUPPORTED, "act_bits", "`act_bits` is %lld; of AutoRound weights alone are read",
			       (long long)act_bits);
	if (at >= 4) {
		c->method = TN_METHOD_AWQ;
		TN_TRY(read_awq(q, c, err));
	} else {
		TN_TRY(number(q, "bits", "bits", &c->bits, err));
		TN_TRY(number(q, "group_size", "group_size", &c->group_size, err));
		c->format = at < 2 ? TN_GPTQ_V1 : TN_GPTQ_V2;
		c->sym = flag(q, "sym", -1);
		c->any_width = 1;
	}
	c->dynamic = json_object_size(json_object_get(q, "extra_config")) > 0;
	return TN_OK;
}

static tn_status read_fp8(const json_t *q, struct tn_foreign_config *c, struct tn_error *err)
{
	json_t *block = either(q, "weight_block_size", "weight_block_size");
	return block ? block_sizes(block, "weight_block_size", c->block, err) : TN_OK;
}

static tn_status read_modelopt(const json_t *q, struct tn_error *err)
{
	const char *algo = json_string_value(json_object_get(q, "quant_algo"));
	if (!algo || (strcmp(algo, "NVFP4") != 0 && strcmp(algo, "FP8") != 0))
		return tn_fail(err, TN_E_UNSUPPORTED, "quant_algo", "`quant_algo` is '%.40s'; of ModelOpt NVFP4 and FP8 are read",
			       algo ? algo : "not given");
	return TN_OK;
}

/* ---- compressed-tensors ---------------------------------------------------------------------------------- */

static const char *const ct_formats[] = { "dense", "int-quantized", "float-quantized", "naive-quantized", "pack-quantized",
					  "nvfp4-pack-quantized", "mxfp4-pack-quantized", "mxfp6-pack-quantized",
					  "mxfp8-quantized", "mixed-precision" };

static tn_status read_ct_format(const json_t *object, const char *missing, const char **out, struct tn_error *err)
{
	const char *format;
	TN_TRY(text(object, "format", "format", &format, err));
	int n = (int)(sizeof ct_formats / sizeof *ct_formats), at = format ? listed(format, ct_formats, n) : -1;
	if (format && at < 0)
		return tn_fail(err, TN_E_UNSUPPORTED, "format", "`format` is '%.40s'; of compressed-tensors int-, float-, naive- "
			       "and pack-quantized, nvfp4-, mxfp4- and mxfp6-pack-quantized and mxfp8-quantized are read", format);
	*out = format ? ct_formats[at] : missing;
	return TN_OK;
}

static tn_status read_ct_strategy(const json_t *weights, struct tn_ct_group *g, struct tn_error *err)
{
	static const char *const names[] = { "tensor", "channel", "group", "block", "tensor_group" };
	const char *name;
	TN_TRY(text(weights, "strategy", "strategy", &name, err));
	int at = name ? listed(name, names, 5) : g->group_size > 0 ? TN_CT_GROUP : g->group_size < 0 ? TN_CT_CHANNEL : TN_CT_TENSOR;
	if (at < 0)
		return tn_fail(err, TN_E_UNSUPPORTED, "strategy", "`strategy` is '%.40s'; tensor, channel, group, tensor_group and "
			       "block are read", name);
	g->strategy = at == 4 ? TN_CT_GROUP : (enum tn_ct_strategy)at;
	if (g->strategy == TN_CT_GROUP && g->group_size < 1)
		return tn_fail(err, TN_E_FORMAT, "group_size", "`group_size` is %lld with strategy group; a size was expected",
			       (long long)g->group_size);
	if (g->strategy != TN_CT_BLOCK)
		return TN_OK;
	return block_sizes(json_object_get(weights, "block_structure"), "block_structure", g->block, err);
}

static tn_status read_ct_group(const json_t *group, const char *format, struct tn_ct_group *g, struct tn_error *err)
{
	const json_t *weights = json_object_get(group, "weights");
	const char *type;
	TN_TRY(text(weights, "type", "type", &type, err));
	TN_TRY(read_ct_format(group, format, &g->format, err));
	g->bits = 8;
	TN_TRY(number(weights, "num_bits", "num_bits", &g->bits, err));
	TN_TRY(number(weights, "group_size", "group_size", &g->group_size, err));
	g->is_float = type && strcmp(type, "float") == 0;
	g->symmetric = flag(weights, "symmetric", 1);
	if (g->bits < 1 || g->bits > 8)
		return tn_fail(err, TN_E_UNSUPPORTED, "num_bits", "`num_bits` is %lld; 1 to 8 are read", (long long)g->bits);
	return read_ct_strategy(weights, g, err);
}

static tn_status read_ct(struct tn_arena *arena, const json_t *q, struct tn_foreign_config *c, struct tn_error *err)
{
	json_t *all = json_object_get(q, "config_groups"), *value;
	const char *key, *format, *version = json_string_value(json_object_get(q, "version"));
	struct tn_ct_group *groups;
	int major = 0, minor = 0;
	TN_TRY(read_ct_format(q, ct_formats[9], &format, err));
	c->words_padded = version && sscanf(version, "%d.%d", &major, &minor) == 2 ? major == 0 && minor < 18 : -1;
	TN_TRY(tn_arena_array(arena, json_object_size(all), sizeof *groups, &groups, err));
	c->groups = groups;
	json_object_foreach(all, key, value)
		if (json_is_object(json_object_get(value, "weights")))
			TN_TRY(read_ct_group(value, format, &groups[c->group_count++], err));
	return TN_OK;
}

/* ---- the file -------------------------------------------------------------------------------------------- */

/* Configurations of their own files do not always name their method. */
static const char *method_of(const json_t *q)
{
	const char *name = json_string_value(json_object_get(q, "quant_method"));
	if (name)
		return name;
	if (json_object_get(q, "quant_algo"))
		return "modelopt";
	if (json_object_get(q, "load_in_4bit") || json_object_get(q, "load_in_8bit"))
		return "bitsandbytes";
	if (json_object_get(q, "version") || json_object_get(q, "zero_point"))
		return "awq";
	return json_object_get(q, "desc_act") || json_object_get(q, "sym") ? "gptq" : NULL;
}

static tn_status read_block(struct tn_arena *arena, const json_t *q, const char *file, struct tn_foreign_config *c,
			    struct tn_error *err)
{
	const char *name = method_of(q);
	if (!json_is_object(q))
		return tn_fail(err, TN_E_FORMAT, file, "the quantization configuration in %s is not an object", file);
	c->file = file;
	for (size_t i = 0; name && i < sizeof methods / sizeof *methods; i++)
		if (strcasecmp(name, methods[i].name) == 0)
			c->method = methods[i].method;
	switch (c->method) {
	case TN_METHOD_AWQ: return read_awq(q, c, err);
	case TN_METHOD_GPTQ: return tn_ends_with(name, "auto-round") ? read_auto_round(q, c, err) : read_gptq(q, c, err);
	case TN_METHOD_CT: return read_ct(arena, q, c, err);
	case TN_METHOD_FP8: return read_fp8(q, c, err);
	case TN_METHOD_MODELOPT: return read_modelopt(q, err);
	case TN_METHOD_BNB: case TN_METHOD_MXFP4: return TN_OK;
	default: break;
	}
	return tn_fail(err, TN_E_UNSUPPORTED, "quant_method",
		       "`quant_method` is '%.40s' in %s; awq, gptq, bitsandbytes, "
		       "compressed-tensors, fp8, fbgemm_fp8, modelopt, mxfp4 and auto-round are read. Give the model that it was "
		       "made from, or one that its own library has dequantized",
		       name ? name : "not given", file);
}

/* Files beside config.json, of writers that put it there. */
static tn_status read_side_files(struct tn_arena *arena, const tn_checkpoint *checkpoint, struct tn_foreign_config *c,
				 struct tn_error *err)
{
	static const char *const names[] = { "quantize_config.json", "quant_config.json", "hf_quant_config.json" };
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char path[TN_PATH_BYTES];
		tn_path_kind kind;
		json_t *root;
		TN_TRY(tn_path_join(path, tn_checkpoint_path(checkpoint), names[i], err));
		TN_TRY(tn_path_kind_of(path, &kind, err));
		if (kind != TN_PATH_FILE)
			continue;
		TN_TRY(tn_json_load(arena->ctx, path, &root, err));
		const json_t *inner = json_object_get(root, "quantization");
		tn_status status = read_block(arena, inner ? inner : root, names[i], c, err);
		json_decref(root);
		return status;
	}
	return TN_OK;
}

/* What MLX itself reads is not foreign, unless it names gpt-oss. */
static int is_mlx(const json_t *root, const json_t *q)
{
	const char *method = json_string_value(json_object_get(q, "quant_method"));
	if (json_object_get(root, "quantization") && !json_is_null(json_object_get(root, "quantization")))
		return 1;
	return method ? strcmp(method, "mxfp8") == 0 : method_of(q) == NULL;
}

static json_t *find_block(const json_t *root)
{
	json_t *q = either(root, "quantization_config", "compression_config");
	return q ? q : either(json_object_get(root, "text_config"), "quantization_config", "compression_config");
}

tn_status tn_foreign_config_load(struct tn_arena *arena, const tn_checkpoint *checkpoint, struct tn_foreign_config *out,
				 struct tn_error *err)
{
	const char *text = tn_checkpoint_config(checkpoint);
	json_t *root = NULL;
	*out = (struct tn_foreign_config){ .sym = -1, .words_padded = -1 };
	if (!tn_checkpoint_is_folder(checkpoint))
		return TN_OK;
	if (text)
		TN_TRY(tn_json_parse(arena->ctx, text, strlen(text), "config.json", &root, err));
	const json_t *q = find_block(root);
	tn_status status = TN_OK;
	if (!q && !json_object_get(root, "quantization"))
		status = read_side_files(arena, checkpoint, out, err);
	else if (q && !is_mlx(root, q))
		status = read_block(arena, q, "config.json", out, err);
	json_decref(root);
	return status;
}
