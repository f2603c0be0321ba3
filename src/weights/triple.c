/* SPDX-License-Identifier: Apache-2.0 */
/* The siblings of a weight: absent, valid, or wrong in a way that is named. Arms and their order: mlxrs 0.1.0,
 * src/lm/quant.rs (classify_triple). */
#include "weights/matrix.h"

#include "base/error.h"
#include "base/text.h"
#include "weights/format.h"

#include <stdio.h>
#include <string.h>

size_t tn_layer_length(const char *weight_name)
{
	size_t n = strlen(weight_name);
	return tn_ends_with(weight_name, ".weight") ? n - 7 : n;
}

int tn_sibling_name(char name[TN_NAME_BYTES], const char *weight_name, const char *suffix)
{
	size_t n = tn_layer_length(weight_name), m = strlen(suffix);
	if (n + m >= TN_NAME_BYTES)
		return 0;
	memcpy(name, weight_name, n);
	memcpy(name + n, suffix, m + 1);
	return 1;
}

static const struct tn_tensor *sibling(const struct tn_tensor_source *source, const struct tn_tensor *weight,
				       const char *suffix)
{
	char name[TN_NAME_BYTES];
	return tn_sibling_name(name, weight->name, suffix) ? source->find(source->self, name) : NULL;
}

struct judged {
	const char *op, *layer;
	const struct tn_tensor *weight, *scales, *biases;
};

/* The parameters that hold for the layer. Without a configuration the scales tell float modes from affine, and nothing
 * more is needed to count the parts. */
static tn_status resolve(const struct judged *j, const tn_quant_config *config, struct tn_quantization *q,
			 struct tn_error *err)
{
	if (!config) {
		*q = (struct tn_quantization){ TN_QUANT_DEFAULT, TN_QUANT_DEFAULT, NULL, 0 };
		q->mode = j->scales->dtype == TN_U8 ? "mxfp4" : "affine";
		return TN_OK;
	}
	switch (tn_quant_config_for_tensor(config, j->weight->name, q)) {
	case TN_QUANT_SKIP:
		return tn_fail(
			err, TN_E_FORMAT, j->layer,
			"%s: '%.100s' has `.scales`, and the configuration marks this layer as not quantized; remove "
			"'%.100s' or the `false`",
			j->op, j->layer, j->scales->name);
	case TN_QUANT_NONE:
		return tn_fail(err, TN_E_MISMATCH, j->layer,
			       "%s: '%.100s' has `.scales`, and the configuration has neither a global default nor an "
			       "override "
			       "for it: its quantization parameters must be resolvable",
			       j->op, j->layer);
	default: return TN_OK;
	}
}

static tn_status check_biases(const struct judged *j, const struct tn_quantization *q, struct tn_error *err)
{
	const struct tn_codec *codec = tn_codec_of_mode(q->mode, NULL);
	if (codec->has_biases && !j->biases)
		return tn_fail(err, TN_E_NOTFOUND, j->layer,
			       "%s: '%.100s' is %s, and '%.100s.biases' is missing beside its `.scales`; get the whole "
			       "checkpoint",
			       j->op, j->layer, q->mode, j->layer);
	if (!codec->has_biases && j->biases)
		return tn_fail(err, TN_E_FORMAT, j->layer,
			       "%s: '%.100s' is %s, which has no biases, and '%.100s' stands there: left over from "
			       "another mode?",
			       j->op, j->layer, q->mode, j->biases->name);
	return TN_OK;
}

static tn_status check_shapes(const struct judged *j, struct tn_error *err)
{
	const struct tn_tensor *w = j->weight, *s = j->scales;
	char of_w[TN_SHAPE_TEXT], of_s[TN_SHAPE_TEXT];
	if (w->dtype != TN_U32)
		return tn_fail(err, TN_E_FORMAT, j->layer,
			       "%s: '%.100s' stands beside `.scales` and is %s, U32 was expected: stale scales beside "
			       "a dense weight",
			       j->op, w->name, tn_dtype_name(w->dtype));
	if (w->rank < 2)
		return tn_fail(err, TN_E_FORMAT, j->layer,
			       "%s: '%.100s' stands beside `.scales` and has rank %u, at least 2 was expected", j->op,
			       w->name, w->rank);
	if (s->rank != w->rank)
		return tn_fail(err, TN_E_FORMAT, j->layer,
			       "%s: '%.100s' has rank %u, and its weight rank %u; both must be equal", j->op, s->name,
			       s->rank, w->rank);
	if (memcmp(s->shape, w->shape, (w->rank - 1) * sizeof *w->shape) != 0)
		return tn_fail(err, TN_E_FORMAT, j->layer,
			       "%s: '%.100s' is %s and its weight %s: all sizes but the last must be equal", j->op,
			       s->name, tn_shape_text(of_s, s->shape, s->rank), tn_shape_text(of_w, w->shape, w->rank));
	return TN_OK;
}

tn_status tn_triple_judge(const struct tn_tensor_source *source, const tn_quant_config *config,
			  const struct tn_tensor *weight, const char *op, tn_triple *out, struct tn_quantization *q,
			  struct tn_error *err)
{
	char layer[TN_NAME_BYTES];
	struct judged j = { .op = op, .layer = layer, .weight = weight };
	if (!tn_sibling_name(layer, weight->name, "")) {
		*out = TN_TRIPLE_ABSENT;
		return TN_OK;
	}
	j.scales = sibling(source, weight, ".scales");
	j.biases = sibling(source, weight, ".biases");
	if (!j.scales && j.biases)
		return tn_fail(err, TN_E_NOTFOUND, layer,
			       "%s: '%.100s' stands there without '%.100s.scales', which a quantized layer always has; "
			       "remove it, or "
			       "get the whole checkpoint",
			       op, j.biases->name, layer);
	*out = j.scales ? TN_TRIPLE_VALID : TN_TRIPLE_ABSENT;
	if (!j.scales)
		return TN_OK;
	TN_TRY(resolve(&j, config, q, err));
	TN_TRY(check_biases(&j, q, err));
	return check_shapes(&j, err);
}
