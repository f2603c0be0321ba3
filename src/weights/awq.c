/* SPDX-License-Identifier: Apache-2.0 */
/* AutoAWQ gemm to MLX's affine triple, in memory. Rules and their order: mlxrs 0.1.0, src/lm/quant.rs
 * (transform_awq_weights). */
#include "tenon/foreign.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/half.h"
#include "base/text.h"
#include "store/json_doc.h"
#include "weights/array.h"
#include "weights/format.h"
#include "weights/map_change.h"
#include "weights/matrix.h"

#include <stdio.h>
#include <string.h>

enum { PER_WORD = 8 };

/* ---- configuration --------------------------------------------------------------------------------------- */

static tn_status read_int(const json_t *root, const char *key, int64_t *out, struct tn_error *err)
{
	const json_t *value = json_object_get(root, key);
	if (value && (!json_is_integer(value) || json_integer_value(value) < 0))
		return tn_fail(err, TN_E_FORMAT, key, "`%s` must be a whole number of at least 0", key);
	if (value)
		*out = json_integer_value(value);
	return TN_OK;
}

static tn_status read_config(const json_t *root, struct tn_awq_config *out, struct tn_error *err)
{
	struct tn_awq_config c = TN_AWQ_CONFIG_INIT;
	const json_t *zero_point = json_object_get(root, "zero_point"), *version = json_object_get(root, "version");
	TN_TRY(read_int(root, "bits", &c.bits, err));
	TN_TRY(read_int(root, "group_size", &c.group_size, err));
	if (zero_point && !json_is_boolean(zero_point))
		return tn_fail(err, TN_E_FORMAT, "zero_point", "`zero_point` must be true or false");
	if (zero_point)
		c.zero_point = json_is_true(zero_point);
	if (version && (!json_is_string(version) || json_string_length(version) >= sizeof c.version))
		return tn_fail(err, TN_E_FORMAT, "version", "`version` must be a text of at most %zu bytes", sizeof c.version - 1);
	if (version)
		memcpy(c.version, json_string_value(version), json_string_length(version) + 1);
	*out = c;
	return TN_OK;
}

tn_status tn_awq_config_parse(tn_context *ctx, const char *json, struct tn_awq_config *out, struct tn_error *err)
{
	json_t *root;
	TN_TRY(tn_json_parse(ctx, json, strlen(json), "quantization_config", &root, err));
	tn_status status = read_config(root, out, err);
	json_decref(root);
	return status;
}

/* ---- codes ----------------------------------------------------------------------------------------------- */

static int is_word(tn_dtype dtype)
{
	return dtype == TN_U32 || dtype == TN_I32;
}

/* Code `column` of a row of words. */
static uint32_t code_at(const unsigned char *row, uint64_t column)
{
	static const unsigned char nibble[PER_WORD] = { 0, 4, 1, 5, 2, 6, 3, 7 };
	uint32_t word;
	memcpy(&word, row + column / PER_WORD * sizeof word, sizeof word);
	return word >> 4 * nibble[column % PER_WORD] & 15u;
}

tn_status tn_unpack_awq_weights(tn_context *ctx, const struct tn_array *qweight, struct tn_array *out, struct tn_error *err)
{
	if (qweight->rank != 2)
		return tn_fail(err, TN_E_FORMAT, "qweight", "unpack_awq_weights: qweight has rank %u; 2 was expected",
			       qweight->rank);
	if (!is_word(qweight->dtype))
		return tn_fail(err, TN_E_FORMAT, "qweight", "unpack_awq_weights: qweight is %s; U32 or I32 was expected",
			       tn_dtype_name(qweight->dtype));
	uint64_t shape[2] = { qweight->shape[0], 0 };
	if (tn_mul_u64(qweight->shape[1], PER_WORD, &shape[1]))
		return tn_fail(err, TN_E_LIMIT, "qweight", "unpack_awq_weights: a row of codes does not fit in 64 bits");
	struct tn_array made;
	TN_TRY(tn_array_make(ctx, TN_U32, 2, shape, "qweight", &made, err));
	uint32_t *codes = made.data;
	for (uint64_t r = 0; r < shape[0]; r++)
		for (uint64_t i = 0; i < shape[1]; i++)
			*codes++ = code_at((const unsigned char *)qweight->data + r * qweight->shape[1] * 4, i);
	*out = made;
	return TN_OK;
}

/* ---- dtypes ---------------------------------------------------------------------------------------------- */

int tn_awq_precision_rank(tn_dtype dtype)
{
	return dtype == TN_F64 ? 4 : dtype == TN_F32 ? 3 : dtype == TN_BF16 ? 2 : dtype == TN_F16 ? 1 : 0;
}

static const struct tn_tensor *sibling(const tn_weight_map *map, const char *qweight, const char *suffix, const void **data)
{
	char name[TN_NAME_BYTES];
	int n = snprintf(name, sizeof name, "%.*s%s", (int)(strlen(qweight) - strlen(".qweight")), qweight, suffix);
	return n > 0 && (size_t)n < sizeof name ? tn_weight_map_find(map, name, data) : NULL;
}

tn_status tn_awq_model_dtype(const tn_weight_map *map, tn_dtype *out, struct tn_error *err)
{
	tn_dtype best = (tn_dtype)TN_DTYPE_COUNT;
	int halves = 0, brains = 0, any = 0;
	for (size_t i = 0; i < tn_weight_map_count(map); i++) {
		const char *name = tn_weight_map_at(map, i, NULL)->name;
		if (!tn_ends_with(name, ".qweight"))
			continue;
		const struct tn_tensor *scales = sibling(map, name, ".scales", NULL);
		if (!scales)
			return tn_fail(err, TN_E_NOTFOUND, name, "transform_awq_weights: '%.120s' has no `.scales` beside it",
				       name);
		halves |= scales->dtype == TN_F16;
		brains |= scales->dtype == TN_BF16;
		if (!any || tn_awq_precision_rank(scales->dtype) > tn_awq_precision_rank(best))
			best = scales->dtype;
		any = 1;
	}
	if (halves && brains && best != TN_F32 && best != TN_F64)
		best = TN_F32;
	*out = best;
	return TN_OK;
}

/* ---- judging --------------------------------------------------------------------------------------------- */

static tn_status check_config(const struct tn_awq_config *c, struct tn_error *err)
{
	if (c->version[0] && strcmp(c->version, "gemm") != 0)
		return tn_fail(err, TN_E_UNSUPPORTED, "version",
			       "transform_awq_weights: `version` is '%s'; only gemm is "
			       "converted here, whole checkpoints of the others by `tenon dequantize` and `tenon convert`",
			       c->version);
	if (c->bits != 4)
		return tn_fail(err, TN_E_ARG, "bits", "transform_awq_weights: `bits` is %lld; 4 was expected", (long long)c->bits);
	if (c->group_size > INT32_MAX)
		return tn_fail(err, TN_E_ARG, "group_size", "transform_awq_weights: `group_size` %lld must fit in 32 bits",
			       (long long)c->group_size);
	return TN_OK;
}

static tn_status check_scales_dtypes(const tn_weight_map *map, struct tn_error *err)
{
	for (size_t i = 0; i < tn_weight_map_count(map); i++) {
		const struct tn_tensor *t = tn_weight_map_at(map, i, NULL);
		if (tn_ends_with(t->name, ".g_idx"))
			return tn_fail(err, TN_E_FORMAT, t->name, "transform_awq_weights: '%.120s' is a g_idx, group numbers of "
				       "GPTQ, which MLX has no place for; dequantize the checkpoint", t->name);
	}
	for (size_t i = 0; i < tn_weight_map_count(map); i++) {
		const struct tn_tensor *t = tn_weight_map_at(map, i, NULL), *scales;
		if (!tn_ends_with(t->name, ".qweight") || !(scales = sibling(map, t->name, ".scales", NULL)))
			continue;
		if (tn_awq_precision_rank(scales->dtype) == 0)
			return tn_fail(err, TN_E_FORMAT, scales->name, "transform_awq_weights: '%.120s' is %s; F16, BF16, F32 "
				       "or F64 was expected", scales->name, tn_dtype_name(scales->dtype));
	}
	return TN_OK;
}

static tn_status expect(const struct tn_tensor *t, int integers, const uint64_t *shape, struct tn_error *err)
{
	char found[TN_SHAPE_TEXT], wanted[TN_SHAPE_TEXT];
	if (integers && !is_word(t->dtype))
		return tn_fail(err, TN_E_FORMAT, t->name, "transform_awq_weights: '%.120s' is %s; U32 or I32 was expected", t->name,
			       tn_dtype_name(t->dtype));
	if (t->rank != 2)
		return tn_fail(err, TN_E_FORMAT, t->name, "transform_awq_weights: '%.120s' has rank %u; 2 was expected", t->name,
			       t->rank);
	if (shape && (t->shape[0] != shape[0] || t->shape[1] != shape[1]))
		return tn_fail(err, TN_E_FORMAT, t->name, "transform_awq_weights: '%.120s' has shape %s; %s was expected", t->name,
			       tn_shape_text(found, t->shape, 2), tn_shape_text(wanted, shape, 2));
	return TN_OK;
}

static tn_status refuse_stale(const tn_weight_map *map, const char *qweight, struct tn_error *err)
{
	static const char *const suffixes[] = { ".weight", ".biases" };
	for (int i = 0; i < 2; i++) {
		const struct tn_tensor *stale = sibling(map, qweight, suffixes[i], NULL);
		if (stale)
			return tn_fail(err, TN_E_FORMAT, stale->name, "transform_awq_weights: '%.100s' stands beside '%.100s' "
				       "and would be overwritten; remove the one that is left over", stale->name, qweight);
	}
	return TN_OK;
}

static tn_status judge(const tn_weight_map *map, const struct tn_tensor *q, const struct tn_awq_config *c,
		       struct tn_error *err)
{
	const struct tn_tensor *scales = sibling(map, q->name, ".scales", NULL), *zeros = sibling(map, q->name, ".qzeros", NULL);
	TN_TRY(refuse_stale(map, q->name, err));
	TN_TRY(expect(q, 1, NULL, err));
	TN_TRY(expect(scales, 0, NULL, err));
	if (c->group_size <= 0)
		return tn_fail(err, TN_E_ARG, "group_size", "transform_awq_weights: `group_size` is %lld, which must be above 0",
			       (long long)c->group_size);
	if (q->shape[0] % (uint64_t)c->group_size != 0 || q->shape[0] % PER_WORD != 0)
		return tn_fail(err, TN_E_FORMAT, q->name,
			       "transform_awq_weights: '%.120s' has %llu inputs, which must be a "
			       "multiple of the group size %lld and of 8",
			       q->name, (unsigned long long)q->shape[0], (long long)c->group_size);
	uint64_t groups = q->shape[0] / (uint64_t)c->group_size, shape[2] = { groups, q->shape[1] * PER_WORD };
	TN_TRY(expect(scales, 0, shape, err));
	return zeros ? expect(zeros, 1, (uint64_t[]){ groups, q->shape[1] }, err) : TN_OK;
}

/* ---- converting ------------------------------------------------------------------------------------------ */

static double load(const void *data, uint64_t i, tn_dtype dtype)
{
	double d;
	float f;
	uint16_t h;
	const unsigned char *at = (const unsigned char *)data + i * (tn_dtype_bits(dtype) / 8);
	switch (dtype) {
	case TN_F64: memcpy(&d, at, sizeof d); return d;
	case TN_F32: memcpy(&f, at, sizeof f); return (double)f;
	default: break;
	}
	memcpy(&h, at, sizeof h);
	return (double)(dtype == TN_BF16 ? tn_f32_from_bf16(h) : tn_f32_from_f16(h));
}

static void store(void *data, uint64_t i, tn_dtype dtype, double x)
{
	unsigned char *at = (unsigned char *)data + i * (tn_dtype_bits(dtype) / 8);
	float f = (float)x;
	uint16_t h = dtype == TN_BF16 ? tn_bf16_from_f32(f) : tn_f16_from_f32(f);
	if (dtype == TN_F64)
		memcpy(at, &x, sizeof x);
	else if (dtype == TN_F32)
		memcpy(at, &f, sizeof f);
	else
		memcpy(at, &h, sizeof h);
}

/* -zero * scale in float32, rounded to the dtype of the scale; without zero points -8 * scale in that dtype. */
static double bias_of(double scale, tn_dtype dtype, const uint32_t *zero)
{
	unsigned char rounded[sizeof(double)];
	double bias = zero ? (double)-((float)*zero * (float)scale) : -8 * scale;
	store(rounded, 0, dtype, bias);
	return load(rounded, 0, dtype);
}

struct sources {
	const struct tn_tensor *q, *scales;
	const void *codes, *scale_data, *zeros; /* zeros NULL: symmetric */
};

static void fill_weight(const struct sources *s, uint32_t *dst)
{
	uint64_t in = s->q->shape[0], words = s->q->shape[1];
	for (uint64_t n = 0; n < words * PER_WORD; n++)
		for (uint64_t k = 0; k < in; k += PER_WORD) {
			uint32_t word = 0;
			for (uint64_t i = 0; i < PER_WORD; i++)
				word |= code_at((const unsigned char *)s->codes + (k + i) * words * 4, n) << 4 * i;
			*dst++ = word;
		}
}

static void fill_scales(const struct sources *s, tn_dtype dtype, void *scales, void *biases)
{
	uint64_t groups = s->scales->shape[0], out = s->scales->shape[1];
	for (uint64_t n = 0; n < out; n++)
		for (uint64_t g = 0; g < groups; g++) {
			double scale = load(s->scale_data, g * out + n, s->scales->dtype);
			uint32_t zero = s->zeros ? code_at((const unsigned char *)s->zeros + g * s->q->shape[1] * 4, n) : 0;
			store(scales, n * groups + g, dtype, scale);
			store(biases, n * groups + g, dtype, bias_of(scale, s->scales->dtype, s->zeros ? &zero : NULL));
		}
}

static tn_status add_triple(struct tn_map_change *c, const char *layer, struct tn_array made[3], struct tn_error *err)
{
	static const char *const suffixes[] = { ".weight", ".scales", ".biases" };
	for (int i = 0; i < 3; i++)
		TN_TRY(tn_map_change_add(c, layer, suffixes[i], &made[i], err));
	TN_TRY(tn_map_change_remove(c, layer, ".qweight", err));
	return tn_map_change_remove(c, layer, ".qzeros", err);
}

static tn_status convert(struct tn_map_change *c, const struct tn_tensor *q, const struct tn_awq_config *config, tn_dtype dtype,
			 struct tn_error *err)
{
	struct sources s = { .q = q };
	struct tn_array made[3] = { { 0 } };
	char layer[TN_NAME_BYTES];
	size_t n = strlen(q->name) - strlen(".qweight");
	if (n >= sizeof layer)
		return tn_fail(err, TN_E_LIMIT, q->name, "the name of a weight has more than %d bytes", TN_NAME_BYTES);
	memcpy(layer, q->name, n);
	layer[n] = '\0';
	tn_weight_map_find(c->map, q->name, &s.codes);
	s.scales = sibling(c->map, q->name, ".scales", &s.scale_data);
	if (config->zero_point && !sibling(c->map, q->name, ".qzeros", &s.zeros))
		s.zeros = NULL;
	uint64_t out = q->shape[1] * PER_WORD, packed[2] = { out, q->shape[0] / PER_WORD };
	uint64_t grouped[2] = { out, s.scales->shape[0] };
	tn_status status = tn_array_make(c->map->ctx, TN_U32, 2, packed, layer, &made[0], err);
	for (int i = 1; i < 3 && status == TN_OK; i++)
		status = tn_array_make(c->map->ctx, dtype, 2, grouped, layer, &made[i], err);
	if (status == TN_OK) {
		fill_weight(&s, made[0].data);
		fill_scales(&s, dtype, made[1].data, made[2].data);
		status = add_triple(c, layer, made, err);
	}
	for (int i = 0; i < 3; i++)
		tn_array_release(c->map->ctx, &made[i]);
	return status;
}

static tn_status convert_all(struct tn_map_change *c, const struct tn_awq_config *config, tn_dtype dtype, struct tn_error *err)
{
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < tn_weight_map_count(c->map); i++) {
			const struct tn_tensor *t = tn_weight_map_at(c->map, i, NULL);
			if (tn_ends_with(t->name, ".qweight"))
				TN_TRY(pass ? convert(c, t, config, dtype, err) : judge(c->map, t, config, err));
		}
	return tn_map_change_commit(c, err);
}

tn_status tn_transform_awq_weights(tn_weight_map *map, const struct tn_awq_config *config, struct tn_quantization *q,
				   struct tn_error *err)
{
	struct tn_map_change c = { .map = map };
	tn_dtype dtype;
	TN_TRY(check_config(config, err));
	TN_TRY(check_scales_dtypes(map, err));
	TN_TRY(tn_awq_model_dtype(map, &dtype, err));
	tn_status status = convert_all(&c, config, dtype, err);
	tn_map_change_release(&c);
	if (status == TN_OK && q)
		*q = (struct tn_quantization){ (int32_t)config->group_size, 4, "affine", 0 };
	return status;
}
