/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/recode.h"

#include "base/error.h"
#include "base/text.h"
#include "store/checkpoint.h"
#include "store/json_doc.h"
#include "weights/format.h"

#include <stdlib.h>
#include <string.h>

const char *tn_recode_action_name(tn_recode_action action)
{
	static const char *const names[] = { "copied", "cast", "quantized", "dequantized", "repacked", "requantized" };
	return (size_t)action < sizeof names / sizeof *names ? names[action] : "unknown";
}

/* ---- one step -------------------------------------------------------------------------------------------- */

/* Outputs of a step that encodes. */
static tn_status add_outputs(struct tn_recode *r, struct tn_recode_step *step, struct tn_error *err)
{
	const struct tn_tensor *t = step->info.tensor;
	const struct tn_foreign *f = step->in.foreign;
	TN_TRY(tn_parts_describe(&r->arena, t->name, t, step->in.rows, step->in.cols, &step->out, step->out_parts,
				 step->outputs, err));
	for (unsigned part = 0; part < TN_PART_COUNT; part++)
		step->info.bytes_after += step->outputs[part] ? step->outputs[part]->bytes : 0;
	TN_TRY(tn_parts_text(&r->arena, &step->out, &step->info.to, err));
	if (f)
		return tn_arena_printf(&r->arena, &step->info.from, err, "%s, %u bits, group %llu", f->scheme, f->bits,
				       (unsigned long long)f->group);
	return tn_parts_text(&r->arena, &step->in.format, &step->info.from, err);
}

static tn_status plan_foreign(struct tn_recode *r, struct tn_recode_step *step, struct tn_foreign *f, struct tn_error *err)
{
	TN_TRY(tn_recode_foreign(r, step, f, err));
	return add_outputs(r, step, err);
}

static tn_status plan_copy(struct tn_recode *r, struct tn_recode_step *step, struct tn_error *err)
{
	struct tn_tensor *out;
	TN_TRY(tn_arena_alloc(&r->arena, sizeof *out, &out, err));
	*out = *step->info.tensor;
	step->outputs[TN_PART_WEIGHT] = out;
	step->info.action = TN_RECODE_COPY;
	step->info.from = step->info.to = tn_dtype_name(out->dtype);
	step->info.bytes_before = step->info.bytes_after = out->bytes;
	return TN_OK;
}

static int is_castable(const struct tn_recode *r, const struct tn_tensor *t)
{
	if (tn_model_keeps_dtype(r->model_type, t->name))
		return 0;
	switch (t->dtype) {
	case TN_F32: case TN_F16: case TN_BF16: case TN_F64:
		return t->dtype != r->request.dtype;
	case TN_F8_E4M3: case TN_F8_E5M2:
		return r->request.dequantize; /* mlx-lm's convert leaves 8-bit floats as bytes */
	default: return 0;
	}
}

static uint64_t last_size(const struct tn_tensor *t)
{
	return t->rank ? t->shape[t->rank - 1] : 1;
}

static tn_status plan_cast(struct tn_recode *r, struct tn_recode_step *step, struct tn_error *err)
{
	const struct tn_tensor *t = step->info.tensor;
	if (r->request.dtype == TN_DTYPE_COUNT || !is_castable(r, t) || t->elements == 0)
		return plan_copy(r, step, err);
	step->info.action = TN_RECODE_CAST;
	step->info.bytes_before = t->bytes;
	step->in = tn_parts_dense(t, last_size(t));
	step->out = (struct tn_format){ .codec = TN_CODEC_dense, .dtype = r->request.dtype };
	return add_outputs(r, step, err);
}

static tn_status plan_quantize(struct tn_recode *r, struct tn_recode_step *step, const struct tn_quant_layer *layer,
			       struct tn_error *err)
{
	const struct tn_tensor *t = step->info.tensor;
	step->info.action = TN_RECODE_QUANTIZE;
	step->info.bytes_before = t->bytes;
	step->in = tn_parts_dense(t, last_size(t));
	step->round_to = r->request.dtype == TN_DTYPE_COUNT ? t->dtype : r->request.dtype;
	TN_TRY(tn_format_make(&layer->q, step->round_to, r->request.flavour, "quantize", &step->out, err));
	return add_outputs(r, step, err);
}

/* The dtype of the dense result. MLX: that of affine's scales, after a cast; BF16 for the others, F32 with a global
 * scale. */
static tn_dtype dense_dtype(const struct tn_recode *r, const struct tn_matrix *m)
{
	int affine = !tn_codec_info(m->format.codec)->byte_scales;
	if (r->request.dtype != TN_DTYPE_COUNT && (affine || !r->request.like_mlx))
		return r->request.dtype;
	return tn_matrix_dtype(m);
}

static tn_status plan_dequantize(struct tn_recode *r, struct tn_recode_step *step, const struct tn_matrix *m,
				 struct tn_error *err)
{
	step->info.action = TN_RECODE_DEQUANTIZE;
	for (unsigned part = 0; part < TN_PART_COUNT; part++)
		step->info.bytes_before += m->part[part] ? m->part[part]->bytes : 0;
	if (m->global_scale)
		step->info.bytes_before += m->global_scale->bytes;
	step->in = *m;
	step->out = (struct tn_format){ .codec = TN_CODEC_dense, .dtype = dense_dtype(r, m) };
	TN_TRY(add_outputs(r, step, err));
	/* the outputs have the logical width, whatever the packed one is */
	step->scales_as = (tn_dtype)TN_DTYPE_COUNT;
	if (!r->request.like_mlx)
		return TN_OK;
	step->in.format.like_mlx = 1;
	if (tn_codec_info(m->format.codec)->byte_scales)
		step->in.format.dtype = step->out.dtype;
	else if (r->request.dtype != TN_DTYPE_COUNT && r->request.dtype != m->format.dtype)
		step->scales_as = step->in.format.dtype = r->request.dtype;
	return TN_OK;
}

/* ---- all steps ------------------------------------------------------------------------------------------- */

static tn_status plan_step(struct tn_recode *r, const struct tn_tensor *t, struct tn_recode_step *step,
			   struct tn_error *err)
{
	step->info.tensor = t;
	if (tn_ends_with(t->name, ".weight")) {
		char layer[TN_NAME_BYTES];
		size_t n = tn_layer_length(t->name);
		const struct tn_quant_layer *found = NULL;
		if (r->quant_plan && n < sizeof layer) {
			memcpy(layer, t->name, n);
			layer[n] = '\0';
			found = tn_quant_plan_find(r->quant_plan, layer);
		}
		if (found && !found->skipped)
			return plan_quantize(r, step, found, err);
		if (found)
			step->info.why_not = found->skipped == 1 ? "the group size does not divide its width"
								 : "mlx-lm keeps it dense in models of this type";
		if (tn_is_triple(r->base, t)) {
			struct tn_tensor_source source = tn_checkpoint_source(r->base);
			struct tn_matrix m;
			TN_TRY(tn_matrix_find(&source, r->config, t, &m, err)); /* a damaged triple is found in any case */
			return r->request.dequantize ? plan_dequantize(r, step, &m, err) : plan_copy(r, step, err);
		}
	}
	return plan_cast(r, step, err);
}

static tn_status plan_steps(struct tn_recode *r, struct tn_error *err)
{
	size_t n = tn_checkpoint_count(r->base);
	TN_TRY(tn_arena_array(&r->arena, n, sizeof *r->steps, &r->steps, err));
	for (size_t i = 0; i < n; i++) {
		const struct tn_tensor *t = tn_checkpoint_at(r->base, i);
		struct tn_foreign *f;
		tn_foreign_role role = tn_foreign_set_at(r->foreign, i, &f);
		if (role == TN_FOREIGN_PART || (r->request.dequantize && tn_is_triple_part(r->base, t)))
			continue;
		struct tn_recode_step *step = &r->steps[r->count++];
		if (f)
			TN_TRY(plan_foreign(r, step, f, err));
		else
			TN_TRY(plan_step(r, t, step, err));
		if (r->request.to_nf4)
			TN_TRY(tn_recode_as_nf4(r, step, err));
		r->bytes_after += step->info.bytes_after;
	}
	return TN_OK;
}

/* Whether the tensor at `i` stands in a module that has others in it, as `self_attn.sinks` of gpt-oss does beside
 * `self_attn.q_proj.weight`. Names are in order, so those of one module lie together; `before` is the answer for the one before. */
static int beside_modules(const tn_weight_list *list, size_t i, int before)
{
	const char *name = tn_weight_list_at(list, i)->tensor->name, *dot = strrchr(name, '.');
	const char *last = i ? tn_weight_list_at(list, i - 1)->tensor->name : NULL;
	size_t n = dot ? (size_t)(dot - name) + 1 : 0;
	const struct tn_weight *next;
	if (last && strncmp(last, name, n) == 0)
		return before || strchr(last + n, '.');
	while ((next = tn_weight_list_at(list, ++i)) && strncmp(next->tensor->name, name, n) == 0)
		if (strchr(next->tensor->name + n, '.'))
			return 1;
	return 0;
}

/* mlx-lm counts what stands in modules without others in them (mlx_lm 0.32.2, utils.py, get_total_parameters): its index and its
 * bits per weight say so. */
static tn_status count_parameters(struct tn_recode *r, struct tn_error *err)
{
	tn_weight_list *list;
	int beside = 0;
	TN_TRY(tn_weight_list_create(r->ctx, r->base, &list, err));
	r->parameters = tn_weight_list_parameters(list);
	for (size_t i = 0; r->request.mlx_folder && i < tn_weight_list_count(list); i++) {
		beside = beside_modules(list, i, beside);
		if (beside)
			r->parameters -= tn_weight_list_at(list, i)->parameters;
	}
	tn_weight_list_destroy(list);
	return TN_OK;
}

/* What convert reads there. Given no dtype it takes torch_dtype of config.json, or else dtype of its text_config, if that is one of
 * the three (mlx-lm 0.32.2, convert.py; a `dtype` at the top is not asked). */
static tn_status read_config(struct tn_recode *r, struct tn_error *err)
{
	static const struct {
		const char *name;
		tn_dtype dtype;
	} names[] = { { "float32", TN_F32 }, { "float16", TN_F16 }, { "bfloat16", TN_BF16 } };
	json_t *root;
	TN_TRY(tn_checkpoint_parse_config(r->base, &root, err));
	const char *name = json_string_value(json_object_get(root, "torch_dtype"));
	if (!json_object_get(root, "torch_dtype"))
		name = json_string_value(json_object_get(json_object_get(root, "text_config"), "dtype"));
	for (size_t i = 0; name && r->request.dtype == TN_DTYPE_COUNT && i < sizeof names / sizeof *names; i++)
		if (strcmp(name, names[i].name) == 0)
			r->request.dtype = names[i].dtype;
	const char *type = json_string_value(json_object_get(root, "model_type"));
	tn_status status = type ? tn_arena_text(&r->arena, type, strlen(type), &r->model_type, err) : TN_OK;
	json_decref(root);
	return status;
}

static tn_status fill(struct tn_recode *r, struct tn_error *err)
{
	const char *config = tn_checkpoint_config(r->base);
	if (r->request.quantize && r->request.dequantize)
		return tn_fail(err, TN_E_ARG, "request", "Choose either quantize or dequantize, not both.");
	if (!tn_checkpoint_is_folder(r->base))
		return tn_fail(err, TN_E_ARG, tn_checkpoint_path(r->base), "'%s' is a file; a whole model folder is converted",
			       tn_checkpoint_path(r->base));
	if (r->request.to_nf4)
		TN_TRY(tn_recode_check_nf4(r, err));
	r->request.dequantize |= r->request.to_nf4;
	if (config && r->request.mlx_folder)
		TN_TRY(read_config(r, err));
	if (config)
		TN_TRY(tn_quant_config_parse(r->ctx, config, &r->config, err));
	TN_TRY(tn_foreign_set_create(r->ctx, r->base, &r->foreign, err));
	TN_TRY(tn_recode_check_foreign(r, err));
	if (r->request.quantize) {
		r->request.quantization.dtype = r->request.dtype;
		TN_TRY(tn_quant_plan_create(r->ctx, r->base, r->config, &r->request.quantization, &r->quant_plan, err));
	}
	TN_TRY(plan_steps(r, err));
	TN_TRY(count_parameters(r, err));
	return tn_recode_shards(r, err);
}

tn_status tn_recode_plan(tn_context *ctx, const tn_checkpoint *base, const struct tn_recode_request *request,
			 tn_recode **out, struct tn_error *err)
{
	struct tn_arena arena;
	tn_recode *r;
	tn_arena_init(&arena, ctx);
	TN_TRY(tn_arena_alloc(&arena, sizeof *r, &r, err));
	r->ctx = ctx;
	r->arena = arena;
	r->base = base;
	r->request = *request;
	r->asked = request->dtype;
	tn_status status = fill(r, err);
	if (status != TN_OK) {
		tn_recode_free(r);
		return status;
	}
	*out = r;
	return TN_OK;
}

void tn_recode_free(tn_recode *r)
{
	if (!r)
		return;
	tn_quant_plan_destroy(r->quant_plan);
	tn_quant_config_destroy(r->made);
	tn_foreign_set_destroy(r->foreign);
	tn_quant_config_destroy(r->config);
	struct tn_arena arena = r->arena;
	tn_arena_release(&arena);
}

/* ---- looking --------------------------------------------------------------------------------------------- */

size_t tn_recode_count(const tn_recode *r)
{
	return r->count;
}

const struct tn_recoded *tn_recode_at(const tn_recode *r, size_t i)
{
	return i < r->count ? &r->steps[i].info : NULL;
}

size_t tn_recode_count_of(const tn_recode *r, tn_recode_action action)
{
	size_t n = 0;
	for (size_t i = 0; i < r->count; i++)
		n += r->steps[i].info.action == action;
	return n;
}

uint64_t tn_recode_bytes_after(const tn_recode *r)
{
	return r->bytes_after;
}

double tn_recode_bits_per_weight(const tn_recode *r)
{
	return r->parameters ? 8.0 * (double)r->bytes_after / (double)r->parameters : 0;
}

size_t tn_recode_shard_count(const tn_recode *r)
{
	return r->shard_count;
}
