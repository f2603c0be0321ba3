/* SPDX-License-Identifier: Apache-2.0 */
/* What becomes of modules that other libraries packed. */
#include "transform/recode.h"

#include "base/error.h"
#include "store/checkpoint.h"
#include "weights/format.h"

#include <string.h>

tn_status tn_recode_check_foreign(const struct tn_recode *r, struct tn_error *err)
{
	const struct tn_recode_request *q = &r->request;
	struct tn_foreign *f = NULL;
	if (q->dequantize && q->to_mlx)
		return tn_fail(err, TN_E_ARG, "request", "Choose either dense or mlx as the target, not both.");
	if (q->dequantize || q->to_mlx || q->requantize || tn_foreign_set_count(r->foreign) == 0)
		return TN_OK;
	for (size_t i = 0; !f; i++)
		tn_foreign_set_at(r->foreign, i, &f);
	return tn_fail(err, TN_E_UNSUPPORTED, f->weight.name, "'%.120s' is packed as %s; `tenon convert --to mlx` or `--to dense` "
		       "says what becomes of such modules, or `--requantize`", f->weight.name, f->scheme);
}

static void set_mlx(struct tn_recode_step *step, const struct tn_foreign *f, tn_recode_action action)
{
	step->info.action = action;
	step->info.bytes_before = f->weight.bytes;
}

/* The first module gives the default, others that differ get their own entry. */
static tn_status note(struct tn_recode *r, const struct tn_foreign *f, const struct tn_quantization *q, struct tn_error *err)
{
	char layer[TN_NAME_BYTES];
	if (!r->made)
		return tn_quant_config_create(r->ctx, q, &r->made, err);
	const struct tn_quantization *all = tn_quant_config_global(r->made);
	if (all->bits == q->bits && all->group_size == q->group_size && strcmp(all->mode, q->mode) == 0)
		return TN_OK;
	if (!tn_sibling_name(layer, f->weight.name, ""))
		return tn_fail(err, TN_E_LIMIT, f->weight.name, "the name of a weight has more than %d bytes", TN_NAME_BYTES);
	return tn_quant_config_set(r->made, layer, q, err);
}

static tn_status requantize(struct tn_recode *r, struct tn_recode_step *step, struct tn_foreign *f, struct tn_error *err)
{
	struct tn_quantization q = r->request.quantization.q;
	if (q.bits == 0)
		q.bits = TN_QUANT_DEFAULT;
	if (q.group_size == 0)
		q.group_size = TN_QUANT_DEFAULT;
	TN_TRY(tn_quantization_resolve(&q, err));
	if (q.group_size <= 0 || f->cols % (uint64_t)q.group_size != 0) {
		set_mlx(step, f, TN_RECODE_DEQUANTIZE);
		step->info.why_not = "the group size does not divide its width";
		return TN_OK;
	}
	set_mlx(step, f, TN_RECODE_REQUANTIZE);
	step->round_to = step->out.dtype;
	TN_TRY(note(r, f, &q, err));
	return tn_format_make(&q, step->round_to, r->request.flavour, "requantize", &step->out, err);
}

static tn_status repack(struct tn_recode *r, struct tn_recode_step *step, struct tn_foreign *f,
			const struct tn_quantization *q, tn_dtype dtype, struct tn_error *err)
{
	set_mlx(step, f, TN_RECODE_REPACK);
	TN_TRY(note(r, f, q, err));
	if (r->asked != TN_DTYPE_COUNT)
		dtype = r->asked;
	return tn_format_make(q, dtype, TN_FLAVOUR_CPU, "convert", &step->out, err);
}

tn_status tn_recode_foreign(struct tn_recode *r, struct tn_recode_step *step, struct tn_foreign *f, struct tn_error *err)
{
	const struct tn_recode_request *request = &r->request;
	struct tn_quantization q;
	tn_dtype dtype;
	TN_TRY(tn_foreign_settle(r->foreign, f, err));
	step->info.tensor = &f->weight;
	step->in = (struct tn_matrix){ .foreign = f, .rows = f->rows, .cols = f->cols };
	step->scales_as = (tn_dtype)TN_DTYPE_COUNT;
	step->out = (struct tn_format){ .codec = TN_CODEC_dense, .dtype = f->dtype };
	if (request->dtype != TN_DTYPE_COUNT)
		step->out.dtype = request->dtype;
	set_mlx(step, f, TN_RECODE_DEQUANTIZE);
	if (request->dequantize)
		return TN_OK;
	if (!request->quantize && request->to_mlx && tn_foreign_as_mlx(f, &q, &dtype))
		return repack(r, step, f, &q, dtype, err);
	if (request->requantize)
		return requantize(r, step, f, err);
	return tn_fail(err, TN_E_UNSUPPORTED, f->weight.name, "'%.120s' is %s%s in groups of %llu, which no layout of MLX holds "
		       "without loss; --requantize quantizes it anew, --to dense keeps its values", f->weight.name, f->scheme,
		       f->group_of ? " with columns in no order" : "", (unsigned long long)f->group);
}
