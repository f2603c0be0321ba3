/* SPDX-License-Identifier: Apache-2.0 */
/* Whole tensors that an adapter brings along, and biases. */
#include "live/attach.h"

#include "base/error.h"
#include "base/transpose.h"
#include "weights/format.h"

#include <stdlib.h>
#include <string.h>

/* ---- whole tensors --------------------------------------------------------------------------------------- */

static int compare_name(const void *name, const void *target)
{
	return strcmp(name, ((const struct tn_target *)target)->name);
}

static const struct tn_target *find_target(const struct tn_joint *j, const char *name)
{
	return bsearch(name, j->targets, j->target_count, sizeof *j->targets, compare_name);
}

/* The bytes of a tensor of the adapter's file, read once. */
static tn_status read_part(struct tn_attach *t, const struct tn_target *target, const unsigned char **out, struct tn_error *err)
{
	const struct tn_tensor *r = target->replacement;
	unsigned char *memory;
	for (size_t i = 0; i < t->read_count; i++)
		if (t->read[i].tensor == r) {
			*out = t->read[i].bytes;
			return TN_OK;
		}
	TN_TRY(tn_attached_buffer(t->attached, (size_t)r->bytes, target->name, &memory, err));
	TN_TRY(tn_safetensors_read(target->replacer->file, r, 0, memory, (size_t)r->bytes, err));
	t->read[t->read_count++] = (struct tn_read_tensor){ r, memory };
	*out = memory;
	return TN_OK;
}

static tn_status replace_dense(struct tn_attach *t, const struct tn_target *target, struct tn_linear *l, struct tn_error *err)
{
	const struct tn_tensor *r = target->replacement;
	if (!tn_is_weight_dtype(r->dtype))
		return tn_fail(err, TN_E_UNSUPPORTED, r->name, "'%.100s' is %s; live modules are F32, F16, BF16 or MLX's", r->name,
			       tn_dtype_name(r->dtype));
	memset(l->part, 0, sizeof l->part);
	memset(l->row_bytes, 0, sizeof l->row_bytes);
	l->global_scale = NULL;
	l->format = (struct tn_format){ .codec = TN_CODEC_dense, .dtype = r->dtype };
	size_t unit = tn_dtype_bits(r->dtype) / 8;
	unsigned char *turned;
	l->row_bytes[TN_PART_WEIGHT] = l->in * unit;
	TN_TRY(read_part(t, target, &l->part[TN_PART_WEIGHT], err));
	if (!t->live->modules[tn_attach_module(t, target)].is_transposed)
		return TN_OK;
	TN_TRY(tn_attached_buffer(t->attached, (size_t)r->bytes, target->name, &turned, err));
	tn_transpose(turned, l->part[TN_PART_WEIGHT], l->in, l->out, unit);
	l->part[TN_PART_WEIGHT] = turned;
	return TN_OK;
}

/* Parts of a triple that the adapter brings along, beside those of the base. */
static tn_status replace_parts(struct tn_attach *t, const struct tn_target *target, struct tn_linear *l, struct tn_error *err)
{
	static const char *const suffixes[TN_PART_COUNT] = { ".weight", ".scales", ".biases" };
	for (unsigned p = 0; p < TN_PART_COUNT; p++) {
		char name[TN_NAME_BYTES];
		const struct tn_target *part = tn_sibling_name(name, target->name, suffixes[p]) ? find_target(t->joint, name)
												: NULL;
		if (l->part[p] && part && part->replacement)
			TN_TRY(read_part(t, part, &l->part[p], err));
	}
	return TN_OK;
}

tn_status tn_attach_linear(struct tn_attach *t, const struct tn_target *target, struct tn_linear *out, struct tn_error *err)
{
	*out = t->live->modules[tn_attach_module(t, target)].linear;
	if (tn_target_is_packed(target))
		return replace_parts(t, target, out, err);
	return target->replacement ? replace_dense(t, target, out, err) : TN_OK;
}

tn_status tn_attach_replacement(struct tn_attach *t, const struct tn_target *target, struct tn_edits *e, struct tn_error *err)
{
	struct tn_linear now, *kept;
	const struct tn_linear *before = &t->live->modules[tn_attach_module(t, target)].linear;
	TN_TRY(tn_attach_linear(t, target, &now, err));
	if (memcmp(now.part, before->part, sizeof now.part) == 0)
		return TN_OK;
	TN_TRY(tn_arena_alloc(&t->attached->arena, sizeof *kept, &kept, err));
	*kept = now;
	t->attached->bytes += sizeof *kept;
	e->replacement = kept;
	return TN_OK;
}

/* ---- small tensors --------------------------------------------------------------------------------------- */

static tn_status add_bias(struct tn_attach *t, const struct tn_target *target, float *values, float *added,
			  struct tn_error *err)
{
	for (size_t i = 0; i < target->landing_count; i++) {
		const struct tn_slot *slot = &t->joint->slots[t->joint->landings[target->first_landing + i].slot];
		struct tn_delta delta;
		struct tn_buffer memory;
		if (slot->kind != TN_SLOT_BIAS)
			continue;
		TN_TRY(tn_adapter_load_bias(slot->adapter, slot->entry, &delta, &memory, err));
		float scale = (float)(delta.scale * slot->weight);
		for (size_t k = 0; k < delta.cols; k++) {
			added[k] += scale * delta.a[k];
			values[k] += scale * delta.a[k];
		}
		tn_buffer_release(t->live->ctx, &memory);
	}
	return TN_OK;
}

tn_status tn_attach_tensor(struct tn_attach *t, const struct tn_target *target, size_t tensor, struct tn_error *err)
{
	struct tn_attached *a = t->attached;
	const struct tn_live_tensor *base = &t->live->tensors[tensor];
	struct tn_own_tensor *own = &a->tensors[a->tensor_count];
	size_t n = (size_t)base->elements;
	float *values, *added;
	TN_TRY(tn_attached_buffer(a, n * sizeof *values, target->name, &values, err));
	*own = (struct tn_own_tensor){ tensor, values, NULL };
	if (base->values)
		memcpy(values, base->values, n * sizeof *values);
	else
		memset(values, 0, n * sizeof *values);
	if (target->replacement)
		TN_TRY(tn_adapter_load_f32(target->replacer, target->replacement, values, err));
	if (target->landing_count) {
		TN_TRY(tn_attached_buffer(a, n * sizeof *added, target->name, &added, err));
		memset(added, 0, n * sizeof *added);
		TN_TRY(add_bias(t, target, values, added, err));
		own->added = target->replacement ? NULL : added;
	}
	a->tensor_count++;
	return TN_OK;
}
