/* SPDX-License-Identifier: Apache-2.0 */
/* Quantizing and dequantizing a whole map: which layers, in which order of checks. mlxrs 0.1.0, src/lm/quant.rs
 * (quantize_weights, dequantize_weights). */
#include "weights/array.h"
#include "weights/format.h"
#include "weights/map_change.h"
#include "weights/matrix.h"
#include "weights/weight_map.h"

#include "base/error.h"
#include "base/text.h"

#include <string.h>

/* An array of an entry, which is only read. */
static tn_status view(const struct tn_tensor *t, const void *data, struct tn_array *out, struct tn_error *err)
{
	if (t->rank > TN_ARRAY_RANK)
		return tn_fail(err, TN_E_LIMIT, t->name, "'%.100s' has rank %u, at most %d was expected", t->name,
			       t->rank, TN_ARRAY_RANK);
	*out = tn_array_view(t->dtype, t->rank, t->shape, data);
	return TN_OK;
}

/* ---- quantize -------------------------------------------------------------------------------------------- */

/* Whether the weight is to be quantized, and how. */
static tn_status choose(const struct tn_map_change *c, const tn_quant_config *config,
			const struct tn_quantize_options *options, const struct tn_tensor *weight,
			struct tn_quantization *q, int *chosen, struct tn_error *err)
{
	char layer[TN_NAME_BYTES];
	struct tn_tensor_source source = tn_weight_map_source(c->map);
	tn_triple triple;
	*chosen = 0;
	TN_TRY(tn_triple_judge(&source, config, weight, "quantize_weights", &triple, q, err));
	if (triple == TN_TRIPLE_VALID || !tn_sibling_name(layer, weight->name, ""))
		return TN_OK;
	if (options && options->eligible && !options->eligible(options->user, layer, weight))
		return TN_OK;
	if (tn_quant_config_for_tensor(config, weight->name, q) < TN_QUANT_GLOBAL || weight->rank < 2)
		return TN_OK;
	if (q->group_size < 0)
		return tn_fail(err, TN_E_ARG, layer,
			       "quantize_weights: '%.100s' has group_size %d, which must not be negative", layer,
			       q->group_size);
	*chosen = q->group_size > 0 && weight->shape[weight->rank - 1] % (uint64_t)q->group_size == 0;
	return TN_OK;
}

static tn_status quantize_one(struct tn_map_change *c, const struct tn_tensor *weight, const void *data,
			      const struct tn_quantization *q, tn_flavour flavour, struct tn_error *err)
{
	struct tn_array w;
	struct tn_quantized made = { 0 };
	struct tn_error inner;
	TN_TRY(view(weight, data, &w, err));
	tn_status status = tn_quantize(c->map->ctx, &w, q, NULL, flavour, &made, &inner);
	if (status != TN_OK)
		return tn_fail(err, status, weight->name, "%.120s: %.240s", weight->name, inner.msg);
	status = tn_map_change_add(c, weight->name, ".weight", &made.weight, err);
	if (status == TN_OK)
		status = tn_map_change_add(c, weight->name, ".scales", &made.scales, err);
	if (status == TN_OK)
		status = tn_map_change_add(c, weight->name, ".biases", &made.biases, err);
	tn_quantized_release(c->map->ctx, &made);
	return status;
}

/* All judgements come before the first weight is touched. */
static tn_status quantize_all(struct tn_map_change *c, const tn_quant_config *config,
			      const struct tn_quantize_options *options, struct tn_error *err)
{
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < c->map->count; i++) {
			const void *data;
			const struct tn_tensor *weight = tn_weight_map_at(c->map, i, &data);
			struct tn_quantization q;
			int chosen;
			if (!tn_ends_with(weight->name, ".weight"))
				continue;
			TN_TRY(choose(c, config, options, weight, &q, &chosen, err));
			if (pass && chosen)
				TN_TRY(quantize_one(c, weight, data, &q, options ? options->flavour : TN_FLAVOUR_CPU,
						    err));
		}
	return TN_OK;
}

tn_status tn_quantize_weights(tn_weight_map *map, const tn_quant_config *config,
			      const struct tn_quantize_options *options, struct tn_error *err)
{
	struct tn_map_change c = { .map = map };
	tn_status status = quantize_all(&c, config, options, err);
	if (status == TN_OK)
		status = tn_map_change_commit(&c, err);
	tn_map_change_release(&c);
	return status;
}

/* ---- dequantize ------------------------------------------------------------------------------------------ */

/* `.biases` beside a packed weight without `.scales`; a dense layer may well have `.biases`. */
static tn_status refuse_orphan(const tn_weight_map *map, const struct tn_tensor *weight, struct tn_error *err)
{
	char name[TN_NAME_BYTES];
	if (weight->dtype != TN_U32 || weight->rank < 2)
		return TN_OK;
	if (!tn_sibling_name(name, weight->name, ".biases") || !tn_weight_map_find(map, name, NULL))
		return TN_OK;
	tn_sibling_name(name, weight->name, "");
	return tn_fail(err, TN_E_NOTFOUND, name,
		       "dequantize_weights: '%.100s' is packed and has `.biases`, and '%.100s.scales' is missing; get "
		       "the whole "
		       "checkpoint",
		       weight->name, name);
}

static tn_status check_arity(const char *layer, const struct tn_quantization *q, int has_biases, struct tn_error *err)
{
	const struct tn_codec *codec = tn_codec_of_mode(q->mode, NULL);
	if (codec->has_biases && !has_biases)
		return tn_fail(
			err, TN_E_NOTFOUND, layer,
			"dequantize_weights: '%.100s' is %s, and '%.100s.biases' is missing; get the whole checkpoint",
			layer, q->mode, layer);
	if (!codec->has_biases && has_biases)
		return tn_fail(err, TN_E_FORMAT, layer,
			       "dequantize_weights: '%.100s' is %s, which has no biases, and '%.100s.biases' stands "
			       "there: left over "
			       "from another mode?",
			       layer, q->mode, layer);
	return TN_OK;
}

static tn_status part_view(const tn_weight_map *map, const char *weight_name, const char *suffix, struct tn_array *out,
			   struct tn_error *err)
{
	char name[TN_NAME_BYTES];
	const void *data = NULL;
	*out = (struct tn_array){ 0 };
	if (!tn_sibling_name(name, weight_name, suffix))
		return TN_OK;
	const struct tn_tensor *t = tn_weight_map_find(map, name, &data);
	return t ? view(t, data, out, err) : TN_OK;
}

static tn_status dequantize_one(struct tn_map_change *c, const tn_quant_config *config, const struct tn_tensor *weight,
				const struct tn_dequantize_options *options, struct tn_error *err)
{
	char layer[TN_NAME_BYTES];
	struct tn_quantized m;
	struct tn_quantization q;
	struct tn_array dense;
	struct tn_error inner;
	tn_sibling_name(layer, weight->name, "");
	if (tn_quant_config_for_tensor(config, weight->name, &q) < TN_QUANT_GLOBAL)
		return tn_fail(err, TN_E_MISMATCH, layer,
			       "dequantize_weights: the quantization parameters of '%.100s' must be resolvable (no "
			       "global default "
			       "and no per-layer override)",
			       layer);
	TN_TRY(part_view(c->map, weight->name, ".weight", &m.weight, err));
	TN_TRY(part_view(c->map, weight->name, ".scales", &m.scales, err));
	TN_TRY(part_view(c->map, weight->name, ".biases", &m.biases, err));
	TN_TRY(part_view(c->map, weight->name, ".global_scale", &m.global_scale, err));
	TN_TRY(check_arity(layer, &q, m.biases.data != NULL, err));
	tn_dtype dtype = options ? options->dtype : (tn_dtype)TN_DTYPE_COUNT;
	tn_status status = tn_dequantize(c->map->ctx, &m, &q, dtype, options && options->like_mlx, &dense, &inner);
	if (status != TN_OK)
		return tn_fail(err, status, layer, "%.120s: %.240s", layer, inner.msg);
	status = tn_map_change_add(c, weight->name, ".weight", &dense, err);
	tn_array_release(c->map->ctx, &dense);
	static const char *const siblings[] = { ".scales", ".biases", ".global_scale" };
	for (int i = 0; i < 3 && status == TN_OK; i++)
		status = tn_map_change_remove(c, weight->name, siblings[i], err);
	return status;
}

static tn_status dequantize_all(struct tn_map_change *c, const tn_quant_config *config,
				const struct tn_dequantize_options *options, struct tn_error *err)
{
	char name[TN_NAME_BYTES];
	for (int pass = 0; pass < 2; pass++)
		for (size_t i = 0; i < c->map->count; i++) {
			const struct tn_tensor *weight = tn_weight_map_at(c->map, i, NULL);
			if (!tn_ends_with(weight->name, ".weight") || !tn_sibling_name(name, weight->name, ".scales"))
				continue;
			int triple = tn_weight_map_find(c->map, name, NULL) != NULL;
			if (!pass && !triple)
				TN_TRY(refuse_orphan(c->map, weight, err));
			if (pass && triple)
				TN_TRY(dequantize_one(c, config, weight, options, err));
		}
	return TN_OK;
}

tn_status tn_dequantize_weights(tn_weight_map *map, const tn_quant_config *config,
				const struct tn_dequantize_options *options, struct tn_error *err)
{
	struct tn_map_change c = { .map = map };
	tn_status status = dequantize_all(&c, config, options, err);
	if (status == TN_OK)
		status = tn_map_change_commit(&c, err);
	tn_map_change_release(&c);
	return status;
}
