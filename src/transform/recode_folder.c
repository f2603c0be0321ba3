/* SPDX-License-Identifier: Apache-2.0 */
/* What stands around the weights: shards and config.json. Rules: mlx-lm 0.32.2, utils.py (make_shards, save_config,
 * load_config). */
#include "transform/recode.h"

#include "base/error.h"
#include "base/file.h"
#include "store/checkpoint.h"
#include "store/json_doc.h"
#include "store/json_text.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static const uint64_t default_shard_bytes = (uint64_t)5 << 30;

/* ---- shards ---------------------------------------------------------------------------------------------- */

/* Names with their numbers compared as numbers: layers.2 before layers.10. */
static int compare_natural(const char *a, const char *b)
{
	while (*a && *b) {
		if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
			char *a_end, *b_end;
			unsigned long long x = strtoull(a, &a_end, 10), y = strtoull(b, &b_end, 10);
			if (x != y)
				return x < y ? -1 : 1;
			a = a_end;
			b = b_end;
		} else if (*a != *b) {
			return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
		} else {
			a++;
			b++;
		}
	}
	return *a ? 1 : *b ? -1 : 0;
}

static int compare_steps(const void *a, const void *b)
{
	const struct tn_recode_step *x = a, *y = b;
	int order = compare_natural(x->info.tensor->name, y->info.tensor->name);
	return order ? order : strcmp(x->info.tensor->name, y->info.tensor->name);
}

/* Numbers the shard of every step: a tensor that would pass the limit opens the next one, and no shard is empty. A triple
 * stays together. */
static size_t number_shards(struct tn_recode *r)
{
	uint64_t limit = r->request.shard_bytes ? r->request.shard_bytes : default_shard_bytes, used = 0;
	size_t shard = 0;
	for (size_t i = 0; i < r->count; i++) {
		uint64_t bytes = r->steps[i].info.bytes_after;
		if (used && used + bytes > limit) {
			shard++;
			used = 0;
		}
		r->steps[i].shard = shard;
		used += bytes;
	}
	return shard + 1;
}

static tn_status name_shard(struct tn_recode *r, size_t i, struct tn_error *err)
{
	if (r->shard_count == 1) {
		r->shards[i].name = "model.safetensors";
		return TN_OK;
	}
	return tn_arena_printf(&r->arena, &r->shards[i].name, err, "model-%05zu-of-%05zu.safetensors", i + 1, r->shard_count);
}

/* Room for the tensors of each shard, no more: there can be many of both. */
static tn_status make_room(struct tn_recode *r, struct tn_error *err)
{
	for (size_t i = 0; i < r->count; i++)
		for (unsigned part = 0; part < TN_PART_COUNT; part++)
			r->shards[r->steps[i].shard].count += r->steps[i].outputs[part] != NULL;
	for (size_t i = 0; i < r->count; i++)
		r->shards[r->steps[i].shard].count += r->steps[i].state != NULL;
	for (size_t i = 0; i < r->shard_count; i++) {
		struct tn_output_shard *shard = &r->shards[i];
		TN_TRY(tn_arena_array(&r->arena, shard->count, sizeof(struct tn_tensor *), &shard->tensors, err));
		shard->count = 0;
	}
	return TN_OK;
}

tn_status tn_recode_shards(struct tn_recode *r, struct tn_error *err)
{
	static const struct tn_st_metadata mlx = { "format", "mlx" }, pt = { "format", "pt" };
	if (r->count > 1)
		qsort(r->steps, r->count, sizeof *r->steps, compare_steps);
	r->shard_count = number_shards(r);
	TN_TRY(tn_arena_array(&r->arena, r->shard_count, sizeof *r->shards, &r->shards, err));
	for (size_t i = 0; i < r->shard_count; i++) {
		TN_TRY(name_shard(r, i, err));
		r->shards[i].metadata = r->request.dequantize && !r->request.mlx_folder ? &pt : &mlx;
		r->shards[i].metadata_count = 1;
	}
	TN_TRY(make_room(r, err));
	for (size_t i = 0; i < r->count; i++) {
		struct tn_output_shard *shard = &r->shards[r->steps[i].shard];
		for (unsigned part = 0; part < TN_PART_COUNT; part++)
			if (r->steps[i].outputs[part])
				shard->tensors[shard->count++] = r->steps[i].outputs[part];
		if (r->steps[i].state)
			shard->tensors[shard->count++] = r->steps[i].state;
	}
	return TN_OK;
}

/* ---- config.json ----------------------------------------------------------------------------------------- */

/* What Python counts as true. */
static int is_true(const json_t *value)
{
	return json_is_true(value) || (json_is_integer(value) && json_integer_value(value) != 0) ||
	       (json_is_real(value) && json_real_value(value) != 0) || json_string_length(value) || json_array_size(value) ||
	       json_object_size(value);
}

/* mlx-lm takes eos_token_id from generation_config.json when that has one that is true, and passes over a file that is no
 * JSON. */
static tn_status take_eos(const struct tn_recode *r, json_t *config, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	tn_path_kind kind;
	json_t *generation;
	TN_TRY(tn_path_join(path, tn_checkpoint_path(r->base), "generation_config.json", err));
	TN_TRY(tn_path_kind_of(path, &kind, err));
	if (kind != TN_PATH_FILE)
		return TN_OK;
	struct tn_error found;
	tn_status status = tn_json_load(r->ctx, path, &generation, &found);
	if (status == TN_E_FORMAT) {
		tn_logf(r->ctx, TN_LOG_WARNING, "'%s' counts for nothing: it is not JSON that can be read", path);
		return TN_OK;
	}
	if (status != TN_OK)
		return tn_fail_with(err, &found);
	json_t *eos = json_object_get(generation, "eos_token_id");
	int failed = is_true(eos) && json_object_set(config, "eos_token_id", eos) != 0;
	json_decref(generation);
	return failed ? tn_fail_nomem(err, "config.json", 0) : TN_OK;
}

static tn_status write_json(tn_context *ctx, const json_t *config, int indent, struct tn_text *text, struct tn_error *err)
{
	struct tn_json_style style = { .indent = indent, .ascii = 0 };
	tn_text_init(text, ctx);
	return tn_json_add_value(text, config, &style, err);
}

static tn_status to_buffer(tn_context *ctx, struct tn_text *text, struct tn_buffer *out, struct tn_error *err)
{
	TN_TRY(tn_buffer_alloc(ctx, text->length + 1, "config.json", out, err));
	memcpy(out->data, text->data, text->length + 1);
	return TN_OK;
}

/* As mlx-lm saves it. `config` has been changed where mlx-lm changes it on loading. */
static tn_status mlx_config(const struct tn_recode *r, const json_t *config, struct tn_buffer *out, struct tn_error *err)
{
	struct tn_text text;
	const tn_quant_config *quant = r->made ? r->made : r->config;
	if (r->request.dequantize)
		quant = NULL;
	else if (r->quant_plan)
		quant = tn_quant_plan_config(r->quant_plan);
	tn_status status = write_json(r->ctx, config, -1, &text, err);
	if (status == TN_OK)
		status = tn_quant_config_write(r->ctx, text.data, quant, out, err);
	tn_text_release(&text);
	return status;
}

/* What says in which dtype the weights are, where the base says it. */
static int name_dtype(json_t *config, tn_dtype dtype)
{
	static const char *const keys[] = { "torch_dtype", "dtype" };
	const char *name = dtype == TN_F32 ? "float32" : dtype == TN_F16 ? "float16" : "bfloat16";
	int failed = 0;
	for (size_t i = 0; i < 2; i++)
		if (json_is_string(json_object_get(config, keys[i])))
			failed |= json_object_set_new(config, keys[i], json_string(name)) != 0;
	return failed;
}

void tn_config_forget_quantization(json_t *config)
{
	static const char *const keys[] = { "quantization", "quantization_config", "compression_config" };
	json_t *inner = json_object_get(config, "text_config");
	for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
		json_object_del(config, keys[i]);
		if (inner)
			json_object_del(inner, keys[i]);
	}
}

/* The base's own, without what says that it is quantized, and with the dtype that the weights have now. */
static tn_status dense_config(const struct tn_recode *r, json_t *config, struct tn_buffer *out, struct tn_error *err)
{
	struct tn_text text;
	json_t *inner = json_object_get(config, "text_config");
	tn_config_forget_quantization(config);
	if (r->request.to_nf4 && !tn_nf4_config(config))
		return tn_fail_nomem(err, "config.json", 0);
	if (r->request.dtype != (tn_dtype)TN_DTYPE_COUNT &&
	    (name_dtype(config, r->request.dtype) || (inner && name_dtype(inner, r->request.dtype))))
		return tn_fail_nomem(err, "config.json", 0);
	tn_status status = write_json(r->ctx, config, 2, &text, err);
	if (status == TN_OK)
		status = tn_text_puts(&text, "\n", err);
	if (status == TN_OK)
		status = to_buffer(r->ctx, &text, out, err);
	tn_text_release(&text);
	return status;
}

tn_status tn_recode_config(const struct tn_recode *r, struct tn_buffer *out, struct tn_error *err)
{
	const char *text = tn_checkpoint_config(r->base);
	json_t *config;
	*out = (struct tn_buffer){ 0 };
	if (!text)
		return TN_OK;
	TN_TRY(tn_checkpoint_parse_config(r->base, &config, err));
	tn_status status = r->request.mlx_folder ? take_eos(r, config, err) : TN_OK;
	if (status == TN_OK)
		status = r->request.mlx_folder || r->request.quantize ? mlx_config(r, config, out, err)
								      : dense_config(r, config, out, err);
	json_decref(config);
	return status;
}
