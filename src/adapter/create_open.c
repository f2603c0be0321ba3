/* SPDX-License-Identifier: Apache-2.0 */
/* An adapter that is there as a draft: to be trained further, or edited. */
#include "adapter/create.h"

#include "base/checked.h"
#include "base/error.h"
#include "base/file.h"
#include "store/json_doc.h"

#include <stdlib.h>
#include <string.h>

/* Which module a tensor belongs to, and as what. */
static void find_role(const tn_adapter *adapter, const struct tn_tensor *t, struct tn_parameter *p)
{
	p->module = t->name;
	p->role = TN_PARAMETER_OTHER;
	for (size_t i = 0; i < adapter->count; i++) {
		const struct tn_adapter_entry *e = &adapter->entries[i];
		if (t != e->a.tensor && t != e->b.tensor && t != e->magnitude && t != e->bias && t != e->diagonal && t != e->values)
			continue;
		p->module = e->module.path;
		p->role = t == e->a.tensor ? TN_PARAMETER_A : t == e->b.tensor ? TN_PARAMETER_B
			: t == e->magnitude ? TN_PARAMETER_MAGNITUDE : TN_PARAMETER_OTHER;
		return;
	}
}

static tn_status add_tensor(struct tn_draft *d, const tn_adapter *adapter, const struct tn_tensor *t, struct tn_error *err)
{
	struct tn_parameter p = { .rank = t->rank, .elements = t->elements, .dtype = TN_F32 };
	struct tn_tensor *copy;
	uint64_t *shape;
	if (t->rank > TN_PARAMETER_RANK || !tn_dtype_is_float(t->dtype))
		return tn_fail(err, TN_E_UNSUPPORTED, t->name, "'%.100s' is %s with %u dimensions; a parameter is of floats and "
			       "has at most %d", t->name, tn_dtype_name(t->dtype), t->rank, (int)TN_PARAMETER_RANK);
	TN_TRY(tn_arena_alloc(&d->arena, sizeof *copy, &copy, err));
	TN_TRY(tn_arena_array(&d->arena, t->rank, sizeof *shape, &shape, err));
	TN_TRY(tn_arena_text(&d->arena, t->name, strlen(t->name), &p.name, err));
	find_role(adapter, t, &p);
	TN_TRY(tn_arena_text(&d->arena, p.module, strlen(p.module), &p.module, err));
	memcpy(shape, t->shape, t->rank * sizeof *shape);
	memcpy(p.shape, t->shape, t->rank * sizeof *shape);
	*copy = *t;
	copy->name = p.name;
	copy->shape = shape;
	copy->dtype = TN_F32;
	if (tn_mul_u64(t->elements, sizeof(float), &copy->bytes))
		return tn_fail_nomem(err, t->name, SIZE_MAX);
	d->tensors[d->count] = copy;
	d->parameters[d->count++] = p;
	return TN_OK;
}

static tn_status read_config(struct tn_draft *d, const char *folder, struct tn_error *err)
{
	char path[TN_PATH_BYTES];
	struct tn_buffer text;
	TN_TRY(tn_path_join(path, folder, "adapter_config.json", err));
	TN_TRY(tn_file_read_text(d->ctx, path, TN_CONFIG_CAP, &text, err));
	tn_status status = tn_arena_text(&d->arena, text.data, text.bytes, &d->config, err);
	tn_buffer_release(d->ctx, &text);
	return status;
}

/* What the file says of its base goes along. */
static void read_base_sample(struct tn_draft *d, const tn_safetensors *file)
{
	for (size_t i = 0; i < tn_safetensors_metadata_count(file); i++) {
		const char *key, *value;
		tn_safetensors_metadata_at(file, i, &key, &value);
		if (strcmp(key, TN_METADATA_BASE) != 0 || strlen(value) != 2 * TN_HASH_BYTES ||
		    strspn(value, "0123456789abcdef") != 2 * TN_HASH_BYTES)
			continue;
		for (size_t b = 0; b < TN_HASH_BYTES; b++) {
			char digits[3] = { value[2 * b], value[2 * b + 1], '\0' };
			d->base_sample[b] = (unsigned char)strtoul(digits, NULL, 16);
		}
		d->has_base_sample = 1;
	}
}

static tn_status take_tensors(struct tn_draft *d, const tn_adapter *adapter, struct tn_error *err)
{
	size_t n = tn_safetensors_count(adapter->file);
	TN_TRY(tn_draft_reserve(d, n, err));
	for (size_t i = 0; i < n; i++)
		TN_TRY(add_tensor(d, adapter, tn_safetensors_at(adapter->file, i), err));
	TN_TRY(tn_draft_make_image(d, err));
	for (size_t i = 0; i < d->count; i++)
		TN_TRY(tn_adapter_load_f32(adapter, tn_safetensors_find(adapter->file, d->parameters[i].name),
					   d->parameters[i].data, err));
	return TN_OK;
}

static tn_status fill(struct tn_draft *d, const tn_adapter *adapter, const char *path, struct tn_error *err)
{
	d->dialect = adapter->config.dialect;
	if (d->dialect != TN_DIALECT_PEFT && d->dialect != TN_DIALECT_MLX_LM)
		return tn_fail(err, TN_E_UNSUPPORTED, path, "'%s' is an adapter of %s; drafts are of PEFT and mlx-lm", path,
			       tn_adapter_dialect_name(d->dialect));
	TN_TRY(read_config(d, path, err));
	TN_TRY(take_tensors(d, adapter, err));
	read_base_sample(d, adapter->file);
	return tn_adapter_open_memory(d->ctx, d->config, strlen(d->config), d->image.data, d->image.bytes, path, &d->adapter, err);
}

tn_status tn_draft_open(tn_context *ctx, const char *path, tn_draft **out, struct tn_error *err)
{
	tn_adapter *adapter;
	tn_draft *d;
	TN_TRY(tn_adapter_open(ctx, path, &adapter, err));
	tn_status status = tn_draft_begin(ctx, &d, err);
	if (status == TN_OK) {
		status = fill(d, adapter, path, err);
		if (status == TN_OK)
			*out = d;
		else
			tn_draft_destroy(d);
	}
	tn_adapter_close(adapter);
	return status;
}
