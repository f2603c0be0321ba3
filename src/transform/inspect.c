/* SPDX-License-Identifier: Apache-2.0 */
#include "transform/inspect.h"

#include "base/error.h"
#include "tenon/transform.h"
#include "tenon/weights.h"
#include "transform/content.h"

#include <stdio.h>

void tn_tensor_form_json(struct tn_json_out *out, const struct tn_tensor *t)
{
	tn_json_out_key(out, "dtype");
	tn_json_out_string(out, tn_dtype_name(t->dtype));
	tn_json_out_key(out, "shape");
	tn_json_out_begin(out, '[');
	for (uint32_t i = 0; i < t->rank; i++)
		tn_json_out_u64(out, t->shape[i]);
	tn_json_out_end(out, ']');
	tn_json_out_key(out, "bytes");
	tn_json_out_u64(out, t->bytes);
}

static void tensor_json(struct tn_json_out *out, const struct tn_tensor *t)
{
	tn_json_out_begin_line(out, '{');
	tn_json_out_key(out, "name");
	tn_json_out_string(out, t->name);
	tn_tensor_form_json(out, t);
	tn_json_out_end(out, '}');
}

static void metadata_json(struct tn_json_out *out, const tn_safetensors *file)
{
	tn_json_out_begin_line(out, '{');
	for (size_t i = 0; i < tn_safetensors_metadata_count(file); i++) {
		const char *key, *value;
		tn_safetensors_metadata_at(file, i, &key, &value);
		tn_json_out_key(out, key);
		tn_json_out_string(out, value);
	}
	tn_json_out_end(out, '}');
}

static void shards_json(struct tn_json_out *out, const tn_checkpoint *c)
{
	tn_json_out_begin(out, '[');
	for (size_t i = 0; i < tn_checkpoint_shard_count(c); i++) {
		const tn_safetensors *shard = tn_checkpoint_shard(c, i);
		tn_json_out_begin_line(out, '{');
		tn_json_out_key(out, "file");
		tn_json_out_string(out, tn_checkpoint_shard_name(c, i));
		tn_json_out_key(out, "bytes");
		tn_json_out_u64(out, tn_safetensors_bytes(shard));
		tn_json_out_key(out, "tensors");
		tn_json_out_u64(out, tn_safetensors_count(shard));
		tn_json_out_key(out, "metadata");
		metadata_json(out, shard);
		tn_json_out_end(out, '}');
	}
	tn_json_out_end(out, ']');
}

/* How many weights are in which form. */
static void quantized_json(struct tn_json_out *out, const tn_weight_list *list)
{
	tn_json_out_begin(out, '[');
	for (size_t i = 0; i < tn_weight_list_count(list); i++) {
		const struct tn_weight *w = tn_weight_list_at(list, i);
		if (!w->q.mode)
			continue;
		tn_json_out_begin_line(out, '{');
		tn_json_out_key(out, "name");
		tn_json_out_string(out, w->tensor->name);
		tn_json_out_key(out, "mode");
		tn_json_out_string(out, w->q.mode);
		tn_json_out_key(out, "bits");
		tn_json_out_u64(out, (uint64_t)w->q.bits);
		tn_json_out_key(out, "group_size");
		tn_json_out_u64(out, (uint64_t)w->q.group_size);
		tn_json_out_key(out, "shape");
		tn_json_out_begin(out, '[');
		for (uint32_t j = 0; j + 1 < w->tensor->rank; j++)
			tn_json_out_u64(out, w->tensor->shape[j]);
		tn_json_out_u64(out, w->last);
		tn_json_out_end(out, ']');
		tn_json_out_end(out, '}');
	}
	tn_json_out_end(out, ']');
}

static tn_status write_checkpoint(tn_context *ctx, const tn_checkpoint *c, const tn_weight_list *list, tn_write_fn write,
				  void *user, struct tn_error *err)
{
	uint64_t parameters = tn_weight_list_parameters(list);
	struct tn_json_out out;
	tn_json_out_init(&out, ctx, write, user);
	tn_json_out_begin(&out, '{');
	tn_json_out_key(&out, "kind");
	tn_json_out_string(&out, tn_checkpoint_is_folder(c) ? "checkpoint" : "file");
	tn_json_out_key(&out, "path");
	tn_json_out_string(&out, tn_checkpoint_path(c));
	tn_json_out_key(&out, "parameters");
	tn_json_out_u64(&out, parameters);
	tn_json_out_key(&out, "bytes");
	tn_json_out_u64(&out, tn_checkpoint_tensor_bytes(c));
	tn_json_out_key(&out, "bits_per_weight");
	tn_json_out_double(&out, parameters ? 8.0 * (double)tn_checkpoint_tensor_bytes(c) / (double)parameters : 0);
	tn_json_out_key(&out, "shards");
	shards_json(&out, c);
	tn_json_out_key(&out, "quantized");
	quantized_json(&out, list);
	tn_json_out_key(&out, "tensors");
	tn_json_out_begin(&out, '[');
	for (size_t i = 0; i < tn_checkpoint_count(c); i++)
		tensor_json(&out, tn_checkpoint_at(c, i));
	tn_json_out_end(&out, ']');
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}

tn_status tn_checkpoint_json(tn_context *ctx, const tn_checkpoint *c, tn_write_fn write, void *user, struct tn_error *err)
{
	tn_weight_list *list;
	TN_TRY(tn_weight_list_create(ctx, c, &list, err));
	tn_status status = write_checkpoint(ctx, c, list, write, user, err);
	tn_weight_list_destroy(list);
	return status;
}

static void module_json(struct tn_json_out *out, const struct tn_adapter_module *m)
{
	tn_json_out_begin_line(out, '{');
	tn_json_out_key(out, "path");
	tn_json_out_string(out, m->path);
	tn_json_out_key(out, "kind");
	tn_json_out_string(out, tn_module_kind_name(m->kind));
	tn_json_out_key(out, "rank");
	tn_json_out_u64(out, m->rank);
	tn_json_out_key(out, "scale");
	tn_json_out_double(out, m->scale);
	tn_json_out_key(out, "in_features");
	tn_json_out_u64(out, m->in_features);
	tn_json_out_key(out, "out_features");
	tn_json_out_u64(out, m->out_features);
	if (m->experts) {
		tn_json_out_key(out, "experts");
		tn_json_out_u64(out, m->experts);
	}
	tn_json_out_key(out, "bias");
	tn_json_out_bool(out, m->has_bias);
	tn_json_out_key(out, "parameters");
	tn_json_out_u64(out, m->parameters);
	tn_json_out_end(out, '}');
}

void tn_modules_json(struct tn_json_out *out, const tn_adapter *adapter)
{
	tn_json_out_begin(out, '[');
	for (size_t i = 0; adapter && i < tn_adapter_count(adapter); i++)
		module_json(out, tn_adapter_at(adapter, i));
	tn_json_out_end(out, ']');
}

void tn_adapter_hash_json(struct tn_json_out *out, const tn_adapter *adapter)
{
	struct tn_digest hash;
	char text[TN_DIGEST_TEXT];
	struct tn_error err;
	tn_status status = tn_adapter_hash(adapter, hash.bytes, &err);
	if (status == TN_OK)
		tn_digest_text(&hash, text);
	else if (status != TN_E_FORMAT && out->status == TN_OK) {
		out->status = status;
		out->error = err;
	}
	tn_json_out_key(out, "hash");
	tn_json_out_string(out, status == TN_OK ? text : NULL);
}

static void account_json(struct tn_json_out *out, const struct tn_account *a)
{
	tn_json_out_begin_line(out, '{');
	tn_json_out_key(out, "layer");
	if (a->layer == TN_OUTSIDE_LAYERS)
		tn_json_out_string(out, NULL);
	else
		tn_json_out_u64(out, (uint64_t)a->layer);
	tn_json_out_key(out, "modules");
	tn_json_out_u64(out, a->modules);
	tn_json_out_key(out, "trainable");
	tn_json_out_u64(out, a->trainable);
	tn_json_out_key(out, "adapted");
	tn_json_out_u64(out, a->adapted);
	tn_json_out_key(out, "bytes");
	tn_json_out_u64(out, a->bytes);
	tn_json_out_key(out, "ratio");
	tn_json_out_double(out, a->ratio);
	tn_json_out_end(out, '}');
}

static void accounts_json(struct tn_json_out *out, const struct tn_accounts *a)
{
	tn_json_out_begin(out, '{');
	tn_json_out_key(out, "base_parameters");
	tn_json_out_u64(out, a->base_parameters);
	tn_json_out_key(out, "all");
	account_json(out, &a->all);
	tn_json_out_key(out, "layers");
	tn_json_out_begin(out, '[');
	for (size_t i = 0; i < a->layer_count; i++)
		account_json(out, &a->layers[i]);
	tn_json_out_end(out, ']');
	tn_json_out_end(out, '}');
}

tn_status tn_adapter_json(tn_context *ctx, const tn_adapter *adapter, const tn_checkpoint *base, tn_write_fn write,
			  void *user, struct tn_error *err)
{
	const tn_safetensors *file = tn_adapter_file(adapter);
	struct tn_digest hash;
	uint64_t bytes = 0;
	char base_text[TN_DIGEST_TEXT];
	struct tn_accounts accounts = { 0 };
	if (base) {
		TN_TRY(tn_adapter_base_hash(adapter, base, hash.bytes, err));
		tn_digest_text(&hash, base_text);
		TN_TRY(tn_adapter_account(ctx, adapter, base, &accounts, err));
	}
	for (size_t i = 0; i < tn_safetensors_count(file); i++)
		bytes += tn_safetensors_at(file, i)->bytes;
	struct tn_json_out out;
	tn_json_out_init(&out, ctx, write, user);
	tn_json_out_begin(&out, '{');
	tn_json_out_key(&out, "kind");
	tn_json_out_string(&out, "adapter");
	tn_json_out_key(&out, "path");
	tn_json_out_string(&out, tn_adapter_path(adapter));
	tn_json_out_key(&out, "dialect");
	tn_json_out_string(&out, tn_adapter_dialect_name(tn_adapter_dialect_of(adapter)));
	tn_adapter_hash_json(&out, adapter);
	if (base) {
		tn_json_out_key(&out, "base_hash");
		tn_json_out_string(&out, base_text);
		tn_json_out_key(&out, "account");
		accounts_json(&out, &accounts);
		tn_accounts_release(ctx, &accounts);
	}
	tn_json_out_key(&out, "parameters");
	tn_json_out_u64(&out, tn_adapter_parameters(adapter));
	tn_json_out_key(&out, "bytes");
	tn_json_out_u64(&out, bytes);
	tn_json_out_key(&out, "modules");
	tn_modules_json(&out, adapter);
	tn_json_out_key(&out, "tensors");
	tn_json_out_begin(&out, '[');
	for (size_t i = 0; i < tn_safetensors_count(file); i++)
		tensor_json(&out, tn_safetensors_at(file, i));
	tn_json_out_end(&out, ']');
	tn_json_out_end(&out, '}');
	return tn_json_out_finish(&out, err);
}
